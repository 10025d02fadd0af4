//! Receives: what comes alone, and what comes with the VLAN tag that the kernel has taken out of a frame, which it tells in a
//! control message (`PACKET_AUXDATA`, packet(7)). That costs some 100 ns of CPU time for each frame.

use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use io_uring::{opcode, types};

use super::token::UserData;
use super::{GROUP, Token, Uring, push_entry};
use crate::sys::buffer_pool::{BufferPool, Filled};

/// Bytes of the control message.
// SAFETY: computes a length and touches no memory.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::tpacket_auxdata>() as u32) } as usize;
/// Bytes that the kernel writes before the control message of a multishot receive: `struct io_uring_recvmsg_out`
/// (`linux/io_uring.h`), which is four numbers.
const OUT_LEN: usize = 4 * size_of::<u32>();
/// Which of those tells the bytes of the control message, and which those of what has come.
const OUT_CONTROL: usize = size_of::<u32>();
const OUT_PAYLOAD: usize = 2 * size_of::<u32>();

/// Bytes that stand before what has come, in a buffer of any receive, at most.
pub(super) const HEAD_LEN: usize = size_of::<Once>();

/// What stands before what has come, in the buffer of a single receive: what the kernel reads of it, and the control message. Here
/// it is the kernel's as long as the buffer is.
#[repr(C)]
struct Once {
    header: libc::msghdr,
    payload: libc::iovec,
    control: [u8; CONTROL_LEN],
}

/// What a receive leaves in its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// What has come.
    #[default]
    Plain,
    /// That behind a `struct io_uring_recvmsg_out` and a control message.
    Multishot,
    /// That behind an [`Once`].
    Once,
}

impl Form {
    /// Bytes of the buffer that a result of so many means.
    pub(super) fn filled_len(self, result: usize) -> usize {
        match self {
            Self::Plain | Self::Multishot => result,
            Self::Once => size_of::<Once>() + result,
        }
    }

    /// Steps over what stands before what has come. Returns the length of that, which is more than what is there when its end did
    /// not fit.
    pub(super) fn open(self, result: usize, filled: Filled) -> (usize, Filled) {
        let bytes = filled.bytes();
        match self {
            Self::Plain => (result, filled),
            Self::Multishot => {
                let number = |at| read(bytes, at).map_or(0, |number| u32::from_ne_bytes(number) as usize);
                let (control_len, len) = (number(OUT_CONTROL), number(OUT_PAYLOAD));
                let control = bytes.get(OUT_LEN..OUT_LEN + control_len.min(CONTROL_LEN));
                let tag = control.and_then(tag);
                (len, filled.behind(OUT_LEN + CONTROL_LEN, tag))
            }
            Self::Once => {
                let from = offset_of!(Once, control);
                let tag = bytes.get(from..from + CONTROL_LEN).and_then(tag);
                (result, filled.behind(size_of::<Once>(), tag))
            }
        }
    }
}

/// The tag in a control message, if there is one of each.
fn tag(control: &[u8]) -> Option<u16> {
    let number = |at| read(control, at).map(i32::from_ne_bytes);
    let kind = (number(offset_of!(libc::cmsghdr, cmsg_level)), number(offset_of!(libc::cmsghdr, cmsg_type)));
    if kind != (Some(libc::SOL_PACKET), Some(libc::PACKET_AUXDATA)) {
        return None;
    }
    // SAFETY: computes a length and touches no memory.
    let data = control.get(unsafe { libc::CMSG_LEN(0) } as usize..)?;
    let status = u32::from_ne_bytes(read(data, offset_of!(libc::tpacket_auxdata, tp_status))?);
    let tag = u16::from_ne_bytes(read(data, offset_of!(libc::tpacket_auxdata, tp_vlan_tci))?);
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(tag)
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The header of a multishot receive: it says only how long a control message may be.
pub(super) fn multishot_header() -> libc::msghdr {
    // SAFETY: numbers and pointers, all of which can be zero.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_controllen = CONTROL_LEN as _;
    header
}

impl Uring {
    /// Receives into provided buffers until an error ends it (Linux 6.0).
    pub fn receive_multishot(&mut self, socket: BorrowedFd<'_>, input: u16) -> io::Result<()> {
        let entry =
            opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), GROUP).flags(libc::MSG_TRUNC).build();
        // SAFETY: the kernel writes to provided buffers only, which are mapped as long as the process.
        unsafe { self.push(entry, Token::Receive(input), None) }
    }

    /// The same, with the tags of frames from a packet socket that tells them.
    pub fn receive_tagged_multishot(&mut self, socket: BorrowedFd<'_>, input: u16) -> io::Result<()> {
        self.check()?;
        let (fd, header) = (types::Fd(socket.as_raw_fd()), &raw const *self.multishot_header);
        let entry = opcode::RecvMsgMulti::new(fd, header, GROUP).flags(libc::MSG_TRUNC as u32).build();
        let data = UserData { token: Token::Receive(input), buffer: None, form: Form::Multishot };
        // SAFETY: the kernel writes to provided buffers only, which are mapped as long as the process. The header lives as long as
        // the ring, and is read only.
        unsafe { push_entry(&mut self.ring, &entry.user_data(data.pack())) }
    }

    /// Receives once into a free buffer, with the tag of a frame from a packet socket that tells it; `false` when none is free.
    pub fn receive_once(&mut self, socket: BorrowedFd<'_>, input: u16) -> io::Result<bool> {
        self.check()?;
        let Some((id, start, len)) = self.pool.as_mut().and_then(BufferPool::take_free) else {
            return Ok(false);
        };
        // SAFETY: `take_free` has made the buffer the kernel's until its completion, and nobody else has it; it is mapped as long
        // as the process, aligned to a cache line, and longer than `HEAD_LEN`, as `set_buffers` sees to.
        let header = unsafe { write_once(start, len) };
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::RecvMsg::new(fd, header).flags(libc::MSG_TRUNC as u32).build();
        let data = UserData { token: Token::Receive(input), buffer: Some(id), form: Form::Once };
        // SAFETY: all that the entry points to is in the buffer.
        let pushed = unsafe { push_entry(&mut self.ring, &entry.user_data(data.pack())) };
        if let (Err(_), Some(pool)) = (&pushed, &mut self.pool) {
            pool.reclaim(id);
        }
        pushed.map(|()| true)
    }
}

/// Writes to a buffer of `len` bytes what the kernel reads of a single receive into it.
///
/// # Safety
/// The buffer is at `start`, aligned for [`Once`] and longer than it, and nobody else uses it.
unsafe fn write_once(start: NonNull<u8>, len: u32) -> *mut libc::msghdr {
    let at = |offset| start.as_ptr().wrapping_add(offset);
    // SAFETY: numbers and pointers, all of which can be zero.
    let mut once: Once = unsafe { zeroed() };
    once.payload.iov_base = at(size_of::<Once>()).cast();
    once.payload.iov_len = len as usize - size_of::<Once>();
    once.header.msg_iov = at(offset_of!(Once, payload)).cast();
    once.header.msg_iovlen = 1;
    once.header.msg_control = at(offset_of!(Once, control)).cast();
    once.header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: within the buffer, and aligned, by the contract of this function.
    unsafe { start.cast().write(once) };
    at(offset_of!(Once, header)).cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control message of this level and kind with this status and tag.
    fn control(level: i32, kind: i32, status: u32, tag: u16) -> Vec<u8> {
        let mut bytes = vec![0; CONTROL_LEN];
        // SAFETY: computes a length and touches no memory.
        let data = unsafe { libc::CMSG_LEN(0) } as usize;
        let mut write = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
        write(offset_of!(libc::cmsghdr, cmsg_level), &level.to_ne_bytes());
        write(offset_of!(libc::cmsghdr, cmsg_type), &kind.to_ne_bytes());
        write(data + offset_of!(libc::tpacket_auxdata, tp_status), &status.to_ne_bytes());
        write(data + offset_of!(libc::tpacket_auxdata, tp_vlan_tci), &tag.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_tag_is_read_where_there_is_one() {
        let (level, kind, valid) = (libc::SOL_PACKET, libc::PACKET_AUXDATA, libc::TP_STATUS_VLAN_VALID);
        assert_eq!(tag(&control(level, kind, valid | 1, 0xe005)), Some(0xe005));
        assert_eq!(tag(&control(level, kind, valid, 0)), Some(0), "of priority 0");
        assert_eq!(tag(&control(level, kind, !valid, 5)), None);
        assert_eq!(tag(&control(libc::SOL_SOCKET, kind, valid, 5)), None);
        assert_eq!(tag(&control(level, libc::PACKET_FANOUT, valid, 5)), None);
        let whole = control(level, kind, valid, 5);
        let data_len = size_of::<libc::tpacket_auxdata>() - size_of::<u16>();
        // SAFETY: computes a length and touches no memory.
        let end = unsafe { libc::CMSG_LEN(data_len as u32) } as usize;
        assert!((0..end).all(|len| tag(&whole[..len]).is_none()), "cut short");
        assert_eq!(tag(&whole[..end]), Some(5));
    }
}
