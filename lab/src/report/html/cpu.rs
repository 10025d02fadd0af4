//! CPU time per datagram: every trial, and the median of those that say something.

use super::condition::Condition;
use super::groups::{Group, Groups};
use super::plot::{Line, Rows, rows};
use super::record::Trial;
use super::section::Section;
use super::units::Unit;
use crate::statistics::median;

/// What there is to show.
const METRICS: [(&str, &str); 2] = [
    ("relay-cpu", "CPU time of the subject per datagram"),
    ("system-cpu", "CPU time of the whole machine per datagram, less that over the direct wire"),
];

pub(super) fn section(groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "cpu",
        title: "CPU time per datagram",
        intro: "Each point is a trial, each bar the median of those that count. Less is better.",
        has_legend: true,
        ..Section::default()
    };
    for (metric, title) in METRICS {
        let unit = Unit::of(metric);
        let charts: Vec<_> =
            groups.conditions.iter().map(|condition| chart(groups, *condition, metric)).collect();
        if charts.iter().all(|chart| chart.rows.iter().all(|line| line.points.is_empty())) {
            section.notes.push(format!("No trial measured this: {title}."));
            continue;
        }
        let description = charts.iter().map(describe).collect::<Vec<_>>().join("; ");
        let name = format!("{} per datagram", unit.name);
        section.drawings.push(rows((title.to_owned(), description), (&name, unit.show), &charts));
    }
    section
}

fn chart<'a>(groups: &'a Groups<'a>, condition: Condition<'a>, metric: &str) -> Rows<'a> {
    let rows = groups.under(condition).map(|group| line(groups, group, metric)).collect();
    Rows { head: groups.name(condition), rows }
}

fn line<'a>(groups: &Groups<'a>, group: &Group<'a>, metric: &str) -> Line<'a> {
    let reading = |trial: &&'a Trial| trial.reading(metric).map(|value| (value, *trial));
    let bar = median(group.conclusive().filter_map(|trial| trial.reading(metric)));
    Line {
        name: group.subject,
        style: groups.style(group.subject),
        points: group.trials.iter().filter_map(reading).collect(),
        bar,
        shown: bar.map_or_else(|| "no trial that counts".to_owned(), Unit::of(metric).show),
    }
}

/// The medians, for those who do not see the drawing.
fn describe(chart: &Rows<'_>) -> String {
    let medians = chart.rows.iter().map(|line| format!("{} {}", line.name, line.shown));
    format!("{}: {}", chart.head, medians.collect::<Vec<_>>().join(", "))
}
