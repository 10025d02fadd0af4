//! The xdp sink: a program on the device counts in the kernel, before frames become socket buffers.
//!
//! It counts what is plain: whole datagrams that come for the first time, in order and where they belong, verified to the
//! last bit. All other UDP comes here whole and is judged like that of the other sinks. Attaching the program gives the
//! veth a queue of its own (NAPI): up to 256 frames wait there for the softirq, or for ksoftirqd, to take them out, and
//! what finds it full is in the sender's `tx_dropped`.
//!
//! Latency runs to when the program sees the frame, in the buckets that the histogram has, so that nothing is lost.

mod checks;
mod event;
mod latency;
mod program;
mod unfit;

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};

use self::event::Event;
use self::program::{Counters, Counts, EVENTS_BYTES, Failure, Maps, Program};
use super::record::Recorder;
use super::{Device, Shared, SinkReport};
use crate::datagram::MIN_BYTES;
use crate::frame::{Content, parse, untagged};
use crate::plan::{Flow, Plan};
use crate::sys::tai;
use crate::topology::{Checksum, Family, Link};
use crate::traffic_error::TrafficError;

pub use self::unfit::{Unfit, fits};

/// How often the ring is looked at: it takes the events of some 100,000 datagrams.
const TICK: Duration = Duration::from_millis(10);
/// A datagram whose headers (IPv4 options, IPv6 extensions) the program does not read: it may have been counted twice.
const UNREAD_HEADERS: &str = "headers that only the packet sink reads";

/// What the program counts, to be watched while it runs.
#[derive(Clone)]
pub(super) struct Watched(Arc<Counters>);

impl Watched {
    /// What has been counted in the kernel so far. What cannot be read counts as nothing, and in the end as an error.
    fn now(&self) -> Counts {
        self.0.read().unwrap_or_default()
    }

    /// Whole datagrams.
    pub(super) fn received(&self) -> u64 {
        let counts = self.now();
        counts.counted + counts.warm_up
    }

    /// Frames that are no UDP.
    pub(super) fn other_frames(&self) -> u64 {
        self.now().other_frames
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.now().fmt(f)
    }
}

/// Program and count, before and while the thread runs.
pub(super) struct XdpReader {
    program: Program,
    counters: Arc<Counters>,
    judge: Judge,
    tai_offset_ns: u64,
}

/// Counts what the program leaves to user space.
struct Judge {
    recorder: Recorder,
    mac: [u8; 6],
    checksum: Checksum,
}

impl XdpReader {
    pub(super) fn open(
        device: &Device,
        link: Link,
        plan: &Arc<Plan>,
    ) -> Result<(Self, Watched), TrafficError> {
        let name = &device.name;
        fits(link, plan.payload_bytes, plan.datagrams)
            .map_err(|unfit| TrafficError::Unfit { device: name.clone(), unfit })?;
        let tai_offset_ns =
            tai::offset_ns().map_err(TrafficError::socket("read CLOCK_TAI for the sink", name))?;
        let failed = |operation| {
            let device = name.clone();
            move |source| TrafficError::Program { operation, device, source }
        };
        let (mut program, counters) = Program::load(plan, link, device.mac, tai_offset_ns)
            .map_err(failed("load the program of the xdp sink"))?;
        let recorder = Recorder::new(plan)?;
        // Last, so that nothing arrives before the rest stands.
        program.attach(device.index).map_err(failed("attach the program of the xdp sink"))?;
        let counters = Arc::new(counters);
        let watched = Watched(Arc::clone(&counters));
        let judge = Judge { recorder, mac: device.mac, checksum: link.checksum };
        Ok((Self { program, counters, judge, tai_offset_ns }, watched))
    }

    /// Counts until told to stop, and then what is left.
    pub(super) fn read(mut self, shared: &Shared) -> SinkReport {
        while !shared.stopping() {
            self.judge.drain(&mut self.program.events, shared);
            std::thread::sleep(TICK);
        }
        let Self { program, counters, mut judge, tai_offset_ns } = self;
        let (mut events, maps) = program.detach();
        judge.drain(&mut events, shared);
        let mut recorder = judge.recorder;
        if let Err(failure) = add(&mut recorder, &counters, &maps, shared) {
            recorder.error_named(format!("\"{failure}\""), 1);
        }
        if tai::offset_ns().ok() != Some(tai_offset_ns) {
            recorder.error_named("a new offset of CLOCK_TAI".to_owned(), 1);
        }
        recorder.finish(EVENTS_BYTES, shared)
    }
}

impl Judge {
    /// Takes what is in the ring.
    fn drain(&mut self, events: &mut RingBuf<MapData>, shared: &Shared) {
        while let Some(entry) = events.next() {
            match Event::read(&entry) {
                Some(event) => self.count(&event, shared),
                None => self.recorder.dropped("events-broken", 1),
            }
        }
        self.recorder.publish(shared);
    }

    fn count(&mut self, event: &Event<'_>, shared: &Shared) {
        let before = self.sightings();
        if let (Some(before), Some(tally)) = (&event.before, self.recorder.count.numbered()) {
            tally.learn(before);
        }
        self.count_frame(event, shared);
        // Kernel and user space must have laid it to the same sequence, or both to none.
        if self.sightings() - before != u64::from(event.before.is_some()) {
            self.recorder.error_named(UNREAD_HEADERS.to_owned(), 1);
        }
    }

    fn sightings(&mut self) -> u64 {
        self.recorder.count.numbered().map_or(0, |tally| tally.sightings())
    }

    fn count_frame(&mut self, event: &Event<'_>, shared: &Shared) {
        let (recorder, during) = (&mut self.recorder, shared.during(Some(event.stamp_ns)));
        let tagged = untagged(event.frame);
        let frame = tagged.as_deref().unwrap_or(event.frame);
        let for_another = frame.first_chunk::<6>().is_some_and(|to| to[0] & 1 == 0 && *to != self.mac);
        match parse(frame) {
            Content::Other => recorder.other_frame(during),
            Content::BrokenUdp { delivered } => recorder.foreign(delivered),
            // The IP stack here would not hand a tagged frame to anybody.
            Content::Udp(udp) if tagged.is_some() => recorder.foreign(udp.delivered),
            Content::Udp(udp) if for_another => recorder.for_another(udp.delivered, udp.payload),
            Content::Udp(udp) => {
                let left = self.checksum == Checksum::Offload && udp.checksum_is_left;
                let whole = udp.ip_whole && (udp.payload_whole || left);
                recorder.datagram(udp.delivered, udp.payload, whole, Some(event.stamp_ns), during);
            }
        }
    }
}

/// Adds what was counted in the kernel to what was counted here.
fn add(recorder: &mut Recorder, counters: &Counters, maps: &Maps, shared: &Shared) -> Result<(), Failure> {
    let counts = counters.read()?;
    if let Some(tally) = recorder.count.numbered() {
        tally.add(&maps.ahead(&counts)?);
    }
    maps.record_latencies(&mut recorder.latency)?;
    // Of all of them, those that were judged in user space included.
    recorder.arrivals = maps.arrivals(&counts)?;
    recorder.before_their_time += counts.before_their_time;
    recorder.warm_up_seen(false, counts.warm_up_last_ns);
    if let Some(baseline) = shared.measuring.get() {
        recorder.other_frames_measured += counts.other_frames.saturating_sub(baseline.other_frames);
    }
    recorder.dropped("events", counts.events_lost);
    recorder.dropped("other-queue", counts.other_queue);
    Ok(())
}

/// Whether this machine's kernel takes the program.
///
/// # Errors
/// Why not.
pub fn works(link: Link) -> Result<(), TrafficError> {
    let address = match link.family {
        Family::Ipv4 => ([239, 0, 0, 1], 1).into(),
        Family::Ipv6 => (Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1), 1).into(),
    };
    let flow = Flow { source: address, destination: address, destination_mac: [0; 6], delivered: address };
    let failed = |source| TrafficError::Program {
        operation: "load the program of the xdp sink",
        device: "no device".to_owned(),
        source,
    };
    let plan = Plan::new(0, vec![flow], MIN_BYTES, 1, 1).map_err(|mistake| failed(mistake.into()))?;
    Program::load(&plan, link, [0; 6], 0).map(drop).map_err(failed)
}
