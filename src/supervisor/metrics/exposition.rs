//! Counters as Prometheus reads them (`OpenMetrics` text): names, help and labels of every metric. No I/O here.
//!
//! `packaging/METRICS.md` lists them all.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::{RuleStatus, State, WorkerState, WorkerStatus};
use crate::stats::{Cause, InputStats, LegStats, Named, OutputStats, RuleStats, SendFailure, Stats};

/// What every name begins with.
const PREFIX: &str = "multicast_relay";

/// Everything that is told at one moment.
#[derive(Clone, Debug, Default)]
pub(in crate::supervisor) struct Snapshot {
    /// Milliseconds since the supervisor began.
    pub(in crate::supervisor) uptime_ms: u64,
    /// The counters.
    pub(in crate::supervisor) stats: Stats,
    /// The workers.
    pub(in crate::supervisor) workers: Vec<WorkerStatus>,
    /// The rules, whether they relay.
    pub(in crate::supervisor) rules: Vec<RuleStatus>,
}

/// The text of a snapshot.
///
/// # Errors
/// None that is known: a string takes everything.
pub(super) fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Metrics(encoder);
        self.encode_relay(&mut to)?;
        self.encode_inputs(&mut to)?;
        self.encode_rules(&mut to)?;
        self.encode_outputs(&mut to)?;
        self.encode_workers(&mut to)
    }
}

impl Snapshot {
    fn encode_relay(&self, to: &mut Metrics<'_>) -> fmt::Result {
        let stats = &self.stats;
        let info = [("version", env!("CARGO_PKG_VERSION")), ("rx", stats.rx.as_str())];
        to.gauge("info", "Version and receive path; always 1", [(info, 1.0)])?;
        to.plain_gauge("uptime_seconds", "Time since the supervisor began", self.uptime_ms as f64 / 1e3)?;
        let help = "Datagrams taken from the sockets; a frame that reached no rule counts as one";
        to.plain_counter("received_datagrams", help, stats.received)?;
        to.plain_counter("matched_datagrams", "Datagrams that a rule took", stats.matched)?;
        to.plain_counter("relayed_datagrams", "Copies that left, over all outputs", stats.relayed)?;
        // Without these the sums over the rules would not come to the totals.
        let help = "Datagrams that rules took which have been removed since";
        to.plain_counter("removed_matched_datagrams", help, stats.removed.matched)?;
        let help = "Copies that left through outputs that have been removed since";
        to.plain_counter("removed_relayed_datagrams", help, stats.removed.relayed)?;
        let reasons = SendFailure::ALL.iter().map(|failure| failure.name());
        let dropped =
            reasons.map(|reason| ([("reason", reason)], stats.removed.dropped.get(reason).copied()));
        let dropped = dropped.map(|(reason, count)| (reason, count.unwrap_or_default()));
        let help = "Copies that did not leave through outputs that have been removed since, by reason";
        to.counter("removed_dropped_datagrams", help, dropped)?;
        let help = "Datagrams that a worker has not finished with";
        to.plain_gauge("under_way_datagrams", help, stats.under_way() as f64)?;
        // Zeros too, as what appears with its first count is no increase to Prometheus.
        let causes = Cause::ALL.iter().map(|cause| (cause.name(), stats.dropped.get(cause.name()).copied()));
        let causes = causes.map(|(cause, count)| ([("cause", cause)], count.unwrap_or_default()));
        to.counter("dropped_frames", "Frames that reached no rule, by cause", causes)
    }

    fn encode_inputs(&self, to: &mut Metrics<'_>) -> fmt::Result {
        type Count = fn(&InputStats) -> u64;
        let counters: [(&str, &str, Count); 11] = [
            ("input_foreign_datagrams", "UDP that no rule takes and that was not captured", |i| i.foreign),
            ("input_consumed_frames", "Frames that ended at the interface after capture", |i| i.consumed),
            ("input_captured_frames", "Frames that passed the filter, dropped ones included", |i| i.captured),
            ("input_kernel_dropped_frames", "Frames dropped as the ring or buffer was full", |i| i.dropped),
            ("input_frames", "Frames taken from the sockets", |i| i.frames),
            ("input_received_datagrams", "Datagrams in the frames taken from the sockets", |i| i.received),
            ("input_ring_freezes", "Times that a version 3 ring had no block left", |i| i.freezes),
            ("input_loss_marks", "Loans of a ring marked as following a loss", |i| i.follows_loss),
            ("input_abandoned_frames", "Frames that went with a worker or interface", |i| i.abandoned),
            ("input_taken_again_frames", "Frames taken a second time after a worker died", |i| i.taken_again),
            ("input_down_events", "Times that the interface went down", |i| i.went_down),
        ];
        for (name, help, count) in counters {
            let values = self.stats.inputs.iter().map(|input| (of_input(input), count(input)));
            to.counter(name, help, values)?;
        }
        let queued = self.stats.inputs.iter().map(|input| (of_input(input), input.queued() as f64));
        to.gauge("input_queued_frames", "Frames that wait in a ring or buffer", queued)
    }

    fn encode_rules(&self, to: &mut Metrics<'_>) -> fmt::Result {
        let rules = || self.stats.rules.iter();
        let received = rules().map(|rule| (of_rule(&rule.name), rule.matched));
        to.counter("rule_received_datagrams", "Datagrams that the rule took", received)?;
        let bytes = rules().map(|rule| (of_rule(&rule.name), rule.bytes));
        to.counter("rule_received_bytes", "Their payload bytes", bytes)?;
        let legs = || rules().filter_map(|rule| Some((rule, rule.leg.as_ref()?)));
        let missing = legs().map(|(rule, leg)| (of_leg(rule, leg), leg.missing));
        to.counter(
            "leg_missing_datagrams",
            "Datagrams that only the other leg of the stream brought",
            missing,
        )?;
        let crowded = legs().map(|(rule, leg)| (of_leg(rule, leg), leg.crowded));
        let help = "Datagrams of the stream that were forgotten before their window was over";
        to.counter("leg_crowded_datagrams", help, crowded)?;
        let help = "1 when the rule's input and all of its outputs are there, 0 when one is waited for";
        let names: Vec<_> = self.rules.iter().map(|rule| rule.rule.name()).collect();
        let relaying = self.rules.iter().zip(&names).map(|(rule, name)| {
            let mut states = rule.outputs.iter().map(|output| output.state).chain([rule.state]);
            let relays = states.all(|state| state == State::Relaying);
            (of_rule(name), f64::from(u8::from(relays)))
        });
        to.gauge("rule_relaying", help, relaying)
    }

    fn encode_outputs(&self, to: &mut Metrics<'_>) -> fmt::Result {
        let outputs = || self.stats.outputs();
        let relayed = outputs().map(|(rule, output)| (of_output(rule, output), output.relayed));
        to.counter("output_relayed_datagrams", "Datagrams that the kernel took to send", relayed)?;
        let bytes = outputs().map(|(rule, output)| (of_output(rule, output), output.bytes));
        to.counter("output_relayed_bytes", "Their payload bytes", bytes)?;
        let dropped = outputs().map(|(rule, output)| (of_output(rule, output), output.lost()));
        to.counter("output_dropped_datagrams", "Datagrams that did not leave and should have", dropped)?;
        // Only what has happened: ten thousand outputs with eight zeros each would be most of the text.
        let reasons = outputs().flat_map(|(rule, output)| {
            output.dropped.iter().map(move |(reason, count)| {
                let [rule, output] = of_output(rule, output);
                ([rule, output, ("reason", reason)], *count)
            })
        });
        to.counter("output_dropped_datagrams_by_reason", "Datagrams that did not leave, by reason", reasons)
    }

    fn encode_workers(&self, to: &mut Metrics<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.workers.iter().map(|worker| worker.number.to_string()).collect();
        let workers = || numbers.iter().map(|number| [("worker", number.as_str())]).zip(&self.workers);
        let up = workers()
            .map(|(labels, worker)| (labels, f64::from(u8::from(worker.state == WorkerState::Running))));
        to.gauge("worker_up", "1 while the worker runs", up)?;
        let received = workers().map(|(labels, worker)| (labels, worker.received));
        to.counter("worker_received_datagrams", "Datagrams that the worker took from its sockets", received)?;
        let restarts = workers().map(|(labels, worker)| (labels, worker.restarts));
        to.counter("worker_restarts", "Times that the worker was started again", restarts)?;
        let seconds = workers().map(|(labels, worker)| (labels, worker.cpu_ns as f64 / 1e9));
        to.counter("worker_cpu_seconds", "CPU time of the worker's present process", seconds)
    }
}

/// Where metrics are written.
struct Metrics<'e>(DescriptorEncoder<'e>);

impl Metrics<'_> {
    /// Writes the counter `name`, which ends in `_total` in the text, with a value for each set of labels.
    fn counter<L: EncodeLabelSet, N>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result
    where
        ConstCounter<N>: EncodeMetric,
    {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, values)
    }

    /// The same of a gauge, whose name stays as it is.
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, MetricType::Gauge, values)
    }

    /// Writes a counter that has no labels.
    fn plain_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// The same of a gauge.
    fn plain_gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn family<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl Iterator<Item = (L, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn of_input(input: &InputStats) -> [(&str, &str); 1] {
    [("interface", &input.interface)]
}

fn of_rule(name: &str) -> [(&str, &str); 1] {
    [("rule", name)]
}

fn of_leg<'s>(rule: &'s RuleStats, leg: &'s LegStats) -> [(&'static str, &'s str); 2] {
    [("rule", &rule.name), ("stream", &leg.stream)]
}

fn of_output<'s>(rule: &'s RuleStats, output: &'s OutputStats) -> [(&'static str, &'s str); 2] {
    [("rule", &rule.name), ("output", &output.destination)]
}
