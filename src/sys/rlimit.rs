//! Limits on what the process may have.

use std::io;

/// How many descriptors the process may have open.
pub fn open_files() -> io::Result<u64> {
    Ok(open_files_limit()?.rlim_cur)
}

fn open_files_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a `rlimit` that the kernel fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// Raises the soft limit on open descriptors to the hard one and returns it. A relay needs a descriptor for each
/// distinct output, and the usual soft limit of 1,024 only exists for programs that use `select`.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = open_files_limit()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to an initialised `rlimit` that the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Lifts the limit on locked memory: before Linux 5.11 it counts the tables of BPF programs, and is usually 64 KiB. Needs
/// `CAP_SYS_RESOURCE`.
pub fn raise_locked_memory() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to an initialised `rlimit` that the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
