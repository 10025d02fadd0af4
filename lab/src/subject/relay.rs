//! Our own relay as a subject: its configuration for a trial, and how it is started.

use std::fs;

use serde::Serialize;

use super::{Assignment, Launch, SubjectError};

/// The configuration file of the relay, as far as the lab writes it.
#[derive(Serialize)]
struct Configuration<'a> {
    relay: &'a toml::Table,
    rule: Vec<Rule>,
}

#[derive(Serialize)]
struct Rule {
    name: String,
    input: End,
    outputs: Vec<End>,
}

#[derive(Serialize)]
struct End {
    interface: String,
    group: String,
    port: u16,
}

/// Writes the configuration into the trial's folder.
pub(super) fn launch(table: &toml::Table, assignment: &Assignment<'_>) -> Result<Launch, SubjectError> {
    let path = assignment.dir.join("relay.toml");
    let text = configuration(table, assignment)?;
    fs::write(&path, text).map_err(|source| SubjectError::File { path: path.clone(), source })?;
    let arguments = ["supervisor", "--config", &path.display().to_string(), "--json"];
    Ok(Launch {
        program: assignment.relay_binary.to_owned(),
        arguments: arguments.map(str::to_owned).to_vec(),
        dir: assignment.dir.to_owned(),
        cpus: assignment.cpus.clone(),
    })
}

fn configuration(table: &toml::Table, assignment: &Assignment<'_>) -> Result<String, toml::ser::Error> {
    let rules = assignment.routes.iter().enumerate().map(|(flow, route)| {
        let outputs = route.outputs.iter().map(|output| End {
            interface: output.device.clone(),
            group: output.destination.ip().to_string(),
            port: output.destination.port(),
        });
        Rule {
            name: format!("flow-{flow}"),
            input: End {
                interface: assignment.ingress.to_owned(),
                group: route.input.ip().to_string(),
                port: route.input.port(),
            },
            outputs: outputs.collect(),
        }
    });
    toml::to_string(&Configuration { relay: table, rule: rules.collect() })
}
