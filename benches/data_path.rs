//! What one frame costs before it is sent: parsing, and finding its rule among 10 and 10,000.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::rules::{InputIndex, Rule, RuleTable};
use multicast_relay::wire::Datagram;
use pnet_packet::ipv4::MutableIpv4Packet;

/// UDP to `group`:5000 with a payload of 100 bytes.
fn frame_v4(group: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9]);
    frame.extend(group.octets());
    frame.extend([0x0f, 0xa0, 0x13, 0x88, 0, 108, 0xff, 0xff]);
    frame.extend([0; 100]);
    if let Some(mut header) = MutableIpv4Packet::new(&mut frame[14..34]) {
        let checksum = pnet_packet::ipv4::checksum(&header.to_immutable());
        header.set_checksum(checksum);
    }
    frame
}

fn frame_v6() -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 108, 17, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xff; 16]);
    frame.extend([0x0f, 0xa0, 0x13, 0x88, 0, 108, 0xff, 0xff]);
    frame.extend([0; 100]);
    frame
}

fn group(i: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(239, 81, 1, 1).to_bits() + i)
}

fn parse(c: &mut Criterion) {
    let mut bench = c.benchmark_group("parse");
    bench.throughput(Throughput::Elements(1));
    for (name, frame) in [("ipv4", frame_v4(group(0))), ("ipv6", frame_v6())] {
        assert!(Datagram::parse(&frame).is_ok());
        bench.bench_function(name, |b| b.iter(|| Datagram::parse(black_box(&frame))));
        bench.bench_function(BenchmarkId::new("with checksum", name), |b| {
            b.iter(|| Datagram::parse(black_box(&frame)).is_ok_and(|datagram| datagram.has_valid_checksum()));
        });
    }
}

fn look_up(c: &mut Criterion) {
    let mut bench = c.benchmark_group("look up");
    bench.throughput(Throughput::Elements(1));
    for count in [10, 10_000_u32] {
        let rules: Vec<Rule> = (0..count)
            .filter_map(|i| format!("eth0:{}:5000=239.82.1.1:6000:eth1", group(i)).parse().ok())
            .collect();
        let table = RuleTable::new(&rules, &["eth0"]);
        // Every rule in turn, so that a large table is not measured with one of its entries in the cache.
        let frames: Vec<_> = (0..count).map(|i| frame_v4(group(i * 7 % count))).collect();
        let datagrams: Vec<_> = frames.iter().filter_map(|frame| Datagram::parse(frame).ok()).collect();
        let mut turn = datagrams.iter().cycle();
        bench.bench_function(BenchmarkId::new("hit", count), |b| {
            b.iter(|| turn.next().and_then(|datagram| table.find(InputIndex(0), None, black_box(datagram))));
        });
        let stranger = frame_v4(Ipv4Addr::new(224, 0, 0, 251));
        let stranger = Datagram::parse(&stranger).ok();
        bench.bench_function(BenchmarkId::new("miss", count), |b| {
            b.iter(|| {
                stranger.as_ref().and_then(|datagram| table.find(InputIndex(0), None, black_box(datagram)))
            });
        });
    }
}

criterion_group!(benches, parse, look_up);
criterion_main!(benches);
