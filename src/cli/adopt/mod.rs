//! `turnkey adopt`: brings the tenants of the platform's old database over.
//!
//! The old database is read in one read-only snapshot, in the order of the tenants' ids, a chunk at a time. A tenant
//! that the new database has already, by its external id, is left alone, so the command can be stopped at any moment,
//! even killed, and started again. Without `--skip-invalid`, all tenants are checked before the first is written.
//!
//! Exit code 0: all tenants came over, or would. 1: some are left. 2: the command could not run.

mod duplicates;
mod old_database;
pub mod renames;
mod report;

use std::{path::Path, process::ExitCode, sync::Arc};

use futures_util::{TryStreamExt as _, stream};

use self::{
    duplicates::Duplicates,
    old_database::OldDatabase,
    renames::Renames,
    report::{Entry, RecognizedReport, Report, Status},
};
use super::{
    Error,
    database::OpenDatabase,
    output::print_message,
    progress::Progress,
    retry::{AttemptError, retry},
};
use crate::{
    config::AdoptSettings,
    domain::{
        Actor, Argon2Params, Caller, ExternalId, KeyMode, Quotas,
        adoption::{Adoption, OldTenant, ParsedTenant, Problem, UniqueField, UniqueFields},
    },
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::{AdoptionOutcome, ExistingParts, Store},
};

/// Connections to the new database: two statements run at a time, beside one query.
const CONNECTIONS: u32 = 3;
/// Chunks in work: while one is written, the next is checked and another is read.
const CHUNKS_IN_WORK: usize = 3;
/// The end of an error message.
const REMEDY: &str = "No tenant is lost; run the same command again to continue";

#[tracing::instrument(name = "command", level = "error", skip_all, fields(turnkey.caller = Caller::CLI))]
pub async fn run(settings: AdoptSettings) -> Result<ExitCode, Error> {
    let renames = settings.renames.as_deref().map(Renames::read).transpose()?.unwrap_or_default();
    // Nothing is written until the file is recognized and both databases are open.
    let report = RecognizedReport::read(&settings.out)?;
    let mut old = OldDatabase::open(settings.from.into()).await?;
    let database = OpenDatabase::open_migrated(settings.database).await?;
    let store = Store::for_adoption(database.server.clone(), CONNECTIONS);
    let adopted = async {
        let duplicates = Duplicates::find(&mut old, &renames).await?;
        for old_slug in &duplicates.unused_renames {
            print_message(format_args!("--renames: no tenant has the slug {old_slug}"));
        }
        let adopter =
            Adopter { service: service(store.clone())?, renames, duplicates, actor: Actor::command(Caller::cli()) };
        let mode = Mode { dry_run: settings.dry_run, skip_invalid: settings.skip_invalid };
        adopter.adopt(&mut old, report.open()?, mode, &settings.out).await
    };
    let adopted = adopted.await;
    store.close().await;
    database.close().await?;
    adopted
}

struct Mode {
    dry_run: bool,
    skip_invalid: bool,
}

/// Hashes nothing: keys and passwords come over with their hashes.
fn service(store: Store) -> Result<TenantService, Error> {
    let hashing =
        HashingSettings { key: Argon2Params::KEY, password: Argon2Params::PASSWORD, workers: 1, queue_length: 1 };
    Ok(TenantService::new(store, Hasher::new(hashing)?, KeyMode::Live, Clock::system(), Quotas::DEFAULT))
}

struct Adopter {
    service: TenantService,
    renames: Renames,
    duplicates: Duplicates,
    actor: Actor,
}

/// What identifies a tenant in the report.
struct OldIdentity {
    id: String,
    slug: String,
}

/// A tenant that has been checked.
struct Checked {
    entry: Entry,
    /// The tenant to insert, unless it exists or is refused.
    adoption: Option<Arc<Adoption>>,
}

impl Adopter {
    async fn adopt(
        &self,
        old: &mut OldDatabase,
        mut report: Report,
        mode: Mode,
        path: &Path,
    ) -> Result<ExitCode, Error> {
        let check_first = mode.dry_run || !mode.skip_invalid;
        if check_first {
            self.pass(old, &mut report, "checked", async |chunk| self.check(chunk).await.map(into_entries)).await?;
        }
        let is_refused = check_first && report.counts.refused > 0 && !mode.skip_invalid;
        if !mode.dry_run && !is_refused {
            report.restart()?;
            self.pass(old, &mut report, "processed", async |chunk| self.check_and_write(chunk).await).await?;
        }
        report.sync()?;
        report.counts.print(path);
        if is_refused && !mode.dry_run {
            let remedy = "Correct the problems, or pass --skip-invalid to adopt only the other tenants";
            print_message(format_args!("Nothing was written to the database. {remedy}"));
        }
        Ok(if report.counts.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    /// Reads all tenants and writes the report. The work on a chunk overlaps with that on the next.
    async fn pass(
        &self,
        old: &mut OldDatabase,
        report: &mut Report,
        verb: &'static str,
        work: impl AsyncFn(Vec<OldTenant>) -> Result<Vec<Entry>, Error>,
    ) -> Result<(), Error> {
        let progress = Progress::start(verb, "tenant", self.duplicates.tenants, 0)?;
        let chunks = stream::try_unfold((old, String::new()), async |(old, after)| {
            let chunk = old.next_chunk(&after).await?;
            let last = chunk.last().map(|tenant| tenant.id.clone());
            Ok::<_, Error>(last.map(|last| (chunk, (old, last))))
        });
        let work = &work;
        let entries = chunks.map_ok(|chunk| async move { work(chunk).await }).try_buffered(CHUNKS_IN_WORK);
        let mut entries = std::pin::pin!(entries);
        while let Some(entries) = entries.try_next().await? {
            report.write(&entries)?;
            for _tenant in &entries {
                progress.step();
            }
        }
        progress.finish();
        Ok(())
    }

    /// Parses the tenants, and compares them with the new database and with each other.
    async fn check(&self, chunk: Vec<OldTenant>) -> Result<Vec<Checked>, Error> {
        let tenants: Vec<(OldIdentity, ParsedTenant)> = chunk
            .into_iter()
            .map(|old| {
                let identity = OldIdentity { id: old.id.clone(), slug: old.slug.clone() };
                let new_slug = self.renames.new_slug(&old.slug);
                (identity, self.service.parse_old_tenant(old, new_slug))
            })
            .collect();
        // An id that cannot be an external id is that of no tenant here.
        let known = |(identity, parsed): &(OldIdentity, ParsedTenant)| {
            Some((ExternalId::parse(&identity.id).ok()?, parsed.unique.clone()))
        };
        let requested: Vec<(ExternalId, UniqueFields)> = tenants.iter().filter_map(known).collect();
        let mut existing = retry(REMEDY, async || Ok(self.service.find_adopted(&requested).await?)).await?.into_iter();
        let checked = tenants.into_iter().map(|(identity, parsed)| {
            let existing = ExternalId::parse(&identity.id).ok().and_then(|_id| existing.next()).unwrap_or_default();
            self.check_tenant(identity, parsed, existing)
        });
        Ok(checked.collect())
    }

    fn check_tenant(&self, old: OldIdentity, parsed: ParsedTenant, existing: ExistingParts) -> Checked {
        let ParsedTenant { unique, repairs, adoption } = parsed;
        let slug = unique.slug.as_ref().map_or(old.slug, ToString::to_string);
        let entry = Entry {
            old_id: old.id,
            slug,
            tenant_id: None,
            status: Status::Refused,
            repairs: Vec::new(),
            problems: Vec::new(),
        };
        if let Some((tenant_id, slug)) = existing.adopted {
            let repairs = if adoption.is_ok() { repairs } else { Vec::new() };
            let entry = Entry { slug, tenant_id: Some(tenant_id), status: Status::AlreadyAdopted, repairs, ..entry };
            return Checked { entry, adoption: None };
        }
        let in_old = |field| Problem::already_exists(field, "is that of another tenant of the old database, too");
        let duplicates = self.duplicates.of(&unique).map(in_old).chain(existing.fields.into_iter().map(exists_in_new));
        let duplicates: Vec<Problem> = duplicates.collect();
        match adoption {
            Ok(adoption) if duplicates.is_empty() => {
                let entry = Entry { status: Status::WouldAdopt, repairs, ..entry };
                Checked { entry, adoption: Some(Arc::new(adoption)) }
            }
            adoption => {
                let problems = adoption.err().into_iter().flatten().chain(duplicates).collect();
                Checked { entry: Entry { problems, ..entry }, adoption: None }
            }
        }
    }

    async fn check_and_write(&self, chunk: Vec<OldTenant>) -> Result<Vec<Entry>, Error> {
        let checked = self.check(chunk).await?;
        let adoptions: Vec<Arc<Adoption>> = checked.iter().filter_map(|checked| checked.adoption.clone()).collect();
        let mut outcomes = self.write(&adoptions).await?.into_iter();
        let mut entries = Vec::with_capacity(checked.len());
        for Checked { entry, adoption } in checked {
            let written = adoption.and_then(|adoption| Some((adoption, outcomes.next()?)));
            entries.push(match written {
                None => entry,
                Some((adoption, outcome)) => self.entry_of(outcome, &adoption, entry).await?,
            });
        }
        Ok(entries)
    }

    /// Inserts the tenants. Repeats those whose result is not known.
    async fn write(&self, adoptions: &[Arc<Adoption>]) -> Result<Vec<AdoptionOutcome>, Error> {
        let mut written: Vec<Option<AdoptionOutcome>> = vec![None; adoptions.len()];
        retry(REMEDY, async || {
            let open: Vec<usize> = (0..adoptions.len()).filter(|&index| written[index].is_none()).collect();
            let items: Vec<Arc<Adoption>> = open.iter().map(|&index| Arc::clone(&adoptions[index])).collect();
            let mut failure = None;
            for (index, outcome) in open.into_iter().zip(self.service.batch_adopt_tenants(&self.actor, &items).await) {
                match outcome {
                    Ok(outcome) => written[index] = Some(outcome),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            failure.map_or(Ok(()), |error| Err(AttemptError::from(error)))
        })
        .await?;
        Ok(written.into_iter().flatten().collect())
    }

    async fn entry_of(&self, outcome: AdoptionOutcome, adoption: &Adoption, entry: Entry) -> Result<Entry, Error> {
        let tenant = &adoption.tenant;
        let adopted = Entry { status: Status::Adopted, tenant_id: Some(tenant.id), ..entry };
        if outcome == AdoptionOutcome::Adopted {
            return Ok(adopted);
        }
        // Maybe an earlier attempt, whose response was lost, or another process has adopted the tenant. Whatever the
        // other one inserted first can then be what already exists.
        let requested = [(tenant.external_id.clone(), UniqueFields::default())];
        let existing = retry(REMEDY, async || Ok(self.service.find_adopted(&requested).await?)).await?;
        let existing = existing.into_iter().next().and_then(|existing| existing.adopted);
        match (existing, outcome) {
            (Some((id, slug)), _) => {
                let status = if id == tenant.id { Status::Adopted } else { Status::AlreadyAdopted };
                Ok(Entry { status, tenant_id: Some(id), slug, ..adopted })
            }
            (None, AdoptionOutcome::FieldExists(field)) => {
                let (status, problems) = (Status::Refused, vec![exists_in_new(field)]);
                Ok(Entry { status, tenant_id: None, repairs: Vec::new(), problems, ..adopted })
            }
            (None, _) => Err("an adopted tenant was deleted meanwhile; run the same command again".into()),
        }
    }
}

fn into_entries(checked: Vec<Checked>) -> Vec<Entry> {
    checked.into_iter().map(|checked| checked.entry).collect()
}

fn exists_in_new(field: UniqueField) -> Problem {
    Problem::already_exists(field, "is that of another tenant of the new database")
}
