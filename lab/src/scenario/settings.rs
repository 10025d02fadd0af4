//! What a scenario varies, and the conditions that come of it.

use super::{Cast, Condition, GeneratorChoice, Ratio, Scenario, SinkChoice};
use crate::generator::{GeneratorKind, xdp_obstacle};
use crate::topology::Segmentation;

/// One of each list in a scenario. Whom "auto" stands for follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) cast: Cast,
    pub(super) segmentation: Segmentation,
    pub(super) sink: SinkChoice,
    pub(super) fan_out: usize,
    pub(super) flows: usize,
    pub(super) payload_bytes: usize,
    pub(super) foreign_pps: u64,
    pub(super) rate_pps: u64,
}

impl Scenario {
    /// Every condition, rates changing fastest.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for condition in self.settings().iter().map(|setting| self.condition(setting)) {
            // Two choices may come to the same.
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
        conditions
    }

    /// Under which conditions `ratio` is to be told: that of its `of` side, and that of its `to` side. They differ in what
    /// the ratio fixes, and in whom "auto" stands for because of it.
    pub fn conditions_of(&self, ratio: &Ratio) -> Vec<[Condition; 2]> {
        let mut conditions = Vec::new();
        for of in self.settings().into_iter().filter(|setting| ratio.of_when.fits(*setting)) {
            let to = ratio.to_when.applied_to(of);
            let sides = [of, to].map(|setting| self.condition(&setting));
            if ratio.applies_to(&sides) && !conditions.contains(&sides) {
                conditions.push(sides);
            }
        }
        conditions
    }

    /// One of each list with one of each other, in the order of conditions.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (&cast, &segmentation) in pairs(&self.traffic.casts, &self.link.segmentations) {
            for (&sink, &fan_out) in pairs(&self.sinks.kinds, &self.sinks.counts) {
                for (&flows, &payload_bytes) in pairs(&self.traffic.flows, &self.traffic.payloads_bytes) {
                    let rates = pairs(&self.traffic.foreign_pps, &self.traffic.rates_pps);
                    settings.extend(rates.map(|(&foreign_pps, &rate_pps)| Setting {
                        cast,
                        segmentation,
                        sink,
                        fan_out,
                        flows,
                        payload_bytes,
                        foreign_pps,
                        rate_pps,
                    }));
                }
            }
        }
        settings
    }

    /// What `setting` comes to.
    pub(super) fn condition(&self, setting: &Setting) -> Condition {
        let Setting { cast, segmentation, fan_out, flows, payload_bytes, foreign_pps, rate_pps, .. } =
            *setting;
        let (sink_kind, generator) = (self.sink_kind(setting), self.generator_of(payload_bytes));
        Condition {
            cast,
            segmentation,
            sink_kind,
            fan_out,
            generator,
            flows,
            payload_bytes,
            foreign_pps,
            rate_pps,
        }
    }

    /// Who sends payloads of this size.
    fn generator_of(&self, payload_bytes: usize) -> GeneratorKind {
        match self.traffic.generator {
            GeneratorChoice::Always(kind) => kind,
            GeneratorChoice::Auto if xdp_obstacle(self.link.ingress(), payload_bytes).is_some() => {
                GeneratorKind::Packet
            }
            GeneratorChoice::Auto => GeneratorKind::Xdp,
        }
    }
}

/// Each of `outer` with each of `inner`, which changes faster.
fn pairs<'a, T, U>(outer: &'a [T], inner: &'a [U]) -> impl Iterator<Item = (&'a T, &'a U)> {
    outer.iter().flat_map(move |one| inner.iter().map(move |other| (one, other)))
}
