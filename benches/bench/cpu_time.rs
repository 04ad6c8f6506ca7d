//! The CPU time of the processes that are measured, from `/proc` (proc(5)).

use std::fs;

/// The length of a clock tick. Linux counts CPU time in hundredths of a second (`USER_HZ`).
const TICK_US: f64 = 10_000.0;

/// In microseconds, in user mode and in the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTime {
    pub service_us: f64,
    pub postgres_us: f64,
}

impl CpuTime {
    /// Returns what the server and Postgres have used since they were started. `None` if the system has no `/proc`.
    pub fn of(server: u32, postmaster: u32) -> Option<Self> {
        let sessions = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).ok()?;
        // A session may end meanwhile. It then counts with its parent the next time.
        let sessions = sessions.split_whitespace().filter_map(|pid| cpu_us(pid.parse().ok()?, 2));
        Some(Self { service_us: cpu_us(server, 2)?, postgres_us: cpu_us(postmaster, 4)? + sessions.sum::<f64>() })
    }

    /// Adds what was used between two times.
    pub fn add(self, from: Self, to: Self) -> Self {
        Self {
            service_us: self.service_us + to.service_us - from.service_us,
            postgres_us: self.postgres_us + to.postgres_us - from.postgres_us,
        }
    }

    pub fn per(self, units: u64) -> Self {
        let units = units as f64;
        Self { service_us: self.service_us / units, postgres_us: self.postgres_us / units }
    }
}

/// Returns the sum of the first of these fields of `/proc/<pid>/stat`: utime, stime, and those of ended children,
/// cutime and cstime.
fn cpu_us(pid: u32, fields: usize) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name of the program in parentheses, which can contain spaces. utime is the 14th field.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks = after_name.split_whitespace().skip(11).take(fields).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? * TICK_US)
}
