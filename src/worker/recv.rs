//! The recv path: `recv` on packet sockets through `io_uring`.
//!
//! One multishot receive per socket fills provided buffers (Linux 6.0). Where the kernel lacks that, a single receive
//! at a time does: two in flight on one socket would complete out of order.
//!
//! Waking up for each frame costs more than all the rest. So a worker that has just relayed can let frames gather for a
//! while before it looks again, as a block of the packet ring does; the first frame after a pause is taken at once.
//!
//! Which VLAN tag the kernel has taken out of a frame it tells beside the frame, which costs time. So it is asked only on inputs
//! that a rule for a VLAN listens to; to others no frame with such a tag comes.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::places::Places;
use super::receiver::{self, Batch, Frame, ReceiveError, Receiver, Source};
use crate::rules::InputIndex;
use crate::stats::MAX_INPUTS;
use crate::sys::buffer_pool::Filled;
use crate::sys::packet_socket::VNET_HEADER_LEN;
use crate::sys::poll;
use crate::sys::uring::{Completion, Token, Uring, Wait};
use crate::wire::{LinkLayer, ethernet};

/// Receive buffers. They only have to last for a turn: what waits longer waits in the sockets. A worker that dies takes with it
/// what is in them.
const BUFFERS: u16 = 512;
/// The same where each input has one all the time: as many as there can be inputs.
const SINGLE_SHOT_BUFFERS: u16 = MAX_INPUTS as u16;
/// Bytes of each: any IP packet without jumbograms, which one that the kernel has put together from fragments can be,
/// with its Ethernet header, two tags and its `virtio_net_hdr`. What a small frame leaves untouched takes no memory.
const BUFFER_LEN: usize = VNET_HEADER_LEN + ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN + 65_535 + 40;

/// How receives are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Multishot into provided buffers; frames may gather so long.
    Multishot { coalesce: Duration },
    /// One operation for each frame.
    SingleShot,
}

/// The recv path over the packet sockets of one worker.
pub(super) struct Recv {
    inputs: Places<Socket>,
    mode: Mode,
    /// Whether a batch was lent since the last sleep.
    has_lent: bool,
    arrived: Vec<Arrived>,
    /// Buffers of released batches, on their way back to the kernel.
    released: Vec<Filled>,
}

struct Socket {
    name: String,
    link_layer: LinkLayer,
    fd: OwnedFd,
    /// Whether a receive is in flight.
    armed: bool,
    /// Whether receives tell the tags of frames.
    tagged: bool,
}

struct Arrived {
    input: InputIndex,
    link_layer: LinkLayer,
    filled: Filled,
    truncated: bool,
}

impl Recv {
    /// A receiver as `mode` says, or by single operations where the kernel has no others.
    pub(super) fn new(ring: &mut Uring, mode: Mode) -> io::Result<Self> {
        let mode = if ring.has_multishot_receive() { mode } else { Mode::SingleShot };
        if mode == Mode::SingleShot {
            tracing::warn!(
                "receiving one frame per operation, none of which gather: multishot needs Linux 6.0"
            );
        }
        let count = if mode == Mode::SingleShot { SINGLE_SHOT_BUFFERS } else { BUFFERS };
        ring.set_buffers(count, BUFFER_LEN, mode != Mode::SingleShot)?;
        Ok(Self {
            inputs: Places::default(),
            mode,
            has_lent: false,
            arrived: Vec::with_capacity(count.into()),
            released: Vec::with_capacity(count.into()),
        })
    }

    fn failed(&self, input: InputIndex, errno: i32) -> Result<(), ReceiveError> {
        if errno == libc::EINVAL {
            return Err(ReceiveError::Undescribed(input));
        }
        let name = self.inputs.get(input.0).map_or("", |input| &input.name);
        receiver::failed(input, name, errno)
    }
}

impl Receiver for Recv {
    type Batch<'a> = RecvBatch<'a>;

    fn add(&mut self, place: InputIndex, source: Source, fd: OwnedFd) -> io::Result<()> {
        let Source { name, link_layer, .. } = source;
        self.inputs.set(place.0, Socket { name, link_layer, fd, armed: false, tagged: false });
        Ok(())
    }

    fn tell_tags(&mut self, place: InputIndex, ring: &mut Uring) -> io::Result<()> {
        let Some(input) = self.inputs.get_mut(place.0).filter(|input| !input.tagged) else { return Ok(()) };
        input.tagged = true;
        // A single operation tells them anyway. The other one ends, as its last completion will say, and one that tells them
        // takes its place.
        match self.mode {
            Mode::Multishot { .. } if input.armed => ring.cancel(input.fd.as_fd(), Token::Receive(place.0)),
            _ => Ok(()),
        }
    }

    fn remove(&mut self, place: InputIndex, ring: &mut Uring) -> io::Result<()> {
        match self.inputs.take(place.0) {
            Some(input) if input.armed => ring.cancel(input.fd.as_fd(), Token::Receive(place.0)),
            _ => Ok(()),
        }
    }

    fn socket(&self, place: InputIndex) -> Option<BorrowedFd<'_>> {
        self.inputs.get(place.0).map(|input| input.fd.as_fd())
    }

    fn is_ready(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn arm(&mut self, ring: &mut Uring, _sleep: bool) -> io::Result<()> {
        for filled in self.released.drain(..) {
            ring.give_back(filled);
        }
        for (place, input) in self.inputs.iter_mut().filter(|(_, input)| !input.armed) {
            let socket = input.fd.as_fd();
            input.armed = match self.mode {
                Mode::Multishot { .. } if input.tagged => {
                    ring.receive_tagged_multishot(socket, place).map(|()| true)?
                }
                Mode::Multishot { .. } => ring.receive_multishot(socket, place).map(|()| true)?,
                Mode::SingleShot => ring.receive_once(socket, place)?,
            };
        }
        Ok(())
    }

    fn sleep(&mut self) -> Wait {
        match self.mode {
            Mode::Multishot { coalesce } if mem::take(&mut self.has_lent) && !coalesce.is_zero() => {
                Wait::Coalesced { count: BUFFERS.into(), time: coalesce }
            }
            _ => Wait::First,
        }
    }

    fn complete(&mut self, completion: Completion) -> Result<(), ReceiveError> {
        let Completion { token: Token::Receive(number), result, more, filled } = completion else {
            return Ok(());
        };
        if let (false, Some(input)) = (more, self.inputs.get_mut(number)) {
            input.armed = false;
        }
        let input = InputIndex(number);
        match (result, filled) {
            (Ok(len), Some(filled)) => {
                let link_layer = self.inputs.get(number).map_or(LinkLayer::Other, |input| input.link_layer);
                let truncated = len > filled.bytes().len();
                self.arrived.push(Arrived { input, link_layer, filled, truncated });
                Ok(())
            }
            // A frame without a buffer would be lost uncounted. The kernel does not do that.
            (Ok(_), None) => self.failed(input, libc::EPROTO),
            (Err(errno), filled) => {
                self.released.extend(filled);
                self.failed(input, errno)
            }
        }
    }

    fn lend(&mut self) -> Option<RecvBatch<'_>> {
        (!self.arrived.is_empty()).then_some(RecvBatch(self))
    }

    fn places(&self) -> Vec<InputIndex> {
        self.inputs.iter().map(|(place, _)| InputIndex(place)).collect()
    }

    fn is_drained(&self, place: InputIndex) -> io::Result<bool> {
        let Some(input) = self.inputs.get(place.0) else { return Ok(true) };
        Ok(!poll::is_readable(input.fd.as_fd())? && self.arrived.iter().all(|arrived| arrived.input != place))
    }
}

/// Completed receive buffers.
pub(super) struct RecvBatch<'a>(&'a mut Recv);

impl Batch for RecvBatch<'_> {
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.0.arrived.iter().map(|arrived| {
            let bytes = arrived.filled.bytes();
            let (vnet_header, frame) = bytes.split_at_checked(VNET_HEADER_LEN).unwrap_or((&[], bytes));
            let frame = Frame::new(arrived.input, arrived.link_layer, vnet_header, frame, arrived.truncated);
            Frame { vlan_tag: arrived.filled.tag(), ..frame }
        })
    }
}

impl Drop for RecvBatch<'_> {
    fn drop(&mut self) {
        let Recv { arrived, released, has_lent, .. } = &mut *self.0;
        *has_lent = true;
        released.extend(arrived.drain(..).map(|arrived| arrived.filled));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn frames_gather_only_behind_a_batch() {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let mut ring = Uring::new(1_024).unwrap();
        let time = Duration::from_millis(3);
        let mut recv = Recv::new(&mut ring, Mode::Multishot { coalesce: time }).unwrap();
        let source = Source { name: "x".to_owned(), link_layer: LinkLayer::Ethernet, shape: None };
        recv.add(InputIndex(0), source, receiver.into()).unwrap();
        assert_eq!(recv.sleep(), Wait::First, "the first frame is taken at once");
        recv.arm(&mut ring, true).unwrap();
        sender.send(&[0; VNET_HEADER_LEN + 60]).unwrap();
        ring.wait(Wait::First).unwrap();
        recv.complete(ring.next_completion().unwrap()).unwrap();
        drop(recv.lend().unwrap());
        assert_eq!(recv.sleep(), Wait::Coalesced { count: BUFFERS.into(), time });
        assert_eq!(recv.sleep(), Wait::First, "nothing came meanwhile");
    }
}
