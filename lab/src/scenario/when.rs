//! What one side of a ratio fixes of the condition.

use std::fmt;

use multicast_relay::config::document::Section;

use super::settings::Setting;
use super::{Links, Sinks, Traffic};
use crate::topology::Segmentation;

/// Parts of a condition; what is `None` is left to the lists of the scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// Where super-frames are cut.
    pub segmentation: Option<Segmentation>,
    /// How many sinks there are.
    pub fan_out: Option<usize>,
    /// How many flows.
    pub flows: Option<usize>,
    /// UDP payload in bytes.
    pub payload_bytes: Option<usize>,
    /// Foreign datagrams per second.
    pub foreign_pps: Option<u64>,
    /// Datagrams per second.
    pub rate_pps: Option<u64>,
}

impl When {
    /// `setting` with the parts of this.
    pub(super) fn applied_to(&self, setting: Setting) -> Setting {
        Setting {
            segmentation: self.segmentation.unwrap_or(setting.segmentation),
            fan_out: self.fan_out.unwrap_or(setting.fan_out),
            flows: self.flows.unwrap_or(setting.flows),
            payload_bytes: self.payload_bytes.unwrap_or(setting.payload_bytes),
            foreign_pps: self.foreign_pps.unwrap_or(setting.foreign_pps),
            rate_pps: self.rate_pps.unwrap_or(setting.rate_pps),
            ..setting
        }
    }

    /// Whether `setting` has the parts of this.
    pub(super) fn fits(&self, setting: Setting) -> bool {
        self.applied_to(setting) == setting
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("segmentation", self.segmentation.map(|segmentation| segmentation.to_string())),
            ("sinks", self.fan_out.map(|count| count.to_string())),
            ("flows", self.flows.map(|count| count.to_string())),
            ("payload-bytes", self.payload_bytes.map(|bytes| bytes.to_string())),
            ("foreign-pps", self.foreign_pps.map(|rate| rate.to_string())),
            ("rate-pps", self.rate_pps.map(|rate| rate.to_string())),
        ];
        let told = parts.into_iter().filter_map(|(key, value)| Some(format!("{key} {}", value?)));
        f.write_str(&told.collect::<Vec<_>>().join(", "))
    }
}

/// The lists of a scenario, as far as they could be read.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    pub(super) links: &'a Links,
    pub(super) sinks: Option<&'a Sinks>,
    pub(super) traffic: Option<&'a Traffic>,
}

/// What a table can fix, and which key of the scenario has the list of it.
const KEYS: [(&str, &str); 6] = [
    ("segmentation", "link.segmentation"),
    ("sinks", "sinks.count"),
    ("flows", "traffic.flows"),
    ("payload-bytes", "traffic.payload-bytes"),
    ("foreign-pps", "traffic.foreign-pps"),
    ("rate-pps", "traffic.rate-pps"),
];

/// Reads `of-when` and `to-when` of a ratio; both are empty where neither is written.
pub(super) fn read(ratio: &Section<'_>, lists: Lists<'_>) -> Option<[When; 2]> {
    let tables = ["of-when", "to-when"].map(|key| (key, ratio.section(key)));
    for (i, (key, table)) in tables.iter().enumerate() {
        let (other_key, other) = &tables[1 - i];
        // What is written and is no table has been told.
        if other.is_none() && ratio.has(other_key) {
            continue;
        }
        for (part, _) in KEYS.iter().filter(|(part, _)| table.as_ref().is_some_and(|table| table.has(part))) {
            if !other.as_ref().is_some_and(|other| other.has(part)) {
                let at = if other.is_some() { other_key } else { key };
                ratio.mistake(
                    at,
                    format!("`{key}` fixes `{part}` and `{other_key}` does not: write it in both tables"),
                );
            }
        }
    }
    let [of, to] = tables.map(|(key, table)| match table {
        Some(table) => read_table(&table, lists).ok(),
        None => (!ratio.has(key)).then(When::default),
    });
    if of.is_some_and(|of| of.rate_pps.is_some()) && ratio.has("rate-pps") {
        ratio.mistake("rate-pps", "the rates are fixed by `of-when` and `to-when`: remove it");
    }
    Some([of?, to?])
}

/// A mistake that is among the others of the document.
struct Told;

fn read_table(table: &Section<'_>, lists: Lists<'_>) -> Result<When, Told> {
    if !KEYS.iter().any(|(key, _)| table.has(key)) {
        let keys = KEYS.map(|(key, _)| key).join(", ");
        table.mistake("", format!("fixes nothing: give one of {keys}, or leave the table out"));
    }
    let Lists { links, sinks, traffic } = lists;
    let number = |key, all: Option<Vec<u64>>| fixed(table, key, all, || table.integer(key, 0..=u64::MAX));
    let numbers = |list: &[usize]| list.iter().map(|number| *number as u64).collect::<Vec<_>>();
    let fan_out = number("sinks", sinks.map(|sinks| numbers(&sinks.counts)));
    let flows = number("flows", traffic.map(|traffic| numbers(&traffic.flows)));
    let payload_bytes = number("payload-bytes", traffic.map(|traffic| numbers(&traffic.payloads_bytes)));
    let foreign_pps = number("foreign-pps", traffic.map(|traffic| traffic.foreign_pps.clone()));
    let rate_pps = number("rate-pps", traffic.map(|traffic| traffic.rates_pps.clone()));
    let segmentation = fixed(table, "segmentation", Some(links.segmentations.clone()), || {
        table.choice("segmentation", &Segmentation::NAMES)
    });
    Ok(When {
        segmentation: segmentation?,
        fan_out: fan_out?.map(|count| count as usize),
        flows: flows?.map(|count| count as usize),
        payload_bytes: payload_bytes?.map(|bytes| bytes as usize),
        foreign_pps: foreign_pps?,
        rate_pps: rate_pps?,
    })
}

/// What `read` makes of `key`, which must be among `all`; `None` when it is not written.
fn fixed<T: PartialEq + ToString>(
    table: &Section<'_>,
    key: &str,
    all: Option<Vec<T>>,
    read: impl FnOnce() -> Option<T>,
) -> Result<Option<T>, Told> {
    if !table.has(key) {
        return Ok(None);
    }
    let value = read().ok_or(Told)?;
    let all = all.ok_or(Told)?;
    if !all.contains(&value) {
        let list = KEYS.iter().find(|(known, _)| *known == key).map_or("the scenario", |(_, list)| list);
        let known = all.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
        let value = value.to_string();
        table.mistake(key, format!("the scenario has no {value}: {list} has {known}"));
    }
    Ok(Some(value))
}
