//! What a device leaves to its peer: segmentation and checksums of what is sent through it.

use std::io;

use super::{Namespace, NetError};
use crate::sys::ethtool::Features;

/// Segmentation of `UDP_SEGMENT` super-frames, by ethtool's name (`NETIF_F_GSO_UDP_L4`).
pub(crate) const UDP_SEGMENTATION: &str = "tx-udp-segmentation";
/// Checksums of whatever protocol, by ethtool's name (`NETIF_F_HW_CSUM`); the one a veth has.
pub(crate) const CHECKSUM: &str = "tx-checksum-ip-generic";
/// Generic receive offload, by ethtool's name (`NETIF_F_GRO`); with it a veth receives through NAPI.
pub(crate) const RECEIVE: &str = "rx-gro";

/// How an offload is to be, and what to say when it cannot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The feature by ethtool's name.
    pub(crate) feature: &'static str,
    /// On or off.
    pub(crate) on: bool,
    /// What can be asked for instead.
    pub(crate) remedy: &'static str,
}

/// Switches the offloads of a device in `namespace` and checks that they are so.
///
/// # Errors
/// [`NetError::OffloadRefused`] when the kernel leaves one otherwise, [`NetError::Offloads`] when it cannot be
/// asked.
pub(crate) fn switch(namespace: &Namespace, device: &str, wanted: &[Wanted]) -> Result<(), NetError> {
    let asked: Vec<(&str, bool)> = wanted.iter().map(|wanted| (wanted.feature, wanted.on)).collect();
    let set = namespace.run(|| Features::open(device)?.set(&asked))?;
    set.map_err(|source| offloads_error("switch", namespace, device, source))?;
    verify(namespace, device, wanted)
}

/// Checks that the offloads of a device are as wanted.
pub(crate) fn verify(namespace: &Namespace, device: &str, wanted: &[Wanted]) -> Result<(), NetError> {
    for wanted in wanted {
        if is_active(namespace, device, wanted.feature)? != wanted.on {
            return Err(NetError::OffloadRefused {
                device: device.to_owned(),
                namespace: namespace.name().to_owned(),
                feature: wanted.feature,
                wanted: if wanted.on { "on" } else { "off" },
                found: if wanted.on { "off" } else { "on" },
                remedy: wanted.remedy,
            });
        }
    }
    Ok(())
}

/// Whether a feature of a device is on. One that this kernel does not know is off.
pub(crate) fn is_active(namespace: &Namespace, device: &str, feature: &str) -> Result<bool, NetError> {
    let features = namespace.run(|| Features::open(device)?.read())?;
    let features = features.map_err(|source| offloads_error("read", namespace, device, source))?;
    Ok(features.get(feature).is_some_and(|feature| feature.active))
}

fn offloads_error(
    operation: &'static str,
    namespace: &Namespace,
    device: &str,
    source: io::Error,
) -> NetError {
    NetError::Offloads {
        operation,
        device: device.to_owned(),
        namespace: namespace.name().to_owned(),
        source,
    }
}
