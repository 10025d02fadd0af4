//! A ring that is lent by the block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::frames::{BLOCK_FRAMES, BLOCK_SEQUENCE, BLOCK_STATUS, BlockFrames, Broken, RingFrame};
use super::{Lent, Mapping, Position, Ring, Shape};

/// A `TPACKET_V3` ring.
#[derive(Debug)]
pub struct BlockRing {
    pub(super) mapping: Mapping,
    pub(super) block_size: usize,
    pub(super) block_count: usize,
    /// The block whose turn it is: below `block_count`.
    pub(super) next: usize,
}

impl BlockRing {
    /// The low half of the number that the kernel gives to each block that it fills, one after the other.
    fn sequence(&self, block: usize) -> u32 {
        // SAFETY: callers take care that `block` is below `block_count`; the rest as in `word`.
        unsafe { self.mapping.word(block * self.block_size + BLOCK_SEQUENCE) }.load(Ordering::Relaxed)
    }

    fn after(&self, block: usize) -> usize {
        if block + 1 < self.block_count { block + 1 } else { 0 }
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

    const LENDS_FRAMES: bool = false;

    fn map(socket: OwnedFd, shape: Shape) -> io::Result<Self> {
        let (block_size, block_count) = (shape.block_size(), shape.block_count());
        Ok(Self { mapping: Mapping::new(socket, shape.size())?, block_size, block_count, next: 0 })
    }

    fn resume(&mut self, position: Position) -> usize {
        let first = position.first as usize % self.block_count;
        self.next = first;
        if position.lent == 0 {
            return 0;
        }
        let is_lent = self.is_ready();
        // The block was given back, but that was not written down any more. It may have been filled again since.
        self.next = self.after(first);
        let is_newer =
            self.is_ready() && self.sequence(first).wrapping_sub(self.sequence(self.next)) as i32 > 0;
        if !is_lent || is_newer {
            return 0;
        }
        self.next = first;
        1
    }

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

    fn positions(&self) -> (Position, Position) {
        let next = self.ring.next;
        (Position::new(next, 1), Position::new(self.ring.after(next), 0))
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // Pairs with the kernel's read of the status before it opens the block again (prb_dispatch_next_block): all
        // our reads of the block come before its writes.
        self.ring.word(BLOCK_STATUS).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.ring.next = self.ring.after(self.ring.next);
    }
}
