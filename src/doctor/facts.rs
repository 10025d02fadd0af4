//! What a diagnosis goes by: plain values, so that any host can be made up.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::sys::ethtool::{Feature, RingSize};
use crate::wire::LinkLayer;

/// Facts of the host, and of the process that asks.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// What `uname -r` says.
    pub kernel: String,
    /// Whether the calling user is root.
    pub root: bool,
    /// The process's effective capabilities, a bit for each (`CapEff` of proc(5)).
    pub capabilities: u64,
    /// Whether a packet socket could be opened.
    pub packet_socket: Attempt,
    /// Whether an `io_uring` could be set up.
    pub io_uring: Attempt,
    /// `kernel.io_uring_disabled`: 0 everybody may use it, 1 a group and `CAP_SYS_ADMIN`, 2 nobody.
    pub io_uring_disabled: Option<u64>,
    /// Whether the programs that filter by the rules could be loaded.
    pub bpf: Attempt,
    /// Whether a socket could be made to send as other hosts.
    pub foreign_source: Attempt,
    /// `net.ipv4.ip_unprivileged_port_start`: lower ports take `CAP_NET_BIND_SERVICE`.
    pub first_free_port: Option<u64>,
    /// `net.core.rmem_max` in bytes.
    pub rmem_max: Option<u64>,
    /// `net.core.wmem_max` in bytes.
    pub wmem_max: Option<u64>,
    /// `net.ipv4.igmp_max_memberships` of a socket.
    pub igmp_max_memberships: Option<u64>,
    /// `net.ipv4.conf.all.rp_filter`, which holds for every interface that has no higher one.
    pub rp_filter: u64,
    /// `net.core.netdev_max_backlog` in frames.
    pub netdev_max_backlog: Option<u64>,
    /// One for each CPU.
    pub backlogs: Vec<Backlog>,
    /// Bytes of memory that programs can have.
    pub memory: Option<u64>,
    /// The most descriptors that the process may open.
    pub open_files: Option<u64>,
    /// Bytes that the process may lock; `None` is no limit.
    pub locked_memory: Option<u64>,
    /// CPUs that the process may run on.
    pub cpus: Vec<usize>,
    /// CPUs that the scheduler leaves alone.
    pub isolated: Vec<usize>,
    /// CPUs that take interrupts unless they are told otherwise.
    pub interrupt_cpus: Vec<usize>,
    /// The control socket.
    pub control: Control,
}

/// What one CPU has had in its backlog since the host was started (`/proc/net/softnet_stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The CPU.
    pub cpu: usize,
    /// Frames that found it full.
    pub dropped: u64,
}

/// What came of trying something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attempt {
    /// It worked.
    #[default]
    Done,
    /// It did not, and this is why.
    Failed(String),
}

impl<T, E: ToString> From<Result<T, E>> for Attempt {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Failed(error.to_string()), |_| Self::Done)
    }
}

/// The control socket and its folder.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Where the socket is looked for.
    pub socket: PathBuf,
    /// The folder it is in, if there is one.
    pub folder: Option<Folder>,
    /// What came of connecting to it.
    pub state: Listener,
}

/// Who may do what in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
}

/// Whether somebody listens on a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listener {
    /// Somebody does.
    Listens,
    /// There is a socket that nobody listens on.
    Stale,
    /// The calling user may not know.
    Forbidden,
    /// There is no socket.
    #[default]
    Absent,
}

impl Listener {
    /// By the result of connecting.
    pub fn of(result: &io::Result<()>) -> Self {
        match result.as_ref().map_err(io::Error::kind) {
            Ok(()) => Self::Listens,
            Err(io::ErrorKind::ConnectionRefused) => Self::Stale,
            Err(io::ErrorKind::PermissionDenied) => Self::Forbidden,
            Err(_) => Self::Absent,
        }
    }
}

/// Facts of an interface.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct Link {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its driver, or what kind of virtual device it is.
    pub driver: String,
    /// Whether the kernel made it up: there is no device behind it.
    pub virtual_device: bool,
    /// Administratively up.
    pub up: bool,
    /// There is something at the other end.
    pub carrier: bool,
    /// What its frames begin with.
    pub link_layer: LinkLayer,
    /// It is the loopback device.
    pub loopback: bool,
    /// `IFF_MULTICAST`: it is able to send to groups.
    pub multicast: bool,
    /// How many have asked for all frames.
    pub promiscuity: u32,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Receive queues.
    pub receive_queues: u32,
    /// A queue's frames are spread over CPUs (`rps_cpus`).
    pub spreads_packets: bool,
    /// The device it is a part of, such as a bridge, and what kind that is.
    pub master: Option<(String, Master)>,
    /// Its settings where it is a bridge itself.
    pub bridge: Option<Bridge>,
    /// An XDP program is attached.
    pub xdp: bool,
    /// Offloads by name.
    pub features: BTreeMap<String, Feature>,
    /// Its receive ring, where it has one.
    pub ring: Option<RingSize>,
    /// What it has counted since it was made.
    pub counters: LinkCounters,
    /// IPv4 addresses it has.
    pub addresses_v4: usize,
    /// IPv6 addresses it has that can be sent from.
    pub addresses_v6: usize,
    /// A route to the IPv4 groups leads through it.
    pub group_route: bool,
    /// `rp_filter` of its own: 0 off, 1 strict, 2 loose.
    pub rp_filter: u64,
    /// The kernel forwards multicast from it (`mc_forwarding`): a routing daemon is at work.
    pub forwards_multicast: bool,
    /// `force_igmp_version`: 0 unless an older version is insisted on.
    pub forced_igmp: u64,
}

/// What an interface is for.
// Each of them may be so by itself.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Rules take from it.
    pub input: bool,
    /// Rules send through it.
    pub output: bool,
    /// Some of them to groups.
    pub to_groups: bool,
    /// Some of them with the sources that datagrams came with.
    pub keeps_sources: bool,
    /// Some of those that take from it are for a VLAN.
    pub vlan: bool,
}

impl Default for Role {
    /// Nobody said.
    fn default() -> Self {
        Self { input: true, output: true, to_groups: true, keeps_sources: false, vlan: false }
    }
}

/// What an interface can be a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// A bridge.
    Bridge,
    /// A routing domain of its own: the interface stays what it is.
    Vrf,
    /// A bond, a team, or else.
    Other,
}

/// Settings of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Sends groups only to where members are.
    pub snooping: bool,
    /// Asks for members itself.
    pub querier: bool,
    /// Keeps VLANs apart.
    pub vlan_filtering: bool,
}

/// What a device has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames that the kernel had no room or no taker for.
    pub rx_dropped: u64,
    /// Frames that the device had no room for.
    pub rx_missed: u64,
    /// Damaged frames.
    pub rx_errors: u64,
    /// Frames that were not sent.
    pub tx_dropped: u64,
}
