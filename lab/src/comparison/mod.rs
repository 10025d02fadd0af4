//! Subjects against each other, or one of them under two conditions: how large a metric of one side is, measured by that
//! of the other. Pure code.
//!
//! What drifts from minute to minute drifts for both: so only trials of the same block are compared, and what is judged is
//! the ratio of each such pair, never a mean of one subject against a mean of the other.

mod absent;

use serde::Serialize;

pub(crate) use absent::Absent;

use crate::plan::LatencyFrom;
use crate::results::{Latency, Measured, Trial, last_attempts};
use crate::scenario::{Condition, Metric, Ratio, Scenario, Subject, Trials};
use crate::statistics::{geometric_mean, interval, median};
use crate::subject::NotInstalled;
use crate::verdict::{BURST_LIMIT_NS, Counts, STEAL_LIMIT_PERCENT, Verdict};

/// How many pairs an interval and a verdict take. With two, nothing can be said of how much they vary.
pub const LEAST_PAIRS: usize = 3;

/// One subject against another under one condition, or under one that differs in a part.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What is compared.
    pub metric: Metric,
    /// Under which condition: that of the subject above the line.
    #[serde(flatten)]
    pub condition: Condition,
    /// That of the subject beneath it, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_condition: Option<Condition>,
    /// The subject above the line.
    pub of: String,
    /// The subject beneath it.
    pub to: String,
    /// How many pairs of trials tell of it.
    pub pairs: usize,
    /// How many blocks have no such pair.
    pub left_out: usize,
    /// Median of the metric over the pairs, in nanoseconds; null without pairs.
    pub of_median: Option<f64>,
    /// The same of the other subject.
    pub to_median: Option<f64>,
    /// The geometric mean of the ratios of the pairs; null without pairs.
    pub ratio: Option<f64>,
    /// Where it lies with 95 % confidence; null with fewer than [`LEAST_PAIRS`].
    pub ci95: Option<[f64; 2]>,
    /// What it must not exceed; null when it is only reported.
    pub at_most: Option<f64>,
    /// Whether it does: null when it is only reported.
    pub verdict: Option<Verdict>,
    /// Why it is no pass, and what to know of the trials it rests on.
    pub reasons: Vec<String>,
}

/// Everything that `scenario` compares between those `measured`, from all `trials` of a run. A ratio that was to be kept
/// and cannot be told because a subject is not installed is inconclusive.
pub fn compare(
    scenario: &Scenario,
    measured: &[&Subject],
    not_installed: &[NotInstalled],
    trials: &[Trial],
) -> Vec<Comparison> {
    let last: Vec<_> = last_attempts(trials).collect();
    let comparisons = scenario.expect.ratios.iter().flat_map(|ratio| {
        let absent = absent(ratio, measured, not_installed);
        let is_told = absent.is_empty() || is_left_undecided(ratio, &absent);
        let conditions = if is_told { scenario.conditions_of(ratio) } else { Vec::new() };
        let told = conditions.iter().map(|conditions| {
            let comparison = comparison(ratio, conditions, scenario.trials, &last);
            if absent.is_empty() {
                comparison
            } else {
                Comparison { reasons: absent.in_words(), ..comparison }
            }
        });
        told.collect::<Vec<_>>()
    });
    comparisons.collect()
}

/// A note on each ratio of `scenario` that is not told because not both its subjects are among the `measured`.
pub fn not_compared(
    scenario: &Scenario,
    measured: &[&Subject],
    not_installed: &[NotInstalled],
) -> Vec<String> {
    let notes = scenario.expect.ratios.iter().filter_map(|ratio| {
        let absent = absent(ratio, measured, not_installed);
        let is_noted = !absent.is_empty() && !is_left_undecided(ratio, &absent);
        let (metric, [of, to]) = (ratio.metric, ratio.sides());
        is_noted
            .then(|| format!("{metric} of {of} to {to} is not compared: {}", absent.in_words().join(" and ")))
    });
    notes.collect()
}

/// Which subjects of `ratio` are not among the `measured`.
fn absent<'a>(ratio: &'a Ratio, measured: &[&Subject], not_installed: &[NotInstalled]) -> Absent<'a> {
    Absent::among([&ratio.of, &ratio.to], measured, not_installed)
}

/// Whether `ratio` was to be kept, and nothing but what is not installed keeps it from being told.
fn is_left_undecided(ratio: &Ratio, absent: &Absent<'_>) -> bool {
    ratio.at_most.is_some() && absent.leaves_undecided()
}

/// The trials of two subjects in the same block, and what they measured.
struct Pair<'a> {
    trials: [&'a Trial; 2],
    values: [f64; 2],
}

fn comparison(ratio: &Ratio, conditions: &[Condition; 2], trials: Trials, last: &[&Trial]) -> Comparison {
    let Trials { blocks, latency_from, .. } = trials;
    let (pairs, gaps) = pairs(ratio, conditions, blocks, last);
    let logs: Vec<_> = pairs.iter().map(|pair| (pair.values[0] / pair.values[1]).ln()).collect();
    let ci95 = if logs.len() < LEAST_PAIRS { None } else { interval(&logs) };
    let mean = geometric_mean(&logs);
    let judged = ratio.at_most.map(|at_most| judge(pairs.len(), ci95, at_most));
    let mut reasons: Vec<_> = judged.iter().filter_map(|(_, reason)| reason.clone()).collect();
    if !gaps.is_empty() {
        reasons.push(format!("no pair, because {}", with_blocks(&gaps)));
    }
    reasons.extend(doubts(ratio, latency_from, &pairs));
    Comparison {
        metric: ratio.metric,
        condition: conditions[0],
        to_condition: (conditions[0] != conditions[1]).then_some(conditions[1]),
        of: ratio.of.clone(),
        to: ratio.to.clone(),
        pairs: pairs.len(),
        left_out: blocks - pairs.len(),
        of_median: median(pairs.iter().map(|pair| pair.values[0])),
        to_median: median(pairs.iter().map(|pair| pair.values[1])),
        ratio: mean,
        ci95,
        at_most: ratio.at_most,
        verdict: judged.map(|(verdict, _)| verdict),
        reasons,
    }
}

/// The pair of each block, and what is in the way of it with the block in which it is.
fn pairs<'a>(
    ratio: &Ratio,
    [of_condition, to_condition]: &[Condition; 2],
    blocks: usize,
    last: &[&'a Trial],
) -> (Vec<Pair<'a>>, Vec<(String, usize)>) {
    let (mut pairs, mut gaps) = (Vec::new(), Vec::new());
    let [of_side, to_side] = ratio.sides();
    for block in 1..=blocks {
        let value_of = |name: &str, condition: &Condition, side: &str| {
            let is_it = |trial: &&&Trial| {
                trial.block == block && trial.condition == *condition && trial.subject == name
            };
            let trial = *last.iter().find(is_it).ok_or_else(|| format!("{side} was not run"))?;
            value(ratio.metric, trial, side).map(|value| (trial, value))
        };
        let of = value_of(&ratio.of, of_condition, &of_side);
        let of = of.and_then(|(trial, value)| kept_all(ratio, trial, &of_side).map(|()| (trial, value)));
        let sides = (of, value_of(&ratio.to, to_condition, &to_side));
        match sides {
            (Ok((of, of_value)), Ok((to, to_value))) => {
                pairs.push(Pair { trials: [of, to], values: [of_value, to_value] });
            }
            (of, to) => gaps.extend([of.err(), to.err()].into_iter().flatten().map(|why| (why, block))),
        }
    }
    (pairs, gaps)
}

/// What was so in which blocks: `a was invalid in block 2; b was invalid in blocks 3, 4`.
fn with_blocks(told: &[(String, usize)]) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for (what, block) in told {
        match groups.iter_mut().find(|(known, _)| known == what) {
            Some((_, blocks)) => blocks.push(block.to_string()),
            None => groups.push((what, vec![block.to_string()])),
        }
    }
    let words = groups.iter().map(|(what, blocks)| {
        let plural = if blocks.len() > 1 { "s" } else { "" };
        format!("{what} in block{plural} {}", blocks.join(", "))
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What `trial` says of `metric`, in nanoseconds, or why it says nothing of the side called `name`.
fn value(metric: Metric, trial: &Trial, name: &str) -> Result<f64, String> {
    if !trial.verdict.is_conclusive() {
        return Err(format!("{name} was {}", trial.verdict));
    }
    let unmeasured = || format!("{name} failed before it was measured");
    let value = match metric {
        Metric::JoinDelay => Some(trial.delays.ok_or_else(unmeasured)?.join_ns as f64),
        Metric::LeaveDelay => Some(trial.delays.ok_or_else(unmeasured)?.leave_ns as f64),
        _ => reading(metric, trial.condition.fan_out, trial.measured.as_ref().ok_or_else(unmeasured)?),
    };
    // Of nothing there is no ratio.
    value.filter(|value| *value > 0.0).ok_or_else(|| format!("{name} had no {metric}"))
}

/// Refuses to judge the latency of a side that lost datagrams: those that wait longest are the first to be lost, and no percentile
/// has them. The other side's is the shorter for it, which is no favour to this one.
fn kept_all(ratio: &Ratio, trial: &Trial, name: &str) -> Result<(), String> {
    let is_judged = ratio.at_most.is_some() && ratio.metric.is_latency();
    let lost = trial.measured.as_ref().map_or(0, |measured| measured.counts.lost);
    if is_judged && lost > 0 {
        return Err(format!("{name} lost datagrams, of which no latency is known,"));
    }
    Ok(())
}

fn reading(metric: Metric, fan_out: usize, measured: &Measured) -> Option<f64> {
    let latency =
        |pick: fn(&Latency) -> u64| measured.latency_ns.as_ref().map(|latency| pick(latency) as f64);
    match metric {
        Metric::RelayCpu => measured.cpu_ns_per_packet.relay,
        Metric::RelayCpuPerCopy => measured.cpu_ns_per_packet.relay.map(|cpu| cpu / fan_out as f64),
        Metric::SystemCpu => measured.cpu_ns_per_packet.system_less_wire,
        Metric::P50 => latency(|latency| latency.p50),
        Metric::P99 => latency(|latency| latency.p99),
        Metric::P999 => latency(|latency| latency.p999),
        Metric::JoinDelay | Metric::LeaveDelay => None,
    }
}

/// The verdict on a ratio, and the reason when it is no pass: only an interval that lies on one side as a whole tells.
fn judge(pairs: usize, ci95: Option<[f64; 2]>, at_most: f64) -> (Verdict, Option<String>) {
    let Some([low, high]) = ci95 else {
        let reason = format!("a verdict takes {LEAST_PAIRS} pairs of trials, found {pairs}");
        return (Verdict::Inconclusive, Some(reason));
    };
    if high <= at_most {
        (Verdict::Pass, None)
    } else if low > at_most {
        (Verdict::Fail, Some(format!("all of the interval is above {at_most}")))
    } else {
        let reason = format!("the interval reaches over {at_most}: more blocks make it narrower");
        (Verdict::Inconclusive, Some(reason))
    }
}

/// Something that makes a trial less than certain, without making it worthless.
struct Doubt {
    says: &'static str,
    /// Whether it matters to a metric, with latency from that time on.
    matters: fn(Metric, LatencyFrom) -> bool,
    is_about: fn(&Trial, &Measured) -> bool,
}

const DOUBTS: [Doubt; 6] = [
    Doubt {
        says: "did not pass and are compared all the same",
        matters: |_, _| true,
        is_about: |trial, _| trial.verdict != Verdict::Pass,
    },
    Doubt {
        says: "lost, repeated, swapped or damaged datagrams",
        matters: |_, _| true,
        is_about: |_, measured| measured.counts != Counts::default(),
    },
    Doubt {
        says: "had datagrams before they were sent, by the clocks, which are in no percentile",
        matters: |metric, _| metric.is_latency(),
        is_about: |_, measured| measured.sinks.iter().any(|sink| sink.before_their_time > 0),
    },
    Doubt {
        says: "shared the machine with others (steal)",
        matters: |_, _| true,
        is_about: |_, measured| measured.steal_percent > STEAL_LIMIT_PERCENT,
    },
    Doubt {
        says: "have the generator's own lateness in their latency",
        matters: |metric, from| metric.is_latency() && from == LatencyFrom::Intended,
        is_about: |_, measured| measured.generator_lag_ns.max > BURST_LIMIT_NS,
    },
    Doubt {
        says: "have their CPU time from coarse ticks",
        matters: |metric, _| metric.is_relay_cpu(),
        is_about: |_, measured| measured.cpu_ns_per_packet.relay_from_ticks,
    },
];

/// What the reader should know of the trials that a comparison rests on.
fn doubts(ratio: &Ratio, latency_from: LatencyFrom, pairs: &[Pair<'_>]) -> Vec<String> {
    let sides = ratio.sides();
    let told =
        DOUBTS.iter().filter(|doubt| (doubt.matters)(ratio.metric, latency_from)).filter_map(|doubt| {
            let trials = pairs.iter().flat_map(|pair| pair.trials.into_iter().zip(&sides));
            let about = trials
                .filter(|(trial, _)| trial.measured.as_ref().is_some_and(|m| (doubt.is_about)(trial, m)));
            let about: Vec<_> = about.map(|(trial, side)| (side.clone(), trial.block)).collect();
            (!about.is_empty()).then(|| format!("{}: {}", doubt.says, with_blocks(&about)))
        });
    told.collect()
}

#[cfg(test)]
mod tests;
