//! Progress of a run: a bar on a terminal, a line for each trial elsewhere. All of it on standard error.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::results::Trial;
use crate::scenario::{Condition, Subject, sink_kind_name};
use crate::topology::Segmentation;
use crate::trial::Phase;

/// Steps of the bar for each trial.
const STEPS: u64 = 100;
/// Where a phase begins, in steps: running takes most of a trial.
const PRIME_AT: u64 = 5;
const WARM_UP_AT: u64 = 10;
const RUN_AT: u64 = 20;
const DRAIN_AT: u64 = 95;

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// What begins every line.
    series: &'static str,
    /// `None` when nobody knows.
    trials: Option<usize>,
    done: Cell<usize>,
    what: RefCell<String>,
}

impl Progress {
    /// Begins a series of so many trials, if that is known; a name tells it from others.
    pub fn start(series: &'static str, trials: Option<usize>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = match trials {
                Some(trials) => ProgressBar::new(trials as u64 * STEPS),
                None => ProgressBar::no_length(),
            };
            // The template is a constant: what is wrong with it shows at the first run.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {wide_msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, series, trials, done: Cell::new(0), what: RefCell::default() }
    }

    /// A trial, or another attempt at it, begins.
    pub fn begin(&self, subject: &Subject, condition: &Condition) {
        let Condition { cast, segmentation, sink_kind, fan_out, flows, payload_bytes, .. } = condition;
        let Condition { foreign_pps, rate_pps, .. } = condition;
        let kind = sink_kind_name(*sink_kind);
        let flows = if *flows == 1 { String::new() } else { format!("{flows} flows ") };
        let sinks = if *fan_out == 1 { format!("{kind} sink") } else { format!("{fan_out} {kind} sinks") };
        let segmentation = if *segmentation == Segmentation::Wire { "" } else { " offloaded segmentation" };
        let foreign =
            if *foreign_pps == 0 { String::new() } else { format!("{foreign_pps} foreign beside ") };
        *self.what.borrow_mut() = format!(
            "{} {cast} {rate_pps} packets/s {foreign}{payload_bytes} B {flows}{sinks}{segmentation}",
            subject.name
        );
    }

    /// A trial has come to a phase.
    pub fn phase(&self, phase: Phase) {
        let Some(bar) = &self.bar else { return };
        let (step, name) = match phase {
            Phase::SetUp => (0, "building"),
            Phase::Prime => (PRIME_AT, "priming"),
            Phase::WarmUp => (WARM_UP_AT, "warming up"),
            Phase::Run(done, total) => (RUN_AT + (DRAIN_AT - RUN_AT) * done / total.max(1), "running"),
            Phase::Drain => (DRAIN_AT, "draining"),
        };
        bar.set_position(self.done.get() as u64 * STEPS + step);
        bar.set_message(format!("{}: {name}", self.what.borrow()));
    }

    /// An attempt at a trial has come to its verdict.
    pub fn finished(&self, trial: &Trial) {
        let again = if trial.attempt > 1 { format!(" (attempt {})", trial.attempt) } else { String::new() };
        let of = self.trials.map(|trials| format!("/{trials}")).unwrap_or_default();
        let number = self.done.get() + 1;
        let series = if self.series.is_empty() { String::new() } else { format!("{} ", self.series) };
        let line =
            format!("[{series}{number}{of}] {}{again}: {}", self.what.borrow(), trial.verdict_in_words());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// The next trial is to come.
    pub fn next(&self) {
        self.done.set(self.done.get() + 1);
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.get() as u64 * STEPS);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
