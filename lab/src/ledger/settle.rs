//! Settling a ledger: walks the places in order and explains each count by the one before.

use std::collections::BTreeMap;

use super::{Facts, Foreign, Gap, Ledger, NamedDrop, Place, RelayCounters, Step, Wire};

/// Explains every count of `facts` by the one before, and names what cannot be explained.
pub fn settle(facts: &Facts) -> Ledger {
    let mut ledger = Ledger { foreign: Foreign::of(facts), ..Ledger::default() };
    let mut flow = Flow { ours: facts.intended, others: 0 };
    ledger.steps.push(Step::new(Place::Intended, facts.intended));
    let mut unsent = named(&facts.refused, "generator");
    unsent.extend(one("not offered in time", "generator", facts.not_offered));
    unsent.extend(one(LINK_DOWN, "the lab, which took the link down", facts.link_down));
    flow.pass(&mut ledger, Crossing::new(Place::Sent, facts.sent).drops(unsent));
    let strays = match &facts.ingress {
        Some(ingress) => through_the_subject(&mut flow, &mut ledger, facts, ingress),
        None => None,
    };
    tails(&mut ledger, facts, strays);
    ledger.adds_up = ledger.gaps.is_empty();
    ledger
}

/// From the wire that goes in to the wires that come out. Returns how many frames on those are none of ours, if the
/// subject's counters tell.
fn through_the_subject(flow: &mut Flow, ledger: &mut Ledger, facts: &Facts, ingress: &Wire) -> Option<u64> {
    let copies = facts.outputs.len() as u64;
    let mut entry = Crossing::new(Place::IngressDevice, ingress.received).wire_drops(wire_drops(ingress));
    entry.foreign = facts.foreign.sent;
    flow.pass(ledger, entry);

    let transmitted = facts.outputs.iter().map(|output| output.wire.transmitted).sum();
    let mut egress = Crossing::new(Place::EgressDevice, transmitted);
    let transmit_dropped: u64 = facts.outputs.iter().map(|output| output.wire.transmit_dropped).sum();
    let full = |polled| {
        let wires = facts.outputs.iter().map(|output| output.wire);
        wires.filter(|wire| wire.polled == polled).map(|wire| wire.full_queue()).sum::<u64>()
    };
    egress.wire_drops = one("rx_dropped", "sink device", full(false));
    egress.wire_drops.extend(one("ring full", "sink device, which polls (NAPI)", full(true)));
    let queue_full = full(false) + full(true);
    egress.device_drops = one("tx_dropped", "egress device", transmit_dropped - queue_full);
    if let Some(relay) = &facts.relay {
        let mut missed = incomplete(facts.fragmented, ingress);
        if facts.ingress_is_new {
            missed.extend(one(NOT_CAPTURED, "relay, whose interface was made anew", ingress.received));
        }
        relay_steps(flow, ledger, relay, facts.foreign.sent, copies, missed);
    } else {
        // Nobody else has anything to do with them.
        flow.ours = flow.ours.saturating_sub(facts.foreign.sent);
        egress.copies = copies;
        egress.silent_subject = true;
    }
    flow.pass(ledger, egress);
    let strays = ledger.step(Place::EgressDevice).map_or(0, |egress| egress.other_frames);
    facts.relay.as_ref().map(|_| strays)
}

fn relay_steps(
    flow: &mut Flow,
    ledger: &mut Ledger,
    relay: &RelayCounters,
    foreign: u64,
    copies: u64,
    missed: Vec<NamedDrop>,
) {
    // Its filter counts what nobody offered as well.
    let strays = relay.foreign.saturating_sub(foreign).min(flow.others);
    flow.others -= strays;
    let mut unread = one(FOREIGN, "rule filter", relay.foreign - strays);
    unread.extend(one("kernel dropped", "packet socket", relay.kernel_dropped));
    unread.extend(one("left in the socket", "packet socket", relay.left_in_socket));
    unread.extend(one("abandoned", "relay, a worker of which died or whose interface went", relay.abandoned));
    let mut received = Crossing::new(Place::RelayReceived, relay.received).drops(unread);
    received.device_drops = missed;
    received.taken_again = relay.taken_again;
    flow.pass(ledger, received);
    let mut matched = Crossing::new(Place::Matched, relay.matched);
    matched.foreign_drops = named(&relay.dropped, "relay");
    flow.pass(ledger, matched);
    let mut relayed = Crossing::new(Place::RelayedCopies, relay.relayed).drops(named(&relay.failed, "relay"));
    relayed.copies = copies;
    flow.pass(ledger, relayed);
}

/// The way from each output device to its sink, checked for every sink alone and noted as one sum.
///
/// `strays` is how many frames on the output devices are none of ours, where the subject's counters tell; else it is
/// at most what the sinks saw of such frames. To a sink that sees none, and that nothing of the trial is missing at,
/// whatever else its device carried is such frames.
fn tails(ledger: &mut Ledger, facts: &Facts, mut strays: Option<u64>) {
    let mut device = Step::new(Place::SinkDevice, 0);
    let mut sink = Step::new(Place::Sink, 0);
    for (i, output) in facts.outputs.iter().enumerate() {
        let mut alone = Ledger::default();
        let mut on_wire = one("rx_dropped", "sink device", output.wire.receive_dropped);
        let mut flow = Flow { ours: output.wire.transmitted, others: 0 };
        if facts.ingress.is_none() {
            // The near end is the generator's.
            flow.ours = facts.sent;
            on_wire = one("rx_dropped", "sink device", output.wire.full_queue());
            let queue_full = output.wire.full_queue().min(output.wire.transmit_dropped);
            on_wire.extend(one("tx_dropped", "generator device", output.wire.transmit_dropped - queue_full));
        }
        flow.pass(&mut alone, Crossing::new(Place::SinkDevice, output.wire.received).wire_drops(on_wire));

        let dropped = named(&output.dropped, "sink");
        let missing = flow.ours.saturating_sub(sum(&dropped)).saturating_sub(output.arrived);
        let unclaimed = output.unclaimed.min(missing);
        let incomplete = incomplete(facts.fragmented, &output.wire);
        let after_all = one("rx_dropped", "sink device", output.wire.dropped_after_all());
        let rest = (missing - unclaimed).saturating_sub(sum(&incomplete) + sum(&after_all));
        let others = match output.other_frames {
            None if output.lost == 0 => rest,
            seen => strays.or(seen).unwrap_or_default().min(rest),
        };
        strays = strays.map(|left| left.saturating_sub(others));
        let mut arrival = Crossing::new(Place::Sink, output.arrived).drops(dropped);
        arrival.drops.extend(one("unclaimed", "sink's IP stack", unclaimed));
        arrival.drops.extend(one("other frames", "sink", others));
        arrival.device_drops = incomplete;
        arrival.wire_drops = after_all;
        flow.pass(&mut alone, arrival);

        for step in alone.steps {
            let sum = if step.place == Place::Sink { &mut sink } else { &mut device };
            sum.add(step);
        }
        let blind = output.other_frames.is_none();
        let remedy = |gap: &Gap| (blind && gap.place == Place::Sink).then_some(ASK_THE_PACKET_SINK);
        let gaps = alone.gaps.into_iter();
        ledger.gaps.extend(gaps.map(|gap| Gap { output: Some(i), remedy: remedy(&gap), ..gap }));
    }
    ledger.steps.extend([device, sink]);
}

/// What to do about a gap at a sink that does not see every frame.
const ASK_THE_PACKET_SINK: &str =
    "the socket sink does not see frames that are no UDP, sinks.kind = \"packet\" can tell";

/// What the ledger calls a datagram that came before the relay had a socket on a device that is new.
const NOT_CAPTURED: &str = "not captured";
/// What the ledger calls a datagram that was offered while the link was down.
pub(crate) const LINK_DOWN: &str = "link-down";
/// What the ledger calls a datagram that ends at the relay's filter.
pub(crate) const FOREIGN: &str = "foreign";

/// What is on its way between two places.
#[derive(Clone, Copy)]
struct Flow {
    /// Datagrams of the trial, and the foreign ones that the lab offered beside them.
    ours: u64,
    /// Frames that nobody of the lab offered, and that may vanish without anybody naming them.
    others: u64,
}

/// A place to be passed, and what is known of the way there.
struct Crossing {
    place: Place,
    count: u64,
    copies: u64,
    /// Foreign datagrams that join on the way.
    foreign: u64,
    /// Datagrams that a worker has taken a second time.
    taken_again: u64,
    /// Drops that are exact.
    drops: Vec<NamedDrop>,
    /// Exact drops that hit frames which are none of ours first.
    foreign_drops: Vec<NamedDrop>,
    /// Drops by device counters, which overlap (one lost frame may be in two of them) and also count frames that
    /// somebody else knew to be refused: they explain at most what is missing.
    device_drops: Vec<NamedDrop>,
    /// Likewise, on wires of the lab's own; they explain what is missing first.
    wire_drops: Vec<NamedDrop>,
    /// Whether the subject lies on this way and says nothing.
    silent_subject: bool,
}

impl Crossing {
    fn new(place: Place, count: u64) -> Self {
        Self {
            place,
            count,
            copies: 1,
            foreign: 0,
            taken_again: 0,
            drops: Vec::new(),
            foreign_drops: Vec::new(),
            device_drops: Vec::new(),
            wire_drops: Vec::new(),
            silent_subject: false,
        }
    }

    fn drops(self, drops: Vec<NamedDrop>) -> Self {
        Self { drops, ..self }
    }

    fn wire_drops(self, wire_drops: Vec<NamedDrop>) -> Self {
        Self { wire_drops, ..self }
    }
}

impl Flow {
    fn pass(&mut self, ledger: &mut Ledger, crossing: Crossing) {
        let place = crossing.place;
        let Crossing { copies, foreign, taken_again, .. } = crossing;
        let mut step = Step { copies, foreign, taken_again, ..Step::new(place, crossing.count) };
        let (ours, others) = (self.ours * copies + foreign + taken_again, self.others * copies);

        let unruled = sum(&crossing.foreign_drops);
        let dropped = sum(&crossing.drops) + unruled.saturating_sub(others);
        let others = others.saturating_sub(unruled);
        step.drops = crossing.drops;
        step.drops.extend(crossing.foreign_drops);

        let mut missing = i128::from(ours) - i128::from(dropped) - i128::from(crossing.count);
        step.lost_on_wire = step.explain(crossing.wire_drops, missing);
        missing -= i128::from(step.lost_on_wire);
        missing -= i128::from(step.explain(crossing.device_drops, missing));

        let surplus = u64::try_from(-missing).unwrap_or_default();
        if missing > 0 && crossing.silent_subject {
            let count = u64::try_from(missing).unwrap_or(u64::MAX);
            step.drops.extend(one("not relayed (net)", "subject, which reports no counters", count));
        } else if surplus > 0 && crossing.silent_subject {
            step.added_by_subject = surplus;
        } else if surplus > 0 && surplus <= crossing.count && (place.is_device() || surplus <= others) {
            step.other_frames = surplus;
        } else if missing != 0 {
            step.unexplained = i64::try_from(missing).unwrap_or(i64::MAX);
            let (unexplained, keeper) = (step.unexplained, place.keeper());
            ledger.gaps.push(Gap { place, output: None, unexplained, keeper, remedy: None });
        }
        *self = Self { ours: crossing.count.saturating_sub(step.other_frames), others: step.other_frames };
        ledger.steps.push(step);
    }
}

impl Step {
    fn new(place: Place, count: u64) -> Self {
        Self {
            place,
            count,
            copies: 1,
            drops: Vec::new(),
            lost_on_wire: 0,
            foreign: 0,
            taken_again: 0,
            other_frames: 0,
            added_by_subject: 0,
            unexplained: 0,
        }
    }

    /// Explains of what is `missing` as much as device counters can, and returns how much that is.
    fn explain(&mut self, device_drops: Vec<NamedDrop>, missing: i128) -> u64 {
        let mut left = u64::try_from(missing).unwrap_or_default();
        let before = left;
        for mut drop in device_drops {
            drop.count = drop.count.min(left);
            left -= drop.count;
            self.drops.extend((drop.count > 0).then_some(drop));
        }
        before - left
    }

    /// Adds the same step of another output.
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.lost_on_wire += other.lost_on_wire;
        self.other_frames += other.other_frames;
        self.unexplained += other.unexplained;
        for drop in other.drops {
            match self.drops.iter_mut().find(|known| known.name == drop.name && known.source == drop.source) {
                Some(known) => known.count += drop.count,
                None => self.drops.push(drop),
            }
        }
    }
}

/// Datagrams that the frames dropped on `wire` may have left incomplete: each fragment may be of another datagram, and
/// the devices count those that are missing as if they were of as few as possible.
fn incomplete(fragmented: bool, wire: &Wire) -> Vec<NamedDrop> {
    one("incomplete", "fragments dropped before", if fragmented { wire.dropped() } else { 0 })
}

/// The drops of the wire from the generator.
fn wire_drops(wire: &Wire) -> Vec<NamedDrop> {
    let mut drops = one("tx_dropped", "generator device", wire.transmit_dropped);
    drops.extend(one("rx_dropped", "ingress device", wire.receive_dropped));
    drops
}

fn sum(drops: &[NamedDrop]) -> u64 {
    drops.iter().map(|drop| drop.count).sum()
}

fn one(name: &str, source: &str, count: u64) -> Vec<NamedDrop> {
    let drop = NamedDrop { name: name.to_owned(), source: source.to_owned(), count };
    if count > 0 { vec![drop] } else { Vec::new() }
}

fn named(counts: &BTreeMap<String, u64>, source: &str) -> Vec<NamedDrop> {
    counts.iter().flat_map(|(name, count)| one(name, source, *count)).collect()
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod foreign_tests;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
