//! The lab alone, before and after a run, and what is deducted for it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::Lab;
use serde_json::Value;

const SCENARIO: &str = r#"
name = "calibrated"
[traffic]
cast = "multicast-to-unicast"
rate-pps = [1_000, 2_000]
duration = "300ms"
warmup = "50ms"
[sinks]
count = 2
kind = "packet"
[trials]
retries = 5
[[subject]]
name = "recv"
relay = { rx = "recv" }
"#;

fn system_time(trial: &Value) -> f64 {
    trial["cpu_ns_per_packet"]["system"].as_f64().expect("the machine's time")
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_lab_is_measured_alone_and_deducted() {
    let run = Lab::as_root().run_text(SCENARIO, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let series = |when: &str| {
        let trials = run.results()["calibration"][when].as_array().expect("a list");
        trials.iter().filter(|trial| trial["verdict"] == "pass").collect::<Vec<_>>()
    };
    let alone: Vec<_> = [series("before"), series("after")].concat();
    assert_eq!(alone.len(), 4, "two rates, twice: {}", run.said());
    for trial in run.last_attempts() {
        let of_rate = alone.iter().filter(|wire| wire["rate_pps"] == trial["rate_pps"]);
        let times: Vec<_> = of_rate.map(|wire| system_time(wire)).collect();
        assert_eq!(times.len(), 2);
        let above = trial["cpu_ns_per_packet"]["system_less_wire"].as_f64().expect("the time above the wire");
        let expected = system_time(trial) - f64::midpoint(times[0], times[1]);
        assert!((above - expected).abs() < 1.0, "{above} is not {expected}: {}", run.said());
    }
    for wire in alone {
        // One sink, and none of the subject's steps.
        let places: Vec<_> =
            wire["ledger"]["steps"].as_array().expect("steps").iter().map(|step| &step["place"]).collect();
        assert_eq!(places, ["intended", "sent", "sink-device", "sink"]);
        let datagrams = wire["rate_pps"].as_u64().expect("a rate") * 3 / 10;
        assert_eq!(wire["ledger"]["steps"][3]["count"], datagrams, "{}", run.said());
    }
    assert!(
        run.stdout.contains("lab alone") && run.stderr.contains("[before 1/2] direct-wire"),
        "{}",
        run.said()
    );
}
