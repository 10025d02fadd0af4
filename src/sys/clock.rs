//! A clock that all processes of the host share.

/// Milliseconds of `CLOCK_MONOTONIC`. Not a system call where the kernel lends its clock to processes (vdso(7)).
pub fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which `now` is.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_time_does() {
        let before = (monotonic_ms(), std::time::Instant::now());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let passed = monotonic_ms() - before.0;
        assert!((19..=before.1.elapsed().as_millis() as u64 + 1).contains(&passed), "{passed}");
    }
}
