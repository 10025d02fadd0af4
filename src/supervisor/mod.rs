//! The supervisor: opens everything that takes privileges, starts the workers, reports, and stops them.

#[expect(dead_code)] // Until the supervisor answers.
mod control;
mod inputs;
mod membership;
#[cfg_attr(not(test), expect(dead_code))] // Until the supervisor serves it.
mod metrics;
#[expect(dead_code)] // Until the supervisor notifies.
mod notify;
mod outputs;
mod receive;
mod report;
mod workers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use inputs::Input;
use membership::Memberships;
use receive::Receive;
pub use report::Format;
use tokio::signal::unix::{Signal, SignalKind, signal};
use workers::{Task, Workers};

use crate::config::Config;
use crate::rules::{self, Rule, RuleTable};
use crate::stats::{Counters, Stats};
use crate::sys::interface::Interface;
use crate::sys::rlimit;
use crate::sys::rule_programs::RuleProgramError;
use crate::worker::packet_ring::Layout;
use crate::worker::{Descriptors, WorkerError};

/// How often losses are looked for and logged.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// Why the relay does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// An interface is not there, or is not of use.
    #[error("find interface {interface}: {error} (rule \"{rule}\" needs it; `ip link` lists what there is)")]
    Interface {
        /// Its name.
        interface: String,
        /// The first rule that names it.
        rule: String,
        /// Why not.
        error: io::Error,
    },
    /// Frames without Ethernet headers cannot be read.
    #[error(
        "interface {0} has no Ethernet headers: rules can listen on Ethernet, bridge, veth and loopback devices"
    )]
    NotEthernet(String),
    /// A packet socket cannot be opened.
    #[error("open packet socket on {interface}: {error}{}", remedy(error))]
    PacketSocket {
        /// The interface it is for.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// A packet socket cannot be given a ring.
    #[error("map a packet ring on {interface} ({layout}): {error}{}", ring_remedy(error))]
    Ring {
        /// The interface it is for.
        interface: String,
        /// What was asked for.
        layout: Layout,
        /// Why not.
        error: io::Error,
    },
    /// Several workers cannot share an interface.
    #[error(
        "join a fanout group on {interface}: {error}: run one worker, or have the interface up when the relay starts"
    )]
    Fanout {
        /// The interface.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// What rules take cannot end at an interface.
    #[error(
        "consume on {interface}: {error} (needs Linux 6.6, CAP_BPF and CAP_NET_ADMIN; relay without --consume)"
    )]
    Consume {
        /// The interface.
        interface: String,
        /// Why not.
        error: RuleProgramError,
    },
    /// A group cannot be joined.
    #[error("join {group} on {interface}: {error}{}", remedy(error))]
    Join {
        /// The group.
        group: std::net::IpAddr,
        /// The interface.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// An egress socket cannot be opened.
    #[error("open output {output} of rule \"{rule}\": {error}{}", remedy(error))]
    Output {
        /// The rule.
        rule: String,
        /// The output, as `GROUP:PORT:IF`.
        output: String,
        /// Why not.
        error: io::Error,
    },
    /// The process cannot be set up.
    #[error("{operation}: {error}")]
    Setup {
        /// What was being done.
        operation: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A worker ended by itself.
    #[error("worker: {0}")]
    Worker(#[from] WorkerError),
    /// A worker ended by a fault in the program.
    #[error("worker: ended by a fault in the program; please report what it printed")]
    WorkerPanicked,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": run as root, or grant CAP_NET_RAW and CAP_NET_ADMIN",
        Some(libc::EMFILE | libc::ENFILE) => {
            ": each output takes a descriptor, so raise the limit: `ulimit -n` before the relay, or LimitNOFILE= of its service"
        }
        Some(libc::ENETUNREACH) => {
            ": no way through that interface; bring it up, and give it an address or a route"
        }
        Some(libc::EADDRNOTAVAIL) => {
            ": no usable address on that interface; a new IPv6 address takes some seconds (duplicate address detection)"
        }
        _ => "",
    }
}

fn ring_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            ": not even two blocks; make --ring-block-size smaller, or raise the memory limit (ulimit -v)"
        }
        _ => remedy(error),
    }
}

/// Interfaces by name, each looked up once.
#[derive(Debug, Default)]
struct Interfaces(HashMap<String, Interface>);

impl Interfaces {
    fn find(&mut self, name: &str, rule: &Rule) -> Result<Interface, SupervisorError> {
        if let Some(interface) = self.0.get(name) {
            return Ok(interface.clone());
        }
        let interface = Interface::find(name).map_err(|error| SupervisorError::Interface {
            interface: name.to_owned(),
            rule: rule.name.clone(),
            error,
        })?;
        self.0.insert(name.to_owned(), interface.clone());
        Ok(interface)
    }
}

/// Everything that runs while the relay runs.
struct Relay<'a> {
    rules: &'a [Rule],
    inputs: Vec<Input>,
    consumes: bool,
    path: &'static str,
    /// One for each worker.
    counters: Vec<Arc<Counters>>,
    workers: Workers,
    /// Groups are left when this goes, so it stays as long as the workers.
    _memberships: Memberships,
}

/// Relays by `config` until SIGTERM or SIGINT, then drains, writes the final report to standard output and returns.
/// SIGUSR1 writes a report in between.
pub fn run(config: &Config, format: Format) -> Result<(), SupervisorError> {
    let setup = |operation| move |error| SupervisorError::Setup { operation, error };
    if let Err(error) = rlimit::raise_open_files() {
        tracing::warn!("raise the limit on open descriptors: {error}");
    }
    // What it is for says what to do without.
    let _ = rlimit::raise_locked_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(setup("start the runtime"))?;
    let _guard = runtime.enter();
    // Before the first packet is captured, so that no signal finds the relay unprepared.
    let signals = Signals::new().map_err(setup("listen for signals"))?;
    let mut relay = Relay::start(config)?;
    let result = runtime.block_on(relay.run(signals, format));
    relay.report(format);
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    report: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }
}

impl<'a> Relay<'a> {
    fn start(config: &'a Config) -> Result<Self, SupervisorError> {
        let rules = &config.rules;
        let mut interfaces = Interfaces::default();
        let egress = outputs::open(rules, config.gso, &mut interfaces)?;
        let memberships = join_groups(rules, &mut interfaces)?;
        let names = rules::interfaces(rules);
        let Receive { mut inputs, workers: sources, path } =
            Receive::open(config, &find_inputs(rules, &names, &mut interfaces)?)?;
        let mut tasks = Vec::with_capacity(sources.len());
        for source in sources {
            let counters = Counters::new(inputs.len(), rules.iter().map(|rule| rule.outputs.len()));
            tasks.push(Task {
                descriptors: Descriptors { inputs: source, egress: egress.clone() },
                counters: Arc::new(counters),
                busy_poll: config.busy_poll,
            });
        }
        let counters = tasks.iter().map(|task| Arc::clone(&task.counters)).collect();
        let workers = Workers::start(tasks, &Arc::new(RuleTable::new(rules, &names)))?;
        inputs.iter().try_for_each(|input| input.start(config.fanout))?;
        if config.consume {
            inputs.iter_mut().try_for_each(Input::consume)?;
        }
        tracing::info!(
            "relaying by {}, from {}, with {}",
            counted(rules.len(), "rule"),
            names.join(", "),
            counted(config.num_workers, "worker")
        );
        Ok(Self {
            rules,
            inputs,
            consumes: config.consume,
            path,
            counters,
            workers,
            _memberships: memberships,
        })
    }

    /// Until a signal asks to stop, or the worker ends by itself.
    async fn run(&mut self, mut signals: Signals, format: Format) -> Result<(), SupervisorError> {
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        let mut last = Stats::default();
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return self.stop().await,
                _ = signals.interrupt.recv() => return self.stop().await,
                result = self.workers.ended() => return result,
                _ = signals.report.recv() => self.report(format),
                _ = watch.tick() => {
                    let stats = self.stats();
                    for loss in report::losses(&last, &stats) {
                        tracing::warn!("{loss}");
                    }
                    last = stats;
                }
            }
        }
    }

    async fn stop(&mut self) -> Result<(), SupervisorError> {
        if self.consumes {
            self.inputs.iter_mut().for_each(Input::end_consumption);
        }
        self.workers.stop().await
    }

    fn report(&mut self, format: Format) {
        if let Err(error) = report::write(&self.stats(), format, &mut io::stdout().lock()) {
            tracing::warn!("write the report to standard output: {error}");
        }
    }

    fn stats(&mut self) -> Stats {
        report::collect(self.path, self.rules, &self.counters, &mut self.inputs)
    }
}

/// `1 rule`, `2 rules`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn find_inputs(
    rules: &[Rule],
    names: &[&str],
    interfaces: &mut Interfaces,
) -> Result<Vec<Interface>, SupervisorError> {
    let mut inputs = Vec::with_capacity(names.len());
    for name in names {
        let Some(rule) = rules.iter().find(|rule| rule.input.interface == *name) else { continue };
        let interface = interfaces.find(name, rule)?;
        if !interface.ethernet {
            return Err(SupervisorError::NotEthernet(interface.name));
        }
        if !interface.up {
            tracing::warn!("interface {name} is down: rule \"{}\" relays nothing until it is up", rule.name);
        }
        inputs.push(interface);
    }
    Ok(inputs)
}

fn join_groups(rules: &[Rule], interfaces: &mut Interfaces) -> Result<Memberships, SupervisorError> {
    let mut memberships = Memberships::default();
    for rule in rules {
        if !rule.input.group.is_multicast() {
            memberships.occupy((rule.input.group, rule.input.port).into());
            continue;
        }
        let (group, interface) = (rule.input.group, interfaces.find(&rule.input.interface, rule)?);
        memberships.join(group, interface.index).map_err(|error| SupervisorError::Join {
            group,
            interface: interface.name,
            error,
        })?;
    }
    Ok(memberships)
}
