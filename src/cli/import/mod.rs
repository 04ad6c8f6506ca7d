//! `turnkey import`: creates tenants from a CSV file and writes their keys to another.
//!
//! The import can be stopped at any moment, even killed, and started again with the same files: it creates every tenant
//! once, and every key ends up in the keys file.
//! - Before anything is sent, every row is read and its request id is in the journal ([`journal`]).
//! - A row is done when its line in the keys file is complete ([`super::keys_file`]). Every other row is sent again,
//!   and its request id makes the server replay the tenant if it exists.
//! - A key that can no longer be replayed is rotated ([`lost_keys`]).

pub mod journal;
mod lost_keys;
mod quotes;
pub mod rows;
mod server;
mod target;

use futures_util::{StreamExt as _, stream};

use self::{
    journal::Journal,
    rows::{Row, Rows},
    target::{ImportedTenant, Target},
};
use super::{Error, counted, keys_file::KeysFile, output::print_message, progress::Progress, retry::retry};
use crate::{config::ImportSettings, domain::Caller};

/// Rows per call: many enough for speed, few enough for a cheap retry.
const BATCH_SIZE: usize = 100;

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
    // Nothing is written until both files are recognized and the target is open: a refused import leaves no files
    // behind.
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
    let done = total - rows.len();
    let progress = Progress::start("processed", "row", total.try_into()?, done.try_into()?)?;
    if done > 0 {
        let verb = if done == 1 { "is" } else { "are" };
        progress.print(format_args!("{done} of {} {verb} already imported", counted(total, "row")));
    }
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
    let total = progress.finish();
    let (rows, imported) = (counted(total, "row"), total - rejected.len() as u64);
    print_message(format_args!("{rows}: {imported} imported, {} rejected", rejected.len()));
    Ok(rejected)
}

type BatchResults<'a> = Vec<(&'a Row, Result<ImportedTenant, String>)>;

/// The request ids make a repeated batch safe.
async fn send<'a>(target: &Target, journal: &Journal, batch: &'a [Row]) -> Result<BatchResults<'a>, Error> {
    let requests = batch.iter().map(|row| row.to_request(journal)).collect::<Result<Vec<_>, _>>()?;
    let remedy = "No key is lost; run the same command again to continue";
    let results = retry(remedy, async || target.create(&requests, journal).await).await?;
    Ok(batch.iter().zip(results).collect())
}
