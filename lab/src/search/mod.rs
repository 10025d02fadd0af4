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
use crate::results::{Results, Trial, last_attempts};
use crate::run::RunError;
use crate::scenario::{Condition, Expect, Measure, Scenario, SearchRatio, Subject};
use crate::session::{Session, Task, Watched};
use crate::verdict::{Verdict, of_run};

pub(crate) use bounds::Range;
pub use ratios::FoundRatio;

/// What to do about a subject without a rate without loss.
const REMEDY: &str = "see whether it relays at all, or lower the least of traffic.rate-pps";

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
    /// A pass with a rate without loss; without one a failure, invalid when the lab failed, and inconclusive of a subject
    /// that is there for others to be measured by.
    pub verdict: Verdict,
    /// Why it is no pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What a rate failed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The subject, which lost something or failed otherwise.
    Subject,
    /// The lab, whose trials there showed nothing of the subject: it may well do more.
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

/// Searches for every subject under every condition. The verdict is as bad as the worst on what was found of a subject and
/// on a ratio of their rates, and inconclusive without subjects.
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
            let before = results.trials.len();
            let bounds = narrow(session, subject, condition, range, &watched, &mut results.trials)?;
            let mut found = Found::new(subject, condition, bounds);
            found.judge(&session.scenario.search.ratios, &results.trials[before..]);
            results.searches.push(found);
        }
    }
    let Results { not_installed, searches, .. } = &*results;
    let ratios = ratios::compare(session.scenario, subjects, not_installed, searches);
    let notes = ratios::not_compared(session.scenario, subjects, not_installed);
    results.notes.extend(notes);
    results.search_ratios = ratios;
    let of_subjects = results.searches.iter().map(|found| found.verdict);
    let of_ratios = results.search_ratios.iter().map(|ratio| ratio.verdict);
    let of_nobody = subjects.is_empty().then_some(Verdict::Inconclusive);
    Ok(of_run(of_subjects.chain(of_ratios).chain(of_nobody)))
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
            verdict: Verdict::Pass,
            reasons: Vec::new(),
        }
    }

    /// Comes to the verdict, from all `trials` that were held of it. Whom `ratios` name beneath the line only, of that
    /// subject nothing is demanded.
    fn judge(&mut self, ratios: &[SearchRatio], trials: &[Trial]) {
        let (None, Some(rate)) = (self.lower_pps, self.upper_pps) else { return };
        let is = |name: &String| *name == self.subject;
        let is_yardstick =
            ratios.iter().any(|ratio| is(&ratio.to)) && !ratios.iter().any(|ratio| is(&ratio.of));
        self.verdict = match self.upper_by {
            Some(Limit::Subject) if is_yardstick => Verdict::Inconclusive,
            Some(Limit::Subject) => Verdict::Fail,
            _ => Verdict::Invalid,
        };
        let subject = &self.subject;
        self.reasons.push(match self.upper_by {
            Some(Limit::Subject) => {
                format!("{subject} fails at {rate} packets/s, the least: {REMEDY}")
            }
            _ => {
                format!("the lab cannot measure {subject} at {rate} packets/s, the least: quiet the machine")
            }
        });
        let last = last_attempts(trials);
        self.reasons.extend(
            last.flat_map(|trial| {
                trial.reasons.iter().map(|reason| format!("block {}: {reason}", trial.block))
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::{CONDITION, trial};

    /// What is found of `subject`, which has no rate without loss because of `limit`, where `a` is compared to `b`.
    fn without_any(subject: &str, limit: Limit) -> Found {
        let mut lossy = trial(subject, 2, 1.0);
        (lossy.verdict, lossy.reasons) = (Verdict::Fail, vec!["lost 7, expected 0".into()]);
        let ratio = SearchRatio { of: "a".into(), to: "b".into(), at_least: 2.0 };
        let mut found = Found {
            subject: subject.into(),
            condition: CONDITION,
            lower_pps: None,
            upper_pps: Some(500),
            upper_by: Some(limit),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
        };
        found.judge(&[ratio], &[trial(subject, 1, 1.0), lossy]);
        found
    }

    #[test]
    fn without_a_rate_without_loss_nobody_passes_and_it_is_told_why() {
        let found = without_any("a", Limit::Subject);
        assert_eq!(found.verdict, Verdict::Fail);
        let sentence = "a fails at 500 packets/s, the least: see whether it relays at all, or lower the least of \
                        traffic.rate-pps";
        assert_eq!(found.reasons, [sentence, "block 2: lost 7, expected 0"]);
        assert_eq!(without_any("c", Limit::Subject).verdict, Verdict::Fail, "it is in no ratio");
        let of_lab = without_any("b", Limit::Lab);
        assert_eq!(of_lab.verdict, Verdict::Invalid);
        assert!(of_lab.reasons[0].starts_with("the lab cannot measure b at 500 packets/s, the least"));
    }

    #[test]
    fn whom_others_are_measured_by_cannot_fail_the_search() {
        let found = without_any("b", Limit::Subject);
        assert_eq!((found.verdict, found.reasons.len()), (Verdict::Inconclusive, 2));
    }

    #[test]
    fn with_a_rate_without_loss_it_is_a_pass() {
        let mut found = without_any("a", Limit::Subject);
        (found.lower_pps, found.verdict, found.reasons) = (Some(400), Verdict::Pass, Vec::new());
        found.judge(&[], &[]);
        assert_eq!((found.verdict, found.reasons.len()), (Verdict::Pass, 0));
    }
}
