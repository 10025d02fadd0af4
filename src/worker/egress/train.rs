//! Trains of copies on their way into the kernel, and what becomes of them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::lane::{Lane, Lanes};
use super::queues::Queue;
use super::segmentation::{MAX_SEGMENTS, is_for_being_a_train, is_for_want_of_room};
use super::{COPIES, Label, Waiting};
use crate::stats::{Counters, SendFailure};
use crate::sys::uring::{IpHeader, SEND_BATCH, Uring};

/// How often what was refused is sent again where that may be for the answer to what went to somebody else: another one may answer
/// meanwhile.
const ANSWERS_MET: usize = 3;

/// Copies that leave with one send.
#[derive(Clone)]
struct Train {
    /// Place of the queue.
    queue: usize,
    /// Bytes of each copy; the last one may have less.
    size: usize,
    header: IpHeader,
    /// Places of the copies.
    copies: Range<usize>,
    /// Why it has not left, when it was tried.
    errno: Option<i32>,
}

impl Train {
    fn is_single(&self) -> bool {
        self.copies.len() == 1
    }
}

/// Copies in the order they leave.
pub(super) struct Trains<'a, 'b> {
    lanes: &'a Lanes,
    queues: &'a [Queue],
    counters: &'a Counters,
    payloads: ArrayVec<IoSlice<'b>, COPIES>,
    /// For each of them, the place of what is counted for it.
    places: ArrayVec<u32, COPIES>,
    formed: ArrayVec<Train, SEND_BATCH>,
}

impl<'a, 'b> Trains<'a, 'b> {
    pub(super) fn new(lanes: &'a Lanes, queues: &'a [Queue], counters: &'a Counters) -> Self {
        let (payloads, places, formed) = Default::default();
        Self { lanes, queues, counters, payloads, places, formed }
    }

    /// Puts a copy of the queue at place `queue` behind those that are loaded. At most [`COPIES`] until all are sent.
    pub(super) fn load(&mut self, ring: &mut Uring, queue: usize, copy: &Waiting<'b>) -> io::Result<()> {
        let Waiting { payload, label: Label { counters, header, .. }, .. } = *copy;
        if !self.extend(queue, payload.len(), header) {
            if self.formed.is_full() || self.last_is_a_trial(queue) {
                self.send(ring)?;
            }
            let first = self.payloads.len();
            let (size, copies) = (payload.len(), first..first + 1);
            self.formed.push(Train { queue, size, header, copies, errno: None });
        }
        self.payloads.push(IoSlice::new(payload));
        self.places.push(counters);
        Ok(())
    }

    /// The lane of the queue at place `queue`, and where its copies go.
    fn way(&self, queue: usize) -> Option<(&'a Lane, Option<SocketAddr>)> {
        let Queue { lane, destination, .. } = self.queues.get(queue)?;
        Some((self.lanes.get(*lane)?, *destination))
    }

    /// Makes the last train longer, if a copy of `len` bytes of `queue` can be part of it.
    fn extend(&mut self, queue: usize, len: usize, header: IpHeader) -> bool {
        let way = self.way(queue);
        let (Some(last), Some((lane, _))) = (self.formed.last_mut(), way) else { return false };
        let is_open = self.payloads.last().is_some_and(|copy| copy.len() == last.size);
        let takes = || lane.segmentation().takes(last.size, last.copies.len(), len);
        let extends = last.queue == queue && last.header == header && is_open && takes();
        last.copies.end += usize::from(extends);
        extends
    }

    /// Whether the last train may be refused: its copies then leave later, and what comes after it in the same queue has to wait
    /// for that.
    fn last_is_a_trial(&self, queue: usize) -> bool {
        let (Some(last), Some((lane, _))) = (self.formed.last(), self.way(queue)) else { return false };
        let is_tried = !last.is_single() || lane.meets_answers_of_others();
        last.queue == queue && is_tried && lane.may_refuse(last.size)
    }

    /// Sends what is loaded and counts what becomes of each copy. A train that fails never holds up another lane's.
    pub(super) fn send(&mut self, ring: &mut Uring) -> io::Result<()> {
        self.hand_over(ring)?;
        for place in 0..self.formed.len() {
            self.settle(ring, place)?;
        }
        self.formed.clear();
        self.payloads.clear();
        self.places.clear();
        Ok(())
    }

    /// Gives the kernel all trains at once.
    fn hand_over(&mut self, ring: &mut Uring) -> io::Result<()> {
        let mut sends = ArrayVec::<_, SEND_BATCH>::new();
        // A train is formed for a lane that is there, and as long as this borrows the lanes none goes.
        let sent = self.formed.iter().filter_map(|train| Some((train, self.way(train.queue)?)));
        sends.extend(sent.map(|(train, (lane, destination))| {
            lane.send_of(&self.payloads[train.copies.clone()], train.size, train.header, destination)
        }));
        let formed = &mut self.formed;
        ring.send_all(&sends, |place, result| formed[place].errno = result.err())
    }

    /// Counts a train that was handed over. One that was refused, though not for want of room, is sent again: it may have
    /// met the error of an earlier datagram, which the kernel tells once, at the next send (`sock_error`,
    /// `include/net/sock.h`). So is a single copy where that may have been a datagram to somebody else.
    fn settle(&mut self, ring: &mut Uring, place: usize) -> io::Result<()> {
        let mut train = self.formed[place].clone();
        let Some((lane, destination)) = self.way(train.queue) else { return Ok(()) };
        let again = match (lane.meets_answers_of_others(), train.is_single()) {
            (true, _) => ANSWERS_MET,
            (false, is_single) => usize::from(!is_single),
        };
        for _ in 0..again {
            if train.errno.is_none_or(is_for_want_of_room) {
                break;
            }
            let copies = &self.payloads[train.copies.clone()];
            let again = lane.send_of(copies, train.size, train.header, destination);
            ring.send_all(&[again], |_, result| train.errno = result.err())?;
        }
        if train.is_single() {
            self.count(train.copies.start, train.errno);
            return Ok(());
        }
        match train.errno {
            None => lane.succeeded(train.size),
            Some(errno) if is_for_being_a_train(errno) => {
                lane.failed(train.size, errno);
                return self.send_one_by_one(ring, &train);
            }
            Some(_) => {}
        }
        train.copies.for_each(|at| self.count(at, train.errno));
        Ok(())
    }

    fn send_one_by_one(&self, ring: &mut Uring, train: &Train) -> io::Result<()> {
        let Some((lane, destination)) = self.way(train.queue) else { return Ok(()) };
        let mut sends = ArrayVec::<_, MAX_SEGMENTS>::new();
        for payload in self.payloads[train.copies.clone()].chunks(1) {
            sends.push(lane.send_of(payload, train.size, train.header, destination));
        }
        ring.send_all(&sends, |place, result| self.count(train.copies.start + place, result.err()))
    }

    /// Counts the copy at place `at`, which has left or failed with an errno.
    fn count(&self, at: usize, errno: Option<i32>) {
        let Some(counters) = self.places.get(at).and_then(|place| self.counters.output(*place as usize))
        else {
            return;
        };
        match errno {
            None => {
                counters.relayed().add(1);
                counters.bytes().add(self.payloads[at].len() as u64);
            }
            Some(errno) => counters.dropped().add(SendFailure::from_errno(errno), 1),
        }
    }
}
