//! From the bytes of a block (`TPACKET_V3`) or a slot (`TPACKET_V2`) to the frames in it: pure code that believes
//! nothing it reads. Whatever the bytes are, it ends, and reads nothing outside of them.
//!
//! Source of the layouts: `linux/if_packet.h` and `Documentation/networking/packet_mmap.rst`. Each frame begins with a
//! header, followed by a `sockaddr_ll`; the packet lies `tp_mac` bytes after the header's begin, with a
//! `virtio_net_hdr` just before it.

use std::mem::{offset_of, size_of};

use libc::{
    sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket_hdr_variant1, tpacket2_hdr, tpacket3_hdr,
};

use crate::sys::memory::prefetch;
use crate::sys::packet_socket::VNET_HEADER_LEN;

const BLOCK_HEADER: usize = offset_of!(tpacket_block_desc, hdr);
/// Where the status word of a block lies, which says whose the block is.
pub(super) const BLOCK_STATUS: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, block_status);
/// Where the number of its frames lies.
pub(super) const BLOCK_FRAMES: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, num_pkts);
/// Where the low half of its sequence number lies.
pub(super) const BLOCK_SEQUENCE: usize = BLOCK_HEADER
    + offset_of!(tpacket_hdr_v1, seq_num)
    + if cfg!(target_endian = "big") { size_of::<u32>() } else { 0 };
const BLOCK_FIRST: usize = BLOCK_HEADER + offset_of!(tpacket_hdr_v1, offset_to_first_pkt);
/// Where the status word of a slot lies.
pub(super) const SLOT_STATUS: usize = offset_of!(tpacket2_hdr, tp_status);

/// Bytes before the packet and its `virtio_net_hdr`: `TPACKET3_HDRLEN` and `TPACKET2_HDRLEN`.
const FRAME_HEADER_V3: usize =
    size_of::<tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT) + size_of::<sockaddr_ll>();
const FRAME_HEADER_V2: usize =
    size_of::<tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT) + size_of::<sockaddr_ll>();

/// Most bytes that stand in a ring beside a frame: block and frame headers, and what aligning them takes.
pub(super) const OVERHEAD: usize = 192;

/// How far ahead of a frame the processor is told to fetch what comes: the kernel has written it on another processor,
/// whose cache still has it.
const AHEAD: usize = 1_024;
/// How many bytes of it.
const PREFETCHED: usize = 2_048;

/// A frame as it lies in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFrame<'a> {
    /// The `virtio_net_hdr` (`linux/virtio_net.h`).
    pub vnet_header: &'a [u8],
    /// From the link-layer header on, if there is one, as far as there was room for it.
    pub bytes: &'a [u8],
    /// Its length when it was captured, in bytes: more than `bytes` has when its end is missing.
    pub captured_len: usize,
    /// The VLAN tag that the kernel took out of it, if there was one.
    pub vlan_tag: Option<u16>,
}

/// A frame that cannot be found, because the ring contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What frame headers of both versions say, under one name each.
struct Header {
    status: u32,
    captured_len: u32,
    stored_len: u32,
    packet: u16,
    vlan_tag: u16,
}

/// The frames of a V3 block: as many as it announces, or as could be in it if it announces more, without those that the
/// kernel dropped after it had announced them. Once the way to the next one makes no sense, all behind it are broken.
#[derive(Clone, Debug)]
pub struct BlockFrames<'a> {
    block: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> BlockFrames<'a> {
    /// The frames of `block`, which begins with its `tpacket_block_desc`.
    pub fn new(block: &'a [u8]) -> Self {
        let announced = read_u32(block, BLOCK_FRAMES).unwrap_or(0) as usize;
        let first = read_u32(block, BLOCK_FIRST).map_or(usize::MAX, |first| first as usize);
        Self { block, at: first, left: announced.min(block.len() / FRAME_HEADER_V3) }
    }
}

// All that the walk consists of is `#[inline]`: compiled apart from its caller, as with several codegen units, it would be
// calls that cost more than the walk itself.
impl<'a> Iterator for BlockFrames<'a> {
    type Item = Result<RingFrame<'a>, Broken>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let Some((header, step, rest)) = self.block.get(self.at..).and_then(header_v3) else {
                self.at = usize::MAX;
                return Some(Err(Broken));
            };
            // The last frame has no next one: `left` says so, not its zero here. A step into the frame itself leads
            // nowhere.
            let ahead = self.at.saturating_add(AHEAD);
            self.at = if step < FRAME_HEADER_V3 { usize::MAX } else { self.at.saturating_add(step) };
            // Of a train only the headers are read.
            if let Some(bytes) = self.block.get(ahead..ahead.saturating_add(step.min(PREFETCHED))) {
                prefetch(bytes);
            }
            // The kernel marks a frame when it has written it. One that it announces and then cannot describe in a
            // virtio_net_hdr (tpacket_rcv) is left as it was, and among its drops.
            if header.status & libc::TP_STATUS_USER != 0 {
                return Some(frame(rest, FRAME_HEADER_V3, &header).ok_or(Broken));
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// The header at the begin of `bytes`, how far the next one is behind it, and `bytes`.
#[inline]
fn header_v3(bytes: &[u8]) -> Option<(Header, usize, &[u8])> {
    const VLAN: usize = offset_of!(tpacket3_hdr, hv1) + offset_of!(tpacket_hdr_variant1, tp_vlan_tci);
    let head = bytes.first_chunk::<FRAME_HEADER_V3>()?;
    let header = Header {
        status: read_u32(head, offset_of!(tpacket3_hdr, tp_status))?,
        captured_len: read_u32(head, offset_of!(tpacket3_hdr, tp_len))?,
        stored_len: read_u32(head, offset_of!(tpacket3_hdr, tp_snaplen))?,
        packet: read_u16(head, offset_of!(tpacket3_hdr, tp_mac))?,
        vlan_tag: read_u32(head, VLAN)? as u16,
    };
    let next = read_u32(head, offset_of!(tpacket3_hdr, tp_next_offset))?;
    Some((header, next as usize, bytes))
}

/// The frame in a V2 slot, which begins with its `tpacket2_hdr`.
///
/// # Errors
/// When what the header says is not within the slot.
#[inline]
pub fn slot_frame(slot: &[u8]) -> Result<RingFrame<'_>, Broken> {
    frame_v2(slot).ok_or(Broken)
}

#[inline]
fn frame_v2(slot: &[u8]) -> Option<RingFrame<'_>> {
    let head = slot.first_chunk::<FRAME_HEADER_V2>()?;
    let header = Header {
        status: read_u32(head, SLOT_STATUS)?,
        captured_len: read_u32(head, offset_of!(tpacket2_hdr, tp_len))?,
        stored_len: read_u32(head, offset_of!(tpacket2_hdr, tp_snaplen))?,
        packet: read_u16(head, offset_of!(tpacket2_hdr, tp_mac))?,
        vlan_tag: read_u16(head, offset_of!(tpacket2_hdr, tp_vlan_tci))?,
    };
    frame(slot, FRAME_HEADER_V2, &header)
}

/// The frame that `header`, `header_len` bytes long, describes at the begin of `bytes`.
#[inline]
fn frame<'a>(bytes: &'a [u8], header_len: usize, header: &Header) -> Option<RingFrame<'a>> {
    let packet = usize::from(header.packet);
    let vnet_header = packet.checked_sub(VNET_HEADER_LEN).filter(|start| *start >= header_len)?;
    let end = packet.checked_add(header.stored_len as usize)?;
    Some(RingFrame {
        vnet_header: bytes.get(vnet_header..packet)?,
        bytes: bytes.get(packet..end)?,
        captured_len: header.captured_len as usize,
        vlan_tag: (header.status & libc::TP_STATUS_VLAN_VALID != 0).then_some(header.vlan_tag),
    })
}

/// A frame as `recv` delivers it: its `virtio_net_hdr`, then the frame. `len` is its whole length, which is more than
/// `bytes` has when its end is missing. The tag that was taken out of it stands in its slot.
pub(super) fn received_frame(
    bytes: &[u8],
    len: usize,
    vlan_tag: Option<u16>,
) -> Result<RingFrame<'_>, Broken> {
    let (vnet_header, bytes) = bytes.split_at_checked(VNET_HEADER_LEN).ok_or(Broken)?;
    let captured_len = len.saturating_sub(VNET_HEADER_LEN);
    Ok(RingFrame { vnet_header, bytes, captured_len, vlan_tag })
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[inline]
fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
