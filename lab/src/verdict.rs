//! Verdicts: of a trial from what it measured, of a run from its trials. Pure code.
//!
//! Who failed decides the verdict. The lab failing makes a trial *invalid*, the machine failing makes it
//! *inconclusive*; neither is held against a subject and neither is a pass. Only what lies between the subject's two
//! interfaces, and the subject's process, can make it *fail*.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::disturbance::{Disturbance, EventLimits};
use crate::ledger::{FOREIGN, Keeper, LINK_DOWN, Ledger};
use crate::memory::{Memory, MemoryLimits};

/// How far the offered rate may be from the intended one before the trial is worth nothing, as a fraction.
pub const OFFERED_TOLERANCE: f64 = 0.005;
/// How late the generator may be before its trial is worth nothing, ns: a quarter of a second without traffic and then
/// all of it at once is not the rate that was asked for, although the mean is. Where bursts were asked for, the lag is
/// that of their beginnings, and of what paused in their midst ([`Lag`](crate::generator::Lag)).
pub const LAG_LIMIT_NS: u64 = 250_000_000;
/// How late it may be before a missed count proves nothing, ns. What is late is sent in one burst: 20 ms are 2,000
/// datagrams at 100,000 per second, more than the queues on the way need to hold at that rate. A burst that was asked
/// for and comes late comes as much too near to the next.
pub const BURST_LIMIT_NS: u64 = 20_000_000;
/// How much of the machine's time somebody else may take before a missed expectation proves nothing, in percent.
pub const STEAL_LIMIT_PERCENT: f64 = 1.0;

/// The verdict on one trial, or on a ratio between subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything expected was seen, by a measurement that can be trusted.
    Pass,
    /// The subject missed an expectation, by a measurement that can be trusted.
    Fail,
    /// The lab itself failed.
    Invalid,
    /// The machine failed, or there is too little to tell from.
    Inconclusive,
}

impl Verdict {
    /// Whether it says anything about the subject.
    pub fn is_conclusive(self) -> bool {
        matches!(self, Self::Pass | Self::Fail)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Invalid => "invalid",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// What went wrong on the way to the sinks, counted over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counts {
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Arrivals of what had arrived before.
    pub duplicated: u64,
    /// Arrivals after a later one of the same flow.
    pub reordered: u64,
    /// Arrivals whose content was damaged.
    pub corrupted: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            corrupted: self.corrupted + other.corrupted,
        }
    }
}

/// What a trial found out.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The rate asked for, in datagrams per second.
    pub rate_pps: u64,
    /// The rate offered, in datagrams per second.
    pub offered_pps: f64,
    /// Datagrams the kernel refused to take from the generator.
    pub refused: u64,
    /// How late the generator was at worst, ns.
    pub lag_max_ns: u64,
    /// Whether the generator was stopped because it could not offer everything in time.
    pub stopped: bool,
    /// Errors the sinks met while reading, by name.
    pub sink_errors: BTreeMap<String, u64>,
    /// What the sinks lost themselves, by reason.
    pub sink_dropped: BTreeMap<String, u64>,
    /// Foreign datagrams that the relay received although it is to keep them from being captured.
    pub foreign_received: u64,
    /// Foreign datagrams that the subject sent to the sinks.
    pub foreign_relayed: u64,
    /// Datagrams at the sinks that belong to no flow of the trial.
    pub alien: u64,
    /// How many of those the generator was to send; nobody else has any to send.
    pub expected_alien: u64,
    /// Datagrams of the trial that the subject sent where they do not belong.
    pub misdelivered: u64,
    /// Datagrams that the subject sent with a wrong UDP checksum.
    pub bad_checksums: u64,
    /// How far the clock was moved during the trial, when it was.
    pub clock_step_ns: Option<i64>,
    /// Share of the processors' time that the hypervisor kept for others, in percent.
    pub steal_percent: f64,
    /// The account from generator to sinks.
    pub ledger: &'a Ledger,
    /// What was counted.
    pub counts: Counts,
    /// What was expected; `None` for a subject that is only measured.
    pub expected: Option<Counts>,
    /// What the subject had of memory, as far as that could be read.
    pub memory: Option<Memory>,
    /// What it may have.
    pub memory_limits: MemoryLimits,
    /// How the subject's process failed, if it did.
    pub subject_failures: Vec<String>,
    /// What happened during the trial, and what came of it.
    pub events: EventEvidence,
}

/// What a trial found out about its events.
#[derive(Clone, Debug, Default)]
pub struct EventEvidence {
    /// How many workers died and measured links went away.
    pub outages: u64,
    /// How they disturbed the flows; `None` where nobody wants to know.
    pub disturbance: Option<Disturbance>,
    /// What the subject may do around them.
    pub limits: EventLimits,
    /// What the subject did wrong.
    pub failures_of_the_subject: Vec<String>,
    /// What the lab could not do.
    pub failures_of_the_lab: Vec<String>,
}

impl EventEvidence {
    /// How much further a count may go.
    fn more(&self) -> Counts {
        let EventLimits { loss_per_event, duplicates_per_event, .. } = self.limits;
        let times = |each: u64| each.saturating_mul(self.outages);
        Counts {
            lost: times(loss_per_event),
            duplicated: times(duplicates_per_event),
            reordered: 0,
            corrupted: 0,
        }
    }

    /// How many datagrams the subject's own account may be wrong by: what died with a process in the midst of its work.
    fn miscounted(&self) -> u64 {
        let EventLimits { loss_per_event, duplicates_per_event, .. } = self.limits;
        loss_per_event.saturating_add(duplicates_per_event).saturating_mul(self.outages)
    }

    fn missed(&self) -> Vec<String> {
        self.disturbance.as_ref().map(|disturbance| self.limits.missed(disturbance)).unwrap_or_default()
    }

    /// By how much a time is over what is expected at most, ns.
    fn excess_ns(&self) -> u64 {
        self.disturbance.as_ref().map_or(0, |disturbance| self.limits.excess_ns(disturbance))
    }
}

/// The verdict on `evidence`, and the reasons when it is not a pass.
pub fn judge(evidence: &Evidence<'_>) -> (Verdict, Vec<String>) {
    // A subject that ends takes the traffic down with it: nothing else in this trial counts.
    if !evidence.subject_failures.is_empty() {
        return (Verdict::Fail, evidence.subject_failures.clone());
    }
    let invalid = faults_of_the_lab(evidence);
    if !invalid.is_empty() {
        return (Verdict::Invalid, invalid);
    }
    let missed = |expected| missed(&evidence.counts, &expected, &evidence.events.more(), evidence.ledger);
    let mut reasons = evidence.expected.map(missed).unwrap_or_default();
    reasons.extend(evidence.memory.iter().flat_map(|memory| evidence.memory_limits.missed(memory)));
    let counts_hold = reasons.is_empty();
    reasons.extend(evidence.events.missed());
    let wrong = faults_of_the_subject(evidence);
    // Neither lateness nor a slow machine makes anybody send what is wrong: only a count can be excused, and memory, where
    // datagrams may have waited, and time.
    if !reasons.is_empty()
        && wrong.is_empty()
        && let Some((verdict, excuse)) = excuse(evidence, counts_hold)
    {
        reasons.push(excuse);
        return (verdict, reasons);
    }
    reasons.extend(wrong);
    (if reasons.is_empty() { Verdict::Pass } else { Verdict::Fail }, reasons)
}

/// Why a missed count, or only a time where the `counts_hold`, may not be the subject's doing, and what that makes of the
/// trial.
fn excuse(evidence: &Evidence<'_>, counts_hold: bool) -> Option<(Verdict, String)> {
    let (lag, steal) = (evidence.lag_max_ns, evidence.steal_percent);
    if counts_hold && evidence.events.excess_ns() <= lag {
        let excuse = format!("the generator was up to {} ms late, which may be why", lag / 1_000_000);
        return Some((Verdict::Invalid, excuse));
    }
    if lag > BURST_LIMIT_NS {
        let lag = lag / 1_000_000;
        let excuse = format!("the generator was up to {lag} ms late and made a burst, which may be why");
        return Some((Verdict::Invalid, excuse));
    }
    let excuse = || format!("steal {steal:.1} %: the machine was not ours, which may be why");
    (steal > STEAL_LIMIT_PERCENT).then(|| (Verdict::Inconclusive, excuse()))
}

/// What the subject did wrong, whatever was expected of the counts.
fn faults_of_the_subject(evidence: &Evidence<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if evidence.foreign_received > 0 {
        let received = evidence.foreign_received;
        reasons.push(format!(
            "the relay received {received} foreign datagrams, which its rule filter is to keep from it"
        ));
    }
    if evidence.foreign_relayed > 0 {
        let relayed = evidence.foreign_relayed;
        reasons.push(format!("{relayed} foreign datagrams came to the sinks, and nobody is to relay any"));
    }
    if evidence.misdelivered > 0 {
        reasons.push(format!("{} datagrams came to addresses that are not theirs", evidence.misdelivered));
    }
    if evidence.bad_checksums > 0 {
        reasons.push(format!("{} datagrams came with a wrong UDP checksum", evidence.bad_checksums));
    }
    let miscounted = evidence.events.miscounted();
    let unaccounted = evidence.ledger.gaps_of(Keeper::Subject);
    let unaccounted = unaccounted.filter(|gap| gap.unexplained.unsigned_abs() > miscounted);
    reasons.extend(unaccounted.map(|gap| format!("{gap}; the subject's counters contradict the devices")));
    reasons.extend(evidence.events.failures_of_the_subject.iter().cloned());
    reasons
}

/// What a sink lost itself and what errors it met, by name.
pub fn faults_of_a_sink<'a, S: fmt::Display>(
    dropped: &'a BTreeMap<S, u64>,
    errors: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = String> + 'a {
    let lost = dropped.iter().filter(|(_, count)| **count > 0);
    let lost = lost.map(|(reason, count)| format!("the sink lost {count} itself: {reason}"));
    lost.chain(
        errors.iter().map(|(error, count)| format!("the sink met {error} {count} times while reading")),
    )
}

fn faults_of_the_lab(evidence: &Evidence<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let (rate, offered) = (evidence.rate_pps as f64, evidence.offered_pps);
    // Written so that a rate that is not a number is a fault too.
    let near = ((offered - rate) / rate).abs() <= OFFERED_TOLERANCE;
    if !near {
        reasons.push(format!(
            "offered {offered:.0} packets/s instead of {rate:.0}: lower rate-pps, or quiet the machine"
        ));
    }
    if evidence.stopped {
        reasons.push("the generator was stopped: it could not offer everything in time".to_owned());
    }
    if evidence.lag_max_ns > LAG_LIMIT_NS {
        reasons.push(format!("the generator was up to {} ms late", evidence.lag_max_ns / 1_000_000));
    }
    if evidence.refused > 0 {
        reasons.push(format!("the kernel refused {} datagrams of the generator", evidence.refused));
    }
    reasons.extend(faults_of_a_sink(&evidence.sink_dropped, &evidence.sink_errors));
    for step in evidence.ledger.steps.iter().filter(|step| step.lost_on_wire > 0) {
        let (lost, place) = (step.lost_on_wire, step.place);
        reasons.push(format!("{lost} datagrams were lost on the lab's own wire before \"{place}\""));
    }
    if evidence.alien != evidence.expected_alien {
        let expected = match evidence.expected_alien {
            0 => String::new(),
            expected => format!(", expected {expected}"),
        };
        let alien = evidence.alien;
        reasons.push(format!("{alien} datagrams at the sinks belong to no flow of this trial{expected}"));
    }
    if let Some(step) = evidence.clock_step_ns {
        reasons.push(format!("the clock was moved by {} µs", step / 1_000));
    }
    if evidence.memory.is_none() && evidence.memory_limits != MemoryLimits::default() {
        let remedy = "run the lab with CAP_SYS_PTRACE, or expect nothing of memory";
        reasons.push(format!("the subject's memory could not be read: {remedy}"));
    }
    reasons.extend(evidence.events.failures_of_the_lab.iter().cloned());
    reasons.extend(evidence.ledger.gaps_of(Keeper::Lab).map(ToString::to_string));
    reasons
}

/// Every count that is neither as expected nor by at most so many `more`; of what is lost, where.
fn missed(counts: &Counts, expected: &Counts, more: &Counts, ledger: &Ledger) -> Vec<String> {
    let counts = [
        ("lost", counts.lost, expected.lost, more.lost),
        ("duplicated", counts.duplicated, expected.duplicated, more.duplicated),
        ("reordered", counts.reordered, expected.reordered, more.reordered),
        ("corrupted", counts.corrupted, expected.corrupted, more.corrupted),
    ];
    let missed = counts
        .into_iter()
        .filter(|(_, counted, least, more)| !(*least..=least.saturating_add(*more)).contains(counted));
    let told = missed.map(|(what, counted, least, more)| {
        let places = if what == "lost" { places_of_loss(ledger) } else { String::new() };
        let most = if more > 0 { format!(" to {}", least.saturating_add(more)) } else { String::new() };
        format!("{what} {counted}, expected {least}{most}{places}")
    });
    told.collect()
}

fn places_of_loss(ledger: &Ledger) -> String {
    let drops = ledger.steps.iter().flat_map(|step| step.drops.iter().map(move |drop| (step.place, drop)));
    let places = drops
        .filter(|(_, drop)| drop.name != FOREIGN && drop.name != LINK_DOWN)
        .map(|(place, drop)| format!("{} {} before \"{place}\"", drop.count, drop.name));
    let places = places.collect::<Vec<_>>().join(", ");
    if places.is_empty() { places } else { format!(" ({places})") }
}

/// The verdict on a whole run: `verdicts` holds that of the last attempt at each condition in each block, and that of
/// each ratio to be kept.
///
/// One fail fails the run. Otherwise every one of them must have said something.
pub fn of_run(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    // By gravity: a run is as good as the worst in it, and a proven fault outweighs an unproven one.
    let gravity = |verdict: &Verdict| match verdict {
        Verdict::Pass => 0,
        Verdict::Inconclusive => 1,
        Verdict::Invalid => 2,
        Verdict::Fail => 3,
    };
    verdicts.into_iter().max_by_key(gravity).unwrap_or(Verdict::Invalid)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
