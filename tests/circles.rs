//! Rules that would send in a circle are refused, and what the relay sends no rule of it takes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use lab::topology::{Family, Topology};
use multicast_relay::client::to_toml;
use multicast_relay::control::{Answer, Command as Ask, RefusalKind, RuleSpec, Selector};
use multicast_relay::rules::Rule;
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, good, is_empty, network, receive, sink,
};

/// Where one rule sends through `lo` what another one would take there.
const BETWEEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 83, 1, 1)), 7000);

fn spec(rule: &str) -> RuleSpec {
    RuleSpec::from(&rule.parse::<Rule>().unwrap())
}

fn names(relay: &Relay) -> Vec<String> {
    match relay.ask(&Ask::List).unwrap() {
        Answer::Rules(rules) => rules.iter().map(|status| status.rule.name()).collect(),
        other => panic!("{other:?}"),
    }
}

/// A socket of another program on the relay's host, which sends and receives through `lo`.
fn neighbour(topology: &Topology, address: SocketAddr) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, address.port())).unwrap();
        if let IpAddr::V4(group) = address.ip()
            && group.is_multicast()
        {
            socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
            socket2::SockRef::from(&socket).bind_device(Some(b"lo")).unwrap();
        }
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    topology.relay_namespace().run(open).unwrap()
}

/// Starts a relay of two rules: the output of the first, which `other` listens to, would be the input of the second, `between`.
/// Sends to the first, and then to the second.
fn takes_of_others_only(
    topology: &Topology,
    (path, arguments): (Path, &[&str]),
    between: SocketAddr,
    send: impl Fn(&[u8]),
) {
    // A relay reserves a port for itself that nobody has.
    let (other, sink) = (neighbour(topology, between), sink(&topology.sinks[0]));
    let relay = Relay::start(topology, path, arguments);
    send(b"once");
    assert_eq!(receive(&other, 1), [b"once"], "it has left");
    other.send_to(b"from another program", between).unwrap();
    assert_eq!(receive(&sink, 1), [b"from another program"]);
    assert_eq!(receive(&other, 1), [b"from another program"]);
    let stats = relay.stop();
    assert!(is_empty(&sink));
    assert_eq!((stats.received, stats.relayed), (2, 2));
}

fn through_lo(path: Path, arguments: &[&str]) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let first = format!("lo:{GROUP}:{PORT}={BETWEEN}:lo");
    let second = format!("lo:{BETWEEN}={OUT_GROUP}:{OUT_PORT}:egress0");
    let arguments = [&["--rule", &first, "--rule", &second], arguments].concat();
    let sender = neighbour(topology, SocketAddr::from((GROUP, PORT)));
    takes_of_others_only(topology, (path, &arguments), BETWEEN, |payload| {
        sender.send_to(payload, (GROUP, PORT)).unwrap();
    });
}

over_every_path!(what_it_sends_through_lo_it_does_not_take_there);

fn what_it_sends_through_lo_it_does_not_take_there(path: Path) {
    through_lo(path, &[]);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_the_rule_filter_it_does_not_take_its_own_either() {
    through_lo(Path::MmapV3, &["--no-rule-filter"]);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_it_sends_to_an_address_of_its_own_it_does_not_take_on_lo() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let between = SocketAddr::new(topology.egress[0].address(), 7000);
    let first = format!("ingress:{GROUP}:{PORT}={between}:egress0");
    let second = format!("lo:{between}={OUT_GROUP}:{OUT_PORT}:egress0");
    let arguments = ["--rule", &first, "--rule", &second];
    takes_of_others_only(topology, (Path::MmapV3, &arguments), between, |payload| {
        Injector::new(&topology.generator).send(&good(payload));
    });
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn its_own_is_not_consumed_on_lo() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let first = format!("ingress:{GROUP}:{PORT}={BETWEEN}:lo");
    let second = format!("lo:{BETWEEN}={OUT_GROUP}:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &first, "--rule", &second, "--consume"]);
    let (other, sink) = (neighbour(topology, BETWEEN), sink(&topology.sinks[0]));
    Injector::new(&topology.generator).send(&good(b"for others"));
    assert_eq!(receive(&other, 1), [b"for others"]);
    other.send_to(b"for the rule", BETWEEN).unwrap();
    assert_eq!(receive(&sink, 1), [b"for the rule"]);
    relay.stop();
    assert!(is_empty(&other) && is_empty(&sink));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn rules_that_would_close_a_circle_are_refused_and_change_nothing() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let there = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let on = format!("egress0:{OUT_GROUP}:{OUT_PORT}=239.84.1.1:1:egress0");
    let back = format!("egress0:239.84.1.1:1={GROUP}:{PORT}:ingress");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let write = |rules: &[&str]| {
        let specs: Vec<_> = rules.iter().map(|rule| spec(rule)).collect();
        std::fs::write(&file, to_toml(&specs)).unwrap();
    };
    write(&[&there]);
    let relay = Relay::start(topology, Path::MmapV3, &["--config", file.to_str().unwrap()]);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    let mut relays = |number: u8| {
        injector.send(&good(&[number]));
        assert_eq!(receive(&sink, 1), [[number]]);
    };
    let is_refused = |ask: &Ask, kind| {
        let refusal = relay.ask(ask).unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains("these rules send in a circle"), "{refusal}");
    };
    relays(1);
    is_refused(&Ask::Add { rules: vec![spec(&on), spec(&back)] }, RefusalKind::Conflict);
    relay.ask(&Ask::Add { rules: vec![spec(&back)] }).unwrap();
    is_refused(&Ask::Add { rules: vec![spec(&on)] }, RefusalKind::Conflict);
    assert_eq!(names(&relay).len(), 2);
    relay.ask(&Ask::Remove { rules: vec![Selector::Name(spec(&back).name())] }).unwrap();
    relay.ask(&Ask::Add { rules: vec![spec(&on)] }).unwrap();
    write(&[&there, &on, &back]);
    is_refused(&Ask::Reload, RefusalKind::BadRequest);
    // What was added goes when the file is read again, and is in the way of nothing in it.
    write(&[&there, &back]);
    relay.ask(&Ask::Reload).unwrap();
    assert_eq!(names(&relay), [spec(&there).name(), spec(&back).name()]);
    relays(2);
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_that_another_supervisor_was_given_goes_where_it_would_close_a_circle() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let there = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let back = format!("egress0:{OUT_GROUP}:{OUT_PORT}={GROUP}:{PORT}:ingress");
    let aside = format!("egress0:239.84.1.1:1={GROUP}:{PORT}:ingress");
    let mut relay = Relay::start(topology, Path::MmapV3, &["--rule", &aside]);
    relay.ask(&Ask::Add { rules: vec![spec(&back)] }).unwrap();
    relay.end_supervisor();
    relay.start_again(topology, &["--rule", &aside, "--rule", &there]);
    assert_eq!(names(&relay), [spec(&aside).name(), spec(&there).name()]);
    assert!(relay.log().contains("is taken out for the configuration: these rules send in a circle"));
    let sink = sink(&topology.sinks[0]);
    Injector::new(&topology.generator).send(&good(b"x"));
    assert_eq!(receive(&sink, 1), [b"x"]);
    relay.stop();
}
