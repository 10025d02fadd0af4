//! Frames that are damaged, cut short, or none of the relay's business: each is relayed or counted as what it is, and costs no
//! datagram before or behind it.

#![allow(clippy::unwrap_used)]

#[path = "support/frames.rs"]
mod frames;
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use frames::{extended, fragments_v6, sealed, spoiled, with_options};
use lab::topology::{Family, Topology};
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, ethernet, fragments, frame, good, is_empty,
    network, receive, rule, sink, tagged,
};

/// What becomes of a frame.
#[derive(Clone, Debug)]
enum Fate {
    /// It is relayed with this payload.
    Relayed(Vec<u8>),
    /// It is captured and dropped as this.
    Dropped(&'static str),
    /// The filter by the rules counts it as foreign; without that filter it is dropped as this.
    Foreign(&'static str),
    /// The filter by the rules leaves it out; without that filter it is dropped as this.
    LeftOut(&'static str),
    /// It is never captured.
    Unseen,
}
use Fate::{Dropped, Foreign, LeftOut, Relayed, Unseen};

type Case = (&'static str, Vec<u8>, Fate);

const PAYLOAD: &[u8] = b"a payload of an odd length.";
const BAD_CHECKSUM: Fate = Dropped("bad_checksum");
const MALFORMED: Fate = Dropped("malformed");
const TRUNCATED: Fate = Dropped("truncated");
const FRAGMENT: Fate = Dropped("fragment");
const NO_RULE: Fate = Foreign("no_rule");

fn whole() -> Fate {
    Relayed(PAYLOAD.to_vec())
}

fn group_v6() -> SocketAddr {
    SocketAddr::from(("ff15::81:0:1".parse::<IpAddr>().unwrap(), PORT))
}

/// The case of an IPv4 datagram that is changed so, its checksums made right after that.
fn sealed_v4(what: &'static str, fate: Fate, change: impl Fn(&mut Vec<u8>)) -> Case {
    (what, sealed(good(PAYLOAD), change), fate)
}

/// The same with the checksums left as they were.
fn spoiled_v4(what: &'static str, fate: Fate, change: impl Fn(&mut Vec<u8>)) -> Case {
    (what, spoiled(good(PAYLOAD), change), fate)
}

fn sealed_v6(what: &'static str, fate: Fate, change: impl Fn(&mut Vec<u8>)) -> Case {
    (what, sealed(frame(group_v6(), PAYLOAD), change), fate)
}

fn spoiled_v6(what: &'static str, fate: Fate, change: impl Fn(&mut Vec<u8>)) -> Case {
    (what, spoiled(frame(group_v6(), PAYLOAD), change), fate)
}

/// A frame with a payload of two bytes to which the checksum comes out as zero, so that it is sent as 65,535.
fn sum_of_zero(to: SocketAddr) -> Vec<u8> {
    let frames = (0..=u16::MAX).map(|word| frame(to, &word.to_be_bytes()));
    let udp = if to.is_ipv4() { 34 } else { 54 };
    let zero = frames.map(|frame| sealed(frame, |_| ())).find(|frame| frame[udp + 6..udp + 8] == [0xff; 2]);
    zero.unwrap()
}

fn checksums() -> Vec<Case> {
    let (zero_v4, zero_v6) = (sum_of_zero((GROUP, PORT).into()), sum_of_zero(group_v6()));
    let payload = |frame: &[u8]| Relayed(frame[frame.len() - 2..].to_vec());
    vec![
        spoiled_v4("damaged IPv4 header", BAD_CHECKSUM, |frame| frame[22] ^= 1),
        spoiled_v4("wrong IPv4 checksum", BAD_CHECKSUM, |frame| frame[24] ^= 1),
        spoiled_v4("wrong UDP checksum", BAD_CHECKSUM, |frame| frame[41] ^= 1),
        spoiled_v4("damaged port", BAD_CHECKSUM, |frame| frame[35] ^= 1),
        spoiled_v4("damaged payload", BAD_CHECKSUM, |frame| *frame.last_mut().unwrap() ^= 1),
        spoiled_v4("no UDP checksum", whole(), |frame| frame[40..42].fill(0)),
        ("a UDP checksum of zero", zero_v4.clone(), payload(&zero_v4)),
        spoiled_v6("wrong UDP checksum", BAD_CHECKSUM, |frame| frame[60] ^= 1),
        spoiled_v6("damaged source", BAD_CHECKSUM, |frame| frame[30] ^= 1),
        spoiled_v6("no UDP checksum", BAD_CHECKSUM, |frame| frame[60..62].fill(0)),
        spoiled_v6("other hop limit", whole(), |frame| frame[21] = 0),
        ("a UDP checksum of zero", zero_v6.clone(), payload(&zero_v6)),
    ]
}

fn lengths_v4() -> Vec<Case> {
    let total = |by: i8| move |frame: &mut Vec<u8>| frame[17] = frame[17].wrapping_add_signed(by);
    let udp = |len: u8| move |frame: &mut Vec<u8>| frame[39] = len;
    let all = 8 + PAYLOAD.len() as u8;
    vec![
        sealed_v4("total length beyond the frame", TRUNCATED, total(1)),
        sealed_v4("largest total length", TRUNCATED, |frame| frame[16..18].fill(0xff)),
        sealed_v4("total length of nothing", MALFORMED, |frame| frame[16..18].fill(0)),
        sealed_v4("total length less than a header", MALFORMED, |frame| frame[17] = 19),
        sealed_v4("no room for a UDP header", MALFORMED, |frame| frame[17] = 27),
        sealed_v4("total length less than that of UDP", MALFORMED, total(-1)),
        sealed_v4("UDP length of nothing", MALFORMED, udp(0)),
        sealed_v4("UDP length less than a header", MALFORMED, udp(7)),
        sealed_v4("UDP length beyond the packet", MALFORMED, udp(all + 1)),
        sealed_v4("largest UDP length", MALFORMED, |frame| frame[38..40].fill(0xff)),
        sealed_v4("UDP length of a header", Relayed(vec![]), udp(8)),
        sealed_v4("UDP length less than the packet", Relayed(PAYLOAD[..26].to_vec()), udp(all - 1)),
        sealed_v4("a header of 16 bytes", MALFORMED, |frame| frame[14] = 0x44),
        sealed_v4("a header of no bytes", MALFORMED, |frame| frame[14] = 0x40),
        sealed_v4("a header longer than the packet", MALFORMED, |frame| (frame[14], frame[17]) = (0x4f, 59)),
        sealed_v4("a header longer than the frame", TRUNCATED, |frame| (frame[14], frame[17]) = (0x4f, 99)),
        sealed_v4("version 6", MALFORMED, |frame| frame[14] = 0x65),
        sealed_v4("version 0", MALFORMED, |frame| frame[14] = 0x05),
        spoiled_v4("cut behind the UDP header", TRUNCATED, |frame| frame.truncate(42)),
        spoiled_v4("cut by a byte", TRUNCATED, |frame| _ = frame.pop()),
        spoiled_v4("cut in the UDP header", TRUNCATED, |frame| frame.truncate(37)),
        spoiled_v4("cut behind the IPv4 header", TRUNCATED, |frame| frame.truncate(34)),
        spoiled_v4("cut in the IPv4 header", LeftOut("malformed"), |frame| frame.truncate(33)),
        spoiled_v4("cut before the protocol", Unseen, |frame| frame.truncate(23)),
        spoiled_v4("cut behind the Ethernet header", Unseen, |frame| frame.truncate(14)),
    ]
}

fn lengths_v6() -> Vec<Case> {
    let payload = |len: u8| move |frame: &mut Vec<u8>| frame[19] = len;
    let udp = |len: u8| move |frame: &mut Vec<u8>| frame[59] = len;
    let all = 8 + PAYLOAD.len() as u8;
    vec![
        sealed_v6("payload length beyond the frame", TRUNCATED, payload(all + 1)),
        sealed_v6("payload length of nothing", MALFORMED, payload(0)),
        sealed_v6("no room for a UDP header", MALFORMED, payload(7)),
        sealed_v6("payload length less than that of UDP", MALFORMED, payload(all - 1)),
        sealed_v6("UDP length of nothing", MALFORMED, udp(0)),
        sealed_v6("UDP length beyond the packet", MALFORMED, udp(all + 1)),
        sealed_v6("UDP length of a header", Relayed(vec![]), udp(8)),
        sealed_v6("UDP length less than the packet", Relayed(PAYLOAD[..26].to_vec()), udp(all - 1)),
        sealed_v6("version 4", MALFORMED, |frame| frame[14] = 0x45),
        spoiled_v6("cut by a byte", TRUNCATED, |frame| _ = frame.pop()),
        spoiled_v6("cut behind the IPv6 header", TRUNCATED, |frame| frame.truncate(54)),
        spoiled_v6("cut in the IPv6 header", LeftOut("malformed"), |frame| frame.truncate(53)),
        spoiled_v6("cut before the next header", Unseen, |frame| frame.truncate(20)),
    ]
}

fn options_and_extensions() -> Vec<Case> {
    let options = |options: &[u8]| with_options(&good(PAYLOAD), options);
    let v6 = frame(group_v6(), PAYLOAD);
    let extended = |extensions: &[(u8, &[u8])]| extended(&v6, extensions);
    let (pad, more): (&[u8], &[u8]) =
        (&[0, 1, 4, 0, 0, 0, 0], &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut authenticated = vec![0; 23];
    authenticated[0] = 4;
    vec![
        ("router alert", options(&[148, 4, 0, 0]), whole()),
        ("no operations, and the end", options(&[1, 1, 1, 0]), whole()),
        ("40 bytes of options", options(&[[7, 39, 4].as_slice(), &[0; 37]].concat()), whole()),
        ("options that are nonsense", options(&[255; 12]), whole()),
        (
            "options, and damage",
            spoiled(options(&[1; 8]), |frame| *frame.last_mut().unwrap() ^= 1),
            BAD_CHECKSUM,
        ),
        ("destination options", extended(&[(60, pad)]), whole()),
        ("hop-by-hop and more options", extended(&[(0, more), (60, pad), (60, more)]), whole()),
        ("more than are looked at in the kernel", extended(&[(60, pad); 9]), whole()),
        ("authentication", extended(&[(51, &authenticated)]), whole()),
        ("a whole one as a fragment", extended(&[(44, &[0, 0, 0, 0, 0, 0, 7])]), whole()),
        (
            "an extension beyond the packet",
            spoiled(extended(&[(60, pad)]), |frame| frame[55] = 99),
            MALFORMED,
        ),
        ("no next header", spoiled(v6.clone(), |frame| frame[20] = 59), Unseen),
        ("encryption", spoiled(v6.clone(), |frame| frame[20] = 50), Unseen),
        ("behind extensions, ICMP", spoiled(extended(&[(60, pad)]), |frame| frame[54] = 58), Unseen),
    ]
}

fn fragments_without_end() -> Vec<Case> {
    let large: Vec<_> = (0..3_000).map(|i| i as u8).collect();
    let parts = |identification| fragments(&good(&large), identification);
    let flagged =
        |flags: u8, offset: u8| move |frame: &mut Vec<u8>| frame[20..22].copy_from_slice(&[flags, offset]);
    let identified = |identification: u8, change: fn(&mut Vec<u8>)| {
        move |frame: &mut Vec<u8>| {
            frame[18..20].copy_from_slice(&[0x77, identification]);
            change(frame);
        }
    };
    let part_v6 = |i: usize| fragments_v6(&frame(group_v6(), &large), 1_440, 9).swap_remove(i);
    vec![
        ("a first fragment", parts(1).swap_remove(0), Unseen),
        ("a middle fragment", parts(2).swap_remove(1), Unseen),
        ("a last fragment", parts(3).swap_remove(2), Unseen),
        ("one that overlaps the first", sealed(parts(1).swap_remove(1), |frame| frame[21] -= 1), Unseen),
        sealed_v4(
            "one that ends beyond 65,535",
            Unseen,
            identified(1, |frame| frame[20..22].copy_from_slice(&[0x1f, 0xff])),
        ),
        sealed_v4("one of 7 bytes", Unseen, identified(2, |frame| (frame[17], frame[20]) = (27, 0x20))),
        sealed_v4("of TCP", Unseen, |frame| (frame[20], frame[23]) = (0x20, 6)),
        sealed_v4("a fragment longer than the frame", FRAGMENT, |frame| (frame[17], frame[20]) = (200, 0x20)),
        sealed_v4("a fragment with a header too short", MALFORMED, |frame| {
            (frame[14], frame[20]) = (0x44, 0x20);
        }),
        sealed_v4("not to be fragmented", whole(), flagged(0x40, 0)),
        sealed_v4("the reserved flag", whole(), flagged(0x80, 0)),
        ("a first fragment", part_v6(0), FRAGMENT),
        ("a middle fragment", part_v6(1), FRAGMENT),
        ("a last fragment", part_v6(2), FRAGMENT),
    ]
}

fn link_layer(topology: &Topology) -> Vec<Case> {
    let host = topology.ingress.mac();
    let to = |address: [u8; 6]| move |frame: &mut Vec<u8>| frame[..6].copy_from_slice(&address);
    let padded = |count: usize, with: u8| move |frame: &mut Vec<u8>| frame.extend(vec![with; count]);
    let plain = good(PAYLOAD);
    let service =
        |tag: u16| spoiled(tagged(&plain, tag), |frame| frame[12..14].copy_from_slice(&[0x88, 0xa8]));
    let snap = [&plain[..12], &[0, 63, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &plain[14..]].concat();
    vec![
        spoiled_v4("padding", whole(), padded(5, 0)),
        spoiled_v4("padding of nonsense", whole(), padded(1_000, 0xa5)),
        spoiled_v6("padding", whole(), padded(7, 0x5a)),
        ("an empty payload, padded", spoiled(good(b""), padded(18, 7)), Relayed(vec![])),
        ("a priority", tagged(&plain, 0xe000), whole()),
        ("a priority of a provider", service(0x2000), whole()),
        ("a VLAN", tagged(&plain, 5), Unseen),
        ("a VLAN of a provider", service(0xe005), Unseen),
        ("a VLAN in a VLAN", tagged(&tagged(&plain, 5), 6), Unseen),
        ("a VLAN in a priority", tagged(&tagged(&plain, 5), 0xe000), Unseen),
        ("a tag and nothing", spoiled(tagged(&plain, 0), |frame| frame.truncate(18)), Unseen),
        ("IEEE 802.3", snap, Unseen),
        (
            "another ethertype",
            spoiled(plain.clone(), |frame| frame[12..14].copy_from_slice(&[0x88, 0xb5])),
            Unseen,
        ),
        spoiled_v4("an IPv4 packet as IPv6", Foreign("malformed"), |frame| {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            // Where the next header would be.
            frame[20] = 17;
        }),
        spoiled_v4("the host's own address", whole(), to(host)),
        spoiled_v4("broadcast", whole(), to([0xff; 6])),
        spoiled_v4("the address of another group", whole(), to([1, 0, 0x5e, 1, 2, 3])),
        spoiled_v4("another host's address", Unseen, to([2, 0, 0, 0, 0, 99])),
        ("a unicast datagram to a group's address", unicast(topology, to([1, 0, 0x5e, 81, 1, 1])), whole()),
        ("a unicast datagram as broadcast", unicast(topology, to([0xff; 6])), whole()),
        ("a unicast datagram to another host's address", unicast(topology, to([2, 0, 0, 0, 0, 99])), Unseen),
    ]
}

/// A datagram to the relay's own address.
fn unicast(topology: &Topology, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    spoiled(frame((topology.ingress.address(), PORT).into(), PAYLOAD), change)
}

fn addresses_and_protocols() -> Vec<Case> {
    let protocol = |number: u8| move |frame: &mut Vec<u8>| frame[23] = number;
    let source = |address: [u8; 4]| move |frame: &mut Vec<u8>| frame[26..30].copy_from_slice(&address);
    let arp = ethernet(pnet_base::MacAddr::broadcast(), pnet_packet::ethernet::EtherTypes::Arp, &[0; 28]);
    vec![
        sealed_v4("TCP", Unseen, protocol(6)),
        sealed_v4("ICMP", Unseen, protocol(1)),
        sealed_v4("IGMP", Unseen, protocol(2)),
        sealed_v4("UDP-Lite", Unseen, protocol(136)),
        ("ARP", arp, Unseen),
        sealed_v4("no source", whole(), source([0; 4])),
        sealed_v4("a source of the loopback network", whole(), source([127, 0, 0, 1])),
        sealed_v4("a group as source", whole(), source([239, 1, 1, 1])),
        sealed_v4("no time to live", whole(), |frame| frame[22] = 0),
        sealed_v4("no source port", whole(), |frame| frame[34..36].fill(0)),
        sealed_v4("no destination port", NO_RULE, |frame| frame[36..38].fill(0)),
        sealed_v4("another group", NO_RULE, |frame| frame[33] += 1),
        sealed_v6("another group", NO_RULE, |frame| frame[53] += 1),
        sealed_v6("another port", NO_RULE, |frame| frame[57] += 1),
    ]
}

over_every_path!(every_bad_frame_has_its_fate_and_costs_no_good_one);

fn every_bad_frame_has_its_fate_and_costs_no_good_one(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    // A host without IPv6 cannot join an IPv6 group.
    topology.relay_namespace().set_sysctl("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    let cases: Vec<Case> = [
        checksums(),
        lengths_v4(),
        lengths_v6(),
        options_and_extensions(),
        fragments_without_end(),
        link_layer(topology),
        addresses_and_protocols(),
    ]
    .concat();
    fates(topology, path, &cases, true);
    fates(topology, path, &cases, false);
}

/// Sends each case between two good datagrams to a relay with or without the filter by its rules.
fn fates(topology: &Topology, path: Path, cases: &[Case], has_filter: bool) {
    let rules = [
        rule(topology),
        format!("ingress:[{}]:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0", group_v6().ip()),
        format!("ingress:{}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0", topology.ingress.address()),
    ];
    let mut arguments: Vec<_> = rules.iter().flat_map(|rule| ["--rule", rule]).collect();
    arguments.extend((!has_filter).then_some("--no-rule-filter"));
    let relay = Relay::start(topology, path, &arguments);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let (mut received, mut relayed, mut foreign) = (0, 0, 0);
    let mut dropped = BTreeMap::<String, u64>::new();
    for (i, (what, frame, fate)) in cases.iter().enumerate() {
        eprintln!("{what}: {fate:?}");
        let (before, behind) = (format!("good before {i}"), format!("good behind {i}"));
        injector.send(&good(before.as_bytes()));
        injector.send(frame);
        injector.send(&good(behind.as_bytes()));
        let mut expected = vec![before.into_bytes(), behind.into_bytes()];
        let cause = match fate {
            Relayed(payload) => {
                expected.push(payload.clone());
                None
            }
            Dropped(cause) => Some(*cause),
            Foreign(cause) | LeftOut(cause) => (!has_filter).then_some(*cause),
            Unseen => None,
        };
        relayed += expected.len() as u64;
        foreign += u64::from(has_filter && matches!(fate, Foreign(_)));
        received = relayed + dropped.values().sum::<u64>() + u64::from(cause.is_some());
        if let Some(cause) = cause {
            *dropped.entry(cause.to_owned()).or_default() += 1;
        }
        // Workers that share the flows keep the order of each, not that among them.
        let mut arrived = receive(&sink, expected.len());
        arrived.sort();
        expected.sort();
        assert_eq!(arrived, expected, "{what}: {frame:02x?}");
        let stats = relay.stats_when(|stats| stats.received >= received && stats.balance().is_ok());
        stats.consistent().unwrap();
        assert_eq!((&stats.dropped, stats.relayed), (&dropped, relayed), "{what}: {frame:02x?}");
        assert_eq!(stats.inputs[0].foreign, foreign, "{what}: {frame:02x?}");
    }
    let stats = relay.stop();
    assert!(is_empty(&sink), "nothing else came through");
    assert_eq!((stats.received, stats.relayed, stats.dropped), (received, relayed, dropped));
}
