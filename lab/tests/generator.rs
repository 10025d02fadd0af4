//! Which generator sends, and that trials come to the same with either.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::{Lab, reasons};
use serde_json::Value;

fn scenario(generator: &str) -> String {
    format!(
        r#"
        name = "generators"
        [traffic]
        generator = "{generator}"
        rate-pps = 10_000
        flows = 7
        duration = "500ms"
        warmup = "100ms"
        [sinks]
        count = 3
        kind = ["packet", "socket"]
        [trials]
        calibrate = false
        [[subject]]
        name = "recv"
        relay = {{ rx = "recv" }}
        "#
    )
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn counts_are_the_same_with_either_generator() {
    for (generator, used) in [("auto", "xdp"), ("xdp", "xdp"), ("packet", "packet")] {
        let run = Lab::as_root().run_text(&scenario(generator), &[]);
        for trial in run.last_attempts() {
            assert_eq!(trial["generator"], used, "{}", run.said());
            // A machine that is not ours may leave a trial undecided; its ledger adds up all the same.
            assert_eq!(trial["ledger"]["adds_up"], true, "{}: {}", reasons(trial), run.said());
            let count = |place: &str| {
                let steps = trial["ledger"]["steps"].as_array().unwrap();
                steps.iter().find(|step| step["place"] == place).and_then(|step| step["count"].as_u64())
            };
            for (place, expected) in [("intended", 5_000), ("sent", 5_000), ("ingress-device", 5_000)] {
                assert_eq!(count(place), Some(expected), "{place}: {}", run.said());
            }
            assert_eq!(count("sink"), Some(15_000), "{}", run.said());
        }
        assert!(run.results().get("notes").is_none(), "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_xdp_cannot_send_is_sent_by_the_packet_generator_and_said() {
    let text = scenario("auto").replace("flows = 7", "payload-bytes = [100, 2_000]");
    let run = Lab::as_root().run_text(&text, &[]);
    let kinds = |bytes: u64| {
        let of_size = |trial: &&&Value| trial["payload_bytes"] == bytes;
        run.trials()
            .iter()
            .filter(|trial| of_size(&trial))
            .map(|trial| trial["generator"].clone())
            .collect::<Vec<_>>()
    };
    assert!(kinds(100).iter().all(|kind| kind == "xdp") && !kinds(100).is_empty(), "{}", run.said());
    assert!(kinds(2_000).iter().all(|kind| kind == "packet") && !kinds(2_000).is_empty(), "{}", run.said());
    let note = "the packet generator sends payloads of 2000 bytes, which an MTU of 1500 cuts into fragments";
    assert_eq!(run.results()["notes"][0], note, "{}", run.said());
    assert_eq!(run.stderr.matches(note).count(), 1, "{}", run.said());
}

/// Runs the scenario where the kernel loads no program: with all capabilities, but inside a user namespace.
fn without_bpf(generator: &str) -> (Option<i32>, String, Option<Value>) {
    let lab = Lab::as_root();
    let path = lab.scenario(&scenario(generator));
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", env!("CARGO_BIN_EXE_lab"), "run"])
        .args([path.as_os_str(), "--out".as_ref(), lab.out().as_os_str()])
        .output()
        .unwrap();
    let results = std::fs::read(lab.out().join("results.json")).ok();
    let results = results.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), results)
}

#[test]
#[ignore = "needs root: makes a user namespace"]
fn without_bpf_auto_is_the_packet_generator() {
    let (_, said, results) = without_bpf("auto");
    let why = "the packet generator sends, because XDP does not work here: run the XDP program";
    assert_eq!(said.matches(why).count(), 1, "{said}");
    let results = results.unwrap_or_else(|| panic!("no results: {said}"));
    assert!(results["notes"][0].as_str().is_some_and(|note| note.starts_with(why)), "{results}");
}

#[test]
#[ignore = "needs root: makes a user namespace"]
fn without_bpf_xdp_is_an_error_that_says_what_to_do() {
    let (code, said, results) = without_bpf("xdp");
    assert_eq!((code, results), (Some(2), None), "{said}");
    for part in
        ["traffic.generator is \"xdp\"", "Operation not permitted", "take traffic.generator = \"packet\""]
    {
        assert!(said.contains(part), "{said}");
    }
}
