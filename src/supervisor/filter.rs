//! What is captured on an interface: by programs that know the rules, or all UDP.

use std::collections::{BTreeMap, HashSet};

use super::SupervisorError;
use crate::config::Config;
use crate::rules::{Input, PortBlock, lone_legs};
use crate::stats::InputStats;
use crate::sys::filter::{self, Vlans};
use crate::sys::interface::Interface;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::rule_programs::{Endpoint, RuleProgramError, RulePrograms};
use crate::wire::LinkLayer;

/// Fewest rules that programs are loaded for.
const LEAST_ROOM: usize = 256;

/// What to do where rules have more shapes than programs tell apart.
pub(super) const FEWER_SHAPES: &str =
    "give ranges prefixes of one length, and ports from a multiple of their number on";

/// What of `config` cannot be as it is wanted, whatever the host can.
///
/// # Errors
/// The relay would not start with it.
pub fn warnings(config: &Config) -> Result<Vec<String>, SupervisorError> {
    let mut by_interface: BTreeMap<&str, HashSet<Endpoint>> = BTreeMap::new();
    for rule in &config.rules {
        by_interface.entry(&rule.input.interface).or_default().extend(endpoints(&rule.input));
    }
    by_interface.retain(|_, _| config.rule_filter);
    let mut warnings = lone_legs(&config.rules);
    for (interface, endpoints) in by_interface {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        match RulePrograms::can_tell_apart(&endpoints) {
            Ok(()) => {}
            Err(error) if config.consume => {
                return Err(SupervisorError::Consume { interface: interface.to_owned(), error });
            }
            Err(error) => warnings.push(warning(interface, &error)),
        }
    }
    Ok(warnings)
}

/// That all UDP is captured, and why.
fn warning(interface: &str, error: &RuleProgramError) -> String {
    let remedy =
        if error.is_for_shapes() { FEWER_SHAPES } else { "grant CAP_BPF (before Linux 5.8 CAP_SYS_ADMIN)" };
    format!(
        "filter by the rules on {interface}: {error}; so other UDP is captured too, and dropped as `no_rule`: {remedy}, or give \
         --no-rule-filter"
    )
}

/// Decides what the sockets of one interface capture.
#[derive(Debug)]
pub(super) struct Filter {
    interface: String,
    link_layer: LinkLayer,
    /// Absent where the configuration or the kernel is against them.
    programs: Option<RulePrograms>,
    /// What rules take.
    endpoints: HashSet<Endpoint>,
    /// For how many the programs have room.
    room: usize,
    consume: bool,
    /// Counts of programs that others have taken over from.
    foreign: u64,
    consumed: u64,
}

impl Filter {
    /// One for rules with these inputs on `interface`.
    pub(super) fn load<'a>(
        config: &Config,
        interface: &Interface,
        inputs: impl Iterator<Item = &'a Input>,
    ) -> Result<Self, SupervisorError> {
        let mut filter = Self {
            interface: interface.name.clone(),
            link_layer: interface.link_layer,
            programs: None,
            endpoints: inputs.flat_map(endpoints).collect(),
            room: 0,
            consume: config.consume,
            foreign: 0,
            consumed: 0,
        };
        if !config.rule_filter {
            return Ok(filter);
        }
        match filter.load_programs() {
            Ok(programs) => filter.programs = Some(programs),
            Err(error) if config.consume => return Err(filter.failed(error)),
            Err(error) => tracing::warn!("{}", warning(&interface.name, &error)),
        }
        Ok(filter)
    }

    fn failed(&self, error: RuleProgramError) -> SupervisorError {
        let interface = self.interface.clone();
        if self.consume {
            SupervisorError::Consume { interface, error }
        } else {
            SupervisorError::Filter { interface, error }
        }
    }

    fn load_programs(&mut self) -> Result<RulePrograms, RuleProgramError> {
        // Twice what is needed, so that rules which come one by one seldom need new programs.
        self.room = (2 * self.endpoints.len()).max(LEAST_ROOM);
        let endpoints: Vec<_> = self.endpoints.iter().copied().collect();
        RulePrograms::load(self.link_layer, &endpoints, self.room)
    }

    /// Lets it decide for `sockets` from now on, and begins consumption.
    pub(super) fn attach(&mut self, sockets: &[PacketSocket]) -> Result<(), SupervisorError> {
        self.attach_to(sockets)?;
        self.begin_consumption()
    }

    /// Lets it decide for `sockets` that capture already. Consumption can wait: without it the IP stack takes a copy, too.
    pub(super) fn adopt(&mut self, sockets: &[PacketSocket]) -> Result<(), SupervisorError> {
        self.attach_to(sockets)?;
        if let Err(error) = self.begin_consumption() {
            tracing::error!("{error}");
        }
        Ok(())
    }

    fn attach_to(&self, sockets: &[PacketSocket]) -> Result<(), SupervisorError> {
        let vlans = if self.names_vlan() { Vlans::All } else { Vlans::None };
        let all_udp = filter::udp_over_ip(self.link_layer, vlans);
        let attach = |socket: &PacketSocket| {
            if vlans == Vlans::All {
                // Before any frame passes that has one.
                socket.tell_tags()?;
            }
            match &self.programs {
                Some(programs) => programs.attach(socket),
                None => socket.attach_filter(&all_udp),
            }
        };
        let failed = |error| SupervisorError::PacketSocket { interface: self.interface.clone(), error };
        sockets.iter().try_for_each(attach).map_err(failed)
    }

    /// Whether any rule is for a VLAN.
    fn names_vlan(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.vlan.is_some())
    }

    fn begin_consumption(&mut self) -> Result<(), SupervisorError> {
        match &mut self.programs {
            Some(programs) if self.consume => programs
                .consume(&self.interface)
                .map_err(|error| SupervisorError::Consume { interface: self.interface.clone(), error }),
            _ => Ok(()),
        }
    }

    /// Leaves to the IP stack again what the rules take.
    pub(super) fn end_consumption(&mut self) {
        let Some(programs) = self.programs.as_mut().filter(|_| self.consume) else { return };
        if let Err(error) = programs.end_consumption() {
            tracing::warn!("consume on {}: {error}; it ends with the relay", self.interface);
        }
    }

    /// Captures also what `inputs` take; `sockets` are those that it is attached to.
    pub(super) fn add<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Input>,
        sockets: &[PacketSocket],
    ) -> Result<(), SupervisorError> {
        let named_vlan = self.names_vlan();
        let new: Vec<_> =
            inputs.flat_map(endpoints).filter(|endpoint| self.endpoints.insert(*endpoint)).collect();
        let names_vlan = named_vlan || new.iter().any(|endpoint| endpoint.vlan.is_some());
        let Some(programs) = &mut self.programs else {
            return if named_vlan == names_vlan { Ok(()) } else { self.attach_to(sockets) };
        };
        let fits = self.endpoints.len() <= self.room && new.iter().all(|endpoint| programs.suits(endpoint));
        if fits && new.iter().try_for_each(|endpoint| programs.insert(endpoint)).is_ok() {
            return Ok(());
        }
        // Others take over at once, and the old ones' counts are kept.
        let loaded = match self.load_programs() {
            Ok(programs) => Some(programs),
            Err(error) if error.is_for_shapes() && !self.consume => {
                tracing::warn!("{}", warning(&self.interface, &error));
                None
            }
            Err(error) => return Err(self.failed(error)),
        };
        let Some(old) = std::mem::replace(&mut self.programs, loaded) else { return Ok(()) };
        self.attach_to(sockets)?;
        self.begin_consumption()?;
        self.foreign += old.foreign().map_err(|error| self.failed(error))?;
        self.consumed += old.consumed().map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Captures no more these blocks of ports of `input`.
    pub(super) fn remove(&mut self, input: &Input, blocks: impl Iterator<Item = PortBlock>) {
        for endpoint in blocks.map(|block| endpoint(input, block)) {
            if !self.endpoints.remove(&endpoint) {
                continue;
            }
            if let Some(Err(error)) = self.programs.as_mut().map(|programs| programs.remove(&endpoint)) {
                tracing::warn!(
                    "filter by the rules on {}: {error}; what no rule takes is captured",
                    self.interface
                );
            }
        }
    }

    /// What the programs have counted.
    pub(super) fn read(&self, stats: &mut InputStats) {
        let Some(programs) = &self.programs else {
            stats.foreign += self.foreign;
            stats.consumed += self.consumed;
            return;
        };
        match (programs.foreign(), programs.consumed()) {
            (Ok(foreign), Ok(consumed)) => {
                stats.foreign += self.foreign + foreign;
                stats.consumed += self.consumed + consumed;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("read what programs on {} have counted: {error}", self.interface);
            }
        }
    }
}

/// What `input` takes, by blocks of ports.
fn endpoints(input: &Input) -> impl Iterator<Item = Endpoint> {
    input.port.blocks().map(|block| endpoint(input, block))
}

fn endpoint(input: &Input, block: PortBlock) -> Endpoint {
    let (group, prefix) = (input.group.first(), input.group.prefix());
    let (port, port_bits) = (block.first(), block.bits());
    Endpoint { group, port, source: input.source, prefix, port_bits, vlan: input.vlan }
}
