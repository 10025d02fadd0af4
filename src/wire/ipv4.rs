//! IPv4 (RFC 791): header with options; whole packets that carry UDP.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::{Error, Layer, PROTOCOL_UDP, be16};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Flag "more fragments" and the fragment offset, of the 16 bits that hold flags and offset.
const FRAGMENT: u16 = 0x3fff;

/// An unfragmented IPv4 packet that carries UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4<'a> {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Differentiated services code point and ECN (RFC 2474, RFC 3168).
    pub traffic_class: u8,
    /// What the packet carries, cut to the header's total length.
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads a packet; bytes behind its total length are padding.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const MALFORMED: Error = Error::Malformed(Layer::Ipv4);
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(MALFORMED)?;
        let &[
            version_ihl,
            traffic_class,
            length0,
            length1,
            _,
            _,
            fragment0,
            fragment1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = header;
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        let total_len = usize::from(be16([length0, length1]));
        if version_ihl >> 4 != 4 || header_len < HEADER_LEN || total_len < header_len {
            return Err(MALFORMED);
        }
        if !Sum::default().add(bytes.get(..header_len).ok_or(Error::Truncated)?).is_valid() {
            return Err(Error::BadChecksum);
        }
        if protocol != PROTOCOL_UDP {
            return Err(Error::NotUdp);
        }
        if be16([fragment0, fragment1]) & FRAGMENT != 0 {
            return Err(Error::Fragment);
        }
        let payload = bytes.get(header_len..total_len).ok_or(Error::Truncated)?;
        let source = Ipv4Addr::new(s0, s1, s2, s3);
        let destination = Ipv4Addr::new(d0, d1, d2, d3);
        Ok(Self { source, destination, ttl, traffic_class, payload })
    }
}
