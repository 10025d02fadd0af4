//! Which CPUs a thread may run on (`sched_setaffinity(2)`).

use std::io;
use std::mem::size_of;

/// The CPUs the calling thread may run on, in ascending order.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = empty();
    // SAFETY: pointer and size are those of `set`; thread 0 is the caller.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = size_of::<libc::cpu_set_t>() * 8;
    // SAFETY: `cpu` is below the number of bits in the set.
    Ok((0..count).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Binds the calling thread to one CPU.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= size_of::<libc::cpu_set_t>() * 8 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = empty();
    // SAFETY: `cpu` is below the number of bits in the set, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: pointer and size are those of `set`; thread 0 is the caller.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: a `cpu_set_t` is an array of integers; zero is the empty set.
    unsafe { std::mem::zeroed() }
}
