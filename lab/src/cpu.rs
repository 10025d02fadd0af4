//! CPU time from `/proc`: of a subject's processes, and of the whole machine.
//!
//! Ticks lie for work that comes in short bursts, so the subject's time is the scheduler's own nanoseconds
//! (`/proc/<pid>/task/*/schedstat`). Those vanish with their thread; the tick counts of the process do not, and they
//! stand in where a thread ended in between.
//!
//! A subject is all processes of its network namespace, which is its own, beside its process and the descendants of that: one
//! whose parent has ended goes on, and is nobody's descendant any more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use crate::net::NamespaceId;

/// Length of the ticks in `/proc`: `USER_HZ` is 100 on every architecture Linux runs on (include/asm-generic/param.h).
const TICK: Duration = Duration::from_millis(10);
/// How far the tick count may exceed the sum over the threads before a thread must have ended: both are read one
/// after the other, and the kernel brings a running thread's time up to date once per timer tick only.
const TICK_TOLERANCE: u64 = 3;

/// A `/proc` that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {}", path.display())]
pub struct CpuError {
    path: PathBuf,
    source: io::Error,
}

/// Where CPU time is read from.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self(PathBuf::from("/proc"))
    }
}

/// CPU time that the processes of a subject had used at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectTime {
    /// Nanoseconds on a processor, by thread.
    threads: BTreeMap<u32, u64>,
    /// Ticks over all processes, those of ended threads and of children waited for included.
    ticks: u64,
}

/// What a subject used between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectUse {
    /// Time on a processor.
    pub time: Duration,
    /// Whether it comes from ticks because a thread ended in between.
    pub from_ticks: bool,
}

/// Who belongs to a subject.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its first process, its children and theirs.
    pub pid: u32,
    /// And whoever is in this network namespace.
    pub(crate) namespace: Option<NamespaceId>,
}

impl SubjectTime {
    /// Adds what `earlier`, an earlier moment, tells of threads that have ended since.
    pub fn remember(&mut self, earlier: &Self) {
        for (tid, ns) in &earlier.threads {
            let known = self.threads.entry(*tid).or_default();
            *known = (*known).max(*ns);
        }
    }

    /// What was used from `before` to this moment.
    pub fn since(&self, before: &Self) -> SubjectUse {
        let threads = self.threads.iter();
        let used =
            threads.map(|(tid, ns)| ns.saturating_sub(before.threads.get(tid).copied().unwrap_or_default()));
        let time = Duration::from_nanos(used.sum());
        let ticks = self.ticks.saturating_sub(before.ticks);
        let by_ticks = TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
        let from_ticks = by_ticks > time + TICK * TICK_TOLERANCE as u32;
        SubjectUse { time: if from_ticks { by_ticks } else { time }, from_ticks }
    }
}

/// Time of the machine's processors at one moment.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    at: Instant,
    /// Ticks all processors spent idle or waiting for a device.
    idle: u64,
    /// Ticks the hypervisor kept.
    steal: u64,
    cpus: u32,
}

/// What the machine did between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineUse {
    /// Processor time that was used: wall time × processors − idle − waiting for devices − what the hypervisor kept.
    pub busy: Duration,
    /// Share of all processor time that the hypervisor kept, in percent.
    pub steal_percent: f64,
}

impl MachineTime {
    /// What the machine did from `before` to this moment.
    pub fn since(&self, before: &Self) -> MachineUse {
        let all = self.at.saturating_duration_since(before.at) * self.cpus;
        let ticks = |now: u64, then: u64| {
            TICK.saturating_mul(u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX))
        };
        let (idle, steal) = (ticks(self.idle, before.idle), ticks(self.steal, before.steal));
        let steal_percent = if all.is_zero() { 0.0 } else { 100.0 * steal.as_secs_f64() / all.as_secs_f64() };
        MachineUse { busy: all.saturating_sub(idle + steal), steal_percent }
    }
}

impl Proc {
    /// A `/proc` of a test's own.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// CPU time of a subject. A process that is gone counts as nothing.
    pub fn subject(&self, family: Family) -> Result<SubjectTime, CpuError> {
        let mut sum = SubjectTime::default();
        let processes = self.processes()?;
        for member in self.members_of(&processes, family) {
            sum.ticks += processes.get(&member).map_or(0, |stat| stat.ticks);
            self.threads(member, &mut sum.threads);
        }
        Ok(sum)
    }

    /// The processes of a subject. To find them is to read every process of the machine.
    pub(crate) fn members(&self, family: Family) -> Result<Vec<u32>, CpuError> {
        Ok(self.members_of(&self.processes()?, family))
    }

    /// Those of them that do something and have `argument` on their command line: a process that has ended has none.
    pub(crate) fn members_with(&self, family: Family, argument: &str) -> Result<Vec<u32>, CpuError> {
        let has = |pid: &u32| {
            let line = fs::read(self.0.join(format!("{pid}/cmdline"))).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        };
        Ok(self.members(family)?.into_iter().filter(has).collect())
    }

    /// How many descriptors process `pid` has open.
    pub(crate) fn descriptors(&self, pid: u32) -> io::Result<u64> {
        Ok(fs::read_dir(self.0.join(format!("{pid}/fd")))?.count() as u64)
    }

    fn members_of(&self, processes: &BTreeMap<u32, Stat>, Family { pid, namespace }: Family) -> Vec<u32> {
        // The lab goes into the namespace itself now and then.
        let inside = |pid: &u32| {
            let id = NamespaceId::at(&self.0.join(format!("{pid}/ns/net"))).ok();
            *pid != process::id() && namespace.is_some() && id == namespace
        };
        let roots = std::iter::once(pid).chain(processes.keys().copied().filter(inside));
        family(processes, roots)
    }

    /// Where the mappings of process `pid` are told.
    pub(crate) fn smaps(&self, pid: u32) -> PathBuf {
        self.0.join(format!("{pid}/smaps"))
    }

    /// Time of all processors.
    pub fn machine(&self) -> Result<MachineTime, CpuError> {
        let path = self.0.join("stat");
        let text = fs::read_to_string(&path).map_err(|source| CpuError { path, source })?;
        let mut time = MachineTime { at: Instant::now(), idle: 0, steal: 0, cpus: 0 };
        for line in text.lines().filter(|line| line.starts_with("cpu")) {
            let mut fields = line.split_ascii_whitespace();
            // user nice system idle iowait irq softirq steal (proc_stat(5))
            if fields.next() == Some("cpu") {
                let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap_or_default()).collect();
                let field = |i: usize| numbers.get(i).copied().unwrap_or_default();
                (time.idle, time.steal) = (field(3) + field(4), field(7));
            } else {
                time.cpus += 1;
            }
        }
        Ok(time)
    }

    /// Every process there is. Processes come and go while they are read: what is gone is left out.
    fn processes(&self) -> Result<BTreeMap<u32, Stat>, CpuError> {
        let entries = fs::read_dir(&self.0).map_err(|source| CpuError { path: self.0.clone(), source })?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids.filter_map(|pid| Some((pid, self.stat(pid)?))).collect())
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&fs::read_to_string(self.0.join(format!("{pid}/stat"))).ok()?)
    }

    fn threads(&self, pid: u32, threads: &mut BTreeMap<u32, u64>) {
        let Ok(entries) = fs::read_dir(self.0.join(format!("{pid}/task"))) else { return };
        for entry in entries.flatten() {
            let tid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let time = schedstat(&entry.path().join("schedstat"));
            threads.extend(tid.zip(time));
        }
    }
}

/// `roots` and all their descendants among `processes`, each once.
fn family(processes: &BTreeMap<u32, Stat>, roots: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut family: Vec<u32> = Vec::new();
    for root in roots {
        if !family.contains(&root) {
            family.push(root);
        }
    }
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        let children = processes.iter().filter(|(_, stat)| stat.parent == member).map(|(child, _)| *child);
        let new: Vec<_> = children.filter(|child| !family.contains(child)).collect();
        family.extend(new);
        next += 1;
    }
    family
}

/// The parts of `/proc/<pid>/stat` that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// Reads `/proc/<pid>/stat` (`proc_pid_stat(5)`): the name in parentheses may itself hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    // The first field after the name is number 3: state, ppid (4), ..., utime stime cutime cstime (14 to 17).
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = [14, 15, 16, 17].into_iter().map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: u32::try_from(number(4)?).ok()?, ticks })
}

/// The first number of a schedstat file: nanoseconds on a processor (Documentation/scheduler/sched-stats.rst).
fn schedstat(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` of our own making.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn process(&self, pid: u32, parent: u32, ticks: u64, threads: &[(u32, u64)]) {
            let dir = self.0.path().join(pid.to_string());
            let _ = fs::remove_dir_all(&dir);
            let stat = format!("{pid} (a) (b c) S {parent} 0 0 0 0 0 0 0 0 0 {ticks} 0 0 0 20 0\n");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("stat"), stat).unwrap();
            for (tid, ns) in threads {
                let task = dir.join(format!("task/{tid}"));
                fs::create_dir_all(&task).unwrap();
                fs::write(task.join("schedstat"), format!("{ns} 5 7\n")).unwrap();
            }
        }

        fn proc(&self) -> Proc {
            Proc::at(self.0.path())
        }

        /// CPU time of process 10 and its descendants.
        fn time(&self) -> SubjectTime {
            self.proc().subject(Family { pid: 10, namespace: None }).unwrap()
        }

        /// Puts the process into the namespace that the file `namespace` stands for.
        fn put_into(&self, pid: u32, namespace: &str) -> NamespaceId {
            let file = self.0.path().join(namespace);
            fs::OpenOptions::new().create(true).append(true).open(&file).unwrap();
            let dir = self.0.path().join(format!("{pid}/ns"));
            fs::create_dir_all(&dir).unwrap();
            fs::hard_link(&file, dir.join("net")).unwrap();
            NamespaceId::at(&file).unwrap()
        }
    }

    #[test]
    fn whoever_is_in_the_namespace_belongs_to_the_subject_once_its_parent_has_ended_too() {
        let fake = Fake::new();
        // 20 and what it started have outlived 10, which started them; 12 replaces that.
        fake.process(20, 1, 0, &[(20, 400)]);
        fake.process(21, 20, 0, &[(21, 50)]);
        fake.process(12, 1, 0, &[(12, 7)]);
        fake.process(30, 1, 0, &[(30, 9_999)]);
        let namespace = Some(fake.put_into(20, "relay"));
        fake.put_into(12, "relay");
        fake.put_into(30, "other");
        let family = Family { pid: 12, namespace };
        assert_eq!(fake.proc().members(family).unwrap(), [12, 20, 21]);
        fs::write(fake.0.path().join("20/cmdline"), "relay\0worker\0").unwrap();
        fs::write(fake.0.path().join("12/cmdline"), "relay\0supervisor\0--name\0workers\0").unwrap();
        assert_eq!(fake.proc().members_with(family, "worker").unwrap(), [20]);
    }

    #[test]
    fn what_an_ended_process_had_used_is_remembered() {
        let fake = Fake::new();
        fake.process(10, 1, 0, &[(10, 1_000)]);
        fake.process(20, 10, 0, &[(20, 500)]);
        let before = fake.time();
        fake.process(20, 10, 0, &[(20, 2_500)]);
        let seen = fake.time();
        fs::remove_dir_all(fake.0.path().join("20")).unwrap();
        fake.process(10, 1, 0, &[(10, 1_300)]);
        let mut after = fake.time();
        after.remember(&seen);
        let used = after.since(&before);
        assert_eq!(used, SubjectUse { time: Duration::from_nanos(2_000 + 300), from_ticks: false });
    }

    #[test]
    fn a_subject_is_its_process_and_its_descendants() {
        let fake = Fake::new();
        fake.process(10, 1, 0, &[(10, 1_000), (11, 2_000)]);
        fake.process(20, 10, 0, &[(20, 400)]);
        fake.process(21, 20, 0, &[(21, 50)]);
        fake.process(30, 1, 0, &[(30, 9_999)]);
        let before = fake.time();
        fake.process(10, 1, 0, &[(10, 1_500), (11, 2_000), (12, 7)]);
        fake.process(21, 20, 0, &[(21, 80)]);
        let after = fake.time();
        let used = after.since(&before);
        assert_eq!(used, SubjectUse { time: Duration::from_nanos(500 + 7 + 30), from_ticks: false });
    }

    #[test]
    fn a_thread_that_ended_does_not_vanish() {
        let fake = Fake::new();
        fake.process(10, 1, 100, &[(10, 1_000_000), (11, 1_000_000_000)]);
        let before = fake.time();
        // Thread 11 worked for another second and ended.
        fake.process(10, 1, 200, &[(10, 2_000_000)]);
        let used = fake.time().since(&before);
        assert_eq!(used, SubjectUse { time: Duration::from_secs(1), from_ticks: true });
    }

    #[test]
    fn a_child_that_ended_is_in_its_parents_ticks() {
        let fake = Fake::new();
        fake.process(10, 1, 0, &[(10, 0)]);
        fake.process(20, 10, 50, &[(20, 500_000_000)]);
        let before = fake.time();
        fs::remove_dir_all(fake.0.path().join("20")).unwrap();
        fake.process(10, 1, 150, &[(10, 0)]);
        let used = fake.time().since(&before);
        assert_eq!(used, SubjectUse { time: Duration::from_secs(1), from_ticks: true });
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = parse_stat("7 (x) R 3) S 42 7 7 0 -1 0 0 0 0 0 1 2 3 4 20 0 1\n");
        assert_eq!(stat, Some(Stat { parent: 42, ticks: 10 }));
        for hostile in ["", "7 (x", "7 (x) S", "7 (x) S a 7 7 0 -1 0 0 0 0 0 1 2 3 4"] {
            assert_eq!(parse_stat(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn the_machine_is_busy_when_it_is_neither_idle_nor_somebody_elses() {
        let at = Instant::now();
        let before = MachineTime { at, idle: 1_000, steal: 10, cpus: 2 };
        let after = MachineTime { at: at + Duration::from_secs(5), idle: 1_700, steal: 30, cpus: 2 };
        let used = after.since(&before);
        assert_eq!(used.busy, Duration::from_millis(2_800));
        assert!((used.steal_percent - 2.0).abs() < 1e-9);
    }

    #[test]
    fn this_machine_can_be_read() {
        let proc = Proc::default();
        assert!(proc.machine().unwrap().cpus >= 1);
        assert!(!proc.subject(Family { pid: process::id(), namespace: None }).unwrap().threads.is_empty());
    }
}
