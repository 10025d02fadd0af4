//! Numbers of VLANs (IEEE 802.1Q).

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The part of a tag that names the VLAN (IEEE 802.1Q section 9.6).
const MASK: u16 = 0x0fff;
/// The highest number that a VLAN can have. The one above it is reserved.
const HIGHEST: u16 = 4_094;

/// The VLAN that a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(NonZeroU16);

/// A number that no VLAN can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a VLAN is {expected}, not {found}", expected = VlanId::EXPECTED)]
pub struct NoVlan {
    found: String,
}

impl VlanId {
    /// What it can be, for messages.
    pub const EXPECTED: &'static str = "a whole number from 1 to 4094";

    /// The VLAN that tag control information names. `None` where that is 0: such a tag carries a priority only, and its frame counts
    /// as untagged. The reserved number 4,095, which no rule can have, is a VLAN like others here.
    pub fn of_tag(tag: u16) -> Option<Self> {
        NonZeroU16::new(tag & MASK).map(Self)
    }

    /// Its number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u16> for VlanId {
    type Error = NoVlan;

    fn try_from(number: u16) -> Result<Self, NoVlan> {
        let vlan = NonZeroU16::new(number).filter(|number| number.get() <= HIGHEST);
        vlan.map(Self).ok_or_else(|| NoVlan { found: number.to_string() })
    }
}

impl FromStr for VlanId {
    type Err = NoVlan;

    fn from_str(text: &str) -> Result<Self, NoVlan> {
        let number: Option<u16> = text.parse().ok();
        number.and_then(|number| number.try_into().ok()).ok_or_else(|| NoVlan { found: format!("{text:?}") })
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.get()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_vlans_are_read_and_no_others() {
        for number in [1_u16, 5, 4_094] {
            assert_eq!(VlanId::try_from(number).map(VlanId::get), Ok(number));
            assert_eq!(number.to_string().parse().map(VlanId::get), Ok(number));
            assert_eq!(serde_json::from_str::<VlanId>(&number.to_string()).unwrap().get(), number);
        }
        for text in ["0", "4095", "65536", "-1", "", "x", "5.0"] {
            assert!(text.parse::<VlanId>().is_err(), "{text}");
            assert!(serde_json::from_str::<VlanId>(text).is_err(), "{text}");
        }
        let error = VlanId::try_from(4_095).unwrap_err().to_string();
        assert_eq!(error, "a VLAN is a whole number from 1 to 4094, not 4095");
    }

    #[test]
    fn a_tag_names_a_vlan_beside_its_priority_or_none() {
        let vlan = |tag| VlanId::of_tag(tag).map(VlanId::get);
        assert_eq!([vlan(0), vlan(0xe000), vlan(0xe005), vlan(0x0fff)], [None, None, Some(5), Some(4_095)]);
    }
}
