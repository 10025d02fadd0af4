//! Egress: copies of a batch's payloads leave through connected UDP sockets, still borrowed from the batch.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;

use crate::rules::RuleIndex;
use crate::stats::{Counters, SendFailure};
use crate::sys::uring::{SEND_BATCH, Send, Uring};

/// The sockets of a worker, and which of them each rule sends through.
#[derive(Debug, Default)]
pub struct Egress {
    /// Connected UDP sockets; rules with the same output share one.
    pub sockets: Vec<OwnedFd>,
    /// For each rule, in the order of its outputs, the place of the socket in `sockets`.
    pub routes: Vec<Box<[u32]>>,
}

/// Which counters a send belongs to.
#[derive(Clone, Copy)]
struct Origin {
    rule: u32,
    output: u32,
}

/// Copies that wait to be sent, none of which outlives the batch `'b` that its payload is borrowed from.
pub struct EgressBatch<'b> {
    egress: &'b Egress,
    counters: &'b Counters,
    sends: ArrayVec<Send<'b>, SEND_BATCH>,
    origins: ArrayVec<Origin, SEND_BATCH>,
}

impl Egress {
    /// The same outputs through descriptors of their own.
    pub fn try_clone(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { sockets, routes: self.routes.clone() })
    }

    /// Begins a batch of copies.
    pub fn begin<'b>(&'b self, counters: &'b Counters) -> EgressBatch<'b> {
        EgressBatch { egress: self, counters, sends: ArrayVec::new(), origins: ArrayVec::new() }
    }
}

impl<'b> EgressBatch<'b> {
    /// Queues a copy of `payload` for each output of `rule`, sending what is queued whenever that is a full batch.
    pub fn queue(&mut self, ring: &mut Uring, rule: RuleIndex, payload: &'b [u8]) -> io::Result<()> {
        let Some(route) = self.egress.routes.get(rule.0 as usize) else { return Ok(()) };
        for (output, socket) in route.iter().enumerate() {
            let Some(socket) = self.egress.sockets.get(*socket as usize) else { continue };
            if self.sends.is_full() {
                self.send(ring)?;
            }
            self.sends.push(Send { socket: socket.as_fd(), payload });
            self.origins.push(Origin { rule: rule.0, output: output as u32 });
        }
        Ok(())
    }

    /// Sends what is queued and counts what became of each copy. A copy that fails never holds up another.
    pub fn send(&mut self, ring: &mut Uring) -> io::Result<()> {
        let (sends, origins, counters) = (&self.sends, &self.origins, self.counters);
        ring.send_all(sends, |place, result| {
            let Some(origin) = origins.get(place) else { return };
            let rule = counters.rules.get(origin.rule as usize);
            let Some(output) = rule.and_then(|rule| rule.outputs.get(origin.output as usize)) else { return };
            match result {
                Ok(bytes) => {
                    output.relayed.add(1);
                    output.bytes.add(bytes as u64);
                }
                Err(errno) => output.dropped.add(SendFailure::from_errno(errno), 1),
            }
        })?;
        self.sends.clear();
        self.origins.clear();
        Ok(())
    }
}
