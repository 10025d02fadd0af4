//! Faults that the generator makes on purpose: how many of each kind, and which datagrams they meet.
//!
//! Nothing stands between the generator and the sink that counts them, so that every count is known beforehand, at any
//! rate: what a sink reports otherwise is its own mistake.

use serde::Serialize;

/// How many datagrams of a trial meet which fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Impairments {
    /// Left out.
    pub drop: u64,
    /// Sent twice.
    pub duplicate: u64,
    /// Sent after the next one of their flow.
    pub swap: u64,
    /// Sent with one bit of their content flipped, and checksums of UDP that are right all the same: as memory that
    /// fails, not as a wire.
    pub corrupt: u64,
    /// Sent whole, and then as if they were of another run.
    pub foreign: u64,
}

/// What happens to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is left out.
    Drop,
    /// It is sent twice.
    Duplicate,
    /// It is sent after the next one of its flow.
    Swap,
    /// One of its bits is flipped; which one follows from this number.
    Corrupt(u64),
    /// One of another run is sent after it.
    Foreign,
}

/// A fault and the datagram that meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Global sequence of the datagram.
    pub global: u64,
    /// What happens to it.
    pub fault: Fault,
}

impl Impairments {
    /// The most of each kind.
    pub const MOST: u64 = 100_000;

    /// Whether there is no fault at all.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// How many frames (or datagrams, where those are fragmented) are sent for `datagrams` datagrams.
    pub fn frames(&self, datagrams: u64) -> u64 {
        (datagrams + self.duplicate + self.foreign).saturating_sub(self.drop)
    }

    /// The fewest datagrams over `flows` flows in which no fault meets another.
    pub fn least_datagrams(&self, flows: usize) -> u64 {
        2 * self.total() * (flows as u64 + 1)
    }

    /// Every fault in the order in which they are met, spread evenly over `datagrams` datagrams and over each other.
    pub fn placed(&self, datagrams: u64) -> Vec<Placed> {
        let total = self.total();
        let place = |(index, fault): (usize, Fault)| {
            let at = u128::from(datagrams) * (2 * index as u128 + 1) / (2 * u128::from(total));
            Placed { global: at as u64, fault }
        };
        self.in_order().into_iter().enumerate().map(place).collect()
    }

    /// Kinds take turns, each as often as there are many of it.
    fn in_order(&self) -> Vec<Fault> {
        let of_kind = |count: u64, fault: fn(u64) -> Fault| {
            (0..count).map(move |index| (u128::from(2 * index + 1) << 64, u128::from(count), fault(index)))
        };
        let mut faults: Vec<_> = of_kind(self.drop, |_| Fault::Drop)
            .chain(of_kind(self.duplicate, |_| Fault::Duplicate))
            .chain(of_kind(self.swap, |_| Fault::Swap))
            .chain(of_kind(self.corrupt, Fault::Corrupt))
            .chain(of_kind(self.foreign, |_| Fault::Foreign))
            .collect();
        faults.sort_by_key(|(place, count, _)| place / count);
        faults.into_iter().map(|(_, _, fault)| fault).collect()
    }

    fn total(&self) -> u64 {
        self.drop + self.duplicate + self.swap + self.corrupt + self.foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_placed_once_and_far_from_the_next() {
        let impairments = Impairments { drop: 50, duplicate: 40, swap: 30, corrupt: 20, foreign: 10 };
        for flows in [1, 7] {
            let datagrams = impairments.least_datagrams(flows);
            for datagrams in [datagrams, datagrams + 1, datagrams * 3 + 17] {
                let placed = impairments.placed(datagrams);
                let count = |fault| placed.iter().filter(|placed| placed.fault == fault).count();
                assert_eq!((count(Fault::Drop), count(Fault::Duplicate), count(Fault::Swap)), (50, 40, 30));
                assert_eq!(count(Fault::Foreign), 10);
                let flipped = |placed: &Placed| match placed.fault {
                    Fault::Corrupt(number) => Some(number),
                    _ => None,
                };
                assert!(placed.iter().filter_map(flipped).eq(0..20));
                let places = placed.iter().map(|placed| placed.global).chain([datagrams]);
                let places: Vec<_> = places.collect();
                for pair in places.windows(2) {
                    // A swap is over before the next one, or the end, comes.
                    assert!(pair[0] + (flows as u64) < pair[1], "{pair:?} of {datagrams}");
                }
            }
        }
    }

    #[test]
    fn kinds_take_turns() {
        let impairments = Impairments { drop: 4, foreign: 1, ..Impairments::default() };
        let faults: Vec<_> = impairments.placed(100).into_iter().map(|placed| placed.fault).collect();
        assert_eq!(faults, [Fault::Drop, Fault::Drop, Fault::Foreign, Fault::Drop, Fault::Drop]);
        assert_eq!((impairments.frames(100), Impairments::default().placed(100).len()), (97, 0));
    }
}
