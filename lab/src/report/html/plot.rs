//! The two forms that most drawings have: curves over two axes, and rows of points along one.

use super::drawing::Drawing;
use super::record::Trial;
use super::scale::Scale;

/// Width of a drawing that has the page for itself, and of one that shares it with another.
pub(super) const WHOLE: f64 = 860.0;
const HALF: f64 = 420.0;
const HEIGHT: f64 = 270.0;
/// How a text is set that names an axis.
const AXIS_NAME: &str = "name";

/// Where the curves are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) right: f64,
    top: f64,
    bottom: f64,
}

impl Area {
    /// In a drawing that is one of so many.
    pub(super) fn one_of(count: usize) -> Self {
        let width = if count > 1 { HALF } else { WHOLE };
        Self { left: 62.0, right: width - 16.0, top: 26.0, bottom: HEIGHT - 42.0 }
    }

    /// From low to high.
    pub(super) fn upwards(&self) -> [f64; 2] {
        [self.bottom, self.top]
    }

    /// A drawing with axes around the area: ticks along the horizontal one with their names, and a scale upwards.
    pub(super) fn draw(
        &self,
        (title, description): (String, String),
        (x_name, x_ticks): (&str, &[(f64, String)]),
        (y_name, y): (&str, &Scale),
    ) -> Drawing {
        let Self { left, right, top, bottom } = *self;
        let mut drawing = Drawing::new(title, description, [right + 16.0, HEIGHT]);
        drawing.vertical_axis(y, [left, right]);
        for (x, name) in x_ticks {
            drawing.line("grid", [*x, top], [*x, bottom]);
            drawing.text("tick middle", [*x, bottom + 16.0], name, usize::MAX);
        }
        drawing.line("axis", [left, bottom], [right, bottom]);
        drawing.text(AXIS_NAME, [6.0, 12.0], y_name, usize::MAX);
        drawing.text("name middle", [f64::midpoint(left, right), HEIGHT - 6.0], x_name, usize::MAX);
        drawing
    }
}

/// Rows of points under one head.
pub(super) struct Rows<'a> {
    pub(super) head: String,
    pub(super) rows: Vec<Line<'a>>,
}

/// A row: every trial as a point, what is in the middle of them as a bar.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) style: String,
    pub(super) points: Vec<(f64, &'a Trial)>,
    pub(super) bar: Option<f64>,
    /// What the bar amounts to, or why there is none.
    pub(super) shown: String,
}

const LINE: f64 = 26.0;
const NAMES: f64 = 190.0;
const FIGURES: f64 = 150.0;
/// How far the points of a row lie apart vertically, so that equal ones are seen, and over how much in all.
const SPREAD: [f64; 2] = [4.0, 14.0];

/// Rows of points along an axis from zero.
pub(super) fn rows(
    (title, description): (String, String),
    (x_name, show): (&str, fn(f64) -> String),
    groups: &[Rows<'_>],
) -> Drawing {
    let lines = || groups.iter().flat_map(|group| &group.rows);
    let values = lines().flat_map(|line| line.points.iter().map(|(value, _)| *value).chain(line.bar));
    let x = Scale::from_zero(values, [NAMES, WHOLE - FIGURES]);
    let bottom = 8.0 + LINE * (groups.len() + lines().count()) as f64;
    let mut drawing = Drawing::new(title, description, [WHOLE, bottom + 40.0]);
    drawing.horizontal_axis(&x, [8.0, bottom]);
    drawing.text("name middle", [f64::midpoint(NAMES, WHOLE - FIGURES), bottom + 34.0], x_name, usize::MAX);
    let mut top = 8.0;
    for group in groups {
        drawing.text("head", [0.0, top + 18.0], &group.head, 30);
        top += LINE;
        for line in &group.rows {
            draw_line(&mut drawing, line, &x, top + LINE / 2.0, show);
            top += LINE;
        }
    }
    drawing.line("axis", [NAMES, 8.0], [NAMES, bottom]);
    drawing
}

fn draw_line(drawing: &mut Drawing, line: &Line<'_>, x: &Scale, middle: f64, show: fn(f64) -> String) {
    let Line { name, style, points, bar, shown } = line;
    drawing.text("label end", [NAMES - 8.0, middle + 4.0], name, 26);
    if let Some(value) = bar {
        let size = [x.at(*value) - NAMES, LINE - 8.0];
        let tip = format!("median {}", show(*value));
        drawing.bar(&format!("median {style}"), [NAMES, middle - size[1] / 2.0], size, tip);
        drawing.line(&format!("mark {style}"), [x.at(*value), middle - 9.0], [x.at(*value), middle + 9.0]);
    }
    let step = SPREAD[0].min(SPREAD[1] / points.len().max(1) as f64);
    for (i, (value, trial)) in points.iter().enumerate() {
        let y = middle + step * (i as f64 - (points.len() - 1) as f64 / 2.0);
        drawing.point(style, trial.verdict, [x.at(*value), y], tip(trial, &show(*value)));
    }
    drawing.text("figure", [WHOLE - FIGURES + 14.0, middle + 4.0], shown, 24);
}

/// What a point says of its trial.
pub(super) fn tip(trial: &Trial, value: &str) -> String {
    format!("{}, {}: {value}, {}", trial.subject, trial.turn(), trial.verdict)
}
