//! Foreign datagrams beside the flows: the rule filter keeps them from the relay, to the last one, and whoever relays any is
//! found out.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Lab, Run, reasons};
use serde_json::Value;

/// In half a second.
const OURS: u64 = 10_000;
const FOREIGN: u64 = 20_000;

/// A scenario with these keys in `[traffic]` and these subjects.
fn scenario(traffic: &str, subjects: &str) -> String {
    format!(
        r#"
        name = "foreign"
        [traffic]
        rate-pps = 20_000
        foreign-pps = 40_000
        duration = "500ms"
        warmup = "100ms"
        {traffic}
        [sinks]
        kind = "packet"
        [trials]
        retries = 5
        calibrate = false
        {subjects}
        "#
    )
}

const RELAYS: &str = r#"
    [[subject]]
    name = "mmap"
    relay = { rx = "mmap" }
    [[subject]]
    name = "v2"
    relay = { rx = "mmap", ring-version = 2 }
    [[subject]]
    name = "recv"
    relay = { rx = "recv" }
"#;

const UNFILTERED: &str = r#"
    [[subject]]
    name = "mmap"
    relay = { rx = "mmap", rule-filter = false }
    [[subject]]
    name = "recv"
    relay = { rx = "recv", rule-filter = false }
"#;

/// Two hooks: one relays the flow, the other what is foreign. The one that is told to end takes the other with it.
const EXPOSED: &str = r#"
    [[subject]]
    name = "exposed"
    command = ["sh", "-c", """
        hook() {
            exec {lab} impair --input-interface {ingress} --group {group} --port $1 \
                --output-interface {egress} --output-group {out-group} --output-port {out-port}
        }
        hook 4999 & trap "kill $!" EXIT
        hook {port}
    """]
"#;

/// Runs it until every trial has proved something.
fn conclusive(text: &str) -> Run {
    conclusive_run(|lab| lab.run_text(text, &[]))
}

fn conclusive_run(run: impl Fn(&Lab) -> Run) -> Run {
    for _ in 0..5 {
        let run = run(&Lab::as_root());
        let verdicts: Vec<_> = run.last_attempts().iter().map(|trial| trial["verdict"].clone()).collect();
        if !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict == "pass" || verdict == "fail") {
            return run;
        }
    }
    panic!("this machine decided nothing in five runs");
}

fn step<'a>(trial: &'a Value, place: &str) -> &'a Value {
    let steps = trial["ledger"]["steps"].as_array().expect("steps is a list");
    steps.iter().find(|step| step["place"] == place).unwrap_or_else(|| panic!("no {place} in {trial}"))
}

/// How many of what a step dropped.
fn dropped(trial: &Value, place: &str, name: &str) -> u64 {
    let drops = step(trial, place)["drops"].as_array().expect("drops is a list");
    let count = drops.iter().find(|drop| drop["name"] == name).map(|drop| &drop["count"]);
    count.map_or(0, |count| count.as_u64().expect("a count"))
}

/// All trials passed and kept every foreign datagram out.
fn assert_kept_out(run: &Run, trials: usize, ours: u64, foreign: u64) {
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.last_attempts().len(), trials, "{}", run.said());
    for trial in run.last_attempts() {
        let counts = &trial["ledger"]["foreign"];
        for (key, expected) in [
            ("intended", foreign),
            ("sent", foreign),
            ("filtered", foreign),
            ("received", 0),
            ("at_sinks", 0),
        ] {
            assert_eq!(counts[key], expected, "{key}: {}", run.said());
        }
        assert_eq!(step(trial, "ingress-device")["foreign"], foreign, "{}", run.said());
        assert!(step(trial, "ingress-device")["count"].as_u64() >= Some(ours + foreign), "{}", run.said());
        assert_eq!(dropped(trial, "relay-received", "foreign"), foreign, "{}", run.said());
        assert_eq!(step(trial, "matched")["count"], ours, "{}", run.said());
        assert_eq!((&trial["alien"], &trial["lost"]), (&0.into(), &0.into()), "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_rule_filter_keeps_what_is_foreign_from_every_receive_path() {
    for generator in ["xdp", "packet"] {
        let run = conclusive(&scenario(&format!("generator = '{generator}'"), RELAYS));
        assert!(run.trials().iter().all(|trial| trial["generator"] == generator), "{}", run.said());
        assert_kept_out(&run, 3, OURS, FOREIGN);
    }
    for traffic in ["family = 'ipv6'", "cast = 'unicast-to-multicast'\nflows = 3\nburst = 20"] {
        assert_kept_out(&conclusive(&scenario(traffic, RELAYS)), 3, OURS, FOREIGN);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn fragments_are_kept_out_once_they_are_put_together() {
    let slower =
        scenario("payload-bytes = 2_000", RELAYS).replace("20_000", "5_000").replace("40_000", "10_000");
    assert_kept_out(&conclusive(&slower), 3, 2_500, 5_000);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_the_filter_the_relay_counts_every_one() {
    let run = conclusive(&scenario("", UNFILTERED));
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.last_attempts().len(), 2, "{}", run.said());
    for trial in run.last_attempts() {
        let counts = &trial["ledger"]["foreign"];
        assert_eq!(
            (&counts["filtered"], &counts["received"]),
            (&0.into(), &FOREIGN.into()),
            "{}",
            run.said()
        );
        assert_eq!(step(trial, "relay-received")["count"], OURS + FOREIGN, "{}", run.said());
        assert_eq!(dropped(trial, "matched", "no_rule"), FOREIGN, "{}", run.said());
        assert_eq!(step(trial, "matched")["count"], OURS, "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_relay_whose_filter_lets_them_through_fails() {
    let run = conclusive_run(|lab| {
        let relay = lab.relay_with("--no-rule-filter");
        lab.run_text(&scenario("", RELAYS), &["--relay", relay.to_str().expect("a path in UTF-8")])
    });
    assert_eq!(run.code, Some(1), "{}", run.said());
    assert_eq!(run.last_attempts().len(), 3, "{}", run.said());
    let why =
        format!("the relay received {FOREIGN} foreign datagrams, which its rule filter is to keep from it");
    for trial in run.last_attempts() {
        assert_eq!(reasons(trial), why, "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn whoever_relays_what_is_foreign_fails() {
    let run = conclusive(&scenario("", EXPOSED));
    assert_eq!(run.code, Some(1), "{}", run.said());
    let [trial] = run.last_attempts()[..] else { panic!("one trial: {}", run.said()) };
    let why = format!("{FOREIGN} foreign datagrams came to the sinks, and nobody is to relay any");
    assert_eq!(reasons(trial), why, "{}", run.said());
    assert_eq!(trial["ledger"]["foreign"]["at_sinks"], FOREIGN, "{}", run.said());
    assert_eq!((&trial["alien"], &trial["lost"]), (&0.into(), &0.into()), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn conditions_with_and_without_are_told_apart() {
    let text = scenario("", RELAYS).replace("40_000", "[0, 40_000]");
    let run = conclusive(&text);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let with =
        |foreign: u64| run.last_attempts().into_iter().filter(move |trial| trial["foreign_pps"] == foreign);
    assert_eq!((with(0).count(), with(40_000).count()), (3, 3), "{}", run.said());
    assert!(with(0).all(|trial| trial["ledger"].get("foreign").is_none()), "{}", run.said());
    for words in ["foreign/s", "40,000", "not captured (rule filter)"] {
        assert!(run.stdout.contains(words), "nothing of {words:?} in {}", run.said());
    }
}
