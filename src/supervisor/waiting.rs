//! Rules that wait, and interfaces that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::book::{LiveOutput, LiveRule};
use super::relay::{Relay, find};
use crate::sys::interface::Interface;
use crate::sys::udp_socket::EgressAddress;

/// How long rules wait that workers or the kernel have refused something, unless their interface changes before.
const PUT_OFF_TIME: Duration = Duration::from_secs(10);

impl Relay {
    /// Has all rules that wait try again, lets go inputs that a worker cannot receive on, and finds out what became of frames that
    /// a worker died over, and what legs of streams have not brought.
    pub(super) async fn look_again(&mut self) {
        for (interface, why) in self.workers.take_refused_inputs() {
            self.put_off(&interface);
            self.let_go_all(&BTreeSet::from([interface]), &why).await;
        }
        let waits = |live: &LiveRule| live.waits() && !self.is_put_off(&live.rule.input.interface);
        let waiting: Vec<_> =
            self.book.iter().filter(|(_, live)| waits(live)).map(|(place, _)| place).collect();
        self.retry(&waiting).await;
        let counters = self.workers.counters();
        self.inputs.values_mut().for_each(|live| live.input.settle(&counters, false));
        self.streams.sweep();
    }

    /// All interfaces that rules name.
    pub(super) fn interfaces(&self) -> BTreeSet<String> {
        self.book.iter().flat_map(|(_, live)| live.interfaces()).map(str::to_owned).collect()
    }

    /// Looks again at what there is of interfaces that have changed, or are gone, be there others of their names or not: lets go
    /// what is gone, and has rules that wait try again.
    pub(super) async fn reconsider(&mut self, changes: &BTreeMap<String, bool>) {
        let stale = changes.iter().filter(|(name, is_gone)| **is_gone || self.is_stale(name));
        let stale = stale.map(|(name, _)| name.clone()).collect();
        self.let_go_all(&stale, "it is gone").await;
        for (order, socket) in changes.keys().flat_map(|name| self.outputs.refresh(name)).collect::<Vec<_>>()
        {
            self.workers.tell(&order, Some(&socket));
        }
        self.put_off.retain(|name, _| !changes.contains_key(name));
        let mentions = |live: &LiveRule| live.interfaces().any(|name| changes.contains_key(name));
        let places: Vec<_> =
            self.book.iter().filter(|(_, live)| mentions(live)).map(|(place, _)| place).collect();
        self.retry(&places).await;
    }

    /// Takes from all rules what they have of interfaces that are `stale`.
    async fn let_go_all(&mut self, stale: &BTreeSet<String>, why: &str) {
        let mentions = |live: &LiveRule| live.interfaces().any(|name| stale.contains(name));
        let places: Vec<_> =
            self.book.iter().filter(|(_, live)| mentions(live)).map(|(place, _)| place).collect();
        let touched: Vec<_> = places.into_iter().filter(|place| self.let_go(*place, stale, why)).collect();
        for place in &touched {
            self.tell_rule(*place);
        }
        if !touched.is_empty() {
            self.close_unused().await;
        }
    }

    /// Has those of the rules at `places` that wait try again, together with the others that listen on the same interface.
    async fn retry(&mut self, places: &[u32]) {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for place in places {
            let Some(live) = self.book.get(*place).filter(|live| live.waits()) else { continue };
            groups.entry(live.rule.input.interface.clone()).or_default().push(*place);
        }
        for (interface, places) in groups {
            self.attempt(&interface, &places).await;
        }
    }

    /// Does not try the rules on an interface again by itself for a while: what was refused takes long to be tried.
    fn put_off(&mut self, interface: &str) {
        self.put_off.insert(interface.to_owned(), Instant::now() + PUT_OFF_TIME);
    }

    fn is_put_off(&self, interface: &str) -> bool {
        self.put_off.get(interface).is_some_and(|until| Instant::now() < *until)
    }

    /// Gives the rules at `places`, which listen on `interface`, what they wait for and is there now. When workers or the kernel
    /// refuse any of it, all of it is taken back, and it is not tried again at once. Why is written down with the rules.
    async fn attempt(&mut self, interface: &str, places: &[u32]) {
        let mut gained = Vec::new();
        for place in places {
            let Some(before) = self.book.get(*place).filter(|live| live.waits()).cloned() else { continue };
            if self.reconcile(*place).is_err() {
                self.put_off(interface);
            }
            if self.book.get(*place).is_some_and(|live| live.progress() != before.progress()) {
                self.tell_rule(*place);
                gained.push((*place, before));
            } else {
                self.log_state(*place, &before);
            }
        }
        if gained.is_empty() {
            return;
        }
        let begun = self.workers.sync().await.and_then(|()| self.start_inputs());
        for (place, before) in &gained {
            if let Err(error) = &begun {
                self.take_back(*place, before, &error.to_string());
            }
            self.log_state(*place, before);
        }
        if begun.is_err() {
            self.put_off(interface);
            self.close_unused().await;
        }
    }

    /// Logs what the rule at `place` does, when that is not what it did `before`.
    fn log_state(&self, place: u32, before: &LiveRule) {
        let Some(live) = self.book.get(place).filter(|live| live.state() != before.state()) else { return };
        if live.progress() == before.progress() {
            tracing::warn!("rule \"{}\" {}", live.rule.name, live.state());
        } else {
            tracing::info!("rule \"{}\" {}", live.rule.name, live.state());
        }
    }

    /// Takes from the rule at `place` what it did not have `before`, because of `why`.
    fn take_back(&mut self, place: u32, before: &LiveRule, why: &str) {
        let is_new = |has: bool, had: bool| has && !had;
        self.take(
            place,
            |live| {
                let outputs = live.outputs.iter().zip(&before.outputs);
                let outputs = outputs.map(|(now, before)| is_new(now.open.is_ok(), before.open.is_ok()));
                Lost { input: is_new(live.input.is_ok(), before.input.is_ok()), outputs: outputs.collect() }
            },
            why,
        );
        self.tell_rule(place);
    }

    /// Whether the interface that `name` had is gone, be there another of that name or not.
    fn is_stale(&self, name: &str) -> bool {
        let found = find(name).ok();
        let index = found.as_ref().map(|interface| interface.index);
        let headers = |interface: &Interface| (interface.index, interface.link_layer);
        let input = self.inputs.get(name).map(|live| headers(&live.input.interface));
        let mut outputs = self.book.iter().flat_map(|(_, live)| &live.outputs);
        let is_other =
            |address: &EgressAddress| address.interface == name && Some(address.interface_index) != index;
        input.is_some_and(|input| Some(input) != found.as_ref().map(headers))
            || outputs.any(|output| output.open.as_ref().is_ok_and(|(_, address)| is_other(address)))
    }

    /// Takes from the rule at `place` what it has of interfaces that are `stale`; says whether there was anything.
    fn let_go(&mut self, place: u32, stale: &BTreeSet<String>, why: &str) -> bool {
        let is_stale = |output: &LiveOutput| {
            output.open.as_ref().is_ok_and(|(_, address)| stale.contains(&address.interface))
        };
        let lost = |live: &LiveRule| Lost {
            input: live.input.is_ok() && stale.contains(&live.rule.input.interface),
            outputs: live.outputs.iter().map(is_stale).collect(),
        };
        let touched = self.take(place, lost, why);
        if let Some(live) = self.book.get(place).filter(|_| touched) {
            tracing::warn!("rule \"{}\" {}", live.rule.name, live.state());
        }
        touched
    }

    /// Takes from the rule at `place` what is `lost`, because of `why`; says whether there was anything.
    fn take(&mut self, place: u32, lost: impl Fn(&LiveRule) -> Lost, why: &str) -> bool {
        let Some(mut live) = self.book.get(place).cloned() else { return false };
        let lost = lost(&live);
        if let (true, Ok(listening)) = (lost.input, &live.input) {
            self.stop_listening(&live, *listening);
            live.input = Err(format!("input {}: {why}", live.rule.input.interface));
        }
        let outputs = live.outputs.iter_mut().zip(&live.rule.outputs).zip(&lost.outputs);
        for ((output, to), _) in outputs.filter(|(_, is_lost)| **is_lost) {
            if let Ok((_, address)) = &output.open {
                self.close_output(address);
            }
            output.open = Err(format!("output {to}: {why}"));
        }
        if let Some(kept) = self.book.get_mut(place) {
            *kept = live;
        }
        lost.input || lost.outputs.contains(&true)
    }
}

/// What a rule has no more: its input, and which of its outputs.
struct Lost {
    input: bool,
    outputs: Vec<bool>,
}
