//! Packet sockets, for each interface that a rule listens on one for each worker, and what the kernel counts for them.

use std::io;

use super::SupervisorError;
use crate::stats::{InputCounters, InputStats};
use crate::sys::filter;
use crate::sys::interface::Interface;
use crate::sys::packet_socket::{FanoutMode, PacketSocket};
use crate::sys::rule_programs::{RuleProgramError, RulePrograms};

/// Receive buffer asked for, in bytes: some 40,000 small frames, 0.4 seconds at 100,000 per second.
const RECEIVE_BUFFER: usize = 16 << 20;

/// The packet sockets of an interface. The supervisor keeps them; workers get descriptors or rings of them.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) interface: Interface,
    /// One for each worker.
    pub(super) sockets: Vec<PacketSocket>,
    /// Decide in the kernel what a rule takes; without them all UDP is captured.
    programs: Option<RulePrograms>,
    totals: InputStats,
}

impl Input {
    /// Opens sockets for so many workers that capture nothing yet.
    pub(super) fn open(
        interface: Interface,
        workers: usize,
        programs: Option<RulePrograms>,
    ) -> Result<Self, SupervisorError> {
        let open = || {
            let socket = PacketSocket::open()?;
            socket.ignore_outgoing()?;
            socket.prefix_vnet_header()?;
            // Until all of them are in place: a socket that is bound and in no fanout group gets every frame.
            socket.attach_filter(&filter::nothing())?;
            Ok(socket)
        };
        let sockets = std::iter::repeat_with(open).take(workers).collect::<Result<_, _>>();
        let sockets = sockets.map_err(|error| failed(&interface, error))?;
        let totals = InputStats { interface: interface.name.clone(), ..InputStats::default() };
        Ok(Self { interface, sockets, programs, totals })
    }

    /// Enlarges the sockets' receive buffers and returns the size of the smallest, in bytes.
    pub(super) fn enlarge_buffers(&self) -> Result<usize, SupervisorError> {
        let sizes = self.sockets.iter().map(|socket| socket.set_receive_buffer(RECEIVE_BUFFER));
        let sizes = sizes.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&self.interface, error))?;
        Ok(sizes.into_iter().min().unwrap_or(0))
    }

    /// Begins capture. Done last, when everything that follows a frame is in place.
    pub(super) fn start(&self, fanout: FanoutMode) -> Result<(), SupervisorError> {
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
                    if self.interface.up { "" } else { " unless it is up when the relay starts" }
                ),
                // Each of them would relay everything.
                Err(error) => {
                    let interface = self.interface.name.clone();
                    return Err(SupervisorError::Fanout { interface, error });
                }
            }
        }
        let all_udp = filter::udp_over_ip();
        let attach = |socket: &PacketSocket| match &self.programs {
            Some(programs) => programs.attach(socket),
            None => socket.attach_filter(&all_udp),
        };
        self.sockets.iter().try_for_each(attach).map_err(failed)
    }

    /// Ends what the rules take at the interface, after capture has begun.
    pub(super) fn consume(&mut self) -> Result<(), SupervisorError> {
        let Self { interface, programs: Some(programs), .. } = self else { return Ok(()) };
        programs
            .consume(&interface.name)
            .map_err(|error| SupervisorError::Consume { interface: interface.name.clone(), error })
    }

    /// Leaves to the IP stack again what the rules take, before capture ends.
    pub(super) fn end_consumption(&mut self) {
        let Some(programs) = &mut self.programs else { return };
        if let Err(error) = programs.end_consumption() {
            tracing::warn!("consume on {}: {error}; it ends with the relay", self.interface.name);
        }
    }

    /// What the workers and the kernel have counted, the workers first. The kernel's counters have 32 bits and begin
    /// anew with every call, so the last one must not be more than an hour ago.
    pub(super) fn stats<'a>(&mut self, counters: impl Iterator<Item = &'a InputCounters>) -> InputStats {
        let (mut went_down, mut frames, mut received, mut follows_loss) = (0, 0, 0, 0);
        for counters in counters {
            // An interface goes down for all of its sockets.
            went_down = counters.went_down.get().max(went_down);
            received += counters.received.get();
            frames += counters.frames.get();
            follows_loss += counters.follows_loss.get();
        }
        self.totals = InputStats { frames, received, went_down, follows_loss, ..self.totals.clone() };
        if let Some(Err(error)) = self.programs.as_ref().map(|programs| self.totals.read(programs)) {
            tracing::warn!("read what programs on {} have counted: {error}", self.interface.name);
        }
        for socket in &self.sockets {
            match socket.take_statistics() {
                Ok(statistics) => {
                    self.totals.captured += u64::from(statistics.captured);
                    self.totals.dropped += u64::from(statistics.dropped);
                    self.totals.freezes += u64::from(statistics.freezes);
                }
                Err(error) => tracing::warn!("read PACKET_STATISTICS of {}: {error}", self.interface.name),
            }
        }
        self.totals.clone()
    }
}

impl InputStats {
    fn read(&mut self, programs: &RulePrograms) -> Result<(), RuleProgramError> {
        self.foreign = programs.foreign()?;
        self.consumed = programs.consumed()?;
        Ok(())
    }
}

/// An operation on a socket of `interface` that failed.
pub(super) fn failed(interface: &Interface, error: io::Error) -> SupervisorError {
    SupervisorError::PacketSocket { interface: interface.name.clone(), error }
}

/// What to say when less than the wanted receive buffer was obtained.
pub(super) fn clamped(interface: &str, obtained: usize) -> Option<String> {
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
