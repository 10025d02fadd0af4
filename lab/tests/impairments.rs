//! Faults that the generator makes are counted to the datagram, by every sink, from either generator.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Lab, failed, reasons};
use serde_json::Value;

const EVERY_FAULT: &str = "drop = 5\nduplicate = 4\nswap = 3\ncorrupt = 2\nforeign = 1";
const EXPECTED: &str = "loss = 5\nduplicates = 4\nreordered = 3\ncorrupted = 2\nalien = 1";

fn scenario(generator: &str, traffic: &str, impairments: &str, expect: &str) -> String {
    format!(
        r#"
        name = "impairments"
        [traffic]
        generator = "{generator}"
        rate-pps = 5_000
        duration = "400ms"
        warmup = "50ms"
        {traffic}
        [traffic.impairments]
        {impairments}
        [sinks]
        kind = ["xdp", "packet", "socket"]
        [trials]
        retries = 5
        [[subject]]
        name = "wire"
        wire = "direct"
        [expect]
        {expect}
        "#
    )
}

/// What happened to which datagram in a trial: kind, flow, sequence. An alien has neither of the latter.
fn incidents(trial: &Value) -> BTreeSet<(String, Option<u64>, Option<u64>)> {
    let read = |incident: &Value| {
        let kind = incident["kind"].as_str().expect("kind").to_owned();
        let own = kind != "alien";
        let number = |key: &str| incident[key].as_u64().filter(|_| own);
        (kind, number("flow"), number("sequence"))
    };
    trial["incidents"].as_array().expect("incidents is a list").iter().map(read).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_sink_reports_the_same_faults_from_either_generator() {
    let mut seen: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for generator in ["xdp", "packet"] {
        let traffic = "flows = 3\npayload-bytes = [18, 120]";
        let run = Lab::as_root().run_text(&scenario(generator, traffic, EVERY_FAULT, EXPECTED), &[]);
        assert_eq!(run.code, Some(0), "{}", run.said());
        for trial in run.last_attempts() {
            assert_eq!((&trial["generator"], &trial["alien"]), (&generator.into(), &1.into()));
            assert_eq!(trial["ledger"]["adds_up"], true, "{}", run.said());
            // 2,000 datagrams, 5 of them left out, 4 sent twice, 1 followed by another.
            assert_eq!(trial["ledger"]["steps"][0]["count"], 2_000, "{}", run.said());
            let incidents = incidents(trial);
            assert_eq!(incidents.len(), 5 + 4 + 3 + 2 + 1, "{incidents:?}");
            seen.entry(format!("{incidents:?}"))
                .or_default()
                .insert(format!("{generator} {} {}", trial["sink_kind"], trial["payload_bytes"]));
        }
    }
    let agreed: Vec<_> = seen.values().map(BTreeSet::len).collect();
    assert_eq!(agreed, [12], "two generators, three sinks, two sizes: {seen:#?}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn it_is_the_named_number_that_is_lost() {
    let run = Lab::as_root().run_text(&scenario("auto", "", "drop = 2", "loss = 2"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    for trial in run.last_attempts() {
        let lost = |sequence| ("lost".to_owned(), Some(0), Some(sequence));
        assert_eq!(incidents(trial), BTreeSet::from([lost(500), lost(1_500)]), "{}", run.said());
        assert_eq!(trial["ledger"]["steps"][0]["count"], 1_998);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_fault_that_is_not_expected_is_no_pass() {
    let run = Lab::as_root().run_text(&scenario("auto", "", "drop = 1\ncorrupt = 1", "loss = 1"), &[]);
    let failed = failed(&run);
    assert!(!failed.is_empty(), "{}", run.said());
    for trial in failed {
        assert_eq!(reasons(trial), "corrupted 1, expected 0");
    }
    // Whoever misses what does not belong here counts wrong himself.
    let run = Lab::as_root().run_text(&scenario("auto", "", "foreign = 2", "alien = 3"), &[]);
    assert_eq!(run.code, Some(3), "{}", run.said());
    for trial in run.last_attempts() {
        assert_eq!(trial["verdict"], "invalid", "{}", run.said());
        assert!(
            reasons(trial).contains("2 datagrams at the sinks belong to no flow of this trial, expected 3")
        );
    }
}
