//! Device features (offloads) and statistics through the ethtool ioctl of `linux/ethtool.h`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

// linux/ethtool.h; SIOCETHTOOL is of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// The string set that holds the names of the statistics, `ETH_SS_STATS`.
const STATISTIC_STRINGS: u32 = 1;
/// The string set that holds the names of the features, `ETH_SS_FEATURES`.
const FEATURE_STRINGS: u32 = 4;
/// Bytes of one string of a set, `ETH_GSTRING_LEN`.
const STRING_BYTES: usize = 32;
/// 32-bit words of one string of a set.
const STRING_WORDS: usize = STRING_BYTES / 4;
/// More features than any kernel has (some 64 today), and more statistics than any device of ours; a count above is
/// not believed.
const MAX_STRINGS: usize = 4096;
/// Words before the data of `struct ethtool_sset_info`: cmd, reserved, and the 64-bit mask.
const SSET_HEADER_WORDS: usize = 4;
/// Words before the data of `struct ethtool_gstrings`: cmd, the set, the count.
const STRINGS_HEADER_WORDS: usize = 3;
/// Words before the numbers of `struct ethtool_stats`: cmd, the count.
const STATISTICS_HEADER_WORDS: usize = 2;
/// Words before the blocks of `struct ethtool_gfeatures` and `ethtool_sfeatures`: cmd, count of blocks.
const FEATURES_HEADER_WORDS: usize = 2;
/// Words of one block of `ethtool_gfeatures`: available, requested, active, `never_changed`.
const GET_BLOCK_WORDS: usize = 4;
/// Where `active` stands in such a block.
const ACTIVE_WORD: usize = 2;
/// Words of one block of `ethtool_sfeatures`: valid, requested.
const SET_BLOCK_WORDS: usize = 2;

/// What a device can do and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Feature {
    /// It can be switched.
    pub(crate) changeable: bool,
    /// It is on.
    pub(crate) active: bool,
}

/// The features of one device of the network namespace in which this was opened.
#[derive(Debug)]
pub(crate) struct Features {
    control: Control,
    names: Vec<String>,
}

/// The statistics of one device of the network namespace in which this was opened (`ethtool -S`).
#[derive(Debug)]
pub(crate) struct Statistics {
    control: Control,
}

/// A socket that takes the ioctl, and the device it is about.
#[derive(Debug)]
struct Control {
    socket: UnixDatagram,
    device: String,
}

impl Features {
    /// Opens the control socket in the calling thread's namespace and reads the names of all features.
    ///
    /// # Errors
    /// `ENODEV` when there is no such device, `EINVAL` for a name longer than 15 bytes.
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        let control = Control::open(device)?;
        let names = control.strings(FEATURE_STRINGS)?;
        Ok(Self { control, names })
    }

    /// Every feature by its name, as it is now.
    pub(crate) fn read(&self) -> io::Result<BTreeMap<String, Feature>> {
        let blocks = self.names.len().div_ceil(32);
        let mut words = vec![0; FEATURES_HEADER_WORDS + blocks * GET_BLOCK_WORDS];
        words[0] = ETHTOOL_GFEATURES;
        words[1] = blocks as u32;
        self.control.call(&mut words)?;
        let (blocks, _) = words[FEATURES_HEADER_WORDS..].as_chunks::<GET_BLOCK_WORDS>();
        let features = self.names.iter().enumerate().filter_map(|(index, name)| {
            let block = blocks.get(index / 32)?;
            let bit = 1_u32 << (index % 32);
            let changeable = block[0] & bit != 0;
            Some((name.clone(), Feature { changeable, active: block[ACTIVE_WORD] & bit != 0 }))
        });
        Ok(features.collect())
    }

    /// Asks for features to be on or off. The kernel may do otherwise for reasons of its own: [`Features::read`]
    /// tells.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a name this kernel does not know.
    pub(crate) fn set(&self, wanted: &[(&str, bool)]) -> io::Result<()> {
        let blocks = self.names.len().div_ceil(32);
        let mut words = vec![0; FEATURES_HEADER_WORDS + blocks * SET_BLOCK_WORDS];
        words[0] = ETHTOOL_SFEATURES;
        words[1] = blocks as u32;
        for (name, on) in wanted {
            let index = self.names.iter().position(|known| known == name);
            let index = index.ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
            let block = FEATURES_HEADER_WORDS + index / 32 * SET_BLOCK_WORDS;
            let bit = 1_u32 << (index % 32);
            words[block] |= bit;
            if *on {
                words[block + 1] |= bit;
            }
        }
        self.control.call(&mut words)
    }
}

impl Statistics {
    /// Opens the control socket in the calling thread's namespace.
    ///
    /// # Errors
    /// `ENODEV` when there is no such device, `EOPNOTSUPP` when it has no statistics, `EINVAL` for a name longer than
    /// 15 bytes.
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        let statistics = Self { control: Control::open(device)? };
        statistics.read()?;
        Ok(statistics)
    }

    /// What all queues of one direction (`"tx_queue_"`, `"rx_queue_"`) together count as `counter`; `None` when the device
    /// has no such statistic.
    pub(crate) fn sum(&self, prefix: &str, counter: &str) -> io::Result<Option<u64>> {
        Ok(sum_of(&self.read()?, prefix, counter))
    }

    /// Every statistic by its name, as it is now.
    fn read(&self) -> io::Result<BTreeMap<String, u64>> {
        let names = self.control.strings(STATISTIC_STRINGS)?;
        // The kernel writes as many as the device has, whatever the header grants: room for all that may become.
        let mut words = vec![0; STATISTICS_HEADER_WORDS + MAX_STRINGS * 2];
        words[0] = ETHTOOL_GSTATS;
        words[1] = names.len() as u32;
        self.control.call(&mut words)?;
        let (numbers, _) = words[STATISTICS_HEADER_WORDS..].as_chunks::<2>();
        Ok(names.into_iter().zip(numbers.iter().copied().map(number_of)).collect())
    }
}

/// The sum of what is called `<prefix><number>_<counter>`; `None` when nothing is.
fn sum_of(statistics: &BTreeMap<String, u64>, prefix: &str, counter: &str) -> Option<u64> {
    let is_of_queue = |name: &str| {
        let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(counter));
        let number = rest.and_then(|rest| rest.strip_suffix('_'));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut counts = statistics.iter().filter(|(name, _)| is_of_queue(name)).map(|(_, count)| *count);
    let first = counts.next()?;
    Some(first + counts.sum::<u64>())
}

impl Control {
    fn open(device: &str) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::unbound()?, device: device.to_owned() })
    }

    /// The names in a string set.
    fn strings(&self, set: u32) -> io::Result<Vec<String>> {
        let count = self.count(set)?;
        self.read_names(set, count)
    }

    /// How many strings a set has.
    fn count(&self, set: u32) -> io::Result<usize> {
        let mut words = vec![0; SSET_HEADER_WORDS + 1];
        words[0] = ETHTOOL_GSSET_INFO;
        let mask = (1_u64 << set).to_ne_bytes();
        let (halves, _) = mask.as_chunks::<4>();
        words[2] = u32::from_ne_bytes(halves[0]);
        words[3] = u32::from_ne_bytes(halves[1]);
        self.call(&mut words)?;
        let count = words[SSET_HEADER_WORDS] as usize;
        // A set that the device does not have is taken out of the mask.
        if words[2] == 0 && words[3] == 0 {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        if count == 0 || count > MAX_STRINGS {
            return Err(io::Error::other(format!("the kernel reports {count} features or statistics")));
        }
        Ok(count)
    }

    fn read_names(&self, set: u32, count: usize) -> io::Result<Vec<String>> {
        // The kernel writes as many as there are, whatever the header grants.
        let mut words = vec![0; STRINGS_HEADER_WORDS + MAX_STRINGS * STRING_WORDS];
        words[0] = ETHTOOL_GSTRINGS;
        words[1] = set;
        words[2] = count as u32;
        self.call(&mut words)?;
        let (strings, _) = words[STRINGS_HEADER_WORDS..].as_chunks::<STRING_WORDS>();
        Ok(strings.iter().take(count).map(name_of).collect())
    }

    /// Hands `words`, one of the structures above with its header filled in, to the kernel.
    ///
    /// The callers size it: the kernel writes no more than the one count asked for (`GSSET_INFO`), no more blocks than
    /// the header grants (`GFEATURES`), and as many strings or statistics as the device has (`GSTRINGS`, `GSTATS`), which
    /// is a constant of the running kernel or grows with the queues of the device: there is room for many more.
    fn call(&self, words: &mut [u32]) -> io::Result<()> {
        let mut name = [0; libc::IFNAMSIZ];
        let bytes = self.device.as_bytes();
        if bytes.len() >= name.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        for (to, from) in name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let data = words.as_mut_ptr().cast();
        let mut request =
            libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
        // SAFETY: `request` is an ifreq with a name that ends in a zero (its length is checked above) and a
        // pointer to `words`, mutably borrowed for the call and sized by the caller as the comment above says.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A 64-bit number of the kernel's in two words.
fn number_of(words: [u32; 2]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *to = from.to_ne_bytes();
    }
    u64::from_ne_bytes(bytes)
}

/// The text of one string of a set, up to its first zero.
fn name_of(words: &[u32; STRING_WORDS]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_named_features() {
        let features = Features::open("lo").expect("every namespace has lo");
        let read = features.read().expect("read the features of lo");
        assert!(read.contains_key("tx-udp-segmentation"), "{read:?}");
        assert!(read.contains_key("rx-gro"), "{read:?}");
        assert!(read["loopback"].active, "{read:?}");
    }

    #[test]
    fn a_missing_device_is_an_error() {
        let missing = Features::open("no-such-dev").and_then(|features| features.read());
        assert_eq!(missing.expect_err("no such device").raw_os_error(), Some(libc::ENODEV));
        let long = Features::open("a-name-of-16-byt");
        assert_eq!(long.expect_err("too long").raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn an_unknown_feature_is_an_error_and_changes_nothing() {
        let features = Features::open("lo").expect("every namespace has lo");
        let refused = features.set(&[("no-such-feature", true)]);
        assert_eq!(refused.expect_err("unknown").raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_device_without_statistics_is_an_error() {
        let none = Statistics::open("lo").expect_err("lo counts nothing for ethtool");
        assert_eq!(none.raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn queues_are_added_up() {
        let names = [
            "tx_queue_0_xdp_xmit",
            "tx_queue_12_xdp_xmit",
            "tx_queue_0_xdp_xmit_errors",
            "rx_queue_0_xdp_xmit",
        ];
        let statistics = names.into_iter().map(str::to_owned).zip([1, 2, 4, 8]).collect();
        assert_eq!(sum_of(&statistics, "tx_queue_", "xdp_xmit"), Some(3));
        assert_eq!(sum_of(&statistics, "tx_queue_", "xdp_xmit_errors"), Some(4));
        assert_eq!(sum_of(&statistics, "tx_queue_", "errors"), None);
    }

    #[test]
    fn numbers_are_put_together_in_the_machines_order() {
        let number = 0x0102_0304_0506_0708_u64;
        let words = if cfg!(target_endian = "little") {
            [0x0506_0708, 0x0102_0304]
        } else {
            [0x0102_0304, 0x0506_0708]
        };
        assert_eq!(number_of(words), number);
    }

    #[test]
    fn names_end_at_the_first_zero() {
        let mut words = [0; STRING_WORDS];
        words[0] = u32::from_ne_bytes(*b"rx-g");
        words[1] = u32::from_ne_bytes(*b"ro\0x");
        assert_eq!(name_of(&words), "rx-gro");
    }
}
