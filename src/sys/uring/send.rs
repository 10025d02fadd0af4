//! Sends: one datagram each, or a train of datagrams of one size that the kernel cuts apart (`UDP_SEGMENT`, udp(7)).

use std::cell::UnsafeCell;
use std::io::{self, IoSlice};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::token::UserData;
use super::{Token, Uring, enter, push_entry, read};

/// The largest batch of [`Uring::send_all`]. The submission queue holds twice that, so that a batch always fits.
pub const SEND_BATCH: usize = 256;

/// What leaves with one operation.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// A connected UDP socket.
    pub socket: BorrowedFd<'a>,
    /// What it carries: the payload of a datagram, or with `segment_size` those of several.
    pub payloads: &'a [IoSlice<'a>],
    /// Bytes of each datagram; only the last may be shorter.
    pub segment_size: Option<NonZeroU16>,
}

/// The control message that asks for segmentation (`udp_cmsg_send`, `net/ipv4/udp.c`), laid out as cmsg(3) says.
#[repr(C)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment_size: u16,
}

/// What `sendmsg` reads of a train, beside its payloads.
#[repr(C)]
struct Message {
    header: libc::msghdr,
    control: SegmentControl,
}

/// A message for each send of a batch. In cells, because the kernel reads them while others are written.
pub(super) struct Messages(Box<[UnsafeCell<Message>]>);

impl Messages {
    pub(super) fn new() -> Self {
        // SAFETY: plain structures of the C library and a number, all of which can be zero: null pointers to nothing.
        let message = || UnsafeCell::new(unsafe { std::mem::zeroed() });
        Self(std::iter::repeat_with(message).take(SEND_BATCH).collect())
    }

    /// Writes the message at `place` and returns its header, which points to `payloads`.
    ///
    /// # Safety
    /// No send in flight uses the message at `place`.
    unsafe fn write(
        &self,
        place: usize,
        payloads: &[IoSlice<'_>],
        segment_size: NonZeroU16,
    ) -> io::Result<*const libc::msghdr> {
        let message = self.0.get(place).ok_or_else(|| io::Error::other("too many sends in a batch"))?.get();
        // SAFETY: the kernel does not read it, by the contract of this function, and the reference ends here.
        let Message { header, control } = unsafe { &mut *message };
        // SAFETY: computes a length and touches no memory.
        let control_len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) };
        control.header.cmsg_len = control_len as _;
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        control.segment_size = segment_size.get();
        // An IoSlice is laid out as an iovec (its documentation).
        header.msg_iov = payloads.as_ptr().cast_mut().cast();
        header.msg_iovlen = payloads.len() as _;
        header.msg_control = std::ptr::from_mut(control).cast();
        header.msg_controllen = size_of::<SegmentControl>() as _;
        // The header is the first field.
        Ok(message.cast_const().cast())
    }
}

impl Uring {
    /// Sends at most [`SEND_BATCH`] datagrams and trains in order, without waiting for room in a socket's buffer, and
    /// tells `done` the result of each. A train leaves whole or not at all. When it returns the kernel holds none of
    /// the payloads. After an error the ring is of no further use.
    pub fn send_all(
        &mut self,
        sends: &[Send<'_>],
        mut done: impl FnMut(usize, Result<usize, i32>),
    ) -> io::Result<()> {
        self.check()?;
        // Until the end: on an error, and when `done` panics, entries that must never be submitted can be left.
        self.poisoned = true;
        for (place, send) in sends.iter().enumerate() {
            // SAFETY: every send of an earlier batch has completed, or the ring would be poisoned.
            let entry = unsafe { entry(&self.messages, place, send) }?;
            let data = UserData { token: Token::Send(place as u32), buffer: None };
            // SAFETY: the payloads are borrowed until this function returns, which is after their completion, or with
            // the ring poisoned so that the entry is never submitted. A submitted send with MSG_DONTWAIT never waits,
            // so none is in flight when the kernel returns from submitting it. Messages live as long as the ring.
            unsafe { push_entry(&mut self.ring, &entry.user_data(data.pack())) }?;
        }
        let mut pending = sends.len();
        while pending > 0 {
            enter(&self.ring, 1)?;
            for entry in self.ring.completion() {
                let completion = read(&entry, &mut self.pool);
                match completion.token {
                    Token::Send(place) => {
                        pending = pending.saturating_sub(1);
                        done(place as usize, completion.result);
                    }
                    _ => self.deferred.push_back(completion),
                }
            }
        }
        self.poisoned = false;
        Ok(())
    }
}

/// The operation for `send`, which stands at `place` of its batch.
///
/// # Safety
/// No send in flight uses the message at `place`.
unsafe fn entry(messages: &Messages, place: usize, send: &Send<'_>) -> io::Result<Entry> {
    let fd = types::Fd(send.socket.as_raw_fd());
    let flags = libc::MSG_DONTWAIT;
    match (send.segment_size, send.payloads) {
        (None, [payload]) => {
            Ok(opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32).flags(flags).build())
        }
        (None, _) => Err(io::Error::other("a datagram has one payload")),
        (Some(size), payloads) => {
            // SAFETY: passed on to the caller.
            let header = unsafe { messages.write(place, payloads, size) }?;
            Ok(opcode::SendMsg::new(fd, header).flags(flags as u32).build())
        }
    }
}
