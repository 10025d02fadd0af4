//! Counters as people and programs read them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::inputs::Input;
use crate::rules::{Output, Rule};
use crate::stats::{Cause, Counters, Named, OutputStats, RuleStats, Stats, WorkerStats};

/// How reports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Table,
    /// One line of JSON, of the type [`Stats`].
    Json,
}

/// Puts together what workers and kernel have counted. Everything is read from the last count to the first, so that
/// what goes on meanwhile is missing in a later one, never in excess of an earlier one.
pub(super) fn collect(path: &str, rules: &[Rule], counters: &[Arc<Counters>], inputs: &mut [Input]) -> Stats {
    let rules: Vec<_> = rules.iter().enumerate().map(|(i, rule)| rule_stats(rule, i, counters)).collect();
    let mut dropped = BTreeMap::new();
    for (name, count) in counters.iter().flat_map(|counters| counters.dropped.report()) {
        *dropped.entry(name).or_default() += count;
    }
    let workers = counters.iter().map(|counters| worker_stats(counters)).collect();
    let of_input = |i: usize| counters.iter().filter_map(move |counters| counters.inputs.get(i));
    let inputs: Vec<_> = inputs.iter_mut().enumerate().map(|(i, input)| input.stats(of_input(i))).collect();
    Stats {
        rx: path.to_owned(),
        workers,
        received: inputs.iter().map(|input| input.received).sum(),
        matched: rules.iter().map(|rule| rule.matched).sum(),
        dropped,
        relayed: rules.iter().flat_map(|rule| &rule.outputs).map(|output| output.relayed).sum(),
        inputs,
        rules,
    }
}

fn worker_stats(counters: &Counters) -> WorkerStats {
    let matched = counters.rules.iter().map(|rule| rule.matched.get()).sum();
    let received = counters.inputs.iter().map(|input| input.received.get()).sum();
    WorkerStats { received, matched }
}

/// The sum over the workers of what they counted for the rule at place `place`.
fn rule_stats(rule: &Rule, place: usize, counters: &[Arc<Counters>]) -> RuleStats {
    let counts: Vec<_> = counters.iter().filter_map(|counters| counters.rules.get(place)).collect();
    let output_stats = |(i, output): (usize, &Output)| {
        let mut stats = OutputStats { destination: output.to_string(), ..OutputStats::default() };
        for counts in counts.iter().filter_map(|counts| counts.outputs.get(i)) {
            stats.relayed += counts.relayed.get();
            stats.bytes += counts.bytes.get();
            for (name, count) in counts.dropped.report() {
                *stats.dropped.entry(name).or_default() += count;
            }
        }
        stats
    };
    let outputs = rule.outputs.iter().enumerate().map(output_stats).collect();
    let (matched, bytes) = counts.iter().fold((0, 0), |(matched, bytes), counts| {
        (matched + counts.matched.get(), bytes + counts.bytes.get())
    });
    RuleStats { name: rule.name.clone(), matched, bytes, outputs }
}

/// Writes a report to `to`.
pub(super) fn write(stats: &Stats, format: Format, to: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Json => writeln!(to, "{}", serde_json::to_string(stats)?),
        Format::Table => write_table(stats, to),
    }?;
    to.flush()
}

fn write_table(stats: &Stats, to: &mut impl Write) -> io::Result<()> {
    let header = [
        "input",
        "foreign",
        "captured",
        "dropped by kernel",
        "ring full",
        "queued",
        "frames",
        "received",
        "consumed",
        "went down",
    ];
    let mut inputs = table(&header, 1);
    for input in &stats.inputs {
        let counts = [
            input.foreign,
            input.captured,
            input.dropped,
            input.freezes,
            input.queued(),
            input.frames,
            input.received,
            input.consumed,
            input.went_down,
        ];
        let counts = counts.map(|count| count.to_string());
        inputs.add_row(std::iter::once(&input.interface).chain(&counts));
    }
    let mut rules = table(&["rule", "output", "matched", "relayed", "bytes", "dropped"], 2);
    for (rule, output) in stats.outputs() {
        rules.add_row([
            rule.name.clone(),
            output.destination.clone(),
            rule.matched.to_string(),
            output.relayed.to_string(),
            output.bytes.to_string(),
            by_name(&output.dropped),
        ]);
    }
    let Stats { received, matched, relayed, .. } = stats;
    let (dropped, under_way) = (by_name(&stats.dropped), stats.under_way());
    writeln!(to, "{inputs}\n\n{rules}\n")?;
    let workers: Vec<_> = stats.workers.iter().map(|worker| worker.received.to_string()).collect();
    writeln!(to, "received by {}, by worker: {}", stats.rx, workers.join(" + "))?;
    writeln!(
        to,
        "received {received} = matched {matched} + dropped {dropped} + under way {under_way}; relayed {relayed}"
    )?;
    match stats.consistent() {
        Ok(()) => Ok(()),
        Err(imbalance) => writeln!(to, "the counts do not add up, please report it: {imbalance}"),
    }
}

/// A table whose columns from `numbers` on are numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn by_name(counts: &BTreeMap<String, u64>) -> String {
    match counts.values().sum::<u64>() {
        0 => "0".to_owned(),
        total => {
            let parts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            format!("{total} ({})", parts.join(", "))
        }
    }
}

/// `once`, `2 times`.
fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// What went wrong between two reports, a sentence for each place: for the log.
pub(super) fn losses(before: &Stats, after: &Stats) -> Vec<String> {
    let mut losses = Vec::new();
    for input in &after.inputs {
        let earlier = before.inputs.iter().find(|earlier| earlier.interface == input.interface);
        let interface = &input.interface;
        let lost = input.dropped.saturating_sub(earlier.map_or(0, |earlier| earlier.dropped));
        if lost > 0 {
            losses.push(format!(
                "{interface}: the kernel dropped {lost} frames: the receive buffer or ring was full, or it could not describe them"
            ));
        }
        let downs = input.went_down.saturating_sub(earlier.map_or(0, |earlier| earlier.went_down));
        if downs > 0 {
            losses.push(format!(
                "{interface} went down {}; if it was deleted, restart the relay",
                times(downs)
            ));
        }
    }
    for (name, lost) in
        since(&before.dropped, &after.dropped).filter(|(name, _)| *name != Cause::NoRule.name())
    {
        let remedy = if name == Cause::Coalesced.name() {
            ": turn off GRO and UDP segmentation offload, or run Linux 6.2 or later"
        } else {
            ""
        };
        losses.push(format!("dropped {lost} frames as {name}{remedy}"));
    }
    let empty = BTreeMap::new();
    let mut earlier = before.outputs().map(|(_, output)| &output.dropped);
    for (rule, output) in after.outputs() {
        for (name, lost) in since(earlier.next().unwrap_or(&empty), &output.dropped) {
            losses.push(format!(
                "rule \"{}\": {} dropped {lost} datagrams: {name}",
                rule.name, output.destination
            ));
        }
    }
    losses
}

/// By how much each count has grown, if it has.
fn since<'a>(
    before: &BTreeMap<String, u64>,
    after: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a str, u64)> {
    let grown =
        after.iter().map(|(name, count)| (name.as_str(), count - before.get(name).unwrap_or(&0).min(count)));
    grown.filter(|(_, growth)| *growth > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{InputStats, SendFailure};

    fn stats(refused: u64, kernel_dropped: u64) -> Stats {
        let rules: [Rule; 1] = ["eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap()];
        let counters = [1, 2].map(|_| Arc::new(Counters::new(1, [1])));
        let [one, other] = &counters;
        one.dropped.add(Cause::NoRule, 3);
        (0..3).for_each(|_| one.received(0, 1));
        for _ in 0..7 + refused {
            other.received(0, 1);
            other.matched(0, 1, 100);
        }
        other.rules[0].outputs[0].relayed.add(7);
        other.rules[0].outputs[0].dropped.add(SendFailure::Refused, refused);
        let mut stats = collect("recv", &rules, &counters, &mut []);
        let (received, dropped) = (10 + refused, kernel_dropped);
        let interface = "eth0".into();
        stats.received = received;
        let captured = received + dropped;
        let frames = received;
        stats.inputs =
            vec![InputStats { interface, captured, dropped, frames, received, ..InputStats::default() }];
        stats
    }

    #[test]
    fn json_is_read_back_as_it_was() {
        let stats = stats(2, 5);
        stats.balance().unwrap();
        let mut line = Vec::new();
        write(&stats, Format::Json, &mut line).unwrap();
        assert_eq!(line.split_inclusive(|byte| *byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Stats>(&line).unwrap(), stats);
    }

    #[test]
    fn the_table_names_every_drop() {
        let mut text = Vec::new();
        write(&stats(2, 5), Format::Table, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let sum = "received 12 = matched 9 + dropped 3 (no_rule 3) + under way 0; relayed 7";
        for part in ["eth0", "2 (refused 2)", sum, "received by recv, by worker: 3 + 9"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("do not add up"), "{text}");
    }

    #[test]
    fn losses_are_those_since_the_last_report() {
        let before = stats(2, 5);
        assert_eq!(losses(&before, &before), Vec::<String>::new());
        let mut after = stats(3, 9);
        after.inputs[0].went_down = 1;
        after.dropped.extend([("coalesced".to_owned(), 6), ("no_rule".to_owned(), 99)]);
        let losses = losses(&before, &after);
        let parts = [
            "dropped 4 frames",
            "went down once",
            "6 frames as coalesced: turn off GRO",
            "1 datagrams: refused",
        ];
        assert_eq!(losses.len(), parts.len(), "{losses:?}");
        for (loss, part) in losses.iter().zip(parts) {
            assert!(loss.contains(part), "{loss} does not contain {part}");
        }
    }
}
