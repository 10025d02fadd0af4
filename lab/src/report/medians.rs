//! Each subject under each condition over all blocks, in one line.

use super::columns::{Column, Conditions};
use super::numbers::{grouped, micros, or_nothing, rounded};
use crate::results::{Latency, Measured, Trial, last_attempts};
use crate::scenario::Condition;
use crate::statistics::median;
use crate::verdict::Verdict;

/// All blocks of one subject under one condition.
struct Line {
    subject: String,
    condition: Condition,
    blocks: usize,
    /// `None` when nothing was expected of them.
    passed: Option<usize>,
    /// Those that proved something.
    conclusive: usize,
    lost: Option<u64>,
    p50: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    cpu: Option<f64>,
    above_wire: Option<f64>,
}

const SUBJECT: [Column<Line>; 1] = [Column::text("subject", |line| line.subject.clone())];

const FINDINGS: [Column<Line>; 7] = [
    Column::number("passed", passed),
    Column::number("lost", |line| or_nothing(line.lost, grouped)),
    Column::number("p50 µs", |line| or_nothing(line.p50, micros)),
    Column::number("p99 µs", |line| or_nothing(line.p99, micros)),
    Column::number("p99.9 µs", |line| or_nothing(line.p999, micros)),
    Column::number("cpu ns", |line| or_nothing(line.cpu, rounded)),
    Column::number("sys ns", |line| or_nothing(line.above_wire, rounded)),
];

fn passed(line: &Line) -> String {
    line.passed.map_or_else(
        || format!("{} measured", line.conclusive),
        |passed| format!("{passed} of {}", line.blocks),
    )
}

const LEGEND: &str =
    "over all blocks: lost in total, medians of the others; trials that proved nothing do not count";

/// The table.
pub(super) fn table(trials: &[Trial], conditions: &Conditions) -> String {
    let table = conditions.table(&lines(trials), &SUBJECT, |line| &line.condition, &FINDINGS);
    format!("{table}\n\n{LEGEND}\n")
}

/// In the order in which subjects and conditions were first met.
fn lines(trials: &[Trial]) -> Vec<Line> {
    let mut groups: Vec<Vec<&Trial>> = Vec::new();
    for trial in last_attempts(trials) {
        let is_alike = |group: &&mut Vec<&Trial>| {
            group[0].subject == trial.subject && group[0].condition == trial.condition
        };
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(trial),
            None => groups.push(vec![trial]),
        }
    }
    groups.iter().map(|group| Line::of(group)).collect()
}

impl Line {
    /// Of trials that are alike; at least one.
    fn of(trials: &[&Trial]) -> Self {
        let conclusive = trials.iter().filter(|trial| trial.verdict.is_conclusive());
        let measured: Vec<&Measured> = conclusive.filter_map(|trial| trial.measured.as_ref()).collect();
        let latency = |pick: fn(&Latency) -> u64| {
            let latencies = measured.iter().filter_map(|measured| measured.latency_ns.as_ref());
            median(latencies.map(|latency| pick(latency) as f64))
        };
        let passed = || trials.iter().filter(|trial| trial.verdict == Verdict::Pass).count();
        Self {
            subject: trials[0].subject.clone(),
            condition: trials[0].condition,
            blocks: trials.len(),
            passed: trials.iter().any(|trial| trial.expected.is_some()).then(passed),
            conclusive: measured.len(),
            lost: (!measured.is_empty()).then(|| measured.iter().map(|measured| measured.counts.lost).sum()),
            p50: latency(|latency| latency.p50),
            p99: latency(|latency| latency.p99),
            p999: latency(|latency| latency.p999),
            cpu: median(measured.iter().filter_map(|measured| measured.cpu_ns_per_packet.relay)),
            above_wire: median(
                measured.iter().filter_map(|measured| measured.cpu_ns_per_packet.system_less_wire),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::{CONDITION, trial};

    #[test]
    fn blocks_become_one_line_and_what_proved_nothing_does_not_count() {
        let mut trials = Vec::new();
        for (block, cpu) in [(1, 300.0), (2, 100.0), (3, 200.0)] {
            trials.extend([trial("a", block, cpu), trial("b", block, 2.0 * cpu)]);
        }
        trials[0].verdict = Verdict::Fail;
        trials[0].measured.as_mut().unwrap().counts.lost = 7;
        trials[3].verdict = Verdict::Invalid;
        trials[5].measured = None;
        let lines = lines(&trials);
        let shown: Vec<Vec<_>> =
            lines.iter().map(|line| FINDINGS.iter().map(|column| column.shown(line)).collect()).collect();
        assert_eq!(shown[0], ["2 of 3", "7", "2.0", "2.0", "2.0", "200", "300"]);
        assert_eq!(shown[1], ["2 of 3", "0", "6.0", "6.0", "6.0", "600", "900"]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn what_was_only_measured_has_not_passed() {
        let mut trials = vec![trial("a", 1, 1.0), trial("a", 2, 1.0)];
        for trial in &mut trials {
            trial.expected = None;
        }
        trials[1].verdict = Verdict::Invalid;
        assert_eq!(FINDINGS[0].shown(&lines(&trials)[0]), "1 measured");
    }

    #[test]
    fn conditions_are_kept_apart() {
        let mut trials = vec![trial("a", 1, 1.0), trial("a", 1, 1.0), trial("a", 2, 1.0)];
        trials[1].condition = Condition { rate_pps: 7, ..CONDITION };
        assert_eq!(lines(&trials).iter().map(|line| line.blocks).collect::<Vec<_>>(), [2, 1]);
        trials[1].verdict = Verdict::Invalid;
        assert_eq!(
            FINDINGS.map(|column| column.shown(&lines(&trials)[1])),
            ["0 of 1", "-", "-", "-", "-", "-", "-"]
        );
    }
}
