//! Changing the rules that run.

use std::collections::BTreeMap;

use super::SupervisorError;
use super::book::{Listening, LiveRule};
use super::relay::Relay;
use crate::rules::Rule;
use crate::stats::InputStats;
use crate::sys::udp_socket::EgressAddress;
use crate::worker::order::Order;

impl Relay {
    /// Takes rules out and puts others in, as one change: what cannot be done whole is not done at all, and rules that stay are
    /// not touched. Returns when every worker relays by it.
    pub(super) async fn change(&mut self, remove: &[u32], add: Vec<Rule>) -> Result<(), SupervisorError> {
        let mut added = Vec::with_capacity(add.len());
        let mut struck = Vec::with_capacity(remove.len());
        for place in remove {
            let Some(live) = self.book.strike(*place) else { continue };
            self.leave_leg(*place, &live);
            struck.push((*place, live));
        }
        for rule in add {
            let entered = self.book.enter(rule).and_then(|place| {
                added.push(place);
                self.take_leg(place)?;
                self.reconcile(place)
            });
            if let Err(error) = entered {
                self.undo(added, struck).await;
                return Err(error);
            }
        }
        for (place, _) in &struck {
            self.workers.tell(&Order::EndRule { place: *place }, None);
        }
        // In the place of one with the same input, a rule is known only now.
        for place in &added {
            self.tell_rule(*place);
        }
        let applied = self.workers.sync().await;
        if let Err(error) = applied.and_then(|()| self.capture(&added, &struck)) {
            self.undo(added, struck).await;
            return Err(error);
        }
        self.release(struck).await;
        Ok(())
    }

    pub(super) fn tell_rule(&mut self, place: u32) {
        if let Some(live) = self.book.get(place) {
            self.workers.tell(&live.order(place), None);
        }
    }

    /// Takes back what a change has begun.
    async fn undo(&mut self, added: Vec<u32>, struck: Vec<(u32, LiveRule)>) {
        let mut gone = Vec::new();
        for place in added {
            self.workers.tell(&Order::EndRule { place }, None);
            let Some(live) = self.book.strike(place) else { continue };
            self.leave_leg(place, &live);
            gone.push((place, live));
        }
        for (place, live) in struck {
            self.restore_leg(place, &live);
            self.book.adopt(place, live);
            self.tell_rule(place);
        }
        self.capture_no_more(&gone);
        self.sync_after_ending().await;
        self.release(gone).await;
    }

    /// Has the kernel capture what the rules at `added` take, and not what only `struck` ones took.
    fn capture(&mut self, added: &[u32], struck: &[(u32, LiveRule)]) -> Result<(), SupervisorError> {
        let mut new = BTreeMap::<_, Vec<_>>::new();
        for live in added.iter().filter_map(|place| self.book.get(*place)) {
            new.entry(live.rule.input.interface.as_str()).or_default().push(&live.rule.input);
        }
        for (interface, inputs) in new {
            if let Some(live) = self.inputs.get_mut(interface) {
                live.input.add_rules(inputs.into_iter())?;
            }
        }
        self.capture_no_more(struck);
        self.start_inputs()
    }

    /// Has the kernel capture no more what only `struck` rules took.
    fn capture_no_more(&mut self, struck: &[(u32, LiveRule)]) {
        for (_, live) in struck {
            let Some(input) = self.inputs.get_mut(&live.rule.input.interface) else { continue };
            let taken = &live.rule.input;
            let blocks = taken.port.blocks().filter(|block| !self.book.takes(taken, *block));
            input.input.remove_blocks(taken, blocks);
        }
    }

    /// Begins capture on inputs that are new, when workers have them.
    pub(super) fn start_inputs(&mut self) -> Result<(), SupervisorError> {
        let fanout = self.config.fanout;
        self.inputs.values_mut().try_for_each(|live| live.input.start(fanout))
    }

    /// Gives up what rules had that no worker relays by any more.
    async fn release(&mut self, struck: Vec<(u32, LiveRule)>) {
        if struck.is_empty() {
            return;
        }
        for (_, live) in &struck {
            self.detach(live);
        }
        self.end_streams();
        self.close_unused().await;
        // What is removed is counted no more.
        for number in self.workers.down() {
            self.settle(number);
        }
        for (place, live) in struck {
            for counters in self.workers.counters() {
                let outputs = live.outputs.iter().map(|output| output.counters as usize);
                counters.remove_rule(place as usize, outputs);
            }
            self.book.give_back(place, &live);
        }
    }

    /// Waits until workers have ended what they were told to end.
    async fn sync_after_ending(&mut self) {
        if let Err(error) = self.workers.sync().await {
            // Nothing that a worker ends can be refused, and what holds again held before.
            tracing::error!("{error}");
        }
    }

    /// A rule needs its input, its group and its outputs no more.
    fn detach(&mut self, live: &LiveRule) {
        if let Ok(listening) = live.input {
            self.stop_listening(live, listening);
        }
        for (_, address) in live.outputs.iter().filter_map(|output| output.open.as_ref().ok()) {
            self.close_output(address);
        }
    }

    pub(super) fn stop_listening(&mut self, live: &LiveRule, listening: Listening) {
        for order in self.memberships.leave(&live.rule, listening.interface) {
            self.workers.tell(&order, None);
        }
        if let Some(input) = self.inputs.get_mut(&live.rule.input.interface) {
            input.users = input.users.saturating_sub(1);
        }
    }

    pub(super) fn close_output(&mut self, address: &EgressAddress) {
        if let Some(order) = self.outputs.close(address) {
            self.workers.tell(&order, None);
        }
    }

    /// Closes inputs that no rule listens to.
    pub(super) async fn close_unused(&mut self) {
        let unused = self.inputs.iter().filter(|(_, live)| live.users == 0);
        let unused: Vec<_> = unused.map(|(name, live)| (name.clone(), live.input.place)).collect();
        for (name, place) in &unused {
            if let Some(live) = self.inputs.get_mut(name) {
                live.input.end_consumption();
            }
            self.workers.tell(&Order::EndInput { place: *place }, None);
        }
        self.sync_after_ending().await;
        for (name, place) in unused {
            if let Some(live) = self.inputs.remove(&name) {
                let stats = live.input.close(&self.workers.counters());
                let past = self.past_inputs.entry(name.clone());
                past.or_insert_with(|| InputStats { interface: name, ..InputStats::default() }).add(&stats);
                self.input_places.give_back(place.into());
            }
        }
    }
}
