//! Counters as people and programs read them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::inputs::Input;
use crate::rules::Rule;
use crate::stats::{Cause, Counters, Named, OutputStats, RuleCounters, RuleStats, Stats};

/// How reports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Table,
    /// One line of JSON, of the type [`Stats`].
    Json,
}

/// Puts together what worker and kernel have counted. Everything is read from the last count to the first, so that what
/// goes on meanwhile is missing in a later one, never in excess of an earlier one.
pub(super) fn collect(rules: &[Rule], counters: &Counters, inputs: &mut [Input]) -> Stats {
    let rules: Vec<_> =
        rules.iter().zip(&counters.rules).map(|(rule, counts)| rule_stats(rule, counts)).collect();
    let dropped = counters.dropped.report();
    let inputs: Vec<_> =
        inputs.iter_mut().zip(&counters.inputs).map(|(input, counts)| input.stats(counts)).collect();
    Stats {
        received: inputs.iter().map(|input| input.received).sum(),
        matched: rules.iter().map(|rule| rule.matched).sum(),
        dropped,
        relayed: rules.iter().flat_map(|rule| &rule.outputs).map(|output| output.relayed).sum(),
        inputs,
        rules,
    }
}

fn rule_stats(rule: &Rule, counts: &RuleCounters) -> RuleStats {
    let outputs = rule.outputs.iter().zip(&counts.outputs).map(|(output, counts)| OutputStats {
        destination: output.to_string(),
        relayed: counts.relayed.get(),
        bytes: counts.bytes.get(),
        dropped: counts.dropped.report(),
    });
    let outputs = outputs.collect();
    RuleStats { name: rule.name.clone(), matched: counts.matched.get(), bytes: counts.bytes.get(), outputs }
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
    let mut inputs = table(&["input", "captured", "dropped by kernel", "queued", "received", "went down"], 1);
    for input in &stats.inputs {
        let counts = [input.captured, input.dropped, input.queued(), input.received, input.went_down];
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

/// What went wrong between two reports, a sentence for each place: for the log.
pub(super) fn losses(before: &Stats, after: &Stats) -> Vec<String> {
    let mut losses = Vec::new();
    for input in &after.inputs {
        let earlier = before.inputs.iter().find(|earlier| earlier.interface == input.interface);
        let interface = &input.interface;
        let lost = input.dropped.saturating_sub(earlier.map_or(0, |earlier| earlier.dropped));
        if lost > 0 {
            losses
                .push(format!("{interface}: the kernel dropped {lost} frames, the receive buffer was full"));
        }
        let downs = input.went_down.saturating_sub(earlier.map_or(0, |earlier| earlier.went_down));
        if downs > 0 {
            losses.push(format!("{interface} went down {downs} times; if it was deleted, restart the relay"));
        }
    }
    for (name, lost) in
        since(&before.dropped, &after.dropped).filter(|(name, _)| *name != Cause::NoRule.name())
    {
        let remedy =
            if name == Cause::Coalesced.name() { ": turn off GRO and UDP segmentation offload" } else { "" };
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
        let counters = Counters::new(0, [1]);
        counters.dropped.add(Cause::NoRule, 3);
        for _ in 0..7 + refused {
            counters.matched(0, 100);
        }
        counters.rules[0].outputs[0].relayed.add(7);
        counters.rules[0].outputs[0].dropped.add(SendFailure::Refused, refused);
        let mut stats = collect(&rules, &counters, &mut []);
        let (received, dropped) = (10 + refused, kernel_dropped);
        let interface = "eth0".into();
        stats.received = received;
        stats.inputs =
            vec![InputStats { interface, captured: received + dropped, dropped, received, went_down: 0 }];
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
        for part in ["eth0", "2 (refused 2)", sum] {
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
            "went down 1 times",
            "6 frames as coalesced: turn off GRO",
            "1 datagrams: refused",
        ];
        assert_eq!(losses.len(), parts.len(), "{losses:?}");
        for (loss, part) in losses.iter().zip(parts) {
            assert!(loss.contains(part), "{loss} does not contain {part}");
        }
    }
}
