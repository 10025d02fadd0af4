//! The highest rates without loss.

use super::columns::{Column, Conditions};
use super::numbers::{bounds, grouped, or_nothing};
use crate::search::{Found, FoundRatio, Limit};

const SUBJECT: [Column<Found>; 1] = [Column::text("subject", |found| found.subject.clone())];

const BOUNDS: [Column<Found>; 3] = [
    Column::number("without loss", |found| or_nothing(found.lower_pps, grouped)),
    Column::number("no more at", |found| or_nothing(found.upper_pps, grouped)),
    Column::text("because of", |found| or_nothing(found.upper_by, |limit| words(limit).to_owned())),
];

const LEGEND: &str = "rates in packets/s: the highest that passed, and the lowest above it that did not; \"the lab\": most \
                      trials there showed nothing of the subject, which may do more";

/// The table, and beneath it why a subject has no rate without loss.
pub(super) fn table(searches: &[Found]) -> String {
    let conditions = Conditions::of(searches.iter().map(|found| found.condition));
    let table = conditions.table(searches, &SUBJECT, |found| &found.condition, &BOUNDS);
    let without_any = searches.iter().filter(|found| !found.reasons.is_empty());
    let reasons = without_any
        .map(|Found { subject, condition, reasons, .. }| told(subject, &conditions.told(condition), reasons));
    format!("{table}\n\n{LEGEND}\n{}", reasons.collect::<String>())
}

/// Whom or what `reasons` are about, and they beneath.
fn told(about: &str, condition: &str, reasons: &[String]) -> String {
    let comma = if condition.is_empty() { "" } else { ", " };
    let lines = reasons.iter().map(|reason| format!("  - {}\n", reason.replace('\n', "\n    | ")));
    format!("\n{about}{comma}{condition}\n{}", lines.collect::<String>())
}

const SUBJECTS: [Column<FoundRatio>; 2] =
    [Column::text("of", |ratio| ratio.of.clone()), Column::text("to", |ratio| ratio.to.clone())];

const FINDINGS: [Column<FoundRatio>; 3] = [
    Column::text("ratio", |ratio| bounds(ratio.least, ratio.most)),
    Column::text("demanded", |ratio| format!("at least {}", ratio.at_least)),
    Column::text("verdict", |ratio| ratio.verdict.to_string()),
];

const RATIO_LEGEND: &str = "ratio: what the rates allow, from \"without loss\" of the one by \"no more at\" of the other to the \
                            reverse; a \"no more at\" because of the lab is no bound";

/// Those rates against each other, and beneath the table why a ratio is left undecided.
pub(super) fn ratios(ratios: &[FoundRatio]) -> String {
    let conditions = Conditions::of(ratios.iter().map(|ratio| ratio.condition));
    let table = conditions.table(ratios, &SUBJECTS, |ratio| &ratio.condition, &FINDINGS);
    let undecided = ratios.iter().filter(|ratio| !ratio.reasons.is_empty());
    let reasons = undecided.map(|FoundRatio { of, to, condition, reasons, .. }| {
        told(&format!("{of} to {to}"), &conditions.told(condition), reasons)
    });
    format!("{table}\n\n{RATIO_LEGEND}\n{}", reasons.collect::<String>())
}

fn words(limit: Limit) -> &'static str {
    match limit {
        Limit::Subject => "the subject",
        Limit::Lab => "the lab",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_several_lines_are_told_apart() {
        let reasons = ["it fails".to_owned(), "block 1: it ended\nit said why".to_owned()];
        let text = "\na, sinks 2\n  - it fails\n  - block 1: it ended\n    | it said why\n";
        assert_eq!(told("a", "sinks 2", &reasons), text);
        assert_eq!(told("a", "", &reasons[..1]), "\na\n  - it fails\n");
    }
}
