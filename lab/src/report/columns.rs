//! Tables: columns that know how to show a row, and the conditions that all tables have in common.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::numbers::grouped;
use crate::scenario::{Condition, sink_kind_name};

/// A column: its header, whether it holds numbers, and what it says of a row.
pub(super) struct Column<T> {
    header: &'static str,
    is_number: bool,
    show: fn(&T) -> String,
}

impl<T> Column<T> {
    pub(super) const fn text(header: &'static str, show: fn(&T) -> String) -> Self {
        Self { header, is_number: false, show }
    }

    pub(super) const fn number(header: &'static str, show: fn(&T) -> String) -> Self {
        Self { header, is_number: true, show }
    }

    #[cfg(test)]
    pub(super) fn shown(&self, row: &T) -> String {
        (self.show)(row)
    }
}

/// Said only where there is any.
const FOREIGN: &str = "foreign/s";

const CONDITIONS: [Column<Condition>; 9] = [
    Column::text("cast", |condition| short_cast(&condition.cast.to_string())),
    Column::text("segmentation", |condition| condition.segmentation.to_string()),
    Column::text("sink", |condition| sink_kind_name(condition.sink_kind).to_owned()),
    Column::number("sinks", |condition| condition.fan_out.to_string()),
    Column::text("generator", |condition| condition.generator.to_string()),
    Column::number("flows", |condition| grouped(condition.flows as u64)),
    Column::number("bytes", |condition| condition.payload_bytes.to_string()),
    Column::number(FOREIGN, |condition| grouped(condition.foreign_pps)),
    Column::number("packets/s", |condition| grouped(condition.rate_pps)),
];

/// What the conditions of a run differ in, and what they have in common.
pub(super) struct Conditions {
    differing: Vec<Column<Condition>>,
    common: Vec<String>,
}

impl Conditions {
    /// A column that says the same of every one of `conditions` is said once, beneath the first table.
    pub(super) fn of(conditions: impl IntoIterator<Item = Condition>) -> Self {
        let conditions: Vec<_> = conditions.into_iter().collect();
        let (mut differing, mut common) = (Vec::new(), Vec::new());
        let has_foreign = conditions.iter().any(|condition| condition.foreign_pps > 0);
        for column in CONDITIONS.into_iter().filter(|column| has_foreign || column.header != FOREIGN) {
            let mut shown = conditions.iter().map(column.show);
            let first = shown.next().unwrap_or_default();
            if shown.all(|other| other == first) {
                common.push(format!("{} {first}", column.header));
            } else {
                differing.push(column);
            }
        }
        Self { differing, common }
    }

    /// What they have in common, in words.
    pub(super) fn common(&self) -> String {
        self.common.join(", ")
    }

    /// What tells `condition` from the others, in words; empty of the only one.
    pub(super) fn told(&self, condition: &Condition) -> String {
        let told =
            self.differing.iter().map(|column| format!("{} {}", column.header, (column.show)(condition)));
        told.collect::<Vec<_>>().join(", ")
    }

    /// A table of `rows`: the columns `before`, what their conditions differ in, the columns `after`.
    pub(super) fn table<T>(
        &self,
        rows: &[T],
        before: &[Column<T>],
        condition_of: impl Fn(&T) -> &Condition,
        after: &[Column<T>],
    ) -> String {
        let mut table = Table::new();
        let before_heads = before.iter().map(|column| (column.header, column.is_number));
        let condition_heads = self.differing.iter().map(|column| (column.header, column.is_number));
        let after_heads = after.iter().map(|column| (column.header, column.is_number));
        let heads: Vec<_> = before_heads.chain(condition_heads).chain(after_heads).collect();
        table.load_style(NOTHING).set_header(heads.iter().map(|(header, _)| *header));
        for row in rows {
            let before = before.iter().map(|column| (column.show)(row));
            let conditions = self.differing.iter().map(|column| (column.show)(condition_of(row)));
            let after = after.iter().map(|column| (column.show)(row));
            table.add_row(before.chain(conditions).chain(after));
        }
        for ((_, is_number), cells) in heads.iter().zip(table.column_iter_mut()) {
            if *is_number {
                cells.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

/// What of `condition` is not as in `other`, as the tables call it.
pub(super) fn differences(condition: &Condition, other: &Condition) -> String {
    let differing = CONDITIONS.iter().filter(|column| (column.show)(condition) != (column.show)(other));
    let told = differing.map(|column| format!("{} {}", column.header, (column.show)(condition)));
    told.collect::<Vec<_>>().join(", ")
}

/// All of a condition.
pub(super) fn in_words(condition: &Condition) -> String {
    let Condition { cast, segmentation, sink_kind, fan_out, generator, .. } = condition;
    let Condition { flows, payload_bytes, foreign_pps, rate_pps, .. } = condition;
    let (rate, sink) = (grouped(*rate_pps), sink_kind_name(*sink_kind));
    let flows = if *flows == 1 { String::new() } else { format!("{} flows, ", grouped(*flows as u64)) };
    let sinks = if *fan_out == 1 { format!("{sink} sink") } else { format!("{fan_out} {sink} sinks") };
    let foreign = match *foreign_pps {
        0 => String::new(),
        foreign => format!("{} foreign beside, ", grouped(foreign)),
    };
    format!(
        "{cast}, {rate} packets/s, {foreign}{payload_bytes} B, {flows}{sinks}, {generator} generator, segmentation {segmentation}"
    )
}

/// `multicast-to-unicast` as `multi-uni`.
fn short_cast(cast: &str) -> String {
    cast.replace("cast-to-", "-").replace("cast", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::CONDITION;

    #[test]
    fn casts_are_short() {
        assert_eq!(short_cast("multicast-to-unicast"), "multi-uni");
        assert_eq!(short_cast("unicast-to-multicast"), "uni-multi");
    }

    #[test]
    fn what_all_have_in_common_is_said_once() {
        let faster = Condition { rate_pps: 1_000_000, ..CONDITION };
        let conditions = Conditions::of([CONDITION, faster]);
        assert_eq!(
            conditions.common(),
            "cast multi-multi, segmentation wire, sink packet, sinks 1, generator xdp, flows 1, bytes 100"
        );
        let beside = Condition { foreign_pps: 2_000, ..CONDITION };
        assert!(Conditions::of([beside, beside]).common().contains("foreign/s 2,000, packets/s 1,000"));
        assert_eq!(Conditions::of([CONDITION, beside]).told(&CONDITION), "foreign/s 0");
        assert!(in_words(&beside).contains("1,000 packets/s, 2,000 foreign beside, 100 B"));
        let name = [Column::text("name", |condition: &Condition| format!("x{}", condition.rate_pps))];
        let table = conditions.table(&[CONDITION, faster], &name, |condition| condition, &[]);
        let lines: Vec<_> = table.lines().map(str::trim_end).collect();
        assert_eq!(lines, [" name      packets/s", " x1000         1,000", " x1000000  1,000,000"]);
    }
}
