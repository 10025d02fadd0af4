//! `multicast_relay doctor`: what of this host will bite a relay, and how to mend it.
//!
//! [`gather`] looks and judges nothing; [`host`] and [`link`] judge facts and look at nothing, so that any host can be made
//! up in a test.

pub mod facts;
pub mod gather;
mod host;
mod link;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::rules::{Rule, SourceAddress};
use facts::{Link, Role};
use gather::GatherError;

/// What is said of the host itself.
const HOST: &str = "host";

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Costs datagrams, latency or CPU time, or will.
    Warning,
    /// A relay does not work so.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// `host`, or the interface.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// Why it matters; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Commands that mend it, or words where no command does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedy: Vec<String>,
}

impl Finding {
    fn new(level: Level, subject: &str, what: impl Into<String>) -> Self {
        let (subject, what) = (subject.to_owned(), what.into());
        Self { level, subject, what, why: String::new(), remedy: Vec::new() }
    }

    fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn mended_by(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }
}

/// Everything that was found, in the order in which it was looked for: the host, then each interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The version of this shape.
    pub version: u32,
    /// The worst level among the findings.
    pub worst: Level,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Looks at this host, and at the interfaces of `scope`; `socket` is the control socket's path.
///
/// # Errors
/// Where the kernel does not list its interfaces.
pub fn examine(scope: &Scope, socket: &Path) -> Result<Diagnosis, GatherError> {
    let links = scope.select(gather::links()?);
    Ok(Diagnosis::of(&gather::host(socket), &links))
}

/// Which interfaces are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that are up, without the loopback device and what is a part of another one.
    Up,
    /// These, whether they are there or not.
    Named(Vec<(String, Role)>),
}

impl Scope {
    /// The interfaces `names`, which may be for anything; none is all that are up.
    pub fn of_names(names: Vec<String>) -> Self {
        if names.is_empty() {
            return Self::Up;
        }
        Self::Named(names.into_iter().map(|name| (name, Role::default())).collect())
    }

    /// The interfaces that `rules` name, for what they are named.
    pub fn of_rules(rules: &[Rule]) -> Self {
        let mut roles: BTreeMap<&str, Role> = BTreeMap::new();
        let unused =
            Role { input: false, output: false, to_groups: false, keeps_sources: false, vlan: false };
        for rule in rules {
            let role = roles.entry(&rule.input.interface).or_insert(unused);
            role.input = true;
            role.vlan |= rule.input.vlan.is_some();
            for output in &rule.outputs {
                let role = roles.entry(&output.interface).or_insert(unused);
                role.output = true;
                role.to_groups |= output.group.first().is_multicast();
                role.keeps_sources |= output.source == SourceAddress::Preserve;
            }
        }
        Self::Named(roles.into_iter().map(|(name, role)| (name.to_owned(), role)).collect())
    }

    fn select(&self, mut links: BTreeMap<String, Link>) -> Vec<(String, Option<Link>)> {
        match self {
            Self::Up => {
                let shown = |link: &Link| link.up && !link.loopback && link.master.is_none();
                links.retain(|_, link| shown(link));
                links.into_iter().map(|(name, link)| (name, Some(link))).collect()
            }
            Self::Named(names) => {
                let find = |(name, role): &(String, Role)| {
                    let link = links.get(name).map(|link| Link { role: *role, ..link.clone() });
                    (name.clone(), link)
                };
                names.iter().map(find).collect()
            }
        }
    }
}

impl Diagnosis {
    /// Judges facts. An interface without facts is one that was asked for and is not there.
    pub fn of(host: &facts::Host, links: &[(String, Option<Link>)]) -> Self {
        let mut findings = host::findings(host, links.len());
        for (name, link) in links {
            match link {
                Some(link) => findings.extend(link::findings(link, host)),
                None => findings.push(link::absent(name)),
            }
        }
        let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Self { version: 1, worst, findings }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        // Texts, a number and names: nothing that JSON could not hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether a relay works here, if perhaps with losses.
    pub fn works(&self) -> bool {
        self.worst < Level::Problem
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut subject = "";
        for finding in &self.findings {
            if finding.subject != subject {
                writeln!(f, "{}{}", if subject.is_empty() { "" } else { "\n" }, finding.subject)?;
                subject = &finding.subject;
            }
            writeln!(f, "  {:<8} {}", finding.level.name(), finding.what)?;
            if !finding.why.is_empty() {
                writeln!(f, "           {}", finding.why)?;
            }
            for remedy in &finding.remedy {
                writeln!(f, "           > {remedy}")?;
            }
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let [problems, warnings, notes] =
            [(Level::Problem, "problem"), (Level::Warning, "warning"), (Level::Note, "note")]
                .map(|(level, noun)| crate::supervisor::counted(count(level), noun));
        write!(f, "\n{problems}, {warnings}, {notes}")
    }
}

#[cfg(test)]
mod tests;
