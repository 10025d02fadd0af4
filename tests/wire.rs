//! Any bytes give a view or a named reason, and on valid frames the parser agrees with `pnet_packet`.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multicast_relay::wire::{Datagram, Error, Layer, LinkLayer};
use pnet_base::MacAddr;
use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherType, EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};
use proptest::prelude::*;

/// What a frame is built from.
#[derive(Clone, Debug)]
struct Recipe {
    tags: Vec<(bool, u16)>,
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    /// IPv4: bytes of options / 4. IPv6: extension headers as (kind, length byte).
    options: u8,
    extensions: Vec<(u8, u8)>,
    payload: Vec<u8>,
    padding: usize,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let addresses = prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(s, d)| (IpAddr::V4(s), IpAddr::V4(d))),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(s, d)| (IpAddr::V6(s), IpAddr::V6(d))),
    ];
    let extension = (prop::sample::select(vec![0_u8, 43, 44, 51, 60]), 1_u8..4);
    (
        prop::collection::vec((any::<bool>(), any::<u16>()), 0..3),
        addresses,
        any::<(u16, u16)>(),
        0_u8..=10,
        prop::collection::vec(extension, 0..4),
        prop::collection::vec(any::<u8>(), 0..1_500),
        0_usize..64,
    )
        .prop_map(|(tags, addresses, ports, options, extensions, payload, padding)| Recipe {
            tags,
            addresses,
            ports,
            options,
            extensions,
            payload,
            padding,
        })
}

fn udp(recipe: &Recipe) -> Vec<u8> {
    let mut bytes = vec![0; UdpPacket::minimum_packet_size() + recipe.payload.len()];
    let length = bytes.len() as u16;
    let mut packet = MutableUdpPacket::new(&mut bytes).unwrap();
    packet.set_source(recipe.ports.0);
    packet.set_destination(recipe.ports.1);
    packet.set_length(length);
    packet.set_payload(&recipe.payload);
    let checksum = match &recipe.addresses {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            pnet_packet::udp::ipv4_checksum(&packet.to_immutable(), source, to)
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            pnet_packet::udp::ipv6_checksum(&packet.to_immutable(), source, to)
        }
        _ => unreachable!("addresses are of one family"),
    };
    // RFC 768: a sum of zero is sent as all ones.
    packet.set_checksum(if checksum == 0 { 0xffff } else { checksum });
    bytes
}

fn ipv4(recipe: &Recipe, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let segment = udp(recipe);
    let header = 20 + usize::from(recipe.options) * 4;
    let mut bytes = vec![1; header + segment.len()];
    let mut packet = MutableIpv4Packet::new(&mut bytes).unwrap();
    packet.set_version(4);
    packet.set_header_length(5 + recipe.options);
    packet.set_total_length((header + segment.len()) as u16);
    packet.set_flags(2);
    packet.set_fragment_offset(0);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    packet.set_source(source);
    packet.set_destination(destination);
    set_header_checksum(&mut bytes[..header]);
    bytes[header..].copy_from_slice(&segment);
    bytes
}

fn set_header_checksum(header: &mut [u8]) {
    let checksum = pnet_packet::ipv4::checksum(&Ipv4Packet::new(header).unwrap());
    MutableIpv4Packet::new(header).unwrap().set_checksum(checksum);
}

fn ipv6(recipe: &Recipe, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    const UDP: u8 = 17;
    let mut chain = Vec::new();
    for (i, (kind, length)) in recipe.extensions.iter().enumerate() {
        let next = recipe.extensions.get(i + 1).map_or(UDP, |(kind, _)| *kind);
        let (length, bytes) = match kind {
            44 => (0, 8),
            51 => (*length, (usize::from(*length) + 2) * 4),
            _ => (*length, (usize::from(*length) + 1) * 8),
        };
        let mut header = vec![0; bytes];
        (header[0], header[1]) = (next, length);
        chain.extend(header);
    }
    chain.extend(udp(recipe));
    let mut bytes = vec![0; 40 + chain.len()];
    let mut packet = MutableIpv6Packet::new(&mut bytes).unwrap();
    packet.set_version(6);
    packet.set_payload_length(chain.len() as u16);
    packet.set_next_header(pnet_packet::ip::IpNextHeaderProtocol(
        recipe.extensions.first().map_or(UDP, |e| e.0),
    ));
    packet.set_source(source);
    packet.set_destination(destination);
    packet.set_payload(&chain);
    bytes
}

fn frame(recipe: &Recipe) -> Vec<u8> {
    let (ethertype, packet) = match recipe.addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (EtherTypes::Ipv4, ipv4(recipe, source, destination))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (EtherTypes::Ipv6, ipv6(recipe, source, destination))
        }
        _ => unreachable!("addresses are of one family"),
    };
    let kinds: Vec<_> =
        recipe.tags.iter().map(|(service, _)| if *service { 0x88a8 } else { 0x8100 }).collect();
    let mut bytes = vec![0; 14];
    let mut ethernet = MutableEthernetPacket::new(&mut bytes).unwrap();
    ethernet.set_destination(MacAddr::new(1, 0, 0x5e, 1, 2, 3));
    ethernet.set_ethertype(kinds.first().map_or(ethertype, |kind| EtherType(*kind)));
    for (i, (_, tci)) in recipe.tags.iter().enumerate() {
        bytes.extend(tci.to_be_bytes());
        bytes.extend(kinds.get(i + 1).copied().unwrap_or(ethertype.0).to_be_bytes());
    }
    bytes.extend(packet);
    bytes.extend(vec![0; recipe.padding]);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn valid_frames_are_read_as_they_were_built(recipe in recipe()) {
        let frame = frame(&recipe);
        let view = Datagram::parse(&frame).unwrap();
        prop_assert_eq!(view.tag, recipe.tags.first().map(|(_, tci)| *tci));
        prop_assert_eq!((view.source, view.destination), recipe.addresses);
        prop_assert_eq!((view.source_port, view.destination_port), recipe.ports);
        prop_assert_eq!(view.payload, &recipe.payload);
        prop_assert!(view.has_valid_checksum());
    }

    #[test]
    fn without_an_ethernet_header_the_same_is_read(mut recipe in recipe()) {
        recipe.tags.clear();
        let frame = frame(&recipe);
        let view = Datagram::parse_as(LinkLayer::RawIp, &frame[14..]);
        prop_assert_eq!(view, Datagram::parse(&frame));
        prop_assert_eq!(view.unwrap().udp_offset(&frame[14..]) + 14, Datagram::parse(&frame).unwrap().udp_offset(&frame));
        prop_assert_eq!(Datagram::parse_as(LinkLayer::Other, &frame), Err(Error::NotIp));
    }

    #[test]
    fn damage_to_one_byte_of_a_datagram_is_noticed(
        recipe in recipe(),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let mut frame = frame(&recipe);
        let payload = frame.len() - recipe.padding - recipe.payload.len();
        // Ports and payload; damage to the length is a contradiction, and a checksum can be damaged to "absent".
        let places: Vec<_> = (payload - 8..payload - 4).chain(payload..frame.len() - recipe.padding).collect();
        frame[places[at.index(places.len())]] ^= change;
        prop_assert!(!Datagram::parse(&frame).unwrap().has_valid_checksum());
    }

    #[test]
    fn the_parser_agrees_with_pnet(mut recipe in recipe()) {
        // pnet leaves tags and extension headers to the caller.
        recipe.tags.clear();
        recipe.extensions.clear();
        let frame = frame(&recipe);
        let view = Datagram::parse(&frame).unwrap();
        let ethernet = EthernetPacket::new(&frame).unwrap();
        let (addresses, segment): ((IpAddr, IpAddr), Vec<u8>) = if ethernet.get_ethertype() == EtherTypes::Ipv4 {
            let packet = Ipv4Packet::new(ethernet.payload()).unwrap();
            ((packet.get_source().into(), packet.get_destination().into()), packet.payload().to_vec())
        } else {
            let packet = Ipv6Packet::new(ethernet.payload()).unwrap();
            ((packet.get_source().into(), packet.get_destination().into()), packet.payload().to_vec())
        };
        let udp = UdpPacket::new(&segment).unwrap();
        prop_assert_eq!((view.source, view.destination), addresses);
        prop_assert_eq!((view.source_port, view.destination_port), (udp.get_source(), udp.get_destination()));
        prop_assert_eq!(view.payload, &udp.payload()[..usize::from(udp.get_length()) - 8]);
    }

    #[test]
    fn any_bytes_give_a_view_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Datagram::parse(&bytes);
        let _ = Datagram::parse_as(LinkLayer::RawIp, &bytes);
    }

    #[test]
    fn a_valid_frame_with_damage_gives_a_view_inside_it_or_a_reason(
        recipe in recipe(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut frame = frame(&recipe);
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.truncate(keep.index(frame.len() + 1));
        if let Ok(view) = Datagram::parse(&frame) {
            prop_assert!(frame.as_ptr_range().contains(&view.payload.as_ptr()) || view.payload.is_empty());
            prop_assert!(view.payload.len() <= frame.len() - 14 - 20 - 8);
        }
    }

    #[test]
    fn a_frame_cut_short_is_never_a_datagram(mut recipe in recipe(), cut in 1_usize..400) {
        recipe.padding = 0;
        let frame = frame(&recipe);
        let keep = frame.len().saturating_sub(cut);
        prop_assert!(Datagram::parse(&frame[..keep]).is_err());
    }
}

fn plain() -> Recipe {
    Recipe {
        tags: vec![],
        addresses: ("10.0.0.1".parse().unwrap(), "239.1.1.1".parse().unwrap()),
        ports: (4_000, 5_000),
        options: 0,
        extensions: vec![],
        payload: b"payload".to_vec(),
        padding: 11,
    }
}

fn plain_ipv6(extensions: Vec<(u8, u8)>) -> Recipe {
    let addresses = ("fd81::1".parse().unwrap(), "ff15::1".parse().unwrap());
    Recipe { addresses, extensions, ..plain() }
}

#[test]
fn each_contradiction_in_ipv4_has_its_name() {
    let spoiled = |at: usize, value: u8| {
        let mut frame = frame(&plain());
        frame[at] = value;
        if frame[14] == 0x45 {
            set_header_checksum(&mut frame[14..34]);
        }
        Datagram::parse(&frame).map(|_| ())
    };
    assert_eq!(spoiled(12, 0x12), Err(Error::NotIp));
    assert_eq!(spoiled(14, 0x65), Err(Error::Malformed(Layer::Ipv4)), "version 6 under the IPv4 ethertype");
    assert_eq!(spoiled(14, 0x44), Err(Error::Malformed(Layer::Ipv4)), "header of 16 bytes");
    assert_eq!(spoiled(17, 19), Err(Error::Malformed(Layer::Ipv4)), "shorter than its header");
    assert_eq!(spoiled(16, 8), Err(Error::Truncated), "longer than the frame");
    assert_eq!(spoiled(20, 0x20), Err(Error::Fragment), "first fragment");
    assert_eq!(spoiled(21, 1), Err(Error::Fragment), "later fragment");
    assert_eq!(spoiled(23, 6), Err(Error::NotUdp));
    assert_eq!(spoiled(39, 7), Err(Error::Malformed(Layer::Udp)), "shorter than the UDP header");
    assert_eq!(spoiled(39, 200), Err(Error::Malformed(Layer::Udp)), "longer than the packet");
    assert_eq!(Datagram::parse(&[0; 13]), Err(Error::Malformed(Layer::Ethernet)));
    let mut damaged = frame(&plain());
    damaged[22] ^= 1;
    assert_eq!(Datagram::parse(&damaged), Err(Error::BadChecksum), "time to live");
}

#[test]
fn an_absent_checksum_is_right_over_ipv4_only() {
    for (recipe, udp) in [(plain(), 34), (plain_ipv6(vec![]), 54)] {
        let mut frame = frame(&recipe);
        frame[udp + 6..udp + 8].fill(0);
        assert_eq!(Datagram::parse(&frame).unwrap().has_valid_checksum(), recipe.addresses.0.is_ipv4());
    }
}

#[test]
fn each_contradiction_in_ipv6_has_its_name() {
    let spoiled = |extensions: Vec<(u8, u8)>, at: usize, value: u8| {
        let mut frame = frame(&plain_ipv6(extensions));
        frame[at] = value;
        Datagram::parse(&frame).map(|_| ())
    };
    assert_eq!(spoiled(vec![], 14, 0x45), Err(Error::Malformed(Layer::Ipv6)));
    assert_eq!(spoiled(vec![], 18, 9), Err(Error::Truncated));
    assert_eq!(spoiled(vec![], 20, 58), Err(Error::NotUdp), "ICMPv6");
    assert_eq!(spoiled(vec![], 20, 59), Err(Error::NotUdp), "no next header");
    assert_eq!(spoiled(vec![(60, 1)], 55, 255), Err(Error::Malformed(Layer::Ipv6)), "extension past the end");
    assert_eq!(spoiled(vec![(44, 0)], 57, 1), Err(Error::Fragment), "more fragments");
    assert_eq!(spoiled(vec![(44, 0)], 56, 1), Err(Error::Fragment), "later fragment");
    assert_eq!(spoiled(vec![(44, 0)], 57, 0), Ok(()), "an atomic fragment is whole");
}
