//! What the ledger must explain, and what it must not let through.

use super::*;
use crate::ledger::{Keeper, Output};

/// A trial of 1,000 datagrams to `sinks` sinks in which nothing went wrong.
fn clean(sinks: usize) -> Facts {
    let wire = Wire { transmitted: 1_000, received: 1_000, ..Wire::default() };
    let relay = RelayCounters {
        received: 1_000,
        matched: 1_000,
        relayed: 1_000 * sinks as u64,
        ..RelayCounters::default()
    };
    let output = Output { wire, arrived: 1_000, other_frames: Some(0), ..Output::default() };
    Facts {
        intended: 1_000,
        sent: 1_000,
        ingress: Some(wire),
        relay: Some(relay),
        outputs: vec![output; sinks],
        ..Facts::default()
    }
}

fn settled(sinks: usize, change: impl FnOnce(&mut Facts)) -> Ledger {
    let mut facts = clean(sinks);
    change(&mut facts);
    settle(&facts)
}

fn relay(facts: &mut Facts) -> &mut RelayCounters {
    facts.relay.as_mut().unwrap()
}

fn ingress(facts: &mut Facts) -> &mut Wire {
    facts.ingress.as_mut().unwrap()
}

fn counts(ledger: &Ledger) -> Vec<u64> {
    ledger.steps.iter().map(|step| step.count).collect()
}

/// Places, amounts and keepers of everything unexplained.
fn gaps(ledger: &Ledger) -> Vec<(Place, i64, Keeper)> {
    assert_eq!(ledger.adds_up, ledger.gaps.is_empty());
    ledger.gaps.iter().map(|gap| (gap.place, gap.unexplained, gap.keeper)).collect()
}

fn drops(ledger: &Ledger, place: Place) -> Vec<(&str, u64)> {
    ledger.step(place).unwrap().drops.iter().map(|drop| (drop.name.as_str(), drop.count)).collect()
}

#[test]
fn a_clean_trial_adds_up() {
    let ledger = settled(1, |_| ());
    assert_eq!(counts(&ledger), [1_000; 9]);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn a_wire_alone_is_the_labs_from_end_to_end() {
    let wire = |change: fn(&mut Facts)| {
        settled(1, |facts| {
            (facts.ingress, facts.relay) = (None, None);
            change(facts);
        })
    };
    let ledger = wire(|_| ());
    let places: Vec<_> = ledger.steps.iter().map(|step| step.place).collect();
    assert_eq!(places, [Place::Intended, Place::Sent, Place::SinkDevice, Place::Sink]);
    assert_eq!((counts(&ledger), gaps(&ledger)), (vec![1_000; 4], vec![]));

    // What the near end counts is the generator's affair: what it says it sent has to arrive.
    let lost = wire(|facts| facts.outputs[0].wire.received = 997);
    assert_eq!(gaps(&lost)[0], (Place::SinkDevice, 3, Keeper::Lab));
    for polled in [false, true] {
        let mut facts = clean(1);
        (facts.ingress, facts.relay) = (None, None);
        let output = &mut facts.outputs[0];
        (output.arrived, output.lost) = (997, 3);
        output.wire =
            Wire { transmitted: 1_000, transmit_dropped: 3, received: 997, receive_dropped: 0, polled };
        let ledger = settle(&facts);
        assert_eq!(ledger.step(Place::SinkDevice).unwrap().lost_on_wire, 3);
        assert_eq!(gaps(&ledger), []);
    }
}

#[test]
fn fan_out_multiplies_once() {
    let ledger = settled(8, |_| ());
    assert_eq!(counts(&ledger)[4..], [1_000, 8_000, 8_000, 8_000, 8_000]);
    assert_eq!(ledger.step(Place::RelayedCopies).unwrap().copies, 8);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn a_subject_without_counters_has_no_steps_of_its_own() {
    let ledger = settled(2, |facts| facts.relay = None);
    let places: Vec<_> = ledger.steps.iter().map(|step| step.place).collect();
    assert_eq!(
        places,
        [
            Place::Intended,
            Place::Sent,
            Place::IngressDevice,
            Place::EgressDevice,
            Place::SinkDevice,
            Place::Sink
        ]
    );
    assert_eq!(ledger.step(Place::EgressDevice).unwrap().copies, 2);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn what_a_silent_subject_loses_or_adds_is_its_own() {
    let through = |facts: &mut Facts, count| {
        facts.relay = None;
        facts.outputs[0].wire = Wire { transmitted: count, received: count, ..Wire::default() };
        facts.outputs[0].arrived = count;
    };
    let ledger = settled(1, |facts| through(facts, 998));
    assert_eq!(drops(&ledger, Place::EgressDevice), [("not relayed (net)", 2)]);
    assert_eq!(gaps(&ledger), []);

    let ledger = settled(1, |facts| through(facts, 1_003));
    assert_eq!(ledger.step(Place::EgressDevice).unwrap().added_by_subject, 3);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn every_named_drop_explains_its_loss() {
    let ledger = settled(1, |facts| {
        // 10 refused, 20 dropped on the wire in, 40 by the kernel, 1 unread, 3 without a rule, 7 not sent,
        // 11 dropped on the wire out, 13 by the sink.
        facts.sent = 990;
        facts.refused.insert("ENOBUFS".into(), 10);
        facts.ingress = Some(Wire {
            transmitted: 970,
            transmit_dropped: 20,
            received: 970,
            receive_dropped: 0,
            ..Wire::default()
        });
        *relay(facts) = RelayCounters {
            foreign: 0,
            kernel_dropped: 40,
            left_in_socket: 1,
            abandoned: 0,
            taken_again: 0,
            received: 929,
            dropped: BTreeMap::from([("no_rule".into(), 3)]),
            matched: 926,
            relayed: 919,
            failed: BTreeMap::from([("buffer_full".into(), 7)]),
        };
        facts.outputs[0] = Output {
            wire: Wire {
                transmitted: 908,
                transmit_dropped: 11,
                received: 908,
                receive_dropped: 0,
                ..Wire::default()
            },
            arrived: 895,
            other_frames: Some(0),
            dropped: BTreeMap::from([("socket buffer".into(), 13)]),
            ..Output::default()
        };
    });
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::Sent), [("ENOBUFS", 10)]);
    assert_eq!(drops(&ledger, Place::IngressDevice), [("tx_dropped", 20)]);
    assert_eq!(drops(&ledger, Place::RelayReceived), [("kernel dropped", 40), ("left in the socket", 1)]);
    assert_eq!(drops(&ledger, Place::Matched), [("no_rule", 3)]);
    assert_eq!(drops(&ledger, Place::RelayedCopies), [("buffer_full", 7)]);
    assert_eq!(drops(&ledger, Place::EgressDevice), [("tx_dropped", 11)]);
    assert_eq!(drops(&ledger, Place::Sink), [("socket buffer", 13)]);
    let lost: u64 = ledger.steps.iter().flat_map(|step| &step.drops).map(|drop| drop.count).sum();
    assert_eq!(ledger.step(Place::Sink).unwrap().count, 1_000 - lost);
}

#[test]
fn a_hidden_loss_is_caught_where_it_happens() {
    type Hide = fn(&mut Facts);
    // From the place of the loss on, everybody counts one less and nobody says why.
    let sink: Hide = |facts| facts.outputs[0].arrived -= 1;
    let sink_device: Hide = |facts| facts.outputs[0].wire.received -= 1;
    let egress: Hide = |facts| facts.outputs[0].wire.transmitted -= 1;
    let relayed: Hide = |facts| relay(facts).relayed -= 1;
    let matched: Hide = |facts| relay(facts).matched -= 1;
    let received: Hide = |facts| relay(facts).received -= 1;
    let ingress: Hide = |facts| self::ingress(facts).received -= 1;
    let sent: Hide = |facts| facts.sent -= 1;
    let chain = [sink, sink_device, egress, relayed, matched, received, ingress, sent];
    let places = [
        (Place::Sink, Keeper::Lab),
        (Place::SinkDevice, Keeper::Lab),
        (Place::EgressDevice, Keeper::Subject),
        (Place::RelayedCopies, Keeper::Subject),
        (Place::Matched, Keeper::Subject),
        (Place::RelayReceived, Keeper::Subject),
        (Place::IngressDevice, Keeper::Lab),
        (Place::Sent, Keeper::Lab),
    ];
    for (i, (place, keeper)) in places.into_iter().enumerate() {
        let ledger = settled(1, |facts| chain[..=i].iter().for_each(|hide| hide(facts)));
        assert_eq!(gaps(&ledger), [(place, 1, keeper)]);
    }
}

#[test]
fn a_loss_at_one_sink_is_not_hidden_by_a_surplus_at_another() {
    let ledger = settled(2, |facts| {
        facts.outputs[0].arrived += 1;
        facts.outputs[1].arrived -= 1;
    });
    assert_eq!(gaps(&ledger), [(Place::Sink, -1, Keeper::Lab), (Place::Sink, 1, Keeper::Lab)]);
    assert_eq!(ledger.gaps[1].output, Some(1));
    assert_eq!(ledger.gaps[1].to_string(), "ledger at \"sink 1\": 1 missing without a named drop");
}

#[test]
fn more_than_there_can_be_is_caught() {
    let ledger = settled(1, |facts| relay(facts).received += 5);
    // The relay's own next step then misses what it claims to have received.
    assert_eq!(
        gaps(&ledger),
        [(Place::RelayReceived, -5, Keeper::Subject), (Place::Matched, 5, Keeper::Subject)]
    );
    assert_eq!(ledger.gaps[0].to_string(), "ledger at \"relay received\": 5 more than there can be");
}

#[test]
fn drops_that_explain_more_than_is_missing_are_caught() {
    let ledger = settled(1, |facts| relay(facts).kernel_dropped = 3);
    assert_eq!(gaps(&ledger), [(Place::RelayReceived, -3, Keeper::Subject)]);
}

#[test]
fn one_frame_in_two_device_counters_is_counted_once() {
    // A full receive queue counts on both ends of a veth pair, and the generator was told ENOBUFS as well.
    let ledger = settled(1, |facts| {
        facts.intended = 1_004;
        facts.refused.insert("ENOBUFS".into(), 4);
        ingress(facts).transmit_dropped = 4;
        ingress(facts).receive_dropped = 4;
    });
    assert_eq!(drops(&ledger, Place::Sent), [("ENOBUFS", 4)]);
    assert_eq!(drops(&ledger, Place::IngressDevice), []);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn device_drops_never_explain_more_than_they_counted() {
    let ledger = settled(1, |facts| {
        facts.outputs[0].wire =
            Wire { transmitted: 990, transmit_dropped: 9, received: 990, ..Wire::default() };
        facts.outputs[0].arrived = 990;
    });
    assert_eq!(drops(&ledger, Place::EgressDevice), [("tx_dropped", 9)]);
    assert_eq!(gaps(&ledger), [(Place::EgressDevice, 1, Keeper::Subject)]);
}

#[test]
fn strays_are_named_and_may_vanish_or_be_dropped() {
    // Two strays reach the subject: one is UDP without a rule, one the relay's filter never shows it.
    let ledger = settled(1, |facts| {
        ingress(facts).received += 2;
        relay(facts).received += 1;
        relay(facts).dropped.insert("no_rule".into(), 1);
    });
    assert_eq!(ledger.step(Place::IngressDevice).unwrap().other_frames, 2);
    assert_eq!(ledger.step(Place::RelayReceived).unwrap().other_frames, 1);
    assert_eq!(ledger.step(Place::Matched).unwrap().other_frames, 0);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn strays_do_not_excuse_a_loss() {
    let ledger = settled(1, |facts| {
        ingress(facts).received += 2;
        relay(facts).received -= 1;
        relay(facts).matched -= 1;
        relay(facts).relayed -= 1;
        facts.outputs[0].wire = Wire { transmitted: 999, received: 999, ..Wire::default() };
        facts.outputs[0].arrived = 999;
    });
    assert_eq!(gaps(&ledger), [(Place::RelayReceived, 1, Keeper::Subject)]);
}

#[test]
fn strays_toward_a_sink_are_known_by_the_relays_counters() {
    let strays = |facts: &mut Facts| {
        facts.outputs[0].wire.transmitted += 3;
        facts.outputs[0].wire.received += 3;
    };
    let ledger = settled(1, strays);
    assert_eq!(gaps(&ledger), []);
    assert_eq!(ledger.step(Place::EgressDevice).unwrap().other_frames, 3);
    assert_eq!(drops(&ledger, Place::Sink), [("other frames", 3)]);
    let hidden = settled(1, |facts| {
        strays(facts);
        facts.outputs[0].arrived -= 1;
    });
    assert_eq!(gaps(&hidden), [(Place::Sink, 1, Keeper::Lab)]);
}

#[test]
fn strays_of_a_silent_subject_are_known_by_the_sink() {
    let strays = |facts: &mut Facts| {
        facts.relay = None;
        facts.outputs[0].wire.transmitted += 3;
        facts.outputs[0].wire.received += 3;
    };
    let ledger = settled(1, |facts| {
        strays(facts);
        // Two more were seen before the run.
        facts.outputs[0].other_frames = Some(5);
    });
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::Sink), [("other frames", 3)]);
    assert_eq!(gaps(&settled(1, strays)), [(Place::Sink, 3, Keeper::Lab)]);
}

#[test]
fn what_no_socket_claims_is_named() {
    let ledger = settled(1, |facts| {
        facts.outputs[0].arrived -= 4;
        facts.outputs[0].unclaimed = 6;
    });
    assert_eq!(drops(&ledger, Place::Sink), [("unclaimed", 4)]);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn what_a_socket_sink_cannot_see_is_other_frames_unless_something_is_lost() {
    let joins = |facts: &mut Facts| {
        facts.relay = None;
        facts.outputs[0].wire.transmitted += 3;
        facts.outputs[0].wire.received += 3;
        facts.outputs[0].other_frames = None;
    };
    let ledger = settled(1, joins);
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::Sink), [("other frames", 3)]);

    let ambiguous = settled(1, |facts| {
        joins(facts);
        (facts.outputs[0].arrived, facts.outputs[0].lost) = (999, 1);
    });
    assert_eq!(gaps(&ambiguous), [(Place::Sink, 4, Keeper::Lab)]);
    assert!(
        ambiguous.gaps[0].to_string().ends_with("sinks.kind = \"packet\" can tell"),
        "{}",
        ambiguous.gaps[0]
    );
}

#[test]
fn losses_on_the_labs_wires_are_told_from_those_at_the_subjects_end() {
    let ledger = settled(1, |facts| {
        facts.ingress = Some(Wire {
            transmitted: 995,
            transmit_dropped: 5,
            received: 995,
            receive_dropped: 5,
            ..Wire::default()
        });
        *relay(facts) =
            RelayCounters { received: 995, matched: 995, relayed: 995, ..RelayCounters::default() };
        // Nine were not taken at the near end, four of them because the far end's queue was full.
        facts.outputs[0].wire = Wire {
            transmitted: 986,
            transmit_dropped: 9,
            received: 984,
            receive_dropped: 4,
            ..Wire::default()
        };
        facts.outputs[0].arrived = 984;
    });
    assert_eq!(gaps(&ledger), []);
    let on_wire = |place| ledger.step(place).unwrap().lost_on_wire;
    assert_eq!((on_wire(Place::IngressDevice), on_wire(Place::SinkDevice)), (5, 2));
    assert_eq!(on_wire(Place::EgressDevice), 4);
    assert_eq!(drops(&ledger, Place::EgressDevice), [("rx_dropped", 4), ("tx_dropped", 5)]);
}

#[test]
fn a_full_ring_of_a_device_that_polls_is_the_labs_and_has_its_name() {
    let ledger = settled(1, |facts| {
        // Four found the ring full; of those that were taken out of it the device dropped two.
        facts.outputs[0].wire =
            Wire { transmitted: 996, transmit_dropped: 4, received: 996, receive_dropped: 2, polled: true };
        (facts.outputs[0].arrived, facts.outputs[0].lost) = (994, 6);
    });
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::EgressDevice), [("ring full", 4)]);
    assert_eq!(drops(&ledger, Place::Sink), [("rx_dropped", 2)]);
    let on_wire = |place| ledger.step(place).unwrap().lost_on_wire;
    assert_eq!((on_wire(Place::EgressDevice), on_wire(Place::Sink)), (4, 2));
}

#[test]
fn what_was_never_offered_is_named() {
    let ledger = settled(1, |facts| (facts.intended, facts.not_offered) = (1_700, 700));
    assert_eq!(drops(&ledger, Place::Sent), [("not offered in time", 700)]);
    assert_eq!(gaps(&ledger), []);
}

#[test]
fn a_lost_fragment_loses_its_datagram_wherever_that_is_noticed() {
    // Eight fragments of eight datagrams, which the devices see as two incomplete ones.
    let lossy =
        Wire { transmitted: 998, transmit_dropped: 8, received: 998, receive_dropped: 8, ..Wire::default() };
    let inward = |facts: &mut Facts| {
        (facts.fragmented, facts.ingress) = (true, Some(lossy));
        *relay(facts) =
            RelayCounters { received: 992, matched: 992, relayed: 992, ..RelayCounters::default() };
        let output = &mut facts.outputs[0];
        (output.wire.transmitted, output.wire.received, output.arrived) = (992, 992, 992);
    };
    let ledger = settled(1, inward);
    assert_eq!(gaps(&ledger), []);
    assert_eq!(ledger.step(Place::IngressDevice).unwrap().lost_on_wire, 2);
    assert_eq!(drops(&ledger, Place::RelayReceived), [("incomplete", 6)]);
    // Drops of frames explain no more datagrams than frames.
    let more = settled(1, |facts| {
        inward(facts);
        relay(facts).received = 989;
        (relay(facts).matched, relay(facts).relayed) = (989, 989);
        let output = &mut facts.outputs[0];
        (output.wire.transmitted, output.wire.received, output.arrived) = (989, 989, 989);
    });
    assert_eq!(gaps(&more), [(Place::RelayReceived, 1, Keeper::Subject)]);

    let outward = settled(1, |facts| {
        facts.fragmented = true;
        (facts.outputs[0].wire, facts.outputs[0].arrived, facts.outputs[0].lost) = (lossy, 992, 8);
    });
    assert_eq!(gaps(&outward), []);
    assert_eq!(outward.step(Place::EgressDevice).unwrap().lost_on_wire, 2);
    assert_eq!(drops(&outward, Place::Sink), [("incomplete", 6)]);
}

#[test]
fn what_a_worker_that_died_had_in_its_hands_is_named() {
    let ledger = settled(1, |facts| {
        // 30 died with a worker, 5 were relayed once more by its replacement, and of one that left nobody took note.
        *relay(facts) = RelayCounters {
            abandoned: 30,
            taken_again: 5,
            received: 975,
            matched: 975,
            relayed: 974,
            failed: BTreeMap::from([("interrupted".into(), 1)]),
            ..RelayCounters::default()
        };
        let wire = Wire { transmitted: 975, received: 975, ..Wire::default() };
        facts.outputs[0] = Output { wire, arrived: 975, other_frames: Some(0), ..Output::default() };
    });
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::RelayReceived), [("abandoned", 30)]);
    assert_eq!(ledger.step(Place::RelayReceived).map(|step| step.taken_again), Some(5));
}

#[test]
fn what_is_offered_to_a_link_that_is_down_is_the_labs_doing() {
    let ledger = settled(1, |facts| {
        (facts.sent, facts.link_down) = (900, 100);
        facts.ingress = Some(Wire { transmitted: 900, received: 900, ..Wire::default() });
        *relay(facts) =
            RelayCounters { received: 900, matched: 900, relayed: 900, ..RelayCounters::default() };
        let wire = Wire { transmitted: 900, received: 900, ..Wire::default() };
        facts.outputs[0] = Output { wire, arrived: 900, other_frames: Some(0), ..Output::default() };
    });
    assert_eq!(gaps(&ledger), []);
    assert_eq!(drops(&ledger, Place::Sent), [("link-down", 100)]);
}

#[test]
fn what_comes_before_a_new_device_is_captured_from_is_missed_by_the_relay_and_no_more() {
    for (is_new, received, expected) in [(true, 990, Some(10)), (false, 990, None), (true, 1_001, None)] {
        let ledger = settled(1, |facts| {
            facts.ingress_is_new = is_new;
            *relay(facts) =
                RelayCounters { received, matched: received, relayed: received, ..RelayCounters::default() };
            let wire = Wire { transmitted: received, received, ..Wire::default() };
            facts.outputs[0] = Output { wire, arrived: received, other_frames: Some(0), ..Output::default() };
        });
        let expected: Vec<_> = expected.map(|count| ("not captured", count)).into_iter().collect();
        assert_eq!(drops(&ledger, Place::RelayReceived), expected);
        assert_eq!(gaps(&ledger).is_empty(), !expected.is_empty(), "{is_new}, {received}");
    }
}
