//! Blocks and slots of a ring are read as the kernel wrote them, and any other bytes do no harm.

#![allow(clippy::unwrap_used)]

#[path = "support/blocks.rs"]
mod blocks;
#[path = "support/walk.rs"]
mod walk;

use blocks::{
    BLOCK_FIRST, BLOCK_FRAMES, BLOCK_HEADER_LEN, CAPTURED_LEN, Captured, FRAME_HEADER_LEN, NEXT, PACKET,
    SLOT_CAPTURED_LEN, SLOT_HEADER_LEN, SLOT_PACKET, SLOT_STORED_LEN, STATUS, STORED_LEN, VLAN_TAG,
    VNET_HEADER_LEN, block, put_u16, put_u32, slot,
};
use multicast_relay::worker::packet_ring::frames::{BlockFrames, Broken, RingFrame, slot_frame};
use proptest::prelude::*;
use walk::{check_block, check_slot};

const BLOCK_SIZE: usize = 8 << 10;
const SLOT_SIZE: usize = 2 << 10;

fn captured() -> impl Strategy<Value = Captured> {
    let cut = prop_oneof![3 => Just(0), 1 => 1..70_000_u32];
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    (any::<[u8; VNET_HEADER_LEN]>(), bytes, cut, any::<Option<u16>>())
        .prop_map(|(vnet_header, bytes, cut, vlan_tag)| Captured { vnet_header, bytes, cut, vlan_tag })
}

/// A value for a field of a header: anything, but often what may be mistaken for an offset, length or count.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..400_u32,
        BLOCK_SIZE as u32 - 200..BLOCK_SIZE as u32 + 200,
        (0..400_u32).prop_map(|below| u32::MAX - below),
        // Two fields of 16 bits in one word.
        (0..400_u32, any::<u16>()).prop_map(|(low, high)| low | u32::from(high) << 16),
    ]
}

/// As the walk should find it.
#[allow(clippy::unnecessary_wraps)] // What the walk yields is compared with it.
fn expected(captured: &Captured) -> Result<RingFrame<'_>, Broken> {
    Ok(RingFrame {
        vnet_header: &captured.vnet_header,
        bytes: &captured.bytes,
        captured_len: captured.bytes.len() + captured.cut as usize,
        vlan_tag: captured.vlan_tag,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_block_is_read_as_the_kernel_wrote_it(frames in prop::collection::vec(captured(), 0..40)) {
        let (block, starts) = block(BLOCK_SIZE, &frames);
        prop_assert!(starts.len() == frames.len() || starts.len() > 8, "as many as there is room for");
        check_block(&block);
        let read: Vec<_> = BlockFrames::new(&block).collect();
        prop_assert_eq!(read, frames.iter().take(starts.len()).map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn a_slot_is_read_as_the_kernel_wrote_it(captured in captured()) {
        let slot = slot(SLOT_SIZE, &captured);
        check_slot(&slot);
        prop_assert_eq!(slot_frame(&slot), expected(&captured));
    }

    #[test]
    fn any_bytes_are_a_block_or_slot_that_does_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        announced in value(),
        first in 0..200_u32,
    ) {
        check_slot(&bytes);
        check_block(&bytes);
        let mut bytes = bytes;
        if bytes.len() >= BLOCK_HEADER_LEN {
            put_u32(&mut bytes, BLOCK_FRAMES, announced);
            put_u32(&mut bytes, BLOCK_FIRST, first);
        }
        check_block(&bytes);
    }

    #[test]
    fn damage_to_a_frame_header_leaves_the_frames_before_it_alone(
        frames in prop::collection::vec(captured(), 1..12),
        damaged in any::<prop::sample::Index>(),
        damage in prop::collection::vec((0..FRAME_HEADER_LEN / 4, value()), 1..4),
    ) {
        let (mut block, starts) = block(BLOCK_SIZE, &frames);
        let damaged = damaged.index(starts.len());
        for (word, value) in damage {
            put_u32(&mut block, starts[damaged] + word * 4, value);
        }
        check_block(&block);
        let read: Vec<_> = BlockFrames::new(&block).collect();
        prop_assert!(read.len() >= damaged && read.len() <= starts.len());
        let before = frames.iter().take(damaged).map(expected);
        prop_assert_eq!(&read[..damaged], before.collect::<Vec<_>>());
    }

    #[test]
    fn damage_to_a_block_header_and_a_missing_end_do_no_harm(
        frames in prop::collection::vec(captured(), 0..12),
        damage in prop::collection::vec((0..BLOCK_HEADER_LEN / 4, value()), 0..4),
        keep in any::<prop::sample::Index>(),
    ) {
        let (mut block, _) = block(BLOCK_SIZE, &frames);
        for (word, value) in damage {
            put_u32(&mut block, word * 4, value);
        }
        check_block(&block);
        block.truncate(keep.index(block.len() + 1));
        check_block(&block);
    }

    #[test]
    fn what_a_missing_end_leaves_of_a_block_is_read(
        frames in prop::collection::vec(captured(), 1..12),
        keep in any::<prop::sample::Index>(),
    ) {
        let (mut block, starts) = block(BLOCK_SIZE, &frames);
        let keep = keep.index(block.len() + 1);
        block.truncate(keep);
        for ((read, captured), start) in BlockFrames::new(&block).zip(&frames).zip(&starts) {
            let whole = start + FRAME_HEADER_LEN + 24 + captured.bytes.len() <= keep;
            prop_assert_eq!(read, if whole { expected(captured) } else { Err(Broken) });
        }
    }

    #[test]
    fn a_damaged_or_shortened_slot_does_no_harm(
        captured in captured(),
        damage in prop::collection::vec((0..SLOT_HEADER_LEN / 4, value()), 0..4),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut slot = slot(SLOT_SIZE, &captured);
        for (word, value) in damage {
            put_u32(&mut slot, word * 4, value);
        }
        check_slot(&slot);
        slot.truncate(keep.index(slot.len() + 1));
        check_slot(&slot);
    }
}

/// Which of the three frames of a block are found after `change`, which is given the begin of the second one's header.
fn found(change: impl FnOnce(&mut [u8], usize)) -> Vec<bool> {
    let frames = [b"first", b"secnd", b"third"].map(|bytes| Captured::whole(bytes));
    let (mut block, starts) = block(BLOCK_SIZE, &frames);
    change(&mut block, starts[1]);
    check_block(&block);
    BlockFrames::new(&block).map(|frame| frame.is_ok()).collect()
}

#[test]
fn each_contradiction_in_a_block_breaks_what_cannot_be_found() {
    let second = |field: usize, value: u32| found(|block, second| put_u32(block, second + field, value));
    let size = BLOCK_SIZE as u32;
    assert_eq!(found(|_, _| ()), [true, true, true]);

    // The way on from the second frame to the third.
    assert_eq!(second(NEXT, 0), [true, true, false], "the frame itself");
    assert_eq!(second(NEXT, FRAME_HEADER_LEN as u32 - 1), [true, true, false], "into its header");
    assert_eq!(second(NEXT, size), [true, true, false], "out of the block");
    assert_eq!(second(NEXT, u32::MAX), [true, true, false]);
    assert_eq!(second(NEXT, 104u32.wrapping_neg()), [true, true, false], "back to the first");

    // The second frame's place.
    let place = |value| found(|block, second| put_u16(block, second + PACKET, value));
    let nearest = (FRAME_HEADER_LEN + VNET_HEADER_LEN) as u16;
    assert_eq!(place(nearest), [true, true, true]);
    for packet in [0, 1, nearest - VNET_HEADER_LEN as u16, nearest - 1, BLOCK_SIZE as u16, u16::MAX] {
        assert_eq!(place(packet), [true, false, true], "tp_mac {packet}");
    }

    // Its length: 300 bytes reach beyond its end, but not beyond that of the block.
    for (len, fits) in [(0, true), (300, true), (size, false), (u32::MAX, false)] {
        assert_eq!(second(STORED_LEN, len), [true, fits, true], "tp_snaplen {len}");
    }

    // One that the kernel announced and did not write: whatever is left over there, it is no frame.
    for status in [0, libc::TP_STATUS_VLAN_VALID, !libc::TP_STATUS_USER] {
        assert_eq!(second(STATUS, status), [true, true], "tp_status {status}");
    }

    // The block's header.
    let head = |field, value| found(|block, _| put_u32(block, field, value));
    assert_eq!(head(BLOCK_FRAMES, 0), [false; 0]);
    assert_eq!(head(BLOCK_FRAMES, 2), [true, true], "the rest is not announced");
    assert_eq!(head(BLOCK_FRAMES, 4), [true, true, true, false], "one more than there is");
    let most = BLOCK_SIZE / FRAME_HEADER_LEN;
    let overstated = head(BLOCK_FRAMES, u32::MAX);
    assert_eq!(overstated.len(), most);
    assert_eq!(overstated.iter().filter(|found| **found).count(), 3);
    for first in [size - FRAME_HEADER_LEN as u32, size - 1, size, u32::MAX] {
        assert_eq!(head(BLOCK_FIRST, first), [false; 3], "the first frame at {first}");
    }
}

#[test]
fn a_frame_may_end_with_its_block_and_no_later() {
    let (mut block, starts) = block(BLOCK_SIZE, &[Captured::whole(&[7; 100])]);
    let room = BLOCK_SIZE - starts[0] - (FRAME_HEADER_LEN + 24);
    put_u32(&mut block, starts[0] + STORED_LEN, room as u32);
    assert_eq!(BlockFrames::new(&block).next().unwrap().unwrap().bytes.len(), room);
    put_u32(&mut block, starts[0] + STORED_LEN, room as u32 + 1);
    assert_eq!(BlockFrames::new(&block).next(), Some(Err(Broken)));
}

#[test]
fn each_contradiction_in_a_slot_breaks_its_frame() {
    let frame_after = |change: &dyn Fn(&mut [u8])| {
        let mut slot = slot(SLOT_SIZE, &Captured::whole(b"frame"));
        change(&mut slot);
        slot_frame(&slot).map(|frame| frame.bytes.len())
    };
    let nearest = (SLOT_HEADER_LEN + VNET_HEADER_LEN) as u16;
    assert_eq!(frame_after(&|_| ()), Ok(5));
    assert_eq!(frame_after(&|slot| put_u16(slot, SLOT_PACKET, nearest)), Ok(5));
    assert_eq!(frame_after(&|slot| put_u16(slot, SLOT_PACKET, SLOT_SIZE as u16 - 5)), Ok(5));
    for packet in [0, nearest - 1, SLOT_SIZE as u16 - 4, u16::MAX] {
        assert_eq!(frame_after(&|slot| put_u16(slot, SLOT_PACKET, packet)), Err(Broken), "tp_mac {packet}");
    }
    let room = (SLOT_SIZE - SLOT_HEADER_LEN - 24) as u32;
    assert_eq!(frame_after(&|slot| put_u32(slot, SLOT_STORED_LEN, room)), Ok(room as usize));
    for len in [room + 1, u32::MAX] {
        assert_eq!(frame_after(&|slot| put_u32(slot, SLOT_STORED_LEN, len)), Err(Broken), "tp_snaplen {len}");
    }
    assert_eq!(slot_frame(&[]), Err(Broken));
}

#[test]
fn a_tag_counts_only_when_the_kernel_says_that_there_was_one() {
    let tagged = Captured { vlan_tag: Some(0xe005), ..Captured::whole(b"tagged") };
    let (mut block, starts) = block(BLOCK_SIZE, &[tagged]);
    let vlan_tag = |block: &[u8]| BlockFrames::new(block).next().unwrap().unwrap().vlan_tag;
    assert_eq!(vlan_tag(&block), Some(0xe005));
    put_u32(&mut block, starts[0] + VLAN_TAG, 0);
    assert_eq!(vlan_tag(&block), Some(0), "a tag of priority 0");
    put_u32(&mut block, starts[0] + VLAN_TAG, 5);
    put_u32(&mut block, starts[0] + STATUS, !libc::TP_STATUS_VLAN_VALID);
    assert_eq!(vlan_tag(&block), None);
}

#[test]
fn a_length_that_was_never_stored_is_told_apart_from_what_is_there() {
    let (mut block, starts) = block(BLOCK_SIZE, &[Captured::whole(b"frame")]);
    put_u32(&mut block, starts[0] + CAPTURED_LEN, u32::MAX);
    let frame = BlockFrames::new(&block).next().unwrap().unwrap();
    assert_eq!((frame.bytes, frame.captured_len), (&b"frame"[..], u32::MAX as usize));
    let mut slot = slot(SLOT_SIZE, &Captured::whole(b"frame"));
    put_u32(&mut slot, SLOT_CAPTURED_LEN, u32::MAX);
    let frame = slot_frame(&slot).unwrap();
    assert_eq!((frame.bytes, frame.captured_len), (&b"frame"[..], u32::MAX as usize));
}
