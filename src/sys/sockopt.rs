//! `getsockopt` and `setsockopt` for options that no library wraps.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A C structure of integers: any bytes make a value, and it has no padding that matters.
///
/// # Safety
/// Implement it only for types of which every bit pattern is valid.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: every bit pattern is an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: two addresses and an index, all integers, every bit pattern of which is valid.
unsafe impl Plain for libc::ip_mreqn {}
// SAFETY: an index and two addresses, all integers and bytes, every bit pattern of which is valid.
unsafe impl Plain for libc::group_source_req {}
// SAFETY: three unsigned integers, every bit pattern of which is valid.
unsafe impl Plain for libc::tpacket_stats_v3 {}
// SAFETY: four unsigned integers, every bit pattern of which is valid.
unsafe impl Plain for libc::tpacket_req {}
// SAFETY: seven unsigned integers, every bit pattern of which is valid.
unsafe impl Plain for libc::tpacket_req3 {}

/// Sets an option.
pub(super) fn set<T: Plain>(socket: BorrowedFd<'_>, level: i32, name: i32, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`, which lives until the call returns.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option; a shorter answer of the kernel leaves the rest zero.
pub(super) fn get<T: Plain>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`; the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and `Plain` says that any bytes the kernel wrote make a value.
    Ok(unsafe { value.assume_init() })
}
