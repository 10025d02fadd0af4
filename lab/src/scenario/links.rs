//! The wires of a scenario.

use super::{Condition, Scenario};
use crate::topology::{Checksum, Family, Link, Segmentation};

/// How the links are: under every condition the same, but for where super-frames are cut.
#[derive(Clone, Debug)]
pub struct Links {
    /// MTU in bytes.
    pub mtu: u32,
    /// Where super-frames are cut into datagrams; never empty.
    pub segmentations: Vec<Segmentation>,
    /// Who completes checksums.
    pub checksum: Checksum,
    /// The address family.
    pub family: Family,
}

impl Links {
    /// The link with this segmentation.
    pub fn with(&self, segmentation: Segmentation) -> Link {
        let Self { mtu, checksum, family, .. } = *self;
        Link { mtu, segmentation, checksum, family }
    }

    /// The link on the side of the generator: who hands over super-frames does so whatever the device would cut.
    pub fn ingress(&self) -> Link {
        self.with(Segmentation::Wire)
    }
}

impl Scenario {
    /// The link under `condition`.
    pub fn link_under(&self, condition: &Condition) -> Link {
        self.link.with(condition.segmentation)
    }
}
