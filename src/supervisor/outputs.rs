//! Egress sockets, one for each distinct output of all rules, and those of sources, which workers ask for and nobody else keeps.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::places::Places;
use crate::stats::MAX_OUTPUTS;
use crate::sys::udp_socket::{EgressAddress, Opened, can_be_kept, is_own, open_egress};
use crate::worker::egress::Key;
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
    /// Where outputs send that keep sources, by their places.
    by_source: HashMap<u32, EgressAddress>,
    /// Why sockets of sources could not be opened.
    refusals: HashSet<String>,
}

#[derive(Debug)]
struct Output {
    place: u32,
    socket: Descriptor,
    /// What it sends from.
    own: Option<SocketAddr>,
    /// How many rules send through it.
    users: usize,
}

impl Outputs {
    pub(super) fn new(segment: bool) -> Self {
        let (by_address, by_source, refusals) = Default::default();
        let places = Places::new(MAX_OUTPUTS);
        Self { by_address, places, segment, has_warned: false, by_source, refusals }
    }

    /// The place of the output to `address`, for one more rule. Where it is a new one, the order for workers to have it.
    pub(super) fn open(&mut self, address: &EgressAddress) -> io::Result<(u32, Option<(Order, Descriptor)>)> {
        if let Some(output) = self.by_address.get_mut(address) {
            output.users += 1;
            return Ok((output.place, None));
        }
        let Opened { socket, send_buffer, own } = open_egress(address, None, SEND_BUFFER)?;
        self.warn(send_buffer);
        let place = self.places.take().ok_or_else(|| io::Error::other("there are too many outputs"))?;
        let output = Output { place, socket: Arc::new(socket), own, users: 1 };
        let order = order(address, &output, self.segment);
        self.insert(address.clone(), output);
        Ok((place, Some(order)))
    }

    /// Has an output that another supervisor has opened; no rule uses it yet.
    pub(super) fn adopt(
        &mut self,
        place: u32,
        address: EgressAddress,
        own: Option<SocketAddr>,
        socket: Descriptor,
    ) {
        self.places.occupy(place);
        self.insert(address, Output { place, socket, own, users: 0 });
    }

    fn insert(&mut self, address: EgressAddress, output: Output) {
        if address.preserve {
            self.by_source.insert(output.place, address.clone());
        }
        self.by_address.insert(address, output);
    }

    /// The order for a worker that wants a socket to send as a source, and the socket, if it can have one.
    pub(super) fn sender(&mut self, key: Key) -> (Order, Option<Descriptor>) {
        match self.open_sender(key) {
            Ok(socket) => (Order::Sender(key), Some(socket)),
            Err(error) => {
                self.warn_of_refusal(key, &error);
                (Order::NoSender { key, errno: error.raw_os_error().unwrap_or_default() }, None)
            }
        }
    }

    fn open_sender(&mut self, Key { output, source }: Key) -> io::Result<Descriptor> {
        let address = self.by_source.get(&output).ok_or(io::ErrorKind::NotFound)?;
        if !can_be_kept(source) || source.is_ipv4() != address.destination.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Its port is, or may be, that of a program here, and on the wire only somebody else says that it comes from this host.
        if is_own(source.ip(), &address.interface)? {
            return Err(io::Error::other("it is an address of this host"));
        }
        let Opened { socket, send_buffer, .. } = open_egress(address, Some(source), SEND_BUFFER)?;
        self.warn(send_buffer);
        Ok(Arc::new(socket))
    }

    /// Opens those outputs anew that leave through the interface `name` with an address that is not the one they would get now.
    /// Returns the orders for workers to send through the new sockets.
    pub(super) fn refresh(&mut self, name: &str) -> Vec<(Order, Descriptor)> {
        let mut orders = Vec::new();
        let segment = self.segment;
        // Of those that keep sources it is all the same which address the host has.
        let is_concerned = |address: &EgressAddress| address.interface == name && !address.preserve;
        for (address, output) in self.by_address.iter_mut().filter(|(address, _)| is_concerned(address)) {
            // Where it cannot be opened now, what it has may still do.
            let Ok(Opened { socket, own, .. }) = open_egress(address, None, SEND_BUFFER) else { continue };
            if own.map(|own| own.ip()) == output.own.map(|own| own.ip()) {
                continue;
            }
            (output.socket, output.own) = (Arc::new(socket), own);
            orders.push(order(address, output, segment));
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
        self.by_source.remove(&place);
        self.places.give_back(place);
        Some(Order::EndOutput { place })
    }

    /// The orders that make a new worker have all outputs.
    pub(super) fn orders(&self) -> impl Iterator<Item = (Order, Descriptor)> {
        self.by_address.iter().map(|(address, output)| order(address, output, self.segment))
    }

    /// Says, once for each reason, why a source cannot be kept.
    fn warn_of_refusal(&mut self, Key { output, source }: Key, error: &io::Error) {
        let (Some(address), true) = (self.by_source.get(&output), self.refusals.insert(error.to_string()))
        else {
            return;
        };
        let remedy = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => ": a program of this host has that port on all addresses, unshared",
            Some(libc::EACCES) => ": a port so low takes CAP_NET_BIND_SERVICE",
            _ => super::error::remedy(error),
        };
        tracing::warn!("send to {address} as {source}: {error}{remedy} (further ones are only counted)");
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

fn order(address: &EgressAddress, output: &Output, segment: bool) -> (Order, Descriptor) {
    let Output { place, socket, own, .. } = output;
    let order = Order::Output { place: *place, address: address.clone(), own: *own, segment };
    (order, Arc::clone(socket))
}
