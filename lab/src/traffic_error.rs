//! What can go wrong between a plan and a report: one error type for generator and sinks, and names for errnos.

use std::io;

/// Why traffic could not be offered or counted.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// A socket could not be made or set up.
    #[error("{operation} on {device}: {source}{}", remedy(source))]
    Socket {
        /// What was tried, e.g. "open packet socket".
        operation: &'static str,
        /// Interface it was tried on.
        device: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The device cannot carry the plan's datagrams, and over IPv6 they are not fragmented.
    #[error(
        "payload of {payload_bytes} bytes makes IPv6 packets of {packet_bytes} bytes, but {device} has an MTU of \
         {mtu}: raise the MTU or shorten the payload (fragments are sent over IPv4 only)"
    )]
    OverMtu {
        /// Interface of the generator.
        device: String,
        /// The plan's payload.
        payload_bytes: usize,
        /// Payload with UDP and IP headers.
        packet_bytes: usize,
        /// What the interface allows.
        mtu: usize,
    },
    /// The XDP generator does not work here.
    #[error("{operation} {object}: {source} ({})", xdp_remedy(source))]
    Xdp {
        /// What was tried, e.g. "attach the program to".
        operation: &'static str,
        /// What it was tried on.
        object: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The measured sequence exists once per generator.
    #[error("the measured datagrams were sent already: open a new generator for a new trial")]
    AlreadyRun,
    /// There is nothing to be replayed.
    #[error("the plan has no recording to be replayed: give it one, or take another generator")]
    NoRecording,
    /// A rate that no schedule can have.
    #[error("warm-up rate of {0} packets per second: give at least 1")]
    Rate(u64),
    /// A group could not be joined.
    #[error(
        "join group {group} on {device}: {source} (raise net.ipv4.igmp_max_memberships or net.core.optmem_max)"
    )]
    Join {
        /// The group.
        group: std::net::IpAddr,
        /// Interface it was joined on.
        device: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No memory for the receive ring, however small.
    #[error("map a receive ring of {bytes} bytes on {device}: {source} (free memory or lower the rate)")]
    Ring {
        /// The smallest ring that was tried.
        bytes: usize,
        /// Interface of the sink.
        device: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The xdp sink cannot count this.
    #[error("open the xdp sink on {device}: {unfit}")]
    Unfit {
        /// Interface of the sink.
        device: String,
        /// Why, and what to do instead.
        unfit: crate::sink::Unfit,
    },
    /// The kernel refuses a BPF program.
    #[error(
        "{operation} on {device}: {} (it needs Linux 6.1, CAP_BPF and CAP_NET_ADMIN; or take another kind)",
        crate::run::error_chain(source.as_ref())
    )]
    Program {
        /// What was tried.
        operation: &'static str,
        /// Interface it is for.
        device: String,
        /// What the kernel or the loader answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The latency histogram could not be made.
    #[error("prepare a histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The thread that counts could not be started.
    #[error("start the reader thread of the sink on {device}: {source}")]
    Thread {
        /// Interface of the sink.
        device: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The thread that counts ended in a panic: a defect of the lab.
    #[error("the reader thread of the sink on {device} panicked: its counts are lost")]
    ReaderPanicked {
        /// Interface of the sink.
        device: String,
    },
}

impl TrafficError {
    /// Names operation and device of a failed socket call; for `map_err`.
    pub(crate) fn socket(operation: &'static str, device: &str) -> impl FnOnce(io::Error) -> Self {
        let device = device.to_owned();
        move |source| Self::Socket { operation, device, source }
    }
}

impl TrafficError {
    /// Names operation and object of what XDP needs and did not get; for `map_err`.
    pub(crate) fn xdp(operation: &'static str, object: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let object = object.to_owned();
        move |source| Self::Xdp { operation, object, source }
    }
}

fn xdp_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "be root outside of user namespaces, or take traffic.generator = \"packet\""
        }
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            "take Linux 5.18 or later with CONFIG_BPF_SYSCALL, or traffic.generator = \"packet\""
        }
        _ => "take traffic.generator = \"packet\"",
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (run as root or with CAP_NET_RAW and CAP_NET_ADMIN)",
        Some(libc::EMFILE) => " (raise the limit of open files: ulimit -n)",
        Some(libc::ENODEV | libc::ENXIO) => " (no such interface in this network namespace)",
        Some(libc::EADDRNOTAVAIL) => " (give the device that address first)",
        Some(libc::EADDRINUSE) => " (another program in this network namespace has the port)",
        _ => "",
    }
}

/// The name of an errno, e.g. `ENOBUFS`; `errno 133` for one without an entry here.
pub fn errno_name(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error() else { return format!("{:?}", error.kind()) };
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOBUFS => "ENOBUFS",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_operation_object_and_remedy() {
        let error =
            TrafficError::socket("open packet socket", "gen0")(io::Error::from_raw_os_error(libc::EPERM));
        let text = error.to_string();
        assert!(text.starts_with("open packet socket on gen0: "), "{text}");
        assert!(text.contains("run as root"), "{text}");
    }

    #[test]
    fn errnos_have_names() {
        assert_eq!(errno_name(&io::Error::from_raw_os_error(libc::ENOBUFS)), "ENOBUFS");
        assert_eq!(errno_name(&io::Error::from_raw_os_error(4095)), "errno 4095");
        assert_eq!(errno_name(&io::Error::other("x")), "Other");
    }
}
