//! Relays whose copies come back: through another one on the same two wires, or by a wire from one device of a host to another.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/frames.rs"]
mod frames;
#[path = "support/host.rs"]
mod host;
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Command;

use frames::sealed;
use host::ip;
use lab::topology::{Family, Port};
use multicast_relay::stats::Stats;
use support::{
    GROUP, Injector, Network, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, frame, good, kill, network,
    wait_until,
};

/// Two hosts, each with a device on either wire: the near wire is at `ingress` of the first and at `egress0` of the second, the far
/// one at the others.
struct Facing {
    first: Network,
    second: Network,
}

impl Facing {
    fn new() -> Self {
        let (first, second) = (network(Family::Ipv4, 1), network(Family::Ipv4, 1));
        wire(&first.topology.generator, &second.topology.sinks[0]);
        wire(&second.topology.generator, &first.topology.sinks[0]);
        Self { first, second }
    }

    /// Starts a relay on each host by the rules of a file, and waits until both of them capture.
    fn start(&self, path: Path, rules: [String; 2]) -> [Relay; 2] {
        let hosts = [&self.first, &self.second];
        let relays = hosts.into_iter().zip(rules).map(|(host, rules)| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(rules.as_bytes()).unwrap();
            // Each copy alone, so that a frame is one.
            Relay::start(&host.topology, path, &["--config", file.path().to_str().unwrap(), "--no-gso"])
        });
        relays.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("two"))
    }

    /// What sends to the near and the far wire, and what hears all that hosts send there.
    fn ends(&self) -> [(Injector, Tap); 2] {
        [&self.first, &self.second].map(|host| {
            let open = || (Injector::on("wire"), Tap::on("wire"));
            host.topology.generator.namespace().run(open).unwrap()
        })
    }
}

/// Makes one wire of two ports, by a bridge beside each.
fn wire(one: &Port, other: &Port) {
    let peer = other.namespace().name();
    let bridge = |port: &Port, cable: &str| {
        ip(&format!(
            "link add wire type bridge mcast_snooping 0\nlink set {} master wire\nlink set {cable} master wire up\n\
             link set wire up",
            port.device()
        ));
    };
    let cable = format!("link add cable type veth peer name elbac netns {peer}");
    one.namespace().run(|| ip(&cable)).unwrap();
    one.namespace().run(|| bridge(one, "cable")).unwrap();
    other.namespace().run(|| bridge(other, "elbac")).unwrap();
    // A port forwards when the kernel has noticed that there is something at its other end.
    let forwards = || {
        let links = Command::new("bridge").arg("link").output().unwrap().stdout;
        String::from_utf8_lossy(&links).matches("state forwarding").count() == 2
    };
    for end in [one, other] {
        wait_until("a wire", || end.namespace().run(forwards).unwrap());
    }
}

fn rule(
    source: &str,
    (group, port, input): (Ipv4Addr, u16, &str),
    to: (Ipv4Addr, u16, &str),
    ttl: &str,
) -> String {
    format!(
        "[[rule]]\ninput = {{ interface = '{input}', group = '{group}', port = {port}{source} }}\n\
         outputs = [{{ group = '{}', port = {}, interface = '{}'{ttl} }}]\n",
        to.0, to.1, to.2
    )
}

/// A rule from the near wire to the far one for the first host, and one back to where the first takes it for the second.
fn round(ttl: &str) -> [String; 2] {
    [
        rule("", (GROUP, PORT, "ingress"), (OUT_GROUP, OUT_PORT, "egress0"), ttl),
        rule("", (OUT_GROUP, OUT_PORT, "ingress"), (GROUP, PORT, "egress0"), ttl),
    ]
}

fn with_ttl(payload: &[u8], ttl: u8) -> Vec<u8> {
    sealed(good(payload), |frame| frame[22] = ttl)
}

/// How often an output has dropped something because its time to live was spent.
fn spent(stats: &Stats) -> u64 {
    stats.rules[0].outputs[0].dropped.get("ttl_spent").copied().unwrap_or(0)
}

over_every_path!(what_loses_a_hop_each_time_comes_to_an_end);

fn what_loses_a_hop_each_time_comes_to_an_end(path: Path) {
    const TTL: u8 = 9;
    let facing = Facing::new();
    let relays = facing.start(path, round(", ttl = 'decrement'"));
    let [(mut near, mut near_tap), (_, mut far_tap)] = facing.ends();
    near.send(&with_ttl(b"round", TTL));
    // One copy of each value on the way down, the last of which goes no further.
    let ttl = |tap: &mut Tap| {
        let frame = tap.next_udp();
        assert!(frame.ends_with(b"round"), "{frame:02x?}");
        frame[22]
    };
    for left in (1..TTL).rev().step_by(2) {
        assert_eq!(ttl(&mut far_tap), left);
        assert_eq!(ttl(&mut near_tap), left - 1);
    }
    let [first, second] = relays;
    first.stats_when(|stats| spent(stats) == 1);
    let (first, second) = (first.stop(), second.stop());
    assert_eq!((first.relayed, spent(&first)), (4, 1));
    assert_eq!((second.relayed, spent(&second)), (4, 0));
}

over_every_path!(what_a_wire_brings_back_to_the_relay_that_sent_it_is_not_taken);

/// Two devices of one host on one wire, which their names do not tell: by a rule that leads to itself, and by two that lead to each
/// other.
fn what_a_wire_brings_back_to_the_relay_that_sent_it_is_not_taken(path: Path) {
    const COUNT: u64 = 5;
    let there = Ipv4Addr::new(239, 84, 1, 9);
    let host = network(Family::Ipv4, 1);
    wire(&host.topology.generator, &host.topology.sinks[0]);
    let to_itself = rule("", (GROUP, PORT, "ingress"), (GROUP, PORT, "egress0"), "");
    let range = |from: &str, to: &str| {
        format!("ingress:239.{from}.1.0/28:{PORT}-{}=239.{to}.1.0/28:{PORT}-{}:egress0", PORT + 3, PORT + 3)
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(to_itself.as_bytes()).unwrap();
    let config = file.path().to_str().unwrap();
    let (out, back) = (range("84", "85"), range("85", "84"));
    let relay = Relay::start(&host.topology, path, &["--config", config, "--rule", &out, "--rule", &back]);
    let mut near = host.topology.generator.namespace().run(|| Injector::on("wire")).unwrap();
    for i in 0..COUNT {
        near.send(&good(&i.to_be_bytes()));
        near.send(&frame((there, PORT + 2).into(), &i.to_be_bytes()));
    }
    let own = |stats: &Stats| stats.dropped.get("own").copied().unwrap_or(0);
    relay.stats_when(|stats| own(stats) == 2 * COUNT);
    // A worker in place of another one knows, too.
    let before = relay.workers();
    for worker in &before {
        kill(*worker, libc::SIGKILL);
    }
    let others = |now: &[u32]| now.len() == before.len() && now.iter().all(|worker| !before.contains(worker));
    wait_until("other workers", || others(&relay.workers()));
    near.send(&good(b"after a crash"));
    near.send(&frame((there, PORT + 2).into(), b"after a crash"));
    relay.stats_when(|stats| own(stats) == 2 * COUNT + 2);
    let stats = relay.stop();
    assert_eq!((stats.relayed, stats.received), (2 * COUNT + 2, 2 * (2 * COUNT + 2)));
    assert_eq!(own(&stats), 2 * COUNT + 2, "each comes back once, and no more");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_a_wire_brings_back_is_known_by_its_ipv6_address() {
    let to = std::net::SocketAddr::from(([0xff15, 0, 0, 0, 0, 0x81, 0, 1], PORT));
    let host = network(Family::Ipv6, 1);
    wire(&host.topology.generator, &host.topology.sinks[0]);
    let spec = format!("ingress:{to}={to}:egress0");
    let relay = Relay::start(&host.topology, Path::MmapV3, &["--rule", &spec]);
    let mut near = host.topology.generator.namespace().run(|| Injector::on("wire")).unwrap();
    near.send(&frame(to, b"round"));
    relay.stats_when(|stats| stats.dropped.get("own") == Some(&1));
    let stats = relay.stop();
    assert_eq!((stats.relayed, stats.received), (1, 2));
}

over_every_path!(what_goes_round_for_ever_does_not_become_more);

fn what_goes_round_for_ever_does_not_become_more(path: Path) {
    const COUNT: u64 = 3;
    let facing = Facing::new();
    let relays = facing.start(path, round(""));
    let [(mut near, _), _] = facing.ends();
    for i in 0..COUNT {
        // Each round gives it the time to live of the output.
        near.send(&with_ttl(&i.to_be_bytes(), 1));
    }
    let [first, second] = relays;
    second.stats_when(|stats| stats.relayed > 500);
    second.run(&["remove", &format!("ingress:{OUT_GROUP}:{OUT_PORT}")]);
    // What the second one sent before is relayed by the first one, and that is the end of it.
    let second = second.stop();
    let all = |stats: &Stats| stats.relayed == second.relayed + COUNT;
    first.stats_when(all);
    let first = first.stop();
    assert!(all(&first) && second.relayed > 500, "a copy for each: {} and {}", first.relayed, second.relayed);
    assert_eq!(first.received, first.relayed);
}

over_every_path!(both_ways_by_two_relays_there_is_a_copy_of_each_and_no_more);

fn both_ways_by_two_relays_there_is_a_copy_of_each_and_no_more(path: Path) {
    const COUNT: u32 = 100;
    let (near_host, far_host) = ("10.81.0.1", [10, 82, 0, 9]);
    let facing = Facing::new();
    // Without sources these would send in a circle, and be refused.
    let both = |near: &str, far: &str| {
        let of = |source: &str| format!(", source = '{source}'");
        rule(&of(near_host), (GROUP, PORT, near), (GROUP, PORT, far), "")
            + &rule(&of("10.82.0.9"), (GROUP, PORT, far), (GROUP, PORT, near), "")
    };
    let relays = facing.start(path, [both("ingress", "egress0"), both("egress0", "ingress")]);
    let [(mut near, mut near_tap), (mut far, mut far_tap)] = facing.ends();
    for i in 0..COUNT {
        let frame = good(&i.to_be_bytes());
        near.send(&frame);
        far.send(&sealed(frame, |frame| frame[26..30].copy_from_slice(&far_host)));
    }
    for tap in [&mut near_tap, &mut far_tap] {
        let mut copies = BTreeMap::<_, u32>::new();
        for _ in 0..2 * COUNT {
            let frame = tap.next_udp();
            *copies.entry(frame[42..46].to_vec()).or_default() += 1;
        }
        assert!(copies.len() == COUNT as usize && copies.values().all(|count| *count == 2), "{copies:?}");
    }
    for relay in relays {
        let stats = relay.stop();
        let foreign: u64 = stats.inputs.iter().map(|input| input.foreign).sum();
        assert_eq!((stats.matched, stats.relayed), (200, 200));
        assert_eq!(foreign, 200, "the copies of the other one");
    }
}
