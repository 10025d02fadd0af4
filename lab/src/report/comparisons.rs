//! Subjects against each other: a table, and what to know of each comparison.

use std::fmt::{self, Write};

use super::columns::{Column, Conditions, differences, in_words};
use super::numbers::{factor, micros, or_nothing, rounded};
use crate::comparison::Comparison;
use crate::scenario::Metric;

const SUBJECTS: [Column<Comparison>; 3] = [
    Column::text("metric", |comparison| comparison.metric.to_string()),
    Column::text("of", |comparison| sides(comparison)[0].clone()),
    Column::text("to", |comparison| sides(comparison)[1].clone()),
];

const FINDINGS: [Column<Comparison>; 7] = [
    Column::number("of median", |comparison| with_unit(comparison, comparison.of_median)),
    Column::number("to median", |comparison| with_unit(comparison, comparison.to_median)),
    Column::number("pairs", |comparison| comparison.pairs.to_string()),
    Column::number("ratio", |comparison| or_nothing(comparison.ratio, factor)),
    Column::text("95 % interval", |comparison| {
        or_nothing(comparison.ci95, |[low, high]| format!("{} to {}", factor(low), factor(high)))
    }),
    Column::number("at most", |comparison| or_nothing(comparison.at_most, |at_most| at_most.to_string())),
    Column::text("verdict", |comparison| or_nothing(comparison.verdict, |verdict| verdict.to_string())),
];

const LEGEND: &str = "ratio: geometric mean over the pairs, one pair from each block";

/// The table, and the reasons beneath it.
pub(super) fn table(comparisons: &[Comparison], conditions: &Conditions) -> String {
    let table = conditions.table(comparisons, &SUBJECTS, |comparison| &comparison.condition, &FINDINGS);
    let mut text = format!("{table}\n\n{LEGEND}\n");
    // Writing to memory cannot fail.
    let _ = write_reasons(&mut text, comparisons);
    text
}

/// The reasons of each comparison; those that several metrics have in common are said once.
fn write_reasons(text: &mut String, comparisons: &[Comparison]) -> fmt::Result {
    let mut groups: Vec<(&Comparison, Vec<String>)> = Vec::new();
    for comparison in comparisons.iter().filter(|comparison| !comparison.reasons.is_empty()) {
        let metric = comparison.metric.to_string();
        match groups.iter_mut().find(|(first, _)| says_the_same(first, comparison)) {
            Some((_, metrics)) if metrics.contains(&metric) => {}
            Some((_, metrics)) => metrics.push(metric),
            None => groups.push((comparison, vec![metric])),
        }
    }
    for (comparison, metrics) in groups {
        let [of, to] = sides(comparison);
        writeln!(text, "\n{} of {of} to {to}, {}", metrics.join(", "), in_words(&comparison.condition))?;
        for reason in &comparison.reasons {
            writeln!(text, "  - {reason}")?;
        }
    }
    Ok(())
}

fn says_the_same(one: &Comparison, other: &Comparison) -> bool {
    (one.condition, one.to_condition) == (other.condition, other.to_condition)
        && (&one.of, &one.to, &one.reasons) == (&other.of, &other.to, &other.reasons)
}

/// What is compared: both subjects, each with what is not as on the other side.
fn sides(comparison: &Comparison) -> [String; 2] {
    let Comparison { of, to, condition, .. } = comparison;
    let Some(to_condition) = &comparison.to_condition else { return [of.clone(), to.clone()] };
    [(of, condition, to_condition), (to, to_condition, condition)]
        .map(|(name, condition, other)| format!("{name} ({})", differences(condition, other)))
}

fn with_unit(comparison: &Comparison, nanos: Option<f64>) -> String {
    let is_cpu = comparison.metric.is_relay_cpu() || comparison.metric == Metric::SystemCpu;
    or_nothing(nanos, |nanos| {
        if is_cpu { format!("{} ns", rounded(nanos)) } else { format!("{} µs", micros(nanos)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::CONDITION;
    use crate::scenario::Condition;
    use crate::topology::Segmentation;
    use crate::verdict::Verdict;

    #[test]
    fn a_comparison_is_one_line_and_reasons_are_said_once() {
        let judged = Comparison {
            metric: Metric::RelayCpu,
            condition: CONDITION,
            to_condition: None,
            of: "mmap".into(),
            to: "recv".into(),
            pairs: 4,
            left_out: 1,
            of_median: Some(1_234.4),
            to_median: Some(2_000.0),
            ratio: Some(0.617_4),
            ci95: Some([0.6, 0.65]),
            at_most: Some(0.8),
            verdict: Some(Verdict::Pass),
            reasons: vec!["no pair, because recv was invalid in block 2".into()],
        };
        let reported = Comparison {
            metric: Metric::P99,
            of_median: None,
            ratio: None,
            ci95: None,
            at_most: None,
            verdict: None,
            ..judged.clone()
        };
        let other = Comparison { to: "other".into(), reasons: Vec::new(), ..judged.clone() };
        let across = Comparison {
            metric: Metric::RelayCpuPerCopy,
            to: "mmap".into(),
            to_condition: Some(Condition { fan_out: 8, segmentation: Segmentation::Offload, ..CONDITION }),
            reasons: vec!["so it is".into()],
            ..judged.clone()
        };
        let text = table(&[judged, reported, other, across], &Conditions::of([CONDITION]));
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "metric of to of median to median pairs ratio 95 % interval at most verdict");
        assert_eq!(lines[1], "relay-cpu mmap recv 1,234 ns 2,000 ns 4 0.617 0.600 to 0.650 0.8 pass");
        assert_eq!(lines[2], "p99 mmap recv - 2.0 µs 4 - - - -");
        assert_eq!(
            lines[4],
            "relay-cpu-per-copy mmap (segmentation wire, sinks 1) mmap (segmentation offload, sinks 8) 1,234 ns 2,000 ns 4 \
             0.617 0.600 to 0.650 0.8 pass"
        );
        let about = "relay-cpu, p99 of mmap to recv, multicast-to-multicast, 1,000 packets/s, 100 B, packet sink, xdp generator, segmentation wire";
        assert_eq!(lines[8..10], [about, "- no pair, because recv was invalid in block 2"]);
        let across = "relay-cpu-per-copy of mmap (segmentation wire, sinks 1) to mmap (segmentation offload, sinks 8), ";
        assert!(lines[11].starts_with(across), "{}", lines[11]);
        assert_eq!(lines[12..], ["- so it is"]);
    }
}
