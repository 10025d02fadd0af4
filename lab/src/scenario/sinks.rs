//! Which kind of sink counts under which condition.

use super::settings::Setting;
use super::{Links, Scenario, Traffic};
use crate::sink::{SinkKind, Unfit, fits_xdp};

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
    /// The kind that counts in `setting`.
    pub(super) fn sink_kind(&self, setting: &Setting) -> SinkKind {
        let (link, datagrams) =
            (self.link.with(setting.segmentation), self.traffic.datagrams(setting.rate_pps));
        match setting.sink {
            SinkChoice::Only(kind) => kind,
            SinkChoice::Auto if self.traffic.replay.is_some() => SinkKind::Packet,
            SinkChoice::Auto => match fits_xdp(link, setting.payload_bytes, datagrams) {
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
        unfit(&self.link, &self.traffic)
    }
}

/// Everything that keeps the xdp sink from counting some of `traffic` over some of `links`, each once.
pub(super) fn unfit(links: &Links, traffic: &Traffic) -> Vec<Unfit> {
    if traffic.replay.is_some() {
        return vec![Unfit::Recorded];
    }
    let mut reasons = Vec::new();
    for link in links.segmentations.iter().map(|segmentation| links.with(*segmentation)) {
        for &payload_bytes in &traffic.payloads_bytes {
            for datagrams in traffic.rates_pps.iter().map(|rate| traffic.datagrams(*rate)) {
                if let Err(reason) = fits_xdp(link, payload_bytes, datagrams)
                    && !reasons.contains(&reason)
                {
                    reasons.push(reason);
                }
            }
        }
    }
    reasons
}
