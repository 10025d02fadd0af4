//! `lab`: parse, dispatch, exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Parser;
use lab::cli::{Cli, Command, RunArgs};
use lab::report::{html, report, results_in, summary};
use lab::results::RunVerdict;
use lab::run::{Finished, RunError, error_chain, run, search};
use lab::scenario::Scenario;
use lab::trial::TrialError;
use lab::{clean, doctor, impair};

/// Bad scenario or environment.
const ENVIRONMENT: u8 = 2;
/// As a shell reports a program that ended by SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(arguments) => conduct(run, &arguments),
        Command::Search(arguments) => conduct(search, &arguments),
        Command::Check { scenario } => check(&scenario),
        Command::Report { results, out } => page(&results, out.as_deref()),
        Command::Summary { folders, out } => sum_up(&folders, out.as_deref()),
        Command::Doctor => diagnose(),
        Command::Clean => clean::clean().map_err(anyhow::Error::from).and_then(|cleaned| say(&cleaned)),
        Command::Impair(arguments) => impair::impair(&arguments).map_err(anyhow::Error::from).map(|()| 0),
    };
    let code = code.unwrap_or_else(|error| {
        eprintln!("lab: {}", error_chain(error.as_ref()));
        ENVIRONMENT
    });
    ExitCode::from(code)
}

/// Prints a line; success.
fn say(line: &dyn std::fmt::Display) -> anyhow::Result<u8> {
    writeln!(std::io::stdout(), "{line}").context("write to standard output")?;
    Ok(0)
}

fn check(file: &Path) -> anyhow::Result<u8> {
    let scenario = Scenario::load(file)?;
    let (conditions, subjects) = (scenario.conditions().len(), scenario.subjects.len());
    let blocks = scenario.trials.blocks;
    if let Some(replay) = &scenario.traffic.replay {
        say(&replay.recording)?;
    }
    say(&format!(
        "{}: no mistake; conditions {conditions}, subjects {subjects}, blocks {blocks}",
        file.display()
    ))
}

fn page(results: &Path, out: Option<&Path>) -> anyhow::Result<u8> {
    say(&format!("page: {}", html::make(&results_in(results), out)?.display()))
}

fn sum_up(folders: &[PathBuf], out: Option<&Path>) -> anyhow::Result<u8> {
    let summary = summary::of(folders);
    match out {
        Some(out) => {
            summary.write(out)?;
            say(&format!("report: {}", out.display()))?;
        }
        None => {
            write!(std::io::stdout(), "{}", summary.text).context("write to standard output")?;
        }
    }
    for error in &summary.unreadable {
        eprintln!("lab: {}", error_chain(error));
    }
    Ok(if summary.unreadable.is_empty() { 0 } else { ENVIRONMENT })
}

fn diagnose() -> anyhow::Result<u8> {
    let diagnosis = doctor::doctor(&*interruption()?)?;
    say(&diagnosis)?;
    Ok(if diagnosis.can_run() { 0 } else { ENVIRONMENT })
}

/// A flag that becomes true when the user wants an end. Whoever sees it ends in order, and guards take everything down.
fn interruption() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    Ok(interrupted)
}

/// Holds the trials that `run` is for, and shows what came of them.
fn conduct(
    run: fn(&RunArgs, &AtomicBool) -> Result<Finished, RunError>,
    arguments: &RunArgs,
) -> anyhow::Result<u8> {
    let Finished { results, file, error } = run(arguments, &*interruption()?)?;
    let page = file.as_ref().ok().map(|file| html::make(file, None));
    // What was measured is shown before anything is said of a file that could not be written.
    if arguments.json {
        let json = serde_json::to_string_pretty(&results)?;
        say(&json)?;
    } else {
        say(&report(&results))?;
        if let Ok(file) = &file {
            say(&format!("results: {}", file.display()))?;
        }
        if let Some(Ok(page)) = &page {
            say(&format!("page: {}", page.display()))?;
        }
        if error.is_none() {
            say(&format!("verdict: {}", verdict_in_words(results.verdict)))?;
        }
    }
    match error {
        Some(RunError::Trial(TrialError::Interrupted)) => {
            eprintln!("lab: interrupted, everything is removed");
        }
        Some(error) => eprintln!("lab: {}", error_chain(&error)),
        None => {}
    }
    file?;
    page.transpose()?;
    Ok(match results.verdict {
        RunVerdict::Pass => 0,
        RunVerdict::Fail => 1,
        RunVerdict::Invalid | RunVerdict::Inconclusive => 3,
        RunVerdict::Error => ENVIRONMENT,
        RunVerdict::Interrupted => INTERRUPTED,
    })
}

fn verdict_in_words(verdict: RunVerdict) -> &'static str {
    match verdict {
        RunVerdict::Pass => "PASS",
        RunVerdict::Fail => "FAIL",
        RunVerdict::Invalid => "INVALID: the lab failed, which says nothing about the subjects",
        RunVerdict::Inconclusive => {
            "INCONCLUSIVE: there is too little to tell, which is held against no subject"
        }
        RunVerdict::Interrupted => "INTERRUPTED",
        RunVerdict::Error => "ERROR",
    }
}
