//! `turnkey migrate`

use super::{Error, database::OpenDatabase};
use crate::config::Database;

pub async fn run(database: Database) -> Result<(), Error> {
    let database = OpenDatabase::open(database).await?;
    let migrated = database.migrate().await;
    database.close().await?;
    migrated?;
    tracing::info!("The schema is up to date");
    Ok(())
}
