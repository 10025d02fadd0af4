//! Who was measured and under which conditions: the order in which they are told of, their names and their colours.

use std::ptr;

use super::condition::Condition;
use super::numbers::grouped;
use super::record::{Comparison, Record, Trial};
use super::units::many;
use crate::statistics::median;

/// How many colours and kinds of line the style sheet has.
const COLOURS: usize = 6;
const DASHES: usize = 3;

/// All trials of one subject under one condition.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) subject: &'a str,
    pub(super) condition: Condition<'a>,
    /// Every attempt.
    pub(super) trials: Vec<&'a Trial>,
    /// The last attempt of each block.
    pub(super) last: Vec<&'a Trial>,
}

/// The trials of a run, sorted by who was measured and how.
#[derive(Debug)]
pub(super) struct Groups<'a> {
    /// In the order in which they were first measured, which is that of the scenario.
    pub(super) subjects: Vec<&'a str>,
    pub(super) conditions: Vec<Condition<'a>>,
    /// By condition, then by subject.
    pub(super) all: Vec<Group<'a>>,
}

/// A comparison in words.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) of: String,
    pub(super) to: String,
    /// What the conditions of both have in common, as far as it tells them from others.
    pub(super) condition: String,
}

impl<'a> Groups<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let (mut subjects, mut conditions) = (Vec::new(), Vec::new());
        for trial in &record.trials {
            if !subjects.contains(&trial.subject.as_str()) {
                subjects.push(trial.subject.as_str());
            }
            if !conditions.contains(&trial.condition()) {
                conditions.push(trial.condition());
            }
        }
        let last = record.last_attempts();
        let pairs =
            conditions.iter().flat_map(|condition| subjects.iter().map(move |name| (condition, name)));
        let groups = pairs.map(|(condition, subject)| {
            let belongs = |trial: &&Trial| trial.subject == *subject && trial.condition() == *condition;
            let trials: Vec<_> = record.trials.iter().filter(belongs).collect();
            let last = last.iter().copied().filter(belongs).collect();
            Group { subject, condition: *condition, trials, last }
        });
        let all = groups.filter(|group| !group.trials.is_empty()).collect();
        Self { subjects, conditions, all }
    }

    /// The style of a subject's marks: the same in every drawing.
    pub(super) fn style(&self, subject: &str) -> String {
        let index = self.subjects.iter().position(|name| *name == subject).unwrap_or(0);
        format!("c{} d{}", index % COLOURS, index / COLOURS % DASHES)
    }

    /// Under `condition`, every subject.
    pub(super) fn under(&self, condition: Condition<'a>) -> impl Iterator<Item = &Group<'a>> {
        self.all.iter().filter(move |group| group.condition == condition)
    }

    /// What tells `condition` from the others: always the rate, and what else differs.
    pub(super) fn name(&self, condition: Condition<'_>) -> String {
        let rate = format!("{} packets/s", grouped(condition.rate_pps));
        let others = parts(condition).into_iter().enumerate().filter(|(i, _)| self.differs(*i));
        std::iter::once(rate).chain(others.map(|(_, part)| part)).collect::<Vec<_>>().join(", ")
    }

    /// What is compared: both subjects, each with what is not as on the other side, and the condition of both.
    pub(super) fn sides(&self, comparison: &Comparison) -> Sides {
        let (of, to) = (comparison.condition(), comparison.to_condition());
        let [of_parts, to_parts] = [of, to].map(|condition| {
            let rate = format!("{} packets/s", grouped(condition.rate_pps));
            (std::iter::once(rate).chain(parts(condition))).collect::<Vec<_>>()
        });
        let side = |name: &str, own: &[String], other: &[String]| {
            let differing = own.iter().zip(other).filter(|(own, other)| own != other);
            let told = differing.map(|(own, _)| own.as_str()).collect::<Vec<_>>().join(", ");
            if told.is_empty() { name.to_owned() } else { format!("{name} ({told})") }
        };
        let both = of_parts.iter().zip(&to_parts).enumerate();
        let both = both.filter(|(i, (own, other))| own == other && (*i == 0 || self.differs(*i - 1)));
        Sides {
            of: side(&comparison.of, &of_parts, &to_parts),
            to: side(&comparison.to, &to_parts, &of_parts),
            condition: both.map(|(_, (own, _))| own.as_str()).collect::<Vec<_>>().join(", "),
        }
    }

    /// What all conditions have in common besides the rate.
    pub(super) fn common(&self) -> String {
        let Some(first) = self.conditions.first() else { return String::new() };
        let is_said = |part: &str| !part.is_empty() && part != NOTHING_FOREIGN;
        let same =
            parts(*first).into_iter().enumerate().filter(|(i, part)| !self.differs(*i) && is_said(part));
        same.map(|(_, part)| part).collect::<Vec<_>>().join(", ")
    }

    /// Whether some conditions differ in a part of theirs.
    fn differs(&self, part: usize) -> bool {
        let mut all = self.conditions.iter().map(|condition| parts(*condition)[part].clone());
        let first = all.next();
        all.any(|other| Some(other) != first)
    }
}

impl Group<'_> {
    /// The trials that say something about the subject.
    pub(super) fn conclusive(&self) -> impl Iterator<Item = &Trial> {
        self.last.iter().copied().filter(|trial| trial.verdict.is_conclusive())
    }

    /// How many datagrams were lost in those.
    pub(super) fn lost(&self) -> Option<u64> {
        self.conclusive().filter_map(|trial| trial.lost).reduce(u64::saturating_add)
    }

    /// The median of `metric` over them.
    pub(super) fn median(&self, metric: &str) -> Option<f64> {
        median(self.conclusive().filter_map(|trial| trial.reading(metric)))
    }
}

/// What to know of those among `trials` that were repeated: of all that are not among the `last` attempts.
pub(super) fn about_repeated<'a>(
    trials: impl IntoIterator<Item = &'a Trial>,
    last: &[&Trial],
) -> Option<String> {
    let is_last = |trial: &Trial| last.iter().any(|last| ptr::eq(*last, trial));
    let repeated: Vec<_> = trials.into_iter().filter(|trial| !is_last(trial)).collect();
    let missed = match repeated.iter().filter(|trial| trial.has_missed_a_count()).count() {
        0 => "none".to_owned(),
        count => grouped(count as u64),
    };
    let were = if repeated.len() == 1 { "was" } else { "were" };
    let attempts = many(repeated.len(), "attempt");
    (!repeated.is_empty())
        .then(|| format!("{attempts} {were} repeated, {missed} of which had missed a count"))
}

/// Said only beside conditions that are otherwise.
const NOTHING_FOREIGN: &str = "nothing foreign";

/// A condition without its rate, in words.
fn parts(condition: Condition<'_>) -> [String; 6] {
    let Condition { cast, segmentation, sink_kind, fan_out, flows, payload_bytes, foreign_pps, .. } =
        condition;
    let foreign = match foreign_pps {
        0 => NOTHING_FOREIGN.to_owned(),
        foreign => format!("{} foreign beside", grouped(foreign)),
    };
    let sinks =
        if fan_out == 1 { format!("{sink_kind} sink") } else { format!("{fan_out} {sink_kind} sinks") };
    let segmentation =
        if segmentation.is_empty() { String::new() } else { format!("segmentation {segmentation}") };
    [
        foreign,
        format!("{} B", grouped(payload_bytes)),
        many(flows as usize, "flow"),
        segmentation,
        sinks,
        cast.to_owned(),
    ]
}
