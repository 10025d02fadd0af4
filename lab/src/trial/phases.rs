//! The phases of a trial, in order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::bench::{Bench, datagrams, on_this_thread};
use super::events::{Log, Player, lock};
use super::measure::{Cpu, Record, Snapshot};
use super::prime::prime;
use super::{Order, Outcome, Phase, TrialError, Watch};
use crate::clock::StepWatch;
use crate::generator::{Generator, GeneratorReport};
use crate::memory::MemoryWatch;
use crate::traffic_error::TrafficError;
use crate::verdict::{OFFERED_TOLERANCE, Verdict};

/// How long nothing must arrive anywhere before it is quiet.
const QUIET: Duration = Duration::from_millis(200);
/// How long to wait for quiet.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);
/// How often a condition is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How much longer than the tolerance of the rate allows the generator may take before it is stopped.
const OFFER_SLACK: Duration = Duration::from_secs(2);
/// How often a running trial is looked at: rarely, so as not to disturb it.
const RUN_LOOK: Duration = Duration::from_millis(50);

/// What stops a trial before its measurement is complete.
pub(super) enum Halt {
    /// The subject failed.
    Subject(String),
    /// The lab failed in this trial, and might not in the next.
    Lab(String),
    /// The machine let nothing be decided.
    Machine(String),
    /// The lab cannot go on.
    Error(TrialError),
}

impl Halt {
    /// The verdict on the trial and its reason, unless the lab cannot go on.
    pub(super) fn verdict(self) -> Result<(Verdict, String), TrialError> {
        match self {
            Self::Subject(reason) => Ok((Verdict::Fail, reason)),
            Self::Lab(reason) => Ok((Verdict::Invalid, reason)),
            Self::Machine(reason) => Ok((Verdict::Inconclusive, reason)),
            Self::Error(error) => Err(error),
        }
    }
}

impl<E: Into<TrialError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Holds the trial: whatever happens, nothing of it is left.
pub(super) fn hold(order: &Order<'_>, watch: &Watch<'_>) -> Result<Outcome, TrialError> {
    watch.check()?;
    (watch.on_phase)(Phase::SetUp);
    let mut bench = Bench::set_up(order)?;
    let measured = measure(&mut bench, order, watch);
    let Bench { generator, subject, sinks, topology } = bench;
    drop(generator);
    match measured {
        Ok(record) => {
            let stopped = subject.stop().map_err(TrialError::system("end the subject"))?;
            let outcome = record.close(order, stopped, sinks, &topology);
            topology.remove()?;
            outcome
        }
        Err(halt) => {
            drop((subject, sinks));
            topology.remove()?;
            let (verdict, reason) = halt.verdict()?;
            let dir = order.dir.to_owned();
            Ok(Outcome { verdict, reasons: vec![reason], measurement: None, delays: None, dir })
        }
    }
}

fn measure(bench: &mut Bench, order: &Order<'_>, watch: &Watch<'_>) -> Result<Record, Halt> {
    prime(bench, order, watch)?;
    (watch.on_phase)(Phase::WarmUp);
    warm_up(bench, order, watch)?;
    wait_for_quiet(bench, watch, "after the warm-up")?;

    let clock = StepWatch::start();
    // Outside of the CPU times.
    let mut memory = MemoryWatch::begin(bench.subject.family(), !order.scenario.events.is_empty());
    let before = Snapshot::before(bench)?;
    let (generated, log) = run(bench, order, watch, &mut memory)?;
    (watch.on_phase)(Phase::Drain);
    let cpu = wait_for_quiet(bench, watch, "after the run")?;
    let after = Snapshot::after(bench, cpu)?;
    memory.end();
    Ok(Record { generated, log, before, after, memory, clock_step: clock.step() })
}

/// Offers the trial's rate, uncounted, and evenly also where the run makes bursts: a warm-up is to find everything in
/// place, is often shorter than one burst with its silence, and should leave nothing to be drained.
fn warm_up(bench: &mut Bench, order: &Order<'_>, watch: &Watch<'_>) -> Result<(), Halt> {
    let (rate, duration) = (order.condition.rate_pps, order.scenario.traffic.warmup);
    let mut on_progress = |_| (watch.on_phase)(Phase::WarmUp);
    let offer =
        Offer { when: "during the warm-up", duration, with_events: false, on_progress: &mut on_progress };
    let count = datagrams(rate, duration);
    offer.make(bench, order, watch, |generator, stop, _| generator.warm_up(rate, count, stop))?;
    Ok(())
}

/// Offers the trial's traffic.
fn run(
    bench: &mut Bench,
    order: &Order<'_>,
    watch: &Watch<'_>,
    memory: &mut MemoryWatch,
) -> Result<(GeneratorReport, Log), Halt> {
    let duration = order.scenario.traffic.duration;
    let traffic = &order.scenario.traffic;
    let own = traffic.impairments.frames(traffic.datagrams(order.condition.rate_pps));
    let total = own + datagrams(order.condition.foreign_pps, duration);
    let mut on_progress = |done| {
        (watch.on_phase)(Phase::Run(done, total));
        memory.look();
    };
    let offer = Offer { when: "during the run", duration, with_events: true, on_progress: &mut on_progress };
    offer.make(bench, order, watch, Generator::run)
}

/// Traffic to be offered while the subject is watched.
struct Offer<'a> {
    when: &'static str,
    /// How long it takes at the rate asked for.
    duration: Duration,
    /// Whether the events of the scenario happen meanwhile.
    with_events: bool,
    on_progress: &'a mut dyn FnMut(u64),
}

impl Offer<'_> {
    /// Lets the generator do `work`, and stops it when the subject is dead, the lab is to end or the time is over.
    fn make(
        self,
        bench: &mut Bench,
        order: &Order<'_>,
        watch: &Watch<'_>,
        work: impl FnOnce(&mut Generator, &AtomicBool, &AtomicU64) -> Result<GeneratorReport, TrafficError> + Send,
    ) -> Result<(GeneratorReport, Log), Halt> {
        let (stop, over, progress) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let Bench { generator, subject, topology, .. } = bench;
        let subject = Mutex::new(subject);
        let deadline = Instant::now() + time_for(self.duration);
        let mut died = None;
        let has_events = self.with_events && !order.scenario.events.is_empty();
        let (generated, log) = thread::scope(|scope| {
            let generating = scope.spawn(|| {
                let offer = || work(generator, &stop, &progress);
                on_this_thread(order.placement, offer)?.map_err(TrialError::from)
            });
            let player = has_events.then(|| Player::new(order, topology, &subject, &over));
            let playing = player.map(|player| scope.spawn(|| player.play()));
            while !generating.is_finished() {
                (self.on_progress)(progress.load(Ordering::Relaxed));
                died = died.take().or_else(|| lock(&subject).died(self.when));
                let over = Instant::now() >= deadline || watch.interrupted.load(Ordering::Relaxed);
                if died.is_some() || over {
                    stop.store(true, Ordering::Relaxed);
                }
                thread::sleep(RUN_LOOK);
            }
            over.store(true, Ordering::Relaxed);
            let log = playing.map_or_else(Log::default, |playing| joined(playing.join()));
            joined(generating.join()).map(|generated| (generated, log))
        })?;
        watch.check()?;
        match died.or_else(|| lock(&subject).died(self.when)) {
            Some(died) => Err(Halt::Subject(died)),
            None => Ok((generated, log)),
        }
    }
}

/// What a thread returned, or its panic.
fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How long the generator may take for what should take `duration`: who needs longer did not offer the rate.
fn time_for(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + OFFERED_TOLERANCE) + OFFER_SLACK
}

/// Waits until nothing moves any more, at the subject's devices and at the sinks. The generator is silent, so what
/// never ends is the subject's, or the sinks'. Returns the CPU times of that moment: a report, which the subject is then
/// asked for, takes it two microseconds a rule.
fn wait_for_quiet(bench: &mut Bench, watch: &Watch<'_>, when: &str) -> Result<Cpu, Halt> {
    let deadline = Instant::now() + QUIET_PATIENCE;
    let (mut frames, mut arrived) = (frames_moved(bench)?, bench.arrived());
    let mut since = Instant::now();
    loop {
        watch.check()?;
        if let Some(died) = bench.subject.died(when) {
            return Err(Halt::Subject(died));
        }
        if Instant::now() >= deadline {
            never_quiet(bench, when)?;
            return Ok(Cpu::now(bench)?);
        }
        thread::sleep(LOOK);
        let now = bench.arrived();
        if now != arrived {
            (arrived, since) = (now, Instant::now());
        } else if since.elapsed() >= QUIET {
            // Asking the devices costs the CPU time that is being measured, so they are asked once, at the end.
            let now = frames_moved(bench)?;
            if now == frames {
                let cpu = Cpu::now(bench)?;
                if holds_nothing(bench) {
                    return Ok(cpu);
                }
            }
            (frames, since) = (now, Instant::now());
        }
    }
}

/// Whether the subject has nothing left to relay, as far as it reports: the block of a ring that is not full can wait for
/// longer than everything else is quiet.
fn holds_nothing(bench: &mut Bench) -> bool {
    let report = bench.subject.report().ok().flatten();
    report.is_none_or(|stats| stats.queued() == 0 && stats.under_way() == 0)
}

/// Who is not quiet when all should be.
fn never_quiet(bench: &Bench, when: &str) -> Result<(), Halt> {
    let moved = || Ok::<_, TrialError>((frames_moved(bench)?, bench.arrived()));
    let (frames, arrived) = moved()?;
    thread::sleep(QUIET);
    let (frames_now, arrived_now) = moved()?;
    restless(frames_now != frames, arrived_now != arrived, when)
}

/// Whose fault it is that the devices of the subject, or the sinks alone, are busy `when` all should be quiet.
fn restless(devices: bool, sinks: bool, when: &str) -> Result<(), Halt> {
    let seconds = QUIET_PATIENCE.as_secs();
    match (devices, sinks) {
        (true, _) => Err(Halt::Subject(format!("the subject still sent {seconds} s {when}"))),
        (false, true) => Err(Halt::Lab(format!("the sinks were still reading {seconds} s {when}"))),
        (false, false) => Ok(()),
    }
}

/// How many frames have gone into the subject and come out of it so far.
fn frames_moved(bench: &Bench) -> Result<u64, TrialError> {
    let mut frames = bench.topology.ingress.counters()?.rx_packets;
    for egress in &bench.topology.egress {
        frames += egress.counters()?.tx_packets;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_that_are_behind_are_not_the_subjects_fault() {
        assert!(matches!(restless(true, true, "after the run"), Err(Halt::Subject(_))));
        assert!(matches!(restless(true, false, "after the run"), Err(Halt::Subject(_))));
        assert!(matches!(restless(false, true, "after the run"), Err(Halt::Lab(_))));
        assert!(restless(false, false, "after the run").is_ok());
    }

    #[test]
    fn offering_is_bounded_by_the_duration() {
        assert_eq!(time_for(Duration::ZERO), OFFER_SLACK);
        assert_eq!(time_for(Duration::from_secs(200)), Duration::from_secs(201) + OFFER_SLACK);
    }
}
