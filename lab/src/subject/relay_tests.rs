//! What the relay reads.

use std::collections::BTreeSet;

use multicast_relay::config::Config;
use multicast_relay::rules::Rule;

use super::*;

fn route(input: &str, output: &str) -> Route {
    let exit = Exit { device: "egress0".into(), destination: output.parse().unwrap() };
    Route { input: input.parse().unwrap(), outputs: vec![exit] }
}

const V4: [&str; 2] = ["239.81.1.1:5000", "239.82.1.1:6000"];
const V6: [&str; 2] = ["[ff15::1]:5000", "[ff15::2]:6000"];

fn configuration(
    ends: [&str; 2],
    extra_rules: usize,
    spare: Option<&str>,
    has_events: bool,
) -> Configuration {
    let routes = [route(ends[0], ends[1])];
    let relay = Relay { table: toml::Table::new(), extra_rules };
    Configuration::of(&relay, "ingress", &routes, spare, has_events)
}

/// The rules in the text, as the relay reads them.
fn rules(configuration: &Configuration, set: usize) -> Vec<Rule> {
    Config::parse(&configuration.text(set).unwrap()).unwrap().rules
}

fn names(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.name.as_str()).collect()
}

#[test]
fn extra_rules_are_rules_of_their_own_with_the_outputs_of_the_first_flow() {
    for ends in [V4, V6] {
        let rules = rules(&configuration(ends, 3, None, false), 0);
        assert_eq!(names(&rules), ["flow-0", "extra-0", "extra-1", "extra-2"]);
        assert!(
            rules.iter().all(|rule| rule.outputs == rules[0].outputs && rule.input.interface == "ingress")
        );
    }
}

#[test]
fn the_two_sets_of_neighbours_differ_in_every_way_and_leave_the_flows_alone() {
    for ends in [V4, V6] {
        let configuration = configuration(ends, 1, None, true);
        let sets = [0, 1].map(|set| rules(&configuration, set));
        assert_eq!((&sets[0][..2], sets[0].len()), (&sets[1][..2], 2 + NEIGHBOURS));
        assert_eq!(names(&sets[0])[..3], ["flow-0", "extra-0", "neighbour-0"]);
        let [first, second] =
            sets.map(|set| set.into_iter().map(|rule| (rule.name.clone(), rule)).collect::<Vec<_>>());
        let keys = |set: &[(String, Rule)]| set.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
        assert_eq!(keys(&first).difference(&keys(&second)).count(), REPLACED);
        assert_eq!(keys(&second).difference(&keys(&first)).count(), REPLACED);
        let changed = first.iter().filter(|(name, rule)| second.iter().any(|(n, r)| n == name && r != rule));
        assert_eq!(changed.count(), CHANGED);
    }
}

#[test]
fn a_spare_device_has_a_rule_in_each_direction() {
    let rules = rules(&configuration(V4, 0, Some("spare"), false), 0);
    assert_eq!(names(&rules), ["flow-0", "spare-in", "spare-out"]);
    assert_eq!(
        (rules[1].input.interface.as_str(), rules[2].outputs[0].interface.as_str()),
        ("spare", "spare")
    );
}

#[test]
fn rules_that_come_and_go_have_inputs_of_their_own() {
    let configuration = configuration(V4, 3, Some("spare"), true);
    let mut seen: BTreeSet<_> =
        [0, 1].iter().flat_map(|set| rules(&configuration, *set)).map(|r| r.input.to_string()).collect();
    let before = seen.len();
    let further: Vec<_> = (0..500).flat_map(|event| configuration.further(event * 8, 8)).collect();
    assert_eq!((further.len(), further[9].name.as_deref()), (4_000, Some("further-9")));
    seen.extend(further.iter().map(|rule| rule.input.to_string()));
    assert_eq!(seen.len(), before + 4_000);
    // They begin again, and there are as many as asked for at any time.
    let late = configuration.further(MOST_FURTHER * 3 - 2, 1_000);
    assert_eq!((late.len(), &late[2].input), (1_000, &configuration.further(MOST_FURTHER * 3, 1)[0].input));
}

#[test]
fn a_socket_has_a_path_that_the_kernel_takes() {
    let (path, folder) = control_socket(Path::new("/tmp/x")).unwrap();
    assert_eq!((path.to_str(), folder.is_none()), (Some("/tmp/x/control.sock"), true));
    let long = format!("/tmp/{}", "x".repeat(120));
    let (path, folder) = control_socket(Path::new(&long)).unwrap();
    assert!(path.as_os_str().len() <= LONGEST_SOCKET_PATH && path.starts_with(folder.unwrap().path()));
}
