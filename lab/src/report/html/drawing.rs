//! A drawing: what stands where. Colours and lines are the style sheet's, so that a drawing fits a light page, a dark
//! one and paper.

use super::scale::{Scale, label};
use crate::verdict::Verdict;

/// A picture with its title, in a system of its own with the origin at the top left.
#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) title: String,
    /// What it shows, for those who do not see it.
    pub(super) description: String,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) marks: Vec<Mark>,
    /// What the reader should know besides.
    pub(super) notes: Vec<String>,
}

/// One thing in a drawing. Later ones lie upon earlier ones.
#[derive(Debug)]
pub(super) enum Mark {
    Line { class: String, from: [f64; 2], to: [f64; 2] },
    Bar { class: String, corner: [f64; 2], size: [f64; 2], tip: String },
    Curve { class: String, points: String, tip: String },
    Text { class: &'static str, at: [f64; 2], text: String, tip: String },
    Point { class: String, shape: String, at: [f64; 2], tip: String },
}

impl Drawing {
    pub(super) fn new(title: String, description: String, [width, height]: [f64; 2]) -> Self {
        Self { title, description, width, height, marks: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        self.marks.push(Mark::Line { class: class.to_owned(), from: round(from), to: round(to) });
    }

    pub(super) fn bar(&mut self, class: &str, corner: [f64; 2], size: [f64; 2], tip: String) {
        let size = size.map(|length| length.max(0.0));
        self.marks.push(Mark::Bar { class: class.to_owned(), corner: round(corner), size: round(size), tip });
    }

    /// A line through `points`.
    pub(super) fn curve(&mut self, class: String, points: &[[f64; 2]], tip: String) {
        let points = points.iter().map(|point| round(*point)).map(|[x, y]| format!("{x},{y}"));
        let points = points.collect::<Vec<_>>().join(" ");
        self.marks.push(Mark::Curve { class, points, tip });
    }

    /// Text, which ends in an ellipsis when it is longer than `most` characters.
    pub(super) fn text(&mut self, class: &'static str, at: [f64; 2], text: &str, most: usize) {
        let short = shortened(text, most);
        let tip = if short == text { String::new() } else { text.to_owned() };
        self.marks.push(Mark::Text { class, at: round(at), text: short, tip });
    }

    /// A trial; its shape tells its verdict.
    pub(super) fn point(&mut self, class: &str, verdict: Verdict, at: [f64; 2], tip: String) {
        let shape = verdict.to_string();
        self.marks.push(Mark::Point { class: class.to_owned(), shape, at: round(at), tip });
    }

    /// Ticks of a horizontal axis, with lines from `top` to `bottom` and their values beneath.
    pub(super) fn horizontal_axis(&mut self, scale: &Scale, [top, bottom]: [f64; 2]) {
        for tick in apart(scale) {
            let x = scale.at(tick);
            self.line("grid", [x, top], [x, bottom]);
            self.text("tick middle", [x, bottom + 15.0], &label(tick), usize::MAX);
        }
    }

    /// Ticks of a vertical axis, with lines from `left` to `right` and their values on the left.
    pub(super) fn vertical_axis(&mut self, scale: &Scale, [left, right]: [f64; 2]) {
        for tick in scale.ticks() {
            let y = scale.at(tick);
            self.line("grid", [left, y], [right, y]);
            self.text("tick end", [left - 6.0, y + 4.0], &label(tick), usize::MAX);
        }
    }
}

/// How wide a digit of a tick is, and what is free between two of them.
const DIGIT: f64 = 6.5;
const BETWEEN: f64 = 8.0;

/// The ticks of a horizontal axis whose values have room beside each other.
fn apart(scale: &Scale) -> Vec<f64> {
    let ticks = scale.ticks();
    let widest = ticks.iter().map(|tick| label(*tick).chars().count()).max().unwrap_or(0) as f64;
    let gaps = ticks.windows(2).map(|pair| (scale.at(pair[1]) - scale.at(pair[0])).abs());
    let narrowest = gaps.fold(f64::INFINITY, f64::min).max(1.0);
    let every = ((widest * DIGIT + BETWEEN) / narrowest).ceil().max(1.0);
    ticks.into_iter().step_by(every as usize).collect()
}

/// To a tenth: nobody sees more, and the file is smaller.
fn round(point: [f64; 2]) -> [f64; 2] {
    point.map(|number| (number * 10.0).round() / 10.0)
}

/// `text` in one line of at most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    let kept: String = line.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beneath_an_axis_do_not_touch() {
        let ticks = |places| apart(&Scale::from_zero([25_000.0], places)).len();
        assert_eq!((ticks([0.0, 600.0]), ticks([0.0, 200.0]), ticks([0.0, 1.0])), (6, 3, 1));
    }

    #[test]
    fn long_text_is_cut_and_kept_as_a_tip() {
        let mut drawing = Drawing::new(String::new(), String::new(), [1.0, 1.0]);
        drawing.text("", [0.04, 0.06], "one two three", 7);
        drawing.text("", [0.0, 0.0], "ünïcödé", 7);
        let texts = drawing.marks.iter().map(|mark| match mark {
            Mark::Text { text, tip, at, .. } => (text.as_str(), tip.as_str(), *at),
            _ => panic!("only texts"),
        });
        let expected = [("one tw…", "one two three", [0.0, 0.1]), ("ünïcödé", "", [0.0, 0.0])];
        assert_eq!(texts.collect::<Vec<_>>(), expected);
    }
}
