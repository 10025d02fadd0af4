//! Where and how the calling thread runs: CPUs, precision of its sleep, CPU time used.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::Duration;

/// The CPUs the calling thread may run on, ascending.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: pid 0 is the calling thread; pointer and size describe `set`, which is ours.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before the kernel wrote to it, and a bit mask takes every bit pattern.
    let set = unsafe { set.assume_init() };
    // SAFETY: `CPU_ISSET` indexes the set's own array; the range stays below its number of bits.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Lets the calling thread, and threads and processes it starts later, run on `cpus` only.
///
/// # Errors
/// `EINVAL` when none of them exists or is allowed.
pub fn pin_current_thread(cpus: &[usize]) -> io::Result<()> {
    let set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: a bit mask of zeros is the empty set.
    let mut set = unsafe { set.assume_init() };
    for cpu in cpus.iter().copied().filter(|cpu| *cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: `cpu` is below the number of bits of the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: pid 0 is the calling thread; pointer and size describe `set`, which the kernel only reads.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// While it lives, the calling thread's sleeps end as precisely as the kernel can: `prctl(PR_SET_TIMERSLACK)`.
#[derive(Debug)]
pub struct PreciseSleep {
    before: Option<libc::c_ulong>,
    /// Timer slack belongs to the thread that asked for it.
    not_send: PhantomData<*const ()>,
}

impl PreciseSleep {
    /// Asks for it; where that is refused, sleeping stays as coarse as it was.
    #[must_use]
    pub fn begin() -> Self {
        // SAFETY: PR_GET_TIMERSLACK takes no pointer and returns the slack in ns or -1.
        let before = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        let before = libc::c_ulong::try_from(before).ok().filter(|_| set_timer_slack(1));
        Self { before, not_send: PhantomData }
    }
}

impl Drop for PreciseSleep {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            set_timer_slack(before);
        }
    }
}

fn set_timer_slack(nanoseconds: libc::c_ulong) -> bool {
    // SAFETY: PR_SET_TIMERSLACK takes one number and no pointer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) == 0 }
}

/// CPU time the calling thread has used, to the ns, as the scheduler accounts it; `None` where the kernel does not.
pub fn thread_cpu_time() -> Option<Duration> {
    // Tick accounting misses short bursts by orders of magnitude; the first field here is exact.
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    schedstat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_to_one_allowed_cpu_leaves_that_one() {
        std::thread::spawn(|| {
            let cpu = *allowed_cpus().unwrap().last().unwrap();
            pin_current_thread(&[cpu]).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn pinning_to_nothing_is_an_error_and_changes_nothing() {
        let before = allowed_cpus().unwrap();
        assert_eq!(pin_current_thread(&[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(allowed_cpus().unwrap(), before);
    }

    #[test]
    fn precise_sleep_is_undone() {
        // SAFETY: PR_GET_TIMERSLACK takes no pointer.
        let slack = || unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        let before = slack();
        let precise = PreciseSleep::begin();
        assert_eq!(slack(), 1);
        drop(precise);
        assert_eq!(slack(), before);
    }
}
