//! What the lab measures: programs, each a process inside the relay's namespace, or nothing but a wire.

mod external;
mod lines;
mod process;
pub(crate) mod relay;
pub mod template;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use multicast_relay::control::Stats;
use serde::Serialize;

pub use process::{Ended, Launch, Process};
pub(crate) use relay::OurRelay;
use template::Values;

use crate::cpu::Family;
use crate::net::{Namespace, NamespaceId, NetError};
use crate::scenario::{Subject, SubjectKind};
use crate::sys::signal::Signal;
use crate::trial::flows::Route;

/// How long a relay may take to report its counters.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a subject may take to end after it was asked to.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(10);

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
        "subject \"{}\": there is no program \"{}\" on this machine: install it, correct `command`, or say \
         `optional = true` to leave the subject out where it is not installed", .0.subject, .0.program
    )]
    NotInstalled(NotInstalled),
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

/// A subject whose program is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotInstalled {
    /// Its name.
    pub subject: String,
    /// The program, by name or path.
    pub program: String,
}

impl fmt::Display for NotInstalled {
    /// What becomes of it where it is optional.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, program } = self;
        if program.contains('/') {
            write!(f, "{subject}: not installed (there is no program {program}), left out")
        } else {
            write!(f, "{subject}: not installed ({program} is not in PATH), left out")
        }
    }
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
    /// The device that rules use which nothing comes in for, where there is one.
    pub spare: Option<&'a str>,
    /// Whether our relay is told other things while it runs.
    pub has_events: bool,
}

/// A subject at work.
#[derive(Debug)]
pub struct Running {
    /// A wire has none.
    process: Option<Process>,
    /// What our relay was started with.
    relay: Option<OurRelay>,
    namespace: Option<NamespaceId>,
    /// Whether its process was ended on purpose and is not replaced yet.
    is_absent: bool,
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
        let (launch, relay) = match &subject.kind {
            SubjectKind::Relay(relay) => {
                let relay = OurRelay::prepare(relay, assignment)?;
                (relay.launch().clone(), Some(relay))
            }
            SubjectKind::Command(command) => (external::launch(command, assignment)?, None),
            SubjectKind::Wire => {
                return Ok(Self { process: None, relay: None, namespace: None, is_absent: false });
            }
        };
        let process = Some(Process::start(&launch, assignment.namespace)?);
        let namespace = Some(assignment.namespace.id()?);
        Ok(Self { process, relay, namespace, is_absent: false })
    }

    /// Who belongs to it, if it is a process.
    pub fn family(&self) -> Option<Family> {
        let Self { process, namespace, .. } = self;
        process.as_ref().map(|process| Family { pid: process.pid(), namespace: *namespace })
    }

    /// What our relay was started with.
    pub(crate) fn relay(&mut self) -> Option<&mut OurRelay> {
        self.relay.as_mut()
    }

    /// Ends its own process, and that alone, until it is [replaced](Self::replace).
    pub(crate) fn strike(&mut self, signal: Signal) -> io::Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        process.strike(signal, END_PATIENCE)?;
        self.is_absent = true;
        Ok(())
    }

    /// Starts our relay again as it was started before, and returns the id of its process.
    pub(crate) fn replace(&mut self, namespace: &Namespace) -> Result<Option<u32>, SubjectError> {
        let Some(relay) = &self.relay else { return Ok(None) };
        let process = self.process.insert(Process::start(relay.launch(), namespace)?);
        self.is_absent = false;
        Ok(Some(process.pid()))
    }

    /// Asks our relay by a signal to read its configuration again.
    pub(crate) fn ask_to_reload(&mut self) -> io::Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::ask_to_reload)
    }

    /// Why it cannot go on, if it has ended by itself.
    pub fn died(&mut self, when: &str) -> Option<String> {
        if self.is_absent {
            return None;
        }
        let status = self.process.as_mut()?.ended()?;
        Some(with_last_words(&format!("the subject ended {when}: {status}"), &self.last_words()))
    }

    /// Its counters now: `None` when it has none to report, an error when it should and does not.
    pub fn report(&mut self) -> Result<Option<Stats>, String> {
        let (Some(process), true) = (&mut self.process, self.relay.is_some()) else { return Ok(None) };
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
        let is_relay = self.relay.is_some();
        let Some(mut process) = self.process else { return Ok(stopped) };
        let ended = process.stop(END_PATIENCE)?;
        if let Some(died) = by_itself {
            stopped.failures.push(died);
        } else if ended.killed {
            let slow = format!("the subject did not end within {} s of SIGTERM", END_PATIENCE.as_secs());
            stopped.failures.push(with_last_words(&slow, &process.last_words()));
        } else if is_relay && !ended.status.success() {
            // Other programs may well die of the signal; the relay promises to end in order.
            let status = format!("the relay ended with {}", ended.status);
            stopped.failures.push(with_last_words(&status, &process.last_words()));
        }
        if is_relay {
            stopped.last_report = process.remaining_lines().iter().rev().find_map(|line| parse_report(line));
        }
        Ok(stopped)
    }

    /// The last lines it wrote.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }
}

/// Divides `subjects` into those whose program is there and those that are left out because it is not, before anything
/// is built for them.
///
/// # Errors
/// A program that is not there, of a subject that is not optional.
pub fn installed<'a>(
    subjects: Vec<&'a Subject>,
    lab_binary: &Path,
) -> Result<(Vec<&'a Subject>, Vec<NotInstalled>), SubjectError> {
    let (mut there, mut left_out) = (Vec::new(), Vec::new());
    for subject in subjects {
        let missing = match &subject.kind {
            SubjectKind::Relay(_) | SubjectKind::Wire => None,
            SubjectKind::Command(command) => external::missing_program(command, lab_binary)
                .map(|program| (command.optional, NotInstalled { subject: subject.name.clone(), program })),
        };
        match missing {
            None => there.push(subject),
            Some((true, missing)) => left_out.push(missing),
            Some((false, missing)) => return Err(SubjectError::NotInstalled(missing)),
        }
    }
    Ok((there, left_out))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    /// A subject for each of `keys`, named a, b and so on, those with installed programs, and those without.
    fn divided(keys: &[&str]) -> Result<(Vec<String>, Vec<NotInstalled>), SubjectError> {
        let subjects =
            keys.iter().zip('a'..).map(|(keys, name)| format!("[[subject]]\nname = '{name}'\n{keys}\n"));
        let text = format!("name = 'x'\n[traffic]\nrate-pps = 1\n{}", subjects.collect::<String>());
        let scenario: Scenario = text.parse().unwrap();
        let (there, left_out) = installed(scenario.subjects.iter().collect(), Path::new("/bin/sh"))?;
        Ok((there.into_iter().map(|subject| subject.name.clone()).collect(), left_out))
    }

    #[test]
    fn only_what_is_optional_is_left_out() {
        let (there, left_out) = divided(&[
            "relay = {}",
            "command = ['no-such-relay', '-x']\noptional = true",
            "command = ['{lab}']\noptional = true",
            "command = ['/no/such/relay']\noptional = true",
            "command = ['{dir}/relay']\noptional = true",
        ])
        .unwrap();
        assert_eq!(there, ["a", "c", "e"]);
        let told: Vec<_> = left_out.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "b: not installed (no-such-relay is not in PATH), left out",
                "d: not installed (there is no program /no/such/relay), left out",
            ]
        );
        for keys in ["command = ['no-such-relay']", "command = ['no-such-relay']\noptional = false"] {
            let error = divided(&["relay = {}", keys]).unwrap_err().to_string();
            assert!(error.starts_with("subject \"b\": there is no program \"no-such-relay\""), "{error}");
        }
    }
}
