//! `turnkey purge`: deletes tenants permanently that were soft-deleted some time ago.
//!
//! It works in small transactions, so it can be stopped and started again, and does not block other callers.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Error, database::OpenDatabase, output::Stdout};
use crate::{
    config::PurgeSettings,
    domain::{Actor, Caller},
    service::Clock,
    store::Store,
};

/// Tenants per transaction.
const BATCH_SIZE: usize = 100;
/// Slugs shown before the confirmation.
const PREVIEW_ROWS: i64 = 20;

#[tracing::instrument(name = "command", level = "error", skip_all, fields(turnkey.caller = Caller::CLI))]
pub async fn run(settings: PurgeSettings) -> Result<(), Error> {
    let before = Clock::system().now().checked_sub(settings.older_than.try_into()?);
    let before = before.ok_or("--older-than is too long: its date is out of range")?;
    let database = OpenDatabase::open_existing(settings.database).await?;
    let store = Store::for_batch_jobs(database.server.clone());
    let result = purge(&store, before, settings.yes).await;
    store.close().await;
    database.close().await?;
    result
}

async fn purge(store: &Store, before: OffsetDateTime, yes: bool) -> Result<(), Error> {
    let (count, slugs) = store.list_purgeable(before, PREVIEW_ROWS).await?;
    let mut out = Stdout;
    let date = before.format(&Rfc3339)?;
    if count == 0 {
        writeln!(out, "No tenant was deleted before {date}.")?;
        return Ok(());
    }
    writeln!(out, "Tenants deleted before {date}: {count}")?;
    for slug in &slugs {
        writeln!(out, "  {slug}")?;
    }
    if count > PREVIEW_ROWS {
        writeln!(out, "  and {} more", count - PREVIEW_ROWS)?;
    }
    if !yes && !is_confirmed()? {
        writeln!(out, "Nothing was purged. Pass --yes to delete these tenants permanently.")?;
        return Ok(());
    }
    let purged = purge_in_batches(store, before, count.unsigned_abs()).await?;
    writeln!(out, "Tenants deleted permanently: {purged}")?;
    Ok(())
}

/// Asks for confirmation on a terminal. Without a terminal, returns false.
fn is_confirmed() -> io::Result<bool> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Ok(false);
    }
    write!(Stdout, "Delete these tenants permanently? They cannot be restored. [y/N] ")?;
    Stdout.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

async fn purge_in_batches(store: &Store, before: OffsetDateTime, count: u64) -> Result<u64, Error> {
    // indicatif hides the bar if standard error is not a terminal.
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")?;
    let bar = ProgressBar::new(count).with_style(style);
    let actor = Actor::command(Caller::cli());
    let mut purged = 0;
    loop {
        let batch = store.purge_tenants(before, BATCH_SIZE, &actor, Clock::system().now()).await?;
        bar.suspend(|| batch.iter().for_each(|tenant_id| tracing::info!(%tenant_id, "Purged tenant")));
        purged += batch.len() as u64;
        bar.set_position(purged);
        if batch.len() < BATCH_SIZE {
            bar.finish_and_clear();
            return Ok(purged);
        }
    }
}
