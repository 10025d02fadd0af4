//! `CLOCK_TAI`, which a BPF program can read where it cannot read `CLOCK_REALTIME`.

use std::io;

const NANOS: i64 = 1_000_000_000;

/// How far `CLOCK_TAI` is ahead of `CLOCK_REALTIME`, ns: whole seconds, which only change when somebody sets them.
pub(crate) fn offset_ns() -> io::Result<u64> {
    let (real, tai) = (read(libc::CLOCK_REALTIME)?, read(libc::CLOCK_TAI)?);
    // What passes between the two readings is far less than half a second.
    let seconds = (tai - real + NANOS / 2).div_euclid(NANOS);
    Ok(u64::try_from(seconds).unwrap_or(0) * NANOS as u64)
}

fn read(clock: libc::clockid_t) -> io::Result<i64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and of the type that the kernel writes.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec * NANOS + time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_less_than_a_minute_of_whole_seconds() {
        let offset = offset_ns().unwrap();
        assert!(offset.is_multiple_of(NANOS as u64) && offset < 60 * NANOS as u64, "{offset}");
    }
}
