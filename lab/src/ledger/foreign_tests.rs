//! Foreign datagrams beside the trial's: each is to be found where it ends.

use super::*;
use crate::generator::ForeignReport;
use crate::ledger::{Keeper, Output};

/// A trial of 1,000 datagrams and 2,000 foreign ones, which the relay's filter keeps from it.
fn filtered() -> Facts {
    let wire = |count| Wire { transmitted: count, received: count, ..Wire::default() };
    let relay = RelayCounters {
        foreign: 2_000,
        received: 1_000,
        matched: 1_000,
        relayed: 1_000,
        ..RelayCounters::default()
    };
    let output = Output { wire: wire(1_000), arrived: 1_000, other_frames: Some(0), ..Output::default() };
    Facts {
        intended: 1_000,
        sent: 1_000,
        foreign: ForeignReport { intended: 2_000, sent: 2_000, ..ForeignReport::default() },
        ingress: Some(wire(3_000)),
        relay: Some(relay),
        outputs: vec![output],
        ..Facts::default()
    }
}

fn settled(change: impl FnOnce(&mut Facts, &mut RelayCounters)) -> Ledger {
    let mut facts = filtered();
    let mut relay = facts.relay.take().unwrap();
    change(&mut facts, &mut relay);
    facts.relay = Some(relay);
    settle(&facts)
}

fn drops(ledger: &Ledger, place: Place) -> Vec<(&str, u64)> {
    ledger.step(place).unwrap().drops.iter().map(|drop| (drop.name.as_str(), drop.count)).collect()
}

fn gaps(ledger: &Ledger) -> Vec<(Place, i64, Keeper)> {
    ledger.gaps.iter().map(|gap| (gap.place, gap.unexplained, gap.keeper)).collect()
}

#[test]
fn they_join_at_the_ingress_device_and_end_at_the_filter() {
    let ledger = settled(|_, _| ());
    assert!(ledger.adds_up, "{ledger:?}");
    let ingress = ledger.step(Place::IngressDevice).unwrap();
    assert_eq!((ingress.count, ingress.foreign, ingress.other_frames), (3_000, 2_000, 0));
    assert_eq!(drops(&ledger, Place::RelayReceived), [("foreign", 2_000)]);
    let foreign = ledger.foreign.unwrap();
    assert_eq!((foreign.filtered, foreign.received, foreign.at_sinks), (Some(2_000), Some(0), 0));
    assert_eq!(
        foreign.to_string(),
        "2000 offered, 2000 sent, 2000 not captured (rule filter), 0 received by the relay (no_rule), 0 at the sinks"
    );
}

#[test]
fn without_a_filter_they_end_at_the_rules() {
    let unfiltered = |dropped: u64| {
        settled(move |_, relay| {
            (relay.foreign, relay.received) = (0, 3_000 - dropped);
            relay.kernel_dropped = dropped;
            // Of what the kernel drops nobody knows whose it was.
            relay.dropped.insert("no_rule".into(), 2_000 - dropped);
        })
    };
    for dropped in [0, 7] {
        let ledger = unfiltered(dropped);
        assert!(ledger.adds_up, "{ledger:?}");
        assert_eq!(drops(&ledger, Place::Matched), [("no_rule", 2_000 - dropped)]);
        let foreign = ledger.foreign.unwrap();
        assert_eq!((foreign.filtered, foreign.received), (Some(0), Some(2_000 - dropped)));
    }
}

#[test]
fn one_that_is_nowhere_is_a_gap() {
    let lost = settled(|facts, _| facts.ingress.as_mut().unwrap().received -= 1);
    assert_eq!(gaps(&lost)[0], (Place::IngressDevice, 1, Keeper::Lab));
    let vanished = settled(|_, relay| relay.foreign -= 1);
    assert_eq!(gaps(&vanished), [(Place::RelayReceived, 1, Keeper::Subject)]);
    let unruled = settled(|_, relay| (relay.foreign, relay.received) = (0, 3_000));
    assert_eq!(gaps(&unruled), [(Place::Matched, 2_000, Keeper::Subject)]);
    // One of the trial's that the filter takes for foreign is missing all the way, with a name.
    let taken = settled(|facts, relay| {
        (relay.foreign, relay.received, relay.matched, relay.relayed) = (2_001, 999, 999, 999);
        let output = &mut facts.outputs[0];
        (output.wire.transmitted, output.wire.received, output.arrived) = (999, 999, 999);
    });
    assert_eq!((gaps(&taken), drops(&taken, Place::RelayReceived)), (vec![], vec![("foreign", 2_001)]));
}

#[test]
fn what_nobody_offered_is_told_apart() {
    for of_udp in [0, 1, 2] {
        let ledger = settled(|facts, relay| {
            facts.ingress.as_mut().unwrap().received += 2;
            relay.foreign += of_udp;
        });
        assert_eq!(gaps(&ledger), []);
        assert_eq!(ledger.step(Place::IngressDevice).unwrap().other_frames, 2);
        assert_eq!(drops(&ledger, Place::RelayReceived), [("foreign", 2_000)]);
    }
}

#[test]
fn a_subject_without_counters_is_to_relay_none() {
    let silent = |relayed: u64| {
        let mut facts = filtered();
        facts.relay = None;
        let output = &mut facts.outputs[0];
        (output.wire.transmitted, output.wire.received) = (1_000 + relayed, 1_000 + relayed);
        (output.arrived, output.foreign) = (1_000 + relayed, relayed);
        settle(&facts)
    };
    let ledger = silent(0);
    assert_eq!((gaps(&ledger), drops(&ledger, Place::EgressDevice)), (vec![], vec![]));
    assert_eq!(
        ledger.foreign.unwrap().to_string(),
        "2000 offered, 2000 sent, 0 at the sinks",
        "nobody tells of the rest"
    );
    let ledger = silent(2_000);
    assert_eq!(ledger.step(Place::EgressDevice).unwrap().added_by_subject, 2_000);
    assert_eq!((gaps(&ledger), ledger.foreign.unwrap().at_sinks), (vec![], 2_000));
}

#[test]
fn a_relay_that_has_a_rule_for_them_relays_them() {
    let ledger = settled(|facts, relay| {
        (relay.foreign, relay.received, relay.matched, relay.relayed) = (0, 3_000, 3_000, 3_000);
        let output = &mut facts.outputs[0];
        (output.wire.transmitted, output.wire.received) = (3_000, 3_000);
        (output.arrived, output.foreign) = (3_000, 2_000);
    });
    assert_eq!((gaps(&ledger), ledger.foreign.unwrap().at_sinks), (vec![], 2_000));
}

#[test]
fn what_the_kernel_refuses_of_them_is_told_with_them() {
    let ledger = settled(|facts, relay| {
        (facts.foreign.sent, facts.ingress.as_mut().unwrap().received, relay.foreign) = (1_999, 2_999, 1_999);
        facts.foreign.refused.insert("ENOBUFS".into(), 1);
    });
    assert_eq!(gaps(&ledger), []);
    assert!(
        ledger.foreign.unwrap().to_string().starts_with("2000 offered, 1999 sent, 1 refused (ENOBUFS), ")
    );
}
