//! Comparisons: each ratio with its interval, beside its limit.

use super::drawing::Drawing;
use super::groups::{Groups, Sides};
use super::plot::WHOLE;
use super::record::{Comparison, Record};
use super::scale::Scale;
use super::section::{Section, Table};
use super::units::Unit;
use crate::report::numbers::{factor, or_nothing};

const LINE: f64 = 44.0;
const NAMES: f64 = 250.0;
const FIGURES: f64 = 180.0;

pub(super) fn section(record: &Record, groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "comparisons",
        title: "Comparisons",
        intro: "The ratio of two subjects, or of one under two conditions, one pair of trials from each block: the point is the geometric mean, the \
                line where it lies with 95 % confidence, the shaded part what the scenario allows. A ratio is kept \
                when all of its line is in there.",
        ..Section::default()
    };
    if record.comparisons.is_empty() {
        let why =
            "No comparison: the scenario asks for none between subjects of this run ([[expect.ratio]]).";
        section.notes.push(why.to_owned());
        return section;
    }
    if record.comparisons.iter().any(|comparison| comparison.ratio.is_some()) {
        section.drawings.push(drawing(record, groups));
    } else {
        section.notes.push("No drawing: no comparison has a pair of trials that say something.".to_owned());
    }
    section.tables.push(table(record, groups));
    section
}

fn drawing(record: &Record, groups: &Groups<'_>) -> Drawing {
    let comparisons = &record.comparisons;
    let values = comparisons.iter().flat_map(|comparison| {
        let interval = comparison.interval().into_iter().flatten();
        interval.chain(comparison.ratio).chain(comparison.at_most)
    });
    let [left, right] = [NAMES, WHOLE - FIGURES];
    let x = Scale::by_factors(values.chain([1.0]), [left, right]);
    let bottom = 22.0 + LINE * comparisons.len() as f64;
    let title = "Ratios with their 95 % intervals".to_owned();
    let description = "The numbers are in the table of comparisons.".to_owned();
    let mut drawing = Drawing::new(title, description, [WHOLE, bottom + 38.0]);
    drawing.horizontal_axis(&x, [18.0, bottom]);
    let middle = f64::midpoint(left, right);
    drawing.text("name middle", [middle, bottom + 34.0], "ratio (logarithmic); less is better", usize::MAX);
    drawing.line("same", [x.at(1.0), 18.0], [x.at(1.0), bottom]);
    drawing.text("tick middle", [x.at(1.0), 12.0], "equal", usize::MAX);
    for (i, comparison) in comparisons.iter().enumerate() {
        draw(&mut drawing, comparison, &groups.sides(comparison), &x, 22.0 + LINE * (i as f64 + 0.5));
    }
    drawing
}

fn draw(drawing: &mut Drawing, comparison: &Comparison, sides: &Sides, x: &Scale, middle: f64) {
    let Comparison { metric, ratio, at_most, .. } = comparison;
    let Sides { of, to, condition } = sides;
    drawing.text("label", [0.0, middle - 3.0], &format!("{metric}: {of} to {to}"), 36);
    drawing.text("tick", [0.0, middle + 12.0], condition, 40);
    let verdict = or_nothing(comparison.verdict, |verdict| verdict.to_string());
    if let Some(limit) = at_most {
        let size = [x.at(*limit) - NAMES, LINE - 12.0];
        drawing.bar("allowed", [NAMES, middle - size[1] / 2.0], size, format!("at most {limit}"));
        let [top, bottom] = [middle - size[1] / 2.0, middle + size[1] / 2.0];
        drawing.line("limit", [x.at(*limit), top], [x.at(*limit), bottom]);
    }
    let class = comparison.verdict.map_or_else(|| "reported".to_owned(), |verdict| verdict.to_string());
    if let Some([low, high]) = comparison.interval() {
        let class = format!("interval {class}");
        drawing.line(&class, [x.at(low), middle], [x.at(high), middle]);
        for end in [low, high] {
            drawing.line(&class, [x.at(end), middle - 5.0], [x.at(end), middle + 5.0]);
        }
    }
    if let Some(ratio) = ratio {
        let size = [8.0, 8.0];
        drawing.bar(&format!("mean {class}"), [x.at(*ratio) - 4.0, middle - 4.0], size, factor(*ratio));
    }
    let figures = WHOLE - FIGURES + 14.0;
    let shown = or_nothing(*ratio, factor);
    let interval = comparison.interval().map(|[low, high]| format!(" ({} to {})", factor(low), factor(high)));
    drawing.text("figure", [figures, middle - 3.0], &format!("{shown}{}", interval.unwrap_or_default()), 32);
    let judged =
        at_most.map_or_else(|| "only reported".to_owned(), |limit| format!("at most {limit}: {verdict}"));
    drawing.text("tick", [figures, middle + 12.0], &judged, 32);
}

fn table(record: &Record, groups: &Groups<'_>) -> Table {
    let heads = [
        ("metric", false),
        ("of", false),
        ("to", false),
        ("condition", false),
        ("of median", true),
        ("to median", true),
        ("pairs", true),
        ("ratio", true),
        ("95 % interval", true),
        ("at most", true),
        ("verdict", false),
    ];
    let mut table = Table::new("Comparisons", &heads);
    for comparison in &record.comparisons {
        let unit = Unit::of(&comparison.metric);
        let Sides { of, to, condition } = groups.sides(comparison);
        let row = table.push([
            comparison.metric.clone(),
            of,
            to,
            condition,
            or_nothing(comparison.of_median, unit.show),
            or_nothing(comparison.to_median, unit.show),
            format!("{} of {}", comparison.pairs, comparison.pairs.saturating_add(comparison.left_out)),
            or_nothing(comparison.ratio, factor),
            or_nothing(comparison.interval(), |[low, high]| format!("{} to {}", factor(low), factor(high))),
            or_nothing(comparison.at_most, |limit| limit.to_string()),
            comparison.verdict.map_or_else(|| "only reported".to_owned(), |verdict| verdict.to_string()),
        ]);
        if let Some(verdict) = comparison.verdict {
            row.mark(heads.len() - 1, verdict);
        }
        row.notes.clone_from(&comparison.reasons);
    }
    table
}
