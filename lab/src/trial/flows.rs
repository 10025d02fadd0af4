//! The addresses of a trial: where each flow enters, where its copies leave, and where each sink expects them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::scenario::{Cast, Mapping};
use crate::topology::Family;

/// The first group toward the relay; flow i has group + i.
const INPUT_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 81, 1, 1);
const INPUT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x81, 0, 1);
/// The first group toward the sinks.
const OUTPUT_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 82, 1, 1);
const OUTPUT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x82, 0, 1);
/// The first of the groups that rules wait for and nothing comes to.
const IDLE_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 83, 1, 1);
const IDLE_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x83, 0, 1);
/// Most of them.
pub const MOST_IDLE_INPUTS: usize = u16::MAX as usize;
/// The port toward the relay, of every group or of the first unicast flow.
const INPUT_PORT: u16 = 5_000;
/// The ports at which rules wait that nothing comes in for.
const IDLE_PORTS: [(Idle, u16); 4] =
    [(Idle::Extra, 5_000), (Idle::Neighbour, 5_001), (Idle::Spare, 5_002), (Idle::Further, 5_003)];
/// The port at which no rule waits.
const FOREIGN_PORT: u16 = 4_999;
/// The port toward the sinks, likewise.
const OUTPUT_PORT: u16 = 6_000;
/// The port the generator sends from.
pub const SOURCE_PORT: u16 = 4_000;

/// What a subject has to do for one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where its datagrams come in.
    pub input: SocketAddr,
    /// Where copies go, one for each sink.
    pub outputs: Vec<Exit>,
}

/// One copy's way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Through this device of the relay's namespace.
    pub device: String,
    /// To this address, where the sink behind that device expects it.
    pub destination: SocketAddr,
}

/// The addresses of the network that routes are made of.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The family of all of them.
    pub family: Family,
    /// The relay's own address toward the generator.
    pub ingress: IpAddr,
    /// For each sink, the device toward it and its address.
    pub sinks: Vec<(String, IpAddr)>,
}

/// Where flows 0 to `flows` - 1 come in that are the lab's own.
pub fn inputs(ends: &Ends, cast: Cast, flows: usize) -> Vec<SocketAddr> {
    let input = |flow: u16| match cast {
        Cast::UnicastToMulticast => SocketAddr::new(ends.ingress, INPUT_PORT + flow),
        Cast::MulticastToMulticast | Cast::MulticastToUnicast => {
            SocketAddr::new(group(ends.family, INPUT_GROUP_V4, INPUT_GROUP_V6, flow), INPUT_PORT)
        }
    };
    // The scenario allows so many flows as there are ports.
    (0..u16::try_from(flows).unwrap_or(u16::MAX)).map(input).collect()
}

/// The routes of the flows that come in at `inputs`.
pub fn routes(ends: &Ends, cast: Cast, mapping: Mapping, inputs: &[SocketAddr]) -> Vec<Route> {
    let route = |(flow, &input): (u16, &SocketAddr)| {
        let exit = |(device, address): &(String, IpAddr)| {
            let destination = match (mapping, cast) {
                (Mapping::Same, _) => input,
                (Mapping::Mapped, Cast::MulticastToUnicast) => SocketAddr::new(*address, OUTPUT_PORT + flow),
                (Mapping::Mapped, Cast::MulticastToMulticast | Cast::UnicastToMulticast) => {
                    SocketAddr::new(group(ends.family, OUTPUT_GROUP_V4, OUTPUT_GROUP_V6, flow), OUTPUT_PORT)
                }
            };
            Exit { device: device.clone(), destination }
        };
        Route { input, outputs: ends.sinks.iter().map(exit).collect() }
    };
    (0..).zip(inputs).map(route).collect()
}

/// Where datagrams that no rule takes come in beside the flow at `input`: the same host or group, which the device lets in.
pub fn foreign_input(input: SocketAddr) -> SocketAddr {
    SocketAddr::new(input.ip(), FOREIGN_PORT)
}

/// What a rule is there for that nothing comes in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// To be there.
    Extra,
    /// To be another one when the file is read again.
    Neighbour,
    /// To use the spare link.
    Spare,
    /// To come and go.
    Further,
}

/// So many inputs, [`MOST_IDLE_INPUTS`] at most, that no flow comes to.
pub fn idle_inputs(family: Family, purpose: Idle, count: usize) -> impl Iterator<Item = SocketAddr> {
    let groups = 0..u16::try_from(count).unwrap_or(u16::MAX);
    let port = IDLE_PORTS.iter().find(|(known, _)| *known == purpose).map_or(INPUT_PORT, |(_, port)| *port);
    groups.map(move |i| SocketAddr::new(group(family, IDLE_GROUP_V4, IDLE_GROUP_V6, i), port))
}

fn group(family: Family, v4: Ipv4Addr, v6: Ipv6Addr, flow: u16) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from_bits(v4.to_bits() + u32::from(flow)).into(),
        Family::Ipv6 => Ipv6Addr::from_bits(v6.to_bits() + u128::from(flow)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes_of(family: Family, cast: Cast, mapping: Mapping) -> Vec<(String, Vec<String>)> {
        let (ingress, sinks) = match family {
            Family::Ipv4 => ("10.81.0.2", ["10.82.0.2", "10.82.1.2"]),
            Family::Ipv6 => ("fd81::2", ["fd82::2", "fd82:1::2"]),
        };
        let sink = |(i, address): (usize, &str)| (format!("egress{i}"), address.parse().unwrap());
        let sinks = sinks.into_iter().enumerate().map(sink).collect();
        let ends = Ends { family, ingress: ingress.parse().unwrap(), sinks };
        let shown = |route: Route| {
            let exits = route.outputs.iter().map(|exit| format!("{} {}", exit.device, exit.destination));
            (route.input.to_string(), exits.collect())
        };
        routes(&ends, cast, mapping, &inputs(&ends, cast, 300)).into_iter().map(shown).collect()
    }

    #[test]
    fn flows_have_addresses_of_their_own() {
        let routes = routes_of(Family::Ipv4, Cast::MulticastToMulticast, Mapping::Mapped);
        assert_eq!(routes[0].0, "239.81.1.1:5000");
        assert_eq!(routes[0].1, ["egress0 239.82.1.1:6000", "egress1 239.82.1.1:6000"]);
        // Past the last octet.
        assert_eq!(routes[299].0, "239.81.2.44:5000");
        assert_eq!(routes[299].1[1], "egress1 239.82.2.44:6000");
    }

    #[test]
    fn unicast_flows_differ_by_port() {
        let to = routes_of(Family::Ipv4, Cast::MulticastToUnicast, Mapping::Mapped);
        assert_eq!(to[7].0, "239.81.1.8:5000");
        assert_eq!(to[7].1, ["egress0 10.82.0.2:6007", "egress1 10.82.1.2:6007"]);
        let from = routes_of(Family::Ipv4, Cast::UnicastToMulticast, Mapping::Mapped);
        assert_eq!(from[7].0, "10.81.0.2:5007");
        assert_eq!(from[7].1[0], "egress0 239.82.1.8:6000");
    }

    #[test]
    fn ipv6_groups_are_transient_and_of_site_scope() {
        let routes = routes_of(Family::Ipv6, Cast::MulticastToMulticast, Mapping::Mapped);
        assert_eq!(routes[2].0, "[ff15::81:0:3]:5000");
        assert_eq!(routes[2].1[0], "egress0 [ff15::82:0:3]:6000");
    }

    #[test]
    fn what_nothing_comes_to_is_no_flow() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let flows: Vec<_> = routes_of(family, Cast::MulticastToMulticast, Mapping::Mapped);
            let idle: Vec<_> =
                idle_inputs(family, Idle::Extra, 10_000).map(|input| input.to_string()).collect();
            assert_eq!(idle.len(), 10_000);
            assert!(flows.iter().all(|(input, _)| !idle.contains(input)), "{family:?}");
        }
        for cast in [Cast::MulticastToMulticast, Cast::UnicastToMulticast] {
            let flows = routes_of(Family::Ipv4, cast, Mapping::Mapped);
            let foreign = foreign_input(flows[0].0.parse().unwrap()).to_string();
            assert!(foreign.ends_with(":4999") && flows.iter().all(|(input, _)| *input != foreign));
        }
        let last =
            idle_inputs(Family::Ipv4, Idle::Extra, MOST_IDLE_INPUTS).last().map(|input| input.to_string());
        assert_eq!(last.as_deref(), Some("239.84.0.255:5000"));
    }

    #[test]
    fn a_subject_that_maps_nothing_sends_where_it_came_in() {
        let routes = routes_of(Family::Ipv4, Cast::MulticastToMulticast, Mapping::Same);
        assert_eq!(routes[1].1, ["egress0 239.81.1.2:5000", "egress1 239.81.1.2:5000"]);
    }
}
