//! Where it was run and with which settings.

use serde_json::{Map, Value};

use super::record::{Environment, Record};
use super::section::{Section, Table};
use super::units::date;

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

#[cfg(test)]
mod tests {
    use super::*;

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
