//! Egress sockets, one for each distinct output of all rules.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::places::Places;
use crate::stats::MAX_OUTPUTS;
use crate::sys::udp_socket::{EgressAddress, open_egress, source};
use crate::worker::order::{Descriptor, Order};

/// Send buffer asked for, in bytes: some 4,000 small datagrams that a device has not sent yet.
const SEND_BUFFER: usize = 4 << 20;

/// The sockets that rules send through.
#[derive(Debug)]
pub(super) struct Outputs {
    by_address: HashMap<EgressAddress, Output>,
    places: Places,
    /// Whether datagrams may leave in trains.
    segment: bool,
    has_warned: bool,
}

#[derive(Debug)]
struct Output {
    place: u32,
    socket: Descriptor,
    /// How many rules send through it.
    users: usize,
}

impl Outputs {
    pub(super) fn new(segment: bool) -> Self {
        Self { by_address: HashMap::new(), places: Places::new(MAX_OUTPUTS), segment, has_warned: false }
    }

    /// The place of the output to `address`, for one more rule. Where it is a new one, the order for workers to have it.
    pub(super) fn open(&mut self, address: &EgressAddress) -> io::Result<(u32, Option<(Order, Descriptor)>)> {
        if let Some(output) = self.by_address.get_mut(address) {
            output.users += 1;
            return Ok((output.place, None));
        }
        let (socket, obtained) = open_egress(address, SEND_BUFFER)?;
        self.warn(obtained);
        let place = self.places.take().ok_or_else(|| io::Error::other("there are too many outputs"))?;
        let output = Output { place, socket: Arc::new(socket), users: 1 };
        let order = self.order(address, &output);
        self.by_address.insert(address.clone(), output);
        Ok((place, Some(order)))
    }

    /// Has an output that another supervisor has opened; no rule uses it yet.
    pub(super) fn adopt(&mut self, place: u32, address: EgressAddress, socket: Descriptor) {
        self.places.occupy(place);
        self.by_address.insert(address, Output { place, socket, users: 0 });
    }

    /// Opens those outputs anew that leave through the interface `name` with an address that is not the one they would get now.
    /// Returns the orders for workers to send through the new sockets.
    pub(super) fn refresh(&mut self, name: &str) -> Vec<(Order, Descriptor)> {
        let mut orders = Vec::new();
        let segment = self.segment;
        for (address, output) in self.by_address.iter_mut().filter(|(address, _)| address.interface == name) {
            // Where it cannot be opened now, what it has may still do.
            let Ok((socket, _)) = open_egress(address, SEND_BUFFER) else { continue };
            if source(&socket) == source(&output.socket) {
                continue;
            }
            output.socket = Arc::new(socket);
            let order = Order::Output { place: output.place, address: address.clone(), segment };
            orders.push((order, Arc::clone(&output.socket)));
        }
        orders
    }

    /// One rule less uses the output to `address`. When it was the last, the order for workers to close it.
    pub(super) fn close(&mut self, address: &EgressAddress) -> Option<Order> {
        let output = self.by_address.get_mut(address)?;
        output.users = output.users.saturating_sub(1);
        if output.users > 0 {
            return None;
        }
        let place = self.by_address.remove(address)?.place;
        self.places.give_back(place);
        Some(Order::EndOutput { place })
    }

    /// The orders that make a new worker have all outputs.
    pub(super) fn orders(&self) -> impl Iterator<Item = (Order, Descriptor)> {
        self.by_address.iter().map(|(address, output)| self.order(address, output))
    }

    fn order(&self, address: &EgressAddress, output: &Output) -> (Order, Descriptor) {
        let Output { place, socket, .. } = output;
        let (address, segment) = (address.clone(), self.segment);
        (Order::Output { place: *place, address, segment }, Arc::clone(socket))
    }

    fn warn(&mut self, obtained: usize) {
        if obtained < SEND_BUFFER && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "send buffers are {obtained} bytes, {SEND_BUFFER} were asked for: bursts can be lost; \
                 grant CAP_NET_ADMIN, or raise the limit: sysctl -w net.core.wmem_max={SEND_BUFFER}"
            );
        }
    }
}
