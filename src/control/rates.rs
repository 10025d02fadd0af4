//! How fast counters grow.

use std::time::Duration;

use super::{OutputRates, RuleRates, StatsReport};
use crate::stats::{OutputStats, RuleStats, Stats};

impl StatsReport {
    /// The counters `stats`, read at Unix time `at_ms` when the supervisor was `uptime` old, and how fast they have
    /// grown since they were `earlier`, that long before.
    pub fn new(at_ms: u64, uptime: Duration, stats: Stats, earlier: Option<(&Stats, Duration)>) -> Self {
        let interval = earlier.map_or(Duration::ZERO, |(_, interval)| interval);
        // Rules keep their places between two reports, unless some were added or removed.
        let places = earlier.map_or(&[][..], |(earlier, _)| &earlier.rules);
        let rate = |(place, rule): (usize, &RuleStats)| {
            let same = |earlier: &&RuleStats| earlier.name == rule.name;
            let before = places.get(place).filter(same).or_else(|| places.iter().find(same));
            rule_rates(before, rule, interval)
        };
        let rates = stats.rules.iter().enumerate().map(rate).collect();
        Self { at_ms, uptime_ms: millis(uptime), interval_ms: millis(interval), stats, rates }
    }
}

fn rule_rates(before: Option<&RuleStats>, rule: &RuleStats, interval: Duration) -> RuleRates {
    let Some(before) = before else {
        return RuleRates {
            outputs: vec![OutputRates::default(); rule.outputs.len()],
            ..RuleRates::default()
        };
    };
    let output = |output: &OutputStats| {
        let before = before.outputs.iter().find(|before| before.destination == output.destination);
        before.map_or_else(OutputRates::default, |before| output_rates(before, output, interval))
    };
    RuleRates {
        matched_pps: rate(before.matched, rule.matched, interval),
        matched_bps: 8.0 * rate(before.bytes, rule.bytes, interval),
        outputs: rule.outputs.iter().map(output).collect(),
    }
}

fn output_rates(before: &OutputStats, output: &OutputStats, interval: Duration) -> OutputRates {
    let dropped = |output: &OutputStats| output.lost();
    OutputRates {
        relayed_pps: rate(before.relayed, output.relayed, interval),
        relayed_bps: 8.0 * rate(before.bytes, output.bytes, interval),
        dropped_pps: rate(dropped(before), dropped(output), interval),
    }
}

/// Per second; 0 where the time is, or where the count has begun anew.
fn rate(before: u64, after: u64, interval: Duration) -> f64 {
    if interval.is_zero() { 0.0 } else { after.saturating_sub(before) as f64 / interval.as_secs_f64() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rule(name: &str, matched: u64, refused: u64) -> RuleStats {
        let output = OutputStats {
            destination: "239.2.2.2:6000:eth1".to_owned(),
            relayed: matched - refused,
            bytes: (matched - refused) * 100,
            dropped: BTreeMap::from([("refused".to_owned(), refused)]),
        };
        RuleStats { name: name.to_owned(), matched, bytes: matched * 100, outputs: vec![output], leg: None }
    }

    #[test]
    fn rates_are_of_the_rule_of_that_name_wherever_it_stands() {
        let earlier = Stats { rules: vec![rule("a", 100, 0), rule("b", 1_000, 10)], ..Stats::default() };
        let stats = Stats {
            rules: vec![rule("b", 3_000, 30), rule("new", 50, 0), rule("a", 40, 0)],
            ..Stats::default()
        };
        let interval = Duration::from_secs(2);
        let uptime = Duration::from_mins(1);
        let report = StatsReport::new(7, uptime, stats.clone(), Some((&earlier, interval)));
        assert_eq!((report.at_ms, report.uptime_ms, report.interval_ms), (7, 60_000, 2_000));
        let output = OutputRates { relayed_pps: 990.0, relayed_bps: 792_000.0, dropped_pps: 10.0 };
        let rates = RuleRates { matched_pps: 1_000.0, matched_bps: 800_000.0, outputs: vec![output] };
        let none = RuleRates { outputs: vec![OutputRates::default()], ..RuleRates::default() };
        assert_eq!(report.rates, [rates, none.clone(), none.clone()], "new, and begun anew");
        let alone = StatsReport::new(7, uptime, stats.clone(), None);
        assert_eq!((alone.interval_ms, alone.rates), (0, vec![none.clone(), none.clone(), none]));
        let at_once = StatsReport::new(7, uptime, stats, Some((&earlier, Duration::ZERO)));
        assert!(at_once.rates.iter().all(|rates| rates.matched_pps == 0.0));
    }
}
