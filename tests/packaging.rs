//! What is in `packaging` is right by itself and fits the program.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use multicast_relay::cli::Cli;

const RELAY: &str = env!("CARGO_BIN_EXE_multicast_relay");
/// What the service may do, in its unit.
const CAPABILITIES: &str = "CAP_NET_RAW CAP_NET_ADMIN CAP_BPF";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn read(file: &str) -> String {
    fs::read_to_string(packaging().join(file)).unwrap()
}

/// The values of `key` in the unit.
fn settings(key: &str) -> Vec<String> {
    let unit = read("systemd/multicast_relay.service");
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

#[test]
fn every_example_is_a_configuration() {
    let examples: Vec<_> = fs::read_dir(packaging().join("examples")).unwrap().collect();
    assert!(examples.len() >= 5);
    for example in examples {
        let path = example.unwrap().path();
        let output = Command::new(RELAY).arg("check").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn kernel_settings_are_those_of_a_kernel() {
    let text = read("sysctl/60-multicast-relay.conf");
    let mut keys = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(" = ").unwrap();
        assert!(value.parse::<u64>().unwrap() > 0, "{line}");
        assert!(keys.insert(key), "{key} twice");
        // Those of the IP stack are not there for a process without a network of its own.
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        assert!(path.exists(), "{} does not exist", path.display());
    }
    assert!(keys.len() >= 4, "{keys:?}");
}

#[test]
fn the_unit_starts_the_program_as_it_is_to_be_started() {
    let start = settings("ExecStart").concat();
    let arguments = start.split_whitespace().filter(|word| *word != "$RELAY_OPTIONS");
    Cli::try_parse_from(arguments).unwrap();
    assert_eq!(settings("AmbientCapabilities"), [CAPABILITIES]);
    assert_eq!(settings("CapabilityBoundingSet"), [CAPABILITIES]);
    let prevented: Vec<_> = settings("RestartPreventExitStatus");
    assert_eq!(prevented, ["2"], "what the program exits with for a bad configuration");
}

/// Where systemd is installed, it has nothing to complain about.
#[test]
fn systemd_takes_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("multicast_relay.service");
    fs::write(&unit, read("systemd/multicast_relay.service").replace("/usr/bin/multicast_relay", RELAY))
        .unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    let Ok(output) = verify else { return };
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn the_seccomp_profile_forbids_all_but_what_it_names() {
    let profile: serde_json::Value = serde_json::from_str(&read("container/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut names = BTreeSet::new();
    for group in profile["syscalls"].as_array().unwrap() {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        assert!(group["comment"].is_string(), "{group}");
        for name in group["names"].as_array().unwrap() {
            assert!(names.insert(name.as_str().unwrap().to_owned()), "{name} twice");
        }
    }
    for needed in ["io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "seccomp", "execve"] {
        assert!(names.contains(needed), "{needed}");
    }
    for needless in ["ptrace", "mount", "init_module", "kexec_load", "perf_event_open", "unshare", "setns"] {
        assert!(!names.contains(needless), "{needless}");
    }
}

#[test]
fn the_package_has_files_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    for asset in package["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        // Those are made when the package is.
        if source.starts_with("target/") {
            continue;
        }
        let source = root.join(source.trim_end_matches("*.toml"));
        assert!(source.exists(), "{}", source.display());
    }
}
