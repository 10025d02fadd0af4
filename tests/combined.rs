//! What rules can say, together.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use lab::topology::{Family, Topology};
use support::sources::{frame_from, sender};
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, good, network, receive, sink, tagged,
};

fn start(topology: &Topology, path: Path, rules: &str) -> (Relay, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(rules.as_bytes()).unwrap();
    (Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]), file)
}

/// Source, destination and payload of an IPv4 frame without options.
fn parts(frame: &[u8]) -> (SocketAddr, SocketAddr, u8) {
    let address = |at: usize, port: usize| {
        let octets: [u8; 4] = frame[at..at + 4].try_into().unwrap();
        SocketAddr::from((octets, u16::from_be_bytes([frame[port], frame[port + 1]])))
    };
    (address(26, 34), address(30, 36), frame[42])
}

over_every_path!(a_range_keeps_sources_and_takes_a_vlan);

fn a_range_keeps_sources_and_takes_a_vlan(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let rules = "[[rule]]\n\
        input = { interface = \"ingress\", group = \"239.81.2.0/28\", port = \"5000-5003\", vlan = 5 }\n\
        outputs = [{ group = \"239.82.2.0/28\", port = \"6000-6003\", interface = \"egress0\", source = \"preserve\", \
        ttl = \"decrement\" }]\n";
    let (relay, _file) = start(topology, path, rules);
    let mut tap = Tap::new(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let mut expected = BTreeSet::new();
    for number in 0..60_u8 {
        let (host, port, source) = (number % 16, u16::from(number % 4), sender(usize::from(number % 7)));
        let to = |group: u8, first: u16| SocketAddr::from((Ipv4Addr::new(239, group, 2, host), first + port));
        let mut frame = frame_from(source, to(81, 5_000), &[number; 40]);
        injector.send(&frame);
        frame = support::changed(frame, |frame| frame[22] = 9);
        injector.send(&tagged(&frame, 5));
        injector.send(&tagged(&frame, 6));
        expected.insert((source, to(82, 6_000), number));
    }
    let arrived: Vec<_> = (0..60).map(|_| tap.next_udp()).collect();
    assert_eq!(arrived.iter().map(|frame| parts(frame)).collect::<BTreeSet<_>>(), expected);
    assert!(arrived.iter().all(|frame| frame[22] == 8), "a hop less");
    assert_eq!(relay.stop().relayed, 60);
}

over_every_path!(one_leg_is_in_a_vlan);

fn one_leg_is_in_a_vlan(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let leg = |more: &str| {
        format!(
            "[[rule]]\ninput = {{ interface = \"ingress\", group = \"{GROUP}\", port = {PORT}{more} }}\n\
             outputs = [{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"egress0\" }}]\n\
             dedupe = {{ stream = \"one\", key = \"content\", window-ms = 4000 }}\n"
        )
    };
    let (relay, _file) = start(topology, path, &(leg("") + &leg(", vlan = 7")));
    let mut injector = Injector::new(&topology.generator);
    for number in 0..100_u8 {
        if number % 3 != 0 {
            injector.send(&good(&[number; 20]));
        }
        if number % 3 != 1 {
            injector.send(&tagged(&good(&[number; 20]), 7));
        }
    }
    let arrived: BTreeSet<_> = receive(&sink, 100).into_iter().map(|payload| payload[0]).collect();
    assert_eq!(arrived.len(), 100, "each once");
    let missing = |stats: &multicast_relay::stats::Stats| {
        stats.rules.iter().map(|rule| rule.leg.as_ref().unwrap().missing).collect::<Vec<_>>()
    };
    let stats = relay.stats_when(|stats| missing(stats).iter().sum::<u64>() == 67);
    assert_eq!(missing(&stats), [34, 33]);
    relay.stop();
}
