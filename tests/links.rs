//! Whatever happens to an interface, the relay knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/host.rs"]
mod host;

use std::process::Command;

use host::{Host, according_to, according_to_ip, ip, rest, try_ip, until};
use multicast_relay::supervisor::links::Kind::{
    AddressesChanged, Appeared, Gone, GotCarrier, LostCarrier, Mtu, Recreated, WentDown, WentUp,
};
use multicast_relay::supervisor::links::{Links, Side};
use multicast_relay::sys::interface::Interface;

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
