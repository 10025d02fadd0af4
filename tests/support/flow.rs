//! A flow that nothing may disturb.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::topology::Topology;

use super::{DEADLINE, Injector, good, wait_until};

/// From one datagram to the next of the flow that nothing may disturb: what a test build relays with ease.
pub const PACE: Duration = Duration::from_micros(50);

/// A flow that runs.
pub struct Flow<'a> {
    arrived: &'a AtomicUsize,
}

impl Flow<'_> {
    /// Waits until so many more datagrams have arrived.
    pub fn goes_on(&self, count: usize) {
        let enough = self.arrived.load(Ordering::Relaxed) + count;
        wait_until("the flow goes on", || self.arrived.load(Ordering::Relaxed) >= enough);
    }

    /// Waits until so many more have arrived, and not a moment longer.
    pub fn brings(&self, count: usize) {
        let (enough, deadline) = (self.arrived.load(Ordering::Relaxed) + count, Instant::now() + DEADLINE);
        while self.arrived.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < deadline, "the flow goes on");
            thread::yield_now();
        }
    }
}

/// Sends numbered datagrams while `disturb` runs; returns how many there were and how often each has arrived.
pub fn undisturbed(
    topology: &Topology,
    sink: &UdpSocket,
    disturb: impl FnOnce(&Flow<'_>),
) -> (u32, BTreeMap<u32, u32>) {
    paced(PACE, topology, sink, disturb)
}

/// The same with so long from one to the next.
pub fn paced(
    pace: Duration,
    topology: &Topology,
    sink: &UdpSocket,
    disturb: impl FnOnce(&Flow<'_>),
) -> (u32, BTreeMap<u32, u32>) {
    bursts(1, pace, topology, sink, |number| good(&number.to_be_bytes()), disturb)
}

/// The same with so many at once, in frames that `make` makes, whose payloads end with the number.
pub fn bursts(
    count_at_once: u32,
    pace: Duration,
    topology: &Topology,
    sink: &UdpSocket,
    make: impl Fn(u32) -> Vec<u8> + Sync,
    disturb: impl FnOnce(&Flow<'_>),
) -> (u32, BTreeMap<u32, u32>) {
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut injector = Injector::new(&topology.generator);
            let start = Instant::now();
            let mut sent = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                while start.elapsed() < pace * (sent - sent % count_at_once) {
                    thread::yield_now();
                }
                injector.send(&make(sent));
                sent += 1;
            }
            sent
        });
        let receiver = scope.spawn(|| {
            sink.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let mut arrived = BTreeMap::new();
            let mut payload = [0; 2_000];
            while let Ok(len) = sink.recv(&mut payload) {
                let number = u32::from_be_bytes(*payload[..len].last_chunk().unwrap());
                *arrived.entry(number).or_insert(0) += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
            arrived
        });
        let over = Over(&is_over);
        disturb(&Flow { arrived: &count });
        drop(over);
        (sender.join().unwrap(), receiver.join().unwrap())
    })
}

/// Ends the sending, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
