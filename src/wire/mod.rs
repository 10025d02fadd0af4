//! Parsing of Ethernet, VLAN tags, IPv4, IPv6 and UDP: total functions from bytes to a view or a named reason.
//!
//! Nothing here allocates, panics or looks outside the bytes it is given. A view borrows them.

mod checksum;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod udp;
mod vlan;

use std::net::IpAddr;

use ethernet::{Ethernet, ethertype};
use serde::{Deserialize, Serialize};
pub use vlan::VlanId;

/// What frames begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// An IPv4 or IPv6 header: there is no link layer.
    RawIp,
    /// Something that is not understood.
    #[default]
    Other,
}

/// Why bytes are not a UDP datagram that can be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The frame ends before its IP header says that it does.
    #[error("frame is truncated")]
    Truncated,
    /// A header contradicts itself or its surroundings.
    #[error("malformed {0} header")]
    Malformed(Layer),
    /// Neither IPv4 nor IPv6.
    #[error("not IP")]
    NotIp,
    /// IP that carries something else than UDP.
    #[error("not UDP")]
    NotUdp,
    /// The IPv4 header is not as it was sent.
    #[error("bad IPv4 header checksum")]
    BadChecksum,
    /// One fragment of a larger datagram.
    #[error("fragment")]
    Fragment,
}

/// The header in which a contradiction was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet II, IEEE 802.1Q or IEEE 802.1ad.
    Ethernet,
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200) or one of its extension headers.
    Ipv6,
    /// UDP (RFC 768).
    Udp,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "Ethernet",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Udp => "UDP",
        })
    }
}

/// A whole UDP datagram inside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Tag control information of the outermost VLAN tag, if the frame carries one.
    pub tag: Option<u16>,
    /// IP source address.
    pub source: IpAddr,
    /// IP destination address.
    pub destination: IpAddr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Differentiated services code point and ECN.
    pub traffic_class: u8,
    /// UDP payload, without the padding of short frames.
    pub payload: &'a [u8],
    /// UDP header and payload.
    segment: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads an Ethernet frame without its frame check sequence.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Error> {
        Self::parse_as(LinkLayer::Ethernet, frame)
    }

    /// Reads a frame that begins as `link_layer` says.
    pub fn parse_as(link_layer: LinkLayer, frame: &'a [u8]) -> Result<Self, Error> {
        let Ethernet { tag, ethertype, payload } = match link_layer {
            LinkLayer::Ethernet => Ethernet::parse(frame)?,
            LinkLayer::RawIp => Ethernet { tag: None, ethertype: version(frame)?, payload: frame },
            LinkLayer::Other => return Err(Error::NotIp),
        };
        let (source, destination, ttl, traffic_class, segment) = match ethertype {
            ethertype::IPV4 => {
                let ipv4::Ipv4 { source, destination, ttl, traffic_class, payload } =
                    ipv4::Ipv4::parse(payload)?;
                (source.into(), destination.into(), ttl, traffic_class, payload)
            }
            ethertype::IPV6 => {
                let ipv6::Ipv6 { source, destination, hop_limit, traffic_class, payload } =
                    ipv6::Ipv6::parse(payload)?;
                (source.into(), destination.into(), hop_limit, traffic_class, payload)
            }
            _ => return Err(Error::NotIp),
        };
        let udp::Udp { source_port, destination_port, payload, segment } = udp::Udp::parse(segment)?;
        Ok(Self {
            tag,
            source,
            destination,
            source_port,
            destination_port,
            ttl,
            traffic_class,
            payload,
            segment,
        })
    }

    /// A datagram without payload or checksum, for what only looks at addresses.
    #[cfg(test)]
    pub(crate) fn addressed(source: IpAddr, destination: IpAddr, destination_port: u16) -> Datagram<'static> {
        Datagram {
            tag: None,
            source,
            destination,
            source_port: 4_000,
            destination_port,
            ttl: 64,
            traffic_class: 0,
            payload: &[],
            segment: &[],
        }
    }

    /// Where in `frame`, from which it was parsed, the UDP header is.
    pub fn udp_offset(&self, frame: &[u8]) -> usize {
        self.segment.as_ptr().addr().wrapping_sub(frame.as_ptr().addr())
    }

    /// Whether the UDP checksum is right, or absent where that is allowed: over IPv4 only (RFC 768, RFC 8200 section
    /// 8.1). A frame that this host has sent may carry one that is not filled in yet.
    pub fn has_valid_checksum(&self) -> bool {
        if let [_, _, _, _, _, _, 0, 0, ..] = self.segment {
            return self.destination.is_ipv4();
        }
        let [high, low] = (self.segment.len() as u16).to_be_bytes();
        let sum = checksum::Sum::default().add(&[0, PROTOCOL_UDP, high, low]);
        let sum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                sum.add(&source.octets()).add(&destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                sum.add(&source.octets()).add(&destination.octets())
            }
            _ => return false,
        };
        sum.add(self.segment).is_valid()
    }
}

/// IP protocol number of UDP (RFC 768).
pub const PROTOCOL_UDP: u8 = 17;

/// The `EtherType` of an IP packet that has no Ethernet header: its first four bits are the version.
fn version(packet: &[u8]) -> Result<u16, Error> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ok(ethertype::IPV4),
        Some(6) => Ok(ethertype::IPV6),
        _ => Err(Error::NotIp),
    }
}

/// Two bytes of network order.
fn be16(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}
