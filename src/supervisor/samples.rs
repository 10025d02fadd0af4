//! Counters of a little while ago, to tell rates from.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::stats::Stats;

/// How long ago they must have been read at least.
const LEAST: Duration = Duration::from_millis(500);
/// How many are kept: with one each half second, the first of them is old enough.
const KEPT: usize = 3;

/// Counters as they were read.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, Stats)>);

impl Samples {
    /// The last ones that are old enough, and how long ago they were read.
    pub(super) fn earlier(&self) -> Option<(&Stats, Duration)> {
        let aged = self.0.iter().rev().map(|(at, stats)| (stats, at.elapsed()));
        aged.into_iter().find(|(_, age)| *age >= LEAST)
    }

    /// Keeps what was read now, unless that was done just before.
    pub(super) fn take(&mut self, stats: Stats) {
        if self.0.back().is_some_and(|(at, _)| at.elapsed() < LEAST) {
            return;
        }
        self.0.push_back((Instant::now(), stats));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}
