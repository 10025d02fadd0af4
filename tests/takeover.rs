//! A supervisor that dies, and the next one that takes its workers over.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use lab::topology::Family;
use multicast_relay::control::{Answer, Command as Ask};
use support::flow::undisturbed;
use support::{Injector, PORT, Path, Relay, good, kill, network, rule, sink};

/// Whether a process has ended. Whoever has it as a child now may not have looked for it yet.
fn has_ended(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.is_empty() || state.contains(") Z ")
}

over_every_path!(workers_go_on_without_a_supervisor_and_another_one_takes_them_over);

fn workers_go_on_without_a_supervisor_and_another_one_takes_them_over(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let (sent, arrived) = undisturbed(topology, &sink, |flow| {
        flow.goes_on(4_000);
        let workers = relay.workers();
        relay.end_supervisor();
        flow.goes_on(4_000);
        relay.start_again(topology, &["--rule", &rule(topology)]);
        flow.goes_on(4_000);
        let Answer::Workers(now) = relay.ask(&Ask::Workers).unwrap() else {
            panic!("an answer of another kind")
        };
        let now: Vec<_> = now.iter().filter_map(|worker| worker.pid).collect();
        assert_eq!(now, workers, "the same ones");
    });
    assert_eq!(arrived.len(), sent as usize, "nothing is lost");
    assert!(arrived.values().all(|times| *times == 1), "and nothing is sent twice");
    let stats = relay.stop();
    assert_eq!(
        (stats.relayed, stats.inputs[0].captured),
        (u64::from(sent), u64::from(sent)),
        "counters go on"
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_worker_that_cannot_be_taken_over_is_ended_and_nothing_is_relayed_twice() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let arguments = ["--rule", &rule(topology)];
    let mut relay = Relay::start(topology, Path::MmapV3, &arguments);
    relay.end_supervisor();
    let [stopped] = relay.orphans[..] else { panic!("one worker") };
    kill(stopped, libc::SIGSTOP);
    relay.start_again(topology, &arguments);
    assert!(relay.log().contains("it does not answer"), "{}", relay.log());
    assert!(has_ended(stopped));
    Injector::new(&topology.generator).send(&good(b"once"));
    assert_eq!(support::receive(&sink, 1), [b"once"]);
    assert_eq!(relay.stop().relayed, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn workers_that_are_to_relay_in_another_way_end_and_others_begin() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut relay = Relay::start(topology, Path::MmapV3, &["--rule", &rule(topology)]);
    let workers = relay.workers();
    relay.end_supervisor();
    relay.start_again(topology, &["--rule", &rule(topology), "--num-workers", "2"]);
    assert!(has_ended(workers[0]));
    assert_eq!(relay.workers().len(), 2);
    Injector::new(&topology.generator).send(&good(b"x"));
    assert_eq!(support::receive(&sink, 1), [b"x"]);
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn an_address_of_the_host_is_kept_from_others_with_and_without_a_supervisor() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let address = topology.ingress.address();
    let unicast = format!("ingress:{address}:{PORT}=239.82.1.1:6000:egress0");
    let is_free = || {
        let bind = || std::net::UdpSocket::bind((address, PORT)).is_ok();
        topology.relay_namespace().run(bind).unwrap()
    };
    let mut relay = Relay::start(topology, Path::MmapV3, &["--rule", &unicast]);
    assert!(!is_free());
    relay.end_supervisor();
    assert!(!is_free(), "its senders would be told that nobody listens");
    relay.start_again(topology, &["--rule", &unicast]);
    assert!(!is_free());
    relay.run(&["remove", &format!("ingress:{address}:{PORT}")]);
    assert!(is_free());
}
