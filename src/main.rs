//! `multicast_relay`: parse, dispatch, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use multicast_relay::cli::{Cli, Command, Doctor, Supervisor};
use multicast_relay::client::{self, ClientError};
use multicast_relay::config::{Config, ConfigError};
use multicast_relay::doctor::gather::GatherError;
use multicast_relay::doctor::{self, Scope};
use multicast_relay::logging;
use multicast_relay::manual::{self, ManualError};
use multicast_relay::supervisor::{self, Format, Options, SupervisorError};
use multicast_relay::worker::{self, WorkerError};

/// Exit codes beside 0, success.
const RUN_TIME_FAILURE: u8 = 1;
const BAD_CONFIGURATION: u8 = 2;

/// Why the program fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    #[error(transparent)]
    RunTime(#[from] SupervisorError),
    /// With this configuration the relay would not start.
    #[error("{0}")]
    Cannot(String),
    #[error("worker: {0}")]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Doctor(#[from] GatherError),
    #[error(transparent)]
    Manual(#[from] ManualError),
    /// It has said so itself.
    #[error("this host has a problem; see above")]
    Problem,
    #[error("write to standard output: {0}")]
    Output(io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_level, cli.log_format.unwrap_or_default());
    let result = match &cli.command {
        Command::Supervisor(arguments) => supervise(&cli, arguments),
        Command::Worker => worker::process::run().map_err(Failure::from),
        Command::Check { file } => check(file),
        Command::Client(command) => client::run(command).map_err(Failure::from),
        Command::Doctor(arguments) => diagnose(arguments),
        Command::Completions { shell } => print(&manual::completions(*shell)),
        Command::Man { out: Some(folder), .. } => {
            manual::write_pages(folder).map(drop).map_err(Failure::from)
        }
        Command::Man { page, .. } => {
            manual::page(page).map_err(Failure::from).and_then(|page| print(page.roff.as_bytes()))
        }
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    eprintln!("{failure}");
    ExitCode::from(match failure {
        Failure::Configuration(_) | Failure::Cannot(_) | Failure::Manual(ManualError::Unknown(_)) => {
            BAD_CONFIGURATION
        }
        Failure::Client(ref error) if error.is_usage() => BAD_CONFIGURATION,
        _ => RUN_TIME_FAILURE,
    })
}

fn supervise(cli: &Cli, arguments: &Supervisor) -> Result<(), Failure> {
    let config = Config::load(&arguments.flags())?;
    let format = if arguments.json { Format::Json } else { Format::Table };
    let options = Options {
        flags: arguments.flags(),
        format,
        control_socket: arguments.control_socket.clone(),
        metrics: arguments.metrics,
        worker_arguments: cli.log_arguments(),
    };
    Ok(supervisor::run(config, options)?)
}

fn check(file: &std::path::Path) -> Result<(), Failure> {
    let config = Config::load_file(file)?;
    let file = file.display();
    let warnings =
        supervisor::warnings(&config).map_err(|error| Failure::Cannot(format!("{file}: {error}")))?;
    let mut out = io::stdout().lock();
    for warning in warnings {
        writeln!(out, "{file}: warning: {warning}").map_err(Failure::Output)?;
    }
    let rules = supervisor::counted(config.rules.len(), "rule");
    writeln!(out, "{file}: {rules}, no mistake").map_err(Failure::Output)
}

fn diagnose(arguments: &Doctor) -> Result<(), Failure> {
    let scope = match &arguments.config {
        Some(file) => Scope::of_rules(&Config::load_file(file)?.rules),
        None => Scope::of_names(arguments.interfaces.clone()),
    };
    let diagnosis = doctor::examine(&scope, &arguments.control_socket)?;
    let text = if arguments.json { diagnosis.to_json() } else { diagnosis.to_string() };
    writeln!(io::stdout(), "{text}").map_err(Failure::Output)?;
    if diagnosis.works() { Ok(()) } else { Err(Failure::Problem) }
}

fn print(text: &[u8]) -> Result<(), Failure> {
    io::stdout().write_all(text).map_err(Failure::Output)
}
