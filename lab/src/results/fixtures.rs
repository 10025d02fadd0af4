//! Trials for tests.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Environment, Expected, Latency, Measured, Results, RunKind, SCHEMA, ScenarioSummary, Trial};
use crate::generator::{GeneratorKind, Lag};
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::scenario::{Cast, Condition};
use crate::sink::SinkKind;
use crate::topology::Segmentation;
use crate::trial::{CpuPerPacket, EventRecord, Events, SinkSummary};
use crate::verdict::{Counts, Verdict};

/// An ordinary condition.
pub(crate) const CONDITION: Condition = Condition {
    cast: Cast::MulticastToMulticast,
    segmentation: Segmentation::Wire,
    sink_kind: SinkKind::Packet,
    fan_out: 1,
    generator: GeneratorKind::Xdp,
    flows: 1,
    payload_bytes: 100,
    foreign_pps: 0,
    rate_pps: 1_000,
};

/// A sink to which so many came, and nothing else.
pub(crate) fn sink(received: u64) -> SinkSummary {
    SinkSummary {
        received,
        counts: Counts::default(),
        alien: 0,
        misdelivered: 0,
        before_their_time: 0,
        dropped: BTreeMap::new(),
        errors: BTreeMap::new(),
    }
}

/// So many events, of which the second failed.
pub(crate) fn events(count: usize) -> Events {
    let record = |i: usize| EventRecord {
        at_ms: 100.0 * i as f64,
        what: "kill worker (KILL)".into(),
        took_ms: 7.5,
        failed: (i == 1).then(|| "it stayed <dead>".into()),
    };
    let counts = BTreeMap::from([("kill worker (KILL)".into(), count as u64)]);
    Events { records: (0..count).map(record).collect(), counts, outages: count as u64 }
}

/// A trial that passed, with a thousand datagrams: the subject took `cpu_ns` for each datagram, the machine twice that and over a direct wire half of
/// that, and every latency is ten times that.
pub(crate) fn trial(subject: &str, block: usize, cpu_ns: f64) -> Trial {
    let latency = (10.0 * cpu_ns) as u64;
    let measured = Measured {
        offered_pps: 1_000.0,
        generator_lag_ns: Lag::default(),
        generator_retried: 0,
        ledger: Ledger { adds_up: true, ..Ledger::default() },
        counts: Counts::default(),
        alien: 0,
        misdelivered: 0,
        incidents: Vec::new(),
        latency_ns: Some(Latency {
            p50: latency,
            p90: latency,
            p99: latency,
            p999: latency,
            max: latency,
            hdr: String::new(),
        }),
        cpu_ns_per_packet: CpuPerPacket {
            relay: Some(cpu_ns),
            system: Some(2.0 * cpu_ns),
            system_less_wire: Some(1.5 * cpu_ns),
            relay_from_ticks: false,
        },
        memory_bytes: Some(Memory {
            begin: 6 << 20,
            most: 7 << 20,
            end: 6 << 20,
            ring: 64 << 20,
            ..Memory::default()
        }),
        resources: Vec::new(),
        events: None,
        disturbance: None,
        steal_percent: 0.0,
        sinks: vec![sink(1_000)],
    };
    Trial {
        subject: subject.into(),
        block,
        attempt: 1,
        condition: CONDITION,
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        expected: Some(Expected::default()),
        measured: Some(measured),
        delays: None,
        files: "/x".into(),
    }
}

/// A run with these trials.
pub(crate) fn results(verdict: Verdict, trials: Vec<Trial>) -> Results {
    Results {
        schema: SCHEMA,
        kind: RunKind::Run,
        scenario: ScenarioSummary { name: "x".into(), file: "x.toml".into(), content: toml::Table::new() },
        environment: Environment::here(Path::new("/bin/relay")),
        verdict: verdict.into(),
        error: None,
        not_installed: Vec::new(),
        trials,
        calibration: None,
        comparisons: Vec::new(),
        searches: Vec::new(),
        search_ratios: Vec::new(),
        notes: Vec::new(),
    }
}
