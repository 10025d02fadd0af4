//! Trains of datagrams through the relay: all of them come out, on every path, apart or together.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::Lab;
use serde_json::Value;

const SCENARIO: &str = r#"
    name = "trains"
    [link]
    segmentation = ["wire", "offload"]
    [traffic]
    generator = "trains"
    burst = 40
    rate-pps = 4_000
    payload-bytes = [100, 1_400]
    duration = "400ms"
    warmup = "100ms"
    [sinks]
    kind = "packet"
    [trials]
    retries = 5
    calibrate = false
    [[subject]]
    name = "v3"
    relay = { rx = "mmap" }
    [[subject]]
    name = "v2"
    relay = { rx = "mmap", ring-version = 2 }
    [[subject]]
    name = "recv"
    relay = { rx = "recv" }
    [expect]
    loss = 0
"#;

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_relay_loses_nothing_of_a_train() {
    let lab = Lab::as_root();
    let run = lab.run_text(SCENARIO, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let passed = run.trials().iter().filter(|trial| trial["verdict"] == "pass").count();
    assert_eq!(passed, 3 * 2 * 2, "{}", run.said());
    for trial in run.last_attempts() {
        let (datagrams, frames) = came_in(trial);
        // 40 trains of 40. What was sent before the measured time came one by one.
        assert!(datagrams - frames > 1_400, "{datagrams} datagrams in {frames} frames: {}", run.said());
    }
}

/// How many datagrams the relay received, and in how many frames: the last line that it printed.
fn came_in(trial: &Value) -> (u64, u64) {
    let folder = Path::new(trial["files"].as_str().expect("files is a path"));
    let printed = std::fs::read_to_string(folder.join("stdout")).expect("read what the relay printed");
    let last = printed.lines().last().expect("the relay printed its counters");
    let counters: Value = serde_json::from_str(last).expect("the counters are JSON");
    let count = |name: &str| counters["inputs"][0][name].as_u64().expect("a counter of the input");
    (count("received"), count("frames"))
}
