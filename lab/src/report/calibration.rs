//! What the lab did without a subject.

use super::columns::{Column, Conditions};
use super::numbers::{grouped, micros, or_nothing, rounded};
use super::trials::{latency, measured};
use crate::calibration::Calibration;
use crate::results::{Trial, last_attempts};

/// A trial, and whether it was held before the run or after it.
struct Line<'a> {
    when: &'static str,
    trial: &'a Trial,
}

/// The table; `None` when nothing was measured.
pub(super) fn table(calibration: &Calibration) -> Option<String> {
    let Calibration { before, after } = calibration;
    let series = [("before", before), ("after", after)].into_iter();
    let lines =
        series.flat_map(|(when, trials)| last_attempts(trials).map(move |trial| Line { when, trial }));
    let lines: Vec<_> = lines.collect();
    let conditions = Conditions::of(lines.iter().map(|line| line.trial.condition));
    let before = [
        Column::text("lab alone", |line: &Line<'_>| line.when.to_owned()),
        Column::text("verdict", |line: &Line<'_>| line.trial.verdict_in_words()),
    ];
    let after = [
        Column::number("lost", |line: &Line<'_>| measured(line.trial, |m| grouped(m.counts.lost))),
        Column::number("p50 µs", |line: &Line<'_>| latency(line.trial, |latency| latency.p50)),
        Column::number("p99 µs", |line: &Line<'_>| latency(line.trial, |latency| latency.p99)),
        Column::number("p99.9 µs", |line: &Line<'_>| latency(line.trial, |latency| latency.p999)),
        Column::number("max µs", |line: &Line<'_>| latency(line.trial, |latency| latency.max)),
        Column::number("lag µs", |line: &Line<'_>| {
            measured(line.trial, |m| micros(m.generator_lag_ns.p99 as f64))
        }),
        Column::number("machine ns", |line: &Line<'_>| {
            measured(line.trial, |m| or_nothing(m.cpu_ns_per_packet.system, rounded))
        }),
    ];
    let table = conditions.table(&lines, &before, |line| &line.trial.condition, &after);
    (!lines.is_empty()).then(|| format!("{table}\n\n{LEGEND}\n"))
}

const LEGEND: &str =
    "the same traffic over a direct wire, before and after the run: what the lab itself adds";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::trial;

    #[test]
    fn both_series_are_told() {
        let mut before = vec![trial("direct-wire", 1, 1.0), trial("direct-wire", 1, 2.0)];
        before[1].attempt = 2;
        let calibration = Calibration { before, after: vec![trial("direct-wire", 1, 300.0)] };
        let text = table(&calibration).unwrap();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines[1..3],
            ["before pass 0 0.0 0.0 0.0 0.0 0.0 4", "after pass 0 3.0 3.0 3.0 3.0 0.0 600"]
        );
        assert_eq!(table(&Calibration::default()), None);
    }
}
