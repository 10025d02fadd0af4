//! One trial: a fresh network and a fresh process, traffic at one rate, and what came of it.
//!
//! Phases: set-up, prime (a trickle until every sink saw every flow), warm-up at the trial's rate, quiet, snapshot,
//! run, quiet, snapshot, end of the subject, close the sinks, tear-down, ledger, verdict. Every one is bounded in
//! time, and all of them end early when the lab is interrupted.

mod bench;
mod delays;
mod events;
pub mod flows;
mod framing;
mod measure;
mod phases;
pub mod placement;
mod prime;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cpu::CpuError;
use crate::disturbance::Disturbance;
use crate::generator::Lag;
use crate::ledger::Ledger;
use crate::memory::{Memory, Sample};
use crate::net::{NetError, RunName};
use crate::plan::PlanError;
use crate::scenario::{Condition, Measure, Scenario, Subject};
use crate::subject::SubjectError;
use crate::tally::Incident;
use crate::topology::Link;
use crate::traffic_error::TrafficError;
use crate::verdict::{Counts, Verdict};
pub use delays::Delays;
pub use events::{EventRecord, Events};
use placement::Placement;

/// Everything a trial is made of.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The scenario it belongs to.
    pub scenario: &'a Scenario,
    /// What is measured.
    pub subject: &'a Subject,
    /// Under which condition.
    pub condition: Condition,
    /// The run it belongs to.
    pub run: &'a RunName,
    /// A folder of its own, which exists.
    pub dir: &'a Path,
    /// The relay's program.
    pub relay_binary: &'a Path,
    /// The lab's own program.
    pub lab_binary: &'a Path,
    /// Which processors are whose.
    pub placement: &'a Placement,
}

impl Order<'_> {
    /// How its links are.
    fn link(&self) -> Link {
        self.scenario.link_under(&self.condition)
    }
}

/// A part of a trial that takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Building the network and starting the subject.
    SetUp,
    /// Waiting for every flow to reach every sink.
    Prime,
    /// Offering the rate, uncounted.
    WarmUp,
    /// Offering the rate; so many of so many datagrams were due.
    Run(u64, u64),
    /// Waiting for what is under way.
    Drain,
}

/// Who follows a trial, and who may interrupt it.
pub struct Watch<'a> {
    /// True once the lab is to end.
    pub interrupted: &'a AtomicBool,
    /// Is told what goes on.
    pub on_phase: &'a dyn Fn(Phase),
}

impl Watch<'_> {
    fn check(&self) -> Result<(), TrialError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(TrialError::Interrupted) } else { Ok(()) }
    }
}

/// Why a trial could not be held at all. Nothing of this is the subject's doing.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Somebody wants the lab to end.
    #[error("interrupted")]
    Interrupted,
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The traffic.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// What the traffic should be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The subject's program.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// CPU times.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// Anything else of the operating system.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl TrialError {
    pub(crate) fn system(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { operation, source }
    }
}

/// What a trial found out.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not a pass.
    pub reasons: Vec<String>,
    /// What was measured; `None` when the subject failed before there was anything to measure.
    pub measurement: Option<Measurement>,
    /// How long joining and leaving took, where that is what was measured.
    pub delays: Option<Delays>,
    /// Where the subject's files and output are.
    pub dir: PathBuf,
}

/// Everything measured in one trial.
#[derive(Debug)]
pub struct Measurement {
    /// Datagrams per second that were really offered.
    pub offered_pps: f64,
    /// How late the generator handed datagrams over.
    pub generator_lag_ns: Lag,
    /// How often the generator found the queue full and tried again.
    pub generator_retried: u64,
    /// From the generator to the sinks.
    pub ledger: Ledger,
    /// What arrived, over all sinks.
    pub counts: Counts,
    /// Datagrams at the sinks that are none of the trial's, and none of the foreign ones that were offered beside them.
    pub alien: u64,
    /// Datagrams of the trial where they do not belong: at other addresses, or for other hosts.
    pub misdelivered: u64,
    /// Datagrams that a sink's IP stack refused for their UDP checksum.
    pub bad_checksums: u64,
    /// What happened to which datagram, as far as kept.
    pub incidents: Vec<SinkIncident>,
    /// Nanoseconds from the time of sending that the scenario names to the kernel's stamp at the sink, over all sinks; empty when
    /// payloads are too short to hold a stamp.
    pub latency: Option<Histogram<u64>>,
    /// CPU time for each datagram relayed.
    pub cpu: CpuPerPacket,
    /// Memory of the subject; `None` of a wire, or where it could not be read.
    pub memory: Option<Memory>,
    /// The same and more, over time.
    pub resources: Vec<Sample>,
    /// What happened to the subject and its links; `None` where nothing was to.
    pub events: Option<Events>,
    /// How the flows were disturbed; `None` where nobody wants to know.
    pub disturbance: Option<Disturbance>,
    /// Share of the processors' time that the hypervisor kept, in percent.
    pub steal_percent: f64,
    /// Each sink alone.
    pub sinks: Vec<SinkSummary>,
}

/// CPU time for each datagram relayed, in nanoseconds; `None` when none was.
///
/// A datagram counts once, to however many sinks it went: the divisor is the mean over the sinks of the distinct
/// measured datagrams that arrived whole. So with eight sinks the time is that of eight copies.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CpuPerPacket {
    /// The subject's processes.
    pub relay: Option<f64>,
    /// Whole machine, generator and sinks included.
    pub system: Option<f64>,
    /// The same, less what the direct wire took; absent unless the run was calibrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_less_wire: Option<f64>,
    /// Whether the subject's time is of the coarse kind because one of its threads ended in between.
    pub relay_from_ticks: bool,
}

/// What happened to one datagram at one sink.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SinkIncident {
    /// The sink.
    pub sink: usize,
    /// What happened.
    #[serde(flatten)]
    pub incident: Incident,
}

/// The counts of one sink.
#[derive(Clone, Debug, Serialize)]
pub struct SinkSummary {
    /// Distinct datagrams that arrived whole.
    pub received: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// None of the trial's.
    pub alien: u64,
    /// The trial's, and not where they belong.
    pub misdelivered: u64,
    /// Received with a stamp before the time that their latency runs from, and so without a latency.
    pub before_their_time: u64,
    /// What the sink lost itself, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Errors the sink met while reading, by name.
    pub errors: BTreeMap<String, u64>,
}

/// Holds the trial `order`.
pub fn hold(order: &Order<'_>, watch: &Watch<'_>) -> Result<Outcome, TrialError> {
    match order.scenario.trials.measure {
        Measure::Traffic => phases::hold(order, watch),
        Measure::JoinLeave => delays::hold(order, watch),
    }
}
