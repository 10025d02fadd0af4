//! Reading `[[event]]`: what happens to our relay and its links while the measured traffic is offered.

use std::fmt;
use std::time::Duration;

use multicast_relay::config::document::Section;

use super::expect::Known;
use super::read::defaulted;
use super::traffic::{DURATION, parse_duration};
use super::{GeneratorChoice, Measure, SubjectKind, Traffic};
use crate::generator::{GeneratorKind, xdp_obstacle};

/// The most events of one trial: a hundred a second for an hour, and some.
const MOST_EVENTS: u64 = 500_000;
/// The most rules that one event adds and removes.
const MOST_CHURN: u64 = 1_000;
/// How long a link stays away unless the scenario says otherwise.
const DOWN_FOR: Duration = Duration::from_millis(50);

/// Something that happens in each trial, once or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, since the first measured datagram was due.
    pub timing: Timing,
    /// What.
    pub action: Action,
}

/// When something happens, since the first measured datagram was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Once.
    At(Duration),
    /// At `from`, and again and again before `until`.
    Every {
        /// How far apart.
        interval: Duration,
        /// The first time.
        from: Duration,
        /// When it is over.
        until: Duration,
    },
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A process of the relay gets a signal.
    Kill {
        /// Which.
        victim: Victim,
        /// The signal.
        signal: Blow,
        /// When a new supervisor is started in place of the one that ended; of a supervisor only.
        restart_after: Option<Duration>,
    },
    /// The relay is to read its configuration file again.
    Reload {
        /// What is in the file by then.
        content: Content,
        /// How it is told.
        via: Via,
    },
    /// So many rules that nothing comes in for are added, and as many removed.
    Churn(usize),
    /// A link of the relay changes, and changes back.
    Flap {
        /// Which.
        link: FlappedLink,
        /// How.
        how: How,
        /// For how long.
        down_for: Duration,
    },
}

/// Whom a signal hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One worker; they take turns.
    Worker,
    /// Every worker at once.
    Workers,
    /// The supervisor.
    Supervisor,
}

/// A signal that nobody who gets it goes on after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSEGV: a fault in the program.
    Segv,
    /// SIGABRT: the program gives up.
    Abrt,
    /// SIGSTOP: the program hangs.
    Stop,
}

/// What a configuration file says when it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The rules of the flows as before, and other ones beside them.
    File,
    /// What is no configuration.
    Invalid,
}

/// How the relay is told to read its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By SIGHUP.
    Signal,
    /// By its command `reload`.
    Command,
}

/// A link that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlappedLink {
    /// That from the generator.
    Ingress,
    /// That to the first sink.
    Egress,
    /// One that only rules use which nothing comes in for.
    Spare,
}

/// How a link changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Down, and up again.
    DownUp,
    /// Gone, and there again under the same name, as another device.
    Recreate,
    /// To another MTU, and back.
    Mtu,
}

const VICTIMS: [(&str, Victim); 3] =
    [("worker", Victim::Worker), ("workers", Victim::Workers), ("supervisor", Victim::Supervisor)];
const BLOWS: [(&str, Blow); 4] =
    [("KILL", Blow::Kill), ("SEGV", Blow::Segv), ("STOP", Blow::Stop), ("ABRT", Blow::Abrt)];
const CONTENTS: [(&str, Content); 2] = [("file", Content::File), ("invalid", Content::Invalid)];
const VIAS: [(&str, Via); 2] = [("command", Via::Command), ("signal", Via::Signal)];
const LINKS: [(&str, FlappedLink); 3] =
    [("ingress", FlappedLink::Ingress), ("egress", FlappedLink::Egress), ("spare", FlappedLink::Spare)];
const HOWS: [(&str, How); 3] = [("down-up", How::DownUp), ("recreate", How::Recreate), ("mtu", How::Mtu)];

/// What an event does, and which keys say how.
const ACTIONS: [(&str, &[&str]); 4] = [
    ("kill", &["signal", "restart-after"]),
    ("reload", &["via"]),
    ("churn", &[]),
    ("flap", &["how", "down-for"]),
];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, known)| known == value).map_or("", |(name, _)| name)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { victim, signal, .. } => {
                write!(f, "kill {} ({})", name_of(&VICTIMS, victim), name_of(&BLOWS, signal))
            }
            Self::Reload { content, via } => {
                write!(f, "reload {} by {}", name_of(&CONTENTS, content), name_of(&VIAS, via))
            }
            Self::Churn(rules) => write!(f, "churn {rules}"),
            Self::Flap { link, how, .. } => {
                write!(f, "flap {} ({})", name_of(&LINKS, link), name_of(&HOWS, how))
            }
        }
    }
}

impl Action {
    /// Whether it may cost datagrams: a worker dies that has some in its hands, or a measured link goes away.
    pub fn is_outage(&self) -> bool {
        let worker_dies = matches!(self, Self::Kill { victim: Victim::Worker | Victim::Workers, .. });
        worker_dies || self.cuts_the_measured_link()
    }

    /// Whether nothing can cross a link of the measured flows meanwhile.
    pub fn cuts_the_measured_link(&self) -> bool {
        let (Self::Flap { link, how, .. }, measured) = (self, [FlappedLink::Ingress, FlappedLink::Egress])
        else {
            return false;
        };
        measured.contains(link) && *how != How::Mtu
    }
}

impl Timing {
    /// All times at which it is time, in order.
    pub fn times(&self) -> impl Iterator<Item = Duration> + use<> {
        let (interval, from, until) = match *self {
            Self::At(at) => (Duration::ZERO, at, Duration::ZERO),
            Self::Every { interval, from, until } => (interval, from, until),
        };
        std::iter::successors(Some(from), move |at| Some(*at + interval).filter(|at| *at < until))
    }

    fn count(&self) -> u64 {
        match *self {
            Self::At(_) => 1,
            Self::Every { interval, from, until } => {
                let span = until.saturating_sub(from).as_nanos();
                u64::try_from(span.div_ceil(interval.as_nanos().max(1))).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Reads every `[[event]]`.
pub(super) fn read(root: &Section<'_>, known: &Known<'_>) -> Option<Vec<Event>> {
    if !root.has("event") {
        return Some(Vec::new());
    }
    let sections = root.sections("event")?;
    if let Some(first) = sections.first() {
        refuse_others(first, known);
    }
    let events: Vec<_> = sections.iter().map(|section| read_one(section, known)).collect();
    let events: Vec<Event> = events.into_iter().collect::<Option<_>>()?;
    let count = events.iter().fold(0, |sum: u64, event| sum.saturating_add(event.timing.count()));
    if count > MOST_EVENTS {
        root.mistake(
            "event",
            format!("{count} events in one trial are more than {MOST_EVENTS}: raise `every`"),
        );
    }
    Some(events)
}

/// Events happen to our relay, while datagrams are counted.
fn refuse_others(section: &Section<'_>, known: &Known<'_>) {
    let other = known.subjects.iter().find(|subject| !matches!(subject.kind, SubjectKind::Relay(_)));
    if let Some(other) = other {
        let name = &other.name;
        section.mistake(
            "",
            format!(
                "events happen to our relay, and subject \"{name}\" is another program or a wire: write a scenario of \
                 its own for it"
            ),
        );
    }
    if known.trials.is_some_and(|trials| trials.measure == Measure::JoinLeave) {
        let why = "happens while datagrams are counted, and none are with trials.measure = \"join-leave\"";
        section.mistake("", format!("{why}: remove either"));
    }
}

fn read_one(section: &Section<'_>, known: &Known<'_>) -> Option<Event> {
    let timing = read_timing(section, known.traffic);
    let kinds: Vec<_> = ACTIONS.iter().map(|(kind, _)| *kind).filter(|kind| section.has(kind)).collect();
    let action = match kinds[..] {
        [kind] => {
            refuse_keys_of_others(section, kind);
            read_action(section, kind, known)
        }
        [_, one_too_many, ..] => {
            section.mistake(one_too_many, "an event is one thing: write an [[event]] of its own for each");
            None
        }
        _ => {
            let example = "kill = \"worker\", reload = \"file\", churn = 1 or flap = \"spare\"";
            section.mistake("", format!("nothing happens: give {example}"));
            None
        }
    };
    Some(Event { timing: timing?, action: action? })
}

fn read_timing(section: &Section<'_>, traffic: Option<&Traffic>) -> Option<Timing> {
    let [at, every, from, until] = ["at", "every", "from", "until"].map(|key| duration(section, key));
    let has = |key| section.has(key);
    match (has("at"), has("every")) {
        (true, true) => section.mistake("every", "an event happens once or again and again: remove `at`"),
        (false, false) => section.mistake("", "never happens: give at = \"1s\" or every = \"500ms\""),
        _ => {}
    }
    for key in ["from", "until"].into_iter().filter(|key| has(key) && !has("every")) {
        section.mistake(key, "is about what happens again and again: give every = \"500ms\", or remove it");
    }
    let duration = traffic.map_or(Duration::MAX, |traffic| traffic.duration);
    for (key, time) in [("at", at), ("from", from), ("until", until)] {
        if time.is_some_and(|time| time > duration || time == duration && key != "until") {
            section.mistake(key, format!("is not within traffic.duration, which is {duration:?}"));
        }
    }
    if every.is_some_and(|interval| interval < Duration::from_millis(1)) {
        section.mistake("every", "is less than \"1ms\", faster than anything could happen");
        return None;
    }
    if let Some(at) = at {
        return Some(Timing::At(at));
    }
    let interval = every?;
    let (from, until) = (from.unwrap_or(interval), until.unwrap_or(duration));
    if from >= until {
        let key = if has("until") { "until" } else { "every" };
        section.mistake(key, format!("never happens: it would begin at {from:?} and is over at {until:?}"));
    }
    Some(Timing::Every { interval, from, until })
}

fn refuse_keys_of_others(section: &Section<'_>, kind: &str) {
    for (other, keys) in ACTIONS.iter().filter(|(other, _)| *other != kind) {
        for key in keys.iter().filter(|key| section.has(key)) {
            section.mistake(key, format!("belongs to `{other}`: remove it"));
        }
    }
}

fn read_action(section: &Section<'_>, kind: &str, known: &Known<'_>) -> Option<Action> {
    match kind {
        "kill" => read_kill(section),
        "reload" => {
            let content = section.choice("reload", &CONTENTS);
            let via = defaulted(section, "via", Via::Command, || section.choice("via", &VIAS));
            Some(Action::Reload { content: content?, via: via? })
        }
        "churn" => section.integer("churn", 1..=MOST_CHURN).map(|rules| Action::Churn(rules as usize)),
        _ => read_flap(section, known),
    }
}

fn read_kill(section: &Section<'_>) -> Option<Action> {
    let victim = section.choice("kill", &VICTIMS);
    let signal = defaulted(section, "signal", Blow::Kill, || section.choice("signal", &BLOWS));
    let restart_after = duration(section, "restart-after");
    if victim == Some(Victim::Supervisor) {
        section.require("restart-after", "when a new one is started, such as \"200ms\"");
        if signal == Some(Blow::Stop) {
            section.mistake(
                "signal",
                "a supervisor that hangs is for whoever watches over it: use \"KILL\", or kill = \"worker\"",
            );
        }
    } else if section.has("restart-after") {
        section.mistake("restart-after", "is about a supervisor, which restarts its workers: remove it");
    }
    Some(Action::Kill { victim: victim?, signal: signal?, restart_after })
}

fn read_flap(section: &Section<'_>, known: &Known<'_>) -> Option<Action> {
    let link = section.choice("flap", &LINKS);
    let how = defaulted(section, "how", How::DownUp, || section.choice("how", &HOWS));
    let down_for = defaulted(section, "down-for", DOWN_FOR, || duration(section, "down-for"));
    let action = Action::Flap { link: link?, how: how?, down_for: down_for? };
    if link == Some(FlappedLink::Ingress) && action.cuts_the_measured_link() && !sends_by_xdp(known) {
        section.mistake(
            "flap",
            "only the xdp generator sends in time to a link that is down: use generator = \"xdp\", and payloads that fit \
             one frame",
        );
    }
    Some(action)
}

/// Whether the xdp generator is the one of every condition.
fn sends_by_xdp(known: &Known<'_>) -> bool {
    let Some(traffic) = known.traffic else { return true };
    let fits = |bytes: &usize| xdp_obstacle(known.links.ingress(), *bytes).is_none();
    match traffic.generator {
        GeneratorChoice::Always(kind) => kind == GeneratorKind::Xdp,
        GeneratorChoice::Auto => traffic.payloads_bytes.iter().all(fits),
    }
}

fn duration(section: &Section<'_>, key: &str) -> Option<Duration> {
    section.parsed(key, DURATION, parse_duration)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
