//! The command line of the lab: what it refuses, in which words, with which exit code. No root needed.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::Lab;

const GOOD: &str =
    "name = 'good'\n[traffic]\nrate-pps = 1000\n[[subject]]\nname = 'r'\nrelay = { rx = 'recv' }\n";

/// Whether this process may do anything.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

#[test]
fn every_scenario_of_the_project_is_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries =
        |folder| fs::read_dir(folder).expect("list the scenarios").flatten().map(|entry| entry.path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries(folder).partition(|path| path.is_dir());
    files.extend(folders.into_iter().flat_map(entries));
    // Beside them is what they replay.
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut checked = 0;
    for path in files {
        let output = Lab::new().command().arg("check").arg(path).output().expect("start the lab");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked >= 10, "{checked} scenarios");
}

#[test]
fn every_mistake_is_told_with_file_line_key_and_remedy() {
    let lab = Lab::new();
    let text =
        "name = 'x'\n[traffic]\nrate-pps = 'fast'\nflws = 1\n[sinks]\ncount = 99\n[[subject]]\nname = 'r'\n";
    let path = lab.scenario(text);
    for command in ["check", "run"] {
        let output = lab.command().arg(command).arg(&path).output().expect("start the lab");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let told = [
            "scenario.toml:3: traffic.rate-pps: must be a whole number",
            "scenario.toml:4: traffic.flws: unknown key; did you mean `flows`?",
            "scenario.toml:6: sinks.count: must be a whole number from 1 to 16, or a list of such, found 99",
            "scenario.toml:7: subject[0].relay: is missing",
        ];
        for words in told {
            assert!(stderr.contains(words), "nothing of {words:?} in:\n{stderr}");
        }
    }
    assert!(!lab.out().exists());
}

#[test]
fn what_is_no_toml_and_what_is_no_file_are_told() {
    let lab = Lab::new();
    let broken = lab.run_text("name = = 'x'\n", &[]);
    assert_eq!(broken.code, Some(2));
    assert!(broken.stderr.contains("scenario.toml:1: "), "{}", broken.said());
    let nothing = lab.run(Path::new("/no/such/scenario.toml"), &[]);
    assert_eq!(nothing.code, Some(2));
    assert!(
        nothing.stderr.contains("read scenario /no/such/scenario.toml: No such file"),
        "{}",
        nothing.said()
    );
}

#[test]
fn a_subject_that_is_not_there_cannot_be_run_alone() {
    let run = Lab::new().run_text(GOOD, &["--only", "q"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("--only q: the scenario has no such subject, it has r"), "{}", run.said());
}

#[test]
fn usage_errors_exit_2() {
    for arguments in [&["run"][..], &["summary"], &["fly"], &[], &["run", "x.toml", "--rate", "1"]] {
        Lab::new().command().args(arguments).assert().code(2);
    }
}

#[test]
fn without_root_one_sentence_says_what_is_needed() {
    let lab = Lab::new();
    let scenario = lab.scenario(GOOD);
    // Where everybody may look: target folders may be private.
    let shared = tempfile::tempdir().expect("make a temporary folder");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(shared.path(), open.clone()).expect("open the folder");
    let (program, text) = (shared.path().join("lab"), shared.path().join("scenario.toml"));
    fs::copy(env!("CARGO_BIN_EXE_lab"), &program).expect("copy the lab");
    fs::copy(scenario, &text).expect("copy the scenario");
    fs::set_permissions(&text, open).expect("open the scenario");
    let mut command = Command::new(program);
    command.arg("run").arg(text).current_dir(shared.path());
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().expect("start the lab");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(
        stderr,
        "lab: running a scenario needs root, to build network namespaces and open packet sockets: run it with sudo\n"
    );
}
