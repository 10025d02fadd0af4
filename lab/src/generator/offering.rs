//! What is offered, in its order: the schedule with the faults that are made on purpose.

use std::mem;

use crate::impairments::{Fault, Placed};
use crate::schedule::{Schedule, Turn};

/// As what a datagram is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guise {
    /// As what it is.
    Own,
    /// With one bit flipped; which one follows from this number.
    Flipped(u64),
    /// As one of another run.
    Foreign,
    /// Likewise, and to where no rule takes any.
    NoRule,
}

/// A datagram to be sent. One that is sent out of turn is due when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) turn: Turn,
    pub(super) guise: Guise,
}

/// Walks the schedule and makes its faults.
#[derive(Clone, Debug)]
pub(super) struct Offering<'a> {
    schedule: Schedule,
    /// Those that are left, in order.
    faults: &'a [Placed],
    flows: u64,
    /// Of the schedule's turn that comes next ...
    global: u64,
    /// ... and of the first from there on that is anything but itself.
    special: u64,
    next: Offer,
    /// What comes right after that.
    after: Option<Offer>,
    /// The first datagram of a swap, while it waits for the second.
    held: Option<Turn>,
    /// Whether a burst began with a datagram that was not sent.
    begins_burst: bool,
}

impl Offer {
    pub(super) fn of(turn: Turn) -> Self {
        Self { turn, guise: Guise::Own }
    }

    /// Sent together with `turn`, after it.
    fn after(turn: Turn, guise: Guise) -> Self {
        Self { turn: Turn { begins_burst: false, ..turn }, guise }
    }
}

impl<'a> Offering<'a> {
    /// `faults` meet the turns of `schedule`, which is over `flows` flows, counted from its first.
    pub(super) fn new(schedule: Schedule, flows: usize, faults: &'a [Placed]) -> Self {
        let next = Offer::of(schedule.peek());
        let mut offering = Self {
            schedule,
            faults,
            flows: flows as u64,
            global: 0,
            special: first_of(faults),
            next,
            after: None,
            held: None,
            begins_burst: false,
        };
        offering.advance();
        offering
    }

    /// What comes next.
    pub(super) fn peek(&self) -> Offer {
        self.next
    }

    /// Goes on to what comes after it.
    pub(super) fn advance(&mut self) {
        if let Some(after) = self.after.take() {
            self.next = after;
            return;
        }
        loop {
            let (global, mut turn) = (self.global, self.schedule.peek());
            self.schedule.advance();
            self.global += 1;
            turn.begins_burst |= mem::take(&mut self.begins_burst);
            let offer = if global < self.special { Some(Offer::of(turn)) } else { self.impair(global, turn) };
            match offer {
                Some(offer) => {
                    self.next = offer;
                    return;
                }
                None => self.begins_burst = turn.begins_burst,
            }
        }
    }

    /// What becomes of a turn that is anything but itself: nothing, something, or two things.
    fn impair(&mut self, global: u64, turn: Turn) -> Option<Offer> {
        if let Some(held) = self.held.take() {
            self.special = first_of(self.faults);
            self.after = Some(Offer::after(Turn { due_ns: turn.due_ns, ..held }, Guise::Own));
            return Some(Offer::of(turn));
        }
        let (placed, left) = self.faults.split_first()?;
        (self.faults, self.special) = (left, first_of(left));
        match placed.fault {
            Fault::Drop => return None,
            Fault::Swap => {
                (self.held, self.special) = (Some(turn), global + self.flows);
                return None;
            }
            Fault::Duplicate => self.after = Some(Offer::after(turn, Guise::Own)),
            Fault::Foreign => self.after = Some(Offer::after(turn, Guise::Foreign)),
            Fault::Corrupt(number) => return Some(Offer { turn, guise: Guise::Flipped(number) }),
        }
        Some(Offer::of(turn))
    }
}

fn first_of(faults: &[Placed]) -> u64 {
    faults.first().map_or(u64::MAX, |placed| placed.global)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flow, sequence, due time in ms, whether it begins a burst, guise.
    type Seen = (u16, u64, u64, bool, Guise);

    fn offered(flows: usize, burst: u64, faults: &[(u64, Fault)], count: usize) -> Vec<Seen> {
        let faults: Vec<_> = faults.iter().map(|&(global, fault)| Placed { global, fault }).collect();
        let mut offering = Offering::new(Schedule::new(flows, 1_000, burst, 0), flows, &faults);
        let seen = (0..count).map(|_| {
            let Offer { turn, guise } = offering.peek();
            offering.advance();
            (turn.flow, turn.sequence, turn.due_ns / 1_000_000, turn.begins_burst, guise)
        });
        seen.collect()
    }

    use Guise::{Flipped, Foreign, Own};

    #[test]
    fn without_faults_it_is_the_schedule() {
        let mut schedule = Schedule::new(3, 7, 2, 5);
        let mut offering = Offering::new(schedule.clone(), 3, &[]);
        for _ in 0..100 {
            assert_eq!(offering.peek(), Offer::of(schedule.peek()));
            schedule.advance();
            offering.advance();
        }
    }

    #[test]
    fn every_fault_is_made_where_it_belongs() {
        let faults = [
            (0, Fault::Drop),
            (3, Fault::Duplicate),
            (5, Fault::Swap),
            (9, Fault::Corrupt(7)),
            (11, Fault::Foreign),
        ];
        let one = |sequence, due_ms, begins, guise| (0, sequence, due_ms, begins, guise);
        assert_eq!(
            offered(1, 1, &faults, 13),
            [
                one(1, 1, true, Own),
                one(2, 2, true, Own),
                one(3, 3, true, Own),
                one(3, 3, false, Own),
                one(4, 4, true, Own),
                one(6, 6, true, Own),
                one(5, 6, false, Own),
                one(7, 7, true, Own),
                one(8, 8, true, Own),
                one(9, 9, true, Flipped(7)),
                one(10, 10, true, Own),
                one(11, 11, true, Own),
                one(11, 11, false, Foreign),
            ]
        );
    }

    #[test]
    fn a_swap_is_of_one_flow() {
        let order: Vec<_> =
            offered(2, 1, &[(2, Fault::Swap)], 6).into_iter().map(|seen| (seen.0, seen.1)).collect();
        assert_eq!(order, [(0, 0), (1, 0), (1, 1), (0, 2), (0, 1), (1, 2)]);
    }

    #[test]
    fn a_burst_whose_first_datagram_is_left_out_begins_with_the_second() {
        let begins: Vec<_> =
            offered(1, 3, &[(3, Fault::Drop)], 5).into_iter().map(|seen| (seen.1, seen.3)).collect();
        assert_eq!(begins, [(0, true), (1, false), (2, false), (4, true), (5, false)]);
    }
}
