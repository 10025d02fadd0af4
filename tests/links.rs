//! Whatever happens to interfaces, the relay knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use lab::net::{Namespace, RunName};
use multicast_relay::supervisor::links::Kind::{
    self, AddressesChanged, Appeared, Gone, GotCarrier, LostCarrier, Mtu, Recreated, WentDown, WentUp,
};
use multicast_relay::supervisor::links::{Change, Links, Side};
use multicast_relay::sys::interface::Interface;
use tokio::runtime::Runtime;

/// How long anything may take on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// A namespace of its own, and a runtime.
struct Host {
    namespace: Namespace,
    _run: RunName,
}

impl Host {
    fn new() -> Self {
        let run = RunName::claim().unwrap();
        Self { namespace: Namespace::create(&run.namespace("relay")).unwrap(), _run: run }
    }

    /// Runs `work` in it, with a runtime like the supervisor's.
    fn run<T>(&self, work: impl AsyncFnOnce() -> T) -> T {
        self.namespace.run(|| runtime().block_on(work())).unwrap()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Has `ip` carry out these lines, in the namespace of the calling thread. Whether all of them were possible.
fn try_ip(lines: &str) -> bool {
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    ip.wait().unwrap().success()
}

#[track_caller]
fn ip(lines: &str) {
    assert!(try_ip(lines), "ip -batch:\n{lines}");
}

/// What `ip` says that there is, as `Interface` has it.
fn according_to_ip() -> BTreeSet<(u32, String, u32, bool, bool)> {
    let output = Command::new("ip").args(["-j", "link"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let link = |link: &serde_json::Value| {
        let flags = link["flags"].as_array().unwrap();
        (
            link["ifindex"].as_u64().unwrap() as u32,
            link["ifname"].as_str().unwrap().to_owned(),
            link["mtu"].as_u64().unwrap() as u32,
            flags.iter().any(|flag| flag == "UP"),
            matches!(link["link_type"].as_str(), Some("ether" | "loopback")),
        )
    };
    links.as_array().unwrap().iter().map(link).collect()
}

fn according_to(links: &Links) -> BTreeSet<(u32, String, u32, bool, bool)> {
    let tuple = |it: &Interface| (it.index, it.name.clone(), it.mtu, it.up, it.ethernet);
    links.iter().map(tuple).collect()
}

/// Follows changes until one is of this kind; returns those of this name up to then.
async fn until(links: &mut Links, name: &str, kind: Kind) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let wait = async {
        while !kinds.contains(&kind) {
            kinds.extend(links.changed().await.into_iter().filter(|it| it.name == name).map(|it| it.kind));
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, wait).await.is_ok();
    assert!(in_time, "{name}: {kinds:?}, but not {kind:?}");
    kinds
}

/// Everything that is told until nothing is for a while.
async fn rest(links: &mut Links) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(300), links.changed()).await {
        changes.extend(more);
    }
    changes
}

/// A kind of device of which there can be as many as one likes, in this kernel.
fn lone_kind() -> &'static str {
    let possible = |kind: &&str| try_ip(&format!("link add probe type {kind}\nlink del probe\n"));
    ["dummy", "ifb", "bridge"].into_iter().find(possible).expect("a kernel with dummy, ifb or bridge devices")
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn devices_come_change_and_go() {
    Host::new().run(async || {
        let kinds: Vec<_> = ["dummy", "ifb", "bridge"]
            .into_iter()
            .filter(|kind| try_ip(&format!("link add old-{kind} type {kind}")))
            .collect();
        assert!(!kinds.is_empty());
        let mut links = Links::watch().unwrap();
        assert_eq!(according_to(&links), according_to_ip());
        for kind in kinds {
            let old = format!("old-{kind}");
            let index = links.find(&old).unwrap().index;
            ip(&format!("link del {old}"));
            assert_eq!(until(&mut links, &old, Gone).await, [Gone]);
            assert_eq!(links.why_not(&old, Side::Egress), Some("no such interface"));

            ip(&format!("link add x0 type {kind}"));
            assert_eq!(until(&mut links, "x0", Appeared).await, [Appeared]);
            assert_eq!(links.find("x0"), Interface::find("x0").ok().as_ref());
            assert_ne!(links.find("x0").unwrap().index, index);
            assert_eq!(links.why_not("x0", Side::Ingress), Some("is down"));
            ip("link set x0 mtu 1400");
            assert_eq!(until(&mut links, "x0", Mtu).await, [Mtu]);
            ip("link set x0 up");
            until(&mut links, "x0", WentUp).await;
            ip("address add 10.81.0.1/24 dev x0");
            until(&mut links, "x0", AddressesChanged).await;
            ip("link set x0 down");
            until(&mut links, "x0", WentDown).await;

            ip("link set x0 name y0");
            assert_eq!(until(&mut links, "y0", Appeared).await, [Appeared]);
            assert_eq!(links.find("x0"), None);
            ip(&format!("link del y0\nlink add y0 type {kind}"));
            assert_eq!(until(&mut links, "y0", Recreated).await, [Recreated]);
            // With the index it had.
            let index = links.find("y0").unwrap().index;
            ip(&format!("link del y0\nlink add y0 index {index} type {kind}"));
            assert_eq!(until(&mut links, "y0", Recreated).await, [Recreated]);
            ip("link del y0");
            assert_eq!(until(&mut links, "y0", Gone).await, [Gone]);
            assert_eq!(according_to(&links), according_to_ip());
        }
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_veth_that_loses_its_peer_has_no_carrier() {
    Host::new().run(async || {
        let mut links = Links::watch().unwrap();
        ip("link add x0 type veth peer name x1\nlink set x0 up");
        until(&mut links, "x0", Appeared).await;
        rest(&mut links).await;
        assert_eq!(links.why_not("x0", Side::Ingress), Some("has no carrier"));
        assert_eq!(links.why_not("x0", Side::Egress), Some("has no carrier"));
        ip("link set x1 up");
        until(&mut links, "x0", GotCarrier).await;
        assert_eq!(links.why_not("x0", Side::Ingress), None);
        assert_eq!(links.find("x0"), Interface::find("x0").ok().as_ref());
        ip("link set x1 down");
        until(&mut links, "x0", LostCarrier).await;
        // Both go together.
        ip("link del x1");
        until(&mut links, "x0", Gone).await;
        assert_eq!(according_to(&links), according_to_ip());
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_port_of_a_bridge_stays_when_it_leaves_the_bridge() {
    Host::new().run(async || {
        let mut links = Links::watch().unwrap();
        ip("link add br0 type bridge\nlink set br0 up\nlink add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up");
        ip("link set x0 master br0\nlink set x0 nomaster\nlink set x0 master br0");
        until(&mut links, "x0", Appeared).await;
        rest(&mut links).await;
        ip("link set x0 nomaster");
        let changes = rest(&mut links).await;
        assert!(!changes.iter().any(|it| it.name == "x0" && it.kind <= Appeared), "{changes:?}");
        assert!(links.find("x0").is_some());
        assert_eq!(according_to(&links), according_to_ip());
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_device_that_was_elsewhere_is_another_one() {
    let (host, elsewhere) = (Host::new(), Host::new());
    host.run(async || {
        ip("link add x0 type veth peer name x1\nlink property add dev x0 altname a-name-longer-than-fifteen-bytes");
        let mut links = Links::watch().unwrap();
        let alternative = "a-name-longer-than-fifteen-bytes";
        let index = links.find(alternative).unwrap().index;
        let name = elsewhere.namespace.name();
        ip(&format!("link set x0 netns {name}"));
        let back = format!("ip -n {name} link set x0 netns {}", host.namespace.name());
        assert!(Command::new("sh").args(["-c", &back]).status().unwrap().success());
        assert_eq!(until(&mut links, "x0", Recreated).await, [Recreated]);
        assert_eq!(links.find("x0").unwrap().index, index);
        // The kernel does not say so of one that is down, before that is up.
        ip("link set x0 up\nlink property add dev x0 altname another");
        until(&mut links, "another", Appeared).await;
        ip("link property del dev x0 altname another");
        until(&mut links, "another", Gone).await;
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn addresses_and_routes_are_news_of_their_interface() {
    Host::new().run(async || {
        ip("link add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up");
        let mut links = Links::watch().unwrap();
        // With duplicate address detection, whose end is another change.
        rest(&mut links).await;
        for line in [
            "address add 10.81.0.1/24 dev x0",
            "address del 10.81.0.1/24 dev x0",
            "address add fd81::1/64 dev x0 nodad",
            "route add 10.9.0.0/24 dev x0",
            "route add fd90::/64 dev x0",
            "route add fd91::/64 dev x0 proto dhcp",
        ] {
            ip(line);
            let kinds = until(&mut links, "x0", AddressesChanged).await;
            assert_eq!(kinds, [AddressesChanged], "{line}");
            rest(&mut links).await;
        }
        // Of a routing daemon, and routes that are removed.
        ip("route add 10.10.0.0/24 dev x0 proto bgp\nroute add fd92::/64 dev x0 proto 12\nroute del 10.9.0.0/24 dev x0");
        assert_eq!(rest(&mut links).await, []);
        // Of what the kernel says again and again nothing is new.
        ip("address change fd81::1/64 dev x0 nodad valid_lft 1000 preferred_lft 500");
        ip("address change fd81::1/64 dev x0 nodad valid_lft 2000 preferred_lft 600");
        assert_eq!(rest(&mut links).await, []);
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_hundred_flaps_end_as_they_end() {
    Host::new().run(async || {
        let kind = lone_kind();
        ip(&format!("link add x0 type {kind}\nlink set x0 up"));
        let mut links = Links::watch().unwrap();
        let flap = "link set x0 down\nlink set x0 up\n";
        // Each followed,
        let mut ups = 0;
        for _ in 0..100 {
            ip(flap);
            ups += until(&mut links, "x0", WentUp).await.iter().filter(|kind| **kind == WentUp).count();
            assert!(links.find("x0").unwrap().up);
        }
        assert_eq!(ups, 100);
        // and all at once.
        ip(&flap.repeat(100));
        let changes = rest(&mut links).await;
        assert_eq!(
            changes.iter().filter(|it| it.name == "x0" && it.kind == WentUp).count(),
            1,
            "{changes:?}"
        );
        // Remade a hundred times while somebody follows who is often called away.
        let again = format!("link del x0\nlink add x0 type {kind}\n").repeat(100);
        let mut known = links.find("x0").cloned();
        let remade = tokio::task::spawn_blocking(move || ip(&again));
        while !remade.is_finished() {
            let follow = tokio::time::timeout(Duration::from_micros(200), links.changed());
            for change in follow.await.unwrap_or_default() {
                assert_eq!(change.name, "x0");
                known = links.find("x0").cloned();
                assert_eq!(known.is_none(), change.kind == Gone, "{change:?}");
            }
        }
        remade.await.unwrap();
        for change in rest(&mut links).await {
            assert_eq!(change.name, "x0");
            known = links.find("x0").cloned();
        }
        assert_eq!(known, Interface::find("x0").ok());
        assert_eq!(according_to(&links), according_to_ip());
    });
}

/// What somebody knows who looks at an interface only when something is said to have changed.
#[derive(Default)]
struct Follower(BTreeMap<String, Interface>);

impl Follower {
    fn of(links: &Links) -> Self {
        Self(links.iter().map(|it| (it.name.clone(), it.clone())).collect())
    }

    fn hear(&mut self, changes: Vec<Change>, links: &Links) {
        for Change { kind, name } in changes {
            let known = self.0.contains_key(&name);
            assert_eq!(known, kind != Appeared, "{name} {kind}");
            match links.find(&name) {
                Some(interface) => self.0.insert(name, interface.clone()),
                None => self.0.remove(&name),
            };
        }
    }

    #[track_caller]
    fn is_right(&self, links: &Links) {
        assert_eq!(according_to(links), according_to_ip());
        let all: BTreeMap<_, _> = links.iter().map(|it| (it.name.clone(), it.clone())).collect();
        assert_eq!(self.0, all);
    }
}

/// One line for each of a thousand devices.
fn thousand(line: impl Fn(u32) -> String) -> String {
    (0..1000).fold(String::new(), |mut lines, i| {
        writeln!(lines, "{}", line(i)).unwrap();
        lines
    })
}

/// Follows while `ip` carries out `lines`, and prints how long that took.
async fn follow(what: &str, lines: String, links: &mut Links, follower: &mut Follower) {
    let (start, mut looks) = (Instant::now(), 0);
    let doing = tokio::task::spawn_blocking(move || ip(&lines));
    while !doing.is_finished() {
        let changes = tokio::time::timeout(Duration::from_millis(10), links.changed()).await;
        looks += usize::from(changes.is_ok());
        follower.hear(changes.unwrap_or_default(), links);
    }
    doing.await.unwrap();
    println!("{what}: {:?}, {looks} looks, {} overruns", start.elapsed(), links.overruns());
    follower.hear(rest(links).await, links);
    follower.is_right(links);
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_thousand_devices_are_known_also_when_the_kernel_drops_news_of_them() {
    Host::new().run(async || {
        let kind = lone_kind();
        let mut links = Links::watch().unwrap();
        let mut follower = Follower::of(&links);
        let add = thousand(|i| format!("link add x{i} mtu 1400 type {kind}\nlink set x{i} group 7"));
        follow("1,000 devices made", add.clone(), &mut links, &mut follower).await;
        assert_eq!(links.iter().filter(|it| it.mtu == 1400).count(), 1000);
        // One after the other, as far as one has the patience: the kernel takes some 20 ms for each.
        let some: String = (0..100).map(|i| format!("link del x{i}\n")).collect();
        follow("100 removed", some, &mut links, &mut follower).await;
        follow("900 removed at once", "link del group 7\n".to_owned(), &mut links, &mut follower).await;
        assert_eq!(links.iter().filter(|it| it.mtu == 1400).count(), 0);

        // Nobody listens, for longer than the kernel keeps what it has to say.
        let overruns = links.overruns();
        let churn = thousand(|i| format!("link set x{i} up\nlink set x{i} down mtu {}\nlink set x{i} up", 1500 + i));
        ip(&[add, churn, "link set x1 name y1\nlink del x2\nlink del x3\nlink add x3 type bridge\n".to_owned()].concat());
        let start = Instant::now();
        let changes = links.changed().await;
        println!("caught up in {:?} with {} changes", start.elapsed(), changes.len());
        assert!(links.overruns() > overruns, "the kernel could keep it all");
        follower.hear(changes, &links);
        follower.hear(rest(&mut links).await, &links);
        follower.is_right(&links);
        assert_eq!(links.find("x7").unwrap().mtu, 1507);
        // From here on every piece of news comes by itself again.
        let overruns = links.overruns();
        ip("link set x7 mtu 1300");
        assert_eq!(until(&mut links, "x7", Mtu).await, [Mtu]);
        assert_eq!(links.overruns(), overruns);
        // Removals that nobody hears of.
        let churn = thousand(|i| format!("link set x{i} mtu 1300\nlink set x{i} mtu 1301\nlink set x{i} mtu 1302\nlink set x{i} mtu 1303\nlink set x{i} mtu 1304"));
        try_ip(&churn.lines().filter(|line| ![" x1 ", " x2 "].iter().any(|gone| line.contains(gone))).fold(
            String::new(), |lines, line| lines + line + "\n"));
        ip("link del group 7");
        follower.hear(links.changed().await, &links);
        follower.hear(rest(&mut links).await, &links);
        assert!(links.overruns() > overruns, "the kernel could keep it all");
        follower.is_right(&links);
        assert_eq!(links.find("x7"), None);
    });
}

/// How many netlink sockets of processes there are in the namespace of the calling thread.
fn netlink_sockets() -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    table.lines().skip(1).filter(|line| line.split_whitespace().nth(2) != Some("0")).count()
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn no_socket_is_left_behind() {
    Host::new().run(async || {
        assert_eq!(netlink_sockets(), 0);
        let links = Links::watch().unwrap();
        assert_eq!(netlink_sockets(), 1);
        drop(links);
        for _ in 0..100 {
            let mut links = Links::watch().unwrap();
            let _ = tokio::time::timeout(Duration::ZERO, links.changed()).await;
        }
        assert_eq!(netlink_sockets(), 0);
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn news_come_soon() {
    const TIMES: u32 = 1000;
    Host::new().run(async || {
        ip(&format!("link add x0 type {}", lone_kind()));
        let mut links = Links::watch().unwrap();
        let index = links.find("x0").unwrap().index;
        let ((order, orders), (started, starts)) = (channel::<u32>(), channel());
        let operator = thread::spawn(move || {
            let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
            for mtu in orders {
                let message = set_mtu(index, mtu);
                started.send(Instant::now()).unwrap();
                socket.send_to(&message, &netlink_sys::SocketAddr::new(0, 0), 0).unwrap();
            }
        });
        let mut delays = Vec::new();
        for i in 0..TIMES {
            order.send(1400 + i % 2).unwrap();
            assert_eq!(until(&mut links, "x0", Mtu).await, [Mtu]);
            delays.push(starts.recv().unwrap().elapsed());
            assert_eq!(links.find("x0").unwrap().mtu, 1400 + i % 2);
        }
        drop(order);
        operator.join().unwrap();
        delays.sort();
        let [half, most, max] =
            [delays.len() / 2, delays.len() * 99 / 100, delays.len() - 1].map(|i| delays[i]);
        println!("from the request for another MTU to `changed`: p50 {half:?}, p99 {most:?}, max {max:?}");
    });
}

/// The request to give an interface another MTU: `nlmsghdr`, `ifinfomsg`, `IFLA_MTU`.
fn set_mtu(index: u32, mtu: u32) -> Vec<u8> {
    let request = libc::NLM_F_REQUEST as u16;
    let header =
        [&40_u32.to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &request.to_ne_bytes(), &[0; 8]];
    let info = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]];
    let attribute = [&8_u16.to_ne_bytes()[..], &libc::IFLA_MTU.to_ne_bytes(), &mtu.to_ne_bytes()];
    [header.concat(), info.concat(), attribute.concat()].concat()
}
