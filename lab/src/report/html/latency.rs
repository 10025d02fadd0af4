//! Latency by percentile.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use super::condition::Condition;
use super::drawing::Drawing;
use super::groups::{Group, Groups};
use super::plot::{Area, tip};
use super::record::Trial;
use super::scale::Scale;
use super::section::Section;
use super::units::{Unit, many};
use crate::datagram::STAMPED_BYTES;
use crate::statistics::median;

/// How many percentiles are drawn between one of the named ones and the next.
const STEPS: i32 = 8;
/// How far the tail goes: nobody offers 10^9 datagrams.
const MOST: i32 = 9 * STEPS;
/// What stands along the axis.
const NAMES: [&str; 10] = ["0", "90", "99", "99.9", "99.99", "99.999", "99.9999", "10⁻⁷", "10⁻⁸", "10⁻⁹"];
/// Length of the header of a histogram: cookie, length of what follows, and five more words (`HdrHistogram`, V2).
const HEADER: usize = 40;

pub(super) fn section(groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "latency",
        title: "Latency by percentile",
        intro: "Thin lines are trials; a thick line is at each percentile the median of those that count. Dotted \
                lines are trials that do not count. Both axes are logarithmic: one line further right is ten times \
                rarer.",
        has_legend: true,
        ..Section::default()
    };
    let curves = |condition: &Condition<'_>| {
        let curve = |trial: &&Trial| Some(curve_of(&histogram(&trial.latency_ns.as_ref()?.hdr)?));
        let of_group =
            |group: &Group<'_>| group.trials.iter().map(|trial| curve(trial).unwrap_or_default()).collect();
        groups.under(*condition).map(of_group).collect::<Vec<Vec<_>>>()
    };
    let all: Vec<_> = groups.conditions.iter().map(|condition| (*condition, curves(condition))).collect();
    let is_drawn = |curves: &Vec<Vec<Vec<f64>>>| curves.iter().flatten().any(|curve| !curve.is_empty());
    let count = all.iter().filter(|(_, curves)| is_drawn(curves)).count();
    for (condition, curves) in &all {
        if is_drawn(curves) {
            section.drawings.push(drawing(groups, *condition, curves, count));
        } else {
            section.notes.push(why_none(groups, *condition));
        }
    }
    if all.is_empty() {
        section.notes.push("No trial was held.".to_owned());
    }
    section
}

fn why_none(groups: &Groups<'_>, condition: Condition<'_>) -> String {
    let name = groups.name(condition);
    let mut trials = groups.under(condition).flat_map(|group| &group.trials);
    if condition.payload_bytes < STAMPED_BYTES as u64 {
        format!("{name}: no drawing, because payloads under {STAMPED_BYTES} bytes have no room for a time.")
    } else if trials.any(|trial| trial.latency_ns.is_some()) {
        format!("{name}: no drawing, because no distribution in the file can be read.")
    } else {
        format!("{name}: no drawing, because no trial measured a latency.")
    }
}

/// The histogram in the file, unless it is damaged.
fn histogram(text: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(text).ok()?;
    let length = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    // The decoder makes room for as much as the header says there is.
    let is_whole = bytes.len().checked_sub(HEADER) == Some(length as usize);
    if is_whole { Deserializer::new().deserialize(&mut Cursor::new(bytes)).ok() } else { None }
}

/// In microseconds, from the smallest latency on, at percentiles that are evenly spread along the axis, as far as
/// there are datagrams to tell them apart.
fn curve_of(histogram: &Histogram<u64>) -> Vec<f64> {
    let rarest = 1.0 / histogram.len().max(1) as f64;
    let rarities = (0..=MOST).map(rarity).take_while(|rarity| *rarity >= rarest * 0.999);
    rarities.map(|rarity| histogram.value_at_quantile(1.0 - rarity) as f64 / 1_000.0).collect()
}

fn rarity(step: i32) -> f64 {
    10_f64.powf(-f64::from(step) / f64::from(STEPS))
}

fn drawing(groups: &Groups<'_>, condition: Condition<'_>, curves: &[Vec<Vec<f64>>], count: usize) -> Drawing {
    let area = Area::one_of(count);
    let longest = curves.iter().flatten().map(Vec::len).max().unwrap_or(0).max(2);
    let x = Scale::between([0.0, (longest - 1) as f64], [area.left, area.right]);
    let y = Scale::by_factors(curves.iter().flatten().flatten().copied(), area.upwards());
    let ticks = NAMES.iter().zip((0..longest).step_by(STEPS as usize));
    let ticks: Vec<_> = ticks.map(|(name, step)| (x.at(step as f64), (*name).to_owned())).collect();
    let members: Vec<_> = groups.under(condition).collect();
    let description = members.iter().map(|group| describe(group)).collect::<Vec<_>>().join("; ");
    let texts = (groups.name(condition), description);
    let mut drawing = area.draw(texts, ("percentile", &ticks), ("latency, µs", &y));
    let place = |(step, value): (usize, &f64)| [x.at(step as f64), y.at(*value)];
    let mut unread = 0;
    for (group, curves) in members.iter().zip(curves) {
        let style = groups.style(group.subject);
        for (trial, curve) in group.trials.iter().zip(curves) {
            unread += usize::from(curve.is_empty() && trial.latency_ns.is_some());
            let class = if trial.verdict.is_conclusive() { "thin" } else { "void" };
            let points: Vec<_> = curve.iter().enumerate().map(place).collect();
            let p99 = trial.reading("p99").map(Unit::of("p99").show).unwrap_or_default();
            drawing.curve(format!("{class} {style}"), &points, tip(trial, &format!("p99 {p99}")));
        }
        let middle = middle(group, curves);
        let points: Vec<_> = middle.iter().enumerate().map(place).collect();
        drawing.curve(format!("curve {style}"), &points, group.subject.to_owned());
    }
    if unread > 0 {
        drawing.notes.push(format!("The distribution of {} cannot be read.", many(unread, "trial")));
    }
    drawing
}

/// At each percentile the median of the trials that count, as far as all of them go.
fn middle(group: &Group<'_>, curves: &[Vec<f64>]) -> Vec<f64> {
    let counts = |trial: &Trial| {
        trial.verdict.is_conclusive() && group.last.iter().any(|last| std::ptr::eq(*last, trial))
    };
    let counting: Vec<_> = group
        .trials
        .iter()
        .zip(curves)
        .filter(|(trial, curve)| counts(trial) && !curve.is_empty())
        .map(|(_, curve)| curve)
        .collect();
    let shortest = counting.iter().map(|curve| curve.len()).min().unwrap_or(0);
    (0..shortest).filter_map(|step| median(counting.iter().map(|curve| curve[step]))).collect()
}

fn describe(group: &Group<'_>) -> String {
    let of = |metric| {
        let median = median(group.conclusive().filter_map(|trial| trial.reading(metric)));
        median.map_or_else(|| "-".to_owned(), Unit::of(metric).show)
    };
    format!("{}: median of p50 {}, of p99 {}, of p99.9 {}", group.subject, of("p50"), of("p99"), of("p999"))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer, V2Serializer};

    use super::*;

    fn encoded(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_curve_ends_where_single_datagrams_begin() {
        let curve = curve_of(&histogram(&STANDARD.encode(encoded((1..=1_000).map(|i| i * 1_000)))).unwrap());
        assert_eq!(curve.len(), 3 * STEPS as usize + 1);
        let named: Vec<_> = curve.iter().step_by(STEPS as usize).map(|micros| micros.round()).collect();
        assert_eq!(named, [1.0, 900.0, 990.0, 999.0].map(f64::round));
    }

    #[test]
    fn a_damaged_histogram_is_none() {
        let bytes = encoded([1, 2, 3]);
        let mut claims_much = bytes.clone();
        claims_much[4..8].copy_from_slice(&[0xff; 4]);
        let damaged = [STANDARD.encode(&bytes[..bytes.len() - 1]), STANDARD.encode(claims_much)];
        for text in damaged.iter().map(String::as_str).chain(["", "?", "AAAA"]) {
            assert!(histogram(text).is_none(), "{text}");
        }
    }
}
