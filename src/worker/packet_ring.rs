//! Receive rings shared with the kernel (`PACKET_MMAP`, packet(7)): mapping, lending, release. What is in a block or
//! slot is read by [`frames`], which knows no ring.
//!
//! The kernel fills blocks or slots in turn and hands each over by a store to its status word; the ring lends what has
//! been handed over, in the same order, and gives it back when the loan ends. Memory that is lent is not written by
//! the kernel, so its bytes are an ordinary slice. A frame cannot outlive its block:
//!
//! ```compile_fail,E0515
//! # use multicast_relay::worker::packet_ring::{BlockRing, Lent, Ring};
//! fn outlives(ring: &mut BlockRing) -> Option<&[u8]> {
//!     let block = ring.lend()?;
//!     let frame = block.frames().next()?.ok()?;
//!     Some(frame.bytes)
//! }
//! ```
//!
//! and while a block is lent, no other is:
//!
//! ```compile_fail,E0499
//! # use multicast_relay::worker::packet_ring::{BlockRing, Ring};
//! fn two(ring: &mut BlockRing) {
//!     let first = ring.lend();
//!     let second = ring.lend();
//!     drop((first, second));
//! }
//! ```

pub mod frames;
mod layout;
mod mapping;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use frames::{
    BLOCK_FRAMES, BLOCK_STATUS, BlockFrames, Broken, OVERHEAD, RingFrame, SLOT_STATUS, received_frame,
    slot_frame,
};
pub use layout::{Layout, LayoutError, MAX_BLOCK_SIZE, MAX_RETIRE_MS, MIN_BLOCK_COUNT, Version};
use mapping::Mapping;

use crate::sys::packet_socket::{self, PacketSocket, VNET_HEADER_LEN};

/// Most slots lent at once: enough to share the cost of a turn, few enough that the kernel has the others.
const SLOTS_LENT: usize = 256;
/// The largest frame without jumbograms, which one that is put together from fragments can be.
const LARGEST_FRAME: usize = 14 + 2 * 4 + 65_535 + 40;
/// Most bytes of a slot: those that are larger are rare, and slots for them would be few.
const LARGEST_SLOT: usize = 16 << 10;
/// Frame size told to the kernel for V3, which packs frames of any size but wants the arithmetic to hold.
const NOMINAL_FRAME: u32 = 2_048;

/// A ring of either version.
pub trait Ring {
    /// What it lends.
    type Lent<'a>: Lent
    where
        Self: 'a;

    /// Whether there is something to lend.
    fn is_ready(&self) -> bool;

    /// Lends what the kernel has handed over next; what is lent is given back when it is dropped.
    fn lend(&mut self) -> Option<Self::Lent<'_>>;

    /// Whether the kernel holds no frame that it will still hand over.
    fn is_drained(&self) -> bool;

    /// The socket, which becomes readable when there is something to lend.
    fn socket(&self) -> BorrowedFd<'_>;
}

/// What a ring lends.
pub trait Lent {
    /// Its frames, in order of arrival.
    fn frames(&self) -> impl Iterator<Item = Result<RingFrame<'_>, Broken>>;

    /// Whether the kernel has marked it as following a loss: `TP_STATUS_LOSING`, set between a drop and the next time
    /// that the statistics are read.
    fn follows_loss(&self) -> bool;
}

/// A `TPACKET_V3` ring.
#[derive(Debug)]
pub struct BlockRing {
    mapping: Mapping,
    block_size: usize,
    block_count: usize,
    /// The block whose turn it is: below `block_count`.
    next: usize,
}

impl BlockRing {
    /// Gives `socket`, which prefixes frames with a `virtio_net_hdr` and is not bound yet, a ring and maps it. Where
    /// there is no memory for that many blocks it takes half, as often as need be, and says with how many it ended.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for two blocks; whatever else the kernel says.
    pub fn map(socket: &PacketSocket, layout: Layout) -> io::Result<(Self, Layout)> {
        let (mapping, layout) = Mapping::largest(socket, layout, &|layout| {
            socket.set_block_ring(libc::tpacket_req3 {
                tp_block_size: layout.block_size() as u32,
                tp_block_nr: layout.block_count() as u32,
                tp_frame_size: NOMINAL_FRAME,
                tp_frame_nr: layout.size() as u32 / NOMINAL_FRAME,
                tp_retire_blk_tov: layout.retire_ms(),
                tp_sizeof_priv: 0,
                tp_feature_req_word: 0,
            })
        })?;
        let (block_size, block_count) = (layout.block_size(), layout.block_count());
        Ok((Self { mapping, block_size, block_count, next: 0 }, layout))
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `next` is below `block_count` and `at` one of two words in a block's header, so this is within the
        // mapping, and aligned since blocks are multiples of a page. Both words are accessed atomically only, except
        // through `Block::bytes`, while which the kernel does not write and `Block::drop` cannot.
        unsafe { self.mapping.word(self.next * self.block_size + at) }
    }
}

impl Ring for BlockRing {
    type Lent<'a> = Block<'a>;

    fn is_ready(&self) -> bool {
        self.word(BLOCK_STATUS).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    fn lend(&mut self) -> Option<Block<'_>> {
        // Pairs with the kernel's smp_wmb before it sets TP_STATUS_USER (prb_close_block): what it wrote to the block
        // before is visible to all reads after this one.
        let status = self.word(BLOCK_STATUS).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            // Only what has been handed over may become a `Block`: dropping one gives it back.
            return None;
        }
        Some(Block { ring: self, status })
    }

    fn is_drained(&self) -> bool {
        // What is not handed over yet lies in the block that the kernel fills, which is the next one, and the kernel
        // counts its frames in the block's header as it fills it.
        !self.is_ready() && self.word(BLOCK_FRAMES).load(Ordering::Acquire) == 0
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.mapping.socket.as_fd()
    }
}

/// A block that the kernel has handed over, until it is dropped.
#[derive(Debug)]
pub struct Block<'a> {
    ring: &'a mut BlockRing,
    status: u32,
}

impl Block<'_> {
    fn bytes(&self) -> &[u8] {
        let BlockRing { mapping, block_size, next, .. } = &*self.ring;
        // SAFETY: `next` is below `block_count`, so the block is within the mapping. It had TP_STATUS_USER when this
        // was made, so the kernel leaves it alone until `drop`, which cannot run while the slice is borrowed.
        unsafe { mapping.bytes(next * block_size, *block_size) }
    }
}

impl Lent for Block<'_> {
    fn frames(&self) -> impl Iterator<Item = Result<RingFrame<'_>, Broken>> {
        BlockFrames::new(self.bytes())
    }

    fn follows_loss(&self) -> bool {
        self.status & libc::TP_STATUS_LOSING != 0
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // Pairs with the kernel's read of the status before it opens the block again (prb_dispatch_next_block): all
        // our reads of the block come before its writes.
        self.ring.word(BLOCK_STATUS).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.ring.next = if self.ring.next + 1 < self.ring.block_count { self.ring.next + 1 } else { 0 };
    }
}

/// A `TPACKET_V2` ring.
#[derive(Debug)]
pub struct SlotRing {
    mapping: Mapping,
    slot_size: usize,
    slot_count: usize,
    /// The slot whose turn it is: below `slot_count`.
    next: usize,
    /// For a frame that is too large for a slot, which the kernel leaves in the receive buffer too.
    oversize: Box<[u8]>,
}

impl SlotRing {
    /// Like [`BlockRing::map`]; slots have room for frames of `frame_len` bytes, or of 16 KiB or a block if that is
    /// less. Larger ones take a copy more.
    ///
    /// # Errors
    /// As [`BlockRing::map`].
    pub fn map(socket: &PacketSocket, layout: Layout, frame_len: usize) -> io::Result<(Self, Layout)> {
        // A power of two that divides the block, so that slots follow each other without a gap in the whole ring.
        let divisor = 1 << layout.block_size().trailing_zeros();
        let slot_size = (frame_len + OVERHEAD).next_power_of_two().min(LARGEST_SLOT).min(divisor);
        let (mapping, layout) = Mapping::largest(socket, layout, &|layout| {
            socket.set_slot_ring(libc::tpacket_req {
                tp_block_size: layout.block_size() as u32,
                tp_block_nr: layout.block_count() as u32,
                tp_frame_size: slot_size as u32,
                tp_frame_nr: (layout.size() / slot_size) as u32,
            })
        })?;
        let slot_count = layout.size() / slot_size;
        let oversize = vec![0; VNET_HEADER_LEN + LARGEST_FRAME].into();
        Ok((Self { mapping, slot_size, slot_count, next: 0, oversize }, layout))
    }

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

#[cfg(test)]
mod tests;
