//! Loss against rate.

use super::condition::Condition;
use super::drawing::Drawing;
use super::groups::{Group, Groups};
use super::plot::{Area, Line, Rows, rows, tip};
use super::record::Trial;
use super::scale::Scale;
use super::section::{Section, Table};
use super::units::{many, percent, share};
use crate::report::numbers::grouped;

/// How many rates have room beneath a drawing.
const MOST_RATES: usize = 6;

pub(super) fn section(groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "loss",
        title: "Loss",
        intro: "Lost, of what should have come to the sinks. Lines and sums are of the trials that count.",
        has_legend: true,
        ..Section::default()
    };
    let measured = || groups.all.iter().flat_map(|group| &group.trials).filter(|trial| trial.lost.is_some());
    if measured().next().is_none() {
        section.notes.push("No trial counted anything that could have been lost.".to_owned());
        return section;
    }
    section.tables.push(table(groups));
    if measured().all(|trial| trial.lost == Some(0)) {
        let trials = many(measured().count(), "trial");
        section.notes.push(format!("No drawing: nothing was lost in any of {trials}."));
        return section;
    }
    let families = families(groups);
    if families.iter().all(|family| family.len() > 1) {
        section.drawings = families.iter().map(|family| curves(groups, family, families.len())).collect();
    } else {
        section.drawings.push(points(groups));
    }
    section
}

/// Conditions that differ in nothing but the rate, together.
fn families<'a>(groups: &Groups<'a>) -> Vec<Vec<Condition<'a>>> {
    let mut families: Vec<Vec<Condition<'_>>> = Vec::new();
    for condition in &groups.conditions {
        let is_kin = |family: &&mut Vec<Condition<'_>>| {
            Condition { rate_pps: condition.rate_pps, ..family[0] } == *condition
        };
        match families.iter_mut().find(is_kin) {
            Some(family) => family.push(*condition),
            None => families.push(vec![*condition]),
        }
    }
    for family in &mut families {
        family.sort_by_key(|condition| condition.rate_pps);
    }
    families
}

/// Lost and due in the trials that count.
fn sums(group: &Group<'_>) -> Option<[u64; 2]> {
    let counted = group.conclusive().filter_map(|trial| Some([trial.lost?, trial.due()]));
    counted.reduce(|sum, counts| [sum[0].saturating_add(counts[0]), sum[1].saturating_add(counts[1])])
}

fn percent_of(trial: &Trial) -> Option<f64> {
    trial.lost.map(|lost| percent(lost, trial.due()))
}

/// One family: a line for each subject through its sums, and every trial.
fn curves(groups: &Groups<'_>, family: &[Condition<'_>], count: usize) -> Drawing {
    let area = Area::one_of(count);
    let x =
        Scale::by_factors(family.iter().map(|condition| condition.rate_pps as f64), [area.left, area.right]);
    let members = || family.iter().flat_map(|condition| groups.under(*condition));
    let y = Scale::from_zero(
        members().flat_map(|group| &group.trials).filter_map(|trial| percent_of(trial)),
        area.upwards(),
    );
    let every = family.len().div_ceil(MOST_RATES);
    let rates = family.iter().step_by(every).map(|condition| condition.rate_pps);
    let ticks: Vec<_> = rates.map(|rate| (x.at(rate as f64), grouped(rate))).collect();
    let title = match groups.name(family[0]).split_once(", ") {
        Some((_, others)) => format!("Loss against rate: {others}"),
        None => "Loss against rate".to_owned(),
    };
    let description = "The numbers are in the table of losses.".to_owned();
    let mut drawing = area.draw((title, description), ("packets/s", &ticks), ("% lost", &y));
    for subject in &groups.subjects {
        let style = groups.style(subject);
        let of_subject = || members().filter(|group| group.subject == *subject);
        let sums = of_subject().filter_map(|group| {
            sums(group).map(|[lost, due]| [x.at(group.condition.rate_pps as f64), y.at(percent(lost, due))])
        });
        drawing.curve(format!("curve {style}"), &sums.collect::<Vec<_>>(), (*subject).to_owned());
        for trial in of_subject().flat_map(|group| &group.trials) {
            let Some(value) = percent_of(trial) else { continue };
            let place = [x.at(trial.condition().rate_pps as f64), y.at(value)];
            drawing.point(&style, trial.verdict, place, tip(trial, &shown(trial)));
        }
    }
    drawing
}

/// Where there is but one rate: a row for each subject and condition.
fn points(groups: &Groups<'_>) -> Drawing {
    let line = |group: &Group<'_>| {
        let sums = sums(group);
        (sums.map(|[lost, due]| percent(lost, due)), sums.map_or("no trial that counts".to_owned(), in_words))
    };
    let charts: Vec<_> = groups
        .conditions
        .iter()
        .map(|condition| Rows {
            head: groups.name(*condition),
            rows: groups
                .under(*condition)
                .map(|group| {
                    let (bar, shown) = line(group);
                    let points =
                        group.trials.iter().filter_map(|trial| Some((percent_of(trial)?, *trial))).collect();
                    Line { name: group.subject, style: groups.style(group.subject), points, bar, shown }
                })
                .collect(),
        })
        .collect();
    let texts = ("Loss".to_owned(), "The numbers are in the table of losses.".to_owned());
    rows(texts, ("% lost", |percent| format!("{percent:.3} %")), &charts)
}

fn shown(trial: &Trial) -> String {
    in_words([trial.lost.unwrap_or(0), trial.due()])
}

fn in_words([lost, due]: [u64; 2]) -> String {
    format!("{} ({})", grouped(lost), share(lost, due))
}

fn table(groups: &Groups<'_>) -> Table {
    let heads = [
        ("subject", false),
        ("condition", false),
        ("trials", true),
        ("due", true),
        ("lost", true),
        ("share", true),
    ];
    let mut table = Table::new("Losses, summed over the trials that count", &heads);
    for group in &groups.all {
        let counted = format!("{} of {}", group.conclusive().count(), group.last.len());
        let sums = sums(group);
        let cell = |show: &dyn Fn([u64; 2]) -> String| sums.map_or_else(|| "-".to_owned(), show);
        table.push([
            group.subject.to_owned(),
            groups.name(group.condition),
            counted,
            cell(&|[_, due]| grouped(due)),
            cell(&|[lost, _]| grouped(lost)),
            cell(&|[lost, due]| share(lost, due)),
        ]);
    }
    table
}
