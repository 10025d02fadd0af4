//! The count of a sink, by whatever the datagrams of its plan can be told apart.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::datagram::Kind;
use crate::plan::Plan;
use crate::tally::{Arrival, OpenTally, RecordedTally, Tally};

/// See the tallies for what each does.
#[derive(Debug)]
pub(super) enum Count {
    /// By the numbers that the lab has written into them.
    Numbered(OpenTally),
    /// By their bytes, which were recorded.
    Recorded(RecordedTally),
}

impl Count {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        match &plan.replay {
            None => Self::Numbered(OpenTally::new(plan)),
            Some(replay) => Self::Recorded(RecordedTally::new(plan, &replay.recording)),
        }
    }

    /// The tally of datagrams with numbers, for who reads these himself.
    pub(super) fn numbered(&mut self) -> Option<&mut OpenTally> {
        match self {
            Self::Numbered(tally) => Some(tally),
            Self::Recorded(_) => None,
        }
    }

    pub(super) fn arrive(
        &mut self,
        delivered: SocketAddr,
        payload: &[u8],
        headers_whole: bool,
        during: Kind,
    ) -> Arrival {
        match self {
            Self::Numbered(tally) => tally.arrive(delivered, payload, headers_whole, during),
            Self::Recorded(tally) => tally.arrive(delivered, payload, headers_whole, during),
        }
    }

    pub(super) fn arrive_foreign(&mut self, delivered: SocketAddr) -> Arrival {
        match self {
            Self::Numbered(tally) => tally.arrive_foreign(delivered),
            Self::Recorded(tally) => tally.arrive_foreign(delivered),
        }
    }

    pub(super) fn arrive_for_another(&mut self, delivered: SocketAddr, payload: &[u8]) -> Arrival {
        match self {
            Self::Numbered(tally) => tally.arrive_for_another(delivered, payload),
            Self::Recorded(tally) => tally.arrive_for_another(delivered, payload),
        }
    }

    /// Closes the count. `link_down` are global sequences that were offered while a link on the way was down: none of a
    /// recording, beside which nothing happens.
    pub(super) fn close(self, link_down: &[Range<u64>]) -> Tally {
        match self {
            Self::Numbered(mut tally) => {
                tally.while_link_down(link_down);
                tally.close()
            }
            Self::Recorded(tally) => tally.close(),
        }
    }
}
