//! The walk through one block of a `TPACKET_V3` ring: checked code over plain bytes, whoever wrote them.
//!
//! Layout as in `linux/if_packet.h`: a block begins with `tpacket_block_desc`; each frame begins with `tpacket3_hdr`,
//! then a `sockaddr_ll`, and its packet lies `tp_mac` bytes after that, with a `virtio_net_hdr` just before the packet.

use std::mem::offset_of;

use libc::{sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket3_hdr};

/// Where the block's status word lies, which says who owns the block.
pub(super) const STATUS: usize =
    offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, block_status);
const PACKETS: usize = offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, num_pkts);
const FIRST: usize = offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, offset_to_first_pkt);

const SEQUENCE: usize = offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, seq_num);

/// Where a frame's address begins: `TPACKET_ALIGN(sizeof(struct tpacket3_hdr))`.
const ADDRESS: usize = size_of::<tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
const PACKET_TYPE: usize = ADDRESS + offset_of!(sockaddr_ll, sll_pkttype);
/// What comes before the packet and its virtio header: `TPACKET3_HDRLEN`.
const HEAD_BYTES: usize = ADDRESS + size_of::<sockaddr_ll>();

/// `struct virtio_net_hdr` of `linux/virtio_net.h`: flags, `gso_type` (u8 each), `hdr_len`, `gso_size`, `csum_start`,
/// `csum_offset` (u16 each).
const VIRTIO_BYTES: usize = 10;
const VIRTIO_GSO_TYPE: usize = 1;
const VIRTIO_GSO_SIZE: usize = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: each `gso_size` bytes of payload are a datagram of their own.
const GSO_UDP_L4: u8 = 5;

/// A frame as the kernel put it into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'block> {
    /// From the Ethernet header on.
    pub bytes: &'block [u8],
    /// Its length on the wire: more than `bytes` when it was cut to fit.
    pub wire_bytes: usize,
    /// When it was received, ns of `CLOCK_REALTIME`.
    pub stamp_ns: u64,
    /// False when the sender left the checksum to a device it never passed (`TP_STATUS_CSUMNOTREADY`).
    pub checksum_ready: bool,
    /// It carried a VLAN tag, which the kernel has taken out.
    pub tagged: bool,
    /// It is addressed to another host's MAC address (`PACKET_OTHERHOST`): the IP stack does not take it.
    pub for_another: bool,
    /// For a super-frame: the payload length of each datagram in it but the last.
    pub segment_bytes: Option<usize>,
}

/// Why the rest of a block cannot be walked: the kernel does not write such blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring block broken at offset {offset}: {what}")]
pub struct BrokenBlock {
    /// Where in the block.
    pub offset: usize,
    /// What does not fit.
    pub what: &'static str,
}

/// Iterates over the frames of a block; ends after the first broken one.
#[derive(Clone, Debug)]
pub struct Frames<'block> {
    block: &'block [u8],
    offset: usize,
    left: u32,
}

impl<'block> Frames<'block> {
    /// The frames of `block`, which begins with its descriptor. Without room for one it has no frames.
    pub fn new(block: &'block [u8]) -> Self {
        // The last frame's tp_next_offset is 0 and that of others may be anything: only num_pkts says how many.
        let left = read_u32(block, PACKETS).unwrap_or(0);
        Self { block, offset: read_u32(block, FIRST).unwrap_or(0) as usize, left }
    }

    fn frame(&self) -> Result<(Frame<'block>, usize), BrokenBlock> {
        let offset = self.offset;
        let broken = |what| BrokenBlock { offset, what };
        let rest = self.block.get(offset..).ok_or(broken("frame begins behind the block"))?;
        let header = rest.first_chunk::<HEAD_BYTES>();
        let header = header.ok_or(broken("no room for the frame's header"))?;
        let field = |at| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let at = offset_of!(tpacket3_hdr, tp_mac);
        let mac = usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        let virtio = mac.checked_sub(VIRTIO_BYTES).filter(|start| *start >= header.len());
        let virtio = virtio.ok_or(broken("packet overlaps the frame's header"))?;
        let length = field(offset_of!(tpacket3_hdr, tp_snaplen)) as usize;
        let bytes =
            rest.get(mac..mac.saturating_add(length)).ok_or(broken("packet ends behind the block"))?;
        let virtio = rest.get(virtio..mac).ok_or(broken("no room for the virtio header"))?;
        let status = field(offset_of!(tpacket3_hdr, tp_status));
        let seconds = u64::from(field(offset_of!(tpacket3_hdr, tp_sec)));
        let segment = usize::from(u16::from_ne_bytes([virtio[VIRTIO_GSO_SIZE], virtio[VIRTIO_GSO_SIZE + 1]]));
        let frame = Frame {
            bytes,
            wire_bytes: field(offset_of!(tpacket3_hdr, tp_len)) as usize,
            stamp_ns: seconds * 1_000_000_000 + u64::from(field(offset_of!(tpacket3_hdr, tp_nsec))),
            checksum_ready: status & libc::TP_STATUS_CSUMNOTREADY == 0,
            tagged: status & libc::TP_STATUS_VLAN_VALID != 0,
            for_another: header[PACKET_TYPE] == libc::PACKET_OTHERHOST,
            segment_bytes: (virtio[VIRTIO_GSO_TYPE] == GSO_UDP_L4 && segment > 0).then_some(segment),
        };
        Ok((frame, field(offset_of!(tpacket3_hdr, tp_next_offset)) as usize))
    }
}

impl<'block> Iterator for Frames<'block> {
    type Item = Result<Frame<'block>, BrokenBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match self.frame() {
            // A frame that leads back onto itself would be read again and again.
            Ok((_, next)) if self.left > 0 && next < size_of::<tpacket3_hdr>() => {
                self.left = 0;
                Some(Err(BrokenBlock { offset: self.offset, what: "next frame overlaps this one's header" }))
            }
            Ok((frame, next)) => {
                self.offset = self.offset.saturating_add(next);
                Some(Ok(frame))
            }
            Err(broken) => {
                self.left = 0;
                Some(Err(broken))
            }
        }
    }
}

/// The number of a block: the kernel gives them out one by one, in the order in which it fills the blocks.
pub(super) fn sequence(block: &[u8]) -> Option<u64> {
    block.get(SEQUENCE..)?.first_chunk().map(|field| u64::from_ne_bytes(*field))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_ne_bytes(*field))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const DESCRIPTOR: usize = size_of::<tpacket_block_desc>();
    const HEADER: usize = size_of::<tpacket3_hdr>();
    const MAC: usize = HEADER + 34;

    fn put_u32(block: &mut [u8], at: usize, value: u32) {
        block[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// A block as the kernel would write it, the frames being `packets`.
    pub(in crate::sys) fn block(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut block = vec![0; DESCRIPTOR];
        put_u32(&mut block, PACKETS, packets.len() as u32);
        put_u32(&mut block, FIRST, DESCRIPTOR as u32);
        for (index, packet) in packets.iter().enumerate() {
            let start = block.len();
            let step = (MAC + packet.len()).next_multiple_of(8);
            block.resize(start + step, 0);
            let last = index + 1 == packets.len();
            let mut put = |at, value| put_u32(&mut block, start + at, value);
            put(offset_of!(tpacket3_hdr, tp_next_offset), if last { 0 } else { step as u32 });
            put(offset_of!(tpacket3_hdr, tp_sec), index as u32);
            put(offset_of!(tpacket3_hdr, tp_nsec), 5);
            put(offset_of!(tpacket3_hdr, tp_snaplen), packet.len() as u32);
            put(offset_of!(tpacket3_hdr, tp_len), packet.len() as u32);
            put(offset_of!(tpacket3_hdr, tp_status), 1);
            put(offset_of!(tpacket3_hdr, tp_mac), MAC as u32);
            block[start + MAC..start + MAC + packet.len()].copy_from_slice(packet);
        }
        block
    }

    fn walk(block: &[u8]) -> Vec<Result<Frame<'_>, BrokenBlock>> {
        Frames::new(block).collect()
    }

    #[test]
    fn the_last_frame_is_reached_although_its_next_offset_is_zero() {
        let packets = [vec![1; 60], vec![2; 61], vec![3; 1514]];
        let block = block(&packets);
        let frames: Vec<_> = Frames::new(&block).map(Result::unwrap).collect();
        assert_eq!(frames.iter().map(|frame| frame.bytes.to_vec()).collect::<Vec<_>>(), packets);
        assert_eq!(frames[2].stamp_ns, 2_000_000_005);
        assert!(frames[0].checksum_ready && !frames[0].tagged && frames[0].segment_bytes.is_none());
        assert!(!frames[0].for_another);
    }

    #[test]
    fn the_number_of_a_block_is_read() {
        let mut block = block(&[]);
        block[SEQUENCE..SEQUENCE + 8].copy_from_slice(&(u64::MAX - 1).to_ne_bytes());
        assert_eq!(sequence(&block), Some(u64::MAX - 1));
    }

    #[test]
    fn an_empty_block_and_no_block_have_no_frames() {
        assert_eq!(walk(&block(&[])), []);
        assert_eq!(walk(&[]), []);
        assert_eq!(sequence(&[]), None);
    }

    #[test]
    fn status_address_and_virtio_header_are_read() {
        let mut block = block(&[vec![0; 60]]);
        let status = libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_VLAN_VALID;
        put_u32(&mut block, DESCRIPTOR + offset_of!(tpacket3_hdr, tp_status), status);
        block[DESCRIPTOR + PACKET_TYPE] = libc::PACKET_OTHERHOST;
        let virtio = DESCRIPTOR + MAC - VIRTIO_BYTES;
        block[virtio + VIRTIO_GSO_TYPE] = GSO_UDP_L4;
        block[virtio + VIRTIO_GSO_SIZE..virtio + VIRTIO_GSO_SIZE + 2].copy_from_slice(&100_u16.to_ne_bytes());
        let frame = walk(&block)[0].unwrap();
        assert!(!frame.checksum_ready && frame.tagged && frame.for_another);
        assert_eq!(frame.segment_bytes, Some(100));
    }

    #[test]
    fn hostile_fields_end_the_walk() {
        let good = block(&[vec![1; 60], vec![2; 60]]);
        let hostile = |at: usize, value: u32| {
            let mut block = good.clone();
            put_u32(&mut block, at, value);
            walk(&block).last().unwrap().unwrap_err().what
        };
        assert_eq!(hostile(FIRST, u32::MAX), "frame begins behind the block");
        assert_eq!(hostile(FIRST, good.len() as u32 - 1), "no room for the frame's header");
        let field = |offset| DESCRIPTOR + offset;
        assert_eq!(
            hostile(field(offset_of!(tpacket3_hdr, tp_next_offset)), 0),
            "next frame overlaps this one's header"
        );
        assert_eq!(
            hostile(field(offset_of!(tpacket3_hdr, tp_snaplen)), u32::MAX),
            "packet ends behind the block"
        );
        assert_eq!(
            hostile(field(offset_of!(tpacket3_hdr, tp_mac)), 57),
            "packet overlaps the frame's header"
        );
        assert_eq!(hostile(field(offset_of!(tpacket3_hdr, tp_mac)), 65_535), "packet ends behind the block");
    }

    #[test]
    fn more_packets_than_there_are_end_in_one_error() {
        let mut block = block(&[vec![1; 60]]);
        put_u32(&mut block, PACKETS, u32::MAX);
        let results = walk(&block);
        assert_eq!(results.len(), 1);
        assert!(results[0].is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_the_walk(mut block in proptest::collection::vec(any::<u8>(), 0..600), packets: u32, first in 0_u32..600) {
            if block.len() >= DESCRIPTOR {
                put_u32(&mut block, PACKETS, packets);
                put_u32(&mut block, FIRST, first);
            }
            prop_assert!(walk(&block).len() <= block.len() / HEADER + 1);
        }
    }
}
