//! Packet sockets, for each interface that a rule listens on one for each worker, and what the kernel counts for them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::SupervisorError;
use super::filter::Filter;
use super::receive::Way;
use crate::config::Config;
use crate::rules;
use crate::stats::{Counters, InputStats};
use crate::sys::filter;
use crate::sys::interface::Interface;
use crate::sys::packet_socket::{FanoutMode, PacketSocket};
use crate::sys::poll;
use crate::worker::order::{Descriptor, Order};
use crate::worker::packet_ring::Shape;

/// Receive buffer asked for, in bytes: some 40,000 small frames, 0.4 seconds at 100,000 per second.
const RECEIVE_BUFFER: usize = 16 << 20;

/// The packet sockets of an interface. The supervisor keeps them; workers get descriptors.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) interface: Interface,
    /// What workers know it by.
    pub(super) place: u16,
    /// One for each worker.
    sockets: Vec<PacketSocket>,
    /// Their rings, unless frames are received by `recv`.
    shapes: Vec<Option<Shape>>,
    filter: Filter,
    /// Whether capture has begun.
    has_started: bool,
    /// What was counted at the last look, since a worker died that had frames in its memory.
    suspects: Option<InputStats>,
}

impl Input {
    /// Opens sockets that capture nothing yet, for rules with these inputs.
    pub(super) fn open<'a>(
        config: &Config,
        way: &Way,
        interface: Interface,
        place: u16,
        inputs: impl Iterator<Item = &'a rules::Input>,
    ) -> Result<Self, SupervisorError> {
        let open = || {
            let socket = PacketSocket::open()?;
            socket.ignore_outgoing()?;
            socket.prefix_vnet_header()?;
            // Until all of them are in place: a socket that is bound and in no fanout group gets every frame.
            socket.attach_filter(&filter::nothing())?;
            Ok(socket)
        };
        let sockets = std::iter::repeat_with(open).take(config.num_workers).collect::<Result<Vec<_>, _>>();
        let sockets = sockets.map_err(|error| failed(&interface, error))?;
        let shapes = way.prepare(&interface, &sockets)?;
        let filter = Filter::load(config, &interface, inputs)?;
        Ok(Self { interface, place, sockets, shapes, filter, has_started: false, suspects: None })
    }

    /// The sockets that another supervisor has opened, of workers in their order, and which capture.
    pub(super) fn adopt<'a>(
        config: &Config,
        interface: Interface,
        place: u16,
        sockets: Vec<(OwnedFd, Option<Shape>)>,
        inputs: impl Iterator<Item = &'a rules::Input>,
    ) -> Result<Self, SupervisorError> {
        let (sockets, shapes): (Vec<_>, _) =
            sockets.into_iter().map(|(socket, shape)| (PacketSocket::from(socket), shape)).unzip();
        let mut filter = Filter::load(config, &interface, inputs)?;
        filter.adopt(&sockets)?;
        Ok(Self { interface, place, sockets, shapes, filter, has_started: true, suspects: None })
    }

    /// The order for a worker to receive.
    pub(super) fn order(&self, worker: usize) -> io::Result<(Order, Descriptor)> {
        let socket = self.sockets.get(worker).ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        let shape = self.shapes.get(worker).copied().flatten();
        let (place, interface) = (self.place, self.interface.name.clone());
        let link_layer = self.interface.link_layer;
        Ok((Order::Input { place, interface, link_layer, shape }, Arc::new(socket)))
    }

    /// Begins capture, unless it has begun. Done last, when everything that follows a frame is in place.
    pub(super) fn start(&mut self, fanout: FanoutMode) -> Result<(), SupervisorError> {
        if std::mem::replace(&mut self.has_started, true) {
            return Ok(());
        }
        let failed = |error| failed(&self.interface, error);
        // A group of one is for the sake of fragments only. Every mode is the same to it, and this one hashes nothing.
        let fanout = if self.sockets.len() == 1 { FanoutMode::Cpu } else { fanout };
        let mut group = None;
        for socket in &self.sockets {
            socket.bind(self.interface.index).map_err(failed)?;
            // That the interface is down is known, and no event.
            socket.take_error().map_err(failed)?;
            match socket.join_fanout(fanout, group) {
                Ok(joined) => group = Some(joined),
                Err(error) if self.sockets.len() == 1 => tracing::warn!(
                    "put together fragments on {}: {error}; they are dropped as `fragment`{}",
                    self.interface.name,
                    if self.interface.up {
                        ""
                    } else {
                        " unless it is up when the relay begins to listen on it"
                    }
                ),
                // Each of them would relay everything.
                Err(error) => {
                    let interface = self.interface.name.clone();
                    return Err(SupervisorError::Fanout { interface, error });
                }
            }
        }
        self.filter.attach(&self.sockets)
    }

    /// Captures also what `inputs` take.
    pub(super) fn add_rules<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a rules::Input>,
    ) -> Result<(), SupervisorError> {
        self.filter.add(inputs, &self.sockets)
    }

    /// Captures no more these blocks of ports of `input`.
    pub(super) fn remove_blocks(
        &mut self,
        input: &rules::Input,
        blocks: impl Iterator<Item = rules::PortBlock>,
    ) {
        self.filter.remove(input, blocks);
    }

    /// Leaves to the IP stack again what the rules take, before capture ends.
    pub(super) fn end_consumption(&mut self) {
        self.filter.end_consumption();
    }

    /// Reads what the kernel has counted, into the counters of the workers in their order. The kernel's counters have 32 bits
    /// and begin anew with every call, so the last one must not be more than an hour ago.
    fn read_kernel(&self, counters: &[&Counters]) {
        let inputs = counters.iter().filter_map(|counters| counters.input(self.place.into()));
        for (socket, input) in self.sockets.iter().zip(inputs) {
            match socket.take_statistics() {
                Ok(statistics) => {
                    input.captured().add(statistics.captured.into());
                    input.kernel_dropped().add(statistics.dropped.into());
                    input.freezes().add(statistics.freezes.into());
                }
                Err(error) => tracing::warn!("read PACKET_STATISTICS of {}: {error}", self.interface.name),
            }
        }
    }

    /// What the workers and the kernel have counted, the workers first.
    pub(super) fn stats(&mut self, counters: &[&Counters]) -> InputStats {
        let mut stats = InputStats { interface: self.interface.name.clone(), ..InputStats::default() };
        for input in counters.iter().filter_map(|counters| counters.input(self.place.into())) {
            // An interface goes down for all of its sockets.
            stats.went_down = input.went_down().get().max(stats.went_down);
            stats.received += input.received().get();
            stats.frames += input.frames().get().saturating_sub(input.taken_again().get());
            stats.taken_again += input.taken_again().get();
            stats.follows_loss += input.follows_loss().get();
            stats.abandoned += input.abandoned().get();
        }
        self.filter.read(&mut stats);
        self.read_kernel(counters);
        for input in counters.iter().filter_map(|counters| counters.input(self.place.into())) {
            stats.captured += input.captured().get();
            stats.dropped += input.kernel_dropped().get();
            stats.freezes += input.freezes().get();
        }
        stats
    }

    /// A worker has died that received by `recv`: what it had in its memory nobody will take.
    pub(super) fn suspect(&mut self) {
        self.suspects = Some(InputStats::default());
    }

    /// Where a worker has died, finds out what it had in its memory: when nothing comes any more, what was captured and neither
    /// taken nor is there to be taken. `is_over` says that no worker will take anything more.
    pub(super) fn settle(&mut self, counters: &[&Counters], is_over: bool) {
        let Some(before) = self.suspects.take() else { return };
        let now = self.stats(counters);
        let is_empty = |socket: &PacketSocket| matches!(poll::is_readable(socket.as_fd()), Ok(false));
        let is_quiet = before == now && self.sockets.iter().all(is_empty);
        if !is_quiet && !is_over {
            self.suspects = Some(now);
        } else if let Some(input) = counters.first().and_then(|counters| counters.input(self.place.into())) {
            input.abandoned().add(now.queued());
        }
    }

    /// Ends it: what its counters say at last. Workers know it no more.
    pub(super) fn close(mut self, counters: &[&Counters]) -> InputStats {
        let mut stats = self.stats(counters);
        stats.abandoned += stats.queued();
        for counters in counters {
            counters.remove_input(self.place.into());
        }
        stats
    }
}

/// Enlarges the receive buffers of `sockets`.
pub(super) fn enlarge_buffers(
    interface: &Interface,
    sockets: &[PacketSocket],
) -> Result<(), SupervisorError> {
    let sizes = sockets.iter().map(|socket| socket.set_receive_buffer(RECEIVE_BUFFER));
    let sizes = sizes.collect::<Result<Vec<_>, _>>().map_err(|error| failed(interface, error))?;
    if let Some(warning) = clamped(&interface.name, sizes.into_iter().min().unwrap_or(0)) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// An operation on a socket of `interface` that failed.
pub(super) fn failed(interface: &Interface, error: io::Error) -> SupervisorError {
    SupervisorError::PacketSocket { interface: interface.name.clone(), error }
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
