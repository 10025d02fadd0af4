//! Looks at this host: what `/proc` and `/sys` say, what netlink lists, and what can be done when it is tried. Whatever
//! cannot be read is absent from the facts; nothing is changed.

mod links;
mod text;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub use links::links;
use text::Limit;

use super::facts::{Control, Folder, Host, Listener};
use crate::sys::memory;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::rule_programs::RulePrograms;
use crate::sys::udp_socket;
use crate::sys::uring::Uring;
use crate::wire::LinkLayer;

/// Entries of the ring that is set up to see whether one can be.
const COMPLETIONS: u32 = 512;

/// Facts of the host and of this process; `socket` is the control socket's path.
pub fn host(socket: &Path) -> Host {
    let status = read("/proc/self/status").unwrap_or_default();
    let limits = read("/proc/self/limits").unwrap_or_default();
    let list = |path| read(path).map(|list| text::cpus(&list)).unwrap_or_default();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let locked_memory = text::hard_limit(&limits, "Max locked memory");
    Host {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        root: text::field(&status, "Uid").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")),
        capabilities: text::field(&status, "CapEff").and_then(hexadecimal).unwrap_or_default(),
        packet_socket: PacketSocket::open().into(),
        io_uring: Uring::new(COMPLETIONS).map(drop).into(),
        io_uring_disabled: sysctl("kernel/io_uring_disabled"),
        foreign_source: udp_socket::try_to_send_as_others().into(),
        first_free_port: sysctl("net/ipv4/ip_unprivileged_port_start"),
        bpf: RulePrograms::load(LinkLayer::Ethernet, &[], 1).into(),
        rmem_max: sysctl("net/core/rmem_max"),
        wmem_max: sysctl("net/core/wmem_max"),
        igmp_max_memberships: sysctl("net/ipv4/igmp_max_memberships"),
        rp_filter: sysctl("net/ipv4/conf/all/rp_filter").unwrap_or_default(),
        netdev_max_backlog: sysctl("net/core/netdev_max_backlog"),
        backlogs: read("/proc/net/softnet_stat").map(|text| text::backlogs(&text)).unwrap_or_default(),
        memory: memory::available(),
        open_files: match text::hard_limit(&limits, "Max open files") {
            Some(Limit::Of(files)) => Some(files),
            _ => None,
        },
        locked_memory: match locked_memory {
            Some(Limit::Of(bytes)) => Some(bytes),
            _ => None,
        },
        cpus: text::field(&status, "Cpus_allowed_list").map(text::cpus).unwrap_or_default(),
        isolated: list("/sys/devices/system/cpu/isolated"),
        interrupt_cpus: read("/proc/irq/default_smp_affinity").map(|m| text::masked(&m)).unwrap_or_default(),
        control: control(socket),
    }
}

fn control(socket: &Path) -> Control {
    let folder = socket.parent().and_then(|folder| fs::metadata(folder).ok());
    let folder =
        folder.map(|folder| Folder { mode: folder.permissions().mode() & 0o7777, uid: folder.uid() });
    let state = Listener::of(&UnixStream::connect(socket).map(drop));
    Control { socket: socket.to_owned(), folder, state }
}

/// A kernel setting that is a number.
fn sysctl(name: &str) -> Option<u64> {
    read(Path::new("/proc/sys").join(name))?.parse().ok()
}

/// A small file's text without the space around it.
fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {error}")]
pub struct GatherError {
    operation: &'static str,
    error: io::Error,
}
