//! The rules that run: where each is counted, what it has of inputs and outputs, and what it waits for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::SupervisorError;
use super::places::Places;
use crate::rules::{Input, Output, PortBlock, Rule, Sent, Takers, circles, describe};
use crate::stats::{MAX_OUTPUTS, MAX_RULES};
use crate::sys::udp_socket::EgressAddress;
use crate::worker::dedupe::Leg;
use crate::worker::egress::Hop;
use crate::worker::order::Order;

/// A rule that runs, or waits.
#[derive(Clone, Debug)]
pub(super) struct LiveRule {
    pub(super) rule: Rule,
    /// The input it listens to, or why there is none.
    pub(super) input: Result<Listening, String>,
    /// One for each of the rule's outputs.
    pub(super) outputs: Vec<LiveOutput>,
    /// Of which stream it is a leg.
    pub(super) leg: Option<Leg>,
    /// Grows from rule to rule in the order in which they came.
    rank: u64,
}

/// An input that a rule listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    /// What workers know the input by.
    pub(super) place: u16,
    /// The interface that the rule's group is joined on.
    pub(super) interface: u32,
}

/// An output of a rule.
#[derive(Clone, Debug)]
pub(super) struct LiveOutput {
    /// Place of what is counted for it.
    pub(super) counters: u32,
    /// What it sends through, or why there is nothing.
    pub(super) open: Result<(u32, EgressAddress), String>,
}

impl LiveRule {
    /// One that waits for its input.
    pub(super) fn new(rule: Rule, outputs: Vec<LiveOutput>) -> Self {
        Self { rule, input: Err(String::new()), outputs, leg: None, rank: 0 }
    }

    /// The order for workers to relay by it, as the rule at `place`.
    pub(super) fn order(&self, place: u32) -> Order {
        let hop = |(output, to): (&LiveOutput, &Output)| Hop {
            output: output.open.as_ref().ok().map(|(place, _)| *place),
            counters: output.counters,
            ttl: to.ttl,
            dscp: to.dscp,
            port_shift: to.port_shift(&self.rule.input),
        };
        Order::Rule {
            place,
            rule: self.rule.clone(),
            input: self.input.as_ref().ok().map(|input| input.place),
            hops: self.outputs.iter().zip(&self.rule.outputs).map(hop).collect(),
            leg: self.leg,
        }
    }

    /// Whether it waits for something.
    pub(super) fn waits(&self) -> bool {
        self.input.is_err() || self.outputs.iter().any(|output| output.open.is_err())
    }

    /// How much of what it needs it has.
    pub(super) fn progress(&self) -> (bool, usize) {
        (self.input.is_ok(), self.outputs.iter().filter(|output| output.open.is_ok()).count())
    }

    /// What it does, for the log.
    pub(super) fn state(&self) -> String {
        match self.reasons().collect::<Vec<_>>().as_slice() {
            [] => "relays".to_owned(),
            reasons => format!("waits: {}", reasons.join("; ")),
        }
    }

    /// What it waits for.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        let outputs = self.outputs.iter().filter_map(|output| output.open.as_ref().err());
        self.input.as_ref().err().into_iter().chain(outputs).map(String::as_str)
    }

    /// The interfaces that it listens on and sends through.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        let outputs = self.rule.outputs.iter().map(|output| output.interface.as_str());
        std::iter::once(self.rule.input.interface.as_str()).chain(outputs)
    }

    /// The places of what is counted for its outputs.
    pub(super) fn counters(&self) -> Vec<u32> {
        self.outputs.iter().map(|output| output.counters).collect()
    }
}

/// A circle of rules that has not come about.
#[derive(Debug)]
pub(super) struct Circle {
    /// The places of those of its rules that run.
    pub(super) running: Vec<u32>,
    /// What to say of it.
    pub(super) message: String,
}

/// A rule that runs, by its place, or one that may come, by its index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Member {
    Running(u32),
    New(usize),
}

/// All rules, by their places.
#[derive(Debug)]
pub(super) struct Book {
    rules: BTreeMap<u32, LiveRule>,
    by_name: HashMap<String, u32>,
    /// The legs of each stream, by its name.
    by_stream: HashMap<String, BTreeSet<u32>>,
    takers: Takers<u32>,
    /// The places by rank.
    order: BTreeMap<u64, u32>,
    rule_places: Places,
    output_places: Places,
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            rules: BTreeMap::new(),
            by_name: HashMap::new(),
            by_stream: HashMap::new(),
            takers: Takers::default(),
            order: BTreeMap::new(),
            rule_places: Places::new(MAX_RULES),
            output_places: Places::new(MAX_OUTPUTS),
        }
    }

    /// Enters a rule that waits for everything, behind the others, and returns its place. It must have a name of its own, and an
    /// input that overlaps with no other one.
    pub(super) fn enter(&mut self, rule: Rule) -> Result<u32, SupervisorError> {
        let too_many = |what, most| SupervisorError::TooMany { what, most };
        let place = self.rule_places.take().ok_or_else(|| too_many("too many rules", MAX_RULES))?;
        let mut outputs = Vec::with_capacity(rule.outputs.len());
        for _ in &rule.outputs {
            let Some(counters) = self.output_places.take() else {
                self.rule_places.give_back(place);
                for output in &outputs {
                    let LiveOutput { counters, .. } = output;
                    self.output_places.give_back(*counters);
                }
                return Err(too_many("too many outputs of rules", MAX_OUTPUTS));
            };
            outputs.push(LiveOutput { counters, open: Err(String::new()) });
        }
        self.insert(place, LiveRule::new(rule, outputs));
        Ok(place)
    }

    /// Enters a rule at a place, and with places of its outputs, that another supervisor has chosen.
    pub(super) fn adopt(&mut self, place: u32, live: LiveRule) {
        self.rule_places.occupy(place);
        live.outputs.iter().for_each(|output| self.output_places.occupy(output.counters));
        self.insert(place, live);
    }

    fn insert(&mut self, place: u32, mut live: LiveRule) {
        self.by_name.insert(live.rule.name.clone(), place);
        self.takers.insert(&live.rule.input, place);
        if let Some(dedupe) = &live.rule.dedupe {
            self.by_stream.entry(dedupe.stream.clone()).or_default().insert(place);
        }
        live.rank = self.order.last_key_value().map_or(0, |(rank, _)| rank + 1);
        self.order.insert(live.rank, place);
        self.rules.insert(place, live);
    }

    /// Strikes a rule out. Its places are not given away before [`Book::give_back`].
    pub(super) fn strike(&mut self, place: u32) -> Option<LiveRule> {
        let live = self.rules.remove(&place)?;
        // A rule that has come in its stead may have the same name or input.
        if self.by_name.get(&live.rule.name) == Some(&place) {
            self.by_name.remove(&live.rule.name);
        }
        self.takers.remove(&live.rule.input, place);
        if let Some(dedupe) = &live.rule.dedupe
            && let Some(legs) = self.by_stream.get_mut(&dedupe.stream)
        {
            legs.remove(&place);
            if legs.is_empty() {
                self.by_stream.remove(&dedupe.stream);
            }
        }
        self.order.remove(&live.rank);
        Some(live)
    }

    /// Gives back the places of a rule that is struck out and that no worker knows any more.
    pub(super) fn give_back(&mut self, place: u32, live: &LiveRule) {
        self.rule_places.give_back(place);
        live.outputs.iter().for_each(|output| self.output_places.give_back(output.counters));
    }

    pub(super) fn get(&self, place: u32) -> Option<&LiveRule> {
        self.rules.get(&place)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut LiveRule> {
        self.rules.get_mut(&place)
    }

    /// The place of the rule with this name.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The places of the legs of the stream with this name.
    pub(super) fn legs(&self, stream: &str) -> impl Iterator<Item = u32> {
        self.by_stream.get(stream).into_iter().flatten().copied()
    }

    /// The place of the rule with this input.
    pub(super) fn with_input(&self, input: &Input) -> Option<u32> {
        self.takers.get(input)
    }

    /// The places of rules that a rule with this input cannot run beside, as it would take the same.
    pub(super) fn overlapping<'a>(&'a self, input: &'a Input) -> impl Iterator<Item = u32> + 'a {
        self.takers.overlapping(input)
    }

    /// Whether a rule takes this block of ports of `input`'s groups and source, whatever other ports it takes.
    pub(super) fn takes(&self, input: &Input, block: PortBlock) -> bool {
        self.takers.has(input, block)
    }

    /// A circle that `new` rules would make with those that run, but for those at `gone`. Looks at no rule that nothing of what
    /// the new ones send comes to.
    pub(super) fn circle_with(&self, new: &[Rule], gone: &BTreeSet<u32>) -> Option<Circle> {
        let mut new_takers = Takers::default();
        for (i, rule) in new.iter().enumerate() {
            new_takers.insert(&rule.input, Member::New(i));
        }
        let rule = |member| match member {
            Member::New(i) => new.get(i),
            Member::Running(place) => self.get(place).map(|live| &live.rule),
        };
        let takers = |sent: &Sent<'_>| {
            let running = self.takers.of(sent).into_iter().filter(|place| !gone.contains(place));
            new_takers.of(sent).into_iter().chain(running.map(Member::Running)).collect()
        };
        let circle = circles((0..new.len()).map(Member::New), rule, takers).into_iter().next()?;
        let running = circle.iter().filter_map(|member| match member {
            Member::New(_) => None,
            Member::Running(place) => Some(*place),
        });
        let message = describe(&circle.iter().filter_map(|member| rule(*member)).collect::<Vec<_>>());
        Some(Circle { running: running.collect(), message })
    }

    /// Whether this very rule runs.
    pub(super) fn has(&self, rule: &Rule) -> bool {
        let live = self.with_input(&rule.input).and_then(|place| self.get(place));
        live.is_some_and(|live| live.rule == *rule)
    }

    /// All rules in the order in which they came, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &LiveRule)> + Clone {
        self.order.values().filter_map(|place| Some((*place, self.rules.get(place)?)))
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// What the rules on the interface `name` take.
    pub(super) fn inputs_on<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Input> {
        self.rules.values().map(|live| &live.rule.input).filter(move |input| input.interface == name)
    }
}
