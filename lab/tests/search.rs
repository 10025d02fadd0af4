//! `lab search` on subjects whose limit is known. Needs root.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Lab, reasons};
use serde_json::Value;

/// 300 ms of traffic: datagram number 700 is there from 2,337 packets per second on.
const FIRST_LOST: u64 = 700;
const LEAST_LOSSY_PPS: u64 = 2_337;

fn scenario(subject: &str) -> String {
    format!(
        "name = 'test'\n[trials]\nblocks = 3\nretries = 5\n[traffic]\nrate-pps = [500, 4_000]\nduration = '300ms'\nwarmup = '50ms'\n\
         [search]\nwidth = 0.2\n[[subject]]\nname = 'it'\n{subject}\n"
    )
}

fn forwarder(drop: u64) -> String {
    format!(
        "command = ['{{lab}}', 'impair', '--input-interface', '{{ingress}}', '--group', '{{group}}', '--port', \
         '{{port}}', '--output-interface', '{{egress}}', '--output-group', '{{out-group}}', '--output-port', \
         '{{out-port}}', '--drop', '{drop}']"
    )
}

/// What was found, and every trial.
fn search(subject: &str) -> (Value, Vec<Value>) {
    let run = Lab::as_root().search_text(&scenario(subject));
    let searches = run.results()["searches"].as_array().expect("searches");
    assert_eq!(searches.len(), 1);
    let (found, trials) = (searches[0].clone(), run.trials().clone());
    let has_none_by = |limit| found["lower_pps"].is_null() && found["upper_by"] == limit;
    // A machine that was not ours may leave even the least rate undecided; nothing else may.
    let code = match () {
        () if has_none_by("subject") => 1,
        () if has_none_by("lab") && !is_decided(&trials) => 3,
        () => 0,
    };
    assert_eq!(run.code, Some(code), "{}", run.said());
    (found, trials)
}

/// Whether every trial tells something of the subject. Those that do not, say why.
fn is_decided(trials: &[Value]) -> bool {
    let undecided: Vec<_> =
        trials.iter().filter(|trial| trial["verdict"] != "pass" && trial["verdict"] != "fail").collect();
    assert!(undecided.iter().all(|trial| !reasons(trial).is_empty()), "{undecided:?}");
    undecided.is_empty()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_limit_of_a_subject_lies_between_the_bounds() {
    let (found, trials) = search(&forwarder(FIRST_LOST));
    let bound = |key: &str| found[key].as_u64().expect(key);
    let (lower, upper) = (bound("lower_pps"), bound("upper_pps"));
    assert!(lower < LEAST_LOSSY_PPS && LEAST_LOSSY_PPS <= upper, "{found}");
    assert!(upper * 10 <= lower * 12 + 10, "no more than 20 % apart: {found}");
    assert_eq!(found["verdict"], "pass", "{found}");
    assert_is_whose(&found, &trials);
}

/// The upper bound is the subject's; a machine that was not ours may leave trials undecided, and it is the lab's then.
fn assert_is_whose(found: &Value, trials: &[Value]) {
    let may_be_the_labs = !is_decided(trials);
    assert!(found["upper_by"] == "subject" || may_be_the_labs && found["upper_by"] == "lab", "{found}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_without_a_limit_in_the_range_has_no_upper_bound() {
    let (found, trials) = search("wire = 'direct'");
    assert_eq!((&found["lower_pps"], &found["upper_pps"]), (&Value::from(4_000), &Value::Null));
    // Two of three decide, at either end of the range.
    assert!(trials.len() >= 4, "{}", trials.len());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_subject_that_always_loses_has_no_lower_bound() {
    // What a run may expect is nothing to a search.
    let (found, trials) = search(&format!("{}\n[expect]\nloss = 1\n", forwarder(5)));
    assert_eq!((&found["lower_pps"], &found["upper_pps"]), (&Value::Null, &Value::from(500)));
    assert!(trials.iter().all(|trial| trial["verdict"] != "pass"), "{trials:?}");
    assert_is_whose(&found, &trials);
    let verdict = if found["upper_by"] == "subject" { "fail" } else { "invalid" };
    assert_eq!(found["verdict"], verdict, "{found}");
    assert!(reasons(&found).contains("500 packets/s, the least"), "{found}");
}

#[test]
fn one_rate_is_no_range() {
    let run = Lab::new().search_text(&scenario("wire = 'direct'").replace("[500, 4_000]", "500"));
    assert_eq!(run.code, Some(2));
    assert!(
        run.said().contains("needs the least and the highest rate to try, found only 500"),
        "{}",
        run.said()
    );
}

#[test]
#[ignore = "needs root: claims a run"]
fn what_counts_no_loss_cannot_be_searched() {
    let text = "name = 'test'\n[trials]\nmeasure = 'join-leave'\n[traffic]\nrate-pps = [500, 4_000]\n[[subject]]\n\
                name = 'ours'\nrelay = { rx = 'recv' }\n";
    let run = Lab::as_root().search_text(text);
    assert_eq!(run.code, Some(2), "{}", run.said());
    assert!(
        run.stderr.contains("a search looks for loss, which \"join-leave\" does not count"),
        "{}",
        run.said()
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_was_found_is_compared() {
    let two = format!("{}\n[[subject]]\nname = 'wire'\nwire = 'direct'\n", forwarder(FIRST_LOST));
    let ratio = |at_least| format!("[[search.ratio]]\nof = 'it'\nto = 'wire'\nat-least = {at_least}\n");
    let text = format!("{}{}", scenario(&two), ratio("3"));
    let run = Lab::as_root().search_text(&text);
    let ratio = &run.results()["search_ratios"][0];
    let expected = [("of", "it".into()), ("to", "wire".into()), ("at_least", Value::from(3.0))];
    for (key, value) in expected {
        assert_eq!(ratio[key], value, "{key}");
    }
    // The wire has no upper bound, so that only the other end of the ratio is known: well below what is demanded.
    assert!(ratio["least"].is_null(), "{ratio}");
    if is_decided(run.trials()) {
        assert!(ratio["most"].as_f64().is_some_and(|most| most < 1.0), "{ratio}");
        assert_eq!((&ratio["verdict"], run.code), (&Value::from("fail"), Some(1)), "{}", run.said());
    } else if ratio["verdict"] != "fail" {
        // Whatever the machine did: it is no pass, and it is told why.
        assert_eq!((&ratio["verdict"], run.code), (&Value::from("inconclusive"), Some(3)), "{}", run.said());
        assert!(!reasons(ratio).is_empty(), "{ratio}");
    }
    assert_eq!(run.results()["kind"], "search");
    assert!(run.stdout.contains("at least"), "{}", run.said());
}
