//! Recorded traffic: frames leave as they were recorded, the relay loses nothing of it, and every fault is found.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod capture;
#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use common::{Lab, failed, reasons};
use lab::generator::{Generator, GeneratorKind};
use lab::net::RunName;
use lab::plan::{Flow, Plan};
use lab::replay::{Bounds, Pace, Recording, Replay};
use lab::sys::packet_socket::{ALL_PROTOCOLS, PacketSocket};
use lab::topology::{Checksum, Family, Link, Segmentation, Topology};
use serde_json::Value;
use socket2::Socket;

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name)
}

/// To make it anew, remove it and run this.
#[test]
fn the_capture_of_the_scenario_is_what_is_made_here() {
    let (path, made) = (shipped("replay.pcap"), capture::pcap(&capture::everything()));
    assert!(made.len() <= 200_000, "{} bytes", made.len());
    if !path.exists() {
        fs::write(&path, &made).expect("write the capture");
    }
    assert!(fs::read(&path).expect("read the capture") == made, "{} is another one", path.display());
}

/// Counts along the ledger of a trial.
fn counts(trial: &Value) -> Vec<u64> {
    let steps = trial["ledger"]["steps"].as_array().expect("steps is a list");
    steps.iter().map(|step| step["count"].as_u64().expect("count")).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_relay_loses_nothing_of_a_recording() {
    let run = Lab::as_root().run(&shipped("replay.toml"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    let last = run.last_attempts();
    assert_eq!(last.len(), 3 * 2, "{}", run.said());
    for trial in last {
        assert_eq!((&trial["verdict"], &trial["generator"]), (&"pass".into(), &"pcap".into()));
        assert_eq!(counts(trial), [capture::DATAGRAMS as u64; 9], "{}", run.said());
        assert_eq!(trial["sinks"][0]["received"], capture::DATAGRAMS);
        assert_eq!((&trial["flows"], &trial["alien"]), (&3.into(), &0.into()));
        assert_eq!(trial["ledger"]["adds_up"], true);
    }
    let told = format!(
        "replay.pcap: {} datagrams to groups, flows 3; not sent: 1 cut short, 1 in a VLAN, 1 no UDP, 1 to no group, 1 with a \
         wrong checksum",
        capture::DATAGRAMS
    );
    assert_eq!(run.results()["notes"][0], told);
}

/// A scenario with the video alone, at an even pace, and the forwarder with each of `faults` as a subject of that name.
fn scenario(faults: &[(&str, &str)]) -> String {
    let subject = |(name, arguments): &(&str, &str)| {
        format!(
            "[[subject]]\nname = '{name}'\ncommand = ['{{lab}}', 'impair', '--input-interface', '{{ingress}}', '--group', \
             '{{group}}', '--port', '{{port}}', '--output-interface', '{{egress}}', '--output-group', '{{out-group}}', \
             '--output-port', '{{out-port}}', '--recorded', {arguments}]\n"
        )
    };
    format!(
        "name = 'faults'\n[traffic]\ngenerator = 'pcap'\nfile = 'video.pcap'\nrate-pps = 500\nwarmup = '50ms'\n[sinks]\n\
         kind = ['packet', 'socket']\n[trials]\nretries = 5\n{}",
        faults.iter().map(subject).collect::<String>()
    )
}

/// What happened to which datagram in a trial.
fn incidents(trial: &Value) -> Vec<(&str, u64)> {
    let incidents = trial["incidents"].as_array().expect("incidents is a list");
    let read = |incident: &'_ Value| incident["sequence"].as_u64().expect("a sequence");
    incidents.iter().map(|incident| (incident["kind"].as_str().expect("kind"), read(incident))).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_lost_a_changed_a_doubled_and_a_late_datagram_are_each_found() {
    let lab = Lab::as_root();
    let subjects = [
        ("lost", "'--drop', '7'"),
        ("corrupted", "'--corrupt', '20'"),
        ("duplicated", "'--duplicate', '33'"),
        ("reordered", "'--swap', '46'"),
    ];
    let path = lab.scenario(&scenario(&subjects));
    fs::write(path.with_file_name("video.pcap"), capture::pcap(&capture::video()))
        .expect("write the capture");
    let run = lab.run(&path, &[]);
    assert_eq!(run.last_attempts().len(), 4 * 2, "{}", run.said());
    let whole = capture::VIDEO_DATAGRAMS as u64;
    for trial in failed(&run) {
        let subject = trial["subject"].as_str().expect("subject");
        let (sequence, at_sink) = match subject {
            "lost" => (7, whole - 1),
            "corrupted" => (20, whole),
            "duplicated" => (33, whole + 1),
            "reordered" => (46, whole),
            other => panic!("{other}: {}", run.said()),
        };
        assert_eq!(incidents(trial), [(subject, sequence)], "{}", run.said());
        assert!(reasons(trial).starts_with(&format!("{subject} 1, expected 0")), "{}", run.said());
        assert_eq!((trial[subject].as_u64(), counts(trial).last()), (Some(1), Some(&at_sink)));
        assert_eq!(trial["ledger"]["adds_up"], true);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn frames_leave_as_they_were_recorded() {
    let run = RunName::claim().unwrap_or_else(|error| panic!("{error}"));
    let link =
        Link { mtu: 1_500, segmentation: Segmentation::Wire, checksum: Checksum::Wire, family: Family::Ipv4 };
    let topology = Topology::build(&run, &link, 1).expect("build a network");
    let bounds = Bounds { datagrams: 1_000, span: None, family: Family::Ipv4, mtu: 1_500 };
    let recording = Arc::new(Recording::read(&shipped("replay.pcap"), &bounds).expect("read the capture"));
    let tap =
        topology.ingress.namespace().run(|| tap(topology.ingress.index())).expect("enter the namespace");

    let flow = |destination| Flow {
        source: ([10, 81, 0, 1], 4000).into(),
        destination,
        destination_mac: [1, 0, 0x5E, 1, 1, 1],
        delivered: destination,
    };
    let flows = recording.flows().iter().copied().map(flow).collect();
    let replay = Replay { recording: Arc::clone(&recording), pace: Pace::Even };
    let count = recording.datagrams().len();
    let plan = Plan::new(1, flows, 100, 5_000, count as u64).expect("a plan");
    let plan = plan.replaying(Some(replay)).expect("a plan for the recording");
    let port = &topology.generator;
    let open = || Generator::open(GeneratorKind::Pcap, port.device(), port.mac(), &plan);
    let mut generator = port.namespace().run(open).expect("enter the namespace").expect("open the generator");
    let (report, came) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| (0..count).map(|_| next_frame(&tap)).collect::<Vec<_>>());
        let report = generator.run(&AtomicBool::new(false), &AtomicU64::new(0)).expect("send");
        (report, reading.join().expect("every frame within the time"))
    });
    assert_eq!((report.sent, report.refused_total()), (count as u64, 0));
    for (datagram, came) in recording.datagrams().iter().zip(came) {
        let frame = recording.frame(datagram);
        // The kernel takes the tag out before anybody sees the frame.
        let is_tagged = frame[12..14] == [0x81, 0x00];
        let seen = if is_tagged { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() };
        assert!(came == seen, "{datagram:?} came as {came:02x?}");
    }
}

fn next_frame(mut socket: &Socket) -> Vec<u8> {
    let mut frame = vec![0; 2_000];
    let length = socket.read(&mut frame).expect("read a frame");
    frame.truncate(length);
    frame
}

/// A socket that gets every frame of the interface with this index.
fn tap(index: u32) -> Socket {
    let socket = PacketSocket::open().expect("open a packet socket");
    socket.bind(index, ALL_PROTOCOLS).expect("bind a packet socket");
    let tap = Socket::from(socket.as_fd().try_clone_to_owned().expect("a descriptor of its own"));
    tap.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    tap
}
