//! What the lab measures: programs, each a process inside the relay's namespace, or nothing but a wire.

mod external;
mod lines;
mod process;
mod relay;
pub mod template;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use multicast_relay::control::Stats;

pub use process::{Ended, Launch, Process};
use template::Values;

use crate::net::{Namespace, NetError};
use crate::scenario::{Subject, SubjectKind};
use crate::trial::flows::Route;

/// How long a relay may take to report its counters.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a subject may take to end after it was asked to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A subject that cannot be started. What a subject does once it runs is no error of the lab's but a finding.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// A file of the trial.
    #[error("write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration for the relay.
    #[error("write the relay's configuration")]
    Configuration(#[from] toml::ser::Error),
    /// The program.
    #[error("start {}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is not there.
    #[error(
        "subject \"{subject}\": there is no program \"{program}\" on this machine: install it, or correct `command`"
    )]
    NotInstalled {
        /// Whose.
        subject: String,
        /// Which.
        program: String,
    },
    /// The processors for it.
    #[error("choose the processors of the subject")]
    Placement {
        /// Why.
        source: io::Error,
    },
    /// The namespace for it.
    #[error(transparent)]
    Namespace(#[from] NetError),
}

/// Everything a subject needs to know of the trial it is started for.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// Where it runs.
    pub namespace: &'a Namespace,
    /// Its input device.
    pub ingress: &'a str,
    /// What it has to do: one for each flow.
    pub routes: &'a [Route],
    /// A folder for its files and output.
    pub dir: &'a Path,
    /// The relay's program.
    pub relay_binary: &'a Path,
    /// The lab's own program.
    pub lab_binary: &'a Path,
    /// The processors it may use.
    pub cpus: Option<Vec<usize>>,
}

/// A subject at work.
#[derive(Debug)]
pub struct Running {
    /// A wire has none.
    process: Option<Process>,
    is_relay: bool,
}

/// What is left of a subject after its end.
#[derive(Debug, Default)]
pub struct Stopped {
    /// Its last report, when it makes reports.
    pub last_report: Option<Stats>,
    /// How it misbehaved.
    pub failures: Vec<String>,
}

impl Running {
    /// Starts `subject`.
    pub fn start(subject: &Subject, assignment: &Assignment<'_>) -> Result<Self, SubjectError> {
        let launch = match &subject.kind {
            SubjectKind::Relay(table) => relay::launch(table, assignment)?,
            SubjectKind::Command(command) => external::launch(command, assignment)?,
            SubjectKind::Wire => return Ok(Self { process: None, is_relay: false }),
        };
        let process = Some(Process::start(&launch, assignment.namespace)?);
        Ok(Self { process, is_relay: matches!(subject.kind, SubjectKind::Relay(_)) })
    }

    /// Its process id, if it is a process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Why it cannot go on, if it has ended.
    pub fn died(&mut self, when: &str) -> Option<String> {
        let status = self.process.as_mut()?.ended()?;
        Some(with_last_words(&format!("the subject ended {when}: {status}"), &self.last_words()))
    }

    /// Its counters now: `None` when it has none to report, an error when it should and does not.
    pub fn report(&mut self) -> Result<Option<Stats>, String> {
        let (Some(process), true) = (&mut self.process, self.is_relay) else { return Ok(None) };
        process.ask_for_report().map_err(|error| format!("ask the relay for its counters: {error}"))?;
        let deadline = Instant::now() + REPORT_PATIENCE;
        while let Some(line) = process.next_line(deadline) {
            if let Some(stats) = parse_report(&line) {
                return Ok(Some(stats));
            }
        }
        let silent = format!("the relay did not report its counters within {} s", REPORT_PATIENCE.as_secs());
        Err(self.died("before it reported its counters").unwrap_or(silent))
    }

    /// Ends it and looks at how it took that.
    pub fn stop(mut self) -> io::Result<Stopped> {
        let by_itself = self.died("by itself");
        let mut stopped = Stopped::default();
        let Some(mut process) = self.process else { return Ok(stopped) };
        let ended = process.stop(END_PATIENCE)?;
        if let Some(died) = by_itself {
            stopped.failures.push(died);
        } else if ended.killed {
            let slow = format!("the subject did not end within {} s of SIGTERM", END_PATIENCE.as_secs());
            stopped.failures.push(with_last_words(&slow, &process.last_words()));
        } else if self.is_relay && !ended.status.success() {
            // Other programs may well die of the signal; the relay promises to end in order.
            let status = format!("the relay ended with {}", ended.status);
            stopped.failures.push(with_last_words(&status, &process.last_words()));
        }
        if self.is_relay {
            stopped.last_report = process.remaining_lines().iter().rev().find_map(|line| parse_report(line));
        }
        Ok(stopped)
    }

    /// The last lines it wrote.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }
}

/// Makes sure that `subject`'s program is there before anything is built for it.
pub fn check_installed(subject: &Subject, lab_binary: &Path) -> Result<(), SubjectError> {
    match &subject.kind {
        SubjectKind::Relay(_) | SubjectKind::Wire => Ok(()),
        SubjectKind::Command(command) => external::check_installed(&subject.name, command, lab_binary),
    }
}

fn parse_report(line: &str) -> Option<Stats> {
    serde_json::from_str(line).ok()
}

/// `what`, and below it what the subject wrote last.
pub fn with_last_words(what: &str, words: &str) -> String {
    if words.is_empty() { what.to_owned() } else { format!("{what}\n{words}") }
}

/// What the placeholders of a command stand for.
fn values(assignment: &Assignment<'_>) -> Values {
    let first = assignment.routes.first();
    let output = first.and_then(|route| route.outputs.first());
    let text =
        |address: Option<std::net::SocketAddr>| address.map(|a| a.ip().to_string()).unwrap_or_default();
    let port = |address: Option<std::net::SocketAddr>| address.map(|a| a.port()).unwrap_or_default();
    let (from, to) = (first.map(|route| route.input), output.map(|output| output.destination));
    Values {
        ingress: assignment.ingress.to_owned(),
        egress: output.map(|output| output.device.clone()).unwrap_or_default(),
        group: text(from),
        port: port(from),
        out_group: text(to),
        out_port: port(to),
        dir: assignment.dir.to_owned(),
        lab: assignment.lab_binary.to_owned(),
    }
}
