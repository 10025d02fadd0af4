//! Trains of datagrams through the relay: all of them come out, on every path, apart or together.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Lab;

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
    let run = Lab::as_root().run_text(SCENARIO, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let passed = run.trials().iter().filter(|trial| trial["verdict"] == "pass").count();
    assert_eq!(passed, 3 * 2 * 2, "{}", run.said());
}
