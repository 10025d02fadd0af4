//! Copies that keep their source: address and port arrive as they came, from however many senders, in order and in trains.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use lab::topology::{Checksum, Family, Link, Segmentation};
use multicast_relay::worker::egress::MAX_SENDERS;
use support::in_process::{self, PATHS};
use support::sources::{frame_from, good_from, preserving, receive_from, sender, start};
use support::{
    DEADLINE, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Tap, fragments, good, is_empty, kill, network,
    network_of, receive, sink, wait_until,
};

/// Longer than a source must be silent to make room for another one.
const SILENCE: Duration = Duration::from_millis(1_200);

fn out() -> SocketAddr {
    (OUT_GROUP, OUT_PORT).into()
}

over_every_path!(sources_and_ports_arrive_as_they_came);

fn sources_and_ports_arrive_as_they_came(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let plain = format!("{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"egress1\" }}");
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0"), plain]);
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
    let sources: [SocketAddr; 5] =
        ["10.81.0.1:4000", "10.81.0.1:4001", "10.81.0.9:4000", "192.0.2.7:319", "203.0.113.1:65535"]
            .map(|source| source.parse().unwrap());
    let mut injector = Injector::new(&topology.generator);
    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for number in 0..50_u8 {
        let source = sources[usize::from(number) % sources.len()];
        let payload = vec![number; [100, 300][usize::from(number / 25)]];
        injector.send(&good_from(source, &payload));
        expected.entry(source).or_default().push(payload);
    }
    assert_eq!(receive_from(&sinks[0], 50), expected, "the first of each too");
    let plain = receive_from(&sinks[1], 50);
    assert_eq!(plain.keys().map(SocketAddr::ip).collect::<Vec<_>>(), [topology.egress[1].address()]);
    let stats = relay.stop();
    for output in &stats.rules[0].outputs {
        assert_eq!((output.relayed, output.dropped.len()), (50, 0), "{output:?}");
    }
    assert!(sinks.iter().all(is_empty));
}

over_every_path!(sources_of_ipv6_do_too);

fn sources_of_ipv6_do_too(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let [group, out_group]: [Ipv6Addr; 2] =
        ["ff15::81:0:1", "ff15::82:0:1"].map(|group| group.parse().unwrap());
    let sink = topology.sinks[0].namespace().run(|| member(out_group, topology.sinks[0].index())).unwrap();
    let outputs = [preserving((out_group, OUT_PORT).into(), "egress0")];
    let (relay, _file) = start(topology, path, Some(group.into()), &outputs);
    let sources: [SocketAddr; 3] =
        ["[fd81::1]:4000", "[fd81::9]:4000", "[2001:db8::7]:320"].map(|source| source.parse().unwrap());
    let mut injector = Injector::new(&topology.generator);
    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for number in 0..30_u8 {
        let source = sources[usize::from(number) % sources.len()];
        injector.send(&frame_from(source, (group, PORT).into(), &[number; 100]));
        expected.entry(source).or_default().push(vec![number; 100]);
    }
    assert_eq!(receive_from(&sink, 30), expected);
    // On another link it would be another host's.
    let link_local = "[fe80::9]:4000".parse().unwrap();
    injector.send(&frame_from(link_local, (group, PORT).into(), b"x"));
    relay.stats_when(|stats| stats.rules[0].outputs[0].dropped.get("source_refused") == Some(&1));
    assert_eq!(relay.stop().relayed, 30);
}

/// A socket of the calling thread's namespace that has joined the group on the interface of this index.
fn member(group: Ipv6Addr, interface: u32) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, OUT_PORT)).unwrap();
    socket.join_multicast_v6(&group, interface).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

over_every_path!(sources_that_take_turns_keep_their_order_and_leave_in_trains);

fn sources_that_take_turns_keep_their_order_and_leave_in_trains(path: Path) {
    const EACH: usize = 100;
    let (segmentation, checksum, family) = (Segmentation::Offload, Checksum::Offload, Family::Ipv4);
    let network = network_of(Link { mtu: 1500, segmentation, checksum, family }, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0")]);
    let mut tap = Tap::new(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let sources = [sender(1), sender(2)];
    for source in sources {
        injector.send(&good_from(source, b"known from now on"));
        tap.next_udp();
    }
    // All wait together.
    let processes = [vec![relay.pid()], relay.workers()].concat();
    for process in &processes {
        kill(*process, libc::SIGSTOP);
    }
    for number in 0..EACH {
        for source in sources {
            injector.send(&good_from(source, &[number as u8; 100]));
        }
    }
    processes.iter().rev().for_each(|process| kill(*process, libc::SIGCONT));
    let (mut arrived, mut frames) = (BTreeMap::<SocketAddr, Vec<u8>>::new(), 0);
    while arrived.values().map(Vec::len).sum::<usize>() < 2 * EACH * 100 {
        let frame = tap.next_udp();
        let address: [u8; 4] = frame[26..30].try_into().unwrap();
        let source = (address, u16::from_be_bytes([frame[34], frame[35]])).into();
        arrived.entry(source).or_default().extend(&frame[42..]);
        frames += 1;
    }
    let expected: Vec<_> = (0..EACH).flat_map(|number| [number as u8; 100]).collect();
    assert_eq!(arrived.keys().copied().collect::<Vec<_>>(), sources);
    assert!(arrived.values().all(|bytes| *bytes == expected), "in order");
    assert!(frames <= EACH, "{frames} frames for {} datagrams", 2 * EACH);
    assert_eq!(relay.stop().relayed, 2 * EACH as u64 + 2);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_other_settings_of_an_output_hold_too() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let with = |settings: &str, port: u16| {
        let to = (OUT_GROUP, port).into();
        preserving(to, "egress0").replace(" }", &format!(", {settings} }}"))
    };
    let outputs = [with("ttl = 9, dscp = 46", 6000), with("ttl = \"keep\", fragment = false", 6001)];
    let (relay, _file) = start(topology, Path::MmapV3, None, &outputs);
    let mut tap = Tap::new(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    injector.send(&good_from(sender(1), b"x"));
    let mut headers = BTreeMap::new();
    for _ in 0..2 {
        let frame = tap.next_udp();
        let dont_fragment = frame[20] & 0x40 != 0;
        headers.insert(u16::from_be_bytes([frame[36], frame[37]]), (frame[22], frame[15], dont_fragment));
    }
    // Whoever makes fragments on the way tells nobody but the source.
    assert_eq!(headers, BTreeMap::from([(6000, (9, 46 << 2, false)), (6001, (1, 0, true))]));
    for fragment in fragments(&good_from(sender(1), &[7; 3_000]), 1) {
        injector.send(&fragment);
    }
    let stats = relay.stats_when(|stats| stats.matched == 2 && stats.balance().is_ok());
    assert_eq!(stats.rules[0].outputs[0].relayed, 2);
    assert_eq!(stats.rules[0].outputs[1].dropped, BTreeMap::from([("too_large".to_owned(), 1)]));
    relay.stop();
}

over_every_path!(any_number_of_senders_of_one_datagram_each_gets_through);

fn any_number_of_senders_of_one_datagram_each_gets_through(path: Path) {
    const SENDERS: usize = 5_000;
    /// As many at once, and as many before some are silent.
    const BURST: usize = 200;
    const ROUND: usize = 1_000;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, path, None, &[preserving(out(), "egress0")]);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let senders: Vec<_> = (0..SENDERS).map(sender).collect();
    for round in senders.chunks(ROUND) {
        for burst in round.chunks(BURST) {
            for source in burst {
                injector.send(&good_from(*source, source.to_string().as_bytes()));
            }
            let expected = burst.iter().map(|source| (*source, vec![source.to_string().into_bytes()]));
            assert_eq!(receive_from(&sink, burst.len()), expected.collect());
        }
        sleep(SILENCE);
    }
    for worker in relay.workers() {
        let descriptors = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
        assert!(descriptors < MAX_SENDERS + 50, "{descriptors} descriptors");
    }
    let stats = relay.stop();
    assert_eq!((stats.relayed, stats.rules[0].outputs[0].dropped.len()), (SENDERS as u64, 0));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn more_senders_at_a_time_than_there_can_be_are_counted_and_disturb_none() {
    const MORE: usize = 100;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, Path::MmapV3, None, &[preserving(out(), "egress0")]);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let mut send = |number: usize| injector.send(&good_from(sender(number), &(number as u32).to_be_bytes()));
    for burst in (0..MAX_SENDERS).collect::<Vec<_>>().chunks(128) {
        burst.iter().copied().for_each(&mut send);
        assert_eq!(receive_from(&sink, burst.len()).len(), burst.len());
    }
    // All wait together, so that none has been silent for a second when more come.
    let processes = [vec![relay.pid()], relay.workers()].concat();
    for process in &processes {
        kill(*process, libc::SIGSTOP);
    }
    (0..MAX_SENDERS + MORE).for_each(&mut send);
    processes.iter().rev().for_each(|process| kill(*process, libc::SIGCONT));
    let arrived = receive_from(&sink, MAX_SENDERS);
    assert_eq!(arrived.len(), MAX_SENDERS);
    assert!(
        arrived.keys().eq((0..MAX_SENDERS).map(sender).collect::<std::collections::BTreeSet<_>>().iter())
    );
    let stats = relay.stop();
    let dropped = BTreeMap::from([("too_many_sources".to_owned(), MORE as u64)]);
    assert_eq!(stats.rules[0].outputs[0].dropped, dropped);
    assert!(is_empty(&sink));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn sources_that_cannot_be_kept_are_counted_and_the_reason_is_told_once() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (relay, _file) = start(topology, Path::MmapV3, None, &[preserving(out(), "egress0")]);
    let sink = sink(&topology.sinks[0]);
    let own = topology.egress[0].address();
    // A program of the relay's host has that port on all addresses.
    let bind = || UdpSocket::bind("0.0.0.0:7777").unwrap();
    let program = topology.relay_namespace().run(bind).unwrap();
    let refused = |injector: &mut Injector, sources: &[SocketAddr], before: u64| {
        for source in sources {
            injector.send(&good_from(*source, b"refused"));
        }
        let all = before + sources.len() as u64;
        relay.stats_when(|stats| stats.rules[0].outputs[0].dropped.get("source_refused") == Some(&all));
        all
    };
    let mut injector = Injector::new(&topology.generator);
    let no_hosts = ["169.254.3.4:9", "0.0.0.0:68", "239.9.9.9:9", "127.0.0.1:9", "10.81.0.1:0"];
    let all = refused(&mut injector, &no_hosts.map(|source| source.parse().unwrap()), 0);
    let all = refused(&mut injector, &[(own, 9).into(), (own, 10).into(), (own, 9).into()], all);
    refused(&mut injector, &[([10, 81, 0, 1], 7777).into(), ([10, 81, 0, 9], 7777).into()], all);
    let log = relay.log();
    for (reason, times) in [("it is an address of this host", 1), ("Address already in use", 1)] {
        assert_eq!(log.matches(reason).count(), times, "{reason}: {log}");
    }
    drop(program);
    // It is tried again before long.
    wait_until("a source whose port is free", || {
        Injector::new(&topology.generator).send(&good_from(([10, 81, 0, 1], 7777).into(), b"free"));
        relay.stats().relayed > 0
    });
    assert_eq!(receive_from(&sink, 1).into_keys().next(), Some(([10, 81, 0, 1], 7777).into()));
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_goes_to_an_address_of_the_host_is_not_taken_on_lo() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let own: IpAddr = topology.egress[0].address();
    let listen = || {
        let socket = UdpSocket::bind((own, 7000)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let listener = topology.relay_namespace().run(listen).unwrap();
    let (relay, _file) = start(topology, Path::MmapV3, None, &[preserving((own, 7000).into(), "egress0")]);
    relay.run(&["add", "--rule", &format!("lo:{own}:7000={OUT_GROUP}:{OUT_PORT}:egress0")]);
    Injector::new(&topology.generator).send(&good_from(sender(1), b"once"));
    assert_eq!(receive_from(&listener, 1), BTreeMap::from([(sender(1), vec![b"once".to_vec()])]));
    let stats = relay.stop();
    assert_eq!((stats.received, stats.relayed), (1, 1));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn copies_for_which_no_socket_comes_are_counted() {
    for (name, path) in PATHS {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let (worker, _) = in_process::preserving(topology, path);
        let mut injector = Injector::new(&topology.generator);
        (0..10).for_each(|_| injector.send(&good(b"nobody answers")));
        let pending = || worker.output(0).dropped().report().get("source_pending").copied();
        wait_until("they are given up", || pending() == Some(10));
        injector.send(&good(b"as it ends"));
        wait_until("it is taken", || worker.input().received().get() == 11);
        let counters = worker.stop();
        assert_eq!(counters.output(0).unwrap().dropped().total(), 11, "{name}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_rest_of_a_rule_is_relayed_while_copies_wait() {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let outputs = [preserving(out(), "egress0"), preserving(out(), "egress1").replace("preserve", "relay")];
    let (relay, _file) = start(topology, Path::MmapV3, None, &outputs);
    let sink = sink(&topology.sinks[1]);
    // Nobody opens a socket for the first output.
    kill(relay.pid(), libc::SIGSTOP);
    Injector::new(&topology.generator).send(&good(b"one waits, one does not"));
    assert_eq!(receive(&sink, 1), [b"one waits, one does not"]);
    kill(relay.pid(), libc::SIGCONT);
    relay.stop();
}
