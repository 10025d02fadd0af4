//! Removes what runs left behind that were killed before they could do it themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use crate::net::occupants::end_occupants;
use crate::net::{
    Claim, NAMESPACE_DIRECTORY, NamespaceId, NetError, RunLock, file_names, parse_namespace, remove_named,
};

/// What [`clean`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The namespaces removed, by name.
    pub namespaces: Vec<String>,
    /// The processes that lived in them and were killed, by id.
    pub processes: Vec<u32>,
    /// The runs that are alive and were left alone.
    pub live_runs: Vec<String>,
}

impl fmt::Display for Cleaned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespaces, processes) = (self.namespaces.len(), self.processes.len());
        write!(formatter, "removed {namespaces} namespaces, ended {processes} processes")?;
        match self.live_runs.as_slice() {
            [] => Ok(()),
            runs => write!(formatter, ", left live runs alone: {}", runs.join(", ")),
        }
    }
}

/// Removes the namespaces `lab-<run>-…` of runs that are dead, the processes inside them, and the marks of such
/// runs. A run is alive while a process holds its [`crate::net::RunName`]; those are left alone, and so is every
/// namespace of another name.
///
/// # Errors
/// [`NetError::NeedsRoot`] without the privilege; otherwise the first thing that could not be removed, after
/// everything else was.
pub fn clean() -> Result<Cleaned, NetError> {
    let mut cleaned = Cleaned::default();
    let mut outcome = Ok(());
    for run in runs()? {
        let result = match RunLock::adopt(&run) {
            Ok(Claim::Taken(held)) => {
                let result = clean_run(&run, &mut cleaned);
                drop(held);
                result
            }
            Ok(Claim::Held) => {
                cleaned.live_runs.push(run);
                Ok(())
            }
            Err(error) => Err(error),
        };
        outcome = outcome.and(result);
    }
    outcome.map(|()| cleaned)
}

/// Every run that left a namespace or a mark.
fn runs() -> Result<BTreeSet<String>, NetError> {
    let namespaces = file_names(Path::new(NAMESPACE_DIRECTORY))?;
    let named = namespaces.iter().filter_map(|name| parse_namespace(name)).map(str::to_owned);
    Ok(named.chain(RunLock::marked()?).collect())
}

/// Removes what is there of `run`, whose mark the caller holds: nobody else is at it, and no new run has the name.
fn clean_run(run: &str, cleaned: &mut Cleaned) -> Result<(), NetError> {
    let names = file_names(Path::new(NAMESPACE_DIRECTORY))?;
    let names: Vec<String> = names.into_iter().filter(|name| parse_namespace(name) == Some(run)).collect();
    let paths = names.iter().map(|name| Path::new(NAMESPACE_DIRECTORY).join(name));
    let ids: BTreeSet<_> = paths.filter_map(|path| NamespaceId::of(&path).ok().flatten()).collect();
    // The names stay when a process does: without one, nobody would find it again.
    cleaned.processes.extend(end_occupants(&ids)?);
    names.into_iter().try_fold((), |(), name| {
        remove_named(&name)?;
        cleaned.namespaces.push(name);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_one_line() {
        let mut cleaned = Cleaned::default();
        assert_eq!(cleaned.to_string(), "removed 0 namespaces, ended 0 processes");
        cleaned.namespaces.push("lab-beef-gen".into());
        cleaned.live_runs = vec!["cafe".into(), "f00d".into()];
        assert_eq!(
            cleaned.to_string(),
            "removed 1 namespaces, ended 0 processes, left live runs alone: cafe, f00d"
        );
    }
}
