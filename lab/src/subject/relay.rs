//! Our own relay as a subject: its configuration for a trial, and how it is started.

use std::fs;
use std::net::SocketAddr;

use serde::Serialize;

use super::{Assignment, Launch, SubjectError};
use crate::scenario::Relay;
use crate::topology::Family;
use crate::trial::flows::{Exit, idle_inputs};

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
pub(super) fn launch(relay: &Relay, assignment: &Assignment<'_>) -> Result<Launch, SubjectError> {
    let path = assignment.dir.join("relay.toml");
    let text = configuration(relay, assignment)?;
    fs::write(&path, text).map_err(|source| SubjectError::File { path: path.clone(), source })?;
    let arguments = ["supervisor", "--config", &path.display().to_string(), "--json"];
    Ok(Launch {
        program: assignment.relay_binary.to_owned(),
        arguments: arguments.map(str::to_owned).to_vec(),
        dir: assignment.dir.to_owned(),
        cpus: assignment.cpus.clone(),
    })
}

fn configuration(relay: &Relay, assignment: &Assignment<'_>) -> Result<String, toml::ser::Error> {
    let rule = |name: String, input: SocketAddr, outputs: &[Exit]| Rule {
        name,
        input: end(assignment.ingress, input),
        outputs: outputs.iter().map(|output| end(&output.device, output.destination)).collect(),
    };
    let routes = assignment.routes;
    let mut rules: Vec<_> = routes
        .iter()
        .enumerate()
        .map(|(flow, route)| rule(format!("flow-{flow}"), route.input, &route.outputs))
        .collect();
    if let Some(first) = routes.first() {
        let family = if first.input.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let idle = idle_inputs(family, relay.extra_rules).enumerate();
        rules.extend(idle.map(|(i, input)| rule(format!("extra-{i}"), input, &first.outputs)));
    }
    toml::to_string(&Configuration { relay: &relay.table, rule: rules })
}

fn end(interface: &str, address: SocketAddr) -> End {
    End { interface: interface.to_owned(), group: address.ip().to_string(), port: address.port() }
}
