//! The highest rates without loss of two subjects against each other. Pure code.
//!
//! Of each rate only the bounds are known, so of their ratio too: it is at least the lower bound of the one by the upper
//! bound of the other, and at most the other way round. An upper bound that is the lab's is none of the subject's, which
//! may do more.

use serde::Serialize;

use super::{Found, Limit, REMEDY};
use crate::comparison::Absent;
use crate::scenario::{Condition, Scenario, SearchRatio, Subject};
use crate::subject::NotInstalled;
use crate::verdict::Verdict;

/// One subject's highest rate without loss against another's, under one condition.
#[derive(Clone, Debug, Serialize)]
pub struct FoundRatio {
    /// The subject above the line.
    pub of: String,
    /// The subject beneath it.
    pub to: String,
    /// The condition; its rate is the least that was to be tried.
    pub condition: Condition,
    /// What the ratio comes to at least: `of`'s lower bound by `to`'s upper one; null without one of them, where `to`'s
    /// upper bound is the lab's, and where `to` has no lower one.
    pub least: Option<f64>,
    /// And at most: `of`'s upper bound by `to`'s lower one; null without one of them, and where `of`'s upper bound is
    /// the lab's.
    pub most: Option<f64>,
    /// What it must come to.
    pub at_least: f64,
    /// Whether it does.
    pub verdict: Verdict,
    /// Why it is left undecided.
    pub reasons: Vec<String>,
}

/// Every ratio of `scenario` under every condition, from what was `found` of those `measured`. One that cannot be told
/// because a subject is not installed is inconclusive.
pub(super) fn compare(
    scenario: &Scenario,
    measured: &[&Subject],
    not_installed: &[NotInstalled],
    found: &[Found],
) -> Vec<FoundRatio> {
    let mut ratios = Vec::new();
    for ratio in &scenario.search.ratios {
        let absent = Absent::among([&ratio.of, &ratio.to], measured, not_installed);
        for condition in scenario.conditions() {
            let of =
                |name: &str| found.iter().find(|found| found.subject == name && found.condition == condition);
            match (of(&ratio.of), of(&ratio.to)) {
                (Some(of), Some(to)) => ratios.push(FoundRatio::new(ratio, of, to)),
                _ if absent.leaves_undecided() => {
                    ratios.push(FoundRatio::undecided(ratio, condition, absent.in_words()));
                }
                _ => {}
            }
        }
    }
    ratios
}

/// A note on each ratio of `scenario` that is not told because `--only` leaves it without one of its sides.
pub(super) fn not_compared(
    scenario: &Scenario,
    measured: &[&Subject],
    not_installed: &[NotInstalled],
) -> Vec<String> {
    let notes = scenario.search.ratios.iter().filter_map(|SearchRatio { of, to, .. }| {
        let absent = Absent::among([of, to], measured, not_installed);
        let is_noted = !absent.is_empty() && !absent.leaves_undecided();
        let why = absent.in_words().join(" and ");
        is_noted.then(|| format!("the rates of {of} and {to} are not compared: {why}"))
    });
    notes.collect()
}

impl FoundRatio {
    fn new(ratio: &SearchRatio, of: &Found, to: &Found) -> Self {
        let by = |above: Option<u64>, beneath: Option<u64>| {
            above.zip(beneath).map(|(above, beneath)| above as f64 / beneath as f64)
        };
        // Of what the lab could not offer or count nobody knows whether the subject could not do it.
        let own_upper = |found: &Found| found.upper_pps.filter(|_| found.upper_by == Some(Limit::Subject));
        // Who never passed may not be set up to relay: by that nobody is measured.
        let least = to.lower_pps.and_then(|_| by(of.lower_pps, own_upper(to)));
        let most = by(own_upper(of), to.lower_pps);
        let at_least = ratio.at_least;
        let verdict = if least.is_some_and(|least| least >= at_least) {
            Verdict::Pass
        } else if most.is_some_and(|most| most < at_least) {
            Verdict::Fail
        } else {
            Verdict::Inconclusive
        };
        let reasons = if verdict == Verdict::Inconclusive { obstacles(of, to, at_least) } else { Vec::new() };
        Self { least, most, verdict, reasons, ..Self::undecided(ratio, of.condition, Vec::new()) }
    }

    fn undecided(ratio: &SearchRatio, condition: Condition, reasons: Vec<String>) -> Self {
        Self {
            of: ratio.of.clone(),
            to: ratio.to.clone(),
            condition,
            least: None,
            most: None,
            at_least: ratio.at_least,
            verdict: Verdict::Inconclusive,
            reasons,
        }
    }
}

/// What keeps the bounds of both from telling.
fn obstacles(of: &Found, to: &Found, at_least: f64) -> Vec<String> {
    let of_each = [of, to].into_iter().flat_map(|found| {
        let Found { subject, lower_pps, upper_pps, upper_by, .. } = found;
        let open = match (upper_pps, upper_by) {
            (Some(rate), Some(Limit::Lab)) => Some(format!(
                "trials at {rate} packets/s showed nothing of {subject}, which may do more: quiet the machine"
            )),
            (None, _) => Some(format!("{subject} lost nothing at the highest rate: raise traffic.rate-pps")),
            _ => None,
        };
        let none = || format!("{subject} passed at no rate: {REMEDY}");
        open.into_iter().chain(lower_pps.is_none().then(none))
    });
    let reasons: Vec<_> = of_each.collect();
    if reasons.is_empty() {
        return vec![format!("the bounds reach over {at_least}: a smaller search.width brings them closer")];
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixtures::CONDITION;

    /// A search by a subject's name, and its bounds.
    fn found(subject: &str, lower: u64, upper: u64, upper_by: Limit) -> Found {
        let bound = |rate| (rate > 0).then_some(rate);
        Found {
            subject: subject.into(),
            condition: CONDITION,
            lower_pps: bound(lower),
            upper_pps: bound(upper),
            upper_by: bound(upper).map(|_| upper_by),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
        }
    }

    /// The ratio of `a` to `b`, which is to be 2.
    fn judged(a: (u64, u64, Limit), b: (u64, u64, Limit)) -> FoundRatio {
        let ratio = SearchRatio { of: "a".into(), to: "b".into(), at_least: 2.0 };
        FoundRatio::new(&ratio, &found("a", a.0, a.1, a.2), &found("b", b.0, b.1, b.2))
    }

    #[test]
    fn only_bounds_on_one_side_tell() {
        use Limit::{Lab, Subject};
        let pass = judged((400, 440, Lab), (180, 200, Subject));
        assert_eq!((pass.verdict, pass.least, pass.most), (Verdict::Pass, Some(2.0), None));
        assert!(pass.reasons.is_empty());
        let fail = judged((300, 330, Subject), (200, 220, Lab));
        assert_eq!((fail.verdict, fail.least, fail.most), (Verdict::Fail, None, Some(1.65)));
        let open = judged((390, 410, Subject), (190, 210, Subject));
        assert_eq!(open.verdict, Verdict::Inconclusive);
        assert_eq!((open.least, open.most), (Some(390.0 / 210.0), Some(410.0 / 190.0)));
        assert_eq!(open.reasons, ["the bounds reach over 2: a smaller search.width brings them closer"]);
    }

    #[test]
    fn what_the_lab_cannot_offer_is_held_against_nobody() {
        use Limit::{Lab, Subject};
        let of = judged((300, 330, Lab), (200, 220, Subject));
        assert_eq!((of.verdict, of.least, of.most), (Verdict::Inconclusive, Some(300.0 / 220.0), None));
        assert_eq!(
            of.reasons,
            ["trials at 330 packets/s showed nothing of a, which may do more: quiet the machine"]
        );
        // Nor is it a pass: whom it is compared to may do more.
        let to = judged((900, 990, Subject), (200, 220, Lab));
        assert_eq!((to.verdict, to.least, to.most), (Verdict::Inconclusive, None, Some(990.0 / 200.0)));
        assert_eq!(
            to.reasons,
            ["trials at 220 packets/s showed nothing of b, which may do more: quiet the machine"]
        );
    }

    #[test]
    fn bounds_that_are_not_there_are_no_numbers() {
        use Limit::Subject;
        let all = judged((400, 0, Subject), (300, 330, Subject));
        assert_eq!((all.verdict, all.most), (Verdict::Inconclusive, None));
        assert_eq!(all.reasons, ["a lost nothing at the highest rate: raise traffic.rate-pps"]);
        let none = judged((400, 440, Subject), (0, 300, Subject));
        assert_eq!((none.verdict, none.least, none.most), (Verdict::Inconclusive, None, None));
        let never = "passed at no rate: see whether it relays at all, or lower the least of traffic.rate-pps";
        assert_eq!(none.reasons, [format!("b {never}")]);
        // Nobody passes by somebody who never did.
        let idle = judged((9_000, 9_900, Subject), (0, 300, Subject));
        assert_eq!(
            (idle.verdict, idle.least, idle.reasons),
            (Verdict::Inconclusive, None, vec![format!("b {never}")])
        );
        // But whoever never passed is slower than one who did.
        assert_eq!(judged((0, 300, Subject), (200, 220, Subject)).verdict, Verdict::Fail);
    }

    #[test]
    fn every_condition_has_its_ratio_and_who_is_missing_is_told() {
        let text = "name = 'x'\n[traffic]\nrate-pps = [1_000, 9_000]\nflows = [1, 2]\n[sinks]\nkind = 'packet'\n\
                    [[search.ratio]]\nof = 'a'\nto = 'b'\nat-least = 2\n[[subject]]\nname = 'a'\nrelay = {}\n\
                    [[subject]]\nname = 'b'\nrelay = {}\n";
        let mut scenario: Scenario = text.parse().unwrap();
        super::super::range(&mut scenario).unwrap();
        let subjects: Vec<_> = scenario.subjects.iter().collect();
        let pairs = scenario.conditions().into_iter().flat_map(|condition| {
            let with = |found: Found| Found { condition, ..found };
            [
                with(found("a", 400, 440, Limit::Lab)),
                with(found("b", 180, 200 * condition.flows as u64, Limit::Subject)),
            ]
        });
        let pairs: Vec<_> = pairs.collect();
        let verdicts = |found: &[Found]| -> Vec<_> {
            let ratios = compare(&scenario, &subjects, &[], found);
            ratios.iter().map(|ratio| (ratio.condition.flows, ratio.verdict)).collect()
        };
        assert_eq!(verdicts(&pairs), [(1, Verdict::Pass), (2, Verdict::Inconclusive)]);
        assert_eq!(verdicts(&pairs[..3]), [(1, Verdict::Pass)], "the other was interrupted");

        let missing = [NotInstalled { subject: "b".into(), program: "b".into() }];
        let of_a: Vec<_> = pairs.iter().filter(|found| found.subject == "a").cloned().collect();
        let undecided = compare(&scenario, &subjects[..1], &missing, &of_a);
        assert!(undecided.iter().all(|ratio| ratio.reasons == ["b is not installed"]), "{undecided:?}");
        assert_eq!((undecided.len(), undecided[0].verdict), (2, Verdict::Inconclusive));
        assert!(not_compared(&scenario, &subjects[..1], &missing).is_empty());
        assert!(compare(&scenario, &subjects[..1], &[], &pairs[..1]).is_empty());
        assert_eq!(
            not_compared(&scenario, &subjects[..1], &[]),
            ["the rates of a and b are not compared: b was not run"]
        );
    }
}
