//! What this machine can vouch for: everything a run depends on, and how much can be offered and counted.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;

use crate::cli::RunArgs;
use crate::generator;
use crate::results::{Environment, Results};
use crate::run::{Finished, RunError, error_chain, may_build_networks, search_in};
use crate::scenario::{Scenario, ScenarioError};
use crate::sink::xdp_works;
use crate::topology::Segmentation;

/// The search for the highest rate of a direct wire.
const SCENARIO: &str = include_str!("doctor.toml");

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Runs are possible, with less.
    Limited,
    /// No run is possible.
    Missing,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of what.
    pub what: &'static str,
    /// How well it is.
    pub health: Health,
    /// What was found, and what to do about it where it is not good.
    pub found: String,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Diagnosis(pub Vec<Finding>);

impl Diagnosis {
    /// Whether scenarios can be run here.
    pub fn can_run(&self) -> bool {
        self.0.iter().all(|finding| finding.health != Health::Missing)
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { what, health, found } in &self.0 {
            let health = match health {
                Health::Good => "good",
                Health::Limited => "limited",
                Health::Missing => "missing",
            };
            writeln!(f, "{health:<8} {what:<11} {found}")?;
        }
        f.write_str(if self.can_run() {
            "this machine can run scenarios"
        } else {
            "this machine cannot run scenarios"
        })
    }
}

/// Looks at everything, and measures unless something is missing; takes some half a minute. Ends early when
/// `interrupted` becomes true.
///
/// # Errors
/// What kept the measurement from being made.
pub fn doctor(interrupted: &AtomicBool) -> Result<Diagnosis, RunError> {
    let scenario: Scenario =
        SCENARIO.parse().map_err(|mistakes| ScenarioError::Wrong { path: "doctor.toml".into(), mistakes })?;
    let environment = Environment::here("".as_ref());
    let mut findings = vec![privileges(may_build_networks())];
    findings.extend([processors(environment.processors), clock(&environment.clock_source)]);
    if may_build_networks() {
        let generator = generator::try_xdp().err();
        findings.push(program("generator", "packet", generator.as_ref().map(|error| error_chain(error))));
        let sink = xdp_works(scenario.link.with(Segmentation::Wire)).err();
        findings.push(program("sink", "packet", sink.as_ref().map(|error| error_chain(error))));
        findings.push(measure(scenario, interrupted)?);
    }
    Ok(Diagnosis(findings))
}

fn privileges(enough: bool) -> Finding {
    let (health, found) = if enough {
        (Health::Good, "network namespaces can be built")
    } else {
        (Health::Missing, "no root, so that no network namespace can be built: run with sudo")
    };
    Finding { what: "privileges", health, found: found.to_owned() }
}

fn processors(count: usize) -> Finding {
    let (health, found) = match count {
        0 | 1 => (
            Health::Limited,
            "1, which generator and subject share: latencies and rates are not the subject's own".to_owned(),
        ),
        _ => (Health::Good, format!("{count}: one for the generator, the others for the subject")),
    };
    Finding { what: "processors", health, found }
}

fn clock(source: &str) -> Finding {
    // Reading any other takes a system call, or microseconds.
    let (health, remedy) =
        if ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"].contains(&source) {
            (Health::Good, "")
        } else {
            (Health::Limited, ", which is slow to read: rates and latencies are worse than they could be")
        };
    Finding { what: "clock", health, found: format!("{source}{remedy}") }
}

fn program(what: &'static str, instead: &str, obstacle: Option<String>) -> Finding {
    let (health, found) = match obstacle {
        None => (Health::Good, "xdp works".to_owned()),
        Some(obstacle) => {
            (Health::Limited, format!("{instead}, which is slower, as xdp does not work: {obstacle}"))
        }
    };
    Finding { what, health, found }
}

fn measure(scenario: Scenario, interrupted: &AtomicBool) -> Result<Finding, RunError> {
    let failed = |source: io::Error| RunError::System { operation: "make a temporary folder", source };
    let folder = tempfile::tempdir().map_err(failed)?;
    let arguments = RunArgs {
        scenario: "doctor.toml".into(),
        out: Some(folder.path().to_owned()),
        only: Vec::new(),
        json: false,
        relay: None,
    };
    let Finished { results, file, error } = search_in(scenario, &arguments, interrupted)?;
    error.map_or(Ok(()), Err)?;
    file?;
    Ok(wire(&results))
}

/// What a search with a direct wire has found.
fn wire(results: &Results) -> Finding {
    let bounds = results.searches.first().map(|found| (found.lower_pps, found.upper_pps));
    let (health, found) = match bounds {
        Some((Some(lower), Some(upper))) => (
            Health::Good,
            format!("{lower} packets/s of 100 B can be offered and counted without a relay, {upper} cannot"),
        ),
        Some((Some(lower), None)) => (
            Health::Good,
            format!(
                "{lower} packets/s of 100 B can be offered and counted without a relay, and probably more"
            ),
        ),
        _ => (
            Health::Missing,
            "not even the least rate can be offered and counted: quiet the machine".to_owned(),
        ),
    };
    Finding { what: "rate", health, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_sound() {
        SCENARIO.parse::<Scenario>().unwrap();
    }

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let diagnosis = Diagnosis(vec![privileges(false), processors(1)]);
        assert!(!diagnosis.can_run());
        let text = diagnosis.to_string();
        assert!(text.starts_with("missing  privileges  no root") && text.contains("sudo"), "{text}");
        assert!(text.contains("limited  processors") && text.ends_with("cannot run scenarios"), "{text}");
    }

    #[test]
    fn what_is_limited_does_not_keep_from_running() {
        let obstacle = Some("load the program: Operation not permitted".to_owned());
        let diagnosis = Diagnosis(vec![
            privileges(true),
            processors(2),
            clock("hpet"),
            program("sink", "packet", obstacle),
        ]);
        assert!(diagnosis.can_run());
        let healths: Vec<_> = diagnosis.0.iter().map(|finding| finding.health).collect();
        assert_eq!(healths, [Health::Good, Health::Good, Health::Limited, Health::Limited]);
        assert!(
            diagnosis.to_string().contains("packet, which is slower, as xdp does not work: load"),
            "{diagnosis}"
        );
    }
}
