//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::impair::ImpairArgs;

/// Builds a network of namespaces, offers multicast traffic at exact rates to a relay, counts every datagram at the
/// far end and gives a verdict.
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 pass, 1 fail, 2 bad scenario or environment, 3 measured nothing that can be \
                          trusted, 130 interrupted.";

/// What the lab can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario; needs root
    Run(RunArgs),
    /// Find each subject's highest rate without loss between the rates of a scenario; needs root
    Search(RunArgs),
    /// Validate a scenario without running it
    Check {
        /// The scenario file
        scenario: PathBuf,
    },
    /// Make report.html anew from the results of a run
    Report {
        /// The folder of a run, or its results.json
        results: PathBuf,
        /// Where the page goes [default: beside the results]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put the results of several runs into one report, in Markdown
    Summary {
        /// The folders of the runs, or their results.json
        #[arg(required = true, value_name = "FOLDER")]
        folders: Vec<PathBuf>,
        /// Where the report goes [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say what this machine can vouch for, and measure how much it can offer and count; needs root
    Doctor,
    /// Remove what a killed run left behind; needs root
    Clean,
    /// Forward lab datagrams, damaging exactly the named ones: the lab's test of itself
    #[command(hide = true)]
    Impair(ImpairArgs),
}

/// How to run a scenario.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The scenario file
    pub scenario: PathBuf,
    /// Folder for results.json and the subjects' output [default: lab-results/ and the scenario's name]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run this subject only; may be given several times
    #[arg(long, value_name = "SUBJECT")]
    pub only: Vec<String>,
    /// Print the results as JSON on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// The relay's program [default: the one beside the lab, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub relay: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
