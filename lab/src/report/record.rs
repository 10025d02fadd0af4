//! A file with results, as far as the page shows it.
//!
//! It is read from `results.json` and not handed over by the run: so the page of a run and the page made anew later
//! are one. What a run may leave out, and what the file cannot hold (a number that is none is null there), may be
//! missing here. Nothing is flattened, because then an error would no longer tell its line.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::condition::{Condition, OtherCondition, one};
use super::found::{Found, FoundRatio};
use crate::disturbance::{Disturbance, EventLimits};
use crate::memory::{Memory, MemoryLimits};
use crate::results::{RunKind, SCHEMA};
use crate::trial::{Delays, Events};
use crate::verdict::{Counts, Verdict};

/// Results that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The results cannot be read.
    #[error("read results {}: {source}; name the results.json of a run", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no results of this schema in it.
    #[error("{} has {found}, and this lab reads {SCHEMA}: name the results.json of a run of this version", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        found: String,
    },
    /// The file is not as the schema has it.
    #[error("{} has no results of a run that came to its end ({source}): run the scenario again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
}

/// The results in `file`.
pub(super) fn load(file: &Path) -> Result<Record, ReadError> {
    let text = fs::read(file).map_err(|source| ReadError::Unreadable { path: file.to_owned(), source })?;
    read(file, &text)
}

/// The results in `text`, which is that of `file`.
pub(super) fn read(file: &Path, text: &[u8]) -> Result<Record, ReadError> {
    #[derive(Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    let malformed = |source| ReadError::Malformed { path: file.to_owned(), source };
    let head: Head = serde_json::from_slice(text).map_err(malformed)?;
    if head.schema.as_deref() != Some(SCHEMA) {
        let found = head.schema.map_or_else(|| "no schema".to_owned(), |schema| format!("schema {schema}"));
        return Err(ReadError::Foreign { path: file.to_owned(), found });
    }
    serde_json::from_slice(text).map_err(malformed)
}

/// Everything a run found out; see [`Results`](crate::results::Results) for what the fields mean.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    /// Absent where results were written before they told it; see [`Record::is_search`].
    kind: Option<RunKind>,
    pub(super) scenario: Scenario,
    pub(super) environment: Environment,
    pub(super) verdict: crate::results::RunVerdict,
    pub(super) error: Option<String>,
    pub(super) trials: Vec<Trial>,
    pub(super) calibration: Option<Calibration>,
    pub(super) comparisons: Vec<Comparison>,
    /// Of a search only.
    #[serde(default)]
    pub(super) searches: Vec<Found>,
    #[serde(default)]
    pub(super) search_ratios: Vec<FoundRatio>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
}

/// What the lab did without a subject.
#[derive(Debug, Deserialize)]
pub(super) struct Calibration {
    pub(super) before: Vec<Trial>,
    pub(super) after: Vec<Trial>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) content: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Environment {
    pub(super) lab: String,
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) processors: u64,
    pub(super) clock_source: String,
    pub(super) relay: String,
    pub(super) started: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Trial {
    pub(super) subject: String,
    pub(super) block: u64,
    pub(super) attempt: u64,
    cast: String,
    #[serde(default)]
    segmentation: String,
    sink_kind: String,
    #[serde(default = "one")]
    fan_out: u64,
    #[serde(default = "one")]
    flows: u64,
    payload_bytes: u64,
    #[serde(default)]
    foreign_pps: u64,
    rate_pps: u64,
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
    /// What was expected of it, if anything was.
    pub(super) expected: Option<Expected>,
    pub(super) files: String,
    pub(super) offered_pps: Option<f64>,
    pub(super) generator_lag_ns: Option<Lag>,
    pub(super) generator_retried: Option<u64>,
    pub(super) ledger: Option<Ledger>,
    pub(super) lost: Option<u64>,
    pub(super) duplicated: Option<u64>,
    pub(super) reordered: Option<u64>,
    pub(super) corrupted: Option<u64>,
    pub(super) alien: Option<u64>,
    pub(super) misdelivered: Option<u64>,
    pub(super) latency_ns: Option<Latency>,
    pub(super) delays: Option<Delays>,
    #[serde(default)]
    pub(super) cpu_ns_per_packet: Cpu,
    pub(super) memory_bytes: Option<Memory>,
    pub(super) events: Option<Events>,
    pub(super) disturbance: Option<Disturbance>,
    pub(super) steal_percent: Option<f64>,
    #[serde(default)]
    sinks: Vec<Sink>,
}

/// Exact counts, and what the subject may have of memory.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Expected {
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
    #[serde(default)]
    pub(super) memory_bytes: MemoryLimits,
    #[serde(default)]
    pub(super) around_events: EventLimits,
}

impl Expected {
    pub(super) fn counts(self) -> Counts {
        let Self { lost, duplicated, reordered, corrupted, .. } = self;
        Counts { lost, duplicated, reordered, corrupted }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Lag {
    pub(super) p99: u64,
    pub(super) max: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
    pub(super) hdr: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Cpu {
    pub(super) relay: Option<f64>,
    pub(super) system: Option<f64>,
    pub(super) system_less_wire: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Sink {
    received: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ledger {
    pub(super) steps: Vec<Step>,
    pub(super) gaps: Vec<Gap>,
    pub(super) adds_up: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Step {
    pub(super) place: String,
    pub(super) count: u64,
    pub(super) copies: u64,
    pub(super) drops: Vec<Drop>,
    /// Of what was offered beside the trial's; absent where there could be none.
    #[serde(default)]
    pub(super) foreign: u64,
    /// Absent where no worker died.
    #[serde(default)]
    pub(super) taken_again: u64,
    pub(super) other_frames: u64,
    pub(super) added_by_subject: u64,
    pub(super) unexplained: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Drop {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) count: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Gap {
    pub(super) place: String,
    pub(super) output: Option<u64>,
    pub(super) unexplained: i64,
    pub(super) keeper: String,
    pub(super) remedy: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Comparison {
    pub(super) metric: String,
    cast: String,
    #[serde(default)]
    segmentation: String,
    sink_kind: String,
    #[serde(default = "one")]
    fan_out: u64,
    #[serde(default = "one")]
    flows: u64,
    payload_bytes: u64,
    #[serde(default)]
    foreign_pps: u64,
    rate_pps: u64,
    to_condition: Option<OtherCondition>,
    pub(super) of: String,
    pub(super) to: String,
    pub(super) pairs: u64,
    pub(super) left_out: u64,
    pub(super) of_median: Option<f64>,
    pub(super) to_median: Option<f64>,
    pub(super) ratio: Option<f64>,
    pub(super) ci95: Option<[Option<f64>; 2]>,
    pub(super) at_most: Option<f64>,
    pub(super) verdict: Option<Verdict>,
    pub(super) reasons: Vec<String>,
}

impl Record {
    /// Whether it is of a search, in which trials fail all the time.
    pub(super) fn is_search(&self) -> bool {
        self.kind.map_or(!self.searches.is_empty(), |kind| kind == RunKind::Search)
    }

    /// The command that makes such results of its scenario.
    pub(super) fn command(&self) -> String {
        let kind = if self.is_search() { RunKind::Search } else { RunKind::Run };
        format!("lab {kind} {}", self.scenario.file)
    }

    /// The last attempt at each subject, condition and block, which is what counts.
    pub(super) fn last_attempts(&self) -> Vec<&Trial> {
        last_attempts(&self.trials)
    }

    /// The blocks that were begun.
    pub(super) fn blocks(&self) -> BTreeSet<u64> {
        self.trials.iter().map(|trial| trial.block).collect()
    }
}

/// The last of the attempts that follow each other.
pub(super) fn last_attempts(trials: &[Trial]) -> Vec<&Trial> {
    let next = |i: usize| trials.get(i + 1).map_or(1, |next| next.attempt);
    trials.iter().enumerate().filter(|(i, _)| next(*i) == 1).map(|(_, trial)| trial).collect()
}

impl Trial {
    /// Whether it counted otherwise than was expected, whatever its verdict.
    pub(super) fn has_missed_a_count(&self) -> bool {
        let Some(Counts { lost, duplicated, reordered, corrupted }) = self.expected.map(Expected::counts)
        else {
            return false;
        };
        let outages = self.events.as_ref().map_or(0, |events| events.outages);
        let EventLimits { loss_per_event, duplicates_per_event, .. } =
            self.expected.map(|expected| expected.around_events).unwrap_or_default();
        let is_other = |count: Option<u64>, least: u64, each: u64| {
            let most = least.saturating_add(each.saturating_mul(outages));
            count.is_some_and(|count| !(least..=most).contains(&count))
        };
        is_other(self.lost, lost, loss_per_event)
            || is_other(self.duplicated, duplicated, duplicates_per_event)
            || is_other(self.reordered, reordered, 0)
            || is_other(self.corrupted, corrupted, 0)
    }

    pub(super) fn condition(&self) -> Condition<'_> {
        let Self { cast, segmentation, sink_kind, .. } = self;
        let Self { fan_out, flows, payload_bytes, foreign_pps, rate_pps, .. } = *self;
        Condition::of([cast, segmentation, sink_kind], [fan_out, flows, payload_bytes, foreign_pps, rate_pps])
    }

    /// The verdict, where a trial of whom nothing was expected has not passed but was measured.
    pub(super) fn verdict_in_words(&self) -> String {
        let is_measured_only = self.expected.is_none() && self.verdict == Verdict::Pass;
        if is_measured_only { "measured".to_owned() } else { self.verdict.to_string() }
    }

    /// How many datagrams should have come to the sinks.
    pub(super) fn due(&self) -> u64 {
        let received = self.sinks.iter().fold(0, |sum: u64, sink| sum.saturating_add(sink.received));
        received.saturating_add(self.lost.unwrap_or(0))
    }

    /// What it says of `metric`, in nanoseconds, whatever its verdict.
    pub(super) fn reading(&self, metric: &str) -> Option<f64> {
        let latency =
            |pick: fn(&Latency) -> u64| self.latency_ns.as_ref().map(|latency| pick(latency) as f64);
        match metric {
            "relay-cpu" => self.cpu_ns_per_packet.relay,
            "relay-cpu-per-copy" => self.cpu_ns_per_packet.relay.map(|cpu| cpu / self.fan_out.max(1) as f64),
            "system-cpu" => self.cpu_ns_per_packet.system_less_wire,
            "join-delay" => self.delays.map(|delays| delays.join_ns as f64),
            "leave-delay" => self.delays.map(|delays| delays.leave_ns as f64),
            "p50" => latency(|latency| latency.p50),
            "p90" => latency(|latency| latency.p90),
            "p99" => latency(|latency| latency.p99),
            "p999" => latency(|latency| latency.p999),
            "max" => latency(|latency| latency.max),
            _ => None,
        }
    }

    /// Which one it is, for somebody who looks for it in the table of all.
    pub(super) fn turn(&self) -> String {
        let attempt = if self.attempt > 1 { format!(", attempt {}", self.attempt) } else { String::new() };
        format!("block {}{attempt}", self.block)
    }
}

impl Comparison {
    pub(super) fn condition(&self) -> Condition<'_> {
        let Self { cast, segmentation, sink_kind, .. } = self;
        let Self { fan_out, flows, payload_bytes, foreign_pps, rate_pps, .. } = *self;
        Condition::of([cast, segmentation, sink_kind], [fan_out, flows, payload_bytes, foreign_pps, rate_pps])
    }

    /// The condition of the subject beneath the line.
    pub(super) fn to_condition(&self) -> Condition<'_> {
        self.to_condition.as_ref().map_or_else(|| self.condition(), OtherCondition::condition)
    }

    /// The interval, both of whose ends are there.
    pub(super) fn interval(&self) -> Option<[f64; 2]> {
        let [low, high] = self.ci95?;
        Some([low?, high?])
    }
}
