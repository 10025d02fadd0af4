//! Whole runs: our relay, and subjects that would cheat the lab.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Lab, failed, reasons};
use serde_json::Value;

/// A scenario with small traffic and the given subjects.
fn scenario(traffic: &str, subjects: &str) -> String {
    format!(
        "name = 'test'\n[trials]\nretries = 5\ncalibrate = false\n[traffic]\nrate-pps = 2_000\nduration = '300ms'\nwarmup = '50ms'\n\
         {traffic}\n{subjects}\n"
    )
}

const RELAY: &str = "[[subject]]\nname = 'ours'\nrelay = { rx = 'recv' }";

/// A forwarder that damages nothing, and may end by itself.
fn forwarder(name: &str, more: &str) -> String {
    format!(
        "[[subject]]\nname = '{name}'\ncommand = ['{{lab}}', 'impair', '--input-interface', '{{ingress}}', \
         '--group', '{{group}}', '--port', '{{port}}', '--output-interface', '{{egress}}', '--output-group', \
         '{{out-group}}', '--output-port', '{{out-port}}' {more}]\n"
    )
}

/// Counts along the ledger of a trial, by place.
fn counts(trial: &Value) -> Vec<(String, u64)> {
    let steps = trial["ledger"]["steps"].as_array().expect("steps is a list");
    let read = |step: &Value| {
        (step["place"].as_str().expect("place").to_owned(), step["count"].as_u64().expect("count"))
    };
    steps.iter().map(read).collect()
}

fn namespaces_of(run: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/var/run/netns").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(run)).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_relay_loses_nothing_and_the_ledger_adds_up() {
    let traffic =
        "flows = 3\npayload-bytes = [18, 200]\n[sinks]\ncount = 2\nkind = ['xdp', 'packet', 'socket']";
    let run = Lab::as_root().run_text(&scenario(traffic, RELAY), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let results = run.results();
    assert_eq!((&results["schema"], &results["verdict"]), (&"multicast-relay-lab/1".into(), &"pass".into()));
    assert_eq!(results["scenario"]["content"]["traffic"]["flows"], 3);
    for trial in run.last_attempts() {
        let expected = [
            ("intended", 600),
            ("sent", 600),
            ("ingress-device", 600),
            ("relay-received", 600),
            ("matched", 600),
            ("relayed-copies", 1_200),
            ("egress-device", 1_200),
            ("sink-device", 1_200),
            ("sink", 1_200),
        ];
        assert_eq!(counts(trial), expected.map(|(place, count)| (place.to_owned(), count)), "{}", run.said());
        assert_eq!(trial["ledger"]["adds_up"], true);
        for key in ["lost", "duplicated", "reordered", "corrupted", "alien", "misdelivered"] {
            assert_eq!(trial[key], 0, "{key}");
        }
        // Payloads of 18 bytes carry no time.
        assert_eq!(trial.get("latency_ns").is_some(), trial["payload_bytes"] == 200);
        assert!(trial["cpu_ns_per_packet"]["relay"].as_f64().expect("relay's CPU time") > 0.0);
    }
    assert!(run.stdout.contains("verdict: PASS"), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn every_cast_over_either_family() {
    let casts =
        "cast = ['multicast-to-multicast', 'multicast-to-unicast', 'unicast-to-multicast']\nflows = 2";
    for family in ["ipv4", "ipv6"] {
        let traffic = format!(
            "family = '{family}'\n{casts}\n[link]\nchecksum = 'wire'\n[sinks]\nkind = ['xdp', 'packet', 'socket']"
        );
        let run = Lab::as_root().run_text(&scenario(&traffic, RELAY), &[]);
        assert_eq!(run.code, Some(0), "{family}: {}", run.said());
        let casts: BTreeSet<_> = run.trials().iter().map(|trial| trial["cast"].to_string()).collect();
        assert_eq!(casts.len(), 3);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn json_is_all_there_is_on_standard_output() {
    let lab = Lab::as_root();
    let text = scenario("", &format!("{}{}", forwarder("a", ""), forwarder("b", "")));
    let run = lab.run_text(&text, &["--json", "--only", "b"]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let printed: Value = serde_json::from_str(&run.stdout).expect("standard output is JSON");
    assert_eq!(&printed, run.results());
    assert!(run.trials().iter().all(|trial| trial["subject"] == "b"));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_forwards_nothing_fails() {
    let run =
        Lab::as_root().run_text(&scenario("", "[[subject]]\nname = 'idle'\ncommand = ['sleep', '600']"), &[]);
    for trial in failed(&run) {
        let reason = "after 10 s only 0 of 1 flows came out of the subject at every sink (nothing tells whether it was \
                      still starting)";
        assert_eq!(reasons(trial), reason);
    }
    // Nothing was measured, so nothing is reported.
    assert!(run.last_attempts()[0].get("lost").is_none());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_relays_only_some_flows_fails() {
    let run = Lab::as_root().run_text(&scenario("flows = 2", &forwarder("partial", "")), &[]);
    for trial in failed(&run) {
        assert!(reasons(trial).contains("only 1 of 2 flows"), "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_never_starts_fails_in_its_own_words() {
    let subject =
        "[[subject]]\nname = 'broken'\ncommand = ['sh', '-c', 'echo the config is wrong >&2; exit 7']";
    let run = Lab::as_root().run_text(&scenario("", subject), &[]);
    assert_eq!(run.code, Some(1), "{}", run.said());
    let reasons = reasons(run.last_attempts()[0]);
    assert!(reasons.contains("exit status: 7"), "{reasons}");
    assert!(reasons.contains("the config is wrong"), "{reasons}");
    assert!(run.stdout.contains("the config is wrong"), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_dies_in_the_middle_fails() {
    let run = Lab::as_root().run_text(&scenario("", &forwarder("mortal", ", '--die-at', '200'")), &[]);
    assert_eq!(run.code, Some(1), "{}", run.said());
    let reasons = reasons(run.last_attempts()[0]);
    assert!(reasons.contains("ended at sequence 200, as asked"), "{reasons}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_sends_elsewhere_fails() {
    let everything = forwarder("astray", "").replace("'{out-port}'", "'6001'");
    let run = Lab::as_root().run_text(&scenario("", &everything), &[]);
    for trial in failed(&run) {
        assert!(reasons(trial).contains("0 of 1 flows"), "{}", run.said());
    }
    // Expecting the loss does not make it right to send the datagrams elsewhere.
    let two = format!("{}[expect]\nloss = 2\n", forwarder("astray", ", '--misdirect', '7,100'"));
    let run = Lab::as_root().run_text(&scenario("[sinks]\nkind = ['xdp', 'packet', 'socket']", &two), &[]);
    assert_eq!(run.code, Some(1), "{}", run.said());
    for trial in run.last_attempts() {
        assert_eq!(
            (&trial["lost"], &trial["misdelivered"], &trial["alien"]),
            (&2.into(), &2.into(), &0.into())
        );
        assert_eq!(reasons(trial), "2 datagrams came to addresses that are not theirs", "{}", run.said());
        assert_eq!(trial["ledger"]["adds_up"], true);
    }
}

/// What the lab can do by itself: between generator and sink there is nothing.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_direct_wire_carries_everything_and_uses_no_relay() {
    let wire = "[[subject]]\nname = 'wire'\nwire = 'direct'";
    for generator in ["xdp", "packet"] {
        let traffic =
            format!("generator = '{generator}'\nflows = 3\n[sinks]\nkind = ['xdp', 'packet', 'socket']");
        let run = Lab::as_root().run_text(&scenario(&traffic, wire), &[]);
        assert_eq!(run.code, Some(0), "{}", run.said());
        let trials = run.last_attempts();
        assert_eq!(trials.len(), 3);
        for trial in trials {
            let of = |place: &str| (place.to_owned(), 600);
            assert_eq!(counts(trial), ["intended", "sent", "sink-device", "sink"].map(of));
            let cpu = &trial["cpu_ns_per_packet"];
            assert!(cpu["relay"].is_null() && cpu["system"].is_number(), "{cpu}");
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_may_keep_group_and_port() {
    let subject = forwarder("keeper", "") + "output = 'same'";
    let run =
        Lab::as_root().run_text(&scenario("[sinks]\nkind = ['xdp', 'packet', 'socket']", &subject), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.last_attempts().len(), 3);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn fragments_are_datagrams_all_along_the_ledger() {
    let subject = forwarder("fragments", ", '--drop', '10,20'") + "[expect]\nloss = 2\n";
    let traffic = "payload-bytes = [1_473, 8_000]\n[sinks]\nkind = ['packet', 'socket']";
    let run = Lab::as_root().run_text(&scenario(traffic, &subject), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    for trial in run.last_attempts() {
        let expected = [600, 600, 600, 598, 598, 598];
        assert_eq!(counts(trial).into_iter().map(|(_, count)| count).collect::<Vec<_>>(), expected);
        assert_eq!(trial["ledger"]["adds_up"], true);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_burst_is_offered_at_once_and_counted_from_when_it_was_due() {
    let traffic = "burst = 600\npayload-bytes = 1_400\n[sinks]\nkind = ['xdp', 'packet', 'socket']";
    let run = Lab::as_root().run_text(&scenario(traffic, &forwarder("bursts", "")), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    for trial in run.last_attempts() {
        let offered = trial["offered_pps"].as_f64().expect("offered_pps");
        assert!((1_990.0..=2_010.0).contains(&offered), "{offered}");
        // Half of them leave sooner than at an even pace, where each would be there at once.
        let half = trial["latency_ns"]["p50"].as_u64().expect("p50");
        assert!((400_000..150_000_000).contains(&half), "{half}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_cannot_be_offered_is_invalid_and_never_a_pass() {
    // Far beyond any generator; short, so that the subject is soon done.
    let text = scenario("", &forwarder("any", ""))
        .replace("rate-pps = 2_000", "rate-pps = 10_000_000")
        .replace("300ms", "5ms")
        .replace("50ms", "0ms")
        .replace("retries = 5", "retries = 1");
    let run = Lab::as_root().run_text(&text, &[]);
    assert_eq!(run.code, Some(3), "{}", run.said());
    assert_eq!(run.results()["verdict"], "invalid");
    let attempts: Vec<_> = run.trials().iter().map(|trial| trial["attempt"].as_u64()).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
    for trial in run.trials() {
        assert_eq!(trial["verdict"], "invalid");
        assert!(reasons(trial).contains("instead of 10000000"), "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_generator_that_cannot_keep_up_is_stopped() {
    let text = scenario("", &forwarder("any", ""))
        .replace("rate-pps = 2_000", "rate-pps = 10_000_000")
        .replace("300ms", "1s")
        .replace("50ms", "0ms")
        .replace("retries = 5", "retries = 0");
    let run = Lab::as_root().run_text(&text, &[]);
    assert_eq!(run.code, Some(3), "{}", run.said());
    let trial = run.last_attempts()[0];
    assert!(reasons(trial).contains("the generator was stopped"), "{}", run.said());
    let counts = counts(trial);
    assert_eq!(counts[0], ("intended".to_owned(), 10_000_000));
    assert!(counts[1].1 < counts[0].1, "{counts:?}");
    let named = &trial["ledger"]["steps"][1]["drops"][0];
    assert_eq!(
        (&named["name"], &named["count"]),
        (&"not offered in time".into(), &(10_000_000 - counts[1].1).into())
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_program_that_is_not_installed_is_named_before_anything_runs() {
    let lab = Lab::as_root();
    let run =
        lab.run_text(&scenario("", "[[subject]]\nname = 'other'\ncommand = ['no-such-relay', '-x']"), &[]);
    assert_eq!(run.code, Some(2), "{}", run.said());
    assert!(
        run.stderr.contains("subject \"other\": there is no program \"no-such-relay\""),
        "{}",
        run.said()
    );
    assert!(!lab.out().exists());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_relay_that_cannot_be_found_is_an_error() {
    let run = Lab::as_root().run_text(&scenario("", RELAY), &["--relay", "/no/such/relay"]);
    assert_eq!(run.code, Some(2), "{}", run.said());
    assert!(run.stderr.contains("--relay /no/such/relay: there is no such file"), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_relay_that_is_none_fails() {
    // Takes the relay's arguments, relays nothing and says why.
    let lab = Lab::as_root();
    let fake = lab.scenario("").with_file_name("fake-relay");
    fs::write(&fake, "#!/bin/sh\necho cannot open $3 >&2\nexit 2\n").expect("write the fake relay");
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("make it a program");
    let run = lab.run_text(&scenario("", RELAY), &["--relay", fake.to_str().expect("a path in UTF-8")]);
    assert_eq!(run.code, Some(1), "{}", run.said());
    assert!(reasons(run.last_attempts()[0]).contains("cannot open"), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_folder_that_cannot_be_written_is_an_error_before_traffic_runs() {
    let lab = Lab::as_root();
    let path = lab.scenario(&scenario("", &forwarder("a", "")));
    fs::write(lab.out(), "a file is in the way").expect("write a file");
    let run = lab.run(&path, &[]);
    assert_eq!(run.code, Some(2), "{}", run.said());
    assert!(run.stderr.contains("choose another folder with --out DIR"), "{}", run.said());
}

/// Starts a long run and waits until its subject works.
fn long_run(lab: &Lab) -> (Child, u32) {
    let text = scenario("", "").replace("300ms", "10m");
    let subject = "[[subject]]\nname = 'idle'\ncommand = ['sh', '-c', 'echo $$ > {dir}/pid; exec sleep 600']";
    let path = lab.scenario(&format!("{text}{subject}"));
    let child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("run")
        .arg(path)
        .arg("--out")
        .arg(lab.out())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the lab");
    let pid_file = lab.out().join("trials/001-idle/pid");
    let pid = wait_for(|| fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    (child, pid)
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether process `pid` does anything; one that only waits to be reaped has no command line.
fn is_alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The names of the network namespace that process `pid` is in.
fn namespace_of(pid: u32) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(format!("/proc/{pid}/ns/net")).expect("the subject runs").ino();
    namespaces_of("lab-")
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.ino() == inode))
        .collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn an_interrupted_run_leaves_nothing() {
    let lab = Lab::as_root();
    let (mut child, subject) = long_run(&lab);
    let namespace = namespace_of(subject);
    assert_eq!(namespace.len(), 1, "the subject runs in a namespace of the lab's");
    let name = namespace[0].file_name().expect("a name").to_string_lossy().into_owned();
    let run = name.trim_end_matches("relay").to_owned();
    assert_eq!(namespaces_of(&run).len(), 3);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("interrupt the lab");
    assert_eq!(child.wait().expect("wait for the lab").code(), Some(130));
    assert!(namespaces_of(&run).is_empty(), "left: {:?}", namespaces_of(&run));
    assert!(!is_alive(subject), "the subject is left");
    let stderr = BufReader::new(child.stderr.take().expect("standard error"));
    assert!(stderr.lines().map_while(Result::ok).any(|line| line.contains("interrupted")));
    let results: Value =
        serde_json::from_slice(&fs::read(lab.out().join("results.json")).expect("results are written"))
            .expect("JSON");
    assert_eq!(results["verdict"], "interrupted");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_a_killed_run_leaves_can_be_removed() {
    let lab = Lab::as_root();
    let (mut child, subject) = long_run(&lab);
    let namespace = namespace_of(subject).remove(0);
    child.kill().expect("kill the lab");
    child.wait().expect("wait for the lab");
    // Somebody else may be cleaning up at the same time and be at it already: then it is theirs to finish.
    wait_for(|| {
        lab.command().arg("clean").assert().success();
        (!namespace.exists() && !is_alive(subject)).then_some(())
    });
}
