//! Narrowing down the highest rate without loss. No I/O.

/// Rates in packets per second, from the least to the highest that may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) least: u64,
    pub(crate) highest: u64,
}

/// What trials at one rate have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The subject loses nothing.
    Lossless,
    /// It loses something.
    Lossy,
    /// Nothing: the lab cannot measure at this rate.
    Nothing,
}

/// The rates between which the highest one without loss lies (the lower and the upper bound of RFC 9971).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    range: Range,
    /// At most so much of the lower bound lies between the bounds in the end.
    width: f64,
    pub(super) lower: Option<u64>,
    pub(super) upper: Option<(u64, Shown)>,
}

impl Bounds {
    pub(super) fn new(range: Range, width: f64) -> Self {
        Self { range, width, lower: None, upper: None }
    }

    /// The rate to try next; `None` when the bounds are as close as they should be.
    ///
    /// Rates that are far apart are halved as factors, not as differences: from 1,000 and 100,000 comes 10,000.
    pub(super) fn next(&self) -> Option<u64> {
        let Range { least, highest } = self.range;
        match (self.lower, self.upper) {
            (None, None) => Some(least),
            // Not even the least rate.
            (None, Some(_)) => None,
            (Some(lower), None) => (lower < highest).then_some(highest),
            (Some(lower), Some((upper, _))) => {
                let (low, high) = (lower as f64, upper as f64);
                let between = (low * high).sqrt().round() as u64;
                (high > low * (1.0 + self.width) && lower < between && between < upper).then_some(between)
            }
        }
    }

    /// Takes in what came of the rate that [`Bounds::next`] said.
    pub(super) fn learn(&mut self, rate: u64, shown: Shown) {
        match shown {
            Shown::Lossless => self.lower = Some(rate),
            Shown::Lossy | Shown::Nothing => self.upper = Some((rate, shown)),
        }
    }
}

/// Trials at one rate, of which the larger part decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ballot {
    trials: usize,
    lossless: usize,
    lossy: usize,
    nothing: usize,
}

impl Ballot {
    /// Of at most `trials` trials.
    pub(super) fn of(trials: usize) -> Self {
        Self { trials, lossless: 0, lossy: 0, nothing: 0 }
    }

    pub(super) fn cast(&mut self, shown: Shown) {
        match shown {
            Shown::Lossless => self.lossless += 1,
            Shown::Lossy => self.lossy += 1,
            Shown::Nothing => self.nothing += 1,
        }
    }

    /// What they have shown together, once no further one can change it. A rate is without loss when more than half of
    /// all trials were; what shows nothing is held against the rate, but not against the subject: that takes more trials
    /// that lost something than trials that showed nothing.
    pub(super) fn result(&self) -> Option<Shown> {
        let Self { trials, lossless, lossy, nothing } = *self;
        let left = trials.saturating_sub(lossless + lossy + nothing);
        if 2 * lossless > trials {
            Some(Shown::Lossless)
        } else if 2 * (lossless + left) > trials {
            None
        } else if lossy > nothing + left {
            Some(Shown::Lossy)
        } else if lossy + left <= nothing {
            Some(Shown::Nothing)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE: Range = Range { least: 10_000, highest: 2_000_000 };

    /// Searches a subject that loses from `limit` on, in a lab that measures nothing from `blind` on.
    fn search(range: Range, width: f64, limit: u64, blind: u64) -> (Bounds, usize) {
        let mut bounds = Bounds::new(range, width);
        let mut trials = 0;
        while let Some(rate) = bounds.next() {
            assert!((range.least..=range.highest).contains(&rate));
            let lossy = if rate >= limit { Shown::Lossy } else { Shown::Lossless };
            bounds.learn(rate, if rate >= blind { Shown::Nothing } else { lossy });
            trials += 1;
            assert!(trials < 100, "{bounds:?}");
        }
        (bounds, trials)
    }

    #[test]
    fn the_ends_of_the_range_are_results_too() {
        let (none, trials) = search(RANGE, 0.05, 10_000, u64::MAX);
        assert_eq!((none.lower, none.upper, trials), (None, Some((10_000, Shown::Lossy)), 1));
        let (all, trials) = search(RANGE, 0.05, u64::MAX, u64::MAX);
        assert_eq!((all.lower, all.upper, trials), (Some(2_000_000), None, 2));
        let point = Range { least: 5, highest: 5 };
        assert_eq!(search(point, 0.05, u64::MAX, u64::MAX).0.lower, Some(5));
    }

    #[test]
    fn where_the_lab_is_blind_the_bound_is_the_labs() {
        let (bounds, _) = search(RANGE, 0.05, 900_000, 600_000);
        assert!(matches!(bounds.upper, Some((600_000.., Shown::Nothing))), "{bounds:?}");
        let (bounds, _) = search(RANGE, 0.05, 500_000, 600_000);
        assert!(matches!(bounds.upper, Some((500_000..600_000, Shown::Lossy))), "{bounds:?}");
    }

    #[test]
    fn most_trials_decide() {
        use Shown::{Lossless, Lossy, Nothing};
        let result = |trials, shown: &[Shown]| {
            let mut ballot = Ballot::of(trials);
            for shown in shown {
                ballot.cast(*shown);
            }
            ballot.result()
        };
        assert_eq!(result(1, &[]), None);
        assert_eq!(result(1, &[Lossless]), Some(Lossless));
        assert_eq!(result(3, &[Lossless]), None);
        assert_eq!(result(3, &[Lossless, Lossless]), Some(Lossless));
        assert_eq!(result(3, &[Lossy, Lossless]), None);
        assert_eq!(result(3, &[Lossy, Lossy]), Some(Lossy));
        assert_eq!(result(2, &[Lossless, Lossy]), Some(Lossy), "half is not more than half");
        assert_eq!(result(3, &[Nothing, Nothing]), Some(Nothing));
        assert_eq!(result(3, &[Lossy, Nothing, Lossless]), Some(Nothing), "the lab failed as often");
        assert_eq!(result(5, &[Lossy, Nothing, Lossless, Lossy]), None);
        assert_eq!(result(5, &[Lossy, Nothing, Lossless, Lossy, Nothing]), Some(Nothing));
        assert_eq!(result(5, &[Lossy, Nothing, Lossless, Lossy, Lossless]), Some(Lossy));
        assert_eq!(result(3, &[Nothing, Nothing, Lossy]), Some(Nothing));
    }

    proptest! {
        #[test]
        fn the_limit_lies_between_the_bounds(
            least in 1_u64..100_000,
            times in 1_u64..1_000,
            limit in 1_u64..100_000_000,
            width in 0.001_f64..1.0,
        ) {
            let range = Range { least, highest: least * times };
            let (bounds, _) = search(range, width, limit, u64::MAX);
            prop_assert!(bounds.lower.is_none_or(|lower| lower < limit));
            prop_assert!(bounds.upper.is_none_or(|(upper, _)| limit <= upper));
            if let (Some(lower), Some((upper, _))) = (bounds.lower, bounds.upper) {
                prop_assert!(upper as f64 <= lower as f64 * (1.0 + width) || upper - lower <= 2, "{lower} {upper}");
            }
        }

        #[test]
        fn a_ballot_is_over_when_all_have_cast(trials in 1_usize..20, votes in proptest::collection::vec(0..3, 20)) {
            let mut ballot = Ballot::of(trials);
            let mut decided = None;
            for vote in votes.into_iter().take(trials) {
                ballot.cast([Shown::Lossless, Shown::Lossy, Shown::Nothing][vote as usize]);
                // What is decided stays so.
                prop_assert!(decided.is_none() || decided == ballot.result());
                decided = ballot.result();
            }
            prop_assert!(decided.is_some());
        }
    }
}
