//! A run: every subject under every condition in every block, trials that proved nothing repeated, results written.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::cli::RunArgs;
use crate::comparison::{compare, not_compared};
use crate::generator::{self, GeneratorKind, xdp_obstacle};
use crate::net::{NetError, RunName};
use crate::relay_binary::{self, RelayBinaryError};
use crate::report::Progress;
use crate::results::{
    Environment, Folder, FolderError, Results, RunVerdict, SCHEMA, ScenarioSummary, Trial, last_attempts,
};
use crate::scenario::{Condition, GeneratorChoice, Scenario, ScenarioError, Subject, SubjectKind};
use crate::sink::xdp_works;
use crate::subject::{self, SubjectError};
use crate::traffic_error::TrafficError;
use crate::trial::placement::Placement;
use crate::trial::{self, Order, TrialError, Watch};
use crate::verdict::{Verdict, of_run};

/// Why a run could not begin or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// `--only` names nobody.
    #[error("--only {name}: the scenario has no such subject, it has {known}")]
    NoSuchSubject {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Without root.
    #[error(
        "running a scenario needs root, to build network namespaces and open packet sockets: run it with sudo"
    )]
    NeedsRoot,
    /// The relay's program.
    #[error(transparent)]
    RelayBinary(#[from] RelayBinaryError),
    /// A subject's program.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The generator that the scenario asks for.
    #[error("traffic.generator is \"xdp\", which does not work here")]
    Generator(#[source] TrafficError),
    /// The folder for results.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The run's name.
    #[error(transparent)]
    Net(#[from] NetError),
    /// What this machine is.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A trial. The results up to it are written.
    #[error(transparent)]
    Trial(TrialError),
}

/// A run that came to an end.
#[derive(Debug)]
pub struct Finished {
    /// What it found out.
    pub results: Results,
    /// Where that is written, or why it is not.
    pub file: Result<PathBuf, RunError>,
    /// What kept it from going on, when something did.
    pub error: Option<RunError>,
}

/// Runs what `arguments` ask for, until `interrupted` is true.
pub fn run(arguments: &RunArgs, interrupted: &AtomicBool) -> Result<Finished, RunError> {
    let mut scenario = Scenario::load(&arguments.scenario)?;
    let mut notes = Vec::new();
    // Without the privilege nothing runs anyway, and the kernel would not say what else it lacks.
    if may_build_networks() {
        notes.extend(settle_generator(&mut scenario)?);
        notes.extend(settle_sinks(&mut scenario));
    }
    let subjects = chosen(&scenario, &arguments.only)?;
    if !may_build_networks() {
        return Err(RunError::NeedsRoot);
    }
    let session = Session::prepare(arguments, &scenario, &subjects)?;
    notes.extend(not_compared(&scenario, &subjects));
    for note in &notes {
        eprintln!("lab: {note}");
    }
    let mut results = Results {
        schema: SCHEMA,
        scenario: ScenarioSummary {
            name: scenario.name.clone(),
            file: arguments.scenario.clone(),
            content: scenario.source.clone(),
        },
        environment: Environment::here(&session.relay_binary),
        verdict: RunVerdict::Error,
        error: None,
        trials: Vec::new(),
        comparisons: Vec::new(),
        notes,
    };
    let error = session.hold_all(&subjects, interrupted, &mut results.trials).err();
    results.comparisons = compare(&scenario, &subjects, &results.trials);
    results.verdict = match &error {
        None => verdict_on(&results).into(),
        Some(RunError::Trial(TrialError::Interrupted)) => RunVerdict::Interrupted,
        Some(_) => RunVerdict::Error,
    };
    results.error = error.as_ref().map(|error| error_chain(error));
    let file = session.folder.write_results(&results).map_err(RunError::from);
    Ok(Finished { results, file, error })
}

/// Decides what "auto" sinks are on this machine, and says why where they are not the best.
fn settle_sinks(scenario: &mut Scenario) -> Vec<String> {
    let mut reasons: Vec<String> = scenario.xdp_unfit().iter().map(ToString::to_string).collect();
    if scenario.may_choose_xdp()
        && let Err(error) = xdp_works(scenario.link)
    {
        scenario.without_xdp();
        reasons = vec![error_chain(&error)];
    }
    reasons.into_iter().map(|reason| format!("sinks.kind = \"auto\" is \"packet\" here: {reason}")).collect()
}

/// The verdict on a run that came to its end: of all trials, and of the ratios that were to be kept.
fn verdict_on(results: &Results) -> Verdict {
    let trials = last_attempts(&results.trials).map(|trial| trial.verdict);
    let ratios = results.comparisons.iter().filter_map(|comparison| comparison.verdict);
    of_run(trials.chain(ratios))
}

/// `error` and what caused it, in one line. Causes that an error has already said are not repeated.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// What all trials of a run share.
struct Session<'a> {
    scenario: &'a Scenario,
    folder: Folder,
    run: RunName,
    relay_binary: PathBuf,
    lab_binary: PathBuf,
    placement: Placement,
}

impl<'a> Session<'a> {
    /// Everything that can fail before traffic runs does so here.
    fn prepare(args: &RunArgs, scenario: &'a Scenario, subjects: &[&Subject]) -> Result<Self, RunError> {
        let system = |operation| move |source| RunError::System { operation, source };
        let lab_binary = env::current_exe().map_err(system("find the lab's own program"))?;
        for subject in subjects {
            subject::check_installed(subject, &lab_binary)?;
        }
        let folder = match &args.out {
            Some(out) => Folder::prepare(out),
            None => Folder::prepare_default(&Path::new("lab-results").join(&scenario.name)),
        }?;
        let needs_relay = subjects.iter().any(|subject| matches!(subject.kind, SubjectKind::Relay(_)));
        let relay_binary =
            if needs_relay { relay_binary::find(args.relay.as_deref())? } else { PathBuf::new() };
        let placement = Placement::here().map_err(system("find the processors of this machine"))?;
        Ok(Self { scenario, folder, run: RunName::claim()?, relay_binary, lab_binary, placement })
    }

    fn hold_all(
        &self,
        subjects: &[&Subject],
        interrupted: &AtomicBool,
        trials: &mut Vec<Trial>,
    ) -> Result<(), RunError> {
        let conditions = self.scenario.conditions();
        let total = self.scenario.trials.blocks * conditions.len() * subjects.len();
        let progress = Progress::start(total);
        for block in 1..=self.scenario.trials.blocks {
            for (condition, subject) in order_of(block, &conditions, subjects) {
                for attempt in 1..=self.scenario.trials.retries + 1 {
                    let trial = self.hold(
                        subject,
                        condition,
                        (block, attempt),
                        trials.len(),
                        interrupted,
                        &progress,
                    )?;
                    progress.finished(&trial);
                    let conclusive = trial.verdict.is_conclusive();
                    trials.push(trial);
                    if conclusive {
                        break;
                    }
                }
                progress.next();
            }
        }
        Ok(())
    }

    fn hold(
        &self,
        subject: &Subject,
        condition: Condition,
        turn: (usize, usize),
        number: usize,
        interrupted: &AtomicBool,
        progress: &Progress,
    ) -> Result<Trial, RunError> {
        let dir = self.folder.trial(&format!("{:03}-{}", number + 1, subject.name))?;
        progress.begin(subject, &condition);
        let order = Order {
            scenario: self.scenario,
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
        Ok(Trial::new(self.scenario, subject, &condition, turn, outcome))
    }
}

/// Makes sure of the xdp generator where the scenario leaves a choice or asks for it, and says why another one sends.
fn settle_generator(scenario: &mut Scenario) -> Result<Vec<String>, RunError> {
    Ok(match (scenario.traffic.generator, generator_obstacle(scenario)) {
        (GeneratorChoice::Always(GeneratorKind::Xdp), Some(obstacle)) => {
            return Err(RunError::Generator(obstacle));
        }
        (GeneratorChoice::Auto, Some(obstacle)) => {
            scenario.traffic.generator = GeneratorChoice::Always(GeneratorKind::Packet);
            vec![format!("the packet generator sends, because XDP does not work here: {obstacle}")]
        }
        (GeneratorChoice::Auto, None) => {
            let cannot = |&bytes: &usize| {
                let obstacle = xdp_obstacle(scenario.link, bytes)?;
                Some(format!("the packet generator sends payloads of {bytes} bytes, {obstacle}"))
            };
            scenario.traffic.payloads_bytes.iter().filter_map(cannot).collect()
        }
        (GeneratorChoice::Always(_), _) => Vec::new(),
    })
}

/// What keeps the xdp generator from working, if the scenario may need it.
fn generator_obstacle(scenario: &Scenario) -> Option<TrafficError> {
    let is_needed = scenario.conditions().iter().any(|condition| condition.generator == GeneratorKind::Xdp);
    is_needed.then(generator::try_xdp)?.err()
}

/// The subjects that `--only` names, or all.
fn chosen<'a>(scenario: &'a Scenario, only: &[String]) -> Result<Vec<&'a Subject>, RunError> {
    let all = &scenario.subjects;
    for name in only {
        if !all.iter().any(|subject| subject.name == *name) {
            let known = all.iter().map(|subject| subject.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(RunError::NoSuchSubject { name: name.clone(), known });
        }
    }
    Ok(all.iter().filter(|subject| only.is_empty() || only.contains(&subject.name)).collect())
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

/// Whether this process may do what building a network takes.
fn may_build_networks() -> bool {
    // linux/capability.h: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
    const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|effective| effective & NEEDED == NEEDED)
}
