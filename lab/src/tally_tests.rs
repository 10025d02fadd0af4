//! The tally against sequences whose faults are known because the test made them.

use proptest::prelude::*;

use super::*;
use crate::datagram::{Encoder, MIN_BYTES};
use crate::plan::Flow;

const RUN: u16 = 0x5EED;

fn plan(flows: u16, payload_bytes: usize, datagrams: u64) -> Arc<Plan> {
    let flow = |index: u16| Flow {
        source: ([10, 82, 0, 1], 4000).into(),
        destination: ([239, 81, (index >> 8) as u8, index as u8], 5000).into(),
        destination_mac: [1, 0, 0x5E, 0, 0, 0],
        delivered: ([239, 82, (index >> 8) as u8, index as u8], 6000).into(),
    };
    Arc::new(Plan::new(RUN, (0..flows).map(flow).collect(), payload_bytes, 1, datagrams).unwrap())
}

fn payload(plan: &Plan, kind: Kind, flow: u16, sequence: u64) -> Vec<u8> {
    encode(&Encoder::new(plan.payload_bytes), plan, kind, flow, sequence)
}

fn encode(encoder: &Encoder, plan: &Plan, kind: Kind, flow: u16, sequence: u64) -> Vec<u8> {
    let mut payload = vec![0; plan.payload_bytes];
    let header = Header { run: plan.run, flow, sequence, kind };
    encoder.encode(&mut payload, &header, Stamps { intended_ns: 5, actual_ns: 6 });
    payload
}

fn to(plan: &Plan, flow: u16) -> SocketAddr {
    plan.flows[usize::from(flow)].delivered
}

/// A datagram on its way: which one, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Whole,
    Dropped,
    /// Copies beside the first.
    Duplicated(u8),
    /// A bit behind the header flipped.
    Damaged(usize),
    /// A bit of the header flipped.
    Unreadable(usize),
    /// Whole, but at the next flow's address.
    Misdelivered,
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        10 => Just(Fate::Whole),
        1 => Just(Fate::Dropped),
        1 => (1_u8..4).prop_map(Fate::Duplicated),
        1 => any::<usize>().prop_map(Fate::Damaged),
        1 => any::<usize>().prop_map(Fate::Unreadable),
        1 => Just(Fate::Misdelivered),
    ]
}

/// What arrives: address, payload, and the datagram it is a copy of.
type Packet = (SocketAddr, Vec<u8>, (u16, u64));

fn copies(encoder: &Encoder, plan: &Plan, flow: u16, sequence: u64, fate: Fate) -> Vec<Packet> {
    let mut payload = encode(encoder, plan, Kind::Measured, flow, sequence);
    let mut flip = |first: usize, last: usize, pick: usize| {
        let bit = first * 8 + pick % ((last - first) * 8);
        payload[bit / 8] ^= 1 << (bit % 8);
    };
    let flows = plan.flows.len() as u16;
    let mut at = to(plan, flow);
    let count = match fate {
        Fate::Dropped => 0,
        Fate::Whole => 1,
        Fate::Duplicated(more) => 1 + usize::from(more),
        Fate::Damaged(pick) => {
            flip(14, plan.payload_bytes, pick);
            1
        }
        Fate::Unreadable(pick) => {
            flip(0, 14, pick);
            1
        }
        Fate::Misdelivered => {
            at = if flows > 1 { to(plan, (flow + 1) % flows) } else { ([239, 99, 9, 9], 6000).into() };
            1
        }
    };
    vec![(at, payload, (flow, sequence)); count]
}

fn count(plan: &Arc<Plan>, packets: &[Packet]) -> Tally {
    let mut tally = OpenTally::new(plan);
    for (delivered, payload, _) in packets {
        tally.arrive(*delivered, payload, true, Kind::Measured);
    }
    tally.close()
}

/// Reordering by its definition (RFC 4737): a first copy below the highest before it in its flow.
fn reordered(packets: &[Packet], readable: impl Fn(u16, u64) -> bool) -> Vec<(u16, u64)> {
    let mut highest = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    for (_, _, (flow, sequence)) in packets {
        if !readable(*flow, *sequence) || !seen.insert((*flow, *sequence)) {
            continue;
        }
        let highest = highest.entry(*flow).or_insert(*sequence);
        if sequence < highest {
            found.push((*flow, *sequence));
        }
        *highest = (*highest).max(*sequence);
    }
    found
}

fn noted(tally: &Tally, kind: IncidentKind) -> Vec<(u16, u64)> {
    let of_kind = tally.incidents.iter().filter(|incident| incident.kind == kind);
    of_kind.filter_map(|incident| incident.flow.zip(incident.sequence)).collect()
}

proptest! {
    /// Any permutation of any mix of fates is counted to the datagram.
    #[test]
    fn figures_are_exactly_the_known_ones(
        flows in 1_u16..6,
        payload_bytes in MIN_BYTES..120,
        fates in proptest::collection::vec(any_fate(), 0..300),
        shuffle in proptest::option::of(any::<u64>()),
    ) {
        let plan = plan(flows, payload_bytes, fates.len() as u64);
        let place = |global: usize| ((global % usize::from(flows)) as u16, (global / usize::from(flows)) as u64);
        let encoder = Encoder::new(payload_bytes);
        let mut packets: Vec<Packet> = Vec::new();
        for (global, fate) in fates.iter().enumerate() {
            let (flow, sequence) = place(global);
            packets.extend(copies(&encoder, &plan, flow, sequence, *fate));
        }
        if let Some(salt) = shuffle {
            let mut keyed: Vec<_> = (0_u64..).zip(packets).collect();
            keyed.sort_by_key(|(index, _)| (index ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            packets = keyed.into_iter().map(|(_, packet)| packet).collect();
        }
        let tally = count(&plan, &packets);
        let of = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count() as u64;
        let duplicates = fates.iter().map(|fate| if let Fate::Duplicated(more) = fate { u64::from(*more) } else { 0 });
        let duplicates: u64 = duplicates.sum();
        prop_assert_eq!(tally.expected, fates.len() as u64);
        prop_assert_eq!(tally.arrivals, packets.len() as u64);
        prop_assert_eq!(tally.received, of(|fate| matches!(fate, Fate::Whole | Fate::Duplicated(_))));
        prop_assert_eq!(tally.duplicated, duplicates);
        prop_assert_eq!(tally.alien, of(|fate| *fate == Fate::Misdelivered));
        prop_assert_eq!(tally.damaged, of(|fate| matches!(fate, Fate::Damaged(_))));
        prop_assert_eq!(tally.unreadable, of(|fate| matches!(fate, Fate::Unreadable(_))));
        prop_assert_eq!(tally.corrupted, tally.damaged + tally.unreadable);
        prop_assert_eq!(tally.lost, of(|fate| matches!(fate, Fate::Dropped | Fate::Misdelivered)));
        let readable = |flow: u16, sequence: u64| {
            let fate = fates[sequence as usize * usize::from(flows) + usize::from(flow)];
            matches!(fate, Fate::Whole | Fate::Duplicated(_) | Fate::Damaged(_))
        };
        let expected = reordered(&packets, readable);
        prop_assert_eq!(tally.reordered, expected.len() as u64);
        prop_assert_eq!(noted(&tally, IncidentKind::Reordered), expected);
        prop_assert_eq!(noted(&tally, IncidentKind::Duplicated).len() as u64, duplicates);
        conserves(&tally);
        missing_are_named(&plan, &fates, &tally, place);
    }

    /// No flip of one bit is ever taken for whole, whatever it hits.
    #[test]
    fn a_flipped_bit_is_never_counted_as_received(payload_bytes in MIN_BYTES..200, at: prop::sample::Index) {
        let plan = plan(2, payload_bytes, 10);
        let mut damaged = payload(&plan, Kind::Measured, 1, 3);
        let bit = at.index(payload_bytes * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        let tally = count(&plan, &[(to(&plan, 1), damaged, (1, 3))]);
        prop_assert_eq!((tally.received, tally.corrupted, tally.lost, tally.alien), (0, 1, 9, 0));
    }

    /// Any bytes at any address are counted somewhere, and never as received.
    #[test]
    fn noise_is_corrupted_or_alien(noise in proptest::collection::vec(any::<u8>(), 0..80), ours: bool) {
        let plan = plan(2, 64, 10);
        let address = if ours { to(&plan, 0) } else { ([10, 0, 0, 1], 1).into() };
        let mut tally = OpenTally::new(&plan);
        let arrival = tally.arrive(address, &noise, true, Kind::Measured);
        prop_assert!(matches!(arrival, Arrival::Corrupted | Arrival::Alien));
        let tally = tally.close();
        prop_assert_eq!((tally.received, tally.corrupted + tally.alien), (0, 1));
        conserves(&tally);
    }
}

fn conserves(tally: &Tally) {
    let classes = tally.received
        + tally.duplicated
        + tally.corrupted
        + tally.alien
        + tally.warm_up
        + tally.warm_up_corrupted;
    assert_eq!(tally.arrivals, classes, "{tally:?}");
    let standing_in = tally.expected - tally.received - tally.damaged - tally.lost;
    assert!(standing_in <= tally.unreadable, "{tally:?}");
}

/// What is missing is listed, by the kind that can be told for its flow.
fn missing_are_named(plan: &Plan, fates: &[Fate], tally: &Tally, place: impl Fn(usize) -> (u16, u64)) {
    let mut listed: Vec<_> = [IncidentKind::Lost, IncidentKind::LostOrCorrupted, IncidentKind::Corrupted]
        .into_iter()
        .flat_map(|kind| noted(tally, kind))
        .collect();
    listed.sort_unstable();
    let of = |wanted: fn(&Fate) -> bool| {
        let named = fates.iter().enumerate().filter(move |(_, fate)| wanted(fate));
        named.map(|(global, _)| place(global))
    };
    let mut gone: Vec<_> = of(|fate| !matches!(fate, Fate::Whole | Fate::Duplicated(_))).collect();
    gone.sort_unstable();
    assert_eq!(listed, gone);
    for flow in 0..plan.flows.len() as u16 {
        let lost = of(|fate| matches!(fate, Fate::Dropped | Fate::Misdelivered)).any(|it| it.0 == flow);
        let unreadable = of(|fate| matches!(fate, Fate::Unreadable(_))).any(|it| it.0 == flow);
        let ambiguous = noted(tally, IncidentKind::LostOrCorrupted).iter().any(|it| it.0 == flow);
        assert_eq!(ambiguous, lost && unreadable, "flow {flow}");
    }
}

#[test]
fn a_whole_copy_after_a_damaged_one_is_received_and_not_a_duplicate() {
    let plan = plan(1, 64, 2);
    let whole = payload(&plan, Kind::Measured, 0, 0);
    let mut damaged = whole.clone();
    damaged[50] ^= 1;
    let mut tally = OpenTally::new(&plan);
    assert_eq!(tally.arrive(to(&plan, 0), &damaged, true, Kind::Measured), Arrival::Corrupted);
    assert!(matches!(tally.arrive(to(&plan, 0), &whole, true, Kind::Measured), Arrival::Received(Some(_))));
    assert_eq!(tally.arrive(to(&plan, 0), &whole, true, Kind::Measured), Arrival::Duplicated);
    assert_eq!(tally.arrive(to(&plan, 0), &damaged, true, Kind::Measured), Arrival::Corrupted);
    let tally = tally.close();
    assert_eq!((tally.received, tally.damaged, tally.corrupted, tally.lost), (1, 0, 2, 1));
    conserves(&tally);
}

#[test]
fn wrong_checksums_around_it_make_a_datagram_damaged() {
    let plan = plan(1, 64, 1);
    let mut tally = OpenTally::new(&plan);
    assert_eq!(
        tally.arrive(to(&plan, 0), &payload(&plan, Kind::Measured, 0, 0), false, Kind::Measured),
        Arrival::Corrupted
    );
    let tally = tally.close();
    assert_eq!((tally.received, tally.damaged, tally.lost), (0, 1, 0));
}

#[test]
fn warm_up_is_counted_apart() {
    let plan = plan(2, 64, 2);
    let mut tally = OpenTally::new(&plan);
    let warm = |flow, sequence| payload(&plan, Kind::WarmUp, flow, sequence);
    let mut arrive = |flow, payload: &[u8]| tally.arrive(to(&plan, flow), payload, true, Kind::Measured);
    assert_eq!(arrive(0, &warm(0, 0)), Arrival::WarmUp { first_of_flow: true });
    // Its sequence is not bounded by the plan's count.
    assert_eq!(arrive(0, &warm(0, 1 << 40)), Arrival::WarmUp { first_of_flow: false });
    assert_eq!(arrive(1, &warm(1, 0)), Arrival::WarmUp { first_of_flow: true });
    let mut damaged = warm(1, 1);
    damaged[40] ^= 1;
    assert_eq!(arrive(1, &damaged), Arrival::WarmUpCorrupted);
    assert_eq!(arrive(0, &warm(1, 2)), Arrival::Alien);
    let tally = tally.close();
    assert_eq!((tally.warm_up, tally.warm_up_corrupted, tally.lost, tally.corrupted), (3, 1, 2, 0));
    conserves(&tally);
}

#[test]
fn strangers_are_aliens() {
    let plan = plan(2, 64, 4);
    let mut other_run = (*plan).clone();
    other_run.run += 1;
    let mut tally = OpenTally::new(&plan);
    let mut arrive = |delivered, payload: &[u8]| {
        assert_eq!(tally.arrive(delivered, payload, true, Kind::Measured), Arrival::Alien);
    };
    let ours = payload(&plan, Kind::Measured, 0, 0);
    arrive(to(&plan, 0), &payload(&other_run, Kind::Measured, 0, 0));
    arrive(to(&plan, 1), &ours);
    arrive(SocketAddr::new(to(&plan, 0).ip(), 6001), &ours);
    arrive(to(&plan, 0), &payload(&plan, Kind::Measured, 0, 2));
    arrive(to(&plan, 0), &payload(&plan, Kind::Measured, 7, 0));
    arrive(to(&plan, 0), b"hello");
    tally.arrive_foreign(to(&plan, 0));
    let tally = tally.close();
    assert_eq!((tally.alien, tally.received, tally.lost), (7, 0, 4));
    // Those that the run's own header names.
    assert_eq!(tally.misdelivered, 4);
    assert_eq!(noted(&tally, IncidentKind::Alien), [(0, 0), (0, 0), (0, 2), (7, 0)]);
    conserves(&tally);
}

#[test]
fn misdelivered_ones_are_counted_beyond_the_incidents_that_are_kept() {
    let plan = plan(2, 64, 10_000);
    let mut other_run = (*plan).clone();
    other_run.run += 1;
    let (ours, theirs) = (payload(&plan, Kind::Measured, 0, 0), payload(&other_run, Kind::Measured, 0, 0));
    let mut tally = OpenTally::new(&plan);
    for _ in 0..2 * MAX_INCIDENTS_PER_KIND {
        tally.arrive(to(&plan, 1), &ours, true, Kind::Measured);
    }
    tally.arrive(to(&plan, 0), &theirs, true, Kind::Measured);
    let tally = tally.close();
    let misdelivered = 2 * MAX_INCIDENTS_PER_KIND as u64;
    assert_eq!((tally.misdelivered, tally.alien), (misdelivered, misdelivered + 1));
}

#[test]
fn what_is_addressed_to_another_host_is_never_received() {
    let plan = plan(1, 64, 2);
    let mut tally = OpenTally::new(&plan);
    tally.arrive_for_another(to(&plan, 0), &payload(&plan, Kind::Measured, 0, 0));
    tally.arrive_for_another(to(&plan, 0), b"hello");
    let tally = tally.close();
    assert_eq!((tally.received, tally.lost, tally.alien, tally.misdelivered), (0, 2, 2, 1));
    conserves(&tally);
}

#[test]
fn an_unreadable_one_of_the_warm_up_stands_for_nothing_measured() {
    let plan = plan(1, 64, 2);
    let mut unreadable = payload(&plan, Kind::Measured, 0, 0);
    unreadable[5] ^= 1;
    let mut tally = OpenTally::new(&plan);
    let mut arrive = |during| tally.arrive(to(&plan, 0), &unreadable, true, during);
    assert_eq!(arrive(Kind::WarmUp), Arrival::WarmUpCorrupted);
    assert_eq!(arrive(Kind::Measured), Arrival::Corrupted);
    let tally = tally.close();
    assert_eq!((tally.warm_up_corrupted, tally.corrupted, tally.unreadable, tally.lost), (1, 1, 1, 1));
    conserves(&tally);
}

#[test]
fn unreadable_ones_are_named_when_nothing_else_is_missing() {
    let plan = plan(1, 64, 5);
    let encoder = Encoder::new(64);
    let packets: Vec<_> = [Fate::Whole, Fate::Unreadable(9), Fate::Whole, Fate::Unreadable(80), Fate::Whole]
        .into_iter()
        .zip(0..)
        .flat_map(|(fate, sequence)| copies(&encoder, &plan, 0, sequence, fate))
        .collect();
    let tally = count(&plan, &packets);
    assert_eq!((tally.lost, tally.corrupted, tally.unreadable), (0, 2, 2));
    assert_eq!(tally.incidents.len(), 2);
    assert_eq!(noted(&tally, IncidentKind::Corrupted), [(0, 1), (0, 3)]);
}

#[test]
fn incidents_are_bounded_and_one_kind_does_not_crowd_out_another() {
    let plan = plan(1, 18, 10_000);
    let first = payload(&plan, Kind::Measured, 0, 0);
    let mut tally = OpenTally::new(&plan);
    for _ in 0..5_000 {
        tally.arrive(to(&plan, 0), &first, true, Kind::Measured);
    }
    let tally = tally.close();
    assert_eq!((tally.duplicated, tally.lost), (4_999, 9_999));
    assert_eq!(noted(&tally, IncidentKind::Duplicated).len(), MAX_INCIDENTS_PER_KIND);
    let lost: Vec<_> = (1..=MAX_INCIDENTS_PER_KIND as u64).map(|sequence| (0, sequence)).collect();
    assert_eq!(noted(&tally, IncidentKind::Lost), lost);
}

#[test]
fn an_empty_plan_has_nothing_to_lose() {
    let tally = OpenTally::new(&plan(3, 64, 0)).close();
    assert_eq!(tally, Tally::default());
}
