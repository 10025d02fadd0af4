//! Foreign datagrams beside those of the plan: two schedules, merged by when each datagram is due.

use super::offering::{Guise, Offer, Offering};
use crate::plan::Foreign;
use crate::schedule::Schedule;

/// What is offered, in its order. What is due at the same time begins with the plan's own.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    own: Offering<'a>,
    own_left: u64,
    foreign: Schedule,
    foreign_left: u64,
    /// Whether the next one is foreign.
    is_foreign: bool,
}

impl<'a> Merged<'a> {
    /// `own_count` of `own`, and all of `foreign`.
    pub(super) fn new(own: Offering<'a>, own_count: u64, foreign: Option<&Foreign>) -> Self {
        let (rate_pps, foreign_left) =
            foreign.map_or((1, 0), |foreign| (foreign.rate_pps, foreign.datagrams));
        let foreign = Schedule::new(1, rate_pps, 1, 0);
        let mut merged = Self { own, own_left: own_count, foreign, foreign_left, is_foreign: false };
        merged.choose();
        merged
    }

    /// What comes next.
    pub(super) fn peek(&self) -> Offer {
        if self.is_foreign {
            Offer { turn: self.foreign.peek(), guise: Guise::NoRule }
        } else {
            self.own.peek()
        }
    }

    /// Goes on to what comes after it.
    pub(super) fn advance(&mut self) {
        if self.is_foreign {
            self.foreign.advance();
            self.foreign_left -= 1;
        } else {
            self.own.advance();
            self.own_left = self.own_left.saturating_sub(1);
        }
        self.choose();
    }

    fn choose(&mut self) {
        let is_earlier = || self.foreign.peek().due_ns < self.own.peek().turn.due_ns;
        self.is_foreign = self.foreign_left > 0 && (self.own_left == 0 || is_earlier());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::plan::Flow;
    use crate::schedule::due_ns;

    fn foreign(rate_pps: u64, datagrams: u64) -> Foreign {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let flow =
            Flow { source: address, destination: address, destination_mac: [0; 6], delivered: address };
        Foreign { flow, rate_pps, datagrams }
    }

    /// `own` datagrams at `own_pps` and what is foreign, in their order.
    fn merged((own_pps, own): (u64, u64), (foreign_pps, count): (u64, u64)) -> Vec<Offer> {
        let offering = Offering::new(Schedule::new(1, own_pps, 1, 0), 1, &[]);
        let foreign = foreign(foreign_pps, count);
        let mut merged = Merged::new(offering, own, Some(&foreign));
        let offers = (0..own + count).map(|_| {
            let offer = merged.peek();
            merged.advance();
            offer
        });
        offers.collect()
    }

    #[test]
    fn two_rates_are_interleaved_by_time() {
        let order: Vec<_> = merged((1_000, 3), (2_000, 6))
            .into_iter()
            .map(|Offer { turn, guise }| (guise == Guise::NoRule, turn.sequence, turn.due_ns / 1_000))
            .collect();
        assert_eq!(
            order,
            [
                (false, 0, 0),
                (true, 0, 0),
                (true, 1, 500),
                (false, 1, 1_000),
                (true, 2, 1_000),
                (true, 3, 1_500),
                (false, 2, 2_000),
                (true, 4, 2_000),
                (true, 5, 2_500),
            ]
        );
    }

    #[test]
    fn without_any_it_is_the_plans_own() {
        let offering = Offering::new(Schedule::new(3, 7, 2, 0), 3, &[]);
        let (mut alone, mut merged) = (offering.clone(), Merged::new(offering, 50, None));
        for _ in 0..60 {
            assert_eq!(merged.peek(), alone.peek());
            merged.advance();
            alone.advance();
        }
    }

    proptest! {
        #[test]
        fn each_is_due_when_its_own_rate_says(
            own_pps in 1_u64..1_000_000, own in 0_u64..300, foreign_pps in 1_u64..1_000_000, count in 0_u64..300,
        ) {
            let offers = merged((own_pps, own), (foreign_pps, count));
            let (strangers, ours): (Vec<Offer>, Vec<Offer>) =
                offers.iter().copied().partition(|offer| offer.guise == Guise::NoRule);
            prop_assert_eq!((ours.len() as u64, strangers.len() as u64), (own, count));
            prop_assert!(offers.windows(2).all(|pair| pair[0].turn.due_ns <= pair[1].turn.due_ns));
            for (offers, rate_pps) in [(ours, own_pps), (strangers, foreign_pps)] {
                for (sequence, offer) in (0..).zip(offers) {
                    prop_assert_eq!((offer.turn.sequence, offer.turn.due_ns), (sequence, due_ns(sequence, rate_pps)));
                }
            }
        }
    }
}
