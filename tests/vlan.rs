//! Rules for a VLAN on a parent interface take what has its tag, and nothing else does.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/host.rs"]
mod host;
mod support;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use host::ip;
use lab::topology::{Family, Topology};
use multicast_relay::control::State;
use multicast_relay::rules::Rule;
use multicast_relay::stats::Cause;
use support::flow::undisturbed;
use support::in_process::{InProcess, PATHS};
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, fragments, frame, good, is_empty, kill, network,
    receive, rule, sink, tagged,
};
use tempfile::NamedTempFile;

fn group_v6() -> SocketAddr {
    SocketAddr::from(("ff15::81:0:1".parse::<IpAddr>().unwrap(), PORT))
}

/// The rule from the group, in this VLAN or in none, to the group at the sink of the same place as the egress port.
fn of_vlan(group: IpAddr, vlan: Option<u16>, egress: usize) -> String {
    let vlan = vlan.map_or(String::new(), |vlan| format!(", vlan = {vlan}"));
    format!(
        "[[rule]]\ninput = {{ interface = 'ingress', group = '{group}', port = {PORT}{vlan} }}\n\
         outputs = [{{ group = '{OUT_GROUP}', port = {OUT_PORT}, interface = 'egress{egress}' }}]\n"
    )
}

fn file(rules: &[String]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(rules.concat().as_bytes()).unwrap();
    file
}

/// `frame` with an 802.1ad tag.
fn of_provider(frame: &[u8], tag: u16) -> Vec<u8> {
    let mut frame = tagged(frame, tag);
    frame[12..14].copy_from_slice(&[0x88, 0xa8]);
    frame
}

/// A train of datagrams of 100 bytes in one frame, in VLAN 5 or in none: what a packet socket that has a `virtio_net_hdr` before
/// frames (`linux/virtio_net.h`) sends as it stands.
fn send_train(topology: &Topology, payload: &[u8], tag: Option<u16>) {
    let train = tag.map_or_else(|| good(payload), |tag| tagged(&good(payload), tag));
    let udp = if tag.is_some() { 38 } else { 34 };
    let size = 100_u16.to_ne_bytes();
    // The checksum is needed, UDP in segments behind headers; it begins with UDP, and goes 6 behind that.
    let header = [1, 5, udp + 8, 0, size[0], size[1], udp, 0, 6, 0];
    let send = || {
        let socket = multicast_relay::sys::packet_socket::PacketSocket::open().unwrap();
        socket.prefix_vnet_header().unwrap();
        socket.bind(topology.generator.index()).unwrap();
        let train = [&header, train.as_slice()].concat();
        std::fs::File::from(socket.try_clone().unwrap()).write_all(&train).unwrap();
    };
    topology.generator.namespace().run(send).unwrap();
}

/// What a sink has got when it has got so much, sorted.
fn received(sink: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut payloads = receive(sink, count);
    payloads.sort();
    payloads
}

over_every_path!(each_rule_takes_its_vlan_alone);

fn each_rule_takes_its_vlan_alone(path: Path) {
    for arguments in [&[][..], &["--no-rule-filter"]] {
        let network = network(Family::Ipv4, 2);
        let topology = &network.topology;
        let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
        let group = IpAddr::from(GROUP);
        let file = file(&[
            of_vlan(group, None, 0),
            of_vlan(group, Some(5), 1),
            of_vlan(group_v6().ip(), Some(5), 1),
        ]);
        let config = ["--config", file.path().to_str().unwrap()];
        let relay = Relay::start(topology, path, &[&config, arguments].concat());
        let mut injector = Injector::new(&topology.generator);
        let six = |payload: &[u8]| frame(group_v6(), payload);
        for frame in [
            good(b"plain"),
            tagged(&good(b"priority"), 0xe000),
            tagged(&good(b"five"), 5),
            tagged(&good(b"five with priority"), 0xe005),
            of_provider(&good(b"five of a provider"), 5),
            tagged(&six(b"five over IPv6"), 5),
            // These no rule takes.
            tagged(&good(b"six"), 6),
            tagged(&good(b"the reserved one"), 0xfff),
            six(b"plain over IPv6"),
            tagged(&six(b"six over IPv6"), 6),
            tagged(&tagged(&good(b"six in five"), 6), 5),
            tagged(&tagged(&good(b"five in six"), 5), 6),
            of_provider(&tagged(&good(b"five of a provider's five"), 5), 5),
            tagged(&tagged(&good(b"five in a priority"), 5), 0xe000),
            tagged(&frame((GROUP, PORT + 1).into(), b"another port"), 5),
        ] {
            injector.send(&frame);
        }
        let plain = [&b"plain"[..], b"priority"];
        let five = [&b"five"[..], b"five of a provider", b"five over IPv6", b"five with priority"];
        assert_eq!(received(&sinks[0], plain.len()), plain);
        assert_eq!(received(&sinks[1], five.len()), five);
        let stats = relay.stop();
        assert!(sinks.iter().all(is_empty), "nothing else came through");
        let dropped: Vec<_> = stats.dropped.iter().map(|(cause, count)| (cause.as_str(), *count)).collect();
        if arguments.is_empty() {
            // Of VLANs that the rules do not name as of those that they do.
            assert_eq!((stats.inputs[0].foreign, dropped), (5, vec![]));
        } else {
            assert_eq!((stats.inputs[0].foreign, dropped), (0, vec![("no_rule", 1), ("tagged", 4)]));
        }
    }
}

over_every_path!(fragments_and_trains_in_a_vlan_are_what_they_were);

fn fragments_and_trains_in_a_vlan_are_what_they_were(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
    let file = file(&[of_vlan(GROUP.into(), None, 0), of_vlan(GROUP.into(), Some(5), 1)]);
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    let mut injector = Injector::new(&topology.generator);
    let payload = |i: u16, len: usize| (0..len).map(|at| (i as usize + at * 7 / 5) as u8).collect::<Vec<_>>();
    let (mut plain, mut five) = (Vec::new(), Vec::new());
    // The kernel puts fragments together before it is known which rule takes them, for all VLANs of an interface.
    for i in 0..20 {
        let large = payload(i, 4_000 + usize::from(i));
        for fragment in fragments(&good(&large), 1_000 + i) {
            injector.send(&if i % 2 == 0 { fragment } else { tagged(&fragment, 5) });
        }
        if i % 2 == 0 { &mut plain } else { &mut five }.push(large);
    }
    for i in 0..4 {
        let train = payload(i, 6_050);
        let (tag, expected) = if i % 2 == 0 { (None, &mut plain) } else { (Some(0xa005), &mut five) };
        send_train(topology, &train, tag);
        expected.extend(train.chunks(100).map(<[u8]>::to_vec));
    }
    assert!(
        receive(&sinks[0], plain.len()) == plain && receive(&sinks[1], five.len()) == five,
        "as they came"
    );
    let stats = relay.stop();
    assert!(sinks.iter().all(is_empty));
    assert_eq!((stats.inputs[0].frames, stats.received, stats.dropped.len()), (24, 20 + 4 * 61, 0));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_way_to_receive_tells_the_vlan() {
    for (name, path) in PATHS {
        let network = network(Family::Ipv4, 2);
        let topology = &network.topology;
        let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
        let rule = |egress| -> Rule {
            format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress{egress}").parse().unwrap()
        };
        let mut rules = [rule(0), rule(1)];
        rules[1].input.vlan = "5".parse().ok();
        let relay = InProcess::start(topology, &rules, path);
        let mut injector = Injector::new(&topology.generator);
        for i in 0..100_u8 {
            let frame = good(&[i; 20]);
            injector.send(&if i % 3 == 0 { frame } else { tagged(&frame, 4 + u16::from(i % 3)) });
        }
        for (sink, rest) in sinks.iter().zip(0..) {
            let expected: Vec<_> = (0..100_u8).filter(|i| i % 3 == rest).map(|i| vec![i; 20]).collect();
            assert_eq!(receive(sink, expected.len()), expected, "{name}");
        }
        let counters = relay.stop();
        assert!(sinks.iter().all(is_empty), "{name}");
        assert_eq!(counters.dropped().get(Cause::Tagged), 33, "{name}");
    }
}

/// What has arrived, or arrives within a moment.
fn try_receive(sink: &UdpSocket) -> Option<Vec<u8>> {
    sink.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut payload = vec![0; 100];
    let len = sink.recv(&mut payload).ok()?;
    payload.truncate(len);
    Some(payload)
}

/// The flags of a rule for the group in VLAN 5.
fn five() -> Vec<String> {
    let (group, port) = (GROUP.to_string(), PORT.to_string());
    let flags =
        ["--input-interface", "ingress", "--input-group", &group, "--input-port", &port, "--input-vlan", "5"];
    flags.map(str::to_owned).to_vec()
}

over_every_path!(rules_for_vlans_come_and_go_and_disturb_no_other);

fn rules_for_vlans_come_and_go_and_disturb_no_other(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let [plain, other] = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
    let untagged = rule(topology).split(',').next().unwrap().to_owned();
    let outputs = format!("{OUT_GROUP}:{OUT_PORT}:egress1");
    let add: Vec<_> = [&["add".to_owned()], &five()[..], &["--outputs".to_owned(), outputs]].concat();
    let remove: Vec<_> = [&["remove".to_owned()], &five()[..]].concat();
    let [add, remove] = [&add, &remove].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
    for arguments in [&[][..], &["--no-rule-filter"]] {
        let relay = Relay::start(topology, path, &[&["--rule", &untagged], arguments].concat());
        let (sent, arrived) = undisturbed(topology, &plain, |flow| {
            let mut injector = Injector::new(&topology.generator);
            for round in 1..=3 {
                flow.goes_on(500);
                relay.run(&add);
                injector.send(&tagged(&good(b"other"), 6));
                injector.send(&tagged(&good(b"five"), 5));
                assert_eq!(receive(&other, 1), [b"five"]);
                flow.goes_on(500);
                assert_eq!(relay.rules()[1].rule.name(), format!("ingress:{GROUP}:{PORT} vlan 5"));
                relay.run(&remove);
                injector.send(&tagged(&good(b"too late"), 5));
                relay.stats_when(|stats| {
                    let tagged = stats.dropped.get("tagged").copied().unwrap_or(0);
                    stats.inputs[0].foreign + tagged == 2 * round
                });
            }
        });
        assert_eq!(arrived.len(), sent as usize, "nothing is lost");
        assert!(arrived.values().all(|times| *times == 1), "and nothing is sent twice");
        assert_eq!(relay.stop().relayed, u64::from(sent) + 3);
        assert!(is_empty(&other));
    }
}

over_every_path!(whoever_comes_after_knows_the_vlans);

fn whoever_comes_after_knows_the_vlans(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let sinks = [sink(&topology.sinks[0]), sink(&topology.sinks[1])];
    let file = file(&[of_vlan(GROUP.into(), None, 0), of_vlan(GROUP.into(), Some(5), 1)]);
    let config = ["--config", file.path().to_str().unwrap()];
    let mut relay = Relay::start(topology, path, &config);
    let mut injector = Injector::new(&topology.generator);
    let mut goes_through = |when: &str| {
        let [plain, five, six] = ["plain", "five", "six"].map(|vlan| format!("{vlan} {when}").into_bytes());
        let frames = [good(&plain), tagged(&good(&five), 5), tagged(&good(&six), 6)];
        let wanted = [plain, five];
        let mut has_arrived = [false; 2];
        let deadline = Instant::now() + support::DEADLINE;
        while has_arrived != [true; 2] {
            assert!(Instant::now() < deadline, "{has_arrived:?}");
            // What a worker had in hand that died leaves once more, or by recv is lost, so that it is sent once more.
            for frame in &frames {
                injector.send(frame);
            }
            for ((sink, wanted), has_arrived) in sinks.iter().zip(&wanted).zip(&mut has_arrived) {
                while let Some(payload) = try_receive(sink) {
                    assert_eq!(payload[..4], wanted[..4], "of that VLAN");
                    *has_arrived |= payload == *wanted;
                }
            }
        }
    };
    goes_through("before");
    for worker in relay.workers() {
        kill(worker, libc::SIGKILL);
    }
    goes_through("by new workers");
    relay.end_supervisor();
    goes_through("without a supervisor");
    relay.start_again(topology, &config);
    goes_through("behind");
    relay.stop();
}

over_every_path!(in_a_vlan_only_its_own_is_consumed);

fn in_a_vlan_only_its_own_is_consumed(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    // A program of the same host that takes what is in no VLAN.
    let listen = || {
        let IpAddr::V4(address) = topology.ingress.address() else { panic!("an IPv4 ingress") };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        socket.join_multicast_v4(&GROUP, &address).unwrap();
        socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
        socket
    };
    let program = topology.relay_namespace().run(listen).unwrap();
    let file = file(&[of_vlan(GROUP.into(), Some(5), 0)]);
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap(), "--consume"]);
    let mut injector = Injector::new(&topology.generator);
    for frame in [
        good(b"plain"),
        tagged(&good(b"five"), 5),
        tagged(&good(b"six"), 6),
        tagged(&tagged(&good(b"five in six"), 5), 6),
        tagged(&good(b"priority"), 0xe000),
    ] {
        injector.send(&frame);
    }
    assert_eq!(receive(&program, 2), [&b"plain"[..], b"priority"]);
    assert_eq!(receive(&sink, 1), [b"five"]);
    assert_eq!(relay.stop().inputs[0].consumed, 1);
    assert!(is_empty(&sink));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn in_a_vlan_the_host_joins_and_occupies_nothing() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let host = topology.ingress.address();
    topology.relay_namespace().run(|| ip("tuntap add dev tun0 mode tun\nlink set tun0 up")).unwrap();
    let on_tun = of_vlan(GROUP.into(), Some(5), 0).replace("'ingress'", "'tun0'");
    let file = file(&[of_vlan(GROUP.into(), Some(5), 0), of_vlan(host, Some(5), 0), on_tun]);
    let relay = Relay::start(topology, Path::MmapV3, &["--config", file.path().to_str().unwrap()]);
    let groups = support::proc_of_relay(topology, "net/igmp");
    // As the kernel prints an address.
    let number = format!("{:08X}", u32::from_ne_bytes(GROUP.octets()));
    assert!(!groups.contains(&number), "{groups}");
    topology.relay_namespace().run(|| UdpSocket::bind((host, PORT)).map(drop)).unwrap().unwrap();
    let mut injector = Injector::new(&topology.generator);
    let mut unicast = frame((host, PORT).into(), b"to the host");
    unicast[..6].copy_from_slice(&topology.ingress.mac());
    injector.send(&unicast);
    injector.send(&tagged(&unicast, 5));
    assert_eq!(receive(&sink, 1), [b"to the host"]);
    let rules = relay.rules();
    assert_eq!(
        rules.iter().map(|rule| rule.state).collect::<Vec<_>>(),
        [State::Relaying, State::Relaying, State::Waiting]
    );
    assert!(rules[2].reasons[0].contains("no Ethernet header, so they are in no VLAN"), "{:?}", rules[2]);
    assert_eq!(relay.stop().relayed, 1);
    assert!(is_empty(&sink));
}
