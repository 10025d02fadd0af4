//! IPv6 (RFC 8200): header and extension headers; whole packets that carry UDP.

use std::net::Ipv6Addr;

use super::{Error, Layer, PROTOCOL_UDP, be16};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Next-header values of the extension headers that can stand before UDP (RFC 8200 section 4, RFC 4302).
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication.
    pub const AUTHENTICATION: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

const MALFORMED: Error = Error::Malformed(Layer::Ipv6);

/// An unfragmented IPv6 packet that carries UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6<'a> {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Differentiated services code point and ECN.
    pub traffic_class: u8,
    /// What follows the last extension header, cut to the header's payload length.
    pub payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Reads a packet; bytes behind its payload length are padding.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(MALFORMED)?;
        let (&[first, second, _, _, length0, length1, next_header, hop_limit], addresses) =
            header.split_first_chunk::<8>().ok_or(MALFORMED)?;
        let (source, destination) = addresses.split_first_chunk::<16>().ok_or(MALFORMED)?;
        let destination = destination.first_chunk::<16>().ok_or(MALFORMED)?;
        if first >> 4 != 6 {
            return Err(MALFORMED);
        }
        let payload_len = usize::from(be16([length0, length1]));
        let payload = rest.get(..payload_len).ok_or(Error::Truncated)?;
        let payload = behind_extensions(next_header, payload)?;
        let (source, destination) = ((*source).into(), (*destination).into());
        Ok(Self { source, destination, hop_limit, traffic_class: first << 4 | second >> 4, payload })
    }
}

/// Walks the extension headers up to UDP. Each step takes at least eight bytes, so the walk ends.
fn behind_extensions(mut next_header: u8, mut payload: &[u8]) -> Result<&[u8], Error> {
    while next_header != PROTOCOL_UDP {
        let length_unit = match next_header {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => 8,
            extension::AUTHENTICATION => 4,
            extension::FRAGMENT => 0,
            _ => return Err(Error::NotUdp),
        };
        let &[next, length, fragment0, fragment1, ..] = payload.first_chunk::<8>().ok_or(MALFORMED)?;
        // The lowest bit is "more fragments", the next two are reserved, the rest is the offset. A packet with
        // neither is whole (an "atomic fragment", RFC 6946).
        if next_header == extension::FRAGMENT && be16([fragment0, fragment1]) & 0xfff9 != 0 {
            return Err(Error::Fragment);
        }
        payload = payload.get(extension_len(length_unit, length)..).ok_or(MALFORMED)?;
        next_header = next;
    }
    Ok(payload)
}

/// Bytes of an extension header: in units of eight less one (RFC 8200), for authentication in units of four less
/// two (RFC 4302), for a fragment always eight (unit 0).
fn extension_len(length_unit: usize, length: u8) -> usize {
    if length_unit == 4 {
        ((usize::from(length) + 2) * 4).max(8)
    } else {
        length_unit * usize::from(length) + 8
    }
}
