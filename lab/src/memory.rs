//! Memory of a subject: what its processes have in RAM, from `/proc/<pid>/smaps` (`proc_pid_smaps(5)`).
//!
//! A packet ring is a mapping of its socket. How large it is, is a setting, and the kernel allocates all of it at once: so
//! it is told apart. Everything else counts: heap, stacks, code, and also the queues that a process shares with the kernel
//! by `io_uring`, which are as large as the program asks for. A page that several processes share counts in each.
//!
//! Beside it stands how many descriptors they have open.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cpu::{Family, Proc};

/// How often a running subject is looked at. To tell the pages of a ring of 64 MiB takes the kernel some two
/// milliseconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a subject had in RAM over a trial, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Memory {
    /// When the measured time began, outside packet rings.
    pub begin: u64,
    /// The most, likewise, of what was seen once a second.
    pub most: u64,
    /// When all was quiet again, likewise.
    pub end: u64,
    /// The most in packet rings.
    pub ring: u64,
    /// Open descriptors, likewise when the measured time began ...
    #[serde(default)]
    pub descriptors_begin: u64,
    /// ... and when all was quiet again.
    #[serde(default)]
    pub descriptors_end: u64,
}

impl Memory {
    /// What `samples`, in the order of time, come to; `None` without any.
    fn of(samples: &[Sample]) -> Option<Self> {
        let (first, last) = (samples.first()?, samples.last()?);
        let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or_default();
        Some(Self {
            begin: first.bytes,
            most: most(|one| one.bytes),
            end: last.bytes,
            ring: most(|one| one.ring),
            descriptors_begin: first.descriptors,
            descriptors_end: last.descriptors,
        })
    }

    /// How much more there was in the end than at the begin.
    pub fn growth(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// How many more descriptors were open in the end than at the begin.
    pub fn descriptor_growth(&self) -> u64 {
        self.descriptors_end.saturating_sub(self.descriptors_begin)
    }
}

/// What the subject's processes had at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Sample {
    /// Milliseconds since the measured time began.
    pub at_ms: u64,
    /// Bytes in RAM outside packet rings.
    pub bytes: u64,
    /// Bytes in packet rings.
    pub ring: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// How many processes there were.
    pub processes: u64,
}

/// What a subject may have in RAM outside packet rings, in bytes, and of descriptors; `None` for anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct MemoryLimits {
    /// At any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// More in the end than at the begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<u64>,
    /// Open descriptors more in the end than at the begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
}

impl MemoryLimits {
    /// Whether anything will do.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Which of them `memory` exceeds, in words.
    pub fn missed(&self, memory: &Memory) -> Vec<String> {
        let kib = |bytes: u64| bytes >> 10;
        let over = |limit: Option<u64>, bytes| limit.filter(|limit| bytes > *limit);
        let most = over(self.most, memory.most).map(|limit| {
            let (most, limit) = (kib(memory.most), kib(limit));
            format!("memory of up to {most} KiB outside packet rings, expected at most {limit}")
        });
        let growth = over(self.growth, memory.growth()).map(|limit| {
            let (growth, limit) = (kib(memory.growth()), kib(limit));
            format!("memory grew by {growth} KiB, expected at most {limit}")
        });
        let descriptors = over(self.descriptors, memory.descriptor_growth()).map(|limit| {
            let growth = memory.descriptor_growth();
            format!("{growth} descriptors more were open in the end, expected at most {limit}")
        });
        most.into_iter().chain(growth).chain(descriptors).collect()
    }
}

/// Looks at the memory of a subject while a trial lasts.
#[derive(Debug)]
pub struct MemoryWatch {
    proc: Proc,
    /// `None` of a wire.
    family: Option<Family>,
    /// Those of its processes that were there at the begin. In between only they are read, unless some come and go: to look
    /// for others is to read every process of the machine.
    members: Vec<u32>,
    comes_and_goes: bool,
    samples: Vec<Sample>,
    /// Once something could not be read, nothing can be told.
    unreadable: bool,
    begin: Instant,
    next: Instant,
}

impl MemoryWatch {
    /// Looks at the processes of `family` for the first time. `comes_and_goes`: some may end, and others begin.
    pub fn begin(family: Option<Family>, comes_and_goes: bool) -> Self {
        Self::begin_in(Proc::default(), family, comes_and_goes)
    }

    fn begin_in(proc: Proc, family: Option<Family>, comes_and_goes: bool) -> Self {
        let begin = Instant::now();
        let mut watch = Self {
            proc,
            family,
            members: Vec::new(),
            comes_and_goes,
            samples: Vec::new(),
            unreadable: false,
            begin,
            next: begin + INTERVAL,
        };
        watch.look_at_all();
        watch
    }

    /// Looks if it is time to.
    pub fn look(&mut self) {
        if Instant::now() >= self.next {
            self.next += INTERVAL;
            if self.comes_and_goes { self.look_at_all() } else { self.sample() }
        }
    }

    /// Looks for the last time.
    pub fn end(&mut self) {
        self.look_at_all();
    }

    /// What was seen; `None` of a wire, or when something could not be read.
    pub fn memory(&self) -> Option<Memory> {
        if self.unreadable { None } else { Memory::of(&self.samples) }
    }

    /// All that was seen, in the order of time.
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }

    fn look_at_all(&mut self) {
        let Some(family) = self.family else { return };
        match self.proc.members(family) {
            Ok(members) => self.members = members,
            Err(_) => self.unreadable = true,
        }
        self.sample();
    }

    fn sample(&mut self) {
        if self.family.is_none() {
            return;
        }
        let mut sample = Sample { at_ms: self.begin.elapsed().as_millis() as u64, ..Sample::default() };
        for &member in &self.members {
            let smaps = fs::read_to_string(self.proc.smaps(member));
            match smaps.and_then(|smaps| Ok((Resident::parse(&smaps), self.proc.descriptors(member)?))) {
                Ok((resident, descriptors)) => {
                    sample.bytes = sample.bytes.saturating_add(resident.bytes);
                    sample.ring = sample.ring.saturating_add(resident.ring);
                    sample.descriptors += descriptors;
                    sample.processes += 1;
                }
                Err(error) if is_gone(&error) => {}
                Err(_) => self.unreadable = true,
            }
        }
        self.samples.push(sample);
    }
}

/// Whether a process has ended: before its file was opened, or while it was read.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// What is in RAM at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resident {
    /// Outside packet rings.
    bytes: u64,
    /// In packet rings.
    ring: u64,
}

impl Resident {
    /// Sums up a smaps file. For each mapping it has a line `begin-end permissions offset device inode name`, and then
    /// lines `key: value`.
    fn parse(smaps: &str) -> Self {
        let mut sum = Self::default();
        let mut is_ring = false;
        for line in smaps.lines() {
            let mut fields = line.split_ascii_whitespace();
            match fields.next() {
                Some("Rss:") => {
                    let kib: u64 = fields.next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
                    let part = if is_ring { &mut sum.ring } else { &mut sum.bytes };
                    *part = part.saturating_add(kib.saturating_mul(1 << 10));
                }
                // A file's name would begin with a slash.
                Some(key) if !key.ends_with(':') => {
                    is_ring = fields.nth(4).is_some_and(|name| name.starts_with("socket:["));
                }
                _ => {}
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "\
55d0a0e00000-55d0a0f10000 r-xp 00086000 fe:00 1190                       /opt/a relay/socket:[7]
Size:               1088 kB
KernelPageSize:        4 kB
Rss:                1000 kB
Pss:                1000 kB
Pss_Dirty:             0 kB
VmFlags: rd ex mr mw me sd
55d0c1b5d000-55d0c1d97000 rw-p 00000000 00:00 0                          [heap]
Rss:                 200 kB
7fafbdc86000-7fafbdc97000 rw-s 00000000 00:10 248368                     anon_inode:[io_uring]
Rss:                  30 kB
7fafbdea0000-7fafc1ea0000 rw-s 00000000 00:09 248366                     socket:[248366]
Size:              65536 kB
Rss:               65536 kB
Pss:               65536 kB
7fafc1ea0000-7fafc20a0000 rw-p 00000000 00:00 0 
Rss:                   4 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   0 kB
";

    #[test]
    fn a_ring_is_told_apart_and_everything_else_counts() {
        let seen = Resident::parse(RELAY);
        assert_eq!(seen, Resident { bytes: (1_000 + 200 + 30 + 4) << 10, ring: 64 << 20 });
        let none = ["", "Rss:", "Rss: x kB", "\n\n", "7f-8f rw-p", "Rss: 99999999999999999999 kB"];
        assert!(none.iter().all(|text| Resident::parse(text) == Resident::default()));
        assert_eq!(Resident::parse("Rss: 18446744073709551615 kB\nRss: 1 kB\n").bytes, u64::MAX);
    }

    #[test]
    fn a_trial_has_a_begin_a_most_and_an_end() {
        let seen = |bytes, ring| Sample { bytes, ring, descriptors: bytes + 1, ..Sample::default() };
        assert_eq!(Memory::of(&[]), None);
        let memory = Memory::of(&[seen(5, 1), seen(9, 8), seen(7, 2)]).unwrap();
        let (descriptors_begin, descriptors_end) = (6, 8);
        let expected = Memory { begin: 5, most: 9, end: 7, ring: 8, descriptors_begin, descriptors_end };
        assert_eq!(memory, expected);
        assert_eq!((memory.growth(), memory.descriptor_growth()), (2, 2));
        let limits = |descriptors| MemoryLimits { descriptors: Some(descriptors), ..MemoryLimits::default() };
        assert!(limits(2).missed(&memory).is_empty());
        let missed = limits(1).missed(&memory);
        assert_eq!(missed, ["2 descriptors more were open in the end, expected at most 1"]);
        let shrunk = Memory::of(&[seen(5, 1), seen(4, 1)]).unwrap();
        assert_eq!((shrunk.growth(), shrunk.descriptor_growth()), (0, 0));
    }

    const FAMILY: Option<Family> = Some(Family { pid: 10, namespace: None });

    #[test]
    fn who_comes_meanwhile_is_seen_where_some_do() {
        for (comes_and_goes, processes) in [(true, [1, 2]), (false, [1, 1])] {
            let (dir, proc) = proc(&[(10, 1, RELAY), (20, 1, "Rss: 8 kB\n")]);
            let mut watch = MemoryWatch::begin_in(proc, FAMILY, comes_and_goes);
            let stat = fs::read_to_string(dir.path().join("20/stat")).unwrap();
            fs::write(dir.path().join("20/stat"), stat.replace("S 1 ", "S 10 ")).unwrap();
            watch.next = Instant::now();
            watch.look();
            assert_eq!(watch.samples.iter().map(|sample| sample.processes).collect::<Vec<_>>(), processes);
        }
    }

    /// A `/proc` with these processes, of the parent and the smaps given.
    fn proc(processes: &[(u32, u32, &str)]) -> (tempfile::TempDir, Proc) {
        let dir = tempfile::tempdir().unwrap();
        for (pid, parent, smaps) in processes {
            let path = dir.path().join(pid.to_string());
            fs::create_dir_all(path.join("fd")).unwrap();
            (0..*pid).for_each(|fd| fs::write(path.join(format!("fd/{fd}")), "").unwrap());
            fs::write(path.join("stat"), format!("{pid} (x) S {parent} 0 0 0 0 0 0 0 0 0 0 0 0 0 20 0\n"))
                .unwrap();
            fs::write(path.join("smaps"), smaps).unwrap();
        }
        let proc = Proc::at(dir.path());
        (dir, proc)
    }

    #[test]
    fn a_subject_is_its_process_and_its_descendants() {
        let (dir, proc) = proc(&[(10, 1, RELAY), (20, 10, "Rss: 8 kB\n"), (30, 1, "Rss: 500 kB\n")]);
        let mut watch = MemoryWatch::begin_in(proc, FAMILY, false);
        fs::write(dir.path().join("20/smaps"), "Rss: 16 kB\n").unwrap();
        watch.look();
        assert_eq!(watch.samples.len(), 1, "it is not time yet");
        watch.next = Instant::now();
        watch.look();
        fs::remove_dir_all(dir.path().join("20")).unwrap();
        watch.end();
        let kib = |kib: u64| (1_234 + kib) << 10;
        let (descriptors_begin, descriptors_end) = (30, 10);
        let expected = Memory {
            begin: kib(8),
            most: kib(16),
            end: kib(0),
            ring: 64 << 20,
            descriptors_begin,
            descriptors_end,
        };
        assert_eq!(watch.memory(), Some(expected));
        assert_eq!(watch.into_samples().iter().map(|sample| sample.processes).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        let (dir, proc) = proc(&[(10, 1, RELAY)]);
        fs::remove_file(dir.path().join("10/smaps")).unwrap();
        fs::create_dir(dir.path().join("10/smaps")).unwrap();
        let mut watch = MemoryWatch::begin_in(proc.clone(), FAMILY, false);
        watch.end();
        assert_eq!(watch.memory(), None);
        assert_eq!(MemoryWatch::begin_in(proc, None, false).memory(), None, "a wire has none");
    }

    #[test]
    fn this_process_can_be_read() {
        let kept = vec![1_u8; 8 << 20];
        let memory = MemoryWatch::begin(Some(Family { pid: std::process::id(), namespace: None }), false)
            .memory()
            .unwrap();
        assert!(memory.begin >= 8 << 20, "{memory:?} with {} bytes", kept.len());
    }
}
