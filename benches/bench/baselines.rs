//! What the machine can do without the service: pgbench with the same statements, and Argon2 on one core.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hdrhistogram::Histogram;
use turnkey::domain::{Argon2Params, defaults};

use crate::{environment::BenchEnv, load::Measured};

/// The statement that holds this text, as it was prepared against the schema.
fn statement_with(text: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let queries = fs::read_dir(folder).unwrap().map(|file| {
        let described: serde_json::Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        described["query"].as_str().unwrap().to_owned()
    });
    let mut found = queries.filter(|query| query.contains(text));
    let statement = found.next().expect("there is such a statement");
    assert!(found.next().is_none(), "{text} is in two statements");
    // Comments and line ends mean something else to pgbench.
    let lines = statement.lines().map(|line| line.split("--").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join(" ")
}

/// With the n-th value in the place of `$n`.
fn fill(statement: &str, values: &[String]) -> String {
    let mut parts = statement.split('$');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let number: usize = part[..digits].parse().unwrap();
        filled.push_str(&values[number - 1]);
        filled.push_str(&part[digits..]);
    }
    filled
}

/// The statement of `CreateFullyProvisioned`, claim included, for one new tenant after the other.
pub fn creating(round: u64) -> String {
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
    let numbers =
        |numbers: [i64; 3], kind: &str| format!("ARRAY[{}, {}, {}]::{kind}[]", numbers[0], numbers[1], numbers[2]);
    let (segment, packages) = (&defaults::SEGMENT, &defaults::PACKAGES);
    let sha256 = format!("ARRAY[sha256({key_id}::bytea)]");
    let hash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$Ac7c4QsNLZcjm9yFXQDX7xoLr3c2GQ7qJmVPiGZJmVs";
    let values = [
        format!("ARRAY[{}]", id(1)),
        format!("ARRAY['limit-{round}-' || :client_id::int8 || '-' || :n::int8]"),
        "ARRAY['Bella Weddings']".to_owned(),
        "ARRAY[1000]".to_owned(),
        format!("ARRAY[{}]", id(2)),
        format!("ARRAY[{key_id}]"),
        format!("ARRAY['pk_live_limit_' || {key_id}]"),
        format!("ARRAY['{hash}']"),
        "now()".to_owned(),
        format!("'{}'", segment.slug),
        format!("'{}'", segment.name),
        format!("'{}'", segment.hero_title),
        format!("'{}'", segment.description),
        segment.sort_order.to_string(),
        format!("ARRAY[{}, {}, {}]", id(3), id(4), id(5)),
        texts(packages.each_ref().map(|package| package.slug)),
        texts(packages.each_ref().map(|package| package.name)),
        texts(packages.each_ref().map(|package| package.description)),
        numbers(packages.each_ref().map(|package| package.base_price), "int8"),
        numbers(packages.each_ref().map(|package| package.grouping_order.into()), "int4"),
        format!("'{}'", defaults::BOOKING_TYPE.as_str()),
        "ARRAY[NULL]".to_owned(),
        "ARRAY[NULL]".to_owned(),
        sha256.clone(),
        sha256.clone(),
        sha256,
        "'limit'".to_owned(),
        "'CreateFullyProvisioned'".to_owned(),
        "now() - interval '30 days'".to_owned(),
    ];
    format!("\\set n :n + 1\n{};\n", fill(&statement_with("free AS MATERIALIZED"), &values))
}

/// How a transaction reaches the database.
#[derive(Debug, Clone, Copy)]
pub enum Trips {
    /// One query, and so one transaction, as the service has it.
    One,
    /// Begin with role and tenant, the select, commit.
    Three,
}

/// A catalog call that reads, by a prepared select.
pub fn reading(trips: Trips, text: &str, tenant_id: &str, values: &[&str]) -> String {
    let (begin, then, end) = match trips {
        Trips::One => ("", "\\; ", ";\n"),
        Trips::Three => ("BEGIN\\; ", ";\n", ";\nCOMMIT;\n"),
    };
    format!(
        "\\if :n = 0\nPREPARE reading AS {};\n\\set n 1\n\\endif\n\
         {begin}SET LOCAL ROLE turnkey_catalog\\; SET LOCAL turnkey.tenant_id = '{tenant_id}'{then}\
         EXECUTE reading({}){end}",
        statement_with(text),
        values.join(", ")
    )
}

#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    Simple,
    Prepared,
}

/// Runs a script as the serving role.
pub fn pgbench(stage: &BenchEnv, script: &str, protocol: Protocol, clients: u64, window: Duration) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("script.sql");
    fs::write(&file, script).unwrap();
    let options = stage.options();
    let protocol = match protocol {
        Protocol::Simple => "simple",
        Protocol::Prepared => "prepared",
    };
    let started = Instant::now();
    let output = Command::new(stage.postgres_bin_dir.join("pgbench"))
        .args(["-n", "-j", "2", "-M", protocol, "-D", "n=0", "--log", "--log-prefix=log"])
        .args(["-c", &clients.to_string(), "-T", &window.as_secs().to_string(), "-f"])
        .arg(&file)
        .arg("-h")
        .arg(std::path::absolute(options.get_socket().unwrap()).unwrap())
        .args(["-p", &options.get_port().to_string(), "-U", options.get_username(), options.get_database().unwrap()])
        .env("PGOPTIONS", "-c enable_seqscan=off -c jit=off")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let elapsed = started.elapsed();
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for log in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if log.file_name().unwrap().to_string_lossy().starts_with("log") {
            for line in fs::read_to_string(log).unwrap().lines() {
                latencies.record(line.split(' ').nth(2).unwrap().parse().unwrap()).unwrap();
            }
        }
    }
    let said = String::from_utf8(output.stdout).unwrap();
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap();
    let rate: f64 = tps.split(' ').next().unwrap().parse().unwrap();
    Measured { rate, ..Measured::of(&latencies, latencies.len(), elapsed) }
}

/// Argon2 at the setting for keys, on one core, with its memory used again.
pub fn argon2(window: Duration) -> f64 {
    let setting = Argon2Params::KEY;
    let params = Params::new(setting.memory_kib, setting.passes, setting.lanes, Some(32)).unwrap();
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let (mut output, started, mut count) = ([0; 32], Instant::now(), 0_u32);
    while started.elapsed() < window {
        argon2.hash_password_into_with_memory(&[7; 49], &[9; 16], &mut output, &mut memory).unwrap();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}
