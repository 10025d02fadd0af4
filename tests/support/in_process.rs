//! What a worker needs that runs in the test's own process.

use std::time::Duration;

use lab::topology::Topology;
use multicast_relay::rules::Rule;
use multicast_relay::sys::filter;
use multicast_relay::sys::packet_socket::PacketSocket;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::worker::egress::Egress;
use multicast_relay::worker::packet_ring::{BlockRing, Layout, SlotRing, Version};
use multicast_relay::worker::{Descriptors, Input, Inputs};

/// What the relay's supervisor does, for a worker that runs in this process and receives as `make` says.
pub fn descriptors(
    topology: &Topology,
    rules: &[Rule],
    make: impl FnOnce(&PacketSocket) -> Inputs,
) -> (Descriptors, PacketSocket) {
    descriptors_with(topology, rules, 1 << 20, make)
}

/// The same with send buffers of so many bytes.
pub fn descriptors_with(
    topology: &Topology,
    rules: &[Rule],
    send_buffer: usize,
    make: impl FnOnce(&PacketSocket) -> Inputs,
) -> (Descriptors, PacketSocket) {
    let open = || {
        let addresses = rules.iter().zip(&topology.egress).map(|(rule, port)| EgressAddress {
            destination: rule.outputs[0].destination(),
            interface: port.device().to_owned(),
            interface_index: port.index(),
            ttl: 64,
        });
        let mut egress = Egress::default();
        for address in addresses {
            let socket = open_egress(&address, send_buffer).unwrap().0;
            let output = egress.add_output(address.interface, socket, true);
            egress.add_rule(vec![output]);
        }
        egress
    };
    let egress = topology.relay_namespace().run(open).unwrap();
    descriptors_through(topology, egress, make)
}

/// The same with outputs that are there.
pub fn descriptors_through(
    topology: &Topology,
    egress: Egress,
    make: impl FnOnce(&PacketSocket) -> Inputs,
) -> (Descriptors, PacketSocket) {
    let open = || {
        let socket = PacketSocket::open().unwrap();
        socket.ignore_outgoing().unwrap();
        socket.prefix_vnet_header().unwrap();
        socket.attach_filter(&filter::udp_over_ip()).unwrap();
        socket.set_receive_buffer(16 << 20).unwrap();
        let inputs = make(&socket);
        socket.bind(topology.ingress.index()).unwrap();
        (Descriptors { inputs, egress }, socket)
    };
    topology.relay_namespace().run(open).unwrap()
}

/// Makes a way to receive of a socket.
pub type MakeInputs = fn(&PacketSocket) -> Inputs;

/// Every way to receive, by name.
pub const INPUTS: [(&str, MakeInputs); 4] = [
    ("blocks", |socket| Inputs::Blocks(input(BlockRing::map(socket, ring(Version::V3)).unwrap().0))),
    ("slots", |socket| Inputs::Slots(input(SlotRing::map(socket, ring(Version::V2), 1_522).unwrap().0))),
    ("recv", |socket| Inputs::Recv {
        sockets: input(socket.try_clone().unwrap()),
        coalesce: Duration::from_millis(1),
    }),
    ("single-shot recv", |socket| Inputs::RecvSingleShot(input(socket.try_clone().unwrap()))),
];

fn input<S>(source: S) -> Vec<Input<S>> {
    vec![Input { name: "ingress".into(), source }]
}

fn ring(version: Version) -> Layout {
    Layout::new(version, 256 << 10, 64, 1).unwrap()
}
