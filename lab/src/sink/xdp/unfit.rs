//! What the xdp sink cannot count, and what to do instead.

use super::checks::MAX_PAYLOAD_BYTES;
use crate::fragments::Fragments;
use crate::topology::{Link, Segmentation};

/// The largest MTU of a veth that takes a program: a frame, and room before and after it, must fit one page. With pages
/// of 4 KiB the kernel allows a few bytes more.
const MAX_MTU: u32 = 3_500;
/// The most datagrams whose bits are kept in the kernel: 128 MiB for each sink, which cannot be swapped out.
const MAX_DATAGRAMS: u64 = 1 << 30;

/// Why the xdp sink cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Datagrams come in parts.
    #[error(
        "payloads of {0} bytes come as fragments, which the xdp sink does not put together: take \"packet\" or \
         \"socket\", or raise link.mtu"
    )]
    Fragments(usize),
    /// The device takes no program.
    #[error(
        "a device with an MTU of {0} takes no program: take \"packet\" or \"socket\", or an MTU up to {MAX_MTU}"
    )]
    Mtu(u32),
    /// Super-frames do not reach a program.
    #[error(
        "segmentation = \"offload\" does not go with the xdp sink, whose program keeps super-frames from the link: \
         take \"packet\" or \"socket\", or segmentation = \"wire\""
    )]
    SuperFrames,
    /// There are no numbers to count by.
    #[error(
        "recorded payloads have no numbers, by which the xdp sink's program counts: take \"packet\" or \"socket\""
    )]
    Recorded,
    /// Too many bits.
    #[error(
        "{0} datagrams are more than the {MAX_DATAGRAMS} that the xdp sink counts in the kernel: take \"packet\" or \
         \"socket\", or shorten the duration"
    )]
    Datagrams(u64),
}

/// Whether the xdp sink can count `datagrams` of `payload_bytes` that come over `link`.
///
/// # Errors
/// Why not.
pub fn fits(link: Link, payload_bytes: usize, datagrams: u64) -> Result<(), Unfit> {
    if link.segmentation == Segmentation::Offload {
        return Err(Unfit::SuperFrames);
    }
    if link.mtu > MAX_MTU || payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(Unfit::Mtu(link.mtu));
    }
    if Fragments::new(link.family, payload_bytes, link.mtu as usize).count() > 1 {
        return Err(Unfit::Fragments(payload_bytes));
    }
    if datagrams > MAX_DATAGRAMS {
        return Err(Unfit::Datagrams(datagrams));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Checksum, Family};

    #[test]
    fn what_does_not_fit_is_named() {
        let link = Link {
            mtu: 1_500,
            segmentation: Segmentation::Wire,
            checksum: Checksum::Wire,
            family: Family::Ipv4,
        };
        assert_eq!(fits(link, 1_472, MAX_DATAGRAMS), Ok(()));
        assert_eq!(fits(link, 1_473, 1), Err(Unfit::Fragments(1_473)));
        assert_eq!(fits(link, 100, MAX_DATAGRAMS + 1), Err(Unfit::Datagrams(MAX_DATAGRAMS + 1)));
        assert_eq!(fits(Link { mtu: 9_000, ..link }, 100, 1), Err(Unfit::Mtu(9_000)));
        let offload = Link { segmentation: Segmentation::Offload, ..link };
        assert_eq!(fits(offload, 100, 1), Err(Unfit::SuperFrames));
        // What passes as a frame has room among the fillers.
        assert!(MAX_PAYLOAD_BYTES > MAX_MTU as usize);
    }
}
