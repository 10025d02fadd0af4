//! Pages of runs that ended well and badly, and files that are no results.

use super::*;
use crate::calibration::Calibration;
use crate::comparison::Comparison;
use crate::disturbance::{Disturbance, LossSpan};
use crate::results::fixtures::{self, CONDITION, results, trial};
use crate::results::{RESULTS_FILE, Results, RunKind, RunVerdict, Trial};
use crate::scenario::{Condition, Metric};
use crate::search::{Found, FoundRatio, Limit};
use crate::trial::Delays;
use crate::verdict::Verdict;

/// The page of `results`.
fn page_of(results: &Results) -> String {
    page_of_text(&serde_json::to_vec(results).unwrap())
}

fn page_of_text(text: &[u8]) -> String {
    page(&record::read(Path::new(RESULTS_FILE), text).unwrap()).unwrap()
}

/// What `lab report` says of a file with this content.
fn refusal(content: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(RESULTS_FILE);
    fs::write(&file, content).unwrap();
    let error = make(&file, None).unwrap_err().to_string();
    assert!(!dir.path().join(PAGE_FILE).exists());
    assert!(error.contains(&file.display().to_string()), "{error}");
    error
}

#[test]
fn what_names_say_is_text_and_never_markup() {
    let evil = "<script>alert('x')</script>\"&";
    let mut bad = trial(evil, 1, 100.0);
    (bad.verdict, bad.reasons) = (Verdict::Fail, vec![format!("it said {evil}")]);
    let mut results = results(Verdict::Fail, vec![bad]);
    results.notes = vec![evil.into()];
    results.scenario.name = evil.into();
    results.scenario.content.insert(evil.into(), evil.into());
    results.environment.processor = evil.into();
    let page = page_of(&results);
    assert!(!page.contains("<script") && !page.contains("alert('x')"), "{page}");
    assert!(page.contains("&#60;script&#62;alert(&#39;x&#39;)&#60;/script&#62;&#34;&#38;"));
}

#[test]
fn events_are_told_one_by_one_with_what_came_of_them() {
    let mut run = results(Verdict::Fail, vec![trial("a", 1, 1.0), trial("b", 1, 1.0)]);
    assert!(!page_of(&run).contains("Events and interruptions"));
    let measured = run.trials[1].measured.as_mut().unwrap();
    measured.events = Some(fixtures::events(60));
    let disturbance = Disturbance {
        silence_ns: 12_340_000,
        delay_ns: 55_600_000,
        recoveries_ns: vec![1, 98_760_000],
        link_down: 4_321,
        losses: vec![LossSpan { from_ms: 1_234.5, to_ms: 1_239.25, lost: 678 }],
    };
    measured.disturbance = Some(disturbance);
    let page = page_of(&run);
    for text in ["Events and interruptions", ">12.3<", ">55.6<", ">98.8<", ">4,321<", ">60<"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.contains("Trial 2, b, the first 50 of 60 events"));
    assert_eq!(page.matches(">kill worker (KILL)<").count(), 50);
    assert!(page.contains("it stayed &#60;dead&#62;"));
    assert!(page.contains("Trial 2, b: what was lost when") && page.contains(">1234.5<"));
    assert!(page.contains(">678<"));
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let trials = [1, 2, 3].into_iter().flat_map(|block| [trial("a", block, 100.0), trial("b", block, 200.0)]);
    let page = page_of(&results(Verdict::Pass, trials.collect()));
    for reference in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("default-src 'none'"));
    // Every section that the page announces is there.
    for link in page.split("href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
}

#[test]
fn the_verdict_comes_first_and_says_how_it_came_about() {
    let headline = |results: &Results| {
        let page = page_of(results);
        let head = page.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap().to_owned();
        head.split('>').next_back().unwrap().trim().to_owned()
    };
    assert_eq!(headline(&results(Verdict::Pass, vec![trial("a", 1, 1.0)])), "1 trial passed.");

    let mut lost = trial("a", 2, 1.0);
    (lost.verdict, lost.reasons) = (Verdict::Fail, vec!["lost 7, expected 0".into()]);
    let failed = results(Verdict::Fail, vec![trial("a", 1, 1.0), lost]);
    assert_eq!(headline(&failed), "1 of 2 trials failed.");
    assert!(page_of(&failed).contains("block 2: lost 7, expected 0"));

    let mut broken = results(Verdict::Pass, vec![trial("a", 1, 1.0)]);
    (broken.verdict, broken.error) = (RunVerdict::Error, Some("no space left".into()));
    assert_eq!(headline(&broken), "The lab could not go on after 1 attempt: no space left.");
    broken.verdict = RunVerdict::Interrupted;
    broken.trials.clear();
    assert_eq!(headline(&broken), "The run was interrupted after 0 attempts.");
    assert!(page_of(&broken).contains("No trial was held to its end."));
}

#[test]
fn memory_is_told_where_it_was_seen() {
    let page = page_of(&results(Verdict::Pass, vec![trial("a", 1, 1.0)]));
    assert!(page.contains("grown KiB") && page.contains(">7.0</td>") && page.contains(">64.0</td>"));
    let mut wire = trial("a", 1, 1.0);
    wire.measured.iter_mut().for_each(|measured| measured.memory_bytes = None);
    assert!(!page_of(&results(Verdict::Pass, vec![wire])).contains(">64.0</td>"));
}

#[test]
fn of_whom_nothing_was_expected_nobody_says_that_it_passed() {
    let mut measured = trial("other", 1, 1.0);
    measured.expected = None;
    let page = page_of(&results(Verdict::Pass, vec![trial("ours", 1, 1.0), measured]));
    assert!(page.contains(">measured</td>") && page.contains(">pass</td>"));
    assert!(page.contains("Only measured, with nothing expected of the counts: other."));
}

#[test]
fn what_proved_nothing_shows_no_medians() {
    let mut void = trial("a", 1, 4_711.0);
    (void.verdict, void.reasons) = (Verdict::Invalid, vec!["the generator was stopped".into()]);
    let page = page_of(&results(Verdict::Invalid, vec![void]));
    assert!(page.contains("0 of 1") && page.contains("the generator was stopped"));
    let glance = page.split("id=\"glance\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(!glance.contains("4,711") && !glance.contains("47.1"), "{glance}");
    // Every trial is in the last table, struck through.
    assert!(page.contains("class=\"void\"") && page.contains("4,711"));
}

#[test]
fn both_conditions_of_a_comparison_are_told() {
    let fanned_out = Condition { fan_out: 8, ..CONDITION };
    let comparison = Comparison {
        metric: Metric::RelayCpuPerCopy,
        condition: fanned_out,
        to_condition: Some(CONDITION),
        of: "it".into(),
        to: "it".into(),
        pairs: 1,
        left_out: 0,
        of_median: Some(500.0),
        to_median: Some(1_000.0),
        ratio: Some(0.5),
        ci95: None,
        at_most: Some(0.4),
        verdict: Some(Verdict::Inconclusive),
        reasons: vec!["too few".into()],
    };
    let trials = vec![Trial { condition: fanned_out, ..trial("it", 1, 4_000.0) }, trial("it", 1, 1_000.0)];
    let page = page_of(&Results { comparisons: vec![comparison], ..results(Verdict::Inconclusive, trials) });
    let about = "of it (8 packet sinks) to it (packet sink), 1,000 packets/s";
    assert!(page.contains(&format!("relay-cpu-per-copy {about}")), "{page}");
    // The pair is found, and what is shown of it is for each copy.
    for part in ["<td class=\"\">it (8 packet sinks)</td>", "block 1: 500 : 1,000 ns  0.500"] {
        assert!(page.contains(part), "{part}");
    }
    // Results that were written before conditions could differ.
    let old = serde_json::to_string(&results(Verdict::Pass, vec![trial("it", 1, 1.0)])).unwrap();
    let old = old.replace("\"segmentation\":\"wire\",", "").replace("\"kind\":\"run\",", "");
    assert!(page_of_text(old.as_bytes()).contains("1 trial passed."));
}

#[test]
fn a_search_and_a_calibration_have_their_sections() {
    let mut results = results(Verdict::Pass, vec![trial("a", 1, 1.0)]);
    let page = page_of(&results);
    assert!(!page.contains("id=\"searches\"") && !page.contains("id=\"calibration\""));
    results.kind = RunKind::Search;
    results.searches = vec![Found {
        subject: "a".into(),
        condition: CONDITION,
        lower_pps: Some(631_519),
        upper_pps: Some(668_988),
        upper_by: Some(Limit::Lab),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
    }];
    results.calibration = Some(Calibration { before: vec![trial("w", 1, 10.0)], after: Vec::new() });
    let ratio = FoundRatio {
        of: "a".into(),
        to: "b".into(),
        condition: CONDITION,
        least: Some(1.9),
        most: None,
        at_least: 2.5,
        verdict: Verdict::Inconclusive,
        reasons: vec!["the lab could not".into()],
    };
    results.search_ratios = vec![ratio];
    results.verdict = RunVerdict::Inconclusive;
    let told = page_of(&results);
    for part in [
        "at least 1.900",
        "at least 2.5",
        "<li>the lab could not</li>",
        "highest rate of a to that of b",
        "1 of 1 ratio left",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    results.search_ratios.clear();
    let page = page_of(&results);
    for part in ["id=\"searches\"", "631,519", "668,988", "the lab", "id=\"calibration\"", "before the run"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("after the run</th>"));
    (results.verdict, results.searches[0].verdict) = (RunVerdict::Fail, Verdict::Fail);
    results.searches[0].reasons = vec!["a fails already".into()];
    let page = page_of(&results);
    assert_eq!(page.matches("a fails already").count(), 2, "among the reasons, and beneath its row");
    assert!(page.contains("1 of 1 search failed."), "{page}");
}

#[test]
fn a_file_without_results_is_one_clear_error() {
    assert!(refusal("").contains("run the scenario again"));
    assert!(refusal("{\"schema\": \"multicast-relay-lab/1\"}").contains("missing field"));
    let other = refusal("{\"schema\": \"multicast-relay-lab/9\"}");
    assert!(
        other.contains("has schema multicast-relay-lab/9, and this lab reads multicast-relay-lab/1"),
        "{other}"
    );
    assert!(refusal("{}").contains("has no schema"));
    let text = serde_json::to_string(&results(Verdict::Pass, vec![trial("a", 1, 1.0)])).unwrap();
    assert!(refusal(&text[..text.len() / 2]).contains("line 1"));
    let missing = make(Path::new("/nowhere/results.json"), None).unwrap_err().to_string();
    assert!(missing.starts_with("read results /nowhere/results.json: No such file"), "{missing}");
}

#[test]
fn a_page_never_takes_the_place_of_the_results() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(RESULTS_FILE);
    let text = serde_json::to_string(&results(Verdict::Pass, vec![trial("a", 1, 1.0)])).unwrap();
    fs::write(&file, &text).unwrap();
    let error = make(&file, Some(&dir.path().join(".").join(RESULTS_FILE))).unwrap_err().to_string();
    assert!(error.contains("the results are there; choose another file"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let error = make(&file, Some(&dir.path().join("none/page.html"))).unwrap_err().to_string();
    assert!(error.starts_with("write page ") && error.contains("none/page.html"), "{error}");
    let page = make(&file, Some(&dir.path().join("page.html"))).unwrap();
    assert_eq!(page, dir.path().join("page.html"));
    assert!(fs::read_to_string(page).unwrap().starts_with("<!doctype html>"));
}

#[test]
fn a_run_about_delays_shows_them_and_no_empty_drawings() {
    let mut joined = trial("a", 1, 1.0);
    let delays = Delays { first_ns: 4_567_890, join_ns: 1_234_000_000, leave_ns: 0, resolution_ns: 100_000 };
    (joined.measured, joined.delays) = (None, Some(delays));
    let page = page_of(&results(Verdict::Pass, vec![joined]));
    assert!(page.contains("id=\"delays\"") && page.contains("1,234.00"));
    assert!(!page.contains("id=\"latency\"") && !page.contains("id=\"loss\""));
}
