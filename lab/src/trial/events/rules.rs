//! Rules that change: by the configuration file, and by commands.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multicast_relay::control::{Answer, Command, RuleSpec, RuleStatus, Selector, State};

use super::client::{CallError, Client};
use super::{Failure, LOOK, PATIENCE, Player, lock};
use crate::scenario::event::{Content, Via};
use crate::subject::{OurRelay, SubjectError};

/// How long a relay gets to read what is no configuration, when nobody says that it has.
const READING: Duration = Duration::from_millis(200);
/// What rules are called that come and go by commands: those are in no file.
const FURTHER: &str = "further-";

impl From<SubjectError> for Failure {
    fn from(error: SubjectError) -> Self {
        Self::Lab(error.to_string())
    }
}

impl Player<'_> {
    /// What the relay answers to `command`, over a connection that is made anew when it has ended.
    pub(super) fn ask(&mut self, command: &Command) -> Result<Answer, CallError> {
        let mut client = if let Some(client) = self.client.take() {
            client
        } else {
            let path = lock(self.subject).relay().map(|relay| relay.control().to_owned());
            Client::connect(&path.unwrap_or_default(), PATIENCE)?
        };
        let answer = client.call(command);
        if matches!(answer, Ok(_) | Err(CallError::Refused(_))) {
            self.client = Some(client);
        }
        answer
    }

    /// The same of a command that must work.
    fn tell(&mut self, command: &Command) -> Result<Answer, Failure> {
        self.ask(command).map_err(|error| Failure::Subject(format!("`{}` failed: {error}", command.name())))
    }

    /// Does `work` with what our relay was started with.
    fn with_relay<T>(&self, work: impl FnOnce(&mut OurRelay) -> T) -> Result<T, Failure> {
        let mut subject = lock(self.subject);
        subject.relay().map(work).ok_or_else(|| Failure::Lab("the subject is not our relay".to_owned()))
    }

    fn rules(&mut self) -> Result<Vec<RuleStatus>, Failure> {
        match self.tell(&Command::List)? {
            Answer::Rules(rules) => Ok(rules),
            other => Err(Failure::Subject(format!("`list` was answered by {other:?}"))),
        }
    }

    /// Has the relay read its file again, with other rules in it or with nonsense.
    pub(super) fn reload(&mut self, content: Content, via: Via) -> Result<(), Failure> {
        match content {
            Content::File => {
                self.with_relay(OurRelay::turn_neighbours)??;
                self.have_it_read(via)?
                    .map_err(|said| Failure::Subject(format!("`reload` failed: {said}")))?;
                let expected = self.with_relay(|relay| relay.rule_names())?;
                self.wait_for(|player| {
                    let found = names_in_file(&player.rules()?);
                    Ok(if found == expected { Ok(()) } else { Err(difference(&expected, &found)) })
                })?;
                self.forget_what_is_gone()
            }
            Content::Invalid => {
                let before = self.rules()?;
                self.with_relay(|relay| relay.write_nonsense())??;
                let told = self.have_it_read(via);
                self.with_relay(|relay| relay.write())??;
                if (told?.is_ok(), via) == (true, Via::Command) {
                    let what = "`reload` of what is no configuration said that all was well";
                    return Err(Failure::Subject(what.to_owned()));
                }
                let after = self.rules()?;
                let same = before == after;
                let names = |rules: &[RuleStatus]| names_in_file(rules);
                same.then_some(()).ok_or_else(|| {
                    Failure::Subject(format!(
                        "what is no configuration changed the rules: {}",
                        difference(&names(&before), &names(&after))
                    ))
                })
            }
        }
    }

    /// Tells the relay to read its file; `Err` is what its command says when it fails.
    fn have_it_read(&mut self, via: Via) -> Result<Result<(), String>, Failure> {
        let (program, control) =
            self.with_relay(|relay| (relay.program().to_owned(), relay.control().to_owned()))?;
        match via {
            Via::Command => {
                run_reload(&program, &control).map_err(|error| Failure::Lab(format!("run `reload`: {error}")))
            }
            Via::Signal => {
                let asked = lock(self.subject).ask_to_reload();
                asked.map_err(|error| Failure::Lab(format!("send SIGHUP: {error}")))?;
                thread::sleep(READING);
                Ok(Ok(()))
            }
        }
    }

    /// Adds so many rules, and removes those that came last time.
    pub(super) fn churn(&mut self, count: usize) -> Result<(), Failure> {
        let (first, gone) = self.further;
        let next = first + gone;
        let (rules, old) =
            self.with_relay(|relay| (relay.further_rules(next, count), relay.further_rules(first, gone)))?;
        self.tell(&Command::Add { rules })?;
        self.further = (next, count);
        self.remove(old)
    }

    /// Forgets the rules that came last if they are gone: what is in no file may go when that is read, or with the supervisor
    /// that was told of it.
    pub(super) fn forget_what_is_gone(&mut self) -> Result<(), Failure> {
        let (first, count) = self.further;
        let last = self.with_relay(|relay| relay.further_rules(first, count))?;
        let rules = self.rules()?;
        let is_there = |rule: &RuleSpec| rules.iter().any(|status| status.rule.name == rule.name);
        if !last.iter().all(is_there) {
            self.further = (first + count, 0);
        }
        Ok(())
    }

    /// Removes the rules that came last.
    pub(super) fn end_churn(&mut self) -> Result<(), Failure> {
        let (first, count) = self.further;
        self.further = (first + count, 0);
        let old = self.with_relay(|relay| relay.further_rules(first, count))?;
        self.remove(old)
    }

    fn remove(&mut self, old: Vec<RuleSpec>) -> Result<(), Failure> {
        if old.is_empty() {
            return Ok(());
        }
        let selectors = old.into_iter().filter_map(|rule| rule.name.map(Selector::Name));
        self.tell(&Command::Remove { rules: selectors.collect() })?;
        Ok(())
    }

    /// Waits until no rule waits for anything.
    pub(super) fn wait_until_all_relay(&mut self) -> Result<(), Failure> {
        self.wait_for(|player| {
            let rules = player.rules()?;
            let waiting: Vec<_> = rules.iter().filter_map(why_it_waits).collect();
            Ok(if waiting.is_empty() { Ok(()) } else { Err(format!("rules waited: {}", waiting.join("; "))) })
        })
    }
}

/// Why a rule does not do all that it should, if it does not.
fn why_it_waits(rule: &RuleStatus) -> Option<String> {
    let outputs = rule.outputs.iter();
    let idle = outputs.filter(|output| output.state == State::Waiting).flat_map(|output| &output.reasons);
    let waits = rule.state == State::Waiting || rule.outputs.iter().any(|o| o.state == State::Waiting);
    let reasons: Vec<_> = rule.reasons.iter().chain(idle).cloned().collect();
    waits.then(|| format!("{} ({})", name_of(&rule.rule), reasons.join(", ")))
}

fn name_of(rule: &RuleSpec) -> &str {
    rule.name.as_deref().unwrap_or_default()
}

/// The names of those rules that are from a file, sorted.
fn names_in_file(rules: &[RuleStatus]) -> Vec<String> {
    let names = rules.iter().map(|rule| name_of(&rule.rule));
    let mut names: Vec<_> = names.filter(|name| !name.starts_with(FURTHER)).map(str::to_owned).collect();
    names.sort();
    names
}

/// What `found` lacks of what is `expected`, and has beside it.
fn difference(expected: &[String], found: &[String]) -> String {
    let without = |some: &[String], others: &[String]| {
        let left = some.iter().filter(|name| !others.contains(name)).cloned();
        left.collect::<Vec<_>>().join(", ")
    };
    let (missing, more) = (without(expected, found), without(found, expected));
    format!("missing [{missing}], not expected [{more}]")
}

/// Runs the relay's command; what it says when it fails.
fn run_reload(program: &Path, control: &Path) -> io::Result<Result<(), String>> {
    let mut child = Program::new(program)
        .arg("reload")
        .arg("--control-socket")
        .arg(control)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Err(format!("it did not end within {} s", PATIENCE.as_secs())));
        }
        thread::sleep(LOOK / 4);
    };
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    Ok(if status.success() { Ok(()) } else { Err(format!("{status}: {}", said.trim())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: State, reason: &str) -> RuleStatus {
        let text = format!(
            r#"{{"name": "{name}", "input": {{"interface": "a", "group": "239.1.1.1", "port": 5}},
                "outputs": [{{"interface": "b", "group": "239.1.1.2", "port": 6}}]}}"#
        );
        let reasons = if reason.is_empty() { vec![] } else { vec![reason.to_owned()] };
        RuleStatus { rule: serde_json::from_str(&text).unwrap(), state, reasons, outputs: vec![] }
    }

    #[test]
    fn only_what_is_in_the_file_is_compared_with_it() {
        let rules = ["b", "further-7", "a"].map(|name| status(name, State::Relaying, ""));
        assert_eq!(names_in_file(&rules), ["a", "b"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let told = difference(&names(&["a", "b"]), &names(&["b", "c"]));
        assert_eq!(told, "missing [a], not expected [c]");
    }

    #[test]
    fn a_rule_that_waits_is_told_with_its_reasons() {
        assert_eq!(why_it_waits(&status("x", State::Relaying, "")), None);
        let waiting = status("x", State::Waiting, "input a: is down");
        assert_eq!(why_it_waits(&waiting).as_deref(), Some("x (input a: is down)"));
    }

    #[test]
    fn a_command_that_fails_is_told_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("relay");
        let run = |text: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            run_reload(&program, Path::new("/socket")).unwrap()
        };
        assert_eq!(run("exit 0"), Ok(()));
        assert_eq!(
            run("echo \"$@\" >&2; exit 1"),
            Err("exit status: 1: reload --control-socket /socket".into())
        );
    }
}
