//! The lab alone: the same traffic over a direct wire, before a run and after it.
//!
//! It shows what the lab's own latency is, whether it can offer and count so much at all, and whether the machine has
//! changed meanwhile. And what a subject adds to the machine's work is what is above that of the wire.

use std::time::Duration;

use serde::Serialize;

use crate::impairments::Impairments;
use crate::results::{Trial, last_attempts};
use crate::scenario::{Cast, Condition, Expect, Measure, Scenario, Subject, SubjectKind};
use crate::statistics::median;

/// The name that stands for the wire in results.
const NAME: &str = "direct-wire";
/// Long enough to tell, and as long as trials usually are, so that what else goes on on the machine is in both.
const DURATION: Duration = Duration::from_secs(3);

/// What the lab did alone, under each condition.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Calibration {
    /// Before the first trial.
    pub before: Vec<Trial>,
    /// After the last one.
    pub after: Vec<Trial>,
}

/// The scenario of a calibration for `scenario`: its traffic with nothing in the path, to one sink. `None` when it is not
/// wanted, a wire is among the subjects anyway, or what is sent was recorded: as that left its sender the sinks do not take
/// it, and it has no latency.
pub(crate) fn scenario_for(scenario: &Scenario) -> Option<Scenario> {
    let is_about_traffic = scenario.trials.measure == Measure::Traffic;
    if scenario.traffic.replay.is_some()
        || !scenario.trials.calibrate
        || !is_about_traffic
        || scenario.subjects.iter().any(is_wire)
    {
        return None;
    }
    let mut alone = scenario.clone();
    alone.traffic.casts = vec![Cast::MulticastToMulticast];
    alone.traffic.impairments = Impairments::default();
    alone.traffic.foreign_pps = vec![0];
    // A burst takes its time.
    if alone.traffic.burst == 1 {
        alone.traffic.duration = alone.traffic.duration.min(DURATION);
    }
    alone.sinks.counts = vec![1];
    alone.trials.blocks = 1;
    alone.subjects = vec![Subject { name: NAME.to_owned(), kind: SubjectKind::Wire }];
    alone.expect = Expect::default();
    alone.events = Vec::new();
    Some(alone)
}

/// Tells each of `trials` how much more the machine had to do than over the direct wire, as far as that was measured: in
/// `calibration`, or by a subject of `scenario` that is a wire.
pub(crate) fn deduct_wire(scenario: &Scenario, calibration: Option<&Calibration>, trials: &mut [Trial]) {
    let wires = scenario.subjects.iter().filter(|subject| is_wire(subject));
    let wires: Vec<_> = wires.map(|subject| subject.name.clone()).collect();
    let of_wires: Vec<Trial> =
        trials.iter().filter(|trial| wires.contains(&trial.subject)).cloned().collect();
    let alone = calibration.map(|Calibration { before, after }| [&before[..], &after[..]]);
    let series = [&of_wires[..]].into_iter().chain(alone.into_iter().flatten());
    let wire: Vec<&Trial> = series.flat_map(last_attempts).collect();
    for trial in trials.iter_mut().filter(|trial| !wires.contains(&trial.subject)) {
        let condition = trial.condition;
        if let Some(measured) = &mut trial.measured {
            let cpu = &mut measured.cpu_ns_per_packet;
            let above = cpu.system.zip(system_time(&wire, &condition)).map(|(system, wire)| system - wire);
            cpu.system_less_wire = above;
        }
    }
}

/// What the reader should know of a calibration.
pub(crate) fn notes(calibration: &Calibration) -> Vec<String> {
    let Calibration { before, after } = calibration;
    let told = [("before", before), ("after", after)].into_iter().flat_map(|(when, trials)| {
        let troubled = last_attempts(trials).filter(|trial| !trial.reasons.is_empty());
        troubled.map(move |trial| {
            let Condition { payload_bytes, rate_pps, .. } = trial.condition;
            let (verdict, reasons) = (trial.verdict, trial.reasons.join("; "));
            format!(
                "the lab alone, {rate_pps} packets/s of {payload_bytes} B, {when} the run: {verdict}, {reasons}"
            )
        })
    });
    told.collect()
}

/// The machine's time for each datagram over the direct wire, in nanoseconds. Nothing of the subject's is in it, so the
/// kind of address does not matter, and it has one sink. Nothing foreign goes over it.
fn system_time(wire: &[&Trial], condition: &Condition) -> Option<f64> {
    let condition = Condition { cast: Cast::MulticastToMulticast, fan_out: 1, foreign_pps: 0, ..*condition };
    let alike = wire.iter().filter(|trial| trial.condition == condition && trial.verdict.is_conclusive());
    median(alike.filter_map(|trial| trial.measured.as_ref()?.cpu_ns_per_packet.system))
}

fn is_wire(subject: &Subject) -> bool {
    matches!(subject.kind, SubjectKind::Wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::trial;
    use crate::verdict::Verdict;

    const SCENARIO: &str = "name = 'x'\n[traffic]\nrate-pps = [1_000, 2_000]\ncast = 'multicast-to-unicast'\n[sinks]\n\
                            count = 3\n[trials]\nblocks = 5\n";
    const RELAY: &str = "[[subject]]\nname = 'r'\nrelay = { rx = 'recv' }\n";

    fn scenario(text: &str) -> Scenario {
        text.parse().unwrap()
    }

    #[test]
    fn the_lab_alone_has_every_rate_and_one_sink() {
        let alone = scenario_for(&scenario(&format!("{SCENARIO}{RELAY}"))).unwrap();
        assert_eq!(
            (alone.conditions().len(), &alone.sinks.counts[..], alone.trials.blocks),
            (2, &[1][..], 1)
        );
        let minute = SCENARIO.replace("cast =", "duration = '1m'\ncast =");
        let duration =
            |text: &str| scenario_for(&scenario(&format!("{text}{RELAY}"))).unwrap().traffic.duration;
        assert_eq!(duration(&minute), Duration::from_secs(3));
        assert!(alone.subjects.iter().all(is_wire));
        assert!(scenario_for(&scenario(&format!("{SCENARIO}calibrate = false\n{RELAY}"))).is_none());
        let wire = format!("{RELAY}[[subject]]\nname = 'w'\nwire = 'direct'\n");
        assert!(scenario_for(&scenario(&format!("name = 'x'\n[traffic]\nrate-pps = 1\n{wire}"))).is_none());
        // A whole burst needs the whole time.
        assert_eq!(duration(&minute.replace("cast =", "burst = 2_500\ncast =")), Duration::from_mins(1));
    }

    #[test]
    fn what_the_wire_takes_is_deducted() {
        let scenario = scenario(&format!("{SCENARIO}{RELAY}"));
        // The machine takes twice what the subject does.
        let mut trials = vec![trial("r", 1, 500.0), trial("r", 1, 500.0)];
        trials[0].condition.cast = Cast::MulticastToUnicast;
        trials[0].condition.foreign_pps = 9;
        trials[1].condition.rate_pps = 7;
        let mut invalid = trial(NAME, 1, 50_000.0);
        invalid.verdict = Verdict::Invalid;
        invalid.reasons = vec!["too slow".into(), "too late".into()];
        let calibration =
            Calibration { before: vec![trial(NAME, 1, 100.0)], after: vec![trial(NAME, 1, 200.0)] };
        deduct_wire(&scenario, Some(&calibration), &mut trials);
        let above = |trial: &Trial| trial.measured.as_ref().unwrap().cpu_ns_per_packet.system_less_wire;
        assert_eq!((above(&trials[0]), above(&trials[1])), (Some(700.0), None));
        assert_eq!(notes(&calibration), [""; 0]);

        let calibration = Calibration { after: vec![invalid], ..calibration };
        deduct_wire(&scenario, Some(&calibration), &mut trials);
        assert_eq!(above(&trials[0]), Some(800.0));
        let note = "the lab alone, 1000 packets/s of 100 B, after the run: invalid, too slow; too late";
        assert_eq!(notes(&calibration), [note]);
    }

    #[test]
    fn a_wire_among_the_subjects_is_as_good() {
        let text = "name = 'x'\n[traffic]\nrate-pps = 1_000\n[[subject]]\nname = 'w'\nwire = 'direct'\n";
        let mut trials = vec![trial("w", 1, 100.0), trial("r", 1, 500.0)];
        deduct_wire(&scenario(&format!("{text}{RELAY}")), None, &mut trials);
        let above = |trial: &Trial| trial.measured.as_ref().unwrap().cpu_ns_per_packet.system_less_wire;
        assert_eq!(above(&trials[1]), Some(800.0));
    }
}
