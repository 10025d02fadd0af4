//! What standards say of an Ethernet frame that is to be relayed, written down apart from the relay: IEEE 802.1Q, RFC 768, 791,
//! 1071 and 8200. And how to make the checksums of a frame right that was changed.

#![allow(dead_code, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const VLAN_ID: u16 = 0x0fff;

/// Where things are in a frame that carries UDP, whole and unfragmented.
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    /// From the UDP header on, to the end of the IP packet.
    body: Range<usize>,
}

/// What a rule of a relay goes by: the VLAN, 0 for none, group and port.
pub type Destination = (u16, IpAddr, u16);

/// The payload of the datagram in `frame`, and where it goes, if a host with that Ethernet address should take it.
pub fn datagram(frame: &[u8], host: [u8; 6]) -> Option<(Destination, &[u8])> {
    let is_for_host = frame.first()? & 1 == 1 || frame.starts_with(&host);
    let (vlan, at, ethertype) = network(frame).filter(|_| is_for_host)?;
    if ethertype == IPV4 && checksum(&[&frame[ipv4_header(frame, at)?]]) != 0 {
        return None;
    }
    let packet = packet(frame, at, ethertype)?;
    let udp = &frame[udp_range(frame, &packet)?];
    let is_right = match be16(udp, 6)? {
        0 => packet.destination.is_ipv4(),
        _ => udp_checksum(&packet, udp) == 0,
    };
    is_right.then_some(((vlan, packet.destination, be16(udp, 2)?), &udp[8..]))
}

/// Makes the checksums of the IPv4 header and of UDP right, as far as there are any.
pub fn seal(frame: &mut [u8]) {
    let Some((_, at, ethertype)) = network(frame) else { return };
    if let Some(header) = ipv4_header(frame, at).filter(|_| ethertype == IPV4) {
        frame[at + 10..at + 12].fill(0);
        let sum = checksum(&[&frame[header]]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some(packet) = packet(frame, at, ethertype) else { return };
    let Some(udp) = udp_range(frame, &packet) else { return };
    let field = udp.start + 6..udp.start + 8;
    frame[field.clone()].fill(0);
    let sum = match udp_checksum(&packet, &frame[udp]) {
        0 => 0xffff,
        sum => sum,
    };
    frame[field].copy_from_slice(&sum.to_be_bytes());
}

/// `frame` after `change`, with its checksums made right.
pub fn sealed(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    seal(&mut frame);
    frame
}

/// `frame` after `change` and nothing else.
pub fn spoiled(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

/// The fragments of an untagged IPv6 `frame` without extension headers, of at most so many bytes of its datagram each.
pub fn fragments_v6(frame: &[u8], step: usize, identification: u32) -> Vec<Vec<u8>> {
    let (head, data) = frame.split_at(54);
    let fragment = |(i, part): (usize, &[u8])| {
        let more = u16::from((i + 1) * step < data.len());
        let place = ((i * step) as u16 | more).to_be_bytes();
        let extension = [&[17, 0][..], &place, &identification.to_be_bytes()].concat();
        let mut fragment = [head, &extension, part].concat();
        fragment[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        fragment[20] = 44;
        fragment
    };
    data.chunks(step).enumerate().map(fragment).collect()
}

/// An IPv6 `frame` with extension headers before what it carries: the kind of each, and its bytes from the second on.
pub fn extended(frame: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let (mut head, data) = (frame[..54].to_vec(), &frame[54..]);
    let mut chain = Vec::new();
    let last = std::mem::replace(&mut head[20], extensions.first().map_or(17, |(kind, _)| *kind));
    for (i, (_, bytes)) in extensions.iter().enumerate() {
        chain.push(extensions.get(i + 1).map_or(last, |(kind, _)| *kind));
        chain.extend(*bytes);
    }
    let len = (chain.len() + data.len()) as u16;
    head[18..20].copy_from_slice(&len.to_be_bytes());
    [&head[..], &chain, data].concat()
}

/// An IPv4 `frame` with these options, a multiple of four bytes.
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let frame = [&frame[..34], options, &frame[34..]].concat();
    sealed(frame, |frame| {
        frame[14] += (options.len() / 4) as u8;
        let total = be16(frame, 16).map_or(0, |total| total + options.len() as u16);
        frame[16..18].copy_from_slice(&total.to_be_bytes());
    })
}

/// The VLAN of a frame, 0 for none, where its network header is and what that is: the receiver takes out one tag.
fn network(frame: &[u8]) -> Option<(u16, usize, u16)> {
    let ethertype = be16(frame, 12)?;
    if !TAGS.contains(&ethertype) {
        return Some((0, 14, ethertype));
    }
    Some((be16(frame, 14)? & VLAN_ID, 18, be16(frame, 16)?))
}

fn ipv4_header(frame: &[u8], at: usize) -> Option<Range<usize>> {
    let first = *frame.get(at)?;
    let header = at..at + usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && header.len() >= 20 && header.end <= frame.len()).then_some(header)
}

fn packet(frame: &[u8], at: usize, ethertype: u16) -> Option<Packet> {
    match ethertype {
        IPV4 => packet_v4(frame, at),
        IPV6 => packet_v6(frame, at),
        _ => None,
    }
}

fn packet_v4(frame: &[u8], at: usize) -> Option<Packet> {
    let header = ipv4_header(frame, at)?;
    let end = at + usize::from(be16(frame, at + 2)?);
    let is_fragment = be16(frame, at + 6)? & 0x3fff != 0;
    let is_whole = header.end <= end && end <= frame.len() && !is_fragment;
    let address = |from: usize| {
        Ipv4Addr::from_bits(
            u32::from(be16(frame, from).unwrap_or(0)) << 16 | u32::from(be16(frame, from + 2).unwrap_or(0)),
        )
    };
    (is_whole && frame[at + 9] == 17).then(|| Packet {
        source: address(at + 12).into(),
        destination: address(at + 16).into(),
        body: header.end..end,
    })
}

fn packet_v6(frame: &[u8], at: usize) -> Option<Packet> {
    let header = frame.get(at..at + 40).filter(|header| header[0] >> 4 == 6)?;
    let end = at + 40 + usize::from(be16(header, 4)?);
    let rest = frame.get(..end)?;
    let (mut next, mut place) = (header[6], at + 40);
    while next != 17 {
        let extension = rest.get(place..place + 8)?;
        let len = usize::from(extension[1]);
        place += match next {
            0 | 43 | 60 => (len + 1) * 8,
            51 => ((len + 2) * 4).max(8),
            // Neither an offset nor more fragments: it is whole.
            44 if be16(extension, 2)? & 0xfff9 == 0 => 8,
            _ => return None,
        };
        next = extension[0];
    }
    let address = |from: usize| <[u8; 16]>::try_from(&header[from..from + 16]).map(Ipv6Addr::from).ok();
    let (source, destination) = (address(8)?.into(), address(24)?.into());
    (place <= end).then_some(Packet { source, destination, body: place..end })
}

/// UDP header and payload.
fn udp_range(frame: &[u8], packet: &Packet) -> Option<Range<usize>> {
    let body = frame.get(packet.body.clone())?;
    let len = usize::from(be16(body, 4)?);
    (8 <= len && len <= body.len()).then_some(packet.body.start..packet.body.start + len)
}

fn udp_checksum(packet: &Packet, udp: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let len = (udp.len() as u16).to_be_bytes();
    checksum(&[&octets(packet.source), &octets(packet.destination), &[0, 17], &len, udp])
}

/// The Internet checksum over `parts`, of which all but the last have an even length; 0 of what has a right one in it.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded >> 16) + folded) as u16
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
