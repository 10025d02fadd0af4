//! Readiness.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Whether `fd` has something to read now.
pub fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    readable_within(fd, 0)
}

/// Waits until `fd` has something to read, or its other end is closed.
pub fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    readable_within(fd, -1).map(|_| ())
}

/// Whether `fd` has something to read within `time`, or its other end is closed.
pub fn is_readable_within(fd: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    readable_within(fd, libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX))
}

/// The same with milliseconds; -1 waits as long as it takes.
fn readable_within(fd: BorrowedFd<'_>, timeout: libc::c_int) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: the pointer is to one `pollfd` and the count says one.
        if unsafe { libc::poll(&raw mut entry, 1, timeout) } >= 0 {
            return Ok(entry.revents & libc::POLLIN != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
