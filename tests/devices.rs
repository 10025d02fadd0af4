//! Every kind of device with Ethernet headers, as input and as output.

#![allow(clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
mod support;

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::Command;

use host::{ip, try_ip};
use lab::sys::tun::{Kind, Tun};
use lab::topology::{Family, Topology};
use multicast_relay::sys::interface::Interface;
use multicast_relay::sys::poll;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::sys::uring::{Send, Uring};
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, good, is_empty, member, network,
    receive, sink,
};

/// Datagrams of several sizes that fit into what a tunnel leaves of an MTU, some alike so that they leave in trains.
fn payloads() -> Vec<Vec<u8>> {
    let lens = (0..150).map(|i| [0, 1, 100, 100, 100, 1_400][i % 6]);
    lens.enumerate().map(|(i, len)| (0..len).map(|at| (i + at * 7) as u8).collect()).collect()
}

/// Has the relay listen on `device` and asserts that what `send` sends there, as frames, arrives at the sink.
fn listens_on(topology: &Topology, path: Path, device: &str, mut send: impl FnMut(&[u8])) {
    let sink = sink(&topology.sinks[0]);
    let spec = format!("{device}:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let sent = payloads();
    for payload in &sent {
        send(&good(payload));
    }
    assert!(receive(&sink, sent.len()) == sent, "as they were sent");
    let stats = relay.stop();
    assert!(is_empty(&sink), "once");
    let sent = sent.len() as u64;
    assert_eq!((stats.received, stats.relayed, stats.inputs[0].captured), (sent, sent, sent), "{stats:?}");
}

/// Has the relay send through `device`, where `arrived` gives what has come of as many as were sent.
fn sends_through(topology: &Topology, path: Path, device: &str, arrived: impl FnOnce(usize) -> Vec<Vec<u8>>) {
    let spec = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:{device}");
    let relay = Relay::start(topology, path, &["--rule", &spec]);
    let mut injector = Injector::new(&topology.generator);
    let sent = payloads();
    for payload in &sent {
        injector.send(&good(payload));
    }
    assert!(arrived(sent.len()) == sent, "as they were sent");
    let stats = relay.stop();
    assert_eq!(stats.relayed, sent.len() as u64, "{stats:?}");
}

/// Makes devices in the relay's namespace.
fn make(topology: &Topology, lines: &str) {
    topology.relay_namespace().run(|| ip(lines)).unwrap();
}

/// Whether this kernel has devices of a kind, which takes what is said before and behind it.
fn has(topology: &Topology, kind: &str, [before, behind]: [&str; 2]) -> bool {
    let probe = format!("link add probe0 {before} type {kind} {behind}\nlink del probe0");
    let possible = topology.relay_namespace().run(|| try_ip(&probe)).unwrap();
    if !possible {
        eprintln!("skipped: this kernel has no devices of type {kind}");
    }
    possible
}

over_every_path!(a_bridge);

fn a_bridge(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    if !has(topology, "bridge", ["", ""]) {
        return;
    }
    make(topology, "link add br0 type bridge\nlink set ingress master br0\nlink set br0 up");
    let mut injector = Injector::new(&topology.generator);
    listens_on(topology, path, "br0", |frame| injector.send(frame));
    // A port of it is listened on before the bridge gets the frame.
    listens_on(topology, path, "ingress", |frame| injector.send(frame));
    make(
        topology,
        "link set ingress nomaster\naddress flush dev egress0\nlink set egress0 master br0\n\
         address add 10.82.0.1/24 dev br0\n",
    );
    let sink = sink(&topology.sinks[0]);
    sends_through(topology, path, "br0", |count| receive(&sink, count));
    assert!(is_empty(&sink));
}

over_every_path!(a_macvlan);

fn a_macvlan(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    if !has(topology, "macvlan", ["link ingress", ""]) {
        return;
    }
    make(topology, "link add link ingress name mv0 type macvlan mode bridge\nlink set mv0 up");
    let mut injector = Injector::new(&topology.generator);
    listens_on(topology, path, "mv0", |frame| injector.send(frame));
    make(
        topology,
        "link add link egress0 name mv1 type macvlan mode bridge\naddress add 10.82.0.9/24 dev mv1\nlink set mv1 up",
    );
    let sink = sink(&topology.sinks[0]);
    sends_through(topology, path, "mv1", |count| receive(&sink, count));
    assert!(is_empty(&sink));
}

/// One end of a VXLAN over `device`.
fn vxlan(name: &str, id: u8, device: &str, [local, remote]: [&str; 2]) -> String {
    format!(
        "link add {name} type vxlan id {id} dstport 4789 local {local} remote {remote} dev {device}\nlink set {name} up\n"
    )
}

over_every_path!(a_vxlan);

fn a_vxlan(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    if !has(topology, "vxlan", ["", "id 1 dstport 4789"]) {
        return;
    }
    let [generator, ingress] = ["10.81.0.1", "10.81.0.2"];
    let [egress, at_sink] = ["10.82.0.1", "10.82.0.2"];
    make(topology, &vxlan("vx0", 81, "ingress", [ingress, generator]));
    let far =
        format!("address add {generator}/24 dev gen0\n{}", vxlan("vx0", 81, "gen0", [generator, ingress]));
    topology.generator.namespace().run(|| ip(&far)).unwrap();
    let mut injector = topology.generator.namespace().run(|| Injector::on("vx0")).unwrap();
    listens_on(topology, path, "vx0", |frame| injector.send(frame));
    trains_come_through(topology, path, "vx0");
    let end = |addresses, own: u8| {
        vxlan("vx1", 82, if own == 1 { "egress0" } else { "sink0" }, addresses)
            + &format!("address add 10.83.0.{own}/24 dev vx1\n")
    };
    make(topology, &end([egress, at_sink], 1));
    let far = end([at_sink, egress], 2);
    let open = || {
        ip(&far);
        member(Ipv4Addr::new(10, 83, 0, 2))
    };
    let sink = topology.sinks[0].namespace().run(open).unwrap();
    sends_through(topology, path, "vx1", |count| receive(&sink, count));
    assert!(is_empty(&sink));
}

/// Has the generator send trains through its device `name`, at the other end of which the relay listens on one of that name. They
/// cross the wire within one frame of the tunnel each, which somebody who listens on the wire cannot take apart.
fn trains_come_through(topology: &Topology, path: Path, name: &str) {
    let sink = sink(&topology.sinks[0]);
    let inner = format!("{name}:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let outer = format!("ingress:{}:4789={OUT_GROUP}:{OUT_PORT}:egress0", topology.ingress.address());
    let relay = Relay::start(topology, path, &["--rule", &inner, "--rule", &outer]);
    let open = || {
        ip(&format!("address add 10.84.0.1/24 dev {name}"));
        let address = EgressAddress::new((GROUP, PORT).into(), name, Interface::find(name).unwrap().index);
        open_egress(&address, None, 1 << 20).unwrap().socket
    };
    let socket = topology.generator.namespace().run(open).unwrap();
    let bytes: Vec<_> = (0..6_350).map(|at| (at * 7 / 5) as u8).collect();
    let payloads = [IoSlice::new(&bytes)];
    let train = Send::new(socket.as_fd(), &payloads, NonZeroU16::new(100));
    Uring::new(8).unwrap().send_all(&[train], |_, result| assert_eq!(result, Ok(bytes.len()))).unwrap();
    let expected: Vec<_> = bytes.chunks(100).map(<[u8]>::to_vec).collect();
    assert!(receive(&sink, expected.len()) == expected, "as its datagrams");
    let stats = relay.stop();
    assert!(is_empty(&sink));
    assert_eq!((stats.relayed, stats.dropped.get("coalesced"), stats.dropped.len()), (64, Some(&1), 1));
}

over_every_path!(a_tap);

fn a_tap(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let create = || {
        let tap = Tun::create("tap0", Kind::Tap, false).unwrap();
        ip("address add 10.99.0.1/24 dev tap0\nlink set tap0 up");
        tap
    };
    let mut tap = topology.relay_namespace().run(create).unwrap();
    listens_on(topology, path, "tap0", |frame| tap.send(frame).unwrap());
    sends_through(topology, path, "tap0", |count| (0..count).map(|_| next_copy(&mut tap)).collect());
}

/// The payload of the next copy that leaves through a tap.
fn next_copy(tap: &mut Tun) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    loop {
        assert!(poll::is_readable_within(tap.as_fd(), DEADLINE).unwrap(), "nothing more comes");
        let len = tap.receive(&mut buffer).unwrap();
        if buffer[30..34] == OUT_GROUP.octets() {
            return buffer[42..len].to_vec();
        }
    }
}

over_every_path!(loopback);

fn loopback(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket2::SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        socket
    };
    let sender = topology.relay_namespace().run(open).unwrap();
    // From a program of the same host, whose checksums nobody fills in.
    listens_on(topology, path, "lo", |frame| {
        sender.send_to(&frame[42..], (GROUP, PORT)).unwrap();
    });
    let mut injector = topology.relay_namespace().run(|| Injector::on("lo")).unwrap();
    listens_on(topology, path, "lo", |frame| injector.send(frame));
    let sink = topology.relay_namespace().run(|| member(Ipv4Addr::LOCALHOST)).unwrap();
    sends_through(topology, path, "lo", |count| receive(&sink, count));
    assert!(is_empty(&sink));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_device_that_leads_nowhere_takes_copies() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    for kind in ["dummy", "ifb"] {
        if !has(topology, kind, ["", ""]) {
            continue;
        }
        make(topology, &format!("link add x0 type {kind}\naddress add 10.99.0.1/24 dev x0\nlink set x0 up"));
        let spec = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:x0");
        let relay = Relay::start(topology, Path::MmapV3, &["--rule", &spec, "--no-gso"]);
        let mut injector = Injector::new(&topology.generator);
        for i in 0..100 {
            injector.send(&good(&[i]));
        }
        relay.stats_when(|stats| stats.relayed == 100);
        relay.stop();
        let show = || Command::new("ip").args(["-s", "-j", "link", "show", "x0"]).output().unwrap().stdout;
        let shown = topology.relay_namespace().run(show).unwrap();
        let link: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        // One kind sends them, the other refuses what nobody has redirected to it.
        let count = |side: &str, what: &str| link[0]["stats64"][side][what].as_u64().unwrap();
        assert_eq!(count("tx", "packets").max(count("rx", "dropped")), 100, "{kind}: {link}");
        make(topology, "link del x0");
    }
}
