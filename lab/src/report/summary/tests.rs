//! Reports over runs that passed, failed and never ended.

use super::*;
use crate::comparison::Comparison;
use crate::disturbance::{Disturbance, EventLimits};
use crate::memory::MemoryLimits;
use crate::results::fixtures::{self, CONDITION, results, sink, trial};
use crate::results::{RESULTS_FILE, Results, RunKind, Trial};
use crate::scenario::{Cast, Condition, Metric};
use crate::search::{Found, FoundRatio, Limit};
use crate::verdict::{Counts, Verdict};

/// The report over these runs, each in a folder of its own.
fn summary(runs: &[Results]) -> Summary {
    let dir = tempfile::tempdir().unwrap();
    let folders = runs.iter().enumerate().map(|(i, run)| {
        let folder = dir.path().join(i.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(RESULTS_FILE), serde_json::to_vec(run).unwrap()).unwrap();
        folder
    });
    of(&folders.collect::<Vec<_>>())
}

/// The lines of a report with blanks in one place only.
fn lines(runs: &[Results]) -> Vec<String> {
    let text = summary(runs).text;
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn assert_has(lines: &[String], expected: &str) {
    assert!(lines.iter().any(|line| line == expected), "no line {expected:?} in {lines:#?}");
}

fn named(name: &str, run: Results) -> Results {
    let mut run = run;
    run.scenario.name = name.into();
    run.scenario.file = format!("{name}.toml").into();
    (run.environment.processor, run.environment.processors) = ("Quick <1>".into(), 2);
    (run.environment.kernel, run.environment.clock_source) = ("6.18".into(), "tsc".into());
    run.environment.started = 1_795_496_400;
    run
}

/// What is compared in `counted`.
fn comparison(at_most: Option<f64>) -> Comparison {
    Comparison {
        metric: Metric::RelayCpuPerCopy,
        condition: Condition { fan_out: 8, ..CONDITION },
        to_condition: Some(CONDITION),
        of: "it".into(),
        to: "it".into(),
        pairs: 3,
        left_out: 2,
        of_median: Some(612.0),
        to_median: Some(1_000.0),
        ratio: Some(0.612),
        ci95: Some([0.6, 0.65]),
        at_most,
        verdict: at_most.map(|_| Verdict::Pass),
        reasons: vec!["shared the machine".into()],
    }
}

/// Three blocks with one sink and with eight, where the second lost something with eight.
fn counted() -> Results {
    let trials = [1, 2, 3].into_iter().flat_map(|block| {
        [CONDITION, Condition { fan_out: 8, ..CONDITION }].map(|condition| {
            let mut trial = trial("it", block, 1_000.0);
            trial.condition = condition;
            let measured = trial.measured.as_mut().unwrap();
            measured.sinks = vec![sink(1_000); condition.fan_out];
            if block == 2 && condition.fan_out == 8 {
                measured.counts = Counts { lost: 7, reordered: 2, ..Counts::default() };
                measured.sinks[3].received = 993;
                (trial.verdict, trial.reasons) = (Verdict::Fail, vec!["lost 7, expected 0".into()]);
            }
            trial
        })
    });
    let mut run = named("fan-out", results(Verdict::Fail, trials.collect()));
    run.comparisons = vec![comparison(Some(0.7)), comparison(None)];
    run
}

#[test]
fn every_verdict_has_its_row() {
    let lines = lines(&[counted()]);
    assert_eq!(lines[..3], ["# Bars", "", "2 pass, 1 FAIL."]);
    assert_has(
        &lines,
        "- 2 processors (Quick \\<1\\>), Linux 6.18, clock tsc, lab 0.1.0; begun 2026-11-24 05:00 UTC: fan-out",
    );
    assert_has(
        &lines,
        "| fan-out | counts, it, 1,000 packets/s, packet sink | none lost, duplicated, reordered or corrupted | \
         0 of 3,000 lost in 3 blocks | pass | lab run fan-out.toml |",
    );
    assert_has(
        &lines,
        "| fan-out | counts, it, 1,000 packets/s, 8 packet sinks | none lost, duplicated, reordered or corrupted | \
         7 of 24,000 lost in 3 blocks, 2 reordered | FAIL | lab run fan-out.toml |",
    );
    assert_has(
        &lines,
        "| fan-out | relay-cpu-per-copy of it (8 packet sinks) to it (packet sink), 1,000 packets/s | at most 0.7 | \
         0.612 (0.600 to 0.650); medians 612 ns and 1,000 ns; 3 of 5 pairs | pass | lab run fan-out.toml |",
    );
    assert_has(&lines, "- fan-out, counts, it, 1,000 packets/s, 8 packet sinks: block 2: lost 7, expected 0");
    let doubt = "- fan-out, relay-cpu-per-copy of it (8 packet sinks) to it (packet sink), 1,000 packets/s: shared the \
                 machine";
    assert_eq!(lines.iter().filter(|line| *line == doubt).count(), 2, "{lines:#?}");
    assert_has(&lines, "What to know of the passes:");
    assert_has(&lines, "What to know of them:");
    assert_has(
        &lines,
        "| fan-out | relay-cpu-per-copy of it (8 packet sinks) to it (packet sink), 1,000 packets/s | 0.612 (0.600 to \
         0.650); medians 612 ns and 1,000 ns; 3 of 5 pairs |",
    );
    assert_has(
        &lines,
        "| fan-out | it | 1,000 packets/s, 8 packet sinks | 1,000 | 7 | 1,000 ns | 10.0 µs | 10.0 µs |",
    );
}

#[test]
fn what_was_expected_around_events_is_told_with_the_counts() {
    let trials = [1, 2].map(|block| {
        let mut trial = trial("a", block, 1.0);
        let limits = EventLimits {
            loss_per_event: 512,
            duplicates_per_event: 0,
            interruption: Some(std::time::Duration::from_millis(100)),
            recovery: Some(std::time::Duration::from_secs(1)),
        };
        trial.expected.iter_mut().for_each(|expected| expected.around_events = limits);
        let measured = trial.measured.as_mut().unwrap();
        measured.counts.lost = 10;
        measured.events = Some(fixtures::events(3));
        let silence_ns = block as u64 * 20_000_000;
        let recoveries_ns = vec![5_000_000, 7_000_000];
        measured.disturbance = Some(Disturbance { silence_ns, recoveries_ns, ..Disturbance::default() });
        trial
    });
    let lines = lines(&[named("crash", results(Verdict::Pass, trials.into()))]);
    assert_has(
        &lines,
        "| crash | counts, a, 1,000 packets/s | none lost, duplicated, reordered or corrupted; at most 512 lost more for \
         each outage; interrupted for at most 100ms; recovered within 1s | 20 of 2,020 lost in 2 blocks; 6 events; \
         interrupted for 40.0 ms at most; recovered in 7.0 ms at most | pass | lab run crash.toml |",
    );
}

#[test]
fn what_was_expected_of_memory_is_told_with_the_counts() {
    let with = |most_mib: u64, verdict, reasons: &[&str]| {
        let trials = [1, 2].map(|block| {
            let mut trial = trial("a", block, 1.0);
            let limits =
                MemoryLimits { most: Some(most_mib << 20), growth: Some(256 << 10), descriptors: None };
            trial.expected.iter_mut().for_each(|expected| expected.memory_bytes = limits);
            let memory = trial.measured.as_mut().and_then(|measured| measured.memory_bytes.as_mut()).unwrap();
            memory.end += (block as u64) << 14;
            trial
        });
        let mut run = named(&format!("memory-{most_mib}"), results(verdict, trials.into()));
        run.trials[1].verdict = verdict;
        run.trials[1].reasons = reasons.iter().map(ToString::to_string).collect();
        run
    };
    let lines = lines(&[with(32, Verdict::Pass, &[]), with(6, Verdict::Fail, &["memory of up to 7168 KiB"])]);
    let about = "counts and memory, a, 1,000 packets/s";
    let demanded = |mib| {
        format!(
            "none lost, duplicated, reordered or corrupted; at most {mib}.0 MiB of memory; memory grown by at most 256 KiB"
        )
    };
    let measured = "0 of 2,000 lost in 2 blocks; 7.0 MiB at most; grown by 32 KiB at most";
    for (mib, verdict) in [(32, "pass"), (6, "FAIL")] {
        let (name, demanded) = (format!("memory-{mib}"), demanded(mib));
        assert_has(
            &lines,
            &format!("| {name} | {about} | {demanded} | {measured} | {verdict} | lab run {name}.toml |"),
        );
    }
    assert_has(&lines, &format!("- memory-6, {about}: block 2: memory of up to 7168 KiB"));
}

#[test]
fn a_search_has_its_rates_and_ratios() {
    let mut run = named("rates", results(Verdict::Fail, vec![trial("a", 1, 1.0), trial("b", 1, 1.0)]));
    let found = |subject: &str, lower, upper, upper_by| Found {
        subject: subject.into(),
        condition: CONDITION,
        lower_pps: Some(lower),
        upper_pps: Some(upper),
        upper_by: Some(upper_by),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
    };
    run.kind = RunKind::Search;
    run.searches =
        vec![found("a", 600_000, 660_000, Limit::Lab), found("b", 200_000, 220_000, Limit::Subject)];
    let ratio = |at_least, verdict, reasons: &[&str]| FoundRatio {
        of: "a".into(),
        to: "b".into(),
        condition: CONDITION,
        least: Some(2.727),
        most: None,
        at_least,
        verdict,
        reasons: reasons.iter().map(ToString::to_string).collect(),
    };
    run.search_ratios =
        vec![ratio(2.0, Verdict::Pass, &[]), ratio(5.0, Verdict::Inconclusive, &["the lab could not"])];
    run.verdict = RunVerdict::Inconclusive;
    let lines = lines(&[run]);
    let about = "highest rate without loss, a to b, 100 B, 1 flow, 1 packet sinks, segmentation wire, multicast-to-multicast";
    let measured = "at least 2.727; a 600,000 to 660,000 (the lab); b 200,000 to 220,000 (the subject)";
    let command = "lab search rates.toml";
    assert_has(&lines, &format!("| rates | {about} | at least 2 | {measured} | pass | {command} |"));
    assert_has(&lines, &format!("| rates | {about} | at least 5 | {measured} | INCONCLUSIVE | {command} |"));
    assert_has(&lines, &format!("- rates, {about}: the lab could not"));
    assert_has(
        &lines,
        "| rates | b | 100 B, 1 flow, 1 packet sinks, segmentation wire, multicast-to-multicast | 200,000 | 220,000 | the subject |",
    );
    // Its trials are neither bars nor medians.
    assert!(
        !lines.iter().any(|line| line.contains("counts, a") || line.contains("## Medians")),
        "{lines:#?}"
    );
}

#[test]
fn a_subject_without_a_rate_without_loss_has_a_row_and_its_reasons() {
    let mut run = named("rates", results(Verdict::Fail, vec![trial("a", 1, 1.0)]));
    run.kind = RunKind::Search;
    run.searches = vec![Found {
        subject: "a".into(),
        condition: CONDITION,
        lower_pps: None,
        upper_pps: Some(20_000),
        upper_by: Some(Limit::Subject),
        verdict: Verdict::Fail,
        reasons: vec!["a fails already".into(), "block 1: lost 7".into()],
    }];
    let lines = lines(&[run]);
    let about =
        "rate without loss, a, 100 B, 1 flow, 1 packet sinks, segmentation wire, multicast-to-multicast";
    let row = format!(
        "| rates | {about} | any | none from 20,000 on (the subject) | FAIL | lab search rates.toml |"
    );
    assert_has(&lines, &row);
    assert_has(&lines, &format!("- rates, {about}: a fails already; block 1: lost 7"));
    assert!(!lines.iter().any(|line| line.contains("the whole search")), "{lines:#?}");
}

#[test]
fn each_condition_of_a_search_has_its_own_rates() {
    let mut run = named("casts", results(Verdict::Pass, vec![trial("a", 1, 1.0)]));
    run.kind = RunKind::Search;
    let conditions = [CONDITION, Condition { cast: Cast::MulticastToUnicast, ..CONDITION }];
    for (condition, lower) in conditions.into_iter().zip([5_000, 6_000]) {
        for subject in ["a", "b"] {
            run.searches.push(Found {
                subject: subject.into(),
                condition,
                lower_pps: Some(lower),
                upper_pps: None,
                upper_by: None,
                verdict: Verdict::Pass,
                reasons: Vec::new(),
            });
        }
        run.search_ratios.push(FoundRatio {
            of: "a".into(),
            to: "b".into(),
            condition,
            least: None,
            most: None,
            at_least: 2.0,
            verdict: Verdict::Inconclusive,
            reasons: Vec::new(),
        });
    }
    let lines = lines(&[run]);
    for (cast, rate) in [("multicast-to-multicast", "5,000"), ("multicast-to-unicast", "6,000")] {
        let row = lines.iter().find(|line| line.contains(&format!("{cast} | at least 2"))).unwrap();
        assert!(row.contains(&format!("a {rate} to -; b {rate} to -")), "{row}");
    }
}

#[test]
fn a_search_that_was_interrupted_is_not_shown_as_a_run() {
    let mut run = named("rates", results(Verdict::Pass, vec![trial("a", 1, 1.0)]));
    (run.kind, run.verdict) = (RunKind::Search, RunVerdict::Interrupted);
    run.trials[0].verdict = Verdict::Fail;
    let lines = lines(&[run]);
    assert_has(&lines, "| rates | the whole search | - | 1 attempt | INTERRUPTED | lab search rates.toml |");
    assert_eq!((&*lines[2], lines.iter().any(|line| line.contains("counts, a"))), ("1 INTERRUPTED.", false));
}

#[test]
fn what_no_other_row_says_is_said_of_the_whole_run() {
    let mut broken = named("broken", results(Verdict::Pass, vec![trial("a", 1, 1.0)]));
    (broken.verdict, broken.error) = (RunVerdict::Error, Some("no space | left".into()));
    let mut measured = trial("a", 1, 1.0);
    measured.expected = None;
    let mut asked_nothing = named("asks", results(Verdict::Inconclusive, vec![measured]));
    asked_nothing.notes = vec!["nothing was expected".into()];
    let lines = lines(&[broken, asked_nothing]);
    assert_has(&lines, "| broken | the whole run | - | 1 attempt | ERROR | lab run broken.toml |");
    assert_has(&lines, "- broken, the whole run: no space \\| left");
    assert_has(&lines, "| asks | the whole run | - | 1 attempt | INCONCLUSIVE | lab run asks.toml |");
    assert_has(&lines, "- asks, the whole run: nothing was expected");
    assert!(lines[2].contains("1 pass, 1 ERROR, 1 INCONCLUSIVE"), "{}", lines[2]);
}

#[test]
fn trials_that_proved_nothing_are_told_and_long_lists_are_cut() {
    let trials = [1, 2, 3, 4, 5].map(|block| {
        let mut trial = trial("a", block, 1.0);
        if block > 1 {
            (trial.verdict, trial.reasons) = (Verdict::Invalid, vec!["too late".into()]);
        }
        trial
    });
    let lines = lines(&[named("late", results(Verdict::Invalid, trials.into()))]);
    let row = lines.iter().find(|line| line.contains("counts, a")).unwrap();
    assert!(row.contains("0 of 1,000 lost in 1 of 5 blocks | INVALID |"), "{row}");
    let told = "block 2: too late; block 3: too late; block 4: too late; and 1 more";
    assert_has(&lines, &format!("- late, counts, a, 1,000 packets/s: {told}"));
}

#[test]
fn attempts_that_were_repeated_are_told_with_what_they_lost() {
    let attempts = [(1, 1, 5), (1, 2, 0), (1, 3, 0), (2, 1, 0)].map(|(block, attempt, lost)| {
        let mut trial = Trial { attempt, ..trial("a", block, 1.0) };
        trial.measured.as_mut().unwrap().counts.lost = lost;
        if block == 1 && attempt < 3 {
            (trial.verdict, trial.reasons) = (Verdict::Invalid, vec!["too late".into()]);
        }
        trial
    });
    let run = named("again", results(Verdict::Pass, attempts.into()));
    let once = named("once", results(Verdict::Pass, run.trials[1..].to_vec()));
    let lines = lines(&[run, once]);
    let row = lines.iter().find(|line| line.contains("| again |")).unwrap();
    assert!(row.contains("0 of 2,000 lost in 2 blocks | pass |"), "{row}");
    let about = "counts, a, 1,000 packets/s";
    assert_has(&lines, &format!("- again, {about}: 2 attempts were repeated, 1 of which had missed a count"));
    assert_has(&lines, &format!("- once, {about}: 1 attempt was repeated, none of which had missed a count"));
}

#[test]
fn results_that_cannot_be_read_have_a_row_too() {
    let dir = tempfile::tempdir().unwrap();
    let killed = dir.path().join(RESULTS_FILE);
    fs::write(&killed, "{\"schema\": \"multicast-relay-lab/1\", \"verdict\": \"error\"}").unwrap();
    let summary = of(&[dir.path().to_owned(), "/nowhere".into()]);
    assert_eq!(summary.unreadable.len(), 2);
    assert_eq!(summary.text.matches("| results that cannot be read").count(), 2, "{}", summary.text);
    assert!(summary.text.contains("2 ERROR.") && summary.text.contains("read results /nowhere"));

    let error = summary.write(&killed).unwrap_err().to_string();
    assert!(error.contains("the results of a run are there; choose another file"), "{error}");
    let error = summary.write(&dir.path().join("none/report.md")).unwrap_err().to_string();
    assert!(error.starts_with("write report ") && error.contains("none/report.md"), "{error}");
    let out = dir.path().join("report.md");
    summary.write(&out).unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), summary.text);
}
