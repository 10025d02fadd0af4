//! The recv path: `recv` on packet sockets through `io_uring`.
//!
//! One multishot receive per socket fills provided buffers (Linux 6.0). Where the kernel lacks that, a single receive
//! at a time does: two in flight on one socket would complete out of order.
//!
//! Waking up for each frame costs more than all the rest. So a worker that has just relayed can let frames gather for a
//! while before it looks again, as a block of the packet ring does; the first frame after a pause is taken at once.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::Input;
use super::receiver::{self, Batch, Frame, ReceiveError, Receiver};
use crate::rules::InputIndex;
use crate::sys::buffer_pool::{Filled, MAX_BUFFERS};
use crate::sys::packet_socket::{self, VNET_HEADER_LEN};
use crate::sys::poll;
use crate::sys::uring::{Completion, Token, Uring, Wait};
use crate::wire::ethernet;

/// Receive buffers, unless there are more inputs than that. They only have to last for a turn: what waits longer waits
/// in the sockets.
const BUFFERS: usize = 512;
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
    inputs: Vec<Socket>,
    mode: Mode,
    /// Whether a batch was lent since the last sleep.
    has_lent: bool,
    buffer_len: usize,
    arrived: Vec<Arrived>,
    /// Buffers of released batches, on their way back to the kernel.
    released: Vec<Filled>,
}

struct Socket {
    name: String,
    fd: OwnedFd,
    /// Whether a receive is in flight.
    armed: bool,
}

struct Arrived {
    input: InputIndex,
    filled: Filled,
    truncated: bool,
}

impl Recv {
    /// A receiver over `inputs` as `mode` says, or by single operations where the kernel has no others.
    pub(super) fn new(ring: &mut Uring, inputs: Vec<Input<OwnedFd>>, mode: Mode) -> io::Result<Self> {
        let mode = if ring.has_multishot_receive() { mode } else { Mode::SingleShot };
        if mode == Mode::SingleShot {
            tracing::warn!(
                "receiving one frame per operation, none of which gather: multishot needs Linux 6.0"
            );
        }
        // Every input needs a buffer of its own, or idle ones could keep a busy one waiting.
        let count = BUFFERS.max(inputs.len().next_power_of_two()).min(MAX_BUFFERS.into());
        let count = 1_u16 << count.ilog2();
        ring.set_buffers(count, BUFFER_LEN, mode != Mode::SingleShot)?;
        let inputs = inputs.into_iter();
        let inputs = inputs.map(|input| Socket { name: input.name, fd: input.source, armed: false });
        Ok(Self {
            inputs: inputs.collect(),
            mode,
            has_lent: false,
            buffer_len: ring.buffer_len(),
            arrived: Vec::with_capacity(count.into()),
            released: Vec::with_capacity(count.into()),
        })
    }

    fn failed(&self, input: InputIndex, errno: i32) -> Result<(), ReceiveError> {
        if errno == libc::EINVAL {
            return Err(ReceiveError::Undescribed(input));
        }
        let name = self.inputs.get(usize::from(input.0)).map_or("", |input| &input.name);
        receiver::failed(input, name, errno)
    }
}

impl Receiver for Recv {
    type Batch<'a> = RecvBatch<'a>;

    fn is_ready(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn arm(&mut self, ring: &mut Uring, _sleep: bool) -> io::Result<()> {
        for filled in self.released.drain(..) {
            ring.give_back(filled);
        }
        for (number, input) in self.inputs.iter_mut().enumerate().filter(|(_, input)| !input.armed) {
            let (socket, number) = (input.fd.as_fd(), number as u16);
            input.armed = match self.mode {
                Mode::Multishot { .. } => ring.receive_multishot(socket, number).map(|()| true)?,
                Mode::SingleShot => ring.receive_once(socket, number)?,
            };
        }
        Ok(())
    }

    fn sleep(&mut self) -> Wait {
        match self.mode {
            Mode::Multishot { coalesce } if mem::take(&mut self.has_lent) && !coalesce.is_zero() => {
                Wait::Coalesced { count: BUFFERS, time: coalesce }
            }
            _ => Wait::First,
        }
    }

    fn complete(&mut self, completion: Completion) -> Result<(), ReceiveError> {
        let Completion { token: Token::Receive(number), result, more, filled } = completion else {
            return Ok(());
        };
        if let (false, Some(input)) = (more, self.inputs.get_mut(usize::from(number))) {
            input.armed = false;
        }
        let input = InputIndex(number);
        match (result, filled) {
            (Ok(len), Some(filled)) => {
                self.arrived.push(Arrived { input, filled, truncated: len > self.buffer_len });
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

    fn end_capture(&mut self) -> io::Result<()> {
        self.inputs.iter().try_for_each(|input| packet_socket::end_capture(input.fd.as_fd()))
    }

    fn is_drained(&self) -> io::Result<bool> {
        for input in &self.inputs {
            if poll::is_readable(input.fd.as_fd())? {
                return Ok(false);
            }
        }
        Ok(self.arrived.is_empty())
    }
}

/// Completed receive buffers.
pub(super) struct RecvBatch<'a>(&'a mut Recv);

impl Batch for RecvBatch<'_> {
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.0.arrived.iter().map(|arrived| {
            let bytes = arrived.filled.bytes();
            let (vnet_header, frame) = bytes.split_at_checked(VNET_HEADER_LEN).unwrap_or((&[], bytes));
            Frame::new(arrived.input, vnet_header, frame, arrived.truncated)
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
        let inputs = vec![Input { name: "x".to_owned(), source: receiver.into() }];
        let mut recv = Recv::new(&mut ring, inputs, Mode::Multishot { coalesce: time }).unwrap();
        assert_eq!(recv.sleep(), Wait::First, "the first frame is taken at once");
        recv.arm(&mut ring, true).unwrap();
        sender.send(&[0; VNET_HEADER_LEN + 60]).unwrap();
        ring.wait(Wait::First).unwrap();
        recv.complete(ring.next_completion().unwrap()).unwrap();
        drop(recv.lend().unwrap());
        assert_eq!(recv.sleep(), Wait::Coalesced { count: BUFFERS, time });
        assert_eq!(recv.sleep(), Wait::First, "nothing came meanwhile");
    }
}
