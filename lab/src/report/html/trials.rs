//! The raw numbers: every trial.

use super::groups::Groups;
use super::record::{Record, Trial};
use super::section::{Section, Table};
use crate::memory::Memory;
use crate::report::numbers::{grouped, mebibytes, micros, or_nothing, rounded};

/// A head and what stands beneath it.
pub(super) type Column = (&'static str, fn(&Trial) -> String);

/// What the table says of a trial.
const COLUMNS: [Column; 16] = [
    ("offered/s", |trial| or_nothing(trial.offered_pps, rounded)),
    ("lost", |trial| or_nothing(trial.lost, grouped)),
    ("dup", |trial| or_nothing(trial.duplicated, grouped)),
    ("reord", |trial| or_nothing(trial.reordered, grouped)),
    ("corr", |trial| or_nothing(trial.corrupted, grouped)),
    ("alien", |trial| or_nothing(trial.alien, grouped)),
    ("astray", |trial| or_nothing(trial.misdelivered, grouped)),
    ("p50 µs", |trial| or_nothing(trial.reading("p50"), micros)),
    ("p90 µs", |trial| or_nothing(trial.reading("p90"), micros)),
    ("p99 µs", |trial| or_nothing(trial.reading("p99"), micros)),
    ("p99.9 µs", |trial| or_nothing(trial.reading("p999"), micros)),
    ("max µs", |trial| or_nothing(trial.reading("max"), micros)),
    ("cpu ns", |trial| or_nothing(trial.cpu_ns_per_packet.relay, rounded)),
    ("system ns", |trial| or_nothing(trial.cpu_ns_per_packet.system, rounded)),
    ("above wire ns", |trial| or_nothing(trial.cpu_ns_per_packet.system_less_wire, rounded)),
    ("steal %", |trial| or_nothing(trial.steal_percent, |percent| format!("{percent:.1}"))),
];
const LAG: [Column; 2] = [
    ("lag µs", |trial| or_nothing(trial.generator_lag_ns.as_ref(), |lag| micros(lag.max as f64))),
    ("retried", |trial| or_nothing(trial.generator_retried, grouped)),
];
const MEMORY: [Column; 3] = [
    ("memory MiB", |trial| memory(trial, |memory| mebibytes(memory.most))),
    ("grown KiB", |trial| memory(trial, |memory| grouped(memory.growth() >> 10))),
    ("rings MiB", |trial| memory(trial, |memory| mebibytes(memory.ring))),
];
/// In which column the verdict is.
const VERDICT: usize = 5;

pub(super) fn section(record: &Record, groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "trials",
        title: "Every trial",
        intro: "In the order in which they were held, attempts that were repeated included. cpu: the subject's time \
                per datagram; system: that of the whole machine; above wire: the same less what it takes over the direct \
                wire; memory: the most of the subject's in RAM outside packet rings; grown: how much more that was in the \
                end than at the begin; lag: how late the generator was at worst; astray: \
                sent to addresses that are not theirs; -: not measured. Struck through: counts for nothing.",
        ..Section::default()
    };
    if record.trials.is_empty() {
        section.notes.push("No trial was held to its end.".to_owned());
        return section;
    }
    let before = ["#", "subject", "condition", "block", "attempt", "verdict"];
    let before = before.map(|head| (head, ["#", "block", "attempt"].contains(&head)));
    let after = COLUMNS.iter().chain(&MEMORY).chain(&LAG);
    let heads: Vec<_> = before.into_iter().chain(after.clone().map(|(head, _)| (*head, true))).collect();
    let mut table = Table::new("Every trial", &heads);
    for (i, trial) in record.trials.iter().enumerate() {
        let cells = [
            (i + 1).to_string(),
            trial.subject.clone(),
            groups.name(trial.condition()),
            trial.block.to_string(),
            trial.attempt.to_string(),
            trial.verdict_in_words(),
        ];
        let row = table.push(cells.into_iter().chain(after.clone().map(|(_, show)| show(trial))));
        row.mark(VERDICT, trial.verdict);
        row.class = if trial.verdict.is_conclusive() { "" } else { "void" };
        row.notes.clone_from(&trial.reasons);
        if !trial.reasons.is_empty() {
            row.notes.push(format!("output of the subject: {}", trial.files));
        }
    }
    section.tables.push(table);
    section
}

fn memory(trial: &Trial, show: impl Fn(&Memory) -> String) -> String {
    or_nothing(trial.memory_bytes.as_ref(), show)
}
