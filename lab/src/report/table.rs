//! The results as text: a table of the trials, and for those that are no pass the reasons and the ledger.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::ledger::{Ledger, Step};
use crate::results::{Latency, Measured, Results, Trial};
use crate::verdict::Verdict;

/// A column: its header, whether it holds numbers, and what it says of a trial.
struct Column {
    header: &'static str,
    is_number: bool,
    show: fn(&Trial) -> String,
}

/// What a trial was. A column of these that says the same of every trial is said once, beneath the table.
const CONDITIONS: [Column; 4] = [
    Column { header: "cast", is_number: false, show: |trial| short_cast(&trial.cast.to_string()) },
    Column { header: "sink", is_number: false, show: |trial| trial.sink_kind.to_owned() },
    Column { header: "bytes", is_number: true, show: |trial| trial.payload_bytes.to_string() },
    Column { header: "packets/s", is_number: true, show: |trial| grouped(trial.rate_pps) },
];

/// What came of it.
const FINDINGS: [Column; 7] = [
    Column { header: "lost", is_number: true, show: |trial| measured(trial, |m| grouped(m.counts.lost)) },
    Column {
        header: "dup",
        is_number: true,
        show: |trial| measured(trial, |m| grouped(m.counts.duplicated)),
    },
    Column {
        header: "reord",
        is_number: true,
        show: |trial| measured(trial, |m| grouped(m.counts.reordered)),
    },
    Column {
        header: "corr",
        is_number: true,
        show: |trial| measured(trial, |m| grouped(m.counts.corrupted)),
    },
    Column { header: "p50 µs", is_number: true, show: |trial| latency(trial, |latency| latency.p50) },
    Column { header: "p99 µs", is_number: true, show: |trial| latency(trial, |latency| latency.p99) },
    Column { header: "cpu ns", is_number: true, show: |trial| measured(trial, relay_cpu) },
];

const LEGEND: &str = "p50, p99: latency; cpu: the subject's time per datagram; -: not measured";

/// The whole report.
pub fn report(results: &Results) -> String {
    if results.trials.is_empty() {
        return "no trial was held to its end\n".to_owned();
    }
    let mut text = table(&results.trials);
    // The first trial stands for all that passed: their ledgers are all the same kind of boring.
    let passed = results.trials.iter().find(|trial| trial.verdict == Verdict::Pass);
    for trial in
        passed.into_iter().chain(results.trials.iter().filter(|trial| trial.verdict != Verdict::Pass))
    {
        // Writing to memory cannot fail.
        let _ = write_trial(&mut text, trial);
    }
    text
}

fn table(trials: &[Trial]) -> String {
    let says_the_same =
        |column: &&Column| trials.windows(2).all(|pair| (column.show)(&pair[0]) == (column.show)(&pair[1]));
    let (common, differing): (Vec<_>, Vec<_>) = CONDITIONS.iter().partition(says_the_same);
    let columns: Vec<_> = differing.into_iter().chain(&FINDINGS).collect();

    let mut table = Table::new();
    let header = ["subject", "verdict"].into_iter().chain(columns.iter().map(|column| column.header));
    table.load_style(NOTHING).set_header(header);
    for trial in trials {
        let found = columns.iter().map(|column| (column.show)(trial));
        table.add_row([trial.subject.clone(), trial.verdict.to_string()].into_iter().chain(found));
    }
    for (column, cells) in columns.iter().zip(table.column_iter_mut().skip(2)) {
        if column.is_number {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    let common = common.iter().zip(trials.iter().cycle());
    let common: Vec<_> =
        common.map(|(column, trial)| format!("{} {}", column.header, (column.show)(trial))).collect();
    let common =
        if common.is_empty() { String::new() } else { format!("all trials: {}\n", common.join(", ")) };
    format!("{table}\n\n{common}{LEGEND}\n")
}

/// `multicast-to-unicast` as `multi-uni`.
fn short_cast(cast: &str) -> String {
    cast.replace("cast-to-", "-").replace("cast", "")
}

fn measured(trial: &Trial, show: impl Fn(&Measured) -> String) -> String {
    trial.measured.as_ref().map_or_else(|| "-".to_owned(), show)
}

fn latency(trial: &Trial, pick: impl Fn(&Latency) -> u64) -> String {
    measured(trial, |m| m.latency_ns.as_ref().map_or_else(|| "-".to_owned(), |latency| micros(pick(latency))))
}

fn relay_cpu(measured: &Measured) -> String {
    measured.cpu_ns_per_packet.relay.map_or_else(|| "-".to_owned(), |time| grouped(time.round() as u64))
}

fn write_trial(text: &mut String, trial: &Trial) -> std::fmt::Result {
    let Trial { subject, cast, sink_kind, payload_bytes, rate_pps, verdict, .. } = trial;
    let rate = grouped(*rate_pps);
    writeln!(text, "\n{subject}, {cast}, {rate} packets/s, {payload_bytes} B, {sink_kind} sink: {verdict}")?;
    for reason in &trial.reasons {
        writeln!(text, "  - {}", reason.replace('\n', "\n    | "))?;
    }
    if let Some(measured) = &trial.measured {
        write_ledger(text, &measured.ledger)?;
    }
    if *verdict != Verdict::Pass {
        writeln!(text, "  output of the subject: {}", trial.files.display())?;
    }
    Ok(())
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

fn micros(nanos: u64) -> String {
    let micros = nanos as f64 / 1_000.0;
    if micros < 100.0 { format!("{micros:.1}") } else { grouped(micros.round() as u64) }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Facts, Output, Wire, settle};

    #[test]
    fn numbers_are_easy_to_read() {
        let shown = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([450, 99_960, 1_234_567].map(micros), ["0.5", "100.0", "1,235"]);
    }

    #[test]
    fn casts_are_short() {
        assert_eq!(short_cast("multicast-to-unicast"), "multi-uni");
        assert_eq!(short_cast("unicast-to-multicast"), "uni-multi");
    }

    #[test]
    fn a_ledger_names_every_loss() {
        let through = |count| Wire { transmitted: count, received: count, ..Wire::default() };
        let facts = Facts {
            intended: 2_000,
            sent: 2_000,
            ingress: through(2_000),
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
