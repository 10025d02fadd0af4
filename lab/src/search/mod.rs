//! The highest rate without loss of each subject, by bisection between two rates (RFC 2544 section 26.1), with both
//! bounds told (RFC 9971).
//!
//! A rate is without loss when more than half of its trials pass: as many trials as the scenario has blocks, or fewer
//! when those that are left could not change it.

mod bounds;
mod ratios;

use std::sync::atomic::AtomicBool;

use serde::Serialize;

use self::bounds::{Ballot, Bounds, Shown};
use crate::report::Progress;
use crate::results::{Results, Trial};
use crate::run::RunError;
use crate::scenario::{Condition, Expect, Measure, Scenario, Subject};
use crate::session::{Session, Task, Watched};
use crate::verdict::{Verdict, of_run};

pub(crate) use bounds::Range;
pub use ratios::FoundRatio;

/// A scenario that leaves nothing to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// It has one rate only.
    #[error(
        "traffic.rate-pps: a search needs the least and the highest rate to try, found only {0}: write \
         rate-pps = [{0}, {higher}]", higher = .0.saturating_mul(10)
    )]
    OnlyRate(u64),
    /// Its trials lose nothing at any rate.
    #[error("trials.measure: a search looks for loss, which \"join-leave\" does not count: use \"traffic\"")]
    NoLoss,
}

/// What was found of one subject under one condition.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The subject's name.
    pub subject: String,
    /// The condition; its rate is the least that was to be tried.
    pub condition: Condition,
    /// The highest rate at which nothing was lost, in packets per second; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_pps: Option<u64>,
    /// The lowest rate above it at which it was otherwise; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper_pps: Option<u64>,
    /// What kept the upper bound from being passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper_by: Option<Limit>,
}

/// What a rate failed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The subject, which lost something or failed otherwise.
    Subject,
    /// The lab, which could not offer or count that much: the subject may well do more.
    Lab,
}

/// The rates of a scenario as the range of a search. They are taken out of the scenario, but for the least, and so is what
/// it expects: a search asks of everybody whether anything is lost.
pub(crate) fn range(scenario: &mut Scenario) -> Result<Range, SearchError> {
    if scenario.trials.measure != Measure::Traffic {
        return Err(SearchError::NoLoss);
    }
    let rates = &mut scenario.traffic.rates_pps;
    let least = rates.iter().copied().min().unwrap_or_default();
    let highest = rates.iter().copied().max().unwrap_or_default();
    if least == highest {
        return Err(SearchError::OnlyRate(least));
    }
    *rates = vec![least];
    scenario.expect = Expect::default();
    Ok(Range { least, highest })
}

/// Searches for every subject under every condition. The verdict is a pass when all bounds were found, a failure when a
/// subject has no rate without loss, invalid when the lab could not tell anything of one, and inconclusive when there is
/// none; and as bad as that on the worst ratio of their rates.
pub(crate) fn search(
    session: &Session<'_>,
    subjects: &[&Subject],
    range: Range,
    interrupted: &AtomicBool,
    results: &mut Results,
) -> Result<Verdict, RunError> {
    let watched = Watched { progress: Progress::start("", None), interrupted };
    for condition in session.scenario.conditions() {
        for subject in subjects {
            let bounds = narrow(session, subject, condition, range, &watched, &mut results.trials)?;
            results.searches.push(Found::new(subject, condition, bounds));
        }
    }
    let nothing_by = |limit| {
        results.searches.iter().any(|found| found.lower_pps.is_none() && found.upper_by == Some(limit))
    };
    let of_bounds = if nothing_by(Limit::Subject) {
        Verdict::Fail
    } else if nothing_by(Limit::Lab) {
        Verdict::Invalid
    } else if subjects.is_empty() {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    };
    let Results { not_installed, searches, .. } = &*results;
    let ratios = ratios::compare(session.scenario, subjects, not_installed, searches);
    let notes = ratios::not_compared(session.scenario, subjects, not_installed);
    results.notes.extend(notes);
    results.search_ratios = ratios;
    Ok(of_run(results.search_ratios.iter().map(|ratio| ratio.verdict).chain([of_bounds])))
}

fn narrow(
    session: &Session<'_>,
    subject: &Subject,
    condition: Condition,
    range: Range,
    watched: &Watched<'_>,
    trials: &mut Vec<Trial>,
) -> Result<Bounds, RunError> {
    let mut bounds = Bounds::new(range, session.scenario.search.width);
    while let Some(rate_pps) = bounds.next() {
        let condition = Condition { rate_pps, ..condition };
        let mut ballot = Ballot::of(session.scenario.trials.blocks);
        let mut block = 1;
        let shown = loop {
            let task = Task { scenario: session.scenario, subject, condition, block, series: "" };
            let verdict = session.hold_until_conclusive(task, watched, trials)?;
            ballot.cast(verdict.into());
            if let Some(shown) = ballot.result() {
                break shown;
            }
            block += 1;
        };
        bounds.learn(rate_pps, shown);
    }
    Ok(bounds)
}

impl From<Verdict> for Shown {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Lossless,
            Verdict::Fail => Self::Lossy,
            Verdict::Invalid | Verdict::Inconclusive => Self::Nothing,
        }
    }
}

impl Found {
    fn new(subject: &Subject, condition: Condition, bounds: Bounds) -> Self {
        let limit = |shown| if shown == Shown::Nothing { Limit::Lab } else { Limit::Subject };
        Self {
            subject: subject.name.clone(),
            condition,
            lower_pps: bounds.lower,
            upper_pps: bounds.upper.map(|(rate, _)| rate),
            upper_by: bounds.upper.map(|(_, shown)| limit(shown)),
        }
    }
}
