//! The highest rates without loss.

use super::columns::{Column, Conditions};
use super::numbers::{grouped, or_nothing};
use crate::search::{Found, Limit};

const SUBJECT: [Column<Found>; 1] = [Column::text("subject", |found| found.subject.clone())];

const BOUNDS: [Column<Found>; 3] = [
    Column::number("without loss", |found| or_nothing(found.lower_pps, grouped)),
    Column::number("no more at", |found| or_nothing(found.upper_pps, grouped)),
    Column::text("because of", |found| or_nothing(found.upper_by, |limit| words(limit).to_owned())),
];

const LEGEND: &str = "rates in packets/s: the highest that passed, and the lowest above it that did not; \"the lab\" \
                      could not offer or count that much, and the subject may do more";

/// The table.
pub(super) fn table(searches: &[Found]) -> String {
    let conditions = Conditions::of(searches.iter().map(|found| found.condition));
    let table = conditions.table(searches, &SUBJECT, |found| &found.condition, &BOUNDS);
    format!("{table}\n\n{LEGEND}\n")
}

fn words(limit: Limit) -> &'static str {
    match limit {
        Limit::Subject => "the subject",
        Limit::Lab => "the lab",
    }
}
