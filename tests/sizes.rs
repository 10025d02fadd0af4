//! Datagrams of any size arrive as they were sent, byte for byte: over jumbo frames, from them into smaller ones, up to the
//! largest that there can be.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/frames.rs"]
mod frames;
#[path = "support/host.rs"]
mod host;
mod support;

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use frames::fragments_v6;
use host::ip;
use lab::topology::{Checksum, Family, Link, Port, Segmentation, Topology};
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, fragments, frame, is_empty, network,
    network_of, receive, sink,
};

/// Bytes of IP and UDP headers.
const HEADERS_V4: usize = 28;
const HEADERS_V6: usize = 48;
/// The largest payloads: what 16 bits of length have room for.
const LARGEST_V4: usize = 65_535 - HEADERS_V4;
const LARGEST_V6: usize = 65_535 - 8;

const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x81, 0, 1);
const OUT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x82, 0, 1);

fn jumbo(family: Family) -> Link {
    Link { mtu: 9_000, segmentation: Segmentation::Wire, checksum: Checksum::Wire, family }
}

/// Payloads of these lengths, no two alike as far as they have room for that.
fn payloads(lens: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let payload = |(i, len): (usize, usize)| (0..len).map(|at| (i + at * 7 + at / 251) as u8).collect();
    lens.into_iter().enumerate().map(payload).collect()
}

/// Every size that is next to a limit of a link with this MTU, several of each, so that some leave in trains.
fn around(mtu: usize, headers: usize) -> Vec<usize> {
    let most = mtu - headers;
    let sizes = [0, 1, 2, 17, 18, 19, 1_500 - headers, 1_501 - headers, most / 2, most - 1, most];
    sizes.into_iter().chain(sizes).chain(sizes.iter().flat_map(|size| [*size; 10])).collect()
}

/// A socket at a sink that has joined the IPv6 group.
fn sink_v6(port: &Port) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, OUT_PORT)).unwrap();
        socket.join_multicast_v6(&OUT_GROUP_V6, port.index()).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    port.namespace().run(open).unwrap()
}

/// The group that is sent to, what a rule of `input` relays it to, and the sink of that.
fn addresses(family: Family, topology: &Topology) -> (SocketAddr, String, UdpSocket) {
    match family {
        Family::Ipv4 => (
            (GROUP, PORT).into(),
            format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0"),
            sink(&topology.sinks[0]),
        ),
        Family::Ipv6 => (
            (GROUP_V6, PORT).into(),
            format!("ingress:[{GROUP_V6}]:{PORT}=[{OUT_GROUP_V6}]:{OUT_PORT}:egress0"),
            sink_v6(&topology.sinks[0]),
        ),
    }
}

/// Asserts that `socket` gets `expected`, and nothing else.
fn arrives(socket: &UdpSocket, expected: &[Vec<u8>]) {
    for (i, (arrived, sent)) in receive(socket, expected.len()).iter().zip(expected).enumerate() {
        assert!(arrived == sent, "datagram {i}: {} bytes of {}", arrived.len(), sent.len());
    }
}

/// Relays datagrams around 9,000 bytes, out through a device with that MTU; `check` gets how many frames came out, how many
/// datagrams they were, and how many of these were larger than the MTU.
fn relay_jumbo(path: Path, mtu_out: usize, check: impl Fn(u64, u64, u64)) {
    for (family, headers) in [(Family::Ipv4, HEADERS_V4), (Family::Ipv6, HEADERS_V6)] {
        let network = network_of(jumbo(family), 1);
        let topology = &network.topology;
        topology.relay_namespace().run(|| ip(&format!("link set egress0 mtu {mtu_out}"))).unwrap();
        let (group, rule, sink) = addresses(family, topology);
        let relay = Relay::start(topology, path, &["--rule", &rule]);
        let mut injector = Injector::new(&topology.generator);
        let sent = payloads(around(9_000, headers));
        for payload in &sent {
            injector.send(&frame(group, payload));
        }
        arrives(&sink, &sent);
        let stats = relay.stop();
        assert!(is_empty(&sink));
        let count = sent.len() as u64;
        assert_eq!((stats.received, stats.relayed), (count, count));
        assert!(stats.rules[0].outputs[0].dropped.is_empty());
        let large = sent.iter().filter(|payload| payload.len() > mtu_out - headers).count();
        check(topology.sinks[0].counters().unwrap().rx_packets, count, large as u64);
    }
}

over_every_path!(jumbo_frames_arrive_as_they_were_sent);

fn jumbo_frames_arrive_as_they_were_sent(path: Path) {
    relay_jumbo(path, 9_000, |frames, count, _| {
        // Each crossed the wire in one frame, beside memberships and the like.
        assert!(frames < count + 20, "{frames} frames");
    });
}

over_every_path!(what_is_larger_than_the_mtu_out_is_fragmented_by_the_kernel);

fn what_is_larger_than_the_mtu_out_is_fragmented_by_the_kernel(path: Path) {
    relay_jumbo(path, 1_500, |frames, count, large| {
        assert!(frames > count + large, "{large} datagrams came in fragments: {frames} frames");
    });
}

over_every_path!(the_largest_ipv4_datagrams_leave_over_both_families);

fn the_largest_ipv4_datagrams_leave_over_both_families(path: Path) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let ends = [(topology.relay_namespace(), "egress1"), (topology.sinks[1].namespace(), "sink1")];
    for (i, (namespace, device)) in ends.into_iter().enumerate() {
        namespace.set_sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "0").unwrap();
        namespace.run(|| ip(&format!("address add fd82::{}/64 dev {device} nodad", i + 1))).unwrap();
    }
    let sinks = [sink(&topology.sinks[0]), sink_v6(&topology.sinks[1])];
    let rule =
        format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0,[{OUT_GROUP_V6}]:{OUT_PORT}:egress1");
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let mut injector = Injector::new(&topology.generator);
    let sent = payloads([LARGEST_V4, 1_000, LARGEST_V4 - 1, 1_472, 1_473, 0, LARGEST_V4, 60_000, 1_453]);
    for (i, payload) in sent.iter().enumerate() {
        let frame = frame((GROUP, PORT).into(), payload);
        let frames = if frame.len() > 1_514 { fragments(&frame, i as u16) } else { vec![frame] };
        for frame in &frames {
            injector.send(frame);
        }
    }
    for sink in &sinks {
        arrives(sink, &sent);
    }
    let stats = relay.stop();
    assert!(sinks.iter().all(is_empty));
    assert_eq!((stats.received, stats.relayed), (sent.len() as u64, 2 * sent.len() as u64));
}

over_every_path!(the_largest_ipv6_datagrams_come_in_one_frame_of_a_device_that_can);

fn the_largest_ipv6_datagrams_come_in_one_frame_of_a_device_that_can(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    // No other device takes so much, and only this one has no limit. Over IPv6 an IPv4 output can be used, too.
    topology
        .relay_namespace()
        .run(|| ip("link set lo mtu 70000\naddress add 10.82.0.1/24 dev egress0"))
        .unwrap();
    let sink = sink_v6(&topology.sinks[0]);
    let rule =
        format!("lo:[{GROUP_V6}]:{PORT}=[{OUT_GROUP_V6}]:{OUT_PORT}:egress0,{OUT_GROUP}:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let mut injector = topology.relay_namespace().run(|| Injector::on("lo")).unwrap();
    let sent = payloads([LARGEST_V6, 100, LARGEST_V6, LARGEST_V4, LARGEST_V6 - 1, 70]);
    for payload in &sent {
        injector.send(&frame((GROUP_V6, PORT).into(), payload));
    }
    arrives(&sink, &sent);
    let stats = relay.stop();
    assert!(is_empty(&sink));
    let [v6, v4] = &stats.rules[0].outputs[..] else { panic!("two outputs") };
    assert_eq!((stats.received, v6.relayed, v6.dropped.len()), (6, 6, 0));
    let too_large = (v4.dropped["too_large"], v4.dropped.len());
    assert_eq!((v4.relayed, too_large), (3, (3, 1)), "IPv4 has no room for those");
}

over_every_path!(ipv6_fragments_are_counted_and_cost_no_other_datagram);

fn ipv6_fragments_are_counted_and_cost_no_other_datagram(path: Path) {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let (group, rule, sink) = addresses(Family::Ipv6, topology);
    let relay = Relay::start(topology, path, &["--rule", &rule]);
    let mut injector = Injector::new(&topology.generator);
    let whole = payloads((0..40).map(|i| i * 36));
    for (i, payload) in whole.iter().enumerate() {
        injector.send(&frame(group, payload));
        let large = frame(group, &payloads([4_000])[0]);
        for fragment in fragments_v6(&large, 1_440, i as u32) {
            injector.send(&fragment);
        }
    }
    arrives(&sink, &whole);
    let stats = relay.stop();
    assert!(is_empty(&sink));
    // Three of each.
    assert_eq!((stats.dropped["fragment"], stats.dropped.len(), stats.relayed), (120, 1, 40));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_no_block_has_room_for_is_counted_as_truncated() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (group, rule, sink) = addresses(Family::Ipv4, topology);
    let blocks = ["--ring-block-size", "16KiB", "--ring-block-count", "64"];
    let relay = Relay::start(topology, Path::MmapV3, &[&["--rule", &rule], &blocks[..]].concat());
    let mut injector = Injector::new(&topology.generator);
    let sent = payloads([100, 15_000, 20_000, 1_472, LARGEST_V4, 16_384, 0, 15_000, 20_000, 1]);
    for (i, payload) in sent.iter().enumerate() {
        let frame = frame(group, payload);
        let frames = if frame.len() > 1_514 { fragments(&frame, i as u16) } else { vec![frame] };
        for frame in &frames {
            injector.send(frame);
        }
    }
    let fits = |payload: &Vec<u8>| payload.len() <= 15_000;
    let whole: Vec<_> = sent.into_iter().filter(fits).collect();
    arrives(&sink, &whole);
    let stats = relay.stop();
    assert!(is_empty(&sink));
    assert_eq!((stats.relayed, stats.dropped["truncated"], stats.dropped.len()), (6, 4, 1));
}
