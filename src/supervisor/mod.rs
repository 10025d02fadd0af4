//! The supervisor: opens everything that takes privileges, starts the workers and replaces those that end, changes what runs,
//! reports, and stops it.

mod book;
mod control;
mod error;
mod filter;
mod inputs;
pub mod links;
mod membership;
#[cfg_attr(not(test), expect(dead_code))] // Until the supervisor serves it.
mod metrics;
#[expect(dead_code)] // Until the supervisor notifies.
mod notify;
mod outputs;
mod places;
mod receive;
mod relay;
mod report;
mod workers;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use error::SupervisorError;
use receive::Way;
use relay::Relay;
pub use report::Format;
use tokio::signal::unix::{Signal, SignalKind, signal};
use workers::Workers;

use crate::config::Config;
use crate::stats::Stats;
use crate::sys::rlimit;

/// How often losses are looked for and logged.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// How often workers are looked after.
const PULSE_INTERVAL: Duration = Duration::from_millis(250);
/// How often rules that wait try again by themselves.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How a supervisor works, beside its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// How reports are written.
    pub format: Format,
    /// Where it is controlled.
    pub control_socket: PathBuf,
    /// What workers are started with, before their command.
    pub worker_arguments: Vec<String>,
}

/// Relays by `config` until SIGTERM or SIGINT, then drains, writes the final report to standard output and returns.
/// SIGUSR1 writes a report in between.
pub fn run(config: Config, options: Options) -> Result<(), SupervisorError> {
    let setup = |operation| move |error| SupervisorError::Setup { operation, error };
    if let Err(error) = rlimit::raise_open_files() {
        tracing::warn!("raise the limit on open descriptors: {error}");
    }
    // What it is for says what to do without.
    let _ = rlimit::raise_locked_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(setup("start the runtime"))?.block_on(async {
        // Before the first packet is captured, so that no signal finds the relay unprepared.
        let signals = Signals::new().map_err(setup("listen for signals"))?;
        let mut supervisor = Supervisor::start(config, options).await?;
        let result = supervisor.run(signals).await;
        supervisor.report();
        result
    })
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

struct Supervisor {
    relay: Relay,
    options: Options,
    /// What was counted at the last look for losses.
    watched: Stats,
}

impl Supervisor {
    async fn start(config: Config, options: Options) -> Result<Self, SupervisorError> {
        let way = Way::choose(&config)?;
        let (socket, arguments) = (&options.control_socket, options.worker_arguments.clone());
        let workers = Workers::new(config.num_workers, way.path(), config.busy_poll, socket, arguments)?;
        let mut relay = Relay::new(config, way, workers);
        relay.start().await?;
        Ok(Self { relay, options, watched: Stats::default() })
    }

    /// Until a signal asks to stop.
    async fn run(&mut self, mut signals: Signals) -> Result<(), SupervisorError> {
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        let mut pulse = tokio::time::interval(PULSE_INTERVAL);
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            tokio::select! {
                biased;
                number = self.relay.workers.due() => self.replace(number),
                _ = signals.terminate.recv() => return self.stop().await,
                _ = signals.interrupt.recv() => return self.stop().await,
                _ = signals.report.recv() => self.report(),
                _ = pulse.tick() => self.relay.workers.check_pulses(),
                _ = retry.tick() => self.relay.look_again().await,
                _ = watch.tick() => self.watch(),
            }
        }
    }

    /// Starts a worker in place of one that has ended.
    fn replace(&mut self, number: usize) {
        match self.relay.launch(number) {
            Ok(()) => {
                tracing::info!("worker {number} is started again, and goes on where the last one ended")
            }
            Err(error) => {
                tracing::error!("{error}");
                self.relay.workers.postpone(number);
            }
        }
    }

    async fn stop(&mut self) -> Result<(), SupervisorError> {
        let failed = self.relay.stop().await;
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

/// `1 rule`, `2 rules`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
