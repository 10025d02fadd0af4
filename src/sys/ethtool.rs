//! What a device says of itself through the ethtool ioctl of `linux/ethtool.h`: driver, offloads, ring sizes. Only reads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

// linux/ethtool.h; SIOCETHTOOL is of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// The string set that holds the names of the features, `ETH_SS_FEATURES`.
const FEATURE_STRINGS: u32 = 4;
/// 32-bit words of one string of a set, of `ETH_GSTRING_LEN` bytes.
const STRING_WORDS: usize = 8;
/// More features than any kernel has (some 64 today); a count above is not believed.
const MAX_FEATURES: usize = 1_024;
/// Words before the data of `struct ethtool_sset_info`: cmd, reserved, and the 64-bit mask.
const SSET_HEADER_WORDS: usize = 4;
/// Words before the data of `struct ethtool_gstrings`: cmd, the set, the count.
const STRINGS_HEADER_WORDS: usize = 3;
/// Words before the blocks of `struct ethtool_gfeatures`: cmd, count of blocks.
const FEATURES_HEADER_WORDS: usize = 2;
/// Words of one block of it: available, requested, active, `never_changed`.
const FEATURE_BLOCK_WORDS: usize = 4;
/// Where `active` stands in such a block.
const ACTIVE_WORD: usize = 2;
/// Words of `struct ethtool_drvinfo`: cmd, five strings of 32 bytes, 12 bytes reserved, five numbers.
const DRIVER_WORDS: usize = 1 + 5 * 8 + 3 + 5;
/// Words of `struct ethtool_ringparam`: cmd, four greatest sizes, four sizes.
const RING_WORDS: usize = 9;

/// An offload of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// It can be switched.
    pub changeable: bool,
    /// It is on.
    pub active: bool,
}

/// The descriptors that a device's receive ring has, and can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize {
    /// Now.
    pub now: u32,
    /// At most.
    pub most: u32,
}

/// A device of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Device {
    control: UnixDatagram,
    name: String,
}

impl Device {
    /// Opens what takes the ioctl; whether there is a device `name` turns out with the first request.
    pub fn open(name: &str) -> io::Result<Self> {
        Ok(Self { control: UnixDatagram::unbound()?, name: name.to_owned() })
    }

    /// The name of its driver.
    pub fn driver(&self) -> io::Result<String> {
        let mut words = [0; DRIVER_WORDS];
        words[0] = ETHTOOL_GDRVINFO;
        self.call(&mut words)?;
        Ok(text_of(&words[1..=STRING_WORDS]))
    }

    /// The size of its receive rings.
    pub fn receive_ring(&self) -> io::Result<RingSize> {
        let mut words = [0; RING_WORDS];
        words[0] = ETHTOOL_GRINGPARAM;
        self.call(&mut words)?;
        Ok(RingSize { now: words[5], most: words[1] })
    }

    /// Every offload by its name.
    pub fn features(&self) -> io::Result<BTreeMap<String, Feature>> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; FEATURES_HEADER_WORDS + blocks * FEATURE_BLOCK_WORDS];
        words[0] = ETHTOOL_GFEATURES;
        words[1] = blocks as u32;
        self.call(&mut words)?;
        let (blocks, _) = words[FEATURES_HEADER_WORDS..].as_chunks::<FEATURE_BLOCK_WORDS>();
        let features = names.into_iter().enumerate().filter_map(|(index, name)| {
            let (block, bit) = (blocks.get(index / 32)?, 1_u32 << (index % 32));
            Some((name, Feature { changeable: block[0] & bit != 0, active: block[ACTIVE_WORD] & bit != 0 }))
        });
        Ok(features.collect())
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        let mut words = [0; SSET_HEADER_WORDS + 1];
        words[0] = ETHTOOL_GSSET_INFO;
        // The mask is one number of 64 bits in the machine's order, and the set one of its lower 32.
        words[if cfg!(target_endian = "little") { 2 } else { 3 }] = 1 << FEATURE_STRINGS;
        self.call(&mut words)?;
        let count = words[SSET_HEADER_WORDS] as usize;
        if count == 0 || count > MAX_FEATURES {
            return Err(io::Error::other(format!("the kernel reports {count} features")));
        }
        // The kernel writes as many as there are, whatever the header grants.
        let mut words = vec![0; STRINGS_HEADER_WORDS + MAX_FEATURES * STRING_WORDS];
        words[0] = ETHTOOL_GSTRINGS;
        words[1] = FEATURE_STRINGS;
        words[2] = count as u32;
        self.call(&mut words)?;
        let (strings, _) = words[STRINGS_HEADER_WORDS..].as_chunks::<STRING_WORDS>();
        Ok(strings.iter().take(count).map(|string| text_of(string)).collect())
    }

    /// Hands `words`, one of the structures above with its header filled in, to the kernel.
    ///
    /// The callers size it: the structures of fixed size are complete, `GSSET_INFO` asks for one count, `GFEATURES` gets no
    /// more blocks than its header grants, and `GSTRINGS` as many strings as the running kernel has features, a constant
    /// that was just read and found to fit.
    fn call(&self, words: &mut [u32]) -> io::Result<()> {
        let mut name = [0; libc::IFNAMSIZ];
        if self.name.len() >= name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        let data = words.as_mut_ptr().cast();
        let mut request =
            libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
        // SAFETY: `request` is an ifreq whose name ends in a zero (its length is checked above) with a pointer to `words`,
        // mutably borrowed for the call and sized by the caller as the comment above says.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The text in a string of the kernel's, up to its first zero.
fn text_of(words: &[u32]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_named_features_and_no_ring() {
        let lo = Device::open("lo").unwrap();
        let features = lo.features().unwrap();
        assert!(features["loopback"].active && features.contains_key("tx-udp-segmentation"), "{features:?}");
        assert_eq!(lo.receive_ring().unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_missing_device_is_an_error() {
        for name in ["no-such-dev", "a-name-of-16-byt"] {
            let device = Device::open(name).unwrap();
            assert_eq!(device.driver().unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name}");
            assert_eq!(device.features().unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }

    #[test]
    fn texts_end_at_the_first_zero() {
        let words = [u32::from_ne_bytes(*b"rx-g"), u32::from_ne_bytes(*b"ro\0x")];
        assert_eq!(text_of(&words), "rx-gro");
    }
}
