//! Going on where another supervisor has ended: its workers relay still, and tell what they were told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::SupervisorError;
use super::book::{Listening, LiveOutput, LiveRule};
use super::inputs::Input;
use super::receive::Way;
use super::relay::{LiveInput, Relay};
use super::workers::Told;
use crate::rules::{Dedupe, Rule};
use crate::stats::InputStats;
use crate::sys::interface::Interface;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::udp_socket::EgressAddress;
use crate::wire::LinkLayer;
use crate::worker::dedupe::Leg;
use crate::worker::egress::Hop;
use crate::worker::order::Order;
use crate::worker::packet_ring::Shape;

/// What counted before it was closed is kept under this name.
const CLOSED_BEFORE: &str = "(closed before)";

/// The socket and the ring of each worker in turn.
type Sockets = Vec<(OwnedFd, Option<Shape>)>;
/// The interface, what its frames begin with, and the sockets of each input, by its place.
type Inputs = BTreeMap<u16, (String, LinkLayer, Sockets)>;

/// A rule with its input, where copies go, and of which stream it is a leg.
type ToldRule = (Rule, Option<u16>, Vec<Hop>, Option<Leg>);

/// What the workers were told, sorted.
#[derive(Default)]
struct State {
    outputs: BTreeMap<u32, (EgressAddress, Option<SocketAddr>, OwnedFd)>,
    streams: BTreeMap<u32, (Dedupe, OwnedFd)>,
    rules: BTreeMap<u32, ToldRule>,
    inputs: Inputs,
    /// Places of inputs that only some of them have: whose sockets those are nobody knows, nor do they capture for the others.
    partial: Vec<u16>,
    /// Whether they were not told the same, because a supervisor has died over a change.
    differs: bool,
}

impl State {
    fn new(all_told: Vec<Told>) -> Self {
        let (mut state, count) = (Self::default(), all_told.len());
        let kinds = |told: &Told| {
            let mut kinds: Vec<_> = told.iter().map(|(order, _)| kind(order)).collect();
            kinds.sort_unstable();
            kinds
        };
        state.differs = all_told.windows(2).any(|pair| kinds(&pair[0]) != kinds(&pair[1]));
        for (order, descriptor) in all_told.into_iter().flatten() {
            match (order, descriptor) {
                (Order::Output { place, address, own, .. }, Some(socket)) => {
                    state.outputs.insert(place, (address, own, socket));
                }
                (Order::Stream { place, dedupe }, Some(memory)) => {
                    state.streams.insert(place, (dedupe, memory));
                }
                (Order::Rule { place, rule, input, hops, leg }, _) => {
                    state.rules.insert(place, (rule, input, hops, leg));
                }
                (Order::Input { place, interface, link_layer, shape }, Some(socket)) => {
                    let input = || (interface, link_layer, Vec::new());
                    state.inputs.entry(place).or_insert_with(input).2.push((socket, shape));
                }
                _ => {}
            }
        }
        let partial = state.inputs.extract_if(.., |_, (.., sockets)| sockets.len() != count);
        state.partial = partial.map(|(place, _)| place).collect();
        state
    }
}

/// What an order is about.
fn kind(order: &Order) -> (u8, u32, Option<u16>) {
    match order {
        Order::Output { place, .. } => (0, *place, None),
        Order::Rule { place, input, .. } => (1, *place, *input),
        Order::Input { place, .. } => (2, u32::from(*place), None),
        Order::Stream { place, .. } => (4, *place, None),
        _ => (3, 0, None),
    }
}

impl Relay {
    /// Takes over what `all_told` says that the workers, which have been adopted, do.
    pub(super) async fn take_over(&mut self, all_told: Vec<Told>) -> Result<(), SupervisorError> {
        let State { outputs, streams, rules, inputs, partial, differs } = State::new(all_told);
        let addresses: HashMap<_, _> =
            outputs.iter().map(|(place, (address, ..))| (*place, address.clone())).collect();
        for (place, (address, own, socket)) in outputs {
            self.outputs.adopt(place, address, own, Arc::new(socket));
        }
        for (place, (dedupe, memory)) in streams {
            let operation = "take over the window of a stream";
            self.streams
                .adopt(place, dedupe, memory)
                .map_err(|error| SupervisorError::Setup { operation, error })?;
        }
        for (place, (rule, input, hops, leg)) in rules {
            let mut live = self.revive(rule, input, &hops, &addresses, &inputs);
            live.leg = leg;
            self.restore_leg(place, &live);
            self.book.adopt(place, live);
        }
        self.end_streams();
        for place in partial {
            self.workers.tell(&Order::EndInput { place }, None);
        }
        for (place, (name, link_layer, sockets)) in inputs {
            self.adopt_input(place, &name, link_layer, sockets)?;
        }
        self.rejoin().await?;
        if differs {
            tracing::warn!(
                "workers were not told the same, as a supervisor has died over a change: all are told everything"
            );
            self.tell_all();
        }
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
        let names = self.interfaces().into_iter().map(|name| (name, false)).collect();
        self.reconsider(&names).await;
        Ok(())
    }

    /// Tells workers all outputs and rules.
    fn tell_all(&mut self) {
        for (order, socket) in self.outputs.orders() {
            self.workers.tell(&order, Some(&socket));
        }
        for (order, memory) in self.streams.orders().flatten() {
            self.workers.tell(&order, Some(&memory));
        }
        for (place, live) in self.book.iter() {
            self.workers.tell(&live.order(place), None);
        }
    }

    /// Has the configuration's `rules` run beside those that run already, and in place of those that they cannot run beside.
    pub(super) async fn prevail(&mut self, rules: Vec<Rule>) -> Result<(), SupervisorError> {
        let configured: HashSet<_> = rules.iter().map(|rule| rule.input.clone()).collect();
        let others = rules.into_iter().filter(|rule| !self.book.has(rule)).collect::<Vec<_>>();
        let same_input = others.iter().flat_map(|rule| self.book.overlapping(&rule.input));
        let same_name = others.iter().filter_map(|rule| self.book.named(&rule.name));
        let streams: HashSet<_> =
            others.iter().filter_map(|rule| Some(&rule.dedupe.as_ref()?.stream)).collect();
        let legs = streams.iter().flat_map(|stream| self.book.legs(stream));
        let is_further =
            |place: &u32| self.book.get(*place).is_some_and(|live| !configured.contains(&live.rule.input));
        let further_legs = legs.filter(is_further);
        let mut replaced = same_input.chain(same_name).chain(further_legs).collect::<BTreeSet<_>>();
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
        if let Some((place, (_, _, sockets))) = input.and_then(|place| Some((place, inputs.get(&place)?))) {
            live.input = Ok(Listening { place, interface: bound_to(sockets) });
        }
        live
    }

    fn adopt_input(
        &mut self,
        place: u16,
        name: &str,
        link_layer: LinkLayer,
        sockets: Sockets,
    ) -> Result<(), SupervisorError> {
        let index = bound_to(&sockets);
        let interface = Interface::find(name).ok();
        let interface = interface.filter(|it| it.index == index && it.link_layer == link_layer);
        // One that is gone meanwhile is found out when interfaces are looked at.
        let gone = Interface { name: name.to_owned(), index, mtu: 0, up: false, carrier: false, link_layer };
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

    /// Joins the groups again that the other supervisor had joined, before workers let its memberships go. Addresses of the host
    /// are occupied only then, for a moment by nobody, since no two sockets can have one.
    async fn rejoin(&mut self) -> Result<(), SupervisorError> {
        self.enter_all(true);
        self.workers.tell(&Order::LetAllGo, None);
        self.workers.sync().await?;
        self.enter_all(false);
        let orders = self.memberships.orders().collect::<Result<Vec<_>, _>>();
        let orders =
            orders.map_err(|error| SupervisorError::Setup { operation: "share memberships", error })?;
        for (order, socket) in orders {
            self.workers.tell(&order, Some(&socket));
        }
        Ok(())
    }

    /// Has the host take what rules take: those of groups, or those of addresses.
    fn enter_all(&mut self, of_groups: bool) {
        let is_meant = |live: &&LiveRule| live.rule.input.group.is_multicast() == of_groups;
        for live in self.book.iter().map(|(_, live)| live).filter(is_meant) {
            let Ok(listening) = &live.input else { continue };
            if let Err(error) = self.memberships.enter(&live.rule, listening.interface) {
                tracing::warn!("join {} on {}: {error}", live.rule.input.group, live.rule.input.interface);
            }
        }
    }
}

/// Index of the interface that sockets are bound to; 0 when it is gone.
fn bound_to(sockets: &Sockets) -> u32 {
    let socket = sockets.first().and_then(|(socket, _)| socket.try_clone().ok());
    socket.and_then(|socket| PacketSocket::from(socket).interface().ok().flatten()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::io::pipe().unwrap().0.into()
    }

    fn output(place: u32) -> (Order, Option<OwnedFd>) {
        let address = EgressAddress::new(([239, 2, 2, 2], 6000).into(), "eth1", 2);
        (Order::Output { place, address, own: None, segment: true }, Some(socket()))
    }

    fn input(place: u16) -> (Order, Option<OwnedFd>) {
        (
            Order::Input {
                place,
                interface: "eth0".to_owned(),
                link_layer: LinkLayer::Ethernet,
                shape: None,
            },
            Some(socket()),
        )
    }

    fn rule(place: u32) -> (Order, Option<OwnedFd>) {
        let rule = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap();
        (Order::Rule { place, rule, input: Some(0), hops: Vec::new(), leg: None }, None)
    }

    #[test]
    fn what_workers_were_told_alike_is_kept() {
        let mut second = vec![output(0), rule(0), input(0)];
        second[0].1 = None; // it has come from the first
        let state = State::new(vec![vec![output(0), rule(0), input(0)], second]);
        assert!(!state.differs);
        assert_eq!((state.outputs.len(), state.rules.len(), state.inputs[&0].2.len()), (1, 1, 2));
    }

    #[test]
    fn what_only_some_workers_were_told_is_told_to_all_and_their_inputs_end() {
        let first = vec![output(0), rule(0), input(0)];
        let state = State::new(vec![first, vec![output(0), output(1), rule(0), rule(1), input(0), input(1)]]);
        assert!(state.differs);
        assert_eq!((state.outputs.len(), state.rules.len()), (2, 2));
        assert_eq!((state.inputs.keys().collect::<Vec<_>>(), state.partial), (vec![&0], vec![1]));
    }
}
