//! What a file with results says of a search.

use serde::Deserialize;

use super::numbers::grouped;
use super::record::one;
use super::units::many;
use crate::verdict::Verdict;

/// The highest rate without loss of a subject.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) subject: String,
    pub(super) condition: FoundCondition,
    pub(super) lower_pps: Option<u64>,
    pub(super) upper_pps: Option<u64>,
    pub(super) upper_by: Option<String>,
    #[serde(default = "pass")]
    pub(super) verdict: Verdict,
    #[serde(default)]
    pub(super) reasons: Vec<String>,
}

/// Of what was found before that had a verdict.
fn pass() -> Verdict {
    Verdict::Pass
}

/// The highest rate without loss of one subject against that of another.
#[derive(Debug, Deserialize)]
pub(super) struct FoundRatio {
    pub(super) of: String,
    pub(super) to: String,
    pub(super) condition: FoundCondition,
    pub(super) least: Option<f64>,
    pub(super) most: Option<f64>,
    pub(super) at_least: f64,
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
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
}

impl FoundCondition {
    pub(super) fn in_words(&self) -> String {
        let Self { cast, segmentation, sink_kind, fan_out, flows, payload_bytes } = self;
        let (payload, flows) = (grouped(*payload_bytes), many(*flows as usize, "flow"));
        let segmentation =
            if segmentation.is_empty() { String::new() } else { format!(", segmentation {segmentation}") };
        let cast = if cast.is_empty() { String::new() } else { format!(", {cast}") };
        format!("{payload} B, {flows}, {fan_out} {sink_kind} sinks{segmentation}{cast}")
    }
}
