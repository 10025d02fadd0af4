use proptest::prelude::*;

use super::*;

fn group(text: &str) -> GroupRange {
    text.parse().unwrap()
}

fn ports(text: &str) -> PortRange {
    text.parse().unwrap()
}

#[test]
fn a_single_one_is_written_as_ever_and_a_range_as_it_was_read() {
    for (text, json) in [
        ("239.1.1.1", "\"239.1.1.1\""),
        ("ff15::1", "\"ff15::1\""),
        ("239.1.0.0/16", "\"239.1.0.0/16\""),
        ("ff15::1:0/112", "\"ff15::1:0/112\""),
        ("224.0.0.0/4", "\"224.0.0.0/4\""),
    ] {
        assert_eq!(group(text).to_string(), text);
        assert_eq!(serde_json::to_string(&group(text)).unwrap(), json);
        assert_eq!(serde_json::from_str::<GroupRange>(json).unwrap(), group(text));
    }
    for (text, json) in [("5000", "5000"), ("5000-5009", "\"5000-5009\""), ("1-65535", "\"1-65535\"")] {
        assert_eq!(ports(text).to_string(), text);
        assert_eq!(serde_json::to_string(&ports(text)).unwrap(), json);
        assert_eq!(serde_json::from_str::<PortRange>(json).unwrap(), ports(text));
    }
    assert_eq!(
        (group("239.1.1.1/32").to_string(), ports("7-7").to_string()),
        ("239.1.1.1".into(), "7".into())
    );
    assert_eq!(serde_json::from_str::<PortRange>("\"5000\"").unwrap(), ports("5000"));
}

#[test]
fn what_is_no_range_says_why() {
    let of_group = |text: &str| text.parse::<GroupRange>().unwrap_err().to_string();
    let of_ports = |text: &str| text.parse::<PortRange>().unwrap_err().to_string();
    for (error, expected) in [
        (of_group("239.1.1.0/16"), "239.1.1.0/16 has bits set behind its prefix: write 239.1.0.0/16"),
        (of_group("ff15::1/112"), "write ff15::/112 for all of it, or ff15::1 for that one alone"),
        (of_group("239.1.0.0/33"), "has no such prefix length: give a number from 0 to 32"),
        (of_group("ff15::/129"), "from 0 to 128"),
        (of_group("239.1.0.0/"), "has no such prefix length"),
        (of_group("239.1.0.0/x"), "has no such prefix length"),
        (of_group("239.1/16"), "\"239.1/16\" is not an IP address"),
        (of_group(""), "is not an IP address"),
        (of_ports("0"), "\"0\" is not a port"),
        (of_ports("1-65536"), "\"1-65536\" is not a port"),
        (of_ports("5000-"), "is not a port"),
        (of_ports("5009-5000"), "5009-5000 ends before it begins: write 5000-5009"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(
        serde_json::from_str::<PortRange>("0").is_err()
            && serde_json::from_str::<PortRange>("65536").is_err()
    );
    assert!(serde_json::from_str::<GroupRange>("\"239.1.1.0/24/1\"").is_err());
}

#[test]
fn first_last_and_number_of_a_range_agree() {
    let of = |text: &str| {
        let group = group(text);
        (group.first().to_string(), group.last().to_string(), group.host_bits())
    };
    assert_eq!(of("239.1.0.0/16"), ("239.1.0.0".into(), "239.1.255.255".into(), 16));
    assert_eq!(of("0.0.0.0/0"), ("0.0.0.0".into(), "255.255.255.255".into(), 32));
    assert_eq!(of("::/0").1, Ipv6Addr::from_bits(u128::MAX).to_string());
    assert_eq!(of("ff15::1"), ("ff15::1".into(), "ff15::1".into(), 0));
    let all: Vec<_> = group("239.1.1.4/30").addresses().map(|address| address.to_string()).collect();
    assert_eq!(all, ["239.1.1.4", "239.1.1.5", "239.1.1.6", "239.1.1.7"]);
    assert_eq!((ports("5000-5009").count(), ports("1-65535").count(), ports("7").count()), (10, 65_535, 1));
}

#[test]
fn a_range_of_ports_is_made_up_of_blocks() {
    let blocks =
        |text: &str| ports(text).blocks().map(|block| (block.first(), block.bits())).collect::<Vec<_>>();
    assert_eq!(blocks("5000-5009"), [(5000, 3), (5008, 1)]);
    assert_eq!(blocks("5000"), [(5000, 0)]);
    assert_eq!(blocks("32768-65535"), [(32_768, 15)]);
    assert_eq!(blocks("65535"), [(65_535, 0)]);
    assert_eq!((blocks("1-65535").len(), blocks("1-65534").len()), (16, 30), "the most");
}

proptest! {
    #[test]
    fn blocks_are_exactly_the_range(first in 1..=u16::MAX, last in 1..=u16::MAX) {
        let (first, last) = (first.min(last), first.max(last));
        let mut next = u32::from(first);
        for block in ports(&format!("{first}-{last}")).blocks() {
            prop_assert_eq!(u32::from(block.first()), next);
            prop_assert_eq!(block.first() & !block.mask(), 0, "a multiple of its size");
            prop_assert_eq!(block.last() - block.first(), !block.mask());
            next = u32::from(block.last()) + 1;
        }
        prop_assert_eq!(next, u32::from(last) + 1);
    }

    #[test]
    fn what_two_have_in_common_is_what_is_in_both(
        one: u32, other: u32, bits in (16..=32_u8, 16..=32_u8), flip in 0..32_u32, address: u32,
    ) {
        // Near each other, or they have nothing in common.
        let other = if flip % 2 == 0 { one ^ (1 << (flip / 2)) } else { other };
        let of = |first: u32, prefix| GroupRange::from(IpAddr::from(first.to_be_bytes())).widened(prefix);
        let (one, other) = (of(one, bits.0), of(other, bits.1));
        let has = |range: GroupRange, address: IpAddr| range.first() <= address && address <= range.last();
        let ends = [one.first(), one.last(), other.first(), other.last(), IpAddr::from(address.to_be_bytes())];
        let common = ends.iter().any(|end| has(one, *end) && has(other, *end));
        prop_assert_eq!(one.intersects(other), common);
    }
}
