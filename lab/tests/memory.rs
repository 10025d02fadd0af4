//! What a subject has in RAM: told apart from its rings, and held to what is expected.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Lab, failed, reasons};

/// A trial of the subject with these keys.
fn scenario(subject: &str, expect: &str) -> String {
    format!(
        r#"
        name = "memory"
        [traffic]
        rate-pps = 1_000
        duration = "400ms"
        warmup = "100ms"
        [trials]
        retries = 5
        calibrate = false
        [[subject]]
        name = "subject"
        {subject}
        [expect]
        {expect}
        "#
    )
}

/// The hook, which takes so much memory with each of 400 datagrams.
fn leaking(bytes: u64) -> String {
    format!(
        r#"
        command = [
          "{{lab}}", "impair",
          "--input-interface", "{{ingress}}", "--group", "{{group}}", "--port", "{{port}}",
          "--output-interface", "{{egress}}", "--output-group", "{{out-group}}", "--output-port", "{{out-port}}",
          "--leak", "{bytes}"
        ]
        "#
    )
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_grows_is_failed() {
    let limits = "memory-mib = 16\nmemory-growth-kib = 4_096";
    let run = Lab::as_root().run_text(&scenario(&leaking(64 << 10), limits), &[]);
    for trial in failed(&run) {
        let reasons = reasons(trial);
        assert!(reasons.contains("KiB outside packet rings, expected at most 16384"), "{reasons}");
        assert!(
            reasons.contains("memory grew by ") && reasons.contains("expected at most 4096"),
            "{reasons}"
        );
        let bytes = |key: &str| trial["memory_bytes"][key].as_u64().expect("bytes");
        assert!(bytes("end") - bytes("begin") >= 400 * (64 << 10), "{}", trial["memory_bytes"]);
    }
    let run = Lab::as_root().run_text(&scenario(&leaking(0), limits), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_ring_is_told_apart() {
    let relay = "relay = { rx = \"mmap\", ring-block-size = 131_072, ring-block-count = 256 }";
    let run = Lab::as_root().run_text(&scenario(relay, "memory-mib = 96"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    for trial in run.last_attempts() {
        assert_eq!(trial["memory_bytes"]["ring"], 32 << 20, "the whole ring is in memory");
    }
}
