//! What the kernel says of processes.

use std::io;
use std::time::Duration;

/// Time that the process's main thread has been on a processor: the first number of `/proc/<pid>/schedstat`
/// (`Documentation/scheduler/sched-stats.rst`), in nanoseconds; `None` when there is no such process.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Has descriptors that this process was started with, beside the standard three, end where another program begins (Linux 5.11).
pub fn close_descriptors_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4; // linux/close_range.h
    // SAFETY: it closes nothing, and what it marks is of no use to who does not know of it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
