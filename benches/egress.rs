//! What a copy costs from a payload to the kernel's hands: queueing, forming trains, one `io_uring_enter`, counting. The
//! copies leave through loopback to a socket that takes none, so the kernel's part is that of a send without a device.

#![allow(clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::rules::RuleIndex;
use multicast_relay::stats::Counters;
use multicast_relay::sys::udp_socket::{EgressAddress, occupy};
use multicast_relay::sys::uring::Uring;
use multicast_relay::worker::egress::{Arrived, Egress, Hop};

/// What a block of the packet ring brings in a millisecond at 100,000 frames per second.
const PAYLOADS: usize = 100;
const PAYLOAD_LEN: usize = 100;

/// A rule with so many outputs.
fn egress(outputs: usize, segment: bool, to: SocketAddr) -> Egress {
    let mut egress = Egress::default();
    let address = EgressAddress::new(to, "lo", 1);
    let hop = |place| {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a socket");
        socket.connect(to).expect("connect a socket");
        egress.set_output(place, &address, socket.into(), segment).expect("add an output");
        Hop::new(Some(place), place)
    };
    let hops: Vec<_> = (0..outputs as u32).map(hop).collect();
    egress.set_route(RuleIndex(0), &hops).expect("add a route");
    egress
}

fn batches(c: &mut Criterion) {
    let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let to = free.expect("find a free port");
    let _deaf = occupy(to).expect("bind a socket that takes nothing");
    let payloads = vec![7; PAYLOADS * PAYLOAD_LEN];
    let mut ring = Uring::new(1_024).expect("set up io_uring");
    let (destination, destination_port) = (Ipv4Addr::new(239, 81, 1, 1).into(), 5000);
    let arrived = Arrived { ttl: 64, traffic_class: 0, source: to, destination, destination_port };
    let mut bench = c.benchmark_group("egress of 100 payloads");
    for outputs in [1, 8] {
        bench.throughput(Throughput::Elements((outputs * PAYLOADS) as u64));
        for (name, segment) in [("trains", true), ("single datagrams", false)] {
            let mut egress = egress(outputs, segment, to);
            let counters = Counters::new().expect("make memory for counters");
            bench.bench_function(BenchmarkId::new(name, format!("{outputs} outputs")), |b| {
                b.iter(|| {
                    let mut batch = egress.begin(&counters);
                    for payload in payloads.chunks_exact(PAYLOAD_LEN) {
                        batch.queue(&mut ring, RuleIndex(0), payload, arrived).expect("queue a copy");
                    }
                    batch.send(&mut ring).expect("send what is queued");
                });
                let relayed = |place| counters.output(place).map_or(0, |output| output.relayed().get());
                assert!((0..outputs).all(|place| relayed(place) > 0), "nothing was sent");
            });
        }
    }
}

/// The same where datagrams to ten groups come in turn, and each of them goes to one of its own.
fn ranges(c: &mut Criterion) {
    const GROUPS: usize = 10;
    let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let port = free.expect("find a free port").port();
    let host = |i: u8| SocketAddr::from(([127, 0, 0, 16 + i], port));
    let _deaf: Vec<_> = (0..16).map(|i| occupy(host(i)).expect("bind a socket that takes nothing")).collect();
    let address = EgressAddress { last: Some(host(15)), ..EgressAddress::new(host(0), "lo", 1) };
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a socket");
    let mut egress = Egress::default();
    egress.set_output(0, &address, socket.into(), true).expect("add an output");
    egress.set_route(RuleIndex(0), &[Hop::new(Some(0), 0)]).expect("add a route");
    let payloads = vec![7; PAYLOADS * PAYLOAD_LEN];
    let mut ring = Uring::new(1_024).expect("set up io_uring");
    let counters = Counters::new().expect("make memory for counters");
    let arrived = |i: usize| {
        let destination = Ipv4Addr::new(239, 81, 1, (i % GROUPS) as u8).into();
        Arrived { ttl: 64, traffic_class: 0, source: host(0), destination, destination_port: 5000 }
    };
    let mut bench = c.benchmark_group("egress of 100 payloads");
    bench.throughput(Throughput::Elements(PAYLOADS as u64));
    bench.bench_function(BenchmarkId::new("trains", "10 destinations in turn"), |b| {
        b.iter(|| {
            let mut batch = egress.begin(&counters);
            for (i, payload) in payloads.chunks_exact(PAYLOAD_LEN).enumerate() {
                batch.queue(&mut ring, RuleIndex(0), payload, arrived(i)).expect("queue a copy");
            }
            batch.send(&mut ring).expect("send what is queued");
        });
        let output = counters.output(0).expect("a place for its counts");
        assert!(output.relayed().get() > 0, "nothing was sent");
    });
}

criterion_group!(benches, batches, ranges);
criterion_main!(benches);
