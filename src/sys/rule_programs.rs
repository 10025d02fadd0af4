//! What rules decide in the kernel, by eBPF programs with a table as large as there are rules: which datagrams are captured
//! (a socket filter), and which end at the ingress device after that (a program behind its taps). Their source is
//! `bpf/rules.bpf.c`.

mod shapes;

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, Program, ProgramError, SchedClassifier, SocketFilter, TcAttachType};
use aya::{Ebpf, EbpfLoader, Pod};

pub use shapes::Endpoint;
use shapes::{Shapes, TooManyShapes};

use super::sockopt;
use crate::wire::LinkLayer;

/// Names in the program's source.
const FILTER: &str = "filter";
const CONSUME: &str = "consume";
const WANTED_V4: &str = "wanted_v4";
const WANTED_V6: &str = "wanted_v6";
const COUNTS: &str = "counts";
const SOURCES: &str = "sources";
const ETHERNET: &str = "ethernet";
const VLANS: &str = "vlans";
const COUNT_V4: &str = "count_v4";
const COUNT_V6: &str = "count_v6";
const SHAPES_V4: &str = "shapes_v4";
const SHAPES_V6: &str = "shapes_v6";
/// Places of the counts.
const FOREIGN: u32 = 0;
const CONSUMED: u32 = 1;

/// Why rules cannot decide in the kernel. Its source says what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {}", chain(source.as_ref()))]
pub struct RuleProgramError {
    operation: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

/// An error and everything behind it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let words = error.to_string();
        // Some errors have said their cause already.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = error.source();
    }
    text
}

fn failed<E: Into<Box<dyn Error + Send + Sync>>>(operation: &'static str) -> impl Fn(E) -> RuleProgramError {
    move |source| RuleProgramError { operation, source: source.into() }
}

/// The programs for the rules of one interface. When this is dropped, or its process ends in any way, consumption ends;
/// the filter stays where it is attached.
#[derive(Debug)]
pub struct RulePrograms {
    object: Ebpf,
    shapes: Shapes,
    /// Whether frames with tags are looked at.
    has_vlans: bool,
}

impl RuleProgramError {
    /// Whether it is for want of places for shapes, and not of the kernel.
    pub fn is_for_shapes(&self) -> bool {
        self.source.is::<TooManyShapes>()
    }
}

impl RulePrograms {
    /// Whether there can be programs for rules that take `endpoints` of an interface, whatever the kernel can.
    pub fn can_tell_apart(endpoints: &[Endpoint]) -> Result<(), RuleProgramError> {
        Shapes::of(endpoints).map(drop).map_err(failed("tell ranges apart"))
    }

    /// Loads programs for rules that take `endpoints` of an interface with that link layer, with room for so many of each
    /// family, and at least for these. Needs `CAP_BPF`, or `CAP_SYS_ADMIN` before Linux 5.8.
    pub fn load(
        link_layer: LinkLayer,
        endpoints: &[Endpoint],
        room: usize,
    ) -> Result<Self, RuleProgramError> {
        let mut loader = EbpfLoader::new();
        // Nothing of the kernel's own types is used.
        loader.btf(None);
        let shapes = Shapes::of(endpoints).map_err(failed("tell ranges apart"))?;
        let keys_v4: Vec<_> = endpoints.iter().filter_map(|endpoint| shapes.key_v4(endpoint)).collect();
        let keys_v6: Vec<_> = endpoints.iter().filter_map(|endpoint| shapes.key_v6(endpoint)).collect();
        let room = |keys: usize| room.max(keys).max(1) as u32;
        loader.map_max_entries(WANTED_V4, room(keys_v4.len()));
        loader.map_max_entries(WANTED_V6, room(keys_v6.len()));
        let has_sources = endpoints.iter().any(|endpoint| endpoint.source.is_some());
        let has_vlans = endpoints.iter().any(|endpoint| endpoint.vlan.is_some());
        let (sources, ethernet) = (u8::from(has_sources), u8::from(link_layer == LinkLayer::Ethernet));
        let vlans = u8::from(has_vlans);
        loader.override_global(SOURCES, &sources, true);
        loader.override_global(ETHERNET, &ethernet, true);
        loader.override_global(VLANS, &vlans, true);
        let (masks_v4, masks_v6) = shapes.masks();
        let (count_v4, count_v6) = shapes.counts();
        loader.override_global(COUNT_V4, &count_v4, true);
        loader.override_global(COUNT_V6, &count_v6, true);
        loader.override_global(SHAPES_V4, &masks_v4, true);
        loader.override_global(SHAPES_V6, &masks_v6, true);
        let mut object = loader.load(&object()).map_err(failed("load the rules' BPF object"))?;
        fill(&mut object, WANTED_V4, &keys_v4)?;
        fill(&mut object, WANTED_V6, &keys_v6)?;
        let filter: &mut SocketFilter = program_mut(&mut object, FILTER)?;
        filter.load().map_err(failed("load the rules' socket filter"))?;
        Ok(Self { object, shapes, has_vlans })
    }

    /// Whether these programs can take `endpoint` in, as far as there is room: they look for the shapes, and for VLANs, only of the
    /// endpoints that they were loaded with.
    pub fn suits(&self, endpoint: &Endpoint) -> bool {
        self.shapes.has(endpoint) && (self.has_vlans || endpoint.vlan.is_none())
    }

    /// Takes in another endpoint.
    ///
    /// # Errors
    /// When there is no room. One that does not suit is not taken in.
    pub fn insert(&mut self, endpoint: &Endpoint) -> Result<(), RuleProgramError> {
        fill(&mut self.object, WANTED_V4, self.shapes.key_v4(endpoint).as_slice())?;
        fill(&mut self.object, WANTED_V6, self.shapes.key_v6(endpoint).as_slice())
    }

    /// Takes an endpoint out.
    pub fn remove(&mut self, endpoint: &Endpoint) -> Result<(), RuleProgramError> {
        let failed = failed("take a rule out of a BPF map");
        match (self.shapes.key_v4(endpoint), self.shapes.key_v6(endpoint)) {
            (Some(key), _) => wanted(&mut self.object, WANTED_V4)?.remove(&key).map_err(failed),
            (_, Some(key)) => wanted(&mut self.object, WANTED_V6)?.remove(&key).map_err(failed),
            (None, None) => Ok(()),
        }
    }

    /// Lets the filter decide what `socket` gets from now on, in place of what decided before.
    pub fn attach(&self, socket: impl AsFd) -> io::Result<()> {
        let program = self.object.program(FILTER).and_then(|program| <&SocketFilter>::try_from(program).ok());
        let fd = program.and_then(|program| program.fd().ok()).ok_or(io::ErrorKind::NotFound)?;
        // Not by aya, whose link would take away what another program has taken over.
        sockopt::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_BPF, fd.as_fd().as_raw_fd())
    }

    /// Ends what the rules take at `interface`, of the calling thread's network namespace, when its taps have had it.
    ///
    /// # Errors
    /// Where the kernel has no links for such programs, which would not outlive the process: before Linux 6.6.
    pub fn consume(&mut self, interface: &str) -> Result<(), RuleProgramError> {
        let program: &mut SchedClassifier = program_mut(&mut self.object, CONSUME)?;
        program.load().map_err(failed("load a program"))?;
        // Without a choice aya would fall back to a filter of the device, which stays when the process is gone.
        let by_link = TcAttachOptions::TcxOrder(LinkOrder::default());
        program
            .attach_with_options(interface, TcAttachType::Ingress, by_link)
            .map_err(failed("attach a program to the ingress"))?;
        Ok(())
    }

    /// Gives the IP stack again what the rules take.
    pub fn end_consumption(&mut self) -> Result<(), RuleProgramError> {
        let program: &mut SchedClassifier = program_mut(&mut self.object, CONSUME)?;
        program.unload().map_err(failed("detach a program from the ingress"))
    }

    /// How many frames with UDP the filter has kept from its sockets so far because no rule takes them.
    pub fn foreign(&self) -> Result<u64, RuleProgramError> {
        self.count(FOREIGN)
    }

    /// How many frames have been consumed so far.
    pub fn consumed(&self) -> Result<u64, RuleProgramError> {
        self.count(CONSUMED)
    }

    fn count(&self, place: u32) -> Result<u64, RuleProgramError> {
        let map = self.object.map(COUNTS).ok_or(COUNTS).map_err(failed("find a BPF map"))?;
        let counts = PerCpuArray::<_, u64>::try_from(map).map_err(failed("open a BPF map"))?;
        let counts = counts.get(&place, 0).map_err(failed("read a BPF map"))?;
        Ok(counts.iter().sum())
    }
}

fn program_mut<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, RuleProgramError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(name).map_err(failed("find a BPF program"))?;
    program.try_into().map_err(failed("open a BPF program"))
}

/// Writes `keys` to the table `name`.
fn fill<K: Pod>(object: &mut Ebpf, name: &'static str, keys: &[K]) -> Result<(), RuleProgramError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut wanted = wanted::<K>(object, name)?;
    keys.iter().try_for_each(|key| wanted.insert(key, 1, 0)).map_err(failed("write the rules to a BPF map"))
}

fn wanted<'a, K: Pod>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a mut MapData, K, u8>, RuleProgramError> {
    let map = object.map_mut(name).ok_or(name).map_err(failed("find a BPF map"))?;
    HashMap::try_from(map).map_err(failed("open a BPF map"))
}

#[cfg(not(test))]
fn object() -> Cow<'static, [u8]> {
    Cow::Borrowed(aya::include_bytes_aligned!("../../bpf/rules.bpf.o"))
}

/// Tests can be run with an object that was built elsewhere: with that in the folder that the variable names.
#[cfg(test)]
fn object() -> Cow<'static, [u8]> {
    match std::env::var_os("BPF_OBJECTS") {
        Some(folder) => Cow::Owned(std::fs::read(std::path::Path::new(&folder).join("rules.bpf.o")).unwrap()),
        None => Cow::Borrowed(aya::include_bytes_aligned!("../../bpf/rules.bpf.o")),
    }
}

#[cfg(test)]
mod range_tests;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sys::filter::tests as frames;
    use crate::wire::VlanId;

    const WITHOUT_SOURCE: &[(&str, &str)] = &[("239.1.1.1:5000", ""), ("[ff15::1]:5000", "")];

    fn filter(rules: &[(&str, &str)]) -> RulePrograms {
        let endpoint = |(group, source): &(&str, &str)| {
            let group: SocketAddr = group.parse().unwrap();
            let source = (!source.is_empty()).then(|| source.parse().unwrap());
            Endpoint::new(group.ip(), group.port(), source)
        };
        RulePrograms::load(LinkLayer::Ethernet, &rules.iter().map(endpoint).collect::<Vec<_>>(), 0).unwrap()
    }

    pub(super) fn passes(filter: &RulePrograms, frame: &[u8]) -> bool {
        frames::passes(|receiver| filter.attach(receiver).unwrap(), frame)
    }

    fn udp(port: u16) -> [u8; 8] {
        let [high, low] = port.to_be_bytes();
        [0, 1, high, low, 0, 8, 0, 0]
    }

    /// An IPv4 frame from 10.0.0.`source` to 239.1.1.`group` with so many bytes of options, after `change`.
    pub(super) fn ipv4(
        source: u8,
        group: u8,
        port: u16,
        options: usize,
        change: impl Fn(&mut [u8]),
    ) -> Vec<u8> {
        let ihl = 0x45 + (options / 4) as u8;
        let header = [ihl, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, source, 239, 1, 1, group];
        let mut packet = [&header[..], &vec![1; options], &udp(port)].concat();
        change(&mut packet);
        [&[0; 12][..], &[8, 0], &packet].concat()
    }

    /// An IPv6 frame to `ff15::group` with these extension headers, each (kind, length byte), before `last`.
    pub(super) fn ipv6(group: u8, port: u16, extensions: &[(u8, u8)], last: u8) -> Vec<u8> {
        let mut frame = frames::ipv6(extensions, last);
        (frame[38], frame[39], frame[53]) = (0xff, 0x15, group);
        let udp_at = frame.len() - 8;
        frame[udp_at..].copy_from_slice(&udp(port));
        frame
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn what_a_rule_takes_passes_and_what_none_takes_is_counted() {
        let filter = filter(WITHOUT_SOURCE);
        let same = |_: &mut [u8]| ();
        let passing = [
            ipv4(9, 1, 5000, 0, same),
            ipv4(9, 1, 5000, 40, same),
            ipv6(1, 5000, &[], 17),
            ipv6(1, 5000, &[(0, 0), (60, 2), (43, 1)], 17),
            ipv6(1, 5000, &[(60, 0), (60, 1), (60, 0), (60, 0)], 17),
        ];
        for (i, frame) in passing.iter().enumerate() {
            assert!(passes(&filter, frame), "case {i}");
        }
        assert_eq!(filter.foreign().unwrap(), 0);
        // Families are not mixed.
        let mut mapped = ipv6(1, 5000, &[], 17);
        mapped[38..54].copy_from_slice(&Ipv4Addr::new(239, 1, 1, 1).to_ipv6_mapped().octets());
        let foreign = [
            ipv4(9, 2, 5000, 0, same),
            ipv4(9, 1, 5001, 0, same),
            ipv4(9, 1, 5001, 40, same),
            mapped,
            ipv6(2, 5000, &[], 17),
            ipv6(1, 5001, &[(0, 0), (60, 2)], 17),
        ];
        for (i, frame) in foreign.iter().enumerate() {
            assert!(!passes(&filter, frame), "case {i}");
        }
        assert_eq!(filter.foreign().unwrap(), 6);
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn what_cannot_be_told_passes_and_what_is_no_udp_does_not_count() {
        let filter = filter(WITHOUT_SOURCE);
        let cut = |len: usize| ipv4(9, 2, 5001, 0, |_| ())[..len].to_vec();
        let cases = [
            (true, ipv4(9, 2, 5001, 0, |packet| packet[6] = 0x20), "first fragment"),
            (true, ipv4(9, 2, 5001, 0, |packet| packet[7] = 9), "later fragment"),
            (true, ipv6(2, 5001, &[(44, 0)], 17), "fragment"),
            (true, ipv6(2, 5001, &[(60, 0); 5], 17), "more extension headers than are looked at"),
            (true, ipv4(9, 2, 5001, 0, |packet| packet[0] = 0x4f), "a header longer than the frame"),
            (true, cut(36), "no UDP header"),
            (true, ipv4(9, 2, 5001, 0, |packet| packet[0] = 0x44), "a header too short"),
            (true, ipv4(9, 2, 5001, 0, |packet| packet[0] = 0x65), "another version"),
            (true, ipv6(2, 5001, &[(60, 0)], 17)[..54].to_vec(), "no extension header"),
            (false, cut(30), "no IP header"),
            (false, vec![0; 13], "no Ethernet header"),
            (false, ipv4(9, 1, 5000, 0, |packet| packet[9] = 6), "TCP"),
            (false, ipv6(1, 5000, &[(0, 0)], 58), "ICMPv6"),
            (false, vec![0; 60], "neither IPv4 nor IPv6"),
        ];
        for (expected, frame, what) in &cases {
            assert_eq!(passes(&filter, frame), *expected, "{what}");
        }
        assert_eq!(filter.foreign().unwrap(), 0);
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn frames_may_have_no_ethernet_header() {
        let group = |group: &str| {
            let group: SocketAddr = group.parse().unwrap();
            Endpoint::new(group.ip(), group.port(), None)
        };
        let endpoints = [group("239.1.1.1:5000"), group("[ff15::1]:5000")];
        let filter = RulePrograms::load(LinkLayer::RawIp, &endpoints, 0).unwrap();
        let same = |_: &mut [u8]| ();
        let cases = [
            (true, 0, ipv4(9, 1, 5000, 0, same)),
            (true, 0, ipv4(9, 1, 5000, 40, same)),
            (true, 0, ipv6(1, 5000, &[], 17)),
            (true, 0, ipv6(1, 5000, &[(0, 0), (60, 2)], 17)),
            (true, 0, ipv4(9, 2, 5001, 0, |packet| packet[6] = 0x20)),
            (false, 1, ipv4(9, 1, 5001, 0, same)),
            (false, 1, ipv6(2, 5000, &[], 17)),
            (false, 0, ipv4(9, 1, 5000, 0, |packet| packet[9] = 6)),
            (false, 0, ipv4(9, 1, 5000, 0, |packet| packet[0] = 0x55)),
            (false, 0, ipv6(1, 5000, &[], 58)),
            (false, 0, vec![0; 14]),
        ];
        let mut foreign = 0;
        for (i, (expected, counted, frame)) in cases.iter().enumerate() {
            foreign += counted;
            assert_eq!(passes(&filter, &frame[14..]), *expected, "case {i}");
            assert_eq!(filter.foreign().unwrap(), foreign, "case {i}");
        }
        assert!(!passes(&filter, &ipv4(9, 1, 5000, 0, same)), "one with an Ethernet header");
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn a_rule_with_a_source_takes_that_only_and_does_not_hide_others() {
        let of =
            |filter: &RulePrograms| [9, 8].map(|source| passes(filter, &ipv4(source, 1, 5000, 0, |_| ())));
        assert_eq!(of(&filter(&[("239.1.1.1:5000", "10.0.0.9")])), [true, false]);
        assert_eq!(of(&filter(&[("239.1.1.1:5000", "10.0.0.9"), ("239.1.1.1:5000", "")])), [true, true]);
        assert_eq!(of(&filter(&[])), [false, false]);
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn a_rule_takes_what_is_of_its_vlan_only() {
        let endpoint = |group: &str, vlan| {
            let group: SocketAddr = group.parse().unwrap();
            Endpoint { vlan: VlanId::of_tag(vlan), ..Endpoint::new(group.ip(), group.port(), None) }
        };
        for (group, frame) in
            [("239.1.1.1:5000", ipv4(9, 1, 5000, 0, |_| ())), ("[ff15::1]:5000", ipv6(1, 5000, &[], 17))]
        {
            let that_pass = |vlans: &[u16], tags: &[&[u8]]| {
                let endpoints: Vec<_> = vlans.iter().map(|vlan| endpoint(group, *vlan)).collect();
                let programs = RulePrograms::load(LinkLayer::Ethernet, &endpoints, 0).unwrap();
                let passed = frames::tags_that_pass(|socket| programs.attach(socket).unwrap(), &frame, tags);
                assert!(programs.foreign().unwrap() >= u64::from(vlans.contains(&5)), "VLAN 4095 at least");
                passed
            };
            let and = |tag| [frames::TAGS.as_slice(), &[frames::TAGS[tag]]].concat();
            assert_eq!(that_pass(&[0], &and(0)), [0, 1, 9]);
            assert_eq!(that_pass(&[5], &and(2)), [2, 3, 5, 9]);
            assert_eq!(that_pass(&[0, 6], &and(0)), [0, 1, 4, 9]);
        }
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn another_one_takes_over_at_once_and_stays() {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let arrives = || {
            sender.send(&ipv4(9, 1, 5000, 0, |_| ())).unwrap();
            receiver.recv(&mut [0; 2_000]).is_ok()
        };
        let (first, second) = (filter(&[]), filter(WITHOUT_SOURCE));
        first.attach(&receiver).unwrap();
        assert!(!arrives());
        second.attach(&receiver).unwrap();
        drop(first);
        assert!(arrives());
        drop(second);
        assert!(arrives(), "the socket keeps it");
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn endpoints_come_and_go() {
        let parse = |group: &str| {
            let group: SocketAddr = group.parse().unwrap();
            Endpoint::new(group.ip(), group.port(), None)
        };
        let mut programs = RulePrograms::load(LinkLayer::Ethernet, &[], 1).unwrap();
        let (v4, v6) = (parse("239.1.1.1:5000"), parse("[ff15::1]:5000"));
        let (frame_v4, frame_v6) = (ipv4(9, 1, 5000, 0, |_| ()), ipv6(1, 5000, &[], 17));
        for _ in 0..3 {
            assert!(!passes(&programs, &frame_v4) && !passes(&programs, &frame_v6));
            programs.insert(&v4).unwrap();
            programs.insert(&v6).unwrap();
            assert!(passes(&programs, &frame_v4) && passes(&programs, &frame_v6));
            assert!(programs.insert(&parse("239.1.1.2:5000")).is_err(), "no room");
            programs.remove(&v4).unwrap();
            assert!(!passes(&programs, &frame_v4) && passes(&programs, &frame_v6));
            programs.remove(&v6).unwrap();
        }
        let of_source = Endpoint { source: Some("10.0.0.9".parse().unwrap()), ..v4 };
        assert!(programs.suits(&v4) && !programs.suits(&of_source));
        assert!(RulePrograms::load(LinkLayer::Ethernet, &[of_source], 1).unwrap().suits(&of_source));
        let of_vlan = Endpoint { vlan: VlanId::of_tag(5), ..v4 };
        assert!(!programs.suits(&of_vlan));
        assert!(RulePrograms::load(LinkLayer::Ethernet, &[of_vlan], 1).unwrap().suits(&of_vlan));
    }

    #[test]
    #[ignore = "needs root: loads BPF programs"]
    fn there_is_room_for_ten_thousand_rules() {
        let group = |i: u32| IpAddr::from(0xef02_0000_u32.wrapping_add(i).to_be_bytes());
        let rules: Vec<_> = (0..10_000).map(|i| Endpoint::new(group(i), 7, None)).collect();
        let filter = RulePrograms::load(LinkLayer::Ethernet, &rules, 0).unwrap();
        let to = |group: IpAddr| {
            let IpAddr::V4(group) = group else { unreachable!() };
            ipv4(9, 1, 7, 0, |packet| packet[16..20].copy_from_slice(&group.octets()))
        };
        assert!((0..10_000).step_by(37).all(|i| passes(&filter, &to(group(i)))));
        assert!(!passes(&filter, &to(group(10_000))));
    }
}
