//! No core files: processes that die on purpose leave nothing in anybody's folder.

use std::io;

/// Forbids this process, and those that it starts from now on, to leave a core file (`RLIMIT_CORE` of setrlimit(2)); the hard
/// limit stays.
pub(crate) fn forbid() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours and of the type that the kernel writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = 0;
    // SAFETY: `limit` is initialised, and the kernel only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_leaves_no_core_file() {
        forbid().unwrap();
        let shell = std::process::Command::new("sh").args(["-c", "ulimit -c"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shell.stdout).trim(), "0");
    }
}
