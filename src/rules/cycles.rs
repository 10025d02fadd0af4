//! Rules that send in a circle: what one of them sends another one takes, and so on until the first one takes it again.
//!
//! A rule feeds another one when it has an output with the interface, group and port of the other's input. The relay does not
//! take what it has sent itself; but a bridge, a second relay or a wrong cable may bring it back to the interface that it left
//! through, and every datagram then goes round for ever, since each round gives it a new time to live.
//!
//! An output's range feeds an input's that has something in common with it. Which part of a range goes which way is not followed, nor
//! which of nested inputs takes it, so that some circles are found which no datagram would go round in, and none is missed.
//!
//! Copies leave with an address of the relay, which is not known here, or with the one that they came with. So a rule for one source may feed one for any source, and
//! the other way round. Two rules for different sources do not feed each other: where copies keep their source, the second one
//! does not take them, and else it would have to be for the relay's own address, from which nothing new can come.
//!
//! What leaves through an interface is untagged there, so it feeds no rule for a VLAN on it. That an interface is itself a VLAN of
//! another one is not known here.

use std::hash::Hash;

use super::range::Destinations;
use super::takers::{Sent, Takers};
use super::{Input, Output, Rule};

// A fast hash is safe here: only the configuration inserts.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// How many steps of a circle are told, the last one included.
const STEPS_TOLD: usize = 8;

/// What `input` takes, but for sources, of what leaves through `output`.
pub(super) fn fed(input: &Input, output: &Output) -> Option<Destinations> {
    let common = output.destinations().intersection(input.destinations());
    common.filter(|_| output.interface == input.interface && input.vlan.is_none())
}

/// Circles among `rules`, as their indices; see [`circles`].
pub(super) fn circles_among(rules: &[Rule]) -> Vec<Vec<usize>> {
    let mut takers = Takers::default();
    for (i, rule) in rules.iter().enumerate() {
        takers.insert(&rule.input, i);
    }
    circles(0..rules.len(), |i| rules.get(i), |sent| takers.of(sent))
}

/// A place on the way of a datagram from rule to rule. That copies are one keeps the time linear where many rules send to an input
/// that many rules have, each for another source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Stop<'a, R> {
    Rule(R),
    Sent(Sent<'a>),
}

/// Circles that are come to from the rules `from`, each in the order in which its rules feed each other; none of them has a rule of
/// another one. If there is any circle at all, there is one in the answer. `rule` gives the rule that an `R` means, and `takers` those
/// that take what is sent.
///
/// The time it takes grows with the number of rules that are come to, and of their outputs.
pub fn circles<'a, R: Copy + Eq + Hash>(
    from: impl IntoIterator<Item = R>,
    rule: impl Fn(R) -> Option<&'a Rule>,
    takers: impl Fn(&Sent<'a>) -> Vec<R>,
) -> Vec<Vec<R>> {
    let next = |stop| match stop {
        Stop::Rule(at) => {
            let sent = |rule: &'a Rule| rule.outputs.iter().map(|output| Sent::new(rule, output));
            rule(at).into_iter().flat_map(sent).map(Stop::Sent).collect()
        }
        Stop::Sent(sent) => takers(&sent).into_iter().map(Stop::Rule).collect(),
    };
    let rules_only = |stop| match stop {
        Stop::Rule(rule) => Some(rule),
        Stop::Sent(_) => None,
    };
    let circles = walk(from.into_iter().map(Stop::Rule), next);
    circles.into_iter().map(|circle| circle.into_iter().filter_map(rules_only).collect()).collect()
}

/// Where a depth-first search is with a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    OnPath,
    Done,
}

/// Walks a graph, depth first, from each of `from`. Returns circles that share no node.
fn walk<N: Copy + Eq + Hash>(from: impl IntoIterator<Item = N>, next: impl Fn(N) -> Vec<N>) -> Vec<Vec<N>> {
    let mut circles = Vec::new();
    let mut states = HashMap::default();
    for start in from {
        if states.contains_key(&start) {
            continue;
        }
        states.insert(start, State::OnPath);
        let mut path = vec![(start, next(start).into_iter())];
        while let Some((node, rest)) = path.last_mut() {
            let Some(following) = rest.next() else {
                states.insert(*node, State::Done);
                path.pop();
                continue;
            };
            match states.get(&following).copied() {
                Some(State::Done) => {}
                Some(State::OnPath) => {
                    let begin = path.iter().rposition(|(node, _)| *node == following).unwrap_or_default();
                    let circle: Vec<_> = path.drain(begin..).map(|(node, _)| node).collect();
                    states.extend(circle.iter().map(|node| (*node, State::Done)));
                    circles.push(circle);
                }
                None => {
                    let further = next(following).into_iter();
                    // Most of what is sent no rule takes, and that is found out as fast again as it is written down.
                    if further.len() > 0 {
                        states.insert(following, State::OnPath);
                        path.push((following, further));
                    }
                }
            }
        }
    }
    circles
}

/// What to say of rules that feed each other in this order, the last one the first.
pub fn describe(circle: &[&Rule]) -> String {
    let step = |(rule, taker): (&&Rule, &&Rule)| {
        let Input { interface, .. } = &taker.input;
        let sent = rule.outputs.iter().find_map(|output| fed(&taker.input, output));
        let sent = sent.unwrap_or_else(|| taker.input.destinations());
        format!("\"{}\" sends {sent} on {interface}, which \"{}\" takes", rule.name, taker.name)
    };
    let steps = circle.iter().zip(circle.iter().cycle().skip(1));
    let left_out = circle.len().saturating_sub(STEPS_TOLD);
    let mut told: Vec<_> = steps.clone().take(STEPS_TOLD - 1).map(step).collect();
    if left_out > 0 {
        told.push(format!("and so on by {left_out} more"));
    }
    told.extend(steps.skip(STEPS_TOLD - 1 + left_out).map(step));
    let has_range = |rule: &&Rule| {
        let inputs = std::iter::once(rule.input.destinations());
        inputs.chain(rule.outputs.iter().map(Output::destinations)).any(|sent| !sent.is_single())
    };
    let of_ranges = if circle.iter().any(has_range) { " (a range counts as a whole)" } else { "" };
    format!(
        "these rules send in a circle{of_ranges}: {}: take one of them out, or have each of them name a source of its own",
        told.join("; ")
    )
}

#[cfg(test)]
#[path = "cycles_tests.rs"]
mod tests;
