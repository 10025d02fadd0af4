//! The memory of a ring.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// A ring's memory, mapped as long as this lives.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) start: NonNull<u8>,
    len: usize,
    /// Declared last: closed when the memory is unmapped.
    pub(super) socket: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread; access goes through a ring, which has one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps a socket's ring of `len` bytes; the kernel refuses any other length.
    pub(super) fn new(socket: OwnedFd, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, socket })
    }

    /// # Safety
    /// `at` is a multiple of 4 and at least 4 bytes before the end, and the word is written atomically only.
    pub(super) unsafe fn word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4) && at + 4 <= self.len);
        // SAFETY: within the mapping, which the caller vouches for.
        let word = unsafe { self.start.add(at) };
        // SAFETY: mapped as long as `self`, whose ring cannot be taken away while it is mapped (EBUSY); aligned and
        // written atomically, which the caller vouches for.
        unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) }
    }

    /// # Safety
    /// `at + len` is at most the mapping's length, and nobody writes there while the slice is borrowed.
    pub(super) unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        debug_assert!(at + len <= self.len);
        // SAFETY: within the mapping, which the caller vouches for.
        let start = unsafe { self.start.add(at) };
        // SAFETY: mapped as long as `self`; not written meanwhile, which the caller vouches for.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is that of a successful mmap, and nothing that is borrowed from it is left: loans borrow
        // the ring that owns this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
