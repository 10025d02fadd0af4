//! The mmap path: packet rings, read in place.
//!
//! A worker that has nothing to do waits for its rings and for everything else in the same `io_uring_enter`, by
//! `IORING_OP_POLL_ADD`; one that has does not ask. Waiting by `poll(2)` instead was measured at 100,000 frames per
//! second and costs the same (V3 4.8 µs per frame each way, V2 6.9 against 7.0), so there is one wait and not two.

use std::io;

use super::Input;
use super::packet_ring::frames::{Broken, RingFrame};
use super::packet_ring::{Lent, Ring};
use super::receiver::{self, Batch, Frame, ReceiveError, Receiver};
use crate::rules::InputIndex;
use crate::stats::{Cause, Counters};
use crate::sys::packet_socket;
use crate::sys::uring::{Completion, Token, Uring};

/// The mmap path over the packet rings of one worker.
pub(super) struct Mmap<'a, R> {
    inputs: Vec<RingInput<R>>,
    /// The input that may lend next: they take turns.
    turn: usize,
    counters: &'a Counters,
}

struct RingInput<R> {
    name: String,
    ring: R,
    /// Whether a poll is in flight.
    armed: bool,
}

impl<'a, R: Ring> Mmap<'a, R> {
    pub(super) fn new(inputs: Vec<Input<R>>, counters: &'a Counters) -> Self {
        let inputs = inputs.into_iter();
        let inputs = inputs.map(|input| RingInput { name: input.name, ring: input.source, armed: false });
        Self { inputs: inputs.collect(), turn: 0, counters }
    }
}

impl<R: Ring> Receiver for Mmap<'_, R> {
    type Batch<'b>
        = RingBatch<R::Lent<'b>>
    where
        Self: 'b;

    fn is_ready(&self) -> bool {
        self.inputs.iter().any(|input| input.ring.is_ready())
    }

    fn arm(&mut self, ring: &mut Uring, sleep: bool) -> io::Result<()> {
        if !sleep {
            return Ok(());
        }
        for (number, input) in self.inputs.iter_mut().enumerate().filter(|(_, input)| !input.armed) {
            ring.poll(input.ring.socket(), Token::Receive(number as u16))?;
            input.armed = true;
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<(), ReceiveError> {
        let Token::Receive(number) = completion.token else { return Ok(()) };
        let Some(input) = self.inputs.get_mut(usize::from(number)) else { return Ok(()) };
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

    fn lend(&mut self) -> Option<RingBatch<R::Lent<'_>>> {
        let count = self.inputs.len();
        let mut in_turn = (self.turn..count).chain(0..self.turn);
        let number =
            in_turn.find(|number| self.inputs.get(*number).is_some_and(|input| input.ring.is_ready()))?;
        self.turn = (number + 1) % count;
        let lent = self.inputs.get_mut(number)?.ring.lend()?;
        if lent.follows_loss() {
            self.counters.follows_loss(number);
        }
        Some(RingBatch { input: InputIndex(number as u16), lent })
    }

    fn end_capture(&mut self) -> io::Result<()> {
        self.inputs.iter().try_for_each(|input| packet_socket::end_capture(input.ring.socket()))
    }

    fn is_drained(&self) -> io::Result<bool> {
        Ok(self.inputs.iter().all(|input| input.ring.is_drained()))
    }
}

/// What one ring lends.
pub(super) struct RingBatch<L> {
    input: InputIndex,
    lent: L,
}

impl<L: Lent> Batch for RingBatch<L> {
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.lent.frames().map(|frame| described(self.input, frame))
    }
}

fn described(input: InputIndex, frame: Result<RingFrame<'_>, Broken>) -> Frame<'_> {
    let Ok(frame) = frame else { return Frame { defect: Some(Cause::RingFault), ..Frame::empty(input) } };
    let truncated = frame.captured_len > frame.bytes.len();
    Frame { vlan_tag: frame.vlan_tag, ..Frame::new(input, frame.vnet_header, frame.bytes, truncated) }
}
