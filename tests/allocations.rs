//! Once a worker runs, no frame costs it a heap allocation, whatever becomes of the frame.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::topology::{Family, Topology};
use multicast_relay::rules::Rule;
use multicast_relay::worker::order::Path;
use support::in_process::{InProcess, PATHS, preserving};
use support::sources::{good_from, sender};
use support::{DEADLINE, GROUP, Injector, PORT, first_fragment_v6, fragments, frame, good, network, rule};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Most frames that have been sent and not been taken.
const IN_FLIGHT: u64 = 1_000;

/// Sends so many of each frame, waits until the worker has taken `taken` of each round, and counts the allocations of
/// the whole process meanwhile.
fn allocations(
    rounds: u64,
    frames: &[Vec<u8>],
    taken: u64,
    injector: &mut Injector,
    worker: &InProcess,
) -> u64 {
    let _profiler = dhat::Profiler::builder().testing().build();
    let received = || worker.input().received().get();
    let (begin, deadline) = (received(), Instant::now() + DEADLINE);
    let before = dhat::HeapStats::get().total_blocks;
    for round in 1..=rounds {
        for frame in frames {
            injector.send(frame);
        }
        // What a worker that waits for a processor leaves in its socket's buffer is no more than that has room for.
        let missing = |most| received() + most < begin + round * taken;
        let most = if round == rounds { 0 } else { IN_FLIGHT };
        while missing(most) {
            assert!(Instant::now() < deadline, "taken {} of {}", received() - begin, round * taken);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    dhat::HeapStats::get().total_blocks - before
}

/// Allocations are counted for the whole process, the harness included: there can be one test.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_relayed_is_not_allocated_for() {
    no_receive_path_allocates_for_a_frame();
    no_receive_path_allocates_for_a_known_source();
}

fn no_receive_path_allocates_for_a_frame() {
    for (name, path) in PATHS {
        relays_without_allocating(name, path, rule);
        let range = |_: &Topology| "ingress:239.81.0.0/20:5000=239.82.0.0/20:6000:egress0".to_owned();
        relays_without_allocating(name, path, range);
    }
}

fn relays_without_allocating(name: &str, path: Path, rule: impl Fn(&Topology) -> String) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let rules: Vec<Rule> = vec![rule(topology).parse().unwrap()];
    let worker = InProcess::start(topology, &rules, path);
    // Relayed, of no rule, an IPv6 fragment, and three IPv4 fragments: this socket is in no group that would put
    // them together.
    let mut frames = vec![
        good(&[7; 100]),
        frame(SocketAddr::from((GROUP, PORT + 1)), b"other port"),
        first_fragment_v6(&frame("[ff15::1]:5000".parse().unwrap(), b"fragment")),
    ];
    frames.extend(fragments(&good(&[8; 4_000]), 1));
    // To as many destinations where there is a range; else of no rule.
    frames.extend((0..50).map(|host| frame(SocketAddr::from(([239, 81, 2, host], PORT)), &[host])));
    let taken = frames.len() as u64;
    let mut injector = Injector::new(&topology.generator);
    let mut count = |rounds| allocations(rounds, &frames, taken, &mut injector, &worker);
    count(50);
    assert_eq!(count(100), 0, "{name}");
    assert_eq!(count(12_000 / taken), 0, "{name}");
    assert!(worker.stop().output(0).unwrap().relayed().get() > 0, "{name}");
}

/// Nor for one that leaves with the source that it came with, once that is known.
fn no_receive_path_allocates_for_a_known_source() {
    for (name, path) in PATHS {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let (mut worker, address) = preserving(topology, path);
        let mut injector = Injector::new(&topology.generator);
        let frames: Vec<_> = (0..10).map(|number| good_from(sender(number), &[7; 100])).collect();
        for frame in &frames {
            injector.send(frame);
            worker.open_sender(topology, &address);
        }
        // Orders are carried out behind the frames of a turn.
        worker.sync();
        let mut count = |rounds| allocations(rounds, &frames, 10, &mut injector, &worker);
        count(50);
        assert_eq!(count(100), 0, "{name}");
        assert_eq!(count(2_000), 0, "{name}");
        assert_eq!(worker.stop().output(0).unwrap().relayed().get(), 10 * (1 + 50 + 100 + 2_000), "{name}");
    }
}
