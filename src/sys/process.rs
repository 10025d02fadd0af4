//! What the kernel says of processes.

use std::io;
use std::time::Duration;

/// Time that the process's main thread has been on a processor: the first number of `/proc/<pid>/schedstat`
/// (`Documentation/scheduler/sched-stats.rst`), in nanoseconds; `None` when there is no such process.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Whether the process's main thread is on a processor, or waits for one: state `R` of `/proc/<pid>/stat` (`proc_pid_stat(5)`).
pub fn is_runnable(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
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
    fn who_sleeps_or_is_gone_waits_for_no_processor_and_who_is_busy_does() {
        let start = |program: &str, argument: &[&str]| {
            std::process::Command::new(program).args(argument).spawn().unwrap()
        };
        let (mut busy, mut asleep) = (start("sh", &["-c", "while :; do :; done"]), start("sleep", &["60"]));
        let until = |is_so: &dyn Fn() -> bool| {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_secs(20) {
                if is_so() {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        };
        let found = (until(&|| is_runnable(busy.id())), until(&|| !is_runnable(asleep.id())));
        for child in [&mut busy, &mut asleep] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, (true, true));
        assert!(!is_runnable(u32::MAX));
    }

    #[test]
    fn this_process_takes_time() {
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
