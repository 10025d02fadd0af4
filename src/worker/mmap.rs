//! The mmap path: packet rings, read in place.
//!
//! A worker that has nothing to do waits for its rings and for everything else in the same `io_uring_enter`, by
//! `IORING_OP_POLL_ADD`; one that has does not ask. Waiting by `poll(2)` instead was measured at 100,000 frames per
//! second and costs the same (V3 4.8 µs per frame each way, V2 6.9 against 7.0), so there is one wait and not two.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::packet_ring::frames::{Broken, RingFrame};
use super::packet_ring::{Lent, Position, Ring};
use super::places::Places;
use super::receiver::{self, Batch, Frame, ReceiveError, Receiver, Source};
use crate::rules::InputIndex;
use crate::stats::{Cause, Counters, InputCounters};
use crate::sys::packet_socket;
use crate::sys::uring::{Completion, Token, Uring};
use crate::wire::LinkLayer;

/// How many workers may die over the same frames before they are given up.
const MOST_DEATHS: u64 = 3;

/// The mmap path over the packet rings of one worker.
pub(super) struct Mmap<'a, R> {
    inputs: Places<RingInput<R>>,
    /// The input that may lend next: they take turns.
    turn: usize,
    counters: &'a Counters,
}

struct RingInput<R> {
    name: String,
    link_layer: LinkLayer,
    ring: R,
    /// Whether a poll is in flight.
    armed: bool,
    /// Whether what is lent next is lent again, in place of a worker that died over it.
    again: bool,
}

impl<'a, R: Ring> Mmap<'a, R> {
    pub(super) fn new(counters: &'a Counters) -> Self {
        Self { inputs: Places::default(), turn: 0, counters }
    }
}

impl<R: Ring> Receiver for Mmap<'_, R> {
    type Batch<'b>
        = RingBatch<'b, R::Lent<'b>>
    where
        Self: 'b;

    fn add(&mut self, place: InputIndex, source: Source, socket: OwnedFd) -> io::Result<()> {
        let Source { name, link_layer, shape } = source;
        let mut ring = R::map(socket, shape.ok_or(io::ErrorKind::InvalidInput)?)?;
        let counters = self.counters.input(place.0.into()).ok_or(io::ErrorKind::InvalidInput)?;
        let lent = ring.resume(Position::from_word(counters.position().get())) as u64;
        // Of what is lent again, the frames that had been counted already. Of a block that may be all of them.
        let counted = counters.frames().get().saturating_sub(counters.frames_before().get());
        let mut again = lent > 0;
        if again {
            counters.taken_again().add(if R::LENDS_FRAMES { counted.min(lent) } else { counted });
            // A worker that dies before it lends them leaves nothing to be counted once more.
            counters.frames_before().set(counters.frames().get());
            again = !give_up_what_kills(&mut ring, counters, &name);
        }
        self.inputs.set(place.0, RingInput { name, link_layer, ring, armed: false, again });
        Ok(())
    }

    fn remove(&mut self, place: InputIndex, ring: &mut Uring) -> io::Result<()> {
        match self.inputs.take(place.0) {
            Some(input) if input.armed => ring.cancel(input.ring.socket(), Token::Receive(place.0)),
            _ => Ok(()),
        }
    }

    fn socket(&self, place: InputIndex) -> Option<BorrowedFd<'_>> {
        self.inputs.get(place.0).map(|input| input.ring.socket())
    }

    fn is_ready(&self) -> bool {
        self.inputs.iter().any(|(_, input)| input.ring.is_ready())
    }

    fn arm(&mut self, ring: &mut Uring, sleep: bool) -> io::Result<()> {
        if !sleep {
            return Ok(());
        }
        for (place, input) in self.inputs.iter_mut().filter(|(_, input)| !input.armed) {
            ring.poll(input.ring.socket(), false, Token::Receive(place))?;
            input.armed = true;
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<(), ReceiveError> {
        let Token::Receive(number) = completion.token else { return Ok(()) };
        let Some(input) = self.inputs.get_mut(number) else { return Ok(()) };
        input.armed = false;
        let errno = match completion.result {
            Ok(events) if events & libc::POLLERR as usize == 0 => return Ok(()),
            // Taking the error clears it: the socket would be readable for its sake for ever.
            Ok(_) => packet_socket::take_error(input.ring.socket())
                .unwrap_or_else(Some)
                .and_then(|e| e.raw_os_error()),
            Err(errno) => Some(errno),
        };
        errno.map_or(Ok(()), |errno| receiver::failed(InputIndex(number), &input.name, errno))
    }

    fn lend(&mut self) -> Option<RingBatch<'_, R::Lent<'_>>> {
        let place = self.inputs.find_from(self.turn, |input| input.ring.is_ready())?;
        self.turn = usize::from(place) + 1;
        let RingInput { ring, link_layer, again, .. } = self.inputs.get_mut(place)?;
        let lent = ring.lend()?;
        let counters = self.counters.input(place.into())?;
        if lent.follows_loss() {
            counters.follows_loss().add(1);
        }
        let (now, after) = lent.positions();
        counters.frames_before().set(counters.frames().get());
        counters.position().set(now.to_word());
        let (input, link_layer, again) = (InputIndex(place), *link_layer, std::mem::take(again));
        Some(RingBatch { input, link_layer, lent: Some(lent), after, again, counters })
    }

    fn places(&self) -> Vec<InputIndex> {
        self.inputs.iter().map(|(place, _)| InputIndex(place)).collect()
    }

    fn is_drained(&self, place: InputIndex) -> io::Result<bool> {
        Ok(self.inputs.get(place.0).is_none_or(|input| input.ring.is_drained()))
    }
}

/// What one ring lends.
pub(super) struct RingBatch<'a, L> {
    input: InputIndex,
    link_layer: LinkLayer,
    /// There until it is dropped.
    lent: Option<L>,
    /// Where the ring is then.
    after: Position,
    again: bool,
    counters: InputCounters<'a>,
}

impl<L: Lent> Batch for RingBatch<'_, L> {
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.lent.iter().flat_map(Lent::frames).map(|frame| described(self.input, self.link_layer, frame))
    }

    fn is_taken_again(&self) -> bool {
        self.again
    }
}

impl<L> Drop for RingBatch<'_, L> {
    fn drop(&mut self) {
        // A worker that dies in between leaves a position that a ring can tell the truth from (`Ring::resume`).
        self.lent = None;
        self.counters.position().set(self.after.to_word());
        self.counters.deaths().set(0);
    }
}

/// Gives back untouched what the ring lends again, when too many workers in a row have died over it: the next one would, too.
/// Says whether it did.
fn give_up_what_kills<R: Ring>(ring: &mut R, counters: InputCounters<'_>, name: &str) -> bool {
    counters.deaths().add(1);
    if counters.deaths().get() < MOST_DEATHS {
        return false;
    }
    let Some(lent) = ring.lend() else { return false };
    let (count, after) = (lent.frames().count() as u64, lent.positions().1);
    drop(lent);
    counters.position().set(after.to_word());
    counters.abandoned().add(count);
    counters.deaths().set(0);
    tracing::error!(
        "{name}: {count} frames are given up, as `abandoned`: {MOST_DEATHS} workers in a row have died over them"
    );
    true
}

fn described(input: InputIndex, link_layer: LinkLayer, frame: Result<RingFrame<'_>, Broken>) -> Frame<'_> {
    let Ok(RingFrame { vnet_header, bytes, captured_len, vlan_tag }) = frame else {
        return Frame { defect: Some(Cause::RingFault), ..Frame::empty(input, link_layer) };
    };
    let truncated = captured_len > bytes.len();
    Frame { vlan_tag, ..Frame::new(input, link_layer, vnet_header, bytes, truncated) }
}

#[cfg(test)]
mod tests {
    use super::super::packet_ring::Shape;
    use super::*;

    /// A ring that lends so many frames, once.
    struct FakeRing(usize);

    struct FakeLent<'a>(&'a mut FakeRing);

    impl Drop for FakeLent<'_> {
        fn drop(&mut self) {
            self.0.0 = 0;
        }
    }

    impl Lent for FakeLent<'_> {
        fn frames(&self) -> impl Iterator<Item = Result<RingFrame<'_>, Broken>> {
            (0..self.0.0).map(|_| Err(Broken))
        }

        fn follows_loss(&self) -> bool {
            false
        }

        fn positions(&self) -> (Position, Position) {
            (Position { first: 7, lent: 1 }, Position { first: 8, lent: 0 })
        }
    }

    impl Ring for FakeRing {
        type Lent<'a> = FakeLent<'a>;
        const LENDS_FRAMES: bool = false;

        fn map(_: OwnedFd, _: Shape) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn resume(&mut self, _: Position) -> usize {
            1
        }

        fn is_ready(&self) -> bool {
            self.0 > 0
        }

        fn lend(&mut self) -> Option<FakeLent<'_>> {
            (self.0 > 0).then_some(FakeLent(self))
        }

        fn is_drained(&self) -> bool {
            self.0 == 0
        }

        fn socket(&self) -> BorrowedFd<'_> {
            unreachable!("it has none")
        }
    }

    #[test]
    fn what_several_workers_in_a_row_died_over_is_given_up() {
        let counters = Counters::new().unwrap();
        let input = counters.input(0).unwrap();
        let mut ring = FakeRing(5);
        for deaths in 1..MOST_DEATHS {
            assert!(!give_up_what_kills(&mut ring, input, "eth0"));
            assert_eq!((ring.0, input.deaths().get(), input.abandoned().get()), (5, deaths, 0));
        }
        assert!(give_up_what_kills(&mut ring, input, "eth0"));
        assert_eq!((ring.0, input.deaths().get(), input.abandoned().get()), (0, 0, 5));
        assert_eq!(Position::from_word(input.position().get()), Position { first: 8, lent: 0 });
    }

    #[test]
    fn what_is_given_back_in_between_has_killed_nobody() {
        let counters = Counters::new().unwrap();
        let input = counters.input(0).unwrap();
        let mut ring = FakeRing(5);
        give_up_what_kills(&mut ring, input, "eth0");
        let lent = ring.lend();
        let after = Position { first: 8, lent: 0 };
        let (place, link_layer) = (InputIndex(0), LinkLayer::Ethernet);
        drop(RingBatch { input: place, link_layer, lent, after, again: false, counters: input });
        assert_eq!((input.deaths().get(), input.abandoned().get()), (0, 0));
    }
}
