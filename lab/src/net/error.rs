//! What can go wrong while a network is built, read or removed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the network layer. The cause, where the kernel gave one, is its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The caller may not create or enter network namespaces.
    #[error("building network namespaces needs root: run with sudo")]
    NeedsRoot,
    /// A name that cannot be that of a file below `/var/run/netns`.
    #[error("{0:?} cannot name a network namespace: use letters, digits and dashes, at most 200 of them")]
    BadName(String),
    /// A namespace of that name is there.
    #[error(
        "create network namespace {0}: it exists already; end the run that uses it, or remove what a dead run \
         left with `lab clean`"
    )]
    Exists(String),
    /// Creating, entering, leaving or removing a namespace failed.
    #[error("{operation} network namespace {namespace}")]
    Namespace {
        /// What was being done: "create", "enter", "leave", "remove".
        operation: &'static str,
        /// The name of the namespace.
        namespace: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A file or folder that the lab needs below `/run` or `/var/run` could not be used.
    #[error("{operation} {}", .path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Somebody held the lock on the folder of namespaces for too long.
    #[error(
        "lock {} for {waited:?}: another program holds it; see who with `lsof {}`", .path.display(), .path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// For how long it was tried.
        waited: Duration,
    },
    /// No free name for a run was found.
    #[error(
        "claim a name for this run: {tried} names in a row were taken; remove what dead runs left with `lab clean`"
    )]
    NoFreeName {
        /// How many were tried.
        tried: u32,
    },
    /// A kernel setting could not be read or written.
    #[error("set {key} = {value:?} in network namespace {namespace}")]
    Sysctl {
        /// The namespace.
        namespace: String,
        /// The setting, as a path below `/proc/sys`.
        key: String,
        /// The value wanted.
        value: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A kernel setting took another value than the one written.
    #[error("set {key} = {wanted:?} in network namespace {namespace}: the kernel made it {found:?}")]
    SysctlRefused {
        /// The namespace.
        namespace: String,
        /// The setting, as a path below `/proc/sys`.
        key: String,
        /// The value written.
        wanted: String,
        /// The value read back.
        found: String,
    },
    /// A netlink request failed.
    #[error("{operation} in network namespace {namespace}")]
    Netlink {
        /// What was asked for, with its object.
        operation: String,
        /// The namespace.
        namespace: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Something the kernel does in its own time did not come about.
    #[error("wait for {what} in network namespace {namespace}: not so after {waited:?}; last seen: {seen}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// The namespace.
        namespace: String,
        /// For how long.
        waited: Duration,
        /// The state at the end.
        seen: String,
    },
    /// Offloads of a device could not be read or switched.
    #[error("{operation} the offloads of {device} in network namespace {namespace}")]
    Offloads {
        /// "read" or "switch".
        operation: &'static str,
        /// The device.
        device: String,
        /// The namespace.
        namespace: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Statistics of a device could not be read.
    #[error("read the statistics of {device} in network namespace {namespace}")]
    Statistics {
        /// The device.
        device: String,
        /// The namespace.
        namespace: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An offload is not as it was asked for.
    #[error(
        "switch {feature} of {device} in network namespace {namespace} {wanted}: this kernel leaves it {found}; \
         {remedy}"
    )]
    OffloadRefused {
        /// The device.
        device: String,
        /// The namespace.
        namespace: String,
        /// The feature as ethtool names it.
        feature: &'static str,
        /// "on" or "off".
        wanted: &'static str,
        /// The other one.
        found: &'static str,
        /// What can be asked for instead.
        remedy: &'static str,
    },
    /// The kernel runs without IPv6.
    #[error("build an IPv6 network: this kernel has no IPv6; use `family = \"ipv4\"`")]
    NoIpv6,
    /// A link that cannot be built.
    #[error("build a network of {family} with an MTU of {mtu} bytes: use {least} to {most}")]
    Mtu {
        /// "IPv4" or "IPv6".
        family: &'static str,
        /// The MTU asked for.
        mtu: u32,
        /// The least the family allows.
        least: u32,
        /// The most a device allows.
        most: u32,
    },
    /// Too few or too many sinks.
    #[error("build a network with {asked} sinks: use 1 to {most}")]
    Sinks {
        /// How many were asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// A process that lives in a namespace to be removed could not be ended.
    #[error("end process {pid}, which is inside a network namespace to be removed")]
    Process {
        /// The id of the process.
        pid: u32,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl NetError {
    /// `error` as it is, or [`NetError::NeedsRoot`] when it says that the caller may not.
    pub(crate) fn or_needs_root(source: io::Error, error: impl FnOnce(io::Error) -> Self) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied { Self::NeedsRoot } else { error(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_privilege_is_one_sentence_with_its_remedy() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let error = NetError::or_needs_root(denied, |source| NetError::Process { pid: 1, source });
        assert_eq!(error.to_string(), "building network namespaces needs root: run with sudo");
    }

    #[test]
    fn an_offload_error_says_what_was_wanted_and_what_is() {
        let error = NetError::OffloadRefused {
            device: "egress0".into(),
            namespace: "lab-00-relay".into(),
            feature: "tx-udp-segmentation",
            wanted: "on",
            found: "off",
            remedy: "use something else",
        };
        assert_eq!(
            error.to_string(),
            "switch tx-udp-segmentation of egress0 in network namespace lab-00-relay on: this kernel leaves it \
             off; use something else"
        );
    }
}
