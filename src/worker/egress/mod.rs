//! Egress: copies of a batch's payloads leave through UDP sockets, still borrowed from the batch. A socket is connected, unless its
//! output is for a range: then each copy brings its destination.
//!
//! An output has a lane that its copies leave by, or, where they keep their source, one for each source. Copies on one lane and to
//! one destination that follow each other and are of one size, and a shorter one behind them, leave as a train: one send, which the
//! kernel or the device cuts into datagrams again (`UDP_SEGMENT`, udp(7)). They keep the order in which they came: while a train may
//! still be refused, what is behind it waits. Only where a device begins to refuse what it took before, because its MTU shrank,
//! copies of one batch change places.

mod by_source;
mod lane;
mod mapping;
mod queues;
mod segmentation;
mod senders;
mod train;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use self::lane::{Destination, Lane, Lanes};
use self::queues::{Queue, Queues};
use self::senders::Senders;
pub use self::senders::{Key, MAX_SENDERS, PATIENCE};
use self::train::Trains;
use crate::rules::{Dscp, RuleIndex, TimeToLive};
use crate::stats::{Counters, MAX_OUTPUTS, MAX_RULES, SendFailure};
use crate::sys::udp_socket::{DSCP_SHIFT, EgressAddress};
use crate::sys::uring::{IpHeader, Uring};

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
    /// Where copies bring their destination: what is added to a datagram's port to make that of its copies, modulo 2 to the power
    /// of 16; without it they have the output's first one.
    pub port_shift: Option<u16>,
}

/// What a datagram had in its headers when it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The byte of differentiated services code point and ECN.
    pub traffic_class: u8,
    /// Source address and port.
    pub source: SocketAddr,
    /// Where it was sent to.
    pub destination: IpAddr,
    /// UDP port that it was sent to.
    pub destination_port: u16,
}

impl Hop {
    /// One whose copies are as the output's socket says.
    pub fn new(output: Option<u32>, counters: u32) -> Self {
        Self { output, counters, ttl: TimeToLive::DEFAULT, dscp: Dscp::DEFAULT, port_shift: None }
    }

    /// What a copy says of its own; none when its time to live is spent.
    fn header(&self, arrived: &Arrived) -> Option<IpHeader> {
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
    lanes: Lanes,
    /// What copies wait in.
    queues: Queues,
    /// Of outputs whose copies keep their source, and how many such outputs there are.
    senders: Senders,
    outputs_by_source: usize,
    routes: Vec<Box<[Hop]>>,
}

/// Where copies leave.
#[derive(Debug)]
struct Output {
    /// What the supervisor has opened for it.
    socket: Arc<OwnedFd>,
    through: Through,
}

/// What copies of an output leave by.
#[derive(Debug)]
enum Through {
    /// The lane at this place.
    One(usize),
    /// A lane for each source, which leads there.
    BySource(Rc<Destination>),
}

/// What is said of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label {
    /// Place of what is counted for it.
    counters: u32,
    header: IpHeader,
    /// Where it goes; else where its lane leads.
    destination: Option<SocketAddr>,
}

/// A copy that waits to be sent.
struct Waiting<'b> {
    payload: &'b [u8],
    label: Label,
    /// The next one in the same queue.
    next: Option<usize>,
}

/// Copies that wait to be sent, none of which outlives the batch `'b` that its payload is borrowed from.
pub struct EgressBatch<'a, 'b> {
    egress: &'a mut Egress,
    counters: &'a Counters,
    /// In the order they came.
    waiting: ArrayVec<Waiting<'b>, COPIES>,
}

impl Egress {
    /// Puts an output that sends through `socket`, which was opened for `address`, at `place`, where there is none. Without
    /// `segment` each datagram is sent by itself. Where `address` says that sources are kept, each has a socket of its own:
    /// see [`Egress::ask`].
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
        let (socket, to) = (Arc::new(socket), Destination::new(address, segment));
        let slot = slot(&mut self.outputs, place, MAX_OUTPUTS)?;
        if to.mapping.is_some() {
            self.queues.reserve();
        }
        let through = if address.preserve {
            self.outputs_by_source += 1;
            Through::BySource(to)
        } else {
            Through::One(self.lanes.open(Lane::new(&to, Arc::clone(&socket))))
        };
        *slot = Some(Output { socket, through });
        Ok(())
    }

    /// Closes the output at `place`. What waits for it is counted as not sent.
    pub fn remove_output(&mut self, place: u32, counters: &Counters) {
        match self.outputs.get_mut(place as usize).and_then(Option::take).map(|output| output.through) {
            Some(Through::One(lane)) => self.lanes.close(lane),
            Some(Through::BySource(_)) => {
                self.outputs_by_source -= 1;
                self.end_senders(place, counters);
            }
            None => {}
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
        EgressBatch { egress: self, counters, waiting: ArrayVec::new() }
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
            self.wait(self.egress.routes[rule.0 as usize][hop], payload, &arrived);
        }
        Ok(())
    }

    /// Sends nothing to the outputs of `rule`, because of `failure`.
    pub fn leave_out(&mut self, rule: RuleIndex, failure: SendFailure) {
        for hop in self.egress.routes.get(rule.0 as usize).into_iter().flatten() {
            self.counters.not_sent(hop.counters, failure);
        }
    }

    fn wait(&mut self, hop: Hop, payload: &'b [u8], arrived: &Arrived) {
        let place = hop.output.unwrap_or(u32::MAX);
        let Some(Some(output)) = self.egress.outputs.get(place as usize) else {
            return self.counters.not_sent(hop.counters, SendFailure::InterfaceDown);
        };
        let Some(header) = hop.header(arrived) else {
            return self.counters.not_sent(hop.counters, SendFailure::TtlSpent);
        };
        match &output.through {
            Through::One(lane) => {
                let lane = *lane;
                let mapping = self.egress.lanes.get(lane).and_then(Lane::mapping);
                let destination = mapping.map(|mapping| mapping.destination(arrived, hop.port_shift));
                self.enqueue(lane, payload, Label { counters: hop.counters, header, destination });
            }
            Through::BySource(to) => {
                let destination = to.mapping.map(|mapping| mapping.destination(arrived, hop.port_shift));
                let key = Key { output: place, source: arrived.source };
                self.wait_by_source(key, payload, Label { counters: hop.counters, header, destination });
            }
        }
    }

    /// Puts a copy behind those that wait for the lane at this place and go to the same destination. There must be room.
    fn enqueue(&mut self, place: usize, payload: &'b [u8], label: Label) {
        let Egress { lanes, queues: Queues { all, by_destination }, .. } = &mut *self.egress;
        let Some(lane) = lanes.get_mut(place) else { return };
        let at = self.waiting.len();
        self.waiting.push(Waiting { payload, label, next: None });
        let Label { destination, .. } = label;
        let queue = match destination {
            None => lane.queue,
            Some(destination) => by_destination.get(&(place, destination)).copied(),
        };
        if let Some(queue) = queue.and_then(|queue| all.get_mut(queue)) {
            self.waiting[queue.last].next = Some(at);
            queue.last = at;
            return;
        }
        match destination {
            None => lane.queue = Some(all.len()),
            Some(destination) => _ = by_destination.insert((place, destination), all.len()),
        }
        all.push(Queue { lane: place, destination, first: at, last: at });
    }

    /// Sends what is queued, queue by queue, and counts what becomes of each copy.
    pub fn send(&mut self, ring: &mut Uring) -> io::Result<()> {
        // A turn with many copies takes long, and is no hang.
        self.counters.turns().add(1);
        let Egress { lanes, queues: Queues { all, by_destination }, .. } = &mut *self.egress;
        by_destination.clear();
        for queue in &*all {
            if let Some(lane) = lanes.get_mut(queue.lane) {
                lane.queue = None;
            }
        }
        let mut trains = Trains::new(lanes, all, self.counters);
        for (place, queue) in all.iter().enumerate() {
            let mut next = Some(queue.first);
            while let Some(waiting) = next.and_then(|at| self.waiting.get(at)) {
                trains.load(ring, place, waiting)?;
                next = waiting.next;
            }
        }
        trains.send(ring)?;
        all.clear();
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    impl Arrived {
        /// What came from nobody for nobody.
        pub(super) fn nowhere() -> Self {
            let destination = Ipv4Addr::UNSPECIFIED.into();
            let source = SocketAddr::new(destination, 0);
            Self { ttl: 64, traffic_class: 0, source, destination, destination_port: 0 }
        }
    }

    #[test]
    fn a_copy_has_of_its_own_what_its_socket_cannot_say() {
        let header = |ttl, dscp, arrived| Hop { ttl, dscp, ..Hop::new(None, 0) }.header(&arrived);
        let arrived = |ttl| Arrived { ttl, traffic_class: 0xbb, ..Arrived::nowhere() };
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
