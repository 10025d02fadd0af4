//! The packet sink: reads the device's frames from a ring.
//!
//! Where the plan's datagrams are larger than the MTU, the kernel puts their fragments together before they reach the
//! ring, and the stamp is that of the last one. A datagram that misses a fragment then never comes.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::record::Recorder;
use super::socket::{distinct_unicast, placeholder};
use super::{Device, Shared, SinkReport};
use crate::datagram::Kind;
use crate::frame::{Content, Udp, parse};
use crate::plan::Plan;
use crate::sys::block::Frame;
use crate::sys::packet_ring::{PacketRing, RingShape};
use crate::sys::packet_socket::{ALL_PROTOCOLS, PacketSocket, RingStatistics};
use crate::sys::ready::Ready;
use crate::traffic_error::TrafficError;

/// A started block is handed over after this, ms. Longer than the latency of interest, because stamps are the
/// kernel's: waking up less often leaves the CPU to the relay, and fewer blocks last longer.
const RETIRE_MS: u32 = 8;
/// The smallest block holds the largest super-frame (64 KiB and its headers).
const MIN_BLOCK_BYTES: usize = 128 << 10;
const MAX_BLOCK_BYTES: usize = 2 << 20;
/// Blocks for a second of silence, one per retire time.
const BLOCKS: usize = 128;
/// Below this many blocks a ring is not worth having.
const MIN_BLOCKS: usize = 4;
/// What a frame takes in the ring beside its payload: `tpacket3_hdr`, address, virtio, alignment, Ethernet, IPv6, UDP.
const FRAME_OVERHEAD_BYTES: u64 = 192;
/// How often a stop is looked for while nothing arrives.
const TICK: Duration = Duration::from_millis(20);
/// How often the kernel's counters, which are 32 bits wide, are read.
const STATISTICS_EVERY: Duration = Duration::from_secs(1);
/// How long reading may go on after the stop.
const LAST_READ: Duration = Duration::from_secs(2);

/// Ring, sockets and count, before and while the thread runs.
#[derive(Debug)]
pub(super) struct PacketReader {
    ring: PacketRing,
    ready: Ready,
    recorder: Recorder,
    /// Frames taken from the ring.
    walked: u64,
    /// Number of the last block.
    last_block: Option<u64>,
    statistics: RingStatistics,
    /// Keep unicast ports from being answered with "port unreachable", which a relay would see as an error.
    _placeholders: Vec<Socket>,
}

impl PacketReader {
    pub(super) fn open(device: &Device, plan: &Arc<Plan>) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, &device.name);
        let socket = PacketSocket::open().map_err(failed("open packet socket"))?;
        socket.use_version_3().map_err(failed("choose TPACKET_V3"))?;
        socket.with_virtio_header().map_err(failed("set PACKET_VNET_HDR"))?;
        socket.ignore_outgoing().map_err(failed("set PACKET_IGNORE_OUTGOING"))?;
        let mtu = socket.mtu(&device.name).map_err(failed("read the MTU"))?;
        let fragmented = plan.fragments(mtu).count() > 1;
        let ring = map_ring(socket, shape(plan), &device.name)?;
        let placeholders = distinct_unicast(plan)
            .map(|address| placeholder(address).map_err(failed("hold a UDP port")))
            .collect::<Result<_, _>>()?;
        let ready = Ready::new().map_err(failed("create epoll"))?;
        ready.add(ring.as_fd(), 0).map_err(failed("watch the ring"))?;
        let recorder = Recorder::new(plan)?;
        // Last, so that nothing arrives before the rest stands.
        ring.socket().bind(device.index, ALL_PROTOCOLS).map_err(failed("bind packet socket"))?;
        if fragmented {
            ring.socket().reassemble().map_err(failed("join a fanout group that reassembles"))?;
        }
        Ok(Self {
            ring,
            ready,
            recorder,
            walked: 0,
            last_block: None,
            statistics: RingStatistics::default(),
            _placeholders: placeholders,
        })
    }

    /// Reads until told to stop, and then what is left.
    pub(super) fn read(mut self, shared: &Shared) -> SinkReport {
        let mut next_statistics = Instant::now() + STATISTICS_EVERY;
        while !shared.stopping() {
            self.drain(shared);
            self.wait();
            if Instant::now() >= next_statistics {
                self.take_statistics();
                next_statistics = Instant::now() + STATISTICS_EVERY;
            }
        }
        self.drain_to_the_end(shared);
        self.recorder.dropped("ring", self.statistics.drops);
        let unread = self.statistics.packets.saturating_sub(self.statistics.drops + self.walked);
        self.recorder.dropped("ring-unread", unread);
        let bytes = self.ring.shape().bytes();
        self.recorder.finish(bytes, shared)
    }

    /// Everything queued is read when as many frames were walked as the kernel says it put in: the last block only
    /// comes with its retire timer.
    fn drain_to_the_end(&mut self, shared: &Shared) {
        let deadline = Instant::now() + LAST_READ;
        loop {
            self.drain(shared);
            self.take_statistics();
            if self.walked + self.statistics.drops >= self.statistics.packets || Instant::now() >= deadline {
                return;
            }
            self.wait();
        }
    }

    /// Reads the blocks that are there, at most once around the ring.
    fn drain(&mut self, shared: &Shared) {
        for _ in 0..self.ring.shape().blocks {
            let Some(block) = self.ring.next() else { return };
            if !follows(&mut self.last_block, block.sequence()) {
                self.recorder.dropped("ring-broken", 1);
            }
            for frame in block.frames() {
                match frame {
                    Ok(frame) => {
                        self.walked += 1;
                        count(&mut self.recorder, &frame, shared.during(Some(frame.stamp_ns)));
                    }
                    Err(_) => self.recorder.dropped("ring-broken", 1),
                }
            }
            self.recorder.publish(shared);
        }
    }

    fn wait(&mut self) {
        let failed = match self.ready.wait(TICK) {
            Ok(mut events) => events.any(|event| event.failed),
            Err(error) => {
                self.recorder.error(&error);
                // Without epoll the tick is all there is.
                std::thread::sleep(TICK);
                false
            }
        };
        // Taking it clears it: the device went down, and frames come again once it is up.
        if failed && let Ok(Some(error)) | Err(error) = self.ring.socket().take_error() {
            self.recorder.error(&error);
        }
    }

    fn take_statistics(&mut self) {
        match self.ring.socket().take_statistics() {
            Ok(since) => {
                self.statistics.packets += since.packets;
                self.statistics.drops += since.drops;
            }
            Err(error) => self.recorder.error(&error),
        }
    }
}

/// Whether block `number` comes right after `last`, which it becomes. A block left out, or read twice, does not.
fn follows(last: &mut Option<u64>, number: Option<u64>) -> bool {
    let before = std::mem::replace(last, number);
    number.is_some() && before.is_none_or(|before| number == before.checked_add(1))
}

fn count(recorder: &mut Recorder, frame: &Frame<'_>, during: Kind) {
    if frame.bytes.len() < frame.wire_bytes {
        recorder.dropped("ring-truncated", 1);
        return;
    }
    match parse(frame.bytes) {
        Content::Other => recorder.other_frame(during),
        Content::BrokenUdp { delivered } => recorder.foreign(delivered),
        // The IP stack here would not hand a tagged frame to anybody.
        Content::Udp(udp) if frame.tagged => recorder.foreign(udp.delivered),
        Content::Udp(udp) => count_udp(recorder, frame, &udp, during),
    }
}

fn count_udp(recorder: &mut Recorder, frame: &Frame<'_>, udp: &Udp<'_>, during: Kind) {
    let mut take = |payload, whole| {
        if frame.for_another {
            recorder.for_another(udp.delivered, payload);
        } else {
            recorder.datagram(udp.delivered, payload, whole, Some(frame.stamp_ns), during);
        }
    };
    match frame.segment_bytes {
        Some(segment_bytes) if udp.payload.len() > segment_bytes => {
            // Each datagram's checksum comes into being when the super-frame is taken apart.
            udp.payload.chunks(segment_bytes).for_each(|payload| take(payload, udp.ip_whole));
            recorder.super_frames += 1;
        }
        _ => {
            take(udp.payload, udp.ip_whole && (udp.payload_whole || !frame.checksum_ready));
        }
    }
}

/// A ring that takes a second of the plan's traffic while nobody reads, and a whole burst, as far as
/// [`MAX_BLOCK_BYTES`] allows.
fn shape(plan: &Plan) -> RingShape {
    let frame_bytes = plan.payload_bytes as u64 + FRAME_OVERHEAD_BYTES;
    let per_retire = plan.rate_pps.saturating_mul(frame_bytes) / 1_000 * u64::from(RETIRE_MS);
    let of_burst = plan.burst.saturating_mul(frame_bytes) / BLOCKS as u64;
    let block_bytes = usize::try_from(per_retire.max(of_burst)).unwrap_or(usize::MAX).min(MAX_BLOCK_BYTES);
    RingShape {
        block_bytes: block_bytes.next_power_of_two().clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES),
        blocks: BLOCKS,
        retire_ms: RETIRE_MS,
    }
}

/// Maps the ring, or the largest that there is memory for, halving.
fn map_ring(
    mut socket: PacketSocket,
    mut shape: RingShape,
    device: &str,
) -> Result<PacketRing, TrafficError> {
    loop {
        match PacketRing::map(socket, shape) {
            Ok(ring) => return Ok(ring),
            Err((back, error)) if error.raw_os_error() == Some(libc::ENOMEM) && shape.blocks > MIN_BLOCKS => {
                socket = back;
                shape.blocks /= 2;
            }
            Err((_, source)) => {
                return Err(TrafficError::Ring { bytes: shape.bytes(), device: device.to_owned(), source });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_left_out_or_read_twice_are_noticed() {
        let mut last = None;
        let followed = [1, 2, 3, 3, 4, 6, 7].map(|number| follows(&mut last, Some(number)));
        assert_eq!(followed, [true, true, true, false, true, false, true]);
        assert!(!follows(&mut last, None));
    }
}
