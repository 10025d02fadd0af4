use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::faults_between;
use super::*;

fn rule(name: &str, spec: &str, source: Option<&str>) -> Rule {
    let mut rule: Rule = spec.parse().unwrap();
    name.clone_into(&mut rule.name);
    rule.input.source = source.map(|source| source.parse().unwrap());
    rule
}

fn messages(rules: &[Rule]) -> Vec<(usize, String)> {
    faults_between(rules).into_iter().map(|(i, fault)| (i, fault.message)).collect()
}

#[test]
fn a_circle_of_two_is_spelled_out_at_the_later_rule() {
    let rules = [
        rule("a", "eth0:239.1.1.1:5000=239.9.9.9:1:eth1,239.1.1.1:5000:eth1", None),
        rule("between", "eth0:239.1.1.2:5000=239.1.1.1:5000:eth1", None),
        rule("b", "eth1:239.1.1.1:5000=239.1.1.1:5000:eth0", None),
    ];
    let expected = "these rules send in a circle: \"a\" sends 239.1.1.1:5000 on eth1, which \"b\" takes; \
                    \"b\" sends 239.1.1.1:5000 on eth0, which \"a\" takes: \
                    take one of them out, or have each of them name a source of its own";
    assert_eq!(messages(&rules), [(2, expected.to_owned())]);
}

#[test]
fn every_part_of_an_endpoint_counts() {
    let a = rule("a", "eth0:[ff15::1]:5000=[ff15::1]:5000:eth1", None);
    for (spec, is_circle) in [
        ("eth1:[ff15::1]:5000=[ff15::1]:5000:eth0", true),
        ("eth2:[ff15::1]:5000=[ff15::1]:5000:eth0", false),
        ("eth1:[ff15::2]:5000=[ff15::1]:5000:eth0", false),
        ("eth1:[ff15::1]:5001=[ff15::1]:5000:eth0", false),
        ("eth1:[ff15::1]:5000=[ff15::1]:5000:eth2", false),
        ("eth1:[ff15::1]:5000=[ff15::1]:5001:eth0", false),
        ("eth1:[ff15::1]:5000=239.1.1.1:5000:eth0", false),
    ] {
        let rules = [a.clone(), rule("b", spec, None)];
        assert_eq!(!messages(&rules).is_empty(), is_circle, "{spec}");
    }
}

#[test]
fn ranges_that_meet_lead_to_each_other() {
    let a = rule("a", "eth0:239.1.0.0/24:5000-5009=239.2.0.0/24:6000-6009:eth1", None);
    for (spec, is_circle) in [
        ("eth1:239.2.0.0/24:6000-6009=239.1.0.0/24:5000-5009:eth0", true),
        ("eth1:239.2.0.7:6009=239.1.0.7:5009:eth0", true),
        ("eth1:239.2.0.0/16:6009-7000=239.1.0.0/16:5000-5991:eth0", true),
        ("eth1:239.2.0.7:6010=239.1.0.7:5009:eth0", false),
        ("eth1:239.2.1.0/24:6000=239.1.0.0/24:5000:eth0", false),
        ("eth1:239.2.0.0/24:6000=239.1.1.0/24:5000:eth0", false),
        ("eth1:239.2.0.0/24:6000=239.1.0.0/24:5010:eth0", false),
    ] {
        let mut b = rule("b", spec, None);
        b.join = false;
        let found = messages(&[a.clone(), b]);
        assert_eq!(!found.is_empty(), is_circle, "{spec}: {found:?}");
    }
    let b = rule("b", "eth1:239.2.0.0/26:6008-6020=239.1.0.9:5001:eth0", None);
    let expected = "these rules send in a circle (a range counts as a whole): \
                    \"a\" sends 239.2.0.0/26:6008-6009 on eth1, which \"b\" takes; \"b\" sends 239.1.0.9:5001 on eth0, which \"a\" takes: ";
    let found = messages(&[a, b]);
    assert!(found[0].1.starts_with(expected), "{found:?}");
}

#[test]
fn only_rules_for_different_sources_do_not_feed_each_other() {
    let (one, two) = (Some("10.0.0.1"), Some("10.0.0.2"));
    for (first, second, is_circle) in
        [(None, None, true), (one, None, true), (None, one, true), (one, one, true), (one, two, false)]
    {
        let rules = [
            rule("a", "eth0:239.1.1.1:1=239.1.1.1:1:eth1", first),
            rule("b", "eth1:239.1.1.1:1=239.1.1.1:1:eth0", second),
        ];
        assert_eq!(!messages(&rules).is_empty(), is_circle, "{first:?} {second:?}");
    }
}

#[test]
fn what_leaves_untagged_feeds_no_rule_for_a_vlan() {
    let mut rules = [
        rule("a", "eth0:239.1.1.1:1=239.1.1.1:1:eth1,239.1.1.1:1:eth0", None),
        rule("b", "eth1:239.1.1.1:1=239.1.1.1:1:eth0", None),
    ];
    assert_eq!((messages(&rules).len(), rules[0].faults().len()), (1, 1), "beside each other");
    rules[0].input.vlan = "5".parse().ok();
    rules[0].join = false;
    assert_eq!((messages(&rules), rules[0].faults()), (vec![], vec![]));
    let mut takers = Takers::default();
    let untagged = rule("c", "eth0:239.1.1.1:1=239.1.1.1:1:eth1", None);
    takers.insert(&rules[0].input, 0);
    assert_eq!((takers.get(&rules[0].input), takers.get(&untagged.input)), (Some(0), None));
    takers.insert(&untagged.input, 1);
    takers.remove(&rules[0].input, 0);
    assert_eq!((takers.get(&rules[0].input), takers.get(&untagged.input)), (None, Some(1)));
}

#[test]
fn a_rule_that_feeds_itself_is_a_fault_of_its_own() {
    let rules = [rule("a", "eth0:239.1.1.1:1=239.2.2.2:2:eth1,239.1.1.1:1:eth0", Some("10.0.0.1"))];
    assert_eq!(circles_among(&rules), [[0]]);
    assert_eq!(messages(&rules), []);
    assert_eq!(rules[0].faults()[0].key, "outputs[1]");
}

#[test]
fn circles_that_share_no_rule_are_all_told() {
    let pair = |i: u8, from: &str, to: &str| {
        let spec = format!("{from}:239.1.1.{i}:1=239.1.1.{i}:1:{to}");
        rule(&spec, &spec, None)
    };
    let rules: Vec<_> = (0..5).flat_map(|i| [pair(i, "eth0", "eth1"), pair(i, "eth1", "eth0")]).collect();
    assert_eq!(messages(&rules).iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
}

/// Rules each of which sends to the next one.
fn chain(len: u32, last: u32) -> Vec<Rule> {
    let group = |i: u32| IpAddr::from((0xef01_0000 + i).to_be_bytes());
    let next = |i: u32| if i + 1 == len { last } else { i + 1 };
    let link =
        |i: u32| rule(&format!("r{i}"), &format!("eth0:{}:1={}:1:eth0", group(i), group(next(i))), None);
    (0..len).map(link).collect()
}

#[test]
fn a_long_circle_is_found_and_told_in_short() {
    assert_eq!(messages(&chain(20_000, 20_000)), []);
    let found = messages(&chain(20_000, 0));
    assert_eq!((found.len(), found[0].0), (1, 19_999));
    let message = &found[0].1;
    assert!(message.contains("which \"r7\" takes; and so on by 19992 more; \"r19999\" sends"), "{message}");
    assert!(message.len() < 1_000, "{message}");
    let message = &messages(&chain(8, 0))[0].1;
    assert!(!message.contains("more") && message.matches("sends").count() == 8, "{message}");
}

/// As many rules that send to one input as rules that have that input, one of them for each source.
#[test]
fn many_rules_that_meet_at_one_input_are_no_circle() {
    const COUNT: u32 = 20_000;
    let source = |i: u32| Some(IpAddr::from((0x0a00_0000 + i).to_be_bytes()));
    let group = |net: u32, i: u32| IpAddr::from((net + i).to_be_bytes());
    let mut rules = Vec::new();
    for i in 0..COUNT {
        let mut sender = rule("", &format!("eth0:{}:1=239.3.0.0:1:eth1", group(0xef01_0000, i)), None);
        let mut taker = rule("", &format!("eth1:239.3.0.0:1={}:1:eth2", group(0xef02_0000, i)), None);
        (sender.name, taker.name) = (format!("s{i}"), format!("t{i}"));
        taker.input.source = source(i);
        rules.extend([sender, taker]);
    }
    assert_eq!(messages(&rules), []);
}

/// Rules within so small a world that they often feed each other.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let endpoint = || (0..2_u8, 0..3_u8);
    let spec = (endpoint(), 0..3_u8, prop::collection::vec(endpoint(), 1..3));
    prop::collection::vec(spec, 1..9).prop_map(|specs| {
        let mut inputs = BTreeSet::new();
        let unique = specs.into_iter().filter(|(input, source, _)| inputs.insert((*input, *source)));
        // The last one is a range that has the others.
        let name_of = |group: u8| if group == 2 { "0/31".to_owned() } else { group.to_string() };
        let rule = |((interface, group), source, outputs): ((u8, u8), u8, Vec<(u8, u8)>)| {
            let to = |(interface, group)| format!("239.1.1.{}:1:eth{interface}", name_of(group));
            let outputs = outputs.into_iter().map(to).collect::<Vec<_>>().join(",");
            let name = format!("{interface} {group} {source}");
            let source = (source > 0).then(|| format!("10.0.0.{source}"));
            let group = name_of(group);
            rule(&name, &format!("eth{interface}:239.1.1.{group}:1={outputs}"), source.as_deref())
        };
        unique.map(rule).collect()
    })
}

/// The same by the book.
fn feeds(rule: &Rule, taker: &Rule) -> bool {
    let sources = (rule.input.source, taker.input.source);
    let is_kept_apart = matches!(sources, (Some(one), Some(other)) if one != other);
    !is_kept_apart && rule.outputs.iter().any(|output| fed(&taker.input, output).is_some())
}

/// Whether there is a circle: whether it is a way from any rule to itself, of whatever length.
fn has_circle(rules: &[Rule]) -> bool {
    let mut leads: Vec<Vec<bool>> =
        rules.iter().map(|rule| rules.iter().map(|taker| feeds(rule, taker)).collect()).collect();
    for via in 0..rules.len() {
        for from in 0..rules.len() {
            for to in 0..rules.len() {
                leads[from][to] |= leads[from][via] && leads[via][to];
            }
        }
    }
    (0..rules.len()).any(|i| leads[i][i])
}

proptest! {
    #[test]
    fn circles_are_what_they_are_by_the_book(rules in rules()) {
        let circles = circles_among(&rules);
        prop_assert_eq!(!circles.is_empty(), has_circle(&rules));
        let mut seen = BTreeSet::new();
        for circle in &circles {
            for (i, next) in circle.iter().zip(circle.iter().cycle().skip(1)) {
                prop_assert!(feeds(&rules[*i], &rules[*next]), "{:?}", circle);
                prop_assert!(seen.insert(*i), "{:?}", circles);
            }
        }
    }

    #[test]
    fn a_search_from_a_new_rule_finds_what_it_would_close(
        rules in rules(),
        leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut takers = Takers::default();
        let mut running = BTreeSet::new();
        // Those that leave come again at the end.
        let leaving: Vec<_> = leaving.iter().map(|index| index.index(rules.len())).collect();
        let order = (0..rules.len()).chain(leaving.iter().copied());
        for (turn, i) in order.enumerate() {
            if turn == rules.len() {
                for i in &leaving {
                    takers.remove(&rules[*i].input, *i);
                    running.remove(i);
                }
            }
            takers.insert(&rules[i].input, i);
            running.insert(i);
            let all: Vec<_> = running.iter().map(|i| rules[*i].clone()).collect();
            let found = circles([i], |i| rules.get(i), |sent| takers.of(sent));
            prop_assert_eq!(!found.is_empty(), has_circle(&all));
            if let Some(circle) = found.first() {
                prop_assert!(circle.contains(&i));
                takers.remove(&rules[i].input, i);
                running.remove(&i);
            }
        }
    }
}
