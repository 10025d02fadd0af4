//! Manual pages and shell completions, from the definition of the command line and the text in `pages.txt`.
//!
//! A command's page has what clap knows of it (name, synopsis, options, subcommands), and around that the sections that
//! `pages.txt` has for it and for every command. A page of the text that is no command's, such as that of the configuration
//! file, stands for itself.

mod markup;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use roff::Roff;

use crate::cli::Cli;

/// What no command knows of itself.
const TEXT: &str = include_str!("pages.txt");
/// The name in that text of what every command's page has.
const EVERY_COMMAND: &str = "every command";
/// The program, its page, and that page's name in the text.
const PROGRAM: &str = "multicast_relay";
/// The page of the configuration file.
const FILE: &str = "multicast_relay.toml";
/// Sections of the manual: programs for administrators, files.
const ADMINISTRATION: &str = "8";
const FILES: &str = "5";
const MANUAL: &str = "multicast_relay manual";
/// Headings that come before what clap knows, in this order; all others come after it.
const FIRST: &str = "DESCRIPTION";

/// A manual page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it belongs below a folder of manuals, such as `man8/multicast_relay-check.8`.
    pub file: String,
    /// Its text in roff (`groff_man(7)`).
    pub roff: String,
}

/// Why there is no page or completion.
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// There is no such page.
    #[error("there is no page \"{0}\": give the name of a command, \"{PROGRAM}\" or \"{FILE}\"")]
    Unknown(String),
    /// A page cannot be written.
    #[error("write manual page {}: {error}; name a folder that this user may write to", path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// All pages: the program's, one for each command, and the configuration file's.
pub fn pages() -> Vec<Page> {
    let program = program();
    let commands = commands(&program).map(|command| command_page(command, &program));
    let own = command_page(&program, &program);
    std::iter::once(own).chain(commands).chain([file_page()]).collect()
}

/// The page of a command by its name, such as `check`; or of the program, or of the configuration file.
pub fn page(name: &str) -> Result<Page, ManualError> {
    let program = program();
    match name {
        PROGRAM => Ok(command_page(&program, &program)),
        FILE => Ok(file_page()),
        _ => {
            let command = commands(&program).find(|command| command.get_name() == name);
            let command = command.ok_or_else(|| ManualError::Unknown(name.to_owned()))?;
            Ok(command_page(command, &program))
        }
    }
}

/// Writes all pages into the sections' folders below `folder`, which are made if need be.
pub fn write_pages(folder: &Path) -> Result<Vec<PathBuf>, ManualError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| ManualError::Write { path, error }
    };
    let write = |page: Page| {
        let path = folder.join(page.file);
        let section = path.parent().unwrap_or(folder);
        fs::create_dir_all(section).map_err(failed(section))?;
        fs::write(&path, page.roff).map_err(failed(&path))?;
        Ok(path)
    };
    pages().into_iter().map(write).collect()
}

/// A script that completes the command line in `shell`.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    script
}

fn program() -> Command {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    program
}

/// The commands that users give.
fn commands(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|command| !command.is_hide_set())
}

/// A page begins with its title, and then has sections.
fn command_page(command: &Command, program: &Command) -> Page {
    let title = command.get_display_name().unwrap_or(PROGRAM).to_owned();
    let man = Man::new(command.clone())
        .title(title.to_uppercase())
        .section(ADMINISTRATION)
        .source(source())
        .manual(MANUAL);
    let sections = markup::sections(TEXT, command.get_name());
    // What a command says itself takes the place of what is said of every one.
    let own: Vec<_> = sections.iter().map(|(heading, _)| *heading).collect();
    let mut common = markup::sections(TEXT, EVERY_COMMAND);
    common.retain(|(heading, _)| !own.contains(heading));
    let (first, rest): (Vec<_>, Vec<_>) = sections.into_iter().partition(|(heading, _)| *heading == FIRST);
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_title(&mut text);
    let _ = man.render_name_section(&mut text);
    let _ = man.render_synopsis_section(&mut text);
    if first.is_empty() {
        let _ = man.render_description_section(&mut text);
    }
    write_sections(&first, &mut text);
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        let _ = man.render_options_section(&mut text);
    }
    if commands(command).next().is_some() {
        let _ = man.render_subcommands_section(&mut text);
    }
    write_sections(&rest, &mut text);
    write_sections(&common, &mut text);
    write_see_also(&title, program, &mut text);
    Page { file: file_name(&title, ADMINISTRATION), roff: String::from_utf8_lossy(&text).into_owned() }
}

fn file_page() -> Page {
    let mut text = Vec::new();
    let title = FILE.to_uppercase();
    let mut roff = Roff::new();
    roff.control("TH", [title.as_str(), FILES, "", source().as_str(), MANUAL]);
    let _ = roff.to_writer(&mut text);
    write_sections(&markup::sections(TEXT, FILE), &mut text);
    write_see_also(FILE, &program(), &mut text);
    Page { file: file_name(FILE, FILES), roff: String::from_utf8_lossy(&text).into_owned() }
}

fn write_sections(sections: &[(&str, &str)], to: &mut Vec<u8>) {
    for (heading, text) in sections {
        let mut roff = Roff::new();
        roff.control("SH", [*heading]);
        markup::write(text, &mut roff);
        let _ = roff.to_writer(to);
    }
}

/// All pages but the one called `title`.
fn write_see_also(title: &str, program: &Command, to: &mut Vec<u8>) {
    let commands = commands(program).filter_map(Command::get_display_name);
    let pages = std::iter::once(PROGRAM).chain(commands).map(|name| (name, ADMINISTRATION));
    let pages = pages.chain([(FILE, FILES), ("packet", "7"), ("ip-route", "8"), ("ethtool", "8")]);
    let others = pages.filter(|(name, _)| *name != title);
    let references: Vec<_> = others.map(|(name, section)| format!("`{name}`({section})")).collect();
    write_sections(&[("SEE ALSO", &references.join(", "))], to);
}

fn file_name(title: &str, section: &str) -> String {
    format!("man{section}/{title}.{section}")
}

fn source() -> String {
    format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests;
