//! What holds of every block and slot, whatever its bytes are: for property tests and fuzzing.

#![allow(clippy::expect_used, dead_code, unreachable_pub)]

use multicast_relay::worker::packet_ring::frames::{BlockFrames, RingFrame, slot_frame};

use super::blocks::{BLOCK_FRAMES, FRAME_HEADER_LEN, VNET_HEADER_LEN};

/// The walk ends after what is announced, or after what there can be, and frames lie within the block.
pub fn check_block(block: &[u8]) {
    let announced = block.get(BLOCK_FRAMES..).and_then(<[u8]>::first_chunk);
    let announced = announced.map_or(0, |count| u32::from_ne_bytes(*count) as usize);
    let frames = BlockFrames::new(block);
    let most = announced.min(block.len() / FRAME_HEADER_LEN);
    assert_eq!(frames.size_hint(), (0, Some(most)));
    let mut count = 0;
    for frame in frames {
        count += 1;
        if let Ok(frame) = frame {
            check_frame(block, &frame);
        }
    }
    assert!(count <= most, "more frames than it can hold");
}

/// The frame, if there is one, lies within the slot.
pub fn check_slot(slot: &[u8]) {
    if let Ok(frame) = slot_frame(slot) {
        check_frame(slot, &frame);
    }
}

fn check_frame(memory: &[u8], frame: &RingFrame<'_>) {
    let (memory, header, bytes) =
        (memory.as_ptr_range(), frame.vnet_header.as_ptr_range(), frame.bytes.as_ptr_range());
    assert!(memory.start <= header.start && header.end == bytes.start && bytes.end <= memory.end);
    assert_eq!(frame.vnet_header.len(), VNET_HEADER_LEN);
}
