//! Offers a plan's datagrams at their exact times, in one of two ways.
//!
//! [`GeneratorKind::Packet`] sends with `sendmmsg` on a packet socket. [`GeneratorKind::Xdp`] has the kernel redirect
//! frames straight into the receive ring of the peer, which takes less time for each and is the faster one; it needs a
//! veth whose peer has NAPI, and cannot send fragments. What goes out is the same to the byte, and so is what a report
//! means: `sent` plus `refused` is what was due, and refusals are counted by name.
//!
//! An IPv4 datagram that is larger than the device's MTU goes out as fragments, in order, one after the other. Rate and
//! counts are of datagrams all the same: one of which the kernel refuses a fragment is refused, and the rest of it is
//! not sent.
//!
//! The calling thread may be pinned or not: 10,000 moves between CPUs in the midst of sending reordered nothing.

mod fragment;
mod pace;
mod packet;
mod report;
mod template;
mod xdp;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::Moment;
use crate::datagram::{Encoder, Header, Kind, Stamps};
use crate::plan::{Plan, Schedule};
use crate::sys::affinity::{PreciseSleep, thread_cpu_time};
use crate::sys::packet_socket::PacketSocket;
use crate::traffic_error::TrafficError;

pub use report::{GeneratorReport, Lag};

use packet::PacketSender;
use pace::wait_until;
use report::Recorder;
use template::Templates;
use xdp::XdpSender;

/// How a generator hands its frames to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorKind {
    /// Through a packet socket.
    Packet,
    /// By redirecting live XDP frames.
    Xdp,
}

impl fmt::Display for GeneratorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Xdp => "xdp",
        })
    }
}

/// Takes frames to the kernel, a batch at a time. A slot of the batch has room for the frames of one datagram.
trait Sender: fmt::Debug + Send {
    /// How many slots there are.
    fn slots(&self) -> usize;

    /// The frames in this slot, side by side; `None` behind the last.
    fn slot(&mut self, index: usize) -> Option<&mut [u8]>;

    /// A stretch begins.
    fn begin(&mut self) {}

    /// Hands the first `filled` slots to the kernel. Each is sent or refused; a refusal is recorded here or at the end.
    fn push(&mut self, filled: usize, stop: &AtomicBool, recorder: &mut Recorder);

    /// The stretch is over: what the kernel took and did not send is recorded.
    fn end(&mut self, _recorder: &mut Recorder) {}
}

/// A plan, and the way in which it is sent.
#[derive(Debug)]
pub struct Generator {
    plan: Arc<Plan>,
    templates: Templates,
    encoder: Encoder,
    sender: Box<dyn Sender>,
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
    /// Missing privileges, no such device, an IPv6 payload beyond its MTU, or what the kind cannot do.
    pub fn open(
        kind: GeneratorKind,
        source_device: &str,
        source_mac: [u8; 6],
        plan: &Plan,
    ) -> Result<Self, TrafficError> {
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
        let sender: Box<dyn Sender> = match kind {
            GeneratorKind::Packet => Box::new(PacketSender::open(socket, source_device, &templates.frames())?),
            GeneratorKind::Xdp => Box::new(XdpSender::open(source_device, &templates.frames())?),
        };
        Ok(Self {
            sender,
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
        self.sender.begin();
        let start = Moment::now();
        let mut done = 0;
        while done < stretch.count && !stretch.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let now_ns = now.saturating_duration_since(start.monotonic).as_nanos() as u64;
            let left = (stretch.count - done).min(self.sender.slots() as u64) as usize;
            let filled = self.fill(stretch.kind, &start, now_ns, &mut schedule, left, &mut recorder);
            if filled == 0 {
                let due = start.monotonic + Duration::from_nanos(schedule.peek().due_ns);
                wait_until(due, stretch.stop);
                continue;
            }
            self.sender.push(filled, stretch.stop, &mut recorder);
            done += filled as u64;
            stretch.progress.store(done, Ordering::Relaxed);
            recorder.batch_over(now_ns);
        }
        self.sender.end(&mut recorder);
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
            let Some(slot) = self.sender.slot(index).filter(|_| turn.due_ns <= now_ns) else { return index };
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
}
