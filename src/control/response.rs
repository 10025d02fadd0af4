//! What a supervisor answers.

use serde::{Deserialize, Serialize};

use super::{LogLevel, RuleSpec};
use crate::stats::Stats;

/// What comes back for a command.
pub type Outcome = Result<Answer, Refusal>;

/// What a command has brought, one for each [`Command`](super::Command).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Answer {
    /// It is there.
    Pong {
        /// The supervisor's process.
        pid: u32,
        /// The program's version, such as `0.1.0`.
        version: String,
        /// Milliseconds since the supervisor began.
        uptime_ms: u64,
    },
    /// These rules are relayed by now.
    Added {
        /// Their names, in the order of the command.
        names: Vec<String>,
    },
    /// These rules are gone.
    Removed {
        /// Their names, in the order of the command.
        names: Vec<String>,
    },
    /// The rules, as configured and then as added.
    Rules(Vec<RuleStatus>),
    /// The counters.
    Stats(Box<StatsReport>),
    /// The workers, by number.
    Workers(Vec<WorkerStatus>),
    /// The configuration file was read and is in force, as far as it can be without a restart.
    Reloaded {
        /// Names of rules that were not there before.
        added: Vec<String>,
        /// Names of rules that are gone.
        removed: Vec<String>,
        /// Names of rules with the input of one that was there, and another name or other outputs.
        changed: Vec<String>,
        /// How many rules stayed as they were.
        unchanged: usize,
        /// Settings of `[relay]` that differ and take a restart, such as `num-workers`.
        needs_restart: Vec<String>,
    },
    /// The log is written from this level on.
    LogLevel {
        /// The least severe level that is logged.
        level: LogLevel,
    },
}

/// A rule and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleStatus {
    /// The rule, its name and every time to live said.
    pub rule: RuleSpec,
    /// Whether its input is received.
    pub state: State,
    /// Why it waits, such as `input eth7: no such interface`; empty when it relays.
    pub reasons: Vec<String>,
    /// One for each of the rule's outputs, in their order.
    pub outputs: Vec<OutputStatus>,
}

/// An output and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutputStatus {
    /// Whether it can send.
    pub state: State,
    /// Why it waits; empty when it relays.
    pub reasons: Vec<String>,
}

/// Whether something does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It does.
    Relaying,
    /// It will once something else is there.
    Waiting,
}

/// The counters at one moment, and how fast they grew before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatsReport {
    /// When they were read: Unix time in milliseconds.
    pub at_ms: u64,
    /// Milliseconds since the supervisor began.
    pub uptime_ms: u64,
    /// Milliseconds before `at_ms` over which the rates are averages; 0 when there was nothing to compare with.
    pub interval_ms: u64,
    /// The counters.
    pub stats: Stats,
    /// One for each rule of `stats`, in the same order.
    pub rates: Vec<RuleRates>,
}

/// How fast a rule's counters grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleRates {
    /// Datagrams per second that the rule took.
    pub matched_pps: f64,
    /// Payload bits per second of them.
    pub matched_bps: f64,
    /// One for each output, in their order.
    pub outputs: Vec<OutputRates>,
}

/// How fast an output's counters grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutputRates {
    /// Datagrams per second that the kernel took.
    pub relayed_pps: f64,
    /// Payload bits per second of them.
    pub relayed_bps: f64,
    /// Datagrams per second that it refused.
    pub dropped_pps: f64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerStatus {
    /// From 0; it keeps its number when it is restarted.
    pub number: u32,
    /// Its process; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether it works.
    pub state: WorkerState,
    /// The CPU it is bound to; absent when it is bound to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Milliseconds since its process began, or since this supervisor took it over.
    pub uptime_ms: u64,
    /// How often this supervisor has started it again.
    pub restarts: u64,
    /// How its last process ended, such as `killed by SIGKILL` or `panicked`; absent when none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Datagrams it took from its sockets, over all its processes.
    pub received: u64,
    /// CPU time of its present process, in nanoseconds.
    pub cpu_ns: u64,
}

/// Whether a worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// It does.
    Running,
    /// It ended, and is about to be started again.
    Restarting,
    /// Too many in a row have ended at once, so that it has to wait before it is started again.
    Failed,
}

/// Why a command was not carried out; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what is wrong with what, and how to mend it.
    pub message: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The line is no command, or what it asks for makes no sense.
    BadRequest,
    /// A rule that is meant is not there.
    UnknownRule,
    /// A rule is in the way of another: the same name, the same input, or they would send in a circle.
    Conflict,
    /// It was tried, and did not work.
    Failed,
    /// Not now: too many clients, or the supervisor is about to end.
    Unavailable,
    /// The line is longer than a request may be.
    TooLarge,
    /// The request did not come, or the supervisor did not answer, in time.
    Timeout,
    /// The client is nobody who may ask.
    Forbidden,
}
