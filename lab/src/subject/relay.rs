//! Our own relay as a subject: its configuration for a trial, and how it is started.

use std::fs;
use std::net::SocketAddr;

use serde::Serialize;

use super::{Assignment, Launch, SubjectError};
use crate::scenario::Relay;
use crate::topology::Family;
use crate::trial::flows::{Exit, Route, idle_inputs};

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
    let text = configuration(relay, assignment.ingress, assignment.routes)?;
    fs::write(&path, text).map_err(|source| SubjectError::File { path: path.clone(), source })?;
    let arguments = ["supervisor", "--config", &path.display().to_string(), "--json"];
    Ok(Launch {
        program: assignment.relay_binary.to_owned(),
        arguments: arguments.map(str::to_owned).to_vec(),
        dir: assignment.dir.to_owned(),
        cpus: assignment.cpus.clone(),
    })
}

fn configuration(relay: &Relay, ingress: &str, routes: &[Route]) -> Result<String, toml::ser::Error> {
    let rule = |name: String, input: SocketAddr, outputs: &[Exit]| Rule {
        name,
        input: end(ingress, input),
        outputs: outputs.iter().map(|output| end(&output.device, output.destination)).collect(),
    };
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

#[cfg(test)]
mod tests {
    use multicast_relay::config::Config;

    use super::*;

    #[test]
    fn extra_rules_are_rules_of_their_own_with_the_outputs_of_the_first_flow() {
        for (input, output) in [("239.81.1.1:5000", "239.82.1.1:6000"), ("[ff15::1]:5000", "[ff15::2]:6000")]
        {
            let exit = Exit { device: "egress0".into(), destination: output.parse().unwrap() };
            let route = Route { input: input.parse().unwrap(), outputs: vec![exit] };
            let relay = Relay { table: toml::Table::new(), extra_rules: 3 };
            let text = configuration(&relay, "ingress", &[route]).unwrap();
            let rules = Config::parse(&text).unwrap().rules;
            let names: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
            assert_eq!(names, ["flow-0", "extra-0", "extra-1", "extra-2"]);
            assert!(
                rules
                    .iter()
                    .all(|rule| rule.outputs == rules[0].outputs && rule.input.interface == "ingress")
            );
        }
    }
}
