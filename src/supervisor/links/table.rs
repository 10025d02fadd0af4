//! What interfaces there are, and what changed since that was last told. No I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::mem::take;

use super::message::{self, Address, Description, Event};
use super::{Change, Kind};
use crate::sys::interface::Interface;

/// The interfaces, by index and by each of their names.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<u32, Entry>,
    names: HashMap<String, u32>,
    /// What happened to names since changes were last taken.
    events: BTreeMap<String, Happened>,
    /// Counts answers to requests for everything: what the last one did not mention is gone.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    interface: Interface,
    /// All of its names.
    names: Vec<String>,
    /// Its addresses, each with its state and when it was last mentioned.
    addresses: HashMap<Address, (u8, u64)>,
    generation: u64,
}

/// What happened to a name.
#[derive(Debug, Default)]
struct Happened {
    /// What had it before.
    before: Option<Interface>,
    /// How bad it got, be it for a moment.
    worst: State,
    /// It got or lost an address, or got a route.
    addresses: bool,
}

/// From good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    #[default]
    Carrier,
    NoCarrier,
    Down,
    Gone,
}

impl State {
    fn of(up: bool, carrier: bool) -> Self {
        match (up, carrier) {
            (false, _) => Self::Down,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Carrier,
        }
    }
}

impl Table {
    pub(super) fn find(&self, name: &str) -> Option<&Interface> {
        self.names.get(name).and_then(|index| self.entries.get(index)).map(|entry| &entry.interface)
    }

    pub(super) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.entries.values().map(|entry| &entry.interface)
    }

    /// Takes in the messages of a datagram.
    pub(super) fn apply_all(&mut self, datagram: &[u8]) {
        message::parse(datagram).for_each(|message| self.apply(message.event));
    }

    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Link(description) => self.put(description),
            Event::LinkGone(index) => self.remove(index),
            Event::Address { index, address, state } => {
                let mention = (state, self.generation);
                let Some(entry) = self.entries.get_mut(&index) else { return };
                if entry.addresses.insert(address, mention).is_none_or(|(before, _)| before != state) {
                    self.readdress(index);
                }
            }
            Event::AddressGone { index, address } => {
                let Some(entry) = self.entries.get_mut(&index) else { return };
                if entry.addresses.remove(&address).is_some() {
                    self.readdress(index);
                }
            }
            Event::Route(Some(index)) => self.readdress(index),
            // Through several: which ones does not matter enough.
            Event::Route(None) => {
                let up = self.interfaces().filter(|interface| interface.up);
                for index in up.map(|interface| interface.index).collect::<Vec<_>>() {
                    self.readdress(index);
                }
            }
            Event::End(_) | Event::Other => {}
        }
    }

    /// From now on everything there is will be mentioned.
    pub(super) fn begin(&mut self) {
        self.generation += 1;
    }

    /// Everything was mentioned: removes what was not.
    pub(super) fn sweep(&mut self) {
        let generation = self.generation;
        let old = self.entries.iter().filter(|(_, entry)| entry.generation != generation);
        for index in old.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.remove(index);
        }
        let mut changed = Vec::new();
        for (index, entry) in &mut self.entries {
            let before = entry.addresses.len();
            entry.addresses.retain(|_, (_, mentioned)| *mentioned == generation);
            if entry.addresses.len() != before {
                changed.push(*index);
            }
        }
        for index in changed {
            self.readdress(index);
        }
    }

    /// What changed since the last time: removals first, then by name.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, happened) in take(&mut self.events) {
            for kind in happened.kinds(self.find(&name)) {
                changes.push(Change { kind, name: name.clone() });
            }
        }
        changes.sort();
        changes
    }

    fn put(&mut self, description: Description) {
        let Description { index, up, carrier, link_layer, mtu, names } = description;
        let old = self.entries.get(&index);
        // What lacks the MTU is not a whole description.
        let (names, mtu) = match (mtu, old) {
            (Some(mtu), _) => (names, mtu),
            (None, Some(old)) => (old.names.clone(), old.interface.mtu),
            (None, None) => return,
        };
        let Some(name) = names.first().cloned() else { return };
        for name in &names {
            // Two cannot have one name, so the news of the other's end is missing.
            if let Some(other) = self.names.get(name).filter(|other| **other != index) {
                self.remove(*other);
            }
        }
        let former = self.entries.get(&index).map(|entry| entry.names.clone()).unwrap_or_default();
        for name in former.iter().chain(&names) {
            self.happened(name).reaches(State::of(up, carrier));
        }
        for name in &former {
            self.names.remove(name);
        }
        self.names.extend(names.iter().map(|name| (name.clone(), index)));
        let addresses = self.entries.remove(&index).map(|entry| entry.addresses).unwrap_or_default();
        let interface = Interface { name, index, mtu, up, carrier, link_layer };
        self.entries.insert(index, Entry { interface, names, addresses, generation: self.generation });
    }

    fn remove(&mut self, index: u32) {
        let Some(names) = self.entries.get(&index).map(|entry| entry.names.clone()) else { return };
        for name in &names {
            self.happened(name).reaches(State::Gone);
            self.names.remove(name);
        }
        self.entries.remove(&index);
    }

    /// The addresses or routes of an interface changed.
    fn readdress(&mut self, index: u32) {
        let names = self.entries.get(&index).map(|entry| entry.names.clone()).unwrap_or_default();
        for name in names {
            self.happened(&name).addresses = true;
        }
    }

    /// What happened to a name so far.
    fn happened(&mut self, name: &str) -> &mut Happened {
        if !self.events.contains_key(name) {
            let before = self.find(name).cloned();
            self.events.insert(name.to_owned(), Happened { before, ..Happened::default() });
        }
        self.events.entry(name.to_owned()).or_default()
    }
}

impl Happened {
    fn reaches(&mut self, state: State) {
        self.worst = self.worst.max(state);
    }

    /// What became of it, now that this is what has the name.
    fn kinds(&self, now: Option<&Interface>) -> Vec<Kind> {
        let (before, now) = match (&self.before, now) {
            (None, None) => return Vec::new(),
            (None, Some(_)) => return vec![Kind::Appeared],
            (Some(_), None) => return vec![Kind::Gone],
            (Some(before), Some(now)) => (before, now),
        };
        if self.worst == State::Gone || before.index != now.index || before.link_layer != now.link_layer {
            return vec![Kind::Recreated];
        }
        let state = match (State::of(before.up, before.carrier), State::of(now.up, now.carrier)) {
            (State::Down, State::Down) => None,
            (_, State::Down) => Some(Kind::WentDown),
            (State::Down, _) => Some(Kind::WentUp),
            _ if self.worst == State::Down => Some(Kind::WentUp),
            (State::NoCarrier, State::NoCarrier) => None,
            (_, State::NoCarrier) => Some(Kind::LostCarrier),
            _ => (self.worst == State::NoCarrier || !before.carrier).then_some(Kind::GotCarrier),
        };
        let mtu = (before.mtu != now.mtu).then_some(Kind::Mtu);
        let addresses = self.addresses.then_some(Kind::AddressesChanged);
        state.into_iter().chain(mtu).chain(addresses).collect()
    }
}
