//! Which kind of sink counts under which condition.

use super::{Scenario, Traffic};
use crate::sink::{SinkKind, Unfit, fits_xdp};
use crate::topology::Link;

/// What a scenario says of the kind of its sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkChoice {
    /// The xdp sink where it can count, the packet sink elsewhere.
    Auto,
    /// This one.
    Only(SinkKind),
}

impl SinkChoice {
    /// Every choice with its name in scenarios.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("xdp", Self::Only(SinkKind::Xdp)),
        ("packet", Self::Only(SinkKind::Packet)),
        ("socket", Self::Only(SinkKind::Socket)),
    ];
}

impl Scenario {
    /// The kind that counts payloads of `payload_bytes` at `rate_pps`.
    pub(super) fn sink_kind(&self, choice: SinkChoice, payload_bytes: usize, rate_pps: u64) -> SinkKind {
        match choice {
            SinkChoice::Only(kind) => kind,
            SinkChoice::Auto => match fits_xdp(self.link, payload_bytes, self.traffic.datagrams(rate_pps)) {
                Ok(()) => SinkKind::Xdp,
                Err(_) => SinkKind::Packet,
            },
        }
    }

    /// Whether "auto" stands for the xdp sink somewhere.
    pub fn may_choose_xdp(&self) -> bool {
        self.sinks.kinds.contains(&SinkChoice::Auto)
            && self.conditions().iter().any(|condition| condition.sink_kind == SinkKind::Xdp)
    }

    /// Takes the packet sink wherever "auto" stands.
    pub fn without_xdp(&mut self) {
        for choice in self.sinks.kinds.iter_mut().filter(|choice| **choice == SinkChoice::Auto) {
            *choice = SinkChoice::Only(SinkKind::Packet);
        }
    }

    /// Why "auto" is the packet sink under some conditions.
    pub fn xdp_unfit(&self) -> Vec<Unfit> {
        if !self.sinks.kinds.contains(&SinkChoice::Auto) {
            return Vec::new();
        }
        unfit(self.link, &self.traffic)
    }
}

/// Everything that keeps the xdp sink from counting some of `traffic`, each once.
pub(super) fn unfit(link: Link, traffic: &Traffic) -> Vec<Unfit> {
    let rates = || traffic.rates_pps.iter().map(|rate| traffic.datagrams(*rate));
    let payloads = traffic.payloads_bytes.iter();
    let conditions = payloads.flat_map(|payload| rates().map(move |datagrams| (*payload, datagrams)));
    let mut reasons = Vec::new();
    for reason in conditions.filter_map(|(payload, datagrams)| fits_xdp(link, payload, datagrams).err()) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}
