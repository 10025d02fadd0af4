//! The supervisor: opens everything that takes privileges, starts the workers and replaces those that end, changes what runs,
//! reports, and stops it.

mod answers;
mod book;
mod change;
mod control;
mod error;
mod filter;
mod inputs;
pub mod links;
mod membership;
mod metrics;
mod notify;
mod outputs;
mod places;
mod receive;
mod relay;
mod reload;
mod report;
mod samples;
mod streams;
mod takeover;
mod waiting;
mod workers;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use control::ControlError;
use control::{Call, ControlServer};
pub use error::SupervisorError;
pub use filter::warnings;
use links::{Change, Kind, Links};
pub use metrics::listen_address;
use metrics::{MetricsServer, Scrape};
use receive::Way;
use relay::Relay;
pub use report::Format;
use samples::Samples;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::MissedTickBehavior;
use workers::{PULSE_INTERVAL, Workers};

use crate::config::{Config, Flags};
use crate::stats::Stats;
use crate::sys::{process, rlimit};

/// How often losses are looked for and logged.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// How often rules that wait try again by themselves.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Requests that wait for the supervisor, of all clients together.
const QUEUE: usize = 64;

/// How a supervisor works, beside its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the configuration was read by, and is when it is read again.
    pub flags: Flags,
    /// How reports are written.
    pub format: Format,
    /// Where it is controlled.
    pub control_socket: PathBuf,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// What workers are started with, before their command.
    pub worker_arguments: Vec<String>,
}

/// Relays by `config` until SIGTERM or SIGINT, then drains, writes the final report to standard output and returns.
/// SIGUSR1 writes a report in between, SIGHUP reads the configuration again.
pub fn run(config: Config, options: Options) -> Result<(), SupervisorError> {
    let setup = |operation| move |error| SupervisorError::Setup { operation, error };
    if let Err(error) = rlimit::raise_open_files() {
        tracing::warn!("raise the limit on open descriptors: {error}");
    }
    // No worker gets what this one was started with.
    if let Err(error) = process::close_descriptors_on_exec() {
        tracing::debug!("mark descriptors that were there at the start: {error}");
    }
    // What it is for says what to do without.
    let _ = rlimit::raise_locked_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(setup("start the runtime"))?.block_on(async {
        // Before the first packet is captured, so that no signal finds the relay unprepared.
        let mut signals = Signals::new().map_err(setup("listen for signals"))?;
        let mut supervisor = Supervisor::start(config, options).await?;
        supervisor.run(&mut signals).await;
        let result = supervisor.stop().await;
        supervisor.report();
        result
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    report: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

struct Supervisor {
    relay: Relay,
    options: Options,
    began: Instant,
    /// What is known of interfaces; absent where the kernel does not tell.
    links: Option<Links>,
    calls: Receiver<Call>,
    scrapes: Receiver<Scrape>,
    /// What was counted at the last look for losses.
    watched: Stats,
    samples: Samples,
}

impl Supervisor {
    async fn start(config: Config, options: Options) -> Result<Self, SupervisorError> {
        let control = ControlServer::bind(&options.control_socket)?;
        let metrics = options.metrics.map(bind_metrics).transpose()?;
        // Before the interfaces are looked at, so that no change is missed.
        let links = Links::watch().inspect_err(|error| {
            tracing::warn!(
                "follow network interfaces: {error}; one that comes or goes is noticed a second later"
            );
        });
        let way = Way::choose(&config)?;
        let (socket, arguments) = (&options.control_socket, options.worker_arguments.clone());
        let workers = Workers::new(config.num_workers, way.path(), config.busy_poll, socket, arguments)?;
        let mut relay = Relay::new(config, way, workers);
        relay.start().await?;
        let (call, calls) = channel(QUEUE);
        tokio::spawn(control.run(call));
        let (scrape, scrapes) = channel(QUEUE);
        if let Some(metrics) = metrics {
            tokio::spawn(metrics.serve(scrape));
        }
        notify::ready("relaying");
        let (links, began) = (links.ok(), Instant::now());
        let (watched, samples) = Default::default();
        Ok(Self { relay, options, began, links, calls, scrapes, watched, samples })
    }

    /// Until a signal asks to stop.
    async fn run(&mut self, signals: &mut Signals) {
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        let mut pulse = tokio::time::interval(PULSE_INTERVAL);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        let mut watchdog = notify::watchdog_interval().map(tokio::time::interval);
        let workers_call = self.relay.workers.calls();
        loop {
            tokio::select! {
                biased;
                number = self.relay.workers.due() => self.replace(number),
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.report.recv() => self.report(),
                _ = signals.reload.recv() => self.reload_by_signal().await,
                changes = changed(&mut self.links) => self.relay.reconsider(&changes).await,
                _ = pulse.tick() => self.relay.workers.check_pulses(),
                _ = retry.tick() => self.look_again().await,
                _ = watch.tick() => self.watch(),
                () = tick(&mut watchdog) => notify::watchdog(),
                Some(call) = self.calls.recv() => self.answer(call).await,
                Some(scrape) = self.scrapes.recv() => self.expose(scrape),
                // Last, as senders of datagrams decide how often.
                () = workers_call.notified() => self.relay.open_senders(),
            }
        }
    }

    async fn look_again(&mut self) {
        if self.links.is_none() {
            let changes = self.relay.interfaces().into_iter().map(|name| (name, false)).collect();
            self.relay.reconsider(&changes).await;
        }
        self.relay.look_again().await;
    }

    /// Starts a worker in place of one that has ended.
    fn replace(&mut self, number: usize) {
        match self.relay.replace(number) {
            Ok(()) => {
                tracing::info!("worker {number} is started again, and goes on where the last one ended");
            }
            Err(error) => {
                tracing::error!("{error}");
                self.relay.workers.postpone(number);
            }
        }
    }

    async fn reload_by_signal(&mut self) {
        notify::reloading();
        if let Err(refusal) = self.reload().await {
            tracing::error!("read the configuration again: {refusal}");
        }
        notify::ready("relaying");
    }

    async fn stop(&mut self) -> Result<(), SupervisorError> {
        notify::stopping();
        let failed = self.relay.stop().await;
        self.watch();
        if failed.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = failed.iter().map(ToString::to_string).collect();
        Err(SupervisorError::WorkersFailed(format!("worker {}", numbers.join(", "))))
    }

    fn watch(&mut self) {
        let stats = self.relay.stats();
        for loss in report::losses(&self.watched, &stats) {
            tracing::warn!("{loss}");
        }
        self.watched = stats;
    }

    fn report(&mut self) {
        let stats = self.relay.stats();
        if let Err(error) = report::write(&stats, self.options.format, &mut io::stdout().lock()) {
            tracing::warn!("write the report to standard output: {error}");
        }
    }
}

fn bind_metrics(address: SocketAddr) -> Result<MetricsServer, SupervisorError> {
    if !address.ip().is_loopback() {
        tracing::warn!("metrics are served at {address} to whoever can reach it");
    }
    MetricsServer::bind(address).map_err(|error| SupervisorError::Metrics { address, error })
}

/// The names of interfaces that have changed, and whether what had the name is gone.
async fn changed(links: &mut Option<Links>) -> BTreeMap<String, bool> {
    match links {
        Some(links) => {
            let mut changes = BTreeMap::new();
            for Change { kind, name } in links.changed().await {
                *changes.entry(name).or_insert(false) |= matches!(kind, Kind::Gone | Kind::Recreated);
            }
            changes
        }
        None => pending().await,
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => pending().await,
    }
}

/// `1 rule`, `2 rules`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
