//! That the manual says everything.

use std::process::{Command as Process, Stdio};

use super::*;
use crate::config::Config;
use crate::stats::{Cause, Named, SendFailure};

#[test]
fn every_command_has_a_page_with_all_sections() {
    let program = program();
    let names: Vec<_> = commands(&program).map(|command| command.get_name().to_owned()).collect();
    assert!(names.iter().any(|name| name == "doctor") && pages().len() == names.len() + 2);
    for name in names.iter().map(String::as_str).chain([PROGRAM]) {
        let page = page(name).unwrap();
        let headings = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "SEE ALSO"];
        for heading in headings {
            let heading = format!(".SH {heading}").replace("EXIT STATUS", "\"EXIT STATUS\"");
            let heading = heading.replace("SEE ALSO", "\"SEE ALSO\"");
            assert!(page.roff.contains(&heading), "{name} has no {heading}: {}", page.roff);
        }
        let title = page.file.strip_prefix("man8/").and_then(|file| file.strip_suffix(".8")).unwrap();
        assert!(page.roff.contains(&title.to_uppercase()), "{}", page.roff);
    }
}

/// Text for a command that is there no more would be lost without a word.
#[test]
fn all_text_is_used() {
    let program = program();
    let commands: Vec<_> = commands(&program).map(Command::get_name).collect();
    for name in markup::pages(TEXT) {
        assert!(commands.contains(&name) || [PROGRAM, FILE, EVERY_COMMAND].contains(&name), "{name}");
        assert!(!markup::sections(TEXT, name).is_empty(), "{name}");
    }
}

#[test]
fn every_key_of_the_file_is_described() {
    let page = page(FILE).unwrap().roff.replace("\\-", "-");
    let sections = [
        "[relay]\nxyz = 1\n",
        "[[rule]]\nxyz = 1\n",
        "[[rule]]\ninput = { xyz = 1 }\n",
        "[[rule]]\noutputs = [{ xyz = 1 }]\n",
    ];
    for text in sections {
        let mistakes = Config::parse(text).unwrap_err().to_string();
        let keys = mistakes.split_once("the keys here are ").map(|(_, keys)| keys.lines().next().unwrap());
        for key in keys.unwrap().split(", ") {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key} is not in {page}");
        }
    }
}

#[test]
fn every_drop_is_named() {
    let page = page("supervisor").unwrap().roff.replace("\\-", "-");
    let causes = Cause::ALL.iter().map(|cause| cause.name());
    for name in causes.chain(SendFailure::ALL.iter().map(|failure| failure.name())) {
        assert!(page.contains(&format!("\\fB{name}\\fR")), "{name} is not in {page}");
    }
}

/// The example of the file's page is a file.
#[test]
fn the_example_is_a_configuration() {
    let sections = markup::sections(TEXT, FILE);
    let (_, example) = sections.iter().find(|(heading, _)| *heading == "EXAMPLES").unwrap();
    assert_eq!(Config::parse(example).unwrap().rules.len(), 2);
}

#[test]
fn pages_that_are_not_there_are_named() {
    assert!(page("nonsense").unwrap_err().to_string().contains("\"nonsense\""));
    assert!(page("worker").is_err(), "what users do not give has no page");
}

#[test]
fn pages_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write_pages(&folder.path().join("new")).unwrap();
    assert_eq!(paths.len(), pages().len());
    assert!(paths.iter().all(|path| fs::metadata(path).unwrap().len() > 500));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(write_pages(&file).unwrap_err().to_string().contains("file"));
}

/// Where groff is installed, it has nothing to complain about.
#[test]
fn groff_takes_the_pages() {
    for page in pages() {
        let mut groff = Process::new("groff");
        groff.args(["-man", "-Tutf8", "-ww", "-z"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut groff) = groff.spawn() else { return };
        io::Write::write_all(&mut groff.stdin.take().unwrap(), page.roff.as_bytes()).unwrap();
        let output = groff.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.file);
    }
}

#[test]
fn every_shell_is_told_every_command() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
        let script = String::from_utf8(completions(shell)).unwrap();
        for word in ["supervisor", "doctor", "ring-block-size", "control-socket"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
