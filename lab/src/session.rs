//! What all trials of a run share, and how they are held.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::cli::RunArgs;
use crate::net::RunName;
use crate::relay_binary;
use crate::report::Progress;
use crate::results::{Folder, Trial};
use crate::run::RunError;
use crate::scenario::{Condition, Scenario, Subject, SubjectKind};
use crate::sys::core_dump;
use crate::trial::placement::Placement;
use crate::trial::{self, Order, Watch};
use crate::verdict::Verdict;

/// Who is shown how far a run is, and who may end it.
pub(crate) struct Watched<'a> {
    pub(crate) progress: Progress,
    pub(crate) interrupted: &'a AtomicBool,
}

/// A trial to be held.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) subject: &'a Subject,
    pub(crate) condition: Condition,
    pub(crate) block: usize,
    /// Tells the folders of trials apart that are not of the run itself.
    pub(crate) series: &'static str,
}

/// What all trials of a run share.
pub(crate) struct Session<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) folder: Folder,
    run: RunName,
    pub(crate) relay_binary: PathBuf,
    lab_binary: PathBuf,
    placement: Placement,
}

impl<'a> Session<'a> {
    /// Everything that can fail before traffic runs does so here.
    pub(crate) fn prepare(
        args: &RunArgs,
        scenario: &'a Scenario,
        subjects: &[&Subject],
        lab_binary: PathBuf,
        folder: &str,
    ) -> Result<Self, RunError> {
        let needs_relay = subjects.iter().any(|subject| matches!(subject.kind, SubjectKind::Relay(_)));
        let relay_binary =
            if needs_relay { relay_binary::find(args.relay.as_deref())? } else { PathBuf::new() };
        let placement = Placement::here().map_err(|source| RunError::System {
            operation: "find the processors of this machine",
            source,
        })?;
        if !scenario.events.is_empty() {
            let operation = "forbid core files";
            core_dump::forbid().map_err(|source| RunError::System { operation, source })?;
        }
        let run = RunName::claim()?;
        // Last, because it takes away what an earlier run has left there.
        let folder = match &args.out {
            Some(out) => Folder::prepare(out),
            None => Folder::prepare_default(&Path::new("lab-results").join(folder)),
        }?;
        Ok(Self { scenario, folder, run, relay_binary, lab_binary, placement })
    }

    /// Holds every trial of `alone`, a calibration of the scenario.
    pub(crate) fn calibrate(
        &self,
        alone: &Scenario,
        when: &'static str,
        interrupted: &AtomicBool,
        trials: &mut Vec<Trial>,
    ) -> Result<(), RunError> {
        let conditions = alone.conditions();
        let watched = Watched { progress: Progress::start(when, Some(conditions.len())), interrupted };
        for condition in conditions {
            for subject in &alone.subjects {
                let task = Task { scenario: alone, subject, condition, block: 1, series: when };
                self.hold_until_conclusive(task, &watched, trials)?;
            }
        }
        Ok(())
    }

    /// Holds every trial of the scenario.
    pub(crate) fn hold_all(
        &self,
        subjects: &[&Subject],
        interrupted: &AtomicBool,
        trials: &mut Vec<Trial>,
    ) -> Result<(), RunError> {
        let conditions = self.scenario.conditions();
        let total = self.scenario.trials.blocks * conditions.len() * subjects.len();
        let watched = Watched { progress: Progress::start("", Some(total)), interrupted };
        for block in 1..=self.scenario.trials.blocks {
            for (condition, subject) in order_of(block, &conditions, subjects) {
                let task = Task { scenario: self.scenario, subject, condition, block, series: "" };
                self.hold_until_conclusive(task, &watched, trials)?;
            }
        }
        Ok(())
    }

    /// Holds a trial, again where it proves nothing, as often as the scenario allows. Returns the last verdict.
    pub(crate) fn hold_until_conclusive(
        &self,
        task: Task<'_>,
        watched: &Watched<'_>,
        trials: &mut Vec<Trial>,
    ) -> Result<Verdict, RunError> {
        let mut attempt = 1;
        loop {
            let trial = self.hold(task, attempt, trials.len(), watched)?;
            watched.progress.finished(&trial);
            let verdict = trial.verdict;
            trials.push(trial);
            if verdict.is_conclusive() || attempt > task.scenario.trials.retries {
                watched.progress.next();
                return Ok(verdict);
            }
            attempt += 1;
        }
    }

    fn hold(
        &self,
        task: Task<'_>,
        attempt: usize,
        number: usize,
        Watched { progress, interrupted }: &Watched<'_>,
    ) -> Result<Trial, RunError> {
        let Task { scenario, subject, condition, block, series } = task;
        let dash = if series.is_empty() { "" } else { "-" };
        let dir = self.folder.trial(&format!("{series}{dash}{:03}-{}", number + 1, subject.name))?;
        progress.begin(subject, &condition);
        let order = Order {
            scenario,
            subject,
            condition,
            run: &self.run,
            dir: &dir,
            relay_binary: &self.relay_binary,
            lab_binary: &self.lab_binary,
            placement: &self.placement,
        };
        let watch = Watch { interrupted, on_phase: &|phase| progress.phase(phase) };
        let outcome = trial::hold(&order, &watch).map_err(RunError::Trial)?;
        Ok(Trial::new(scenario, subject, &condition, (block, attempt), outcome))
    }
}

/// What a block measures, in its order. Subjects take turns under one condition, so that what drifts meets all of
/// them; who is first changes from block to block, and so does the direction in which conditions are gone through.
fn order_of<'a>(
    block: usize,
    conditions: &[Condition],
    subjects: &[&'a Subject],
) -> Vec<(Condition, &'a Subject)> {
    let mut conditions = conditions.to_vec();
    if block.is_multiple_of(2) {
        conditions.reverse();
    }
    let mut subjects = subjects.to_vec();
    let first = (block - 1) % subjects.len().max(1);
    subjects.rotate_left(first);
    let pairs = conditions.iter().flat_map(|condition| subjects.iter().map(|subject| (*condition, *subject)));
    pairs.collect()
}
