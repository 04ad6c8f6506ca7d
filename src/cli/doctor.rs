//! `turnkey doctor`: what is wrong with the tenants, and with `--repair` no longer.
//!
//! Exit code 0 where nothing is wrong or all of it was mended, 1 where something is left, 2 where it could not look.

use std::{
    collections::HashSet,
    io::{self, Write as _},
    pin::pin,
    process::ExitCode,
    sync::Arc,
};

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Error, database::OpenDatabase, keys_file::KeysFile};
use crate::{
    config::DoctorSettings,
    domain::{
        Argon2Params, TenantId,
        integrity::{Finding, FindingKind},
    },
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

/// Rows that are shown as a table; whoever has more wants them as JSON.
const MAX_TABLE_ROWS: usize = 1_000;

pub async fn run(settings: DoctorSettings) -> Result<ExitCode, Error> {
    let database = OpenDatabase::open_existing(settings.database).await?;
    let hashing =
        HashingSettings { key: settings.key_argon2, password: Argon2Params::PASSWORD, workers: 1, queue_length: 1 };
    let store = Store::for_batch_jobs(database.server.clone());
    let service =
        Arc::new(TenantService::new(store.clone(), Hasher::new(hashing)?, settings.key_mode, Clock::system()));
    let keys = settings.out.as_deref().map(KeysFile::open).transpose()?;
    let report = if settings.json { Report::Json } else { Report::Table { rows: Vec::new(), more: 0 } };
    let mut doctor = Doctor { service, repair: settings.repair, keys, report, unresolved: 0, repaired: HashSet::new() };
    let examined = doctor.examine().await;
    let ended = examined.and_then(|tenants| doctor.finish(tenants));
    store.close().await;
    database.close().await?;
    ended
}

struct Doctor {
    service: Arc<TenantService>,
    repair: bool,
    keys: Option<KeysFile>,
    report: Report,
    /// Findings that stay.
    unresolved: u64,
    /// Of the step at hand: a tenant with several faults is mended once.
    repaired: HashSet<TenantId>,
}

enum Report {
    Json,
    Table { rows: Vec<[String; 4]>, more: usize },
}

impl Doctor {
    /// Answers how many tenants were looked at.
    async fn examine(&mut self) -> Result<u64, Error> {
        // Hides itself where standard error is no terminal.
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tenants ({per_sec}, {eta} left)")?;
        let bar = ProgressBar::new(self.service.count_tenants().await?).with_style(style);
        let mut chunks = pin!(Arc::clone(&self.service).check_integrity(None));
        let mut tenants = 0;
        while let Some(chunk) = chunks.try_next().await? {
            self.repaired.clear();
            for finding in chunk.findings {
                let outcome = self.process_finding(&finding).await?;
                bar.suspend(|| self.report.add(&finding, outcome))?;
            }
            tenants += chunk.tenants;
            bar.inc(chunk.tenants);
        }
        bar.finish_and_clear();
        Ok(tenants)
    }

    /// What became of a finding, in a word or two.
    async fn process_finding(&mut self, finding: &Finding) -> Result<&'static str, Error> {
        let keyless = finding.kind == FindingKind::NoApiKey && self.keys.is_none();
        if !self.repair || keyless {
            self.unresolved += 1;
            return Ok(if self.repair { "left: say --out for its key" } else { "" });
        }
        if finding.slug.is_none() {
            self.service.delete_dangling_rows(finding.tenant_id).await?;
        } else if self.repaired.insert(finding.tenant_id) {
            let repaired = self.service.repair_tenant(finding.tenant_id, self.keys.is_some()).await?;
            if let (Some((key, secret_key)), Some(keys)) = (&repaired.api_key, &mut self.keys) {
                keys.write(&repaired.tenant.slug, finding.tenant_id, &key.public_key, secret_key)?;
            }
        }
        Ok("mended")
    }

    fn finish(self, tenants: u64) -> Result<ExitCode, Error> {
        self.report.finish(tenants, self.unresolved)?;
        Ok(if self.unresolved == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

impl Report {
    fn add(&mut self, finding: &Finding, outcome: &'static str) -> io::Result<()> {
        let (tenant_id, kind) = (finding.tenant_id.to_string(), finding.kind);
        match self {
            Self::Json => {
                let mut object = json!({
                    "tenant_id": tenant_id,
                    "slug": finding.slug.as_deref().unwrap_or_default(),
                    "kind": format!("FINDING_KIND_{kind}"),
                    "detail": finding.detail,
                });
                if !outcome.is_empty() {
                    object["outcome"] = outcome.into();
                }
                writeln!(io::stdout(), "{object}")
            }
            Self::Table { rows, more } => {
                if rows.len() < MAX_TABLE_ROWS {
                    let slug = finding.slug.clone().unwrap_or_default();
                    rows.push([slug, tenant_id, finding.detail.clone(), outcome.to_owned()]);
                } else {
                    *more += 1;
                }
                Ok(())
            }
        }
    }

    fn finish(self, tenants: u64, unresolved: u64) -> io::Result<()> {
        let Self::Table { rows, more } = self else { return Ok(()) };
        let mut out = io::stdout();
        if rows.is_empty() {
            return writeln!(out, "Nothing is wrong with {tenants} tenants.");
        }
        let found = rows.len() + more;
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["slug", "tenant id", "finding", ""]).add_rows(rows);
        writeln!(out, "{table}")?;
        if more > 0 {
            writeln!(out, "and {more} more: --json shows them all")?;
        }
        writeln!(
            out,
            "{found} findings among {tenants} tenants, {} mended, {unresolved} left.",
            found as u64 - unresolved
        )
    }
}
