//! The trials: a table, and for those that are no pass the reasons and the ledger.

use std::fmt::Write;

use super::columns::{Column, Conditions, in_words};
use super::numbers::{grouped, mebibytes, micros, or_nothing, rounded};
use crate::disturbance::Disturbance;
use crate::ledger::{Ledger, Step};
use crate::memory::Memory;
use crate::results::{Latency, Measured, Trial};
use crate::verdict::Verdict;

const TRIAL: [Column<Trial>; 2] = [
    Column::text("subject", |trial| trial.subject.clone()),
    Column::text("verdict", Trial::verdict_in_words),
];

const COUNTS: [Column<Trial>; 4] = [
    Column::number("lost", |trial| measured(trial, |m| grouped(m.counts.lost))),
    Column::number("dup", |trial| measured(trial, |m| grouped(m.counts.duplicated))),
    Column::number("reord", |trial| measured(trial, |m| grouped(m.counts.reordered))),
    Column::number("corr", |trial| measured(trial, |m| grouped(m.counts.corrupted))),
];

/// Told only where there is any.
const ALIEN: Column<Trial> = Column::number("alien", |trial| measured(trial, |m| grouped(m.alien)));

const TIMES: [Column<Trial>; 7] = [
    Column::number("p50 µs", |trial| latency(trial, |latency| latency.p50)),
    Column::number("p99 µs", |trial| latency(trial, |latency| latency.p99)),
    Column::number("p99.9 µs", |trial| latency(trial, |latency| latency.p999)),
    Column::number("max µs", |trial| latency(trial, |latency| latency.max)),
    Column::number("lag µs", |trial| measured(trial, |m| micros(m.generator_lag_ns.p99 as f64))),
    Column::number("cpu ns", |trial| measured(trial, |m| or_nothing(m.cpu_ns_per_packet.relay, rounded))),
    Column::number("sys ns", |trial| {
        measured(trial, |m| or_nothing(m.cpu_ns_per_packet.system_less_wire, rounded))
    }),
];

const LEGEND: &str = "p50 to max: latency; lag: the generator's lateness, 99th percentile; cpu: the subject's time per \
                      datagram; sys: the machine's, less that of the direct wire; -: not measured";

/// Every attempt, in the order in which they were held.
pub(super) fn table(trials: &[Trial], conditions: &Conditions) -> String {
    let has_alien = |trial: &Trial| trial.measured.as_ref().is_some_and(|measured| measured.alien > 0);
    let alien = trials.iter().any(has_alien).then_some(ALIEN);
    let (counts, times) = (COUNTS.into_iter().chain(alien), TIMES);
    let findings: Vec<_> = counts.chain(times).collect();
    let table = conditions.table(trials, &TRIAL, |trial| &trial.condition, &findings);
    let common = conditions.common();
    let common = if common.is_empty() { common } else { format!("all trials: {common}\n") };
    format!("{table}\n\n{common}{LEGEND}\n")
}

/// Reasons and ledgers. The first trial stands for all that passed, one without anything foreign and one with it: their
/// ledgers are all the same kind of boring.
pub(super) fn details(trials: &[Trial]) -> String {
    let first_passed = |has_foreign: bool| {
        let mut passed = trials.iter().filter(|trial| trial.verdict == Verdict::Pass);
        passed.find(|trial| (trial.condition.foreign_pps > 0) == has_foreign)
    };
    let passed = [false, true].map(first_passed).into_iter().flatten();
    let others = trials.iter().filter(|trial| trial.verdict != Verdict::Pass);
    let texts = passed.chain(others).map(|trial| {
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _ = write_trial(&mut text, trial);
        text
    });
    texts.collect::<Vec<_>>().join("\n")
}

pub(super) fn measured(trial: &Trial, show: impl Fn(&Measured) -> String) -> String {
    or_nothing(trial.measured.as_ref(), show)
}

pub(super) fn latency(trial: &Trial, pick: impl Fn(&Latency) -> u64) -> String {
    let latency = trial.measured.as_ref().and_then(|measured| measured.latency_ns.as_ref());
    or_nothing(latency, |latency| micros(pick(latency) as f64))
}

fn write_trial(text: &mut String, trial: &Trial) -> std::fmt::Result {
    let Trial { subject, condition, verdict, .. } = trial;
    writeln!(text, "{subject}, {}: {verdict}", in_words(condition))?;
    for reason in &trial.reasons {
        writeln!(text, "  - {}", reason.replace('\n', "\n    | "))?;
    }
    if let Some(measured) = &trial.measured {
        write_ledger(text, &measured.ledger)?;
        if let Some(foreign) = &measured.ledger.foreign {
            writeln!(text, "  foreign: {foreign}")?;
        }
        if let Some(memory) = &measured.memory_bytes {
            writeln!(text, "  memory: {}", memory_in_words(memory))?;
        }
        for (what, count) in measured.events.iter().flat_map(|events| &events.counts) {
            writeln!(text, "  event: {what}, {}", times(*count))?;
        }
        if let Some(disturbance) = &measured.disturbance {
            writeln!(text, "  flows: {}", disturbance_in_words(disturbance))?;
        }
    }
    if *verdict != Verdict::Pass {
        writeln!(text, "  output of the subject: {}", trial.files.display())?;
    }
    Ok(())
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{} times", grouped(count)) }
}

fn disturbance_in_words(disturbance: &Disturbance) -> String {
    let Disturbance { silence_ns, delay_ns, recoveries_ns, link_down } = disturbance;
    let ms = |ns: u64| format!("{:.1} ms", ns as f64 / 1e6);
    let recovery = recoveries_ns.iter().max().map(|longest| {
        let (lost, longest) = (grouped(*link_down), ms(*longest));
        format!(", {lost} lost while a link was down, {longest} at most from there to the next datagram")
    });
    let (silence, delay) = (ms(*silence_ns), ms(*delay_ns));
    let recovery = recovery.unwrap_or_default();
    format!("longest silence at a sink {silence}, longest way of a datagram {delay}{recovery}")
}

fn memory_in_words(memory: &Memory) -> String {
    let (most, ring) = (mebibytes(memory.most), mebibytes(memory.ring));
    let (begin, end) = (grouped(memory.begin >> 10), grouped(memory.end >> 10));
    let rings = if memory.ring > 0 { format!(", beside {ring} MiB of packet rings") } else { String::new() };
    let descriptors = match (memory.descriptors_begin, memory.descriptors_end) {
        (0, 0) => String::new(),
        (begin, end) => format!("; {begin} descriptors, {end} in the end"),
    };
    format!("{most} MiB at most, {begin} KiB at the begin, {end} KiB in the end{rings}{descriptors}")
}

fn write_ledger(text: &mut String, ledger: &Ledger) -> std::fmt::Result {
    writeln!(text, "  ledger, which {}:", if ledger.adds_up { "adds up" } else { "does NOT add up" })?;
    for step in &ledger.steps {
        writeln!(text, "    {:<15} {:>14}{}", step.place.to_string(), grouped(step.count), remarks(step))?;
    }
    Ok(())
}

/// What happened on the way to a step, in words.
fn remarks(step: &Step) -> String {
    let mut words = Vec::new();
    if step.copies != 1 {
        words.push(format!("x {} copies", step.copies));
    }
    words.extend(
        step.drops.iter().map(|drop| format!("- {} {} ({})", grouped(drop.count), drop.name, drop.source)),
    );
    if step.foreign > 0 {
        words.push(format!("+ {} foreign", grouped(step.foreign)));
    }
    if step.taken_again > 0 {
        words.push(format!("+ {} taken again", grouped(step.taken_again)));
    }
    if step.other_frames > 0 {
        words.push(format!("+ {} other frames", grouped(step.other_frames)));
    }
    if step.added_by_subject > 0 {
        words.push(format!("+ {} added by the subject", grouped(step.added_by_subject)));
    }
    if step.unexplained != 0 {
        words.push(format!("{} UNEXPLAINED", -step.unexplained));
    }
    if words.is_empty() { String::new() } else { format!("  {}", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Facts, Output, Wire, settle};

    #[test]
    fn memory_is_told_beside_its_rings() {
        let (begin, end) = (6 << 20, (6 << 20) + 4_096);
        let memory = Memory { begin, most: 13 << 19, end, ring: 64 << 20, ..Memory::default() };
        assert_eq!(
            memory_in_words(&memory),
            "6.5 MiB at most, 6,144 KiB at the begin, 6,148 KiB in the end, beside 64.0 MiB of packet rings"
        );
        assert!(memory_in_words(&Memory { ring: 0, ..memory }).ends_with("6,148 KiB in the end"));
    }

    #[test]
    fn a_ledger_names_every_loss() {
        let through = |count| Wire { transmitted: count, received: count, ..Wire::default() };
        let facts = Facts {
            intended: 2_000,
            sent: 2_000,
            ingress: Some(through(2_000)),
            outputs: vec![Output {
                wire: through(1_990),
                arrived: 1_985,
                other_frames: Some(0),
                ..Output::default()
            }],
            ..Facts::default()
        };
        let mut text = String::new();
        write_ledger(&mut text, &settle(&facts)).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0], "ledger, which does NOT add up:");
        assert_eq!(lines[1], "intended                 2,000");
        assert_eq!(
            lines[4],
            "egress device            1,990  - 10 not relayed (net) (subject, which reports no counters)"
        );
        assert_eq!(lines[6], "sink                     1,985  -5 UNEXPLAINED");
    }
}
