//! Lists of flows and sinks, and joining and leaving.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{Lab, Run, failed, reasons};
use serde_json::Value;

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_group_comes_to_every_sink_under_every_condition() {
    let text = r#"
        name = "lists"
        [traffic]
        rate-pps = 4_000
        flows = [3, 200]
        duration = "300ms"
        warmup = "50ms"
        [sinks]
        count = [1, 3]
        kind = "packet"
        [trials]
        retries = 5
        calibrate = false
        [[subject]]
        name = "ours"
        relay = { rx = "recv" }
        "#;
    let run = Lab::as_root().run_text(text, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let trials = run.last_attempts();
    let number = |trial: &Value, key: &str| trial[key].as_u64().expect("a number");
    let conditions: BTreeSet<_> =
        trials.iter().map(|trial| (number(trial, "fan_out"), number(trial, "flows"))).collect();
    assert_eq!(conditions, BTreeSet::from([(1, 3), (1, 200), (3, 3), (3, 200)]));
    for trial in trials {
        let sinks = trial["sinks"].as_array().expect("sinks is a list");
        assert_eq!(sinks.len() as u64, number(trial, "fan_out"), "{}", run.said());
        assert!(sinks.iter().all(|sink| sink["received"] == 1_200), "{}", run.said());
    }
}

/// Joins and leaves with `lab impair`, wrapped by a shell that does as `script` says with it.
fn join_and_leave(script: &str) -> Run {
    let text = format!(
        r#"
        name = "delays"
        [traffic]
        rate-pps = 1_000
        duration = "200ms"
        [sinks]
        kind = ["xdp", "packet", "socket"]
        [trials]
        measure = "join-leave"
        retries = 5
        [[subject]]
        name = "slow"
        command = ["sh", "-c", '''{script}''', "{{lab}}", "impair",
          "--input-interface", "{{ingress}}", "--group", "{{group}}", "--port", "{{port}}",
          "--output-interface", "{{egress}}", "--output-group", "{{out-group}}", "--output-port", "{{out-port}}"]
        "#
    );
    Lab::as_root().run_text(&text, &[])
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn who_comes_late_and_goes_late_is_told_so() {
    let script = r#"sleep 0.3; "$0" "$@" & trap "sleep 0.4; kill $!; exit 0" TERM; wait"#;
    let run = join_and_leave(script);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let trials = run.last_attempts();
    assert_eq!(trials.len(), 3);
    for trial in trials {
        let delay = |key: &str| trial["delays"][key].as_u64().expect("a delay") / 1_000_000;
        assert!(delay("first_ns") >= 300 && delay("join_ns") >= delay("first_ns"), "{trial}");
        assert!(delay("leave_ns") >= 380, "{trial}");
        assert_eq!(delay("resolution_ns"), 1);
        assert!(trial.get("lost").is_none());
    }
    assert!(run.stdout.contains("join ms") && run.results().get("calibration").is_none(), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn who_never_comes_or_does_not_stay_fails() {
    let run = join_and_leave("exit 7");
    for trial in failed(&run) {
        assert!(reasons(trial).starts_with("the subject ended before it relayed everything: exit status: 7"));
    }
}
