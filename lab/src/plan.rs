//! What a trial offers: flows, sizes, rate and count, checked once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::datagram::MIN_BYTES;
use crate::fragments::Fragments;
use crate::impairments::Impairments;
use crate::replay::Replay;
use crate::topology::Family;

/// Most flows of a plan: what the datagram's flow field can name.
pub const MAX_FLOWS: usize = 1 << 16;
/// Most measured datagrams of a plan; bounds the tally's bitmap to 512 MiB per sink.
pub const MAX_DATAGRAMS: u64 = 1 << 32;
/// Highest rate of a plan: one datagram per nanosecond, the resolution of the schedule.
pub const MAX_RATE_PPS: u64 = 1_000_000_000;
/// Longest UDP payload over IPv4: 65,535 less the headers that the length field includes, 20 of IPv4 and 8 of UDP ...
pub const MAX_IPV4_PAYLOAD: usize = 65_507;
/// ... and over IPv6, where it includes only that of UDP.
pub const MAX_IPV6_PAYLOAD: usize = 65_527;

/// From which of a datagram's times its latency runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatencyFrom {
    /// From when it was due: whatever keeps the generator from sending in time is part of it.
    #[default]
    Intended,
    /// From when the batch that it is in was made and handed over, as RFC 2544 section 26.2 has it: the way, and what the
    /// datagrams before it in the batch took.
    Sent,
}

impl LatencyFrom {
    /// Every choice with its name in scenarios.
    pub const NAMES: [(&'static str, Self); 2] = [("intended", Self::Intended), ("sent", Self::Sent)];
}

/// One stream of datagrams and where its copies should come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Address and port the generator puts into the headers.
    pub source: SocketAddr,
    /// Address and port at the relay's ingress.
    pub destination: SocketAddr,
    /// Where the generator's frame goes: the group's MAC address ([`multicast_mac`]) or the relay's.
    pub destination_mac: [u8; 6],
    /// Address and port the sink expects it at.
    pub delivered: SocketAddr,
}

/// Datagrams that no rule takes, offered beside the flows while these are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where they come from and go to. Nobody is to deliver them anywhere.
    pub flow: Flow,
    /// Datagrams per second, evenly paced.
    pub rate_pps: u64,
    /// How many in all.
    pub datagrams: u64,
}

/// A checked plan: non-empty, one address family, every length, rate and count in range, no two flows with the same
/// destination or the same delivered address.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Written into every datagram; tells this trial's from strays of another.
    pub run: u16,
    /// Flow i is `flows[i]`; global sequence g belongs to flow g % `flows.len()`.
    pub flows: Vec<Flow>,
    /// UDP payload of every datagram; of a replay, of those that warm up, and none of it is larger.
    pub payload_bytes: usize,
    /// Datagrams per second, all flows together.
    pub rate_pps: u64,
    /// Measured datagrams, all flows together.
    pub datagrams: u64,
    /// How many of them are due at once: 1 when they are evenly paced.
    pub burst: u64,
    /// Which of them meet a fault on purpose: none unless asked for.
    pub impairments: Impairments,
    /// What is offered beside them: nothing unless asked for.
    pub foreign: Option<Foreign>,
    /// What is sent instead: nothing unless asked for. Then sizes and whose turn it is are those of the recording, and only
    /// what warms up is the plan's own.
    pub replay: Option<Replay>,
    /// From when on their latency counts.
    pub latency_from: LatencyFrom,
    /// Only [`Plan::new`] makes one.
    checked: Checked,
}

#[derive(Clone, Copy, Debug)]
struct Checked;

/// Why a plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No flow or too many.
    #[error("a plan needs 1 to {MAX_FLOWS} flows, not {0}")]
    Flows(usize),
    /// Payload shorter than the datagram's header or longer than UDP allows.
    #[error("payload of {payload_bytes} bytes: give {MIN_BYTES} to {largest}")]
    Payload {
        /// Asked for.
        payload_bytes: usize,
        /// Most that UDP over this address family carries without jumbograms.
        largest: usize,
    },
    /// Rate of zero or too fast.
    #[error("rate of {0} packets per second: give 1 to {MAX_RATE_PPS}")]
    Rate(u64),
    /// More than a bitmap should hold.
    #[error("{0} datagrams: give at most {MAX_DATAGRAMS}, i.e. a shorter duration or a lower rate")]
    Datagrams(u64),
    /// A burst of nothing, or one that never comes about.
    #[error("bursts of {burst} datagrams: give 1 to {datagrams}, which is all of them")]
    Burst {
        /// Asked for.
        burst: u64,
        /// What there is.
        datagrams: u64,
    },
    /// A recording that the plan does not fit.
    #[error(
        "a recording of {datagrams} datagrams in {flows} flows: give a plan of as many flows, and no more datagrams"
    )]
    Replay {
        /// What it has.
        datagrams: usize,
        /// And in how many flows.
        flows: usize,
    },
    /// Faults that would meet each other.
    #[error("{datagrams} datagrams have no room for the faults: give {least} or more, or fewer faults")]
    Impairments {
        /// What there is.
        datagrams: u64,
        /// What it takes.
        least: u64,
    },
    /// IPv4 and IPv6 in one plan, or in one flow.
    #[error("flow {0} mixes IPv4 and IPv6 with the flows before it: use one address family per plan")]
    MixedFamilies(usize),
    /// Port 0 cannot be received.
    #[error("flow {0} uses port 0: give every destination and delivered address a port")]
    PortZero(usize),
    /// Two flows would be indistinguishable.
    #[error("flows {first} and {second} share the address {address}: give each flow its own")]
    Shared {
        /// The flow that had it first.
        first: usize,
        /// The flow that repeats it.
        second: usize,
        /// The shared destination or delivered address.
        address: SocketAddr,
    },
}

impl Plan {
    /// Checks everything a generator or a sink relies on.
    ///
    /// # Errors
    /// The first [`PlanError`] found.
    pub fn new(
        run: u16,
        flows: Vec<Flow>,
        payload_bytes: usize,
        rate_pps: u64,
        datagrams: u64,
    ) -> Result<Self, PlanError> {
        let Some(first) = flows.first().filter(|_| flows.len() <= MAX_FLOWS) else {
            return Err(PlanError::Flows(flows.len()));
        };
        let ipv6 = first.destination.is_ipv6();
        let largest = if ipv6 { MAX_IPV6_PAYLOAD } else { MAX_IPV4_PAYLOAD };
        if !(MIN_BYTES..=largest).contains(&payload_bytes) {
            return Err(PlanError::Payload { payload_bytes, largest });
        }
        if !(1..=MAX_RATE_PPS).contains(&rate_pps) {
            return Err(PlanError::Rate(rate_pps));
        }
        if datagrams > MAX_DATAGRAMS {
            return Err(PlanError::Datagrams(datagrams));
        }
        check_flows(&flows, ipv6)?;
        Ok(Self {
            run,
            flows,
            payload_bytes,
            rate_pps,
            datagrams,
            burst: 1,
            impairments: Impairments::default(),
            foreign: None,
            replay: None,
            latency_from: LatencyFrom::default(),
            checked: Checked,
        })
    }

    /// The same plan, but `burst` datagrams at once and then silence, so that the mean rate stays what it is. The last
    /// burst has what is left.
    ///
    /// # Errors
    /// [`PlanError::Burst`].
    pub fn in_bursts_of(self, burst: u64) -> Result<Self, PlanError> {
        // Evenly paced is always possible, also of nothing.
        if !(1..=self.datagrams.max(1)).contains(&burst) {
            return Err(PlanError::Burst { burst, datagrams: self.datagrams });
        }
        Ok(Self { burst, ..self })
    }

    /// The same plan, with faults made on purpose.
    ///
    /// # Errors
    /// [`PlanError::Impairments`].
    pub fn impaired(self, impairments: Impairments) -> Result<Self, PlanError> {
        let least = impairments.least_datagrams(self.flows.len());
        if self.datagrams < least {
            return Err(PlanError::Impairments { datagrams: self.datagrams, least });
        }
        Ok(Self { impairments, ..self })
    }

    /// The same plan, with `foreign` datagrams beside its own. In errors they are the flow after the last.
    ///
    /// # Errors
    /// An address that a flow has too, or is of another family; [`PlanError::Rate`], [`PlanError::Datagrams`].
    pub fn beside(self, foreign: Option<Foreign>) -> Result<Self, PlanError> {
        if let Some(Foreign { flow, rate_pps, datagrams }) = foreign {
            if !(1..=MAX_RATE_PPS).contains(&rate_pps) {
                return Err(PlanError::Rate(rate_pps));
            }
            if datagrams > MAX_DATAGRAMS {
                return Err(PlanError::Datagrams(datagrams));
            }
            let all: Vec<_> = self.flows.iter().copied().chain([flow]).collect();
            check_flows(&all, self.is_ipv6())?;
        }
        Ok(Self { foreign, ..self })
    }

    /// The same plan, but its datagrams are the first of a recording. Each of its flows is one of the recording's.
    ///
    /// # Errors
    /// [`PlanError::Replay`].
    pub fn replaying(self, replay: Option<Replay>) -> Result<Self, PlanError> {
        if let Some(Replay { recording, .. }) = &replay {
            let (datagrams, flows) = (recording.datagrams().len(), recording.flows().len());
            if self.datagrams > datagrams as u64 || self.flows.len() != flows {
                return Err(PlanError::Replay { datagrams, flows });
            }
        }
        Ok(Self { replay, ..self })
    }

    /// The same plan, with latency from that time on.
    #[must_use]
    pub fn with_latency_from(self, latency_from: LatencyFrom) -> Self {
        Self { latency_from, ..self }
    }

    /// Whether the flows are IPv6.
    pub fn is_ipv6(&self) -> bool {
        let Checked = self.checked;
        self.flows.first().is_some_and(|flow| flow.destination.is_ipv6())
    }

    /// How its datagrams cross a link of this MTU.
    pub fn fragments(&self, mtu: usize) -> Fragments {
        let family = if self.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
        Fragments::new(family, self.payload_bytes, mtu)
    }

    /// How many measured datagrams flow `flow` sends; 0 for a flow that does not exist.
    pub fn expected(&self, flow: u16) -> u64 {
        let (flow, flows) = (u64::from(flow), self.flows.len() as u64);
        if flow >= flows {
            return 0;
        }
        self.datagrams / flows + u64::from(flow < self.datagrams % flows)
    }
}

fn check_flows(flows: &[Flow], ipv6: bool) -> Result<(), PlanError> {
    let mut destinations = HashMap::with_capacity(flows.len());
    let mut delivered = HashMap::with_capacity(flows.len());
    for (index, flow) in flows.iter().enumerate() {
        if [flow.source, flow.destination, flow.delivered].iter().any(|address| address.is_ipv6() != ipv6) {
            return Err(PlanError::MixedFamilies(index));
        }
        if flow.destination.port() == 0 || flow.delivered.port() == 0 {
            return Err(PlanError::PortZero(index));
        }
        for (seen, address) in [(&mut destinations, flow.destination), (&mut delivered, flow.delivered)] {
            if let Some(first) = seen.insert((address.ip(), address.port()), index) {
                return Err(PlanError::Shared { first, second: index, address });
            }
        }
    }
    Ok(())
}

/// The MAC address multicast `group` travels to; `None` for a unicast address.
///
/// IPv4: 01:00:5e and the low 23 bits (RFC 1112 §6.4); IPv6: 33:33 and the low 32 bits (RFC 2464 §7).
pub fn multicast_mac(group: IpAddr) -> Option<[u8; 6]> {
    if !group.is_multicast() {
        return None;
    }
    Some(match group {
        IpAddr::V4(group) => {
            let [_, high, middle, low] = group.octets();
            [0x01, 0x00, 0x5E, high & 0x7F, middle, low]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn flow(index: u8) -> Flow {
        Flow {
            source: ([10, 81, 0, 1], 4000).into(),
            destination: ([239, 81, 1, index], 5000).into(),
            destination_mac: [1, 0, 0x5E, 81, 1, index],
            delivered: ([239, 82, 1, index], 6000).into(),
        }
    }

    #[test]
    fn mistakes_are_named() {
        let flows = || vec![flow(1), flow(2)];
        let error = |flows, payload, rate, count| Plan::new(1, flows, payload, rate, count).unwrap_err();
        assert_eq!(error(vec![], 100, 1, 1), PlanError::Flows(0));
        assert_eq!(error(flows(), 17, 1, 1), PlanError::Payload { payload_bytes: 17, largest: 65_507 });
        assert_eq!(
            error(flows(), 65_508, 1, 1),
            PlanError::Payload { payload_bytes: 65_508, largest: 65_507 }
        );
        assert_eq!(error(flows(), 100, 0, 1), PlanError::Rate(0));
        assert_eq!(error(flows(), 100, 1, MAX_DATAGRAMS + 1), PlanError::Datagrams(MAX_DATAGRAMS + 1));
        let mut mixed = flow(3);
        mixed.delivered = "[ff15::82:0:1]:6000".parse().unwrap();
        assert_eq!(error(vec![flow(1), mixed], 100, 1, 1), PlanError::MixedFamilies(1));
        let mut zero = flow(3);
        zero.delivered.set_port(0);
        assert_eq!(error(vec![zero], 100, 1, 1), PlanError::PortZero(0));
        let mut shared = flow(3);
        shared.delivered = flow(1).delivered;
        assert_eq!(
            error(vec![flow(1), flow(2), shared], 100, 1, 1),
            PlanError::Shared { first: 0, second: 2, address: flow(1).delivered }
        );
    }

    #[test]
    fn a_burst_is_neither_nothing_nor_more_than_there_is() {
        let plan = |datagrams| Plan::new(1, vec![flow(1)], 100, 1, datagrams).unwrap();
        assert_eq!(plan(9).burst, 1);
        assert_eq!(plan(9).in_bursts_of(9).unwrap().burst, 9);
        for burst in [0, 10] {
            let error = plan(9).in_bursts_of(burst).unwrap_err();
            assert_eq!(error, PlanError::Burst { burst, datagrams: 9 });
        }
        assert!(plan(0).in_bursts_of(1).is_ok());
    }

    #[test]
    fn what_is_foreign_has_an_address_of_its_own() {
        let plan = || Plan::new(1, vec![flow(1), flow(2)], 100, 1, 9).unwrap();
        let foreign = |flow, rate_pps, datagrams| Some(Foreign { flow, rate_pps, datagrams });
        let beside = |foreign| plan().beside(foreign).map(|plan| plan.foreign);
        assert_eq!(beside(foreign(flow(3), 7, 0)).unwrap().unwrap().rate_pps, 7);
        assert_eq!(beside(None).unwrap(), None);
        let shared = PlanError::Shared { first: 1, second: 2, address: flow(2).destination };
        assert_eq!(beside(foreign(flow(2), 7, 0)).unwrap_err(), shared);
        assert_eq!(beside(foreign(flow(3), 0, 0)).unwrap_err(), PlanError::Rate(0));
        let many = MAX_DATAGRAMS + 1;
        assert_eq!(beside(foreign(flow(3), 1, many)).unwrap_err(), PlanError::Datagrams(many));
        let mut mixed = flow(3);
        mixed.destination = "[ff15::81:0:1]:5000".parse().unwrap();
        assert_eq!(beside(foreign(mixed, 1, 1)).unwrap_err(), PlanError::MixedFamilies(2));
    }

    #[test]
    fn a_recording_has_the_flows_of_its_plan_and_enough_datagrams() {
        let recording = Arc::new(crate::replay::tests::recording_of(&[(0, b"a"), (1, b"b"), (0, b"c")]));
        let replay = Some(Replay { recording, pace: crate::replay::Pace::Even });
        let plan = |flows: &[Flow], datagrams| Plan::new(1, flows.to_vec(), 18, 1, datagrams).unwrap();
        assert!(plan(&[flow(1), flow(2)], 3).replaying(replay.clone()).unwrap().replay.is_some());
        let error = PlanError::Replay { datagrams: 3, flows: 2 };
        assert_eq!(plan(&[flow(1), flow(2)], 4).replaying(replay.clone()).unwrap_err(), error);
        assert_eq!(plan(&[flow(1)], 3).replaying(replay).unwrap_err(), error);
    }

    #[test]
    fn groups_map_to_mac_addresses_as_the_standards_say() {
        assert_eq!(multicast_mac([239, 129, 1, 2].into()), Some([1, 0, 0x5E, 1, 1, 2]));
        let group: IpAddr = "ff15::82:0:1".parse().unwrap();
        assert_eq!(multicast_mac(group), Some([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!(multicast_mac([10, 0, 0, 1].into()), None);
    }

    proptest! {
        #[test]
        fn expected_counts_add_up(flows in 1_u8..50, datagrams in 0_u64..10_000) {
            let plan = Plan::new(1, (0..flows).map(flow).collect(), 100, 1, datagrams).unwrap();
            let mut counted = vec![0; usize::from(flows)];
            for global in 0..datagrams {
                counted[(global % u64::from(flows)) as usize] += 1;
            }
            for (flow, count) in counted.iter().enumerate() {
                prop_assert_eq!(plan.expected(flow as u16), *count);
            }
            prop_assert_eq!(plan.expected(u16::from(flows)), 0);
        }
    }
}
