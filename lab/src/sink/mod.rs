//! Counts what arrives: one reader thread per sink, started inside the sink's network namespace.
//!
//! The [`SinkKind::Xdp`] sink counts in the kernel and costs least. The [`SinkKind::Packet`] sink taps the device through a
//! ring and takes whatever can come. The [`SinkKind::Socket`] sink joins the groups and reads UDP sockets, which proves
//! that the kernel's IP stack accepts what the relay sent.

mod count;
mod packet;
mod record;
mod snmp;
mod socket;
mod xdp;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::realtime_ns;
use crate::datagram::Kind;
use crate::disturbance::Arrivals;
use crate::plan::Plan;
use crate::tally::Tally;
use crate::topology::{Link, Port};
use crate::traffic_error::TrafficError;
use snmp::UdpCounters;
use xdp::Watched;

pub use xdp::{Unfit, fits as fits_xdp, works as xdp_works};

/// How a sink gets at the datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinkKind {
    /// By a program on the device, in the kernel.
    Xdp,
    /// From a packet socket's ring, before the IP stack.
    Packet,
    /// From UDP sockets that joined the groups.
    Socket,
}

/// A device and the address it has, as a sink is given them.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    name: String,
    index: u32,
    mac: [u8; 6],
    address: IpAddr,
}

/// A sink at work. Dropping it ends its thread and forgets what it counted.
#[derive(Debug)]
pub struct Sink {
    device: String,
    kind: SinkKind,
    ipv6: bool,
    shared: Arc<Shared>,
    /// What is counted in the kernel; xdp sink only.
    ahead: Option<Watched>,
    /// Taken by [`Sink::finish`].
    reader: Option<JoinHandle<SinkReport>>,
}

/// What a sink counted.
#[derive(Clone, Debug)]
pub struct SinkReport {
    /// The exact count.
    pub tally: Tally,
    /// ns from the send time that the plan names to the kernel's receive stamp, or to the sight of the xdp sink's program, of each
    /// measured datagram received; empty for payloads too short to carry a time.
    pub latency: Histogram<u64>,
    /// When whole measured datagrams came.
    pub arrivals: Arrivals,
    /// Measured datagrams received that were stamped before that time: the clock was set.
    pub before_their_time: u64,
    /// What the sink itself lost, as the kernel counts it since the sink was opened; only what is not zero.
    ///
    /// - `ring`: the ring was full
    /// - `ring-truncated`: longer than a block of the ring
    /// - `ring-unread`: still in the ring when the time to read it was over
    /// - `ring-broken`: the rest of a block that made no sense, or blocks that were left out
    /// - `events`: the xdp sink's program found no room for what it leaves to user space
    /// - `events-broken`: what it left there made no sense
    /// - `other-queue`: came through a queue of the device that the program does not count
    /// - `socket-buffer`: the receive buffer was full
    /// - `checksum`: the IP stack found the UDP checksum wrong
    /// - `stack`: the IP stack dropped it for another reason
    pub dropped: BTreeMap<&'static str, u64>,
    /// Frames that were not UDP (ARP, neighbour discovery, IGMP, MLD), since measuring began; packet and xdp sink only.
    pub other_frames: u64,
    /// UDP that no socket wanted, in the whole namespace, since measuring began; socket sink only: the others
    /// count it as alien.
    pub unclaimed: u64,
    /// When the warm-up came; `None` when nothing of it did.
    pub warm_up: Option<WarmUpSpan>,
    /// Super-frames that were taken apart; packet sink only.
    pub super_frames: u64,
    /// Errors met while reading, by name; none of them ends the count.
    pub errors: BTreeMap<String, u64>,
    /// Memory obtained for what waits to be read: the ring, or all receive buffers.
    pub buffer_bytes: usize,
    /// CPU time of the reader thread; `None` where not accounted.
    pub cpu: Option<Duration>,
}

/// When whole datagrams of the warm-up came, ns of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUpSpan {
    /// The first of any flow.
    pub first_ns: u64,
    /// The first of the last flow that had none until then.
    pub complete_ns: u64,
    /// The last.
    pub last_ns: u64,
}

/// What reader and owner tell each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
    flows_seen: AtomicUsize,
    other_frames: AtomicU64,
    measuring: OnceLock<Baseline>,
    /// Global sequences that were offered while a link on the way was down.
    link_down: OnceLock<Vec<Range<u64>>>,
}

/// How things stood when measuring began.
#[derive(Clone, Copy, Debug)]
struct Baseline {
    /// When that was, ns of `CLOCK_REALTIME`, which is what arrivals are stamped with.
    at_ns: u64,
    /// Of the sink's namespace; socket sink only.
    udp: UdpCounters,
    /// What the program had counted of frames that are no UDP; xdp sink only.
    other_frames: u64,
}

impl Shared {
    // Relaxed in all of these: figures to watch and a flag to be heard soon. The count itself is handed over by
    // joining the thread.
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn publish(&self, received: u64, flows_seen: usize, other_frames: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.flows_seen.store(flows_seen, Ordering::Relaxed);
        self.other_frames.store(other_frames, Ordering::Relaxed);
    }

    fn link_down(&self) -> &[Range<u64>] {
        self.link_down.get().map_or(&[], Vec::as_slice)
    }

    /// What was being sent when something came in that is stamped `stamp_ns`; without a stamp, what is being sent now.
    fn during(&self, stamp_ns: Option<u64>) -> Kind {
        let measuring = self.measuring.get().is_some_and(|from| stamp_ns.is_none_or(|at| at >= from.at_ns));
        if measuring { Kind::Measured } else { Kind::WarmUp }
    }
}

impl Sink {
    /// Opens its sockets in the calling thread's network namespace, which must be that of `port`, joins the groups
    /// (socket kind) and starts counting what comes in there.
    ///
    /// # Errors
    /// Missing privileges, no such device, memberships or memory refused; of the xdp kind also what it cannot count
    /// ([`fits_xdp`]) and a kernel that refuses its program.
    pub fn open(kind: SinkKind, port: &Port, link: Link, plan: &Arc<Plan>) -> Result<Self, TrafficError> {
        let device = Device {
            name: port.device().to_owned(),
            index: port.index(),
            mac: port.mac(),
            address: port.address(),
        };
        let shared = Arc::new(Shared::default());
        let mut ahead = None;
        let reader = match kind {
            SinkKind::Xdp => {
                let (reader, watched) = xdp::XdpReader::open(&device, link, plan)?;
                ahead = Some(watched);
                start(&device, Arc::clone(&shared), move |shared| reader.read(shared))
            }
            SinkKind::Packet => {
                let reader = packet::PacketReader::open(&device, plan)?;
                start(&device, Arc::clone(&shared), move |shared| reader.read(shared))
            }
            SinkKind::Socket => {
                let reader = socket::SocketReader::open(&device, plan)?;
                start(&device, Arc::clone(&shared), move |shared| reader.read(shared))
            }
        }?;
        Ok(Self { device: device.name, kind, ipv6: plan.is_ipv6(), shared, ahead, reader: Some(reader) })
    }

    /// Tells the sink that the warm-up is over and everything of it has come: what cannot be read and what is none of
    /// the trial's counts from now on. To be called inside the sink's network namespace; a second call changes nothing.
    ///
    /// # Errors
    /// The namespace's UDP counters cannot be read.
    pub fn begin_measuring(&self) -> Result<(), TrafficError> {
        let udp = self.udp_counters()?;
        let other_frames = self.ahead.as_ref().map_or(0, Watched::other_frames);
        self.shared.measuring.get_or_init(|| Baseline { at_ns: realtime_ns(), udp, other_frames });
        Ok(())
    }

    /// How many of `frames` that the sink's device carried since it was made have not been read and are not known to
    /// be none of the sink's business either. To be called inside the sink's network namespace.
    ///
    /// The socket sink does not see frames that are no UDP: to it they are unread.
    ///
    /// # Errors
    /// The namespace's UDP counters cannot be read.
    pub fn unread_of(&self, frames: u64) -> Result<u64, TrafficError> {
        let ahead = self.ahead.as_ref().map_or(0, Watched::other_frames);
        let known = self.received() + ahead + self.shared.other_frames.load(Ordering::Relaxed);
        Ok(frames.saturating_sub(known + self.udp_counters()?.unclaimed()))
    }

    fn udp_counters(&self) -> Result<UdpCounters, TrafficError> {
        match self.kind {
            SinkKind::Xdp | SinkKind::Packet => Ok(UdpCounters::default()),
            SinkKind::Socket => UdpCounters::read(self.ipv6)
                .map_err(TrafficError::socket("read the UDP counters of the namespace", &self.device)),
        }
    }

    /// How many distinct flows have delivered at least one whole warm-up datagram.
    pub fn warm_up_flows_seen(&self) -> usize {
        self.shared.flows_seen.load(Ordering::Relaxed)
    }

    /// Every UDP datagram that arrived so far, warm-up and aliens included; a few milliseconds behind.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed) + self.ahead.as_ref().map_or(0, Watched::received)
    }

    /// Tells the sink which global sequences were offered while a link on the way was down: in order, none of them twice.
    /// What is missing of those is counted by itself.
    pub fn while_link_down(&self, sequences: Vec<Range<u64>>) {
        self.shared.link_down.get_or_init(|| sequences);
    }

    /// Reads what is queued, ends the thread and closes the count.
    ///
    /// # Errors
    /// Only a defect: the thread panicked.
    pub fn finish(mut self) -> Result<SinkReport, TrafficError> {
        let report = self.end().and_then(Result::ok);
        report.ok_or_else(|| TrafficError::ReaderPanicked { device: self.device.clone() })
    }

    fn end(&mut self) -> Option<std::thread::Result<SinkReport>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.reader.take().map(JoinHandle::join)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the reader's thread, which inherits the calling thread's network namespace.
fn start(
    device: &Device,
    shared: Arc<Shared>,
    read: impl FnOnce(&Shared) -> SinkReport + Send + 'static,
) -> Result<JoinHandle<SinkReport>, TrafficError> {
    std::thread::Builder::new()
        .name(format!("lab-{}", device.name))
        .spawn(move || read(&shared))
        .map_err(|source| TrafficError::Thread { device: device.name.clone(), source })
}

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod tests;
