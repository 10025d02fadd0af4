//! Trains of copies on their way into the kernel, and what becomes of them.

use std::io::{self, IoSlice};
use std::ops::Range;

use arrayvec::ArrayVec;

use super::lane::Lanes;
use super::segmentation::{MAX_SEGMENTS, is_for_being_a_train, is_for_want_of_room};
use super::{COPIES, Waiting};
use crate::stats::{Counters, SendFailure};
use crate::sys::uring::{IpHeader, SEND_BATCH, Uring};

/// Copies that leave with one send.
#[derive(Clone)]
struct Train {
    /// Place of the lane.
    lane: usize,
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
    lanes: &'a mut Lanes,
    counters: &'a Counters,
    payloads: ArrayVec<IoSlice<'b>, COPIES>,
    /// For each of them, the place of what is counted for it.
    places: ArrayVec<u32, COPIES>,
    formed: ArrayVec<Train, SEND_BATCH>,
}

impl<'a, 'b> Trains<'a, 'b> {
    pub(super) fn new(lanes: &'a mut Lanes, counters: &'a Counters) -> Self {
        let (payloads, places, formed) = Default::default();
        Self { lanes, counters, payloads, places, formed }
    }

    /// The first of the copies that wait for the lane at place `lane`; its queue is empty from then on.
    pub(super) fn take_queue(&mut self, lane: usize) -> Option<usize> {
        self.lanes.get_mut(lane)?.queue.take().map(|queue| queue.first)
    }

    /// Puts a copy for the lane at place `lane` behind those that are loaded. At most [`COPIES`] until all are sent.
    pub(super) fn load(&mut self, ring: &mut Uring, lane: usize, copy: &Waiting<'b>) -> io::Result<()> {
        let Waiting { payload, counters, header, .. } = *copy;
        if !self.extend(lane, payload.len(), header) {
            if self.formed.is_full() || self.last_is_a_trial(lane) {
                self.send(ring)?;
            }
            let first = self.payloads.len();
            let (size, copies) = (payload.len(), first..first + 1);
            self.formed.push(Train { lane, size, header, copies, errno: None });
        }
        self.payloads.push(IoSlice::new(payload));
        self.places.push(counters);
        Ok(())
    }

    /// Makes the last train longer, if a copy of `len` bytes for `lane` can be part of it.
    fn extend(&mut self, lane: usize, len: usize, header: IpHeader) -> bool {
        let (Some(last), Some(to)) = (self.formed.last_mut(), self.lanes.get(lane)) else {
            return false;
        };
        let is_open = self.payloads.last().is_some_and(|copy| copy.len() == last.size);
        let takes = || to.segmentation().takes(last.size, last.copies.len(), len);
        let extends = last.lane == lane && last.header == header && is_open && takes();
        last.copies.end += usize::from(extends);
        extends
    }

    /// Whether the last train may be refused: its copies then leave later, and what comes after it on the same lane has to wait
    /// for that.
    fn last_is_a_trial(&self, lane: usize) -> bool {
        let (Some(last), Some(to)) = (self.formed.last(), self.lanes.get(lane)) else {
            return false;
        };
        last.lane == lane && !last.is_single() && to.may_refuse(last.size)
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
        let Self { lanes, payloads, formed, .. } = self;
        let mut sends = ArrayVec::<_, SEND_BATCH>::new();
        // A train is formed for a lane that is there, and as long as this borrows the lanes none goes.
        let sent = formed.iter().filter_map(|train| Some((train, lanes.get(train.lane)?)));
        sends.extend(
            sent.map(|(train, lane)| lane.send_of(&payloads[train.copies.clone()], train.size, train.header)),
        );
        ring.send_all(&sends, |place, result| formed[place].errno = result.err())
    }

    /// Counts a train that was handed over. One that was refused, though not for want of room, is sent again: it may have
    /// met the error of an earlier datagram, which the kernel tells once, at the next send (`sock_error`,
    /// `include/net/sock.h`).
    fn settle(&mut self, ring: &mut Uring, place: usize) -> io::Result<()> {
        let mut train = self.formed[place].clone();
        if train.is_single() {
            self.count(train.copies.start, train.errno);
            return Ok(());
        }
        let Some(lane) = self.lanes.get(train.lane) else { return Ok(()) };
        if train.errno.is_some_and(|errno| !is_for_want_of_room(errno)) {
            let again = lane.send_of(&self.payloads[train.copies.clone()], train.size, train.header);
            ring.send_all(&[again], |_, result| train.errno = result.err())?;
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
        let Some(lane) = self.lanes.get(train.lane) else { return Ok(()) };
        let mut sends = ArrayVec::<_, MAX_SEGMENTS>::new();
        for payload in self.payloads[train.copies.clone()].chunks(1) {
            sends.push(lane.send_of(payload, train.size, train.header));
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
