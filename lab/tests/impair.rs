//! The lab proves itself: what `lab impair` damages is reported to the exact datagram.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Lab, failed, reasons};
use serde_json::Value;

/// The hook as a subject, with `faults` as its arguments.
fn scenario(faults: &str, expect: &str) -> String {
    format!(
        r#"
        name = "impair"
        [traffic]
        rate-pps = 1_000
        payload-bytes = [18, 120]
        duration = "400ms"
        warmup = "100ms"
        [sinks]
        kind = ["xdp", "packet", "socket"]
        [trials]
        retries = 5
        calibrate = false
        [[subject]]
        name = "impair"
        command = [
          "{{lab}}", "impair",
          "--input-interface", "{{ingress}}", "--group", "{{group}}", "--port", "{{port}}",
          "--output-interface", "{{egress}}", "--output-group", "{{out-group}}", "--output-port", "{{out-port}}",
          {faults}
        ]
        [expect]
        {expect}
        "#
    )
}

/// What happened to which datagram in a trial: kind, flow, sequence.
fn incidents(trial: &Value) -> BTreeSet<(String, u64, u64)> {
    let incidents = trial["incidents"].as_array().expect("incidents is a list");
    let read = |incident: &Value| {
        assert_eq!(incident["sink"], 0);
        let number = |key: &str| incident[key].as_u64().unwrap_or_else(|| panic!("{key} of {incident}"));
        (incident["kind"].as_str().expect("kind").to_owned(), number("flow"), number("sequence"))
    };
    let set: BTreeSet<_> = incidents.iter().map(read).collect();
    assert_eq!(set.len(), incidents.len(), "an incident is reported twice: {incidents:?}");
    set
}

fn named(kinds: &[(&str, &[u64])]) -> BTreeSet<(String, u64, u64)> {
    let of_kind = |(kind, sequences): &(&str, &[u64])| {
        sequences.iter().map(|sequence| ((*kind).to_owned(), 0, *sequence)).collect::<Vec<_>>()
    };
    kinds.iter().flat_map(of_kind).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_fault_is_reported_to_the_exact_datagram() {
    let faults =
        r#""--drop", "10,20,0", "--duplicate", "30,31,32", "--swap", "40,60", "--corrupt", "50,399,70,71""#;
    let expect = "loss = 3\nduplicates = 3\nreordered = 2\ncorrupted = 4";
    let run = Lab::as_root().run_text(&scenario(faults, expect), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.results()["verdict"], "pass");
    let trials = run.last_attempts();
    let conditions: BTreeSet<_> =
        trials.iter().map(|trial| (trial["sink_kind"].as_str(), trial["payload_bytes"].as_u64())).collect();
    assert_eq!(conditions.len(), 6, "every sink and both sizes: {conditions:?}");
    let expected = named(&[
        ("lost", &[0, 10, 20]),
        ("duplicated", &[30, 31, 32]),
        ("reordered", &[40, 60]),
        ("corrupted", &[50, 70, 71, 399]),
    ]);
    for trial in trials {
        assert_eq!(incidents(trial), expected, "{} sink", trial["sink_kind"]);
        assert_eq!(trial["ledger"]["adds_up"], true);
        let places: Vec<_> =
            trial["ledger"]["steps"].as_array().expect("steps").iter().map(|step| &step["place"]).collect();
        // What this subject cannot report is absent.
        assert_eq!(places, ["intended", "sent", "ingress-device", "egress-device", "sink-device", "sink"]);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn wrong_expectations_fail() {
    let faults = r#""--drop", "10,20", "--corrupt", "50""#;
    // More than there is, and less.
    let expect = "loss = 1\nduplicates = 1\nreordered = 0\ncorrupted = 1";
    let run = Lab::as_root().run_text(&scenario(faults, expect), &[]);
    for trial in failed(&run) {
        let lost = "lost 2, expected 1 (2 not relayed (net) before \"egress device\")";
        assert_eq!(reasons(trial), format!("{lost}; duplicated 0, expected 1"));
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_projects_own_scenario_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/impair.toml");
    let run = Lab::as_root().run(&path, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let expected =
        named(&[("lost", &[10, 20]), ("duplicated", &[30]), ("reordered", &[40]), ("corrupted", &[50])]);
    for trial in run.last_attempts() {
        assert_eq!(incidents(trial), expected);
    }
}
