//! Any other program as a subject: its files, its command line, and whether it is there at all.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Assignment, Launch, SubjectError, values};
use crate::scenario::Command;
use crate::subject::template::Values;

/// Writes the command's files into the trial's folder and fills in its arguments.
pub(super) fn launch(command: &Command, assignment: &Assignment<'_>) -> Result<Launch, SubjectError> {
    let values = values(assignment);
    for (name, text) in &command.files {
        let path = assignment.dir.join(name);
        fs::write(&path, text.render(&values)).map_err(|source| SubjectError::File { path, source })?;
    }
    let mut line = command.line.iter().map(|text| text.render(&values));
    Ok(Launch {
        program: PathBuf::from(line.next().unwrap_or_default()),
        arguments: line.collect(),
        dir: assignment.dir.to_owned(),
        cpus: assignment.cpus.clone(),
    })
}

/// The program of `command`, if it cannot be started because it is not there.
pub(super) fn missing_program(command: &Command, lab: &Path) -> Option<String> {
    let program = command.line.first()?;
    // A program that is itself one of the trial's files is written later.
    if program.to_string().contains("{dir}") || program.to_string().contains("{file:") {
        return None;
    }
    let nowhere = Values {
        ingress: String::new(),
        egress: String::new(),
        group: String::new(),
        port: 0,
        out_group: String::new(),
        out_port: 0,
        dir: PathBuf::new(),
        lab: lab.to_owned(),
    };
    let program = program.render(&nowhere);
    (!is_installed(&program)).then_some(program)
}

/// Whether `program` can be started: a path as it stands, a bare name from `PATH`, as execvp(3) looks for it.
fn is_installed(program: &str) -> bool {
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_the_shell_would() {
        assert!(is_installed("sh"));
        assert!(is_installed("/bin/sh"));
        assert!(!is_installed("no-such-relay"));
        assert!(!is_installed("/bin/no-such-relay"));
        assert!(!is_installed("/tmp"));
    }
}
