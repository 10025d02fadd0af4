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
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use askama::Template;
use serde::Deserialize;

use super::groups::{self, Groups};
use super::record::{self, Record};
use super::units;
use crate::results::SCHEMA;
use drawing::Mark;
use section::Section;
use summary::Summary;

/// The name of the page, beside the results.
pub const FILE: &str = "report.html";

/// A page that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The results cannot be read.
    #[error("read results {}: {source}; name the results.json of a run", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no results of this schema in it.
    #[error("{} has {found}, and this lab reads {SCHEMA}: name the results.json of a run of this version", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        found: String,
    },
    /// The file is not as the schema has it.
    #[error("{}: {source}; run the scenario again, or name the results.json of a run that came to its end", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
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
    let text = fs::read(file).map_err(|source| PageError::Unreadable { path: file.to_owned(), source })?;
    let record = read(file, &text)?;
    let out = out.map_or_else(|| file.with_file_name(FILE), Path::to_owned);
    if fs::canonicalize(file).ok() == fs::canonicalize(&out).ok() {
        return Err(PageError::OntoResults(out));
    }
    let failed = |source| PageError::Unwritable { path: out.clone(), source };
    let page = page(&record).map_err(|error| failed(io::Error::other(error)))?;
    write_whole(&out, page.as_bytes()).map_err(failed)?;
    Ok(out)
}

/// The results in `text`, which is that of `file`.
fn read(file: &Path, text: &[u8]) -> Result<Record, PageError> {
    #[derive(Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    let malformed = |source| PageError::Malformed { path: file.to_owned(), source };
    let head: Head = serde_json::from_slice(text).map_err(malformed)?;
    if head.schema.as_deref() != Some(SCHEMA) {
        let found = head.schema.map_or_else(|| "no schema".to_owned(), |schema| format!("schema {schema}"));
        return Err(PageError::Foreign { path: file.to_owned(), found });
    }
    serde_json::from_slice(text).map_err(malformed)
}

/// All or nothing, so that nobody sees half a page.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    // The parent of a bare name is an empty path.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    // Temporary files are for their owner only; pages are for everybody who may enter the folder.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
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
    sections.extend([settings::section(record), trials::section(record, &groups)]);
    if !record.searches.is_empty() {
        sections.insert(0, searches::section(record));
    }
    if let Some(calibration) = &record.calibration {
        sections.insert(sections.len() - 2, calibration::section(calibration, &groups));
    }
    let page = Page {
        record,
        begun: settings::date(record.environment.started),
        class: summary.word.to_lowercase(),
        summary,
        subjects: groups.subjects.iter().map(|name| (*name, groups.style(name))).collect(),
        sections,
    };
    page.render()
}
