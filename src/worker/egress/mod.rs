//! Egress: copies of a batch's payloads leave through connected UDP sockets, still borrowed from the batch.
//!
//! Copies to one output that follow each other and are of one size, and a shorter one behind them, leave as a train: one
//! send, which the kernel or the device cuts into datagrams again (`UDP_SEGMENT`, udp(7)). Each output keeps the order in
//! which its copies came: while a train may still be refused, what is behind it waits. Only where a device begins to refuse
//! what it took before, because its MTU shrank, copies of one batch change places.

mod segmentation;
mod train;

use std::io::{self, IoSlice};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;

use self::segmentation::Segmentation;
use self::train::{Origin, Trains};
use crate::rules::RuleIndex;
use crate::stats::Counters;
use crate::sys::udp_socket;
use crate::sys::uring::{Send, Uring};

/// Most copies that wait before they are sent: enough for long trains to several outputs at once.
const COPIES: usize = 1_024;

/// The outputs of a worker, and which of them each rule sends through. Clones send through the same sockets.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    outputs: Vec<Output>,
    /// For each rule, in the order of its outputs, their places in `outputs`.
    routes: Vec<Box<[u32]>>,
}

/// Where copies leave.
#[derive(Clone, Debug)]
struct Output {
    /// As `GROUP:PORT:IF`, for messages.
    name: String,
    /// A connected UDP socket, which all workers share: a descriptor each would be too many where outputs are.
    socket: Arc<OwnedFd>,
    /// Whether an answer to an earlier datagram (ICMP) may be in the way of a later one.
    is_answered: bool,
    segmentation: Segmentation,
    /// Copies that wait for it.
    queue: Option<Queue>,
}

/// A chain through the waiting copies.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: usize,
    last: usize,
}

/// A copy that waits to be sent.
struct Waiting<'b> {
    payload: &'b [u8],
    origin: Origin,
    /// The next one for the same output.
    next: Option<usize>,
}

/// Copies that wait to be sent, none of which outlives the batch `'b` that its payload is borrowed from.
pub struct EgressBatch<'a, 'b> {
    egress: &'a mut Egress,
    counters: &'a Counters,
    /// In the order they came.
    waiting: ArrayVec<Waiting<'b>, COPIES>,
    /// Outputs that they wait for.
    touched: ArrayVec<u32, COPIES>,
}

impl Egress {
    /// Adds an output that sends through `socket`, a connected UDP socket, and returns its place. Its `name` is for
    /// messages. Without `segment` each datagram is sent by itself.
    pub fn add_output(&mut self, name: String, socket: OwnedFd, segment: bool) -> u32 {
        self.outputs.push(Output {
            name,
            is_answered: udp_socket::is_answered(socket.as_fd()),
            socket: Arc::new(socket),
            segmentation: Segmentation::new(segment),
            queue: None,
        });
        self.outputs.len() as u32 - 1
    }

    /// Adds the next rule, which sends through the outputs at these places.
    pub fn add_rule(&mut self, outputs: Vec<u32>) {
        self.routes.push(outputs.into());
    }

    /// Begins a batch of copies.
    pub fn begin<'a, 'b>(&'a mut self, counters: &'a Counters) -> EgressBatch<'a, 'b> {
        EgressBatch { egress: self, counters, waiting: ArrayVec::new(), touched: ArrayVec::new() }
    }
}

impl Output {
    /// What the kernel is told of `copies` that leave together: of `size` bytes each, but for the last one.
    fn send_of<'a>(&'a self, copies: &'a [IoSlice<'a>], size: usize) -> Send<'a> {
        let segment_size = if copies.len() > 1 { NonZeroU16::new(size as u16) } else { None };
        Send { socket: self.socket.as_fd(), payloads: copies, segment_size }
    }

    /// Says that trains of datagrams of `size` bytes are refused.
    fn warn(&self, size: usize, errno: i32) {
        let (name, error) = (&self.name, io::Error::from_raw_os_error(errno));
        tracing::warn!(
            "{name}: cannot send datagrams of {size} bytes as trains: {error}; sending what is refused so one by one, \
             which takes more CPU time and loses nothing"
        );
    }
}

impl<'b> EgressBatch<'_, 'b> {
    /// Queues a copy of `payload` for each output of `rule`, sending what is queued whenever that is a full batch.
    pub fn queue(&mut self, ring: &mut Uring, rule: RuleIndex, payload: &'b [u8]) -> io::Result<()> {
        let outputs = self.egress.routes.get(rule.0 as usize).map_or(0, |route| route.len());
        for output in 0..outputs {
            if self.waiting.is_full() {
                self.send(ring)?;
            }
            self.wait(Origin { rule: rule.0, output: output as u32 }, payload);
        }
        Ok(())
    }

    fn wait(&mut self, origin: Origin, payload: &'b [u8]) {
        let Egress { outputs, routes } = &mut *self.egress;
        let place = routes[origin.rule as usize][origin.output as usize];
        let Some(output) = outputs.get_mut(place as usize) else { return };
        let at = self.waiting.len();
        self.waiting.push(Waiting { payload, origin, next: None });
        match &mut output.queue {
            Some(queue) => {
                self.waiting[queue.last].next = Some(at);
                queue.last = at;
            }
            queue => {
                *queue = Some(Queue { first: at, last: at });
                self.touched.push(place);
            }
        }
    }

    /// Sends what is queued, output by output, and counts what becomes of each copy.
    pub fn send(&mut self, ring: &mut Uring) -> io::Result<()> {
        let mut trains = Trains::new(&mut self.egress.outputs, self.counters);
        for place in self.touched.drain(..) {
            let mut next = trains.take_queue(place as usize);
            while let Some(waiting) = next.and_then(|at| self.waiting.get(at)) {
                trains.load(ring, place as usize, waiting.payload, waiting.origin)?;
                next = waiting.next;
            }
        }
        trains.send(ring)?;
        self.waiting.clear();
        Ok(())
    }
}
