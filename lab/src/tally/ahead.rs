//! Counting in two places: something quicker than the tally counts what is plain, the tally judges the rest.
//!
//! Plain is a whole datagram that belongs where it came, comes for the first time and after none that was sent later.
//! Whoever counts those marks every sequence seen that he reads, whole or damaged, plain or not; so with each of the
//! rest he can say how things stood before it, and the tally comes to what it would have, had it seen all of them.

use super::OpenTally;

/// What was known when a datagram came that is left to the tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its flow.
    pub flow: u16,
    /// Its sequence, below what the plan sends of that flow.
    pub sequence: u64,
    /// Whether a copy had come already.
    pub seen: bool,
    /// The highest sequence seen of the flow, plus one.
    pub next: u64,
}

/// What was counted ahead of the tally.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    /// Warm-up datagrams, of flows of which the tally got one.
    pub warm_up: u64,
    /// Measured datagrams of each flow.
    pub received: Vec<u64>,
    /// Every sequence seen, by global sequence, lowest bit first.
    pub seen: Vec<u64>,
}

impl OpenTally {
    /// Takes in how things stood before the datagram that arrives next.
    pub fn learn(&mut self, before: &Before) {
        if before.seen {
            self.seen.set(self.global(before.flow, before.sequence));
        }
        if let Some(state) = self.flows.get_mut(usize::from(before.flow)) {
            state.next = before.next;
        }
    }

    /// How many arrivals so far were laid to a measured sequence: as many as somebody counting ahead must have marked.
    pub fn sightings(&self) -> u64 {
        self.sightings
    }

    /// Adds what was counted ahead, once everything else has arrived.
    pub fn add(&mut self, ahead: &Ahead) {
        let received: u64 = ahead.received.iter().sum();
        self.tally.received += received;
        self.tally.warm_up += ahead.warm_up;
        self.tally.arrivals += received + ahead.warm_up;
        for (state, received) in self.flows.iter_mut().zip(&ahead.received) {
            state.arrived += received;
        }
        self.seen.merge(&ahead.seen);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::datagram::{Encoder, Header, Kind, Stamps};
    use crate::plan::{Flow, Plan};

    const DATAGRAMS: u64 = 90;

    fn plan() -> Arc<Plan> {
        let flow = |index| Flow {
            source: ([10, 82, 0, 1], 4000).into(),
            destination: ([239, 82, 1, index], 6000).into(),
            destination_mac: [1, 0, 0x5E, 82, 1, index],
            delivered: ([239, 82, 1, index], 6000).into(),
        };
        Arc::new(Plan::new(1, vec![flow(1), flow(2)], 18, 1_000, DATAGRAMS).unwrap())
    }

    /// Counts in the simplest way what is plain, and leaves the rest to a tally.
    struct Quick {
        rest: OpenTally,
        ahead: Ahead,
        next: [u64; 2],
    }

    impl Quick {
        fn arrive(&mut self, plan: &Plan, global: u64, payload: &[u8], whole: bool) {
            let (flow, sequence) = ((global % 2) as u16, global / 2);
            let (index, mask) = ((global / 64) as usize, 1 << (global % 64));
            let seen = self.ahead.seen[index] & mask != 0;
            let next = self.next[usize::from(flow)];
            if whole && !seen && sequence >= next {
                self.ahead.received[usize::from(flow)] += 1;
            } else {
                self.rest.learn(&Before { flow, sequence, seen, next });
                let delivered = plan.flows[usize::from(flow)].delivered;
                self.rest.arrive(delivered, payload, true, Kind::Measured);
            }
            self.ahead.seen[index] |= mask;
            self.next[usize::from(flow)] = next.max(sequence + 1);
        }
    }

    proptest! {
        #[test]
        fn two_places_count_what_one_does(
            arrivals in proptest::collection::vec((0..DATAGRAMS, prop::bool::weighted(0.8)), 0..200), sorted: bool,
        ) {
            let mut arrivals = arrivals;
            if sorted {
                arrivals.sort_unstable();
            }
            let (plan, encoder) = (plan(), Encoder::new(18));
            let mut one = OpenTally::new(&plan);
            let ahead = Ahead { received: vec![0; 2], seen: vec![0; 2], warm_up: 0 };
            let mut two = Quick { rest: OpenTally::new(&plan), ahead, next: [0; 2] };
            for (global, whole) in arrivals {
                let mut payload = vec![0; 18];
                let header = Header {
                    run: 1, flow: (global % 2) as u16, sequence: global / 2, kind: Kind::Measured,
                };
                encoder.encode(&mut payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
                payload[17] ^= u8::from(!whole);
                let delivered = plan.flows[(global % 2) as usize].delivered;
                one.arrive(delivered, &payload, true, Kind::Measured);
                two.arrive(&plan, global, &payload, whole);
            }
            two.rest.add(&two.ahead);
            prop_assert_eq!(two.rest.close(), one.close());
        }
    }
}
