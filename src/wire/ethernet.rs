//! Ethernet II frames (IEEE 802.3) with any number of VLAN tags (IEEE 802.1Q, 802.1ad).

use super::{Error, Layer, be16};

/// `EtherType` values (`linux/if_ether.h`).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Bytes of an untagged Ethernet header.
pub const HEADER_LEN: usize = 14;
/// Bytes that one VLAN tag adds.
pub const TAG_LEN: usize = 4;

/// An Ethernet frame behind its header and tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    /// Tag control information of the outermost tag.
    pub tag: Option<u16>,
    /// `EtherType` behind the last tag.
    pub ethertype: u16,
    /// What follows the header, padding included.
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads a frame without its frame check sequence.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Error> {
        const MALFORMED: Error = Error::Malformed(Layer::Ethernet);
        let ([.., high, low], mut payload) = frame.split_first_chunk::<HEADER_LEN>().ok_or(MALFORMED)?;
        let mut ethertype = be16([*high, *low]);
        let mut tag = None;
        while matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            let (&[tci0, tci1, high, low], rest) = payload.split_first_chunk::<TAG_LEN>().ok_or(MALFORMED)?;
            tag = tag.or(Some(be16([tci0, tci1])));
            ethertype = be16([high, low]);
            payload = rest;
        }
        Ok(Self { tag, ethertype, payload })
    }
}
