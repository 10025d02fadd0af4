//! The capture of `scenarios/replay.toml`, and the parts it is made of.

use std::net::Ipv4Addr;

use lab::checksum;

/// A packet of a capture.
pub(crate) struct Packet {
    at_us: u64,
    frame: Vec<u8>,
    /// How much of it was recorded.
    recorded: usize,
}

/// What a frame is made of.
#[derive(Clone, Copy)]
struct Datagram<'a> {
    source: [u8; 4],
    destination: [u8; 4],
    port: u16,
    /// Type and control field of its tag.
    tag: Option<[u16; 2]>,
    options: &'a [u8],
    payload: &'a [u8],
}

/// Where the video goes, and the two groups of the market data.
const VIDEO: Datagram<'_> = Datagram {
    source: [192, 168, 40, 11],
    destination: [239, 1, 1, 1],
    port: 5_004,
    tag: None,
    options: &[],
    payload: &[],
};
const MARKET: [Datagram<'_>; 2] = [
    Datagram { source: [10, 20, 0, 5], destination: [233, 54, 12, 111], port: 26_477, ..VIDEO },
    Datagram { source: [10, 20, 0, 6], destination: [233, 54, 12, 112], port: 26_478, ..VIDEO },
];
/// Router alert (RFC 2113), and four times "no operation" (RFC 791).
const OPTIONS: [u8; 8] = [0x94, 4, 0, 0, 1, 1, 1, 1];
/// 802.1Q with priority 5 and no VLAN; and one with a VLAN.
const PRIORITY_5: [u16; 2] = [0x8100, 5 << 13];
const VLAN_7: [u16; 2] = [0x8100, 7];

pub(crate) const VIDEO_DATAGRAMS: usize = 90;
const BURSTS: u64 = 4;
const PER_BURST: u64 = 80;
pub(crate) const DATAGRAMS: usize = VIDEO_DATAGRAMS + (BURSTS * PER_BURST) as usize;

/// All of it, in the order of time.
pub(crate) fn everything() -> Vec<Packet> {
    let mut packets: Vec<_> = video().into_iter().chain(market()).chain(others()).collect();
    packets.sort_by_key(|packet| packet.at_us);
    packets
}

/// RTP (RFC 3550) with seven packets of MPEG-TS each, some 11 ms apart; every fifth has a priority.
pub(crate) fn video() -> Vec<Packet> {
    let mut random = Random(1);
    let mut at_us = 0;
    let packet = |number: usize| {
        let mut payload = vec![0x80, 33];
        payload.extend((number as u16).to_be_bytes());
        payload.extend((number as u32 * 990).to_be_bytes());
        payload.extend(0x5EED_u32.to_be_bytes());
        for part in 0..7 {
            // A payload of the program, or one of filling bytes.
            let is_null = (number * 7 + part) % 11 == 10;
            let pid: u16 = if is_null { 0x1FFF } else { 0x0100 };
            payload.push(0x47);
            payload.extend(pid.to_be_bytes());
            payload.push(0x10 | ((number * 7 + part) % 16) as u8);
            payload.extend((0..184).map(|_| if is_null { 0xFF } else { random.below(256) as u8 }));
        }
        let tag = (number % 5 == 4).then_some(PRIORITY_5);
        let packet = whole(at_us, &Datagram { tag, payload: &payload, ..VIDEO });
        at_us += 4_000 + random.below(14_000);
        packet
    };
    (0..VIDEO_DATAGRAMS).map(packet).collect()
}

/// Bursts of small datagrams, in turn to two groups, 3 to 40 µs apart. Every tenth is a heartbeat: all of those are equal.
fn market() -> Vec<Packet> {
    let mut random = Random(2);
    let mut packets = Vec::new();
    for burst in 0..BURSTS {
        let mut at_us = 100_000 + burst * 230_000;
        for number in burst * PER_BURST..(burst + 1) * PER_BURST {
            let (feed, sequence) = (MARKET[(number % 2) as usize], number / 2);
            let mut payload = b"SESSION-01".to_vec();
            if sequence % 10 != 9 {
                payload.extend(sequence.to_be_bytes());
                payload.extend((0..20 + random.below(80)).map(|_| random.below(256) as u8));
            }
            let options = if sequence % 3 == 0 { &OPTIONS[..] } else { &[] };
            packets.push(whole(at_us, &Datagram { options, payload: &payload, ..feed }));
            at_us += 3 + random.below(38);
        }
    }
    packets
}

/// What is not sent: ARP, to a host, in a VLAN, damaged, cut short.
fn others() -> Vec<Packet> {
    let video = Datagram { payload: &[0x47; 188], ..VIDEO };
    let mut arp = vec![0xFF; 12];
    arp.extend([0x08, 0x06]);
    arp.resize(60, 0);
    let unicast = frame(&Datagram { destination: [10, 20, 0, 9], ..video });
    let in_vlan = frame(&Datagram { tag: Some(VLAN_7), ..video });
    let mut damaged = frame(&video);
    damaged[100] ^= 1;
    let mut packets: Vec<_> = [arp, unicast, in_vlan, damaged]
        .into_iter()
        .zip(50_000..)
        .map(|(frame, at_us)| Packet { at_us, recorded: frame.len(), frame })
        .collect();
    packets.push(Packet { at_us: 60_000, frame: frame(&video), recorded: 96 });
    packets
}

/// A pcap file (`libpcap`'s savefile format, µs).
pub(crate) fn pcap(packets: &[Packet]) -> Vec<u8> {
    // 2026-11-26 12:00 UTC.
    const BEGIN: u64 = 1_795_694_400;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xA1B2_C3D4, 4 << 16 | 2, 0, 0, 65_535, 1]);
    for Packet { at_us, frame, recorded } in packets {
        let seconds = (BEGIN + at_us / 1_000_000) as u32;
        file.extend(words(&[seconds, (at_us % 1_000_000) as u32, *recorded as u32, frame.len() as u32]));
        file.extend(&frame[..*recorded]);
    }
    file
}

fn whole(at_us: u64, datagram: &Datagram<'_>) -> Packet {
    let frame = frame(datagram);
    Packet { at_us, recorded: frame.len(), frame }
}

fn frame(datagram: &Datagram<'_>) -> Vec<u8> {
    let Datagram { source, destination, port, tag, options, payload } = *datagram;
    let [_, high, middle, low] = destination;
    let is_group = Ipv4Addr::from(destination).is_multicast();
    let mut frame = if is_group {
        vec![0x01, 0x00, 0x5E, high & 0x7F, middle, low]
    } else {
        vec![0x02, 0x20, 0, 0, 0, 9]
    };
    frame.extend([0x02, 0x40, 0, 0, 0, source[3]]);
    frame.extend(tag.iter().flatten().flat_map(|half| half.to_be_bytes()));
    frame.extend([0x08, 0x00]);

    let udp_bytes = 8 + payload.len() as u16;
    let header_bytes = 20 + options.len() as u16;
    let mut header = vec![0x40 | (header_bytes / 4) as u8, 0];
    header.extend((header_bytes + udp_bytes).to_be_bytes());
    // Identification and fragments, a TTL of 1, UDP, no checksum yet.
    header.extend([0, 0, 0x40, 0, 1, 17, 0, 0]);
    header.extend(source);
    header.extend(destination);
    header.extend(options);
    let sum = checksum::finish(checksum::add(0, &header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = [33_000_u16, port, udp_bytes, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    let pseudo = checksum::udp_pseudo_header(&source, &destination, udp_bytes.into());
    let sum = match checksum::finish(checksum::add(pseudo, &udp)) {
        0 => 0xFFFF,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(udp);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Numbers that look random and are always the same (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }
}
