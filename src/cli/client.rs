//! What is asked of a running supervisor.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::control::LogLevel;
use crate::rules::{GroupRange, PortRange};
use crate::wire::VlanId;

/// Where the control socket is, unless the command line says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/multicast_relay/control.sock";

/// Commands that a running supervisor carries out.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Relay by further rules, all of them or none
    Add(Add),
    /// Relay by these rules no more
    Remove(Remove),
    /// Show the rules and what becomes of them
    List(List),
    /// Show the counters
    Stats(Stats),
    /// Show the workers
    Workers(Connect),
    /// Have the configuration file read again
    Reload(Connect),
    /// Find out whether a supervisor is running
    Ping(Connect),
    /// Watch rates and losses, once a second
    Top(Top),
    /// Change how much the supervisor logs, until it ends
    LogLevel(SetLogLevel),
}

/// Where the supervisor is, and for whom the answer is.
#[derive(Clone, Debug, Args)]
pub struct Connect {
    /// The supervisor's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL_SOCKET)]
    pub control_socket: PathBuf,
    /// Print the answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `add`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["input_interface", "rules", "file"]))]
pub struct Add {
    /// Interface on which datagrams arrive
    #[arg(long, value_name = "IF", requires_all = ["input_group", "input_port", "outputs"])]
    pub input_interface: Option<String>,
    /// Their destination: a multicast group, or a unicast or broadcast address, or a prefix such as 239.1.16.0/20
    #[arg(long, value_name = "GROUP", requires = "input_interface")]
    pub input_group: Option<GroupRange>,
    /// Their UDP port, or a range such as 5000-5009
    #[arg(long, value_name = "PORT", requires = "input_interface")]
    pub input_port: Option<PortRange>,
    /// The source they must have [default: any]
    #[arg(long, value_name = "SOURCE", requires = "input_interface")]
    pub input_source: Option<IpAddr>,
    /// The VLAN whose tag they carry on that interface, from 1 to 4094 [default: none]
    #[arg(long, value_name = "VLAN", requires = "input_interface")]
    pub input_vlan: Option<VlanId>,
    /// Where copies go: GROUP:PORT:IF[,GROUP:PORT:IF...], an IPv6 address in brackets; ranges map one to one
    #[arg(long, value_name = "OUTPUTS", requires = "input_interface")]
    pub outputs: Option<String>,
    /// The name of the rule, if it is one [default: its input]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub name: Option<String>,
    /// Do not have the host join the groups: something else makes them arrive
    #[arg(long, conflicts_with = "file")]
    pub no_join: bool,
    /// A rule in one text: IF:GROUP:PORT=GROUP:PORT:IF[,GROUP:PORT:IF...]
    #[arg(long = "rule", value_name = "SPEC")]
    pub rules: Vec<String>,
    /// The [[rule]]s of a configuration file; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["names", "input_interface"]))]
pub struct Remove {
    /// Names of rules
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Interface of the rule's input, instead of its name
    #[arg(long, value_name = "IF", requires_all = ["input_group", "input_port"])]
    pub input_interface: Option<String>,
    /// Destination of the rule's input
    #[arg(long, value_name = "GROUP", requires = "input_interface")]
    pub input_group: Option<GroupRange>,
    /// UDP port of the rule's input
    #[arg(long, value_name = "PORT", requires = "input_interface")]
    pub input_port: Option<PortRange>,
    /// Source of the rule's input [default: the rule without one]
    #[arg(long, value_name = "SOURCE", requires = "input_interface")]
    pub input_source: Option<IpAddr>,
    /// VLAN of the rule's input [default: the rule without one]
    #[arg(long, value_name = "VLAN", requires = "input_interface")]
    pub input_vlan: Option<VlanId>,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// How to show them; toml is a configuration file
    #[arg(long, value_enum, default_value_t = ListFormat::Table, conflicts_with = "json")]
    pub format: ListFormat,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}

/// How rules are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For `--config`.
    Toml,
    /// For programs.
    Json,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Show outputs without traffic too, however many rules there are
    #[arg(long)]
    pub all: bool,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Print what one second brought as text and end
    #[arg(long)]
    pub once: bool,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}

/// Arguments of `log-level`.
#[derive(Debug, Args)]
pub struct SetLogLevel {
    /// The least severe level to log
    #[arg(value_enum)]
    pub level: LogLevel,
    /// Where to ask.
    #[command(flatten)]
    pub connect: Connect,
}
