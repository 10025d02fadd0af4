//! What copies carry in their IP header: time to live and code point as each output says, and fragments where it allows them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};

use lab::topology::{Family, Topology};
use multicast_relay::stats::Stats;
use support::{GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, frame, good, network};

/// From MTU 1,500, so that it arrives in fragments.
const LARGE: usize = 3_000;

/// A relay with one rule, whose outputs are tables of TOML without an interface.
fn start(topology: &Topology, path: Path, group: &str, outputs: &[&str]) -> (Relay, tempfile::NamedTempFile) {
    let (ingress, egress) = (topology.ingress.device(), topology.egress[0].device());
    let outputs: Vec<_> =
        outputs.iter().map(|output| format!("{{ interface = \"{egress}\", {output} }}")).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "[[rule]]\ninput = {{ interface = \"{ingress}\", group = \"{group}\", port = {PORT} }}\noutputs = [{}]",
        outputs.join(", ")
    )
    .unwrap();
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    (relay, file)
}

/// Time to live, traffic class and first payload byte of what arrived at each port, in order.
type Headers = BTreeMap<u16, Vec<(u8, u8, u8)>>;

fn arrived(tap: &mut Tap, count: usize) -> Headers {
    let mut headers = Headers::new();
    for _ in 0..count {
        let frame = tap.next_udp();
        let (ttl, class, udp) = match frame[12..14] {
            [0x08, 0x00] => (frame[22], frame[15], 14 + 20),
            _ => (frame[21], frame[14] << 4 | frame[15] >> 4, 14 + 40),
        };
        let port = u16::from_be_bytes([frame[udp + 2], frame[udp + 3]]);
        headers.entry(port).or_default().push((ttl, class, frame[udp + 8]));
    }
    headers
}

/// What came in as these pairs of time to live and traffic class, numbered, leaves through four outputs.
const CAME_IN: [(u8, u8); 6] = [(1, 0), (2, 0xb8), (64, 0xbb), (64, 0xb8), (255, 0x20), (2, 0xb8)];

fn expected() -> Headers {
    let numbered = || (0..).zip(CAME_IN).map(|(number, (ttl, class))| (ttl, class, number));
    let keep = numbered().map(|(ttl, class, number)| (ttl, class & 0xfc, number)).collect();
    let decrement = numbered().filter(|(ttl, ..)| *ttl > 1).map(|(ttl, _, number)| (ttl - 1, 0, number));
    let fixed = numbered().map(|(_, _, number)| (9, 46 << 2, number)).collect();
    let default = numbered().map(|(_, _, number)| (64, 0, number)).collect();
    Headers::from([(6000, keep), (6001, decrement.collect()), (6002, fixed), (6003, default)])
}

fn outputs(group: &str) -> Vec<String> {
    let settings = ["ttl = \"keep\", dscp = \"keep\"", "ttl = \"decrement\"", "ttl = 9, dscp = 46", ""];
    let output = |(port, settings): (u16, &&str)| {
        let separator = if settings.is_empty() { "" } else { ", " };
        format!("group = \"{group}\", port = {port}{separator}{settings}")
    };
    (6000..).zip(&settings).map(output).collect()
}

/// Relays `CAME_IN`, each made a frame by `frame_of`, and looks at what leaves.
fn relay_all(
    family: Family,
    path: Path,
    groups: [&str; 2],
    frame_of: impl Fn(u8, u8, u8) -> Vec<u8>,
) -> Stats {
    let network = network(family, 1);
    let topology = &network.topology;
    let outputs = outputs(groups[1]);
    let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
    let (relay, _file) = start(topology, path, groups[0], &outputs);
    let mut tap = Tap::new(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    for (number, (ttl, class)) in (0..).zip(CAME_IN) {
        injector.send(&frame_of(ttl, class, number));
    }
    assert_eq!(arrived(&mut tap, 4 * CAME_IN.len() - 1), expected());
    relay.stop()
}

fn copies_carry_what_their_output_says(path: Path) {
    let frame_of = |ttl, class, number| {
        support::changed(good(&[number; 20]), |frame| {
            frame[15] = class;
            frame[22] = ttl;
        })
    };
    let groups = [GROUP.to_string(), OUT_GROUP.to_string()];
    let stats = relay_all(Family::Ipv4, path, [&groups[0], &groups[1]], frame_of);
    let dropped: Vec<_> = stats.rules[0].outputs.iter().map(|output| &output.dropped).collect();
    assert_eq!(*dropped[1], BTreeMap::from([("ttl_spent".to_owned(), 1)]));
    assert!(dropped[0].is_empty() && dropped[2].is_empty() && dropped[3].is_empty(), "{dropped:?}");
    stats.consistent().unwrap();
}
over_every_path!(copies_carry_what_their_output_says);

#[test]
#[ignore = "needs root: builds network namespaces"]
fn copies_of_ipv6_do_too() {
    let group: Ipv6Addr = "ff15::1".parse().unwrap();
    let frame_of = |ttl: u8, class: u8, number| {
        let mut frame = frame(SocketAddr::from((group, PORT)), &[number; 20]);
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4;
        frame[21] = ttl;
        frame
    };
    let stats = relay_all(Family::Ipv6, Path::MmapV3, ["ff15::1", "ff15::2"], frame_of);
    stats.consistent().unwrap();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_too_large_leaves_in_fragments_or_is_dropped_as_the_output_says() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = support::sink(&topology.sinks[0]);
    let output = format!("group = \"{OUT_GROUP}\", port = {OUT_PORT}");
    let whole = format!("{output}, fragment = false");
    let other = format!("group = \"{OUT_GROUP}\", port = 6001, fragment = false");
    for (output, arrives) in [(&output, true), (&whole, false)] {
        let (relay, _file) = start(topology, Path::MmapV3, &GROUP.to_string(), &[output, &other]);
        let mut injector = Injector::new(&topology.generator);
        for fragment in support::fragments(&good(&[7; LARGE]), 1) {
            injector.send(&fragment);
        }
        injector.send(&good(b"small"));
        let payloads = support::receive(&sink, if arrives { 2 } else { 1 });
        assert_eq!(payloads.last().unwrap(), b"small");
        assert_eq!(payloads.first().map(Vec::len), Some(if arrives { LARGE } else { 5 }));
        let stats = relay.stop();
        let too_large = |output: usize| stats.rules[0].outputs[output].dropped.get("too_large").copied();
        assert_eq!((too_large(0), too_large(1)), ((!arrives).then_some(1), Some(1)));
    }
}
