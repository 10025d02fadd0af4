//! What comparisons rest on: the pair of trials in each block.

use std::collections::BTreeSet;

use super::condition::Condition;
use super::drawing::Drawing;
use super::groups::{Groups, Sides};
use super::record::{Comparison, Record, Trial};
use super::scale::Scale;
use super::section::Section;
use super::units::Unit;
use crate::report::numbers::factor;

const WIDTH: f64 = 420.0;
const LINE: f64 = 26.0;
const NAMES: f64 = 58.0;
const FIGURES: f64 = 170.0;

pub(super) fn section(record: &Record, groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "pairs",
        title: "Pairs, block by block",
        intro: "Both trials of a block were held one soon after the other, so that what drifts meets both. The line \
                between them is the difference; figures are those of the first subject, of the second, and their ratio.",
        has_legend: true,
        ..Section::default()
    };
    let last = record.last_attempts();
    let blocks = record.blocks();
    let drawings = record.comparisons.iter().map(|comparison| drawing(comparison, groups, &last, &blocks));
    section.drawings = drawings.collect();
    if section.drawings.is_empty() {
        section.notes.push("No pairs, because there are no comparisons.".to_owned());
    }
    section
}

/// The two values of a block, or what is in the way of them.
type Pair<'a> = Result<[(f64, &'a Trial); 2], String>;

fn drawing(comparison: &Comparison, groups: &Groups<'_>, last: &[&Trial], blocks: &BTreeSet<u64>) -> Drawing {
    let unit = Unit::of(&comparison.metric);
    let pairs: Vec<_> = blocks.iter().map(|block| (*block, pair(comparison, *block, last))).collect();
    let values = pairs.iter().flat_map(|(_, pair)| pair.iter().flatten());
    let x = Scale::from_zero(values.map(|(value, _)| unit.value(*value)), [NAMES, WIDTH - FIGURES]);
    let (metric, Sides { of, to, condition }) = (&comparison.metric, groups.sides(comparison));
    let title = format!("{metric}: {of} to {to}, {condition}");
    let description = pairs.iter().map(|(block, pair)| format!("block {block}: {}", in_words(pair, unit)));
    let description = description.collect::<Vec<_>>().join("; ");
    let bottom = 8.0 + LINE * pairs.len() as f64;
    let mut drawing = Drawing::new(title, description, [WIDTH, bottom + 38.0]);
    drawing.horizontal_axis(&x, [8.0, bottom]);
    drawing.text(
        "name middle",
        [f64::midpoint(NAMES, WIDTH - FIGURES), bottom + 34.0],
        unit.name,
        usize::MAX,
    );
    for (i, (block, pair)) in pairs.iter().enumerate() {
        let middle = 8.0 + LINE * (i as f64 + 0.5);
        drawing.text("label", [0.0, middle + 4.0], &format!("block {block}"), 9);
        if let Ok(pair) = pair {
            let places = pair.map(|(value, _)| [x.at(unit.value(value)), middle]);
            drawing.line("difference", places[0], places[1]);
            for ((value, trial), place) in pair.iter().zip(places) {
                let tip = super::plot::tip(trial, &(unit.show)(*value));
                drawing.point(&groups.style(&trial.subject), trial.verdict, place, tip);
            }
        }
        let class = if pair.is_ok() { "figure" } else { "tick" };
        drawing.text(class, [WIDTH - FIGURES + 14.0, middle + 4.0], &in_words(pair, unit), 27);
    }
    drawing
}

/// As the comparison itself chooses them.
fn pair<'a>(comparison: &Comparison, block: u64, last: &[&'a Trial]) -> Pair<'a> {
    let side = |name: &str, condition: Condition<'_>| {
        let is_it =
            |trial: &&&Trial| trial.block == block && trial.subject == name && trial.condition() == condition;
        let trial = *last.iter().find(is_it).ok_or_else(|| format!("no pair: {name} was not run"))?;
        if !trial.verdict.is_conclusive() {
            return Err(format!("no pair: {name} was {}", trial.verdict));
        }
        let value = trial.reading(&comparison.metric).filter(|value| *value > 0.0);
        value.map(|value| (value, trial)).ok_or_else(|| format!("no pair: nothing of {name}"))
    };
    let of = side(&comparison.of, comparison.condition())?;
    Ok([of, side(&comparison.to, comparison.to_condition())?])
}

fn in_words(pair: &Pair<'_>, unit: Unit) -> String {
    match pair {
        Ok([(of, _), (to, _)]) => {
            let of_shown = (unit.show)(*of).replace(&format!(" {}", unit.name), "");
            format!("{of_shown} : {}  {}", (unit.show)(*to), factor(of / to))
        }
        Err(why) => why.clone(),
    }
}
