//! What copies of one datagram have in common.

use std::hash::BuildHasher;
use std::ops::RangeInclusive;

use crate::rules::DedupeKey;

/// Bytes of an RTP header without contributing sources (RFC 3550 section 5.1).
const RTP_HEADER: usize = 12;
/// Of these, sequence number, timestamp and synchronization source begin here.
const SEQUENCE: usize = 2;
/// The version stands in the first two bits.
const RTP_VERSION: u8 = 2;
/// What stands in the second byte of RTCP on a port that it shares with RTP, which has no sequence number (RFC 5761 section 4).
const RTCP_TYPES: RangeInclusive<u8> = 192..=223;

/// What copies of one datagram have in common, and others have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Bytes that no two datagrams of a leg have.
    Unique(&'a [u8]),
    /// Bytes that several datagrams of a leg may have.
    Counted(&'a [u8]),
}

impl<'a> Key<'a> {
    /// That of a datagram with this payload.
    pub fn of(kind: DedupeKey, payload: &'a [u8]) -> Self {
        match (kind, payload.first_chunk::<RTP_HEADER>()) {
            (DedupeKey::Rtp, Some(header)) if is_rtp(header) => Self::Unique(&header[SEQUENCE..]),
            _ => Self::Counted(payload),
        }
    }

    pub(super) fn hash(self, state: &impl BuildHasher) -> u64 {
        match self {
            Self::Unique(bytes) => state.hash_one((0_u8, bytes)),
            Self::Counted(bytes) => state.hash_one((1_u8, bytes)),
        }
    }

    pub(super) fn is_counted(self) -> bool {
        matches!(self, Self::Counted(_))
    }
}

fn is_rtp(header: &[u8; RTP_HEADER]) -> bool {
    header[0] >> 6 == RTP_VERSION && !RTCP_TYPES.contains(&header[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtp_is_known_by_its_version_and_told_by_sequence_timestamp_and_source() {
        let packet: Vec<u8> = (0..20).map(|i| if i == 0 { 0x80 } else { i }).collect();
        let key = Key::of(DedupeKey::Rtp, &packet);
        assert_eq!(key, Key::Unique(&packet[2..12]));
        let mut marked = packet.clone();
        (marked[1], marked[19]) = (0xff, 0xff);
        assert_eq!(Key::of(DedupeKey::Rtp, &marked), key);
        for (other, what) in [(&packet[..11], "short"), (&packet[1..], "another version")] {
            assert_eq!(Key::of(DedupeKey::Rtp, other), Key::Counted(other), "{what}");
        }
        for kind in [192, 200, 223] {
            let mut report = packet.clone();
            report[1] = kind;
            assert_eq!(Key::of(DedupeKey::Rtp, &report), Key::Counted(&report), "RTCP of type {kind}");
        }
        assert_eq!(Key::of(DedupeKey::Content, &packet), Key::Counted(&packet));
        assert_eq!(Key::of(DedupeKey::Rtp, &[]), Key::Counted(&[]));
    }
}
