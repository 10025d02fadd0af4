//! What the kernel says of interfaces, addresses and routes: from bytes to events (rtnetlink(7)). No I/O, never panics.
//!
//! Of each message only the attributes that matter are looked at, each by itself. So none that another kernel shapes
//! otherwise makes the rest unreadable, as in libraries that decode a message whole or not at all.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};

use crate::sys::interface::link_layer;
use crate::wire::LinkLayer;

/// Bytes to which messages of a datagram are aligned (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;
/// Bytes before the attributes: `ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;
const ROUTE_HEADER_LEN: usize = 12;
/// What is kept of an address's flags: what decides whether it is used as a source.
const ADDRESS_STATE: u8 = (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_DEPRECATED) as u8;

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// That of the request, in an answer.
    pub(super) sequence: u32,
    /// In an answer: things changed while it was given, so something may be missing.
    pub(super) interrupted: bool,
    pub(super) event: Event,
}

/// What a message says.
#[derive(Debug)]
pub(super) enum Event {
    /// An interface is like this.
    Link(Description),
    /// The interface with this index is gone.
    LinkGone(u32),
    /// An interface has an address.
    Address { index: u32, address: Address, state: u8 },
    /// An interface does not have an address any more.
    AddressGone { index: u32, address: Address },
    /// There is a new route, through this interface if it is through one.
    Route(Option<u32>),
    /// The answer is complete, or an error.
    End(Option<io::Error>),
    /// Nothing of interest.
    Other,
}

/// An interface as a message describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) index: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) link_layer: LinkLayer,
    /// Absent in news of wireless events, which do not tell all names either.
    pub(super) mtu: Option<u32>,
    /// The name, then the alternative ones.
    pub(super) names: Vec<String>,
}

/// An address, and the length of its prefix.
pub(super) type Address = (IpAddr, u8);

/// The messages of a datagram; ends at the first that is not one.
pub(super) fn parse(datagram: &[u8]) -> impl Iterator<Item = Message> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let len = (buffer.length() as usize).next_multiple_of(ALIGNMENT);
        rest = rest.get(len..).unwrap_or_default();
        let (kind, payload) = (buffer.message_type(), buffer.payload());
        Some(Message {
            sequence: buffer.sequence_number(),
            interrupted: buffer.flags() & NLM_F_DUMP_INTR != 0,
            event: event(kind, payload).unwrap_or(Event::Other),
        })
    })
}

fn event(kind: u16, payload: &[u8]) -> Option<Event> {
    match kind {
        NLMSG_DONE | NLMSG_ERROR => {
            let errno = number(payload, 0).map_or(0, i32::from_ne_bytes);
            Some(Event::End((errno != 0).then(|| io::Error::from_raw_os_error(errno.saturating_neg()))))
        }
        libc::RTM_NEWLINK => link(payload).map(Event::Link),
        libc::RTM_DELLINK => link(payload).map(|link| Event::LinkGone(link.index)),
        libc::RTM_NEWADDR => {
            let (index, address) = address(payload)?;
            Some(Event::Address { index, address, state: payload.get(2)? & ADDRESS_STATE })
        }
        libc::RTM_DELADDR => address(payload).map(|(index, address)| Event::AddressGone { index, address }),
        libc::RTM_NEWROUTE => Some(Event::Route(
            attributes(payload.get(ROUTE_HEADER_LEN..)?)
                .find(|(kind, _)| *kind == libc::RTA_OIF)
                .and_then(|(_, value)| number(value, 0))
                .map(u32::from_ne_bytes),
        )),
        _ => None,
    }
}

fn link(payload: &[u8]) -> Option<Description> {
    // Bridges tell of their ports by the same messages: one that leaves a bridge is not gone.
    if i32::from(*payload.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let flags = u32::from_ne_bytes(number(payload, 8)?) as libc::c_int;
    let mut link = Description {
        index: u32::from_ne_bytes(number(payload, 4)?),
        up: flags & libc::IFF_UP != 0,
        carrier: flags & libc::IFF_RUNNING != 0,
        link_layer: link_layer(u16::from_ne_bytes(number(payload, 2)?), flags),
        ..Description::default()
    };
    for (kind, value) in attributes(payload.get(LINK_HEADER_LEN..)?) {
        match kind {
            libc::IFLA_MTU => link.mtu = number(value, 0).map(u32::from_ne_bytes),
            libc::IFLA_IFNAME => link.names.insert(0, text(value)),
            libc::IFLA_PROP_LIST => link.names.extend(
                attributes(value)
                    .filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME)
                    .map(|(_, value)| text(value)),
            ),
            _ => {}
        }
    }
    Some(link)
}

fn address(payload: &[u8]) -> Option<(u32, Address)> {
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(payload.get(ADDRESS_HEADER_LEN..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => peer = ip(value),
            _ => {}
        }
    }
    // Where both are given the other one is that of the peer of a point-to-point link.
    Some((u32::from_ne_bytes(number(payload, 4)?), (local.or(peer)?, *payload.get(1)?)))
}

/// Kinds and values; ends at the first that is not one.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let (kind, len) = (attribute.kind(), usize::from(attribute.length()));
        (kind, attribute.into_inner().get(NLA_HEADER_SIZE..len).unwrap_or_default())
    })
}

/// The bytes of a number that begins at `offset`.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(value).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}
