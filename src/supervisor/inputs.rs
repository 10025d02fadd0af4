//! Packet sockets, one for each interface that a rule listens on, and what the kernel counts for them.

use std::io;

use super::SupervisorError;
use crate::stats::{InputCounters, InputStats};
use crate::sys::filter;
use crate::sys::interface::Interface;
use crate::sys::packet_socket::PacketSocket;
use crate::wire::ethernet;
use crate::worker::InputDescriptor;

/// Receive buffer asked for, in bytes: some 20,000 small frames, a fifth of a second at 100,000 a second.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Tags that can stand in a frame: the kernel takes out the outer one of two, but not on every path.
const TAGS: usize = 2;
/// The largest IP packet without jumbograms; some devices have an MTU far above it.
const IP_PACKET_MAX: usize = 65_535 + 40;

/// A packet socket on an interface. The supervisor keeps it; a worker gets a descriptor of it.
#[derive(Debug)]
pub(super) struct Input {
    interface: Interface,
    socket: PacketSocket,
    totals: InputStats,
}

impl Input {
    /// Opens a socket that captures nothing yet.
    pub(super) fn open(interface: Interface) -> Result<Self, SupervisorError> {
        let failed = |error| SupervisorError::PacketSocket { interface: interface.name.clone(), error };
        let socket = PacketSocket::open().map_err(failed)?;
        socket.ignore_outgoing().map_err(failed)?;
        socket.prefix_vnet_header().map_err(failed)?;
        socket.attach_filter(&filter::udp_over_ip()).map_err(failed)?;
        let obtained = socket.set_receive_buffer(RECEIVE_BUFFER).map_err(failed)?;
        if let Some(warning) = clamped(&interface.name, obtained) {
            tracing::warn!("{warning}");
        }
        let totals = InputStats { interface: interface.name.clone(), ..InputStats::default() };
        Ok(Self { interface, socket, totals })
    }

    /// Begins capture. Done last, when everything that follows a frame is in place.
    pub(super) fn start(&self) -> Result<(), SupervisorError> {
        self.socket.bind(self.interface.index).map_err(|error| self.failed(error))
    }

    /// What a worker needs of this input.
    pub(super) fn descriptor(&self) -> Result<InputDescriptor, SupervisorError> {
        let packet = (self.interface.mtu as usize).min(IP_PACKET_MAX);
        let max_frame_len = ethernet::HEADER_LEN + TAGS * ethernet::TAG_LEN + packet;
        Ok(InputDescriptor {
            name: self.interface.name.clone(),
            socket: self.socket.try_clone().map_err(|error| self.failed(error))?,
            max_frame_len,
        })
    }

    fn failed(&self, error: io::Error) -> SupervisorError {
        SupervisorError::PacketSocket { interface: self.interface.name.clone(), error }
    }

    /// What worker and kernel have counted, the worker first. The kernel's counters have 32 bits and begin anew with
    /// every call, so the last one must not be more than an hour ago.
    pub(super) fn stats(&mut self, counters: &InputCounters) -> InputStats {
        self.totals.went_down = counters.went_down.get();
        self.totals.received = counters.received.get();
        match self.socket.take_statistics() {
            Ok(statistics) => {
                self.totals.captured += u64::from(statistics.captured);
                self.totals.dropped += u64::from(statistics.dropped);
            }
            Err(error) => tracing::warn!("read PACKET_STATISTICS of {}: {error}", self.interface.name),
        }
        self.totals.clone()
    }
}

/// What to say when less than the wanted receive buffer was obtained.
fn clamped(interface: &str, obtained: usize) -> Option<String> {
    (obtained < RECEIVE_BUFFER).then(|| {
        format!(
            "receive buffer of {interface} is {obtained} bytes, {RECEIVE_BUFFER} were asked for: bursts can be lost; \
             grant CAP_NET_ADMIN, or raise the limit: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clamped_buffer_is_told_with_its_size_and_its_remedy() {
        assert_eq!(clamped("eth0", RECEIVE_BUFFER), None);
        let warning = clamped("eth0", 212_992).unwrap();
        for part in ["eth0", "212992", "net.core.rmem_max=16777216"] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
