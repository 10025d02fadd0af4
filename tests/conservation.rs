//! Nothing disappears silently: whatever becomes of a frame is counted by name, and the counts add up.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lab::topology::Family;
use support::{
    GROUP, Injector, PORT, Path, Relay, changed, first_fragment_v6, frame, good, is_empty, kill, network,
    receive, rule, sink, tagged,
};

over_every_path!(each_frame_is_counted_by_its_fate);

fn each_frame_is_counted_by_its_fate(path: Path) {
    fates(path, &[], 0);
    fates(path, &["--no-rule-filter"], 12);
}

/// Of 12 foreign datagrams so many are captured.
fn fates(path: Path, arguments: &[&str], captured: u64) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &[&["--rule", &rule(topology)], arguments].concat());
    let mut injector = Injector::new(&topology.generator);

    let mut cut_short = good(&[7; 100]);
    cut_short.truncate(80);
    let mut damaged = good(b"damaged");
    damaged[45] ^= 4;
    let mut damaged_header = good(b"damaged header");
    damaged_header[22] ^= 4;
    let sends: [(usize, Vec<u8>); 12] = [
        (100, good(b"good")),
        (3, tagged(&good(b"priority"), 0xe000)),
        (7, first_fragment_v6(&frame("[ff15::1]:5000".parse().unwrap(), b"fragment"))),
        (2, changed(good(b"too long"), |frame| frame[39] = 200)),
        (5, cut_short),
        (10, damaged),
        (11, damaged_header),
        (4, frame(SocketAddr::from((GROUP, PORT + 1)), b"other port")),
        (8, frame("[ff15::1]:5000".parse().unwrap(), b"other family")),
        // These never reach the socket: the filter in the kernel takes UDP over IP without a VLAN, for this host.
        (13, changed(good(b"other host"), |frame| frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]))),
        (6, tagged(&good(b"tagged"), 5)),
        (9, changed(good(b"tcp"), |frame| frame[23] = 6)),
    ];
    for (count, frame) in &sends {
        (0..*count).for_each(|_| injector.send(frame));
    }

    let payloads = receive(&sink, 103);
    assert_eq!(payloads.iter().filter(|payload| *payload == b"good").count(), 100);
    assert_eq!(payloads.iter().filter(|payload| *payload == b"priority").count(), 3);
    let stats = relay.stop();
    assert!(is_empty(&sink), "nothing else came through");
    let dropped =
        [("fragment", 7), ("malformed", 2), ("truncated", 5), ("bad_checksum", 21), ("no_rule", captured)];
    let dropped = dropped.into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(stats.dropped, dropped.map(|(name, count)| (name.to_owned(), count)).collect());
    let input = &stats.inputs[0];
    assert_eq!((input.foreign, input.captured, input.dropped), (12 - captured, 138 + captured, 0));
    assert_eq!((stats.received, stats.matched, stats.relayed), (138 + captured, 103, 103));
    assert_eq!(stats.rules[0].bytes, 100 * 4 + 3 * 8);
}

over_every_path!(what_the_kernel_drops_is_reported);

fn what_the_kernel_drops_is_reported(path: Path) {
    const SENT: u64 = 100_000;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    // Of a default ring a million frames would not be enough.
    let relay = Relay::start(topology, path, &["--rule", &rule(topology), "--ring-block-count", "4"]);
    let mut injector = Injector::new(&topology.generator);

    // Workers that are held up for longer than their rings or receive buffers last, and a supervisor that does not notice.
    let workers = relay.workers();
    let signal_all = |signal| workers.iter().for_each(|worker| kill(*worker, signal));
    relay.signal(libc::SIGSTOP);
    signal_all(libc::SIGSTOP);
    let frame = good(&[1; 100]);
    (0..SENT).for_each(|_| injector.send(&frame));
    signal_all(libc::SIGCONT);
    relay.signal(libc::SIGCONT);

    let stats = relay.stop();
    let input = &stats.inputs[0];
    assert_eq!(input.captured, SENT);
    assert!(input.dropped > 0, "the ring or buffer was meant to overflow");
    assert_eq!(input.freezes > 0, stats.rx == "mmap-v3", "only a block ring tells when it is full");
    assert_eq!(stats.received + input.dropped, SENT);
    assert_eq!(stats.relayed, stats.received);
    let arrived = topology.sinks[0].counters().unwrap().rx_packets;
    assert_eq!(arrived, stats.relayed, "what the relay says it sent is what arrived");
}

over_every_path!(a_stop_relays_what_was_captured_before);

fn a_stop_relays_what_was_captured_before(path: Path) {
    const SENT: usize = 3_000;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);

    // Everything is captured, and the stop signal is pending, before the relay can do anything about either.
    relay.signal(libc::SIGSTOP);
    (0..SENT).for_each(|i| injector.send(&good(&(i as u32).to_be_bytes())));
    relay.signal(libc::SIGTERM);
    relay.signal(libc::SIGCONT);

    let stats = relay.stop();
    let expected: Vec<_> = (0..SENT).map(|i| (i as u32).to_be_bytes().to_vec()).collect();
    assert_eq!(receive(&sink, SENT), expected, "all of them, in order");
    assert_eq!((stats.relayed, stats.queued()), (SENT as u64, 0));
}

over_every_path!(reports_under_load_are_never_in_excess);

fn reports_under_load_are_never_in_excess(path: Path) {
    const SENT: u64 = 60_000;
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    let sender = std::thread::spawn(move || {
        let frame = good(&[1; 100]);
        (0..SENT).for_each(|_| injector.send(&frame));
    });
    let mut under_load = 0;
    while !sender.is_finished() {
        let stats = relay.stats();
        stats.consistent().unwrap();
        under_load += usize::from(stats.received > 0 && stats.received < SENT);
    }
    sender.join().unwrap();
    assert!(under_load > 0, "no report came while datagrams did");
    let stats = relay.stop();
    assert_eq!(stats.received + stats.kernel_dropped(), SENT);
}

over_every_path!(a_report_while_running_adds_up_and_keeps_nothing_back);

fn a_report_while_running_adds_up_and_keeps_nothing_back(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    assert_eq!(relay.stats().received, 0);
    (0..50).for_each(|_| injector.send(&good(b"x")));
    // What is received is under way for a moment before it is relayed.
    let stats = relay.stats_when(|stats| stats.received == 50 && stats.balance().is_ok());
    assert_eq!(stats.relayed, 100);
    let outputs: Vec<_> =
        stats.rules[0].outputs.iter().map(|output| (output.relayed, output.bytes)).collect();
    assert_eq!(outputs, [(50, 50), (50, 50)]);
    assert_eq!(stats.dropped, BTreeMap::new());
}
