//! Where results cannot be written the lab says so, and leaves nothing behind.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::Lab;

const SCENARIO: &str = "name = 'full'\n[traffic]\nrate-pps = 1_000\nduration = '100ms'\nwarmup = '0ms'\n[[subject]]\n\
                        name = 'wire'\nwire = 'direct'\n";

#[test]
#[ignore = "needs root: mounts a file system of its own"]
fn a_full_disk_is_an_error_that_names_the_file_and_the_remedy() {
    let lab = Lab::as_root();
    let scenario = lab.scenario(SCENARIO);
    std::fs::create_dir(lab.out()).expect("make the folder");
    // In a mount namespace of its own, which takes the file system with it: room for the first results, which only say
    // that a run has begun, and not for the last.
    let script =
        r#"mount -t tmpfs -o size=4k,nr_inodes=64 tmpfs "$1" && "$2" run "$3" --out "$1"; echo "exit $?""#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([lab.out().as_os_str(), env!("CARGO_BIN_EXE_lab").as_ref(), scenario.as_os_str()])
        .output()
        .expect("start the lab");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.ends_with("exit 2\n"), "{stdout}\n{stderr}");
    // What was measured is shown all the same.
    assert!(stdout.contains("verdict: PASS"), "{stdout}\n{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    for words in
        ["lab: write ", "results.json: No space left on device", "choose another folder with --out DIR"]
    {
        assert!(last.contains(words), "nothing of {words:?} in {stderr}");
    }
}
