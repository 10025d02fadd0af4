//! Counters as people and programs read them.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::book::{Book, LiveRule};
use super::relay::Relay;
use super::streams::Streams;
use crate::rules::Output;
use crate::stats::{
    Cause, Counters, Named, OutputStats, RemovedStats, RuleStats, SendFailure, Stats, WorkerStats,
};

/// How reports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Table,
    /// One line of JSON, of the type [`Stats`].
    Json,
}

impl Relay {
    /// Puts together what workers and kernel have counted. Everything is read from the last count to the first, so that
    /// what goes on meanwhile is missing in a later one, never in excess of an earlier one.
    pub(super) fn stats(&mut self) -> Stats {
        let counters = self.workers.counters();
        let rules = rules(&self.book, &self.streams, &counters);
        let mut dropped = BTreeMap::new();
        for (name, count) in counters.iter().flat_map(|counters| counters.dropped().report()) {
            *dropped.entry(name).or_default() += count;
        }
        let places: Vec<_> = self.inputs.values().map(|live| usize::from(live.input.place)).collect();
        let worker_stats = |counters: &&Counters| WorkerStats {
            matched: counters.total_matched(self.book.iter().map(|(place, _)| place as usize)),
            received: counters.total_received(places.iter().copied()),
        };
        let workers = counters.iter().map(worker_stats).collect();
        let mut inputs = self.past_inputs.clone();
        for (name, live) in &mut self.inputs {
            let stats = live.input.stats(&counters);
            inputs.entry(name.clone()).and_modify(|past| past.add(&stats)).or_insert(stats);
        }
        let inputs: Vec<_> = inputs.into_values().collect();
        let relayed: u64 = rules.iter().flat_map(|rule| &rule.outputs).map(|output| output.relayed).sum();
        let mut removed = RemovedStats::default();
        for counters in &counters {
            removed.add(&counters.removed());
        }
        Stats {
            rx: self.way.name().to_owned(),
            workers,
            received: inputs.iter().map(|input| input.received).sum(),
            matched: rules.iter().map(|rule| rule.matched).sum::<u64>() + removed.matched,
            dropped,
            relayed: relayed + removed.relayed,
            inputs,
            rules,
            removed,
        }
    }
}

/// What the workers have counted for each rule.
fn rules(book: &Book, streams: &Streams, counters: &[&Counters]) -> Vec<RuleStats> {
    let leg = |live: &LiveRule| streams.stats(live.rule.dedupe.as_ref()?, live.leg?);
    book.iter()
        .map(|(place, live)| RuleStats { leg: leg(live), ..rule_stats(place, live, counters) })
        .collect()
}

/// The sum over the workers of what they counted for the rule at `place`, its outputs first.
fn rule_stats(place: u32, live: &LiveRule, counters: &[&Counters]) -> RuleStats {
    let output_stats = |(to, place): (&Output, u32)| {
        let mut stats = OutputStats { destination: to.to_string(), ..OutputStats::default() };
        for output in counters.iter().filter_map(|counters| counters.output(place as usize)) {
            stats.relayed += output.relayed().get();
            stats.bytes += output.bytes().get();
            for (name, count) in output.dropped().report() {
                *stats.dropped.entry(name).or_default() += count;
            }
        }
        stats
    };
    let outputs = live.rule.outputs.iter().zip(live.counters()).map(output_stats).collect();
    let rules = counters.iter().filter_map(|counters| counters.rule(place as usize));
    let (matched, bytes) = rules
        .fold((0, 0), |(matched, bytes), rule| (matched + rule.matched().get(), bytes + rule.bytes().get()));
    RuleStats { name: live.rule.name.clone(), matched, bytes, outputs, leg: None }
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
        "abandoned",
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
            input.abandoned,
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
    stats.legs().try_for_each(|leg| writeln!(to, "{leg}"))?;
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
        let abandoned = input.abandoned.saturating_sub(earlier.map_or(0, |earlier| earlier.abandoned));
        if abandoned > 0 {
            losses.push(format!(
                "{interface}: {abandoned} frames were lost with a worker that died over them, or with the interface"
            ));
        }
        let downs = input.went_down.saturating_sub(earlier.map_or(0, |earlier| earlier.went_down));
        if downs > 0 {
            losses.push(format!("{interface} went down {}", times(downs)));
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
    let earlier: HashMap<_, _> = before
        .outputs()
        .map(|(rule, output)| ((rule.name.as_str(), output.destination.as_str()), &output.dropped))
        .collect();
    for (rule, output) in after.outputs().filter(|(_, output)| !output.dropped.is_empty()) {
        let earlier = earlier.get(&(rule.name.as_str(), output.destination.as_str()));
        let lost = since(earlier.copied().unwrap_or(&empty), &output.dropped);
        for (name, lost) in lost.filter(|(name, _)| *name != SendFailure::Duplicate.name()) {
            losses.push(format!(
                "rule \"{}\": {} dropped {lost} datagrams: {name}",
                rule.name, output.destination
            ));
        }
    }
    losses.extend(after.rules.iter().filter_map(|rule| missing(before, rule)));
    losses
}

/// What the leg of a stream that `rule` is has missed since.
fn missing(before: &Stats, rule: &RuleStats) -> Option<String> {
    let leg = rule.leg.as_ref()?;
    let earlier = before.rules.iter().find(|earlier| earlier.name == rule.name);
    let earlier = earlier.and_then(|earlier| earlier.leg.as_ref()).map_or(0, |leg| leg.missing);
    let missing = leg.missing.saturating_sub(earlier);
    (missing > 0).then(|| {
        format!(
            "rule \"{}\": {missing} datagrams of stream \"{}\" came by the other leg only",
            rule.name, leg.stream
        )
    })
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
    use crate::stats::{InputStats, LegStats};

    fn stats(refused: u64, kernel_dropped: u64) -> Stats {
        let mut book = Book::new();
        let place = book.enter("eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap()).unwrap();
        let output = book.get(place).unwrap().counters()[0] as usize;
        let (one, other) = (Counters::new().unwrap(), Counters::new().unwrap());
        for _ in 0..7 + refused {
            other.matched(place as usize, 1, 100);
        }
        other.output(output).unwrap().relayed().add(7);
        other.output(output).unwrap().dropped().add(SendFailure::Refused, refused);
        let rules = rules(&book, &Streams::new(), &[&one, &other]);
        let (received, dropped) = (10 + refused, kernel_dropped);
        let interface = "eth0".into();
        let (captured, frames) = (received + dropped, received);
        Stats {
            rx: "recv".into(),
            workers: vec![
                WorkerStats { received: 3, matched: 0 },
                WorkerStats { received: 7 + refused, matched: 7 + refused },
            ],
            received,
            matched: 7 + refused,
            dropped: BTreeMap::from([("no_rule".into(), 3)]),
            relayed: 7,
            inputs: vec![InputStats {
                interface,
                captured,
                dropped,
                frames,
                received,
                ..InputStats::default()
            }],
            rules,
            removed: RemovedStats::default(),
        }
    }

    #[test]
    fn what_only_the_other_leg_has_brought_is_a_loss() {
        let with = |missing| {
            let leg = Some(LegStats { stream: "studio".to_owned(), missing, crowded: 0 });
            let rule = RuleStats { name: "a".to_owned(), leg, ..RuleStats::default() };
            Stats { rules: vec![rule], ..Stats::default() }
        };
        assert_eq!(losses(&with(7), &with(7)), Vec::<String>::new());
        let expected = "rule \"a\": 3 datagrams of stream \"studio\" came by the other leg only";
        assert_eq!(losses(&with(4), &with(7)), [expected]);
        assert_eq!(losses(&Stats::default(), &with(3)), [expected]);
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
