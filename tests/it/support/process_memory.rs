//! Memory use of a process. Only Linux reports it.

use std::fs;

/// Returns a value of `/proc/<pid>/status` in KiB, such as `VmRSS` (resident now) or `VmHWM` (peak); `None` if the
/// process has ended or the system has no such file.
pub fn memory_kib(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|candidate| candidate.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
