//! The counters as people read them.

use super::numbers::{age, by_name, counted, short};
use super::table::{printable, table, text};
use crate::control::{InputStats, OutputRates, OutputStats, RuleRates, RuleStats, Stats, StatsReport};

/// From how many outputs on those without traffic are left out.
const MANY: usize = 30;

/// The counters of `report`; of many outputs only those with traffic, unless `all` are wanted.
pub(super) fn page(report: &StatsReport, all: bool) -> String {
    let stats = &report.stats;
    let mut page = text(&inputs(&stats.inputs));
    page.push('\n');
    page.push_str(&outputs(report, all || stats.outputs().count() < MANY));
    page.push('\n');
    page.extend(stats.legs().map(|leg| printable(&leg) + "\n"));
    page.push_str(&sums(report));
    page
}

fn inputs(inputs: &[InputStats]) -> comfy_table::Table {
    let header = [
        "input",
        "captured",
        "dropped by kernel",
        "queued",
        "abandoned",
        "frames",
        "received",
        "foreign",
        "consumed",
        "ring full",
        "went down",
    ];
    let mut table = table(&header, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for input in inputs {
        let counts = [
            input.captured,
            input.dropped,
            input.queued(),
            input.abandoned,
            input.frames,
            input.received,
            input.foreign,
            input.consumed,
            input.freezes,
            input.went_down,
        ];
        let counts = counts.map(|count| count.to_string());
        table.add_row(std::iter::once(printable(&input.interface)).chain(counts));
    }
    table
}

fn outputs(report: &StatsReport, all: bool) -> String {
    let header = ["rule", "output", "matched", "relayed", "bytes", "pkt/s", "bit/s", "dropped"];
    let mut table = table(&header, &[2, 3, 4, 5, 6, 7]);
    let mut hidden = 0;
    for (place, rule) in report.stats.rules.iter().enumerate() {
        let rates = report.rates.get(place);
        for (i, output) in rule.outputs.iter().enumerate() {
            if !all && !has_traffic(rule, output) {
                hidden += 1;
                continue;
            }
            table.add_row(row(rule, output, rates.and_then(|rates: &RuleRates| rates.outputs.get(i))));
        }
    }
    let text = text(&table);
    if hidden == 0 {
        return text;
    }
    format!("{text}{} without traffic not shown: --all shows all\n", counted(hidden, "output"))
}

fn has_traffic(rule: &RuleStats, output: &OutputStats) -> bool {
    rule.matched > 0 || output.relayed > 0 || output.dropped.values().any(|count| *count > 0)
}

fn row(rule: &RuleStats, output: &OutputStats, rates: Option<&OutputRates>) -> [String; 8] {
    let rate = |rate: fn(&OutputRates) -> f64| rates.map_or("-".to_owned(), |rates| short(rate(rates)));
    [
        printable(&rule.name),
        output.destination.clone(),
        rule.matched.to_string(),
        output.relayed.to_string(),
        output.bytes.to_string(),
        rate(|rates| rates.relayed_pps),
        rate(|rates| rates.relayed_bps),
        by_name(&output.dropped),
    ]
}

fn sums(report: &StatsReport) -> String {
    let stats: &Stats = &report.stats;
    let Stats { rx, received, matched, relayed, .. } = stats;
    let workers: Vec<_> = stats.workers.iter().map(|worker| worker.received.to_string()).collect();
    let up = age(std::time::Duration::from_millis(report.uptime_ms));
    let (dropped, under_way) = (by_name(&stats.dropped), stats.under_way());
    let mut lines = vec![
        format!("received by {rx}, by worker: {}; up {up}", workers.join(" + ")),
        format!(
            "received {received} = matched {matched} + dropped {dropped} + under way {under_way}; relayed {relayed}"
        ),
    ];
    let removed = &stats.removed;
    if removed.matched > 0 || removed.relayed > 0 {
        lines.push(format!(
            "of these by what is removed since: matched {}, relayed {}",
            removed.matched, removed.relayed
        ));
    }
    if report.interval_ms > 0 {
        let seconds = report.interval_ms as f64 / 1_000.0;
        lines.push(format!("rates are averages over the last {seconds:.1}s"));
    }
    if let Err(imbalance) = stats.consistent() {
        lines.push(format!("the counts do not add up, please report it: {imbalance}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn report(rules: usize) -> StatsReport {
        let rule = |i: usize| RuleStats {
            name: format!("rule-{i}"),
            matched: u64::from(i == 7) * 12,
            bytes: 0,
            outputs: vec![OutputStats {
                destination: "239.2.2.2:6000:eth1".to_owned(),
                relayed: u64::from(i == 7) * 10,
                bytes: 0,
                dropped: BTreeMap::from([("refused".to_owned(), u64::from(i == 7) * 2)]),
            }],
            leg: None,
        };
        let rules: Vec<_> = (0..rules).map(rule).collect();
        let stats = Stats { received: 12, matched: 12, relayed: 10, rules, ..Stats::default() };
        let earlier =
            Stats { rules: (0..8).map(|i| RuleStats { matched: 0, ..rule(i) }).collect(), ..stats.clone() };
        StatsReport::new(0, Duration::from_mins(5), stats, Some((&earlier, Duration::from_secs(2))))
    }

    #[test]
    fn of_many_outputs_those_without_traffic_are_left_out_and_said_to_be() {
        let shown = |page: &str| page.lines().filter(|line| line.trim_start().starts_with("rule-")).count();
        let few = page(&report(29), false);
        assert_eq!(shown(&few), 29);
        assert!(!few.contains("not shown"));
        let many = page(&report(300), false);
        assert_eq!(shown(&many), 1);
        assert!(many.contains("299 outputs without traffic not shown: --all shows all"), "{many}");
        assert!(many.contains("2 (refused 2)") && many.contains("received 12 = matched 12"), "{many}");
        assert!(!many.contains("do not add up"), "{many}");
        assert_eq!(shown(&page(&report(300), true)), 300);
    }

    #[test]
    fn what_removed_rules_have_counted_is_told() {
        let mut report = report(1);
        assert!(!page(&report, true).contains("removed"));
        report.stats.removed.matched = 3;
        assert!(page(&report, true).contains("of these by what is removed since: matched 3, relayed 0\n"));
    }
}
