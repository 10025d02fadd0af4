//! What runs: rules with their inputs and outputs, and the workers that are told of them. Every change of it is made here.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::book::{Book, Listening};
use super::inputs::Input;
use super::membership::Memberships;
use super::outputs::Outputs;
use super::places::Places;
use super::receive::Way;
use super::streams::Streams;
use super::workers::Workers;
use super::{SupervisorError, counted};
use crate::config::Config;
use crate::rules::{Output, Rule, SourceAddress};
use crate::stats::{InputStats, MAX_INPUTS};
use crate::sys::interface::Interface;
use crate::sys::udp_socket::EgressAddress;
use crate::wire::LinkLayer;

/// How long workers may relay what they had received when they are told to stop, and wait for sockets of sources, and a little more.
const DRAIN_TIME: Duration = Duration::from_secs(7);

/// Everything that runs while the relay runs.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) config: Config,
    pub(super) way: Way,
    pub(super) book: Book,
    /// By the names of their interfaces.
    pub(super) inputs: BTreeMap<String, LiveInput>,
    pub(super) input_places: Places,
    pub(super) outputs: Outputs,
    pub(super) streams: Streams,
    pub(super) memberships: Memberships,
    pub(super) workers: Workers,
    /// What inputs have counted that were closed, by the names of their interfaces.
    pub(super) past_inputs: BTreeMap<String, InputStats>,
    /// Interfaces on which rules that wait do not try again by themselves before that.
    pub(super) put_off: BTreeMap<String, Instant>,
}

/// An input and how many rules listen to it.
#[derive(Debug)]
pub(super) struct LiveInput {
    pub(super) input: Input,
    pub(super) users: usize,
}

impl Relay {
    /// One without rules, whose workers have not been started.
    pub(super) fn new(config: Config, way: Way, workers: Workers) -> Self {
        Self {
            way,
            book: Book::new(),
            inputs: BTreeMap::new(),
            input_places: Places::new(MAX_INPUTS),
            outputs: Outputs::new(config.gso),
            streams: Streams::new(),
            memberships: Memberships::default(),
            workers,
            past_inputs: BTreeMap::new(),
            put_off: BTreeMap::new(),
            config,
        }
    }

    /// Begins with the rules of the configuration. Where workers of another supervisor relay still, they go on, and rules of
    /// the configuration that they do not have yet are added.
    pub(super) async fn start(&mut self) -> Result<(), SupervisorError> {
        let rules = std::mem::take(&mut self.config.rules);
        match self.workers.adopt().await {
            Some(all_told) => {
                self.take_over(all_told).await?;
                self.prevail(rules).await?;
                tracing::info!("took over from another supervisor, whose workers have gone on");
            }
            None => self.begin(rules).await?,
        }
        for (_, live) in self.book.iter().filter(|(_, live)| live.waits()) {
            tracing::warn!("rule \"{}\" {}", live.rule.name, live.state());
        }
        let inputs: Vec<_> = self.inputs.keys().map(String::as_str).collect();
        tracing::info!(
            "relaying by {}, from {}, with {}, receiving by {}",
            counted(self.book.len(), "rule"),
            if inputs.is_empty() { "no interface yet".to_owned() } else { inputs.join(", ") },
            counted(self.workers.len(), "worker"),
            self.way.name()
        );
        Ok(())
    }

    /// Begins with `rules` and new workers.
    async fn begin(&mut self, rules: Vec<Rule>) -> Result<(), SupervisorError> {
        // All of them first, so that an input knows them when it is opened.
        let places = rules.into_iter().map(|rule| self.book.enter(rule)).collect::<Result<Vec<_>, _>>()?;
        for place in places {
            self.take_leg(place)?;
            self.reconcile(place)?;
        }
        let begun = self.begin_workers().await;
        if begun.is_err() {
            // None is left behind for the next supervisor.
            self.drain_workers().await;
        }
        begun
    }

    async fn begin_workers(&mut self) -> Result<(), SupervisorError> {
        (0..self.workers.len()).try_for_each(|number| self.launch(number))?;
        let told = self.workers.sync().await;
        self.workers.why_down().or(told.err()).map_or(Ok(()), Err)?;
        self.start_inputs()
    }

    /// Starts a worker in place of one that has ended.
    pub(super) fn replace(&mut self, number: usize) -> Result<(), SupervisorError> {
        self.launch(number)?;
        self.workers.ask(number);
        Ok(())
    }

    /// Starts worker `number` and tells it everything.
    fn launch(&mut self, number: usize) -> Result<(), SupervisorError> {
        self.settle(number);
        self.workers.launch(number)?;
        let failed = |error: io::Error| SupervisorError::Worker { number, reason: error.to_string() };
        for (order, descriptor) in self.outputs.orders() {
            self.workers.tell_one(number, &order, Some(descriptor));
        }
        for stream in self.streams.orders() {
            let (order, memory) = stream.map_err(failed)?;
            self.workers.tell_one(number, &order, Some(memory));
        }
        for (place, live) in self.book.iter() {
            self.workers.tell_one(number, &live.order(place), None);
        }
        for held in self.memberships.orders() {
            let (order, socket) = held.map_err(failed)?;
            self.workers.tell_one(number, &order, Some(socket));
        }
        // Last, so that no frame is taken before its rule is known.
        for live in self.inputs.values() {
            let (order, descriptor) = live.input.order(number).map_err(failed)?;
            self.workers.tell_one(number, &order, Some(descriptor));
        }
        Ok(())
    }

    /// Counts what worker `number`, which is dead, has not finished.
    pub(super) fn settle(&mut self, number: usize) {
        let places = self.inputs.values().map(|live| usize::from(live.input.place));
        let rules: Vec<_> = self.book.iter().map(|(place, live)| (place as usize, live.counters())).collect();
        if let Some(counters) = self.workers.counters().get(number) {
            counters.settle(places, rules.iter().map(|(place, outputs)| (*place, outputs.as_slice())));
        }
        if let Way::Recv(_) = self.way {
            self.inputs.values_mut().for_each(|live| live.input.suspect());
        }
    }

    /// Gives the rule at `place` what it waits for, as far as that is there now, and tells the workers. What is missing is
    /// written down with the rule; an error is what would not pass by itself.
    pub(super) fn reconcile(&mut self, place: u32) -> Result<(), SupervisorError> {
        let Some(mut live) = self.book.get(place).cloned() else { return Ok(()) };
        let mut result = Ok(());
        if live.input.is_err() {
            live.input = keep_first(self.listen(&live.rule), &mut result);
        }
        for (output, to) in live.outputs.iter_mut().zip(&live.rule.outputs) {
            if output.open.is_err() {
                output.open = keep_first(self.open_output(&live.rule, to), &mut result);
            }
        }
        if let Some(kept) = self.book.get_mut(place) {
            *kept = live;
        }
        result
    }

    /// The input for `rule`, or why there is none yet.
    fn listen(&mut self, rule: &Rule) -> Result<Result<Listening, String>, SupervisorError> {
        let name = &rule.input.interface;
        let interface = match find(name) {
            Ok(interface) if interface.link_layer == LinkLayer::Other => {
                return Ok(Err(format!(
                    "input {name}: its frames begin with neither Ethernet nor IP, so rules cannot listen to it"
                )));
            }
            Ok(interface) if interface.link_layer == LinkLayer::RawIp && rule.input.vlan.is_some() => {
                return Ok(Err(format!(
                    "input {name}: its frames have no Ethernet header, so they are in no VLAN"
                )));
            }
            Ok(interface) => interface,
            Err(why) => return Ok(Err(format!("input {name}: {why}"))),
        };
        let index = interface.index;
        if !self.inputs.contains_key(name) {
            self.open_input(interface)?;
        }
        let held = self.memberships.enter(rule, index).map_err(|error| SupervisorError::Join {
            group: rule.input.group,
            interface: name.clone(),
            error,
        })?;
        for (order, socket) in held {
            self.workers.tell(&order, Some(&socket));
        }
        let Some(live) = self.inputs.get_mut(name) else {
            return Ok(Err(format!("input {name}: it is gone")));
        };
        live.users += 1;
        Ok(Ok(Listening { place: live.input.place, interface: index }))
    }

    fn open_input(&mut self, interface: Interface) -> Result<(), SupervisorError> {
        let name = interface.name.clone();
        let too_many =
            SupervisorError::TooMany { what: "too many interfaces to listen on", most: MAX_INPUTS };
        let place = self.input_places.take().ok_or(too_many)? as u16;
        let inputs = self.book.inputs_on(&name);
        let input = match Input::open(&self.config, &self.way, interface, place, inputs) {
            Ok(input) => input,
            Err(error) => {
                self.input_places.give_back(place.into());
                return Err(error);
            }
        };
        let orders = (0..self.workers.len()).map(|number| input.order(number)).collect::<Result<Vec<_>, _>>();
        let orders = orders.map_err(|error| {
            self.input_places.give_back(place.into());
            SupervisorError::PacketSocket { interface: name.clone(), error }
        })?;
        for (number, (order, descriptor)) in orders.into_iter().enumerate() {
            self.workers.tell_one(number, &order, Some(descriptor));
        }
        self.inputs.insert(name, LiveInput { input, users: 0 });
        Ok(())
    }

    /// What `rule` sends through to `to`, or why there is nothing yet.
    fn open_output(
        &mut self,
        rule: &Rule,
        to: &Output,
    ) -> Result<Result<(u32, EgressAddress), String>, SupervisorError> {
        let waits = |why| Ok(Err(format!("output {to}: {why}")));
        let interface = match find(&to.interface) {
            Ok(interface) => interface,
            Err(why) => return waits(why),
        };
        let address = EgressAddress {
            destination: to.destinations().first(),
            interface: interface.name,
            interface_index: interface.index,
            ttl: to.ttl.fixed(),
            dscp: to.dscp.fixed(),
            fragment: to.fragment,
            preserve: to.source == SourceAddress::Preserve,
            last: (!to.destinations().is_single()).then(|| to.destinations().last()),
        };
        match self.outputs.open(&address) {
            Ok((place, order)) => {
                if let Some((order, descriptor)) = order {
                    self.workers.tell(&order, Some(&descriptor));
                }
                Ok(Ok((place, address)))
            }
            Err(error) if passes(&error) => waits(format!("{error}{}", super::error::remedy(&error))),
            Err(error) => {
                Err(SupervisorError::Output { rule: rule.name.clone(), output: to.to_string(), error })
            }
        }
    }

    /// Opens sockets of sources for workers that want them.
    pub(super) fn open_senders(&mut self) {
        for (number, key) in self.workers.take_wanted() {
            let (order, socket) = self.outputs.sender(key);
            self.workers.tell_one(number, &order, socket);
        }
    }

    /// Has the workers drain, and end. Says which ones have not, or did not run.
    async fn drain_workers(&mut self) -> Vec<usize> {
        let mut failed = self.workers.begin_drain();
        let calls = self.workers.calls();
        let all_end = async {
            loop {
                tokio::select! {
                    biased;
                    () = self.workers.all_end() => return,
                    () = calls.notified() => self.open_senders(),
                }
            }
        };
        let in_time = tokio::time::timeout(DRAIN_TIME, all_end).await.is_ok();
        failed.extend(self.workers.end_drain(in_time));
        failed
    }

    /// Stops: what was captured by now is relayed. Says which workers did not do so.
    pub(super) async fn stop(&mut self) -> Vec<usize> {
        self.inputs.values_mut().for_each(|live| live.input.end_consumption());
        let failed = self.drain_workers().await;
        for number in &failed {
            self.settle(*number);
        }
        let counters = self.workers.counters();
        self.inputs.values_mut().for_each(|live| live.input.settle(&counters, true));
        failed
    }
}

/// What there is, or why there is nothing; an error is kept as `result`, unless there is one before it.
fn keep_first<T>(
    found: Result<Result<T, String>, SupervisorError>,
    result: &mut Result<(), SupervisorError>,
) -> Result<T, String> {
    found.unwrap_or_else(|error| {
        let why = error.to_string();
        if result.is_ok() {
            *result = Err(error);
        }
        Err(why)
    })
}

/// The interface of that name, or why there is none.
pub(super) fn find(name: &str) -> Result<Interface, String> {
    Interface::find(name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => "no such interface".to_owned(),
        _ => error.to_string(),
    })
}

/// Whether an output that cannot be opened for this may be opened later, when its interface has come up.
fn passes(error: &io::Error) -> bool {
    const PASSING: [i32; 6] = [
        libc::ENODEV,
        libc::ENXIO,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EADDRNOTAVAIL,
    ];
    error.raw_os_error().is_some_and(|errno| PASSING.contains(&errno))
}
