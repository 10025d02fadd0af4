//! A run: every subject under every condition in every block, trials that proved nothing repeated, results written.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::calibration::{self, Calibration, deduct_wire};
use crate::cli::RunArgs;
use crate::comparison::{compare, not_compared};
use crate::generator::{self, GeneratorKind, xdp_obstacle};
use crate::net::NetError;
use crate::relay_binary::RelayBinaryError;
use crate::results::{
    Environment, FolderError, Results, RunKind, RunVerdict, SCHEMA, ScenarioSummary, last_attempts,
};
use crate::scenario::{GeneratorChoice, Measure, Scenario, ScenarioError, Subject};
use crate::search::{self, SearchError};
use crate::session::Session;
use crate::sink::xdp_works;
use crate::subject::{SubjectError, installed};
use crate::topology::Segmentation;
use crate::traffic_error::TrafficError;
use crate::trial::TrialError;
use crate::verdict::{Verdict, of_run};

/// Why a run could not begin or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The scenario leaves nothing to search.
    #[error(transparent)]
    Search(#[from] SearchError),
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

/// Holds every trial of the scenario that `arguments` name, until `interrupted` is true.
pub fn run(arguments: &RunArgs, interrupted: &AtomicBool) -> Result<Finished, RunError> {
    let scenario = Scenario::load(&arguments.scenario)?;
    conduct(RunKind::Run, arguments, scenario, |session, subjects, results| {
        let error = hold_trials(session, subjects, interrupted, results).err();
        deduct_wire(session.scenario, results.calibration.as_ref(), &mut results.trials);
        results.notes.extend(results.calibration.iter().flat_map(calibration::notes));
        results.comparisons = compare(session.scenario, subjects, &results.not_installed, &results.trials);
        results.notes.extend(not_compared(session.scenario, subjects, &results.not_installed));
        let unanswered = unanswered(session.scenario, subjects, results);
        error.map_or_else(|| Ok(verdict_on(results, unanswered)), Err)
    })
}

/// Holds every trial, and those of the lab alone before and after them.
fn hold_trials(
    session: &Session<'_>,
    subjects: &[&Subject],
    interrupted: &AtomicBool,
    results: &mut Results,
) -> Result<(), RunError> {
    let alone = calibration::scenario_for(session.scenario).filter(|_| !subjects.is_empty());
    let Some(alone) = alone else { return session.hold_all(subjects, interrupted, &mut results.trials) };
    let calibration = results.calibration.insert(Calibration::default());
    session.calibrate(&alone, "before", interrupted, &mut calibration.before)?;
    session.hold_all(subjects, interrupted, &mut results.trials)?;
    session.calibrate(&alone, "after", interrupted, &mut calibration.after)
}

/// Searches the highest rates without loss between the least and the highest of the scenario that `arguments` name,
/// until `interrupted` is true.
pub fn search(arguments: &RunArgs, interrupted: &AtomicBool) -> Result<Finished, RunError> {
    search_in(Scenario::load(&arguments.scenario)?, arguments, interrupted)
}

/// The same in a scenario that is there.
pub(crate) fn search_in(
    mut scenario: Scenario,
    arguments: &RunArgs,
    interrupted: &AtomicBool,
) -> Result<Finished, RunError> {
    let range = search::range(&mut scenario)?;
    conduct(RunKind::Search, arguments, scenario, |session, subjects, results| {
        search::search(session, subjects, range, interrupted, results)
    })
}

/// Prepares what all runs need, lets `hold` hold the trials and come to a verdict, and writes what was found out,
/// whatever ended it.
fn conduct(
    kind: RunKind,
    arguments: &RunArgs,
    mut scenario: Scenario,
    hold: impl FnOnce(&Session<'_>, &[&Subject], &mut Results) -> Result<Verdict, RunError>,
) -> Result<Finished, RunError> {
    let replay = scenario.traffic.replay.as_ref();
    let mut notes: Vec<_> = replay.map(|replay| replay.recording.to_string()).into_iter().collect();
    // Without the privilege nothing runs anyway, and the kernel would not say what else it lacks.
    if may_build_networks() {
        notes.extend(settle_generator(&mut scenario)?);
        notes.extend(settle_sinks(&mut scenario));
    }
    let subjects = chosen(&scenario, &arguments.only)?;
    if !may_build_networks() {
        return Err(RunError::NeedsRoot);
    }
    let lab_binary = env::current_exe()
        .map_err(|source| RunError::System { operation: "find the lab's own program", source })?;
    let (subjects, not_installed) = installed(subjects, &lab_binary)?;
    notes.extend(not_installed.iter().map(ToString::to_string));
    let folder = match kind {
        RunKind::Run => scenario.name.clone(),
        RunKind::Search => format!("{}-search", scenario.name),
    };
    let session = Session::prepare(arguments, &scenario, &subjects, lab_binary, &folder)?;
    for note in &notes {
        eprintln!("lab: {note}");
    }
    let mut results = Results {
        schema: SCHEMA,
        kind,
        scenario: ScenarioSummary {
            name: scenario.name.clone(),
            file: arguments.scenario.clone(),
            content: scenario.source.clone(),
        },
        environment: Environment::here(&session.relay_binary),
        verdict: RunVerdict::Error,
        error: None,
        not_installed,
        trials: Vec::new(),
        calibration: None,
        comparisons: Vec::new(),
        searches: Vec::new(),
        search_ratios: Vec::new(),
        notes,
    };
    let ended = hold(&session, &subjects, &mut results);
    results.verdict = match &ended {
        Ok(verdict) => (*verdict).into(),
        Err(RunError::Trial(TrialError::Interrupted)) => RunVerdict::Interrupted,
        Err(_) => RunVerdict::Error,
    };
    let error = ended.err();
    results.error = error.as_ref().map(|error| error_chain(error));
    let file = session.folder.write_results(&results).map_err(RunError::from);
    Ok(Finished { results, file, error })
}

/// Decides what "auto" sinks are on this machine, and says why where they are not the best.
fn settle_sinks(scenario: &mut Scenario) -> Vec<String> {
    let mut reasons: Vec<String> = scenario.xdp_unfit().iter().map(ToString::to_string).collect();
    if scenario.may_choose_xdp()
        && let Err(error) = xdp_works(scenario.link.with(Segmentation::Wire))
    {
        scenario.without_xdp();
        reasons = vec![error_chain(&error)];
    }
    reasons.into_iter().map(|reason| format!("sinks.kind = \"auto\" is \"packet\" here: {reason}")).collect()
}

/// The verdict on a run that came to its end: of all trials, of the ratios that were to be kept, and on what is left
/// `unanswered`.
fn verdict_on(results: &Results, unanswered: Option<Verdict>) -> Verdict {
    let trials = last_attempts(&results.trials).map(|trial| trial.verdict);
    let ratios = results.comparisons.iter().filter_map(|comparison| comparison.verdict);
    of_run(trials.chain(ratios).chain(unanswered))
}

/// What is left undecided: everything when nothing was expected of whom has run; and what is expected by name of a subject
/// that is not installed. Notes tell.
fn unanswered(scenario: &Scenario, subjects: &[&Subject], results: &mut Results) -> Option<Verdict> {
    let named = scenario.expect.subjects.as_deref().unwrap_or_default();
    let asked =
        results.not_installed.iter().map(|missing| &missing.subject).filter(|name| named.contains(name));
    let notes: Vec<_> =
        asked.map(|name| format!("what is expected of {name} is not decided: it is not installed")).collect();
    let mut is_unanswered = subjects.is_empty() || !notes.is_empty();
    results.notes.extend(notes);
    if !subjects.is_empty() && !is_asked(scenario, results) {
        results
            .notes
            .push("nothing was expected of the subjects that have run: they are only measured".to_owned());
        is_unanswered = true;
    }
    is_unanswered.then_some(Verdict::Inconclusive)
}

/// Whether a trial or a ratio could have failed an expectation. Delays are there to be measured.
fn is_asked(scenario: &Scenario, results: &Results) -> bool {
    scenario.trials.measure == Measure::JoinLeave
        || results.trials.iter().any(|trial| trial.expected.is_some())
        || results.comparisons.iter().any(|comparison| comparison.verdict.is_some())
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

/// Makes sure of the xdp generator where the scenario leaves a choice or asks for it, and says why another one sends.
fn settle_generator(scenario: &mut Scenario) -> Result<Vec<String>, RunError> {
    Ok(match (scenario.traffic.generator, generator_obstacle(scenario)) {
        (GeneratorChoice::Always(GeneratorKind::Xdp), Some(obstacle)) => {
            return Err(RunError::Generator(obstacle));
        }
        (GeneratorChoice::Auto, Some(obstacle)) => {
            scenario.traffic.generator = GeneratorChoice::Always(GeneratorKind::Packet);
            let sends = "the packet generator sends, because XDP does not work here";
            vec![format!("{sends}: {obstacle} (`lab doctor` measures how far that goes)")]
        }
        (GeneratorChoice::Auto, None) => {
            let cannot = |&bytes: &usize| {
                let obstacle = xdp_obstacle(scenario.link.ingress(), bytes)?;
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

/// Whether this process may do what building a network takes.
pub(crate) fn may_build_networks() -> bool {
    // linux/capability.h: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
    const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|effective| effective & NEEDED == NEEDED)
}
