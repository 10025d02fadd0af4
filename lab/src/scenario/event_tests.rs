//! Events that are right, and every way of being wrong.

use multicast_relay::config::document::Mistakes;

use super::*;
use crate::disturbance::EventLimits;
use crate::scenario::Scenario;

fn read(text: &str) -> Result<Scenario, Vec<String>> {
    let read: Result<Scenario, Mistakes> = text.parse();
    read.map_err(|mistakes| mistakes.0.iter().map(ToString::to_string).collect())
}

/// A scenario of five lines with two relays, and this after it.
fn scenario(rest: &str) -> Result<Scenario, Vec<String>> {
    let relay = |name| format!("[[subject]]\nname = '{name}'\nrelay = {{}}\n");
    read(&format!(
        "name = 'x'\n[traffic]\nrate-pps = 1_000\nduration = '5s'\n{rest}\n{}{}",
        relay("v3"),
        relay("recv")
    ))
}

fn event(keys: &str) -> Event {
    scenario(&format!("[[event]]\n{keys}")).unwrap().events[0]
}

/// The one mistake in an event of these keys, which is on lines 5 and 6.
fn mistake(keys: &str) -> String {
    only(scenario(&format!("[[event]]\n{keys}")))
}

fn only(read: Result<Scenario, Vec<String>>) -> String {
    let mistakes = read.unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.into_iter().next().unwrap()
}

#[test]
fn every_event_is_read() {
    let at = Timing::At(Duration::from_secs(1));
    let kill = |victim, signal, restart_after| Action::Kill { victim, signal, restart_after };
    let flap = |link, how, ms| Action::Flap { link, how, down_for: Duration::from_millis(ms) };
    let cases = [
        ("kill = 'worker'", kill(Victim::Worker, Blow::Kill, None)),
        ("kill = 'workers', signal = 'SEGV'", kill(Victim::Workers, Blow::Segv, None)),
        (
            "kill = 'supervisor', signal = 'ABRT', restart-after = '200ms'",
            kill(Victim::Supervisor, Blow::Abrt, Some(Duration::from_millis(200))),
        ),
        ("reload = 'file'", Action::Reload { content: Content::File, via: Via::Command }),
        (
            "reload = 'invalid', via = 'signal'",
            Action::Reload { content: Content::Invalid, via: Via::Signal },
        ),
        ("churn = 3", Action::Churn(3)),
        ("flap = 'spare'", flap(FlappedLink::Spare, How::DownUp, 50)),
        (
            "flap = 'ingress', how = 'recreate', down-for = '1ms'",
            flap(FlappedLink::Ingress, How::Recreate, 1),
        ),
        ("flap = 'egress', how = 'mtu'", flap(FlappedLink::Egress, How::Mtu, 50)),
    ];
    for (keys, action) in cases {
        let keys = format!("at = '1s'\n{}", keys.replace(", ", "\n"));
        assert_eq!(event(&keys), Event { timing: at, action }, "{keys}");
    }
    assert_eq!(kill(Victim::Workers, Blow::Stop, None).to_string(), "kill workers (STOP)");
    assert_eq!(flap(FlappedLink::Egress, How::DownUp, 1).to_string(), "flap egress (down-up)");
    let invalid = Action::Reload { content: Content::Invalid, via: Via::Signal };
    assert_eq!(invalid.to_string(), "reload invalid by signal");
}

#[test]
fn what_happens_again_and_again_has_its_times() {
    let times = |keys: &str| {
        let timing = event(&format!("churn = 1\n{keys}")).timing;
        let times: Vec<_> = timing.times().map(|at| at.as_millis()).collect();
        assert_eq!(timing.count(), times.len() as u64);
        times
    };
    assert_eq!(times("at = '0s'"), [0]);
    assert_eq!(times("every = '2s'"), [2_000, 4_000]);
    assert_eq!(times("every = '2s'\nfrom = '0s'\nuntil = '4s'"), [0, 2_000]);
    assert_eq!(times("every = '10ms'\nfrom = '4970ms'\nuntil = '5s'"), [4_970, 4_980, 4_990]);
}

#[test]
fn an_event_is_one_thing_at_a_time_within_the_trial() {
    for (keys, told) in [
        ("churn = 1", "line 5: event[0]: never happens: give at = \"1s\" or every = \"500ms\""),
        ("at = '1s'", "line 5: event[0]: nothing happens: give kill = \"worker\""),
        (
            "at = '1s'\nevery = '1s'\nchurn = 1",
            "line 7: event[0].every: an event happens once or again and again",
        ),
        (
            "at = '1s'\nuntil = '2s'\nchurn = 1",
            "line 7: event[0].until: is about what happens again and again",
        ),
        ("at = '5s'\nchurn = 1", "line 6: event[0].at: is not within traffic.duration, which is 5s"),
        ("every = '1s'\nuntil = '6s'\nchurn = 1", "line 7: event[0].until: is not within traffic.duration"),
        (
            "every = '1s'\nuntil = '1s'\nchurn = 1",
            "line 7: event[0].until: never happens: it would begin at 1s",
        ),
        ("every = '10us'\nchurn = 1", "line 6: event[0].every: is less than \"1ms\""),
        ("at = '1s'\nchurn = 1\nkill = 'worker'", "line 7: event[0].churn: an event is one thing"),
        ("at = '1s'\nchurn = 0", "line 7: event[0].churn: must be a whole number from 1 to 1000, found 0"),
        ("at = '1s'\nchurn = 1\nkilll = 1", "line 8: event[0].killl: unknown key; did you mean `kill`?"),
        ("at = 'soon'\nchurn = 1", "line 6: event[0].at: must be a duration up to an hour"),
    ] {
        let found = mistake(keys);
        assert!(found.starts_with(told), "{keys:?}: {found}");
    }
    let not_a_list = only(scenario("[event]\nat = '1s'"));
    assert!(not_a_list.ends_with("write [[event]]"), "{not_a_list}");
}

#[test]
fn keys_belong_to_what_they_say_something_about() {
    for (keys, told) in [
        ("churn = 1\nsignal = 'KILL'", "line 8: event[0].signal: belongs to `kill`: remove it"),
        ("kill = 'worker'\nvia = 'signal'", "line 8: event[0].via: belongs to `reload`: remove it"),
        ("reload = 'file'\ndown-for = '1s'", "line 8: event[0].down-for: belongs to `flap`: remove it"),
        ("kill = 'worker'\nrestart-after = '1s'", "line 8: event[0].restart-after: is about a supervisor"),
        ("kill = 'supervisor'", "line 5: event[0].restart-after: is missing: give when a new one is started"),
        (
            "kill = 'supervisor'\nrestart-after = '1s'\nsignal = 'STOP'",
            "line 9: event[0].signal: a supervisor that hangs",
        ),
        ("kill = 'me'", "line 7: event[0].kill: must be one of \"worker\", \"workers\", \"supervisor\""),
        ("reload = 'all'", "line 7: event[0].reload: must be one of \"file\", \"invalid\""),
        ("flap = 'lo'", "line 7: event[0].flap: must be one of \"ingress\", \"egress\", \"spare\""),
        ("flap = 'spare'\nhow = 'up'", "line 8: event[0].how: must be one of \"down-up\""),
    ] {
        let found = mistake(&format!("at = '1s'\n{keys}"));
        assert!(found.starts_with(told), "{keys:?}: {found}");
    }
}

#[test]
fn events_happen_to_our_relay_while_datagrams_are_counted() {
    let kill = "[[event]]\nat = '1s'\nkill = 'worker'";
    for other in ["command = ['socat']", "wire = 'direct'"] {
        let found = only(scenario(&format!("{kill}\n[[subject]]\nname = 'other'\n{other}")));
        assert!(
            found.starts_with("line 5: event[0]: events happen to our relay, and subject \"other\""),
            "{found}"
        );
    }
    let found = only(scenario(&format!("{kill}\n[trials]\nmeasure = 'join-leave'")));
    assert!(found.starts_with("line 5: event[0]: happens while datagrams are counted"), "{found}");
    let flood = "[[event]]\nevery = '1ms'\nchurn = 1\n";
    let many = read(&format!(
        "name = 'x'\n[traffic]\nrate-pps = 10\nduration = '10m'\n{flood}[[subject]]\nname = 'a'\nrelay = {{}}"
    ));
    assert!(only(many).contains("599999 events in one trial are more than 500000"));
}

#[test]
fn only_the_xdp_generator_goes_on_while_its_link_is_down() {
    let flap = |keys: &str, traffic: &str| scenario(&format!("{traffic}\n[[event]]\nat = '1s'\n{keys}"));
    for traffic in ["generator = 'packet'", "payload-bytes = [100, 3_000]"] {
        let found = only(flap("flap = 'ingress'", traffic));
        assert!(found.contains("event[0].flap: only the xdp generator sends in time"), "{found}");
        for keys in ["flap = 'ingress'\nhow = 'mtu'", "flap = 'egress'", "flap = 'spare'"] {
            assert!(flap(keys, traffic).is_ok(), "{keys}");
        }
    }
    assert!(flap("flap = 'ingress'", "").is_ok());
    assert!(flap("flap = 'spare'", "").unwrap().has_spare_link());
    assert!(!flap("flap = 'ingress'", "").unwrap().has_spare_link());
}

#[test]
fn limits_hold_for_all_and_other_ones_for_some() {
    let kill = "[[event]]\nat = '1s'\nkill = 'worker'\n";
    let read = scenario(&format!(
        "{kill}[expect]\nduplicates-per-event = 1_000\ninterruption = '100ms'\n[expect.for.recv]\nloss-per-event = 512\n\
         interruption = '1s'\n"
    ))
    .unwrap();
    let common = EventLimits {
        duplicates_per_event: 1_000,
        interruption: Some(Duration::from_millis(100)),
        ..EventLimits::default()
    };
    let recv = EventLimits { loss_per_event: 512, interruption: Some(Duration::from_secs(1)), ..common };
    let limits: Vec<_> = read.subjects.iter().map(|subject| read.event_limits_of(subject)).collect();
    assert_eq!(limits, [common, recv]);
    let named = scenario(&format!("{kill}[expect]\nloss-per-event = 1\nsubjects = ['v3']")).unwrap();
    assert!(named.event_limits_of(&named.subjects[1]).is_none(), "nothing is expected of it");
}

#[test]
fn limits_that_mean_nothing_are_mistakes() {
    let with = |events: &str, expect: &str| only(scenario(&format!("{events}[expect]\n{expect}")));
    let kill = "[[event]]\nat = '1s'\nkill = 'worker'\n";
    for (events, expect, told) in [
        (
            "",
            "loss-per-event = 1",
            "line 6: expect.loss-per-event: is about workers that die and measured links",
        ),
        ("", "duplicates-per-event = 1", "line 6: expect.duplicates-per-event: is about workers that die"),
        (kill, "recovery = '1s'", "line 9: expect.recovery: is about a measured link that was down"),
        (kill, "interruption = 5", "line 9: expect.interruption: must be a duration"),
        (
            kill,
            "[expect.for.other]\nloss-per-event = 1",
            "line 9: expect.for.other: unknown key; the keys here are v3",
        ),
        (kill, "[expect.for.v3]\nloss = 1", "line 10: expect.for.v3.loss: unknown key"),
    ] {
        let mistakes = scenario(&format!("{events}[expect]\n{expect}")).unwrap_err();
        assert!(mistakes.iter().any(|found| found.starts_with(told)), "{expect:?}: {mistakes:#?}");
    }
    let empty = with(kill, "[expect.for.v3]");
    assert!(empty.starts_with("line 9: expect.for.v3: says nothing: give one of loss-per-event"), "{empty}");
    let short = only(scenario("payload-bytes = 18\n[expect]\ninterruption = '1s'"));
    assert!(short.contains("expect.interruption: some payloads have no room for a time"), "{short}");
}

#[test]
fn growth_has_a_unit_or_is_in_its_key() {
    let limits = |keys: &str| scenario(&format!("[expect]\n{keys}")).map(|read| read.expect.memory);
    let read = limits("memory-growth = '4MiB'\ndescriptor-growth = 0").unwrap();
    assert_eq!((read.growth, read.descriptors), (Some(4 << 20), Some(0)));
    assert_eq!(limits("memory-growth = '256 KiB'").unwrap(), limits("memory-growth-kib = 256").unwrap());
    for (keys, told) in [
        ("memory-growth = '4MB'", "expect.memory-growth: must be a size such as \"4MiB\""),
        ("memory-growth = '1KiB'\nmemory-growth-kib = 1", "is the same as memory-growth-kib: remove one"),
        ("descriptor-growth = -1", "expect.descriptor-growth: must be a whole number from 0"),
    ] {
        let found = only(scenario(&format!("[expect]\n{keys}")));
        assert!(found.contains(told), "{found}");
    }
}
