//! Egress: copies of a batch's payloads leave through connected UDP sockets, still borrowed from the batch.
//!
//! Copies to one output that follow each other and are of one size, and a shorter one behind them, leave as a train: one
//! send, which the kernel or the device cuts into datagrams again (`UDP_SEGMENT`, udp(7)). Each output keeps the order in
//! which its copies came: while a train may still be refused, what is behind it waits. Only where a device begins to refuse
//! what it took before, because its MTU shrank, copies of one batch change places.

mod segmentation;
mod train;

use std::io::{self, IoSlice};
use std::num::{NonZeroU8, NonZeroU16};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use self::segmentation::Segmentation;
use self::train::Trains;
use crate::rules::{Dscp, RuleIndex, TimeToLive};
use crate::stats::{Counters, MAX_OUTPUTS, MAX_RULES, SendFailure};
use crate::sys::udp_socket::{DSCP_SHIFT, EgressAddress};
use crate::sys::uring::{IpHeader, Send, Uring};

/// Most copies that wait before they are sent: enough for long trains to several outputs at once.
const COPIES: usize = 1_024;

/// Where copies of a rule's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Place of the output; `None` where its interface is not there, so that copies are dropped as `interface_down`.
    pub output: Option<u32>,
    /// Place of what is counted for it.
    pub counters: u32,
    /// Time to live of the copies. The output's socket gives a fixed one.
    pub ttl: TimeToLive,
    /// Their differentiated services code point. The output's socket gives a fixed one.
    pub dscp: Dscp,
}

/// What a datagram had in its IP header when it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The byte of differentiated services code point and ECN.
    pub traffic_class: u8,
}

impl Hop {
    /// One whose copies are as the output's socket says.
    pub fn new(output: Option<u32>, counters: u32) -> Self {
        Self { output, counters, ttl: TimeToLive::DEFAULT, dscp: Dscp::DEFAULT }
    }

    /// What a copy says of its own; none when its time to live is spent.
    fn header(&self, arrived: Arrived) -> Option<IpHeader> {
        let ttl = match self.ttl {
            TimeToLive::Fixed(_) => None,
            TimeToLive::Keep => Some(NonZeroU8::new(arrived.ttl)?),
            TimeToLive::Decrement => Some(NonZeroU8::new(arrived.ttl.saturating_sub(1))?),
        };
        let traffic_class = match self.dscp {
            Dscp::Fixed(_) => None,
            // A copy begins a way of its own, on which congestion is to be told anew.
            Dscp::Keep => Some(arrived.traffic_class >> DSCP_SHIFT << DSCP_SHIFT),
        };
        Some(IpHeader { ttl, traffic_class })
    }
}

/// The outputs of a worker, and which of them each rule sends through, by places that others choose.
#[derive(Debug, Default)]
pub struct Egress {
    outputs: Vec<Option<Output>>,
    routes: Vec<Box<[Hop]>>,
}

/// Where copies leave.
#[derive(Debug)]
struct Output {
    /// As `GROUP:PORT:IF`, for messages.
    name: String,
    /// A connected UDP socket.
    socket: Arc<OwnedFd>,
    is_ipv4: bool,
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
    /// Place of what is counted for it.
    counters: u32,
    header: IpHeader,
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
    /// Puts an output that sends through `socket`, a UDP socket connected to `address`, at `place`. Without `segment` each datagram
    /// is sent by itself.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such place.
    pub fn set_output(
        &mut self,
        place: u32,
        address: &EgressAddress,
        socket: OwnedFd,
        segment: bool,
    ) -> io::Result<()> {
        let (name, is_answered) = (address.to_string(), address.is_answered());
        let segmentation = Segmentation::new(segment);
        let is_ipv4 = address.destination.is_ipv4();
        let socket = Arc::new(socket);
        let output = Output { name, socket, is_ipv4, is_answered, segmentation, queue: None };
        *slot(&mut self.outputs, place, MAX_OUTPUTS)? = Some(output);
        Ok(())
    }

    /// Closes the output at `place`.
    pub fn remove_output(&mut self, place: u32) {
        if let Some(output) = self.outputs.get_mut(place as usize) {
            *output = None;
        }
    }

    /// The socket of the output at `place`.
    pub fn socket(&self, place: u32) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.outputs.get(place as usize)?.as_ref()?.socket))
    }

    /// Has the rule at `rule` send over `hops`: none takes the rule away.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such place.
    pub fn set_route(&mut self, rule: RuleIndex, hops: &[Hop]) -> io::Result<()> {
        *slot(&mut self.routes, rule.0, MAX_RULES)? = hops.into();
        Ok(())
    }

    /// Begins a batch of copies.
    pub fn begin<'a, 'b>(&'a mut self, counters: &'a Counters) -> EgressBatch<'a, 'b> {
        EgressBatch { egress: self, counters, waiting: ArrayVec::new(), touched: ArrayVec::new() }
    }
}

/// What is at `place`, of at most `most`.
fn slot<T: Default>(slots: &mut Vec<T>, place: u32, most: usize) -> io::Result<&mut T> {
    let place = place as usize;
    if place >= slots.len() && place < most {
        slots.resize_with(place + 1, T::default);
    }
    slots.get_mut(place).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Output {
    /// What the kernel is told of `copies` that leave together: of `size` bytes each, but for the last one.
    fn send_of<'a>(&'a self, copies: &'a [IoSlice<'a>], size: usize, header: IpHeader) -> Send<'a> {
        let segment_size = if copies.len() > 1 { NonZeroU16::new(size as u16) } else { None };
        let (socket, is_ipv4) = (self.socket.as_fd(), self.is_ipv4);
        Send { socket, is_ipv4, header, payloads: copies, segment_size }
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
    /// Queues a copy of `payload`, which came in as `arrived`, for each output of `rule`, sending what is queued whenever that
    /// is a full batch.
    pub fn queue(
        &mut self,
        ring: &mut Uring,
        rule: RuleIndex,
        payload: &'b [u8],
        arrived: Arrived,
    ) -> io::Result<()> {
        let hops = self.egress.routes.get(rule.0 as usize).map_or(0, |hops| hops.len());
        for hop in 0..hops {
            if self.waiting.is_full() {
                self.send(ring)?;
            }
            self.wait(self.egress.routes[rule.0 as usize][hop], payload, arrived);
        }
        Ok(())
    }

    /// Sends nothing to the outputs of `rule`, because of `failure`.
    pub fn leave_out(&mut self, rule: RuleIndex, failure: SendFailure) {
        for hop in self.egress.routes.get(rule.0 as usize).into_iter().flatten() {
            self.counters.not_sent(hop.counters, failure);
        }
    }

    fn wait(&mut self, hop: Hop, payload: &'b [u8], arrived: Arrived) {
        let place = hop.output.unwrap_or(u32::MAX);
        let Some(Some(output)) = self.egress.outputs.get_mut(place as usize) else {
            return self.counters.not_sent(hop.counters, SendFailure::InterfaceDown);
        };
        let Some(header) = hop.header(arrived) else {
            return self.counters.not_sent(hop.counters, SendFailure::TtlSpent);
        };
        let at = self.waiting.len();
        self.waiting.push(Waiting { payload, counters: hop.counters, header, next: None });
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
        // A turn with many copies takes long, and is no hang.
        self.counters.turns().add(1);
        let mut trains = Trains::new(&mut self.egress.outputs, self.counters);
        for place in self.touched.drain(..) {
            let mut next = trains.take_queue(place as usize);
            while let Some(waiting) = next.and_then(|at| self.waiting.get(at)) {
                trains.load(ring, place as usize, waiting)?;
                next = waiting.next;
            }
        }
        trains.send(ring)?;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_of_its_own_what_its_socket_cannot_say() {
        let header = |ttl, dscp, arrived| Hop { ttl, dscp, ..Hop::new(None, 0) }.header(arrived);
        let arrived = |ttl| Arrived { ttl, traffic_class: 0xbb };
        let ttl = |ttl| IpHeader { ttl: NonZeroU8::new(ttl), traffic_class: None };
        let (fixed, best_effort) = (TimeToLive::Fixed(9), Dscp::Fixed(0));
        assert_eq!(header(fixed, Dscp::Fixed(46), arrived(1)), Some(IpHeader::OF_SOCKET));
        assert_eq!(header(TimeToLive::Keep, best_effort, arrived(1)), Some(ttl(1)));
        assert_eq!(header(TimeToLive::Keep, best_effort, arrived(0)), None, "nothing leaves with 0");
        assert_eq!(header(TimeToLive::Decrement, best_effort, arrived(255)), Some(ttl(254)));
        assert_eq!(header(TimeToLive::Decrement, best_effort, arrived(1)), None);
        assert_eq!(header(TimeToLive::Decrement, best_effort, arrived(0)), None);
        let kept = IpHeader { ttl: None, traffic_class: Some(0xb8) };
        assert_eq!(header(fixed, Dscp::Keep, arrived(1)), Some(kept), "without ECN");
    }
}
