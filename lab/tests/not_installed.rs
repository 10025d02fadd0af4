//! Subjects whose programs are not on this machine: those that are optional are left out and told, and what was asked of
//! them is never a pass. Needs root.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Lab, Run};
use serde_json::{Value, json};

/// Nothing but a wire, so that no machine is too slow for it.
const THERE: &str = "[[subject]]\nname = 'there'\nwire = 'direct'\n";
const GONE: &str = "[[subject]]\nname = 'gone'\ncommand = ['no-such-relay', '{ingress}']\noptional = true\n";
const TOLD: &str = "gone: not installed (no-such-relay is not in PATH), left out";
const RATIO: &str = "[[expect.ratio]]\nmetric = 'system-cpu'\nof = 'there'\nto = 'gone'\n";

/// A scenario with small traffic and `more`.
fn scenario(more: &str) -> String {
    format!(
        "name = 'test'\n[trials]\nblocks = 3\nretries = 5\n[traffic]\nrate-pps = [1_000, 2_000]\nduration = '100ms'\n\
         warmup = '0ms'\n{more}"
    )
}

fn run(more: &str, arguments: &[&str]) -> Run {
    Lab::as_root().run_text(&scenario(more), arguments)
}

fn notes(run: &Run) -> Vec<&str> {
    let notes = run.results()["notes"].as_array().into_iter().flatten();
    notes.map(|note| note.as_str().expect("a note is text")).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_others_are_measured_and_it_is_told() {
    let run = run(&format!("{GONE}{THERE}{RATIO}"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert_eq!(run.results()["not_installed"], json!([{ "subject": "gone", "program": "no-such-relay" }]));
    assert!(run.last_attempts().len() == 6 && run.trials().iter().all(|trial| trial["subject"] == "there"));
    assert_eq!(run.results()["comparisons"], json!([]));
    // At once, and again where the reader's eye is in the end.
    assert_eq!(
        run.stderr.lines().filter(|line| *line == format!("lab: {TOLD}")).count(),
        1,
        "{}",
        run.said()
    );
    for note in [TOLD, "system-cpu of there to gone is not compared: gone is not installed"] {
        assert!(run.stdout.contains(&format!("note: {note}\n")), "{}", run.said());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_asked_of_it_by_name_is_never_a_pass() {
    let limited = run(&format!("{GONE}{THERE}{RATIO}at-most = 0.8\nrate-pps = 1_000\n"), &["--json"]);
    assert_eq!(limited.code, Some(3), "{}", limited.said());
    let printed: Value = serde_json::from_str(&limited.stdout).expect("standard output is JSON");
    assert_eq!(&printed, limited.results());
    assert_eq!(
        (&printed["verdict"], &printed["not_installed"][0]["subject"]),
        (&"inconclusive".into(), &"gone".into())
    );
    let comparisons = printed["comparisons"].as_array().expect("comparisons is a list");
    assert_eq!(comparisons.len(), 1, "{comparisons:?}");
    let found = &comparisons[0];
    assert_eq!((&found["verdict"], &found["pairs"]), (&"inconclusive".into(), &0.into()));
    assert_eq!(found["reasons"], json!(["gone is not installed"]));

    let expected = run(&format!("{GONE}{THERE}[expect]\nloss = 0\nsubjects = ['gone', 'there']\n"), &[]);
    assert_eq!((expected.code, notes(&expected).len()), (Some(3), 2), "{}", expected.said());
    assert_eq!(notes(&expected)[1], "what is expected of gone is not decided: it is not installed");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_run_of_nobody_measured_nothing() {
    for run in [
        run(GONE, &[]),
        run(&format!("{GONE}{THERE}{RATIO}at-most = 0.8\n"), &["--only", "gone"]),
        Lab::as_root().search_text(&scenario(GONE)),
    ] {
        assert_eq!(run.code, Some(3), "{}", run.said());
        assert_eq!(
            (&run.results()["verdict"], run.trials().len()),
            (&"inconclusive".into(), 0),
            "{}",
            run.said()
        );
        assert_eq!(run.results()["not_installed"][0]["program"], "no-such-relay");
        for words in ["no trial was held to its end", &format!("note: {TOLD}"), "verdict: INCONCLUSIVE"] {
            assert!(run.stdout.contains(words), "nothing of {words:?} in {}", run.said());
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn who_is_not_asked_for_is_not_missed() {
    let run = run(&format!("{GONE}{THERE}"), &["--only", "there"]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert!(
        run.results().get("not_installed").is_none() && !run.said().contains("not installed"),
        "{}",
        run.said()
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_search_goes_on_with_the_others() {
    let run = Lab::as_root().search_text(&scenario(&format!("{GONE}{THERE}[search]\nwidth = 1.0\n")));
    assert_eq!(run.code, Some(0), "{}", run.said());
    let searches = run.results()["searches"].as_array().expect("searches is a list");
    assert!(searches.len() == 1 && searches[0]["subject"] == "there", "{}", run.said());
    assert_eq!(run.results()["not_installed"][0]["subject"], "gone");
    assert!(run.stdout.contains(&format!("note: {TOLD}")), "{}", run.said());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_is_not_optional_ends_the_run_before_it_begins() {
    for gone in [GONE.replace("optional = true", ""), GONE.replace("true", "false")] {
        let lab = Lab::as_root();
        let run = lab.run_text(&scenario(&format!("{THERE}{gone}")), &[]);
        assert_eq!(run.code, Some(2), "{}", run.said());
        for words in ["subject \"gone\": there is no program \"no-such-relay\"", "say `optional = true`"] {
            assert!(run.stderr.contains(words), "nothing of {words:?} in {}", run.said());
        }
        assert!(!lab.out().exists());
    }
}

/// As shipped, but for the amounts.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn relays_are_compared_with_whoever_is_installed() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/compare-relays.toml");
    let mut text = std::fs::read_to_string(shipped).expect("read the scenario");
    for (amount, less) in [
        ("rate-pps = [10_000, 50_000, 100_000]", "rate-pps = 1_000"),
        ("duration = \"2s\"", "duration = '300ms'\nwarmup = '50ms'"),
        ("blocks = 3", "blocks = 1\nretries = 5"),
    ] {
        assert!(text.contains(amount), "{amount}");
        text = text.replace(amount, less);
    }
    let run = Lab::as_root().run_text(&text, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let left_out = run.results()["not_installed"].as_array().into_iter().flatten();
    let left_out: Vec<_> = left_out.map(|missing| &missing["subject"]).collect();
    for name in ["mmap", "recv", "smcroute", "socat"] {
        let last = run.last_attempts();
        let trial = last.iter().find(|trial| trial["subject"] == name);
        assert!(
            trial.is_some() != left_out.iter().any(|left_out| *left_out == name),
            "{name}: {}",
            run.said()
        );
        // At so low a rate everybody relays everything.
        assert!(trial.is_none_or(|trial| trial["lost"] == 0), "{name}: {}", run.said());
        // What a program writes besides its output is its own to remove.
        let files = trial.and_then(|trial| trial["files"].as_str());
        let is_left = |file: &str| files.is_some_and(|dir| std::path::Path::new(dir).join(file).exists());
        assert!(!is_left("sock") && !is_left("smcroute.pid"), "{name} left something behind");
    }
}
