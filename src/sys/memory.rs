//! How this machine's memory is cut, and what of it is needed soon.

/// Bytes that a processor takes from memory at once: 64 on x86-64 and most others.
const LINE: usize = 64;

/// Has the processor fetch `bytes` into its nearest cache while it does something else. Nothing where it cannot be told.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is a hint, and takes any address without reading or writing anything a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE);
}

/// Bytes that programs can have without taking them from others: `MemAvailable` of `/proc/meminfo` (proc(5)).
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"))?;
    kib.parse::<u64>().ok()?.checked_mul(1_024)
}

/// Bytes of a page: a power of two, 4 KiB on most machines, up to 64 KiB.
pub fn page_size() -> u64 {
    // SAFETY: the call takes a number and returns one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4_096)
}
