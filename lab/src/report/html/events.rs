//! What happened to the subjects and their links, when, and what came of it.

use super::groups::Groups;
use super::record::{Record, Trial};
use super::section::{Section, Table};
use crate::disturbance::{Disturbance, LossSpan};
use crate::report::numbers::{grouped, or_nothing};
use crate::trial::EventRecord;

/// How many events of a trial are shown one by one.
const MOST_SHOWN: usize = 50;
/// In which column the verdict is.
const VERDICT: usize = 4;

pub(super) fn section(record: &Record, groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "events",
        title: "Events and interruptions",
        intro: "silence: the longest time that a sink heard nothing while datagrams were offered and every link was up; \
                delay: the longest that a datagram was on its way; recovery: the longest time from a measured link's coming \
                up to the next datagram; link down: offered while a measured link was down, and never arrived.",
        ..Section::default()
    };
    let heads = [
        ("#", true),
        ("subject", false),
        ("condition", false),
        ("block", true),
        ("verdict", false),
        ("events", true),
        ("lost", true),
        ("dup", true),
        ("silence ms", true),
        ("delay ms", true),
        ("recovery ms", true),
        ("link down", true),
    ];
    let mut table = Table::new("Every trial", &heads);
    for (i, trial) in record.trials.iter().enumerate() {
        let seen = trial.disturbance.as_ref();
        let time = |pick: fn(&Disturbance) -> u64| or_nothing(seen, |seen| millis(pick(seen)));
        let cells = [
            (i + 1).to_string(),
            trial.subject.clone(),
            groups.name(trial.condition()),
            trial.block.to_string(),
            trial.verdict_in_words(),
            or_nothing(trial.events.as_ref(), |events| grouped(events.count())),
            or_nothing(trial.lost, grouped),
            or_nothing(trial.duplicated, grouped),
            time(|seen| seen.silence_ns),
            time(|seen| seen.delay_ns),
            or_nothing(seen.and_then(|seen| seen.recoveries_ns.iter().max()), |ns| millis(*ns)),
            or_nothing(seen, |seen| grouped(seen.link_down)),
        ];
        let row = table.push(cells);
        row.mark(VERDICT, trial.verdict);
        row.class = if trial.verdict.is_conclusive() { "" } else { "void" };
    }
    section.tables.push(table);
    for (i, trial) in record.trials.iter().enumerate() {
        section.tables.extend(each(i, trial));
        section.tables.extend(losses(i, trial));
    }
    section
}

/// The events of a trial, one by one.
fn each(i: usize, trial: &Trial) -> Option<Table> {
    let events = trial.events.as_ref().filter(|events| !events.records.is_empty())?;
    let count = events.count() as usize;
    let left_out = count.saturating_sub(MOST_SHOWN);
    let rest =
        if left_out > 0 { format!(", the first {MOST_SHOWN} of {count} events") } else { String::new() };
    let heads = [("at ms", true), ("event", false), ("took ms", true), ("failed", false)];
    let mut table = Table::new(format!("Trial {}, {}{rest}", i + 1, trial.subject), &heads);
    for EventRecord { at_ms, what, took_ms, failed } in events.records.iter().take(MOST_SHOWN) {
        let failed = failed.clone().unwrap_or_default();
        table.push([format!("{at_ms:.1}"), what.clone(), format!("{took_ms:.1}"), failed]);
    }
    Some(table)
}

/// When the trial lost something.
fn losses(i: usize, trial: &Trial) -> Option<Table> {
    let losses = &trial.disturbance.as_ref().filter(|seen| !seen.losses.is_empty())?.losses;
    let heads = [("from ms", true), ("to ms", true), ("lost", true)];
    let mut table = Table::new(format!("Trial {}, {}: what was lost when", i + 1, trial.subject), &heads);
    for LossSpan { from_ms, to_ms, lost } in losses.iter().take(MOST_SHOWN) {
        table.push([format!("{from_ms:.1}"), format!("{to_ms:.1}"), grouped(*lost)]);
    }
    Some(table)
}

fn millis(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e6)
}
