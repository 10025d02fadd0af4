//! Whatever had a verdict in a run, each in a row: what was demanded and what was measured.

use std::time::Duration;

use super::super::found::{Found, FoundRatio};
use super::super::groups::{Group, Groups, Sides, about_repeated};
use super::super::numbers::{bounds, factor, grouped, mebibytes, or_nothing};
use super::super::record::{Comparison, Record, Trial};
use super::super::units::{Unit, many};
use crate::disturbance::{Disturbance, EventLimits};
use crate::memory::{Memory, MemoryLimits};
use crate::results::RunVerdict;
use crate::trial::Events;
use crate::verdict::{Counts, Verdict, of_run};

/// A row.
#[derive(Debug)]
pub(super) struct Bar {
    /// What it is about.
    pub(super) about: String,
    pub(super) demanded: String,
    pub(super) measured: String,
    pub(super) verdict: RunVerdict,
    /// Why it is no pass, and what to know of it otherwise.
    pub(super) reasons: Vec<String>,
}

/// Every bar of a run, and at least one: what no other says is said of the whole.
pub(super) fn of(record: &Record, groups: &Groups<'_>) -> Vec<Bar> {
    let mut bars = Vec::new();
    // That trials fail is what a search is for.
    if !record.is_search() {
        bars.extend(groups.all.iter().filter_map(|group| of_trials(group, groups)));
    }
    bars.extend(record.comparisons.iter().filter_map(|comparison| of_comparison(comparison, groups)));
    bars.extend(record.searches.iter().filter_map(of_no_rate));
    bars.extend(record.search_ratios.iter().map(|ratio| of_search(ratio, &record.searches)));
    let worst = of_run(bars.iter().filter_map(|bar| bar.verdict.judged()));
    if bars.is_empty() || record.verdict.judged() != Some(worst) {
        bars.push(of_all(record));
    }
    bars
}

/// Exactly the counts that were expected in each block, and no more memory.
fn of_trials(group: &Group<'_>, groups: &Groups<'_>) -> Option<Bar> {
    let expected = group.last.iter().find_map(|trial| trial.expected)?;
    let reasons = group.last.iter().flat_map(|trial| {
        let turn = trial.turn();
        trial.reasons.iter().map(move |reason| format!("{turn}: {reason}"))
    });
    let repeated = about_repeated(group.trials.iter().copied(), &group.last);
    let limits = expected.memory_bytes;
    let what = if limits.is_none() { "counts" } else { "counts and memory" };
    let around_events = expected.around_events;
    Some(Bar {
        about: format!("{what}, {}, {}", group.subject, groups.name(group.condition)),
        demanded: [demanded(expected.counts()), demanded_around(&around_events), demanded_of_memory(&limits)]
            .concat(),
        measured: [counted(group), around(group, &around_events), memory(group, &limits)].concat(),
        verdict: of_run(group.last.iter().map(|trial| trial.verdict)).into(),
        // First, because only the first few are told.
        reasons: repeated.into_iter().chain(reasons).collect(),
    })
}

fn counted(group: &Group<'_>) -> String {
    let counted: Vec<_> = group.conclusive().filter(|trial| trial.lost.is_some()).collect();
    if counted.is_empty() {
        return "nothing".to_owned();
    }
    let due = counted.iter().map(|trial| trial.due()).fold(0, u64::saturating_add);
    let sum = |count: fn(&Trial) -> Option<u64>| -> u64 {
        counted.iter().filter_map(|trial| count(trial)).fold(0, u64::saturating_add)
    };
    let others = [
        ("duplicated", sum(|trial| trial.duplicated)),
        ("reordered", sum(|trial| trial.reordered)),
        ("corrupted", sum(|trial| trial.corrupted)),
    ];
    let others = others.into_iter().filter(|(_, count)| *count > 0);
    let others: Vec<_> = others.map(|(what, count)| format!(", {} {what}", grouped(count))).collect();
    let blocks = out_of(counted.len(), group.last.len(), "block");
    let lost = grouped(group.lost().unwrap_or_default());
    format!("{lost} of {} lost in {blocks}{}", grouped(due), others.concat())
}

/// The most that the subject had in any block of what is limited.
fn memory(group: &Group<'_>, limits: &MemoryLimits) -> String {
    let of = |limit: Option<u64>, part: fn(&Memory) -> u64| {
        let seen = group.conclusive().filter_map(|trial| trial.memory_bytes.as_ref()).map(part).max();
        limit.and(seen)
    };
    let most = of(limits.most, |memory| memory.most).map(|most| format!("; {} MiB at most", mebibytes(most)));
    let growth = of(limits.growth, Memory::growth);
    let growth = growth.map(|growth| format!("; grown by {} KiB at most", grouped(growth >> 10)));
    let descriptors = of(limits.descriptors, Memory::descriptor_growth);
    let descriptors = descriptors.map(|growth| format!("; {} descriptors more at most", grouped(growth)));
    most.into_iter().chain(growth).chain(descriptors).collect()
}

/// The longest times of any block that are limited, and how many events there were.
fn around(group: &Group<'_>, limits: &EventLimits) -> String {
    let longest = |limit: Option<Duration>, part: fn(&Disturbance) -> u64| {
        let seen = group.conclusive().filter_map(|trial| trial.disturbance.as_ref()).map(part).max();
        limit.and(seen).map(|ns| format!("{:.1} ms", ns as f64 / 1e6))
    };
    let events = group.conclusive().filter_map(|trial| trial.events.as_ref()).map(Events::count).sum::<u64>();
    let events = (events > 0).then(|| format!("; {}", many(events as usize, "event")));
    let interruption = longest(limits.interruption, Disturbance::interruption_ns);
    let interruption = interruption.map(|longest| format!("; interrupted for {longest} at most"));
    let recovery =
        longest(limits.recovery, |seen| seen.recoveries_ns.iter().copied().max().unwrap_or_default());
    let recovery = recovery.map(|longest| format!("; recovered in {longest} at most"));
    events.into_iter().chain(interruption).chain(recovery).collect()
}

fn demanded_around(limits: &EventLimits) -> String {
    let EventLimits { loss_per_event, duplicates_per_event, interruption, recovery } = *limits;
    let each = |count: u64, what| {
        (count > 0).then(|| format!("; at most {} {what} more for each outage", grouped(count)))
    };
    let interruption = interruption.map(|limit| format!("; interrupted for at most {limit:?}"));
    let recovery = recovery.map(|limit| format!("; recovered within {limit:?}"));
    let counts = each(loss_per_event, "lost").into_iter().chain(each(duplicates_per_event, "duplicated"));
    counts.chain(interruption).chain(recovery).collect()
}

fn demanded_of_memory(limits: &MemoryLimits) -> String {
    let most = limits.most.map(|most| format!("; at most {} MiB of memory", mebibytes(most)));
    let growth =
        limits.growth.map(|growth| format!("; memory grown by at most {} KiB", grouped(growth >> 10)));
    let descriptors =
        limits.descriptors.map(|growth| format!("; at most {} descriptors more", grouped(growth)));
    most.into_iter().chain(growth).chain(descriptors).collect()
}

/// `5 pairs`, or `3 of 5 pairs`.
fn out_of(count: usize, all: usize, what: &str) -> String {
    if count == all { many(all, what) } else { format!("{count} of {}", many(all, what)) }
}

fn demanded(expected: Counts) -> String {
    let Counts { lost, duplicated, reordered, corrupted } = expected;
    if expected == Counts::default() {
        return "none lost, duplicated, reordered or corrupted".to_owned();
    }
    format!(
        "{lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted in each block"
    )
}

/// A ratio that was to be kept.
fn of_comparison(comparison: &Comparison, groups: &Groups<'_>) -> Option<Bar> {
    let (verdict, at_most) = (comparison.verdict?, comparison.at_most?);
    Some(Bar {
        about: about(comparison, groups),
        demanded: format!("at most {at_most}"),
        measured: measured(comparison),
        verdict: verdict.into(),
        reasons: comparison.reasons.clone(),
    })
}

/// What a comparison compares.
pub(super) fn about(comparison: &Comparison, groups: &Groups<'_>) -> String {
    let Sides { of, to, condition } = groups.sides(comparison);
    format!("{} of {of} to {to}, {condition}", comparison.metric)
}

/// The ratio with its interval, and the medians.
pub(super) fn measured(comparison: &Comparison) -> String {
    let Some(ratio) = comparison.ratio else { return "nothing".to_owned() };
    let interval = comparison.interval().map(|[low, high]| format!(" ({} to {})", factor(low), factor(high)));
    let show = Unit::of(&comparison.metric).show;
    let [of, to] = [comparison.of_median, comparison.to_median].map(|median| or_nothing(median, show));
    let blocks = comparison.pairs.saturating_add(comparison.left_out);
    let pairs = out_of(comparison.pairs as usize, blocks as usize, "pair");
    format!("{}{}; medians {of} and {to}; {pairs}", factor(ratio), interval.unwrap_or_default())
}

/// That a subject has no rate without loss; where it has one, nothing more was demanded of it alone.
fn of_no_rate(found: &Found) -> Option<Bar> {
    let Found { subject, condition, upper_pps, upper_by, verdict, reasons, .. } = found;
    let by = upper_by.as_ref().map(|limit| format!(" (the {limit})")).unwrap_or_default();
    (*verdict != Verdict::Pass).then(|| Bar {
        about: format!("rate without loss, {subject}, {}", condition.in_words()),
        demanded: "any".to_owned(),
        measured: format!("none from {} on{by}", or_nothing(*upper_pps, grouped)),
        verdict: (*verdict).into(),
        reasons: reasons.clone(),
    })
}

fn of_search(ratio: &FoundRatio, searches: &[Found]) -> Bar {
    let FoundRatio { of, to, condition, least, most, at_least, verdict, reasons } = ratio;
    let of_one = |name: &str| {
        let found = searches.iter().find(|found| found.subject == name && found.condition == *condition)?;
        let [lower, upper] = [found.lower_pps, found.upper_pps].map(|rate| or_nothing(rate, grouped));
        let by = found.upper_by.as_ref().map(|limit| format!(" (the {limit})")).unwrap_or_default();
        Some(format!("; {name} {lower} to {upper}{by}"))
    };
    let rates: String = [of, to].into_iter().filter_map(|name| of_one(name)).collect();
    Bar {
        about: format!("highest rate without loss, {of} to {to}, {}", condition.in_words()),
        demanded: format!("at least {at_least}"),
        measured: format!("{}{rates}", bounds(*least, *most)),
        verdict: (*verdict).into(),
        reasons: reasons.clone(),
    }
}

/// What the parts of a run do not say: that it did not come to its end, or that nothing was to be judged.
fn of_all(record: &Record) -> Bar {
    Bar {
        about: if record.is_search() { "the whole search" } else { "the whole run" }.to_owned(),
        demanded: "-".to_owned(),
        measured: many(record.trials.len(), "attempt"),
        verdict: record.verdict,
        reasons: record.error.iter().chain(&record.notes).cloned().collect(),
    }
}
