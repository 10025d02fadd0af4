//! Sends: one datagram each, or a train of datagrams of one size that the kernel cuts apart (`UDP_SEGMENT`, udp(7)).

use std::cell::UnsafeCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU16};
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::receive::Form;
use super::token::UserData;
use super::{Token, Uring, enter, push_entry, read};

/// The largest batch of [`Uring::send_all`]. The submission queue holds twice that, so that a batch always fits.
pub const SEND_BATCH: usize = 256;

/// What leaves with one operation.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// A UDP socket, connected unless there is a destination.
    pub socket: BorrowedFd<'a>,
    /// Its family; else it is of IPv6.
    pub is_ipv4: bool,
    /// What the socket does not say.
    pub header: IpHeader,
    /// What it carries: the payload of a datagram, or with `segment_size` those of several.
    pub payloads: &'a [IoSlice<'a>],
    /// Bytes of each datagram; only the last may be shorter.
    pub segment_size: Option<NonZeroU16>,
    /// Where it goes, of the socket's family; else where the socket is connected to.
    pub destination: Option<SocketAddr>,
}

/// What a datagram has of its own in its IP header; what is absent is as its socket says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpHeader {
    /// Time to live or hop limit.
    pub ttl: Option<NonZeroU8>,
    /// The byte of differentiated services code point and ECN.
    pub traffic_class: Option<u8>,
}

impl IpHeader {
    /// A datagram that says nothing.
    pub const OF_SOCKET: Self = Self { ttl: None, traffic_class: None };
}

/// A control message of up to four bytes, laid out as cmsg(3) says.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    data: [u8; size_of::<usize>()],
}

// SAFETY: computes a length and touches no memory.
const _: () = assert!(size_of::<Control>() == unsafe { libc::CMSG_SPACE(4) } as usize);

impl Control {
    fn write(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        // SAFETY: computes a length and touches no memory.
        self.header.cmsg_len = unsafe { libc::CMSG_LEN(data.len() as u32) } as _;
        self.header.cmsg_level = level;
        self.header.cmsg_type = kind;
        for (to, from) in self.data.iter_mut().zip(data) {
            *to = *from;
        }
    }
}

/// What `sendmsg` reads of a send, beside its payloads: at most one control message for each thing that it can say.
#[repr(C)]
struct Message {
    header: libc::msghdr,
    controls: [Control; 3],
    name: Name,
}

/// Where a send goes, in one of these.
struct Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    /// Returns what tells the kernel of `destination`: nothing where the socket is connected.
    fn write(&mut self, destination: Option<SocketAddr>) -> (*mut libc::c_void, libc::socklen_t) {
        let Self { v4, v6 } = self;
        match destination {
            None => (std::ptr::null_mut(), 0),
            Some(SocketAddr::V4(to)) => {
                v4.sin_family = libc::AF_INET as libc::sa_family_t;
                v4.sin_port = to.port().to_be();
                v4.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
                ((&raw mut *v4).cast(), size_of_val(v4) as libc::socklen_t)
            }
            Some(SocketAddr::V6(to)) => {
                v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                v6.sin6_port = to.port().to_be();
                v6.sin6_addr.s6_addr = to.ip().octets();
                v6.sin6_scope_id = to.scope_id();
                ((&raw mut *v6).cast(), size_of_val(v6) as libc::socklen_t)
            }
        }
    }
}

/// A message for each send of a batch. In cells, because the kernel reads them while others are written.
pub(super) struct Messages(Box<[UnsafeCell<Message>]>);

impl Messages {
    pub(super) fn new() -> Self {
        // SAFETY: plain structures of the C library and numbers, all of which can be zero: null pointers to nothing.
        let message = || UnsafeCell::new(unsafe { std::mem::zeroed() });
        Self(std::iter::repeat_with(message).take(SEND_BATCH).collect())
    }

    /// Writes the message at `place` and returns its header, which points to the payloads of `send`.
    ///
    /// # Safety
    /// No send in flight uses the message at `place`.
    unsafe fn write(&self, place: usize, send: &Send<'_>) -> io::Result<*const libc::msghdr> {
        let message = self.0.get(place).ok_or_else(|| io::Error::other("too many sends in a batch"))?.get();
        // SAFETY: the kernel does not read it, by the contract of this function, and the reference ends here.
        let Message { header, controls, name } = unsafe { &mut *message };
        let count = send.write_controls(controls);
        (header.msg_name, header.msg_namelen) = name.write(send.destination);
        // An IoSlice is laid out as an iovec (its documentation).
        header.msg_iov = send.payloads.as_ptr().cast_mut().cast();
        header.msg_iovlen = send.payloads.len() as _;
        header.msg_control = controls.as_mut_ptr().cast();
        header.msg_controllen = (count * size_of::<Control>()) as _;
        // The header is the first field.
        Ok(message.cast_const().cast())
    }
}

impl<'a> Send<'a> {
    /// One whose datagrams are as the socket says.
    pub fn new(
        socket: BorrowedFd<'a>,
        payloads: &'a [IoSlice<'a>],
        segment_size: Option<NonZeroU16>,
    ) -> Self {
        // Without a header of its own it makes no difference of which family it is.
        Self { socket, is_ipv4: true, header: IpHeader::OF_SOCKET, payloads, segment_size, destination: None }
    }

    /// Writes what it says beside its payloads, and returns in how many control messages (`udp_cmsg_send` in `net/ipv4/udp.c`,
    /// `ip_cmsg_send` in `net/ipv4/ip_sockglue.c`, `ip6_datagram_send_ctl` in `net/ipv6/datagram.c`).
    fn write_controls(&self, controls: &mut [Control; 3]) -> usize {
        let mut controls = controls.iter_mut();
        let free = controls.len();
        let mut write = |level, kind, data: &[u8]| {
            if let Some(control) = controls.next() {
                control.write(level, kind, data);
            }
        };
        if let Some(size) = self.segment_size {
            write(libc::SOL_UDP, libc::UDP_SEGMENT, &size.get().to_ne_bytes());
        }
        let number = |number: u8| libc::c_int::from(number).to_ne_bytes();
        let (level, ttl, traffic_class) = if self.is_ipv4 {
            (libc::SOL_IP, libc::IP_TTL, libc::IP_TOS)
        } else {
            (libc::SOL_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
        };
        if let Some(value) = self.header.ttl {
            write(level, ttl, &number(value.get()));
        }
        if let Some(value) = self.header.traffic_class {
            write(level, traffic_class, &number(value));
        }
        free - controls.len()
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
            let data = UserData { token: Token::Send(place as u32), buffer: None, form: Form::Plain };
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
        (None, [payload]) if send.header == IpHeader::OF_SOCKET && send.destination.is_none() => {
            Ok(opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32).flags(flags).build())
        }
        (Some(_), _) | (None, [_]) => {
            // SAFETY: passed on to the caller.
            let header = unsafe { messages.write(place, send) }?;
            Ok(opcode::SendMsg::new(fd, header).flags(flags as u32).build())
        }
        (None, _) => Err(io::Error::other("a datagram has one payload")),
    }
}
