//! Rules that send in a circle: what one of them sends another one takes, and so on until the first one takes it again.
//!
//! A rule feeds another one when it has an output with the interface, group and port of the other's input. The relay does not
//! take what it has sent itself; but a bridge, a second relay or a wrong cable may bring it back to the interface that it left
//! through, and every datagram then goes round for ever, since each round gives it a new time to live.
//!
//! Copies leave with an address of the relay, which is not known here, or with the one that they came with. So a rule for one source may feed one for any source, and
//! the other way round. Two rules for different sources do not feed each other: where copies keep their source, the second one
//! does not take them, and else it would have to be for the relay's own address, from which nothing new can come.
//!
//! What leaves through an interface is untagged there, so it feeds no rule for a VLAN on it. That an interface is itself a VLAN of
//! another one is not known here.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use super::{Input, Output, Rule};
use crate::wire::VlanId;

// A fast hash is safe here: only the configuration inserts.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// What a rule takes on an interface: of a VLAN or of none, and for whom.
type Endpoint = (Option<VlanId>, SocketAddr);

/// How many steps of a circle are told, the last one included.
const STEPS_TOLD: usize = 8;

/// What leaves through an output of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent<'a> {
    interface: &'a str,
    destination: SocketAddr,
    /// Where it came from, if the rule is for one source.
    source: Option<IpAddr>,
}

impl<'a> Sent<'a> {
    fn new(rule: &'a Rule, output: &'a Output) -> Self {
        let Output { interface, .. } = output;
        Self { interface, destination: output.destination(), source: rule.input.source }
    }
}

/// Rules by what they take, each known by an `R`.
#[derive(Clone, Debug)]
pub struct Takers<R> {
    by_interface: HashMap<String, HashMap<Endpoint, BTreeMap<Option<IpAddr>, R>>>,
}

impl<R> Default for Takers<R> {
    fn default() -> Self {
        Self { by_interface: HashMap::default() }
    }
}

impl<R: Copy + PartialEq> Takers<R> {
    /// Enters the rule with this input, in place of another one with the same.
    pub fn insert(&mut self, input: &Input, rule: R) {
        if !self.by_interface.contains_key(&input.interface) {
            self.by_interface.insert(input.interface.clone(), HashMap::default());
        }
        if let Some(by_destination) = self.by_interface.get_mut(&input.interface) {
            by_destination.entry(endpoint(input)).or_default().insert(input.source, rule);
        }
    }

    /// Strikes out `rule`, which has this input, unless another one has come in its place.
    pub fn remove(&mut self, input: &Input, rule: R) {
        if self.get(input) != Some(rule) {
            return;
        }
        let Some(by_destination) = self.by_interface.get_mut(&input.interface) else { return };
        let Some(by_source) = by_destination.get_mut(&endpoint(input)) else { return };
        by_source.remove(&input.source);
        // Rules come and go for as long as the relay runs.
        if by_source.is_empty() {
            by_destination.remove(&endpoint(input));
        }
        if by_destination.is_empty() {
            self.by_interface.remove(&input.interface);
        }
    }

    /// The rule with this very input.
    pub fn get(&self, input: &Input) -> Option<R> {
        self.at(&input.interface, endpoint(input))?.get(&input.source).copied()
    }

    /// The rules that may take what is `sent`.
    pub fn of(&self, sent: &Sent<'_>) -> Vec<R> {
        let Some(by_source) = self.at(sent.interface, (None, sent.destination)) else { return Vec::new() };
        match sent.source {
            None => by_source.values().copied().collect(),
            source => [source, None].iter().filter_map(|source| by_source.get(source).copied()).collect(),
        }
    }

    fn at(&self, interface: &str, endpoint: Endpoint) -> Option<&BTreeMap<Option<IpAddr>, R>> {
        self.by_interface.get(interface)?.get(&endpoint)
    }
}

fn endpoint(input: &Input) -> Endpoint {
    (input.vlan, destination(input))
}

fn destination(input: &Input) -> SocketAddr {
    SocketAddr::new(input.group, input.port)
}

/// Whether `output` is, but for sources, what `input` takes.
pub(super) fn is_fed(input: &Input, output: &Output) -> bool {
    (&output.interface, None, output.destination()) == (&input.interface, input.vlan, destination(input))
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
        let destination = destination(&taker.input);
        format!("\"{}\" sends {destination} on {interface}, which \"{}\" takes", rule.name, taker.name)
    };
    let steps = circle.iter().zip(circle.iter().cycle().skip(1));
    let left_out = circle.len().saturating_sub(STEPS_TOLD);
    let mut told: Vec<_> = steps.clone().take(STEPS_TOLD - 1).map(step).collect();
    if left_out > 0 {
        told.push(format!("and so on by {left_out} more"));
    }
    told.extend(steps.skip(STEPS_TOLD - 1 + left_out).map(step));
    format!(
        "these rules send in a circle: {}: take one of them out, or have each of them name a source of its own",
        told.join("; ")
    )
}

#[cfg(test)]
#[path = "cycles_tests.rs"]
mod tests;
