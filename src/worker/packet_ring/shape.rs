//! Giving a packet socket a ring.

use std::io;

use serde::{Deserialize, Serialize};

use super::frames::OVERHEAD;
use super::{Layout, Mapping, Version};
use crate::sys::packet_socket::PacketSocket;

/// Most bytes of a slot: those that are larger are rare, and slots for them would be few.
const LARGEST_SLOT: usize = 16 << 10;
/// Frame size told to the kernel for V3, which packs frames of any size but wants the arithmetic to hold.
const NOMINAL_FRAME: u32 = 2_048;

/// The shape of a ring that a socket has: what it takes to map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    block_size: u32,
    block_count: u32,
    /// Without meaning for V3.
    slot_size: u32,
}

impl Shape {
    /// Gives `socket`, which prefixes frames with a `virtio_net_hdr` and is not bound yet, a ring. Where there is no memory for
    /// that many blocks, or no room to map them, it takes half, as often as need be. Slots of V2 have room for frames of `frame_len` bytes, or of 16 KiB
    /// or a block if that is less; larger ones take a copy more.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for two blocks; whatever else the kernel says.
    pub fn request(
        socket: &PacketSocket,
        mut layout: Layout,
        frame_len: usize,
    ) -> io::Result<(Self, Layout)> {
        let mut is_first = true;
        loop {
            if !std::mem::take(&mut is_first) {
                // Nothing, unless the ring was there and only its mapping failed.
                socket.remove_ring()?;
            }
            let shape = Self::new(&layout, frame_len);
            let requested = match layout.version() {
                Version::V3 => shape.request_blocks(socket, layout.retire_ms()),
                Version::V2 => shape.request_slots(socket),
            };
            // Whoever maps it has the same limits as this process.
            let mapped = requested.and_then(|()| Mapping::new(socket.try_clone()?, shape.size()).map(drop));
            layout = match (mapped, layout.halved()) {
                (Ok(()), _) => return Ok((shape, layout)),
                (Err(error), Some(halved)) if error.raw_os_error() == Some(libc::ENOMEM) => halved,
                (Err(error), _) => return Err(error),
            };
        }
    }

    fn new(layout: &Layout, frame_len: usize) -> Self {
        // A power of two that divides the block, so that slots follow each other without a gap in the whole ring.
        let divisor = 1 << layout.block_size().trailing_zeros();
        let slot_size = (frame_len + OVERHEAD).next_power_of_two().min(LARGEST_SLOT).min(divisor);
        Self {
            block_size: layout.block_size() as u32,
            block_count: layout.block_count() as u32,
            slot_size: slot_size as u32,
        }
    }

    fn request_blocks(self, socket: &PacketSocket, retire_ms: u32) -> io::Result<()> {
        socket.set_block_ring(libc::tpacket_req3 {
            tp_block_size: self.block_size,
            tp_block_nr: self.block_count,
            tp_frame_size: NOMINAL_FRAME,
            tp_frame_nr: self.size() as u32 / NOMINAL_FRAME,
            tp_retire_blk_tov: retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        })
    }

    fn request_slots(self, socket: &PacketSocket) -> io::Result<()> {
        socket.set_slot_ring(libc::tpacket_req {
            tp_block_size: self.block_size,
            tp_block_nr: self.block_count,
            tp_frame_size: self.slot_size,
            tp_frame_nr: (self.size() / self.slot_size()) as u32,
        })
    }

    /// Bytes of a block.
    pub(super) fn block_size(self) -> usize {
        self.block_size as usize
    }

    /// Number of blocks.
    pub(super) fn block_count(self) -> usize {
        self.block_count as usize
    }

    /// Bytes of a slot.
    pub(super) fn slot_size(self) -> usize {
        self.slot_size as usize
    }

    /// Bytes of the ring.
    pub fn size(self) -> usize {
        self.block_size() * self.block_count()
    }
}
