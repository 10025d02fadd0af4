//! What a worker was told and still holds: what the next supervisor has to know.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::order::Order;

/// Orders that still hold, by their places.
#[derive(Debug, Default)]
pub(super) struct Told {
    inputs: BTreeMap<u16, Order>,
    outputs: BTreeMap<u32, Order>,
    streams: BTreeMap<u32, Order>,
    rules: BTreeMap<u32, Order>,
    held: BTreeMap<u32, OwnedFd>,
}

impl Told {
    /// Keeps `order`, or forgets what it ends.
    pub(super) fn keep(&mut self, order: Order) {
        match &order {
            Order::Input { place, .. } => _ = self.inputs.insert(*place, order),
            Order::Output { place, .. } => _ = self.outputs.insert(*place, order),
            Order::Stream { place, .. } => _ = self.streams.insert(*place, order),
            Order::Rule { place, .. } => _ = self.rules.insert(*place, order),
            Order::EndInput { place } => _ = self.inputs.remove(place),
            Order::EndOutput { place } => _ = self.outputs.remove(place),
            Order::EndStream { place } => _ = self.streams.remove(place),
            Order::EndRule { place } => _ = self.rules.remove(place),
            Order::LetGo { place } => _ = self.held.remove(place),
            Order::LetAllGo => self.held.clear(),
            // Of sockets that send as a source the next supervisor need not know: it keeps none either.
            Order::Sender(_)
            | Order::NoSender { .. }
            | Order::Begin(_)
            | Order::Hold { .. }
            | Order::LogLevel(_)
            | Order::Answer(_)
            | Order::Drain => {}
        }
    }

    /// Keeps a descriptor, in place of the one that was kept there.
    pub(super) fn hold(&mut self, place: u32, descriptor: OwnedFd) {
        self.held.insert(place, descriptor);
    }

    /// The rule at `place`.
    pub(super) fn rule(&self, place: u32) -> Option<&Order> {
        self.rules.get(&place)
    }

    /// All that holds, in an order in which it can be carried out.
    pub(super) fn orders(&self) -> impl Iterator<Item = &Order> {
        let first = self.outputs.values().chain(self.streams.values());
        first.chain(self.rules.values()).chain(self.inputs.values())
    }
}
