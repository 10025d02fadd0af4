//! What the rule filter costs the kernel for a frame, with one rule and with 10,000: a frame is sent to a socket that has the
//! filter. What the sending takes without it is that of a classic program that refuses everything. Needs root.

#![allow(clippy::expect_used)]

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::sys::filter;
use multicast_relay::sys::rule_programs::{Endpoint, RulePrograms};
use multicast_relay::wire::LinkLayer;

const PORT: u16 = 5_000;

fn group(i: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(239, 81, 1, 1).to_bits() + i)
}

/// UDP to `group` with a payload of 100 bytes.
fn frame(group: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9]);
    frame.extend(group.octets());
    frame.extend([0x0f, 0xa0]);
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 108, 0, 0]);
    frame.extend([0; 100]);
    frame
}

fn filters(c: &mut Criterion) {
    let (sender, receiver) = UnixDatagram::pair().expect("make a pair of sockets");
    receiver.set_nonblocking(true).expect("make a socket nonblocking");
    let foreign = frame(Ipv4Addr::new(239, 90, 0, 1));
    let mut bench = c.benchmark_group("filter a frame");
    bench.throughput(Throughput::Elements(1));
    socket2::SockRef::from(&receiver).attach_filter(&filter::nothing()).expect("attach a filter");
    bench.bench_function("send only", |b| b.iter(|| sender.send(&foreign)));
    for count in [1, 10_000] {
        let rule = |i| Endpoint::new(group(i).into(), PORT, None);
        let programs =
            match RulePrograms::load(LinkLayer::Ethernet, &(0..count).map(rule).collect::<Vec<_>>(), 0) {
                Ok(programs) => programs,
                Err(error) => {
                    assert!(!is_root(), "{error}");
                    return eprintln!("skipped: {error} (needs root)");
                }
            };
        programs.attach(&receiver).expect("attach a filter");
        bench.bench_function(BenchmarkId::new("foreign", count), |b| {
            b.iter(|| sender.send(&foreign));
            assert!(programs.foreign().is_ok_and(|foreign| foreign > 0), "the filter never ran");
        });
        // Every rule in turn, so that a large table is not measured with one of its entries in the cache.
        let frames: Vec<_> = (0..count).map(|i| frame(group(i * 7 % count))).collect();
        let (mut turn, mut buffer) = (frames.iter().cycle(), [0; 200]);
        bench.bench_function(BenchmarkId::new("taken, and received", count), |b| {
            b.iter(|| turn.next().map(|frame| (sender.send(frame), receiver.recv(&mut buffer))));
        });
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

criterion_group!(benches, filters);
criterion_main!(benches);
