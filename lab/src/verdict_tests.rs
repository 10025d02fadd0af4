//! Who is blamed for what, and who is not.

use super::*;
use crate::generator::ForeignReport;
use crate::ledger::{Facts, Gap, Output, Place, RelayCounters, Wire, settle};

const ZERO: Counts = Counts { lost: 0, duplicated: 0, reordered: 0, corrupted: 0 };

fn ledger(gaps: Vec<Gap>) -> Ledger {
    Ledger { adds_up: gaps.is_empty(), gaps, ..Ledger::default() }
}

fn gap(place: Place) -> Gap {
    Gap { place, output: None, unexplained: 7, keeper: place.keeper(), remedy: None }
}

/// The evidence of a trial in which nothing went wrong.
fn clean(ledger: &Ledger) -> Evidence<'_> {
    Evidence {
        rate_pps: 100_000,
        offered_pps: 100_000.0,
        refused: 0,
        lag_max_ns: 1_000_000,
        stopped: false,
        sink_errors: BTreeMap::new(),
        sink_dropped: BTreeMap::from([("ring".into(), 0)]),
        foreign_received: 0,
        foreign_relayed: 0,
        alien: 0,
        expected_alien: 0,
        misdelivered: 0,
        bad_checksums: 0,
        clock_step_ns: None,
        steal_percent: 0.0,
        ledger,
        counts: ZERO,
        expected: Some(ZERO),
        memory: None,
        memory_limits: MemoryLimits::default(),
        subject_failures: Vec::new(),
        events: EventEvidence::default(),
    }
}

#[test]
fn around_events_counts_may_go_further() {
    let around = |events: u64, lost, duplicated| {
        judged(vec![], |e| {
            e.counts = Counts { lost, duplicated, ..ZERO };
            let limits =
                EventLimits { loss_per_event: 10, duplicates_per_event: 5, ..EventLimits::default() };
            e.events = EventEvidence { outages: events, limits, ..EventEvidence::default() };
        })
    };
    assert_eq!(around(2, 20, 10).0, Verdict::Pass);
    assert_eq!(around(2, 0, 0).0, Verdict::Pass);
    assert_eq!(around(2, 21, 11).1, "lost 21, expected 0 to 20; duplicated 11, expected 0 to 10");
    assert_eq!(around(0, 1, 0).1, "lost 1, expected 0");
}

#[test]
fn what_dies_with_a_process_may_be_missing_in_the_account() {
    let killed = |kills, unexplained| {
        let gap = Gap { unexplained, ..gap(Place::Matched) };
        judged(vec![gap], |e| {
            let limits = EventLimits { duplicates_per_event: 7, ..EventLimits::default() };
            e.events = EventEvidence { outages: kills, limits, ..EventEvidence::default() };
        })
    };
    assert_eq!(killed(1, -7).0, Verdict::Pass);
    assert_eq!(killed(1, 8).0, Verdict::Fail);
    assert_eq!(killed(0, 7).0, Verdict::Fail);
}

#[test]
fn an_interruption_is_the_subjects_unless_the_generator_paused_as_long() {
    let late = |lag_ms: u64, lost| {
        judged(vec![], |e| {
            e.lag_max_ns = lag_ms * 1_000_000;
            e.counts.lost = lost;
            let interruption = Some(std::time::Duration::from_millis(100));
            e.events.limits = EventLimits { interruption, ..EventLimits::default() };
            e.events.disturbance = Some(Disturbance { silence_ns: 110_000_000, ..Disturbance::default() });
        })
    };
    let told = "a sink heard nothing for 110.0 ms, expected at most 100ms";
    assert_eq!(late(9, 0), (Verdict::Fail, told.into()));
    assert_eq!(
        late(10, 0),
        (Verdict::Invalid, format!("{told}; the generator was up to 10 ms late, which may be why"))
    );
    assert_eq!(late(10, 1).0, Verdict::Fail);
    assert_eq!(late(21, 1).0, Verdict::Invalid, "a burst may cost datagrams and time");
    let stolen = judged(vec![], |e| {
        e.steal_percent = 5.0;
        e.events.limits.interruption = Some(std::time::Duration::from_millis(100));
        e.events.disturbance = Some(Disturbance { delay_ns: 200_000_000, ..Disturbance::default() });
    });
    assert_eq!(stolen.0, Verdict::Inconclusive);
}

#[test]
fn an_event_that_fails_is_laid_to_whoever_failed() {
    let failed = |lab: &[&str], subject: &[&str]| {
        let told = |failures: &[&str]| failures.iter().map(|one| (*one).to_owned()).collect();
        judged(vec![], |e| {
            (e.events.failures_of_the_lab, e.events.failures_of_the_subject) = (told(lab), told(subject));
        })
    };
    assert_eq!(failed(&["no link"], &[]), (Verdict::Invalid, "no link".into()));
    assert_eq!(failed(&[], &["not adopted"]), (Verdict::Fail, "not adopted".into()));
    assert_eq!(failed(&["no link"], &["not adopted"]), (Verdict::Invalid, "no link".into()));
}

fn judged(gaps: Vec<Gap>, change: impl FnOnce(&mut Evidence<'_>)) -> (Verdict, String) {
    let ledger = ledger(gaps);
    let mut evidence = clean(&ledger);
    change(&mut evidence);
    let (verdict, reasons) = judge(&evidence);
    assert_eq!(verdict == Verdict::Pass, reasons.is_empty(), "{reasons:?}");
    (verdict, reasons.join("; "))
}

#[test]
fn what_is_as_expected_passes() {
    assert_eq!(judged(vec![], |_| ()).0, Verdict::Pass);
    assert_eq!(judged(vec![], |e| e.offered_pps = 100_499.0).0, Verdict::Pass);
    // Steal alone spoils nothing that came out right.
    assert_eq!(judged(vec![], |e| e.steal_percent = 30.0).0, Verdict::Pass);
}

#[test]
fn counts_must_be_exact_both_ways() {
    let (verdict, reasons) = judged(vec![], |e| e.counts.lost = 1);
    assert_eq!((verdict, reasons.as_str()), (Verdict::Fail, "lost 1, expected 0"));
    let fewer = |e: &mut Evidence<'_>| e.expected = Some(Counts { corrupted: 2, reordered: 1, ..ZERO });
    let (verdict, reasons) = judged(vec![], fewer);
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(reasons, "reordered 0, expected 1; corrupted 0, expected 2");
}

#[test]
fn a_loss_is_told_with_its_place() {
    let wire = |count| Wire { transmitted: count, received: count, ..Wire::default() };
    let facts = Facts {
        intended: 10,
        sent: 10,
        ingress: Some(wire(10)),
        outputs: vec![Output { wire: wire(7), arrived: 7, ..Output::default() }],
        ..Facts::default()
    };
    let reasons = missed(&Counts { lost: 3, ..ZERO }, &ZERO, &ZERO, &settle(&facts));
    assert_eq!(reasons, ["lost 3, expected 0 (3 not relayed (net) before \"egress device\")"]);

    // What ends at the rule filter is no loss.
    let relay = RelayCounters {
        foreign: 9,
        kernel_dropped: 3,
        received: 7,
        matched: 7,
        relayed: 7,
        ..Default::default()
    };
    let foreign = ForeignReport { intended: 9, sent: 9, ..ForeignReport::default() };
    let facts = Facts { relay: Some(relay), foreign, ingress: Some(wire(19)), ..facts };
    let ledger = settle(&facts);
    assert!(ledger.adds_up, "{ledger:?}");
    let reasons = missed(&Counts { lost: 3, ..ZERO }, &ZERO, &ZERO, &ledger);
    assert_eq!(reasons, ["lost 3, expected 0 (3 kernel dropped before \"relay received\")"]);
}

#[test]
fn a_subject_that_is_only_measured_cannot_miss_a_count() {
    let measured = |e: &mut Evidence<'_>| (e.counts.lost, e.expected) = (9, None);
    assert_eq!(judged(vec![], measured).0, Verdict::Pass);
}

#[test]
fn the_labs_own_faults_are_never_the_subjects() {
    type Fault = fn(&mut Evidence<'_>);
    let faults: [(Fault, &str); 11] = [
        (|e| e.offered_pps = 99_400.0, "offered 99400 packets/s instead of 100000"),
        (|e| e.offered_pps = 100_600.0, "offered 100600"),
        (|e| e.offered_pps = f64::NAN, "offered NaN"),
        (|e| e.refused = 1, "refused 1 datagrams of the generator"),
        (|e| e.sink_dropped = BTreeMap::from([("ring full".into(), 4)]), "the sink lost 4 itself: ring full"),
        (|e| e.lag_max_ns = 250_999_999, "the generator was up to 250 ms late"),
        (|e| e.stopped = true, "the generator was stopped"),
        (
            |e| e.sink_errors = BTreeMap::from([("ENETDOWN".into(), 3)]),
            "the sink met ENETDOWN 3 times while reading",
        ),
        (|e| e.alien = 2, "2 datagrams at the sinks belong to no flow of this trial"),
        (|e| e.expected_alien = 2, "0 datagrams at the sinks belong to no flow of this trial, expected 2"),
        (|e| e.clock_step_ns = Some(-250_000), "the clock was moved by -250 µs"),
    ];
    for (fault, words) in faults {
        let (verdict, reasons) = judged(vec![], |e| {
            fault(e);
            (e.counts.lost, e.steal_percent) = (5, 50.0);
        });
        assert_eq!(verdict, Verdict::Invalid, "{words}");
        assert!(reasons.contains(words), "{reasons:?} says nothing of {words}");
    }
}

#[test]
fn a_ledger_that_does_not_add_up_is_held_against_who_keeps_it() {
    let (verdict, reasons) = judged(vec![gap(Place::SinkDevice)], |_| ());
    assert_eq!(verdict, Verdict::Invalid);
    assert_eq!(reasons, "ledger at \"sink device\": 7 missing without a named drop");
    let (verdict, reasons) = judged(vec![gap(Place::RelayReceived)], |_| ());
    assert_eq!(verdict, Verdict::Fail);
    assert!(reasons.contains("\"relay received\""), "{reasons}");
    // What the lab cannot account for itself may be what the relay seems to miss.
    let both = vec![gap(Place::RelayReceived), gap(Place::Sink)];
    assert_eq!(judged(both, |e| e.counts.lost = 7).0, Verdict::Invalid);
}

#[test]
fn what_the_subject_sends_wrong_is_its_own() {
    let (verdict, reasons) = judged(vec![], |e| e.misdelivered = 3);
    assert_eq!(
        (verdict, reasons.as_str()),
        (Verdict::Fail, "3 datagrams came to addresses that are not theirs")
    );
    let (verdict, reasons) = judged(vec![], |e| e.foreign_received = 7);
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(reasons, "the relay received 7 foreign datagrams, which its rule filter is to keep from it");
    let (verdict, reasons) = judged(vec![], |e| e.foreign_relayed = 2);
    assert_eq!(
        (verdict, reasons.as_str()),
        (Verdict::Fail, "2 foreign datagrams came to the sinks, and nobody is to relay any")
    );
    let (verdict, reasons) = judged(vec![], |e| e.bad_checksums = 1);
    assert_eq!((verdict, reasons.as_str()), (Verdict::Fail, "1 datagrams came with a wrong UDP checksum"));
}

#[test]
fn memory_is_held_to_its_limits() {
    let memory =
        Memory { begin: 20 << 20, most: 33 << 20, end: 24 << 20, ring: 64 << 20, ..Memory::default() };
    let with = |most: Option<u64>, growth| {
        move |e: &mut Evidence<'_>| {
            (e.memory, e.memory_limits) = (Some(memory), MemoryLimits { most, growth, descriptors: None });
        }
    };
    assert_eq!(judged(vec![], with(None, None)).0, Verdict::Pass);
    assert_eq!(judged(vec![], with(Some(33 << 20), Some(4 << 20))).0, Verdict::Pass);
    let (verdict, reasons) = judged(vec![], with(Some(32 << 20), Some((4 << 20) - 1)));
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(
        reasons,
        "memory of up to 33792 KiB outside packet rings, expected at most 32768; memory grew by 4096 KiB, expected at \
         most 4095"
    );
    // What is late or slow makes datagrams wait.
    let slow = |e: &mut Evidence<'_>| {
        with(Some(1), None)(e);
        e.steal_percent = 50.0;
    };
    assert_eq!(judged(vec![], slow).0, Verdict::Inconclusive);
    let unread = |e: &mut Evidence<'_>| e.memory_limits.growth = Some(0);
    let (verdict, reasons) = judged(vec![], unread);
    assert_eq!(verdict, Verdict::Invalid);
    assert!(reasons.contains("memory could not be read: run the lab with CAP_SYS_PTRACE"), "{reasons}");
}

#[test]
fn steal_turns_a_miss_into_no_answer() {
    let missed = |steal| move |e: &mut Evidence<'_>| (e.counts.lost, e.steal_percent) = (5, steal);
    assert_eq!(judged(vec![], missed(1.1)).0, Verdict::Inconclusive);
    assert_eq!(judged(vec![], missed(1.0)).0, Verdict::Fail);
}

#[test]
fn a_burst_of_the_generators_own_turns_a_miss_into_no_answer() {
    let late = |lag, lost| {
        move |e: &mut Evidence<'_>| (e.lag_max_ns, e.counts.lost, e.steal_percent) = (lag, lost, 50.0)
    };
    let (verdict, reasons) = judged(vec![], late(BURST_LIMIT_NS + 1, 5));
    assert_eq!(verdict, Verdict::Invalid);
    assert_eq!(
        reasons,
        "lost 5, expected 0; the generator was up to 20 ms late and made a burst, which may be why"
    );
    assert_eq!(judged(vec![], late(BURST_LIMIT_NS, 5)).0, Verdict::Inconclusive);
    // What came out right all the same came out right.
    assert_eq!(judged(vec![], late(LAG_LIMIT_NS, 0)).0, Verdict::Pass);
    assert_eq!(judged(vec![], late(LAG_LIMIT_NS + 1, 0)).0, Verdict::Invalid);
}

#[test]
fn no_machine_and_no_burst_excuses_what_the_subject_sends_wrong() {
    type Wrong = fn(&mut Evidence<'_>);
    let wrongs: [Wrong; 4] = [
        |e| e.misdelivered = 1,
        |e| e.bad_checksums = 1,
        |e| e.foreign_received = 1,
        |e| e.foreign_relayed = 1,
    ];
    for wrong in wrongs {
        let (verdict, reasons) = judged(vec![], |e| {
            wrong(e);
            (e.counts.lost, e.steal_percent, e.lag_max_ns) = (1, 50.0, LAG_LIMIT_NS);
        });
        assert_eq!(verdict, Verdict::Fail);
        assert!(reasons.starts_with("lost 1, expected 0; ") && reasons.contains(" 1 "), "{reasons}");
    }
    let excused = |e: &mut Evidence<'_>| (e.counts.lost, e.steal_percent) = (7, 50.0);
    assert_eq!(judged(vec![gap(Place::RelayReceived)], excused).0, Verdict::Fail);
}

/// The verdict on a trial of 10 datagrams to one sink, of which 3 are lost as `change` says.
fn judged_by_its_ledger(change: impl FnOnce(&mut Facts)) -> (Verdict, Vec<String>) {
    let wire = |count| Wire { transmitted: count, received: count, ..Wire::default() };
    let output = Output { wire: wire(7), arrived: 7, lost: 3, other_frames: Some(0), ..Output::default() };
    let mut facts =
        Facts { intended: 10, sent: 10, ingress: Some(wire(10)), outputs: vec![output], ..Facts::default() };
    change(&mut facts);
    let settled = settle(&facts);
    assert!(settled.adds_up, "{settled:?}");
    judge(&Evidence { counts: Counts { lost: 3, ..ZERO }, ..clean(&settled) })
}

#[test]
fn what_the_labs_own_wires_drop_is_not_held_against_the_subject() {
    type Drop = (fn(&mut Facts), &'static str);
    assert_eq!(judged_by_its_ledger(|_| ()).0, Verdict::Fail);
    let drops: [Drop; 3] = [
        (
            |facts| {
                facts.ingress = Some(Wire {
                    transmitted: 7,
                    transmit_dropped: 3,
                    received: 7,
                    receive_dropped: 3,
                    ..Wire::default()
                });
            },
            "ingress device",
        ),
        (
            |facts| {
                let wire = &mut facts.outputs[0].wire;
                (wire.transmit_dropped, wire.receive_dropped) = (3, 3);
            },
            "egress device",
        ),
        (
            |facts| {
                let wire = &mut facts.outputs[0].wire;
                (wire.transmitted, wire.receive_dropped) = (10, 3);
            },
            "sink device",
        ),
    ];
    for (drop, place) in drops {
        let expected = format!("3 datagrams were lost on the lab's own wire before \"{place}\"");
        assert_eq!(judged_by_its_ledger(drop), (Verdict::Invalid, vec![expected]));
    }
    // Whoever fills the queue of its own device loses what it sends.
    assert_eq!(judged_by_its_ledger(|facts| facts.outputs[0].wire.transmit_dropped = 3).0, Verdict::Fail);
}

#[test]
fn a_dead_subject_fails_whatever_else_went_wrong() {
    let (verdict, reasons) = judged(vec![gap(Place::Sink)], |e| {
        e.subject_failures.push("ended during the run: exit status: 9".into());
        e.offered_pps = 5.0;
        e.steal_percent = 90.0;
    });
    assert_eq!((verdict, reasons.as_str()), (Verdict::Fail, "ended during the run: exit status: 9"));
}

#[test]
fn a_run_is_as_good_as_its_worst_condition() {
    use Verdict::{Fail, Inconclusive, Invalid, Pass};
    assert_eq!(of_run([Pass, Pass]), Pass);
    assert_eq!(of_run([Pass, Inconclusive]), Inconclusive);
    assert_eq!(of_run([Pass, Invalid, Inconclusive]), Invalid);
    assert_eq!(of_run([Invalid, Fail, Pass]), Fail);
    assert_eq!(of_run([]), Invalid);
}
