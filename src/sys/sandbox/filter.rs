//! The system calls of a worker that relays, and the filter that kills it for any other (seccomp(2)).
//!
//! The C libraries glibc and musl, standard library and crates make different calls for the same thing, as do debug and
//! release builds; the table has those of all. It has none that opens, names, makes or starts anything, and none that
//! gives back what was given up.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Reason;

/// What an argument must be. The kernel takes all that are looked at as 32 bits wide.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// This.
    Is(u8, libc::c_int),
    /// Without any of these bits.
    Lacks(u8, libc::c_int),
    /// The number of this process.
    IsSelf(u8),
}
use Check::{Is, IsSelf, Lacks};

/// Cases of which one must apply; a case applies when all its checks do. Without cases a call is allowed as it is.
type Cases = &'static [&'static [Check]];

const ALWAYS: Cases = &[];
/// Memory that holds code is neither mapped nor made.
const NO_CODE: Cases = &[&[Lacks(2, libc::PROT_EXEC)]];
/// For the log. Nothing else is written but through the ring.
const TO_STDERR: Cases = &[&[Is(0, libc::STDERR_FILENO)]];

#[rustfmt::skip]
const ALLOWED: &[(libc::c_long, Cases)] = &[
    // Relaying: all receives, sends and waits. No argument is checked, so that the kernel need not run the filter to
    // know the answer (since Linux 5.11).
    (libc::SYS_io_uring_enter, ALWAYS),
    // A frame that is too large for its slot in a ring waits in the socket's receive buffer.
    (libc::SYS_recvfrom, ALWAYS),
    // Which error ended a poll; who the supervisor is.
    (libc::SYS_getsockopt, &[
        &[Is(1, libc::SOL_SOCKET), Is(2, libc::SO_ERROR)],
        &[Is(1, libc::SOL_SOCKET), Is(2, libc::SO_PEERCRED)],
    ]),
    // A filter that lets nothing pass ends capture.
    (libc::SYS_setsockopt, &[&[Is(1, libc::SOL_SOCKET), Is(2, libc::SO_ATTACH_FILTER)]]),
    // Draining: is something left in a socket? Pauses between looks, in newer and older standard libraries.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, ALWAYS),
    (libc::SYS_ppoll, ALWAYS),           // poll(2) where there is no call of that name, as on ARM
    (libc::SYS_clock_nanosleep, ALWAYS),
    (libc::SYS_nanosleep, ALWAYS),
    (libc::SYS_clock_gettime, ALWAYS),   // on machines without a clock that can be read from user space

    // The supervisor: connections, orders, and the descriptors that come with them.
    (libc::SYS_accept4, ALWAYS),
    (libc::SYS_recvmsg, ALWAYS),
    (libc::SYS_sendmsg, ALWAYS),
    (libc::SYS_close, ALWAYS),
    (libc::SYS_fstat, ALWAYS),           // is shared memory as large as it should be, and will stay so?
    (libc::SYS_fcntl, &[
        &[Is(1, libc::F_GET_SEALS)],
        &[Is(1, libc::F_DUPFD_CLOEXEC)],
        &[Is(1, libc::F_GETFD)],         // debug builds look at a descriptor before they close it
    ]),

    // Memory: rings and counters that come with orders, and the allocators of glibc (brk, mprotect) and musl.
    (libc::SYS_mmap, NO_CODE),
    (libc::SYS_mprotect, NO_CODE),
    (libc::SYS_mremap, ALWAYS),
    (libc::SYS_munmap, ALWAYS),
    (libc::SYS_madvise, ALWAYS),
    (libc::SYS_brk, ALWAYS),

    // What runs beneath any program: locks, hash seeds and guards of the allocator, signals.
    (libc::SYS_futex, ALWAYS),
    (libc::SYS_sched_yield, ALWAYS),
    (libc::SYS_getrandom, ALWAYS),
    (libc::SYS_getpid, ALWAYS),
    (libc::SYS_gettid, ALWAYS),
    (libc::SYS_restart_syscall, ALWAYS), // the kernel's, when a stopped process goes on
    (libc::SYS_rt_sigreturn, ALWAYS),
    (libc::SYS_rt_sigprocmask, ALWAYS),
    (libc::SYS_sigaltstack, ALWAYS),     // the standard library takes its stack for signals back at the end

    // The end, in peace or not. It should show as what it is: SIGABRT by abort(3), and a fault, which the standard library
    // gives back to the kernel when it is no overflow of the stack.
    (libc::SYS_write, TO_STDERR),
    (libc::SYS_writev, TO_STDERR),
    (libc::SYS_tgkill, &[&[IsSelf(0)]]),
    (libc::SYS_rt_sigaction, &[&[Is(0, libc::SIGSEGV)], &[Is(0, libc::SIGBUS)]]),
    (libc::SYS_exit, ALWAYS),
    (libc::SYS_exit_group, ALWAYS),
];

impl Check {
    fn condition(self) -> Result<SeccompCondition, BackendError> {
        let (argument, operator, value) = match self {
            Self::Is(argument, value) => (argument, SeccompCmpOp::Eq, value as u32),
            Self::Lacks(argument, bits) => (argument, SeccompCmpOp::MaskedEq((bits as u32).into()), 0),
            Self::IsSelf(argument) => (argument, SeccompCmpOp::Eq, std::process::id()),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

fn rule(checks: &[Check]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(checks.iter().map(|check| check.condition()).collect::<Result<_, _>>()?)
}

/// The filter as a program for this kind of processor.
fn program() -> Result<BpfProgram, BackendError> {
    let rules = ALLOWED.iter().map(|(call, cases)| {
        let rules = cases.iter().map(|checks| rule(checks)).collect::<Result<Vec<_>, _>>()?;
        Ok((*call, rules))
    });
    let rules = rules.collect::<Result<_, BackendError>>()?;
    let processor = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, processor)?.try_into()
}

/// Installs the filter, which nothing can remove. After `no_new_privs`.
pub(super) fn install() -> Result<(), Reason> {
    let program = program()?;
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // Not by `seccompiler::apply_filter`, which cannot say this: before Linux 5.16 a filter slows down loads behind
    // stores and indirect branches, against code of others in the same process. There is none here.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program is as long as it says and lives until the call returns; the kernel copies it. Both types are
    // `struct sock_filter` (linux/filter.h).
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
