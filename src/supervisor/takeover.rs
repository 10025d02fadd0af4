//! Going on where another supervisor has ended: its workers relay still, and tell what they were told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::SupervisorError;
use super::book::{Listening, LiveOutput, LiveRule};
use super::inputs::Input;
use super::receive::Way;
use super::relay::{LiveInput, Relay};
use super::workers::Told;
use crate::rules::Rule;
use crate::stats::InputStats;
use crate::sys::interface::Interface;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::udp_socket::EgressAddress;
use crate::worker::egress::Hop;
use crate::worker::order::Order;
use crate::worker::packet_ring::Shape;

/// What counted before it was closed is kept under this name.
const CLOSED_BEFORE: &str = "(closed before)";

/// The socket and the ring of each worker in turn.
type Sockets = Vec<(OwnedFd, Option<Shape>)>;
/// The interface and the sockets of each input, by its place.
type Inputs = BTreeMap<u16, (String, Sockets)>;

/// What the workers were told, sorted.
#[derive(Default)]
struct State {
    outputs: HashMap<u32, (EgressAddress, OwnedFd)>,
    rules: BTreeMap<u32, (Rule, Option<u16>, Vec<Hop>)>,
    inputs: Inputs,
}

impl State {
    fn new(all_told: Vec<Told>) -> Self {
        let mut state = Self::default();
        for (order, descriptor) in all_told.into_iter().flatten() {
            match (order, descriptor) {
                // All workers have the same outputs and rules.
                (Order::Output { place, address, .. }, Some(socket)) => {
                    state.outputs.entry(place).or_insert((address, socket));
                }
                (Order::Rule { place, rule, input, hops }, _) => {
                    state.rules.insert(place, (rule, input, hops));
                }
                (Order::Input { place, interface, shape }, Some(socket)) => {
                    let input = state.inputs.entry(place).or_insert_with(|| (interface, Vec::new()));
                    input.1.push((socket, shape));
                }
                _ => {}
            }
        }
        state
    }
}

impl Relay {
    /// Takes over what `all_told` says that the workers, which have been adopted, do.
    pub(super) async fn take_over(&mut self, all_told: Vec<Told>) -> Result<(), SupervisorError> {
        let State { outputs, rules, inputs } = State::new(all_told);
        let addresses: HashMap<_, _> =
            outputs.iter().map(|(place, (address, _))| (*place, address.clone())).collect();
        for (place, (address, socket)) in outputs {
            self.outputs.adopt(place, address, Arc::new(socket));
        }
        for (place, (rule, input, hops)) in rules {
            let live = self.revive(rule, input, &hops, &addresses, &inputs);
            self.book.adopt(place, live);
        }
        for (place, (name, sockets)) in inputs {
            self.adopt_input(place, &name, sockets)?;
        }
        self.rejoin()?;
        let received: u64 = self.workers.counters().iter().map(|counters| counters.removed_received()).sum();
        if received > 0 {
            let interface = CLOSED_BEFORE.to_owned();
            let past = InputStats {
                interface,
                captured: received,
                frames: received,
                received,
                ..InputStats::default()
            };
            self.past_inputs.insert(CLOSED_BEFORE.to_owned(), past);
        }
        // Whatever has happened to interfaces meanwhile.
        let names = self.book.iter().flat_map(|(_, live)| live.interfaces().map(str::to_owned)).collect();
        self.reconsider(&names).await;
        Ok(())
    }

    /// Has the configuration's `rules` run beside those that run already, and in place of those that they cannot run beside.
    pub(super) async fn prevail(&mut self, rules: Vec<Rule>) -> Result<(), SupervisorError> {
        let configured: HashSet<_> = rules.iter().map(|rule| rule.input.clone()).collect();
        let others = rules.into_iter().filter(|rule| !self.book.has(rule)).collect::<Vec<_>>();
        let same_input = others.iter().filter_map(|rule| self.book.with_input(&rule.input));
        let same_name = others.iter().filter_map(|rule| self.book.named(&rule.name));
        let mut replaced = same_input.chain(same_name).collect::<BTreeSet<_>>();
        // Those of the configuration alone make no circle.
        while let Some(circle) = self.book.circle_with(&others, &replaced) {
            let is_further = |live: &&LiveRule| !configured.contains(&live.rule.input);
            let further = |place: &u32| Some((*place, self.book.get(*place).filter(is_further)?));
            let Some((place, live)) = circle.running.iter().find_map(further) else { break };
            tracing::warn!(
                "rule \"{}\", which ran, is taken out for the configuration: {}",
                live.rule.name,
                circle.message
            );
            replaced.insert(place);
        }
        self.change(&replaced.into_iter().collect::<Vec<_>>(), others).await
    }

    /// A rule as it runs.
    fn revive(
        &mut self,
        rule: Rule,
        input: Option<u16>,
        hops: &[Hop],
        addresses: &HashMap<u32, EgressAddress>,
        inputs: &Inputs,
    ) -> LiveRule {
        let output = |hop: &Hop| {
            let address = hop.output.and_then(|place| addresses.get(&place));
            // It is there, so that this only counts who uses it.
            let opened =
                address.and_then(|address| Some((self.outputs.open(address).ok()?.0, address.clone())));
            LiveOutput { counters: hop.counters, open: opened.ok_or_else(String::new) }
        };
        let outputs = hops.iter().map(output).collect();
        let mut live = LiveRule::new(rule, outputs);
        if let Some((place, (_, sockets))) = input.and_then(|place| Some((place, inputs.get(&place)?))) {
            live.input = Ok(Listening { place, interface: bound_to(sockets) });
        }
        live
    }

    fn adopt_input(&mut self, place: u16, name: &str, sockets: Sockets) -> Result<(), SupervisorError> {
        let index = bound_to(&sockets);
        let interface = Interface::find(name).ok().filter(|interface| interface.index == index);
        // One that is gone meanwhile is found out when interfaces are looked at.
        let gone =
            Interface { name: name.to_owned(), index, mtu: 0, up: false, carrier: false, ethernet: true };
        let interface = interface.unwrap_or(gone);
        let mut input = Input::adopt(&self.config, interface, place, sockets, self.book.inputs_on(name))?;
        if let Way::Recv(_) = self.way {
            // Of a worker that died before, the other supervisor may not have told yet what it had in its memory.
            input.suspect();
        }
        let listens = |live: &LiveRule| live.input.as_ref().is_ok_and(|listening| listening.place == place);
        let users = self.book.iter().filter(|(_, live)| listens(live)).count();
        self.input_places.occupy(place.into());
        self.inputs.insert(name.to_owned(), LiveInput { input, users });
        Ok(())
    }

    /// Joins the groups again that the other supervisor had joined, before workers let its memberships go.
    fn rejoin(&mut self) -> Result<(), SupervisorError> {
        for (_, live) in self.book.iter() {
            let Ok(listening) = live.input else { continue };
            if let Err(error) = self.memberships.enter(&live.rule.input, listening.interface) {
                tracing::warn!("join {} on {}: {error}", live.rule.input.group, live.rule.input.interface);
            }
        }
        let orders = self.memberships.orders().collect::<Result<Vec<_>, _>>();
        let orders =
            orders.map_err(|error| SupervisorError::Setup { operation: "share memberships", error })?;
        self.workers.tell(&Order::LetAllGo, None);
        for (order, socket) in orders {
            self.workers.tell(&order, Some(&socket));
        }
        Ok(())
    }
}

/// Index of the interface that sockets are bound to; 0 when it is gone.
fn bound_to(sockets: &Sockets) -> u32 {
    let socket = sockets.first().and_then(|(socket, _)| socket.try_clone().ok());
    socket.and_then(|socket| PacketSocket::from(socket).interface().ok().flatten()).unwrap_or(0)
}
