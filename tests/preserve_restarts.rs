//! Flows that keep their source, while workers and supervisors die and interfaces come and go.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lab::topology::{Family, Topology};
use multicast_relay::control::State;
use support::flow::paced;
use support::sources::{good_from, preserving, receive_from, sender, start};
use support::{
    DEADLINE, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, good, is_empty, kill, network, sink,
    wait_until,
};

/// From one datagram of the flow to the next. What has gathered meanwhile leaves in one burst, twice where there are two outputs, and
/// a device's backlog (`net.core.netdev_max_backlog`) holds 1,000 datagrams.
const PACE: Duration = Duration::from_micros(500);

/// Where the flow of the tests comes from.
const FLOW: ([u8; 4], u16) = ([10, 81, 0, 1], 4_000);

fn out() -> SocketAddr {
    (OUT_GROUP, OUT_PORT).into()
}

/// A sink that hears one sender only, so that a copy with another source is lost to it.
fn sink_of(topology: &Topology, number: usize, source: impl Into<SocketAddr>) -> UdpSocket {
    let port = &topology.sinks[number];
    let IpAddr::V4(address) = port.address() else { panic!("an IPv4 network") };
    let open = || {
        // One that is bound to no address takes one of its host's when it is connected.
        let sink = UdpSocket::bind(out()).unwrap();
        sink.join_multicast_v4(&OUT_GROUP, &address).unwrap();
        socket2::SockRef::from(&sink).set_recv_buffer_size(4 << 20).unwrap();
        sink.connect(source.into()).unwrap();
        sink.set_read_timeout(Some(DEADLINE)).unwrap();
        sink
    };
    port.namespace().run(open).unwrap()
}

over_every_path!(a_worker_that_dies_loses_no_source);

fn a_worker_that_dies_loses_no_source(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink_of(topology, 0, FLOW);
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0")]);
    let (sent, arrived) = paced(PACE, topology, &sink, |flow| {
        for signal in [libc::SIGKILL, libc::SIGABRT] {
            flow.goes_on(1_000);
            let before = relay.workers();
            kill(before[0], signal);
            wait_until("another worker is started", || {
                let now = relay.workers();
                now.len() == before.len() && !now.contains(&before[0])
            });
            flow.goes_on(1_500);
        }
    });
    let stats = relay.stop();
    let lost = u64::from(sent) - arrived.len() as u64;
    let abandoned: u64 = stats.inputs.iter().map(|input| input.abandoned).sum();
    let dropped = &stats.rules[0].outputs[0].dropped;
    if path.is_by_ring() {
        assert_eq!((lost, abandoned), (0, 0), "{stats:?}");
    } else {
        // It may have died between two counts.
        let uncounted = stats.inputs[0].frames - stats.inputs[0].received;
        let interrupted = dropped.get("interrupted").unwrap_or(&0);
        assert!(lost <= abandoned + uncounted + interrupted, "{lost} lost: {stats:?}");
    }
    assert!(dropped.keys().all(|name| name == "interrupted"), "{dropped:?}");
    assert_eq!(stats.inputs[0].captured, u64::from(sent));
}

over_every_path!(another_supervisor_opens_sockets_for_sources_that_are_new_to_it);

fn another_supervisor_opens_sockets_for_sources_that_are_new_to_it(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let outputs = [preserving(out(), "egress0"), preserving(out(), "egress1")];
    let (mut relay, file) = start(topology, path, None, &outputs);
    let (sink, other) = (sink_of(topology, 0, FLOW), sink_of(topology, 1, sender(1)));
    let arguments = ["--config", file.path().to_str().unwrap()];
    let (sent, arrived) = paced(PACE, topology, &sink, |flow| {
        flow.goes_on(1_000);
        relay.end_supervisor();
        flow.goes_on(1_000);
        relay.start_again(topology, &arguments);
        Injector::new(&topology.generator).send(&good_from(sender(1), b"new"));
        assert_eq!(receive_from(&other, 1), BTreeMap::from([(sender(1), vec![b"new".to_vec()])]));
        flow.goes_on(1_000);
    });
    assert_eq!(arrived.len(), sent as usize, "nothing is lost");
    assert!(arrived.values().all(|times| *times == 1), "and nothing is sent twice");
    let stats = relay.stop();
    let relayed: Vec<_> = stats.rules[0].outputs.iter().map(|output| output.relayed).collect();
    assert_eq!(relayed, [u64::from(sent) + 1, u64::from(sent) + 1]);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_a_supervisor_known_sources_go_on_and_new_ones_wait_for_the_next() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let (mut relay, file) = start(topology, Path::MmapV3, None, &[preserving(out(), "egress0")]);
    let mut injector = Injector::new(&topology.generator);
    let mut relayed = |source: SocketAddr| {
        injector.send(&good_from(source, b"x"));
        assert_eq!(receive_from(&sink, 1).into_keys().collect::<Vec<_>>(), [source]);
    };
    relayed(sender(1));
    relay.end_supervisor();
    Injector::new(&topology.generator).send(&good_from(sender(2), b"in vain, or not"));
    relayed(sender(1));
    relay.start_again(topology, &["--config", file.path().to_str().unwrap()]);
    // What has waited too long by then is counted.
    let stats = relay.stats_when(|stats| stats.balance().is_ok());
    let pending = stats.rules[0].outputs[0].dropped.get("source_pending").copied().unwrap_or_default();
    assert_eq!(stats.relayed + pending, 3, "{stats:?}");
    if pending == 0 {
        receive_from(&sink, 1);
    }
    relayed(sender(2));
    relayed(sender(3));
    relay.stop();
}

over_every_path!(what_waits_when_the_relay_is_told_to_end_still_leaves);

fn what_waits_when_the_relay_is_told_to_end_still_leaves(path: Path) {
    const SENDERS: usize = 100;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0")]);
    let mut injector = Injector::new(&topology.generator);
    // It hears that it is to end before it hears that sockets are wanted.
    kill(relay.pid(), libc::SIGSTOP);
    for number in 0..SENDERS {
        injector.send(&good_from(sender(number), &[number as u8]));
    }
    kill(relay.pid(), libc::SIGTERM);
    kill(relay.pid(), libc::SIGCONT);
    let stats = relay.stop();
    assert_eq!((stats.matched, stats.relayed), (SENDERS as u64, SENDERS as u64), "{stats:?}");
    let expected = (0..SENDERS).map(|number| (sender(number), vec![vec![number as u8]]));
    assert_eq!(receive_from(&sink, SENDERS), expected.collect());
}

over_every_path!(an_output_that_goes_down_and_comes_up_keeps_sources_again);

fn an_output_that_goes_down_and_comes_up_keeps_sources_again(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0")]);
    let (injector, tap) =
        (RefCell::new(Injector::new(&topology.generator)), RefCell::new(Tap::new(&topology.sinks[0])));
    let relayed = |relay: &Relay| relay.stats().relayed;
    let arrives = || {
        let before = relayed(&relay);
        wait_until("a copy leaves", || {
            injector.borrow_mut().send(&good(b"x"));
            relayed(&relay) > before
        });
        let frame = tap.borrow_mut().next_udp();
        assert_eq!((&frame[26..30], &frame[34..36]), (&FLOW.0[..], &FLOW.1.to_be_bytes()[..]));
    };
    for _ in 0..5 {
        arrives();
        topology.egress[0].set_up(false).unwrap();
        injector.borrow_mut().send(&good(b"dropped"));
        topology.egress[0].set_up(true).unwrap();
    }
    arrives();
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn with_an_output_that_is_made_anew_go_its_sockets() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, Path::MmapV3, None, &[preserving(out(), "late")]);
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let of_worker = || descriptors(relay.workers()[0]);
    let state = || relay.rules()[0].outputs[0].state;
    let run = |lines: &[&str]| {
        let ip = |line: &&str| assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success());
        topology.relay_namespace().run(|| lines.iter().for_each(ip)).unwrap();
    };
    let mut injector = Injector::new(&topology.generator);
    let mut before = None;
    for _ in 0..10 {
        run(&["link add late type veth peer name peer", "link set peer up", "link set late up"]);
        run(&["addr add 10.99.0.1/24 dev late", "route add 224.0.0.0/4 dev late"]);
        wait_until("the output is there", || state() == State::Relaying);
        let mut tap = topology.relay_namespace().run(|| Tap::on("peer")).unwrap();
        for number in 0..20 {
            injector.send(&good_from(sender(number), b"x"));
            assert_eq!(tap.next_udp()[28..30], [1, number as u8]);
        }
        run(&["link del late"]);
        wait_until("the output waits", || state() == State::Waiting);
        let now = of_worker();
        assert_eq!(now, *before.get_or_insert(now));
    }
    assert_eq!(relay.stop().relayed, 200);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_that_is_taken_out_takes_its_sources_along() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let (relay, file) = start(topology, Path::MmapV3, None, &[preserving(out(), "egress0")]);
    let mut injector = Injector::new(&topology.generator);
    let file = file.path().to_str().unwrap();
    for round in 0..20_usize {
        // Some may still wait when the rule goes.
        (0..50).for_each(|number| injector.send(&good_from(sender(number), &[round as u8])));
        relay.run(&["remove", "r"]);
        relay.run(&["add", "--file", file]);
        assert!(relay.run(&["list"]).contains("source preserve"));
        assert!(relay.run(&["list", "--format", "toml"]).contains("source = \"preserve\""));
        relay.stats().consistent().unwrap();
    }
    let stats = relay.stop();
    assert_eq!(stats.removed.matched, stats.removed.relayed + stats.removed.dropped.values().sum::<u64>());
    let arrived = receive_from(&sink, stats.relayed as usize);
    assert!(
        arrived.keys().all(|source| source.port() == 5_353 && source.ip() != topology.egress[0].address())
    );
    assert!(is_empty(&sink) && PORT != 5_353);
}
