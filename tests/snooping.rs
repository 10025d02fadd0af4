//! Behind a switch that forwards groups to members only, and forgets who does not answer its queries: IGMP and MLD snooping of a
//! Linux bridge, with a querier.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/host.rs"]
mod host;
mod support;

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use host::ip;
use lab::net::{Namespace, RunName};
use lab::topology::{Family, Topology};
use multicast_relay::stats::{InputStats, Stats};
use support::{GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, frame, network, sink};

/// After that a member that has not answered is forgotten, in hundredths of a second.
const MEMBERSHIP: u64 = 250;
/// How long traffic is to flow.
const LONG_ENOUGH: Duration = Duration::from_millis(2 * 10 * MEMBERSHIP);

/// A group that is joined for one source.
const OF_SOURCE: [u8; 4] = [232, 81, 1, 1];
const GROUP_V6: &str = "ff15::81:0:1";

/// A bridge in a namespace of its own, with a port where datagrams are sent and two that lead to `in0` and `in1` of the relay.
struct Switch {
    namespace: Namespace,
    _run: RunName,
}

impl Switch {
    fn new(topology: &Topology, igmp: u8, mld: u8) -> Self {
        let run = RunName::claim().unwrap();
        let namespace = Namespace::create(&run.namespace("switch")).unwrap();
        for namespace in [&namespace, topology.relay_namespace()] {
            namespace.set_sysctl("net/ipv6/conf/default/accept_dad", "0").unwrap();
            namespace.set_sysctl("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
        }
        let relay = topology.relay_namespace().name();
        let settings = format!(
            "mcast_snooping 1 mcast_igmp_version {igmp} mcast_mld_version {mld} \
             mcast_query_interval 100 mcast_query_response_interval 50 mcast_membership_interval {MEMBERSHIP} \
             mcast_startup_query_interval 25 mcast_last_member_interval 10"
        );
        let build = || {
            // The querier counts only when hosts have had the time to answer, as it is known when that begins.
            ip(&format!(
                "link add br0 type bridge {settings}\nlink set br0 type bridge mcast_querier 1\n\
                 link add sender type veth peer name port"
            ));
            for input in ["in0", "in1"] {
                ip(&format!(
                    "link add to-{input} type veth peer name {input} netns {relay}\n\
                     link set to-{input} master br0 up"
                ));
            }
            ip("link set port master br0 up\nlink set sender up\nlink set br0 up");
        };
        namespace.run(build).unwrap();
        topology.relay_namespace().run(|| ip("link set in0 up\nlink set in1 up")).unwrap();
        Self { namespace, _run: run }
    }
}

/// A rule from a group at an input to the group at a sink.
fn rule(name: &str, input: &str, group: &str, rest: &str, egress: &str) -> String {
    format!(
        "[[rule]]\nname = '{name}'\ninput = {{ interface = '{input}', group = '{group}', port = {PORT}{rest} }}\n\
         outputs = [{{ group = '{OUT_GROUP}', port = {OUT_PORT}, interface = '{egress}' }}]\n"
    )
}

fn rules() -> tempfile::NamedTempFile {
    let group = GROUP.to_string();
    let rules = [
        rule("four", "in0", &group, "", "egress0"),
        rule("six", "in0", GROUP_V6, "", "egress0"),
        rule("source", "in0", "232.81.1.1", ", source = '10.81.0.1'", "egress0"),
        rule("four apart", "in1", &group, "", "egress1") + "join = false\n",
        rule("six apart", "in1", GROUP_V6, "", "egress1") + "join = false\n",
    ];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(rules.concat().as_bytes()).unwrap();
    file
}

/// Sends a datagram to each group, the number `round` in each.
fn send(injector: &mut Injector, round: u32) {
    let groups: [IpAddr; 3] = [GROUP.into(), OF_SOURCE.into(), GROUP_V6.parse().unwrap()];
    for (i, group) in groups.into_iter().enumerate() {
        let payload = [&[i as u8][..], &round.to_be_bytes()].concat();
        injector.send(&frame((group, PORT).into(), &payload));
    }
}

/// Of which groups the datagrams of `round` arrive; the last of them is waited for so long.
fn arrived(sink: &UdpSocket, round: u32, patience: Duration) -> [bool; 3] {
    let mut arrived = [false; 3];
    sink.set_read_timeout(Some(patience)).unwrap();
    let mut payload = [0; 100];
    while !arrived[2] {
        let Ok(len) = sink.recv(&mut payload) else { break };
        if payload[1..len] == round.to_be_bytes() {
            arrived[usize::from(payload[0])] = true;
        }
    }
    arrived
}

fn input<'a>(stats: &'a Stats, name: &str) -> &'a InputStats {
    stats.inputs.iter().find(|input| input.interface == name).unwrap()
}

/// What has come to the relay where nobody has joined, and without a rule where somebody had.
fn strays(relay: &Relay) -> (u64, u64) {
    let stats = relay.stats();
    (input(&stats, "in1").captured, input(&stats, "in0").foreign)
}

fn traffic_flows_as_long_as_the_relay_is_a_member(igmp: u8, mld: u8) {
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let switch = Switch::new(topology, igmp, mld);
    let joined = sink(&topology.sinks[0]);
    let rules = rules();
    let relay = Relay::start(topology, Path::MmapV3, &["--config", rules.path().to_str().unwrap()]);
    let mut injector = switch.namespace.run(|| Injector::on("sender")).unwrap();
    let mut round = 0;
    let mut next = |patience| {
        round += 1;
        send(&mut injector, round);
        arrived(&joined, round, patience)
    };

    // A bridge forwards everything at first, until it has a querier and knows the members.
    let deadline = Instant::now() + support::DEADLINE;
    let mut before = strays(&relay);
    loop {
        let has_arrived = next(Duration::from_millis(100)) == [true; 3];
        let now = strays(&relay);
        if has_arrived && std::mem::replace(&mut before, now).0 == now.0 {
            break;
        }
        assert!(Instant::now() < deadline, "it forwards to everybody, or nobody");
    }

    let begin = Instant::now();
    while begin.elapsed() < LONG_ENOUGH {
        assert_eq!(next(support::DEADLINE), [true; 3], "it is a member after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(strays(&relay).0, before.0, "where nobody has joined nothing comes");

    // A member that leaves is asked once more who is left, and then forgotten.
    relay.run(&["remove", "four"]);
    let deadline = Instant::now() + support::DEADLINE;
    let mut before = strays(&relay);
    loop {
        assert_eq!(next(support::DEADLINE)[1..], [true; 2], "other groups are not touched");
        let now = strays(&relay);
        if std::mem::replace(&mut before, now) == now {
            break;
        }
        assert!(Instant::now() < deadline, "the group comes still");
    }
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn by_igmp_2_and_mld_1() {
    traffic_flows_as_long_as_the_relay_is_a_member(2, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn by_igmp_3_and_mld_2() {
    traffic_flows_as_long_as_the_relay_is_a_member(3, 2);
}
