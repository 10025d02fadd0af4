//! What a copy costs on its way out: queueing the payloads of a batch for one output and for eight, and sending them, in
//! trains and one by one.
//!
//! They go to groups on the loopback device that nobody is a member of: the kernel takes every train whole and drops it where
//! it would look for a receiver, so that little is measured beside the sending.

use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::rules::RuleIndex;
use multicast_relay::stats::Counters;
use multicast_relay::sys::interface::Interface;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::sys::uring::Uring;
use multicast_relay::worker::egress::Egress;

const PAYLOAD: usize = 100;
/// Datagrams in a batch: eight full trains for each output.
const BATCH: usize = 512;

/// One rule that sends through so many outputs.
fn open(outputs: u8, segment: bool) -> io::Result<Egress> {
    let lo = Interface::find("lo")?;
    let mut egress = Egress::default();
    let mut route = Vec::new();
    for i in 0..outputs {
        let address = EgressAddress {
            destination: SocketAddr::from((Ipv4Addr::new(239, 82, 1, i + 1), 6_000)),
            interface: lo.name.clone(),
            interface_index: lo.index,
            ttl: 1,
        };
        let (socket, _) = open_egress(&address, 4 << 20)?;
        route.push(egress.add_output(address.destination.to_string(), socket, segment));
    }
    egress.add_rule(route);
    Ok(egress)
}

/// Queues all payloads for every output, and sends them.
fn send(egress: &mut Egress, ring: &mut Uring, counters: &Counters, payloads: &[u8]) -> io::Result<()> {
    let mut batch = egress.begin(counters);
    for payload in payloads.chunks(PAYLOAD) {
        batch.queue(ring, RuleIndex(0), black_box(payload))?;
    }
    batch.send(ring)
}

fn egress(c: &mut Criterion) {
    let payloads = vec![7; BATCH * PAYLOAD];
    for (how, segment) in [("in trains", true), ("one by one", false)] {
        let mut bench = c.benchmark_group(format!("send {how}"));
        for outputs in [1, 8] {
            let opened = open(outputs, segment).and_then(|egress| Ok((egress, Uring::new(512)?)));
            let (mut egress, mut ring) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    eprintln!(
                        "send {how} to {outputs}: skipped, sockets or io_uring do not work here: {error}"
                    );
                    continue;
                }
            };
            let counters = Counters::new(1, [outputs.into()]);
            bench.throughput(Throughput::Elements(BATCH as u64 * u64::from(outputs)));
            bench.bench_function(BenchmarkId::new("outputs", outputs), |b| {
                b.iter(|| send(&mut egress, &mut ring, &counters, &payloads));
            });
            for output in counters.rules.iter().flat_map(|rule| &rule.outputs) {
                let dropped = output.dropped.report();
                assert!(dropped.is_empty(), "the kernel refused copies: {dropped:?}");
                assert!(output.relayed.get().is_multiple_of(BATCH as u64), "a batch was not sent to its end");
            }
        }
    }
}

criterion_group!(benches, egress);
criterion_main!(benches);
