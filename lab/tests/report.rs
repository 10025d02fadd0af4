//! The page of a run, and the page made anew.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::Lab;

const SCENARIO: &str = "name = 'paged'\n[traffic]\nrate-pps = [1_000, 2_000]\nduration = '300ms'\nwarmup = '50ms'\n\
                        [trials]\nblocks = 2\nretries = 5\ncalibrate = false\n[[subject]]\nname = 'ours'\nrelay = { rx = 'recv' }\n";

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_run_has_a_page_that_can_be_made_anew() {
    let lab = Lab::as_root();
    let run = lab.run_text(SCENARIO, &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let page = lab.out().join("report.html");
    assert!(run.stdout.contains(&format!("page: {}", page.display())), "{}", run.said());
    let made = fs::read_to_string(&page).expect("the page is there");
    for part in ["4 trials passed.", "2,000 packets/s", "ours", "CPU time per datagram"] {
        assert!(made.contains(part), "{part}");
    }
    fs::remove_file(&page).expect("remove the page");
    // From the folder, and from the file to somewhere else.
    lab.command().arg("report").arg(lab.out()).assert().success();
    let other = lab.out().join("other.html");
    let results = lab.out().join("results.json");
    lab.command().arg("report").arg(results).arg("--out").arg(&other).assert().success();
    for again in [&page, &other] {
        assert_eq!(fs::read_to_string(again).expect("the page is there"), made);
    }
    // Among many, beside one that is not there.
    let report = lab.out().join("report.md");
    lab.command().arg("summary").arg(lab.out()).arg("--out").arg(&report).assert().success();
    let report = fs::read_to_string(report).expect("the report is there");
    assert!(report.starts_with("# Bars\n\n2 pass.\n"), "{report}");
    for part in ["counts, ours, 2,000 packets/s", "lost in 2 blocks", "lab run ", "## Medians"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    let both = lab.command().arg("summary").arg(lab.out()).arg("/nowhere").assert().code(2);
    let said = String::from_utf8_lossy(&both.get_output().stdout).into_owned();
    assert!(said.contains("counts, ours, 1,000 packets/s") && said.contains("2 pass, 1 ERROR."), "{said}");
}

#[test]
fn no_results_are_an_error() {
    let lab = Lab::new();
    let said = lab.command().arg("report").arg(".").assert().code(2).get_output().stderr.clone();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("read results ./results.json: No such file or directory"), "{said}");
}
