//! Readiness without waiting.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether `fd` has something to read now.
pub fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: the pointer is to one `pollfd` and the count says one.
        if unsafe { libc::poll(&raw mut entry, 1, 0) } >= 0 {
            return Ok(entry.revents & libc::POLLIN != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
