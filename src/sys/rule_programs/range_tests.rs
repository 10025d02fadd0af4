use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

use super::tests::{ipv4, ipv6, passes};
use super::*;

fn within(first: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    first.is_ipv4() == other.is_ipv4()
        && (prefix == 0 || bits(first) >> (128 - prefix) == bits(other) >> (128 - prefix))
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn ranges_are_taken_exactly() {
    let mut number = 7_u64;
    // As in SplitMix64.
    let mut below = |end: u64| {
        number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 31)) % end
    };
    let group = |is_ipv4: bool, i: u64| -> IpAddr {
        if is_ipv4 { [239, 1, 1, i as u8].into() } else { [0xff15, 0, 0, 0, 0, 0, 0, i as u16].into() }
    };
    let source = |is_ipv4: bool, i: u64| -> IpAddr {
        // What frames of these tests have for a source.
        if is_ipv4 { [10, 0, 0, i as u8].into() } else { [0, 0, 0, 0, 0, 0, 0, i as u16].into() }
    };
    for round in 0..40 {
        let endpoints: Vec<_> = (0..below(8))
            .map(|_| {
                let (is_ipv4, host_bits, port_bits) = (below(2) == 0, below(4) as u8, below(4) as u8);
                Endpoint {
                    group: group(is_ipv4, below(16) >> host_bits << host_bits),
                    port: (below(16) >> port_bits << port_bits) as u16 + 5000,
                    source: (below(3) == 0).then(|| source(is_ipv4, below(2) + 1)),
                    prefix: if is_ipv4 { 32 } else { 128 } - host_bits,
                    port_bits,
                    vlan: None,
                }
            })
            .collect();
        let filter = RulePrograms::load(LinkLayer::Ethernet, &endpoints, 0).unwrap();
        let (sender_end, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        filter.attach(&receiver).unwrap();
        for _ in 0..300 {
            let (is_ipv4, to, from, port) = (below(2) == 0, below(17), below(3) + 1, 4999 + below(18) as u16);
            let (destination, sender) = (group(is_ipv4, to), source(is_ipv4, from));
            let takes = |endpoint: &Endpoint| {
                within(endpoint.group, destination, endpoint.prefix)
                    && endpoint.port >> endpoint.port_bits == port >> endpoint.port_bits
                    && endpoint.source.is_none_or(|wanted| wanted == sender)
            };
            let frame = if is_ipv4 {
                ipv4(from as u8, to as u8, port, 0, |_| ())
            } else {
                let mut frame = ipv6(to as u8, port, &[], 17);
                frame[37] = from as u8;
                frame
            };
            let expected = endpoints.iter().any(takes);
            sender_end.send(&frame).unwrap();
            let passes = receiver.recv(&mut [0; 2_000]).is_ok();
            assert_eq!(passes, expected, "round {round}: {endpoints:?} {destination}:{port}");
        }
    }
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn the_widest_ranges_and_the_most_shapes_are_looked_at() {
    let endpoint = |group: &str, prefix, port, port_bits| {
        let group = group.parse().unwrap();
        Endpoint { prefix, port_bits, ..Endpoint::new(group, port, None) }
    };
    let every = [endpoint("0.0.0.0", 0, 0x8000, 15), endpoint("::", 0, 0x8000, 15)];
    let filter = RulePrograms::load(LinkLayer::Ethernet, &every, 0).unwrap();
    let frames = |port| [ipv4(9, 1, port, 0, |_| ()), ipv6(1, port, &[], 17)];
    assert!(frames(0x8000).iter().chain(&frames(0xffff)).all(|frame| passes(&filter, frame)));
    assert!(!frames(0x7fff).iter().any(|frame| passes(&filter, frame)));
    assert!(filter.suits(&every[0]) && !filter.suits(&endpoint("239.1.1.1", 32, 1, 0)));
    // Of each family as many as there can be, the last one of which takes the frame: no rule is of the others' shape.
    let most = |count: u8| -> Vec<_> {
        let shape = |i: u8| (32 - i % 16, i / 16);
        let v4 = (0..count).map(shape).map(|(prefix, bits)| endpoint("239.0.0.0", prefix, 1024, bits));
        let v6 = (0..count).map(shape).map(|(prefix, bits)| endpoint("fd00::", prefix + 96, 1024, bits));
        v4.chain(v6).collect()
    };
    let mut all = most(31);
    all.extend([endpoint("239.1.1.1", 32, 5000, 3), endpoint("ff15::1", 128, 5000, 3)]);
    let filter = RulePrograms::load(LinkLayer::Ethernet, &all, 0).unwrap();
    assert!(frames(5007).iter().all(|frame| passes(&filter, frame)));
    assert!(!frames(5008).iter().any(|frame| passes(&filter, frame)));
    let error = RulePrograms::load(LinkLayer::Ethernet, &most(33), 0).unwrap_err();
    assert!(error.is_for_shapes() && error.to_string().contains("more than 32 shapes"), "{error}");
    let unlike = endpoint("239.1.1.1", 32, 5000, 5);
    assert!(!filter.suits(&unlike));
}
