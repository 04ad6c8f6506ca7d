//! `turnkey purge`
//!
//! Removes in small transactions: it can be stopped at any moment and started again, and keeps nobody waiting meanwhile.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Error, database::OpenDatabase};
use crate::{config::PurgeSettings, service::Clock, store::Store};

/// Tenants in a transaction.
const BATCH: i64 = 100;
/// Slugs to be shown before somebody decides.
const PREVIEW_ROWS: i64 = 20;

pub async fn run(settings: PurgeSettings) -> Result<(), Error> {
    let before = Clock::system().now().checked_sub(settings.older_than.try_into()?);
    let before = before.ok_or("--older-than goes back further than time does")?;
    let database = OpenDatabase::open_existing(settings.database).await?;
    let store = Store::for_batch_jobs(database.server.clone());
    let purged = purge(&store, before, settings.yes).await;
    store.close().await;
    database.close().await?;
    purged
}

async fn purge(store: &Store, before: OffsetDateTime, yes: bool) -> Result<(), Error> {
    let (count, slugs) = store.list_purgeable(before, PREVIEW_ROWS).await?;
    let mut out = io::stdout();
    let since = before.format(&Rfc3339)?;
    if count == 0 {
        writeln!(out, "No tenant was deleted before {since}.")?;
        return Ok(());
    }
    writeln!(out, "Deleted before {since}, to be removed for good: {count}")?;
    for slug in &slugs {
        writeln!(out, "  {slug}")?;
    }
    if count > PREVIEW_ROWS {
        writeln!(out, "  and {} more", count - PREVIEW_ROWS)?;
    }
    if !yes && !is_confirmed()? {
        writeln!(out, "Nothing was removed. Say --yes to remove them.")?;
        return Ok(());
    }
    let removed = remove(store, before, count.unsigned_abs()).await?;
    writeln!(out, "Removed for good: {removed}")?;
    Ok(())
}

/// Asks whoever sits there; where nobody does, the answer is no.
fn is_confirmed() -> io::Result<bool> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Ok(false);
    }
    print!("They cannot come back. Remove them? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

async fn remove(store: &Store, before: OffsetDateTime, count: u64) -> Result<u64, Error> {
    // Hides itself where standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")?;
    let bar = ProgressBar::new(count).with_style(style);
    let mut removed = 0;
    loop {
        let batch = store.purge_tenants(before, BATCH).await?;
        removed += batch;
        bar.set_position(removed);
        if batch < BATCH.unsigned_abs() {
            bar.finish_and_clear();
            return Ok(removed);
        }
    }
}
