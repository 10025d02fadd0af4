//! What an event does to the flows: how long a sink hears nothing, how long datagrams are kept waiting, how soon they come
//! again once a link is up. Pure code.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// The most silences that a sink keeps; the longest is kept in any case.
pub const MOST_SILENCES: usize = 1_024;
/// The shortest silence that is kept: receive paths that gather datagrams leave pauses of a few milliseconds.
const LEAST_SILENCE: Duration = Duration::from_millis(5);
/// What is under way to the subject's outputs when a link goes down was sent up to so long before: rings hand over by the
/// block, some milliseconds after the first datagram in it.
const UNDER_WAY: Duration = Duration::from_millis(10);

/// From one moment to another, ns of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Span {
    /// The first.
    pub from_ns: u64,
    /// The last.
    pub to_ns: u64,
}

impl Span {
    /// How long it is.
    pub fn length_ns(self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    fn overlaps(self, other: Self) -> bool {
        self.from_ns < other.to_ns && other.from_ns < self.to_ns
    }
}

/// When whole measured datagrams came to a sink, as far as it takes to tell when none did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The first; 0 when none came.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
    /// The longest time between two of them.
    pub longest: Span,
    /// Those that are no shorter than [`least_silence_ns`], in order, [`MOST_SILENCES`] at most.
    pub silences: Vec<Span>,
}

impl Arrivals {
    /// One came at `at_ns`; silences of `least_ns` and more are kept.
    pub fn arrive(&mut self, at_ns: u64, least_ns: u64) {
        if self.first_ns == 0 {
            (self.first_ns, self.last_ns) = (at_ns, at_ns);
            return;
        }
        let silence = Span { from_ns: self.last_ns, to_ns: at_ns };
        let length = silence.length_ns();
        if length > self.longest.length_ns() {
            self.longest = silence;
        }
        if length >= least_ns && self.silences.len() < MOST_SILENCES {
            self.silences.push(silence);
        }
        self.last_ns = self.last_ns.max(at_ns);
    }

    /// When nothing came while datagrams were `offered`: also before the first and after the last.
    fn silences_in(&self, offered: Span) -> Vec<Span> {
        if self.first_ns == 0 {
            return vec![offered];
        }
        let before = Span { from_ns: offered.from_ns, to_ns: self.first_ns };
        let after = Span { from_ns: self.last_ns, to_ns: offered.to_ns };
        let mut all = vec![before, self.longest, after];
        all.extend(self.silences.iter().filter(|silence| **silence != self.longest));
        all
    }
}

/// How long nothing must come before it is worth being kept, by the pace of the plan.
pub fn least_silence_ns(plan: &Plan) -> u64 {
    let pause = u128::from(plan.burst) * 1_000_000_000 / u128::from(plan.rate_pps.max(1));
    let pause = u64::try_from(pause).unwrap_or(u64::MAX);
    pause.saturating_mul(4).max(LEAST_SILENCE.as_nanos() as u64)
}

/// How the flows were disturbed in a trial with events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Disturbance {
    /// The longest time, ns, that a sink heard nothing while datagrams were offered and every link was up.
    pub silence_ns: u64,
    /// The longest time, ns, that a datagram was on its way.
    pub delay_ns: u64,
    /// For each time that a measured link came up again: how long, ns, until the first datagram came to the sink that waited
    /// longest.
    pub recoveries_ns: Vec<u64>,
    /// Datagrams that never arrived, summed over the sinks, and that were offered while a measured link was down. They are
    /// not among the lost.
    pub link_down: u64,
}

impl Disturbance {
    /// What each of `sinks` heard while datagrams were `offered`, and when a link on the way to it was down.
    pub fn new<'a>(
        sinks: impl Iterator<Item = (&'a Arrivals, Vec<Span>)>,
        offered: Span,
        delay_ns: u64,
        link_down: u64,
    ) -> Self {
        let mut disturbance = Self { delay_ns, link_down, ..Self::default() };
        let mut recoveries = BTreeMap::<u64, u64>::new();
        for (arrivals, down) in sinks {
            let silences = arrivals.silences_in(offered);
            let undisturbed =
                silences.iter().filter(|silence| !down.iter().any(|down| silence.overlaps(*down)));
            let longest = undisturbed.map(|silence| silence.length_ns()).max().unwrap_or_default();
            disturbance.silence_ns = disturbance.silence_ns.max(longest);
            for Span { to_ns: up, .. } in down {
                let waits = silences.iter().filter(|silence| silence.from_ns <= up && up < silence.to_ns);
                let waited = waits.map(|silence| silence.to_ns - up).max().unwrap_or_default();
                let recovery = recoveries.entry(up).or_default();
                *recovery = (*recovery).max(waited);
            }
        }
        disturbance.recoveries_ns = recoveries.into_values().collect();
        disturbance
    }

    /// The longest interruption of a flow.
    pub fn interruption_ns(&self) -> u64 {
        self.silence_ns.max(self.delay_ns)
    }
}

/// What a subject may do around events, beside what is expected exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct EventLimits {
    /// Datagrams more that may be lost for each worker that died and each measured link that went away.
    #[serde(default)]
    pub loss_per_event: u64,
    /// Datagrams more that may come twice, likewise.
    #[serde(default)]
    pub duplicates_per_event: u64,
    /// The longest interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption: Option<Duration>,
    /// The longest time from a link's coming up to the next datagram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Duration>,
}

impl EventLimits {
    /// Whether anything is said.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Which of the times `disturbance` exceeds, in words.
    pub fn missed(&self, disturbance: &Disturbance) -> Vec<String> {
        let exceeded =
            |limit: Option<Duration>, ns: u64| limit.filter(|limit| u128::from(ns) > limit.as_nanos());
        let mut missed = Vec::new();
        let times = [
            ("a sink heard nothing for", disturbance.silence_ns),
            ("a datagram was on its way for", disturbance.delay_ns),
        ];
        for (what, ns) in times {
            if let Some(limit) = exceeded(self.interruption, ns) {
                missed.push(format!("{what} {}, expected at most {limit:?}", shown(ns)));
            }
        }
        let longest = disturbance.recoveries_ns.iter().copied().max().unwrap_or_default();
        if let Some(limit) = exceeded(self.recovery, longest) {
            let longest = shown(longest);
            missed.push(format!(
                "nothing came for {longest} after a link was up again, expected at most {limit:?}"
            ));
        }
        missed
    }

    /// How far the times in `disturbance` are over what is expected at most, ns.
    pub fn excess_ns(&self, disturbance: &Disturbance) -> u64 {
        let over = |limit: Option<Duration>, ns: u64| {
            limit.map_or(0, |limit| ns.saturating_sub(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
        };
        let longest = disturbance.recoveries_ns.iter().copied().max().unwrap_or_default();
        over(self.interruption, disturbance.interruption_ns()).max(over(self.recovery, longest))
    }
}

/// Milliseconds, with a digit of microseconds.
fn shown(ns: u64) -> String {
    format!("{:.1} ms", ns as f64 / 1e6)
}

/// How measured datagrams follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// When the first was due, ns of `CLOCK_REALTIME`.
    pub started_ns: u64,
    /// How many are due each second.
    pub rate_pps: u64,
    /// How many are due at once.
    pub burst: u64,
    /// How many there are.
    pub datagrams: u64,
    /// How late one was sent at worst, ns: what was due before a link went down may have met it all the same.
    pub lag_ns: u64,
}

/// Which global sequences were offered while a link was `down`, or were under way when it went down.
pub fn sequences_while(down: &[Span], pace: Pace) -> Vec<Range<u64>> {
    let Pace { started_ns, rate_pps, burst, datagrams, lag_ns } = pace;
    let before_ns = lag_ns.saturating_add(UNDER_WAY.as_nanos() as u64);
    let first_at = |ns: u64| {
        let offset = u128::from(ns.saturating_sub(started_ns));
        let bursts = (offset * u128::from(rate_pps)).div_ceil(u128::from(burst.max(1)) * 1_000_000_000);
        u64::try_from(bursts).unwrap_or(u64::MAX).saturating_mul(burst).min(datagrams)
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for span in down {
        let from = first_at(span.from_ns.saturating_sub(before_ns));
        // Spans may overlap, and nothing is to be counted twice.
        let from = ranges.last().map_or(from, |last| from.max(last.end));
        let to = first_at(span.to_ns).max(from);
        ranges.push(from..to);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Flow;

    const MS: u64 = 1_000_000;

    fn arrivals(times_ms: &[u64]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for ms in times_ms {
            arrivals.arrive(ms * MS, 5 * MS);
        }
        arrivals
    }

    fn span(from_ms: u64, to_ms: u64) -> Span {
        Span { from_ns: from_ms * MS, to_ns: to_ms * MS }
    }

    /// What sinks to which datagrams came at these times heard.
    fn seen(sinks: &[&[u64]], offered: Span, down: &[Span], delay_ms: u64) -> Disturbance {
        let sinks: Vec<_> = sinks.iter().map(|times| arrivals(times)).collect();
        let sinks = sinks.iter().map(|arrivals| (arrivals, down.to_vec()));
        Disturbance::new(sinks, offered, delay_ms * MS, 0)
    }

    fn plan(rate_pps: u64, burst: u64) -> Plan {
        let address = ([239, 1, 1, 1], 5_000).into();
        let flow =
            Flow { source: address, destination: address, destination_mac: [0; 6], delivered: address };
        Plan::new(1, vec![flow], 100, rate_pps, 3 * rate_pps).unwrap().in_bursts_of(burst).unwrap()
    }

    #[test]
    fn silences_are_kept_from_some_length_on_and_the_longest_in_any_case() {
        let seen = arrivals(&[100, 101, 104, 110, 109, 150, 151]);
        assert_eq!((seen.first_ns, seen.last_ns), (100 * MS, 151 * MS));
        assert_eq!(seen.silences, [span(104, 110), span(110, 150)]);
        assert_eq!(seen.longest, span(110, 150));
        assert_eq!(arrivals(&[1, 2, 4]).longest, span(2, 4));
        let many: Vec<_> = (1..2_000).map(|i| i * 10).chain([50_000]).collect();
        let many = arrivals(&many);
        assert_eq!((many.silences.len(), many.longest), (MOST_SILENCES, span(19_990, 50_000)));
    }

    #[test]
    fn silence_counts_from_the_first_to_the_last_that_is_offered() {
        let disturbance = |times: &[u64], down: &[Span]| seen(&[times], span(100, 200), down, 3);
        assert_eq!(disturbance(&[101, 150, 199], &[]).silence_ns, 49 * MS);
        assert_eq!(disturbance(&[160, 199], &[]).silence_ns, 60 * MS);
        assert_eq!(disturbance(&[101, 120], &[]).silence_ns, 80 * MS);
        assert_eq!(disturbance(&[], &[]).silence_ns, 100 * MS);
        assert_eq!(disturbance(&[101, 102, 199], &[]).interruption_ns(), 97 * MS);
        assert_eq!(disturbance(&[101, 102, 103], &[span(102, 190)]).interruption_ns(), 3 * MS);
    }

    #[test]
    fn while_a_link_is_down_silence_is_its_own_and_then_it_is_recovery() {
        let sinks: [&[u64]; 2] = [&[100, 120, 160, 161, 200], &[100, 120, 171, 200]];
        let both = seen(&sinks, span(100, 200), &[span(125, 155), span(190, 195)], 0);
        // What overlaps a time when the link was down is no interruption; the second sink waits longer.
        assert_eq!((both.silence_ns, both.recoveries_ns), (20 * MS, vec![16 * MS, 5 * MS]));
        let dead = seen(&[&[100, 124]], span(100, 200), &[span(125, 155)], 0);
        assert_eq!(dead.recoveries_ns, [45 * MS], "it never came back");
        let quick = seen(&[&[100, 124, 156]], span(100, 157), &[span(125, 155)], 0);
        assert_eq!(quick.recoveries_ns, [MS]);
    }

    #[test]
    fn limits_are_told_with_what_exceeds_them() {
        let limits = EventLimits {
            interruption: Some(Duration::from_millis(100)),
            recovery: Some(Duration::from_millis(500)),
            ..EventLimits::default()
        };
        let good = Disturbance { silence_ns: 100 * MS, delay_ns: 99 * MS, ..Disturbance::default() };
        assert_eq!(limits.missed(&good), Vec::<String>::new());
        assert_eq!(limits.excess_ns(&good), 0);
        let bad = Disturbance {
            silence_ns: 101 * MS,
            delay_ns: 250 * MS,
            recoveries_ns: vec![1, 501 * MS],
            link_down: 0,
        };
        assert_eq!(
            limits.missed(&bad),
            [
                "a sink heard nothing for 101.0 ms, expected at most 100ms",
                "a datagram was on its way for 250.0 ms, expected at most 100ms",
                "nothing came for 501.0 ms after a link was up again, expected at most 500ms",
            ]
        );
        assert_eq!(limits.excess_ns(&bad), 150 * MS);
        assert!(EventLimits::default().missed(&bad).is_empty() && EventLimits::default().is_none());
    }

    #[test]
    fn what_is_offered_while_a_link_is_down_is_known_by_its_sequence() {
        let pace =
            |burst, lag_ns| Pace { started_ns: 1_000 * MS, rate_pps: 1_000, burst, datagrams: 3_000, lag_ns };
        let bounds =
            |ranges: Vec<Range<u64>>| ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        let ranges = |down: &[Span], burst| bounds(sequences_while(down, pace(burst, 0)));
        assert_eq!(ranges(&[span(1_100, 1_200)], 1), [(90, 200)]);
        assert_eq!(ranges(&[span(1_100, 1_200), span(1_205, 1_300)], 1), [(90, 200), (200, 300)]);
        assert_eq!(ranges(&[span(900, 1_050)], 1), [(0, 50)]);
        assert_eq!(ranges(&[span(3_990, 9_000)], 1), [(2_980, 3_000)]);
        let late = bounds(sequences_while(&[span(1_100, 1_200)], pace(1, 20 * MS)));
        assert_eq!(late, [(70, 200)], "what is sent late was due before");
        // A burst is due when its first datagram is.
        assert_eq!(ranges(&[span(1_110, 1_201)], 50), [(100, 250)]);
    }

    #[test]
    fn slow_traffic_is_not_silent_between_its_datagrams() {
        assert_eq!(least_silence_ns(&plan(100_000, 1)), 5 * MS);
        assert_eq!(least_silence_ns(&plan(100, 1)), 40 * MS);
        assert_eq!(least_silence_ns(&plan(10_000, 100)), 40 * MS);
    }
}
