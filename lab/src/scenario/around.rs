//! Reading what `[expect]` allows around an event, for all subjects and for those to whom something else applies.

use multicast_relay::config::document::Section;

use super::SubjectKind;
use super::expect::Known;
use super::traffic::{DURATION, parse_duration};
use crate::datagram::STAMPED_BYTES;
use crate::disturbance::EventLimits;

/// The tables of subjects to whom something else applies.
const FOR: &str = "for";
const KEYS: [&str; 4] = ["loss-per-event", "duplicates-per-event", "interruption", "recovery"];

/// Reads what `[expect]` says for all, and `[expect.for.NAME]` for each that has one.
pub(super) fn read(expect: &Section<'_>, known: &Known<'_>) -> (EventLimits, Vec<(String, EventLimits)>) {
    let all = read_limits(expect, EventLimits::default(), known);
    let mut others = Vec::new();
    if let Some(section) = expect.section(FOR) {
        for subject in known.subjects {
            let Some(own) = section.section(&subject.name) else { continue };
            if !KEYS.iter().any(|key| own.has(key)) {
                own.mistake("", format!("says nothing: give one of {}, or remove it", KEYS.join(", ")));
            }
            others.push((subject.name.clone(), read_limits(&own, all, known)));
        }
    }
    (all, others)
}

/// What `section` says; what it does not is as in `else_`.
fn read_limits(section: &Section<'_>, else_: EventLimits, known: &Known<'_>) -> EventLimits {
    let has_outages = known.events.iter().any(|event| event.action.is_outage());
    for key in ["loss-per-event", "duplicates-per-event"].into_iter().filter(|key| section.has(key)) {
        if !has_outages {
            section.mistake(
                key,
                "is about workers that die and measured links that go away, and none does: write an [[event]], or remove it",
            );
        }
    }
    if section.has("recovery") && !known.events.iter().any(|event| event.action.cuts_the_measured_link()) {
        section.mistake(
            "recovery",
            "is about a measured link that was down: write an [[event]] with flap = \"ingress\" or \"egress\"",
        );
    }
    check_interruption(section, known);
    let count = |key| section.has(key).then(|| section.integer(key, 0..=u64::MAX)).flatten();
    let duration = |key| section.parsed(key, DURATION, parse_duration);
    EventLimits {
        loss_per_event: count("loss-per-event").unwrap_or(else_.loss_per_event),
        duplicates_per_event: count("duplicates-per-event").unwrap_or(else_.duplicates_per_event),
        interruption: duration("interruption").or(else_.interruption),
        recovery: duration("recovery").or(else_.recovery),
    }
}

fn check_interruption(section: &Section<'_>, known: &Known<'_>) {
    if !section.has("interruption") {
        return;
    }
    let has_times = known
        .traffic
        .is_none_or(|traffic| traffic.payloads_bytes.iter().all(|bytes| *bytes >= STAMPED_BYTES));
    if !has_times {
        let remedy = format!("payload-bytes must be {STAMPED_BYTES} or more");
        section.mistake("interruption", format!("some payloads have no room for a time: {remedy}"));
    }
    if known.subjects.iter().all(|subject| matches!(subject.kind, SubjectKind::Wire)) {
        section.mistake("interruption", "is about a subject, and a wire interrupts nothing: remove it");
    }
}
