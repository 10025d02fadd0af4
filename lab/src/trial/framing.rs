//! How many datagrams the frames of a device are.

use crate::fragments::Fragments;
use crate::generator::GeneratorKind;
use crate::scenario::Condition;
use crate::topology::{Family, Link, Segmentation};

/// What crosses a wire as how many frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// One frame is one datagram.
    Whole,
    /// Each datagram is several frames.
    Fragments {
        /// How many.
        frames: u64,
        /// And their bytes together.
        bytes: u64,
    },
    /// One frame may be several datagrams, each of which adds its payload to one set of headers.
    SuperFrames {
        /// Bytes of headers in each frame.
        headers: u64,
        /// Bytes of payload in each datagram.
        payload: u64,
    },
}

const ETHERNET_BYTES: u64 = 14;
const UDP_BYTES: u64 = 8;

impl Framing {
    /// From the generator to the subject.
    pub(super) fn at_ingress(link: Link, condition: &Condition) -> Self {
        match (Self::apart(link, condition), condition.generator) {
            (Self::Whole, GeneratorKind::Trains) => Self::together(link, condition),
            (apart, _) => apart,
        }
    }

    /// From the subject to the sinks.
    pub(super) fn at_egress(link: Link, condition: &Condition) -> Self {
        match (Self::apart(link, condition), link.segmentation) {
            (Self::Whole, Segmentation::Offload) => Self::together(link, condition),
            (apart, _) => apart,
        }
    }

    /// Where no frame is more than one datagram.
    fn apart(link: Link, condition: &Condition) -> Self {
        let frames = Fragments::new(link.family, condition.payload_bytes, link.mtu as usize).count() as u64;
        if frames == 1 {
            return Self::Whole;
        }
        let headers = ETHERNET_BYTES + ip_bytes(link.family);
        Self::Fragments { frames, bytes: frames * headers + UDP_BYTES + condition.payload_bytes as u64 }
    }

    /// Where a frame may be several.
    fn together(link: Link, condition: &Condition) -> Self {
        Self::SuperFrames {
            headers: ETHERNET_BYTES + ip_bytes(link.family) + UDP_BYTES,
            payload: condition.payload_bytes as u64,
        }
    }

    /// How many datagrams a device carried as `packets` frames of `bytes` bytes.
    ///
    /// Of fragments only whole datagrams count. A missing one makes both quotients smaller, and strays, which are
    /// small frames, can make up for it in one of them at most. Strays among super-frames leave a remainder; then frames
    /// are what is known.
    pub(super) fn datagrams(self, packets: u64, bytes: u64) -> u64 {
        match self {
            Self::Whole => packets,
            Self::Fragments { frames, bytes: each } => (packets / frames).min(bytes / each),
            Self::SuperFrames { headers, payload } => {
                let payloads = bytes.saturating_sub(packets * headers);
                if payloads.is_multiple_of(payload) { payloads / payload } else { packets }
            }
        }
    }

    /// Whether a lost frame leaves other frames behind that are worth nothing without it.
    pub(super) fn is_fragmented(self) -> bool {
        matches!(self, Self::Fragments { .. })
    }
}

fn ip_bytes(family: Family) -> u64 {
    match family {
        Family::Ipv4 => 20,
        Family::Ipv6 => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Cast;
    use crate::sink::SinkKind;
    use crate::topology::Checksum;

    fn framing(payload_bytes: usize, segmentation: Segmentation) -> [Framing; 2] {
        framing_of(GeneratorKind::Packet, payload_bytes, segmentation)
    }

    fn framing_of(
        generator: GeneratorKind,
        payload_bytes: usize,
        segmentation: Segmentation,
    ) -> [Framing; 2] {
        let link = Link { mtu: 1_500, segmentation, checksum: Checksum::Wire, family: Family::Ipv4 };
        let condition = Condition {
            cast: Cast::MulticastToMulticast,
            segmentation,
            sink_kind: SinkKind::Packet,
            fan_out: 1,
            generator,
            flows: 1,
            payload_bytes,
            foreign_pps: 0,
            rate_pps: 1,
        };
        [Framing::at_ingress(link, &condition), Framing::at_egress(link, &condition)]
    }

    #[test]
    fn only_the_subject_makes_super_frames_and_only_of_what_fits() {
        assert_eq!(framing(1_472, Segmentation::Wire), [Framing::Whole; 2]);
        let super_frames = Framing::SuperFrames { headers: 42, payload: 1_472 };
        assert_eq!(framing(1_472, Segmentation::Offload), [Framing::Whole, super_frames]);
        let fragments = Framing::Fragments { frames: 6, bytes: 8_000 + 8 + 6 * 34 };
        for segmentation in [Segmentation::Wire, Segmentation::Offload] {
            assert_eq!(framing(8_000, segmentation), [fragments; 2]);
        }
    }

    #[test]
    fn trains_come_in_as_super_frames_and_leave_as_the_link_wants() {
        let super_frames = Framing::SuperFrames { headers: 42, payload: 100 };
        let trains = |segmentation| framing_of(GeneratorKind::Trains, 100, segmentation);
        assert_eq!(trains(Segmentation::Wire), [super_frames, Framing::Whole]);
        assert_eq!(trains(Segmentation::Offload), [super_frames; 2]);
    }

    #[test]
    fn fragments_are_as_many_datagrams_as_are_complete() {
        let [fragments, _] = framing(8_000, Segmentation::Wire);
        let each = 8_212;
        assert_eq!(fragments.datagrams(600, 100 * each), 100);
        // One fragment is missing, also when a stray stands in for it.
        assert_eq!(fragments.datagrams(599, 100 * each - 1_514), 99);
        assert_eq!(fragments.datagrams(600, 100 * each - 1_514 + 60), 99);
        // Strays alone make none.
        assert_eq!(fragments.datagrams(603, 100 * each + 3 * 60), 100);
        assert_eq!(fragments.datagrams(0, 0), 0);
    }

    #[test]
    fn super_frames_are_as_many_datagrams_as_their_payload() {
        let [_, super_frames] = framing(100, Segmentation::Offload);
        assert_eq!(super_frames.datagrams(3, 3 * 42 + 70 * 100), 70);
        assert_eq!(super_frames.datagrams(4, 3 * 42 + 70 * 100 + 60), 4);
    }
}
