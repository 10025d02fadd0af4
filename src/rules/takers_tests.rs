use proptest::prelude::*;

use super::super::cycles::fed;
use super::*;

fn rule(spec: &str, source: Option<&str>) -> Rule {
    let mut rule: Rule = spec.parse().unwrap();
    rule.input.source = source.map(|source| source.parse().unwrap());
    rule
}

#[test]
fn takers_come_and_go_and_leave_nothing_behind() {
    let first = rule("eth0:239.1.1.1:1=239.2.2.2:2:eth1", None);
    let second = rule("eth0:239.1.1.1:1=239.2.2.2:2:eth1", Some("10.0.0.1"));
    let mut takers = Takers::default();
    takers.insert(&first.input, 1);
    takers.insert(&second.input, 2);
    assert_eq!((takers.get(&first.input), takers.get(&second.input)), (Some(1), Some(2)));
    takers.insert(&first.input, 3);
    takers.remove(&first.input, 1);
    assert_eq!(takers.get(&first.input), Some(3), "another one has its place");
    takers.remove(&first.input, 3);
    takers.remove(&second.input, 2);
    assert_eq!(takers.get(&second.input), None);
    assert!(takers.by_interface.is_empty());
}

#[test]
fn inputs_overlap_where_neither_goes_before_the_other() {
    let first = rule("eth0:239.1.0.0/16:5000-5009=239.2.2.2:2:eth1", None);
    let mut takers = Takers::default();
    takers.insert(&first.input, 1);
    let overlaps = |spec: &str, source| {
        let rule = rule(&format!("{spec}=239.2.2.2:2:eth1"), source);
        takers.overlapping(&rule.input).next().is_some()
    };
    for (spec, source, expected) in [
        ("eth0:239.1.0.0/16:5000-5009", None, true),
        ("eth0:239.1.0.0/16:5009", None, true),
        ("eth0:239.1.0.0/16:1-5000", None, true),
        ("eth0:239.1.0.0/16:1-65535", None, true),
        ("eth0:239.1.0.0/16:5010-5020", None, false),
        ("eth0:239.1.0.0/16:4999", None, false),
        ("eth1:239.1.0.0/16:5000", None, false),
        ("eth0:239.2.0.0/16:5000", None, false),
        ("eth0:239.1.0.0/17:5000", None, false),
        ("eth0:239.1.1.1:5000", None, false),
        ("eth0:239.1.0.0/16:5000", Some("10.0.0.1"), false),
    ] {
        assert_eq!(overlaps(spec, source), expected, "{spec} {source:?}");
    }
    let part = rule("eth0:239.1.0.0/16:5000-5007=239.2.2.2:2:eth1", None);
    assert_eq!((takers.get(&first.input), takers.get(&part.input)), (Some(1), None), "not the very input");
    assert!(part.input.port.blocks().all(|block| takers.has(&part.input, block)));
    assert_eq!(takers.overlapping(&part.input).collect::<Vec<_>>(), [1]);
    takers.remove(&first.input, 1);
    assert!(takers.by_interface.is_empty());
}

/// Ten thousand rules one by one, of every kind that makes much of what is near.
#[test]
fn many_ranges_are_looked_through_in_time() {
    const COUNT: u32 = 10_000;
    let mut takers = Takers::default();
    for i in 0..COUNT {
        let [_, _, high, low] = i.to_be_bytes();
        let specs = [
            format!("eth0:239.{high}.{low}.0/24:5000-5009=239.2.0.0/24:6000-6009:eth1"),
            format!("eth0:239.0.0.0/9:{}=239.128.0.0/9:7:eth1", i + 1),
            format!("eth1:239.0.0.0/8:{0}-{1}=239.0.0.1:1:eth2", 5 * i + 1, 5 * i + 5),
        ];
        for (kind, spec) in specs.iter().enumerate() {
            let rule: Rule = spec.parse().unwrap_or_else(|error| panic!("{spec}: {error}"));
            if kind == 2 && rule.input.port.last() == 65_535 {
                continue;
            }
            let feeds: Vec<_> =
                rule.outputs.iter().flat_map(|output| takers.of(&Sent::new(&rule, output))).collect();
            assert!(kind == 1 || feeds.len() <= 64, "{spec}");
            assert_eq!(takers.overlapping(&rule.input).next(), None, "{spec}");
            takers.insert(&rule.input, (i, kind));
        }
    }
}

/// Within so small a world that much of it has something in common.
fn input() -> impl Strategy<Value = (String, Option<String>)> {
    let group = prop_oneof![
        (0..4_u8).prop_map(|i| format!("239.1.1.{i}")),
        (30..33_u8).prop_map(|prefix| format!("239.1.1.0/{prefix}")),
        (126..=128_u8).prop_map(|prefix| format!("[ff15::4/{prefix}]")),
    ];
    let ports = (1..20_u16, 0..12_u16).prop_map(|(first, more)| format!("{first}-{}", first + more));
    let source = prop::option::of((1..3_u8).prop_map(|i| format!("10.0.0.{i}")));
    (0..2_u8, group, ports, source)
        .prop_map(|(interface, group, ports, source)| (format!("eth{interface}:{group}:{ports}"), source))
}

proptest! {
    #[test]
    fn what_is_found_is_what_is_there(inputs in prop::collection::vec(input(), 1..12)) {
        let output = |spec: &str| spec.split_once(':').map(|(interface, to)| format!("{to}:{interface}")).unwrap();
        // Each sends to its own input, so that all of them meet all of them.
        let rules: Vec<_> = inputs
            .iter()
            .map(|(spec, source)| rule(&format!("{spec}={}", output(spec)), source.as_deref()))
            .collect();
        let mut takers = Takers::default();
        let mut entered: Vec<usize> = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            let is_like = |other: &Rule| {
                let (this, other) = (&rule.input, &other.input);
                let kind = |input: &Input| (input.interface.clone(), input.source, input.group.prefix());
                kind(this) == kind(other) && this.destinations().intersection(other.destinations()).is_some()
            };
            let expected: Vec<_> = entered.iter().copied().filter(|other| is_like(&rules[*other])).collect();
            let mut found: Vec<_> = takers.overlapping(&rule.input).collect();
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(&found, &expected);
            if expected.is_empty() {
                takers.insert(&rule.input, i);
                entered.push(i);
            }
        }
        for rule in &rules {
            let same = entered.iter().copied().find(|other| rules[*other].input == rule.input);
            prop_assert_eq!(takers.get(&rule.input), same);
            let is_fed = |taker: &Rule| {
                let sources = (rule.input.source, taker.input.source);
                let is_kept_apart = matches!(sources, (Some(one), Some(other)) if one != other);
                !is_kept_apart && fed(&taker.input, &rule.outputs[0]).is_some()
            };
            let expected: Vec<_> = entered.iter().copied().filter(|taker| is_fed(&rules[*taker])).collect();
            let mut found = takers.of(&Sent::new(rule, &rule.outputs[0]));
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found, expected);
        }
        for i in entered {
            takers.remove(&rules[i].input, i);
        }
        prop_assert!(takers.by_interface.is_empty());
    }
}
