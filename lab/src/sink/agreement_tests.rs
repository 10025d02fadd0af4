//! The same frames to every kind of sink: what they report is the same.

use super::tests::{open, plan_of, send_frames, topology, wait_until_received};
use super::*;
use crate::datagram::{Encoder, Header, Stamps};
use crate::plan::LatencyFrom;
use crate::topology::{Checksum, Segmentation, Topology};

const DATAGRAMS: u64 = 400;
/// To the group of `plan_of`.
const GROUP_MAC: [u8; 6] = [1, 0, 0x5E, 82, 1, 1];

/// Frames as a relay might send them, good and bad.
struct Frames {
    encoder: Encoder,
    payload_bytes: usize,
    all: Vec<Vec<u8>>,
}

impl Frames {
    fn new(payload_bytes: usize) -> Self {
        Self { encoder: Encoder::new(payload_bytes), payload_bytes, all: Vec::new() }
    }

    fn payload(&self, sequence: u64) -> Vec<u8> {
        self.payload_as(&Header { run: 1, flow: 0, sequence, kind: Kind::Measured })
    }

    fn payload_as(&self, header: &Header) -> Vec<u8> {
        let mut payload = vec![0; self.payload_bytes];
        // Latencies of all sizes, and some before their time.
        let intended_ns = match header.sequence % 3 {
            0 => realtime_ns() + 3_600_000_000_000,
            _ => realtime_ns() - (1 << (header.sequence % 30)),
        };
        self.encoder.encode(&mut payload, header, Stamps { intended_ns, actual_ns: 2 });
        payload
    }

    /// A frame with its checksums over `payload`.
    fn push(&mut self, payload: &[u8]) -> &mut Vec<u8> {
        let mut frame = crate::frame::tests::ipv4_frame(payload, 6000);
        frame[..6].copy_from_slice(&GROUP_MAC);
        self.all.push(frame);
        self.all.last_mut().unwrap()
    }

    fn whole(&mut self, sequence: u64) -> &mut Vec<u8> {
        let payload = self.payload(sequence);
        self.push(&payload)
    }

    fn wholes(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            self.whole(sequence);
        }
    }

    /// A copy in which bit `bit` of the payload is wrong, and the UDP checksum right.
    fn flipped(&mut self, sequence: u64, bit: usize) {
        let mut payload = self.payload(sequence);
        payload[bit / 8] ^= 1 << (bit % 8);
        self.push(&payload);
    }

    /// What an IP stack takes, so that all three kinds see it: losses, duplicates, reordering, bits of a payload flipped
    /// in copies of their own, heads joined to foreign tails, payloads cut and grown, strangers.
    fn acceptable(payload_bytes: usize) -> Self {
        let mut frames = Self::new(payload_bytes);
        // Of long payloads an odd fraction of the bits, so that the packet sink's ring, made for the plan, takes them.
        for bit in (0..payload_bytes * 8).step_by((payload_bytes / 200) | 1) {
            frames.flipped(100 + bit as u64 % 50, bit);
        }
        let lost = |sequence: &u64| [3, 50, 399].contains(sequence) || (200..350).contains(sequence);
        for sequence in (0..DATAGRAMS).filter(|sequence| !lost(sequence)) {
            match sequence {
                7 => frames.wholes(&[7, 7]),
                20 => frames.wholes(&[22, 21]),
                // Damaged before, after, instead of, and twice.
                30 => frames.flipped(30, payload_bytes * 8 - 1),
                31 => {
                    frames.wholes(&[31]);
                    frames.flipped(31, payload_bytes * 8 - 2);
                }
                32 => {
                    frames.flipped(32, 150);
                    continue;
                }
                33 => {
                    frames.flipped(33, 150);
                    frames.flipped(33, 140);
                }
                40 => {
                    frames.flipped(45, 150);
                    frames.flipped(41, 150);
                }
                _ => {}
            }
            frames.whole(sequence);
        }
        frames.strangers();
        frames
    }

    fn strangers(&mut self) {
        let of = |run, flow, sequence, kind| Header { run, flow, sequence, kind };
        for header in [
            of(2, 0, 5, Kind::Measured),
            of(1, 1, 5, Kind::Measured),
            of(1, 0, DATAGRAMS, Kind::Measured),
            of(1, 0, u64::MAX, Kind::Measured),
            of(1, 0, 9, Kind::WarmUp),
            of(1, 0, 10, Kind::WarmUp),
        ] {
            let payload = self.payload_as(&header);
            self.push(&payload);
            self.push(&payload[..payload.len() - 1]);
        }
        let (one, other) = (self.payload(60), self.payload(61));
        self.push(&[&one[..18], &other[18..]].concat());
        self.push(&[&one[..], &[0]].concat());
        for length in [0, 1, 17, 18] {
            self.push(&one[..length.min(one.len())]);
            self.push(&vec![0; length]);
        }
        self.push(&vec![0xFF; self.payload_bytes]);
        // No UDP checksum at all.
        self.whole(70)[40..42].fill(0);
    }

    /// What an IP stack refuses, or is no UDP: for those sinks that see every frame.
    fn refusable(payload_bytes: usize) -> Self {
        let mut frames = Self::acceptable(payload_bytes);
        frames.whole(3)[40] ^= 1;
        frames.whole(50)[24] ^= 1;
        frames.whole(51)[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        frames.whole(52).splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        // To another port; version, length, protocol, fragment; UDP lengths; cut off.
        for (at, to) in
            [(37, 0x71), (14, 0x65), (14, 0x44), (17, 0xFF), (23, 6), (20, 0x20), (38, 0xFF), (39, 7)]
        {
            frames.whole(53)[at] = to;
        }
        let length = frames.whole(54).len();
        frames.whole(54).truncate(length - 1);
        for (ether_type, length) in
            [([0x08, 0x06], 60), ([0x86, 0xDD], 60), ([0x08, 0x00], 60), ([0x86, 0xDD], 20)]
        {
            let mut frame = vec![0; length];
            frame[..6].copy_from_slice(&[0xFF; 6]);
            frame[12..14].copy_from_slice(&ether_type);
            frames.all.push(frame);
        }
        // Once this has come, all of them have.
        frames.whole(55);
        frames
    }
}

/// What a sink of `kind` reports of `frames`, of which `udp` are UDP.
fn report_of(
    kind: SinkKind,
    topology: &Topology,
    payload_bytes: usize,
    frames: &[Vec<u8>],
    udp: u64,
) -> SinkReport {
    let plan = plan_of(payload_bytes, DATAGRAMS);
    let sink = open(topology, kind, &plan);
    topology.sinks[0].namespace().run(|| sink.begin_measuring()).unwrap().unwrap();
    send_frames(topology, frames);
    wait_until_received(&sink, udp);
    sink.finish().unwrap()
}

fn assert_alike(reports: &[SinkReport], what: &str) {
    let [first, others @ ..] = reports else { return };
    assert!(first.dropped.is_empty() && first.errors.is_empty(), "{what}: {first:?}");
    for other in others {
        assert_eq!(first.tally, other.tally, "{what}");
        assert_eq!(first.before_their_time, other.before_their_time, "{what}");
        assert_eq!(first.latency.len(), other.latency.len(), "{what}");
        assert_eq!((&first.dropped, &first.errors), (&other.dropped, &other.errors), "{what}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_kind_reports_the_same_of_what_an_ip_stack_takes() {
    for checksum in [Checksum::Wire, Checksum::Offload] {
        let topology = topology(Segmentation::Wire, checksum);
        for payload_bytes in [19, 34, 100, 1_468] {
            let Frames { all: frames, .. } = Frames::acceptable(payload_bytes);
            let kinds = [SinkKind::Xdp, SinkKind::Packet, SinkKind::Socket];
            let udp = frames.len() as u64;
            let reports = kinds.map(|kind| report_of(kind, &topology, payload_bytes, &frames, udp));
            assert_alike(&reports, &format!("{payload_bytes} bytes"));
            let tally = &reports[0].tally;
            assert!(tally.lost > 0 && tally.duplicated > 0 && tally.reordered > 0, "{tally:?}");
            assert!(
                tally.damaged > 0 && tally.unreadable > 0 && tally.alien > 0 && tally.warm_up > 0,
                "{tally:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_xdp_sink_sees_frames_as_the_packet_sink_does() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    for payload_bytes in [19, 34, 100, 1_468] {
        let Frames { all: frames, .. } = Frames::refusable(payload_bytes);
        // Six are no UDP.
        let udp = frames.len() as u64 - 6;
        let kinds = [SinkKind::Xdp, SinkKind::Packet];
        let reports = kinds.map(|kind| report_of(kind, &topology, payload_bytes, &frames, udp));
        assert_alike(&reports, &format!("{payload_bytes} bytes"));
        assert_eq!(reports[0].other_frames, reports[1].other_frames);
        assert_eq!(reports[0].other_frames, 6);
    }
}

/// IPv4 options are not read by the program: the count cannot be trusted then, and says so.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn headers_the_program_does_not_read_are_no_silent_miscount() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    let mut frames = Frames::new(100);
    let frame = frames.whole(0);
    // Four bytes of no operation.
    frame.splice(34..34, [1, 1, 1, 1]);
    frame[14] = 0x46;
    frame[17] += 4;
    frame[24..26].fill(0);
    let sum = crate::checksum::finish(crate::checksum::add(0, &frame[14..38]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let Frames { all: frames, .. } = frames;
    let report = report_of(SinkKind::Xdp, &topology, 100, &frames, 1);
    assert_eq!((report.tally.received, report.errors.len()), (1, 1), "{report:?}");
    let report = report_of(SinkKind::Packet, &topology, 100, &frames, 1);
    assert_eq!((report.tally.received, report.errors.len()), (1, 0), "{report:?}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn latency_runs_from_the_time_that_the_plan_names() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    let mut frames = Frames::new(100);
    let now_ns = realtime_ns();
    let stamps = Stamps { intended_ns: now_ns - 40_000_000_000, actual_ns: now_ns - 1_000_000 };
    for sequence in 0..DATAGRAMS {
        let mut payload = vec![0; 100];
        let header = Header { run: 1, flow: 0, sequence, kind: Kind::Measured };
        frames.encoder.encode(&mut payload, &header, stamps);
        frames.push(&payload);
    }
    for kind in [SinkKind::Xdp, SinkKind::Packet, SinkKind::Socket] {
        let least = [LatencyFrom::Intended, LatencyFrom::Sent].map(|from| {
            let plan = Arc::new(Plan::clone(&plan_of(100, DATAGRAMS)).with_latency_from(from));
            let sink = open(&topology, kind, &plan);
            send_frames(&topology, &frames.all);
            wait_until_received(&sink, DATAGRAMS);
            let report = sink.finish().unwrap();
            assert_eq!(report.latency.len(), DATAGRAMS, "{kind:?}");
            report.latency.min()
        });
        // The one time was 40 seconds before the other.
        assert!(least[0] > 39_000_000_000 && least[1] < 39_000_000_000, "{kind:?}: {least:?}");
    }
}
