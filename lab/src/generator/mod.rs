//! Offers a plan's datagrams at their exact times, in one of four ways.
//!
//! [`GeneratorKind::Packet`] sends with `sendmmsg` on a packet socket. [`GeneratorKind::Xdp`] has the kernel redirect
//! frames straight into the receive ring of the peer, which takes less time for each and is the faster one; it needs a
//! veth whose peer has NAPI, and cannot send fragments. What these two send is the same to the byte.
//! [`GeneratorKind::Trains`] sends what is due together in one piece, a super-frame, which leaves it to others to cut it
//! into those datagrams. [`GeneratorKind::Pcap`] sends recorded frames as they are. What a report means is always the same: `sent` plus `refused` is what was due, and refusals are
//! counted by name.
//!
//! An IPv4 datagram that is larger than the device's MTU goes out as fragments, in order, one after the other. Rate and
//! counts are of datagrams all the same: one of which the kernel refuses a fragment is refused, and the rest of it is
//! not sent.
//!
//! Foreign datagrams that a plan has beside its own are due at times of their own, and leave in the same batches. They
//! are counted by themselves; rate and lag are those of the plan's.
//!
//! The calling thread may be pinned or not: 10,000 moves between CPUs in the midst of sending reordered nothing.

mod due;
mod foreign;
mod fragment;
mod offering;
mod pace;
mod packet;
mod replay;
mod report;
mod template;
mod trains;
mod xdp;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::datagram::{CRC32, Encoder, Header, Kind, MIN_BYTES, STAMPED_BYTES, Stamps};
use crate::impairments::Placed;
use crate::plan::{Foreign, Plan};
use crate::schedule::Schedule;
use crate::sys::affinity::{PreciseSleep, thread_cpu_time};
use crate::sys::packet_socket::PacketSocket;
use crate::traffic_error::TrafficError;

pub use report::{ForeignReport, GeneratorReport, Lag};
pub use trains::train_obstacle;
pub use xdp::{try_xdp, xdp_obstacle};

use foreign::Merged;
use offering::{Guise, Offer, Offering};
use packet::PacketSender;
use replay::ReplaySender;
use report::Recorder;
use template::Templates;
use trains::TrainSender;
use xdp::XdpSender;

/// How a generator hands its frames to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorKind {
    /// Through a packet socket.
    Packet,
    /// By redirecting live XDP frames.
    Xdp,
    /// Through a packet socket, in super-frames of all that is due together.
    Trains,
    /// Through a packet socket, what was recorded.
    Pcap,
}

impl fmt::Display for GeneratorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Trains => "trains",
            Self::Pcap => "pcap",
        })
    }
}

/// Carries the datagrams of a stretch to the kernel, each when it is due.
trait Sender: fmt::Debug + Send {
    /// Returns how many were handed over. Which of them were refused is recorded.
    fn send(&mut self, frames: &mut Frames, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64;
}

/// Makes the frames of a plan.
#[derive(Debug)]
struct Frames {
    run: u16,
    templates: Templates,
    encoder: Encoder,
    /// Of the next datagram, if that is sent as fragments.
    identification: u16,
}

impl Frames {
    /// Writes the frames of what is offered into a slot of exactly their length.
    fn write(&mut self, slot: &mut [u8], offer: &Offer, kind: Kind, stamps: Stamps) {
        let encode = |payload: &mut [u8]| encode(&mut self.encoder, self.run, payload, offer, kind, stamps);
        let to = match offer.guise {
            Guise::NoRule => self.templates.foreign(),
            Guise::Own | Guise::Flipped(_) | Guise::Foreign => usize::from(offer.turn.flow),
        };
        self.templates.write(to, self.identification, slot, encode);
        self.identification = self.identification.wrapping_add(1);
    }

    /// Writes only the payload of what is offered.
    fn write_payload(&mut self, payload: &mut [u8], offer: &Offer, kind: Kind, stamps: Stamps) {
        encode(&mut self.encoder, self.run, payload, offer, kind, stamps);
    }
}

/// Writes the payload of what is offered in this run.
fn encode(encoder: &mut Encoder, run: u16, payload: &mut [u8], offer: &Offer, kind: Kind, stamps: Stamps) {
    let Offer { turn, guise } = offer;
    let run = match guise {
        Guise::Foreign | Guise::NoRule => !run,
        Guise::Own | Guise::Flipped(_) => run,
    };
    let header = Header { run, flow: turn.flow, sequence: turn.sequence, kind };
    encoder.encode(payload, &header, stamps);
    if let Guise::Flipped(number) = guise {
        flip(payload, *number);
    }
}

/// Flips a bit of the filler, another one with each number, or of the CRC-32 in a payload without any: so the datagram can
/// still say which one it is, and nobody writes over it.
fn flip(payload: &mut [u8], number: u64) {
    let length = payload.len();
    let damaged = if length > STAMPED_BYTES { STAMPED_BYTES..length } else { CRC32..MIN_BYTES };
    let Some(bytes) = payload.get_mut(damaged) else { return };
    let at = (number / 8).checked_rem(bytes.len() as u64).unwrap_or_default();
    if let Some(byte) = bytes.get_mut(at as usize) {
        *byte ^= 1 << (number % 8);
    }
}

/// A plan, and the way in which it is sent.
#[derive(Debug)]
pub struct Generator {
    plan: Arc<Plan>,
    frames: Frames,
    sender: Box<dyn Sender>,
    warmed_up: u64,
    has_run: bool,
}

/// One stretch of sending.
struct Stretch<'a> {
    kind: Kind,
    flows: usize,
    rate_pps: u64,
    burst: u64,
    /// Global sequence of its first datagram.
    first: u64,
    /// How many the schedule has ...
    datagrams: u64,
    /// ... the faults that some of them meet ...
    faults: &'a [Placed],
    /// ... and how many of it are to be handed over.
    own: u64,
    /// What is offered beside them.
    foreign: Option<&'a Foreign>,
    stop: &'a AtomicBool,
    /// Follows how many were handed over.
    progress: &'a AtomicU64,
}

impl Stretch<'_> {
    /// How many are to be handed over, of either kind.
    fn count(&self) -> u64 {
        self.own + self.foreign.map_or(0, |foreign| foreign.datagrams)
    }

    fn offering(&self) -> Merged<'_> {
        let schedule = Schedule::new(self.flows, self.rate_pps, self.burst, self.first);
        Merged::new(Offering::new(schedule, self.flows, self.faults), self.own, self.foreign)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
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
        let frames =
            Frames { run: plan.run, templates, encoder: Encoder::new(plan.payload_bytes), identification: 0 };
        let sender: Box<dyn Sender> = match kind {
            GeneratorKind::Pcap => {
                let replay = plan.replay.clone().ok_or(TrafficError::NoRecording)?;
                Box::new(ReplaySender::new(PacketSender::open(socket, source_device, &frames)?, replay))
            }
            GeneratorKind::Packet => Box::new(PacketSender::open(socket, source_device, &frames)?),
            GeneratorKind::Xdp => Box::new(XdpSender::open(source_device, &frames)?),
            GeneratorKind::Trains => {
                Box::new(TrainSender::open(socket, source_device, source_mac, plan, &frames)?)
            }
        };
        Ok(Self { plan: Arc::new(plan.clone()), frames, sender, warmed_up: 0, has_run: false })
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
        let (kind, flows) = (Kind::WarmUp, self.plan.flows.len());
        let stretch = Stretch {
            kind,
            flows,
            rate_pps,
            burst: 1,
            first,
            datagrams: count,
            faults: &[],
            own: count,
            foreign: None,
            stop,
            progress: &progress,
        };
        let report = self.send(&stretch)?;
        self.warmed_up += report.sent + report.refused_total();
        Ok(report)
    }

    /// Sends the plan's measured datagrams and what is foreign beside them, once, unless `stop` becomes true before the end. `progress` follows how
    /// many were due so far.
    ///
    /// # Errors
    /// A second call. What the kernel refuses is in the report.
    pub fn run(&mut self, stop: &AtomicBool, progress: &AtomicU64) -> Result<GeneratorReport, TrafficError> {
        if std::mem::replace(&mut self.has_run, true) {
            return Err(TrafficError::AlreadyRun);
        }
        let plan = Arc::clone(&self.plan);
        let Plan { rate_pps, burst, datagrams, impairments, .. } = *plan;
        let (kind, flows) = (Kind::Measured, self.plan.flows.len());
        let (faults, own) = (impairments.placed(datagrams), impairments.frames(datagrams));
        let faults = &faults[..];
        self.send(&Stretch {
            kind,
            flows,
            rate_pps,
            burst,
            first: 0,
            datagrams,
            faults,
            own,
            foreign: plan.foreign.as_ref(),
            stop,
            progress,
        })
    }

    fn send(&mut self, stretch: &Stretch<'_>) -> Result<GeneratorReport, TrafficError> {
        let _precise = PreciseSleep::begin();
        let cpu_before = thread_cpu_time();
        let foreign = stretch.foreign.map_or(0, |foreign| foreign.datagrams);
        let mut recorder = Recorder::new(stretch.own, stretch.datagrams, foreign)?;
        let done = self.sender.send(&mut self.frames, stretch, &mut recorder);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        Ok(recorder.finish(done, stretch.rate_pps, cpu))
    }
}
