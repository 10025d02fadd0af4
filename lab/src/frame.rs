//! From an Ethernet frame to a UDP payload: total functions over any bytes.
//!
//! The lab's own reading, on purpose not the relay's parser: a mistake there must not hide itself here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'frame> {
    /// A UDP datagram (or super-frame) with sound lengths.
    Udp(Udp<'frame>),
    /// UDP that cannot be read as one datagram: a fragment, or lengths that contradict each other. The port is 0
    /// where it cannot be known.
    BrokenUdp {
        /// Where it was sent to.
        delivered: SocketAddr,
    },
    /// Anything else.
    Other,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Udp<'frame> {
    /// Destination in the headers.
    pub(crate) delivered: SocketAddr,
    /// After the UDP header, cut to the UDP length.
    pub(crate) payload: &'frame [u8],
    /// IPv4 header checksum right, or IPv6.
    pub(crate) ip_whole: bool,
    /// UDP checksum right, or absent where IPv4 allows that.
    pub(crate) payload_whole: bool,
    /// The checksum is only that of the pseudo-header: a sender leaves the rest to a device that can do it.
    pub(crate) checksum_is_left: bool,
}

const ETHERNET_BYTES: usize = 14;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xDD];
const UDP: u8 = 17;
const UDP_BYTES: usize = 8;
/// IPv6 extension headers (RFC 8200 §4.1): hop-by-hop, routing, destination options, and the fragment header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
/// More extension headers than this are not followed.
const MAX_EXTENSIONS: usize = 8;

/// The frame without its outermost VLAN tag, if it has one: the IP stack takes that off before anybody sees the frame.
pub(crate) fn untagged(frame: &[u8]) -> Option<Vec<u8>> {
    const ADDRESSES_BYTES: usize = 12;
    let (addresses, rest) = frame.split_at_checked(ADDRESSES_BYTES)?;
    let ([0x81, 0x00, _, _] | [0x88, 0xA8, _, _], inner) = rest.split_first_chunk::<4>()? else {
        return None;
    };
    Some([addresses, inner].concat())
}

/// Reads a frame that begins with an untagged Ethernet header.
pub(crate) fn parse(frame: &[u8]) -> Content<'_> {
    let Some((ethernet, packet)) = frame.split_at_checked(ETHERNET_BYTES) else { return Content::Other };
    match [ethernet[12], ethernet[13]] {
        ETHER_TYPE_IPV4 => parse_ipv4(packet),
        ETHER_TYPE_IPV6 => parse_ipv6(packet),
        _ => Content::Other,
    }
}

fn parse_ipv4(packet: &[u8]) -> Content<'_> {
    let Some(fixed) = packet.first_chunk::<20>() else { return Content::Other };
    if fixed[0] >> 4 != 4 || fixed[9] != UDP {
        return Content::Other;
    }
    let source = &fixed[12..16];
    let address = IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]));
    let header_bytes = usize::from(fixed[0] & 0x0F) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    // More fragments, or not the first.
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF != 0;
    // Ethernet pads short frames: what the IP length leaves out is not payload.
    let whole = packet.get(..total_bytes).and_then(|packet| packet.split_at_checked(header_bytes));
    match whole {
        Some((header, datagram)) if !fragment && header_bytes >= fixed.len() => {
            let ip_whole = checksum::verifies(checksum::add(0, header));
            parse_udp(source, address, datagram, ip_whole)
        }
        _ => Content::BrokenUdp { delivered: SocketAddr::new(address, 0) },
    }
}

fn parse_ipv6(packet: &[u8]) -> Content<'_> {
    let Some((fixed, rest)) = packet.split_first_chunk::<40>() else { return Content::Other };
    if fixed[0] >> 4 != 6 {
        return Content::Other;
    }
    let source = &fixed[8..24];
    let address = fixed.last_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets));
    let broken = Content::BrokenUdp { delivered: SocketAddr::new(address.into(), 0) };
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let (mut rest, cut) = match rest.get(..length) {
        Some(rest) => (rest, false),
        None => (rest, true),
    };
    let mut next = fixed[6];
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            UDP if cut => return broken,
            UDP => return parse_udp(source, address.into(), rest, true),
            FRAGMENT => return if rest.first() == Some(&UDP) { broken } else { Content::Other },
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let Some([following, eighths]) = rest.first_chunk() else { return Content::Other };
                next = *following;
                let Some(after) = rest.get((usize::from(*eighths) + 1) * 8..) else { return Content::Other };
                rest = after;
            }
            _ => return Content::Other,
        }
    }
    Content::Other
}

fn parse_udp<'frame>(
    source: &[u8],
    destination: IpAddr,
    datagram: &'frame [u8],
    ip_whole: bool,
) -> Content<'frame> {
    let Some(header) = datagram.first_chunk::<UDP_BYTES>() else {
        return Content::BrokenUdp { delivered: SocketAddr::new(destination, 0) };
    };
    let delivered = SocketAddr::new(destination, u16::from_be_bytes([header[2], header[3]]));
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(payload) = datagram.get(UDP_BYTES..length) else { return Content::BrokenUdp { delivered } };
    let field = u16::from_be_bytes([header[6], header[7]]);
    let pseudo = match destination {
        IpAddr::V4(address) => checksum::udp_pseudo_header(source, &address.octets(), length as u32),
        IpAddr::V6(address) => checksum::udp_pseudo_header(source, &address.octets(), length as u32),
    };
    let payload_whole = match (field, destination) {
        // RFC 768: zero means none was computed. RFC 8200 §8.1: IPv6 does not allow that.
        (0, IpAddr::V4(_)) => true,
        (0, IpAddr::V6(_)) => false,
        _ => checksum::verifies(checksum::add(pseudo, &datagram[..length])),
    };
    // Zero and 0xFFFF are one number in this arithmetic.
    let checksum_is_left = !checksum::finish(pseudo) % 0xFFFF == field % 0xFFFF;
    Content::Udp(Udp { delivered, payload, ip_whole, payload_whole, checksum_is_left })
}

#[cfg(test)]
pub(crate) mod tests {
    use pnet_packet::MutablePacket;
    use pnet_packet::ethernet::{EtherTypes, MutableEthernetPacket};
    use pnet_packet::ip::IpNextHeaderProtocols;
    use pnet_packet::ipv4::{self, MutableIpv4Packet};
    use pnet_packet::ipv6::MutableIpv6Packet;
    use pnet_packet::udp::{self, MutableUdpPacket};
    use proptest::prelude::*;

    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 82, 1, 1);

    fn udp_bytes(payload: &[u8], port: u16, checksum: impl FnOnce(&MutableUdpPacket<'_>) -> u16) -> Vec<u8> {
        let mut bytes = vec![0; UDP_BYTES + payload.len()];
        let length = bytes.len() as u16;
        let mut packet = MutableUdpPacket::new(&mut bytes).unwrap();
        packet.set_source(4000);
        packet.set_destination(port);
        packet.set_length(length);
        packet.set_payload(payload);
        let checksum = checksum(&packet);
        packet.set_checksum(checksum);
        bytes
    }

    /// A whole frame to the test group.
    pub(crate) fn ipv4_frame(payload: &[u8], port: u16) -> Vec<u8> {
        let datagram =
            udp_bytes(payload, port, |packet| udp::ipv4_checksum(&packet.to_immutable(), &SOURCE, &GROUP));
        let mut frame = vec![0; ETHERNET_BYTES + 20 + datagram.len()];
        let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
        ethernet.set_ethertype(EtherTypes::Ipv4);
        let mut packet = MutableIpv4Packet::new(ethernet.payload_mut()).unwrap();
        packet.set_version(4);
        packet.set_header_length(5);
        packet.set_total_length(20 + datagram.len() as u16);
        packet.set_next_level_protocol(IpNextHeaderProtocols::Udp);
        packet.set_source(SOURCE);
        packet.set_destination(GROUP);
        let checksum = ipv4::checksum(&packet.to_immutable());
        packet.set_checksum(checksum);
        packet.set_payload(&datagram);
        frame
    }

    /// The same frame as the first fragment of a longer packet.
    pub(crate) fn as_fragment(frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let mut packet = MutableIpv4Packet::new(&mut frame[ETHERNET_BYTES..]).unwrap();
        packet.set_flags(ipv4::Ipv4Flags::MoreFragments);
        let checksum = ipv4::checksum(&packet.to_immutable());
        packet.set_checksum(checksum);
        frame
    }

    /// The same frame cut into fragments, with this identification, of `each` bytes of UDP.
    pub(crate) fn fragments_of(frame: &[u8], identification: u16, each: usize) -> Vec<Vec<u8>> {
        let (head, datagram) = frame.split_at(ETHERNET_BYTES + 20);
        let parts: Vec<_> = datagram.chunks(each).enumerate().collect();
        let fragment = |(index, part): &(usize, &[u8])| {
            let mut frame = [head, part].concat();
            let mut packet = MutableIpv4Packet::new(&mut frame[ETHERNET_BYTES..]).unwrap();
            packet.set_total_length(20 + part.len() as u16);
            packet.set_identification(identification);
            packet.set_fragment_offset((index * each / 8) as u16);
            packet.set_flags(if index + 1 < parts.len() { ipv4::Ipv4Flags::MoreFragments } else { 0 });
            let checksum = ipv4::checksum(&packet.to_immutable());
            packet.set_checksum(checksum);
            frame
        };
        parts.iter().map(fragment).collect()
    }

    fn ipv6_frame(payload: &[u8], extension: bool) -> Vec<u8> {
        let (source, group): (Ipv6Addr, Ipv6Addr) =
            ("fd82::1".parse().unwrap(), "ff15::82:0:1".parse().unwrap());
        let datagram =
            udp_bytes(payload, 6000, |packet| udp::ipv6_checksum(&packet.to_immutable(), &source, &group));
        let options: &[u8] = if extension { &[UDP, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let body = [options, &datagram].concat();
        let mut frame = vec![0; ETHERNET_BYTES + 40 + body.len()];
        let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
        ethernet.set_ethertype(EtherTypes::Ipv6);
        let mut packet = MutableIpv6Packet::new(ethernet.payload_mut()).unwrap();
        packet.set_version(6);
        packet.set_payload_length(body.len() as u16);
        let next = if extension { IpNextHeaderProtocols::Hopopt } else { IpNextHeaderProtocols::Udp };
        packet.set_next_header(next);
        packet.set_source(source);
        packet.set_destination(group);
        packet.set_payload(&body);
        frame
    }

    fn udp(frame: &[u8]) -> Udp<'_> {
        match parse(frame) {
            Content::Udp(udp) => udp,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_pnet_builds_is_read(payload in proptest::collection::vec(any::<u8>(), 0..1500), padding in 0_usize..40) {
            let mut frame = ipv4_frame(&payload, 6000);
            frame.resize(frame.len() + padding, 0x55);
            let expected = Udp {
                delivered: (GROUP, 6000).into(), payload: &payload, ip_whole: true, payload_whole: true,
                checksum_is_left: udp(&frame).checksum_is_left,
            };
            prop_assert_eq!(parse(&frame), Content::Udp(expected));
            for extension in [false, true] {
                let frame = ipv6_frame(&payload, extension);
                let six = udp(&frame);
                prop_assert_eq!(six.payload, &payload[..]);
                prop_assert!(six.payload_whole && six.ip_whole);
                prop_assert_eq!(six.delivered, "[ff15::82:0:1]:6000".parse().unwrap());
            }
        }

        #[test]
        fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), six: bool) {
            if let Some(at) = bytes.get_mut(12..15) {
                at.copy_from_slice(if six { &[0x86, 0xDD, 0x60] } else { &[0x08, 0x00, 0x45] });
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn a_flipped_bit_never_passes_unnoticed(payload in proptest::collection::vec(any::<u8>(), 18..100), at: prop::sample::Index, bit in 0..8) {
            let good = ipv4_frame(&payload, 6000);
            let mut frame = good.clone();
            let at = ETHERNET_BYTES + at.index(frame.len() - ETHERNET_BYTES);
            frame[at] ^= 1_u8 << bit;
            let accepted = matches!(parse(&frame), Content::Udp(udp) if udp.ip_whole && udp.payload_whole);
            // The one flip a UDP checksum may miss: its own last bit turning 0x0000-as-none on.
            let absent = frame[40..42] == [0, 0];
            prop_assert!(!accepted || absent, "byte {at} bit {bit}");
        }
    }

    #[test]
    fn fragments_and_contradicting_lengths_are_broken_udp() {
        let good = ipv4_frame(&[1; 30], 6000);
        let change = |at: usize, to: u8| {
            let mut frame = good.clone();
            frame[at] = to;
            frame
        };
        let delivered = |port| Content::BrokenUdp { delivered: (GROUP, port).into() };
        assert_eq!(parse(&change(ETHERNET_BYTES + 6, 0x20)), delivered(0));
        assert_eq!(parse(&change(ETHERNET_BYTES + 7, 0x08)), delivered(0));
        assert_eq!(parse(&change(ETHERNET_BYTES + 3, 0xFF)), delivered(0));
        assert_eq!(parse(&change(ETHERNET_BYTES, 0x44)), delivered(0));
        assert_eq!(parse(&change(ETHERNET_BYTES + 24, 0xFF)), delivered(6000));
        assert_eq!(parse(&change(ETHERNET_BYTES + 25, 7)), delivered(6000));
        assert_eq!(parse(&good[..good.len() - 1]), delivered(0));
    }

    #[test]
    fn checksums_may_be_absent_in_ipv4_only() {
        let mut four = ipv4_frame(&[1; 30], 6000);
        four[40..42].fill(0);
        assert!(udp(&four).payload_whole);
        let mut six = ipv6_frame(&[1; 30], false);
        six[60..62].fill(0);
        assert!(!udp(&six).payload_whole);
    }

    #[test]
    fn a_checksum_that_is_left_to_a_device_is_the_pseudo_headers() {
        let mut frame = ipv4_frame(&[1; 30], 6000);
        assert!(!udp(&frame).checksum_is_left);
        let pseudo = checksum::udp_pseudo_header(&SOURCE.octets(), &GROUP.octets(), 38);
        frame[40..42].copy_from_slice(&(!checksum::finish(pseudo)).to_be_bytes());
        assert!(udp(&frame).checksum_is_left && !udp(&frame).payload_whole);
    }

    #[test]
    fn what_is_not_udp_is_other() {
        let mut tcp = ipv4_frame(&[1; 30], 6000);
        tcp[ETHERNET_BYTES + 9] = 6;
        let mut arp = tcp.clone();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let mut mld = ipv6_frame(&[1; 30], true);
        mld[ETHERNET_BYTES + 40] = 58;
        for frame in [&tcp[..], &arp, &mld, &[0; 13], &[]] {
            assert_eq!(parse(frame), Content::Other);
        }
    }

    #[test]
    fn only_a_tag_is_taken_off() {
        let mut frame: Vec<u8> = (0..20).collect();
        assert_eq!(untagged(&frame), None);
        frame[12..14].copy_from_slice(&[0x81, 0x00]);
        assert_eq!(untagged(&frame), Some([&frame[..12], &frame[16..]].concat()));
        assert_eq!(untagged(&frame[..14]), None);
    }
}
