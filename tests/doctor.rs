//! `multicast_relay doctor` on this machine, and in network namespaces whose interfaces have faults. The latter need root,
//! `unshare` of util-linux and `ip` of iproute2.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::process::{Command, Output};

use serde_json::Value;

const RELAY: &str = env!("CARGO_BIN_EXE_multicast_relay");

fn doctor(arguments: &[&str]) -> Output {
    Command::new(RELAY).arg("doctor").args(arguments).output().unwrap()
}

/// The findings in a network namespace that is made by a shell script, and gone afterwards.
fn doctor_after(script: &str, arguments: &str) -> Vec<Value> {
    let script = format!("{script}; exec {RELAY} doctor --json {arguments}");
    let output = Command::new("unshare").args(["--net", "sh", "-ec", &script]).output().unwrap();
    findings(&output)
}

fn findings(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    report["findings"].as_array().unwrap().clone()
}

/// Whether the findings have one at `level` of `subject` that begins with `what`.
fn has(findings: &[Value], subject: &str, level: &str, what: &str) -> bool {
    findings.iter().any(|finding| {
        finding["subject"] == subject
            && finding["level"] == level
            && finding["what"].as_str().unwrap().starts_with(what)
    })
}

#[test]
fn the_loopback_device_can_be_asked_for() {
    let output = doctor(&["lo", "--json"]);
    assert!(has(&findings(&output), "lo", "ok", "is up"), "{output:?}");
    let text = String::from_utf8(doctor(&["lo"]).stdout).unwrap();
    assert!(text.starts_with("host\n") && text.contains("\n\nlo\n  ok       is up"), "{text}");
}

#[test]
fn a_problem_is_exit_code_one_and_a_bad_file_is_two() {
    let output = doctor(&["no-such-if", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(has(&findings(&output), "no-such-if", "problem", "there is no such interface"));
    let output = doctor(&["--config", "/no/such/file"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[test]
fn a_configuration_says_which_interfaces() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[rule]]\ninput = { interface = \"lo\", group = \"239.1.1.1\", port = 1 }\n\
                outputs = [{ group = \"239.2.2.2\", port = 1, interface = \"no-such-if\" }]\n";
    file.write_all(rule.as_bytes()).unwrap();
    let output = doctor(&["--json", "--config", file.path().to_str().unwrap()]);
    let findings = findings(&output);
    assert!(has(&findings, "lo", "ok", "has Ethernet headers"), "{findings:?}");
    assert!(has(&findings, "no-such-if", "problem", "there is no such"), "{findings:?}");
    assert!(!has(&findings, "lo", "ok", "takes trains"), "nothing is sent through it: {findings:?}");
}

#[test]
#[ignore = "needs root"]
fn faults_of_real_interfaces_are_found() {
    let findings = doctor_after(
        "ip link add br0 type bridge mcast_snooping 1; ip link set br0 up; \
         ip link add left type veth peer name right; ip link set right up master br0; \
         ip link set left up multicast off mtu 1400; ip address add 10.81.0.1/24 dev left; \
         ip link add idle type veth peer name away",
        "br0 left right idle",
    );
    for (subject, level, what) in [
        ("br0", "warning", "is a bridge with snooping and without a querier"),
        ("br0", "note", "has no address"),
        ("left", "ok", "is up (driver veth), MTU 1400"),
        ("left", "ok", "has IPv4 addresses: 1"),
        ("left", "warning", "is not able to send to groups"),
        ("left", "warning", "has no route to the IPv4 groups"),
        ("right", "warning", "is a port of the bridge br0"),
        ("idle", "warning", "is down"),
    ] {
        assert!(has(&findings, subject, level, what), "{subject} {level} {what}: {findings:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn mended_interfaces_are_sound() {
    let findings = doctor_after(
        "ip link add br0 type bridge mcast_querier 1; ip link add left type veth peer name right; \
         ip link set br0 up; ip link set left up; ip link set right up master br0; \
         ip address add 10.81.0.1/24 dev left; ip route add 224.0.0.0/4 dev left; \
         ip address add 10.82.0.1/24 dev br0; ip route add 224.0.0.0/4 dev br0 metric 7",
        "",
    );
    let subjects: Vec<_> = findings.iter().map(|finding| finding["subject"].as_str().unwrap()).collect();
    assert!(subjects.contains(&"br0") && subjects.contains(&"left"), "{subjects:?}");
    assert!(!subjects.contains(&"right"), "it is a part of br0: {subjects:?}");
    let bad: Vec<_> =
        findings.iter().filter(|finding| finding["subject"] != "host" && finding["level"] != "ok").collect();
    assert!(bad.is_empty(), "{bad:?}");
}
