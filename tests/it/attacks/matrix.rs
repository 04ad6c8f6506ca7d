//! `make check-all`: every attack against a release build that has the memory of a pod, in plaintext and with TLS.
//! Prints a table for the documents. `ATTACK` is a part of the names of the attacks to run; by default all of them run.

use std::{
    env,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use super::{
    attackers::{self, Attack},
    observation::{Observation, POD_KIB, observe},
    other_callers::{Tally, call_for},
    target::{PROTOCOLS, Protocol, Setup, Target},
};
use crate::support::{memory_limit::MemoryLimit, process::with_executable};

const WARM_UP: Duration = Duration::from_secs(3);
const ATTACK_DURATION: Duration = Duration::from_secs(10);
/// After this time the memory must be back.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(1);
const MAX_REMAINING_KIB: u64 = 30 * 1024;

const ATTACKS: [(&str, Attack); 19] = [
    ("`Health/Check`, 4 MiB announced on 200 streams, the last byte never sent", attackers::unfinished_health_checks),
    ("`Health/Check`, 20,480 streams without a message", attackers::health_checks_without_a_message::<40>),
    ("`Health/Watch`, 40,960 streams", attackers::health_watches::<80>),
    ("120 × `UpsertPackage`, 4 MiB announced, never ended", attackers::unfinished_upserts),
    ("upserts and batches within the limits, never ended", attackers::unfinished_upserts_within_the_limits),
    ("1,024 calls without a message", attackers::calls_without_a_message),
    ("1,024 calls with 12 KiB of headers and no message", attackers::large_headers_without_a_message),
    ("1,536 messages, one byte at a time", attackers::messages_byte_by_byte),
    ("every RPC, messages never ended, both ports", attackers::unfinished_messages_of_every_rpc),
    ("500 × `ListPackages` of 2 MB, never read", attackers::unread_pages),
    ("every RPC, responses never read", attackers::unread_responses_of_every_rpc),
    ("16 connections that call and never read", attackers::unread_connections),
    ("44 connections with floods of frames", attackers::floods_of_frames),
    ("100 concurrent batches of one tenant", attackers::concurrent_batches),
    ("invented keys, 16 × 256 streams", attackers::invented_keys),
    ("one tenant that creates packages without end", attackers::packages_without_end),
    ("8,300 idle connections to both ports together", attackers::idle_connections::<4_150>),
    ("600 slow handshakes", attackers::slow_handshakes),
    ("no attack", attackers::idle_connections::<0>),
];

struct Row {
    before: Tally,
    during: Observation,
    after_kib: u64,
    recovery: Duration,
}

impl Row {
    async fn measure(attack: Attack, protocol: Protocol) -> Self {
        let limit = MemoryLimit::new(POD_KIB * 1024);
        let launcher = |command: Command| {
            let command = with_executable(&command, &release_build());
            match &limit {
                Some(limit) => limit.apply_to(&command),
                None => command,
            }
        };
        let target = Target::start_with(&Setup { protocol, launcher: &launcher, ..Setup::default() }).await;
        let before = Box::pin(call_for(&target, WARM_UP)).await;
        let during = observe(&target, attack, ATTACK_DURATION).await;
        let ended = Instant::now();
        while target.memory_kib("VmRSS") > during.before_kib + MAX_REMAINING_KIB && ended.elapsed() < RECOVERY_TIMEOUT {
            // The others go on calling: threads without work do not return memory to the system.
            Box::pin(call_for(&target, Duration::from_secs(1))).await;
        }
        let (after_kib, recovery) = (target.memory_kib("VmRSS"), ended.elapsed());
        target.stop();
        Self { before, during, after_kib, recovery }
    }

    fn is_good(&self) -> bool {
        self.during.tally.is_good()
            && self.during.peak_kib < POD_KIB
            && self.after_kib <= self.during.before_kib + MAX_REMAINING_KIB
    }

    fn cells(&self) -> String {
        let (during, mib) = (&self.during, |kib: u64| kib / 1024);
        let (peak, after) = (mib(during.peak_kib), mib(self.after_kib));
        let recovery = self.recovery.as_secs_f64();
        let p50 = [&self.before, &during.tally].map(|tally| tally.p50().as_secs_f64() * 1000.0);
        format!(
            "{} MiB | {peak} MiB | {after} MiB after {recovery:.0} s | {} of {} | {:.1} ms | {:.1} ms |",
            mib(during.before_kib),
            during.tally.failed,
            during.tally.all,
            p50[0],
            p50[1]
        )
    }
}

/// The executable that `cargo build --release` creates beside the one of the tests.
fn release_build() -> PathBuf {
    let debug_build = Path::new(env!("CARGO_BIN_EXE_turnkey"));
    let release_build = debug_build.ancestors().nth(2).unwrap().join("release/turnkey");
    assert!(release_build.exists(), "no release build: run `make check-all`");
    release_build
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes several minutes: make check-all"]
async fn a_release_build_in_the_memory_of_a_pod_withstands_every_attack() {
    let mut failures = Vec::new();
    println!("| attack | | before | peak | afterwards | failed calls of others | p50 before | p50 during |");
    println!("|---|---|---|---|---|---|---|---|");
    let selected = env::var("ATTACK").unwrap_or_default();
    for (name, attack) in ATTACKS.into_iter().filter(|(name, _)| name.contains(&selected)) {
        for protocol in PROTOCOLS {
            // A panic, such as that of a server that was killed, must not end the table.
            let row = Box::pin(AssertUnwindSafe(Row::measure(attack, protocol)).catch_unwind()).await;
            let cells = row.as_ref().map_or("the server died |".to_owned(), Row::cells);
            println!("| {name} | {protocol:?} | {cells}");
            match row {
                Ok(row) if row.is_good() => {}
                Ok(row) => failures.push(format!("{name}, {protocol:?}: {:?}", row.during)),
                Err(_panic) => failures.push(format!("{name}, {protocol:?}: see the panic above")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
