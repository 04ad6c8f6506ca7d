//! A thousand damaged tenants among a million: exactly these are found and repaired.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use futures_util::{StreamExt as _, stream};
use sqlx::PgPool;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CheckIntegrityRequest, FindingKind,
    batch_create_fully_provisioned_result::Result as BatchResult, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    database::TestDatabase,
    fixture::{Fixture, channel},
    process::{Process, database_url, serve, temp_folder, turnkey},
    process_memory::memory_kib,
    requests::named,
};

const BATCH: usize = 500;
const DAMAGED: usize = 1_000;
/// Ways in which tenants are damaged, one of them by the loss of the tenant itself.
const KINDS: usize = 5;
/// Memory limit of a check of a million tenants.
const MAX_KIB: u64 = 50 * 1_024;

/// Tenant id and kind.
type Findings = BTreeSet<(String, String)>;

async fn create_tenants(fixture: &Fixture, count: usize) {
    let batches = (0..count).step_by(BATCH).map(|first| {
        let mut client = fixture.provisioning.clone();
        let requests = (first..first + BATCH).map(|number| named(&format!("tenant-{number}"))).collect();
        async move {
            let request = BatchCreateFullyProvisionedRequest { requests };
            let results = client.batch_create_fully_provisioned(request).await.unwrap().into_inner().results;
            results.iter().filter(|result| matches!(result.result, Some(BatchResult::Provisioned(_)))).count()
        }
    });
    let created: Vec<usize> = stream::iter(batches).buffer_unordered(3).collect().await;
    assert_eq!(created.into_iter().sum::<usize>(), count);
}

/// Damages random tenants, each of them in one way. Returns the expected findings.
async fn damage(pool: &PgPool, seed: u64) -> Findings {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut *connection).await.unwrap();
    let sql_seed = f64::from(u32::try_from(seed % 1_000).unwrap()) / 1_000.0;
    sqlx::query("SELECT setseed($1)").bind(sql_seed).execute(&mut *connection).await.unwrap();
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM tenants ORDER BY random() LIMIT $1")
        .bind(i64::try_from(DAMAGED).unwrap())
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    let mut expected = Findings::new();
    for (ids, (sql, kinds)) in ids.chunks(DAMAGED / KINDS).zip([
        ("UPDATE segments SET slug = 'another' WHERE tenant_id = ANY ($1)", &[FindingKind::NoGeneralSegment][..]),
        ("DELETE FROM packages WHERE tenant_id = ANY ($1)", &[FindingKind::NoPackage]),
        ("DELETE FROM api_keys WHERE tenant_id = ANY ($1)", &[FindingKind::NoApiKey]),
        (
            "UPDATE packages SET segment_id = gen_random_uuid() WHERE slug = 'basic-package' AND tenant_id = ANY ($1)",
            &[FindingKind::PackageWithoutSegment],
        ),
        (
            "DELETE FROM tenants WHERE id = ANY ($1)",
            &[
                FindingKind::SegmentWithoutTenant,
                FindingKind::PackageWithoutTenant,
                FindingKind::ApiKeyWithoutTenant,
                FindingKind::UsageCountWithoutTenant,
            ],
        ),
    ]) {
        sqlx::query(sql).bind(ids).execute(&mut *connection).await.unwrap();
        for kind in kinds {
            expected.extend(ids.iter().map(|id| (id.to_string(), kind.as_str_name().to_owned())));
        }
    }
    expected
}

struct DoctorRun {
    code: Option<i32>,
    findings: Findings,
    peak_kib: u64,
}

fn doctor(mut command: Command) -> DoctorRun {
    let mut child = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, mut chunk, mut peak) = (Vec::new(), [0; 4_096], 0);
    loop {
        let length = out.read(&mut chunk).unwrap();
        // The output ends after the peak of the memory.
        peak = memory_kib(child.id(), "VmHWM").unwrap_or(peak);
        if length == 0 {
            break;
        }
        text.extend(&chunk[..length]);
    }
    let findings = String::from_utf8(text)
        .unwrap()
        .lines()
        .map(|line| {
            let finding: serde_json::Value = serde_json::from_str(line).unwrap();
            (finding["tenant_id"].as_str().unwrap().to_owned(), finding["kind"].as_str().unwrap().to_owned())
        })
        .collect();
    DoctorRun { code: child.wait().unwrap().code(), findings, peak_kib: peak }
}

/// Returns the measurements, one per line.
pub async fn find_and_repair(count: usize, seed: u64) -> Vec<String> {
    let fixture = Fixture::start().await;
    let pool = fixture.superuser_pool().await;
    let tenants = f64::from(u32::try_from(count).unwrap());
    let rate = |began: Instant| tenants / began.elapsed().as_secs_f64();
    let mut lines = Vec::new();
    let began = Instant::now();
    create_tenants(&fixture, count).await;
    lines.push(format!("{count} tenants created, {:.0} per second", rate(began)));
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    let expected = damage(&pool, seed).await;

    let folder = temp_folder();
    let command = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        command.arg("doctor").args(arguments);
        command.env("DATABASE_URL", database_url(&fixture.database.server)).env("RUST_LOG", "error");
        command
    };
    let began = Instant::now();
    let checked = doctor(command(&[]));
    lines.push(format!("`doctor`: {:.0} tenants per second, peak memory {} KiB", rate(began), checked.peak_kib));
    assert_eq!((checked.code, &checked.findings), (Some(1), &expected));
    assert!(checked.peak_kib <= MAX_KIB);

    let began = Instant::now();
    let (streamed, peak_kib) = check_integrity(folder.path(), &fixture.database).await;
    lines.push(format!(
        "`CheckIntegrity`: {:.0} tenants per second, peak memory of the server {peak_kib} KiB",
        rate(began)
    ));
    assert_eq!(streamed, expected);
    assert!(peak_kib <= MAX_KIB);

    let began = Instant::now();
    let repaired = doctor(command(&["--repair", "--out", "keys.csv"]));
    lines.push(format!(
        "`doctor --repair`: {:.1} s, {DAMAGED} damaged tenants found and repaired",
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((repaired.code, &repaired.findings), (Some(0), &expected));
    let keys = fs::read_to_string(folder.path().join("keys.csv")).unwrap();
    assert_eq!(keys.lines().count(), 1 + DAMAGED / KINDS);
    let second = doctor(command(&[]));
    assert_eq!((second.code, second.findings.len()), (Some(0), 0));
    lines
}

async fn check_integrity(folder: &Path, database: &TestDatabase) -> (Findings, u64) {
    let mut server = Process::start(&mut serve(folder, &database.server));
    let mut client = TenantProvisioningClient::new(channel(&server.address()).await);
    let request = CheckIntegrityRequest { tenant_id: None };
    let mut responses = client.check_integrity(request).await.unwrap().into_inner();
    let mut findings = Findings::new();
    while let Some(response) = responses.message().await.unwrap() {
        let finding = response.finding.unwrap();
        findings.insert((finding.tenant_id.clone(), finding.kind().as_str_name().to_owned()));
    }
    (findings, memory_kib(server.pid(), "VmHWM").unwrap())
}
