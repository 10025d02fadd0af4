//! What the supervisor tells a worker, what a worker answers, and how both travel.
//!
//! A worker keeps what it was told as [`Order`]s. It can tell them to another supervisor, with their descriptors, when the one
//! that it had is gone.

mod mail;

use std::net::SocketAddr;
use std::time::Duration;

pub use mail::{Descriptor, Inbox, Outbox, Travels};
use serde::{Deserialize, Serialize};

use super::dedupe::{Leg, MAX_STREAMS};
use super::egress::{Hop, Key};
use super::packet_ring::Shape;
use crate::rules::{Dedupe, Rule};
use crate::stats::{MAX_INPUTS, MAX_OUTPUTS, MAX_RULES};
use crate::sys::udp_socket::EgressAddress;
use crate::wire::LinkLayer;

/// Version of these shapes. Supervisor and worker must have the same.
pub const PROTOCOL: u32 = 7;

/// How a worker receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Path {
    /// From `TPACKET_V3` rings.
    Blocks,
    /// From `TPACKET_V2` rings.
    Slots,
    /// By `recv`, as the kernel can best.
    Recv {
        /// How long frames may gather before a worker that has just relayed looks again; zero wakes it up for each.
        coalesce: Duration,
    },
    /// By `recv`, one operation for each frame, as on kernels before 6.0.
    RecvSingleShot,
}

/// What a worker is, from its begin to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its number among the workers, from 0.
    pub number: usize,
    /// How it receives.
    pub path: Path,
    /// How long it looks for frames before it sleeps.
    pub busy_poll: Duration,
    /// The CPU it is to run on.
    pub cpu: Option<usize>,
}

impl Task {
    /// A task in this version's shapes.
    pub fn new(number: usize, path: Path, busy_poll: Duration, cpu: Option<usize>) -> Self {
        Self { protocol: PROTOCOL, number, path, busy_poll, cpu }
    }
}

/// One thing that a worker is told. Places are the supervisor's choice; an order for a place where something is replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Begin; the first order, and only that. With the memory of the counters.
    Begin(Task),
    /// Receive. With a packet socket, which has a ring of that shape where there is one, and prefixes frames with a
    /// `virtio_net_hdr`.
    Input {
        /// What rules know it by, and where it is counted.
        place: u16,
        /// Name of the interface.
        interface: String,
        /// What its frames begin with.
        link_layer: LinkLayer,
        /// The ring, unless frames are received by `recv`.
        shape: Option<Shape>,
    },
    /// Relay what has been received there, and close it.
    EndInput {
        /// Its place.
        place: u16,
    },
    /// Have an output. With a UDP socket, which is connected unless the address is a range; where sources are kept, each has another one,
    /// and this one sends nothing.
    Output {
        /// What rules know it by.
        place: u32,
        /// Where it sends.
        address: EgressAddress,
        /// What it sends from, unless it keeps sources.
        own: Option<SocketAddr>,
        /// Whether datagrams may leave in trains.
        segment: bool,
    },
    /// Close an output.
    EndOutput {
        /// Its place.
        place: u32,
    },
    /// Relay by a rule.
    Rule {
        /// What it is known by, and where it is counted.
        place: u32,
        /// The rule.
        rule: Rule,
        /// The input it listens to; `None` where its interface is not there.
        input: Option<u16>,
        /// Where copies go, in the order of the rule's outputs.
        hops: Vec<Hop>,
        /// Of which stream it is a leg.
        leg: Option<Leg>,
    },
    /// Relay by that rule no more.
    EndRule {
        /// Its place.
        place: u32,
    },
    /// Have a stream. With the memory of its window.
    Stream {
        /// What legs know it by.
        place: u32,
        /// How its datagrams are told apart.
        dedupe: Dedupe,
    },
    /// Forget a stream.
    EndStream {
        /// Its place.
        place: u32,
    },
    /// Hold a descriptor, which comes with this. The kernel keeps what it stands for as long as anybody has it.
    Hold {
        /// What it is known by.
        place: u32,
    },
    /// Close what is held there.
    LetGo {
        /// Its place.
        place: u32,
    },
    /// Close all that is held.
    LetAllGo,
    /// Log from this level on, such as `info`.
    LogLevel(String),
    /// Send as this source, as was [`Answer::Wanted`]. With a connected UDP socket, which nobody else has.
    Sender(Key),
    /// There is no socket for that.
    NoSender {
        /// For what.
        key: Key,
        /// Why not; 0 where it is no error of the kernel's.
        errno: i32,
    },
    /// Answer [`Answer::Done`], now that everything before it is done.
    Answer(u64),
    /// End capture, relay what was captured before, and end.
    Drain,
}

impl Order {
    /// Whether there can be such places.
    pub fn is_possible(&self) -> bool {
        let within = |place: &u32, most| (*place as usize) < most;
        match self {
            Self::Input { place, .. } | Self::EndInput { place } => within(&u32::from(*place), MAX_INPUTS),
            Self::Output { place, .. }
            | Self::EndOutput { place }
            | Self::Sender(Key { output: place, .. })
            | Self::NoSender { key: Key { output: place, .. }, .. } => within(place, MAX_OUTPUTS),
            Self::Rule { place, input, hops, leg, .. } => {
                let outputs = hops.iter().flat_map(|hop| hop.output.iter().chain([&hop.counters]));
                within(place, MAX_RULES)
                    && leg.is_none_or(|leg| within(&leg.stream, MAX_STREAMS))
                    && input.is_none_or(|input| usize::from(input) < MAX_INPUTS)
                    && outputs.into_iter().all(|output| within(output, MAX_OUTPUTS))
            }
            Self::EndRule { place } => within(place, MAX_RULES),
            Self::Stream { place, .. } | Self::EndStream { place } => within(place, MAX_STREAMS),
            _ => true,
        }
    }
}

impl Travels for Order {
    fn has_descriptor(&self) -> bool {
        matches!(
            self,
            Self::Begin(_)
                | Self::Input { .. }
                | Self::Output { .. }
                | Self::Stream { .. }
                | Self::Hold { .. }
                | Self::Sender(_)
        )
    }
}

/// What a worker tells its supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To who has just connected and is not the first: what it was told by others.
    Told(Order),
    /// That was all.
    ToldAll,
    /// All orders before the one with this number are carried out, except those that it has refused.
    Done(u64),
    /// It cannot carry out an order, and goes on without.
    Refused {
        /// The interface that it was to receive on, if that was it.
        input: Option<String>,
        /// Which order, and why not.
        why: String,
    },
    /// A socket to send as this source, which comes as [`Order::Sender`] or [`Order::NoSender`].
    Wanted(Key),
    /// It ends, because of this.
    Failed(String),
}

impl Travels for Answer {
    fn has_descriptor(&self) -> bool {
        matches!(self, Self::Told(order) if order.has_descriptor())
    }
}
