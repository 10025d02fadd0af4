//! The UDP counters of a network namespace: `/proc/thread-self/net/snmp` (IPv4) and `snmp6`.

use std::io;

/// What the IP stack did with UDP so far, in the calling thread's network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UdpCounters {
    /// Every drop on the way into a socket; includes the next three.
    pub(super) errors: u64,
    /// The socket's buffer was full.
    pub(super) buffer: u64,
    /// Wrong checksum.
    pub(super) checksum: u64,
    /// The memory limit for all of UDP was reached.
    pub(super) memory: u64,
    /// Nobody listens at that port.
    pub(super) no_port: u64,
    /// Multicast that no socket wanted.
    pub(super) ignored: u64,
}

impl UdpCounters {
    pub(super) fn read(ipv6: bool) -> io::Result<Self> {
        if ipv6 {
            Ok(Self::parse_ipv6(&std::fs::read_to_string("/proc/thread-self/net/snmp6")?))
        } else {
            Ok(Self::parse_ipv4(&std::fs::read_to_string("/proc/thread-self/net/snmp")?))
        }
    }

    /// A line of names and a line of numbers, both beginning with "Udp:".
    fn parse_ipv4(text: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
        let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut counters = Self::default();
        for (name, number) in names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace()) {
            counters.set(name, number);
        }
        counters
    }

    /// A name beginning with "Udp6" and a number per line.
    fn parse_ipv6(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("Udp6")) {
            if let Some((name, number)) = line.split_once(char::is_whitespace) {
                counters.set(name, number.trim());
            }
        }
        counters
    }

    fn set(&mut self, name: &str, number: &str) {
        let field = match name {
            "InErrors" => &mut self.errors,
            "RcvbufErrors" => &mut self.buffer,
            "InCsumErrors" => &mut self.checksum,
            "MemErrors" => &mut self.memory,
            "NoPorts" => &mut self.no_port,
            "IgnoredMulti" => &mut self.ignored,
            _ => return,
        };
        *field = number.parse().unwrap_or(0);
    }

    /// What reached the IP stack and nobody took.
    pub(super) fn unclaimed(&self) -> u64 {
        self.no_port + self.ignored
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            errors: self.errors.saturating_sub(before.errors),
            buffer: self.buffer.saturating_sub(before.buffer),
            checksum: self.checksum.saturating_sub(before.checksum),
            memory: self.memory.saturating_sub(before.memory),
            no_port: self.no_port.saturating_sub(before.no_port),
            ignored: self.ignored.saturating_sub(before.ignored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let four = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
            Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
            Udp: 100 1 9 3 4 5 2 7 3\n\
            UdpLite: InDatagrams NoPorts\nUdpLite: 0 0\n";
        let six = "Ip6InReceives   5\nUdp6InDatagrams  100\nUdp6NoPorts  1\nUdp6InErrors  9\n\
            Udp6RcvbufErrors  4\nUdp6InCsumErrors\t2\nUdp6IgnoredMulti  7\nUdp6MemErrors 3\nUdpLite6NoPorts 99\n";
        let expected = UdpCounters { errors: 9, buffer: 4, checksum: 2, memory: 3, no_port: 1, ignored: 7 };
        assert_eq!(UdpCounters::parse_ipv4(four), expected);
        assert_eq!(UdpCounters::parse_ipv6(six), expected);
        assert_eq!(UdpCounters::parse_ipv4("nonsense"), UdpCounters::default());
    }

    #[test]
    fn the_running_kernels_counters_are_there() {
        UdpCounters::read(false).unwrap();
    }

    #[test]
    fn differences_do_not_underflow() {
        let before = UdpCounters { errors: 5, ..UdpCounters::default() };
        let after = UdpCounters { errors: 3, buffer: 2, ..UdpCounters::default() };
        assert_eq!(after.since(&before), UdpCounters { buffer: 2, ..UdpCounters::default() });
    }
}
