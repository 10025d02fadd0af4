//! What is relayed where: through reverse-path filtering, from and to every kind of address, undisturbed by others.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::topology::{Family, Port};
use multicast_relay::rules::Rule;
use support::in_process::{InProcess, PATHS};
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, changed, fragments, frame, good,
    is_empty, network, proc_of_relay, receive, rule, sink,
};

over_every_path!(reverse_path_filtering_does_not_matter);

fn reverse_path_filtering_does_not_matter(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    for device in ["all", "ingress"] {
        topology.relay_namespace().set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
    }
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    // From an address that the relay's host would never route back through its ingress.
    let strange = changed(good(b"strange"), |frame| frame[26..30].copy_from_slice(&[10, 82, 0, 2]));
    Injector::new(&topology.generator).send(&strange);
    assert_eq!(receive(&sink, 1), [b"strange"]);
    assert_eq!(relay.stop().relayed, 1);
}

over_every_path!(a_rule_with_a_source_goes_before_one_without);

fn a_rule_with_a_source_goes_before_one_without(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let [one, two] = [&topology.egress[0], &topology.egress[1]].map(|port| port.device().to_owned());
    let config = format!(
        "[[rule]]\nname = \"any\"\ninput = {{ interface = \"ingress\", group = \"{GROUP}\", port = {PORT} }}\n\
         outputs = [{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"{one}\", ttl = 3 }}]\n\
         [[rule]]\nname = \"one\"\ninput = {{ interface = \"ingress\", group = \"{GROUP}\", port = {PORT}, source = \"10.81.0.1\" }}\n\
         outputs = [{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"{two}\" }}]\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    std::fs::write(&file, config).unwrap();
    let relay = Relay::start(topology, path, &["--config", file.to_str().unwrap()]);
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
    let mut injector = Injector::new(&topology.generator);
    injector.send(&good(b"named"));
    injector.send(&changed(good(b"other"), |frame| frame[29] = 77));
    assert_eq!(receive(&sinks[1], 1), [b"named"]);
    assert_eq!(receive(&sinks[0], 1), [b"other"]);
    let stats = relay.stop();
    assert!(sinks.iter().all(is_empty));
    let by_name: Vec<_> = stats.rules.iter().map(|rule| (rule.name.as_str(), rule.matched)).collect();
    assert_eq!(by_name, [("any", 1), ("one", 1)]);
}

over_every_path!(more_groups_are_joined_than_one_socket_holds_and_all_are_left);

fn more_groups_are_joined_than_one_socket_holds_and_all_are_left(path: Path) {
    const GROUPS: u8 = 50;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let rules: Vec<_> =
        (0..GROUPS).map(|i| format!("ingress:239.81.9.{i}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0")).collect();
    let arguments: Vec<_> = rules.iter().flat_map(|rule| ["--rule", rule]).collect();
    let joined = || {
        let groups = proc_of_relay(topology, "net/igmp");
        (0..GROUPS).filter(|i| groups.contains(&format!("{i:02X}0951EF"))).count()
    };
    assert_eq!(joined(), 0);
    let relay = Relay::start(topology, path, &arguments);
    assert_eq!(joined(), usize::from(GROUPS));
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    for i in 0..GROUPS {
        injector.send(&frame(SocketAddr::from(([239, 81, 9, i], PORT)), &[i]));
    }
    let mut received = receive(&sink, GROUPS.into());
    // Workers that share the flows keep the order of each, not that among them.
    received.sort();
    assert_eq!(received, (0..GROUPS).map(|i| vec![i]).collect::<Vec<_>>());
    relay.stop();
    assert_eq!(joined(), 0);
}

over_every_path!(the_relay_does_not_hear_itself);

fn the_relay_does_not_hear_itself(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    // In and out through one interface, and the output is another rule's input.
    let first = format!("egress0:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let second = format!("egress0:{OUT_GROUP}:{OUT_PORT}=239.82.1.2:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &first, "--rule", &second]);
    let sink = sink(&topology.sinks[0]);
    Injector::new(&topology.sinks[0]).send(&good(b"once"));
    assert_eq!(receive(&sink, 1), [b"once"]);
    let stats = relay.stop();
    assert_eq!((stats.received, stats.relayed), (1, 1));
}

over_every_path!(an_output_that_fails_disturbs_no_other);

fn an_output_that_fails_disturbs_no_other(path: Path) {
    let network = network(Family::Ipv4, 3);
    let topology = &network.topology;
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[2])];
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    topology.egress[1].set_up(false).unwrap();
    let mut injector = Injector::new(&topology.generator);
    let expected: Vec<_> = (0..200_u8).map(|i| vec![i]).collect();
    for payload in &expected {
        injector.send(&good(payload));
    }
    assert!(sinks.iter().all(|sink| receive(sink, 200) == expected));
    // A train that fails is tried again copy by copy, which may still be going on when the others have arrived.
    relay.stats_when(|stats| stats.rules[0].outputs[1].dropped.values().sum::<u64>() == 200);
    // It is sent through again as soon as it is up.
    topology.egress[1].set_up(true).unwrap();
    let mut tap = Tap::new(&topology.sinks[1]);
    injector.send(&good(b"again"));
    assert_eq!(tap.next_udp()[42..47], *b"again");
    let outputs = relay.stop().rules.remove(0).outputs;
    assert_eq!([outputs[0].relayed, outputs[1].relayed, outputs[2].relayed], [201, 1, 201]);
    assert_eq!(outputs[1].dropped.values().sum::<u64>(), 200, "{:?}", outputs[1].dropped);
    assert!(!outputs[1].dropped.contains_key("other"), "{:?}", outputs[1].dropped);
}

over_every_path!(an_interface_that_goes_down_is_heard_again_when_it_is_up);

fn an_interface_that_goes_down_is_heard_again_when_it_is_up(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    for turn in 0..5_u8 {
        topology.ingress.set_up(false).unwrap();
        relay.stats_when(|stats| stats.inputs[0].went_down == u64::from(turn) + 1);
        topology.ingress.set_up(true).unwrap();
        wait_until_it_sends(&topology.generator);
        injector.send(&good(&[turn]));
        assert_eq!(receive(&sink, 1), [[turn]]);
    }
    assert_eq!(relay.stop().relayed, 5);
}

/// Waits until what is sent through a device leaves: of one that has a carrier again, the kernel drops it for a moment.
fn wait_until_it_sends(port: &Port) {
    let deadline = Instant::now() + DEADLINE;
    let show = || Command::new("ip").args(["-j", "link", "show", port.device()]).output().unwrap().stdout;
    loop {
        let links: serde_json::Value = serde_json::from_slice(&port.namespace().run(show).unwrap()).unwrap();
        if links[0]["operstate"] == "UP" && links[0]["qdisc"] != "noop" {
            return;
        }
        assert!(Instant::now() < deadline, "{links}");
    }
}

over_every_path!(copies_leave_with_the_ttl_and_addresses_of_their_output_and_do_not_come_back);

fn copies_leave_with_the_ttl_and_addresses_of_their_output_and_do_not_come_back(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let IpAddr::V4(host) = topology.sinks[1].address() else { panic!("an IPv4 network") };
    let config = format!(
        "[[rule]]\ninput = {{ interface = \"ingress\", group = \"{GROUP}\", port = {PORT} }}\n\
         outputs = [{{ group = \"{OUT_GROUP}\", port = {OUT_PORT}, interface = \"egress0\", ttl = 3 }},\n\
         {{ group = \"{host}\", port = 7000, interface = \"egress1\", ttl = 5 }}]\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    std::fs::write(&file, config).unwrap();
    let relay = Relay::start(topology, path, &["--config", file.to_str().unwrap()]);
    let mut taps = [Tap::new(&topology.sinks[0]), Tap::new(&topology.sinks[1])];
    let listener_on_the_relays_host = sink(&topology.egress[0]);
    Injector::new(&topology.generator).send(&good(b"x"));
    for (i, (ttl, to, port)) in [(3, OUT_GROUP, OUT_PORT), (5, host, 7000)].into_iter().enumerate() {
        let frame = taps[i].next_udp();
        assert_eq!(frame[22], ttl);
        assert_eq!(IpAddr::from([frame[26], frame[27], frame[28], frame[29]]), topology.egress[i].address());
        assert_eq!(frame[30..34], to.octets());
        assert_eq!(frame[36..38], port.to_be_bytes());
        assert_eq!(frame[42..43], *b"x");
    }
    assert!(is_empty(&listener_on_the_relays_host), "copies are not looped back");
    assert_eq!(relay.stop().relayed, 2);
}

over_every_path!(ipv6_is_relayed_with_its_hop_limit);

fn ipv6_is_relayed_with_its_hop_limit(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let rule = format!("ingress:[ff15::81:0:1]:{PORT}=[ff15::82:0:1]:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let mut tap = Tap::new(&topology.sinks[0]);
    let group: IpAddr = "ff15::81:0:1".parse().unwrap();
    Injector::new(&topology.generator).send(&frame((group, PORT).into(), b"six"));
    let frame = tap.next_udp();
    assert_eq!((frame[21], &frame[62..65]), (64, &b"six"[..]));
    assert_eq!(relay.stop().relayed, 1);
}

over_every_path!(a_sender_to_a_unicast_input_is_not_told_that_nobody_listens);

fn a_sender_to_a_unicast_input_is_not_told_that_nobody_listens(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    // The sink's host is the sender here: it has an IP stack that takes such an answer.
    let IpAddr::V4(relay_address) = topology.egress[0].address() else { panic!("an IPv4 network") };
    let send = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((relay_address, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.send(b"unicast").unwrap();
        socket.recv(&mut [0; 10]).unwrap_err().kind()
    };
    assert_eq!(
        topology.sinks[0].namespace().run(send).unwrap(),
        ErrorKind::ConnectionRefused,
        "without a relay"
    );
    let rule = format!("egress0:{relay_address}:{PORT}={OUT_GROUP}:{OUT_PORT}:ingress");
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    assert_eq!(topology.sinks[0].namespace().run(send).unwrap(), ErrorKind::WouldBlock);
    assert_eq!(relay.stop().relayed, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_receive_path_relays_the_same() {
    const SENT: u32 = 2_000;
    for (name, path) in PATHS {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let rules: Vec<Rule> = vec![rule(topology).parse().unwrap()];
        let sink = sink(&topology.sinks[0]);
        let worker = InProcess::start(topology, &rules, path);
        let mut injector = Injector::new(&topology.generator);
        let expected: Vec<_> = (0..SENT).map(|i| vec![i as u8; i as usize % 1_400 + 1]).collect();
        for payload in &expected {
            injector.send(&good(payload));
        }
        let received = receive(&sink, expected.len());
        let wrong = received.iter().zip(&expected).position(|(received, expected)| received != expected);
        assert_eq!(wrong, None, "{name}: the first datagram that is not the one sent");
        assert_eq!(worker.tap.take_statistics().unwrap().captured, SENT);
        let counters = worker.stop();
        assert_eq!(counters.input(0).unwrap().received().get(), u64::from(SENT));
        assert_eq!(counters.output(0).unwrap().relayed().get(), u64::from(SENT));
    }
}

over_every_path!(fragmented_datagrams_arrive_whole_and_in_order);

fn fragmented_datagrams_arrive_whole_and_in_order(path: Path) {
    const SENT: u16 = 60;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    // Larger than any slot or buffer that is made for the MTU, up to the largest there is, and small ones between.
    let lens = [8_000, 100, 1_473, 65_507, 1, 20_000];
    let expected: Vec<_> = (0..SENT).map(|i| vec![i as u8; lens[usize::from(i) % lens.len()]]).collect();
    for (i, payload) in expected.iter().enumerate() {
        let mut frames = fragments(&good(payload), i as u16);
        // A network may deliver them in any order.
        if i % 2 == 1 {
            frames.reverse();
        }
        for frame in &frames {
            injector.send(frame);
        }
    }
    let received = receive(&sink, expected.len());
    let wrong = received.iter().zip(&expected).position(|(received, expected)| received != expected);
    assert_eq!(wrong, None, "the first datagram that is not the one sent");
    let stats = relay.stop();
    assert_eq!((stats.received, stats.relayed), (SENT.into(), SENT.into()), "as whole datagrams");
}

over_every_path!(families_can_be_crossed);

fn families_can_be_crossed(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let rule = format!("ingress:[ff15::81:0:1]:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    // This network is IPv4 only, and a host without IPv6 cannot join an IPv6 group.
    topology.relay_namespace().set_sysctl("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let group: IpAddr = "ff15::81:0:1".parse().unwrap();
    Injector::new(&topology.generator).send(&frame((group, PORT).into(), b"across"));
    assert_eq!(receive(&sink, 1), [b"across"]);
    assert_eq!(relay.stop().relayed, 1);
}

over_every_path!(what_is_consumed_is_relayed_and_goes_nowhere_else);

fn what_is_consumed_is_relayed_and_goes_nowhere_else(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let rule = rule(topology);
    // Programs of the same host that listen to what is relayed, and to something else.
    let listen = |port| {
        let open = || {
            let socket = UdpSocket::bind((GROUP, port)).unwrap();
            let IpAddr::V4(address) = topology.ingress.address() else { panic!("an IPv4 ingress") };
            socket.join_multicast_v4(&GROUP, &address).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        topology.relay_namespace().run(open).unwrap()
    };
    let (wanted, other) = (listen(PORT), listen(PORT + 1));
    let mut injector = Injector::new(&topology.generator);
    let mut send = |payload: &[u8]| {
        injector.send(&good(payload));
        injector.send(&frame(SocketAddr::from((GROUP, PORT + 1)), payload));
        assert_eq!(receive(&other, 1), [payload], "what no rule takes goes on");
    };

    let relay = Relay::start(topology, path, &["--rule", &rule]);
    send(b"tapped");
    assert_eq!([receive(&sink, 1), receive(&wanted, 1)], [[b"tapped"], [b"tapped"]]);
    assert_eq!(relay.stop().inputs[0].consumed, 0);

    let relay = Relay::start(topology, path, &["--rule", &rule, "--consume"]);
    send(b"consumed");
    assert_eq!(receive(&sink, 1), [b"consumed"]);
    let stats = relay.stats();
    assert_eq!((stats.inputs[0].consumed, stats.inputs[0].foreign), (1, 1));
    // However it ends, nothing of it stays.
    drop(relay);
    send(b"gone");
    assert_eq!(receive(&wanted, 1), [b"gone"], "and nothing in between");
}
