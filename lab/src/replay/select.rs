//! Which packets of a file are sent: those whose payload has to come out of a relay that has a rule for them.

use std::fmt;
use std::net::SocketAddr;

use super::file::Packet;
use crate::frame::{Content, parse, untagged};
use crate::topology::Family;

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// Not all of it was recorded.
    Truncated,
    /// It has the tag of a VLAN, which has an interface of its own. A tag with only a priority is none.
    Vlan,
    /// It is something else.
    NotUdp,
    /// The scenario is about the other address family.
    OtherFamily,
    /// It goes to a host.
    Unicast,
    /// It is part of a datagram, or no datagram at all.
    Broken,
    /// A relay drops it, since it was damaged, or recorded before a device had computed the checksum.
    WrongChecksum,
    /// No rule can name it.
    PortZero,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "cut short",
            Self::Vlan => "in a VLAN",
            Self::NotUdp => "no UDP",
            Self::OtherFamily => "of the other address family",
            Self::Unicast => "to no group",
            Self::Broken => "fragmented or broken",
            Self::WrongChecksum => "with a wrong checksum",
            Self::PortZero => "to port 0",
        })
    }
}

/// A datagram to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) destination: SocketAddr,
    pub(super) payload: Box<[u8]>,
    /// Bytes of its frame behind the Ethernet header and its tag.
    pub(super) packet_bytes: usize,
}

const ETHERNET_BYTES: usize = 14;

/// The datagram in `packet`, if it is to be sent.
pub(super) fn select(packet: &Packet, family: Family) -> Result<Selected, LeftOut> {
    let frame = &packet.frame[..];
    if frame.len() < packet.wire_bytes {
        return Err(LeftOut::Truncated);
    }
    // IEEE 802.1Q: behind the type of the tag three bits of priority, one of eligibility, and the number of the VLAN.
    let tag = frame.get(12..16).map(|tag| (u16::from_be_bytes([tag[0], tag[1]]), [tag[2] & 0x0F, tag[3]]));
    let untagged = match tag {
        Some((0x8100, [0, 0])) => untagged(frame),
        Some((0x8100 | 0x88A8, _)) => return Err(LeftOut::Vlan),
        _ => None,
    };
    let frame = untagged.as_deref().unwrap_or(frame);
    let udp = match parse(frame) {
        Content::Udp(udp) => udp,
        Content::BrokenUdp { delivered } if !delivered.ip().is_multicast() => return Err(LeftOut::Unicast),
        Content::BrokenUdp { .. } => return Err(LeftOut::Broken),
        Content::Other => return Err(LeftOut::NotUdp),
    };
    if !udp.delivered.ip().is_multicast() {
        return Err(LeftOut::Unicast);
    }
    if udp.delivered.is_ipv4() != (family == Family::Ipv4) {
        return Err(LeftOut::OtherFamily);
    }
    if udp.delivered.port() == 0 {
        return Err(LeftOut::PortZero);
    }
    if !udp.ip_whole || !udp.payload_whole {
        return Err(LeftOut::WrongChecksum);
    }
    let packet_bytes = frame.len() - ETHERNET_BYTES;
    Ok(Selected { destination: udp.delivered, payload: udp.payload.into(), packet_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{as_fragment, ipv4_frame};

    fn selected(frame: &[u8]) -> Result<Selected, LeftOut> {
        let packet = Packet { number: 1, at_ns: 0, frame: frame.to_vec(), wire_bytes: frame.len() };
        select(&packet, Family::Ipv4)
    }

    fn tagged(frame: &[u8], kind: u16, control: u16) -> Vec<u8> {
        [&frame[..12], &kind.to_be_bytes(), &control.to_be_bytes(), &frame[12..]].concat()
    }

    #[test]
    fn whole_datagrams_to_groups_are_sent_also_with_a_priority() {
        let frame = ipv4_frame(b"video", 5_004);
        for frame in [frame.clone(), tagged(&frame, 0x8100, 0xE000)] {
            let selected = selected(&frame).unwrap();
            assert_eq!(selected.destination, "239.82.1.1:5004".parse().unwrap());
            assert_eq!((&selected.payload[..], selected.packet_bytes), (&b"video"[..], 20 + 8 + 5));
        }
    }

    #[test]
    fn what_is_not_sent_is_named() {
        let good = ipv4_frame(b"video", 5_004);
        let changed = |at: usize, to: u8| {
            let mut frame = good.clone();
            frame[at] = to;
            frame
        };
        for (frame, why) in [
            (tagged(&good, 0x8100, 0xE001), LeftOut::Vlan),
            (tagged(&good, 0x88A8, 0), LeftOut::Vlan),
            (changed(12, 0x86), LeftOut::NotUdp),
            (changed(23, 6), LeftOut::NotUdp),
            (changed(30, 10), LeftOut::Unicast),
            (as_fragment(&good), LeftOut::Broken),
            (changed(24, 0x77), LeftOut::WrongChecksum),
            (changed(46, b'V'), LeftOut::WrongChecksum),
            (ipv4_frame(b"video", 0), LeftOut::PortZero),
            (good[..13].to_vec(), LeftOut::NotUdp),
            (Vec::new(), LeftOut::NotUdp),
        ] {
            assert_eq!(selected(&frame), Err(why), "{frame:02x?}");
        }
        let packet = Packet { number: 1, at_ns: 0, frame: good.clone(), wire_bytes: good.len() + 1 };
        assert_eq!(select(&packet, Family::Ipv4), Err(LeftOut::Truncated));
        let packet = Packet { wire_bytes: good.len(), ..packet };
        assert_eq!(select(&packet, Family::Ipv6), Err(LeftOut::OtherFamily));
    }
}
