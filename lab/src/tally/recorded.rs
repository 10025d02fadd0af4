//! Counts what arrived of a recording, whose datagrams have no numbers: by the bytes of their payloads.
//!
//! The classes and fates are those of [`Tally`]. What is known by its bytes is compared with what was sent once everything
//! has come, flow by flow. Bytes that nobody sent, at the address of a flow, are a damaged datagram: one that cannot be read,
//! and stands for one that is missing.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::sequence::{Differences, compare};
use super::{Arrival, Incident, IncidentKind, KINDS, MAX_INCIDENTS_PER_KIND, Tally};
use crate::datagram::{self, Datagram, Header, Kind};
use crate::plan::Plan;
use crate::replay::Recording;

/// The count of a replayed recording as it grows. Memory: some 50 bytes per datagram.
#[derive(Debug)]
pub struct RecordedTally {
    run: u16,
    recording: Arc<Recording>,
    /// Flow by where it is delivered.
    delivered: HashMap<(IpAddr, u16), u16>,
    flows: Vec<Flow>,
    tally: Tally,
    kept: [usize; KINDS],
}

#[derive(Clone, Debug, Default)]
struct Flow {
    /// Numbers of the payloads that are sent, in order ...
    sent: Vec<u32>,
    /// ... and in none.
    known: HashSet<u32>,
    /// Those that came, in order.
    came: Vec<u32>,
    /// How many came that nobody sent.
    unknown: u64,
    warm: bool,
}

impl RecordedTally {
    /// Nothing of the `recording`, as far as `plan` sends it, has arrived yet.
    pub fn new(plan: &Plan, recording: &Arc<Recording>) -> Self {
        let key = |address: SocketAddr| (address.ip(), address.port());
        let mut flows = vec![Flow::default(); plan.flows.len()];
        for datagram in recording.datagrams().iter().take(plan.datagrams as usize) {
            if let Some(flow) = flows.get_mut(usize::from(datagram.flow)) {
                flow.sent.push(datagram.content);
                flow.known.insert(datagram.content);
            }
        }
        Self {
            run: plan.run,
            recording: Arc::clone(recording),
            delivered: (0..).zip(&plan.flows).map(|(index, flow)| (key(flow.delivered), index)).collect(),
            flows,
            tally: Tally { expected: plan.datagrams, ..Tally::default() },
            kept: [0; KINDS],
        }
    }

    /// Counts one UDP datagram that came to `delivered`; see [`OpenTally::arrive`](super::OpenTally::arrive). Whether it is
    /// one too many is only known in the end.
    pub fn arrive(
        &mut self,
        delivered: SocketAddr,
        payload: &[u8],
        headers_whole: bool,
        during: Kind,
    ) -> Arrival {
        self.tally.arrivals += 1;
        let index = self.delivered.get(&(delivered.ip(), delivered.port())).copied();
        let content = self.recording.content(payload).filter(|_| headers_whole);
        let flow = index.and_then(|index| self.flows.get_mut(usize::from(index)));
        match (content, flow) {
            (Some(content), Some(flow)) if flow.known.contains(&content) && during == Kind::Measured => {
                flow.came.push(content);
                Arrival::Received(None)
            }
            (Some(_), _) => self.stray(delivered),
            (None, _) => match datagram::decode(payload) {
                Ok(Datagram { header, .. }) if headers_whole => self.own(delivered, &header, index),
                _ => self.unknown(delivered, index, during),
            },
        }
    }

    /// Counts something that is no datagram of this trial without looking into it, e.g. a fragment.
    pub fn arrive_foreign(&mut self, delivered: SocketAddr) -> Arrival {
        self.tally.arrivals += 1;
        self.alien(delivered)
    }

    /// Counts a datagram whose frame is addressed to another host: no IP stack here would take it.
    pub fn arrive_for_another(&mut self, delivered: SocketAddr, payload: &[u8]) -> Arrival {
        self.tally.arrivals += 1;
        if self.recording.content(payload).is_some() { self.stray(delivered) } else { self.alien(delivered) }
    }

    /// A datagram of the lab's own, with which it warms up.
    fn own(&mut self, delivered: SocketAddr, header: &Header, index: Option<u16>) -> Arrival {
        if header.run != self.run || header.kind != Kind::WarmUp {
            return self.alien(delivered);
        }
        if index != Some(header.flow) {
            return self.stray(delivered);
        }
        self.tally.warm_up += 1;
        let flow = self.flows.get_mut(usize::from(header.flow));
        let first_of_flow = flow.is_some_and(|flow| !std::mem::replace(&mut flow.warm, true));
        Arrival::WarmUp { first_of_flow }
    }

    /// Bytes that nobody sent.
    fn unknown(&mut self, delivered: SocketAddr, index: Option<u16>, during: Kind) -> Arrival {
        let Some(flow) = index.and_then(|index| self.flows.get_mut(usize::from(index))) else {
            return self.alien(delivered);
        };
        if during == Kind::WarmUp {
            self.tally.warm_up_corrupted += 1;
            return Arrival::WarmUpCorrupted;
        }
        flow.unknown += 1;
        self.tally.corrupted += 1;
        self.tally.unreadable += 1;
        Arrival::Corrupted
    }

    /// What was sent, where it does not belong.
    fn stray(&mut self, delivered: SocketAddr) -> Arrival {
        self.tally.misdelivered += 1;
        self.alien(delivered)
    }

    fn alien(&mut self, delivered: SocketAddr) -> Arrival {
        self.tally.alien += 1;
        let kind = IncidentKind::Alien;
        self.note(Incident { kind, flow: None, sequence: None, delivered: Some(delivered) });
        Arrival::Alien
    }

    fn note(&mut self, incident: Incident) {
        let kept = &mut self.kept[incident.kind as usize];
        if *kept < MAX_INCIDENTS_PER_KIND {
            *kept += 1;
            self.tally.incidents.push(incident);
        }
    }

    /// Closes the count: what has not arrived by now is missing.
    pub fn close(mut self) -> Tally {
        for (index, flow) in (0..).zip(std::mem::take(&mut self.flows)) {
            let differences = compare(&flow.sent, &flow.came);
            let (missing, copies) = (differences.lost.len() as u64, differences.duplicated.len() as u64);
            self.tally.received += flow.came.len() as u64 - copies;
            self.tally.duplicated += copies;
            self.tally.reordered += differences.reordered.len() as u64;
            self.tally.lost += missing.saturating_sub(flow.unknown);
            self.note_all(index, &differences, flow.unknown);
        }
        self.tally
    }

    /// Names what happened to datagrams of flow `index`, of which `unknown` came as bytes that nobody sent.
    fn note_all(&mut self, index: u16, differences: &Differences, unknown: u64) {
        let Differences { lost, duplicated, reordered } = differences;
        let missing = match unknown {
            0 => IncidentKind::Lost,
            // Exactly as many: the missing ones are those.
            unknown if unknown == lost.len() as u64 => IncidentKind::Corrupted,
            _ => IncidentKind::LostOrCorrupted,
        };
        let kinds =
            [(IncidentKind::Duplicated, duplicated), (IncidentKind::Reordered, reordered), (missing, lost)];
        for (kind, sequences) in kinds {
            for &sequence in sequences.iter().take(MAX_INCIDENTS_PER_KIND) {
                self.note(Incident { kind, flow: Some(index), sequence: Some(sequence), delivered: None });
            }
        }
        let unnamed = if missing == IncidentKind::Corrupted { 0 } else { unknown };
        for _ in 0..unnamed.min(MAX_INCIDENTS_PER_KIND as u64) {
            let kind = IncidentKind::Corrupted;
            self.note(Incident { kind, flow: Some(index), sequence: None, delivered: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{Encoder, Stamps};
    use crate::replay::tests::recording_of;
    use crate::replay::{Pace, Replay};

    const RUN: u16 = 7;

    fn delivered(flow: u8) -> SocketAddr {
        ([239, 82, 1, flow], 6000).into()
    }

    /// Flow 0 has a, b, c and a again; flow 1 has b and d.
    fn tally() -> RecordedTally {
        let recording =
            Arc::new(recording_of(&[(0, b"a"), (0, b"b"), (1, b"b"), (0, b"c"), (1, b"d"), (0, b"a")]));
        let flow = |(index, destination): (u8, &SocketAddr)| crate::plan::Flow {
            source: ([10, 81, 0, 1], 4000).into(),
            destination: *destination,
            destination_mac: [1, 0, 0x5E, 1, 1, 1],
            delivered: delivered(index),
        };
        let flows = (0..).zip(recording.flows()).map(flow).collect();
        let replay = Replay { recording: Arc::clone(&recording), pace: Pace::Even };
        let plan = Plan::new(RUN, flows, 18, 1_000, 6).unwrap().replaying(Some(replay)).unwrap();
        RecordedTally::new(&plan, &recording)
    }

    fn counted(arrivals: &[(u8, &[u8])]) -> Tally {
        let mut tally = tally();
        for (flow, payload) in arrivals {
            tally.arrive(delivered(*flow), payload, true, Kind::Measured);
        }
        let tally = tally.close();
        let Tally { arrivals, received, duplicated, corrupted, alien, warm_up, warm_up_corrupted, .. } =
            tally;
        assert_eq!(arrivals, received + duplicated + corrupted + alien + warm_up + warm_up_corrupted);
        tally
    }

    const ALL: [(u8, &[u8]); 6] = [(0, b"a"), (0, b"b"), (1, b"b"), (0, b"c"), (1, b"d"), (0, b"a")];

    fn without(place: usize) -> Vec<(u8, &'static [u8])> {
        let mut arrivals = ALL.to_vec();
        arrivals.remove(place);
        arrivals
    }

    fn incidents(tally: &Tally) -> Vec<(IncidentKind, Option<u16>, Option<u64>)> {
        tally.incidents.iter().map(|incident| (incident.kind, incident.flow, incident.sequence)).collect()
    }

    #[test]
    fn what_came_as_it_was_sent_is_without_fault() {
        let tally = counted(&ALL);
        assert_eq!((tally.expected, tally.received, tally.incidents), (6, 6, vec![]));
    }

    #[test]
    fn each_fault_is_found_and_named() {
        let lost = counted(&without(3));
        assert_eq!((lost.received, lost.lost), (5, 1));
        assert_eq!(incidents(&lost), [(IncidentKind::Lost, Some(0), Some(2))]);

        let doubled = counted(&[&ALL[..], &[(1, b"b")]].concat());
        assert_eq!((doubled.received, doubled.duplicated, doubled.lost), (6, 1, 0));
        assert_eq!(incidents(&doubled), [(IncidentKind::Duplicated, Some(1), Some(0))]);

        let mut swapped = ALL;
        swapped.swap(1, 3);
        let swapped = counted(&swapped);
        assert_eq!((swapped.received, swapped.reordered), (6, 1));
        assert_eq!(incidents(&swapped), [(IncidentKind::Reordered, Some(0), Some(1))]);

        let mut changed = ALL;
        changed[4].1 = b"D";
        let changed = counted(&changed);
        assert_eq!((changed.received, changed.corrupted, changed.lost), (5, 1, 0));
        assert_eq!(incidents(&changed), [(IncidentKind::Corrupted, Some(1), Some(1))]);
    }

    #[test]
    fn a_changed_one_does_not_hide_a_lost_one() {
        let mut arrivals = without(1);
        arrivals[0].1 = b"A";
        let tally = counted(&arrivals);
        assert_eq!((tally.received, tally.corrupted, tally.lost), (4, 1, 1));
        let lost_or_corrupted = IncidentKind::LostOrCorrupted;
        let named = [
            (lost_or_corrupted, Some(0), Some(0)),
            (lost_or_corrupted, Some(0), Some(1)),
            (IncidentKind::Corrupted, Some(0), None),
        ];
        assert_eq!(incidents(&tally), named);
    }

    #[test]
    fn what_came_elsewhere_is_misdelivered_and_what_is_none_of_it_alien() {
        let tally = counted(&[&without(4)[..], &[(0, b"d"), (9, b"d"), (9, b"x")]].concat());
        assert_eq!((tally.lost, tally.alien, tally.misdelivered), (1, 3, 2));
        let mut tally = self::tally();
        tally.arrive_foreign(delivered(0));
        tally.arrive_for_another(delivered(0), b"a");
        let tally = tally.close();
        assert_eq!((tally.arrivals, tally.alien, tally.misdelivered), (2, 2, 1));
    }

    #[test]
    fn a_wrong_checksum_is_damage_whatever_the_bytes_say() {
        let mut tally = tally();
        assert_eq!(tally.arrive(delivered(0), b"a", false, Kind::Measured), Arrival::Corrupted);
        assert_eq!(tally.arrive(delivered(0), b"x", true, Kind::WarmUp), Arrival::WarmUpCorrupted);
        let tally = tally.close();
        assert_eq!((tally.corrupted, tally.warm_up_corrupted, tally.lost), (1, 1, 5));
    }

    #[test]
    fn the_labs_own_datagrams_warm_up() {
        let mut tally = tally();
        let encoder = Encoder::new(18);
        let mut arrive = |run, kind, at| {
            let mut payload = [0; 18];
            let header = Header { run, flow: 1, sequence: 3, kind };
            encoder.encode(&mut payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
            tally.arrive(delivered(at), &payload, true, Kind::WarmUp)
        };
        assert_eq!(arrive(RUN, Kind::WarmUp, 1), Arrival::WarmUp { first_of_flow: true });
        assert_eq!(arrive(RUN, Kind::WarmUp, 1), Arrival::WarmUp { first_of_flow: false });
        for (run, kind, at) in [(RUN, Kind::WarmUp, 0), (RUN + 1, Kind::WarmUp, 1), (RUN, Kind::Measured, 1)]
        {
            assert_eq!(arrive(run, kind, at), Arrival::Alien);
        }
        let tally = tally.close();
        assert_eq!((tally.warm_up, tally.alien, tally.misdelivered), (2, 3, 1));
    }
}
