//! What a scenario says of searches.

use multicast_relay::config::document::Section;

use super::Measure;
use super::expect::Known;
use super::read::defaulted;

/// How close a search gets unless it is told.
const WIDTH: f64 = 0.05;

/// How `lab search` goes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// How close it gets: the upper bound of a rate is at most this much higher than the lower one.
    pub width: f64,
    /// Whose highest rates are compared.
    pub ratios: Vec<SearchRatio>,
}

/// The highest rate without loss of one subject, divided by that of another.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchRatio {
    /// The subject above the line.
    pub of: String,
    /// The subject beneath it.
    pub to: String,
    /// What the ratio must come to.
    pub at_least: f64,
}

/// Reads `[search]`.
pub(super) fn read(section: Option<&Section<'_>>, known: &Known<'_>) -> Option<Search> {
    let Some(section) = section else { return Some(Search { width: WIDTH, ratios: Vec::new() }) };
    let width = defaulted(section, "width", WIDTH, || section.number("width", 0.001..=1.0));
    let ratios = defaulted(section, "ratio", Vec::new(), || section.sections("ratio"));
    let ratios: Vec<_> = ratios.iter().flatten().map(|ratio| read_ratio(ratio, known)).collect();
    if section.has("ratio") {
        check_range(section, known);
    }
    Some(Search { width: width?, ratios: ratios.into_iter().collect::<Option<_>>()? })
}

/// Bounds take something between which they can be.
fn check_range(section: &Section<'_>, known: &Known<'_>) {
    let rates = known.traffic.map_or(&[][..], |traffic| &traffic.rates_pps);
    if let Some(rate) = rates.first()
        && rates.iter().all(|other| other == rate)
    {
        let higher = rate.saturating_mul(10);
        let remedy = format!("write traffic.rate-pps = [{rate}, {higher}]");
        section.mistake(
            "ratio",
            format!("takes a search between two rates, and there is only {rate}: {remedy}"),
        );
    }
    if known.trials.is_some_and(|trials| trials.measure == Measure::JoinLeave) {
        section.mistake(
            "ratio",
            "takes a search, which looks for loss: that is not counted with trials.measure = \"join-leave\"",
        );
    }
}

fn read_ratio(section: &Section<'_>, known: &Known<'_>) -> Option<SearchRatio> {
    section.require("of", "the subject above the line, such as \"mmap\"");
    section.require("to", "the subject beneath the line, such as \"socat\"");
    section.require("at-least", "what the ratio must come to, such as 2");
    let [of, to] = ["of", "to"].map(|key| section.string(key));
    for (key, name) in [("of", of), ("to", to)] {
        if let Some(name) = name {
            known.check_subject(section, key, name);
        }
    }
    if of.is_some() && of == to {
        section.mistake("to", "is the same subject as `of`: name another one");
    }
    let at_least = section.number("at-least", 0.001..=1_000.0);
    Some(SearchRatio { of: of?.to_owned(), to: to?.to_owned(), at_least: at_least? })
}
