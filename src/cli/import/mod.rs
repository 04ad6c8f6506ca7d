//! `turnkey import`: creates tenants from a CSV file and writes their keys to another.
//!
//! The import can be stopped at any moment, even killed, and started again with the same files: it creates every tenant
//! once, and every key ends up in the keys file.
//! - Before anything is sent, every row is read and its request id is in the journal ([`journal`]).
//! - A row is done when its line in the keys file is complete ([`super::keys_file`]). Every other row is sent again, and
//!   its request id makes the server replay the tenant if it exists.
//! - A key that can no longer be replayed is rotated ([`lost_keys`]).

mod journal;
mod lost_keys;
mod quotes;
pub mod rows;
mod server;
mod target;

use std::{io::IsTerminal as _, time::Duration};

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::{
    journal::Journal,
    rows::{Row, Rows},
    target::{ImportedTenant, Target},
};
use super::{Error, counted, keys_file::KeysFile, output::print_message};
use crate::{config::ImportSettings, domain::Caller};

/// Rows per call: many enough for speed, few enough for a cheap retry.
const BATCH_SIZE: usize = 100;
const MAX_ATTEMPTS: u32 = 8;
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

#[tracing::instrument(name = "command", level = "error", skip_all, fields(turnkey.caller = Caller::IMPORT))]
pub async fn run(settings: ImportSettings) -> Result<(), Error> {
    let Rows { valid, errors } = rows::read(&settings.input)?;
    for error in &errors {
        print_message(error);
    }
    if !errors.is_empty() && !settings.skip_invalid {
        let count = counted(errors.len(), "invalid row");
        let remedy = "Correct the input, or pass --skip-invalid to import only the valid rows";
        return Err(format!("{count}, so nothing was imported. {remedy}").into());
    }
    // Nothing is written until both files are recognized and the target is open: a refused import leaves no files behind.
    let keys = KeysFile::recognize(&settings.out)?;
    let journal = Journal::recognize(&keys, settings.target.name())?;
    let target = Target::open(settings.target, settings.concurrency).await?;
    let imported = async {
        let journal = journal.open(&valid)?;
        import(&target, &journal, keys.open()?, valid, settings.concurrency.get()).await
    };
    let imported = imported.await;
    target.close().await?;
    let rejected = imported?;
    for error in &rejected {
        print_message(error);
    }
    match rejected.len() {
        0 => Ok(()),
        1 => Err("1 row was rejected".into()),
        count => Err(format!("{count} rows were rejected").into()),
    }
}

/// Returns a message for every rejected row.
async fn import(
    target: &Target,
    journal: &Journal,
    mut keys: KeysFile,
    mut rows: Vec<Row>,
    concurrency: usize,
) -> Result<Vec<String>, Error> {
    let total = rows.len();
    rows.retain(|row| !keys.has(row.slug.as_str()));
    let progress = Progress::start(total, total - rows.len())?;
    let batches = rows.chunks(BATCH_SIZE).map(|batch| send(target, journal, batch));
    let mut batches = stream::iter(batches).buffer_unordered(concurrency);
    let mut rejected = Vec::new();
    while let Some(results) = batches.next().await {
        for (row, result) in results? {
            match result {
                Ok(ImportedTenant { tenant_id, public_key, secret_key }) => {
                    keys.write(row.slug.as_str(), tenant_id, &public_key, &secret_key)?;
                }
                Err(message) => rejected.push(format!("line {}: {}: {message}", row.line, row.slug)),
            }
            progress.step();
        }
    }
    progress.finish(rejected.len());
    Ok(rejected)
}

type BatchResults<'a> = Vec<(&'a Row, Result<ImportedTenant, String>)>;

/// Retries while the target is unavailable or overloaded. The request ids make that safe.
async fn send<'a>(target: &Target, journal: &Journal, batch: &'a [Row]) -> Result<BatchResults<'a>, Error> {
    let requests = batch.iter().map(|row| row.to_request(journal)).collect::<Result<Vec<_>, _>>()?;
    let mut backoff = INITIAL_BACKOFF;
    let mut attempt = 1;
    loop {
        match target.create(&requests, journal).await {
            Ok(results) => return Ok(batch.iter().zip(results).collect()),
            Err(error) if !error.retryable => return Err(error.cause),
            Err(error) if attempt == MAX_ATTEMPTS => {
                let remedy = "No key is lost; run the same command again to continue";
                return Err(format!("{}. {remedy}", error.cause).into());
            }
            Err(error) => tracing::warn!("Batch failed, retrying in {backoff:?}: {}", error.cause),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
        attempt += 1;
    }
}

/// Draws a progress bar on a terminal, and prints a line for every fiftieth of the rows elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Progress {
    fn start(total: usize, done: usize) -> Result<Self, Error> {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")?;
        let bar = ProgressBar::with_draw_target(Some(total.try_into()?), target).with_style(style);
        bar.set_position(done.try_into()?);
        bar.reset_eta();
        if done > 0 {
            bar.suspend(|| {
                let verb = if done == 1 { "is" } else { "are" };
                print_message(format_args!("{done} of {} {verb} already imported", counted(total, "row")));
            });
        }
        Ok(Self { bar, is_terminal })
    }

    fn step(&self) {
        self.bar.inc(1);
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let is_milestone = position % (total / 50).max(1) == 0;
        if !self.is_terminal && is_milestone {
            let (rate, left) = (self.bar.per_sec(), self.bar.eta().as_secs());
            let total = counted(total, "row");
            print_message(format_args!("processed {position} of {total} ({rate:.0} per second, {left} s left)"));
        }
    }

    fn finish(&self, rejected: usize) {
        self.bar.finish_and_clear();
        let total = self.bar.position();
        print_message(format_args!(
            "{}: {} imported, {rejected} rejected",
            counted(total, "row"),
            total - rejected as u64
        ));
    }
}
