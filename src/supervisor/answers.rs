//! What the supervisor answers to who asks at the control socket.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::book::LiveRule;
use super::control::{Call, Peer};
use super::links::{Links, Side};
use super::metrics::{Scrape, Snapshot};
use super::workers::Status;
use super::{Supervisor, counted};
use crate::control::{
    Answer, Command, LogLevel, Outcome, OutputStatus, Refusal, RefusalKind, RuleSpec, RuleStatus, Selector,
    State, StatsReport, WorkerState, WorkerStatus,
};
use crate::logging;
use crate::rules::{Input, Rule, Takers, leg_fault, overlap};
use crate::sys::process;

impl Supervisor {
    /// Does what is asked, and answers when it is done.
    pub(super) async fn answer(&mut self, call: Call) {
        let Call { command, peer, reply } = call;
        if command.changes() {
            tracing::info!("{} asked for by {peer}", command.name());
        }
        let outcome = self.carry_out(command, peer).await;
        // Who does not wait for the answer any more does not need it.
        let _ = reply.send(outcome);
    }

    async fn carry_out(&mut self, command: Command, peer: Peer) -> Outcome {
        match command {
            Command::Ping => Ok(Answer::Pong {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: self.uptime_ms(),
            }),
            Command::Add { rules } => self.add(rules).await,
            Command::Remove { rules } => self.remove(rules).await,
            Command::List => Ok(Answer::Rules(self.rules())),
            Command::Stats => Ok(Answer::Stats(Box::new(self.stats_report()))),
            Command::Workers => Ok(Answer::Workers(self.workers())),
            Command::Reload => {
                self.reload().await.inspect_err(|refusal| tracing::warn!("reload for {peer}: {refusal}"))
            }
            Command::LogLevel { level } => Ok(self.set_log_level(level)),
        }
    }

    /// Answers to who scrapes metrics.
    pub(super) fn expose(&mut self, scrape: Scrape) {
        let (uptime_ms, stats) = (self.uptime_ms(), self.relay.stats());
        let snapshot = Snapshot { uptime_ms, stats, workers: self.workers(), rules: self.rules() };
        let _ = scrape.reply.send(snapshot);
    }

    fn uptime_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    async fn add(&mut self, specs: Vec<RuleSpec>) -> Outcome {
        let rules = specs.into_iter().map(Rule::try_from).collect::<Result<Vec<_>, _>>();
        let rules = rules.map_err(|error| Refusal::new(RefusalKind::BadRequest, error.to_string()))?;
        self.check_conflicts(&rules)?;
        let names: Vec<_> = rules.iter().map(|rule| rule.name.clone()).collect();
        self.relay.change(&[], rules).await.map_err(failed)?;
        tracing::info!("added {}", listed(&names));
        Ok(Answer::Added { names })
    }

    /// Every name must be unique among the rules, no two inputs may overlap, streams have two legs alike, and the rules must not
    /// send in a circle.
    fn check_conflicts(&self, rules: &[Rule]) -> Result<(), Refusal> {
        let (mut names, mut inputs) = (HashSet::<&str>::new(), Takers::default());
        for (i, rule) in rules.iter().enumerate() {
            let (name, input) = (&rule.name, &rule.input);
            let conflict = |message| Err(Refusal::new(RefusalKind::Conflict, message));
            let other = self.relay.book.overlapping(input).next();
            if let Some(other) = other.and_then(|place| self.relay.book.get(place)) {
                let other = &other.rule;
                return conflict(if other.input == *input {
                    let other = &other.name;
                    format!(
                        "rule \"{name}\" has the same input as rule \"{other}\", {input}: remove that one first"
                    )
                } else {
                    overlap(other, rule)
                });
            }
            if self.relay.book.named(name).is_some() {
                return conflict(format!("there is a rule \"{name}\" already: choose another name"));
            }
            if let Some(other) = inputs.overlapping(input).next().and_then(|other: usize| rules.get(other)) {
                return conflict(overlap(other, rule));
            }
            inputs.insert(input, i);
            if !names.insert(name) {
                return conflict(format!("two of the rules are named \"{name}\": choose another name"));
            }
        }
        let mut legs = HashMap::<_, Vec<_>>::new();
        for rule in rules {
            let Some(dedupe) = &rule.dedupe else { continue };
            let running = self.relay.book.legs(&dedupe.stream).filter_map(|place| self.relay.book.get(place));
            let running = || running.map(|live| &live.rule).collect();
            let legs = legs.entry(&dedupe.stream).or_insert_with(running);
            legs.push(rule);
            if let Some(fault) = leg_fault(legs) {
                return Err(Refusal::new(RefusalKind::Conflict, fault));
            }
        }
        self.relay
            .book
            .circle_with(rules, &BTreeSet::new())
            .map_or(Ok(()), |circle| Err(Refusal::new(RefusalKind::Conflict, circle.message)))
    }

    async fn remove(&mut self, selectors: Vec<Selector>) -> Outcome {
        let (mut places, mut names) = (Vec::new(), Vec::new());
        for selector in selectors {
            let place = match &selector {
                Selector::Name(name) => self.relay.book.named(name),
                Selector::Input(input) => self.relay.book.with_input(&Input::from(input.clone())),
            };
            let Some((place, live)) = place.and_then(|place| Some((place, self.relay.book.get(place)?)))
            else {
                let message = format!("there is no {selector}");
                return Err(Refusal::new(RefusalKind::UnknownRule, message));
            };
            if !places.contains(&place) {
                places.push(place);
                names.push(live.rule.name.clone());
            }
        }
        self.relay.change(&places, Vec::new()).await.map_err(failed)?;
        tracing::info!("removed {}", listed(&names));
        Ok(Answer::Removed { names })
    }

    fn rules(&self) -> Vec<RuleStatus> {
        self.relay.book.iter().map(|(_, live)| rule_status(live, self.links.as_ref())).collect()
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let counters = self.relay.workers.counters();
        let inputs = || self.relay.inputs.values().map(|live| usize::from(live.input.place));
        let status = self.relay.workers.status().into_iter().zip(counters).enumerate();
        status
            .map(|(number, (status, counters))| {
                worker_status(number, status, counters.total_received(inputs()))
            })
            .collect()
    }

    fn stats_report(&mut self) -> StatsReport {
        let stats = self.relay.stats();
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let report = {
            let earlier = self.samples.earlier();
            StatsReport::new(at_ms, self.began.elapsed(), stats.clone(), earlier)
        };
        self.samples.take(stats);
        report
    }

    fn set_log_level(&mut self, level: LogLevel) -> Answer {
        logging::set_level(&level.to_string());
        self.relay.workers.set_log_level(level.to_string());
        Answer::LogLevel { level }
    }
}

/// Rules by their names, or many by their number.
fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    if names.len() > MOST {
        return counted(names.len(), "rule");
    }
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

/// What is known of a rule: what it waits for, and what its interfaces lack.
fn rule_status(live: &LiveRule, links: Option<&Links>) -> RuleStatus {
    let lacks = |name: &str, side| links.and_then(|links| links.why_not(name, side));
    let interface = &live.rule.input.interface;
    let mut reasons: Vec<_> = live.input.as_ref().err().cloned().into_iter().collect();
    if live.input.is_ok() {
        reasons.extend(lacks(interface, Side::Ingress).map(|why| format!("input {interface}: {why}")));
    }
    let outputs = live.outputs.iter().zip(&live.rule.outputs).map(|(output, to)| {
        let mut reasons: Vec<_> = output.open.as_ref().err().cloned().into_iter().collect();
        if output.open.is_ok() {
            reasons.extend(lacks(&to.interface, Side::Egress).map(|why| format!("output {to}: {why}")));
        }
        OutputStatus { state: state(&reasons), reasons }
    });
    let outputs: Vec<_> = outputs.collect();
    RuleStatus { rule: RuleSpec::from(&live.rule), state: state(&reasons), reasons, outputs }
}

fn state(reasons: &[String]) -> State {
    if reasons.is_empty() { State::Relaying } else { State::Waiting }
}

fn worker_status(number: usize, status: Status, received: u64) -> WorkerStatus {
    WorkerStatus {
        number: number as u32,
        pid: status.pid,
        state: match status.pid {
            _ if status.has_failed => WorkerState::Failed,
            Some(_) => WorkerState::Running,
            None => WorkerState::Restarting,
        },
        cpu: status.cpu.map(|cpu| cpu as u32),
        uptime_ms: status.uptime.as_millis() as u64,
        restarts: status.restarts,
        last_exit: status.last_end,
        received,
        cpu_ns: status.pid.and_then(process::cpu_time).map_or(0, |time| time.as_nanos() as u64),
    }
}
