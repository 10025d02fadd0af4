//! What a kernel has by its version.

use super::found;
use crate::doctor::{Finding, Level};

/// Major and minor version of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32);

impl Release {
    /// What `uname -r` begins with.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Something that older kernels lack.
struct Lack {
    /// The first release that has it.
    since: Release,
    level: Level,
    what: &'static str,
    why: &'static str,
    remedy: &'static str,
}

/// By the kernel's history; a distribution may have brought something to an older one.
const LACKS: [Lack; 7] = [
    Lack {
        since: Release(5, 6),
        level: Level::Problem,
        what: "has no io_uring that the relay can use (5.6)",
        why: "the relay sends and receives through it",
        remedy: "uname -r; install a newer kernel",
    },
    Lack {
        since: Release(5, 8),
        level: Level::Note,
        what: "has no CAP_BPF (5.8)",
        why: "the rule filter and --consume take CAP_SYS_ADMIN there",
        remedy: "in the service: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_SYS_ADMIN",
    },
    Lack {
        since: Release(6, 0),
        level: Level::Note,
        what: "has no multishot receive (6.0)",
        why: "the recv path takes more CPU time; the rings are not concerned",
        remedy: "multicast_relay supervisor --rx mmap …",
    },
    Lack {
        since: Release(6, 2),
        level: Level::Warning,
        what: "cannot describe coalesced UDP to the relay (6.2)",
        why: "trains from virtual machines, from programs of this host or by UDP GRO are dropped as `coalesced`, and one of \
              them stops a version 2 ring for good",
        remedy: "multicast_relay supervisor --ring-version 3 …",
    },
    Lack {
        since: Release(6, 6),
        level: Level::Note,
        what: "has no BPF links at an ingress (tcx, 6.6)",
        why: "--consume does not work, so the IP stack gets what is relayed, too",
        remedy: "run without --consume",
    },
    Lack {
        since: Release(6, 13),
        level: Level::Note,
        what: "lets no socket of an interface that is down join a fanout group (6.13)",
        why: "several workers need every input interface up when the relay starts",
        remedy: "multicast_relay supervisor --num-workers 1 …",
    },
    Lack {
        since: Release(6, 18),
        level: Level::Note,
        what: "hands over blocks of a version 3 ring by a coarse clock (6.18)",
        why: "latency of the profile throughput is by steps of 1 to 10 ms instead of 1 ms; the profile latency is not \
              concerned",
        remedy: "multicast_relay supervisor --profile latency …",
    },
];

/// What the kernel of this release lacks.
pub(super) fn findings(text: &str) -> Vec<Finding> {
    let Some(release) = Release::of(text) else {
        return vec![found(Level::Note, format!("the kernel's release is not known: {text:?}"))];
    };
    let lacks = LACKS.iter().filter(|lack| release < lack.since);
    let findings: Vec<_> = lacks
        .map(|lack| {
            found(lack.level, format!("Linux {text} {}", lack.what)).because(lack.why).mended_by(lack.remedy)
        })
        .collect();
    if findings.is_empty() {
        return vec![found(Level::Ok, format!("Linux {text} has everything that the relay uses"))];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_kinds() {
        assert_eq!(Release::of("6.18.44-fc-v595"), Some(Release(6, 18)));
        assert_eq!(Release::of("5.6"), Some(Release(5, 6)));
        assert_eq!(Release::of("7.0-rc1"), Some(Release(7, 0)));
        assert_eq!([Release::of(""), Release::of("six")], [None, None]);
    }

    #[test]
    fn each_release_lacks_what_came_later() {
        let count = |text| findings(text).into_iter().filter(|finding| finding.level > Level::Ok).count();
        assert_eq!(["5.4.0", "5.15.0-91-generic", "6.1.0", "6.8.0", "6.18.1"].map(count), [7, 5, 4, 2, 0]);
        assert_eq!(findings("5.4").iter().map(|finding| finding.level).max(), Some(Level::Problem));
        assert_eq!(findings("6.1").iter().map(|finding| finding.level).max(), Some(Level::Warning));
        assert_eq!(findings("6.18")[0].level, Level::Ok);
        assert_eq!(findings("odd")[0].level, Level::Note);
    }
}
