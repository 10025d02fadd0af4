//! Datagrams of many senders, and from where they arrive.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use lab::topology::Topology;
use pnet_packet::udp::MutableUdpPacket;

use super::{GROUP, PORT, Path, Relay, changed, frame};

/// A datagram from `source` to `destination`, as an Ethernet frame.
pub fn frame_from(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(destination, payload);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(address), _) => changed(bytes, |bytes| {
            bytes[26..30].copy_from_slice(&address.octets());
            bytes[34..36].copy_from_slice(&source.port().to_be_bytes());
        }),
        (IpAddr::V6(address), IpAddr::V6(to)) => {
            bytes[22..38].copy_from_slice(&address.octets());
            let mut packet = MutableUdpPacket::new(&mut bytes[54..]).unwrap();
            packet.set_source(source.port());
            let sum = pnet_packet::udp::ipv6_checksum(&packet.to_immutable(), &address, &to);
            packet.set_checksum(super::sent(sum));
            bytes
        }
        _ => panic!("{source} and {destination} are of one family"),
    }
}

/// The same to the group of the tests.
pub fn good_from(source: SocketAddr, payload: &[u8]) -> Vec<u8> {
    frame_from(source, (GROUP, PORT).into(), payload)
}

/// The sender of this number, of some 60,000 that are alike.
pub fn sender(number: usize) -> SocketAddr {
    let [.., a, b] = (number as u32 + 256).to_be_bytes();
    ([192, 0, a, b], 5_353).into()
}

/// The next `count` payloads by their source, those of each in order.
pub fn receive_from(socket: &UdpSocket, count: usize) -> BTreeMap<SocketAddr, Vec<Vec<u8>>> {
    let mut arrived = BTreeMap::<_, Vec<_>>::new();
    let mut buffer = vec![0; 65_536];
    for i in 0..count {
        let (len, from) =
            socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("datagram {i} of {count}: {error}"));
        arrived.entry(from).or_default().push(buffer[..len].to_vec());
    }
    arrived
}

/// A relay of one rule whose outputs are tables of TOML; from the test's group unless there is another one.
pub fn start(
    topology: &Topology,
    path: Path,
    group: Option<IpAddr>,
    outputs: &[String],
) -> (Relay, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let group = group.unwrap_or(GROUP.into());
    writeln!(
        file,
        "[[rule]]\nname = \"r\"\ninput = {{ interface = \"ingress\", group = \"{group}\", port = {PORT} }}\noutputs = [{}]",
        outputs.join(", ")
    )
    .unwrap();
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    (relay, file)
}

/// An output that keeps sources, as a table of TOML.
pub fn preserving(destination: SocketAddr, interface: &str) -> String {
    let (group, port) = (destination.ip(), destination.port());
    format!("{{ group = \"{group}\", port = {port}, interface = \"{interface}\", source = \"preserve\" }}")
}
