//! Real traffic, recorded in a pcap or pcapng file: what of it can be sent again as it was, and how it is known at a sink.
//!
//! A recording has no numbers of the lab's in it. What came is known by all bytes of its payload, and what was lost, doubled
//! or put out of order by the sequence of its flow, once everything has come (`RecordedTally` of [`crate::tally`]).
//!
//! Only what can be checked is sent: every datagram to a group, of one address family, that a relay has to relay. The rest
//! of the file is left out, and counted by reason.

mod error;
mod file;
mod select;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Fault, ReplayError};
pub use select::LeftOut;

use crate::schedule::due_ns;
use crate::topology::Family;
use file::{Packet, Packets};
use select::Selected;

/// Most datagrams of a recording: they are kept in memory, and so are their payloads a second time.
pub const MOST_DATAGRAMS: u64 = 1_000_000;
/// Most bytes of their frames.
const MOST_BYTES: usize = 512 << 20;
/// Most flows: a rule for each.
pub const MOST_FLOWS: usize = 1_000;
const NANOS: u64 = 1_000_000_000;

/// When recorded datagrams are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Evenly, at the rate of the trial.
    Even,
    /// At the distances of the recording.
    Recorded,
}

/// A recording, and how it is sent.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What.
    pub recording: Arc<Recording>,
    /// When.
    pub pace: Pace,
}

impl Replay {
    /// When datagram number `index` is due at `rate_pps`, ns after the first.
    pub fn due_ns(&self, index: usize, rate_pps: u64) -> u64 {
        match self.pace {
            Pace::Even => due_ns(index as u64, rate_pps),
            Pace::Recorded => {
                self.recording.datagrams().get(index).map_or(u64::MAX, |datagram| datagram.at_ns)
            }
        }
    }
}

/// What of a file is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// So many datagrams at most, from the first on.
    pub datagrams: u64,
    /// And only those that were recorded within this time from the first on.
    pub span: Option<Duration>,
    /// Of this address family.
    pub family: Family,
    /// For a link of this MTU.
    pub mtu: u32,
}

/// One datagram of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Which flow it belongs to.
    pub flow: u16,
    /// Number of its payload: equal bytes have the same.
    pub content: u32,
    /// When it was recorded, ns after the first; never before the one that it follows.
    pub at_ns: u64,
    /// Where its frame is.
    frame: Range<usize>,
}

/// Datagrams to groups as they were recorded; never none.
#[derive(Clone, Default)]
pub struct Recording {
    name: String,
    frames: Vec<u8>,
    datagrams: Vec<Datagram>,
    flows: Vec<SocketAddr>,
    /// Every payload and its number.
    contents: HashMap<Box<[u8]>, u32>,
    largest_payload: usize,
    left_out: BTreeMap<LeftOut, u64>,
    /// Whether the file has more than was to be read.
    is_cut: bool,
}

impl Recording {
    /// Reads what is in `bounds` of the file at `path`.
    ///
    /// # Errors
    /// What makes the file, or a datagram in it, unfit; and a file without anything to be sent.
    pub fn read(path: &Path, bounds: &Bounds) -> Result<Self, ReplayError> {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut recording = Self { name, ..Self::default() };
        recording.fill(path, bounds).map_err(|fault| ReplayError { path: path.to_owned(), fault })?;
        Ok(recording)
    }

    fn fill(&mut self, path: &Path, bounds: &Bounds) -> Result<(), Fault> {
        let mut packets = Packets::open(path)?;
        let mut flows = HashMap::new();
        let mut first_ns = None;
        while let Some(packet) = packets.next()? {
            let selected = match select::select(&packet, bounds.family) {
                Ok(selected) => selected,
                Err(why) => {
                    self.leave_out(why);
                    continue;
                }
            };
            let at_ns = packet.at_ns.saturating_sub(*first_ns.get_or_insert(packet.at_ns));
            // Who records several queues may write them in another order.
            let at_ns = self.datagrams.last().map_or(at_ns, |last| last.at_ns.max(at_ns));
            let is_late = bounds.span.is_some_and(|span| u128::from(at_ns) >= span.as_nanos());
            if is_late || self.datagrams.len() as u64 >= bounds.datagrams {
                self.is_cut = true;
                break;
            }
            self.add(&packet, selected, at_ns, bounds.mtu, &mut flows)?;
        }
        if packets.is_broken_off() {
            self.leave_out(LeftOut::Truncated);
        }
        if self.datagrams.is_empty() { Err(Fault::Nothing(left_out(&self.left_out))) } else { Ok(()) }
    }

    fn add(
        &mut self,
        packet: &Packet,
        selected: Selected,
        at_ns: u64,
        mtu: u32,
        flows: &mut HashMap<SocketAddr, u16>,
    ) -> Result<(), Fault> {
        let Selected { destination, payload, packet_bytes } = selected;
        if packet_bytes > mtu as usize {
            return Err(Fault::OverMtu { number: packet.number, packet_bytes, mtu });
        }
        let start = self.frames.len();
        let frame = start..start + packet.frame.len();
        if frame.end > MOST_BYTES {
            return Err(Fault::Bytes);
        }
        let flow = match flows.get(&destination) {
            Some(flow) => *flow,
            None if self.flows.len() == MOST_FLOWS => return Err(Fault::Flows),
            None => {
                let flow = self.flows.len() as u16;
                self.flows.push(destination);
                flows.insert(destination, flow);
                flow
            }
        };
        self.largest_payload = self.largest_payload.max(payload.len());
        let next = self.contents.len() as u32;
        let content = *self.contents.entry(payload).or_insert(next);
        self.frames.extend_from_slice(&packet.frame);
        self.datagrams.push(Datagram { flow, content, at_ns, frame });
        Ok(())
    }

    fn leave_out(&mut self, why: LeftOut) {
        *self.left_out.entry(why).or_default() += 1;
    }

    /// The datagrams in the order of the file.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// Where each flow goes to.
    pub fn flows(&self) -> &[SocketAddr] {
        &self.flows
    }

    /// The frame of one of its datagrams, from the Ethernet header on, as it was recorded.
    pub fn frame(&self, datagram: &Datagram) -> &[u8] {
        self.frames.get(datagram.frame.clone()).unwrap_or_default()
    }

    /// The number of a payload; `None` of one that is in no datagram.
    pub fn content(&self, payload: &[u8]) -> Option<u32> {
        self.contents.get(payload).copied()
    }

    /// Bytes of the largest payload.
    pub fn largest_payload(&self) -> usize {
        self.largest_payload
    }

    /// Packets of the file that are not sent, by reason.
    pub fn left_out(&self) -> &BTreeMap<LeftOut, u64> {
        &self.left_out
    }

    /// Datagrams per second at the distances of the recording, rounded down, and not more than there are: one that is over
    /// sooner counts as followed by silence until a second is. 0 when it has less than one a second.
    pub fn mean_pps(&self) -> u64 {
        let count = self.datagrams.len() as u64;
        let span_ns = self.datagrams.last().map_or(0, |last| last.at_ns);
        // From one to the next, so that the last is not followed by less than others are.
        let gaps = u128::from(count.saturating_sub(1));
        let mean = (gaps * u128::from(NANOS)).checked_div(span_ns.into());
        mean.and_then(|mean| u64::try_from(mean).ok()).map_or(count, |mean| mean.min(count))
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recording").field(&self.to_string()).finish()
    }
}

impl fmt::Display for Recording {
    /// What of the file is sent and what is not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, datagrams, flows) = (&self.name, self.datagrams.len(), self.flows.len());
        let up_to = if self.is_cut { "the first " } else { "" };
        write!(f, "{name}: {up_to}{datagrams} datagrams to groups, flows {flows}")?;
        if !self.left_out.is_empty() {
            write!(f, "; not sent: {}", left_out(&self.left_out))?;
        }
        if self.is_cut {
            f.write_str("; what follows is beyond traffic.duration or traffic.datagrams")?;
        }
        Ok(())
    }
}

fn left_out(counts: &BTreeMap<LeftOut, u64>) -> String {
    let told: Vec<_> = counts.iter().map(|(why, count)| format!("{count} {why}")).collect();
    told.join(", ")
}

#[cfg(test)]
pub(crate) mod tests;
