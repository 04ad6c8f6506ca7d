//! `make soak`: runs for minutes the faults that the tests run for seconds. At the end of each fault, all responses are
//! compared with the database. The histories of all changing RPCs follow, with their own checker. Prints a table and
//! writes it into `docs/reliability.md`.
//!
//! `SOAK_SEED` repeats the choices of a run (when to kill, where to cut, how long to wait); thread timing still
//! differs. `SOAK_TENANTS` is the number of tenants among which damage is searched.

mod damage;

use std::{env, fmt::Write as _, str::FromStr, time::Instant};

use crate::{
    histories::{Report, kill_cut_and_stop, lose_primary},
    support::{
        doc_markers::write_between_marks,
        faults::{
            cut_connections_under_load, disconnect_under_load, drop_packets_under_load, flood_under_load,
            kill_server_under_load, promote_standby_under_load, stop_postgres_under_load,
        },
        load::Outcome,
    },
};

/// The rows of the report.
struct Table {
    text: String,
    is_sound: bool,
}

impl Table {
    fn new() -> Self {
        let head = "| fault | times | tenants | found by a repeat | failed tries | longest wait | lost | surplus | half | changed |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n";
        Self { text: head.to_owned(), is_sound: true }
    }

    /// Adds a fault that must cause failed attempts.
    fn add(&mut self, fault: &str, times: u64, outcome: Outcome) {
        assert!(outcome.failed_attempts > 0, "{fault}: no attempt failed");
        self.row(fault, times, outcome);
    }

    fn row(&mut self, fault: &str, times: u64, outcome: Outcome) {
        let Outcome { answered, replayed, failed_attempts, longest_wait, lost, surplus, half, changed } = outcome;
        let waited = longest_wait.as_secs_f64();
        let row = format!(
            "| {fault} | {times} | {answered} | {replayed} | {failed_attempts} | {waited:.1} s | {lost} | {surplus} | {half} | {changed} |"
        );
        println!("{row}");
        writeln!(self.text, "{row}").unwrap();
        self.is_sound &= outcome.is_sound();
    }
}

/// Checks histories of all changing RPCs for minutes. A history that no order explains fails the run.
async fn histories(seed: u64) -> String {
    let mut checked = kill_cut_and_stop(200, seed).await;
    for number in 0..3 {
        checked = checked + lose_primary(20, seed.wrapping_add(number)).await;
    }
    let Report { tenants, operations, unknown, events } = checked;
    format!(
        "histories: {operations} calls of {tenants} tenants, {unknown} of them without a response, and {events} events, \
         all explained by an order of the changes"
    )
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes several minutes: make soak"]
async fn no_fault_under_load_loses_duplicates_or_damages_an_acknowledged_tenant() {
    let seed: u64 = setting("SOAK_SEED").unwrap_or_else(rand::random);
    println!("SOAK_SEED={seed}");
    let began = Instant::now();
    let mut table = Table::new();
    table.add("`kill -9` of the server", 200, kill_server_under_load(200, seed).await);
    table.add("Postgres stops immediately", 40, stop_postgres_under_load(40, seed).await);
    table.add("the connection is cut", 300, cut_connections_under_load(300, seed).await);
    table.add("the network drops all packets", 10, drop_packets_under_load(10, seed).await);
    let mut promoted = Outcome::default();
    for number in 0..3 {
        promoted = promoted + promote_standby_under_load(seed.wrapping_add(number)).await;
    }
    table.add("the primary is lost", 3, promoted);
    let disconnected = disconnect_under_load(3_000, seed).await;
    table.add("clients disconnect, or reach their deadline", disconnected.failed_attempts, disconnected);
    let (flooded, peak_kib) = flood_under_load(3_000).await;
    table.row("floods", 4, flooded);
    let mut lines = vec![format!("peak memory of the server during the floods: {} MiB", peak_kib / 1_024)];

    lines.push(histories(seed).await);

    let count = setting("SOAK_TENANTS").unwrap_or(1_000_000);
    lines.extend(damage::find_and_repair(count, seed).await);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let lines: String = lines.into_iter().fold(String::new(), |lines, line| format!("{lines}- {line}\n"));
    let report = format!("`SOAK_SEED={seed}`, {minutes:.0} minutes.\n\n{}\n{lines}", table.text);
    println!("\n{report}");
    assert!(table.is_sound);
    write_between_marks("docs/reliability.md", &report);
}
