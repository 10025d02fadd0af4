//! Messages that somebody could send who wishes the supervisor ill, or whose program is broken: for tests, from a seed.
//!
//! ```sh
//! HOSTILE_MESSAGES=10000000 HOSTILE_SEED=7 cargo test --release --lib hostile -- --nocapture
//! ```

use super::RefusalKind;

/// What well-formed messages look like; all others are made from them.
const SEEDS: [&str; 17] = [
    r#"{"version":1,"command":"ping"}"#,
    r#"{"version":1,"command":"list"}"#,
    r#"{"version":1,"command":"stats"}"#,
    r#"{"version":1,"command":"workers"}"#,
    r#"{"version":1,"command":"reload"}"#,
    r#"{"version":2,"command":{"drain":{"worker":3}}}"#,
    r#"{"version":1,"command":{"log-level":{"level":"debug"}}}"#,
    r#"{"version":1,"command":{"remove":{"rules":[{"name":"video"},{"input":{"interface":"eth0","group":"239.1.1.1","port":5000,"source":"10.0.0.9"}}]}}}"#,
    r#"{"version":1,"command":{"add":{"rules":[{"input":{"interface":"eth0","group":"239.1.1.1","port":5000},"outputs":[{"group":"239.2.2.2","port":6000,"interface":"eth1","ttl":8}]}]}}}"#,
    r#"{"version":1,"command":{"add":{"rules":[{"name":"a\u0000\u001b[2J\ud83d\ude00","input":{"interface":"br0.5","group":"ff15::1","port":1,"source":"fd00::9"},"outputs":[{"group":"10.0.0.1","port":65535,"interface":"wg0"},{"group":"ff15::2","port":6000,"interface":"eth1"}]}]}}}"#,
    r#"{"version":1,"command":{"add":{"rules":[{"input":{"interface":"eth0","group":"239.1.0.0/20","port":"5000-5009"},"outputs":[{"group":"239.2.0.0/20","port":"6000-6009","interface":"eth1"},{"group":"ff15::2:0/116","port":7000,"interface":"eth1"}]}]}}}"#,
    r#"{"version":1,"answer":{"pong":{"pid":1,"version":"0.1.0","uptime-ms":5}}}"#,
    r#"{"version":1,"answer":{"added":{"names":["a","b"]}}}"#,
    r#"{"version":1,"answer":{"rules":[{"rule":{"input":{"interface":"eth0","group":"239.1.1.1","port":5000},"outputs":[]},"state":"waiting","reasons":["x"],"outputs":[]}]}}"#,
    r#"{"version":1,"answer":{"stats":{"at-ms":1,"uptime-ms":2,"interval-ms":3,"stats":{"rx":"recv","workers":[],"received":1,"matched":1,"dropped":{"no_rule":0},"relayed":1,"inputs":[],"rules":[]},"rates":[{"matched-pps":1.5,"matched-bps":1e9,"outputs":[]}]}}}"#,
    r#"{"version":1,"answer":{"workers":[{"number":0,"state":"failed","uptime-ms":1,"restarts":2,"received":3,"cpu-ns":4}]}}"#,
    r#"{"version":1,"refusal":{"kind":"conflict","message":"no"}}"#,
];

/// Pieces of JSON and of its enemies.
const PIECES: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"0.1",
    b"\"\"",
    b"\"\\ud800\"",
    b"\\u0000",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[[",
    b"{\"a\":",
    b",",
    b":",
    b"\"",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\n",
    b"\r\n",
    b"\0",
    b"\"version\":2,",
];

/// A generator of messages; equal seeds make equal messages.
pub(crate) struct Hostile(u64);

impl Hostile {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// The next message; it may hold line ends, and is seldom longer than `longest`.
    pub(crate) fn message(&mut self, longest: usize) -> Vec<u8> {
        let mut message = SEEDS[self.below(SEEDS.len())].as_bytes().to_vec();
        match self.below(1_000) {
            0..150 => {}
            150..800 => (0..=self.below(4)).for_each(|_| self.mutate(&mut message)),
            800..900 => message.truncate(self.below(message.len() + 1)),
            900..960 => message = (0..self.below(300)).map(|_| self.next() as u8).collect(),
            960..996 => {
                let depth = self.below(2_000);
                let piece: &[u8] = if self.below(2) == 0 { b"[" } else { b"{\"version\":" };
                let at = self.below(message.len());
                message.splice(at..at, piece.repeat(depth));
            }
            996..999 => {
                let length = self.below(longest);
                let at = self.below(message.len());
                message.splice(at..at, vec![b'a'; length]);
            }
            _ => message = vec![b' '; longest + 1 + self.below(longest)],
        }
        message
    }

    fn mutate(&mut self, message: &mut Vec<u8>) {
        if message.is_empty() {
            return;
        }
        let at = self.below(message.len());
        let until = at + self.below(message.len() - at).min(40);
        match self.below(7) {
            0 => message[at] ^= 1 << self.below(8),
            1 => message[at] = self.next() as u8,
            2 => drop(message.drain(at..until)),
            3 => {
                let piece = message[at..until].to_vec();
                let to = self.below(message.len());
                message.splice(to..to, piece);
            }
            4 => {
                let other = SEEDS[self.below(SEEDS.len())].as_bytes();
                let from = self.below(other.len());
                let to = (from + self.below(60)).min(other.len());
                message.splice(at..until, other[from..to].iter().copied());
            }
            _ => drop(message.splice(at..until, PIECES[self.below(PIECES.len())].iter().copied())),
        }
    }
}

/// How many messages a test takes: `HOSTILE_MESSAGES`, or enough to notice what is often wrong.
pub(crate) fn messages() -> usize {
    variable("HOSTILE_MESSAGES").unwrap_or(50_000) as usize
}

/// From which seed on: `HOSTILE_SEED`, or the same every time.
pub(crate) fn seed() -> u64 {
    variable("HOSTILE_SEED").unwrap_or(1)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A refusal of what is no request: short, and fit to be shown, whatever it quotes.
pub(crate) fn check_refusal(refusal: &super::Refusal) {
    assert_eq!(refusal.kind, RefusalKind::BadRequest);
    assert!(refusal.message.len() < 600, "{refusal}");
    assert!(!refusal.message.chars().any(char::is_control), "{refusal:?}");
}
