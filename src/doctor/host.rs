//! What is judged of the host and of the process that asks.

use std::path::Path;

use super::facts::{Attempt, Host, Listener};
use super::{Finding, HOST, Level};
use crate::worker::packet_ring::Layout;

mod kernel;

use kernel::Release;

/// Bits of capabilities (`linux/capability.h`).
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;
/// Receive buffer that the relay asks for on the recv path, in bytes.
const RECEIVE_BUFFER: u64 = 16 << 20;
/// Send buffer that the relay asks for, in bytes.
const SEND_BUFFER: u64 = 4 << 20;
/// Descriptors for a thousand outputs, and what the relay needs itself.
const FEW_FILES: u64 = 1_100;
/// What the tables of the rules' programs and the `io_uring` may take of locked memory before Linux 5.11 and 5.12.
const LOCKED_MEMORY: u64 = 8 << 20;
/// The first port that is free for all, unless the host says otherwise.
const DEFAULT_FREE_PORT: u64 = 1_024;
/// What the kernel has always granted.
const DEFAULT_BACKLOG: u64 = 1_000;
const MIB: u64 = 1 << 20;
/// What gives a program that is not run as root what it needs.
const SETCAP: &str = "setcap cap_net_raw,cap_net_admin,cap_bpf+ep \"$(command -v multicast_relay)\"";
const SUDO: &str = "sudo multicast_relay doctor";

/// Everything that there is to say of the host, with so many interfaces to look at.
pub(super) fn findings(host: &Host, links: usize) -> Vec<Finding> {
    let mut findings = kernel::findings(&host.kernel);
    findings.extend([packet_socket(host), io_uring(host), bpf(host), net_admin(host)]);
    findings.extend(socket_limits(host));
    findings.extend([reverse_path(host), backlog(host), memory(host, links)]);
    findings.extend([open_files(host), cpus(host)]);
    findings.extend(locked_memory(host));
    findings.extend(control(host));
    findings
}

fn found(level: Level, what: impl Into<String>) -> Finding {
    Finding::new(level, HOST, what)
}

fn may(host: &Host, capability: u32) -> bool {
    host.capabilities >> capability & 1 == 1
}

/// A failure of this process, which tells nothing of a relay that runs as somebody else.
fn own_failure(host: &Host, level: Level) -> Level {
    if host.control.state == Listener::Listens || host.control.state == Listener::Forbidden {
        level.min(Level::Note)
    } else {
        level
    }
}

fn packet_socket(host: &Host) -> Finding {
    match &host.packet_socket {
        Attempt::Done => found(Level::Ok, "packet sockets can be opened"),
        Attempt::Failed(error) if may(host, CAP_NET_RAW) => found(
            Level::Problem,
            format!("packet sockets cannot be opened: {error}"),
        )
        .because(
            "the relay captures with them; it is not for want of CAP_NET_RAW, so the kernel has none, or a \
                          seccomp filter or the address families of a service forbid them",
        )
        .mended_by("modprobe af_packet")
        .mended_by("in the service: RestrictAddressFamilies=AF_PACKET AF_INET AF_INET6 AF_NETLINK AF_UNIX"),
        Attempt::Failed(error) => {
            found(own_failure(host, Level::Problem), format!("this user cannot open packet sockets: {error}"))
                .because("the relay captures with them, which takes CAP_NET_RAW")
                .mended_by(SUDO)
                .mended_by(SETCAP)
        }
    }
}

fn io_uring(host: &Host) -> Finding {
    match (&host.io_uring, host.io_uring_disabled) {
        (Attempt::Done, Some(1)) if may(host, CAP_SYS_ADMIN) => {
            found(Level::Warning, "io_uring is for CAP_SYS_ADMIN and one group only (kernel.io_uring_disabled = 1)")
                .because("it works as root, and not for a relay that runs as a user of its own")
                .mended_by("sysctl -w kernel.io_uring_group=\"$(getent group multicast-relay | cut -d: -f3)\"")
                .mended_by("sysctl -w kernel.io_uring_disabled=0")
        }
        (Attempt::Done, _) => found(Level::Ok, "io_uring is allowed"),
        (Attempt::Failed(error), Some(disabled @ 1..)) => {
            found(Level::Problem, format!("io_uring is disabled (kernel.io_uring_disabled = {disabled}): {error}"))
                .because("the relay sends and receives through it")
                .mended_by("sysctl -w kernel.io_uring_disabled=0")
        }
        (Attempt::Failed(error), _) => found(Level::Problem, format!("io_uring cannot be used: {error}"))
            .because("the relay sends and receives through it; a kernel before 5.6 or without CONFIG_IO_URING has none, and \
                      the seccomp filters of container engines forbid it")
            .mended_by("in a container: --security-opt seccomp=packaging/container/seccomp.json"),
    }
}

/// Of an interface that some copies leave through with the source that they came with.
pub(super) fn foreign_source(host: &Host, interface: &str) -> Vec<Finding> {
    let found = |level, what: String| Finding::new(level, interface, what);
    let sources = match &host.foreign_source {
        Attempt::Done => {
            found(Level::Note, "copies leave through it with the source that they came with".to_owned())
                .because(
                    "receivers with strict reverse-path filtering (rp_filter = 1) drop what comes from where they would not send \
                     to; what they answer goes to the source, not to the relay; and what a wire brings back looks new, unless its \
                     time to live ends it (ttl = \"decrement\")",
                )
                .mended_by("at receivers: ip route add SOURCE/PREFIX dev INTERFACE, or sysctl -w net.ipv4.conf.all.rp_filter=2")
        }
        Attempt::Failed(error) => {
            let what = format!("this user cannot send with the source that datagrams came with: {error}");
            found(own_failure(host, Level::Problem), what)
                .because("outputs with source = \"preserve\" take CAP_NET_RAW or CAP_NET_ADMIN (IP_TRANSPARENT)")
                .mended_by(SUDO)
                .mended_by(SETCAP)
        }
    };
    let mut findings = vec![sources];
    if !may(host, CAP_NET_BIND_SERVICE) && host.first_free_port.is_none_or(|port| port > 1) {
        let port = host.first_free_port.unwrap_or(DEFAULT_FREE_PORT);
        let what = format!("this user cannot keep source ports below {port}: it has no CAP_NET_BIND_SERVICE");
        findings.push(
            found(own_failure(host, Level::Note), what)
                .because("copies from such ports are dropped as source_refused")
                .mended_by("in the service: AmbientCapabilities=CAP_NET_BIND_SERVICE, and CapabilityBoundingSet= likewise")
                .mended_by("sysctl -w net.ipv4.ip_unprivileged_port_start=1"),
        );
    }
    findings
}

fn bpf(host: &Host) -> Finding {
    let why = "without them all UDP is captured and sorted by the relay, other traffic takes room in the rings, and \
               --consume does not work";
    match &host.bpf {
        Attempt::Done => found(Level::Ok, "the rule filter can be loaded (BPF)"),
        Attempt::Failed(error) => {
            let level = own_failure(host, Level::Warning);
            let finding = found(level, format!("the rule filter cannot be loaded: {error}")).because(why);
            let old = Release::of(&host.kernel).is_some_and(|release| release < Release(5, 8));
            if may(host, if old { CAP_SYS_ADMIN } else { CAP_BPF }) {
                finding
                    .mended_by("sysctl kernel.unprivileged_bpf_disabled; cat /sys/kernel/security/lockdown")
            } else if old {
                finding.mended_by("run as root: before Linux 5.8 it takes CAP_SYS_ADMIN")
            } else {
                finding.mended_by(SUDO).mended_by(SETCAP)
            }
        }
    }
}

fn net_admin(host: &Host) -> Finding {
    if may(host, CAP_NET_ADMIN) {
        return found(Level::Ok, "CAP_NET_ADMIN is there: buffers have no limit, --consume works");
    }
    found(own_failure(host, Level::Note), "this user has no CAP_NET_ADMIN")
        .because("buffers are then limited by net.core.rmem_max and wmem_max, and --consume does not work")
        .mended_by(SETCAP)
}

/// Limits that `CAP_NET_ADMIN` overrides, and that on memberships.
fn socket_limits(host: &Host) -> Vec<Finding> {
    let buffer = |name: &str, found_bytes: Option<u64>, wanted: u64, why: &str| {
        let bytes = found_bytes?;
        if bytes >= wanted {
            return Some(found(Level::Ok, format!("{name} = {bytes}")));
        }
        let level = if may(host, CAP_NET_ADMIN) { Level::Note } else { own_failure(host, Level::Warning) };
        let finding = found(level, format!("{name} = {bytes}, the relay asks for {wanted}")).because(
            format!("{why}; CAP_NET_ADMIN overrides the limit for the relay, not for those who receive"),
        );
        Some(finding.mended_by(format!("sysctl -w {name}={wanted}")))
    };
    let receive = "a small receive buffer loses datagrams in bursts";
    let send = "a small send buffer drops what a slow device cannot take at once";
    let memberships = host.igmp_max_memberships.map(|most| {
        let what = format!("net.ipv4.igmp_max_memberships = {most} for each socket");
        if most >= 1_000 {
            return found(Level::Ok, what);
        }
        found(Level::Note, what)
            .because("the relay opens as many sockets as its groups need; receivers that use one socket fail at the next \
                      group with ENOBUFS")
            .mended_by("sysctl -w net.ipv4.igmp_max_memberships=4096")
    });
    let buffers = [
        buffer("net.core.rmem_max", host.rmem_max, RECEIVE_BUFFER, receive),
        buffer("net.core.wmem_max", host.wmem_max, SEND_BUFFER, send),
    ];
    buffers.into_iter().chain([memberships]).flatten().collect()
}

fn reverse_path(host: &Host) -> Finding {
    if host.rp_filter != 1 {
        return found(Level::Ok, format!("net.ipv4.conf.all.rp_filter = {}", host.rp_filter));
    }
    found(Level::Note, "reverse-path filtering is strict (net.ipv4.conf.all.rp_filter = 1)")
        .because("it does not touch what the relay captures, but drops for other programs of this host what comes from \
                  sources that have no route through the interface")
        .mended_by("sysctl -w net.ipv4.conf.all.rp_filter=2")
}

fn backlog(host: &Host) -> Finding {
    let full: Vec<_> = host.backlogs.iter().filter(|backlog| backlog.dropped > 0).collect();
    let most = host.netdev_max_backlog.unwrap_or(DEFAULT_BACKLOG);
    if full.is_empty() {
        return found(Level::Ok, format!("no CPU has dropped from its backlog of {most} frames"));
    }
    let dropped: u64 = full.iter().map(|backlog| backlog.dropped).sum();
    let cpus: Vec<_> = full.iter().map(|backlog| backlog.cpu.to_string()).collect();
    let what = format!(
        "since the start of the host CPU {} dropped {dropped} frames that found the backlog of {most} frames full",
        cpus.join(", ")
    );
    found(Level::Warning, what)
        .because("virtual devices (veth, tunnels) and receive packet steering queue frames there before they are captured")
        .mended_by(format!("sysctl -w net.core.netdev_max_backlog={}", most.saturating_mul(8).min(64_000)))
}

fn memory(host: &Host, links: usize) -> Finding {
    let Some(available) = host.memory else {
        return found(Level::Note, "available memory is not known: /proc/meminfo cannot be read");
    };
    let ring = Layout::default().size() as u64;
    // The relay takes half of what is available at most.
    let rings = available / 2 / ring;
    let what = format!(
        "{} MiB of memory are available: room for {rings} rings of {} MiB",
        available / MIB,
        ring / MIB
    );
    if rings > links as u64 {
        return found(Level::Ok, what);
    }
    found(Level::Warning, what)
        .because("each worker has a ring for each input, and what does not fit into half of the memory is made smaller: \
                  shorter bursts are held without loss")
        .mended_by("multicast_relay supervisor --ring-block-count 128 …")
}

fn open_files(host: &Host) -> Finding {
    match host.open_files {
        Some(most) if most < FEW_FILES => {
            found(Level::Note, format!("at most {most} descriptors can be open"))
                .because("each output takes one")
                .mended_by("ulimit -Hn 65536, as root, or in the service: LimitNOFILE=65536")
        }
        Some(most) => found(Level::Ok, format!("{most} descriptors can be open, one for each output")),
        None => found(Level::Ok, "descriptors without limit can be open"),
    }
}

/// Only where the kernel still counts it.
fn locked_memory(host: &Host) -> Option<Finding> {
    let counted = Release::of(&host.kernel)? < Release(5, 12);
    let bytes = host.locked_memory.filter(|bytes| counted && *bytes < LOCKED_MEMORY)?;
    let finding =
        found(own_failure(host, Level::Warning), format!("{} KiB of memory can be locked", bytes >> 10));
    let finding = finding.because(
        "before Linux 5.12 the tables of BPF programs and the queues of io_uring count as locked memory",
    );
    Some(finding.mended_by("ulimit -l unlimited").mended_by("in the service: LimitMEMLOCK=infinity"))
}

fn cpus(host: &Host) -> Finding {
    let count = host.cpus.len();
    if count == 1 {
        return found(Level::Note, "one CPU: the relay shares it with interrupts and everything else")
            .because("a burst of interrupts keeps the relay waiting, and more than one worker gains nothing")
            .mended_by("nproc --all; taskset -cp $$");
    }
    let shared: Vec<_> = host.isolated.iter().filter(|cpu| host.interrupt_cpus.contains(cpu)).collect();
    if !shared.is_empty() && !host.isolated.is_empty() {
        let cpus: Vec<_> = shared.iter().map(ToString::to_string).collect();
        return found(Level::Note, format!("isolated CPU {} takes interrupts by default", cpus.join(", ")))
            .because("a worker there is interrupted by the devices of all others")
            .mended_by("grep . /proc/irq/*/smp_affinity_list");
    }
    let isolated = match host.isolated.len() {
        0 => String::new(),
        isolated => format!(", {isolated} of them isolated"),
    };
    found(Level::Ok, format!("{count} CPUs{isolated}"))
}

fn control(host: &Host) -> Vec<Finding> {
    let control = &host.control;
    let socket = control.socket.display();
    let folder = control.socket.parent().unwrap_or(Path::new("/")).display();
    let mut findings = Vec::new();
    if let Some(access) = control.folder.filter(|access| access.mode & 0o002 != 0) {
        let what = format!(
            "everybody may write to {folder}, the folder of the control socket (mode {:04o})",
            access.mode
        );
        findings.push(
            found(Level::Problem, what)
                .because("somebody else could put a socket there, so the supervisor refuses the folder")
                .mended_by(format!("chmod 0750 {folder}")),
        );
    }
    findings.push(match control.state {
        Listener::Listens => found(Level::Ok, format!("a supervisor answers at {socket}")),
        Listener::Absent => found(Level::Ok, format!("no supervisor runs: there is no {socket}")),
        Listener::Stale => found(Level::Note, format!("nobody listens at {socket}"))
            .because("a supervisor has ended without taking its socket away; the next one replaces it")
            .mended_by("systemctl status multicast_relay"),
        Listener::Forbidden => found(Level::Note, format!("this user may not connect to {socket}"))
            .because("commands such as list and stats need the group of the socket")
            .mended_by("usermod -aG multicast-relay \"$USER\""),
    });
    findings
}
