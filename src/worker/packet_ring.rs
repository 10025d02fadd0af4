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

mod blocks;
pub mod frames;
mod layout;
mod mapping;
mod position;
mod shape;
mod slots;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

pub use blocks::{Block, BlockRing};
use frames::{Broken, RingFrame};
pub use layout::{Layout, LayoutError, MAX_BLOCK_SIZE, MAX_RETIRE_MS, MIN_BLOCK_COUNT, Version};
use mapping::Mapping;
pub use position::Position;
pub use shape::Shape;
pub use slots::{SlotRing, Slots};

/// A ring of either version.
pub trait Ring: Sized {
    /// What it lends.
    type Lent<'a>: Lent
    where
        Self: 'a;

    /// Whether what it lends is counted in frames; if not, in blocks of them.
    const LENDS_FRAMES: bool;

    /// Maps the ring that `socket` has been given.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot have that shape, `ENOMEM` where address space is limited.
    fn map(socket: OwnedFd, shape: Shape) -> io::Result<Self>;

    /// Goes on where somebody else has ended, who mapped the same ring and wrote down `position`. Returns how much is lent a
    /// second time: blocks or slots.
    fn resume(&mut self, position: Position) -> usize;

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

    /// Where the ring is as long as this is lent, and when it has been given back.
    fn positions(&self) -> (Position, Position);
}

#[cfg(test)]
mod tests;
