//! What the tests of the lab's program share.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use lab::net::RunName;
use serde_json::Value;
use tempfile::TempDir;

/// One run of the lab in a folder of its own.
pub(crate) struct Lab {
    dir: TempDir,
}

/// What came of it.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// `results.json`, if it was written.
    pub(crate) results: Option<Value>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("make a temporary folder") }
    }

    /// For a run that builds a network. Without root the error is the sentence that says so.
    pub(crate) fn as_root() -> Self {
        drop(RunName::claim().unwrap_or_else(|error| panic!("{error}")));
        Self::new()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Writes `text` as a scenario.
    pub(crate) fn scenario(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("scenario.toml");
        std::fs::write(&path, text).expect("write the scenario");
        path
    }

    /// The lab's program, in this folder. Nothing that cargo says reaches it, so that it builds nothing.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.current_dir(self.dir.path()).env_remove("CARGO");
        command
    }

    /// The relay's program beside the lab's, with one argument more, as a program of its own.
    pub(crate) fn relay_with(&self, argument: &str) -> PathBuf {
        let (relay, path) = (Path::new(env!("CARGO_BIN_EXE_lab")), self.dir.path().join("relay"));
        let relay = relay.with_file_name("multicast_relay");
        let text = format!("#!/bin/sh\nexec '{}' \"$@\" {argument}\n", relay.display());
        std::fs::write(&path, text).expect("write the relay's program");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("make it executable");
        path
    }

    /// `lab run` on the scenario in `path`.
    pub(crate) fn run(&self, path: &Path, more: &[&str]) -> Run {
        self.start("run", path, more)
    }

    /// `lab search` on the scenario `text`.
    pub(crate) fn search_text(&self, text: &str) -> Run {
        self.start("search", &self.scenario(text), &[])
    }

    fn start(&self, what: &str, path: &Path, more: &[&str]) -> Run {
        let out = self.out();
        let output = self.command().arg(what).arg(path).arg("--out").arg(&out).args(more).output();
        Run::new(&output.expect("start the lab"), &out)
    }

    /// `lab run` on the scenario `text`.
    pub(crate) fn run_text(&self, text: &str, more: &[&str]) -> Run {
        self.run(&self.scenario(text), more)
    }
}

impl Run {
    fn new(output: &Output, out: &Path) -> Self {
        let results = std::fs::read(out.join("results.json")).ok();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            results: results.map(|bytes| serde_json::from_slice(&bytes).expect("results.json is JSON")),
        }
    }

    /// Everything that was said, for the message of a failed assertion.
    pub(crate) fn said(&self) -> String {
        format!("exit {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    pub(crate) fn results(&self) -> &Value {
        self.results.as_ref().unwrap_or_else(|| panic!("there are no results: {}", self.said()))
    }

    pub(crate) fn trials(&self) -> &Vec<Value> {
        self.results()["trials"].as_array().expect("trials is a list")
    }

    /// The last attempt at each trial: what the verdict of the run rests on.
    pub(crate) fn last_attempts(&self) -> Vec<&Value> {
        let trials = self.trials();
        let next =
            |i: usize| trials.get(i + 1).map_or(1, |trial| trial["attempt"].as_u64().expect("attempt"));
        trials.iter().enumerate().filter(|(i, _)| next(*i) == 1).map(|(_, trial)| trial).collect()
    }
}

/// Asserts that the run failed, and returns the trials that did. A machine that was not ours, or that kept the
/// generator from its work, may leave a trial undecided; nothing makes it a pass.
pub(crate) fn failed(run: &Run) -> Vec<&Value> {
    let last = run.last_attempts();
    let failed: Vec<_> = last.iter().copied().filter(|trial| trial["verdict"] == "fail").collect();
    for trial in last.iter().filter(|trial| trial["verdict"] != "fail") {
        assert!(is_excused(trial), "{}", run.said());
    }
    assert_eq!(run.code, Some(if failed.is_empty() { 3 } else { 1 }), "{}", run.said());
    failed
}

fn is_excused(trial: &Value) -> bool {
    let over = |value: &Value, limit: f64| value.as_f64().is_some_and(|value| value > limit);
    match trial["verdict"].as_str() {
        // What was not measured has the share of the hypervisor in its reason only.
        Some("inconclusive") => over(&trial["steal_percent"], 1.0) || reasons(trial).contains("\nsteal "),
        Some("invalid") => over(&trial["generator_lag_ns"]["max"], 20e6),
        _ => false,
    }
}

/// The reasons of a trial, in one line.
pub(crate) fn reasons(trial: &Value) -> String {
    let reasons = trial["reasons"].as_array().expect("reasons is a list");
    reasons.iter().map(|reason| reason.as_str().expect("a reason is text")).collect::<Vec<_>>().join("; ")
}
