//! A network namespace whose devices a test makes and changes with `ip`, and whoever follows them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::net::{Namespace, RunName};
use multicast_relay::supervisor::links::{Change, Kind, Links};
use multicast_relay::sys::interface::Interface;
use multicast_relay::wire::LinkLayer;
use tokio::runtime::Runtime;

/// How long anything may take on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A namespace of its own, and a runtime.
pub struct Host {
    pub namespace: Namespace,
    _run: RunName,
}

impl Host {
    pub fn new() -> Self {
        let run = RunName::claim().unwrap();
        Self { namespace: Namespace::create(&run.namespace("relay")).unwrap(), _run: run }
    }

    /// Runs `work` in it, with a runtime like the supervisor's.
    pub fn run<T>(&self, work: impl AsyncFnOnce() -> T) -> T {
        self.namespace.run(|| runtime().block_on(work())).unwrap()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Has `ip` carry out these lines, in the namespace of the calling thread. Whether all of them were possible.
pub fn try_ip(lines: &str) -> bool {
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    ip.wait().unwrap().success()
}

#[track_caller]
pub fn ip(lines: &str) {
    assert!(try_ip(lines), "ip -batch:\n{lines}");
}

/// What `ip` says that there is, as `Interface` has it.
pub fn according_to_ip() -> BTreeSet<(u32, String, u32, bool, LinkLayer)> {
    let output = Command::new("ip").args(["-j", "link"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let link = |link: &serde_json::Value| {
        let flags = link["flags"].as_array().unwrap();
        (
            link["ifindex"].as_u64().unwrap() as u32,
            link["ifname"].as_str().unwrap().to_owned(),
            link["mtu"].as_u64().unwrap() as u32,
            flags.iter().any(|flag| flag == "UP"),
            match link["link_type"].as_str() {
                Some("ether" | "loopback") => LinkLayer::Ethernet,
                Some("none") => LinkLayer::RawIp,
                _ => LinkLayer::Other,
            },
        )
    };
    links.as_array().unwrap().iter().map(link).collect()
}

pub fn according_to(links: &Links) -> BTreeSet<(u32, String, u32, bool, LinkLayer)> {
    let tuple = |it: &Interface| (it.index, it.name.clone(), it.mtu, it.up, it.link_layer);
    links.iter().map(tuple).collect()
}

/// Follows changes until one is of this kind; returns those of this name up to then.
pub async fn until(links: &mut Links, name: &str, kind: Kind) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let wait = async {
        while !kinds.contains(&kind) {
            kinds.extend(links.changed().await.into_iter().filter(|it| it.name == name).map(|it| it.kind));
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, wait).await.is_ok();
    assert!(in_time, "{name}: {kinds:?}, but not {kind:?}");
    kinds
}

/// Everything that is told until nothing is for a while.
pub async fn rest(links: &mut Links) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(300), links.changed()).await {
        changes.extend(more);
    }
    changes
}

/// A kind of device of which there can be as many as one likes, in this kernel.
pub fn lone_kind() -> &'static str {
    let possible = |kind: &&str| try_ip(&format!("link add probe type {kind}\nlink del probe\n"));
    ["dummy", "ifb", "bridge"].into_iter().find(possible).expect("a kernel with dummy, ifb or bridge devices")
}
