//! A ring that is lent by the slot, each of which has one frame.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::frames::{Broken, OVERHEAD, RingFrame, SLOT_STATUS, received_frame, slot_frame};
use super::{Lent, Mapping, Position, Ring, Shape};
use crate::sys::packet_socket::{self, VNET_HEADER_LEN};

/// Most slots lent at once: enough to share the cost of a turn, few enough that the kernel has the others.
pub(super) const SLOTS_LENT: usize = 256;
/// The largest frame without jumbograms, which one that is put together from fragments can be.
const LARGEST_FRAME: usize = 14 + 2 * 4 + 65_535 + 40;

/// A `TPACKET_V2` ring.
#[derive(Debug)]
pub struct SlotRing {
    pub(super) mapping: Mapping,
    pub(super) slot_size: usize,
    pub(super) slot_count: usize,
    /// The slot whose turn it is: below `slot_count`.
    pub(super) next: usize,
    /// For a frame that is too large for a slot, which the kernel leaves in the receive buffer too.
    pub(super) oversize: Box<[u8]>,
}

impl SlotRing {
    /// The slot `ahead` places behind the next one, at most `slot_count`.
    fn slot(&self, ahead: usize) -> usize {
        let slot = self.next + ahead;
        if slot < self.slot_count { slot } else { slot - self.slot_count }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(slot < self.slot_count);
        // SAFETY: callers take care that `slot` is below `slot_count`, so this is within the mapping, and aligned since slots are powers of two of more than `OVERHEAD` bytes. The word is accessed
        // atomically only, except through `Slots::bytes`, while which the kernel does not write and `Slots::drop`
        // cannot.
        unsafe { self.mapping.word(slot * self.slot_size + SLOT_STATUS) }
    }
}

impl Ring for SlotRing {
    type Lent<'a> = Slots<'a>;

    const LENDS_FRAMES: bool = true;

    fn map(socket: OwnedFd, shape: Shape) -> io::Result<Self> {
        let slot_size = shape.slot_size();
        if !slot_size.is_power_of_two() || slot_size <= OVERHEAD || !shape.size().is_multiple_of(slot_size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::new(socket, shape.size())?;
        let oversize = vec![0; VNET_HEADER_LEN + LARGEST_FRAME].into();
        Ok(Self { mapping, slot_size, slot_count: shape.size() / slot_size, next: 0, oversize })
    }

    fn resume(&mut self, position: Position) -> usize {
        self.next = position.first as usize % self.slot_count;
        // Slots are given back in their order. If the kernel has been all around the ring since, what it has put into some of
        // them comes before what is older, and nothing is lost.
        let mut lent = (position.lent as usize).min(self.slot_count);
        while lent > 0 && !self.is_ready() {
            self.next = self.slot(1);
            lent -= 1;
        }
        lent
    }

    fn is_ready(&self) -> bool {
        self.status(self.next).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    fn lend(&mut self) -> Option<Slots<'_>> {
        let (mut count, mut status) = (0, 0);
        let mut last_is_oversize = false;
        while count < SLOTS_LENT.min(self.slot_count) {
            // Pairs with the kernel's smp_mb before it sets TP_STATUS_USER (tpacket_rcv): what it wrote to the slot
            // before is visible to all reads after this one.
            let slot_status = self.status(self.slot(count)).load(Ordering::Acquire);
            if slot_status & libc::TP_STATUS_USER == 0 {
                break;
            }
            count += 1;
            status |= slot_status;
            if slot_status & libc::TP_STATUS_COPY != 0 {
                // There is one buffer for these, so it is the last of its loan.
                last_is_oversize = true;
                break;
            }
        }
        if count == 0 {
            return None;
        }
        let mut slots = Slots { ring: self, count, status, oversize: None };
        if last_is_oversize {
            slots.oversize = Some(slots.receive_oversize());
        }
        Some(slots)
    }

    fn is_drained(&self) -> bool {
        // Not the next one only: processors that receive at the same time hand over in any order.
        (0..self.slot_count).all(|slot| self.status(slot).load(Ordering::Relaxed) & libc::TP_STATUS_USER == 0)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.mapping.socket.as_fd()
    }
}

/// Whether there is nothing to be received after this error.
fn is_final(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENETDOWN))
}

/// Slots that the kernel has handed over, until they are dropped.
#[derive(Debug)]
pub struct Slots<'a> {
    ring: &'a mut SlotRing,
    /// How many, from the ring's next one on: at most `slot_count`.
    count: usize,
    /// Of all of them.
    status: u32,
    /// Length of the frame of the last slot, when it is the ring's oversize one.
    oversize: Option<Result<usize, Broken>>,
}

impl Slots<'_> {
    fn bytes(&self, slot: usize) -> &[u8] {
        let SlotRing { mapping, slot_size, .. } = &*self.ring;
        // SAFETY: `frames` takes `slot` from `SlotRing::slot` for one of the `count` slots that are lent, so it is
        // within the mapping. Each had TP_STATUS_USER when this was made, so the kernel leaves it alone until `drop`,
        // which cannot run while the slice is borrowed.
        unsafe { mapping.bytes(slot * slot_size, *slot_size) }
    }

    fn frame(&self, place: usize) -> Result<RingFrame<'_>, Broken> {
        let in_slot = slot_frame(self.bytes(self.ring.slot(place)))?;
        match self.oversize {
            Some(received) if place + 1 == self.count => {
                let (buffer, len) = (&self.ring.oversize, received?);
                received_frame(buffer.get(..len).unwrap_or(buffer), len, in_slot.vlan_tag)
            }
            _ => Ok(in_slot),
        }
    }

    /// Takes the frame that the last slot has only the begin of out of the receive buffer; returns its length there.
    fn receive_oversize(&mut self) -> Result<usize, Broken> {
        let last = self.ring.slot(self.count - 1);
        let expected = VNET_HEADER_LEN + slot_frame(self.bytes(last))?.captured_len;
        loop {
            let SlotRing { mapping, oversize, .. } = &mut *self.ring;
            match packet_socket::receive(mapping.socket.as_fd(), oversize) {
                Ok(len) if len == expected => return Ok(len),
                Err(error) if is_final(&error) => return Err(Broken),
                // One that nobody came for, or an error that the socket had met before, such as ENETDOWN: the frame
                // is behind it.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl Lent for Slots<'_> {
    fn frames(&self) -> impl Iterator<Item = Result<RingFrame<'_>, Broken>> {
        (0..self.count).map(|place| self.frame(place))
    }

    fn follows_loss(&self) -> bool {
        self.status & libc::TP_STATUS_LOSING != 0
    }

    fn positions(&self) -> (Position, Position) {
        (Position::new(self.ring.next, self.count), Position::new(self.ring.slot(self.count), 0))
    }
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        for place in 0..self.count {
            // Pairs with the kernel's read of the status before it writes to the slot (packet_lookup_frame): all our
            // reads of the slot come before its writes.
            self.ring.status(self.ring.slot(place)).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.ring.next = self.ring.slot(self.count);
    }
}
