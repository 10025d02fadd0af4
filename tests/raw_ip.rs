//! Devices without an Ethernet header: what a tunnel brings is relayed, and what goes into one leaves as it should.

#![allow(clippy::unwrap_used)]

#[path = "support/frames.rs"]
mod frames;
#[path = "support/host.rs"]
mod host;
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use frames::{extended, fragments_v6, sealed, spoiled, with_options};
use host::{ip, try_ip};
use lab::sys::tun::{Kind, Tun};
use lab::topology::{Family, Topology};
use multicast_relay::sys::poll;
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, fragments, frame, good, is_empty,
    kill, network, receive, sink,
};

/// Bytes of the header that a packet lacks.
const ETHERNET: usize = 14;

/// A tun device in the relay's namespace.
fn tun(topology: &Topology, virtio_headers: bool) -> Tun {
    let create = || {
        let tun = Tun::create("tun0", Kind::Tun, virtio_headers).unwrap();
        ip("address add 10.99.0.1/24 dev tun0\nlink set tun0 up");
        tun
    };
    // A host without IPv6 cannot join an IPv6 group.
    topology.relay_namespace().set_sysctl("net/ipv6/conf/default/disable_ipv6", "0").unwrap();
    topology.relay_namespace().run(create).unwrap()
}

fn group_v6() -> SocketAddr {
    SocketAddr::from(("ff15::81:0:1".parse::<IpAddr>().unwrap(), PORT))
}

/// The rules from the groups of both families on `device` to the sink.
fn rules(device: &str) -> [String; 2] {
    let to = format!("{OUT_GROUP}:{OUT_PORT}:egress0");
    [format!("{device}:{GROUP}:{PORT}={to}"), format!("{device}:[{}]:{PORT}={to}", group_v6().ip())]
}

/// What a packet is to be counted as; none where it is relayed with this payload.
type Case = (Vec<u8>, Result<Vec<u8>, Option<&'static str>>);

/// Packets behind the Ethernet header that they are built with, and what becomes of each.
fn cases() -> Vec<Case> {
    let v6 = |payload: &[u8]| frame(group_v6(), payload);
    let relayed = |payload: &[u8]| Ok(payload.to_vec());
    let large = [7; 1_472];
    vec![
        (good(b""), relayed(b"")),
        (good(b"four"), relayed(b"four")),
        (good(&large), relayed(&large)),
        (with_options(&good(b"with options"), &[1; 40]), relayed(b"with options")),
        (v6(b""), relayed(b"")),
        (v6(b"six"), relayed(b"six")),
        (v6(&large[..1_452]), relayed(&large[..1_452])),
        (extended(&v6(b"extended"), &[(60, &[0, 1, 4, 0, 0, 0, 0])]), relayed(b"extended")),
        (spoiled(good(b"damaged"), |frame| frame[44] ^= 4), Err(Some("bad_checksum"))),
        (spoiled(good(b"damaged header"), |frame| frame[22] ^= 4), Err(Some("bad_checksum"))),
        (spoiled(v6(b"damaged"), |frame| frame[64] ^= 4), Err(Some("bad_checksum"))),
        (spoiled(good(b"cut short"), |frame| frame.truncate(45)), Err(Some("truncated"))),
        (sealed(good(b"too long"), |frame| frame[39] = 200), Err(Some("malformed"))),
        (fragments_v6(&v6(&large), 1_440, 1).swap_remove(0), Err(Some("fragment"))),
        (sealed(good(b"tcp"), |frame| frame[23] = 6), Err(None)),
        (spoiled(v6(b"as IPv4"), |frame| (frame[14], frame[23]) = (0x45, 17)), Err(Some("malformed"))),
        (sealed(good(b"the end"), |frame| frame[33] += 1), Err(Some("no_rule"))),
    ]
}

over_every_path!(what_a_tun_device_brings_is_relayed_or_counted);

fn what_a_tun_device_brings_is_relayed_or_counted(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut tun = tun(topology, false);
    let [four, six] = rules("tun0");
    for options in [&[][..], &["--no-rule-filter"]] {
        let arguments = [&["--rule", &four, "--rule", &six], options].concat();
        let relay = Relay::start(topology, path, &arguments);
        let (mut expected, mut dropped) = (Vec::new(), BTreeMap::<_, u64>::new());
        for (frame, fate) in cases().into_iter().cycle().take(cases().len() * 20) {
            tun.send(&frame[ETHERNET..]).unwrap();
            match fate {
                Ok(payload) => expected.push(payload),
                Err(cause) => *dropped.entry(cause.unwrap_or("unseen").to_owned()).or_default() += 1,
            }
        }
        // Fragments are put together here, too.
        let large = vec![9; 65_507];
        for fragment in fragments(&good(&large), 77) {
            tun.send(&fragment[ETHERNET..]).unwrap();
        }
        expected.push(large);
        let mut arrived = receive(&sink, expected.len());
        // Workers that share the flows keep the order of each.
        arrived.sort();
        expected.sort();
        assert!(arrived == expected, "as they were sent");
        let stats = relay.stop();
        assert!(is_empty(&sink));
        dropped.remove("unseen");
        if options.is_empty() {
            assert_eq!(Some(stats.inputs[0].foreign), dropped.remove("no_rule"));
        }
        assert_eq!((stats.dropped, stats.relayed), (dropped, expected.len() as u64));
    }
}

over_every_path!(copies_leave_through_a_tun_device);

fn copies_leave_through_a_tun_device(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tun = tun(topology, false);
    let rule = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:tun0,10.99.0.2:{OUT_PORT}:tun0");
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let mut injector = Injector::new(&topology.generator);
    let sent: Vec<_> = (0..100_u8).map(|i| vec![i; [0, 1, 100, 100, 1_472][usize::from(i) % 5]]).collect();
    for payload in &sent {
        injector.send(&good(payload));
    }
    let (mut to_group, mut to_host) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 65_536];
    while to_group.len() < sent.len() || to_host.len() < sent.len() {
        assert!(poll::is_readable_within(tun.as_fd(), DEADLINE).unwrap(), "nothing more comes");
        let len = tun.receive(&mut buffer).unwrap();
        match buffer[16..20] {
            [239, 82, 1, 1] => to_group.push(buffer[28..len].to_vec()),
            [10, 99, 0, 2] => to_host.push(buffer[28..len].to_vec()),
            // IPv6 has something to say to its neighbours.
            _ => assert_ne!(buffer[0] >> 4, 4, "{:02x?}", &buffer[..len]),
        }
    }
    assert!(to_group == sent && to_host == sent, "as they were sent");
    assert_eq!(relay.stop().relayed, 200);
}

over_every_path!(a_train_that_a_tun_device_brings_is_taken_apart);

fn a_train_that_a_tun_device_brings_is_taken_apart(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut tun = tun(topology, true);
    let [four, _] = rules("tun0");
    let relay = Relay::start(topology, path, &["--rule", &four]);
    let bytes: Vec<_> = (0..6_450).map(|at| (at * 7 / 5) as u8).collect();
    let frame = good(&bytes);
    let size = 100_u16.to_ne_bytes();
    // linux/virtio_net.h: the checksum is needed, UDP in segments, headers of 28 bytes; it begins at 20, and goes 6 behind that.
    let header = [1, 5, 28, 0, size[0], size[1], 20, 0, 6, 0];
    tun.send(&[&header, &frame[ETHERNET..]].concat()).unwrap();
    tun.send(&[&[0; 10], &good(b"single")[ETHERNET..]].concat()).unwrap();
    let mut expected: Vec<_> = bytes.chunks(100).map(<[u8]>::to_vec).collect();
    expected.push(b"single".to_vec());
    assert!(receive(&sink, expected.len()) == expected, "as its datagrams");
    let stats = relay.stop();
    assert_eq!((stats.inputs[0].frames, stats.received, stats.relayed), (2, 66, 66));
}

over_every_path!(what_a_tun_device_brings_can_be_consumed);

fn what_a_tun_device_brings_can_be_consumed(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut tun = tun(topology, false);
    let [four, six] = rules("tun0");
    let relay = Relay::start(topology, path, &["--rule", &four, "--rule", &six, "--consume"]);
    for payload in [b"one", b"two"] {
        tun.send(&good(payload)[ETHERNET..]).unwrap();
        assert_eq!(receive(&sink, 1), [payload]);
        tun.send(&frame(group_v6(), payload)[ETHERNET..]).unwrap();
        assert_eq!(receive(&sink, 1), [payload]);
    }
    let input = &relay.stats().inputs[0];
    assert_eq!((input.consumed, input.foreign), (4, 0));
    relay.stop();
}

over_every_path!(whoever_takes_over_knows_what_frames_begin_with);

fn whoever_takes_over_knows_what_frames_begin_with(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut tun = tun(topology, false);
    let [four, _] = rules("tun0");
    let mut relay = Relay::start(topology, path, &["--rule", &four]);
    let goes_through = |tun: &mut Tun, payload: &[u8]| {
        tun.send(&good(payload)[ETHERNET..]).unwrap();
        assert_eq!(receive(&sink, 1), [payload]);
    };
    goes_through(&mut tun, b"before");
    relay.end_supervisor();
    goes_through(&mut tun, b"without a supervisor");
    relay.start_again(topology, &["--rule", &four]);
    goes_through(&mut tun, b"behind");
    // What a worker had in hand that dies may leave twice.
    relay.stats_when(|stats| stats.relayed == 3 && stats.balance().is_ok());
    let workers = relay.workers();
    for worker in &workers {
        kill(*worker, libc::SIGKILL);
    }
    let deadline = Instant::now() + DEADLINE;
    while relay.workers().len() < workers.len() || relay.workers().iter().any(|it| workers.contains(it)) {
        assert!(Instant::now() < deadline, "no new workers");
    }
    tun.send(&good(b"by new workers")[ETHERNET..]).unwrap();
    while receive(&sink, 1) != [b"by new workers"] {}
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_waits_while_frames_begin_with_something_else() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let mut tun = tun(topology, false);
    let claim = |tun: &Tun, hardware: u16| {
        topology.relay_namespace().run(|| ip("link set tun0 down")).unwrap();
        tun.claim(hardware).unwrap();
        topology.relay_namespace().run(|| ip("link set tun0 up")).unwrap();
    };
    claim(&tun, libc::ARPHRD_INFINIBAND);
    let [four, _] = rules("tun0");
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &four]);
    let list = relay.run(&["list"]);
    assert!(list.contains("begin with neither Ethernet nor IP"), "{list}");
    // What is opened as Ethernet is opened anew as something else.
    claim(&tun, libc::ARPHRD_ETHER);
    let deadline = Instant::now() + DEADLINE;
    while relay.run(&["list"]).contains("waits") {
        assert!(Instant::now() < deadline, "the rule still waits");
    }
    for (hardware, payload) in [(libc::ARPHRD_PPP, b"a modem"), (libc::ARPHRD_NONE, b"no type")] {
        claim(&tun, hardware);
        send_until_it_arrives(&mut tun, payload, &sink);
    }
    relay.stop();
}

/// Sends until something arrives, which is to be that: the relay is told of a device some time after it has changed.
fn send_until_it_arrives(tun: &mut Tun, payload: &[u8], sink: &UdpSocket) {
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0; 100];
    sink.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        assert!(Instant::now() < deadline, "nothing arrives");
        tun.send(&good(payload)[ETHERNET..]).unwrap();
        if let Ok(len) = sink.recv(&mut buffer) {
            assert_eq!(buffer[..len], *payload);
            break;
        }
    }
    while sink.recv(&mut buffer).is_ok() {}
    sink.set_read_timeout(Some(DEADLINE)).unwrap();
}

over_every_path!(a_tunnel_that_comes_back_is_heard_again);

fn a_tunnel_that_comes_back_is_heard_again(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let [four, _] = rules("tun0");
    let relay = Relay::start(topology, path, &["--rule", &four]);
    for payload in [b"one", b"two"] {
        let mut tun = tun(topology, false);
        send_until_it_arrives(&mut tun, payload, &sink);
        drop(tun);
        let deadline = Instant::now() + DEADLINE;
        while !relay.run(&["list"]).contains("no such interface") {
            assert!(Instant::now() < deadline, "the rule does not wait");
        }
    }
    relay.stop();
}

over_every_path!(a_vxlan_that_carries_ip_alone);

fn a_vxlan_that_carries_ip_alone(path: Path) {
    const GPE_PORT: u16 = 4_790;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let make = format!("link add gpe0 type vxlan dstport {GPE_PORT} gpe external\nlink set gpe0 up");
    topology.relay_namespace().set_sysctl("net/ipv6/conf/default/disable_ipv6", "0").unwrap();
    if !topology.relay_namespace().run(|| try_ip(&make)).unwrap() {
        eprintln!("skipped: this kernel has no VXLAN-GPE");
        return;
    }
    let sink = sink(&topology.sinks[0]);
    let [four, six] = rules("gpe0");
    let relay = Relay::start(topology, path, &["--rule", &four, "--rule", &six]);
    let mut injector = Injector::new(&topology.generator);
    let outer = SocketAddr::from((topology.ingress.address(), GPE_PORT));
    for (protocol, packet) in [(1, good(b"four")), (2, frame(group_v6(), b"six"))] {
        // Flags for a number and a protocol, that protocol, number 81.
        let header = [0x0c, 0, 0, protocol, 0, 0, 81, 0];
        let mut tunnelled = frame(outer, &[&header, &packet[ETHERNET..]].concat());
        tunnelled[..6].copy_from_slice(&topology.ingress.mac());
        injector.send(&tunnelled);
        assert_eq!(receive(&sink, 1), [&packet[packet.len() - if protocol == 1 { 4 } else { 3 }..]]);
    }
    assert_eq!(relay.stop().relayed, 2);
}
