//! The verdict: a sentence, the reasons, and each subject under each condition in one line.

use super::about_steal;
use super::found::{Found, FoundRatio};
use super::groups::{Group, Groups, Sides, about_repeated};
use super::record::{Record, Trial};
use super::section::{Section, Table};
use super::units::{Unit, many};
use crate::report::numbers::{factor, grouped, or_nothing};
use crate::results::RunVerdict;
use crate::verdict::Verdict;

/// What the reader should know first.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) word: &'static str,
    pub(super) sentence: String,
    pub(super) reasons: Vec<Reason>,
    pub(super) notes: Vec<String>,
}

/// Why it is no pass.
#[derive(Debug)]
pub(super) struct Reason {
    pub(super) verdict: Verdict,
    pub(super) about: String,
    pub(super) lines: Vec<String>,
}

impl Summary {
    pub(super) fn of(record: &Record, groups: &Groups<'_>) -> Self {
        let trials = Tally::of(record.last_attempts().into_iter().map(|trial| trial.verdict));
        let searches = Tally::of(record.searches.iter().map(|found| found.verdict));
        let of_searches = record.search_ratios.iter().map(|ratio| ratio.verdict);
        let compared = record.comparisons.iter().filter_map(|comparison| comparison.verdict);
        let ratios = Tally::of(compared.chain(of_searches));
        // A search is there to find rates at which something fails; the table of all trials tells of them.
        let mut reasons =
            if record.is_search() { reasons_of_search(record) } else { reasons(record, groups) };
        // As grave ones come first: what is proven before what is not.
        reasons.sort_by_key(|reason| reason.verdict);
        let mut notes = record.notes.clone();
        // They are not told of among the reasons, because a later attempt counts.
        let repeated = about_repeated(&record.trials, &record.last_attempts());
        notes.extend(repeated.map(|told| format!("{told}; all are marked below.")));
        notes.extend(about_unjudged(record));
        let steal = record.last_attempts().into_iter().filter_map(|trial| trial.steal_percent);
        notes.extend(about_steal(steal));
        let (word, sentence) = sentence(record, &trials, &searches, &ratios);
        Self { word, sentence, reasons, notes }
    }
}

/// How many of each verdict.
struct Tally {
    what: [usize; 4],
    all: usize,
}

impl Tally {
    fn of(verdicts: impl Iterator<Item = Verdict>) -> Self {
        let mut tally = Self { what: [0; 4], all: 0 };
        for verdict in verdicts {
            tally.what[verdict as usize] += 1;
            tally.all += 1;
        }
        tally
    }

    /// `3 of 12 trials`; nothing when there are none of these verdicts.
    fn told(&self, verdicts: &[Verdict], what: &str) -> Option<String> {
        let count: usize = verdicts.iter().map(|verdict| self.what[*verdict as usize]).sum();
        (count > 0).then(|| format!("{} of {}", grouped(count as u64), many(self.all, what)))
    }
}

/// How many trials there were of whose subjects nothing was expected.
fn measured_only(record: &Record) -> usize {
    let last = record.last_attempts();
    last.iter().filter(|trial| trial.expected.is_none() && trial.verdict == Verdict::Pass).count()
}

fn sentence(record: &Record, trials: &Tally, searches: &Tally, ratios: &Tally) -> (&'static str, String) {
    let told = |verdicts: &[Verdict]| {
        // In a search trials fail all the time.
        let held = if record.is_search() {
            searches.told(verdicts, "search")
        } else {
            trials.told(verdicts, "trial")
        };
        let parts =
            [held, ratios.told(verdicts, "ratio")].into_iter().flatten().collect::<Vec<_>>().join(" and ");
        if parts.is_empty() { "nothing".to_owned() } else { parts }
    };
    let kept =
        if ratios.all > 0 { format!(", and {} kept", many(ratios.all, "ratio")) } else { String::new() };
    match record.verdict {
        RunVerdict::Pass if record.is_search() => {
            let found = many(searches.all, "search");
            ("Pass", format!("{found} came to an end, after {}{kept}.", many(trials.all, "trial")))
        }
        RunVerdict::Pass => {
            let measured = measured_only(record);
            let passed = match (trials.all - measured, measured) {
                (passed, 0) => format!("{} passed", many(passed, "trial")),
                (0, measured) => format!("{} measured", many(measured, "trial")),
                (passed, measured) => {
                    format!("{} passed and {} measured", many(passed, "trial"), grouped(measured as u64))
                }
            };
            ("Pass", format!("{passed}{kept}."))
        }
        RunVerdict::Fail => ("Fail", format!("{} failed.", told(&[Verdict::Fail]))),
        RunVerdict::Invalid => {
            let what = told(&[Verdict::Invalid, Verdict::Inconclusive]);
            (
                "Invalid",
                format!("The lab failed, which says nothing about the subjects: {what} left undecided."),
            )
        }
        RunVerdict::Inconclusive => {
            let what = told(&[Verdict::Inconclusive]);
            (
                "Inconclusive",
                format!(
                    "There is too little to tell, which is held against no subject: {what} left undecided."
                ),
            )
        }
        RunVerdict::Interrupted => (
            "Interrupted",
            format!("The run was interrupted after {}.", many(record.trials.len(), "attempt")),
        ),
        RunVerdict::Error => {
            let why = record.error.as_deref().unwrap_or("it does not say why");
            (
                "Error",
                format!("The lab could not go on after {}: {why}.", many(record.trials.len(), "attempt")),
            )
        }
    }
}

fn reasons(record: &Record, groups: &Groups<'_>) -> Vec<Reason> {
    let of_trials = groups.all.iter().flat_map(|group| {
        [Verdict::Fail, Verdict::Invalid, Verdict::Inconclusive].into_iter().filter_map(|verdict| {
            let trials: Vec<_> = group.last.iter().filter(|trial| trial.verdict == verdict).collect();
            let about = format!("{}, {}", group.subject, groups.name(group.condition));
            let lines = trials.iter().flat_map(|trial| lines_of(trial)).collect();
            (!trials.is_empty()).then_some(Reason { verdict, about, lines })
        })
    });
    let of_ratios = record.comparisons.iter().filter_map(|comparison| {
        let verdict = comparison.verdict.filter(|verdict| *verdict != Verdict::Pass)?;
        let (metric, Sides { of, to, condition }) = (&comparison.metric, groups.sides(comparison));
        let about = format!("{metric} of {of} to {to}, {condition}");
        Some(Reason { verdict, about, lines: comparison.reasons.clone() })
    });
    of_trials.chain(of_ratios).collect()
}

/// Why subjects, and ratios of their highest rates, are no pass.
fn reasons_of_search(record: &Record) -> Vec<Reason> {
    let without_any = record.searches.iter().filter(|found| found.verdict != Verdict::Pass);
    let of_subjects = without_any.map(|Found { subject, condition, verdict, reasons, .. }| Reason {
        verdict: *verdict,
        about: format!("{subject}, {}", condition.in_words()),
        lines: reasons.clone(),
    });
    let open = record.search_ratios.iter().filter(|ratio| ratio.verdict != Verdict::Pass);
    let told = open.map(|FoundRatio { of, to, condition, most, at_least, verdict, reasons, .. }| {
        let mut lines = reasons.clone();
        if *verdict == Verdict::Fail {
            lines.push(format!("{} at most, and not {at_least}", or_nothing(*most, factor)));
        }
        let about = format!("highest rate of {of} to that of {to}, {}", condition.in_words());
        Reason { verdict: *verdict, about, lines }
    });
    of_subjects.chain(told).collect()
}

fn lines_of(trial: &Trial) -> Vec<String> {
    trial.reasons.iter().map(|reason| format!("{}: {reason}", trial.turn())).collect()
}

/// Subjects of whom a pass says little.
fn about_unjudged(record: &Record) -> Option<String> {
    let mut names: Vec<_> = record
        .trials
        .iter()
        .filter(|trial| trial.expected.is_none())
        .map(|trial| trial.subject.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty())
        .then(|| format!("Only measured, with nothing expected of the counts: {}.", names.join(", ")))
}

/// Each subject under each condition in one line.
pub(super) fn glance(groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "glance",
        title: "At a glance",
        intro: "Over all blocks: lost in total, medians of the others. Trials that proved nothing do not count. cpu: the \
                subject's time per datagram; above wire: the whole machine's, less what it takes without a subject.",
        ..Section::default()
    };
    if groups.all.is_empty() {
        section.notes.push("No trial was held to its end.".to_owned());
        return section;
    }
    let metrics = [
        ("p50", "p50"),
        ("p90", "p90"),
        ("p99", "p99"),
        ("p999", "p99.9"),
        ("relay-cpu", "cpu"),
        ("system-cpu", "above wire"),
    ];
    let heads = [("subject", false), ("condition", false), ("passed", true), ("lost", true)];
    let heads: Vec<_> = heads.into_iter().chain(metrics.map(|(_, head)| (head, true))).collect();
    let mut table = Table::new(format!("All trials: {}", groups.common()), &heads);
    for group in &groups.all {
        let medians = metrics.map(|(metric, _)| or_nothing(group.median(metric), Unit::of(metric).show));
        let first = [group.subject.to_owned(), groups.name(group.condition), passed(group), lost(group)];
        let row = table.push(first.into_iter().chain(medians));
        if group.conclusive().next().is_none() {
            row.class = "void";
        }
    }
    section.tables.push(table);
    section
}

fn passed(group: &Group<'_>) -> String {
    let passed = group.last.iter().filter(|trial| trial.verdict == Verdict::Pass).count();
    if group.last.iter().all(|trial| trial.expected.is_none()) {
        return format!("{passed} measured");
    }
    format!("{passed} of {}", group.last.len())
}

fn lost(group: &Group<'_>) -> String {
    or_nothing(group.lost(), grouped)
}
