//! Counts exactly what arrived at one sink: every measured datagram is a bit, so nothing is estimated.
//!
//! Every arrival falls into exactly one class, and every expected datagram meets exactly one fate:
//!
//! - `arrivals = received + duplicated + corrupted + alien + warm_up + warm_up_corrupted`
//! - `expected = received + damaged + unreadable_standing_in + lost + link_down`
//!
//! where *damaged* ones arrived only with a wrong checksum, and an unreadable arrival stands for one missing
//! datagram of the flow whose address it came to.

mod ahead;
mod losses;
mod recorded;
mod sequence;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

pub use ahead::{Ahead, Before};
pub use losses::Loss;
pub use recorded::RecordedTally;

use crate::bitmap::Bitmap;
use crate::datagram::{self, Datagram, Header, Kind, Stamps, Undecodable};
use crate::plan::Plan;

/// How many incidents of each kind are kept.
pub const MAX_INCIDENTS_PER_KIND: usize = 1_000;

/// What happened to one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// Never arrived.
    Lost,
    /// Arrived again.
    Duplicated,
    /// Arrived after a later one of its flow.
    Reordered,
    /// Arrived damaged.
    Corrupted,
    /// Did not belong here.
    Alien,
    /// Missing in a flow where some arrivals could not be read: lost, or one of those.
    LostOrCorrupted,
}

const KINDS: usize = IncidentKind::LostOrCorrupted as usize + 1;

/// One thing that went wrong, as exactly as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Incident {
    /// What happened.
    pub kind: IncidentKind,
    /// The flow the datagram names or, when it cannot be read, the one whose address it came to.
    pub flow: Option<u16>,
    /// Sequence within the flow, where known.
    pub sequence: Option<u64>,
    /// Where an alien was delivered.
    pub delivered: Option<SocketAddr>,
}

/// The exact result at one sink. All figures are datagrams; they concern the measured ones unless the name says
/// otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// What the plan sends.
    pub expected: u64,
    /// Everything counted, of any class.
    pub arrivals: u64,
    /// Distinct ones that arrived whole.
    pub received: u64,
    /// Expected, but neither arrived whole nor damaged nor stood for by an unreadable one.
    pub lost: u64,
    /// Likewise, and offered while a link on the way was down: in no other count.
    pub link_down: u64,
    /// Further whole arrivals of one that was received already.
    pub duplicated: u64,
    /// First arrivals with a sequence below the highest seen of their flow (RFC 4737 type-P-reordered).
    pub reordered: u64,
    /// Arrivals whose checksum is wrong.
    pub corrupted: u64,
    /// Distinct ones of which only damaged copies arrived.
    pub damaged: u64,
    /// Those of `corrupted` whose header is not readable either.
    pub unreadable: u64,
    /// Another run's, not a lab datagram, or delivered to an address that is not its flow's.
    pub alien: u64,
    /// Those of `alien` that are whole datagrams of this run: they came where they do not belong.
    pub misdelivered: u64,
    /// Those of `alien` that are whole and name the run which foreign datagrams of the lab do.
    pub foreign: u64,
    /// Whole warm-up datagrams, repeats included.
    pub warm_up: u64,
    /// Damaged warm-up datagrams: by their header or, when it is not readable, by when they came.
    pub warm_up_corrupted: u64,
    /// What is missing and was not offered while a link was down, where it was in the course of things: the first few.
    pub losses: Vec<Loss>,
    /// The first [`MAX_INCIDENTS_PER_KIND`] of each kind, in order of arrival, then what is missing in sending order.
    pub incidents: Vec<Incident>,
}

/// What a single arrival turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first whole copy of a measured datagram; its send times when it carries them.
    Received(Option<Stamps>),
    /// A whole copy too many.
    Duplicated,
    /// A damaged measured datagram.
    Corrupted,
    /// Nothing of this trial.
    Alien,
    /// A whole warm-up datagram; true for the first of its flow.
    WarmUp {
        /// Whether its flow had none before.
        first_of_flow: bool,
    },
    /// A damaged warm-up datagram.
    WarmUpCorrupted,
}

/// A tally still being counted. Memory: two bits per expected datagram (the second touched only by damage) and some
/// 100 bytes per flow.
#[derive(Debug)]
pub struct OpenTally {
    plan: Arc<Plan>,
    /// Flow by where it is delivered: only asked when a datagram cannot say itself.
    delivered: HashMap<(IpAddr, u16), u16>,
    /// By global sequence: a copy, whole or damaged, arrived.
    seen: Bitmap,
    /// By global sequence: seen, but only damaged so far.
    damaged: Bitmap,
    /// How often `seen` was asked.
    sightings: u64,
    flows: Vec<FlowState>,
    /// Global sequences that were offered while a link on the way was down.
    link_down: Vec<Range<u64>>,
    tally: Tally,
    kept: [usize; KINDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct FlowState {
    /// Highest sequence seen, plus one.
    next: u64,
    /// Distinct sequences that arrived, whole or damaged.
    arrived: u64,
    unreadable: u64,
    warm: bool,
}

impl OpenTally {
    /// Nothing has arrived yet.
    pub fn new(plan: &Arc<Plan>) -> Self {
        let key = |address: &SocketAddr| (address.ip(), address.port());
        Self {
            delivered: plan
                .flows
                .iter()
                .enumerate()
                .map(|(index, flow)| (key(&flow.delivered), index as u16))
                .collect(),
            seen: Bitmap::new(plan.datagrams),
            damaged: Bitmap::new(plan.datagrams),
            sightings: 0,
            flows: vec![FlowState::default(); plan.flows.len()],
            link_down: Vec::new(),
            tally: Tally { expected: plan.datagrams, ..Tally::default() },
            kept: [0; KINDS],
            plan: Arc::clone(plan),
        }
    }

    /// Counts one UDP datagram that came to `delivered`. `headers_whole` is false when the IP or UDP checksum around
    /// it is wrong: then it cannot count as whole whatever it contains. `during` is what was being sent when it came:
    /// nothing else tells of an unreadable one whether it stands for a measured datagram.
    pub fn arrive(
        &mut self,
        delivered: SocketAddr,
        payload: &[u8],
        headers_whole: bool,
        during: Kind,
    ) -> Arrival {
        self.tally.arrivals += 1;
        let whole = headers_whole && payload.len() == self.plan.payload_bytes;
        match datagram::decode(payload) {
            Ok(datagram) if whole => self.intact(delivered, datagram),
            Ok(Datagram { header, .. }) | Err(Undecodable::Damaged(header)) => {
                self.damaged(delivered, &header, payload, during)
            }
            Err(Undecodable::Unreadable | Undecodable::TooShort(_)) => {
                self.unreadable(delivered, payload, during)
            }
        }
    }

    fn intact(&mut self, delivered: SocketAddr, datagram: Datagram) -> Arrival {
        let header = datagram.header;
        let flow = header.flow;
        if header.run != self.plan.run || !self.belongs(delivered, &header) {
            return self.stray(delivered, &header);
        }
        if header.kind == Kind::WarmUp {
            self.tally.warm_up += 1;
            let first_of_flow = self
                .flows
                .get_mut(usize::from(flow))
                .is_some_and(|state| !std::mem::replace(&mut state.warm, true));
            return Arrival::WarmUp { first_of_flow };
        }
        let global = self.global(flow, header.sequence);
        if self.see(global) {
            if !self.damaged.clear(global) {
                self.tally.duplicated += 1;
                self.note(IncidentKind::Duplicated, Some(flow), Some(header.sequence), None);
                return Arrival::Duplicated;
            }
            self.tally.damaged -= 1;
        } else {
            self.first_arrival(&header);
        }
        self.tally.received += 1;
        Arrival::Received(datagram.stamps)
    }

    fn damaged(&mut self, delivered: SocketAddr, header: &Header, payload: &[u8], during: Kind) -> Arrival {
        if header.run != self.plan.run {
            return self.alien(delivered, None);
        }
        if !self.belongs(delivered, header) {
            // Address and header contradict each other, and the datagram is known to be damaged: believe the address.
            return self.unreadable(delivered, payload, during);
        }
        if header.kind == Kind::WarmUp {
            self.tally.warm_up_corrupted += 1;
            return Arrival::WarmUpCorrupted;
        }
        let global = self.global(header.flow, header.sequence);
        if !self.see(global) {
            self.damaged.set(global);
            self.tally.damaged += 1;
            self.first_arrival(header);
        }
        self.tally.corrupted += 1;
        self.note(IncidentKind::Corrupted, Some(header.flow), Some(header.sequence), None);
        Arrival::Corrupted
    }

    fn unreadable(&mut self, delivered: SocketAddr, payload: &[u8], during: Kind) -> Arrival {
        let ours =
            payload.len() == self.plan.payload_bytes || datagram::claimed_run(payload) == Some(self.plan.run);
        let flow = self.delivered.get(&(delivered.ip(), delivered.port())).copied();
        let (Some(flow), true) = (flow, ours) else { return self.alien(delivered, None) };
        if during == Kind::WarmUp {
            self.tally.warm_up_corrupted += 1;
            return Arrival::WarmUpCorrupted;
        }
        self.tally.corrupted += 1;
        self.tally.unreadable += 1;
        if let Some(state) = self.flows.get_mut(usize::from(flow)) {
            state.unreadable += 1;
        }
        self.note(IncidentKind::Corrupted, Some(flow), None, None);
        Arrival::Corrupted
    }

    /// Counts something that is not a lab datagram of this trial without looking into it, e.g. a fragment.
    pub fn arrive_foreign(&mut self, delivered: SocketAddr) -> Arrival {
        self.tally.arrivals += 1;
        self.alien(delivered, None)
    }

    /// Counts a datagram whose frame is addressed to another host: no IP stack here would take it.
    pub fn arrive_for_another(&mut self, delivered: SocketAddr, payload: &[u8]) -> Arrival {
        self.tally.arrivals += 1;
        match datagram::decode(payload) {
            Ok(Datagram { header, .. }) => self.stray(delivered, &header),
            Err(_) => self.alien(delivered, None),
        }
    }

    /// A whole lab datagram that came where it does not belong.
    fn stray(&mut self, delivered: SocketAddr, header: &Header) -> Arrival {
        if header.run != self.plan.run {
            self.tally.foreign += u64::from(header.run == !self.plan.run);
            return self.alien(delivered, None);
        }
        self.tally.misdelivered += 1;
        self.alien(delivered, Some((header.flow, header.sequence)))
    }

    fn alien(&mut self, delivered: SocketAddr, known: Option<(u16, u64)>) -> Arrival {
        self.tally.alien += 1;
        let (flow, sequence) = known.unzip();
        self.note(IncidentKind::Alien, flow, sequence, Some(delivered));
        Arrival::Alien
    }

    /// Whether the plan sends such a datagram to this address.
    fn belongs(&self, delivered: SocketAddr, header: &Header) -> bool {
        let Some(flow) = self.plan.flows.get(usize::from(header.flow)) else { return false };
        let addressed = flow.delivered.ip() == delivered.ip() && flow.delivered.port() == delivered.port();
        addressed && (header.kind == Kind::WarmUp || header.sequence < self.plan.expected(header.flow))
    }

    /// For headers that [`Self::belongs`]: below the number of measured datagrams.
    fn global(&self, flow: u16, sequence: u64) -> u64 {
        sequence * self.plan.flows.len() as u64 + u64::from(flow)
    }

    /// Marks a sequence seen and says whether it was before.
    fn see(&mut self, global: u64) -> bool {
        self.sightings += 1;
        self.seen.set(global)
    }

    fn first_arrival(&mut self, header: &Header) {
        let Some(state) = self.flows.get_mut(usize::from(header.flow)) else { return };
        state.arrived += 1;
        if header.sequence >= state.next {
            state.next = header.sequence + 1;
            return;
        }
        self.tally.reordered += 1;
        self.note(IncidentKind::Reordered, Some(header.flow), Some(header.sequence), None);
    }

    fn note(
        &mut self,
        kind: IncidentKind,
        flow: Option<u16>,
        sequence: Option<u64>,
        delivered: Option<SocketAddr>,
    ) {
        let kept = &mut self.kept[kind as usize];
        if *kept < MAX_INCIDENTS_PER_KIND {
            *kept += 1;
            self.tally.incidents.push(Incident { kind, flow, sequence, delivered });
        }
    }

    /// Takes in which global sequences were offered while a link on the way was down: in order, none of them twice.
    pub fn while_link_down(&mut self, sequences: &[Range<u64>]) {
        self.link_down = sequences.to_vec();
    }

    /// Closes the count: what has not arrived by now is missing.
    pub fn close(mut self) -> Tally {
        let mut fates = Vec::with_capacity(self.flows.len());
        for (index, state) in self.flows.iter().enumerate() {
            let missing = self.plan.expected(index as u16).saturating_sub(state.arrived);
            self.tally.lost += missing.saturating_sub(state.unreadable);
            fates.push(match (missing, state.unreadable) {
                (0, _) => None,
                (_, 0) => Some(IncidentKind::Lost),
                // Exactly as many unreadable as missing: the missing ones are those.
                (missing, unreadable) if missing == unreadable => Some(IncidentKind::Corrupted),
                _ => Some(IncidentKind::LostOrCorrupted),
            });
        }
        let unseen: u64 = self.link_down.iter().map(|range| self.seen.count_clear(range.clone())).sum();
        self.tally.link_down = unseen.min(self.tally.lost);
        self.tally.lost -= self.tally.link_down;
        self.tally.losses = self.losses();
        self.forget_named(&fates);
        self.note_missing(&fates);
        self.tally
    }

    /// Drops the incidents of unreadable arrivals that [`Self::note_missing`] will name by what is missing.
    fn forget_named(&mut self, fates: &[Option<IncidentKind>]) {
        let kept = &mut self.kept[IncidentKind::Corrupted as usize];
        self.tally.incidents.retain(|incident| {
            let unnamed = incident.kind == IncidentKind::Corrupted && incident.sequence.is_none();
            let fate = incident.flow.and_then(|flow| fates.get(usize::from(flow)).copied().flatten());
            let named = unnamed && fate == Some(IncidentKind::Corrupted);
            *kept -= usize::from(named);
            !named
        });
    }

    fn note_missing(&mut self, fates: &[Option<IncidentKind>]) {
        let possible: Vec<_> = [IncidentKind::Lost, IncidentKind::Corrupted, IncidentKind::LostOrCorrupted]
            .into_iter()
            .filter(|kind| fates.contains(&Some(*kind)))
            .collect();
        let flows = self.plan.flows.len() as u64;
        let mut global = 0;
        while possible.iter().any(|kind| self.kept[*kind as usize] < MAX_INCIDENTS_PER_KIND) {
            let Some(missing) = self.seen.next_clear(global) else { break };
            if let Some(range) = self.link_down.iter().find(|range| range.contains(&missing)) {
                global = range.end;
                continue;
            }
            let flow = (missing % flows) as u16;
            if let Some(fate) = fates.get(usize::from(flow)).copied().flatten() {
                self.note(fate, Some(flow), Some(missing / flows), None);
            }
            global = missing + 1;
        }
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
