//! Offers a plan's datagrams at their exact times through one packet socket.
//!
//! Frames go out with `sendmmsg` on `AF_PACKET`, which needs no IP configuration where the generator lives and is
//! cheaper than a UDP socket or a transmit ring. What the kernel refuses is retried for a moment where that can
//! help, and otherwise counted by the name of the error: `sent` plus `refused` is what was due.
//!
//! An IPv4 datagram that is larger than the device's MTU goes out as fragments, in order, one after the other. Rate and
//! counts are of datagrams all the same: one of which the kernel refuses a fragment is refused, and the rest of it is
//! not sent.
//!
//! The calling thread may be pinned or not: 10,000 moves between CPUs in the midst of sending reordered nothing.
//! The queueing discipline is not bypassed: on a veth, which has none, that saves nothing measurable, and it would
//! hide the frames from a capture on the generator's own device.

mod fragment;
mod pace;
mod report;
mod template;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Moment;
use crate::datagram::{Encoder, Header, Kind, Stamps};
use crate::plan::{Plan, Schedule};
use crate::sys::affinity::{PreciseSleep, thread_cpu_time};
use crate::sys::mmsg::SendBatch;
use crate::sys::packet_socket::{NO_PROTOCOL, PacketSocket, interface_index};
use crate::traffic_error::TrafficError;

pub use report::{GeneratorReport, Lag};

use pace::wait_until;
use report::Recorder;
use template::Templates;

/// Most frames per system call, but at least one datagram's: what is due together, at a rate the receiving side's
/// backlog (1,000) digests.
const BATCH: usize = 64;
/// Bytes of frames the socket may have under way.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// How often a full queue is tried again before the datagram counts as refused ...
const ATTEMPTS: u32 = 40;
/// ... and how long to wait in between: 2 ms in all.
const PATIENCE: Duration = Duration::from_micros(50);

/// A packet socket and the frames it sends.
#[derive(Debug)]
pub struct Generator {
    socket: PacketSocket,
    plan: Arc<Plan>,
    templates: Templates,
    encoder: Encoder,
    batch: SendBatch,
    /// Of the next datagram, if that is sent as fragments.
    identification: u16,
    warmed_up: u64,
    has_run: bool,
}

/// One stretch of sending.
struct Stretch<'a> {
    kind: Kind,
    rate_pps: u64,
    burst: u64,
    /// Global sequence of its first datagram.
    first: u64,
    count: u64,
    stop: &'a AtomicBool,
    progress: &'a AtomicU64,
}

impl Generator {
    /// Opens it on `source_device` of the calling thread's network namespace; `source_mac` goes into the frames.
    ///
    /// # Errors
    /// Missing privileges, no such device, or an IPv6 payload beyond its MTU.
    pub fn open(source_device: &str, source_mac: [u8; 6], plan: &Plan) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, source_device);
        let socket = PacketSocket::open().map_err(failed("open packet socket"))?;
        let mtu = socket.mtu(source_device).map_err(failed("read the MTU"))?;
        let templates = Templates::build(plan, source_mac, mtu);
        if templates.packet_bytes() > mtu {
            return Err(TrafficError::OverMtu {
                device: source_device.to_owned(),
                payload_bytes: plan.payload_bytes,
                packet_bytes: templates.packet_bytes(),
                mtu,
            });
        }
        // A smaller buffer only means more retries, which are counted.
        let _ = socket.set_send_buffer(SEND_BUFFER_BYTES);
        let index = interface_index(source_device).map_err(failed("find interface"))?;
        socket.bind(index, NO_PROTOCOL).map_err(failed("bind packet socket"))?;
        let frames = templates.frames();
        Ok(Self {
            socket,
            batch: SendBatch::new((BATCH / frames.len().max(1)).max(1), &frames),
            identification: 0,
            encoder: Encoder::new(plan.payload_bytes),
            templates,
            plan: Arc::new(plan.clone()),
            warmed_up: 0,
            has_run: false,
        })
    }

    /// Sends `count` warm-up datagrams, flows in turn, evenly at `rate_pps`; their sequence goes on from call to call.
    ///
    /// # Errors
    /// A rate of 0. What the kernel refuses is in the report.
    pub fn warm_up(
        &mut self,
        rate_pps: u64,
        count: u64,
        stop: &AtomicBool,
    ) -> Result<GeneratorReport, TrafficError> {
        if rate_pps == 0 {
            return Err(TrafficError::Rate(rate_pps));
        }
        let progress = AtomicU64::new(0);
        let first = self.warmed_up;
        let stretch =
            Stretch { kind: Kind::WarmUp, rate_pps, burst: 1, first, count, stop, progress: &progress };
        let report = self.send(&stretch)?;
        self.warmed_up += report.sent + report.refused_total();
        Ok(report)
    }

    /// Sends the plan's measured datagrams, once, unless `stop` becomes true before the end. `progress` follows how
    /// many were due so far.
    ///
    /// # Errors
    /// A second call. What the kernel refuses is in the report.
    pub fn run(&mut self, stop: &AtomicBool, progress: &AtomicU64) -> Result<GeneratorReport, TrafficError> {
        if std::mem::replace(&mut self.has_run, true) {
            return Err(TrafficError::AlreadyRun);
        }
        let Plan { rate_pps, burst, datagrams: count, .. } = *self.plan;
        self.send(&Stretch { kind: Kind::Measured, rate_pps, burst, first: 0, count, stop, progress })
    }

    fn send(&mut self, stretch: &Stretch<'_>) -> Result<GeneratorReport, TrafficError> {
        let _precise = PreciseSleep::begin();
        let cpu_before = thread_cpu_time();
        let mut recorder = Recorder::new(stretch.count)?;
        let flows = self.plan.flows.len();
        let mut schedule = Schedule::new(flows, stretch.rate_pps, stretch.burst, stretch.first);
        let start = Moment::now();
        let mut done = 0;
        while done < stretch.count && !stretch.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let now_ns = now.saturating_duration_since(start.monotonic).as_nanos() as u64;
            let left = (stretch.count - done).min(self.batch.slots() as u64) as usize;
            let filled = self.fill(stretch.kind, &start, now_ns, &mut schedule, left, &mut recorder);
            if filled == 0 {
                let due = start.monotonic + Duration::from_nanos(schedule.peek().due_ns);
                wait_until(due, stretch.stop);
                continue;
            }
            self.push(filled, stretch.stop, &mut recorder);
            done += filled as u64;
            stretch.progress.store(done, Ordering::Relaxed);
            recorder.batch_over(now_ns);
        }
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        Ok(recorder.finish(done, stretch.rate_pps, cpu))
    }

    /// Writes the datagrams that are due into the batch, at most `limit`, and returns how many.
    fn fill(
        &mut self,
        kind: Kind,
        start: &Moment,
        now_ns: u64,
        schedule: &mut Schedule,
        limit: usize,
        recorder: &mut Recorder,
    ) -> usize {
        let actual_ns = start.realtime_ns + now_ns;
        for index in 0..limit {
            let turn = schedule.peek();
            let Some(slot) = self.batch.slot(index).filter(|_| turn.due_ns <= now_ns) else { return index };
            let header = Header { run: self.plan.run, flow: turn.flow, sequence: turn.sequence, kind };
            let stamps = Stamps { intended_ns: start.realtime_ns + turn.due_ns, actual_ns };
            let encode = |payload: &mut [u8]| self.encoder.encode(payload, &header, stamps);
            self.templates.write(turn.flow, self.identification, slot, encode);
            self.identification = self.identification.wrapping_add(1);
            recorder.handed_over(&turn, now_ns);
            schedule.advance();
        }
        limit
    }

    /// Hands the first `filled` datagrams of the batch to the kernel; each ends up sent or refused.
    fn push(&mut self, filled: usize, stop: &AtomicBool, recorder: &mut Recorder) {
        let frames = self.batch.frames_per_slot();
        let mut next = 0;
        let mut attempts = 0;
        while next < filled * frames {
            match self.batch.send(self.socket.as_fd(), next, filled * frames) {
                Ok(taken) => {
                    next += taken.max(1);
                    attempts = 0;
                }
                Err(error) => {
                    let patient = attempts < ATTEMPTS && !stop.load(Ordering::Relaxed);
                    if patient && is_temporary(&error) {
                        attempts += 1;
                        recorder.retried();
                        std::thread::sleep(PATIENCE);
                    } else {
                        recorder.refused(&error);
                        // Without this frame the rest of its datagram is worth nothing.
                        next = (next / frames + 1) * frames;
                        attempts = 0;
                    }
                }
            }
        }
    }
}

/// Whether the same frame may be taken a moment later: a full queue (packet(7): `ENOBUFS` means it was not sent),
/// a full socket buffer, a signal.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_queues_and_signals_are_tried_again() {
        for (errno, temporary) in [
            (libc::ENOBUFS, true),
            (libc::EAGAIN, true),
            (libc::EINTR, true),
            (libc::ENETDOWN, false),
            (libc::EMSGSIZE, false),
            (libc::ENXIO, false),
        ] {
            assert_eq!(is_temporary(&io::Error::from_raw_os_error(errno)), temporary);
        }
    }
}
