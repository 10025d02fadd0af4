//! A netlink socket that is told of interfaces, addresses and routes (rtnetlink(7)): requests and datagrams, whatever
//! they say.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sockopt;

/// What is subscribed to.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// What the queue may take up, in bytes: some thousand messages. As much is taken only while they wait.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// Room for a datagram, in bytes: the kernel makes answers of up to 32 KiB, and news a good deal smaller.
const DATAGRAM: usize = 64 << 10;
/// Bytes of the header of a message.
const HEADER_LEN: usize = 16;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// All interfaces.
    Links,
    /// All addresses.
    Addresses,
}

/// What a look at the queue finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Messages of the kernel.
    Datagram(&'a [u8]),
    /// The kernel had to drop messages.
    Overrun,
    /// Nothing for now.
    Nothing,
}

/// A subscribed netlink socket.
pub struct RouteSocket {
    socket: AsyncFd<Socket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for RouteSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteSocket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl RouteSocket {
    /// Opens a socket in the caller's network namespace and subscribes it. Needs no privilege; `CAP_NET_ADMIN` overrides
    /// the limit `net.core.rmem_max` on what the kernel keeps for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        let forced = sockopt::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER);
        forced.or_else(|_| socket.set_rx_buf_sz(RECEIVE_BUFFER))?;
        SockRef::from(&socket).attach_filter(&without_routing_daemons())?;
        socket.bind_auto()?;
        GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
        // SAFETY: the socket owns its descriptor, answers with that one until it is dropped, and is not cloned.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Sends a request; the answer has the number that is returned.
    pub fn ask(&mut self, request: Request) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let kernel = SocketAddr::new(0, 0);
        self.socket.get_ref().send_to(&request.message(self.sequence), &kernel, 0)?;
        Ok(self.sequence)
    }

    /// Waits for a datagram, or for an overrun. When it is cancelled, nothing is lost.
    pub async fn receive(&mut self) -> io::Result<Received<'_>> {
        let Self { socket, buffer, .. } = self;
        // An overrun is an error of the socket, which may come without data.
        let interest = Interest::READABLE | Interest::ERROR;
        let result = socket.async_io(interest, |socket| receive(socket, buffer)).await;
        received(result, buffer)
    }

    /// Takes what is there.
    pub fn try_receive(&mut self) -> io::Result<Received<'_>> {
        let result = receive(self.socket.get_ref(), &mut self.buffer);
        received(result, &self.buffer)
    }
}

/// Makes one call, and says how long the datagram is and whether it is from the kernel.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<(usize, bool)> {
    buffer.clear();
    // With MSG_TRUNC the length is that of the datagram, even if it does not fit.
    let (len, sender) = socket.recv_from(buffer, libc::MSG_TRUNC)?;
    Ok((len, sender.port_number() == 0))
}

fn received(result: io::Result<(usize, bool)>, buffer: &[u8]) -> io::Result<Received<'_>> {
    match result {
        Ok((_, false)) => Ok(Received::Datagram(&[])),
        Ok((len, true)) if len > buffer.len() => Ok(Received::Overrun),
        Ok((_, true)) => Ok(Received::Datagram(buffer)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Received::Nothing),
            Some(libc::EINTR) => Ok(Received::Datagram(&[])),
            Some(libc::ENOBUFS | libc::ENOMEM) => Ok(Received::Overrun),
            _ => Err(error),
        },
    }
}

impl Request {
    /// The message, with its number.
    fn message(self, sequence: u32) -> Vec<u8> {
        let (message_type, body) = match self {
            // Of no interface in particular (`ifinfomsg`); the attribute spares the kernel the counters.
            Self::Links => {
                let length = 8_u16.to_ne_bytes();
                let wanted = libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
                let attribute = [&length[..], &libc::IFLA_EXT_MASK.to_ne_bytes(), &wanted].concat();
                (libc::RTM_GETLINK, [&[0; 16], &attribute[..]].concat())
            }
            // Of no family in particular (`ifaddrmsg`).
            Self::Addresses => (libc::RTM_GETADDR, vec![0; 8]),
        };
        let mut header = NetlinkHeader::default();
        header.length = (HEADER_LEN + body.len()) as u32;
        header.message_type = message_type;
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = sequence;
        let mut message = vec![0; HEADER_LEN];
        header.emit(&mut message);
        message.extend(body);
        message
    }
}

/// A filter that keeps routes of routing daemons away, which may come by the million and are none that an operator adds
/// for the sake of an output, and routes that are removed. It sees the first message of a datagram, and news come one by
/// one.
fn without_routing_daemons() -> Vec<SockFilter> {
    const LOAD_U16: u16 = 0x28;
    const LOAD_U8: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    /// Where the type of a message is, and the protocol of a route (`rtm_protocol`).
    const TYPE: u32 = 4;
    const PROTOCOL: u32 = HEADER_LEN as u32 + 5;
    /// Of `linux/rtnetlink.h`, but not in libc.
    const RTPROT_RA: u32 = 9;
    const RTPROT_DHCP: u32 = 16;
    // Loads take numbers for big-endian, which these are only where the machine is.
    let (new, gone) = (libc::RTM_NEWROUTE.to_be().into(), libc::RTM_DELROUTE.to_be().into());
    vec![
        SockFilter::new(LOAD_U16, 0, 0, TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 6, 0, gone),
        SockFilter::new(JUMP_IF_EQUAL, 0, 4, new),
        SockFilter::new(LOAD_U8, 0, 0, PROTOCOL),
        SockFilter::new(JUMP_IF_EQUAL, 2, 0, RTPROT_RA),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, RTPROT_DHCP),
        SockFilter::new(JUMP_IF_GREATER, 1, 0, libc::RTPROT_STATIC.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
