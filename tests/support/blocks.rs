//! Blocks and slots as the kernel writes them (`tpacket_rcv`, `prb_fill_curr_block`), for
//! whatever reads them: tests, benchmarks, fuzzing. Knows nothing of the relay.

#![allow(dead_code, unreachable_pub)]

use std::mem::{offset_of, size_of};

use libc::{
    TPACKET_ALIGNMENT, sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket_hdr_variant1, tpacket2_hdr,
    tpacket3_hdr,
};

/// Bytes of a `virtio_net_hdr`.
pub const VNET_HEADER_LEN: usize = 10;
/// Bytes of a block's own header; the first frame follows.
pub const BLOCK_HEADER_LEN: usize = size_of::<tpacket_block_desc>();
/// Bytes of a V3 frame's header and the address behind it.
pub const FRAME_HEADER_LEN: usize =
    size_of::<tpacket3_hdr>().next_multiple_of(TPACKET_ALIGNMENT) + size_of::<sockaddr_ll>();
/// The same of a V2 slot.
pub const SLOT_HEADER_LEN: usize =
    size_of::<tpacket2_hdr>().next_multiple_of(TPACKET_ALIGNMENT) + size_of::<sockaddr_ll>();

/// Where the fields of a block's header lie.
pub const BLOCK_STATUS: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, block_status);
pub const BLOCK_FRAMES: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, num_pkts);
pub const BLOCK_FIRST: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, offset_to_first_pkt);
const BLOCK_HEADER: usize = offset_of!(tpacket_block_desc, hdr);
const BLOCK_LEN: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, blk_len);

/// Where the fields of a V3 frame's header lie.
pub const NEXT: usize = offset_of!(tpacket3_hdr, tp_next_offset);
pub const STORED_LEN: usize = offset_of!(tpacket3_hdr, tp_snaplen);
pub const CAPTURED_LEN: usize = offset_of!(tpacket3_hdr, tp_len);
pub const STATUS: usize = offset_of!(tpacket3_hdr, tp_status);
pub const PACKET: usize = offset_of!(tpacket3_hdr, tp_mac);
const NETWORK: usize = offset_of!(tpacket3_hdr, tp_net);
pub const VLAN_TAG: usize = offset_of!(tpacket3_hdr, hv1) + offset_of!(tpacket_hdr_variant1, tp_vlan_tci);

/// Where the fields of a V2 slot's header lie.
pub const SLOT_STATUS: usize = offset_of!(tpacket2_hdr, tp_status);
pub const SLOT_STORED_LEN: usize = offset_of!(tpacket2_hdr, tp_snaplen);
pub const SLOT_CAPTURED_LEN: usize = offset_of!(tpacket2_hdr, tp_len);
pub const SLOT_PACKET: usize = offset_of!(tpacket2_hdr, tp_mac);
const SLOT_NETWORK: usize = offset_of!(tpacket2_hdr, tp_net);
const SLOT_VLAN_TAG: usize = offset_of!(tpacket2_hdr, tp_vlan_tci);

/// Bytes from a frame's header to its Ethernet header (`macoff`): what follows that one, the IP header, is aligned but
/// for the `virtio_net_hdr` before both.
const fn packet_offset(header_len: usize) -> usize {
    const ETHERNET: usize = 14;
    const ROOM_FOR_LINK_HEADER: usize = 16;
    (header_len + ROOM_FOR_LINK_HEADER).next_multiple_of(TPACKET_ALIGNMENT) + VNET_HEADER_LEN - ETHERNET
}

/// A frame that the kernel has captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub vnet_header: [u8; VNET_HEADER_LEN],
    /// As many of its bytes as there was room for.
    pub bytes: Vec<u8>,
    /// How many more it had.
    pub cut: u32,
    /// The tag that was taken out of it.
    pub vlan_tag: Option<u16>,
}

impl Captured {
    /// A whole, untagged frame.
    pub fn whole(bytes: &[u8]) -> Self {
        Self { vnet_header: [0; VNET_HEADER_LEN], bytes: bytes.to_vec(), cut: 0, vlan_tag: None }
    }

    fn status(&self) -> u32 {
        let vlan_valid = if self.vlan_tag.is_some() { libc::TP_STATUS_VLAN_VALID } else { 0 };
        libc::TP_STATUS_USER | vlan_valid
    }

    fn captured_len(&self) -> u32 {
        self.bytes.len() as u32 + self.cut
    }

    /// Puts the frame, and the address behind its header, where they belong in `place`.
    fn store(&self, place: &mut [u8], header_len: usize) {
        let address = &mut place[header_len - size_of::<sockaddr_ll>()..header_len];
        put_u16(address, offset_of!(sockaddr_ll, sll_family), libc::AF_PACKET as u16);
        put_u16(address, offset_of!(sockaddr_ll, sll_protocol), (libc::ETH_P_IP as u16).to_be());
        put_u32(address, offset_of!(sockaddr_ll, sll_ifindex), 2);
        let packet = packet_offset(header_len);
        place[packet - VNET_HEADER_LEN..packet].copy_from_slice(&self.vnet_header);
        place[packet..packet + self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

/// A block of `size` bytes that is handed over with as many of `frames` as there is room for, and where in it the
/// header of each begins.
pub fn block<'a>(size: usize, frames: impl IntoIterator<Item = &'a Captured>) -> (Vec<u8>, Vec<usize>) {
    let mut block = left_over(size);
    let mut starts: Vec<usize> = Vec::new();
    let mut end = BLOCK_HEADER_LEN;
    for captured in frames {
        let len = (packet_offset(FRAME_HEADER_LEN) + captured.bytes.len()).next_multiple_of(8);
        // The kernel leaves a byte at least.
        if end + len >= size {
            break;
        }
        store_v3(&mut block[end..], captured, len as u32);
        starts.push(end);
        end += len;
    }
    if let Some(last) = starts.last() {
        put_u32(&mut block, last + NEXT, 0);
    }
    put_u32(&mut block, offset_of!(tpacket_block_desc, version), 1);
    put_u32(&mut block, offset_of!(tpacket_block_desc, offset_to_priv), BLOCK_HEADER_LEN as u32);
    put_u32(&mut block, BLOCK_STATUS, libc::TP_STATUS_USER);
    put_u32(&mut block, BLOCK_FRAMES, starts.len() as u32);
    put_u32(&mut block, BLOCK_FIRST, BLOCK_HEADER_LEN as u32);
    put_u32(&mut block, BLOCK_LEN, end as u32);
    (block, starts)
}

fn store_v3(place: &mut [u8], captured: &Captured, step: u32) {
    let packet = packet_offset(FRAME_HEADER_LEN) as u16;
    put_u32(place, NEXT, step);
    put_u32(place, STORED_LEN, captured.bytes.len() as u32);
    put_u32(place, CAPTURED_LEN, captured.captured_len());
    put_u32(place, STATUS, captured.status());
    put_u16(place, PACKET, packet);
    put_u16(place, NETWORK, packet + 14);
    put_u32(place, VLAN_TAG, captured.vlan_tag.unwrap_or(0).into());
    captured.store(place, FRAME_HEADER_LEN);
}

/// A slot of `size` bytes, which has room for `captured`, handed over.
pub fn slot(size: usize, captured: &Captured) -> Vec<u8> {
    let mut slot = left_over(size);
    let packet = packet_offset(SLOT_HEADER_LEN) as u16;
    put_u32(&mut slot, SLOT_STATUS, captured.status());
    put_u32(&mut slot, SLOT_STORED_LEN, captured.bytes.len() as u32);
    put_u32(&mut slot, SLOT_CAPTURED_LEN, captured.captured_len());
    put_u16(&mut slot, SLOT_PACKET, packet);
    put_u16(&mut slot, SLOT_NETWORK, packet + 14);
    put_u16(&mut slot, SLOT_VLAN_TAG, captured.vlan_tag.unwrap_or(0));
    captured.store(&mut slot, SLOT_HEADER_LEN);
    slot
}

/// What the kernel does not write is left over from earlier rounds of the ring.
fn left_over(size: usize) -> Vec<u8> {
    vec![0xa5; size]
}

pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}
