//! How this machine's memory is cut.

/// Bytes of a page: a power of two, 4 KiB on most machines, up to 64 KiB.
pub fn page_size() -> u64 {
    // SAFETY: the call takes a number and returns one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4_096)
}
