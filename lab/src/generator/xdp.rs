//! Sending by XDP: a program in the kernel redirects frames into the receive ring of the peer, each when it is due.
//!
//! The program waits by itself, awake. A call of its own for each datagram would cost too much: the kernel sets up a
//! pool of pages for every call, in some 14 µs, and keeps the pool for a second if the peer has not let go of all
//! frames by the end; with thousands of such pools it is busy with nothing else. So a call sends all
//! that is due within a millisecond, which is written beforehand. Between calls sent datagrams are recorded, and the
//! processor is offered to others.
//!
//! There is no socket, no queueing discipline and no `sk_buff` on this side. Nor is there anybody who says what became
//! of a frame: a full ring refuses it, and a peer that is down or without NAPI lets it vanish. But the device counts
//! what its peer took, so a stretch of sending is settled at its end: what was not taken was refused. The device does not
//! tell what is foreign from the rest: all of it counts as if it had been the plan's own.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::pace::wait_until;
use super::report::{NOT_REDIRECTED, Recorder};
use super::{Frames, Merged, Sender, Stretch, template};
use crate::clock::Moment;
use crate::datagram::{ACTUAL, CRC32, Stamps};
use crate::fragments::Fragments;
use crate::sys::ethtool::Statistics;
use crate::sys::packet_socket::interface_index;
use crate::sys::xdp::{LiveFrames, MOST_BYTES, Stamp, monotonic_ns};
use crate::topology::{Family, Link};
use crate::traffic_error::{TrafficError, errno_name};

/// How long a call lasts at most, ns, as far as that can be foreseen ...
const WINDOW_NS: u64 = 1_000_000;
/// ... and how far ahead frames are written, so that a call that lasts longer finds some.
const HORIZON_NS: u64 = 2 * WINDOW_NS;
/// What sending a frame takes at least, ns, the peer's receiving included.
const SENDING_NS: u64 = 700;
/// How much earlier than its first datagram a call begins, ns, for what setting it up takes.
const CALL_NS: u64 = 30_000;
/// Passes that tell how long one takes in which nothing is due ...
const TRIAL_PASSES: u32 = 4_096;
/// ... and how often they are tried.
const TRIALS: usize = 3;
/// After so many passes the kernel hands over what they redirected. Few keep apart what is due at different times ...
const PASSES_PER_BATCH: u32 = 16;
/// ... and many take 7 % less time, for when there is none to spare. The receive ring of a veth holds 256 frames.
const PASSES_PER_FULL_BATCH: u32 = 64;
/// A device of every network namespace, which carries nothing in that of the generator.
const IDLE_DEVICE: &str = "lo";
/// Counted for each transmit queue: frames that the peer's ring had room for ...
const TAKEN: &str = "xdp_xmit";
/// ... and frames that it had not.
const RING_FULL: &str = "xdp_xmit_errors";

/// The program, its frames, and the counters of the device they leave by.
#[derive(Debug)]
pub(super) struct XdpSender {
    ring: LiveFrames,
    statistics: Statistics,
    /// How long a pass takes in which nothing is due.
    pass_ns: u64,
}

/// What the device counted since it was made.
#[derive(Clone, Copy, Debug, Default)]
struct Transmitted {
    taken: u64,
    ring_full: u64,
}

/// Why this generator cannot send payloads of this size over such a link; `None` when it can.
pub fn xdp_obstacle(link: Link, payload_bytes: usize) -> Option<String> {
    if Fragments::new(link.family, payload_bytes, link.mtu as usize).count() > 1 {
        return Some(format!("which an MTU of {} cuts into fragments", link.mtu));
    }
    let frame_bytes = template::header_bytes(link.family == Family::Ipv6) + payload_bytes;
    (frame_bytes > MOST_BYTES)
        .then(|| format!("whose frames of {frame_bytes} bytes are longer than {MOST_BYTES} bytes"))
}

/// Whether this kernel and our privileges let the program run, for any frame.
///
/// # Errors
/// What is in the way.
pub fn try_xdp() -> Result<(), TrafficError> {
    let run = || LiveFrames::load(MOST_BYTES, None)?.run(1, 1);
    run().map_err(TrafficError::xdp("run the XDP program of", "the generator"))
}

impl XdpSender {
    /// Sends on `device` of the calling thread's network namespace.
    pub(super) fn open(device: &str, frames: &Frames) -> Result<Self, TrafficError> {
        let failed = TrafficError::xdp;
        let &[frame_bytes] = &frames.templates.frames()[..] else {
            let source = io::Error::other("a datagram is several frames, XDP sends one by one");
            return Err(failed("send fragments on", device)(source));
        };
        let mut ring = load(frame_bytes, frames).map_err(failed("load the program for", device))?;
        ring.attach_to(IDLE_DEVICE).map_err(failed("attach the program to", IDLE_DEVICE))?;
        let index = interface_index(device).map_err(failed("find interface", device))?;
        ring.lead_to(index).map_err(failed("redirect to", device))?;
        let statistics = Statistics::open(device).map_err(failed("read the statistics of", device))?;
        transmitted(&statistics).map_err(failed("read the statistics of", device))?;
        let pass_ns = time_passes(&mut ring).map_err(failed("run the program for", device))?;
        Ok(Self { ring, statistics, pass_ns })
    }
}

impl Sender for XdpSender {
    fn send(&mut self, frames: &mut Frames, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64 {
        let before = transmitted(&self.statistics).ok();
        let mut course = Course::begin(&mut self.ring, self.pass_ns, stretch);
        recorder.started(course.start.realtime_ns);
        let mut discarded = 0;
        while course.done < stretch.count() && !stretch.is_stopped() {
            course.wait();
            course.fill(frames);
            let ran = course.call();
            course.record(recorder);
            match ran {
                Ok(()) => thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => recorder.retried(),
                Err(error) => {
                    let count = course.discard(recorder);
                    recorder.refused(&errno_name(&error), count);
                    discarded += count;
                }
            }
            stretch.progress.store(course.done, Ordering::Relaxed);
        }
        let done = course.done;
        for (name, count) in unsent(done - discarded, before, transmitted(&self.statistics)) {
            recorder.refused(&name, count);
        }
        done
    }
}

/// A stretch on its way.
struct Course<'a> {
    ring: &'a mut LiveFrames,
    pass_ns: u64,
    stretch: &'a Stretch<'a>,
    start: Moment,
    /// The same moment in ns of `CLOCK_MONOTONIC`.
    start_ns: u64,
    /// Of what is to be written next ...
    ahead: Merged<'a>,
    filled: u64,
    /// ... and of what is to be sent next.
    behind: Merged<'a>,
    done: u64,
}

impl<'a> Course<'a> {
    fn begin(ring: &'a mut LiveFrames, pass_ns: u64, stretch: &'a Stretch<'a>) -> Self {
        let start = Moment::now();
        let start_ns = monotonic_ns().saturating_sub(start.monotonic.elapsed().as_nanos() as u64);
        ring.begin(start.realtime_ns.wrapping_sub(start_ns));
        let (ahead, behind) = (stretch.offering(), stretch.offering());
        Self { ring, pass_ns, stretch, start, start_ns, ahead, filled: 0, behind, done: 0 }
    }

    /// Time since the start.
    fn now_ns(&self) -> u64 {
        self.start.monotonic.elapsed().as_nanos() as u64
    }

    /// Returns shortly before the next datagram is due.
    fn wait(&self) {
        let call_ns = self.behind.peek().turn.due_ns.saturating_sub(CALL_NS);
        wait_until(self.start.monotonic + Duration::from_nanos(call_ns), self.stretch.stop);
    }

    /// Writes the frames that are due before the horizon.
    fn fill(&mut self, frames: &mut Frames) {
        let horizon_ns = self.now_ns() + HORIZON_NS;
        while self.filled < self.stretch.count() {
            let offer = self.ahead.peek();
            let due_ns = offer.turn.due_ns;
            let Some(slot) = self.ring.free_slot().filter(|_| due_ns <= horizon_ns) else { break };
            let stamps = Stamps { intended_ns: self.start.realtime_ns + due_ns, actual_ns: 0 };
            frames.write(slot, &offer, self.stretch.kind, stamps);
            self.ring.commit(self.start_ns + due_ns);
            self.filled += 1;
            self.ahead.advance();
        }
    }

    /// Lets the program send what is due within the window.
    fn call(&mut self) -> io::Result<()> {
        let now_ns = self.now_ns();
        let due_ns = |index: &u64| self.ring.due_ns(*index).saturating_sub(self.start_ns);
        let last = (self.done..self.filled).rev().find(|index| due_ns(index) <= now_ns + WINDOW_NS);
        let Some(last) = last else { return Ok(()) };
        let count = last + 1 - self.done;
        let idle_ns = due_ns(&last).saturating_sub(now_ns).saturating_sub(count * SENDING_NS);
        let batch = if idle_ns == 0 { PASSES_PER_FULL_BATCH } else { PASSES_PER_BATCH };
        // What is due last is still to be found when it is.
        let passes = count + idle_ns / self.pass_ns + u64::from(batch);
        self.ring.run(passes as u32, batch)
    }

    /// Records what the call has sent.
    fn record(&mut self, recorder: &mut Recorder) {
        for index in self.done..self.ring.sent() {
            self.handed_over(self.ring.sent_ns(index).saturating_sub(self.start_ns), recorder);
        }
    }

    /// Gives up what waits, and returns how many that are.
    fn discard(&mut self, recorder: &mut Recorder) -> u64 {
        let (count, now_ns) = (self.ring.discard(), self.now_ns());
        (0..count).for_each(|_| self.handed_over(now_ns, recorder));
        count
    }

    fn handed_over(&mut self, now_ns: u64, recorder: &mut Recorder) {
        recorder.handed_over(&self.behind.peek(), now_ns);
        recorder.batch_over(now_ns);
        self.behind.advance();
        self.done += 1;
    }
}

/// The program with a ring for the frames of a plan.
fn load(frame_bytes: usize, frames: &Frames) -> io::Result<LiveFrames> {
    let (checksum_at, payload_at) = frames.templates.places();
    let stamp = frames.encoder.changes_by_actual_time().map(|crc| Stamp {
        at: payload_at + ACTUAL,
        crc_at: payload_at + CRC32,
        checksum_at,
        crc,
    });
    LiveFrames::load(frame_bytes, stamp.as_ref())
}

/// How long a pass takes in which nothing is due, ns: the shortest of a few trials.
fn time_passes(ring: &mut LiveFrames) -> io::Result<u64> {
    let mut shortest = Duration::MAX;
    for _ in 0..TRIALS {
        let before = Instant::now();
        ring.run(TRIAL_PASSES, PASSES_PER_BATCH)?;
        shortest = shortest.min(before.elapsed());
    }
    Ok((shortest.as_nanos() as u64 / u64::from(TRIAL_PASSES)).max(1))
}

/// What of `redirected` frames the device did not send, by name. A device that cannot be asked has sent nothing that
/// anybody could vouch for.
fn unsent(
    redirected: u64,
    before: Option<Transmitted>,
    after: io::Result<Transmitted>,
) -> Vec<(String, u64)> {
    let (before, after) = match (before, after) {
        (Some(before), Ok(after)) => (before, after),
        (_, Err(error)) => return vec![(errno_name(&error), redirected)],
        (None, Ok(after)) => (after, after),
    };
    let missing = redirected.saturating_sub(after.taken.saturating_sub(before.taken));
    let ring_full = after.ring_full.saturating_sub(before.ring_full).min(missing);
    vec![(RING_FULL.to_owned(), ring_full), (NOT_REDIRECTED.to_owned(), missing - ring_full)]
}

/// Reads the counters, over all queues.
fn transmitted(statistics: &Statistics) -> io::Result<Transmitted> {
    let sum = |counter| statistics.sum("tx_queue_", counter);
    match (sum(TAKEN)?, sum(RING_FULL)?) {
        (Some(taken), Some(ring_full)) => Ok(Transmitted { taken, ring_full }),
        _ => Err(io::Error::other("it counts no XDP frames, as a veth does")),
    }
}

#[cfg(test)]
#[path = "xdp_tests.rs"]
mod tests;
