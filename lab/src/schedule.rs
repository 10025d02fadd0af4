//! The exact schedule that follows from a rate: whose turn it is, and when.

use crate::plan::MAX_DATAGRAMS;

const NANOS: u64 = 1_000_000_000;

/// When the `global`th datagram is due, ns after the first, at an even `rate_pps`: exact, rounded down, without drift. A
/// burst is due when its first datagram is. A rate of 0 counts as 1.
pub fn due_ns(global: u64, rate_pps: u64) -> u64 {
    let due = u128::from(global) * u128::from(NANOS) / u128::from(rate_pps.max(1));
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// One place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub flow: u16,
    /// Sequence within the flow.
    pub sequence: u64,
    /// When, ns after the start of the schedule.
    pub due_ns: u64,
    /// Whether it is the first of those that are due at that time, as each is of an evenly paced schedule.
    pub begins_burst: bool,
}

/// Walks the schedule turn by turn without a division: the same places as `g % flows`, `g / flows` and [`due_ns`].
#[derive(Clone, Debug)]
pub struct Schedule {
    flows: u64,
    rate_pps: u64,
    burst: u64,
    /// From one burst to the next, ns rounded down ...
    gap_ns: u64,
    /// ... and what that leaves out, in units of 1/rate ns.
    gap_remainder: u64,
    flow: u64,
    sequence: u64,
    /// How many of the burst are over.
    of_burst: u64,
    due_ns: u64,
    /// What rounding down has left out of `due_ns`, in units of 1/rate ns.
    remainder: u64,
}

impl Schedule {
    /// A schedule over `flows` (at least 1) at `rate_pps` (at least 1) in bursts of `burst` (1 to [`MAX_DATAGRAMS`])
    /// whose first turn, at 0 ns, is that of global sequence `first`.
    pub fn new(flows: usize, rate_pps: u64, burst: u64, first: u64) -> Self {
        let (flows, rate_pps) = ((flows as u64).max(1), rate_pps.max(1));
        let burst = burst.clamp(1, MAX_DATAGRAMS);
        Self {
            flows,
            rate_pps,
            burst,
            gap_ns: burst * NANOS / rate_pps,
            gap_remainder: burst * NANOS % rate_pps,
            flow: first % flows,
            sequence: first / flows,
            of_burst: 0,
            due_ns: 0,
            remainder: 0,
        }
    }

    /// The turn that comes next.
    pub fn peek(&self) -> Turn {
        Turn {
            flow: self.flow as u16,
            sequence: self.sequence,
            due_ns: self.due_ns,
            begins_burst: self.of_burst == 0,
        }
    }

    /// Goes on to the turn after it.
    pub fn advance(&mut self) {
        self.flow += 1;
        if self.flow == self.flows {
            self.flow = 0;
            self.sequence += 1;
        }
        self.of_burst += 1;
        if self.of_burst < self.burst {
            return;
        }
        self.of_burst = 0;
        self.due_ns += self.gap_ns;
        self.remainder += self.gap_remainder;
        if self.remainder >= self.rate_pps {
            self.remainder -= self.rate_pps;
            self.due_ns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::MAX_RATE_PPS;

    #[test]
    fn the_longest_burst_does_not_overflow() {
        let mut schedule = Schedule::new(1, 1, MAX_DATAGRAMS, 0);
        schedule.of_burst = MAX_DATAGRAMS - 1;
        schedule.advance();
        assert_eq!(schedule.peek().due_ns, due_ns(MAX_DATAGRAMS, 1));
    }

    proptest! {
        #[test]
        fn walking_equals_computing(
            flows in 1_usize..300, rate in 1_u64..=MAX_RATE_PPS, burst in 1_u64..100, first in 0_u64..1 << 40,
        ) {
            let mut schedule = Schedule::new(flows, rate, burst, first);
            for step in 0..2_000 {
                let global = first + step;
                let turn = Turn {
                    flow: (global % flows as u64) as u16,
                    sequence: global / flows as u64,
                    due_ns: due_ns(step - step % burst, rate),
                    begins_burst: step % burst == 0,
                };
                prop_assert_eq!(schedule.peek(), turn);
                schedule.advance();
            }
        }

        #[test]
        fn the_schedule_never_drifts(rate in 1_u64..=10_000_000, seconds in 1_u64..100_000) {
            prop_assert_eq!(due_ns(rate * seconds, rate), seconds * NANOS);
        }
    }
}
