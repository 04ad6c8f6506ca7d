//! A thousand damaged tenants among a million: found and mended, exactly these.

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
use tempfile::tempdir_in;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CheckIntegrityRequest, FindingKind,
    batch_create_fully_provisioned_result::Result as BatchResult, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    cluster::TestDatabase,
    fixture::{Fixture, channel, named},
    process::{Program, serving, turnkey, url},
    process_memory::memory_kib,
};

const BATCH: usize = 500;
const DAMAGED: usize = 1_000;
/// Whoever looks at a million tenants takes no more memory than this.
const MOST_KIB: u64 = 50 * 1_024;

/// Tenant id and kind.
type Findings = BTreeSet<(String, String)>;

async fn make_tenants(fixture: &Fixture, count: usize) {
    let batches = (0..count).step_by(BATCH).map(|first| {
        let mut client = fixture.provisioning.clone();
        let requests = (first..first + BATCH).map(|number| named(&format!("tenant-{number}"))).collect();
        async move {
            let request = BatchCreateFullyProvisionedRequest { requests };
            let results = client.batch_create_fully_provisioned(request).await.unwrap().into_inner().results;
            results.iter().filter(|result| matches!(result.result, Some(BatchResult::Provisioned(_)))).count()
        }
    });
    let made: Vec<usize> = stream::iter(batches).buffer_unordered(3).collect().await;
    assert_eq!(made.into_iter().sum::<usize>(), count);
}

/// Takes something away from tenants picked at random, from each of them one thing.
async fn damage(pool: &PgPool, seed: u64) -> Findings {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut *connection).await.unwrap();
    let part = f64::from(u32::try_from(seed % 1_000).unwrap()) / 1_000.0;
    sqlx::query("SELECT setseed($1)").bind(part).execute(&mut *connection).await.unwrap();
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM tenants ORDER BY random() LIMIT $1")
        .bind(i64::try_from(DAMAGED).unwrap())
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    let mut expected = Findings::new();
    for (ids, (sql, kind)) in ids.chunks(DAMAGED / 4).zip([
        ("UPDATE segments SET slug = 'another' WHERE tenant_id = ANY ($1)", FindingKind::NoGeneralSegment),
        ("DELETE FROM packages WHERE tenant_id = ANY ($1)", FindingKind::NoPackage),
        ("DELETE FROM api_keys WHERE tenant_id = ANY ($1)", FindingKind::NoApiKey),
        (
            "UPDATE packages SET segment_id = gen_random_uuid() WHERE slug = 'basic-package' AND tenant_id = ANY ($1)",
            FindingKind::PackageWithoutSegment,
        ),
    ]) {
        sqlx::query(sql).bind(ids).execute(&mut *connection).await.unwrap();
        expected.extend(ids.iter().map(|id| (id.to_string(), kind.as_str_name().to_owned())));
    }
    expected
}

struct Examined {
    code: Option<i32>,
    findings: Findings,
    peak_kib: u64,
}

fn doctor(mut command: Command) -> Examined {
    let mut child = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, mut chunk, mut peak) = (Vec::new(), [0; 4_096], 0);
    loop {
        let length = out.read(&mut chunk).unwrap();
        // Once it has said all it has peaked.
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
    Examined { code: child.wait().unwrap().code(), findings, peak_kib: peak }
}

/// Answers what it measured, a line each.
pub async fn find_and_mend(count: usize, seed: u64) -> Vec<String> {
    let fixture = Fixture::start().await;
    let pool = fixture.superuser_pool().await;
    let tenants = f64::from(u32::try_from(count).unwrap());
    let rate = |began: Instant| tenants / began.elapsed().as_secs_f64();
    let mut lines = Vec::new();
    let began = Instant::now();
    make_tenants(&fixture, count).await;
    lines.push(format!("{count} tenants made, {:.0} a second", rate(began)));
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    let expected = damage(&pool, seed).await;

    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        command.arg("doctor").args(arguments);
        command.env("DATABASE_URL", url(&fixture.database.server)).env("RUST_LOG", "error");
        command
    };
    let began = Instant::now();
    let examined = doctor(command(&[]));
    lines.push(format!("`doctor`: {:.0} tenants a second, {} KiB at most", rate(began), examined.peak_kib));
    assert_eq!((examined.code, &examined.findings), (Some(1), &expected));
    assert!(examined.peak_kib <= MOST_KIB);

    let began = Instant::now();
    let (streamed, peak_kib) = check_integrity(folder.path(), &fixture.database).await;
    lines.push(format!("`CheckIntegrity`: {:.0} tenants a second, {peak_kib} KiB at most in the server", rate(began)));
    assert_eq!(streamed, expected);
    assert!(peak_kib <= MOST_KIB);

    let began = Instant::now();
    let mended = doctor(command(&["--repair", "--out", "keys.csv"]));
    lines.push(format!(
        "`doctor --repair`: {:.1} s, {DAMAGED} damaged tenants found among all and mended",
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((mended.code, &mended.findings), (Some(0), &expected));
    let keys = fs::read_to_string(folder.path().join("keys.csv")).unwrap();
    assert_eq!(keys.lines().count(), 1 + DAMAGED / 4);
    let silent = doctor(command(&[]));
    assert_eq!((silent.code, silent.findings.len()), (Some(0), 0));
    lines
}

async fn check_integrity(folder: &Path, database: &TestDatabase) -> (Findings, u64) {
    let mut server = Program::start(&mut serving(folder, &database.server));
    let mut client = TenantProvisioningClient::new(channel(&server.address()).await);
    let request = CheckIntegrityRequest { tenant_id: None };
    let mut answers = client.check_integrity(request).await.unwrap().into_inner();
    let mut findings = Findings::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let finding = answer.finding.unwrap();
        findings.insert((finding.tenant_id.clone(), finding.kind().as_str_name().to_owned()));
    }
    (findings, memory_kib(server.pid(), "VmHWM").unwrap())
}
