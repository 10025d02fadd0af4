//! A scenario: what to measure, under which conditions, and what is expected. Checked in whole before anything runs.

mod around;
pub(crate) mod event;
mod expect;
mod links;
mod read;
mod replay;
mod search;
mod settings;
mod sinks;
mod subject;
mod traffic;
mod when;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use multicast_relay::config::document::Mistakes;
use serde::{Serialize, Serializer};

pub use event::{Action, Event};
pub use expect::{Expect, Metric, Ratio};
pub use links::Links;
pub use search::{Search, SearchRatio};
pub use sinks::SinkChoice;
pub use when::When;

use crate::disturbance::EventLimits;
use crate::generator::GeneratorKind;
use crate::impairments::Impairments;
use crate::memory::MemoryLimits;
use crate::plan::LatencyFrom;
use crate::replay::{Pace, Replay};
use crate::sink::SinkKind;
use crate::subject::template::Template;
use crate::topology::Segmentation;
use crate::verdict::Counts;

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, fit for a folder.
    pub name: String,
    /// The wires.
    pub link: Links,
    /// What is sent.
    pub traffic: Traffic,
    /// Where it is counted.
    pub sinks: Sinks,
    /// How often.
    pub trials: Trials,
    /// How the highest rates without loss are searched.
    pub search: Search,
    /// What is measured; at least one.
    pub subjects: Vec<Subject>,
    /// What happens in each trial while its traffic is offered.
    pub events: Vec<Event>,
    /// What is expected.
    pub expect: Expect,
    /// The file as it was written, for the results.
    pub source: toml::Table,
}

/// Which generator is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeneratorChoice {
    /// The xdp generator for what it can send, the packet generator for the rest.
    Auto,
    /// This one.
    Always(GeneratorKind),
}

/// What the generator sends.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// How it is sent.
    pub generator: GeneratorChoice,
    /// From and to what kind of address.
    pub casts: Vec<Cast>,
    /// Datagrams per second, over all flows.
    pub rates_pps: Vec<u64>,
    /// Datagrams per second beside them that no rule takes; 0 for none.
    pub foreign_pps: Vec<u64>,
    /// UDP payload sizes in bytes.
    pub payloads_bytes: Vec<usize>,
    /// How many datagrams are due at once; 1 when they are evenly paced.
    pub burst: u64,
    /// Faults made on purpose; none unless every subject is a wire.
    pub impairments: Impairments,
    /// Numbers of distinct flows.
    pub flows: Vec<usize>,
    /// What is sent instead of datagrams of the lab's own, if anything.
    pub replay: Option<Replay>,
    /// How long each trial offers its rate; of a recording, at most.
    pub duration: Duration,
    /// How long the trial's rate is offered before that, uncounted.
    pub warmup: Duration,
}

impl Traffic {
    /// Whether there is anything foreign under some condition.
    pub fn has_foreign(&self) -> bool {
        self.foreign_pps.iter().any(|rate| *rate > 0)
    }

    /// How many datagrams a trial at `rate_pps` has.
    pub fn datagrams(&self, rate_pps: u64) -> u64 {
        let datagrams = u128::from(rate_pps) * self.duration.as_nanos() / 1_000_000_000;
        let datagrams = u64::try_from(datagrams).unwrap_or(u64::MAX);
        match &self.replay {
            None => datagrams,
            Some(Replay { recording, pace: Pace::Even }) => datagrams.min(recording.datagrams().len() as u64),
            // No more was read than is within the duration.
            Some(Replay { recording, pace: Pace::Recorded }) => recording.datagrams().len() as u64,
        }
    }
}

/// Where datagrams are counted.
#[derive(Clone, Debug)]
pub struct Sinks {
    /// The fan-outs: each sink is an output of its own, in a namespace of its own.
    pub counts: Vec<usize>,
    /// How they read.
    pub kinds: Vec<SinkChoice>,
}

/// How often things are measured.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// Each block measures every subject under every condition once.
    pub blocks: usize,
    /// How often a trial that proved nothing is repeated.
    pub retries: usize,
    /// Whether the lab measures itself before and after.
    pub calibrate: bool,
    /// What a trial is about.
    pub measure: Measure,
    /// From when on latency counts.
    pub latency_from: LatencyFrom,
}

/// What a trial is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// What becomes of traffic, and how fast.
    Traffic,
    /// How long a subject takes to relay once it is started, and to stop once it is told to.
    JoinLeave,
}

/// A program to be measured.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name in the results.
    pub name: String,
    /// What it is.
    pub kind: SubjectKind,
}

impl Subject {
    /// How many rules it has beside those of the flows.
    pub fn extra_rules(&self) -> usize {
        if let SubjectKind::Relay(relay) = &self.kind { relay.extra_rules } else { 0 }
    }

    /// Whether it is to keep what no rule takes from being captured: our relay does, unless it is told not to.
    pub fn filters_by_rules(&self) -> bool {
        let off = toml::Value::Boolean(false);
        matches!(&self.kind, SubjectKind::Relay(relay) if relay.table.get("rule-filter") != Some(&off))
    }
}

/// The programs the lab can measure.
#[derive(Clone, Debug)]
pub enum SubjectKind {
    /// Our own relay.
    Relay(Relay),
    /// Any other program.
    Command(Command),
    /// None: the generator is joined to the sink directly. What the lab itself can do.
    Wire,
}

/// How to start our own relay.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Its `[relay]` table.
    pub table: toml::Table,
    /// How many rules it has beside those of the flows. Nothing comes in for them.
    pub extra_rules: usize,
}

/// How to start a program that is not our relay.
#[derive(Clone, Debug)]
pub struct Command {
    /// Program and arguments; never empty.
    pub line: Vec<Template>,
    /// Files to be written for it, by name.
    pub files: BTreeMap<String, Template>,
    /// Where it sends to.
    pub output: Mapping,
    /// Whether a run goes on without it where the program is not installed.
    pub optional: bool,
}

/// Where a subject sends what it takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// To the group and port at which it came in.
    Same,
    /// To a group and port of the output's own.
    Mapped,
}

/// The kinds of address a flow goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cast {
    /// From a group to a group.
    MulticastToMulticast,
    /// From a group to a host.
    MulticastToUnicast,
    /// From the relay's own address to a group.
    UnicastToMulticast,
}

impl Cast {
    /// Every cast with its name in scenarios.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("multicast-to-multicast", Self::MulticastToMulticast),
        ("multicast-to-unicast", Self::MulticastToUnicast),
        ("unicast-to-multicast", Self::UnicastToMulticast),
    ];
}

impl fmt::Display for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, cast)| cast == self).map_or("", |(name, _)| name))
    }
}

/// The name of a sink kind in scenarios and results.
pub fn sink_kind_name(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Xdp => "xdp",
        SinkKind::Packet => "packet",
        SinkKind::Socket => "socket",
    }
}

impl Serialize for SinkKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(sink_kind_name(*self))
    }
}

/// Everything that may differ between two trials of a subject, except the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// From and to what kind of address.
    pub cast: Cast,
    /// Where super-frames of the subject are cut into datagrams.
    pub segmentation: Segmentation,
    /// How the sinks read.
    pub sink_kind: SinkKind,
    /// How many sinks there are, each with a copy of every datagram.
    pub fan_out: usize,
    /// How the datagrams are sent.
    pub generator: GeneratorKind,
    /// How many distinct flows there are.
    pub flows: usize,
    /// UDP payload in bytes.
    pub payload_bytes: usize,
    /// Datagrams per second beside the flows that no rule takes.
    pub foreign_pps: u64,
    /// Datagrams per second.
    pub rate_pps: u64,
}

impl Scenario {
    /// Reads and checks the scenario in `path`.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        read::scenario(&text, folder)
            .map_err(|mistakes| ScenarioError::Wrong { path: path.to_owned(), mistakes })
    }

    /// What is expected of the counts of `subject`; `None` when it is only measured.
    pub fn expected_of(&self, subject: &Subject) -> Option<Counts> {
        if self.trials.measure == Measure::JoinLeave {
            return None;
        }
        let named = self.expect.subjects.as_ref().is_none_or(|names| names.contains(&subject.name));
        named.then_some(self.expect.counts)
    }

    /// Whether the relay has a link that nothing is offered on.
    pub fn has_spare_link(&self) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event.action, Action::Flap { link: event::FlappedLink::Spare, .. }))
    }

    /// What `subject` may do around an event, beside the exact counts.
    pub fn event_limits_of(&self, subject: &Subject) -> EventLimits {
        if self.expected_of(subject).is_none() {
            return EventLimits::default();
        }
        let own = self.expect.around_of.iter().find(|(name, _)| *name == subject.name);
        own.map_or(self.expect.around, |(_, limits)| *limits)
    }

    /// What `subject` may have of memory: anything, unless something is expected of it and it has processes.
    pub fn memory_limits_of(&self, subject: &Subject) -> MemoryLimits {
        let is_wire = matches!(subject.kind, SubjectKind::Wire);
        if is_wire || self.expected_of(subject).is_none() {
            MemoryLimits::default()
        } else {
            self.expect.memory
        }
    }
}

impl FromStr for Scenario {
    type Err = Mistakes;

    /// Files that it names are looked for in the current folder.
    fn from_str(text: &str) -> Result<Self, Mistakes> {
        read::scenario(text, Path::new(""))
    }
}

/// A scenario that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("read scenario {}: {source}; name a TOML file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that cannot be.
    #[error("scenario {} has mistakes:\n{}", path.display(), listed(path, mistakes))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong in it.
        mistakes: Mistakes,
    },
}

/// Each mistake on a line of its own, as `file:line: key: what is wrong and how to mend it`.
fn listed(path: &Path, mistakes: &Mistakes) -> String {
    let lines = mistakes.0.iter().map(|mistake| {
        let key = if mistake.key.is_empty() { String::new() } else { format!(" {}:", mistake.key) };
        format!("{}:{}:{key} {}", path.display(), mistake.line, mistake.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}
