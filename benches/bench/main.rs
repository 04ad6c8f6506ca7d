//! `make bench`: compares the service with baselines on the same machine, in one run.
//!
//! Service and baseline are measured in turn (A B A B …). Machines are noisy, so read the ratios; they are medians over
//! the rounds. Prints a table and writes it, with plots, into `docs/benchmarks.md`. `BENCH_ROUNDS`, `BENCH_SECONDS` and
//! `BENCH_TENANTS` make a run shorter or longer. `cargo bench -- GetPackage` runs the workloads whose name contains
//! that text, `cargo bench -- growth` only measures growth. Both write nothing.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may panic")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]

mod baselines;
mod cpu_time;
#[path = "../../tests/it/support/doc_markers.rs"]
mod doc_markers;
mod environment;
mod growth;
mod http;
mod load;
#[path = "../../tests/it/support/process_memory.rs"]
mod process_memory;
mod report;
mod workloads;

use std::time::Duration;

use environment::BenchEnv;

/// The size of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunSettings {
    pub rounds: u64,
    /// The duration of one measurement.
    pub window: Duration,
    /// The largest number of existing tenants with which latency is measured.
    pub max_tenants: u64,
}

impl RunSettings {
    fn from_env() -> Self {
        let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        Self {
            rounds: number("BENCH_ROUNDS", 5),
            window: Duration::from_secs(number("BENCH_SECONDS", 5)),
            max_tenants: number("BENCH_TENANTS", 1_000_000),
        }
    }
}

fn main() {
    let (flags, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    // `cargo test --all-targets` runs this too, but without the flag.
    if flags.iter().any(|flag| flag == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run(RunSettings::from_env(), names.first().map(String::as_str)));
    }
}

async fn run(settings: RunSettings, name_filter: Option<&str>) {
    let env = BenchEnv::start().await;
    let idle_kib = env.resident_kib();
    let results = workloads::run(&env, settings, name_filter).await;
    report::print(&results);
    if let Some(filter) = name_filter {
        if filter == "growth" {
            report::print_growth(&growth::by_packages(&env, settings).await, "packages");
            report::print_growth(&growth::by_tenants(&env, settings).await, "tenants");
        }
        return env.stop().await;
    }
    let by_callers = workloads::create_by_callers(&env, settings);
    let peak_kib = env.peak_kib();
    let by_packages = growth::by_packages(&env, settings).await;
    let by_tenants = growth::by_tenants(&env, settings).await;
    let start_ms = env.median_start_ms();
    let postgres_version = env.postgres_version().await;
    report::Report { postgres_version, results, by_callers, by_tenants, by_packages, idle_kib, peak_kib, start_ms }
        .write();
    env.stop().await;
}
