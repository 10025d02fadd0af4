//! A worker: takes frames from packet sockets, finds their rules, sends copies. It opens no file, socket or device
//! itself: a supervisor gives it descriptors and orders, over a [`Link`].

mod carry_out;
pub mod dedupe;
pub mod egress;
mod forward;
mod link;
mod mmap;
pub mod order;
mod own;
#[allow(unsafe_code)]
pub mod packet_ring;
mod places;
pub mod process;
mod receiver;
mod recv;
mod told;
mod unified_loop;

use std::io;
use std::os::fd::OwnedFd;

use dedupe::Streams;
use egress::{Egress, MAX_SENDERS};
pub use link::Link;
use mmap::Mmap;
use order::{Answer, Order, PROTOCOL, Path, Task};
use own::Own;
use packet_ring::{BlockRing, SlotRing};
pub use receiver::ReceiveError;
use receiver::Receiver;
use recv::{Mode, Recv};
use told::Told;
use unified_loop::UnifiedLoop;

use crate::rules::RuleTable;
use crate::stats::Counters;
use crate::sys::rlimit;
use crate::sys::sandbox::SandboxError;
use crate::sys::uring::Uring;

/// Results that the kernel can hold back before the worker takes them: more than receive buffers and sends together.
const COMPLETIONS: u32 = 4_096;

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
    /// What it was told cannot be understood, or not be done.
    #[error("carry out an order: {0}")]
    Orders(io::Error),
    /// It cannot give up what it does not need.
    #[error("give up privileges: {0}")]
    Sandbox(#[from] SandboxError),
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

/// Relays as it is told over `link`, until it is told to drain and has, or nobody can tell it anything any more. When everything is
/// set up that takes privileges it calls `confine`, once, before the first frame.
pub fn run(
    mut link: Link,
    confine: impl FnOnce(&Task) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    let (task, memory) = begin(&mut link)?;
    let counters = Counters::open(memory).map_err(WorkerError::Orders)?;
    let mut ring = Uring::disabled(COMPLETIONS).map_err(WorkerError::Setup)?;
    let by_recv = |ring: &mut Uring, mode| Recv::new(ring, mode).map_err(WorkerError::Buffers);
    match task.path {
        Path::Blocks => work(ring, Mmap::<BlockRing>::new(&counters), link, task, &counters, confine),
        Path::Slots => work(ring, Mmap::<SlotRing>::new(&counters), link, task, &counters, confine),
        Path::Recv { coalesce } => {
            let receiver = by_recv(&mut ring, Mode::Multishot { coalesce })?;
            work(ring, receiver, link, task, &counters, confine)
        }
        Path::RecvSingleShot => {
            let receiver = by_recv(&mut ring, Mode::SingleShot)?;
            work(ring, receiver, link, task, &counters, confine)
        }
    }
}

/// How many sockets of sources there may be beside those of inputs and outputs, so that there are descriptors for all.
fn most_senders() -> usize {
    rlimit::open_files().map_or(MAX_SENDERS, |files| MAX_SENDERS.min(files as usize / 4))
}

fn begin(link: &mut Link) -> Result<(Task, OwnedFd), WorkerError> {
    match link.first().map_err(WorkerError::Orders)? {
        (Order::Begin(task), Some(memory)) if task.protocol == PROTOCOL => Ok((task, memory)),
        _ => Err(WorkerError::Orders(io::ErrorKind::InvalidData.into())),
    }
}

fn work(
    mut ring: Uring,
    receiver: impl Receiver,
    link: Link,
    task: Task,
    counters: &Counters,
    confine: impl FnOnce(&Task) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    // Nothing is left to be registered with it.
    ring.restrict().map_err(WorkerError::Setup)?;
    let (rules, own, streams, told) = <(RuleTable, Own, Streams, Told)>::default();
    let mut egress = Egress::default();
    egress.limit_senders(most_senders());
    confine(&task)?;
    let mut work = UnifiedLoop {
        ring,
        receiver,
        rules,
        own,
        streams,
        egress,
        counters,
        task,
        link,
        told,
        is_called: false,
    };
    let result = work.run();
    if let Err(error) = &result {
        // If nobody hears it, the exit status tells that there was something.
        let _ = work.link.answer(&Answer::Failed(error.to_string()), None);
        work.link.flush();
    }
    result
}
