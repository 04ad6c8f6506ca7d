//! The baselines: pgbench with the statements of the service, and Argon2 on one core.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hdrhistogram::Histogram;
use sqlx::AssertSqlSafe;
use turnkey::domain::{Argon2Params, defaults};

use crate::{
    environment::BenchEnv,
    load::{Measurement, THREADS},
    workloads::SampleTenant,
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Returns the only statement in `.sqlx` that contains this text, without its comments and line breaks: pgbench reads
/// these differently.
fn statement_containing(text: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let queries = fs::read_dir(folder).unwrap().map(|file| {
        let query: serde_json::Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        query["query"].as_str().unwrap().to_owned()
    });
    let matching: Vec<String> = queries.filter(|query| query.contains(text)).collect();
    let [statement] = matching.as_slice() else {
        panic!("{} statements in .sqlx contain {text:?} instead of one", matching.len())
    };
    let lines = statement.lines().map(|line| line.split("--").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join(" ")
}

/// Replaces each `$n` with the n-th value.
fn fill(statement: &str, values: &[String]) -> String {
    let mut parts = statement.split('$');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    let mut used = vec![false; values.len()];
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|ch: char| ch.is_ascii_digit()).len();
        let index = part[..digits].parse::<usize>().unwrap() - 1;
        filled.push_str(&values[index]);
        filled.push_str(&part[digits..]);
        used[index] = true;
    }
    assert!(used.iter().all(|is_used| *is_used), "the statement does not have {} parameters", values.len());
    filled
}

/// Returns a pgbench script that runs the statement of `CreateFullyProvisioned`, idempotency record included, for a new
/// tenant each time. Scripts of different rounds create different tenants.
pub fn create_script(round: u64) -> String {
    let id = |part: u32| {
        format!(
            "(lpad(to_hex(:n::int8), 12, '0') || '7' || lpad(to_hex(:client_id::int8), 3, '0') || '8' || \
             lpad('{round:x}', 3, '0') || lpad('{part}', 12, '0'))::uuid"
        )
    };
    let key_id = format!(
        "(lpad(to_hex(:n::int8), 8, '0') || lpad(to_hex(:client_id::int8), 4, '0') || lpad('{round:x}', 4, '0'))"
    );
    let texts = |texts: [&str; 3]| format!("ARRAY['{}']", texts.join("', '"));
    let numbers = |numbers: [i64; 3]| format!("ARRAY[{}]", numbers.map(|number| number.to_string()).join(", "));
    let (segment, packages) = (&defaults::SEGMENT, &defaults::PACKAGES);
    let sha256 = format!("ARRAY[sha256({key_id}::bytea)]");
    let secret_hash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$Ac7c4QsNLZcjm9yFXQDX7xoLr3c2GQ7qJmVPiGZJmVs";
    // In the order of the parameters in src/store/provisioning.rs.
    let values = [
        // Tenant id, slug, name, commission, creation time, segment id.
        format!("ARRAY[{}]", id(1)),
        format!("ARRAY['baseline-{round}-' || :client_id::int8 || '-' || :n::int8]"),
        "ARRAY['Bella Weddings']".to_owned(),
        "ARRAY[1000]".to_owned(),
        "ARRAY[now()]".to_owned(),
        format!("ARRAY[{}]", id(2)),
        // Key id, public key, secret hash.
        format!("ARRAY[{key_id}]"),
        format!("ARRAY['pk_live_baseline_' || {key_id}]"),
        format!("ARRAY['{secret_hash}']"),
        // Owner's e-mail address, as shown and canonical, and password hash.
        "ARRAY[NULL]".to_owned(),
        "ARRAY[NULL]".to_owned(),
        "ARRAY[NULL]".to_owned(),
        // Caller, RPC, request hash, fingerprint, salt.
        "ARRAY['baseline']".to_owned(),
        "ARRAY['CreateFullyProvisioned']".to_owned(),
        sha256.clone(),
        sha256.clone(),
        sha256,
        // Package ids, lifetime of records.
        format!("ARRAY[{}, {}, {}]", id(3), id(4), id(5)),
        "'30 days'".to_owned(),
        // The General segment.
        format!("'{}'", segment.slug),
        format!("'{}'", segment.name),
        format!("'{}'", segment.hero_title),
        format!("'{}'", segment.description),
        segment.sort_order.to_string(),
        // The default packages.
        texts(packages.each_ref().map(|package| package.slug)),
        texts(packages.each_ref().map(|package| package.name)),
        texts(packages.each_ref().map(|package| package.description)),
        numbers(packages.each_ref().map(|package| package.base_price)),
        numbers(packages.each_ref().map(|package| package.grouping_order.into())),
        format!("'{}'", defaults::BOOKING_TYPE.as_str()),
        // External id.
        "ARRAY[NULL]".to_owned(),
        // Caller and trace of the event.
        "ARRAY['baseline']".to_owned(),
        format!("ARRAY['{TRACE_ID}']"),
        // Labels.
        "ARRAY['{}'::jsonb]".to_owned(),
    ];
    format!("\\set n :n + 1\n{};\n", fill(&statement_containing("'tenant.created'"), &values))
}

/// The number of round trips of a transaction.
#[derive(Debug, Clone, Copy)]
pub enum RoundTrips {
    /// One query, which is one transaction, as in the service.
    One,
    /// BEGIN with role and tenant, the SELECT, COMMIT.
    Three,
}

/// Returns a pgbench script that prepares the only SELECT in `.sqlx` that contains `text`, and executes it with these
/// values as the tenant's catalog role.
pub fn catalog_read_script(round_trips: RoundTrips, text: &str, tenant_id: &str, values: &[&str]) -> String {
    let (begin, separator, end) = match round_trips {
        RoundTrips::One => ("", "\\; ", ";\n"),
        RoundTrips::Three => ("BEGIN\\; ", ";\n", ";\nCOMMIT;\n"),
    };
    format!(
        "\\if :n = 0\nPREPARE catalog_read AS {};\n\\set n 1\n\\endif\n\
         {begin}SET LOCAL ROLE turnkey_catalog\\; SET LOCAL turnkey.tenant_id = '{tenant_id}'{separator}\
         EXECUTE catalog_read({}){end}",
        statement_containing(text),
        values.join(", ")
    )
}

/// Creates the table that tells each client of [`update_script`] its tenant.
pub async fn prepare_baseline_tenants(env: &BenchEnv, tenants: &[SampleTenant]) {
    let rows = tenants
        .iter()
        .enumerate()
        .map(|(client, tenant)| format!("({client}, '{}'::uuid, '{}'::uuid)", tenant.id, tenant.package_id));
    let rows = rows.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "CREATE TABLE baseline_tenants AS SELECT * FROM (VALUES {rows}) AS new (client, tenant, package);
         GRANT SELECT ON baseline_tenants TO PUBLIC"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&env.superuser).await.unwrap();
}

/// Returns a pgbench script that changes the price of one package, in the three trips of the service.
pub fn update_script() -> String {
    let statement = statement_containing("UPDATE packages\n               SET slug");
    let general = &defaults::SEGMENT;
    // In the order of the parameters in src/store/package_upsert.rs.
    let values = [
        "':tenant'".to_owned(),
        "ARRAY['00000000-0000-7000-8000-000000000001'::uuid]".to_owned(),
        "ARRAY[':package'::uuid]".to_owned(),
        // Slug, generated slug, name, description.
        "ARRAY[NULL::text]".to_owned(),
        "ARRAY[NULL::text]".to_owned(),
        "ARRAY[NULL::text]".to_owned(),
        "ARRAY[NULL::text]".to_owned(),
        "ARRAY[:n::int8]".to_owned(),
        // Booking type, active, grouping order, segment id.
        "ARRAY[NULL::text]".to_owned(),
        "ARRAY[NULL::bool]".to_owned(),
        "ARRAY[NULL::int4]".to_owned(),
        "ARRAY[NULL::uuid]".to_owned(),
        "'00000000-0000-7000-8000-000000000002'".to_owned(),
        format!("'{}'", general.slug),
        format!("'{}'", general.name),
        format!("'{}'", general.hero_title),
        format!("'{}'", general.description),
        general.sort_order.to_string(),
        "now()".to_owned(),
        format!("'{}'", defaults::BOOKING_TYPE.as_str()),
        // The quota; the only item has its previous state; etag.
        "1000".to_owned(),
        "true".to_owned(),
        "ARRAY[NULL::uuid]".to_owned(),
        // External id.
        "ARRAY[NULL::text]".to_owned(),
        // Caller and trace of the event.
        "'baseline'".to_owned(),
        format!("'{TRACE_ID}'"),
    ];
    format!(
        "\\if :n = 0\nSELECT tenant, package, hashtextextended(tenant::text, 0) AS lock FROM baseline_tenants \
         WHERE client = :client_id \\gset\nPREPARE change AS {statement};\n\\endif\n\\set n :n + 1\n\
         BEGIN\\; SET LOCAL ROLE turnkey_catalog\\; SET LOCAL turnkey.tenant_id = ':tenant'\\; \
         SELECT pg_advisory_xact_lock(:lock);\nEXECUTE change({});\nCOMMIT;\n",
        values.join(", ")
    )
}

#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    Simple,
    Prepared,
}

/// How long pgbench runs before it is measured. Its sessions are new, unlike the server's, and have to prepare their
/// statements first.
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs a script as the role of the server.
pub fn pgbench(env: &BenchEnv, script: &str, protocol: Protocol, clients: u64, window: Duration) -> Measurement {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("script.sql");
    fs::write(&file, script).unwrap();
    let options = env.server_options();
    let protocol = match protocol {
        Protocol::Simple => "simple",
        Protocol::Prepared => "prepared",
    };
    let output = Command::new(env.postgres_bin_dir.join("pgbench"))
        .args(["-n", "-j", &THREADS.to_string(), "-M", protocol, "-D", "n=0", "--log", "--log-prefix=log"])
        .args(["-c", &clients.to_string(), "-T", &(WARM_UP + window).as_secs().to_string(), "-f"])
        .arg(&file)
        .arg("-h")
        .arg(std::path::absolute(options.get_socket().unwrap()).unwrap())
        .args(["-p", &options.get_port().to_string(), "-U", options.get_username(), options.get_database().unwrap()])
        .env("PGOPTIONS", "-c enable_seqscan=off -c jit=off -c plan_cache_mode=force_generic_plan")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let logs = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log"));
    measure_log(&logs.map(|path| fs::read_to_string(path).unwrap()).collect::<String>())
}

/// Measures the transactions in pgbench's log that ended after the warm-up. The third field of a line is the latency in
/// microseconds; the fifth and the sixth are the time of the end, in seconds and microseconds.
fn measure_log(log: &str) -> Measurement {
    let transactions = log.lines().map(|line| {
        let field = |index| line.split(' ').nth(index).unwrap().parse::<u64>().unwrap();
        (Duration::from_secs(field(4)) + Duration::from_micros(field(5)), field(2))
    });
    let transactions: Vec<(Duration, u64)> = transactions.collect();
    let ends = || transactions.iter().map(|&(end, _)| end);
    let measured_from = ends().min().unwrap() + WARM_UP;
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for &(_, latency) in transactions.iter().filter(|&&(end, _)| end > measured_from) {
        latencies.record(latency).unwrap();
    }
    Measurement::new(&latencies, latencies.len(), ends().max().unwrap().saturating_sub(measured_from))
}

/// Returns how many hashes per second one core computes with the parameters for keys, reusing the memory.
pub fn argon2(window: Duration) -> f64 {
    let Argon2Params { memory_kib, passes, lanes } = Argon2Params::KEY;
    let params = Params::new(memory_kib, passes, lanes, Some(32)).unwrap();
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let (mut output, started, mut count) = ([0; 32], Instant::now(), 0_u32);
    while started.elapsed() < window {
        argon2.hash_password_into_with_memory(&[7; 49], &[9; 16], &mut output, &mut memory).unwrap();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}
