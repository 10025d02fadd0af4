//! Subjects of a ratio that were not measured.

use crate::scenario::Subject;
use crate::subject::NotInstalled;

/// Who of a ratio is missing, and why.
pub(crate) struct Absent<'a>(Vec<Missing<'a>>);

struct Missing<'a> {
    name: &'a str,
    is_installed: bool,
}

impl<'a> Absent<'a> {
    /// Which of `names` are not among the `measured`.
    pub(crate) fn among(names: [&'a str; 2], measured: &[&Subject], not_installed: &[NotInstalled]) -> Self {
        let mut names = Vec::from(names);
        names.dedup();
        let absent = names.into_iter().filter(|name| !measured.iter().any(|subject| subject.name == *name));
        let is_installed = |name| !not_installed.iter().any(|missing| missing.subject == name);
        Self(absent.map(|name| Missing { name, is_installed: is_installed(name) }).collect())
    }

    /// Whether nobody is.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody is, and nobody for another reason than that it is not installed: then a ratio that is to be kept
    /// is left undecided.
    pub(crate) fn leaves_undecided(&self) -> bool {
        !self.is_empty() && self.0.iter().all(|missing| !missing.is_installed)
    }

    /// Why each is absent.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let words = self.0.iter().map(|Missing { name, is_installed }| {
            format!("{name} {}", if *is_installed { "was not run" } else { "is not installed" })
        });
        words.collect()
    }
}
