//! How long joining and leaving took.

use super::columns::{Column, Conditions};
use super::numbers::{grouped, or_nothing};
use crate::results::Trial;
use crate::trial::Delays;

const TRIAL: [Column<Trial>; 2] = [
    Column::text("subject", |trial| trial.subject.clone()),
    Column::text("verdict", Trial::verdict_in_words),
];

const FINDINGS: [Column<Trial>; 4] = [
    Column::number("first ms", |trial| millis(trial, |delays| delays.first_ns)),
    Column::number("join ms", |trial| millis(trial, |delays| delays.join_ns)),
    Column::number("leave ms", |trial| millis(trial, |delays| delays.leave_ns)),
    Column::number("± ms", |trial| millis(trial, |delays| delays.resolution_ns)),
];

const LEGEND: &str = "first: from the subject's start to the first datagram at a sink; join: until every flow had come to \
                      every sink; leave: from the signal that ended it to the last datagram; ±: how far apart the \
                      datagrams of a flow were offered";

/// Every attempt, in the order in which they were held.
pub(super) fn table(trials: &[Trial], conditions: &Conditions) -> String {
    let table = conditions.table(trials, &TRIAL, |trial| &trial.condition, &FINDINGS);
    let common = conditions.common();
    let common = if common.is_empty() { common } else { format!("all trials: {common}\n") };
    format!("{table}\n\n{common}{LEGEND}\n")
}

fn millis(trial: &Trial, pick: impl Fn(&Delays) -> u64) -> String {
    or_nothing(trial.delays.as_ref(), |delays| in_millis(pick(delays)))
}

/// Nanoseconds in milliseconds, with two decimals.
pub(super) fn in_millis(nanos: u64) -> String {
    format!("{}.{:02}", grouped(nanos / 1_000_000), nanos / 10_000 % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::trial;

    #[test]
    fn delays_are_in_milliseconds_and_failures_have_none() {
        let mut joined = trial("a", 1, 1.0);
        let delays =
            Delays { first_ns: 4_567_890, join_ns: 1_234_000_000, leave_ns: 0, resolution_ns: 100_000 };
        (joined.measured, joined.delays) = (None, Some(delays));
        let mut failed = trial("b", 1, 1.0);
        failed.measured = None;
        let text = table(&[joined, failed], &Conditions::of([]));
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1..3], ["a pass 4.56 1,234.00 0.00 0.10", "b pass - - - -"]);
    }
}
