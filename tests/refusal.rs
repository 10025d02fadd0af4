//! What a worker cannot do: a change that takes it is refused as a whole, and a rule that waits goes on waiting and says why.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::process::Command;

use lab::topology::{Family, Topology};
use multicast_relay::control::{Command as Ask, Selector, State};
use multicast_relay::rules::Rule;
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, good, network, rule, sink, wait_until,
};

/// A supervisor of `rules`, the first of which is on an interface that is there, whose processes can map one ring, and not two.
fn limited(topology: &Topology, rules: &[&str]) -> Command {
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", rules[0]]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.workers()[0])).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    relay.stop();
    let mut command = Command::new("sh");
    let limited = format!("ulimit -v {}; exec \"$0\" \"$@\"", kib + 16 * 1024);
    command.args([
        "-c",
        &limited,
        env!("CARGO_BIN_EXE_multicast_relay"),
        "supervisor",
        "--json",
        "--rx",
        "mmap",
    ]);
    command.args(rules.iter().flat_map(|rule| ["--rule", rule]));
    command
}

fn add_interface(topology: &Topology, name: &str) {
    let peer = format!("{name}-peer");
    let add = ["link", "add", name, "type", "veth", "peer", "name", &peer];
    for arguments in [&add[..], &["link", "set", name, "up"], &["link", "set", &peer, "up"]] {
        let run = || Command::new("ip").args(arguments).status().unwrap().success();
        assert!(topology.relay_namespace().run(run).unwrap(), "ip {arguments:?}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_ring_that_a_worker_cannot_map_is_refused_and_disturbs_no_rule() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let waiting = format!("late:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let relay = Relay::spawn(topology, Path::MmapV3, limited(topology, &[&rule(topology), &waiting]));
    let mut injector = Injector::new(&topology.generator);
    let mut relays = |number: u8| {
        injector.send(&good(&[number]));
        assert_eq!(support::receive(&sink, 1), [[number]]);
    };
    relays(1);

    add_interface(topology, "other");
    let other: Rule = format!("other:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0").parse().unwrap();
    let add = Ask::Add { rules: vec![(&other).into()] };
    let refusal = relay.ask(&add).unwrap_err().to_string();
    assert!(refusal.contains("worker 0 cannot receive on other"), "{refusal}");
    assert_eq!(relay.rules().len(), 2, "as if nothing had been asked");
    relays(2);

    add_interface(topology, "late");
    let reasons = || relay.rules()[1].reasons.join("; ");
    wait_until("the list says why it waits", || reasons().contains("worker 0 cannot receive on late"));
    relays(3);

    relay.ask(&Ask::Remove { rules: vec![Selector::Name(relay.rules()[0].rule.name())] }).unwrap();
    wait_until("the rule has the room that another one had", || relay.rules()[0].state == State::Relaying);
    assert_eq!(relay.stop().relayed, 3);
}

/// How many processes are in the relay's namespace.
fn processes(topology: &Topology) -> usize {
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let namespace = topology.relay_namespace().run(namespace).unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|its| its == namespace))
        .count()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_start_that_fails_says_why_and_leaves_no_worker_behind() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    add_interface(topology, "other");
    let other = format!("other:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let folder = tempfile::tempdir().unwrap();
    let mut command = limited(topology, &[&rule(topology), &other]);
    command.arg("--control-socket").arg(folder.path().join("control.sock"));
    let output = topology.relay_namespace().run(|| command.output()).unwrap().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("worker 0 cannot receive on "), "{log}");
    assert_eq!(processes(topology), 0);
}
