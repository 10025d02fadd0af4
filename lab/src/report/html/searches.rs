//! What a search found: the highest rate without loss of each subject.

use super::record::{Found, FoundCondition, Record};
use super::section::{Section, Table};
use super::units::many;
use crate::report::numbers::{grouped, or_nothing};

pub(super) fn section(record: &Record) -> Section {
    let mut section = Section {
        id: "searches",
        title: "Highest rates without loss",
        intro: "In packets per second: the highest rate at which most trials passed, and the lowest above it at which \
                they did not. Where that is because of the lab, which could not offer or count so much, the subject \
                may do more.",
        ..Section::default()
    };
    let heads = [
        ("subject", false),
        ("condition", false),
        ("without loss", true),
        ("no more at", true),
        ("because of", false),
    ];
    let mut table = Table::new("Highest rates without loss", &heads);
    for found in &record.searches {
        let Found { subject, condition, lower_pps, upper_pps, upper_by } = found;
        table.push([
            subject.clone(),
            format!(
                "{} B, {}, {} {} sinks{}",
                grouped(condition.payload_bytes),
                many(condition.flows as usize, "flow"),
                condition.fan_out,
                condition.sink_kind,
                segmentation(condition)
            ),
            or_nothing(*lower_pps, grouped),
            or_nothing(*upper_pps, grouped),
            or_nothing(upper_by.as_ref(), |limit| format!("the {limit}")),
        ]);
    }
    section.tables.push(table);
    section
}

/// Where the file says it.
fn segmentation(condition: &FoundCondition) -> String {
    let segmentation = &condition.segmentation;
    if segmentation.is_empty() { String::new() } else { format!(", segmentation {segmentation}") }
}
