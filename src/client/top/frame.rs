//! What one frame shows, before anything is drawn.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sample;
use crate::client::numbers::{age, counted, names, short};
use crate::client::show;
use crate::client::table::printable;
use crate::control::{RuleRates, RuleStats, WorkerState, WorkerStatus};
use crate::stats::{Named, SendFailure};

/// The columns of the rules.
pub(super) const COLUMNS: [&str; 7] =
    ["RULE", "IN pkt/s", "IN bit/s", "OUT pkt/s", "LOSS %", "DROPPED", "CAUSES"];
/// Which of them are numbers.
pub(super) const NUMBERS: [usize; 5] = [1, 2, 3, 4, 5];

/// Between what stands in one line.
pub(super) const BETWEEN: &str = "   ";

/// What one frame shows.
pub(super) struct Frame {
    /// Lines about the whole relay.
    pub(super) header: Vec<String>,
    /// The rules, as configured.
    pub(super) rows: Vec<Row>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) rule: String,
    /// Datagrams and payload bits per second that it takes.
    pub(super) in_pps: f64,
    pub(super) in_bps: f64,
    /// Datagrams per second that leave through its outputs.
    pub(super) out_pps: f64,
    /// Of all copies that were to leave, the part that did not: percent.
    pub(super) loss: f64,
    /// Copies that did not leave since the relay began, by cause.
    pub(super) dropped: BTreeMap<String, u64>,
}

impl Row {
    fn new(rule: &RuleStats, rates: &RuleRates) -> Self {
        let sum = |rate: fn(&crate::control::OutputRates) -> f64| rates.outputs.iter().map(rate).sum::<f64>();
        let (out_pps, dropped_pps) = (sum(|output| output.relayed_pps), sum(|output| output.dropped_pps));
        let mut dropped = BTreeMap::new();
        for (cause, count) in rule.outputs.iter().flat_map(|output| &output.dropped) {
            *dropped.entry(cause.clone()).or_default() += count;
        }
        // What another leg has brought is no loss.
        dropped.remove(SendFailure::Duplicate.name());
        let loss = if dropped_pps > 0.0 { 100.0 * dropped_pps / (out_pps + dropped_pps) } else { 0.0 };
        let (in_pps, in_bps) = (rates.matched_pps, rates.matched_bps);
        Self { rule: printable(&rule.name), in_pps, in_bps, out_pps, loss, dropped }
    }

    /// Copies that did not leave since the relay began.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// A text for each column.
    pub(super) fn cells(&self) -> [String; 7] {
        [
            self.rule.clone(),
            short(self.in_pps),
            short(self.in_bps),
            short(self.out_pps),
            short(self.loss),
            self.dropped().to_string(),
            names(&self.dropped),
        ]
    }
}

impl Frame {
    /// What `sample` shows; CPU time is compared with `earlier`.
    pub(super) fn new(sample: &Sample, earlier: Option<&Sample>) -> Self {
        let report = &sample.stats;
        let rows: Vec<_> =
            report.stats.rules.iter().zip(&report.rates).map(|(rule, rates)| Row::new(rule, rates)).collect();
        let header =
            vec![overview(sample, rows.len()), traffic(sample, earlier, &rows), workers(sample, earlier)];
        Self { header, rows }
    }
}

fn overview(sample: &Sample, rules: usize) -> String {
    let report = &sample.stats;
    let up = age(Duration::from_millis(report.uptime_ms));
    format!("multicast_relay   up {up}   received by {}   {}", report.stats.rx, counted(rules, "rule"))
}

fn traffic(sample: &Sample, earlier: Option<&Sample>, rows: &[Row]) -> String {
    let stats = &sample.stats.stats;
    let sum = |rate: fn(&Row) -> f64| short(rows.iter().map(rate).sum());
    let lost = stats.kernel_dropped();
    let new = earlier.map_or(0, |earlier| lost.saturating_sub(earlier.stats.stats.kernel_dropped()));
    let new = if new > 0 { format!(" (+{new})") } else { String::new() };
    let mut parts = vec![
        format!("in {} pkt/s, {} bit/s", sum(|row| row.in_pps), sum(|row| row.in_bps)),
        format!("out {} pkt/s", sum(|row| row.out_pps)),
        format!("dropped by kernel {lost}{new}"),
    ];
    let before_rules = names(&stats.dropped);
    if !before_rules.is_empty() {
        parts.push(format!("dropped before a rule: {before_rules}"));
    }
    parts.join(BETWEEN)
}

fn workers(sample: &Sample, earlier: Option<&Sample>) -> String {
    let interval = Duration::from_millis(sample.stats.interval_ms).as_nanos() as f64;
    let worker = |worker: &WorkerStatus| {
        if worker.state != WorkerState::Running {
            return format!("{} {}", worker.number, show::state(worker.state));
        }
        let same = |before: &&WorkerStatus| before.number == worker.number && before.pid == worker.pid;
        let before = earlier.and_then(|earlier| earlier.workers.iter().find(same));
        match before.filter(|_| interval > 0.0) {
            Some(before) => {
                let used = worker.cpu_ns.saturating_sub(before.cpu_ns) as f64;
                format!("{} {:.0}%", worker.number, 100.0 * used / interval)
            }
            None => format!("{} -", worker.number),
        }
    };
    let workers: Vec<_> = sample.workers.iter().map(worker).collect();
    format!("workers, CPU: {}", workers.join(BETWEEN))
}
