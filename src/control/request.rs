//! What can be asked of a supervisor.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{InputSpec, RuleSpec};
use crate::rules::Rule;

/// Everything that can be asked. Each is carried out whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Whether it is there.
    Ping,
    /// Relay by these rules too.
    Add {
        /// At least one.
        rules: Vec<RuleSpec>,
    },
    /// Relay by these rules no more.
    Remove {
        /// At least one; each must be there.
        rules: Vec<Selector>,
    },
    /// The rules and what becomes of them.
    List,
    /// The counters.
    Stats,
    /// The workers.
    Workers,
    /// Read the configuration file again and change what differs.
    Reload,
    /// Log from this level on.
    LogLevel {
        /// The least severe level that is logged.
        level: LogLevel,
    },
}

impl Command {
    /// Its name, as on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::List => "list",
            Self::Stats => "stats",
            Self::Workers => "workers",
            Self::Reload => "reload",
            Self::LogLevel { .. } => "log-level",
        }
    }

    /// Whether carrying it out changes what is relayed or logged.
    pub fn changes(&self) -> bool {
        match self {
            Self::Ping | Self::List | Self::Stats | Self::Workers => false,
            Self::Add { .. } | Self::Remove { .. } | Self::Reload | Self::LogLevel { .. } => true,
        }
    }
}

/// Which rule is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// The rule of this name.
    Name(String),
    /// The rule of exactly this input: without a source, the rule without one.
    Input(InputSpec),
}

impl Selector {
    /// Whether `rule` is meant.
    pub fn selects(&self, rule: &Rule) -> bool {
        match self {
            Self::Name(name) => *name == rule.name,
            Self::Input(input) => *input == InputSpec::from(&rule.input),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "rule {name:?}"),
            Self::Input(input) => write!(f, "rule with input {input}"),
        }
    }
}

/// How severe what is logged must be at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What the relay cannot do.
    Error,
    /// And what is lost or in danger.
    Warn,
    /// And what changes.
    Info,
    /// And how it is done.
    Debug,
    /// And everything else.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl From<tracing::Level> for LogLevel {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::TRACE => Self::Trace,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}
