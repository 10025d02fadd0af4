//! The lab alone, before the run and after it.

use super::groups::Groups;
use super::record::{Calibration, last_attempts};
use super::section::{Section, Table};
use super::trials::Column;
use crate::report::numbers::{grouped, micros, or_nothing, rounded};

/// What the table says of a trial.
const COLUMNS: [Column; 9] = [
    ("offered/s", |trial| or_nothing(trial.offered_pps, rounded)),
    ("lost", |trial| or_nothing(trial.lost, grouped)),
    ("p50 µs", |trial| or_nothing(trial.reading("p50"), micros)),
    ("p90 µs", |trial| or_nothing(trial.reading("p90"), micros)),
    ("p99 µs", |trial| or_nothing(trial.reading("p99"), micros)),
    ("p99.9 µs", |trial| or_nothing(trial.reading("p999"), micros)),
    ("max µs", |trial| or_nothing(trial.reading("max"), micros)),
    ("lag p99 µs", |trial| or_nothing(trial.generator_lag_ns.as_ref(), |lag| micros(lag.p99 as f64))),
    ("system ns", |trial| or_nothing(trial.cpu_ns_per_packet.system, rounded)),
];
/// In which column the verdict is.
const VERDICT: usize = 2;

pub(super) fn section(calibration: &Calibration, groups: &Groups<'_>) -> Section {
    let before = ["held", "condition", "verdict"].map(|head| (head, false));
    let heads: Vec<_> = before.into_iter().chain(COLUMNS.map(|(head, _)| (head, true))).collect();
    let mut table = Table::new("The lab alone", &heads);
    let Calibration { before, after } = calibration;
    for (when, trials) in [("before the run", before), ("after the run", after)] {
        for trial in last_attempts(trials) {
            let cells = [when.to_owned(), groups.name(trial.condition()), trial.verdict_in_words()];
            let row = table.push(cells.into_iter().chain(COLUMNS.map(|(_, show)| show(trial))));
            row.mark(VERDICT, trial.verdict);
            row.notes.clone_from(&trial.reasons);
        }
    }
    Section {
        id: "calibration",
        title: "The lab alone",
        intro: "The same traffic over a direct wire, with no subject in between: what of every latency is the lab's own, \
                whether it can offer and count so much here at all, and whether the machine changed meanwhile.",
        tables: vec![table],
        ..Section::default()
    }
}
