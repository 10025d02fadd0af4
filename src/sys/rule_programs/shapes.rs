//! What rules take, as the programs look it up: by its shape, and within that by its first address and port.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::IpAddr;

use crate::wire::VlanId;

/// Most shapes of endpoints of each family: `SHAPES` in the programs' source.
const MOST_SHAPES: usize = 32;

/// What a rule takes, or a part of it: all addresses of a prefix, with ports of which there are as many as a power of two, from a
/// multiple of that on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The first destination address.
    pub group: IpAddr,
    /// The first destination port.
    pub port: u16,
    /// Source address, if only one is wanted.
    pub source: Option<IpAddr>,
    /// Bits that the addresses have in common: all of one address.
    pub prefix: u8,
    /// There are 2 to the power of this ports: 0 for one port, at most 15.
    pub port_bits: u8,
    /// The VLAN whose tag the frames carry; none is for untagged ones.
    pub vlan: Option<VlanId>,
}

impl Endpoint {
    /// One address and port.
    pub fn new(group: IpAddr, port: u16, source: Option<IpAddr>) -> Self {
        let prefix = if group.is_ipv4() { 32 } else { 128 };
        Self { group, port, source, prefix, port_bits: 0, vlan: None }
    }

    fn vlan_number(&self) -> u16 {
        self.vlan.map_or(0, VlanId::get)
    }
}

/// `struct endpoint_v4`: destination and source address, port and VLAN, place of the shape, in the byte order of the machine.
pub(super) type KeyV4 = [u32; 4];
/// `struct endpoint_v6`: source and destination address, port in network order, VLAN, place of the shape.
pub(super) type KeyV6 = [u8; 40];
/// `struct shape_v4`: the bits that count of the destination address, the source address and the port.
type MasksV4 = [u32; 3];
/// `struct shape_v6`: the bits that count of the destination address, of a word of the source, and of the port in network order.
type MasksV6 = [u8; 24];

/// What endpoints have in common that one look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    is_ipv4: bool,
    prefix: u8,
    port_bits: u8,
    has_source: bool,
}

impl Shape {
    /// That of one address and port.
    fn single(is_ipv4: bool) -> Self {
        Self { is_ipv4, prefix: if is_ipv4 { 32 } else { 128 }, port_bits: 0, has_source: false }
    }

    fn of(endpoint: &Endpoint) -> Self {
        let Endpoint { group, source, prefix, port_bits, .. } = endpoint;
        let (prefix, port_bits) = (*prefix, *port_bits);
        Self { is_ipv4: group.is_ipv4(), prefix, port_bits, has_source: source.is_some() }
    }

    fn port_mask(self) -> u16 {
        u16::MAX.checked_shl(self.port_bits.into()).unwrap_or(0)
    }

    fn masks_v4(self) -> MasksV4 {
        let group = u32::MAX.checked_shl(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0);
        [group, if self.has_source { u32::MAX } else { 0 }, self.port_mask().into()]
    }

    fn masks_v6(self) -> MasksV6 {
        let group = u128::MAX.checked_shl(128_u32.saturating_sub(self.prefix.into())).unwrap_or(0);
        let mut masks = [0; 24];
        masks[..16].copy_from_slice(&group.to_be_bytes());
        masks[16..20].fill(if self.has_source { 0xff } else { 0 });
        masks[20..22].copy_from_slice(&self.port_mask().to_be_bytes());
        masks
    }
}

/// The shapes of the endpoints that programs were loaded for, by their places.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    v4: Vec<Shape>,
    v6: Vec<Shape>,
}

impl Shapes {
    /// Those of `endpoints`.
    pub(super) fn of(endpoints: &[Endpoint]) -> Result<Self, TooManyShapes> {
        let mut shapes = Self::default();
        let mut all: Vec<_> = endpoints.iter().map(Shape::of).collect::<HashSet<_>>().into_iter().collect();
        // What there is most of in most configurations is found first.
        all.sort_by_key(|shape| (Reverse(shape.prefix), shape.port_bits, shape.has_source));
        for shape in all {
            let (of_family, family) =
                if shape.is_ipv4 { (&mut shapes.v4, "IPv4") } else { (&mut shapes.v6, "IPv6") };
            if of_family.len() == MOST_SHAPES {
                return Err(TooManyShapes { family });
            }
            of_family.push(shape);
        }
        // What comes first is most likely of this shape.
        for (of_family, is_ipv4) in [(&mut shapes.v4, true), (&mut shapes.v6, false)] {
            if of_family.is_empty() {
                of_family.push(Shape::single(is_ipv4));
            }
        }
        Ok(shapes)
    }

    /// How many there are of IPv4 and of IPv6.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.v4.len() as u32, self.v6.len() as u32)
    }

    /// The bits that count for each of IPv4 and of IPv6.
    pub(super) fn masks(&self) -> ([MasksV4; MOST_SHAPES], [MasksV6; MOST_SHAPES]) {
        let mut masks = ([MasksV4::default(); MOST_SHAPES], [MasksV6::default(); MOST_SHAPES]);
        masks.0.iter_mut().zip(&self.v4).for_each(|(masks, shape)| *masks = shape.masks_v4());
        masks.1.iter_mut().zip(&self.v6).for_each(|(masks, shape)| *masks = shape.masks_v6());
        masks
    }

    /// Whether the shape of `endpoint` is one of them.
    pub(super) fn has(&self, endpoint: &Endpoint) -> bool {
        self.place(endpoint).is_some()
    }

    /// The place of the shape of `endpoint` among those of its family.
    fn place(&self, endpoint: &Endpoint) -> Option<u16> {
        let shape = Shape::of(endpoint);
        let of_family = if shape.is_ipv4 { &self.v4 } else { &self.v6 };
        of_family.iter().position(|other| *other == shape).map(|place| place as u16)
    }

    pub(super) fn key_v4(&self, endpoint: &Endpoint) -> Option<KeyV4> {
        let IpAddr::V4(group) = endpoint.group else { return None };
        let place = self.place(endpoint)?;
        let source = match endpoint.source {
            Some(IpAddr::V4(source)) => source.to_bits(),
            _ => 0,
        };
        // Two fields of 16 bits each, in this order whatever that of the bytes in each is.
        let ([port_0, port_1], [vlan_0, vlan_1]) =
            (endpoint.port.to_ne_bytes(), endpoint.vlan_number().to_ne_bytes());
        Some([group.to_bits(), source, u32::from_ne_bytes([port_0, port_1, vlan_0, vlan_1]), place.into()])
    }

    pub(super) fn key_v6(&self, endpoint: &Endpoint) -> Option<KeyV6> {
        let IpAddr::V6(group) = endpoint.group else { return None };
        let place = self.place(endpoint)?;
        let mut key = [0; 40];
        if let Some(IpAddr::V6(source)) = endpoint.source {
            key[..16].copy_from_slice(&source.octets());
        }
        key[16..32].copy_from_slice(&group.octets());
        key[32..34].copy_from_slice(&endpoint.port.to_be_bytes());
        key[34..36].copy_from_slice(&endpoint.vlan_number().to_ne_bytes());
        key[36..].copy_from_slice(&u32::from(place).to_ne_bytes());
        Some(key)
    }
}

/// There are more shapes of what rules take than the programs look at.
#[derive(Debug, thiserror::Error)]
#[error(
    "what rules take over {family} has more than {MOST_SHAPES} shapes (lengths of prefixes, sizes of blocks of ports, with a source and \
     without)"
)]
pub(super) struct TooManyShapes {
    family: &'static str,
}
