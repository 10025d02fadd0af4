//! Subjects against each other, from the scenario to the exit code. A subject is compared with itself, by its CPU time:
//! whatever the machine does, the ratio is far from both limits.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Lab;
use serde_json::Value;

/// Two names for one relay in three blocks, and ratios with these limits for its CPU time.
fn scenario(limits: &[&str]) -> String {
    let subject = |name| format!("[[subject]]\nname = '{name}'\nrelay = {{ rx = 'recv' }}\n");
    let ratio = |limit: &&str| {
        format!("[[expect.ratio]]\nmetric = 'relay-cpu'\nof = 'a'\nto = 'b'\nat-most = {limit}\n")
    };
    format!(
        "name = 'test'\n[sinks]\nkind = 'packet'\n[trials]\nblocks = 3\nretries = 5\ncalibrate = false\n[traffic]\nrate-pps = 2_000\nduration = '300ms'\n\
         warmup = '50ms'\n{}{}{}",
        subject("a"),
        subject("b"),
        limits.iter().map(ratio).collect::<String>()
    )
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_ratio_beyond_its_limit_fails_the_run() {
    let run = Lab::as_root().run_text(&scenario(&["1_000", "0.001"]), &[]);
    assert_eq!(run.code, Some(1), "{}", run.said());
    let comparisons = run.results()["comparisons"].as_array().expect("comparisons is a list");
    let verdicts: Vec<_> = comparisons.iter().map(|comparison| &comparison["verdict"]).collect();
    assert_eq!(verdicts, ["pass", "fail"], "{}", run.said());
    let comparison = &comparisons[0];
    let expected = [
        ("metric", Value::from("relay-cpu")),
        ("cast", "multicast-to-multicast".into()),
        ("sink_kind", "packet".into()),
        ("payload_bytes", 100.into()),
        ("rate_pps", 2_000.into()),
        ("of", "a".into()),
        ("to", "b".into()),
        ("pairs", 3.into()),
        ("left_out", 0.into()),
        ("at_most", 1_000.0.into()),
    ];
    for (key, value) in expected {
        assert_eq!(comparison[key], value, "{key}");
    }
    let number = |value: &Value| value.as_f64().expect("a number");
    let (ratio, ends) = (number(&comparison["ratio"]), [0, 1].map(|end| number(&comparison["ci95"][end])));
    assert!(ends[0] <= ratio && ratio <= ends[1], "{ratio} is not from {} to {}", ends[0], ends[1]);
    assert!(number(&comparison["of_median"]) > 0.0 && number(&comparison["to_median"]) > 0.0);
    for words in ["3 of 3", "95 % interval", "all of the interval is above 0.001", "verdict: FAIL"] {
        assert!(run.stdout.contains(words), "nothing of {words:?} in {}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_side_that_is_not_run_is_not_compared() {
    let run = Lab::as_root().run_text(&scenario(&["0.001"]), &["--only", "a"]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.results()["comparisons"], Value::Array(Vec::new()));
    assert!(
        run.stdout.contains("note: relay-cpu of a to b is not compared: b was not run"),
        "{}",
        run.said()
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_is_compared_with_itself_under_two_conditions() {
    let text = "name = 'test'\n[link]\nsegmentation = ['wire', 'offload']\n[sinks]\ncount = [1, 3]\n[trials]\nblocks = 3\n\
                retries = 5\ncalibrate = false\n[traffic]\nrate-pps = 2_000\nduration = '300ms'\nwarmup = '50ms'\n\
                [[subject]]\nname = 'a'\nrelay = { rx = 'recv' }\n[[expect.ratio]]\nmetric = 'relay-cpu-per-copy'\nof = 'a'\n\
                of-when = { sinks = 3, segmentation = 'offload' }\nto = 'a'\nto-when = { sinks = 1, segmentation = 'wire' }\n\
                at-most = 1_000\n";
    let run = Lab::as_root().run_text(text, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let comparisons = run.results()["comparisons"].as_array().expect("comparisons is a list");
    assert_eq!(comparisons.len(), 1, "{}", run.said());
    let (of, to) = (&comparisons[0], &comparisons[0]["to_condition"]);
    let sides = [of, to].map(|side| (&side["fan_out"], &side["segmentation"], &side["sink_kind"]));
    let expected =
        [(3, "offload", "packet"), (1, "wire", "xdp")].map(|(a, b, c)| (a.into(), b.into(), c.into()));
    assert_eq!(sides, expected.each_ref().map(|(a, b, c): &(Value, Value, Value)| (a, b, c)));
    assert_eq!((&of["pairs"], &of["verdict"]), (&3.into(), &"pass".into()));
    for words in
        ["a (segmentation offload, sink packet, sinks 3)", "a (segmentation wire, sink xdp, sinks 1)"]
    {
        assert!(run.stdout.contains(words), "nothing of {words:?} in {}", run.said());
    }
}
