//! Two legs of one stream: what either brings is relayed once, and what one of them loses is seen at the counters only.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lab::topology::{Family, Topology};
use multicast_relay::stats::{LegStats, OutputStats, Stats};
use multicast_relay::sys::process::is_runnable;
use support::flow;
use support::{GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, kill, network, sink, wait_until};

/// Datagrams of a stream; on a machine that is busy a socket holds no more.
const COUNT: u32 = 600;
/// By how many datagrams the second leg is behind the first.
const SKEW: u32 = 40;
/// How many workers die in a flow. From the sixth on they are started again later and later.
const DEATHS: u32 = 5;
/// Datagrams that come at once.
const BURST: u32 = 200;
/// As long as can be, since the machine may be busy.
const WINDOW_MS: u16 = 4_000;

/// A configuration with two legs that come in by two interfaces.
fn configuration(topology: &Topology, key: &str, window_ms: u16) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (name, port) in [("a", &topology.ingress), ("b", &topology.egress[1])] {
        writeln!(
            file,
            "[[rule]]\nname = \"{name}\"\n\
             input = {{ interface = \"{}\", group = \"{GROUP}\", port = {PORT} }}\n\
             outputs = [{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"{}\" }}]\n\
             dedupe = {{ stream = \"studio\", key = \"{key}\", window-ms = {window_ms} }}",
            port.device(),
            topology.egress[0].device()
        )
        .unwrap();
    }
    file
}

/// What sends on the legs.
struct Legs([Injector; 2]);

impl Legs {
    fn new(topology: &Topology) -> Self {
        Self([&topology.generator, &topology.sinks[1]].map(Injector::new))
    }

    fn send(&mut self, leg: usize, payload: &[u8]) {
        self.0[leg].send(&support::frame(SocketAddr::from((GROUP, PORT)), payload));
    }
}

/// An RTP packet with a number for its timestamp and payload.
fn rtp(number: u32) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    [&[0x80, 33, bytes[2], bytes[3]], &bytes[..], &[1, 2, 3, 4], &bytes].concat()
}

/// How often each number has arrived of so many datagrams.
fn arrived(sink: &UdpSocket, count: usize) -> BTreeMap<u32, u32> {
    let mut numbers = BTreeMap::new();
    for payload in support::receive(sink, count) {
        *numbers.entry(u32::from_be_bytes(*payload.last_chunk().unwrap())).or_insert(0) += 1;
    }
    numbers
}

fn leg<'s>(stats: &'s Stats, name: &str) -> (&'s LegStats, &'s OutputStats) {
    let rule = stats.rules.iter().find(|rule| rule.name == name).unwrap();
    (rule.leg.as_ref().unwrap(), &rule.outputs[0])
}

fn missing(stats: &Stats) -> [u64; 2] {
    ["a", "b"].map(|name| leg(stats, name).0.missing)
}

over_every_path!(what_one_leg_loses_the_other_brings_and_no_more);

fn what_one_leg_loses_the_other_brings_and_no_more(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let file = configuration(topology, "rtp", WINDOW_MS);
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    let mut legs = Legs::new(topology);
    for i in 0..COUNT + SKEW {
        if i < COUNT && i % 6 != 1 {
            legs.send(0, &rtp(i));
        }
        if let Some(i) = i.checked_sub(SKEW).filter(|i| i % 6 != 4) {
            legs.send(1, &rtp(i));
        }
    }
    let once: BTreeMap<_, _> = (0..COUNT).map(|i| (i, 1)).collect();
    assert_eq!(arrived(&sink, COUNT as usize), once);
    let sixth = u64::from(COUNT / 6);
    let stats = relay.stats_when(|stats| missing(stats) == [sixth; 2]);
    let duplicates = |name| leg(&stats, name).1.dropped.get("duplicate").unwrap_or(&0);
    assert_eq!(duplicates("a") + duplicates("b"), 4 * sixth);
    let relayed: u64 = ["a", "b"].iter().map(|name| leg(&stats, name).1.relayed).sum();
    assert_eq!(relayed, u64::from(COUNT), "nothing left twice");
    let told = relay.run(&["stats"]);
    assert!(told.contains(&format!("b, a leg of studio: missing {sixth}, crowded 0\n")), "{told}");
    assert!(relay.run(&["list"]).contains(" leg of studio"));
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_no_rtp_goes_by_its_content_and_as_often_as_it_was_sent() {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let file = configuration(topology, "content", WINDOW_MS);
    let relay = Relay::start(topology, Path::MmapV2, &["--config", file.path().to_str().unwrap()]);
    let mut legs = Legs::new(topology);
    for (leg, number) in [(0, 1), (0, 1), (1, 1), (0, 2), (1, 1), (1, 3), (1, 2), (0, 3), (0, 1)] {
        let before = relay.stats().matched;
        legs.send(leg, &u32::to_be_bytes(number));
        // What two interfaces bring is else not taken in the order in which it was sent.
        relay.stats_when(|stats| stats.matched > before);
    }
    legs.send(1, &u32::to_be_bytes(9));
    assert_eq!(arrived(&sink, 6), BTreeMap::from([(1, 3), (2, 1), (3, 1), (9, 1)]));
    relay.stop();
}

over_every_path!(what_came_before_a_worker_or_a_supervisor_died_is_not_relayed_again);

fn what_came_before_a_worker_or_a_supervisor_died_is_not_relayed_again(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let file = configuration(topology, "rtp", WINDOW_MS);
    let arguments = ["--config", file.path().to_str().unwrap()];
    let mut relay = Relay::start(topology, path, &arguments);
    let mut legs = Legs::new(topology);
    let once = |numbers: std::ops::Range<u32>| numbers.map(|i| (i, 1)).collect::<BTreeMap<_, _>>();
    (0..50).for_each(|i| legs.send(0, &rtp(i)));
    assert_eq!(arrived(&sink, 50), once(0..50));
    for worker in relay.workers() {
        // What it has not given back yet would be relayed again.
        wait_until("the worker sleeps", || !is_runnable(worker));
        kill(worker, libc::SIGKILL);
        wait_until("another worker is started", || {
            let now = relay.workers();
            !now.is_empty() && !now.contains(&worker)
        });
    }
    (0..100).for_each(|i| legs.send(1, &rtp(i)));
    assert_eq!(arrived(&sink, 50), once(50..100));
    relay.end_supervisor();
    relay.start_again(topology, &arguments);
    (50..150).for_each(|i| legs.send(0, &rtp(i)));
    assert_eq!(arrived(&sink, 50), once(100..150));
    relay.stats_when(|stats| missing(stats) == [0, 50]);
    relay.stop();
}

over_every_path!(what_a_worker_died_over_is_not_taken_for_what_came_before);

/// One leg brings nothing, so that all must come from the other.
fn what_a_worker_died_over_is_not_taken_for_what_came_before(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let file = configuration(topology, "rtp", WINDOW_MS);
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    let make = |number| support::frame(SocketAddr::from((GROUP, PORT)), &rtp(number));
    let (sent, arrived) = flow::bursts(BURST, flow::PACE, topology, &sink, make, |flow| {
        for death in 0..DEATHS {
            let before = relay.workers();
            // When the next burst comes; some die while they look through it.
            flow.brings(10 * BURST as usize);
            std::thread::sleep(Duration::from_micros(6_500 + 700 * u64::from(death)));
            kill(before[0], libc::SIGKILL);
            wait_until("another worker is started", || {
                let now = relay.workers();
                now.len() == before.len() && !now.contains(&before[0])
            });
        }
        flow.goes_on(1_000);
    });
    let stats = relay.stop();
    let lost = u64::from(sent) - arrived.len() as u64;
    let abandoned: u64 = stats.inputs.iter().map(|input| input.abandoned).sum();
    let interrupted = leg(&stats, "a").1.dropped.get("interrupted").copied().unwrap_or(0);
    println!("{path:?}: of {sent} datagrams {lost} lost, {abandoned} abandoned, {interrupted} interrupted");
    if path.is_by_ring() {
        assert_eq!((lost, abandoned), (0, 0));
    } else {
        assert!(lost <= abandoned + interrupted, "{lost} lost");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn legs_are_changed_at_run_time_and_must_be_alike() {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let file = configuration(topology, "rtp", WINDOW_MS);
    let relay = Relay::start(topology, Path::MmapV3, &["--config", file.path().to_str().unwrap()]);
    let mut legs = Legs::new(topology);
    legs.send(0, &rtp(1));
    assert_eq!(arrived(&sink, 1), BTreeMap::from([(1, 1)]));
    let text = relay.run(&["list", "--format", "toml"]);
    let mut other = tempfile::NamedTempFile::new().unwrap();
    write!(other, "{}", text.replace("name = \"", "name = \"other-").replace("5000", "5001")).unwrap();
    let refused = |file: &tempfile::NamedTempFile| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_multicast_relay"));
        let socket = relay.folder.path().join("control.sock");
        let output = command.arg("add").arg("--control-socket").arg(socket).arg("--file").arg(file.path());
        let output = output.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let message = refused(&other);
    assert!(message.contains("stream \"studio\" has its 2 legs, \"a\" and \"b\""), "{message}");
    // A leg that comes back finds what has come in.
    relay.run(&["remove", "b"]);
    let mut again = tempfile::NamedTempFile::new().unwrap();
    let b = text.split_inclusive("]]\n").last().unwrap();
    write!(again, "[[rule]]\n{}", b.replace("6000", "6001")).unwrap();
    let message = refused(&again);
    assert!(message.contains("with different outputs"), "{message}");
    std::fs::write(again.path(), format!("[[rule]]\n{b}")).unwrap();
    relay.run(&["add", "--file", again.path().to_str().unwrap()]);
    legs.send(1, &rtp(1));
    legs.send(1, &rtp(2));
    assert_eq!(arrived(&sink, 1), BTreeMap::from([(2, 1)]));
    let stats = relay.stats();
    assert_eq!(leg(&stats, "b").1.dropped["duplicate"], 1);
    relay.stop();
}
