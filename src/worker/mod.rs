//! A worker: takes frames from packet sockets, finds their rules, sends copies. It opens no file, socket or device
//! itself: whoever starts it hands over descriptors, rules, counters and a stop signal.

pub mod egress;
mod forward;
mod mmap;
#[allow(unsafe_code)]
pub mod packet_ring;
mod receiver;
mod recv;
mod unified_loop;

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::time::Duration;

use egress::Egress;
use mmap::Mmap;
use packet_ring::{BlockRing, SlotRing};
pub use receiver::ReceiveError;
use recv::{Mode, Recv};
use unified_loop::{Surroundings, UnifiedLoop};

use crate::rules::RuleTable;
use crate::stats::Counters;
use crate::sys::uring::Uring;

/// Results that the kernel can hold back before the worker takes them: more than receive buffers and sends together.
const COMPLETIONS: u32 = 4_096;

/// Where frames come from: a packet socket, or its ring.
#[derive(Debug)]
pub struct Input<S> {
    /// Name of the interface, for errors.
    pub name: String,
    /// The socket or ring; it prefixes frames with a `virtio_net_hdr`.
    pub source: S,
}

/// How a worker receives, and from where. An input's place is the [`InputIndex`](crate::rules::InputIndex) that the
/// rules know it by.
#[derive(Debug)]
pub enum Inputs {
    /// From `TPACKET_V3` rings.
    Blocks(Vec<Input<BlockRing>>),
    /// From `TPACKET_V2` rings.
    Slots(Vec<Input<SlotRing>>),
    /// By `recv`, as the kernel can best.
    Recv {
        /// From these.
        sockets: Vec<Input<OwnedFd>>,
        /// How long frames may gather before a worker that has just relayed looks again; zero wakes it up for each.
        coalesce: Duration,
    },
    /// By `recv`, one operation for each frame, as on kernels before 6.0.
    RecvSingleShot(Vec<Input<OwnedFd>>),
}

/// Everything that a worker reads from and writes to.
#[derive(Debug)]
pub struct Descriptors {
    /// Where frames come from.
    pub inputs: Inputs,
    /// Egress sockets and the way from rules to them.
    pub egress: Egress,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The ring cannot be set up.
    #[error(
        "set up io_uring: {0} (needs Linux 5.6 or later, io_uring allowed by the sysctl kernel.io_uring_disabled, and by the seccomp filter of a container)"
    )]
    Setup(io::Error),
    /// There is no memory for receive buffers.
    #[error("map receive buffers: {0} (raise the memory limit of the service or container)")]
    Buffers(io::Error),
    /// The ring failed.
    #[error("io_uring: {0}")]
    Ring(io::Error),
    /// A receive failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

impl WorkerError {
    fn ring(error: io::Error) -> Self {
        Self::Ring(error)
    }
}

/// Calls `ready` when everything is in place to receive, and relays until the other end of `stop` is closed; then
/// relays what had arrived by then and returns. Before it sleeps it looks for frames as long as `busy_poll`.
pub fn run(
    descriptors: Descriptors,
    busy_poll: Duration,
    rules: &RuleTable,
    counters: &Counters,
    stop: &PipeReader,
    ready: impl FnOnce(),
) -> Result<(), WorkerError> {
    let Descriptors { inputs, mut egress } = descriptors;
    let mut ring = Uring::disabled(COMPLETIONS).map_err(WorkerError::Setup)?;
    // Once nothing is left to be registered.
    let ready = |ring: &mut Uring| {
        ring.restrict().map_err(WorkerError::Setup)?;
        ready();
        Ok::<_, WorkerError>(())
    };
    let surroundings = Surroundings { rules, egress: &mut egress, counters, busy_poll };
    match inputs {
        Inputs::Blocks(rings) => {
            ready(&mut ring)?;
            UnifiedLoop { ring, receiver: Mmap::new(rings, counters), surroundings }.run(stop)
        }
        Inputs::Slots(rings) => {
            ready(&mut ring)?;
            UnifiedLoop { ring, receiver: Mmap::new(rings, counters), surroundings }.run(stop)
        }
        Inputs::Recv { sockets, coalesce } => {
            let mode = Mode::Multishot { coalesce };
            let receiver = Recv::new(&mut ring, sockets, mode).map_err(WorkerError::Buffers)?;
            ready(&mut ring)?;
            UnifiedLoop { ring, receiver, surroundings }.run(stop)
        }
        Inputs::RecvSingleShot(sockets) => {
            let receiver = Recv::new(&mut ring, sockets, Mode::SingleShot).map_err(WorkerError::Buffers)?;
            ready(&mut ring)?;
            UnifiedLoop { ring, receiver, surroundings }.run(stop)
        }
    }
}
