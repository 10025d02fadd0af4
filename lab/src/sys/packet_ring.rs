//! A mapped `TPACKET_V3` receive ring: who owns which block, and nothing about what is in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::block::{Frames, STATUS, sequence};
use super::packet_socket::PacketSocket;

/// How a ring is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    /// Bytes per block: a power of two, at least a page. A frame longer than that is cut.
    pub block_bytes: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// A block that is not empty is handed over after this long even if it is not full, ms.
    pub retire_ms: u32,
}

impl RingShape {
    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.block_bytes.saturating_mul(self.blocks)
    }

    /// What to ask the kernel for; `None` when there is no block or the size overflows its 32-bit arithmetic.
    fn request(&self) -> Option<libc::tpacket_req3> {
        let bytes = u32::try_from(self.bytes()).ok().filter(|bytes| *bytes > 0)?;
        Some(libc::tpacket_req3 {
            tp_block_size: self.block_bytes as u32,
            tp_block_nr: self.blocks as u32,
            tp_frame_size: NOMINAL_FRAME_BYTES,
            tp_frame_nr: bytes / NOMINAL_FRAME_BYTES,
            tp_retire_blk_tov: self.retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        })
    }
}

/// Nominal frame size told to the kernel: V3 packs frames of any length, but wants the arithmetic to hold.
const NOMINAL_FRAME_BYTES: u32 = 2_048;

/// A packet socket with its ring mapped. Blocks are lent one at a time, in the kernel's order.
#[derive(Debug)]
pub struct PacketRing {
    mapping: Mapping,
    shape: RingShape,
    /// The block whose turn it is; below `shape.blocks`.
    next: usize,
    // After `mapping`: unmapped first, closed then.
    socket: PacketSocket,
}

impl PacketRing {
    /// Gives `socket`, not bound yet, a ring with virtio headers.
    ///
    /// # Errors
    /// `ENOMEM` when the kernel has no memory for it: try a smaller one.
    pub fn map(socket: PacketSocket, shape: RingShape) -> Result<Self, (PacketSocket, io::Error)> {
        match Self::request(&socket, &shape) {
            Ok(mapping) => Ok(Self { mapping, shape, next: 0, socket }),
            Err(error) => Err((socket, error)),
        }
    }

    fn request(socket: &PacketSocket, shape: &RingShape) -> io::Result<Mapping> {
        let request = shape.request().ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
        socket.request_ring(&request)?;
        Mapping::new(socket.as_fd(), shape.bytes())
    }

    /// The socket the ring belongs to.
    pub fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// How it is laid out.
    pub fn shape(&self) -> RingShape {
        self.shape
    }

    /// Borrows the next block if the kernel has handed it over. Dropping it gives it back.
    ///
    /// A frame cannot outlive its block:
    ///
    /// ```compile_fail,E0515
    /// # fn outlives(ring: &mut lab::sys::packet_ring::PacketRing) -> Option<&[u8]> {
    /// let block = ring.next()?;
    /// let frame = block.frames().next()?.ok()?;
    /// Some(frame.bytes)
    /// # }
    /// ```
    ///
    /// and only one block is out at a time:
    ///
    /// ```compile_fail,E0499
    /// # fn two(ring: &mut lab::sys::packet_ring::PacketRing) {
    /// let first = ring.next();
    /// let second = ring.next();
    /// drop((first, second));
    /// # }
    /// ```
    #[expect(clippy::should_implement_trait, reason = "lends: an Iterator cannot")]
    pub fn next(&mut self) -> Option<Block<'_>> {
        // Acquire: pairs with the kernel's smp_wmb before it sets TP_STATUS_USER (prb_flush_block): what it wrote to
        // the block before is visible to the reads after this one.
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            // Only now may a `Block` exist: dropping one gives its block back, whoever owns it.
            return None;
        }
        Some(Block { ring: self })
    }

    /// The status word of the block whose turn it is.
    fn status(&self) -> &AtomicU32 {
        let at = self.next * self.shape.block_bytes + STATUS;
        // SAFETY: `next` < `blocks` and STATUS lies inside a block, so `at` is inside the mapping of `blocks` times
        // `block_bytes` bytes.
        let word = unsafe { self.mapping.start.as_ptr().add(at) };
        // SAFETY: inside the mapping (above), which lives as long as `self`; a multiple of the page size plus STATUS
        // is aligned for u32; kernel and we access the word only atomically, never through `Block::bytes` while it
        // is written, since that borrows the block whose drop writes.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A block that the kernel has handed over and leaves alone until it is dropped.
#[derive(Debug)]
pub struct Block<'ring> {
    ring: &'ring mut PacketRing,
}

impl Block<'_> {
    /// Its frames, borrowed from it.
    pub fn frames(&self) -> Frames<'_> {
        Frames::new(self.bytes())
    }

    /// Its number; `None` when it is too short to have one.
    pub fn sequence(&self) -> Option<u64> {
        sequence(self.bytes())
    }

    fn bytes(&self) -> &[u8] {
        let (at, length) = (self.ring.next * self.ring.shape.block_bytes, self.ring.shape.block_bytes);
        // SAFETY: `next` < `blocks`: the block lies inside the mapping.
        let start = unsafe { self.ring.mapping.start.as_ptr().add(at) };
        // SAFETY: `length` bytes from `start` are inside the mapping; the status said TP_STATUS_USER, so the kernel
        // does not write them until `drop` gives the block back, and `drop` cannot run while they are borrowed.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // Release: pairs with the kernel's read of the status (prb_dispatch_next_block, after smp_rmb): our reads of
        // the block are over before it may write to it again.
        self.ring.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.ring.next = (self.ring.next + 1) % self.ring.shape.blocks.max(1);
    }
}

/// Memory shared with the kernel; unmapped on drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `start` is never handed out.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(descriptor: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let descriptor = descriptor.as_raw_fd();
        // SAFETY: a null hint lets the kernel choose a free range; the result is checked before use.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are those of a successful mmap, and nothing borrowed from it is left: blocks
        // borrow the ring that owns this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::block::tests::block;

    /// A ring over an ordinary file instead of a socket's memory: only the kernel's side is missing.
    fn ring_over(blocks: &[Vec<u8>], block_bytes: usize) -> PacketRing {
        let file = tempfile::tempfile().unwrap();
        file.set_len((blocks.len() * block_bytes) as u64).unwrap();
        let mapping = Mapping::new(file.as_fd(), blocks.len() * block_bytes).unwrap();
        let open = PacketSocket::open();
        let socket =
            open.unwrap_or_else(|error| panic!("opening packet sockets needs root, run with sudo: {error}"));
        let shape = RingShape { block_bytes, blocks: blocks.len(), retire_ms: 1 };
        for (index, block) in blocks.iter().enumerate() {
            for (offset, byte) in block.iter().enumerate() {
                // SAFETY: each block is shorter than `block_bytes` (asserted by the caller's sizes), so inside.
                let at = unsafe { mapping.start.as_ptr().add(index * block_bytes + offset) };
                // SAFETY: inside the mapping, as above.
                unsafe { at.write(*byte) };
            }
        }
        PacketRing { mapping, shape, next: 0, socket }
    }

    fn handed_over(packet: u8) -> Vec<u8> {
        let mut block = block(&[vec![packet; 60]]);
        block[STATUS..STATUS + 4].copy_from_slice(&libc::TP_STATUS_USER.to_ne_bytes());
        block
    }

    #[test]
    #[ignore = "needs root: opens a packet socket"]
    fn blocks_are_lent_in_order_given_back_and_not_lent_twice() {
        let mut ring = ring_over(&[handed_over(1), handed_over(2), block(&[])], 4096);
        for expected in [1, 2] {
            let block = ring.next().unwrap();
            assert_eq!(block.frames().next().unwrap().unwrap().bytes[0], expected);
        }
        // However often it is asked, what belongs to the kernel is neither lent nor skipped.
        assert!(ring.next().is_none());
        assert!(ring.next().is_none());
        assert_eq!(ring.next, 2);
        ring.next = 0;
        assert!(ring.next().is_none(), "the first was given back");
        assert_eq!(ring.next, 0);
    }

    #[test]
    fn a_ring_whose_size_overflows_the_kernels_arithmetic_is_refused() {
        let shape = |block_bytes, blocks| RingShape { block_bytes, blocks, retire_ms: 1 };
        assert!(shape(1 << 20, 4096).request().is_none());
        assert!(shape(1 << 20, 0).request().is_none());
        assert_eq!(shape(1 << 20, 64).request().unwrap().tp_frame_nr, 32_768);
    }
}
