//! The program `lab/bpf/sink.bpf.c`: loading, attaching, and what it has counted.

use std::error::Error;
use std::net::IpAddr;

use aya::maps::{Array, Map, MapData, MapError, RingBuf};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use hdrhistogram::Histogram;

use super::checks::{self, Checks};
use super::latency;
use crate::bpf;
use crate::datagram::{ACTUAL, INTENDED};
use crate::disturbance::{Arrivals, Span, least_silence_ns};
use crate::plan::{Flow, LatencyFrom, Plan};
use crate::tally::Ahead;
use crate::topology::{Checksum, Link};

/// Bytes of Ethernet, IPv6 and UDP headers, and what a frame of the smallest payload is padded to.
const HEADERS_BYTES: usize = 14 + 40 + 8;
/// What a frame may have beside the MTU: Ethernet header and a VLAN tag.
const BESIDE_MTU_BYTES: u32 = 14 + 4;
/// `WORDS_PER_CHUNK` of the program.
const WORDS_PER_CHUNK: usize = 512;
/// Bytes of the ring of events (`max_entries` of the program's map).
pub(super) const EVENTS_BYTES: usize = 32 << 20;
/// `enum counter` of the program.
const COUNTERS: usize = 12;

/// Whatever the loader or a map says.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// What the program counted, and what it could not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Whole datagrams that were counted in the kernel: measured ones, and of the warm-up.
    pub(super) counted: u64,
    pub(super) warm_up: u64,
    /// Frames that are no UDP.
    pub(super) other_frames: u64,
    /// Measured datagrams before the time that their latency runs from.
    pub(super) before_their_time: u64,
    /// Frames that user space should have judged and the ring had no room for.
    pub(super) events_lost: u64,
    /// Frames of another queue than the first, which are not counted.
    pub(super) other_queue: u64,
    /// When the last whole datagram of the warm-up came, ns of `CLOCK_REALTIME`; 0 before that.
    pub(super) warm_up_last_ns: u64,
    /// When the first and the last whole measured datagram came, likewise.
    first_ns: u64,
    last_ns: u64,
    /// The longest time between two of them.
    longest: Span,
    /// How many such times were kept.
    silences: u64,
}

/// The counters of a running program.
pub(super) struct Counters(Array<MapData, [u64; COUNTERS]>);

impl Counters {
    pub(super) fn read(&self) -> Result<Counts, MapError> {
        let [
            counted,
            warm_up,
            other_frames,
            before_their_time,
            events_lost,
            other_queue,
            warm_up_last_ns,
            first_ns,
            last_ns,
            from_ns,
            to_ns,
            silences,
        ] = self.0.get(&0, 0)?;
        Ok(Counts {
            counted,
            warm_up,
            other_frames,
            before_their_time,
            events_lost,
            other_queue,
            warm_up_last_ns,
            first_ns,
            last_ns,
            longest: Span { from_ns, to_ns },
            silences,
        })
    }
}

/// The maps that are read in the end.
pub(super) struct Maps {
    progresses: Array<MapData, [u64; 3]>,
    seen: Array<MapData, [u64; WORDS_PER_CHUNK]>,
    latencies: Array<MapData, u64>,
    silences: Array<MapData, [u64; 2]>,
}

impl Maps {
    /// What was counted ahead of the tally.
    pub(super) fn ahead(&self, counts: &Counts) -> Result<Ahead, MapError> {
        let received = self.progresses.iter().map(|progress| progress.map(|[_, counted, _]| counted));
        let mut seen = Vec::with_capacity(self.seen.len() as usize * WORDS_PER_CHUNK);
        for chunk in self.seen.iter() {
            seen.extend(chunk?);
        }
        Ok(Ahead { warm_up: counts.warm_up, received: received.collect::<Result<_, _>>()?, seen })
    }

    /// When whole measured datagrams came.
    pub(super) fn arrivals(&self, counts: &Counts) -> Result<Arrivals, MapError> {
        let mut silences = Vec::new();
        for number in 0..u32::try_from(counts.silences).unwrap_or(u32::MAX).min(self.silences.len()) {
            let [from_ns, to_ns] = self.silences.get(&number, 0)?;
            silences.push(Span { from_ns, to_ns });
        }
        let Counts { first_ns, last_ns, longest, .. } = *counts;
        Ok(Arrivals { first_ns, last_ns, longest, silences })
    }

    /// Adds the latencies to `histogram`.
    pub(super) fn record_latencies(&self, histogram: &mut Histogram<u64>) -> Result<(), MapError> {
        for bucket in 0..latency::BUCKETS.min(self.latencies.len()) {
            latency::record(histogram, bucket, self.latencies.get(&bucket, 0)?);
        }
        Ok(())
    }
}

/// The program, loaded. It counts from [`Program::attach`] until it is dropped.
pub(super) struct Program {
    ebpf: Ebpf,
    pub(super) events: RingBuf<MapData>,
    pub(super) maps: Maps,
}

impl Program {
    /// Loads the program for `plan` over `link`, to a device with the address `mac`.
    pub(super) fn load(
        plan: &Plan,
        link: Link,
        mac: [u8; 6],
        tai_offset_ns: u64,
    ) -> Result<(Self, Counters), Failure> {
        let checks = Checks::new(plan.payload_bytes);
        let mut address = [0; 8];
        address[..mac.len()].copy_from_slice(&mac);
        let latency_from = match plan.latency_from {
            LatencyFrom::Intended => INTENDED,
            LatencyFrom::Sent => ACTUAL,
        };
        let numbers: [(&str, u32); 9] = [
            ("run", plan.run.into()),
            ("flow_count", plan.flows.len() as u32),
            ("payload_bytes", plan.payload_bytes as u32),
            ("crc32_of_zeros", checks.crc32_of_zeros),
            ("crc8_of_zeros", checks.crc8_of_zeros.into()),
            ("latency_from", latency_from as u32),
            ("checksum_is_left", u32::from(link.checksum == Checksum::Offload)),
            ("usual_frame_bytes", (plan.payload_bytes + HEADERS_BYTES) as u32),
            ("most_frame_bytes", link.mtu + BESIDE_MTU_BYTES),
        ];
        let mac = u64::from_ne_bytes(address);
        let chunks = plan.datagrams.div_ceil(64 * WORDS_PER_CHUNK as u64).max(1);
        let mut loader = EbpfLoader::new();
        // Nothing of the kernel's own types is used.
        loader.btf(None);
        for (name, number) in &numbers {
            loader.override_global(name, number, true);
        }
        loader.override_global("mac", &mac, true);
        loader.override_global("tai_offset_ns", &tai_offset_ns, true);
        let least_silence_ns = least_silence_ns(plan);
        loader.override_global("least_silence_ns", &least_silence_ns, true);
        loader.map_max_entries("flows", plan.flows.len() as u32);
        loader.map_max_entries("progresses", plan.flows.len() as u32);
        loader.map_max_entries("seen", u32::try_from(chunks)?);
        let mut ebpf = loader.load(&bpf::sink())?;
        // Before its maps are taken: from then on it keeps them itself.
        xdp(&mut ebpf)?.load()?;
        array::<[u32; checks::WORDS]>(&mut ebpf, "checks_map")?.set(0, checks.value()?, 0)?;
        let mut flows = array::<[u64; 4]>(&mut ebpf, "flows")?;
        for (index, (flow, number)) in (0..).zip(plan.flows.iter().zip(0..)) {
            flows.set(index, delivery(flow, plan.expected(number)), 0)?;
        }
        let maps = Maps {
            progresses: array(&mut ebpf, "progresses")?,
            seen: array(&mut ebpf, "seen")?,
            latencies: array(&mut ebpf, "latencies")?,
            silences: array(&mut ebpf, "silences")?,
        };
        let counters = Counters(array(&mut ebpf, "counters")?);
        let events = RingBuf::try_from(map(&mut ebpf, "events")?)?;
        Ok((Self { ebpf, events, maps }, counters))
    }

    /// Attaches it to a device of the calling thread's network namespace, in the driver: what runs after the frame has
    /// become a socket buffer would cost what it is to save.
    pub(super) fn attach(&mut self, device_index: u32) -> Result<(), Failure> {
        xdp(&mut self.ebpf)?.attach_to_if_index(device_index, XdpMode::Driver)?;
        Ok(())
    }

    /// Takes the program off its device: what it has counted does not change any more.
    pub(super) fn detach(self) -> (RingBuf<MapData>, Maps) {
        (self.events, self.maps)
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Failure> {
    Ok(ebpf.program_mut("sink").ok_or("the object has no program \"sink\"")?.try_into()?)
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map, Failure> {
    ebpf.take_map(name).ok_or_else(|| format!("the object has no map \"{name}\"").into())
}

fn array<V: Pod>(ebpf: &mut Ebpf, name: &str) -> Result<Array<MapData, V>, Failure> {
    Ok(Array::try_from(map(ebpf, name)?)?)
}

/// `struct flow` of the program: address and port as they lie in the headers, and how many datagrams there are.
fn delivery(flow: &Flow, expected: u64) -> [u64; 4] {
    let mut octets = [0; 16];
    match flow.delivered.ip() {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    let (halves, _) = octets.as_chunks::<8>();
    let half = |index: usize| halves.get(index).map_or(0, |half| u64::from_ne_bytes(*half));
    let port = u16::from_ne_bytes(flow.delivered.port().to_be_bytes());
    [half(0), half(1), port.into(), expected]
}
