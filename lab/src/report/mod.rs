//! What people see: progress while a run lasts, tables and a page when it is over.

mod calibration;
mod columns;
mod comparisons;
mod condition;
mod delays;
mod found;
mod groups;
pub mod html;
mod medians;
mod numbers;
mod progress;
mod record;
mod searches;
pub mod summary;
mod trials;
mod units;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::results::{RESULTS_FILE, Results, RunKind, last_attempts};
use crate::verdict::STEAL_LIMIT_PERCENT;
use columns::Conditions;
pub use progress::Progress;
pub use record::ReadError;

/// The results as text. What sums them up comes last, where the reader's eye is when the run is over.
pub fn report(results: &Results) -> String {
    let mut parts = tables(results);
    if parts.is_empty() {
        parts.push("no trial was held to its end\n".to_owned());
    }
    let measured = last_attempts(&results.trials).filter_map(|trial| trial.measured.as_ref());
    let steal = about_steal(measured.map(|measured| measured.steal_percent));
    let notes: Vec<_> = results.notes.iter().chain(&steal).map(|note| format!("note: {note}")).collect();
    if !notes.is_empty() {
        parts.push(format!("{}\n", notes.join("\n")));
    }
    parts.join("\n")
}

/// What to know of the times in trials of which the hypervisor kept so many percent of the machine's time for others.
fn about_steal(percents: impl Iterator<Item = f64>) -> Option<String> {
    let percents: Vec<_> = percents.collect();
    let count = percents.iter().filter(|percent| **percent > STEAL_LIMIT_PERCENT).count();
    (count > 0).then(|| {
        format!(
            "in {count} of {} trials the hypervisor kept more than {STEAL_LIMIT_PERCENT} % of the machine's time for others \
             (steal): latencies and CPU times there are not the subject's alone",
            percents.len()
        )
    })
}

/// What was measured; nothing when no trial was held.
fn tables(results: &Results) -> Vec<String> {
    if results.trials.is_empty() {
        return Vec::new();
    }
    let conditions = Conditions::of(results.trials.iter().map(|trial| trial.condition));
    let mut parts = Vec::new();
    let is_about_delays = results.trials.iter().any(|trial| trial.delays.is_some());
    if is_about_delays {
        parts.push(delays::table(&results.trials, &conditions));
    } else if results.kind == RunKind::Run {
        parts.push(trials::table(&results.trials, &conditions));
    }
    // That trials fail is what a search is for: they are not told one by one.
    if results.kind == RunKind::Run {
        parts.push(trials::details(&results.trials));
    }
    // Of one block the trials themselves are the summary.
    if !is_about_delays && results.trials.iter().any(|trial| trial.block > 1) {
        parts.push(medians::table(&results.trials, &conditions));
    }
    if !results.searches.is_empty() {
        parts.push(searches::table(&results.searches));
    }
    if !results.search_ratios.is_empty() {
        parts.push(searches::ratios(&results.search_ratios));
    }
    parts.extend(results.calibration.as_ref().and_then(calibration::table));
    if !results.comparisons.is_empty() {
        parts.push(comparisons::table(&results.comparisons, &conditions));
    }
    parts
}

/// The file with the results of a run, by its folder or by itself.
pub fn results_in(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(RESULTS_FILE) } else { path.to_owned() }
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
