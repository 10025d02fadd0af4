//! What makes a pair, what an interval says, and what the reader is told.

use super::*;
use crate::results::fixtures::{CONDITION, trial};
use crate::scenario::When;
use crate::sink::SinkKind;
use crate::topology::Segmentation;

const RATIO: &str = "[[expect.ratio]]\nmetric = 'relay-cpu'\nof = 'new'\nto = 'old'\n";

/// A scenario of five blocks that compares as `ratios` say.
fn scenario(ratios: &str) -> Scenario {
    let subject = |name| format!("[[subject]]\nname = '{name}'\nrelay = {{ rx = 'recv' }}\n");
    let text = format!(
        "name = 'x'\n[traffic]\nrate-pps = [1_000, 2_000]\n[sinks]\nkind = 'packet'\n[trials]\nblocks = 5\n{}{}{ratios}",
        subject("new"),
        subject("old")
    );
    text.parse().unwrap()
}

/// The trials of five blocks, in which `new` takes 0.49 to 0.51 times what `old` does although both drift.
fn drifting() -> Vec<Trial> {
    let blocks =
        [(1, 1_000.0, 0.50), (2, 1_500.0, 0.51), (3, 700.0, 0.49), (4, 3_000.0, 0.50), (5, 900.0, 0.50)];
    let pairs =
        blocks.map(|(block, old, ratio)| [trial("old", block, old), trial("new", block, old * ratio)]);
    pairs.into_iter().flatten().collect()
}

fn compared(ratios: &str, trials: &[Trial]) -> Vec<Comparison> {
    let scenario = scenario(ratios);
    let measured: Vec<_> = scenario.subjects.iter().collect();
    compare(&scenario, &measured, &[], trials)
}

/// The comparison at the rate of the trials, and with `at_most`.
fn judged(at_most: f64, trials: &[Trial]) -> Comparison {
    compared(&format!("{RATIO}rate-pps = 1_000\nat-most = {at_most}\n"), trials).remove(0)
}

#[test]
fn pairs_of_one_block_cancel_what_drifts() {
    let comparison = judged(0.8, &drifting());
    assert_eq!((comparison.pairs, comparison.left_out), (5, 0));
    assert_eq!((comparison.of_median, comparison.to_median), (Some(500.0), Some(1_000.0)));
    let (ratio, [low, high]) = (comparison.ratio.unwrap(), comparison.ci95.unwrap());
    assert!((ratio - 0.5).abs() < 0.001, "{ratio}");
    assert!(0.48 < low && low < ratio && ratio < high && high < 0.52, "{low} to {high}");
    assert_eq!((comparison.verdict, comparison.reasons.len()), (Some(Verdict::Pass), 0));
}

#[test]
fn only_an_interval_on_one_side_tells() {
    let fail = judged(0.4, &drifting());
    assert_eq!(fail.verdict, Some(Verdict::Fail));
    assert_eq!(fail.reasons, ["all of the interval is above 0.4"]);
    let open = judged(0.5, &drifting());
    assert_eq!(open.verdict, Some(Verdict::Inconclusive));
    assert_eq!(open.reasons, ["the interval reaches over 0.5: more blocks make it narrower"]);
}

#[test]
fn what_is_only_reported_has_no_verdict() {
    let comparisons = compared(&format!("{RATIO}rate-pps = 1_000\n"), &drifting());
    assert_eq!((comparisons[0].verdict, comparisons[0].at_most), (None, None));
    assert!(comparisons[0].ci95.is_some());
    let json = serde_json::to_value(&comparisons[0]).unwrap();
    assert_eq!((&json["metric"], &json["rate_pps"]), (&"relay-cpu".into(), &1_000.into()));
    assert_eq!((&json["sink_kind"], json["verdict"].is_null()), (&"packet".into(), true));
}

#[test]
fn too_few_pairs_have_no_interval_and_no_verdict() {
    let mut trials = drifting();
    for trial in &mut trials[4..] {
        trial.verdict = Verdict::Invalid;
    }
    let comparison = judged(0.8, &trials);
    assert_eq!((comparison.pairs, comparison.left_out), (2, 3));
    assert!(comparison.ratio.is_some() && comparison.ci95.is_none());
    assert_eq!(comparison.verdict, Some(Verdict::Inconclusive));
    assert_eq!(comparison.reasons[0], "a verdict takes 3 pairs of trials, found 2");
    // A run that was interrupted before the condition was met.
    let nothing = judged(0.8, &[]);
    assert_eq!((nothing.pairs, nothing.ratio, nothing.of_median), (0, None, None));
    assert_eq!(nothing.verdict, Some(Verdict::Inconclusive));
}

#[test]
fn a_block_without_a_pair_is_left_out_and_told() {
    let mut trials = drifting();
    trials[1].verdict = Verdict::Inconclusive;
    trials[2].measured = None;
    trials[2].verdict = Verdict::Fail;
    trials[3].measured.as_mut().unwrap().cpu_ns_per_packet.relay = Some(0.0);
    let comparison = judged(0.8, &trials);
    assert_eq!((comparison.pairs, comparison.left_out, comparison.verdict), (3, 2, Some(Verdict::Pass)));
    assert_eq!(
        comparison.reasons,
        [
            "no pair, because new was inconclusive in block 1; new had no relay-cpu in block 2; old failed before it \
             was measured in block 2"
        ]
    );
}

#[test]
fn the_last_attempt_counts() {
    let mut trials = drifting();
    let mut first = trials[1].clone();
    first.verdict = Verdict::Invalid;
    first.measured = None;
    trials[1].attempt = 2;
    trials.insert(1, first);
    assert_eq!(judged(0.8, &trials).pairs, 5);
}

#[test]
fn trials_that_are_not_above_doubt_are_compared_and_told() {
    let mut trials = drifting();
    trials[1].verdict = Verdict::Fail;
    trials[5].verdict = Verdict::Fail;
    let measured = trials[4].measured.as_mut().unwrap();
    measured.steal_percent = 1.5;
    measured.cpu_ns_per_packet.relay_from_ticks = true;
    measured.generator_lag_ns.max = BURST_LIMIT_NS + 1;
    let cpu = judged(0.8, &trials);
    assert_eq!((cpu.pairs, cpu.verdict), (5, Some(Verdict::Pass)));
    assert_eq!(
        cpu.reasons,
        [
            "did not pass and are compared all the same: new in blocks 1, 3",
            "shared the machine with others (steal): old in block 3",
            "have their CPU time from coarse ticks: old in block 3",
        ]
    );
    let latency = compared(&RATIO.replace("relay-cpu", "p99"), &trials).remove(0);
    let own = "have the generator's own lateness in their latency: old in block 3";
    assert_eq!(latency.reasons[2], own);
    let mut sent = scenario(&RATIO.replace("relay-cpu", "p99"));
    sent.trials.latency_from = LatencyFrom::Sent;
    let measured: Vec<_> = sent.subjects.iter().collect();
    let latency = compare(&sent, &measured, &[], &trials).remove(0);
    assert!(!latency.reasons.iter().any(|reason| reason == own), "{:?}", latency.reasons);
}

#[test]
fn what_was_lost_has_no_latency_to_be_judged() {
    let mut trials = drifting();
    for lossy in [1, 3, 4] {
        trials[lossy].measured.as_mut().unwrap().counts.lost = 1;
    }
    let p99 = RATIO.replace("relay-cpu", "p99") + "rate-pps = 1_000\n";
    let lossy = "lost, repeated, swapped or damaged datagrams";
    let judged = compared(&format!("{p99}at-most = 0.8\n"), &trials).remove(0);
    assert_eq!((judged.pairs, judged.verdict), (3, Some(Verdict::Pass)));
    assert_eq!(
        judged.reasons,
        [
            "no pair, because new lost datagrams, of which no latency is known, in blocks 1, 2".to_owned(),
            format!("{lossy}: old in block 3"),
        ]
    );
    // What is only reported is told with all there is, and so is CPU time.
    let told = [format!("{lossy}: new in blocks 1, 2; old in block 3")];
    for ratio in [p99, format!("{RATIO}rate-pps = 1_000\nat-most = 0.8\n")] {
        let comparison = compared(&ratio, &trials).remove(0);
        assert_eq!((comparison.pairs, &comparison.reasons[..]), (5, &told[..]));
    }
}

#[test]
fn every_metric_is_the_one_it_is_called() {
    let mut trials = drifting();
    for trial in &mut trials {
        let latency = trial.measured.as_mut().unwrap().latency_ns.as_mut().unwrap();
        (latency.p50, latency.p99, latency.p999) = (latency.p50 / 10, latency.p50, latency.p50 * 10);
    }
    let medians = [("relay-cpu", 500.0), ("system-cpu", 750.0), ("p50", 500.0), ("p99", 5e3), ("p999", 5e4)];
    for (metric, median) in medians {
        let comparison = compared(&RATIO.replace("relay-cpu", metric), &trials).remove(0);
        assert_eq!((comparison.metric.to_string().as_str(), comparison.of_median), (metric, Some(median)));
    }
}

#[test]
fn conditions_without_the_metric_or_the_rate_are_not_compared() {
    let rates = |ratios: &str| -> Vec<_> {
        let comparisons = compared(ratios, &drifting());
        comparisons.iter().map(|comparison| comparison.condition.rate_pps).collect()
    };
    assert_eq!(rates(RATIO), [1_000, 2_000]);
    assert_eq!(rates(&format!("{RATIO}rate-pps = [2_000]\n")), [2_000]);
    let ratio = |metric: &str| scenario(&RATIO.replace("relay-cpu", metric)).expect.ratios.remove(0);
    let short = Condition { payload_bytes: 33, ..CONDITION };
    let applies = |metric, sides| ratio(metric).applies_to(&sides);
    assert!(applies("relay-cpu", [short; 2]) && !applies("p50", [short, CONDITION]));
    assert!(applies("p50", [Condition { payload_bytes: 34, ..CONDITION }; 2]));
}

#[test]
fn a_ratio_without_one_of_its_subjects_is_a_note() {
    let scenario = scenario(RATIO);
    let only_old = [&scenario.subjects[1]];
    assert!(compare(&scenario, &only_old, &[], &drifting()).is_empty());
    assert_eq!(
        not_compared(&scenario, &only_old, &[]),
        ["relay-cpu of new to old is not compared: new was not run"]
    );
    assert!(not_compared(&scenario, &[&scenario.subjects[0], &scenario.subjects[1]], &[]).is_empty());
}

#[test]
fn what_is_not_installed_leaves_a_ratio_undecided() {
    let missing = |name: &str| NotInstalled { subject: name.into(), program: "x".into() };
    let reported = scenario(RATIO);
    let only_old = [&reported.subjects[1]];
    assert!(compare(&reported, &only_old, &[missing("new")], &drifting()).is_empty());
    assert_eq!(
        not_compared(&reported, &only_old, &[missing("new")]),
        ["relay-cpu of new to old is not compared: new is not installed"]
    );

    // Trials of the one side alone must not look like a ratio that was kept.
    let limited = scenario(&format!("{RATIO}rate-pps = 1_000\nat-most = 0.8\n"));
    let only_old = [&limited.subjects[1]];
    let mut trials = drifting();
    trials.retain(|trial| trial.subject == "old");
    let comparison = compare(&limited, &only_old, &[missing("new")], &trials).remove(0);
    assert_eq!((comparison.pairs, comparison.verdict), (0, Some(Verdict::Inconclusive)));
    assert_eq!(comparison.reasons, ["new is not installed"]);
    assert!(not_compared(&limited, &only_old, &[missing("new")]).is_empty());
    // Who asks for one subject alone asks for no ratio.
    assert!(compare(&limited, &[], &[missing("new")], &[]).is_empty());
    assert_eq!(
        not_compared(&limited, &[], &[missing("new")]),
        ["relay-cpu of new to old is not compared: new is not installed and old was not run"]
    );
}

/// One subject with one sink and with eight, that takes four times as long for the eight.
fn fanned_out() -> (Scenario, Vec<Trial>) {
    let text = "name = 'x'\n[link]\nsegmentation = ['wire', 'offload']\n[traffic]\nrate-pps = 1_000\n[sinks]\ncount = [1, 8]\n\
                [trials]\nblocks = 3\n[[subject]]\nname = 'it'\nrelay = { rx = 'recv' }\n[[expect.ratio]]\n\
                metric = 'relay-cpu-per-copy'\nof = 'it'\nof-when = { sinks = 8 }\nto = 'it'\nto-when = { sinks = 1 }\n\
                at-most = 0.7\n";
    let scenario: Scenario = text.parse().unwrap();
    let trials = [1, 2, 3].into_iter().flat_map(|block| {
        let conditions = scenario.conditions();
        conditions.into_iter().map(move |condition| {
            let cpu_ns = if condition.fan_out == 8 { 4_000.0 } else { 1_000.0 };
            Trial { condition, ..trial("it", block, cpu_ns) }
        })
    });
    let trials = trials.collect();
    (scenario, trials)
}

#[test]
fn a_subject_is_compared_with_itself_under_another_condition() {
    let (scenario, trials) = fanned_out();
    let comparisons = compare(&scenario, &[&scenario.subjects[0]], &[], &trials);
    let sides: Vec<_> = comparisons
        .iter()
        .map(|comparison| (comparison.condition, comparison.to_condition.unwrap()))
        .map(|(of, to)| (of.segmentation, of.fan_out, to.segmentation, to.fan_out))
        .collect();
    let (wire, offload) = (Segmentation::Wire, Segmentation::Offload);
    assert_eq!(sides, [(wire, 8, wire, 1), (offload, 8, offload, 1)]);
    for comparison in &comparisons {
        assert_eq!((comparison.of_median, comparison.to_median), (Some(500.0), Some(1_000.0)));
        assert_eq!((comparison.pairs, comparison.verdict), (3, Some(Verdict::Pass)));
    }
    let json = serde_json::to_value(&comparisons[0]).unwrap();
    assert_eq!((&json["fan_out"], &json["to_condition"]["fan_out"]), (&8.into(), &1.into()));
    assert_eq!((&json["segmentation"], &json["to_condition"]["rate_pps"]), (&"wire".into(), &1_000.into()));
}

#[test]
fn both_sides_of_one_subject_are_told_apart() {
    let (scenario, mut trials) = fanned_out();
    for trial in trials.iter_mut().filter(|trial| trial.block == 1) {
        trial.measured.as_mut().unwrap().steal_percent = 5.0;
    }
    trials.retain(|trial| trial.block != 2 || trial.condition.fan_out == 8);
    let comparison = compare(&scenario, &[&scenario.subjects[0]], &[], &trials).remove(0);
    assert_eq!(
        comparison.reasons,
        [
            "a verdict takes 3 pairs of trials, found 2",
            "no pair, because it (sinks 1) was not run in block 2",
            "shared the machine with others (steal): it (sinks 8) in block 1; it (sinks 1) in block 1",
        ]
    );
    assert!(compare(&scenario, &[], &[], &trials).is_empty());
    assert_eq!(
        not_compared(&scenario, &[], &[]),
        ["relay-cpu-per-copy of it (sinks 8) to it (sinks 1) is not compared: it was not run"]
    );
}

#[test]
fn whom_auto_stands_for_follows_the_side() {
    let (mut scenario, _) = fanned_out();
    let ratio = &mut scenario.expect.ratios[0];
    (ratio.of_when, ratio.to_when) = (When::default(), When::default());
    ratio.of_when.segmentation = Some(Segmentation::Offload);
    ratio.to_when.segmentation = Some(Segmentation::Wire);
    let sides = scenario.conditions_of(&scenario.expect.ratios[0]);
    let kinds = sides.iter().map(|sides| sides.map(|condition| (condition.fan_out, condition.sink_kind)));
    let expected = [1, 8].map(|sinks| [(sinks, SinkKind::Packet), (sinks, SinkKind::Xdp)]);
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}
