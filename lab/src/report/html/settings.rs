//! Where it was run and with which settings.

use serde_json::{Map, Value};

use super::record::{Environment, Record};
use super::section::{Section, Table};

const HEADS: [(&str, bool); 2] = [("", false), ("value", false)];

pub(super) fn section(record: &Record) -> Section {
    let mut settings = Table::new(format!("Scenario {}", record.scenario.file), &[("key", false), HEADS[1]]);
    for (key, value) in flat(&record.scenario.content) {
        settings.push([key, value]);
    }
    Section {
        id: "settings",
        title: "Environment and settings",
        intro: "Keys that the scenario leaves out have the defaults of this version of the lab.",
        tables: vec![environment(&record.environment), settings],
        ..Section::default()
    }
}

fn environment(environment: &Environment) -> Table {
    let mut table = Table::new("Environment", &[("what", false), HEADS[1]]);
    let rows = [
        ("begun", date(environment.started)),
        ("lab", environment.lab.clone()),
        ("relay", environment.relay.clone()),
        ("kernel", environment.kernel.clone()),
        ("processor", environment.processor.clone()),
        ("processors", environment.processors.to_string()),
        ("clock source", environment.clock_source.clone()),
    ];
    for (what, value) in rows {
        table.push([what.to_owned(), if value.is_empty() { "unknown".to_owned() } else { value }]);
    }
    table
}

/// Every value with its path, in the order of the file as far as that is kept.
fn flat(content: &Map<String, Value>) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for (key, value) in content {
        flatten(key.clone(), value, &mut rows);
    }
    rows
}

fn flatten(path: String, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| flatten(format!("{path}.{key}"), value, rows));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(i, value)| flatten(format!("{path}[{i}]"), value, rows));
        }
        Value::String(text) => rows.push((path, text.clone())),
        other => rows.push((path, other.to_string())),
    }
}

/// Seconds since 1970 as date and time.
pub(super) fn date(seconds: u64) -> String {
    // Years of 400 repeat themselves, and begin in March so that the leap day is the last of them: the algorithm is
    // Howard Hinnant's "chrono-compatible low-level date algorithms".
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = [0, 951_782_400, 1_795_496_400, u64::MAX].map(date);
        assert_eq!(shown[0], "1970-01-01 00:00 UTC");
        assert_eq!(shown[1], "2000-02-29 00:00 UTC");
        assert_eq!(shown[2], "2026-11-24 05:00 UTC");
        assert!(shown[3].ends_with(" UTC"));
    }

    #[test]
    fn every_setting_has_its_path() {
        let content = serde_json::json!({
            "name": "x", "traffic": { "rate-pps": [1, 2] }, "subject": [{ "relay": {} }, { "relay": { "rx": "mmap" } }]
        });
        let Value::Object(content) = content else { panic!("an object") };
        let rows = flat(&content);
        let shown: Vec<_> = rows.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert!(shown.contains(&("traffic.rate-pps", "[1,2]")));
        assert!(
            shown.contains(&("subject[0].relay", "{}")) && shown.contains(&("subject[1].relay.rx", "mmap"))
        );
    }
}
