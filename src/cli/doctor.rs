//! `turnkey doctor`: finds damaged tenants, and repairs them with `--repair`.
//!
//! A repair creates what is missing, corrects what is wrong, moves packages without a segment of their tenant to
//! General, and deletes rows that refer to nothing. It cannot restore lost data; a backup can.
//!
//! Exit code 0: there are no findings, or all are repaired. 1: findings remain. 2: the check did not finish.

use std::{
    io::{self, Write as _},
    pin::pin,
    process::ExitCode,
    sync::Arc,
};

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{
    Error, counted,
    database::OpenDatabase,
    keys_file::{KeysFile, RecognizedKeysFile},
    output::Stdout,
};
use crate::{
    config::DoctorSettings,
    domain::{
        Actor, Argon2Params, Caller, Quotas, TenantId,
        integrity::{CheckedTenants, Finding, FindingKind, RepairReport},
    },
    error,
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

/// Findings in the table; further ones are only counted. `--json` prints all.
const MAX_TABLE_ROWS: usize = 1_000;

#[tracing::instrument(name = "command", level = "error", skip_all, fields(turnkey.caller = Caller::CLI))]
pub async fn run(settings: DoctorSettings) -> Result<ExitCode, Error> {
    let keys = settings.out.as_deref().map(KeysFile::recognize).transpose()?;
    let database = OpenDatabase::open_existing(settings.database).await?;
    let hashing =
        HashingSettings { key: settings.key_argon2, password: Argon2Params::PASSWORD, workers: 1, queue_length: 1 };
    let store = Store::for_batch_jobs(database.server.clone());
    let service = Arc::new(TenantService::new(
        store.clone(),
        Hasher::new(hashing)?,
        settings.key_mode,
        Clock::system(),
        Quotas::DEFAULT,
    ));
    let keys = keys.map(RecognizedKeysFile::open).transpose()?;
    let report = if settings.json { Report::Json } else { Report::Table { rows: Vec::new(), omitted: 0 } };
    let mut doctor = Doctor { service, repair: settings.repair, keys, report, unresolved: 0 };
    let checked = doctor.check().await;
    let result = checked.and_then(|tenants| doctor.finish(tenants));
    store.close().await;
    database.close().await?;
    result
}

struct Doctor {
    service: Arc<TenantService>,
    repair: bool,
    keys: Option<KeysFile>,
    report: Report,
    /// Number of findings that remain.
    unresolved: u64,
}

enum Report {
    Json,
    Table { rows: Vec<Vec<String>>, omitted: u64 },
}

impl Doctor {
    /// Checks all tenants and returns their number.
    async fn check(&mut self) -> Result<u64, Error> {
        // indicatif hides the bar if standard error is not a terminal.
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tenants ({per_sec}, {eta} left)")?;
        let bar = ProgressBar::new(self.service.count_tenants().await?).with_style(style);
        let mut chunks = pin!(Arc::clone(&self.service).check_integrity(CheckedTenants::All));
        let mut tenants = 0;
        while let Some(chunk) = chunks.try_next().await? {
            for of_tenant in chunk.findings.chunk_by(|one, next| one.tenant_id == next.tenant_id) {
                let outcomes = self.process_tenant(of_tenant).await?;
                bar.suspend(|| {
                    let mut outcomes = of_tenant.iter().zip(outcomes);
                    outcomes.try_for_each(|(finding, outcome)| self.report.add(finding, outcome))
                })?;
            }
            tenants += chunk.tenants;
            bar.inc(chunk.tenants);
        }
        bar.finish_and_clear();
        Ok(tenants)
    }

    /// Repairs the tenant of these findings and returns the outcome of each for the report, or `None` without
    /// `--repair`.
    async fn process_tenant(&mut self, findings: &[Finding]) -> Result<Vec<Option<&'static str>>, Error> {
        let remaining = match findings {
            [Finding { tenant_id, .. }, ..] if self.repair => self.repair_tenant(*tenant_id).await?,
            _ => findings.to_vec(),
        };
        let outcomes = findings.iter().map(|finding| {
            let is_unresolved = remaining.contains(finding);
            self.unresolved += u64::from(is_unresolved);
            self.repair.then(|| if is_unresolved { reason_unresolved(finding.kind) } else { "repaired" })
        });
        Ok(outcomes.collect())
    }

    /// Returns the findings that the repair has left.
    async fn repair_tenant(&mut self, tenant_id: TenantId) -> Result<Vec<Finding>, Error> {
        match self.service.repair_tenant(tenant_id, self.keys.is_some(), Actor::command(Caller::cli())).await {
            Ok(RepairReport { tenant: Some(tenant), api_key: Some((key, secret_key)), .. }) => {
                if let Some(keys) = &mut self.keys {
                    keys.write(&tenant.slug, tenant_id, &key.public_key, &secret_key)?;
                }
            }
            // Not found: another repair has deleted the rows of a missing tenant.
            Ok(_) | Err(error::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.service.remaining_findings(tenant_id).await?)
    }

    fn finish(self, tenants: u64) -> Result<ExitCode, Error> {
        self.report.finish(tenants, self.unresolved)?;
        Ok(if self.unresolved == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn reason_unresolved(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::NoApiKey => "unresolved: creating a key requires --out",
        FindingKind::WrongCanonicalEmail => "unresolved: another owner has this address",
        _ => "unresolved",
    }
}

impl Report {
    fn add(&mut self, finding: &Finding, outcome: Option<&'static str>) -> io::Result<()> {
        let (tenant_id, kind) = (finding.tenant_id.to_string(), finding.kind);
        match self {
            Self::Json => {
                let mut object = json!({
                    "tenant_id": tenant_id,
                    "slug": finding.slug.as_deref().unwrap_or_default(),
                    "kind": format!("FINDING_KIND_{kind}"),
                    "detail": finding.detail,
                });
                if let Some(outcome) = outcome {
                    object["outcome"] = outcome.into();
                }
                writeln!(Stdout, "{object}")
            }
            Self::Table { rows, omitted } => {
                if rows.len() < MAX_TABLE_ROWS {
                    let slug = finding.slug.clone().unwrap_or_default();
                    let row = [slug, tenant_id, finding.detail.clone()].into_iter();
                    rows.push(row.chain(outcome.map(str::to_owned)).collect());
                } else {
                    *omitted += 1;
                }
                Ok(())
            }
        }
    }

    fn finish(self, tenants: u64, unresolved: u64) -> io::Result<()> {
        let Self::Table { rows, omitted } = self else { return Ok(()) };
        let mut out = Stdout;
        let Some(first) = rows.first() else {
            return writeln!(out, "No findings in {}.", counted(tenants, "tenant"));
        };
        // Without --repair the rows have no outcome.
        let header = &["slug", "tenant id", "finding", "outcome"][..first.len()];
        let findings = rows.len() as u64 + omitted;
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(header).add_rows(rows);
        writeln!(out, "{table}")?;
        if omitted > 0 {
            writeln!(out, "and {omitted} more: --json shows them all")?;
        }
        let repaired = findings - unresolved;
        let (findings, tenants) = (counted(findings, "finding"), counted(tenants, "tenant"));
        writeln!(out, "{findings} in {tenants}, {repaired} repaired, {unresolved} unresolved.")
    }
}
