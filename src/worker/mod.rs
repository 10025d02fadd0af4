//! A worker: takes frames from packet sockets, finds their rules, sends copies. It opens no file, socket or device
//! itself: whoever starts it hands over descriptors, rules, counters and a stop signal.

pub mod egress;
mod forward;
mod receiver;
mod recv;
mod unified_loop;

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;

use egress::Egress;
pub use receiver::ReceiveError;
use recv::Recv;
use unified_loop::UnifiedLoop;

use crate::rules::RuleTable;
use crate::stats::Counters;
use crate::sys::uring::Uring;

/// Results that the kernel can hold back before the worker takes them: more than receive buffers and sends together.
const COMPLETIONS: u32 = 4_096;

/// A packet socket.
#[derive(Debug)]
pub struct InputDescriptor {
    /// Name of the interface, for errors.
    pub name: String,
    /// The socket, which prefixes frames with a `virtio_net_hdr`.
    pub socket: OwnedFd,
    /// Bytes of the largest frame that the interface's MTU allows.
    pub max_frame_len: usize,
}

/// Everything that a worker reads from and writes to.
#[derive(Debug)]
pub struct Descriptors {
    /// Packet sockets; a socket's place is the [`InputIndex`](crate::rules::InputIndex) that the rules know it by.
    pub inputs: Vec<InputDescriptor>,
    /// Egress sockets and the way from rules to them.
    pub egress: Egress,
}

/// How a worker receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceivePath {
    /// `recv`, as the kernel can best.
    Recv,
    /// `recv`, one operation for each frame, as on kernels before 6.0.
    RecvSingleShot,
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
/// relays what had arrived by then and returns.
pub fn run(
    path: ReceivePath,
    descriptors: Descriptors,
    rules: &RuleTable,
    counters: &Counters,
    stop: &PipeReader,
    ready: impl FnOnce(),
) -> Result<(), WorkerError> {
    let Descriptors { inputs, egress } = descriptors;
    let mut ring = Uring::new(COMPLETIONS).map_err(WorkerError::Setup)?;
    let single_shot = path == ReceivePath::RecvSingleShot;
    let receiver = Recv::new(&mut ring, inputs, single_shot).map_err(WorkerError::Buffers)?;
    ready();
    UnifiedLoop { ring, receiver, rules, egress: &egress, counters }.run(stop)
}
