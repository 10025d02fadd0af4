//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Flags, Rx};

/// Relays UDP multicast between interfaces, from below the IP stack.
#[derive(Debug, Parser)]
#[command(name = "multicast_relay", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to log on standard error: error, warn, info, debug or trace
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub log_level: tracing::Level,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Relay until SIGTERM or SIGINT; SIGUSR1 prints the counters
    Supervisor(Supervisor),
    /// Validate a configuration file: name line and key of every mistake
    Check {
        /// The configuration file
        file: PathBuf,
    },
}

/// Arguments of `supervisor`.
#[derive(Debug, Args)]
pub struct Supervisor {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A rule, beside those of the file: IF:GROUP:PORT=GROUP:PORT:IF[,GROUP:PORT:IF...], an IPv6 address in brackets
    #[arg(long = "rule", value_name = "SPEC")]
    rules: Vec<String>,
    /// Receive path: auto (the best that works here) or recv
    #[arg(long, value_name = "PATH", value_parser = parse_rx)]
    rx: Option<Rx>,
    /// Print counters as one line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Supervisor {
    /// What the flags say of the configuration.
    pub fn flags(&self) -> Flags {
        Flags { file: self.config.clone(), rules: self.rules.clone(), rx: self.rx }
    }
}

fn parse_rx(text: &str) -> Result<Rx, String> {
    let names = Rx::CHOICES.map(|(name, _)| name).join(", ");
    let choice = Rx::CHOICES.iter().find(|(name, _)| *name == text);
    choice.map(|(_, rx)| *rx).ok_or_else(|| format!("give one of: {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
