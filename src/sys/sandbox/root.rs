//! A root folder that has nothing in it, and never will.

use std::io;

use rustix::process::{Pid, WaitOptions};

use super::Reason;

/// Takes as root the folder of a process that has ended: `/proc/<pid>/fdinfo`. Nothing can be looked up or made there,
/// and since it was never made, nothing is left to remove. (Of an empty folder in a file system the latter is not true,
/// and an empty file system takes `CAP_SYS_ADMIN`, which a container seldom has.)
pub(super) fn leave() -> Result<(), Reason> {
    // A process that has its memory for itself, as after fork(2), but root and working folder in common with this one.
    let flags = libc::CLONE_FS | libc::SIGCHLD;
    // SAFETY: the process has one thread, so no lock is held in the copy, which makes system calls only and ends. No
    // pointer is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    if pid == 0 {
        let entered =
            rustix::process::chroot(c"/proc/self/fdinfo").and_then(|()| rustix::process::chdir(c"/"));
        let errno = entered.err().map_or(0, rustix::io::Errno::raw_os_error);
        // SAFETY: ends the process without anything that the other one has registered for its end.
        unsafe { libc::_exit(errno) }
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(io::Error::last_os_error().into());
    };
    let status = loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    match status.exit_status() {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno).into()),
        None => Err(io::Error::other("the process that changes the root folder was killed").into()),
    }
}
