//! Conditions, as results tell of them.

use serde::Deserialize;

use super::numbers::grouped;
use super::units::many;

/// Everything that may differ between two trials of a subject, except the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition<'a> {
    pub(super) cast: &'a str,
    /// Empty where the file does not say, because there could be but one.
    pub(super) segmentation: &'a str,
    pub(super) sink_kind: &'a str,
    pub(super) fan_out: u64,
    pub(super) flows: u64,
    pub(super) payload_bytes: u64,
    pub(super) foreign_pps: u64,
    pub(super) rate_pps: u64,
}

impl<'a> Condition<'a> {
    /// From its names and its numbers, in the order of the fields.
    pub(super) fn of(names: [&'a str; 3], numbers: [u64; 5]) -> Self {
        let [cast, segmentation, sink_kind] = names;
        let [fan_out, flows, payload_bytes, foreign_pps, rate_pps] = numbers;
        Self { cast, segmentation, sink_kind, fan_out, flows, payload_bytes, foreign_pps, rate_pps }
    }
}

/// The condition of the subject beneath the line, where it is another one.
#[derive(Debug, Deserialize)]
pub(super) struct OtherCondition {
    cast: String,
    segmentation: String,
    sink_kind: String,
    fan_out: u64,
    flows: u64,
    payload_bytes: u64,
    #[serde(default)]
    foreign_pps: u64,
    rate_pps: u64,
}

impl OtherCondition {
    pub(super) fn condition(&self) -> Condition<'_> {
        let Self { cast, segmentation, sink_kind, .. } = self;
        let Self { fan_out, flows, payload_bytes, foreign_pps, rate_pps, .. } = *self;
        Condition::of([cast, segmentation, sink_kind], [fan_out, flows, payload_bytes, foreign_pps, rate_pps])
    }
}

/// Under which condition, whatever the rate.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct FoundCondition {
    #[serde(default)]
    pub(super) cast: String,
    #[serde(default)]
    pub(super) segmentation: String,
    pub(super) sink_kind: String,
    #[serde(default = "one")]
    pub(super) fan_out: u64,
    #[serde(default = "one")]
    pub(super) flows: u64,
    pub(super) payload_bytes: u64,
    #[serde(default)]
    pub(super) foreign_pps: u64,
}

impl FoundCondition {
    pub(super) fn in_words(&self) -> String {
        let Self { cast, segmentation, sink_kind, fan_out, flows, payload_bytes, foreign_pps } = self;
        let (payload, flows) = (grouped(*payload_bytes), many(*flows as usize, "flow"));
        let segmentation =
            if segmentation.is_empty() { String::new() } else { format!(", segmentation {segmentation}") };
        let foreign = match *foreign_pps {
            0 => String::new(),
            foreign => format!(", {} foreign beside", grouped(foreign)),
        };
        let cast = if cast.is_empty() { String::new() } else { format!(", {cast}") };
        format!("{payload} B, {flows}, {fan_out} {sink_kind} sinks{segmentation}{cast}{foreign}")
    }
}

/// Of what a file does not say that was written before there could be more.
pub(super) fn one() -> u64 {
    1
}
