//! `setsockopt` and `getsockopt` for options that socket2 does not offer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Types that may be handed to the kernel and filled by it: plain data, every bit pattern valid.
pub(crate) trait OptionValue: Copy {}

impl OptionValue for libc::c_int {}
impl OptionValue for libc::tpacket_req3 {}
impl OptionValue for libc::tpacket_stats_v3 {}
impl OptionValue for [u32; 9] {}

/// Sets option `name` of `level`.
pub(crate) fn set<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe the reference `value`, which outlives the call; the kernel only reads.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads option `name` of `level`; an answer shorter than `T` leaves the rest zero.
pub(crate) fn get<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, exclusively ours; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were zeroed before the kernel wrote some; `OptionValue` types take every bit pattern.
    Ok(unsafe { value.assume_init() })
}
