//! What it costs to find a frame in a packet ring, beside a walk that checks nothing it reads.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::worker::packet_ring::frames::{BlockFrames, slot_frame};

#[path = "../tests/support/blocks.rs"]
mod blocks;

use blocks::{BLOCK_HEADER_LEN, CAPTURED_LEN, Captured, NEXT, SLOT_CAPTURED_LEN};

const RING: usize = 1 << 20;
const SLOT: usize = 2 << 10;

/// A frame around a payload of 100 bytes.
fn captured() -> Captured {
    Captured::whole(&[7; 142])
}

fn read(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word) as usize
}

fn blocks_walk(c: &mut Criterion) {
    let captured = captured();
    let (block, starts) = blocks::block(RING, std::iter::repeat(&captured));
    let mut bench = c.benchmark_group("block of 1 MiB");
    bench.throughput(Throughput::Elements(starts.len() as u64));
    bench.bench_function("walk", |b| {
        b.iter(|| {
            let frames = BlockFrames::new(black_box(&block)).flatten();
            frames.map(|frame| frame.bytes.len() + usize::from(frame.vnet_header[1])).sum::<usize>()
        });
    });
    bench.bench_function("bare", |b| {
        b.iter(|| {
            let (block, mut at, mut sum) = (black_box(&block), BLOCK_HEADER_LEN, 0);
            for _ in 0..starts.len() {
                sum += read(block, at + CAPTURED_LEN);
                at += read(block, at + NEXT);
            }
            sum
        });
    });
}

fn slots_walk(c: &mut Criterion) {
    let ring = blocks::slot(SLOT, &captured()).repeat(RING / SLOT);
    let mut bench = c.benchmark_group("slots of 1 MiB");
    bench.throughput(Throughput::Elements((RING / SLOT) as u64));
    bench.bench_function("walk", |b| {
        b.iter(|| {
            let frames = black_box(&ring).chunks_exact(SLOT).flat_map(slot_frame);
            frames.map(|frame| frame.bytes.len() + usize::from(frame.vnet_header[1])).sum::<usize>()
        });
    });
    bench.bench_function("bare", |b| {
        b.iter(|| {
            let slots = black_box(&ring).chunks_exact(SLOT);
            slots.map(|slot| read(slot, SLOT_CAPTURED_LEN)).sum::<usize>()
        });
    });
}

criterion_group!(benches, blocks_walk, slots_walk);
criterion_main!(benches);
