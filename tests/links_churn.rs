//! However much happens to interfaces, the relay knows, and soon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/host.rs"]
mod host;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use host::{Host, according_to, according_to_ip, ip, lone_kind, rest, until};
use multicast_relay::supervisor::links::Kind::{Appeared, Gone, Mtu, WentUp};
use multicast_relay::supervisor::links::{Change, Links};
use multicast_relay::sys::interface::Interface;

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

/// Lines for each of so many devices.
fn each(devices: Range<u32>, line: impl Fn(u32) -> String) -> String {
    devices.fold(String::new(), |mut lines, i| {
        writeln!(lines, "{}", line(i)).unwrap();
        lines
    })
}

/// A thousand devices, by `ip`.
fn thousand() -> String {
    let kind = lone_kind();
    each(0..1000, |i| format!("link add x{i} mtu 1400 type {kind}\nlink set x{i} group 7"))
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
fn a_thousand_devices_come_and_go() {
    Host::new().run(async || {
        let mut links = Links::watch().unwrap();
        let mut follower = Follower::of(&links);
        follow("1,000 devices made", thousand(), &mut links, &mut follower).await;
        assert_eq!(links.iter().filter(|it| it.mtu == 1400).count(), 1000);
        // Those by themselves are few, as the kernel takes some 20 ms for each.
        let some = each(0..100, |i| format!("link del x{i}"));
        follow("100 removed one by one", some, &mut links, &mut follower).await;
        follow("900 removed at once", "link del group 7\n".to_owned(), &mut links, &mut follower).await;
        assert_eq!(links.iter().filter(|it| it.mtu == 1400).count(), 0);
    });
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn what_the_kernel_has_to_drop_is_known_all_the_same() {
    Host::new().run(async || {
        let mut links = Links::watch().unwrap();
        let mut follower = Follower::of(&links);
        let mut overruns = 0;
        // More than the kernel keeps for somebody who does not listen.
        let busy = |i, mtu| format!("link set x{i} up\nlink set x{i} down mtu {mtu}\nlink set x{i} up");
        let churn = [
            thousand() + &each(0..1000, |i| busy(i, 1500 + i)),
            "link set x1 name y1\nlink del x2\nlink del x3\nlink add x3 type bridge\n".to_owned(),
            each(4..1000, |i| busy(i, 1300)) + "link del group 7\n",
        ];
        for (lines, [there, left]) in churn.iter().zip([[1000, 1000], [999, 998], [1, 0]]) {
            let silent = lines.lines().count() < 10;
            ip(lines);
            let start = Instant::now();
            let changes = links.changed().await;
            println!("caught up in {:?} with {} changes", start.elapsed(), changes.len());
            assert_eq!(links.overruns() > overruns, !silent, "{overruns} overruns before");
            follower.hear(changes, &links);
            follower.hear(rest(&mut links).await, &links);
            follower.is_right(&links);
            overruns = links.overruns();
            let devices: Vec<_> = links.iter().filter(|it| it.name != "lo").collect();
            assert_eq!(devices.len(), there);
            assert_eq!(devices.iter().filter(|it| it.mtu >= 1500 && it.up).count(), left);
            // News come one by one again.
            ip("link set lo mtu 2000\nlink set lo mtu 3000");
            assert_eq!(until(&mut links, "lo", Mtu).await, [Mtu]);
            ip("link set lo mtu 4000");
            assert_eq!(until(&mut links, "lo", Mtu).await, [Mtu]);
            assert_eq!(links.overruns(), overruns);
            follower = Follower::of(&links);
        }
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

#[test]
#[ignore = "needs root: makes a network namespace"]
fn what_is_there_is_read_while_it_changes() {
    Host::new().run(async || {
        ip(&thousand());
        let kind = lone_kind();
        let lines =
            each(1000..2000, |i| format!("link add x{i} type {kind}\nlink set x{} mtu 1300", i - 1000));
        let changing = tokio::task::spawn_blocking(move || ip(&(lines + "link del group 7\n")));
        let mut watched = Vec::new();
        while !changing.is_finished() {
            let start = Instant::now();
            let links = Links::watch().unwrap();
            println!("{} interfaces read in {:?}", links.iter().count(), start.elapsed());
            watched.push((Follower::of(&links), links));
        }
        changing.await.unwrap();
        // Each has what was there, and hears of the rest.
        for (mut follower, mut links) in watched {
            follower.hear(rest(&mut links).await, &links);
            follower.is_right(&links);
        }
    });
}
