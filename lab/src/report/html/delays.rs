//! How long joining and leaving took.

use super::groups::Groups;
use super::record::Record;
use super::section::{Section, Table};
use crate::report::delays::in_millis;
use crate::report::numbers::or_nothing;
use crate::trial::Delays;

/// A head and what stands beneath it.
type Column = (&'static str, fn(&Delays) -> u64);

const COLUMNS: [Column; 4] = [
    ("first ms", |delays| delays.first_ns),
    ("join ms", |delays| delays.join_ns),
    ("leave ms", |delays| delays.leave_ns),
    ("± ms", |delays| delays.resolution_ns),
];
/// In which column the verdict is.
const VERDICT: usize = 3;

pub(super) fn section(record: &Record, groups: &Groups<'_>) -> Section {
    let before = [("subject", false), ("condition", false), ("block", true), ("verdict", false)];
    let heads: Vec<_> = before.into_iter().chain(COLUMNS.map(|(head, _)| (head, true))).collect();
    let mut table = Table::new(format!("All trials: {}", groups.common()), &heads);
    for trial in record.last_attempts() {
        let cells = [
            trial.subject.clone(),
            groups.name(trial.condition()),
            trial.block.to_string(),
            trial.verdict_in_words(),
        ];
        let delays =
            COLUMNS.map(|(_, pick)| or_nothing(trial.delays.as_ref(), |delays| in_millis(pick(delays))));
        let row = table.push(cells.into_iter().chain(delays));
        row.mark(VERDICT, trial.verdict);
        row.class = if trial.verdict.is_conclusive() { "" } else { "void" };
    }
    Section {
        id: "delays",
        title: "Join and leave",
        intro: "Traffic was offered all the time. first: from the subject's start to the first datagram at a sink; join: \
                until every flow had come to every sink; leave: from the signal that ended it to the last datagram; ±: \
                how far apart the datagrams of a flow were offered.",
        tables: vec![table],
        ..Section::default()
    }
}
