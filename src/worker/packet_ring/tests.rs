//! Rings over ordinary files: only the kernel's side is missing, which the tests play.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;

use libc::{TP_STATUS_COPY, TP_STATUS_KERNEL, TP_STATUS_LOSING, TP_STATUS_USER};

use super::frames::{BLOCK_FRAMES, BLOCK_SEQUENCE, BLOCK_STATUS, SLOT_STATUS};
use super::*;
use crate::sys::packet_socket::VNET_HEADER_LEN;
use made_blocks::Captured;

#[path = "../../../tests/support/blocks.rs"]
mod made_blocks;

const BLOCK_SIZE: usize = 4_096;
const SLOT_SIZE: usize = 2_048;

/// The file that a ring is a mapping of.
struct Kernel(File);

impl Kernel {
    fn status(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, at as u64).unwrap();
        u32::from_ne_bytes(word)
    }

    fn set(&self, at: usize, value: u32) {
        self.0.write_all_at(&value.to_ne_bytes(), at as u64).unwrap();
    }

    /// Hands over block `number` with these frames.
    fn hand_over_block(&self, number: usize, frames: &[&[u8]]) {
        let frames: Vec<_> = frames.iter().map(|bytes| Captured::whole(bytes)).collect();
        let (block, _) = made_blocks::block(BLOCK_SIZE, &frames);
        self.0.write_all_at(&block, (number * BLOCK_SIZE) as u64).unwrap();
    }

    /// Hands over slot `number` with a frame that consists of that number.
    fn hand_over_slot(&self, number: usize) {
        let slot = made_blocks::slot(SLOT_SIZE, &Captured::whole(&(number as u16).to_be_bytes()));
        self.0.write_all_at(&slot, (number * SLOT_SIZE) as u64).unwrap();
    }

    /// Hands over slot `number` with the begin of a frame of `len` bytes that carried the tag 5; the whole of it is in
    /// the receive buffer.
    fn hand_over_begin(&self, number: usize, len: u32) {
        let begin = Captured { cut: len - 2, vlan_tag: Some(5), ..Captured::whole(b"be") };
        let slot = made_blocks::slot(SLOT_SIZE, &begin);
        self.0.write_all_at(&slot, (number * SLOT_SIZE) as u64).unwrap();
        self.set_slot_status(number, TP_STATUS_USER | TP_STATUS_COPY | libc::TP_STATUS_VLAN_VALID);
    }

    fn set_slot_status(&self, number: usize, status: u32) {
        self.set(number * SLOT_SIZE + SLOT_STATUS, status);
    }

    fn block_status(&self, number: usize) -> u32 {
        self.status(number * BLOCK_SIZE + BLOCK_STATUS)
    }

    /// Which of the slots it has.
    fn own_slots(&self, count: usize) -> Vec<usize> {
        let is_own = |slot: &usize| self.status(slot * SLOT_SIZE + SLOT_STATUS) == TP_STATUS_KERNEL;
        (0..count).filter(is_own).collect()
    }
}

fn mapped(len: usize) -> (Kernel, Mapping) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    let mapping = Mapping::new(file.try_clone().unwrap().into(), len).unwrap();
    (Kernel(file), mapping)
}

fn block_ring(block_count: usize) -> (Kernel, BlockRing) {
    let (kernel, mapping) = mapped(block_count * BLOCK_SIZE);
    (kernel, BlockRing { mapping, block_size: BLOCK_SIZE, block_count, next: 0 })
}

fn slot_ring(slot_count: usize) -> (Kernel, SlotRing) {
    let (kernel, mapping) = mapped(slot_count * SLOT_SIZE);
    let oversize = vec![0; 5_000].into();
    (kernel, SlotRing { mapping, slot_size: SLOT_SIZE, slot_count, next: 0, oversize })
}

/// The bytes of every frame.
fn frames(lent: &impl Lent) -> Vec<Result<Vec<u8>, Broken>> {
    lent.frames().map(|frame| frame.map(|frame| frame.bytes.to_vec())).collect()
}

/// The numbers that the slots were handed over with.
fn numbers(slots: &Slots<'_>) -> Vec<usize> {
    slots.frames().map(|frame| u16::from_be_bytes(frame.unwrap().bytes.try_into().unwrap()).into()).collect()
}

#[test]
fn blocks_are_lent_in_order_and_given_back_round_and_round() {
    let (kernel, mut ring) = block_ring(3);
    assert!(!ring.is_ready() && ring.lend().is_none());
    for round in 0..3_u8 {
        for number in 0..3_u8 {
            kernel.hand_over_block(number.into(), &[&[round], &[round, number]]);
        }
        for number in 0..3_u8 {
            assert!(ring.is_ready());
            let block = ring.lend().unwrap();
            assert_eq!(frames(&block), [Ok(vec![round]), Ok(vec![round, number])]);
            assert_eq!(kernel.block_status(number.into()), TP_STATUS_USER, "not before it is dropped");
            drop(block);
            assert_eq!(kernel.block_status(number.into()), TP_STATUS_KERNEL);
        }
        assert!(!ring.is_ready() && ring.lend().is_none(), "none is lent twice");
    }
}

#[test]
fn a_block_of_the_kernel_is_neither_lent_nor_skipped() {
    let (kernel, mut ring) = block_ring(3);
    kernel.hand_over_block(1, &[b"second"]);
    kernel.hand_over_block(2, &[b"third"]);
    // Whatever else is said about it.
    for status in [TP_STATUS_KERNEL, TP_STATUS_LOSING, !TP_STATUS_USER] {
        kernel.set(BLOCK_STATUS, status);
        assert!(!ring.is_ready() && ring.lend().is_none());
    }
    kernel.hand_over_block(0, &[b"first"]);
    kernel.set(BLOCK_STATUS, TP_STATUS_USER | libc::TP_STATUS_BLK_TMO);
    for expected in [&b"first"[..], b"second", b"third"] {
        assert_eq!(frames(&ring.lend().unwrap()), [Ok(expected.to_vec())]);
    }
    assert!(ring.lend().is_none());
}

#[test]
fn a_block_tells_whether_it_follows_a_loss() {
    let (kernel, mut ring) = block_ring(2);
    kernel.hand_over_block(0, &[b"before"]);
    kernel.hand_over_block(1, &[b"after"]);
    kernel.set(BLOCK_SIZE + BLOCK_STATUS, TP_STATUS_USER | TP_STATUS_LOSING);
    assert!(!ring.lend().unwrap().follows_loss());
    let block = ring.lend().unwrap();
    assert!(block.follows_loss());
    assert_eq!(frames(&block), [Ok(b"after".to_vec())]);
    drop(block);
    assert_eq!(kernel.block_status(1), TP_STATUS_KERNEL);
}

#[test]
fn a_block_ring_is_drained_when_the_open_block_is_empty_too() {
    let (kernel, mut ring) = block_ring(2);
    assert!(ring.is_drained());
    kernel.hand_over_block(0, &[b"frame"]);
    assert!(!ring.is_drained(), "handed over");
    drop(ring.lend());
    assert!(ring.is_drained(), "the next one is empty");
    kernel.set(BLOCK_SIZE + BLOCK_FRAMES, 1);
    assert!(!ring.is_drained() && !ring.is_ready(), "the kernel has begun to fill it");
    kernel.hand_over_block(1, &[]);
    assert!(!ring.is_drained(), "handed over without a frame");
    drop(ring.lend());
    kernel.set(BLOCK_FRAMES, 0);
    assert!(ring.is_drained());
}

#[test]
fn a_block_that_contradicts_itself_is_given_back_like_any_other() {
    let (kernel, mut ring) = block_ring(2);
    kernel.hand_over_block(0, &[b"lost", b"lost too"]);
    kernel.set(made_blocks::BLOCK_FIRST, u32::MAX);
    kernel.hand_over_block(1, &[b"found"]);
    assert_eq!(frames(&ring.lend().unwrap()), [Err(Broken), Err(Broken)]);
    assert_eq!(kernel.block_status(0), TP_STATUS_KERNEL);
    assert_eq!(frames(&ring.lend().unwrap()), [Ok(b"found".to_vec())]);
}

#[test]
fn slots_are_lent_256_at_a_time_and_given_back_round_and_round() {
    let (kernel, mut ring) = slot_ring(600);
    for _ in 0..2 {
        (0..600).for_each(|number| kernel.hand_over_slot(number));
        for lent in [0..256, 256..512, 512..600] {
            assert!(ring.is_ready() && !ring.is_drained());
            let slots = ring.lend().unwrap();
            assert_eq!(numbers(&slots), lent.clone().collect::<Vec<_>>());
            assert_eq!(kernel.own_slots(600).len(), lent.start, "not before they are dropped");
            drop(slots);
            assert_eq!(kernel.own_slots(600), (0..lent.end).collect::<Vec<_>>());
        }
        assert!(!ring.is_ready() && ring.is_drained() && ring.lend().is_none());
    }
}

#[test]
fn a_loan_of_slots_goes_on_at_the_begin_of_the_ring_and_takes_none_twice() {
    let (kernel, mut ring) = slot_ring(8);
    (0..8).for_each(|number| kernel.hand_over_slot(number));
    assert_eq!(numbers(&ring.lend().unwrap()), [0, 1, 2, 3, 4, 5, 6, 7], "a ring smaller than a loan");

    (0..6).for_each(|number| kernel.hand_over_slot(number));
    assert_eq!(numbers(&ring.lend().unwrap()), [0, 1, 2, 3, 4, 5]);
    for number in [6, 7, 0, 1] {
        kernel.hand_over_slot(number);
    }
    assert_eq!(numbers(&ring.lend().unwrap()), [6, 7, 0, 1]);
    assert_eq!(kernel.own_slots(8).len(), 8);
    kernel.hand_over_slot(2);
    assert_eq!(numbers(&ring.lend().unwrap()), [2]);
}

#[test]
fn a_slot_of_the_kernel_is_neither_lent_nor_skipped() {
    let (kernel, mut ring) = slot_ring(8);
    // Frames that processors receive at the same time can be finished in any order.
    for number in [0, 1, 3, 4] {
        kernel.hand_over_slot(number);
    }
    kernel.set_slot_status(2, !TP_STATUS_USER);
    assert_eq!(numbers(&ring.lend().unwrap()), [0, 1]);
    assert!(!ring.is_ready() && ring.lend().is_none());
    assert!(!ring.is_drained(), "two wait behind it");
    kernel.hand_over_slot(2);
    assert_eq!(numbers(&ring.lend().unwrap()), [2, 3, 4]);
    assert!(ring.is_drained());
    assert_eq!(kernel.own_slots(8).len(), 8);
}

#[test]
fn slots_tell_whether_any_of_them_follows_a_loss() {
    let (kernel, mut ring) = slot_ring(8);
    (0..3).for_each(|number| kernel.hand_over_slot(number));
    assert!(!ring.lend().unwrap().follows_loss());
    (3..6).for_each(|number| kernel.hand_over_slot(number));
    kernel.set_slot_status(4, TP_STATUS_USER | TP_STATUS_LOSING);
    let slots = ring.lend().unwrap();
    assert!(slots.follows_loss());
    assert_eq!(numbers(&slots), [3, 4, 5]);
}

#[test]
fn a_slot_that_contradicts_itself_breaks_no_other() {
    let (kernel, mut ring) = slot_ring(8);
    (0..3).for_each(|number| kernel.hand_over_slot(number));
    kernel.set(SLOT_SIZE + made_blocks::SLOT_STORED_LEN, u32::MAX);
    assert_eq!(frames(&ring.lend().unwrap()), [Ok(vec![0, 0]), Err(Broken), Ok(vec![0, 2])]);
    assert_eq!(kernel.own_slots(8).len(), 8);
}

/// What `recv` returns for a frame of `len` bytes of value `byte`.
fn received(byte: u8, len: usize) -> Vec<u8> {
    [&[1; VNET_HEADER_LEN][..], &vec![byte; len]].concat()
}

#[test]
fn a_frame_too_large_for_its_slot_is_taken_from_the_socket_and_ends_the_loan() {
    let (kernel, mut ring) = slot_ring(8);
    let (receive_buffer, socket) = UnixDatagram::pair().unwrap();
    ring.mapping.socket = socket.into();
    (0..4).for_each(|number| kernel.hand_over_slot(number));
    kernel.hand_over_begin(1, 4_000);
    kernel.hand_over_begin(2, 5_990);
    receive_buffer.send(&received(2, 4_000)).unwrap();
    receive_buffer.send(&received(3, 5_990)).unwrap();

    let slots = ring.lend().unwrap();
    let lent: Vec<_> = slots.frames().collect();
    let whole =
        RingFrame { vnet_header: &[1; 10], bytes: &[2; 4_000], captured_len: 4_000, vlan_tag: Some(5) };
    assert_eq!(lent.len(), 2);
    assert_eq!((lent[0].unwrap().bytes, lent[1]), (&[0, 0][..], Ok(whole)));
    drop(lent);
    drop(slots);
    assert_eq!(kernel.own_slots(8), [0, 1, 4, 5, 6, 7]);

    let slots = ring.lend().unwrap();
    let lent: Vec<_> = slots.frames().map(Result::unwrap).collect();
    assert_eq!(lent.len(), 1);
    let lens = (lent[0].bytes.len(), lent[0].captured_len);
    assert_eq!(lens, (4_990, 5_990), "larger than what it is put into");
    drop(lent);
    drop(slots);

    assert_eq!(numbers(&ring.lend().unwrap()), [3]);
}

#[test]
fn a_frame_that_nobody_came_for_is_not_taken_for_the_next() {
    let (kernel, mut ring) = slot_ring(8);
    let (receive_buffer, socket) = UnixDatagram::pair().unwrap();
    ring.mapping.socket = socket.into();
    kernel.hand_over_begin(0, 3_000);
    receive_buffer.send(&received(1, 2_000)).unwrap();
    receive_buffer.send(&received(2, 3_000)).unwrap();
    assert_eq!(frames(&ring.lend().unwrap()), [Ok(vec![2; 3_000])]);
}

#[test]
fn a_frame_that_the_socket_does_not_have_is_broken_and_given_back() {
    let (kernel, mut ring) = slot_ring(8);
    (0..3).for_each(|number| kernel.hand_over_slot(number));
    kernel.hand_over_begin(1, 4_000);
    // A file is no socket at all.
    assert_eq!(frames(&ring.lend().unwrap()), [Ok(vec![0, 0]), Err(Broken)]);

    let (receive_buffer, socket) = UnixDatagram::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    ring.mapping.socket = socket.into();
    kernel.hand_over_begin(2, 4_000);
    assert_eq!(frames(&ring.lend().unwrap()), [Err(Broken)], "nothing is there");
    kernel.hand_over_begin(3, 4_000);
    receive_buffer.send(&[0; VNET_HEADER_LEN - 1]).unwrap();
    assert_eq!(frames(&ring.lend().unwrap()), [Err(Broken)], "less than a header");
    assert_eq!(kernel.own_slots(8).len(), 8);
}

#[test]
fn a_mapping_ends_with_its_ring() {
    // A length that no other test maps at the same time.
    let (_, ring) = block_ring(37);
    let start = ring.mapping.start.as_ptr() as usize;
    let range = format!("{start:x}-{:x}", start + 37 * BLOCK_SIZE);
    let is_mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&range);
    assert!(is_mapped());
    drop(ring);
    assert!(!is_mapped());
}

/// The positions that a ring is at while it lends next, and after.
fn positions(ring: &mut impl Ring) -> (Position, Position) {
    let lent = ring.lend().unwrap();
    lent.positions()
}

#[test]
fn a_position_is_one_word() {
    let position = Position { first: 7, lent: u32::MAX };
    assert_eq!(Position::from_word(position.to_word()), position);
    assert_eq!(Position::from_word(0), Position::default());
}

#[test]
fn a_ring_of_blocks_goes_on_where_it_was_left() {
    let (kernel, mut ring) = block_ring(3);
    let hand_over = |number: usize, sequence: u32| {
        kernel.hand_over_block(number, &[&[number as u8]]);
        kernel.set(number * BLOCK_SIZE + BLOCK_SEQUENCE, sequence);
    };
    let next = |ring: &mut BlockRing| frames(&ring.lend().unwrap())[0].clone().unwrap()[0];
    hand_over(0, 1);
    hand_over(1, 2);
    let (lent, after) = positions(&mut ring);
    // Given back, and written down.
    assert_eq!((ring.resume(after), next(&mut ring)), (0, 1));
    // Given back, and not written down any more; then filled again, for the first time since 2^32 blocks ago.
    assert_eq!((ring.resume(lent), ring.next), (0, 1));
    hand_over(1, u32::MAX);
    hand_over(0, 1);
    assert_eq!((ring.resume(lent), next(&mut ring)), (0, 1));
    // Not given back, with another one behind it or not.
    kernel.set(BLOCK_STATUS, TP_STATUS_KERNEL);
    hand_over(2, 5);
    let last = Position::new(2, 1);
    assert_eq!((ring.resume(last), next(&mut ring)), (1, 2));
    hand_over(2, 5);
    hand_over(0, 6);
    assert_eq!((ring.resume(last), next(&mut ring)), (1, 2));
    assert_eq!(next(&mut ring), 0);
    // What nobody has written.
    assert_eq!((ring.resume(Position { first: 99, lent: 99 }), ring.next), (0, 1));
}

#[test]
fn a_ring_of_slots_goes_on_where_it_was_left() {
    let (kernel, mut ring) = slot_ring(4);
    (0..3).for_each(|number| kernel.hand_over_slot(number));
    let (lent, after) = positions(&mut ring);
    assert_eq!((lent, after), (Position { first: 0, lent: 3 }, Position { first: 3, lent: 0 }));
    // All given back, written down or not.
    assert_eq!((ring.resume(lent), ring.next), (0, 3));
    assert_eq!((ring.resume(after), ring.next), (0, 3));
    // One given back, two not.
    kernel.hand_over_slot(1);
    kernel.hand_over_slot(2);
    assert_eq!(ring.resume(lent), 2);
    kernel.hand_over_slot(3);
    assert_eq!(numbers(&ring.lend().unwrap()), [1, 2, 3]);
    // None given back, around the end.
    kernel.hand_over_slot(3);
    kernel.hand_over_slot(0);
    assert_eq!(ring.resume(Position { first: 3, lent: 2 }), 2);
    assert_eq!(numbers(&ring.lend().unwrap()), [3, 0]);
    assert_eq!((ring.resume(Position { first: 99, lent: 99 }), ring.next), (0, 3), "what nobody has written");
}
