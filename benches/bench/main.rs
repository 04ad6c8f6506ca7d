//! `make bench`: what the service does beside what the machine could do, in one run.
//!
//! Each work is done in turn by the service and by its limit (A B A B …), for machines are noisy: the ratios are what to read,
//! medians over the rounds. Prints a table and writes it, with plots, into `docs/benchmarks.md`. `BENCH_ROUNDS`,
//! `BENCH_SECONDS` and `BENCH_TENANTS` make a run shorter or longer; `cargo bench -- GetPackage` measures that alone, and
//! writes nothing.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench may fail loudly")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]

mod baselines;
#[path = "../../tests/it/support/doc_markers.rs"]
mod doc_markers;
mod environment;
mod load;
#[path = "../../tests/it/support/process_memory.rs"]
mod process_memory;
mod report;
mod workloads;

use std::time::Duration;

use environment::BenchEnv;

/// How long the parts of a run are.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    pub rounds: u64,
    pub window: Duration,
    /// The largest number of tenants that growth is looked at with.
    pub tenants: u64,
}

impl Length {
    fn from_env() -> Self {
        let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        Self {
            rounds: number("BENCH_ROUNDS", 5),
            window: Duration::from_secs(number("BENCH_SECONDS", 5)),
            tenants: number("BENCH_TENANTS", 1_000_000),
        }
    }
}

fn main() {
    let (flags, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    // Tests of all targets call this too, without the flag.
    if flags.iter().any(|flag| flag == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run(Length::from_env(), names.first().map(String::as_str)));
    }
}

async fn run(length: Length, only: Option<&str>) {
    let stage = BenchEnv::start().await;
    let at_rest_kib = stage.resident_kib();
    let rows = workloads::table(&stage, length, only).await;
    report::print(&rows);
    if only.is_some() {
        return stage.stop().await;
    }
    let by_callers = workloads::by_callers(&stage, length);
    let under_load_kib = stage.peak_kib();
    let by_tenants = workloads::by_tenants(&stage, length).await;
    let start_ms = stage.start_again_ms();
    let postgres = stage.postgres_version().await;
    let report = report::Report { postgres, rows, by_callers, by_tenants, at_rest_kib, under_load_kib, start_ms };
    report.write();
    stage.stop().await;
}
