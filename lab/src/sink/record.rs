//! What all kinds of sink do with a datagram: tally, latency, figures to watch.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hdrhistogram::Histogram;

use super::count::Count;
use super::{Shared, SinkReport, WarmUpSpan};
use crate::datagram::Kind;
use crate::disturbance::{Arrivals, least_silence_ns};
use crate::plan::{LatencyFrom, Plan};
use crate::sys::affinity::thread_cpu_time;
use crate::tally::Arrival;
use crate::traffic_error::{TrafficError, errno_name};

/// A latency beyond this is recorded as this: one minute, ns.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// An empty histogram of latencies: ns, three significant digits.
pub(super) fn latency_histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3)
}

/// The count as it grows.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) count: Count,
    pub(super) latency: Histogram<u64>,
    latency_from: LatencyFrom,
    pub(super) before_their_time: u64,
    /// When whole measured datagrams came.
    pub(super) arrivals: Arrivals,
    least_silence_ns: u64,
    received: u64,
    flows_seen: usize,
    other_frames: u64,
    /// Those of `other_frames` that came while measured datagrams were being sent.
    pub(super) other_frames_measured: u64,
    pub(super) unclaimed: u64,
    pub(super) super_frames: u64,
    warm_up: Option<WarmUpSpan>,
    dropped: BTreeMap<&'static str, u64>,
    errors: BTreeMap<String, u64>,
}

impl Recorder {
    pub(super) fn new(plan: &Arc<Plan>) -> Result<Self, TrafficError> {
        Ok(Self {
            count: Count::new(plan),
            latency: latency_histogram()?,
            latency_from: plan.latency_from,
            before_their_time: 0,
            arrivals: Arrivals::default(),
            least_silence_ns: least_silence_ns(plan),
            received: 0,
            flows_seen: 0,
            other_frames: 0,
            other_frames_measured: 0,
            unclaimed: 0,
            super_frames: 0,
            warm_up: None,
            dropped: BTreeMap::new(),
            errors: BTreeMap::new(),
        })
    }

    /// Counts a datagram; see [`OpenTally::arrive`](crate::tally::OpenTally::arrive).
    pub(super) fn datagram(
        &mut self,
        delivered: SocketAddr,
        payload: &[u8],
        headers_whole: bool,
        stamp_ns: Option<u64>,
        during: Kind,
    ) {
        self.received += 1;
        match self.count.arrive(delivered, payload, headers_whole, during) {
            Arrival::Received(stamps) => {
                self.arrived(stamp_ns);
                let Some((stamps, stamp_ns)) = stamps.zip(stamp_ns) else { return };
                let from_ns = match self.latency_from {
                    LatencyFrom::Intended => stamps.intended_ns,
                    LatencyFrom::Sent => stamps.actual_ns,
                };
                match stamp_ns.checked_sub(from_ns) {
                    Some(latency) => self.latency.saturating_record(latency.max(1)),
                    None => self.before_their_time += 1,
                }
            }
            Arrival::WarmUp { first_of_flow } => {
                self.flows_seen += usize::from(first_of_flow);
                self.warm_up_seen(first_of_flow, stamp_ns.unwrap_or_default());
            }
            Arrival::Duplicated => self.arrived(stamp_ns),
            Arrival::Corrupted | Arrival::Alien | Arrival::WarmUpCorrupted => {}
        }
    }

    /// A whole measured datagram came at this time.
    fn arrived(&mut self, stamp_ns: Option<u64>) {
        if let Some(at_ns) = stamp_ns {
            self.arrivals.arrive(at_ns, self.least_silence_ns);
        }
    }

    /// A whole datagram of the warm-up came at this time; 0 is none.
    pub(super) fn warm_up_seen(&mut self, first_of_flow: bool, at_ns: u64) {
        if at_ns == 0 {
            return;
        }
        let span =
            self.warm_up.get_or_insert(WarmUpSpan { first_ns: at_ns, complete_ns: at_ns, last_ns: at_ns });
        span.first_ns = span.first_ns.min(at_ns);
        span.last_ns = span.last_ns.max(at_ns);
        if first_of_flow {
            span.complete_ns = span.complete_ns.max(at_ns);
        }
    }

    /// Counts UDP that cannot be one of ours, e.g. a fragment.
    pub(super) fn foreign(&mut self, delivered: SocketAddr) {
        self.received += 1;
        self.count.arrive_foreign(delivered);
    }

    /// Counts a datagram in a frame that is addressed to another host.
    pub(super) fn for_another(&mut self, delivered: SocketAddr, payload: &[u8]) {
        self.received += 1;
        self.count.arrive_for_another(delivered, payload);
    }

    /// Counts a frame that is no UDP.
    pub(super) fn other_frame(&mut self, during: Kind) {
        self.other_frames += 1;
        self.other_frames_measured += u64::from(during == Kind::Measured);
    }

    /// Names a loss of the sink's own.
    pub(super) fn dropped(&mut self, place: &'static str, count: u64) {
        if count > 0 {
            *self.dropped.entry(place).or_default() += count;
        }
    }

    /// Remembers an error that does not end the count.
    pub(super) fn error(&mut self, error: &io::Error) {
        self.error_named(errno_name(error), 1);
    }

    /// Remembers errors that are no errno.
    pub(super) fn error_named(&mut self, name: String, count: u64) {
        *self.errors.entry(name).or_default() += count;
    }

    /// Lets the owner see how far the count is.
    pub(super) fn publish(&self, shared: &Shared) {
        shared.publish(self.received, self.flows_seen, self.other_frames);
    }

    /// Closes the count, on the reader's thread.
    pub(super) fn finish(self, buffer_bytes: usize, shared: &Shared) -> SinkReport {
        SinkReport {
            tally: self.count.close(shared.link_down()),
            arrivals: self.arrivals,
            latency: self.latency,
            before_their_time: self.before_their_time,
            dropped: self.dropped,
            other_frames: self.other_frames_measured,
            unclaimed: self.unclaimed,
            super_frames: self.super_frames,
            warm_up: self.warm_up,
            errors: self.errors,
            buffer_bytes,
            cpu: thread_cpu_time(),
        }
    }
}
