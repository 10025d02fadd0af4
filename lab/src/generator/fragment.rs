//! Cutting a frame into frames: IPv4 fragments of a datagram that is larger than the MTU.

use super::template::{ETHERNET_BYTES, IPV4_BYTES};
use crate::checksum;
use crate::fragments::Fragments;

/// What every fragment repeats: Ethernet and IPv4 headers.
const HEAD_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES;

// Fields of the IPv4 header (RFC 791 §3.1).
const TOTAL_LENGTH: usize = ETHERNET_BYTES + 2;
const IDENTIFICATION: usize = ETHERNET_BYTES + 4;
const FLAGS_AND_OFFSET: usize = ETHERNET_BYTES + 6;
const CHECKSUM: usize = ETHERNET_BYTES + 10;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Bytes that all fragments take together beyond the whole frame: the headers that are repeated.
pub(super) fn repeated_bytes(fragments: Fragments) -> usize {
    (fragments.count() - 1) * HEAD_BYTES
}

/// Cuts the whole frame that stands at the end of `slot`, behind [`repeated_bytes`], into its fragments, side by side
/// from the beginning of `slot` on. A slot that is too short is left alone.
pub(super) fn cut(slot: &mut [u8], fragments: Fragments, identification: u16) {
    let data_at = repeated_bytes(fragments) + HEAD_BYTES;
    let Some(mut head) = slot.get(..data_at).and_then(|heads| heads.last_chunk::<HEAD_BYTES>().copied())
    else {
        return;
    };
    head[IDENTIFICATION..FLAGS_AND_OFFSET].copy_from_slice(&identification.to_be_bytes());
    let data_bytes = slot.len() - data_at;
    for (index, part) in fragments.parts().take_while(|part| part.end <= data_bytes).enumerate() {
        // Where a part belongs never lies behind where it is, nor where any later part is: going forward, nothing is
        // written over before it was moved.
        let frame_at = index * HEAD_BYTES + part.start;
        slot.copy_within(data_at + part.start..data_at + part.end, frame_at + HEAD_BYTES);
        write_fields(&mut head, part.start, part.len(), index + 1 < fragments.count());
        slot[frame_at..frame_at + HEAD_BYTES].copy_from_slice(&head);
    }
}

/// Says in `head` which part of its datagram the fragment is.
fn write_fields(head: &mut [u8; HEAD_BYTES], offset: usize, length: usize, more: bool) {
    let total = (IPV4_BYTES + length) as u16;
    let flags = if more { MORE_FRAGMENTS } else { 0 } | (offset / 8) as u16;
    head[TOTAL_LENGTH..TOTAL_LENGTH + 2].copy_from_slice(&total.to_be_bytes());
    head[FLAGS_AND_OFFSET..FLAGS_AND_OFFSET + 2].copy_from_slice(&flags.to_be_bytes());
    head[CHECKSUM..CHECKSUM + 2].fill(0);
    let checksum = checksum::finish(checksum::add(0, &head[ETHERNET_BYTES..]));
    head[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
