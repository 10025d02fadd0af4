//! Where in the course of things datagrams are missing.

use std::ops::Range;

use serde::Serialize;

use super::OpenTally;

/// How many runs of missing datagrams are looked at, and how many of what they come to is kept.
const MOST_RUNS: usize = 100_000;
const MOST_LOSSES: usize = 256;

/// Datagrams that are missing near to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Global sequence of the first ...
    pub first: u64,
    /// ... and of the last.
    pub last: u64,
    /// How many they are, those in between that came left out.
    pub count: u64,
}

impl OpenTally {
    /// Runs of what is missing, those as one that are less than 10 ms apart.
    pub(super) fn losses(&self) -> Vec<Loss> {
        let near = self.plan.rate_pps / 100;
        let mut losses: Vec<Loss> = Vec::new();
        for run in self.seen.clear_runs().take(MOST_RUNS) {
            for Range { start, end } in without(run, &self.link_down) {
                if let Some(loss) = losses.last_mut().filter(|loss| start - loss.last <= near) {
                    (loss.last, loss.count) = (end - 1, loss.count + (end - start));
                } else if losses.len() < MOST_LOSSES {
                    losses.push(Loss { first: start, last: end - 1, count: end - start });
                } else {
                    return losses;
                }
            }
        }
        losses
    }
}

/// What of `run` is in none of the `others`, which are in order.
fn without(run: Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut left, mut start) = (Vec::new(), run.start);
    for other in others {
        left.push(start..other.start.min(run.end));
        start = start.max(other.end);
    }
    left.push(start..run.end);
    left.retain(|part| part.start < part.end);
    left
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::datagram::{Encoder, Header, Kind, Stamps};
    use crate::plan::{Flow, Plan};

    fn plan() -> Arc<Plan> {
        let flow = |index| Flow {
            source: ([10, 82, 0, 1], 4000).into(),
            destination: ([239, 82, 1, index], 6000).into(),
            destination_mac: [1, 0, 0x5E, 82, 1, index],
            delivered: ([239, 82, 1, index], 6000).into(),
        };
        Arc::new(Plan::new(7, vec![flow(1), flow(2)], 64, 1_000, 1_000).unwrap())
    }

    #[test]
    fn losses_are_told_by_where_they_are_without_what_a_link_did_that_was_down() {
        let plan = plan();
        let mut tally = OpenTally::new(&plan);
        tally.while_link_down(&[300..400, 500..600]);
        let (mut payload, encoder) = (vec![0; 64], Encoder::new(64));
        let is_missing = |global: u64| {
            [10, 12, 13, 40, 999].contains(&global)
                || (280..420).contains(&global)
                || (500..600).contains(&global)
        };
        for global in (0..1_000).filter(|global| !is_missing(*global)) {
            let (flow, sequence) = ((global % 2) as u16, global / 2);
            let header = Header { run: 7, flow, sequence, kind: Kind::Measured };
            encoder.encode(&mut payload, &header, Stamps { intended_ns: 5, actual_ns: 6 });
            tally.arrive(plan.flows[usize::from(flow)].delivered, &payload, true, Kind::Measured);
        }
        let tally = tally.close();
        assert_eq!((tally.lost, tally.link_down), (45, 200));
        let loss = |first, last, count| Loss { first, last, count };
        // Ten at 1,000 a second are near.
        let expected =
            [loss(10, 13, 3), loss(40, 40, 1), loss(280, 299, 20), loss(400, 419, 20), loss(999, 999, 1)];
        assert_eq!(tally.losses, expected);
    }

    #[test]
    fn what_others_have_is_taken_out() {
        let left = |run, others: &[Range<u64>]| {
            without(run, others).iter().map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        let others = [2..4, 9..20];
        assert_eq!(left(0..10, &others), [(0, 2), (4, 9)]);
        assert_eq!(left(10..15, &others), []);
        assert_eq!(left(5..8, &others), [(5, 8)]);
    }
}
