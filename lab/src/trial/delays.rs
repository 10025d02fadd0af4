//! A trial about joining and leaving (RFC 3918 section 6), for relays that relay from their start to their end: traffic is
//! offered the whole time, the subject is started, relays for a while, and is told to end.
//!
//! Arrivals are stamped by the kernel at the sinks. A flow's datagrams come `flows / rate` apart, which is how exact a
//! delay can be; it is the resolution.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bench::{Stage, datagrams, on_this_thread, open_generator, start_subject};
use super::phases::{Halt, LOOK};
use super::prime::{out_of_patience, patience};
use super::{Order, Outcome, Phase, TrialError, Watch};
use crate::clock::{StepWatch, realtime_ns};
use crate::generator::GeneratorReport;
use crate::sink::{Sink, SinkReport};
use crate::subject::{END_PATIENCE, Running, with_last_words};
use crate::verdict::{BURST_LIMIT_NS, Verdict, faults_of_a_sink};

/// How long traffic is offered before the subject is started.
const LEAD: Duration = Duration::from_millis(200);
/// How long starting the subject's process may take.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must arrive after the end of the subject, and how long to wait for that.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_PATIENCE: Duration = Duration::from_secs(5);

/// How long joining and leaving took, over all flows and sinks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Delays {
    /// From the subject's start to the first datagram at any sink.
    pub first_ns: u64,
    /// From the subject's start until every flow had come to every sink.
    pub join_ns: u64,
    /// From the signal that ended the subject to the last datagram at any sink; 0 when none came after it.
    pub leave_ns: u64,
    /// How far apart the datagrams of a flow were offered: no delay is known better.
    pub resolution_ns: u64,
}

/// Moments of a trial, ns of `CLOCK_REALTIME`.
struct Moments {
    started_ns: u64,
    told_to_end_ns: u64,
    /// How the subject misbehaved.
    failures: Vec<String>,
}

/// Holds the trial: whatever happens, nothing of it is left.
pub(super) fn hold(order: &Order<'_>, watch: &Watch<'_>) -> Result<Outcome, TrialError> {
    watch.check()?;
    (watch.on_phase)(Phase::SetUp);
    let stage = Stage::set_up(order)?;
    let clock = StepWatch::start();
    let observed = observe(order, watch, &stage);
    let Stage { sinks, topology, .. } = stage;
    let reports = sinks.into_iter().map(Sink::finish).collect::<Result<Vec<_>, _>>();
    topology.remove()?;
    let reports = reports?;
    let (verdict, reasons, delays) = match observed {
        Ok((moments, offered)) => {
            let delays = delays(&moments, &reports, order);
            let mut invalid = faults_of_the_lab(&offered, clock.step().map(|step| step.moved_ns));
            invalid.extend(faults_of_sinks(&reports));
            if delays.is_none() {
                invalid.push("a sink could not tell when datagrams came".to_owned());
            }
            let (verdict, reasons) = judge(moments.failures, invalid, misdelivered(&reports));
            (verdict, reasons, delays)
        }
        Err(halt) => {
            let (verdict, reason) = halt.verdict()?;
            (verdict, vec![reason], None)
        }
    };
    Ok(Outcome { verdict, reasons, measurement: None, delays, dir: order.dir.to_owned() })
}

/// Offers traffic while the subject comes and goes.
fn observe(order: &Order<'_>, watch: &Watch<'_>, stage: &Stage) -> Result<(Moments, GeneratorReport), Halt> {
    let mut generator = open_generator(order, &stage.topology, &stage.routes)?;
    let (rate, stop) = (order.condition.rate_pps, AtomicBool::new(false));
    let count = datagrams(rate, longest(order, stage.sinks.len()));
    let (moments, offered) = thread::scope(|scope| {
        let offering = scope.spawn(|| {
            on_this_thread(order.placement, || generator.warm_up(rate, count, &stop))?
                .map_err(TrialError::from)
        });
        let moments = come_and_go(order, watch, stage);
        stop.store(true, Ordering::Relaxed);
        (moments, offering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let offered = offered?;
    match moments {
        // What never went in cannot come out.
        Err(Halt::Subject(_)) if offered.refused_total() > 0 => {
            Err(Halt::Lab(faults_of_the_lab(&offered, None).join("; ")))
        }
        moments => Ok((moments?, offered)),
    }
}

/// How long traffic is offered at most.
fn longest(order: &Order<'_>, sinks: usize) -> Duration {
    let duration = order.scenario.traffic.duration;
    LEAD + START_PATIENCE + patience(order, sinks) + duration + END_PATIENCE + QUIET_PATIENCE
}

fn come_and_go(order: &Order<'_>, watch: &Watch<'_>, stage: &Stage) -> Result<Moments, Halt> {
    thread::sleep(LEAD);
    (watch.on_phase)(Phase::Prime);
    let started_ns = realtime_ns();
    let mut subject = start_subject(order, &stage.topology, &stage.routes)?;
    wait_for_all_flows(order, watch, stage, &mut subject)?;
    let duration = order.scenario.traffic.duration;
    let until = Instant::now() + duration;
    while Instant::now() < until {
        watch.check()?;
        (watch.on_phase)(Phase::Run(0, 1));
        if let Some(died) = subject.died("while it relayed") {
            return Err(Halt::Subject(died));
        }
        thread::sleep(LOOK);
    }
    (watch.on_phase)(Phase::Drain);
    let told_to_end_ns = realtime_ns();
    let stopped = subject.stop().map_err(TrialError::system("end the subject"))?;
    wait_for_quiet(watch, &stage.sinks)?;
    Ok(Moments { started_ns, told_to_end_ns, failures: stopped.failures })
}

fn wait_for_all_flows(
    order: &Order<'_>,
    watch: &Watch<'_>,
    stage: &Stage,
    subject: &mut Running,
) -> Result<(), Halt> {
    let flows = order.condition.flows;
    let patience = patience(order, stage.sinks.len());
    let deadline = Instant::now() + patience;
    loop {
        watch.check()?;
        let seen = stage.sinks.iter().map(Sink::warm_up_flows_seen).min().unwrap_or_default();
        if seen >= flows {
            return Ok(());
        }
        if let Some(died) = subject.died("before it relayed everything") {
            return Err(Halt::Subject(died));
        }
        if Instant::now() >= deadline {
            let reason = out_of_patience(seen, flows, patience);
            return Err(Halt::Subject(with_last_words(&reason, &subject.last_words())));
        }
        thread::sleep(LOOK);
    }
}

/// Waits until nothing arrives any more although traffic is still offered.
fn wait_for_quiet(watch: &Watch<'_>, sinks: &[Sink]) -> Result<(), Halt> {
    let arrived = || sinks.iter().map(Sink::received).sum::<u64>();
    let deadline = Instant::now() + QUIET_PATIENCE;
    let (mut before, mut since) = (arrived(), Instant::now());
    while since.elapsed() < QUIET {
        watch.check()?;
        if Instant::now() >= deadline {
            let seconds = QUIET_PATIENCE.as_secs();
            return Err(Halt::Subject(format!(
                "datagrams still came out {seconds} s after the subject's end"
            )));
        }
        thread::sleep(LOOK);
        let now = arrived();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// The verdict on how the subject's process `failed`, on what makes the trial `invalid`, and on what came where it does
/// not belong; and the reasons.
fn judge(failed: Vec<String>, invalid: Vec<String>, misdelivered: u64) -> (Verdict, Vec<String>) {
    if !failed.is_empty() {
        (Verdict::Fail, failed)
    } else if !invalid.is_empty() {
        (Verdict::Invalid, invalid)
    } else if misdelivered > 0 {
        (Verdict::Fail, vec![format!("{misdelivered} datagrams came to addresses that are not theirs")])
    } else {
        (Verdict::Pass, Vec::new())
    }
}

fn misdelivered(reports: &[SinkReport]) -> u64 {
    reports.iter().map(|report| report.tally.misdelivered).sum()
}

/// What the sinks lost, and what nobody of the trial sent: then no count of flows can be trusted.
fn faults_of_sinks(reports: &[SinkReport]) -> Vec<String> {
    let of_sink =
        |report: &'_ SinkReport| faults_of_a_sink(&report.dropped, &report.errors).collect::<Vec<_>>();
    let mut reasons: Vec<_> = reports.iter().flat_map(of_sink).collect();
    let alien: u64 = reports.iter().map(|report| report.tally.alien).sum();
    let foreign = alien.saturating_sub(misdelivered(reports));
    if foreign > 0 {
        reasons.push(format!("{foreign} datagrams came that are none of the trial's"));
    }
    reasons
}

/// `None` when some sink has no stamp to tell from.
fn delays(moments: &Moments, reports: &[SinkReport], order: &Order<'_>) -> Option<Delays> {
    let spans = reports.iter().map(|report| report.warm_up).collect::<Option<Vec<_>>>()?;
    let first_ns = spans.iter().map(|span| span.first_ns).min()?;
    let complete_ns = spans.iter().map(|span| span.complete_ns).max()?;
    let last_ns = spans.iter().map(|span| span.last_ns).max()?;
    Some(Delays {
        first_ns: first_ns.saturating_sub(moments.started_ns),
        join_ns: complete_ns.saturating_sub(moments.started_ns),
        leave_ns: last_ns.saturating_sub(moments.told_to_end_ns),
        resolution_ns: order.condition.flows as u64 * 1_000_000_000 / order.condition.rate_pps.max(1),
    })
}

/// Why the delays may not be the subject's.
fn faults_of_the_lab(offered: &GeneratorReport, clock_step_ns: Option<i64>) -> Vec<String> {
    let mut reasons = Vec::new();
    if offered.refused_total() > 0 {
        reasons.push(format!("the kernel refused {} datagrams of the generator", offered.refused_total()));
    }
    if offered.lag_ns.max > BURST_LIMIT_NS {
        reasons.push(format!("the generator was up to {} ms late", offered.lag_ns.max / 1_000_000));
    }
    if let Some(step) = clock_step_ns {
        reasons.push(format!("the clock was moved by {} µs", step / 1_000));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_subject_goes_before_a_fault_of_the_lab_and_that_before_what_went_astray() {
        let failed = || vec!["it died".to_owned()];
        let invalid = || vec!["the sink lost 3 itself: ring".to_owned()];
        assert_eq!(judge(failed(), invalid(), 1), (Verdict::Fail, failed()));
        assert_eq!(judge(vec![], invalid(), 1), (Verdict::Invalid, invalid()));
        assert_eq!(judge(vec![], vec![], 1).0, Verdict::Fail);
        assert_eq!(judge(vec![], vec![], 0), (Verdict::Pass, vec![]));
    }
}
