//! `turnkey import`: many tenants from a file, their keys into another.
//!
//! It may be stopped at any moment, killed included, and started again with the same files: every tenant is made once,
//! and every key ends up in the file. What makes it so:
//! - nothing is sent before every row was read, and its request id is in the journal;
//! - a row is done when it stands in the keys' file, whole; all others are sent again, and their request ids bring back
//!   what was made ([`journal`], [`super::keys_file`]).

mod journal;
pub mod rows;
mod target;

use std::{io::IsTerminal as _, time::Duration};

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::{
    journal::Journal,
    rows::{Row, Rows},
    target::{ImportedTenant, Target},
};
use super::{Error, keys_file::KeysFile};
use crate::config::ImportSettings;

/// Rows in a call: enough to be quick, few enough to be retried lightly.
const BATCH: usize = 100;
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub async fn run(settings: ImportSettings) -> Result<(), Error> {
    let Rows { valid, errors } = rows::read(&settings.file)?;
    for error in &errors {
        eprintln!("{error}");
    }
    if !errors.is_empty() && !settings.skip_invalid {
        return Err(format!(
            "{} bad rows, and nothing was imported. --skip-invalid goes on without them",
            errors.len()
        )
        .into());
    }
    let journal = Journal::open(&settings.out, settings.target.name(), &valid)?;
    let keys = KeysFile::open(&settings.out)?;
    let target = Target::open(settings.target, settings.concurrency).await?;
    let imported = import(&target, &journal, keys, valid, settings.concurrency.get()).await;
    target.close().await?;
    let refused = imported?;
    for error in &refused {
        eprintln!("{error}");
    }
    if refused.is_empty() { Ok(()) } else { Err(format!("{} rows were refused", refused.len()).into()) }
}

/// Answers what was said of the rows that were refused.
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
    let batches = rows.chunks(BATCH).map(|batch| send(target, journal, batch));
    let mut answers = stream::iter(batches).buffer_unordered(concurrency);
    let mut refused = Vec::new();
    while let Some(answer) = answers.next().await {
        for (row, made) in answer? {
            match made {
                Ok(ImportedTenant { tenant_id, public_key, secret_key }) => {
                    keys.write(row.slug.as_str(), tenant_id, &public_key, &secret_key)?;
                }
                Err(why) => refused.push(format!("line {}: {}: {why}", row.line, row.slug)),
            }
            progress.step();
        }
    }
    progress.finish(refused.len());
    Ok(refused)
}

type BatchResults<'a> = Vec<(&'a Row, Result<ImportedTenant, String>)>;

/// Repeats itself while the other side is away or has too much to do: the request ids make that safe.
async fn send<'a>(target: &Target, journal: &Journal, batch: &'a [Row]) -> Result<BatchResults<'a>, Error> {
    let requests = batch.iter().map(|row| row.to_request(journal)).collect::<Result<Vec<_>, _>>()?;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match target.create(&requests).await {
            Ok(answers) => return Ok(batch.iter().zip(answers).collect()),
            Err(failure) if !failure.retryable => return Err(failure.cause),
            Err(failure) if attempt == ATTEMPTS => {
                let safe = "What was imported is safe; run the same command again to go on";
                return Err(format!("{}. {safe}", failure.cause).into());
            }
            Err(failure) => tracing::warn!("Tried in vain, and will try again: {}", failure.cause),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        attempt += 1;
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    has_terminal: bool,
}

impl Progress {
    fn start(total: usize, done: usize) -> Result<Self, Error> {
        let has_terminal = std::io::stderr().is_terminal();
        let target = if has_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")?;
        let bar = ProgressBar::with_draw_target(Some(total.try_into()?), target).with_style(style);
        bar.set_position(done.try_into()?);
        bar.reset_eta();
        if done > 0 {
            bar.suspend(|| eprintln!("{done} of {total} were imported before"));
        }
        Ok(Self { bar, has_terminal })
    }

    fn step(&self) {
        self.bar.inc(1);
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let is_milestone = position % (total / 50).max(1) == 0;
        if !self.has_terminal && is_milestone {
            let (rate, left) = (self.bar.per_sec(), self.bar.eta().as_secs());
            eprintln!("imported {position} of {total} ({rate:.0} a second, {left} s left)");
        }
    }

    fn finish(&self, refused: usize) {
        self.bar.finish_and_clear();
        let done = self.bar.position();
        eprintln!("{done} rows: {} imported, {refused} refused", done - refused as u64);
    }
}
