//! The memory of a process, as Linux tells it.

use std::fs;

/// What a process' memory came to, in KiB: a line of `/proc/<pid>/status`, such as `VmRSS` now and `VmHWM` at most. None
/// where it has ended, or there is no such thing.
pub fn memory_kib(pid: u32, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|candidate| candidate.starts_with(line))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
