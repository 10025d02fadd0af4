//! What copies of a batch wait in until they are sent: a queue for each lane, and for each destination where copies bring it.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::COPIES;

/// Copies for one destination, in the order in which they came: a chain through those that wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Place of the lane.
    pub(super) lane: usize,
    /// Where they go; else where the lane's socket is connected to.
    pub(super) destination: Option<SocketAddr>,
    /// Places of the first and the last one.
    pub(super) first: usize,
    pub(super) last: usize,
}

/// The queues of a batch. Their memory is kept for the next one.
#[derive(Debug)]
pub(super) struct Queues {
    /// In the order in which they were begun: at most as many as there are copies.
    pub(super) all: Vec<Queue>,
    /// The places of those that have a destination; the others their lanes know. A fast hash is safe here: a sender can choose among
    /// the destinations of a rule, and there are at most [`COPIES`].
    pub(super) by_destination: HashMap<(usize, SocketAddr), usize, foldhash::fast::RandomState>,
}

impl Default for Queues {
    fn default() -> Self {
        Self { all: Vec::with_capacity(COPIES), by_destination: HashMap::default() }
    }
}

impl Queues {
    /// Makes room, so that no copy has to.
    pub(super) fn reserve(&mut self) {
        self.by_destination.reserve(COPIES);
    }
}
