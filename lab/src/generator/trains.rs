//! Sending trains: datagrams that are due together leave in one frame, a super-frame.
//!
//! It is what the IP stack makes of a program that sends with `UDP_SEGMENT` (`linux/udp.h`) where the device is to cut it
//! apart, as a veth offers: one set of headers whose lengths count all payloads together, a UDP checksum that covers only
//! the pseudo-header, and beside the frame how long each datagram is. A packet socket takes the same with a
//! `virtio_net_hdr` before it (`PACKET_VNET_HDR`; trains of UDP since Linux 6.2), and still needs no address.

use std::io;

use super::due::{Batch, Patience};
use super::offering::Offer;
use super::packet::SEND_BUFFER_BYTES;
use super::report::Recorder;
use super::template::{UDP_BYTES, header_bytes, write_header};
use super::{Frames, Stretch};
use crate::checksum;
use crate::datagram::{Kind, Stamps};
use crate::fragments::Fragments;
use crate::plan::{Flow, MAX_IPV4_PAYLOAD, Plan};
use crate::sys::packet_socket::{NO_PROTOCOL, PacketSocket, interface_index};
use crate::topology::Link;
use crate::traffic_error::{TrafficError, errno_name};

/// Most datagrams in a train: what `UDP_SEGMENT` took before Linux 6.9 (`UDP_MAX_SEGMENTS`).
const LONGEST: usize = 64;
/// Bytes of a `virtio_net_hdr` (`linux/virtio_net.h`): flags and type of segmentation (u8 each), length of the headers, of a
/// segment, where the checksum's data begins, and where from there it goes (u16 each, in the machine's order).
const VIRTIO_BYTES: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
const UDP_SEGMENTATION: u8 = 5;
/// Where the checksum is in the UDP header (RFC 768).
const UDP_CHECKSUM: usize = 6;

/// A packet socket and the train it sends next.
#[derive(Debug)]
pub(super) struct TrainSender {
    socket: PacketSocket,
    flow: Flow,
    source_mac: [u8; 6],
    payload_bytes: usize,
    /// `virtio_net_hdr`, headers, payloads.
    train: Vec<u8>,
    /// Where the payloads begin.
    payloads_at: usize,
}

impl TrainSender {
    /// Sends on `device` of the calling thread's network namespace: a train has one destination, so that the plan may have
    /// one flow only, and its datagrams must fit the MTU.
    pub(super) fn open(
        socket: PacketSocket,
        device: &str,
        source_mac: [u8; 6],
        plan: &Plan,
        frames: &Frames,
    ) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, device);
        let (&[flow], 1, None) = (&plan.flows[..], frames.templates.frames().len(), plan.foreign) else {
            let why =
                "a train has one destination and no fragments: give one flow, and payloads that fit the MTU";
            return Err(failed("send trains")(io::Error::other(why)));
        };
        socket.with_virtio_header().map_err(failed("set PACKET_VNET_HDR"))?;
        // A smaller buffer only means more retries, which are counted.
        let _ = socket.set_send_buffer(SEND_BUFFER_BYTES);
        let index = interface_index(device).map_err(failed("find interface"))?;
        socket.bind(index, NO_PROTOCOL).map_err(failed("bind packet socket"))?;
        let payload_bytes = plan.payload_bytes;
        let datagrams = LONGEST.min(MAX_IPV4_PAYLOAD / payload_bytes);
        let payloads_at = VIRTIO_BYTES + header_bytes(plan.is_ipv6());
        let train = vec![0; payloads_at + datagrams * payload_bytes];
        Ok(Self { socket, flow, source_mac, payload_bytes, train, payloads_at })
    }

    /// Writes what stands before the payloads of `datagrams` datagrams.
    fn write_headers(&mut self, datagrams: usize) {
        let (virtio, headers) = self.train[..self.payloads_at].split_at_mut(VIRTIO_BYTES);
        let pseudo = write_header(headers, &self.flow, self.source_mac, datagrams * self.payload_bytes);
        let udp_at = headers.len() - UDP_BYTES;
        // Whoever cuts the train apart, or first needs it, completes the sum: it is not inverted yet.
        let begun = !checksum::finish(pseudo);
        headers[udp_at + UDP_CHECKSUM..].copy_from_slice(&begun.to_be_bytes());

        let (kind, segment) = if datagrams > 1 { (UDP_SEGMENTATION, self.payload_bytes) } else { (0, 0) };
        virtio[..2].copy_from_slice(&[NEEDS_CHECKSUM, kind]);
        let numbers = [headers.len(), segment, udp_at, UDP_CHECKSUM];
        for (field, number) in virtio[2..].chunks_exact_mut(2).zip(numbers) {
            field.copy_from_slice(&(number as u16).to_ne_bytes());
        }
    }
}

impl Batch for TrainSender {
    fn room(&self) -> usize {
        (self.train.len() - self.payloads_at) / self.payload_bytes
    }

    fn write(&mut self, index: usize, frames: &mut Frames, offer: &Offer, kind: Kind, stamps: Stamps) {
        let start = self.payloads_at + index * self.payload_bytes;
        if let Some(payload) = self.train.get_mut(start..start + self.payload_bytes) {
            frames.write_payload(payload, offer, kind, stamps);
        }
    }

    fn push(&mut self, filled: usize, stretch: &Stretch<'_>, recorder: &mut Recorder) {
        self.write_headers(filled);
        let mut patience = Patience::default();
        let train = &self.train[..self.payloads_at + filled * self.payload_bytes];
        while let Err(error) = self.socket.send(train) {
            if !patience.is_left(&error, stretch, recorder) {
                recorder.refused(&errno_name(&error), filled as u64);
                return;
            }
        }
    }
}

/// What keeps trains of such datagrams from being sent, as the end of a sentence.
#[must_use]
pub fn train_obstacle(link: Link, payload_bytes: usize, flows: usize) -> Option<String> {
    if Fragments::new(link.family, payload_bytes, link.mtu as usize).count() > 1 {
        return Some(format!(
            "payloads of {payload_bytes} bytes, which an MTU of {} cuts into fragments",
            link.mtu
        ));
    }
    (flows > 1).then(|| format!("{flows} flows in turn: a train has one destination"))
}
