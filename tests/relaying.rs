//! What is relayed where: through reverse-path filtering, from and to every kind of address, undisturbed by others.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use lab::topology::{Family, Topology};
use multicast_relay::rules::{Rule, RuleTable};
use multicast_relay::stats::Counters;
use multicast_relay::sys::filter;
use multicast_relay::sys::packet_socket::PacketSocket;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::worker::egress::Egress;
use multicast_relay::worker::{self, Descriptors, InputDescriptor, ReceivePath};
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Relay, Tap, changed, frame, good, is_empty, network,
    proc_of_relay, receive, rule, sink,
};

#[test]
#[ignore = "needs root: builds network namespaces"]
fn reverse_path_filtering_does_not_matter() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    for device in ["all", "ingress"] {
        topology.relay_namespace().set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
    }
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, &["--rule", &rule(topology)]);
    // From an address that the relay's host would never route back through its ingress.
    let strange = changed(good(b"strange"), |frame| frame[26..30].copy_from_slice(&[10, 82, 0, 2]));
    Injector::new(&topology.generator).send(&strange);
    assert_eq!(receive(&sink, 1), [b"strange"]);
    assert_eq!(relay.stop().relayed, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_with_a_source_goes_before_one_without() {
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
    let relay = Relay::start(topology, &["--config", file.to_str().unwrap()]);
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

#[test]
#[ignore = "needs root: builds network namespaces"]
fn more_groups_are_joined_than_one_socket_holds_and_all_are_left() {
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
    let relay = Relay::start(topology, &arguments);
    assert_eq!(joined(), usize::from(GROUPS));
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    for i in 0..GROUPS {
        injector.send(&frame(SocketAddr::from(([239, 81, 9, i], PORT)), &[i]));
    }
    assert_eq!(receive(&sink, GROUPS.into()), (0..GROUPS).map(|i| vec![i]).collect::<Vec<_>>());
    relay.stop();
    assert_eq!(joined(), 0);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_relay_does_not_hear_itself() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    // In and out through one interface, and the output is another rule's input.
    let first = format!("egress0:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let second = format!("egress0:{OUT_GROUP}:{OUT_PORT}=239.82.1.2:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, &["--rule", &first, "--rule", &second]);
    let sink = sink(&topology.sinks[0]);
    Injector::new(&topology.sinks[0]).send(&good(b"once"));
    assert_eq!(receive(&sink, 1), [b"once"]);
    let stats = relay.stop();
    assert_eq!((stats.received, stats.relayed), (1, 1));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn an_output_that_fails_disturbs_no_other() {
    let network = network(Family::Ipv4, 3);
    let topology = &network.topology;
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[2])];
    let relay = Relay::start(topology, &["--rule", &rule(topology)]);
    topology.egress[1].set_up(false).unwrap();
    let mut injector = Injector::new(&topology.generator);
    let expected: Vec<_> = (0..200_u8).map(|i| vec![i]).collect();
    for payload in &expected {
        injector.send(&good(payload));
    }
    assert!(sinks.iter().all(|sink| receive(sink, 200) == expected));
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

#[test]
#[ignore = "needs root: builds network namespaces"]
fn an_interface_that_goes_down_is_heard_again_when_it_is_up() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    for turn in 0..5_u8 {
        topology.ingress.set_up(false).unwrap();
        relay.stats_when(|stats| stats.inputs[0].went_down == u64::from(turn) + 1);
        topology.ingress.set_up(true).unwrap();
        injector.send(&good(&[turn]));
        assert_eq!(receive(&sink, 1), [[turn]]);
    }
    assert_eq!(relay.stop().relayed, 5);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn copies_leave_with_the_ttl_and_addresses_of_their_output_and_do_not_come_back() {
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
    let relay = Relay::start(topology, &["--config", file.to_str().unwrap()]);
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

#[test]
#[ignore = "needs root: builds network namespaces"]
fn ipv6_is_relayed_with_its_hop_limit() {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let rule = format!("ingress:[ff15::81:0:1]:{PORT}=[ff15::82:0:1]:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, &["--rule", &rule]);
    let mut tap = Tap::new(&topology.sinks[0]);
    let group: IpAddr = "ff15::81:0:1".parse().unwrap();
    Injector::new(&topology.generator).send(&frame((group, PORT).into(), b"six"));
    let frame = tap.next_udp();
    assert_eq!((frame[21], &frame[62..65]), (64, &b"six"[..]));
    assert_eq!(relay.stop().relayed, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_sender_to_a_unicast_input_is_not_told_that_nobody_listens() {
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
    let relay = Relay::start(topology, &["--rule", &rule]);
    assert_eq!(topology.sinks[0].namespace().run(send).unwrap(), ErrorKind::WouldBlock);
    assert_eq!(relay.stop().relayed, 1);
}

/// What the relay's supervisor does, for a worker that runs in this process.
fn descriptors(topology: &Topology, rules: &[Rule]) -> (Descriptors, PacketSocket) {
    let open = || {
        let socket = PacketSocket::open().unwrap();
        socket.ignore_outgoing().unwrap();
        socket.prefix_vnet_header().unwrap();
        socket.attach_filter(&filter::udp_over_ip()).unwrap();
        socket.set_receive_buffer(16 << 20).unwrap();
        let addresses = rules.iter().zip(&topology.egress).map(|(rule, port)| EgressAddress {
            destination: rule.outputs[0].destination(),
            interface: port.device().to_owned(),
            interface_index: port.index(),
            ttl: 64,
        });
        let sockets = addresses.map(|address| open_egress(&address, 1 << 20).unwrap().0).collect();
        let routes = (0..rules.len()).map(|i| vec![i as u32].into()).collect();
        socket.bind(topology.ingress.index()).unwrap();
        let input = InputDescriptor {
            name: "ingress".into(),
            socket: socket.try_clone().unwrap(),
            max_frame_len: 1_522,
        };
        (Descriptors { inputs: vec![input], egress: Egress { sockets, routes } }, socket)
    };
    topology.relay_namespace().run(open).unwrap()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_receive_path_relays_the_same() {
    const SENT: u32 = 2_000;
    for path in [ReceivePath::Recv, ReceivePath::RecvSingleShot] {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let rules: Vec<Rule> = vec![rule(topology).parse().unwrap()];
        let (descriptors, tap) = descriptors(topology, &rules);
        let sink = sink(&topology.sinks[0]);
        let counters = Arc::new(Counters::new(1, [1]));
        let (stopped, stop) = std::io::pipe().unwrap();
        let counted = Arc::clone(&counters);
        let worker = std::thread::spawn(move || {
            let table = RuleTable::new(&rules, &["ingress"]);
            worker::run(path, descriptors, &table, &counted, &stopped, || ())
        });
        let mut injector = Injector::new(&topology.generator);
        let expected: Vec<_> = (0..SENT).map(|i| vec![i as u8; i as usize % 1_400 + 1]).collect();
        for payload in &expected {
            injector.send(&good(payload));
        }
        drop(stop);
        worker.join().unwrap().unwrap();
        let received = receive(&sink, expected.len());
        let wrong = received.iter().zip(&expected).position(|(received, expected)| received != expected);
        assert_eq!(wrong, None, "{path:?}: the first datagram that is not the one sent");
        assert_eq!(counters.inputs[0].received.get(), u64::from(SENT));
        assert_eq!(counters.rules[0].outputs[0].relayed.get(), u64::from(SENT));
        assert_eq!(tap.take_statistics().unwrap().captured, SENT);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn families_can_be_crossed() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let rule = format!("ingress:[ff15::81:0:1]:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    // This network is IPv4 only, and a host without IPv6 cannot join an IPv6 group.
    topology.relay_namespace().set_sysctl("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    let relay = Relay::start(topology, &["--rule", &rule]);
    let group: IpAddr = "ff15::81:0:1".parse().unwrap();
    Injector::new(&topology.generator).send(&frame((group, PORT).into(), b"across"));
    assert_eq!(receive(&sink, 1), [b"across"]);
    assert_eq!(relay.stop().relayed, 1);
}
