//! The command line.

pub mod client;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::client::{ClientCommand, DEFAULT_CONTROL_SOCKET};
use crate::config::{FANOUTS, Flags, Profile, RING_VERSIONS, RingFlags, Rx};
use crate::logging::LogFormat;
use crate::supervisor::listen_address;
use crate::sys::packet_socket::FanoutMode;
use crate::worker::packet_ring::Version;

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
    /// How log lines look: text, or json for one object a line [default: text]
    #[arg(long, global = true, value_name = "FORMAT", value_parser = one_of(&LogFormat::CHOICES))]
    pub log_format: Option<LogFormat>,
}

impl Cli {
    /// The arguments that make another process log in the same way.
    pub fn log_arguments(&self) -> Vec<String> {
        let format = self.log_format.unwrap_or_default();
        let format = LogFormat::CHOICES.iter().find(|(_, choice)| *choice == format);
        let format = format.map(|(name, _)| ["--log-format".to_owned(), (*name).to_owned()]);
        let level = ["--log-level".to_owned(), self.log_level.to_string().to_lowercase()];
        level.into_iter().chain(format.into_iter().flatten()).collect()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Relay until SIGTERM or SIGINT; SIGUSR1 prints the counters
    Supervisor(Supervisor),
    /// Relay as a supervisor says that connects to standard input
    #[command(hide = true)]
    Worker,
    /// Validate a configuration file: name line and key of every mistake
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// What a running supervisor is asked.
    #[command(flatten)]
    Client(ClientCommand),
    /// Look at kernel, privileges, limits and interfaces: what will bite a relay here, and how to mend it
    Doctor(Doctor),
    /// Print a script that completes the command line in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a page of the manual for `man -l -`, or write all of them
    Man {
        /// A command, `multicast_relay` or `multicast_relay.toml`
        #[arg(default_value = "multicast_relay")]
        page: String,
        /// Write all pages below this folder, into man5 and man8
        #[arg(long, value_name = "DIR", conflicts_with = "page")]
        out: Option<PathBuf>,
    },
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Interfaces to look at [default: all that are up]
    #[arg(value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Look at the interfaces of this configuration file, for what its rules use them
    #[arg(long, value_name = "FILE", conflicts_with = "interfaces")]
    pub config: Option<PathBuf>,
    /// Where a supervisor's control socket would be
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL_SOCKET)]
    pub control_socket: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own.
pub struct Supervisor {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A rule, beside those of the file: IF:GROUP:PORT=GROUP:PORT:IF[,GROUP:PORT:IF...], an IPv6 address in brackets;
    /// GROUP may be a prefix such as 239.1.16.0/20, and PORT a range such as 5000-5009
    #[arg(long = "rule", value_name = "SPEC")]
    rules: Vec<String>,
    /// What matters most: throughput (least CPU time) or latency; settings of their own beat it [default: throughput]
    #[arg(long, value_name = "PROFILE", value_parser = one_of(&Profile::CHOICES))]
    profile: Option<Profile>,
    /// Receive path: auto (the best that works here), mmap (a packet ring, or fail) or recv [default: auto]
    #[arg(long, value_name = "PATH", value_parser = one_of(&Rx::CHOICES))]
    rx: Option<Rx>,
    /// The same as --rx mmap
    #[arg(long, conflicts_with = "rx")]
    use_packet_mmap: bool,
    /// Bytes of a ring's block, a multiple of the page size, such as 65536, 64KiB or 1MiB
    /// [default: 128KiB] [env: MCR_RING_BLOCK_SIZE]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    ring_block_size: Option<String>,
    /// Blocks of a ring, 2 or more; the ring must be smaller than 4 GiB [default: 512] [env: MCR_RING_BLOCK_COUNT]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    ring_block_count: Option<String>,
    /// How the kernel hands frames over: 3 (by the block, for throughput) or 2 (one by one, for latency)
    /// [default: by the profile]
    #[arg(long, value_name = "VERSION", value_parser = one_of(&RING_VERSIONS))]
    ring_version: Option<Version>,
    /// Milliseconds until version 3 hands over a block that is not full, from 1 to 1000 [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    ring_retire_ms: Option<String>,
    /// Microseconds that a worker with nothing to do spins before it sleeps, from 0 to 1000000
    /// [default: by the profile]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    busy_poll_us: Option<String>,
    /// Microseconds that the recv path lets frames gather once it has relayed some, from 0 to 10000
    /// [default: by the profile]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    recv_coalesce_us: Option<String>,
    /// Send every datagram by itself instead of in trains of one size that the kernel or the device cuts apart
    #[arg(long)]
    no_gso: bool,
    /// Capture all UDP and find out what no rule takes afterwards, instead of having the kernel filter by the rules
    #[arg(long)]
    no_rule_filter: bool,
    /// What the rules take ends at the interface when it is captured: the IP stack is spared, and other programs of
    /// this host do not get it (Linux 6.6)
    #[arg(long)]
    consume: bool,
    /// Workers, from 1 to 256 [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    num_workers: Option<String>,
    /// How frames are spread over workers: hash (a flow stays with one), cpu (by the CPU that received the frame)
    /// or lb (in turn; flows lose their order) [default: hash]
    #[arg(long, value_name = "MODE", value_parser = one_of(&FANOUTS))]
    fanout: Option<FanoutMode>,
    /// Print counters as one line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where to listen for add, remove, list and so on
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL_SOCKET)]
    pub control_socket: PathBuf,
    /// Serve counters to Prometheus here: a port of the loopback interface such as 9464, or an address with a port
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub metrics: Option<SocketAddr>,
}

impl Supervisor {
    /// What the flags say of the configuration.
    pub fn flags(&self) -> Flags {
        Flags {
            file: self.config.clone(),
            rules: self.rules.clone(),
            profile: self.profile,
            rx: if self.use_packet_mmap { Some(Rx::Mmap) } else { self.rx },
            ring: RingFlags {
                version: self.ring_version,
                block_size: self.ring_block_size.clone(),
                block_count: self.ring_block_count.clone(),
                retire_ms: self.ring_retire_ms.clone(),
            },
            num_workers: self.num_workers.clone(),
            fanout: self.fanout,
            busy_poll_us: self.busy_poll_us.clone(),
            recv_coalesce_us: self.recv_coalesce_us.clone(),
            no_gso: self.no_gso,
            no_rule_filter: self.no_rule_filter,
            consume: self.consume,
        }
    }
}

/// A parser of the texts in `choices`.
fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let choice = choices.iter().find(|(name, _)| *name == text);
        choice.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("give one of: {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
