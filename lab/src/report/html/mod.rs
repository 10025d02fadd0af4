//! The page: one file that shows a run to somebody who was not there. It is made of `results.json` and of nothing
//! else, loads nothing, and runs no script.
//!
//! ```text
//! results.json -> record -> groups -> sections of drawings and tables -> templates/report/page.html
//! ```
//!
//! Everything up to the sections is pure code that decides what stands where; the templates only set it.

mod calibration;
mod cpu;
mod delays;
mod drawing;
mod events;
mod intervals;
mod latency;
mod loss;
mod pairs;
mod plot;
mod scale;
mod searches;
mod section;
mod settings;
mod summary;
#[cfg(test)]
mod tests;
mod trials;
mod waterfalls;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use askama::Template;

use super::found;
use super::groups::{self, Groups};
use super::record::{self, ReadError, Record};
use super::{about_steal, condition, units, write_whole};
use crate::results::PAGE_FILE;
use drawing::Mark;
use section::Section;
use summary::Summary;

/// A page that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The results cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The page is where the results are.
    #[error("write page {}: the results are there; choose another file with --out FILE", .0.display())]
    OntoResults(PathBuf),
    /// The page cannot be written.
    #[error("write page {}: {source}; choose another file with --out FILE", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the page of the results in `file`: at `out`, or beside them. Returns where.
pub fn make(file: &Path, out: Option<&Path>) -> Result<PathBuf, PageError> {
    let record = record::load(file)?;
    let out = out.map_or_else(|| file.with_file_name(PAGE_FILE), Path::to_owned);
    if fs::canonicalize(file).ok() == fs::canonicalize(&out).ok() {
        return Err(PageError::OntoResults(out));
    }
    let failed = |source| PageError::Unwritable { path: out.clone(), source };
    let page = page(&record).map_err(|error| failed(io::Error::other(error)))?;
    write_whole(&out, page.as_bytes()).map_err(failed)?;
    Ok(out)
}

/// What the template is given.
#[derive(Debug, Template)]
#[template(path = "report/page.html")]
struct Page<'a> {
    record: &'a Record,
    begun: String,
    /// The verdict, as the style sheet calls it.
    class: String,
    summary: Summary,
    /// Subjects and their styles.
    subjects: Vec<(&'a str, String)>,
    sections: Vec<Section>,
}

fn page(record: &Record) -> askama::Result<String> {
    let groups = Groups::of(record);
    let summary = Summary::of(record, &groups);
    let about_traffic = || {
        [
            summary::glance(&groups),
            intervals::section(record, &groups),
            loss::section(&groups),
            latency::section(&groups),
            cpu::section(&groups),
            pairs::section(record, &groups),
            waterfalls::section(&groups),
        ]
    };
    let about_delays = || {
        [
            delays::section(record, &groups),
            intervals::section(record, &groups),
            pairs::section(record, &groups),
        ]
    };
    let is_about_delays = record.trials.iter().any(|trial| trial.delays.is_some());
    let mut sections = if is_about_delays { about_delays().into() } else { Vec::from(about_traffic()) };
    let has_events = record.trials.iter().any(|trial| trial.events.is_some() || trial.disturbance.is_some());
    if has_events {
        sections.insert(1, events::section(record, &groups));
    }
    sections.extend([settings::section(record), trials::section(record, &groups)]);
    if !record.searches.is_empty() {
        sections.insert(0, searches::section(record));
    }
    if let Some(calibration) = &record.calibration {
        sections.insert(sections.len() - 2, calibration::section(calibration, &groups));
    }
    let page = Page {
        record,
        begun: units::date(record.environment.started),
        class: summary.word.to_lowercase(),
        summary,
        subjects: groups.subjects.iter().map(|name| (*name, groups.style(name))).collect(),
        sections,
    };
    page.render()
}
