//! UDP (RFC 768).

use super::{Error, Layer, be16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp<'a> {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// What the datagram carries, cut to the header's length.
    pub payload: &'a [u8],
    /// Header and payload.
    pub segment: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads a datagram; IP payload behind its length is a surplus that UDP does not define.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const MALFORMED: Error = Error::Malformed(Layer::Udp);
        let &[source0, source1, destination0, destination1, length0, length1, _, _] =
            bytes.first_chunk::<HEADER_LEN>().ok_or(MALFORMED)?;
        let length = usize::from(be16([length0, length1]));
        let segment = bytes.get(..length).ok_or(MALFORMED)?;
        let payload = segment.get(HEADER_LEN..).ok_or(MALFORMED)?;
        let (source_port, destination_port) = (be16([source0, source1]), be16([destination0, destination1]));
        Ok(Self { source_port, destination_port, payload, segment })
    }
}
