//! A worker that runs in the test's own process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use lab::topology::Topology;
use multicast_relay::rules::Rule;
use multicast_relay::stats::{Counters, InputCounters, OutputCounters};
use multicast_relay::sys::channel::Channel;
use multicast_relay::sys::filter::{self, Vlans};
use multicast_relay::sys::packet_socket::PacketSocket;
use multicast_relay::sys::poll;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::wire::LinkLayer;
use multicast_relay::worker::egress::Hop;
use multicast_relay::worker::order::{Answer, Inbox, Order, Outbox, Path, Task};
use multicast_relay::worker::packet_ring::{Layout, Shape, Version};
use multicast_relay::worker::{self, Link, WorkerError};

/// Every way to receive, by name.
pub const PATHS: [(&str, Path); 4] = [
    ("blocks", Path::Blocks),
    ("slots", Path::Slots),
    ("recv", Path::Recv { coalesce: Duration::from_millis(1) }),
    ("single-shot recv", Path::RecvSingleShot),
];

/// A socket to send through, and where it sends.
pub type Output = (EgressAddress, OwnedFd);

/// A worker in a thread, and what a supervisor has of it.
pub struct InProcess {
    channel: Channel,
    outbox: Outbox<Order>,
    inbox: Inbox<Answer>,
    worker: JoinHandle<Result<(), WorkerError>>,
    pub counters: Counters,
    /// What the worker receives from.
    pub tap: PacketSocket,
}

impl InProcess {
    /// Relays by `rules`, each to the egress port of its place.
    pub fn start(topology: &Topology, rules: &[Rule], path: Path) -> Self {
        Self::with_send_buffer(topology, rules, path, 1 << 20)
    }

    /// The same with send buffers of so many bytes.
    pub fn with_send_buffer(topology: &Topology, rules: &[Rule], path: Path, send_buffer: usize) -> Self {
        let open = |(rule, port): (&Rule, &lab::topology::Port)| {
            let to = rule.outputs[0].destinations();
            let address = EgressAddress::new(to.first(), port.device(), port.index());
            let address = EgressAddress { last: (!to.is_single()).then(|| to.last()), ..address };
            let socket = open_egress(&address, None, send_buffer).unwrap().socket;
            vec![(address, socket)]
        };
        let open_all = || rules.iter().zip(&topology.egress).map(open).collect();
        let outputs = topology.relay_namespace().run(open_all).unwrap();
        Self::through(topology, rules, outputs, path)
    }

    /// Relays by `rules`, each through the outputs of its place.
    pub fn through(topology: &Topology, rules: &[Rule], outputs: Vec<Vec<Output>>, path: Path) -> Self {
        let (tap, shape) = topology.relay_namespace().run(|| tap(path, rules)).unwrap();
        let (channel, other) = Channel::pair().unwrap();
        let worker = spawn(|| worker::run(Link::connected(other), |_| Ok(())));
        let (outbox, inbox, counters) = (Outbox::default(), Inbox::default(), Counters::new().unwrap());
        let mut this = Self { channel, outbox, inbox, worker, counters, tap };
        let memory = this.counters.memory().try_clone_to_owned().unwrap();
        this.tell(&Order::Begin(Task::new(0, path, Duration::ZERO, None)), Some(memory));
        let mut place = 0;
        for (i, (rule, outputs)) in rules.iter().zip(outputs).enumerate() {
            let mut hops = Vec::new();
            for (address, socket) in outputs {
                this.tell(&Order::Output { place, address, own: None, segment: true }, Some(socket));
                let port_shift = rule.outputs.first().and_then(|output| output.port_shift(&rule.input));
                hops.push(Hop { port_shift, ..Hop::new(Some(place), place) });
                place += 1;
            }
            this.tell(
                &Order::Rule { place: i as u32, rule: rule.clone(), input: Some(0), hops, leg: None },
                None,
            );
        }
        let socket = this.tap.try_clone().unwrap();
        let (interface, link_layer) = ("ingress".into(), LinkLayer::Ethernet);
        this.tell(&Order::Input { place: 0, interface, link_layer, shape }, Some(socket));
        this.sync();
        this.tap.bind(topology.ingress.index()).unwrap();
        this
    }

    pub fn tell(&mut self, order: &Order, descriptor: Option<OwnedFd>) {
        self.outbox.push(order, descriptor.map(Arc::new)).unwrap();
    }

    /// Waits until all orders are carried out.
    pub fn sync(&mut self) {
        self.tell(&Order::Answer(1), None);
        loop {
            self.outbox.flush(&self.channel).unwrap();
            match self.inbox.receive(&self.channel) {
                Ok((answer, _)) => return assert_eq!(answer, Answer::Done(1)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll::wait_readable(self.channel.as_fd()).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Does what the supervisor does when the worker wants a socket to send as a source: the next time, to this address.
    pub fn open_sender(&mut self, topology: &Topology, address: &EgressAddress) {
        let key = loop {
            match self.inbox.receive(&self.channel) {
                Ok((Answer::Wanted(key), _)) => break key,
                Ok((answer, _)) => panic!("{answer:?}"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll::wait_readable(self.channel.as_fd()).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        };
        let open = || open_egress(address, Some(key.source), 1 << 20).unwrap().socket;
        let socket = topology.relay_namespace().run(open).unwrap();
        self.tell(&Order::Sender(key), Some(socket));
        self.outbox.flush(&self.channel).unwrap();
    }

    /// What is counted for the input.
    pub fn input(&self) -> InputCounters<'_> {
        self.counters.input(0).unwrap()
    }

    /// What is counted for the output that was opened at this place, over all rules.
    pub fn output(&self, place: usize) -> OutputCounters<'_> {
        self.counters.output(place).unwrap()
    }

    /// Has the worker relay what has been captured, and end.
    pub fn stop(self) -> Counters {
        drop(self.channel);
        self.worker.join().unwrap().unwrap();
        self.counters
    }
}

/// A worker of the rule of tests, whose output keeps sources, and where that sends: who has it opens sockets.
pub fn preserving(topology: &Topology, path: Path) -> (InProcess, EgressAddress) {
    let rules: Vec<Rule> = vec![super::rule(topology).parse().unwrap()];
    let port = &topology.egress[0];
    let mut address =
        EgressAddress::new(rules[0].outputs[0].destinations().first(), port.device(), port.index());
    address.preserve = true;
    let open = || open_egress(&address, None, 1 << 20).unwrap().socket;
    let socket = topology.relay_namespace().run(open).unwrap();
    (InProcess::through(topology, &rules, vec![vec![(address.clone(), socket)]], path), address)
}

/// A socket that captures UDP as soon as it is bound, in VLANs if any of `rules` is for one.
fn tap(path: Path, rules: &[Rule]) -> (PacketSocket, Option<Shape>) {
    let socket = PacketSocket::open().unwrap();
    socket.ignore_outgoing().unwrap();
    socket.prefix_vnet_header().unwrap();
    let vlans = if rules.iter().any(|rule| rule.input.vlan.is_some()) { Vlans::All } else { Vlans::None };
    socket.tell_tags().unwrap();
    socket.attach_filter(&filter::udp_over_ip(LinkLayer::Ethernet, vlans)).unwrap();
    socket.set_receive_buffer(16 << 20).unwrap();
    let ring =
        |version| Shape::request(&socket, Layout::new(version, 256 << 10, 64, 1).unwrap(), 1_522).unwrap().0;
    let shape = match path {
        Path::Blocks => Some(ring(Version::V3)),
        Path::Slots => Some(ring(Version::V2)),
        Path::Recv { .. } | Path::RecvSingleShot => None,
    };
    (socket, shape)
}
