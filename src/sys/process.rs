//! What the kernel says of processes.

use std::time::Duration;

/// Time that the process's main thread has been on a processor: the first number of `/proc/<pid>/schedstat`
/// (`Documentation/scheduler/sched-stats.rst`), in nanoseconds; `None` when there is no such process.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_time() {
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
