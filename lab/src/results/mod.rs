//! The results of a run as they are written to `results.json`.

#[cfg(test)]
pub(crate) mod fixtures;
mod folder;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

pub use folder::{Folder, FolderError, PAGE_FILE, RESULTS_FILE};

use crate::calibration::Calibration;
use crate::comparison::Comparison;
use crate::disturbance::{Disturbance, EventLimits};
use crate::generator::Lag;
use crate::ledger::Ledger;
use crate::memory::{Memory, MemoryLimits, Sample};
use crate::scenario::{Condition, Scenario, Subject};
use crate::search::{Found, FoundRatio};
use crate::subject::NotInstalled;
use crate::trial::{CpuPerPacket, Delays, Events, Measurement, Outcome, SinkIncident, SinkSummary};
use crate::verdict::{Counts, Verdict};

/// The schema of this file; a change that breaks readers gets another number.
pub const SCHEMA: &str = "multicast-relay-lab/1";
/// Everything a run found out.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What found it out.
    pub kind: RunKind,
    /// What was run.
    pub scenario: ScenarioSummary,
    /// Where it was run.
    pub environment: Environment,
    /// The verdict on the whole.
    pub verdict: RunVerdict,
    /// What ended the run before its time, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Subjects that were left out because their programs are not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_installed: Vec<NotInstalled>,
    /// Every trial, repeated ones included, in the order in which they were held.
    pub trials: Vec<Trial>,
    /// What the lab did without a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Subjects against each other.
    pub comparisons: Vec<Comparison>,
    /// Highest rates without loss, of a search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<Found>,
    /// Those rates against each other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search_ratios: Vec<FoundRatio>,
    /// What the reader should know besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What the trials were held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// To see whether each is as expected.
    Run,
    /// To find highest rates without loss: that some fail is what they are there for.
    Search,
}

impl fmt::Display for RunKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run",
            Self::Search => "search",
        })
    }
}

/// The verdict on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunVerdict {
    /// Every subject passed under every condition in every block, and every ratio that was to be kept was.
    Pass,
    /// A subject or a ratio failed.
    Fail,
    /// Nothing failed, and the lab could not measure something.
    Invalid,
    /// Nothing failed, and something is left undecided, by the machine or for lack of pairs.
    Inconclusive,
    /// Somebody interrupted it.
    Interrupted,
    /// The lab could not go on.
    Error,
}

impl From<Verdict> for RunVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail => Self::Fail,
            Verdict::Invalid => Self::Invalid,
            Verdict::Inconclusive => Self::Inconclusive,
        }
    }
}

impl RunVerdict {
    /// As the verdict on a part would have it; `None` when the run did not come to its end.
    pub fn judged(self) -> Option<Verdict> {
        match self {
            Self::Pass => Some(Verdict::Pass),
            Self::Fail => Some(Verdict::Fail),
            Self::Invalid => Some(Verdict::Invalid),
            Self::Inconclusive => Some(Verdict::Inconclusive),
            Self::Interrupted | Self::Error => None,
        }
    }
}

/// What was run.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioSummary {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// What the file says.
    pub content: toml::Table,
}

/// Where it was run. What cannot be read is empty.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Version of the lab.
    pub lab: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// How many processors the lab may use.
    pub processors: usize,
    /// What the kernel's clock runs on.
    pub clock_source: String,
    /// The relay that was measured.
    pub relay: PathBuf,
    /// When the run began, in seconds since 1970.
    pub started: u64,
}

impl Environment {
    /// Reads what this machine is.
    pub fn here(relay: &Path) -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            lab: env!("CARGO_PKG_VERSION"),
            kernel: line("/proc/sys/kernel/osrelease"),
            processor: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            processors: thread::available_parallelism().map_or(0, usize::from),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            relay: relay.to_owned(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

/// One trial.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Who was measured.
    pub subject: String,
    /// In which block, from 1.
    pub block: usize,
    /// The how-many-eth attempt at it, from 1.
    pub attempt: usize,
    /// Under which condition.
    #[serde(flatten)]
    pub condition: Condition,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not a pass.
    pub reasons: Vec<String>,
    /// What was expected; absent for a subject that is only measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// What was measured; its keys are absent when the subject failed before there was anything to measure.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// How long joining and leaving took, where that is what was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays: Option<Delays>,
    /// The folder with the subject's configuration and output.
    pub files: PathBuf,
}

/// What was expected of one trial.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Expected {
    /// Exactly so much went wrong.
    #[serde(flatten)]
    pub counts: Counts,
    /// The subject has no more memory than that, in bytes.
    #[serde(skip_serializing_if = "MemoryLimits::is_none")]
    pub memory_bytes: MemoryLimits,
    /// What the subject may do around events.
    #[serde(skip_serializing_if = "EventLimits::is_none")]
    pub around_events: EventLimits,
}

/// What was measured in one trial.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Datagrams per second that were really offered.
    pub offered_pps: f64,
    /// How late the generator handed datagrams to the kernel.
    pub generator_lag_ns: Lag,
    /// How often the generator found the queue full and tried again.
    pub generator_retried: u64,
    /// Ordered counts from the generator to the sinks.
    pub ledger: Ledger,
    /// What went wrong on the way.
    #[serde(flatten)]
    pub counts: Counts,
    /// Datagrams at the sinks that are none of the trial's.
    pub alien: u64,
    /// Datagrams of the trial at addresses that are not theirs.
    pub misdelivered: u64,
    /// What happened to which datagram; the first thousand of each kind and sink.
    pub incidents: Vec<SinkIncident>,
    /// Latency; absent when payloads are too short to hold a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<Latency>,
    /// CPU time for each datagram relayed, all its copies together.
    pub cpu_ns_per_packet: CpuPerPacket,
    /// Memory of the subject's processes; absent of a wire, and where it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Memory>,
    /// The same and more, over time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Sample>,
    /// What happened to the subject and its links meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
    /// How the flows were disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disturbance: Option<Disturbance>,
    /// Share of the processors' time that the hypervisor kept.
    pub steal_percent: f64,
    /// Each sink alone.
    pub sinks: Vec<SinkSummary>,
}

/// A distribution of latencies, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Maximum.
    pub max: u64,
    /// All of it: an `HdrHistogram` in its V2 encoding, in base 64.
    pub hdr: String,
}

/// The last attempt at each subject, condition and block, which is what counts: attempts follow each other.
pub fn last_attempts(trials: &[Trial]) -> impl Iterator<Item = &Trial> {
    let next = |i: usize| trials.get(i + 1).map_or(1, |next| next.attempt);
    trials.iter().enumerate().filter(move |(i, _)| next(*i) == 1).map(|(_, trial)| trial)
}

impl Trial {
    /// The record of a trial that was held.
    pub fn new(
        scenario: &Scenario,
        subject: &Subject,
        condition: &Condition,
        (block, attempt): (usize, usize),
        outcome: Outcome,
    ) -> Self {
        Self {
            subject: subject.name.clone(),
            block,
            attempt,
            condition: *condition,
            verdict: outcome.verdict,
            reasons: outcome.reasons,
            expected: scenario.expected_of(subject).map(|counts| Expected {
                counts,
                memory_bytes: scenario.memory_limits_of(subject),
                around_events: scenario.event_limits_of(subject),
            }),
            measured: outcome.measurement.map(Measured::from),
            delays: outcome.delays,
            files: outcome.dir,
        }
    }
}

impl Trial {
    /// The verdict, where a trial of whom nothing was expected has not passed but was measured.
    pub fn verdict_in_words(&self) -> String {
        let is_measured_only = self.expected.is_none() && self.verdict == Verdict::Pass;
        if is_measured_only { "measured".to_owned() } else { self.verdict.to_string() }
    }
}

impl From<Measurement> for Measured {
    fn from(measurement: Measurement) -> Self {
        Self {
            offered_pps: measurement.offered_pps,
            generator_lag_ns: measurement.generator_lag_ns,
            generator_retried: measurement.generator_retried,
            ledger: measurement.ledger,
            counts: measurement.counts,
            alien: measurement.alien,
            misdelivered: measurement.misdelivered,
            incidents: measurement.incidents,
            latency_ns: measurement.latency.as_ref().and_then(Latency::of),
            cpu_ns_per_packet: measurement.cpu,
            memory_bytes: measurement.memory,
            resources: measurement.resources,
            events: measurement.events,
            disturbance: measurement.disturbance,
            steal_percent: measurement.steal_percent,
            sinks: measurement.sinks,
        }
    }
}

impl Latency {
    /// The distribution in `histogram`; `None` when it is empty.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        // Writing to memory cannot fail, and a histogram without its encoding is better than none.
        let _ = V2Serializer::new().serialize(histogram, &mut bytes);
        let quantile = |quantile| histogram.value_at_quantile(quantile);
        Some(Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: histogram.max(),
            hdr: STANDARD.encode(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn results() -> Results {
        let trial = Trial {
            verdict: Verdict::Fail,
            reasons: vec!["the subject ended".into()],
            measured: None,
            ..fixtures::trial("recv", 1, 0.0)
        };
        fixtures::results(Verdict::Fail, vec![trial])
    }

    #[test]
    fn what_was_not_measured_is_absent_and_not_zero() {
        let json = serde_json::to_value(results()).unwrap();
        assert_eq!((json["schema"].as_str(), json["verdict"].as_str()), (Some(SCHEMA), Some("fail")));
        assert_eq!(json["kind"], "run");
        assert_eq!(json["trials"][0]["cast"], "multicast-to-multicast");
        assert_eq!(json["trials"][0]["sink_kind"], "packet");
        assert!(json["trials"][0].get("lost").is_none());
    }

    #[test]
    fn what_was_expected_has_memory_only_where_that_is_limited() {
        let mut expected =
            Expected { counts: Counts { lost: 3, ..Counts::default() }, ..Expected::default() };
        let json = |expected: &Expected| serde_json::to_value(expected).unwrap();
        let counts = serde_json::json!({ "lost": 3, "duplicated": 0, "reordered": 0, "corrupted": 0 });
        assert_eq!(json(&expected), counts);
        expected.memory_bytes.growth = Some(4_096);
        assert_eq!(json(&expected)["memory_bytes"], serde_json::json!({ "growth": 4_096 }));
    }

    #[test]
    fn a_latency_can_be_read_back() {
        assert!(Latency::of(&Histogram::new(3).unwrap()).is_none());
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=1_000).for_each(|i| histogram.record(i * 1_000).unwrap());
        let latency = Latency::of(&histogram).unwrap();
        assert!((495_000..=505_000).contains(&latency.p50), "{latency:?}");
        let bytes = STANDARD.decode(&latency.hdr).unwrap();
        let read = hdrhistogram::serialization::Deserializer::new()
            .deserialize::<u64, _>(&mut bytes.as_slice())
            .unwrap();
        assert_eq!(read, histogram);
    }
}
