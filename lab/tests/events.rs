//! What happens during a trial: it happens, the relay lives through it, and a relay that does not is found out.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Lab, Run, failed, reasons};
use serde_json::Value;

/// A trial of the subjects with these events.
fn scenario(duration: &str, subjects: &[&str], events: &[&str], expect: &str) -> String {
    let subject = |relay: &&str| format!("[[subject]]\nname = '{relay}'\nrelay = {{ rx = '{relay}' }}\n");
    let event = |keys: &&str| format!("[[event]]\n{}\n", keys.replace(", ", "\n"));
    format!(
        "name = 'events'\n[trials]\nretries = 5\ncalibrate = false\n[traffic]\nrate-pps = 2_000\nduration = '{duration}'\n\
         warmup = '50ms'\n{}{}[expect]\n{expect}\n",
        subjects.iter().map(subject).collect::<String>(),
        events.iter().map(event).collect::<String>(),
    )
}

/// What the relay's program is called here.
const OWN_RELAY: &str = "relay-of-this-test";

/// The relay's program as a program of its own name, so that its processes can be told from those of others.
fn own_relay(lab: &Lab) -> PathBuf {
    let path = lab.scenario("").with_file_name(OWN_RELAY);
    let relay = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("multicast_relay");
    fs::copy(relay, &path).expect("copy the relay's program");
    path
}

/// The relay's program, but for what `script` does first.
fn relay_that(lab: &Lab, script: &str) -> PathBuf {
    let path = lab.scenario("").with_file_name("relay");
    let text = format!("#!/bin/sh\n{script}\nexec '{}' \"$@\"\n", own_relay(lab).display());
    fs::write(&path, text).expect("write the relay's program");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("make it executable");
    path
}

fn run(lab: &Lab, text: &str, relay: &Path) -> Run {
    lab.run_text(text, &["--relay", relay.to_str().expect("a path in UTF-8")])
}

/// The processes that run the program at `path`.
fn processes_of(path: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("list the processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let runs = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(path));
    pids.filter(runs).collect()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn records(trial: &Value) -> &Vec<Value> {
    trial["events"]["records"].as_array().expect("records is a list")
}

/// The last attempts, all of which passed, each with so many events.
fn passed(run: &Run, events: usize) -> Vec<&Value> {
    assert_eq!(run.code, Some(0), "{}", run.said());
    let trials = run.last_attempts();
    for trial in &trials {
        assert_eq!(records(trial).len(), events, "{}", trial["events"]);
        assert!(records(trial).iter().all(|record| record.get("failed").is_none()), "{}", trial["events"]);
        assert_eq!(trial["ledger"]["adds_up"], true, "{}", run.said());
    }
    trials
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn workers_that_die_are_replaced() {
    let lab = Lab::as_root();
    let relay = own_relay(&lab);
    let events = ["at = '300ms', kill = 'worker'", "at = '800ms', kill = 'workers', signal = 'SEGV'"];
    let expect = "duplicates-per-event = 2_000\nloss-per-event = 512";
    let run = run(&lab, &scenario("1500ms", &["mmap", "recv"], &events, expect), &relay);
    for trial in passed(&run, 2) {
        assert_eq!(trial["events"]["outages"], 2);
        let whats: Vec<_> = records(trial).iter().map(|record| &record["what"]).collect();
        assert_eq!(whats, ["kill worker (KILL)", "kill workers (SEGV)"]);
        assert!(trial["cpu_ns_per_packet"]["relay"].as_f64().expect("CPU time") > 0.0);
        let samples = trial["resources"].as_array().expect("resources is a list");
        assert!(samples.iter().all(|sample| sample["descriptors"].as_u64() > Some(0)), "{samples:?}");
        assert!(trial["disturbance"]["silence_ns"].as_u64() > Some(0));
    }
    assert!(processes_of(&relay).is_empty());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_supervisor_that_dies_is_replaced_and_its_workers_go_on() {
    let lab = Lab::as_root();
    let relay = own_relay(&lab);
    let events = ["at = '300ms', kill = 'supervisor', restart-after = '200ms'"];
    let run = run(&lab, &scenario("1500ms", &["mmap", "recv"], &events, ""), &relay);
    for trial in passed(&run, 1) {
        assert_eq!((&trial["events"]["outages"], &trial["duplicated"]), (&0.into(), &0.into()));
    }
    assert!(processes_of(&relay).is_empty());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_supervisor_that_does_not_start_again_is_found_out() {
    let lab = Lab::as_root();
    let once = "if [ \"$1\" = supervisor ] && ! mkdir \"$0.ran\" 2> /dev/null; then echo once is enough >&2; exit 7; fi";
    let relay = relay_that(&lab, once);
    let events = ["at = '300ms', kill = 'supervisor', restart-after = '10ms'"];
    let run = run(&lab, &scenario("1s", &["recv"], &events, ""), &relay);
    let failed = failed(&run);
    assert_eq!(failed.len(), 1, "{}", run.said());
    let reasons = reasons(failed[0]);
    assert!(reasons.contains("exit status: 7") && reasons.contains("once is enough"), "{reasons}");
    assert!(processes_of(&lab.out().with_file_name(OWN_RELAY)).is_empty());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_file_is_read_again_and_nonsense_changes_nothing() {
    let events = [
        "at = '200ms', reload = 'file'",
        "at = '400ms', reload = 'file', via = 'signal'",
        "at = '600ms', reload = 'invalid'",
        "at = '800ms', reload = 'invalid', via = 'signal'",
        "at = '1s', reload = 'file'",
        "every = '300ms', churn = 2",
    ];
    let lab = Lab::as_root();
    let relay = own_relay(&lab);
    passed(&run(&lab, &scenario("1500ms", &["recv"], &events, ""), &relay), 9);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_relay_that_does_not_read_its_file_is_found_out() {
    for (script, told) in [
        ("[ \"$1\" = reload ] && exit 0", "missing [neighbour-16"),
        (
            "[ \"$1\" = reload ] && { echo not today >&2; exit 1; }",
            "`reload` failed: exit status: 1: not today",
        ),
    ] {
        let lab = Lab::as_root();
        let relay = relay_that(&lab, script);
        let run = run(&lab, &scenario("500ms", &["recv"], &["at = '100ms', reload = 'file'"], ""), &relay);
        let failed = failed(&run);
        assert!(
            !failed.is_empty() && failed.iter().all(|trial| reasons(trial).contains(told)),
            "{}",
            run.said()
        );
    }
    let lab = Lab::as_root();
    let relay = relay_that(&lab, "[ \"$1\" = reload ] && exit 0");
    let run = run(&lab, &scenario("500ms", &["recv"], &["at = '100ms', reload = 'invalid'"], ""), &relay);
    let told = "`reload` of what is no configuration said that all was well";
    assert!(failed(&run).iter().all(|trial| reasons(trial).contains(told)), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn rules_come_and_go_and_leave_nothing() {
    let lab = Lab::as_root();
    let relay = own_relay(&lab);
    // A few may be opened once; one left behind by each event would be 49.
    let text = scenario("1s", &["recv"], &["every = '20ms', churn = 3"], "descriptor-growth = 10");
    for trial in passed(&run(&lab, &text, &relay), 49) {
        assert_eq!(trial["events"]["counts"]["churn 3"], 49);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_offered_while_a_link_is_down_is_nobodys_loss() {
    let lab = Lab::as_root();
    let relay = own_relay(&lab);
    let events = [
        "at = '300ms', flap = 'ingress', down-for = '100ms'",
        "at = '900ms', flap = 'egress', down-for = '100ms'",
        "at = '1500ms', flap = 'spare', how = 'recreate'",
        "at = '1800ms', flap = 'spare', how = 'mtu'",
    ];
    let run = run(&lab, &scenario("3s", &["mmap"], &events, "recovery = '2s'"), &relay);
    for trial in passed(&run, 4) {
        let seen = &trial["disturbance"];
        assert_eq!(seen["recoveries_ns"].as_array().map(Vec::len), Some(2), "{seen}");
        // A tenth of a second each, at least.
        assert!(seen["link_down"].as_u64() >= Some(300), "{seen}");
        assert_eq!((&trial["lost"], &trial["events"]["outages"]), (&0.into(), &2.into()));
        let unsent = &trial["ledger"]["steps"][1]["drops"][0];
        assert_eq!(unsent["name"], "link-down", "{}", trial["ledger"]);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn orphans_end_with_the_run() {
    let text = scenario("1m", &["recv"], &["at = '100ms', kill = 'supervisor', restart-after = '1m'"], "");
    for signal in ["INT", "KILL"] {
        let lab = Lab::as_root();
        let relay = own_relay(&lab);
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
            .arg("run")
            .arg(lab.scenario(&text))
            .args(["--out".as_ref(), lab.out().as_os_str(), "--relay".as_ref(), relay.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the lab");
        wait_for("supervisor and worker", || processes_of(&relay).len() == 2);
        wait_for("an orphan", || processes_of(&relay).len() == 1);
        let status = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(status.expect("signal the lab").success());
        child.wait().expect("wait for the lab");
        if signal == "KILL" {
            assert_eq!(processes_of(&relay).len(), 1, "nobody has ended it yet");
            lab.command().arg("clean").assert().success();
        }
        wait_for("the end of the orphan", || processes_of(&relay).is_empty());
    }
}
