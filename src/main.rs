//! `multicast_relay`: parse, dispatch, exit code.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use multicast_relay::cli::{Cli, Command, Supervisor};
use multicast_relay::client::{self, ClientError};
use multicast_relay::config::{Config, ConfigError};
use multicast_relay::supervisor::{self, Format, SupervisorError};

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
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("write to standard output: {0}")]
    Output(io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_max_level(cli.log_level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match cli.command {
        Command::Supervisor(arguments) => supervise(&arguments),
        Command::Check { file } => check(&file),
        Command::Client(command) => client::run(&command).map_err(Failure::from),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    eprintln!("{failure}");
    ExitCode::from(match failure {
        Failure::Configuration(_) => BAD_CONFIGURATION,
        Failure::Client(ref error) if error.is_usage() => BAD_CONFIGURATION,
        Failure::RunTime(_) | Failure::Client(_) | Failure::Output(_) => RUN_TIME_FAILURE,
    })
}

fn supervise(arguments: &Supervisor) -> Result<(), Failure> {
    let config = Config::load(&arguments.flags())?;
    let format = if arguments.json { Format::Json } else { Format::Table };
    Ok(supervisor::run(&config, format)?)
}

fn check(file: &std::path::Path) -> Result<(), Failure> {
    let config = Config::load_file(file)?;
    let rules = supervisor::counted(config.rules.len(), "rule");
    writeln!(io::stdout(), "{}: {rules}, no mistake", file.display()).map_err(Failure::Output)
}
