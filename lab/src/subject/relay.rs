//! Our own relay as a subject: its configuration for a trial, how it is started, and where it listens for commands.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use multicast_relay::control::{InputSpec, OutputSpec, RuleSpec};
use serde::Serialize;
use tempfile::TempDir;

use super::{Assignment, Launch, SubjectError};
use crate::scenario::Relay;
use crate::topology::Family;
use crate::trial::flows::{Exit, Idle, Route, idle_inputs};

/// How many rules there are beside those of the flows where the file is read again ...
const NEIGHBOURS: usize = 16;
/// ... how many of the first set are not in the second, which has as many others ...
const REPLACED: usize = 8;
/// ... and how many of those that are in both have other outputs there.
const CHANGED: usize = 4;
/// How many rules come and go until the first of them comes again: more than twice as many as come at once.
const MOST_FURTHER: usize = 4_096;
/// The longest path of a socket (`sun_path` of unix(7), its end included).
const LONGEST_SOCKET_PATH: usize = 107;

/// The configuration file of the relay, as far as the lab writes it.
#[derive(Serialize)]
struct File<'a> {
    relay: &'a toml::Table,
    rule: Vec<&'a RuleSpec>,
}

/// What the relay reads: rules that stay, and two sets of others that may take turns.
#[derive(Clone, Debug)]
struct Configuration {
    table: toml::Table,
    rules: Vec<RuleSpec>,
    neighbours: [Vec<RuleSpec>; 2],
    /// The device and the flow that further rules are made of.
    ingress: String,
    first: Option<Route>,
}

/// How our relay was started, and how it can be spoken to.
#[derive(Debug)]
pub(crate) struct OurRelay {
    launch: Launch,
    configuration: Configuration,
    file: PathBuf,
    control: PathBuf,
    /// Which of the two sets of neighbours is in the file.
    neighbours: usize,
    /// Where the control socket is when the trial's folder has too long a name.
    _socket_folder: Option<TempDir>,
}

impl OurRelay {
    /// Writes the configuration into the trial's folder.
    pub(super) fn prepare(relay: &Relay, assignment: &Assignment<'_>) -> Result<Self, SubjectError> {
        let file = assignment.dir.join("relay.toml");
        let (control, socket_folder) = control_socket(assignment.dir)
            .map_err(|source| SubjectError::File { path: assignment.dir.join("control.sock"), source })?;
        let path = |path: &Path| path.display().to_string();
        let arguments =
            ["supervisor", "--config", &path(&file), "--control-socket", &path(&control), "--json"];
        let launch = Launch {
            program: assignment.relay_binary.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            dir: assignment.dir.to_owned(),
            cpus: assignment.cpus.clone(),
        };
        let Assignment { ingress, routes, spare, has_events, .. } = *assignment;
        let configuration = Configuration::of(relay, ingress, routes, spare, has_events);
        let relay =
            Self { launch, configuration, file, control, neighbours: 0, _socket_folder: socket_folder };
        relay.write()?;
        Ok(relay)
    }

    pub(super) fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The program.
    pub(crate) fn program(&self) -> &Path {
        &self.launch.program
    }

    /// Where it listens for commands.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// Writes the file anew, with the other of the two sets of neighbours.
    pub(crate) fn turn_neighbours(&mut self) -> Result<(), SubjectError> {
        self.neighbours = 1 - self.neighbours;
        self.write()
    }

    /// Writes what is no configuration.
    pub(crate) fn write_nonsense(&self) -> Result<(), SubjectError> {
        self.replace_file("[relay]\nnum-workers = \"many\"\n[[rule]\n")
    }

    /// Writes the file as it should be.
    pub(crate) fn write(&self) -> Result<(), SubjectError> {
        self.replace_file(&self.configuration.text(self.neighbours)?)
    }

    /// The names of all rules in the file, sorted.
    pub(crate) fn rule_names(&self) -> Vec<String> {
        let rules = self.configuration.rules(self.neighbours);
        let mut names: Vec<_> = rules.iter().filter_map(|rule| rule.name.clone()).collect();
        names.sort();
        names
    }

    /// So many rules that are in no file and that nothing comes in for; `first` tells them from others.
    pub(crate) fn further_rules(&self, first: usize, count: usize) -> Vec<RuleSpec> {
        self.configuration.further(first, count)
    }

    /// Whoever reads the file reads all of it, or all of what was there before.
    fn replace_file(&self, text: &str) -> Result<(), SubjectError> {
        let new = self.file.with_extension("toml.new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|source| SubjectError::File { path: self.file.clone(), source })
    }
}

/// The path of a control socket in `dir` or, where its name is too long for one, in a folder of its own.
fn control_socket(dir: &Path) -> io::Result<(PathBuf, Option<TempDir>)> {
    let path = dir.join("control.sock");
    if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
        return Ok((path, None));
    }
    let folder = tempfile::Builder::new().prefix("lab-").tempdir()?;
    Ok((folder.path().join("control.sock"), Some(folder)))
}

impl Configuration {
    fn of(relay: &Relay, ingress: &str, routes: &[Route], spare: Option<&str>, has_events: bool) -> Self {
        let flows = routes.iter().enumerate();
        let mut rules: Vec<_> = flows
            .map(|(flow, route)| rule(format!("flow-{flow}"), ingress, route.input, &route.outputs))
            .collect();
        let mut neighbours = [Vec::new(), Vec::new()];
        if let Some(first) = routes.first() {
            let family = family_of(first);
            let idle = idle_inputs(family, Idle::Extra, relay.extra_rules).enumerate();
            rules.extend(idle.map(|(i, input)| rule(format!("extra-{i}"), ingress, input, &first.outputs)));
            if let Some(spare) = spare {
                rules.extend(spare_rules(ingress, spare, first));
            }
            if has_events {
                neighbours = neighbour_rules(ingress, first);
            }
        }
        Self {
            table: relay.table.clone(),
            rules,
            neighbours,
            ingress: ingress.to_owned(),
            first: routes.first().cloned(),
        }
    }

    /// All rules, with the neighbours of set number `set`.
    fn rules(&self, set: usize) -> Vec<&RuleSpec> {
        self.rules.iter().chain(self.neighbours.get(set).into_iter().flatten()).collect()
    }

    fn further(&self, first: usize, count: usize) -> Vec<RuleSpec> {
        let Self { ingress, first: Some(route), .. } = self else { return Vec::new() };
        let round = || idle_inputs(family_of(route), Idle::Further, MOST_FURTHER);
        let inputs = round().chain(round()).skip(first % MOST_FURTHER);
        let numbered = (first..).zip(inputs).take(count);
        numbered.map(|(i, input)| rule(format!("further-{i}"), ingress, input, &route.outputs)).collect()
    }

    fn text(&self, set: usize) -> Result<String, toml::ser::Error> {
        toml::to_string(&File { relay: &self.table, rule: self.rules(set) })
    }
}

fn family_of(route: &Route) -> Family {
    if route.input.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// Two sets of rules that nothing comes in for. They have most in common, some of that with other outputs.
fn neighbour_rules(ingress: &str, first: &Route) -> [Vec<RuleSpec>; 2] {
    let inputs: Vec<_> =
        idle_inputs(family_of(first), Idle::Neighbour, NEIGHBOURS + REPLACED).enumerate().collect();
    // The first few of each set: the destinations are the same in both.
    let neighbour = |(place, &(i, input)): (usize, &(usize, SocketAddr))| {
        let shift = u16::from(place < CHANGED);
        let outputs: Vec<_> = first.outputs.iter().map(|exit| shifted(exit, shift)).collect();
        rule(format!("neighbour-{i}"), ingress, input, &outputs)
    };
    [&inputs[..NEIGHBOURS], &inputs[REPLACED..]].map(|set| set.iter().enumerate().map(neighbour).collect())
}

/// The same way out to a port `by` further, where nobody expects anything.
fn shifted(exit: &Exit, by: u16) -> Exit {
    let mut exit = exit.clone();
    exit.destination.set_port(exit.destination.port().saturating_add(by));
    exit
}

/// A rule from the spare device and one to it.
fn spare_rules(ingress: &str, spare: &str, first: &Route) -> [RuleSpec; 2] {
    let mut inputs = idle_inputs(family_of(first), Idle::Spare, 2);
    let mut next = || inputs.next().unwrap_or(first.input);
    let (from, to) = (next(), next());
    let out = Exit { device: spare.to_owned(), destination: to };
    [
        rule("spare-in".to_owned(), spare, from, &first.outputs),
        rule("spare-out".to_owned(), ingress, to, &[out]),
    ]
}

fn rule(name: String, interface: &str, input: SocketAddr, outputs: &[Exit]) -> RuleSpec {
    // No address of the lab's has port 0.
    let port = |address: SocketAddr| NonZeroU16::new(address.port()).unwrap_or(NonZeroU16::MIN);
    let output =
        |exit: &Exit| OutputSpec::new(exit.destination.ip(), port(exit.destination), exit.device.clone());
    let outputs = outputs.iter().map(output).collect();
    let input = InputSpec {
        interface: interface.to_owned(),
        group: input.ip().into(),
        port: port(input).into(),
        source: None,
        vlan: None,
    };
    RuleSpec { name: Some(name), input, outputs, join: None, dedupe: None }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
