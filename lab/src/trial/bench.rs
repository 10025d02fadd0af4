//! What stands on the bench during a trial: the network, the sinks, the subject and the generator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::flows::{Ends, Exit, Route, SOURCE_PORT, foreign_input, inputs, routes};
use super::framing::Framing;
use super::{Order, Placement, TrialError};
use crate::generator::{Generator, GeneratorKind, GeneratorReport};
use crate::plan::{Flow, Foreign, Plan, PlanError, multicast_mac};
use crate::scenario::{Mapping, SubjectKind};
use crate::sink::Sink;
use crate::subject::{Assignment, Running};
use crate::topology::{Port, Topology};

/// Everything of one trial that is taken down again. Fields drop in this order: who uses the network goes first.
pub(super) struct Bench {
    pub(super) generator: Generator,
    pub(super) subject: Running,
    pub(super) sinks: Vec<Sink>,
    pub(super) topology: Topology,
}

impl Bench {
    /// Builds the network, opens the sinks, starts the subject, opens the generator.
    pub(super) fn set_up(order: &Order<'_>) -> Result<Self, TrialError> {
        let Stage { topology, routes, sinks } = Stage::set_up(order)?;
        let subject = start_subject(order, &topology, &routes)?;
        let generator = open_generator(order, &topology, &routes)?;
        Ok(Self { generator, subject, sinks, topology })
    }

    /// How many datagrams, whatever they are, have reached the sinks so far.
    pub(super) fn arrived(&self) -> u64 {
        self.sinks.iter().map(Sink::received).sum()
    }

    /// How many of the flows have reached the sink that has seen the fewest.
    pub(super) fn flows_seen(&self) -> usize {
        self.sinks.iter().map(Sink::warm_up_flows_seen).min().unwrap_or_default()
    }

    /// How many datagrams the devices toward the sinks carried that the sinks have not read.
    pub(super) fn unread(&self, order: &Order<'_>) -> Result<u64, TrialError> {
        let framing = Framing::at_egress(order.link(), &order.condition);
        let mut unread = 0;
        let Topology { egress, sinks: ports, .. } = &self.topology;
        for ((egress, port), sink) in egress.iter().zip(ports).zip(&self.sinks) {
            let (near, far) = (egress.counters()?, port.counters()?);
            let transmitted = framing.datagrams(near.tx_packets, near.tx_bytes);
            let carried = transmitted.max(framing.datagrams(far.rx_packets, far.rx_bytes));
            unread += port.namespace().run(|| sink.unread_of(carried))??;
        }
        Ok(unread)
    }

    /// Tells every sink that the warm-up is over.
    pub(super) fn begin_measuring(&self) -> Result<(), TrialError> {
        for (port, sink) in self.topology.sinks.iter().zip(&self.sinks) {
            port.namespace().run(|| sink.begin_measuring())??;
        }
        Ok(())
    }

    /// Sends warm-up datagrams from the generator's processor.
    pub(super) fn warm_up(
        &mut self,
        placement: &Placement,
        rate_pps: u64,
        count: u64,
        stop: &AtomicBool,
    ) -> Result<GeneratorReport, TrialError> {
        let generator = &mut self.generator;
        on_generator_cpu(placement, || generator.warm_up(rate_pps, count, stop))?.map_err(TrialError::from)
    }
}

/// The network with its sinks, before anybody sends.
pub(super) struct Stage {
    pub(super) sinks: Vec<Sink>,
    pub(super) routes: Vec<Route>,
    pub(super) topology: Topology,
}

impl Stage {
    pub(super) fn set_up(order: &Order<'_>) -> Result<Self, TrialError> {
        let mut topology = Topology::build(order.run, &order.link(), order.condition.fan_out)?;
        if order.scenario.has_spare_link() {
            topology.add_spare()?;
        }
        let routes = routes_of(order, &topology);
        let mut plans = Vec::new();
        for sink in 0..topology.sinks.len() {
            plans.push(Arc::new(plan(order, &topology, &routes, sink)?));
        }
        let mut sinks = Vec::new();
        for (port, plan) in topology.sinks.iter().zip(&plans) {
            let open = || Sink::open(order.condition.sink_kind, port, topology.link(), plan);
            sinks.push(port.namespace().run(open)??);
        }
        Ok(Self { sinks, routes, topology })
    }
}

/// Starts the subject in its namespace.
pub(super) fn start_subject(
    order: &Order<'_>,
    topology: &Topology,
    routes: &[Route],
) -> Result<Running, TrialError> {
    let assignment = Assignment {
        namespace: topology.relay_namespace(),
        ingress: topology.ingress.device(),
        routes,
        dir: order.dir,
        relay_binary: order.relay_binary,
        lab_binary: order.lab_binary,
        cpus: order.placement.subject.clone(),
        spare: topology.spare_device(),
        has_events: !order.scenario.events.is_empty(),
    };
    Ok(Running::start(order.subject, &assignment)?)
}

/// Opens the generator at its end of the cable.
pub(super) fn open_generator(
    order: &Order<'_>,
    topology: &Topology,
    routes: &[Route],
) -> Result<Generator, TrialError> {
    // For the generator every sink's plan is the same: they differ in where the copies arrive.
    let plan = plan(order, topology, routes, 0)?;
    let (port, far) = generator_cable(order, topology);
    let kind = order.condition.generator;
    if kind == GeneratorKind::Xdp {
        far.receive_by_napi()?;
    }
    let open = || Generator::open(kind, port.device(), port.mac(), &plan);
    Ok(port.namespace().run(open)??)
}

/// Runs `work` on a thread at the generator's place.
pub(super) fn on_generator_cpu<T: Send>(
    placement: &Placement,
    work: impl FnOnce() -> T + Send,
) -> Result<T, TrialError> {
    let result = thread::scope(|scope| scope.spawn(|| on_this_thread(placement, work)).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `work` here, with this thread at the generator's place from now on.
pub(super) fn on_this_thread<T>(placement: &Placement, work: impl FnOnce() -> T) -> Result<T, TrialError> {
    placement.enter_generator().map_err(TrialError::system("choose the generator's processor"))?;
    Ok(work())
}

/// How many datagrams `rate_pps` makes in `duration`.
pub(super) fn datagrams(rate_pps: u64, duration: Duration) -> u64 {
    let datagrams = u128::from(rate_pps) * duration.as_nanos() / 1_000_000_000;
    u64::try_from(datagrams).unwrap_or(u64::MAX)
}

fn routes_of(order: &Order<'_>, topology: &Topology) -> Vec<Route> {
    let mapping = match &order.subject.kind {
        SubjectKind::Relay(_) => Mapping::Mapped,
        SubjectKind::Command(command) => command.output,
        SubjectKind::Wire => Mapping::Same,
    };
    let pairs = topology.egress.iter().zip(&topology.sinks);
    let ends = Ends {
        family: order.scenario.link.family,
        ingress: topology.ingress.address(),
        sinks: pairs.map(|(egress, sink)| (egress.device().to_owned(), sink.address())).collect(),
    };
    let cast = order.condition.cast;
    match &order.scenario.traffic.replay {
        Some(replay) => routes(&ends, cast, mapping, replay.recording.flows()),
        None => routes(&ends, cast, mapping, &inputs(&ends, cast, order.condition.flows)),
    }
}

/// The generator's port and the one at the other end of its cable: without a subject in between, that of the first sink.
fn generator_cable<'a>(order: &Order<'_>, topology: &'a Topology) -> (&'a Port, &'a Port) {
    match (&order.subject.kind, &topology.egress[..], &topology.sinks[..]) {
        (SubjectKind::Wire, [egress, ..], [sink, ..]) => (egress, sink),
        _ => (&topology.generator, &topology.ingress),
    }
}

/// The plan as sink `sink` sees it.
fn plan(order: &Order<'_>, topology: &Topology, routes: &[Route], sink: usize) -> Result<Plan, PlanError> {
    let source = SocketAddr::new(generator_cable(order, topology).0.address(), SOURCE_PORT);
    let flow = |route: &Route| {
        let exit: Option<&Exit> = route.outputs.get(sink);
        Flow {
            source,
            destination: route.input,
            destination_mac: multicast_mac(route.input.ip()).unwrap_or(topology.ingress.mac()),
            delivered: exit.map_or(route.input, |exit| exit.destination),
        }
    };
    let (condition, traffic) = (&order.condition, &order.scenario.traffic);
    let flows: Vec<_> = routes.iter().map(flow).collect();
    let foreign = flows.first().filter(|_| condition.foreign_pps > 0).map(|first| {
        let destination = foreign_input(first.destination);
        Foreign {
            flow: Flow { destination, delivered: destination, ..*first },
            rate_pps: condition.foreign_pps,
            datagrams: datagrams(condition.foreign_pps, traffic.duration),
        }
    });
    Plan::new(
        order.run.id(),
        flows,
        condition.payload_bytes,
        condition.rate_pps,
        traffic.datagrams(condition.rate_pps),
    )?
    .replaying(traffic.replay.clone())?
    .in_bursts_of(traffic.burst)?
    .impaired(traffic.impairments)?
    .beside(foreign)
    .map(|plan| plan.with_latency_from(order.scenario.trials.latency_from))
}
