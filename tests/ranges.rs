//! Rules for ranges of groups and ports: what goes where, and that nothing beside a range is touched.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use lab::topology::{Checksum, Family, Link, Segmentation, Topology};
use multicast_relay::wire::Datagram;
use support::{
    DEADLINE, Injector, OUT_GROUP, OUT_PORT, Path, Relay, Tap, changed, frame, is_empty, kill, network,
    network_of, proc_of_relay, receive, sink, wait_until,
};

/// What arrives: by its destination the payloads, in the order in which they came.
type Arrivals = BTreeMap<SocketAddr, Vec<Vec<u8>>>;

/// The next `count` datagrams that `tap` gets, one in each frame.
fn arrivals(tap: &mut Tap, count: usize) -> Arrivals {
    let mut arrivals = Arrivals::new();
    for _ in 0..count {
        let frame = tap.next_udp();
        let datagram = Datagram::parse(&frame).unwrap();
        let to = SocketAddr::new(datagram.destination, datagram.destination_port);
        assert!(datagram.has_valid_checksum());
        arrivals.entry(to).or_default().push(datagram.payload.to_vec());
    }
    arrivals
}

fn v4(a: u8, b: u8, c: u8, d: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([a, b, c, d], port))
}

/// Starts a relay by the rules of a file, and keeps the file.
fn start(topology: &Topology, path: Path, rules: &str, more: &[&str]) -> (Relay, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    (Relay::start(topology, path, &[&config, more].concat()), file)
}

/// How many IPv4 groups that begin so the relay's host is a member of.
fn joined(topology: &Topology, first: [u8; 3]) -> usize {
    let groups = proc_of_relay(topology, "net/igmp");
    // The kernel writes the address as a number in the order of the machine.
    let is_meant = |line: &&str| {
        let name = line.split_whitespace().next().and_then(|name| u32::from_str_radix(name, 16).ok());
        name.is_some_and(|name| name.to_ne_bytes()[..3] == first)
    };
    groups.lines().filter(is_meant).count()
}

over_every_path!(ranges_map_one_to_one_and_nothing_beside_them_is_taken);

fn ranges_map_one_to_one_and_nothing_beside_them_is_taken(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let spec = "ingress:239.81.7.0/24:5000-5009=239.82.9.0/24:6000-6009:egress0";
    let relay = Relay::start(topology, path, &["--rule", spec]);
    assert_eq!(joined(topology, [239, 81, 7]), 256);
    let mut injector = Injector::new(&topology.generator);
    let beside = [
        v4(239, 81, 6, 255, 5000),
        v4(239, 81, 8, 0, 5009),
        v4(239, 81, 7, 3, 4999),
        v4(239, 81, 7, 3, 5010),
    ];
    for to in beside {
        injector.send(&frame(to, b"beside"));
    }
    let mut expected = Arrivals::new();
    for port in 0..10 {
        for host in 0..=255 {
            injector.send(&frame(v4(239, 81, 7, host, 5000 + port), &[host, port as u8]));
            expected.insert(v4(239, 82, 9, host, 6000 + port), vec![vec![host, port as u8]]);
        }
    }
    for to in beside {
        injector.send(&frame(to, b"beside"));
    }
    assert_eq!(arrivals(&mut tap, expected.len()), expected);
    relay.stats_when(|stats| stats.inputs[0].foreign == 8);
    let stats = relay.stop();
    assert_eq!((stats.received, stats.matched, stats.relayed), (2_560, 2_560, 2_560));
    assert_eq!((stats.rules.len(), stats.rules[0].outputs.len()), (1, 1), "counted as one");
    assert_eq!(stats.rules[0].outputs[0].destination, "239.82.9.0/24:6000-6009:egress0");
    assert_eq!(joined(topology, [239, 81, 7]), 0);
}

over_every_path!(all_of_a_range_may_go_to_one_destination);

fn all_of_a_range_may_go_to_one_destination(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let one = sink(&topology.sinks[0]);
    let mut tap = Tap::new(&topology.sinks[1]);
    // One destination, one port for all groups, one group for all ports.
    let spec = format!(
        "ingress:239.81.7.0/28:5000-5003={OUT_GROUP}:{OUT_PORT}:egress0,239.82.7.0/28:7000:egress1,239.82.8.1:8000-8003:egress1"
    );
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let mut injector = Injector::new(&topology.generator);
    let (mut payloads, mut mapped) = (Vec::new(), Arrivals::new());
    for host in 0..16 {
        for port in 0..4 {
            let payload = vec![host, port as u8];
            injector.send(&frame(v4(239, 81, 7, host, 5000 + port), &payload));
            payloads.push(payload.clone());
            mapped.entry(v4(239, 82, 7, host, 7000)).or_default().push(payload.clone());
            mapped.entry(v4(239, 82, 8, 1, 8000 + port)).or_default().push(payload);
        }
    }
    // Workers that share the flows keep the order of each, not that among them.
    let sorted = |mut payloads: Vec<Vec<u8>>| {
        payloads.sort();
        payloads
    };
    assert_eq!(sorted(receive(&one, 64)), sorted(payloads));
    let sorted = |arrivals: Arrivals| {
        arrivals.into_iter().map(|(to, payloads)| (to, sorted(payloads))).collect::<Vec<_>>()
    };
    assert_eq!(sorted(arrivals(&mut tap, 128)), sorted(mapped));
    assert_eq!(relay.stop().relayed, 192);
    assert!(is_empty(&one));
}

/// Rules one within the other; each sends to a port of its own.
const NESTED: &str = r#"
[[rule]]
name = "wide"
join = false
input = { interface = "ingress", group = "239.81.0.0/16", port = "5000-5001" }
outputs = [{ group = "239.82.1.1", port = 6001, interface = "egress0" }]
[[rule]]
name = "narrow"
input = { interface = "ingress", group = "239.81.7.0/24", port = 5000 }
outputs = [{ group = "239.82.1.1", port = 6002, interface = "egress0" }]
[[rule]]
name = "one"
input = { interface = "ingress", group = "239.81.7.9", port = 5000 }
outputs = [{ group = "239.82.1.1", port = 6003, interface = "egress0" }]
[[rule]]
name = "of a source"
input = { interface = "ingress", group = "239.81.7.0/28", port = 5000, source = "10.81.0.1" }
outputs = [{ group = "239.82.1.1", port = 6004, interface = "egress0" }]
"#;

over_every_path!(a_source_goes_first_and_then_the_longest_prefix);

fn a_source_goes_first_and_then_the_longest_prefix(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let (relay, _file) = start(topology, path, NESTED, &[]);
    let mut injector = Injector::new(&topology.generator);
    // The group and the port, whether it comes from the source that a rule names, and the port at which it arrives.
    let cases = [
        ([81, 1, 1], 5000, false, 6001),
        ([81, 7, 9], 5001, false, 6001),
        ([81, 7, 200], 5000, false, 6002),
        ([81, 7, 9], 5000, false, 6003),
        ([81, 7, 9], 5000, true, 6004),
        ([81, 7, 10], 5000, true, 6004),
        ([81, 7, 16], 5000, true, 6002),
        ([81, 255, 255], 5001, true, 6001),
    ];
    let mut expected = BTreeMap::<_, BTreeSet<_>>::new();
    for (i, ([b, c, d], port, is_named, arrives_at)) in cases.into_iter().enumerate() {
        let whole = frame(v4(239, b, c, d, port), &[i as u8]);
        injector.send(&changed(whole, |frame| frame[29] = if is_named { 1 } else { 77 }));
        expected.entry(arrives_at).or_default().insert(vec![i as u8]);
    }
    let arrived = arrivals(&mut tap, cases.len());
    let arrived: BTreeMap<_, _> =
        arrived.into_iter().map(|(to, payloads)| (to.port(), payloads.into_iter().collect())).collect();
    assert_eq!(arrived, expected);
    let by_name: Vec<_> = relay.stop().rules.into_iter().map(|rule| (rule.name, rule.matched)).collect();
    assert_eq!(
        by_name,
        [("wide", 3), ("narrow", 2), ("one", 1), ("of a source", 2)]
            .map(|(name, count)| (name.to_owned(), count))
    );
}

over_every_path!(ranges_of_ipv6_map_one_to_one);

fn ranges_of_ipv6_map_one_to_one(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let spec = "ingress:[ff15::81:0:100/120]:5000-5002=[ff15::82:0:200/120]:6000-6002:egress0";
    let relay = Relay::start(topology, path, &["--rule", spec]);
    let mut injector = Injector::new(&topology.generator);
    let to = |first: &str, offset: u16, port| {
        let IpAddr::V6(first) = first.parse().unwrap() else { panic!("IPv6") };
        SocketAddr::new(IpAddr::V6((first.to_bits() + u128::from(offset)).into()), port)
    };
    injector.send(&frame(to("ff15::81:0:100", 256, 5000), b"beside"));
    injector.send(&frame(to("ff15::81:0:ff", 0, 5000), b"beside"));
    injector.send(&frame(to("ff15::81:0:100", 7, 5003), b"beside"));
    let mut expected = Arrivals::new();
    for (offset, port) in (0..256).flat_map(|offset| (0..3).map(move |port| (offset, port))) {
        let payload = vec![offset as u8, port as u8];
        injector.send(&frame(to("ff15::81:0:100", offset, 5000 + port), &payload));
        expected.insert(to("ff15::82:0:200", offset, 6000 + port), vec![payload]);
    }
    assert_eq!(arrivals(&mut tap, expected.len()), expected);
    relay.stats_when(|stats| stats.inputs[0].foreign == 3);
    assert_eq!(relay.stop().matched, 768);
}

over_every_path!(a_wide_range_takes_any_address_of_it);

fn a_wide_range_takes_any_address_of_it(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let rules = r#"
        [[rule]]
        join = false
        input = { interface = "ingress", group = "239.81.0.0/16", port = 5000 }
        outputs = [{ group = "239.90.0.0/16", port = 6000, interface = "egress0" }]
    "#;
    let (relay, _file) = start(topology, path, rules, &[]);
    assert!(!proc_of_relay(topology, "net/igmp").contains("51EF"), "it is a member of none");
    let mut injector = Injector::new(&topology.generator);
    // Of a whole cycle of a linear congruence, so that they are all different.
    let offsets: Vec<u16> = (0..1_000_u16)
        .scan(7_u16, |at, _| {
            *at = at.wrapping_mul(25_173).wrapping_add(13_849);
            Some(*at)
        })
        .collect();
    let mut expected = Arrivals::new();
    for offset in offsets {
        let [c, d] = offset.to_be_bytes();
        injector.send(&frame(v4(239, 81, c, d, 5000), &[c, d]));
        expected.insert(v4(239, 90, c, d, 6000), vec![vec![c, d]]);
    }
    assert_eq!(expected.len(), 1_000);
    assert_eq!(arrivals(&mut tap, 1_000), expected);
    assert_eq!(relay.stop().relayed, 1_000);
}

over_every_path!(destinations_in_turn_leave_in_trains_of_their_own);

fn destinations_in_turn_leave_in_trains_of_their_own(path: Path) {
    const ROUNDS: usize = 512;
    let link = Link {
        mtu: 1500,
        segmentation: Segmentation::Offload,
        checksum: Checksum::Offload,
        family: Family::Ipv4,
    };
    let network = network_of(link, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let spec = "ingress:239.81.7.0/30:5000=239.82.7.0/30:6000:egress0";
    let relay = Relay::start(topology, path, &["--rule", spec]);
    let mut injector = Injector::new(&topology.generator);
    let payload = |round: usize, host: u8| [&[host; 92][..], &(round as u64).to_be_bytes()].concat();
    // The relay finds all of them waiting, or those that its receive buffers hold.
    let processes = [vec![relay.pid()], relay.workers()].concat();
    for process in &processes {
        kill(*process, libc::SIGSTOP);
    }
    for (round, host) in (0..ROUNDS).flat_map(|round| (0..4).map(move |host| (round, host))) {
        injector.send(&frame(v4(239, 81, 7, host, 5000), &payload(round, host)));
    }
    processes.iter().rev().for_each(|process| kill(*process, libc::SIGCONT));
    let (mut bytes, mut longest) = ([const { Vec::new() }; 4], [0; 4]);
    while bytes.iter().map(Vec::len).sum::<usize>() < 4 * ROUNDS * 100 {
        let frame = tap.next_udp();
        // The device has not filled in the checksum of a train.
        let datagram = Datagram::parse(&frame).unwrap();
        let IpAddr::V4(to) = datagram.destination else { panic!("IPv4") };
        let host = usize::from(to.octets()[3]);
        bytes[host].extend_from_slice(datagram.payload);
        longest[host] = frame.len().max(longest[host]);
    }
    for host in 0..4 {
        let expected: Vec<_> = (0..ROUNDS).flat_map(|round| payload(round, host as u8)).collect();
        assert!(bytes[host] == expected, "all of destination {host}, in order");
        assert!(longest[host] > 1_514, "destination {host}: frames of up to {} bytes", longest[host]);
    }
    assert_eq!(relay.stop().relayed, 4 * ROUNDS as u64);
}

/// How often the relay's host was told that a destination is unreachable.
fn unreachable_answers(topology: &Topology) -> u64 {
    let snmp = proc_of_relay(topology, "net/snmp");
    let mut icmp = snmp.lines().filter(|line| line.starts_with("Icmp: ")).map(str::split_whitespace);
    let mut fields = icmp.next().unwrap().zip(icmp.next().unwrap());
    fields.find(|(name, _)| *name == "InDestUnreachs").unwrap().1.parse().unwrap()
}

over_every_path!(an_answer_from_one_destination_costs_another_one_nothing);

fn an_answer_from_one_destination_costs_another_one_nothing(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let host = topology.sinks[0].address();
    // Hosts of the lab are silent otherwise.
    topology.sinks[0].namespace().set_sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
    let bind = || UdpSocket::bind((host, 6000)).unwrap();
    let heard = topology.sinks[0].namespace().run(bind).unwrap();
    heard.set_read_timeout(Some(DEADLINE)).unwrap();
    let spec = format!("ingress:239.81.7.1:5000-5003={host}:6000-6003:egress0");
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let mut injector = Injector::new(&topology.generator);
    for i in 0..20_u8 {
        let before = unreachable_answers(topology);
        injector.send(&frame(v4(239, 81, 7, 1, 5001), b"unheard"));
        wait_until("the receiver's host says something", || unreachable_answers(topology) > before);
        // No two of them leave in a train, and all leave together: what meets the answer keeps its place.
        let payloads = [1, 2, 3].map(|len| vec![i; len]);
        let workers = relay.workers();
        for worker in &workers {
            kill(*worker, libc::SIGSTOP);
        }
        for payload in &payloads {
            injector.send(&frame(v4(239, 81, 7, 1, 5000), payload));
        }
        for worker in &workers {
            kill(*worker, libc::SIGCONT);
        }
        assert_eq!(receive(&heard, 3), payloads);
    }
    assert_eq!(relay.stop().relayed, 80);
}

over_every_path!(what_lies_beside_a_range_is_not_consumed);

fn what_lies_beside_a_range_is_not_consumed(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    // Programs of the same host that listen within the range, and just beside it.
    let listen = |to: SocketAddr| {
        let open = || {
            let socket = UdpSocket::bind(to).unwrap();
            let (IpAddr::V4(group), IpAddr::V4(own)) = (to.ip(), topology.ingress.address()) else {
                panic!("IPv4")
            };
            socket.join_multicast_v4(&group, &own).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        topology.relay_namespace().run(open).unwrap()
    };
    let within = [v4(239, 81, 7, 0, 5000), v4(239, 81, 7, 255, 5009)];
    let beside = [
        v4(239, 81, 6, 255, 5000),
        v4(239, 81, 8, 0, 5009),
        v4(239, 81, 7, 0, 4999),
        v4(239, 81, 7, 255, 5010),
    ];
    let (inner, outer) = (within.map(listen), beside.map(listen));
    let spec = "ingress:239.81.7.0/24:5000-5009=239.82.9.0/24:6000-6009:egress0";
    let relay = Relay::start(topology, path, &["--rule", spec, "--consume"]);
    let mut injector = Injector::new(&topology.generator);
    for to in within.iter().chain(&beside) {
        injector.send(&frame(*to, b"x"));
    }
    assert!(outer.iter().all(|socket| receive(socket, 1) == [b"x"]), "they go on");
    assert_eq!(
        arrivals(&mut tap, 2).into_keys().collect::<Vec<_>>(),
        [v4(239, 82, 9, 0, 6000), v4(239, 82, 9, 255, 6009)]
    );
    assert!(inner.iter().all(is_empty), "they end at the relay");
    let stats = relay.stop();
    assert_eq!((stats.inputs[0].consumed, stats.inputs[0].foreign), (2, 4));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn hosts_may_be_a_range_too() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (IpAddr::V4(own), IpAddr::V4(host)) = (topology.ingress.address(), topology.sinks[0].address())
    else {
        panic!("IPv4")
    };
    let net = |address: Ipv4Addr| Ipv4Addr::from_bits(address.to_bits() & !7);
    // The last bits of the two addresses differ, so that what is sent to the relay's host goes to another host than the sink's.
    let at = Ipv4Addr::from_bits(net(host).to_bits() + (own.to_bits() & 7));
    let spec = format!("ingress:{}/29:5000={}/29:6000:egress0", net(own), net(host));
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &spec]);
    assert!(relay.log().contains("does not occupy"), "{}", relay.log());
    let mut tap = Tap::new(&topology.sinks[0]);
    topology.sinks[0]
        .namespace()
        .run(|| {
            let arguments = ["address", "add", &format!("{at}/32"), "dev", topology.sinks[0].device()];
            let _ = std::process::Command::new("ip").args(arguments).status();
        })
        .unwrap();
    Injector::new(&topology.generator).send(&frame((own, 5000).into(), b"to a host"));
    let expected = Arrivals::from([(SocketAddr::from((at, 6000)), vec![b"to a host".to_vec()])]);
    assert_eq!(arrivals(&mut tap, 1), expected);
    assert_eq!(relay.stop().relayed, 1);
}
