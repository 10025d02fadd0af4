//! How an IPv4 datagram crosses a link: whole, or as fragments when it is larger than the MTU (RFC 791 §3.2). Pure
//! arithmetic, which is also the kernel's for what it sends itself.

use std::ops::Range;

use crate::topology::Family;

/// Length of an IPv4 header without options.
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// Fragments begin at multiples of this: their offset is counted in such units.
const UNIT: usize = 8;

/// How the UDP datagrams of one payload size are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// UDP header and payload: what is cut.
    total: usize,
    /// How much of it each fragment carries, the last one less.
    each: usize,
}

impl Fragments {
    /// The cut that an MTU of `mtu` bytes asks for. Over IPv6 nothing is cut.
    pub fn new(family: Family, payload_bytes: usize, mtu: usize) -> Self {
        let total = UDP_BYTES + payload_bytes;
        let room = mtu.saturating_sub(IPV4_BYTES);
        let whole = family == Family::Ipv6 || total <= room;
        let each = if whole { total } else { (room - room % UNIT).max(UNIT) };
        Self { total, each }
    }

    /// How many there are; 1 for a datagram that goes whole.
    pub fn count(self) -> usize {
        self.total.div_ceil(self.each)
    }

    /// The part of UDP header and payload that each carries, in order.
    pub fn parts(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.total).step_by(self.each).map(move |start| start..(start + self.each).min(self.total))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fits_is_not_cut() {
        for (family, payload_bytes) in [(Family::Ipv4, 1_472), (Family::Ipv6, 1_452), (Family::Ipv6, 9_000)] {
            let fragments = Fragments::new(family, payload_bytes, 1_500);
            assert_eq!(fragments.count(), 1);
            assert_eq!(fragments.parts().next(), Some(0..payload_bytes + 8));
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_as_the_kernel_does() {
        let parts = |payload_bytes, mtu| {
            let parts = Fragments::new(Family::Ipv4, payload_bytes, mtu).parts();
            parts.map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        assert_eq!(parts(1_473, 1_500), [(0, 1_480), (1_480, 1_481)]);
        // 1,499 less the header is no multiple of 8.
        assert_eq!(parts(1_472, 1_499), [(0, 1_472), (1_472, 1_480)]);
        assert_eq!(Fragments::new(Family::Ipv4, 8_000, 1_500).count(), 6);
        assert_eq!(Fragments::new(Family::Ipv4, 65_507, 68).count(), 1_365);
    }

    proptest! {
        #[test]
        fn parts_are_side_by_side_and_fit(payload_bytes in 18_usize..=65_507, mtu in 68_usize..=65_535) {
            let fragments = Fragments::new(Family::Ipv4, payload_bytes, mtu);
            let parts: Vec<_> = fragments.parts().collect();
            prop_assert_eq!(parts.len(), fragments.count());
            let mut at = 0;
            for part in &parts {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.start % 8 == 0 && !part.is_empty() && part.len() + 20 <= mtu);
                at = part.end;
            }
            prop_assert_eq!(at, payload_bytes + 8);
        }
    }
}
