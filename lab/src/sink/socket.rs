//! The socket sink: joins the groups and reads UDP sockets.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};

use super::record::Recorder;
use super::snmp::UdpCounters;
use super::{Device, Shared, SinkReport};
use crate::plan::Plan;
use crate::sys::mmsg::ReceiveBatch;
use crate::sys::ready::Ready;
use crate::sys::socket_option;
use crate::traffic_error::TrafficError;

/// Receive buffers asked for, all together and each at least. The kernel doubles what it is asked for; a datagram
/// takes 800 (small) to 2,400 bytes (1,472) of it.
const BUFFERS_BYTES: usize = 128 << 20;
const MIN_BUFFER_BYTES: usize = 4 << 20;
const BATCH: usize = 128;
/// How often a stop is looked for while nothing arrives.
const TICK: Duration = Duration::from_millis(20);
/// Rest between two rounds of reading. Stamps are the kernel's and buffers are large, so reading in bulk costs
/// nothing and leaves the CPU to the relay: waking up for every datagram would cost more than reading it.
const REST: Duration = Duration::from_millis(1);
/// Batches read from one socket before the others get their turn and a stop is looked for.
const ROUNDS: usize = 256;
/// Batches read from one socket after the stop: its buffer holds fewer, and a flood cannot hold us.
const LAST_ROUNDS: usize = 100_000;

/// Sockets and count, before and while the thread runs.
#[derive(Debug)]
pub(super) struct SocketReader {
    /// One for each port; the index is its token.
    sockets: Vec<Port>,
    /// Hold memberships that the reading sockets had no room for.
    _holders: Vec<Socket>,
    device_address: IpAddr,
    ready: Ready,
    batch: ReceiveBatch,
    recorder: Recorder,
    before: UdpCounters,
    ipv6: bool,
    buffer_bytes: usize,
}

#[derive(Debug)]
struct Port {
    socket: Socket,
    port: u16,
}

impl SocketReader {
    pub(super) fn open(device: &Device, plan: &Arc<Plan>) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, &device.name);
        let ipv6 = plan.is_ipv6();
        let before = UdpCounters::read(ipv6).map_err(failed("read UDP counters"))?;
        let ports: BTreeSet<u16> = plan.flows.iter().map(|flow| flow.delivered.port()).collect();
        let each = (BUFFERS_BYTES / ports.len().max(1)).max(MIN_BUFFER_BYTES);
        let ready = Ready::new().map_err(failed("create epoll"))?;
        let mut sockets = Vec::with_capacity(ports.len());
        let mut buffer_bytes = 0;
        for (token, port) in (0..).zip(ports) {
            let socket = open_port(device, ipv6, port, each).map_err(failed("open UDP socket"))?;
            buffer_bytes += socket.recv_buffer_size().unwrap_or(0);
            ready.add(socket.as_fd(), token).map_err(failed("watch a socket"))?;
            sockets.push(Port { socket, port });
        }
        let holders = join_all(device, plan)?;
        // A byte more than expected, so that a longer datagram does not look right.
        let batch = ReceiveBatch::new(BATCH, plan.payload_bytes + 1);
        let recorder = Recorder::new(plan)?;
        Ok(Self {
            sockets,
            _holders: holders,
            device_address: device.address,
            ready,
            batch,
            recorder,
            before,
            ipv6,
            buffer_bytes,
        })
    }

    /// Reads until told to stop, and then what is left.
    pub(super) fn read(mut self, shared: &Shared) -> SinkReport {
        let mut tokens = Vec::new();
        while !shared.stopping() {
            self.wait(&mut tokens);
            for token in tokens.drain(..) {
                self.drain(token, ROUNDS, shared);
            }
            std::thread::sleep(REST);
        }
        for token in 0..self.sockets.len() {
            self.drain(token, LAST_ROUNDS, shared);
        }
        self.name_drops(shared);
        self.recorder.finish(self.buffer_bytes, shared)
    }

    fn wait(&mut self, tokens: &mut Vec<usize>) {
        match self.ready.wait(TICK) {
            Ok(events) => tokens.extend(events.map(|event| event.token as usize)),
            Err(error) => self.recorder.error(&error),
        }
    }

    /// Reads one socket until it is empty, or `rounds` times.
    fn drain(&mut self, token: usize, rounds: usize, shared: &Shared) {
        let Some(Port { socket, port }) = self.sockets.get(token) else { return };
        for _ in 0..rounds {
            match self.batch.receive(socket.as_fd()) {
                Ok(taken) => {
                    for datagram in self.batch.datagrams() {
                        let address = datagram.destination.unwrap_or(self.device_address);
                        let (delivered, stamp_ns) = (SocketAddr::new(address, *port), datagram.stamp_ns);
                        let during = shared.during(stamp_ns);
                        self.recorder.datagram(delivered, datagram.payload, true, stamp_ns, during);
                    }
                    self.recorder.publish(shared);
                    if taken < self.batch.slots() {
                        return;
                    }
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.recorder.error(&error);
                    }
                    return;
                }
            }
        }
    }

    fn name_drops(&mut self, shared: &Shared) {
        let now = UdpCounters::read(self.ipv6).unwrap_or_else(|error| {
            self.recorder.error(&error);
            self.before
        });
        let since = now.since(&self.before);
        // The sockets count drops of either cause; the namespace tells the causes apart.
        let sockets: u64 = self.sockets.iter().map(|port| socket_drops(&port.socket)).sum();
        let buffer = since.buffer.max(sockets.saturating_sub(since.checksum + since.memory));
        self.recorder.dropped("socket-buffer", buffer);
        self.recorder.dropped("checksum", since.checksum);
        self.recorder.dropped("stack", since.errors.saturating_sub(since.buffer + since.checksum));
        let measuring = shared.measuring.get().map(|baseline| now.since(&baseline.udp));
        self.recorder.unclaimed = measuring.unwrap_or_default().unclaimed();
    }
}

/// Datagrams the kernel dropped at this socket since it was opened: complete at any time, where `SO_RXQ_OVFL` only
/// comes with the next datagram.
fn socket_drops(socket: &Socket) -> u64 {
    let meminfo: io::Result<[u32; 9]> =
        socket_option::get(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO);
    meminfo.map_or(0, |meminfo| meminfo[libc::SK_MEMINFO_DROPS as usize].into())
}

fn udp_socket(ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if ipv6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A socket that hears everything sent to `port` on the device, and where exactly it was sent.
fn open_port(device: &Device, ipv6: bool, port: u16, buffer_bytes: usize) -> io::Result<Socket> {
    let socket = udp_socket(ipv6)?;
    let set = |level, name, value: libc::c_int| socket_option::set(socket.as_fd(), level, name, &value);
    let wanted = libc::c_int::try_from(buffer_bytes).unwrap_or(libc::c_int::MAX);
    if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        socket.set_recv_buffer_size(buffer_bytes)?;
    }
    set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    // The wildcard address and MULTICAST_ALL: groups joined by any socket of the namespace arrive here.
    let wildcard: IpAddr = if ipv6 {
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        socket.set_multicast_all_v6(true)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        socket.set_multicast_all_v4(true)?;
        Ipv4Addr::UNSPECIFIED.into()
    };
    socket.bind_device(Some(device.name.as_bytes()))?;
    socket.bind(&SocketAddr::new(wildcard, port).into())?;
    Ok(socket)
}

/// Joins every group of the plan through as many sockets as the kernel's limits per socket ask for.
fn join_all(device: &Device, plan: &Plan) -> Result<Vec<Socket>, TrafficError> {
    let ipv6 = plan.is_ipv6();
    let new_holder =
        || udp_socket(ipv6).map_err(TrafficError::socket("open a socket for memberships", &device.name));
    let mut holders: Vec<Socket> = Vec::new();
    let mut joined = HashSet::new();
    let groups = plan.flows.iter().map(|flow| flow.delivered.ip()).filter(IpAddr::is_multicast);
    for group in groups.filter(|group| joined.insert(*group)) {
        let first = holders.last().map(|holder| join(holder, group, device.index));
        let result = match first {
            Some(Ok(())) => Ok(()),
            // igmp_max_memberships or optmem_max of that socket is used up.
            Some(Err(error)) if !is_full(&error) => Err(error),
            None | Some(Err(_)) => {
                let holder = new_holder()?;
                let result = join(&holder, group, device.index);
                holders.push(holder);
                result
            }
        };
        result.map_err(|source| TrafficError::Join { group, device: device.name.clone(), source })?;
    }
    Ok(holders)
}

fn join(socket: &Socket, group: IpAddr, device_index: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(device_index))
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, device_index),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Where the plan delivers unicast.
pub(super) fn distinct_unicast(plan: &Plan) -> impl Iterator<Item = SocketAddr> {
    // A checked plan has each delivered address once.
    plan.flows.iter().map(|flow| flow.delivered).filter(|delivered| !delivered.ip().is_multicast())
}

/// A socket that owns `address` and takes nothing.
pub(super) fn placeholder(address: SocketAddr) -> io::Result<Socket> {
    let socket = udp_socket(address.is_ipv6())?;
    // One instruction: keep 0 bytes, that is drop.
    let refuse = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    socket.attach_filter(&[refuse])?;
    socket.bind(&address.into())?;
    Ok(socket)
}
