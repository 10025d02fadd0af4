//! What a search found: the highest rate without loss of each subject, and those rates against each other.

use super::found::{Found, FoundRatio};
use super::record::Record;
use super::section::{Section, Table};
use crate::report::numbers::{bounds, grouped, or_nothing};

pub(super) fn section(record: &Record) -> Section {
    let mut section = Section {
        id: "searches",
        title: "Highest rates without loss",
        intro: "In packets per second: the highest rate at which most trials passed, and the lowest above it at which \
                they did not. Where that is because of the lab, most trials there showed nothing of the subject, which \
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
        let Found { subject, condition, lower_pps, upper_pps, upper_by, reasons, .. } = found;
        let row = table.push([
            subject.clone(),
            condition.in_words(),
            or_nothing(*lower_pps, grouped),
            or_nothing(*upper_pps, grouped),
            or_nothing(upper_by.as_ref(), |limit| format!("the {limit}")),
        ]);
        row.notes.clone_from(reasons);
    }
    section.tables.push(table);
    if !record.search_ratios.is_empty() {
        section.tables.push(ratios(&record.search_ratios));
    }
    section
}

fn ratios(ratios: &[FoundRatio]) -> Table {
    let heads = [
        ("of", false),
        ("to", false),
        ("condition", false),
        ("ratio", false),
        ("demanded", false),
        ("verdict", false),
    ];
    let caption = "Against each other (at least: without loss of the one by no more at of the other; at most: the other \
                   way round; where no more at is because of the subject)";
    let mut table = Table::new(caption, &heads);
    for FoundRatio { of, to, condition, least, most, at_least, verdict, reasons } in ratios {
        let row = table.push([
            of.clone(),
            to.clone(),
            condition.in_words(),
            bounds(*least, *most),
            format!("at least {at_least}"),
            verdict.to_string(),
        ]);
        row.mark(heads.len() - 1, *verdict);
        row.notes.clone_from(reasons);
    }
    table
}
