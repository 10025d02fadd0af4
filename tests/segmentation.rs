//! Datagrams that leave or come in trains arrive as the datagrams they were.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::IoSlice;
use std::net::{Ipv6Addr, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lab::topology::{Checksum, Family, Link, Segmentation, Topology};
use multicast_relay::rules::Rule;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::sys::uring::{Send, Uring};
use support::in_process::{InProcess, PATHS};
use support::{
    DEADLINE, GROUP, Injector, OUT_PORT, PORT, Path, Relay, Tap, fragments, frame, good, kill, network,
    network_of, proc_of_relay, receive, rule, sink,
};

/// Payloads that tell which they are: `count` of `len` bytes each.
fn payloads(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| (0..len).map(|at| (i + at * 7) as u8).collect()).collect()
}

/// Frames that the relay finds waiting when it comes to look, so that they leave together.
fn offer(injector: &mut Injector, payloads: &[Vec<u8>]) {
    for (i, payload) in payloads.iter().enumerate() {
        let frame = good(payload);
        // What does not fit into a frame comes as fragments, which the kernel puts together before capture.
        let frames = if frame.len() > 1_514 { fragments(&frame, i as u16) } else { vec![frame] };
        for frame in &frames {
            injector.send(frame);
        }
    }
}

fn sizes_are_kept_in_order(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sinks = topology.egress.iter().zip(&topology.sinks).map(|(_, port)| sink(port)).collect::<Vec<_>>();
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    // Long trains, sizes that change with every datagram, the smallest and the largest, and such as the MTU forbids
    // in a train.
    let mut all = [payloads(200, 100), payloads(70, 1_472), payloads(3, 0), payloads(65, 1)].concat();
    all.extend((0..60).map(|i| vec![i as u8; [10, 1_000, 1_472][i % 3]]));
    all.extend([payloads(5, 2_000), payloads(4, 300), payloads(1, 65_507), payloads(5, 2_000)].concat());
    all.extend(payloads(100, 1_316));
    offer(&mut injector, &all);
    for sink in &sinks {
        assert!(receive(sink, all.len()) == all, "as they came");
    }
    let stats = relay.stop();
    for output in &stats.rules[0].outputs {
        assert_eq!((output.relayed, output.dropped.len()), (all.len() as u64, 0));
        assert_eq!(output.bytes, all.iter().map(|payload| payload.len() as u64).sum::<u64>());
    }
}

over_every_path!(sizes_are_kept_in_order);

over_every_path!(trains_leave_over_ipv6);

fn trains_leave_over_ipv6(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let [group, out_group]: [Ipv6Addr; 2] =
        ["ff15::81:0:1", "ff15::82:0:1"].map(|group| group.parse().unwrap());
    let open = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, OUT_PORT)).unwrap();
        socket.join_multicast_v6(&out_group, topology.sinks[0].index()).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let sink = topology.sinks[0].namespace().run(open).unwrap();
    let spec = format!("ingress:[{group}]:{PORT}=[{out_group}]:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let mut all = [payloads(200, 100), payloads(70, 1_452), payloads(3, 0), payloads(65, 1)].concat();
    all.extend((0..60).map(|i| vec![i as u8; [10, 1_000, 1_452][i % 3]]));
    let mut injector = Injector::new(&topology.generator);
    for payload in &all {
        injector.send(&frame((group, PORT).into(), payload));
    }
    assert!(receive(&sink, all.len()) == all, "as they came");
    assert_eq!(relay.stop().relayed, all.len() as u64);
}

over_every_path!(an_answer_from_the_receivers_host_costs_no_train_and_no_order);

fn an_answer_from_the_receivers_host_costs_no_train_and_no_order(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let host = topology.sinks[0].address();
    // Hosts of the lab are silent otherwise.
    topology.sinks[0].namespace().set_sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
    let spec = format!("ingress:{GROUP}:{PORT}={host}:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let mut injector = Injector::new(&topology.generator);
    let sent = payloads(200, 100);
    // All wait together, so that they leave in trains.
    let mut offer_at_once = || {
        let processes = [vec![relay.pid()], relay.workers()].concat();
        for process in &processes {
            kill(*process, libc::SIGSTOP);
        }
        offer(&mut injector, &sent);
        processes.iter().rev().for_each(|process| kill(*process, libc::SIGCONT));
    };
    let listen = || {
        let bind = || UdpSocket::bind((host, OUT_PORT)).unwrap();
        let socket = topology.sinks[0].namespace().run(bind).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    // Trains of this size are known to leave then.
    let sink = listen();
    offer_at_once();
    assert!(receive(&sink, sent.len()) == sent, "as they came");
    // Nobody listens, and the host says so; the socket tells it at the next send.
    drop(sink);
    Injector::new(&topology.generator).send(&good(b"unheard"));
    let deadline = Instant::now() + DEADLINE;
    while unreachable_answers(topology) == 0 {
        assert!(Instant::now() < deadline, "the receiver's host says nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sink = listen();
    offer_at_once();
    // A train is sent again. The first copy, where it leaves by itself, is not, and is counted.
    let all = 1 + 2 * sent.len() as u64;
    let stats = relay.stats_when(|stats| stats.matched == all && stats.balance().is_ok());
    let refused = stats.rules[0].outputs[0].dropped.values().sum::<u64>();
    assert!(refused <= 1, "{stats:?}");
    assert!(receive(&sink, sent.len() - refused as usize) == sent[refused as usize..], "as they came");
    assert_eq!(relay.stop().relayed, all - refused);
}

/// How often the relay's host was told that a destination is unreachable.
fn unreachable_answers(topology: &Topology) -> u64 {
    let snmp = proc_of_relay(topology, "net/snmp");
    let mut icmp = snmp.lines().filter(|line| line.starts_with("Icmp: ")).map(str::split_whitespace);
    let mut fields = icmp.next().unwrap().zip(icmp.next().unwrap());
    fields.find(|(name, _)| *name == "InDestUnreachs").unwrap().1.parse().unwrap()
}

/// Sends each of `trains` to the group, at `port`, with one call: datagrams of so many bytes, of which the last may have
/// less. Over a veth they arrive in one frame.
fn send_trains(topology: &Topology, port: u16, trains: &[(u16, Vec<u8>)]) {
    let generator = &topology.generator;
    let address = EgressAddress::new((GROUP, port).into(), generator.device(), generator.index());
    let open = || open_egress(&address, None, 1 << 20).unwrap().socket;
    let socket = generator.namespace().run(open).unwrap();
    let mut ring = Uring::new(8).unwrap();
    for (size, bytes) in trains {
        let payloads = [IoSlice::new(bytes)];
        let segment_size = NonZeroU16::new(*size);
        let send = Send::new(socket.as_fd(), &payloads, segment_size);
        ring.send_all(&[send], |_, result| assert_eq!(result, Ok(bytes.len()))).unwrap();
    }
}

fn a_train_that_comes_is_relayed_as_its_datagrams(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sinks = topology.sinks.iter().map(sink).collect::<Vec<_>>();
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    // As many as go into one, as much as goes into a frame (GSO_MAX_SIZE), a remainder, and single datagrams.
    let shapes: [(u16, usize); 6] =
        [(100, 6_400), (1_472, 44 * 1_472), (1_000, 3_001), (1_472, 65_493), (1, 3), (900, 900)];
    let trains: Vec<_> =
        shapes.iter().map(|(size, len)| (*size, payloads(1, *len).remove(0))).cycle().take(60).collect();
    let expected: Vec<_> =
        trains.iter().flat_map(|(size, bytes)| bytes.chunks((*size).into()).map(<[u8]>::to_vec)).collect();
    send_trains(topology, PORT, &trains);
    for sink in &sinks {
        assert!(receive(sink, expected.len()) == expected, "as they were sent");
    }
    send_trains(topology, PORT + 1, &trains[..5]);
    relay.stats_when(|stats| stats.inputs[0].foreign == 5);
    let stats = relay.stop();
    assert_eq!((stats.received, stats.matched), (expected.len() as u64, expected.len() as u64));
    assert_eq!(stats.inputs[0].frames, 60, "they came in one piece each");
    assert!(stats.rules[0].outputs.iter().all(|output| output.relayed == expected.len() as u64));
}

over_every_path!(a_train_that_comes_is_relayed_as_its_datagrams);

/// The longest of the frames in which 64 datagrams of 100 bytes leave when the device can cut trains apart.
fn longest_frame(arguments: &[&str]) -> usize {
    let link = Link {
        mtu: 1500,
        segmentation: Segmentation::Offload,
        checksum: Checksum::Offload,
        family: Family::Ipv4,
    };
    let network = network_of(link, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let spec = rule(topology);
    let relay = Relay::start(topology, Path::MmapV3, &[&["--rule", &spec], arguments].concat());
    let sent = payloads(64, 100);
    offer(&mut Injector::new(&topology.generator), &sent);
    let (mut bytes, mut longest) = (0, 0);
    while bytes < 64 * 100 {
        let frame = tap.next_udp();
        bytes += frame.len() - 42;
        longest = longest.max(frame.len());
    }
    assert_eq!(relay.stop().relayed, 64);
    longest
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn trains_are_made_unless_that_is_switched_off() {
    assert!(longest_frame(&[]) > 1_514, "a device that can cut trains is given trains");
    assert_eq!(longest_frame(&["--no-gso"]), 142);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_size_that_cannot_leave_in_trains_is_reported_once() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    for _ in 0..3 {
        let sent = payloads(10, 2_000);
        offer(&mut injector, &sent);
        assert!(receive(&sink, 10) == sent);
    }
    let log = relay.log();
    let warnings = log.lines().filter(|line| line.contains("cannot send datagrams of 2000 bytes as trains"));
    assert_eq!(warnings.count(), 1, "{log}");
    assert_eq!(relay.stop().relayed, 30);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_send_buffer_smaller_than_a_train_holds_none_up() {
    const COUNT: u64 = 2_000;
    for (name, path) in PATHS {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let rules: Vec<Rule> = vec![rule(topology).parse().unwrap()];
        let sink = sink(&topology.sinks[0]);
        let worker = InProcess::with_send_buffer(topology, &rules, path, 4_096);
        let mut injector = Injector::new(&topology.generator);
        for _ in 0..COUNT / 100 {
            offer(&mut injector, &payloads(100, 1_400));
        }
        // A device that takes at once what is sent leaves the buffer empty: a socket whose buffer is full is in
        // isolation.rs.
        let arrived = receive(&sink, COUNT as usize);
        assert!(arrived.iter().all(|payload| payload.len() == 1_400), "{name}");
        let counters = worker.stop();
        let output = counters.output(0).unwrap();
        assert_eq!((output.relayed().get(), output.dropped().report().len()), (COUNT, 0), "{name}");
        assert!(support::is_empty(&sink), "{name}");
    }
}
