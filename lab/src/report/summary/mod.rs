//! Many runs in one text, in Markdown: what was demanded, what was measured, what came of it. Like the page, it is made of
//! `results.json` and of nothing else.

mod bars;
mod markdown;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use askama::Template;

use super::groups::Groups;
use super::numbers::{grouped, or_nothing, rounded};
use super::record::{self, Comparison, Environment, ReadError, Record};
use super::units::{Unit, date, many};
use super::{results_in, write_whole};
use crate::results::RunVerdict;
use crate::statistics::median;
use bars::Bar;
use markdown::{plain, table};

/// How many reasons are told of a bar; the page of its run has all of them.
const REASONS: usize = 3;

/// A report over several runs.
#[derive(Debug)]
pub struct Summary {
    /// In Markdown.
    pub text: String,
    /// Results that could not be read; the report has a row for each.
    pub unreadable: Vec<ReadError>,
    /// Which must not be written over.
    files: Vec<PathBuf>,
}

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// The report is where results are.
    #[error("write report {}: the results of a run are there; choose another file with --out FILE", .0.display())]
    OntoResults(PathBuf),
    /// The file system refuses.
    #[error("write report {}: {source}; choose another file with --out FILE", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Summary {
    /// Writes it to `out`, all or nothing.
    pub fn write(&self, out: &Path) -> Result<(), SummaryError> {
        let place = fs::canonicalize(out).ok();
        if place.is_some() && self.files.iter().any(|file| fs::canonicalize(file).ok() == place) {
            return Err(SummaryError::OntoResults(out.to_owned()));
        }
        let failed = |source| SummaryError::Unwritable { path: out.to_owned(), source };
        write_whole(out, self.text.as_bytes()).map_err(failed)
    }
}

/// The report over the runs in `folders`, each of which may also be named by its `results.json`.
pub fn of(folders: &[PathBuf]) -> Summary {
    let files: Vec<_> = folders.iter().map(|folder| results_in(folder)).collect();
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for file in &files {
        match record::load(file) {
            Ok(record) => records.push(record),
            Err(error) => unreadable.push(error),
        }
    }
    Summary { text: text(&records, &unreadable), unreadable, files }
}

/// What the template is given.
#[derive(Debug, Template)]
#[template(path = "report/summary.md", escape = "none")]
struct Report {
    verdicts: String,
    machines: Vec<String>,
    bars: String,
    reasons: Vec<String>,
    doubts: Vec<String>,
    reported: String,
    doubts_of_reported: Vec<String>,
    rates: String,
    medians: String,
}

fn text(records: &[Record], unreadable: &[ReadError]) -> String {
    let runs: Vec<_> = records.iter().map(|record| (record, Groups::of(record))).collect();
    let rows = runs.iter().flat_map(|(record, groups)| {
        let name = record.scenario.name.clone();
        bars::of(record, groups).into_iter().map(move |bar| (name.clone(), record.command(), bar))
    });
    let lost = unreadable.iter().map(|error| {
        let bar = Bar {
            about: "results that cannot be read".to_owned(),
            demanded: "-".to_owned(),
            measured: "nothing".to_owned(),
            verdict: RunVerdict::Error,
            reasons: vec![error.to_string()],
        };
        ("?".to_owned(), "-".to_owned(), bar)
    });
    let rows: Vec<_> = rows.chain(lost).collect();
    let report = Report {
        verdicts: verdicts(rows.iter().map(|(.., bar)| bar.verdict)),
        machines: machines(records),
        bars: table(
            ["scenario", "bar", "demanded", "measured", "verdict", "command"],
            rows.iter().map(|(name, command, bar)| {
                let verdict = in_words(bar.verdict).to_owned();
                let Bar { about, demanded, measured, .. } = bar;
                [name.clone(), about.clone(), demanded.clone(), measured.clone(), verdict, command.clone()]
            }),
        ),
        reasons: reasons(rows.iter().filter(|(.., bar)| bar.verdict != RunVerdict::Pass)),
        doubts: reasons(rows.iter().filter(|(.., bar)| bar.verdict == RunVerdict::Pass)),
        reported: reported(&runs),
        doubts_of_reported: doubts_of_reported(&runs),
        rates: rates(records),
        medians: medians(&runs),
    };
    // Its parts are texts already, and writing to memory cannot fail.
    report.render().unwrap_or_default()
}

/// Capitals for what is no pass, so that nobody overlooks it.
fn in_words(verdict: RunVerdict) -> &'static str {
    match verdict {
        RunVerdict::Pass => "pass",
        RunVerdict::Fail => "FAIL",
        RunVerdict::Invalid => "INVALID",
        RunVerdict::Inconclusive => "INCONCLUSIVE",
        RunVerdict::Interrupted => "INTERRUPTED",
        RunVerdict::Error => "ERROR",
    }
}

/// How many of each.
fn verdicts(all: impl Iterator<Item = RunVerdict>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for verdict in all.map(in_words) {
        match counts.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, count)) => *count += 1,
            None => counts.push((verdict, 1)),
        }
    }
    let told = counts.iter().map(|(verdict, count)| format!("{count} {verdict}"));
    told.collect::<Vec<_>>().join(", ")
}

/// Each machine with what ran on it.
fn machines(records: &[Record]) -> Vec<String> {
    let mut machines: Vec<(String, Vec<&Record>)> = Vec::new();
    for record in records {
        let Environment { processor, processors, kernel, clock_source, lab, .. } = &record.environment;
        let count = many(*processors as usize, "processor");
        let machine = format!("{count} ({processor}), Linux {kernel}, clock {clock_source}, lab {lab}");
        match machines.iter_mut().find(|(known, _)| *known == machine) {
            Some((_, records)) => records.push(record),
            None => machines.push((machine, vec![record])),
        }
    }
    let told = machines.iter().map(|(machine, records)| {
        let begun = || records.iter().map(|record| record.environment.started);
        let (first, last) = (begun().min().unwrap_or_default(), begun().max().unwrap_or_default());
        let until = if first == last { String::new() } else { format!(" to {}", date(last)) };
        let names = records.iter().map(|record| record.scenario.name.as_str()).collect::<Vec<_>>().join(", ");
        plain(&format!("{machine}; begun {}{until}: {names}", date(first)))
    });
    told.collect()
}

/// A bar, the name of its scenario and the command that makes it.
type Row = (String, String, Bar);

/// What there is to know of each of `rows`, in a line.
fn reasons<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    rows.filter_map(|(name, _, bar)| in_a_line(name, &bar.about, &bar.reasons)).collect()
}

/// The first of the `reasons`; nothing when there are none.
fn in_a_line(name: &str, about: &str, reasons: &[String]) -> Option<String> {
    let left = reasons.len().saturating_sub(REASONS);
    let mut told: Vec<_> = reasons.iter().take(REASONS).cloned().collect();
    if left > 0 {
        told.push(format!("and {left} more"));
    }
    (!told.is_empty()).then(|| plain(&format!("{name}, {about}: {}", told.join("; "))))
}

/// Comparisons of which nothing was demanded, each with the name of its scenario and in words.
fn only_reported<'a>(
    runs: &'a [(&Record, Groups<'_>)],
) -> impl Iterator<Item = (&'a str, String, &'a Comparison)> {
    runs.iter().flat_map(|(record, groups)| {
        let reported = record.comparisons.iter().filter(|comparison| comparison.verdict.is_none());
        reported
            .map(|comparison| (record.scenario.name.as_str(), bars::about(comparison, groups), comparison))
    })
}

/// The table of them.
fn reported(runs: &[(&Record, Groups<'_>)]) -> String {
    let rows = only_reported(runs)
        .map(|(name, about, comparison)| [name.to_owned(), about, bars::measured(comparison)]);
    table(["scenario", "ratio", "measured"], rows)
}

/// What there is to know of each of them.
fn doubts_of_reported(runs: &[(&Record, Groups<'_>)]) -> Vec<String> {
    let lines = only_reported(runs)
        .filter_map(|(name, about, comparison)| in_a_line(name, &about, &comparison.reasons));
    lines.collect()
}

/// What searches found.
fn rates(records: &[Record]) -> String {
    let rows = records.iter().flat_map(|record| {
        record.searches.iter().map(|found| {
            [
                record.scenario.name.clone(),
                found.subject.clone(),
                found.condition.in_words(),
                or_nothing(found.lower_pps, grouped),
                or_nothing(found.upper_pps, grouped),
                or_nothing(found.upper_by.as_ref(), |limit| format!("the {limit}")),
            ]
        })
    });
    table(["scenario", "subject", "condition", "without loss", "no more at", "because of"], rows)
}

/// Every subject under every condition; of a search the rates say it all.
fn medians(runs: &[(&Record, Groups<'_>)]) -> String {
    let runs = runs.iter().filter(|(record, _)| !record.is_search());
    let rows = runs.flat_map(|(record, groups)| {
        groups.all.iter().map(|group| {
            let shown = |metric| or_nothing(group.median(metric), Unit::of(metric).show);
            let offered = median(group.conclusive().filter_map(|trial| trial.offered_pps));
            [
                record.scenario.name.clone(),
                group.subject.to_owned(),
                groups.name(group.condition),
                or_nothing(offered, rounded),
                or_nothing(group.lost(), grouped),
                shown("relay-cpu"),
                shown("p50"),
                shown("p99"),
            ]
        })
    });
    table(["scenario", "subject", "condition", "offered/s", "lost", "cpu", "p50", "p99"], rows)
}
