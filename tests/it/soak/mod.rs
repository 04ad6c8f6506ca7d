//! `make soak`: what the tests do in seconds, for minutes. Faults come down on the service under load, and a checker that kept
//! every answer holds them against the database at the end. Prints a table and writes it into `docs/reliability.md`.
//!
//! `SOAK_SEED` makes the same choices again (when to kill, where to cut, how long to wait); what runs at the same time is
//! the machine's affair. `SOAK_TENANTS` says among how many tenants damage is looked for.

mod damage;

use std::{env, fmt::Write as _, str::FromStr, time::Instant};

use crate::{
    cancellation::hang_up_under_load,
    crash_recovery::kill_under_load,
    doc_markers::write_between_marks,
    failover::{fall_silent_under_load, promote_under_load, stop_postgres_under_load},
    load::Outcome,
    lost_responses::cut_lines_under_load,
    overload::flood_under_load,
};

/// The table so far.
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

    /// A fault that callers cannot but notice.
    fn add(&mut self, fault: &str, times: u64, outcome: Outcome) {
        assert!(outcome.failed_tries > 0, "{fault}: nobody noticed");
        self.row(fault, times, outcome);
    }

    fn row(&mut self, fault: &str, times: u64, outcome: Outcome) {
        let Outcome { answered, replayed, failed_tries, longest_wait, lost, surplus, half, changed } = outcome;
        let waited = longest_wait.as_secs_f64();
        let row = format!(
            "| {fault} | {times} | {answered} | {replayed} | {failed_tries} | {waited:.1} s | {lost} | {surplus} | {half} | {changed} |"
        );
        println!("{row}");
        writeln!(self.text, "{row}").unwrap();
        self.is_sound &= outcome.is_sound();
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "some minutes: make soak"]
async fn faults_lose_nothing_that_was_answered_and_leave_nothing_twice_or_half() {
    let seed: u64 = setting("SOAK_SEED").unwrap_or_else(rand::random);
    println!("SOAK_SEED={seed}");
    let began = Instant::now();
    let mut table = Table::new();
    table.add("`kill -9` of the server", 200, kill_under_load(200, seed).await);
    table.add("Postgres stops at once", 40, stop_postgres_under_load(40, seed).await);
    table.add("the line is cut before a statement, or before its answer", 300, cut_lines_under_load(300, seed).await);
    table.add("the network swallows everything", 10, fall_silent_under_load(10, seed).await);
    let mut promoted = Outcome::default();
    for number in 0..3 {
        promoted = promoted + promote_under_load(seed.wrapping_add(number)).await;
    }
    table.add("the primary is lost, its standby promoted", 3, promoted);
    let hung_up = hang_up_under_load(3_000, seed).await;
    table.add("callers hang up, or run out of time", hung_up.failed_tries, hung_up);
    let (flooded, peak_kib) = flood_under_load(3_000).await;
    table.row("floods of wrong keys, sign-ups, sockets, resets", 4, flooded);
    let mut lines = vec![format!("during the floods the server took {} MiB at most", peak_kib / 1_024)];

    let count = setting("SOAK_TENANTS").unwrap_or(1_000_000);
    lines.extend(damage::find_and_mend(count, seed).await);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let lines: String = lines.into_iter().fold(String::new(), |lines, line| format!("{lines}- {line}\n"));
    let report = format!("`SOAK_SEED={seed}`, {minutes:.0} minutes.\n\n{}\n{lines}", table.text);
    println!("\n{report}");
    assert!(table.is_sound);
    write_between_marks("docs/reliability.md", &report);
}
