//! From snapshots to a verdict: everything is the difference between the quiet before the run and the quiet after.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use multicast_relay::control::Stats;

use super::bench::Bench;
use super::events::Log;
use super::framing::Framing;
use super::{CpuPerPacket, Measurement, Order, Outcome, SinkIncident, SinkSummary, TrialError};
use crate::clock::ClockStep;
use crate::cpu::{MachineTime, Proc, SubjectTime};
use crate::disturbance::{Arrivals, Disturbance, LossSpan, Pace, Span, sequences_while};
use crate::generator::{GeneratorKind, GeneratorReport};
use crate::ledger::{Facts, Ledger, Output, RelayCounters, Wire, settle};
use crate::memory::MemoryWatch;
use crate::net::DeviceCounters;
use crate::scenario::SubjectKind;
use crate::sink::{Sink, SinkKind, SinkReport};
use crate::subject::Stopped;
use crate::topology::{Leg, Port, Topology};
use crate::verdict::{Counts, EventEvidence, Evidence, judge};

/// All counters at one quiet moment.
pub(super) struct Snapshot {
    counted: Counted,
    cpu: Cpu,
    /// What the relay reports; an error when it should report and does not.
    report: Result<Option<Stats>, String>,
}

/// What the devices and the sinks counted.
struct Counted {
    generator: DeviceCounters,
    ingress: DeviceCounters,
    /// Of the frames that the ingress device counts as received, those it then dropped.
    received_in_vain: u64,
    egress: Vec<DeviceCounters>,
    sinks: Vec<DeviceCounters>,
    arrived: Vec<u64>,
}

/// CPU time used so far.
pub(super) struct Cpu {
    /// `None` of a wire.
    subject: Option<SubjectTime>,
    machine: MachineTime,
}

impl Snapshot {
    /// The quiet before the run: the last that is read are CPU times, so that what it takes to read the rest is in
    /// none of them.
    pub(super) fn before(bench: &mut Bench) -> Result<Self, TrialError> {
        let report = bench.subject.report();
        let counted = Counted::now(bench)?;
        bench.begin_measuring()?;
        Ok(Self { counted, report, cpu: Cpu::now(bench)? })
    }

    /// The quiet after the run. CPU times are those from before anything was asked of the subject, likewise.
    pub(super) fn after(bench: &mut Bench, cpu: Cpu) -> Result<Self, TrialError> {
        let report = bench.subject.report();
        Ok(Self { counted: Counted::now(bench)?, report, cpu })
    }
}

impl Cpu {
    pub(super) fn now(bench: &Bench) -> Result<Self, TrialError> {
        let proc = Proc::default();
        let subject = bench.subject.family().map(|family| proc.subject(family)).transpose()?;
        Ok(Self { subject, machine: proc.machine()? })
    }

    /// Adds the time of processes that have ended meanwhile.
    fn remember(&mut self, ended: &SubjectTime) {
        if let Some(subject) = &mut self.subject {
            subject.remember(ended);
        }
    }
}

impl Counted {
    fn now(bench: &Bench) -> Result<Self, TrialError> {
        let topology = &bench.topology;
        let all = |ports: &[Port]| ports.iter().map(Port::counters).collect();
        let (egress, sinks): (Result<_, _>, Result<_, _>) = (all(&topology.egress), all(&topology.sinks));
        Ok(Self {
            generator: topology.generator.counters()?,
            ingress: topology.ingress.counters()?,
            received_in_vain: topology.ingress.received_in_vain()?,
            egress: egress?,
            sinks: sinks?,
            arrived: bench.sinks.iter().map(Sink::received).collect(),
        })
    }
}

/// What is left of a trial when its subject has been told to end.
pub(super) struct Record {
    pub(super) generated: GeneratorReport,
    /// What happened meanwhile.
    pub(super) log: Log,
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    pub(super) memory: MemoryWatch,
    pub(super) clock_step: Option<ClockStep>,
}

impl Record {
    /// Closes the sinks, settles the ledger and judges.
    pub(super) fn close(
        mut self,
        order: &Order<'_>,
        stopped: Stopped,
        sinks: Vec<Sink>,
        topology: &Topology,
    ) -> Result<Outcome, TrialError> {
        self.after.cpu.remember(&self.log.ended);
        let mut reports = Vec::new();
        for (i, sink) in sinks.into_iter().enumerate() {
            sink.while_link_down(sequences_while(&self.down(i), self.pace(order)));
            reports.push(sink.finish()?);
        }
        let unreachable = sequences_while(&self.down_at(Leg::Ingress), self.pace(order));
        self.generated.excuse_link_down(unreachable.iter().map(|range| range.end - range.start).sum());
        let mut failures = stopped.failures;
        let silences =
            [&self.before, &self.after].into_iter().filter_map(|moment| moment.report.as_ref().err());
        failures.extend(silences.cloned());
        let relay = self.relay_counters(stopped.last_report, order, &mut failures);
        let facts = self.facts(relay, &reports, order, topology)?;
        let arrivals: Vec<_> = reports.iter().map(|report| report.arrivals.clone()).collect();
        let link_down = reports.iter().map(|report| report.tally.link_down).sum();
        let losses = reports.iter().flat_map(|report| &report.tally.losses);
        let losses: Vec<_> = losses.map(|loss| LossSpan::new(*loss, order.condition.rate_pps)).collect();
        let mut measurement = self.measurement(settle(&facts), reports);
        measurement.disturbance = self.disturbance(order, &arrivals, link_down, &measurement);
        if let Some(disturbance) = &mut measurement.disturbance {
            disturbance.losses = losses;
        }
        measurement.events =
            (!order.scenario.events.is_empty()).then(|| self.log.events_since(self.generated.started_ns));
        let foreign = measurement.ledger.foreign.as_ref();
        let received =
            foreign.filter(|_| order.subject.filters_by_rules()).and_then(|foreign| foreign.received);
        let (verdict, reasons) = judge(&Evidence {
            rate_pps: order.condition.rate_pps,
            offered_pps: measurement.offered_pps,
            refused: facts.refused.values().chain(facts.foreign.refused.values()).sum(),
            lag_max_ns: measurement.generator_lag_ns.max,
            stopped: facts.not_offered + facts.foreign.not_offered() > 0,
            sink_errors: summed(measurement.sinks.iter().map(|sink| &sink.errors)),
            sink_dropped: summed(measurement.sinks.iter().map(|sink| &sink.dropped)),
            foreign_received: received.unwrap_or_default(),
            foreign_relayed: foreign.map_or(0, |foreign| foreign.at_sinks),
            alien: measurement.alien,
            expected_alien: order.scenario.expect.alien,
            misdelivered: measurement.misdelivered,
            bad_checksums: measurement.bad_checksums,
            clock_step_ns: self.clock_step.map(|step| step.moved_ns),
            steal_percent: measurement.steal_percent,
            ledger: &measurement.ledger,
            counts: measurement.counts,
            expected: order.scenario.expected_of(order.subject),
            memory: measurement.memory,
            memory_limits: order.scenario.memory_limits_of(order.subject),
            subject_failures: failures,
            events: EventEvidence {
                outages: self.log.outages,
                disturbance: measurement.disturbance.clone(),
                limits: order.scenario.event_limits_of(order.subject),
                failures_of_the_subject: self.log.failures_of_the_subject.clone(),
                failures_of_the_lab: self.log.failures_of_the_lab.clone(),
            },
        });
        measurement.resources = self.memory.into_samples();
        Ok(Outcome {
            verdict,
            reasons,
            measurement: Some(measurement),
            delays: None,
            dir: order.dir.to_owned(),
        })
    }

    /// When a link on the way to sink `sink` was down.
    fn down(&self, sink: usize) -> Vec<Span> {
        let egress = if sink == 0 { self.down_at(Leg::Egress) } else { Vec::new() };
        let mut down = [self.down_at(Leg::Ingress), egress].concat();
        down.sort_by_key(|span| span.from_ns);
        down
    }

    fn down_at(&self, leg: Leg) -> Vec<Span> {
        self.log.down.iter().filter(|(down, _)| *down == leg).map(|(_, span)| *span).collect()
    }

    fn pace(&self, order: &Order<'_>) -> Pace {
        let (traffic, rate_pps) = (&order.scenario.traffic, order.condition.rate_pps);
        Pace {
            started_ns: self.generated.started_ns,
            rate_pps,
            burst: traffic.burst,
            datagrams: traffic.datagrams(rate_pps),
            lag_ns: self.generated.lag_ns.max,
        }
    }

    /// How the flows were disturbed, where somebody wants to know.
    fn disturbance(
        &self,
        order: &Order<'_>,
        arrivals: &[Arrivals],
        link_down: u64,
        measurement: &Measurement,
    ) -> Option<Disturbance> {
        let limits = order.scenario.event_limits_of(order.subject);
        if order.scenario.events.is_empty() && limits.is_none() {
            return None;
        }
        let offered = Span { from_ns: self.generated.started_ns, to_ns: self.generated.ended_ns() };
        let delay_ns = measurement.latency.as_ref().map_or(0, Histogram::max);
        let sinks = arrivals.iter().enumerate().map(|(sink, arrivals)| (arrivals, self.down(sink)));
        Some(Disturbance::new(sinks, offered, delay_ns, link_down))
    }

    /// What the relay counted during the run, by its last report or, without one, by the one before its end.
    fn relay_counters(
        &self,
        last: Option<Stats>,
        order: &Order<'_>,
        failures: &mut Vec<String>,
    ) -> Option<RelayCounters> {
        if !matches!(order.subject.kind, SubjectKind::Relay(_)) {
            return None;
        }
        let before = self.before.report.as_ref().ok()?.as_ref()?;
        if last.is_none() {
            failures.push("the relay ended without a last report of its counters".to_owned());
        }
        let after = last.or_else(|| self.after.report.clone().ok().flatten())?;
        if let Err(imbalance) = after.balance() {
            failures.push(format!("the relay's own counters do not add up: {imbalance}"));
        }
        Some(RelayCounters::between(before, &after))
    }

    fn facts(
        &self,
        relay: Option<RelayCounters>,
        reports: &[SinkReport],
        order: &Order<'_>,
        topology: &Topology,
    ) -> Result<Facts, TrialError> {
        // Devices are read again: what the subject sent while it ended is part of the account.
        let (before, after) = (&self.before.counted, &self.after.counted);
        let sees_other_frames = order.condition.sink_kind != SinkKind::Socket;
        let generator = after.generator - before.generator;
        let ingress = after.ingress - before.ingress;
        let in_vain = after.received_in_vain - before.received_in_vain;
        let (link, condition) = (order.link(), &order.condition);
        let (inward, outward) = (Framing::at_ingress(link, condition), Framing::at_egress(link, condition));
        let is_wire = matches!(order.subject.kind, SubjectKind::Wire);
        let mut outputs = Vec::new();
        for (i, report) in reports.iter().enumerate() {
            let (Some(egress_port), Some(sink_port)) = (topology.egress.get(i), topology.sinks.get(i)) else {
                break;
            };
            let egress = egress_port.counters()? - before.egress.get(i).copied().unwrap_or_default();
            let sink = sink_port.counters()? - before.sinks.get(i).copied().unwrap_or_default();
            let arrived = report.tally.arrivals - before.arrived.get(i).copied().unwrap_or_default();
            outputs.push(Output {
                wire: Wire {
                    transmitted: outward.datagrams(egress.tx_packets, egress.tx_bytes),
                    transmit_dropped: egress.tx_dropped,
                    received: outward.datagrams(sink.rx_packets, sink.rx_bytes),
                    receive_dropped: sink.rx_dropped,
                    polled: order.condition.sink_kind == SinkKind::Xdp
                        || is_wire && order.condition.generator == GeneratorKind::Xdp,
                },
                arrived,
                lost: report.tally.lost + report.tally.link_down,
                foreign: report.tally.foreign,
                other_frames: sees_other_frames.then_some(report.other_frames),
                unclaimed: report.unclaimed,
                dropped: named(&report.dropped),
            });
        }
        Ok(Facts {
            intended: self.generated.intended,
            sent: self.generated.sent,
            refused: self.generated.refused.clone(),
            not_offered: self.generated.not_offered(),
            link_down: self.generated.link_down,
            ingress_is_new: self.log.ingress_is_new,
            foreign: self.generated.foreign.clone(),
            fragmented: inward.is_fragmented(),
            ingress: (!is_wire).then(|| Wire {
                transmitted: inward.datagrams(generator.tx_packets, generator.tx_bytes),
                transmit_dropped: generator.tx_dropped,
                received: inward.datagrams(ingress.rx_packets, ingress.rx_bytes).saturating_sub(in_vain),
                receive_dropped: ingress.rx_dropped,
                polled: false,
            }),
            relay,
            outputs,
        })
    }

    fn measurement(&self, ledger: Ledger, reports: Vec<SinkReport>) -> Measurement {
        let sinks = reports.len().max(1) as u64;
        let out = reports.iter().map(|report| report.tally.received).sum::<u64>() / sinks;
        let (before, after) = (&self.before.cpu, &self.after.cpu);
        let machine = after.machine.since(&before.machine);
        let subject = match (&before.subject, &after.subject) {
            (Some(before), Some(after)) => Some(after.since(before)),
            _ => None,
        };
        let per_packet = |time: Duration| (out > 0).then(|| time.as_nanos() as f64 / out as f64);
        let mut measurement = Measurement {
            offered_pps: self.generated.offered_pps(),
            generator_lag_ns: self.generated.lag_ns,
            generator_retried: self.generated.retried,
            ledger,
            counts: Counts::default(),
            alien: 0,
            misdelivered: 0,
            bad_checksums: 0,
            incidents: Vec::new(),
            latency: None,
            cpu: CpuPerPacket {
                relay: subject.and_then(|subject| per_packet(subject.time)),
                system: per_packet(machine.busy),
                system_less_wire: None,
                relay_from_ticks: subject.is_some_and(|subject| subject.from_ticks),
            },
            memory: self.memory.memory(),
            resources: Vec::new(),
            events: None,
            disturbance: None,
            steal_percent: machine.steal_percent,
            sinks: Vec::new(),
        };
        let has_foreign = measurement.ledger.foreign.is_some();
        for (sink, report) in reports.into_iter().enumerate() {
            measurement.add(sink, report, has_foreign);
        }
        measurement
    }
}

impl Measurement {
    /// Adds what sink `sink` counted. Where the lab offered anything foreign, that is in the ledger and no stranger's.
    fn add(&mut self, sink: usize, report: SinkReport, has_foreign: bool) {
        let tally = report.tally;
        let counts = Counts {
            lost: tally.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
        };
        self.counts = self.counts + counts;
        let foreign = if has_foreign { tally.foreign } else { 0 };
        let alien = tally.alien - tally.misdelivered - foreign;
        let misdelivered = tally.misdelivered + report.unclaimed;
        self.misdelivered += misdelivered;
        self.alien += alien;
        let mut dropped = named(&report.dropped);
        self.bad_checksums += dropped.remove(BAD_CHECKSUM).unwrap_or_default();
        match &mut self.latency {
            None => self.latency = Some(report.latency),
            // Both were made with the same bounds, so that everything of one fits the other.
            Some(sum) => drop(sum.add(&report.latency)),
        }
        self.incidents.extend(tally.incidents.iter().map(|&incident| SinkIncident { sink, incident }));
        self.sinks.push(SinkSummary {
            received: tally.received,
            counts,
            alien,
            misdelivered,
            before_their_time: report.before_their_time,
            dropped,
            errors: report.errors,
        });
    }
}

/// What a sink calls the datagrams that its IP stack refused for their UDP checksum. Checksums are the sender's.
const BAD_CHECKSUM: &str = "checksum";

fn named(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// The sum of what several sinks counted by name.
fn summed<'a>(counts: impl Iterator<Item = &'a BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *sum.entry(name.clone()).or_default() += count;
    }
    sum
}
