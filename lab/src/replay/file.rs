//! The packets of a pcap or pcapng file, one by one, whatever is in them.
//!
//! `pcap-parser` reads both formats, in either byte order and as a stream, without `unsafe`. Times are computed here: its own
//! way knows no units that are powers of two.

use std::fs::File;
use std::path::Path;

use pcap_parser::pcapng::{Block, EnhancedPacketBlock, InterfaceDescriptionBlock};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader};

use super::Fault;

/// Bytes read ahead; a block that is larger is no packet that anybody records.
const BUFFER_BYTES: usize = 1 << 20;
const NANOS: u128 = 1_000_000_000;
/// The block that pcapng had for packets before the enhanced one.
const OBSOLETE_PACKET: u32 = 2;

/// A packet as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// When it was recorded, ns.
    pub(super) at_ns: u64,
    /// From the Ethernet header on.
    pub(super) frame: Vec<u8>,
    /// Its length on the wire: more than `frame` when it was cut short.
    pub(super) wire_bytes: usize,
}

/// Reads a file.
pub(super) struct Packets {
    reader: Box<dyn PcapReaderIterator + Send>,
    interfaces: Interfaces,
    number: u64,
    is_broken_off: bool,
}

impl Packets {
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let reader = create_reader(BUFFER_BYTES, File::open(path)?).map_err(|error| match error {
            PcapError::ReadError => Fault::Unreadable(std::io::Error::other("cannot be read")),
            _ => Fault::NoCapture,
        })?;
        Ok(Self { reader, interfaces: Interfaces::default(), number: 0, is_broken_off: false })
    }

    /// The packet that comes next.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Fault> {
        loop {
            let packet = match self.reader.next() {
                Ok((bytes, block)) => {
                    let packet = self.interfaces.packet(block, self.number + 1)?;
                    self.reader.consume(bytes);
                    packet
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::UnexpectedEof) => {
                    self.is_broken_off = true;
                    return Ok(None);
                }
                Err(PcapError::Incomplete(_)) => {
                    self.reader.refill().map_err(|_| Fault::Broken(self.number))?;
                    None
                }
                Err(_) => return Err(Fault::Broken(self.number)),
            };
            if packet.is_some() {
                self.number += 1;
                return Ok(packet);
            }
        }
    }

    /// Whether the file ends in the midst of a packet, as it does when whoever recorded it was killed.
    pub(super) fn is_broken_off(&self) -> bool {
        self.is_broken_off
    }
}

/// Where packets were recorded, of the section of the file that is being read.
#[derive(Debug, Default)]
struct Interfaces(Vec<Interface>);

#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: Linktype,
    /// Units of time in a second; `None` when the file names one that is none.
    units: Option<u128>,
}

impl Interfaces {
    /// The packet in `block`, which would be number `number`; `None` when the block tells something else.
    fn packet(&mut self, block: PcapBlockOwned<'_>, number: u64) -> Result<Option<Packet>, Fault> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => self.0 = vec![Interface::of_file(&header)],
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.0.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.0.push(Interface::described(&interface));
            }
            PcapBlockOwned::Legacy(block) => {
                let units = self.checked(0, number)?;
                let at_ns = u128::from(block.ts_sec) * NANOS + u128::from(block.ts_usec) * NANOS / units;
                return packet(number, at_ns, block.data, block.origlen);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let units = self.checked(block.if_id, number)?;
                return packet(number, ticks(&block) * NANOS / units, block.packet_data(), block.origlen);
            }
            PcapBlockOwned::NG(Block::SimplePacket(_)) => return Err(Fault::NoTime(number)),
            PcapBlockOwned::NG(Block::Unknown(block)) if block.block_type == OBSOLETE_PACKET => {
                return Err(Fault::NoTime(number));
            }
            PcapBlockOwned::NG(_) => {}
        }
        Ok(None)
    }

    /// Units of time in a second of interface `id`, which is an Ethernet interface.
    fn checked(&self, id: u32, number: u64) -> Result<u128, Fault> {
        let interface = self.0.get(id as usize).ok_or(Fault::Broken(number - 1))?;
        // The upper half of a pcap file's is about checksums of frames.
        let link_type = interface.link_type.0 & 0xFFFF;
        if link_type != Linktype::ETHERNET.0 {
            return Err(Fault::LinkType { number, link_type });
        }
        interface.units.ok_or(Fault::NoTime(number))
    }
}

impl Interface {
    fn of_file(header: &PcapHeader) -> Self {
        let units = if header.is_nanosecond_precision() { NANOS } else { 1_000_000 };
        Self { link_type: header.network, units: Some(units) }
    }

    /// Units are 10 to the power of `if_tsresol`, or with its highest bit 2 to the power of the others.
    fn described(block: &InterfaceDescriptionBlock<'_>) -> Self {
        let power = u32::from(block.if_tsresol & 0x7F);
        let base: u128 = if block.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        // More would leave no room to compute with.
        let units = base.checked_pow(power).filter(|units| *units <= u128::from(u64::MAX));
        Self { link_type: block.linktype, units }
    }
}

fn ticks(block: &EnhancedPacketBlock<'_>) -> u128 {
    u128::from(block.ts_high) << 32 | u128::from(block.ts_low)
}

fn packet(number: u64, at_ns: u128, frame: &[u8], wire_bytes: u32) -> Result<Option<Packet>, Fault> {
    let at_ns = u64::try_from(at_ns).map_err(|_| Fault::NoTime(number))?;
    Ok(Some(Packet { number, at_ns, frame: frame.to_vec(), wire_bytes: wire_bytes as usize }))
}
