//! What a file with results says of a search.

use serde::Deserialize;

use super::condition::FoundCondition;
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
