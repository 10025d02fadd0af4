use std::fs;
use std::io::{self, BufRead, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitStatus};
use std::ptr;
use std::sync::Once;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::uring::{Send, Token, Uring, Wait};
use crate::sys::{packet_socket, poll, sockopt};

const PANICKED: i32 = 101;

static HOOK: Once = Once::new();

/// Has a panic in a child told where its parent's errors go, without a backtrace, which takes files.
fn tell_panics_of_children() {
    let (parent, tell) = (std::process::id(), panic::take_hook());
    panic::set_hook(Box::new(move |panic| match std::process::id() {
        id if id == parent => tell(panic),
        _ => _ = writeln!(io::stderr(), "{panic}"),
    }));
}

/// A process that does what it is told, in the one thread that it has.
struct Child(libc::pid_t);

impl Child {
    fn new(body: impl FnOnce()) -> Self {
        HOOK.call_once(tell_panics_of_children);
        // SAFETY: the C library keeps its allocator usable in the copy, which ends below. Of the standard library's
        // locks that other tests may hold at this moment it takes none but for reading.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: touches no memory. Should all that be wrong, it ends anyway.
            unsafe { libc::alarm(30) };
            let status = panic::catch_unwind(AssertUnwindSafe(body)).map_or(PANICKED, |()| 0);
            // SAFETY: ends the process, and nothing that the tests have registered for its end.
            unsafe { libc::_exit(status) }
        }
        assert!(pid > 0, "{}", io::Error::last_os_error());
        Self(pid)
    }

    /// Waits until it ends.
    fn wait(self) -> ExitStatus {
        std::mem::ManuallyDrop::new(self).reap()
    }

    fn reap(&self) -> ExitStatus {
        let mut status = 0;
        // SAFETY: the pointer is to an integer that the kernel fills.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        ExitStatus::from_raw(status)
    }
}

impl Drop for Child {
    /// Ends it, unless it was waited for.
    fn drop(&mut self) {
        // SAFETY: no memory is touched, and the process is this one's child until it is reaped.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        self.reap();
    }
}

/// How a worker ends that is confined and then does this.
fn confined(body: impl FnOnce()) -> ExitStatus {
    let enter = || {
        Sandbox::enter(None).unwrap();
        body();
    };
    Child::new(enter).wait()
}

/// A system call that touches no memory, and whose result does not matter: it should not return.
fn call(number: libc::c_long, arguments: [libc::c_long; 3]) {
    let [first, second, third] = arguments;
    // SAFETY: pointers among the arguments are null, or to what the tests own.
    let result = unsafe { libc::syscall(number, first, second, third, 0, 0) };
    let _ = writeln!(io::stderr(), "system call {number} returned {result}");
}

fn map(protection: libc::c_int) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory in use.
    unsafe { libc::mmap(ptr::null_mut(), 4_096, protection, flags, -1, 0) }
}

fn protect(protection: libc::c_int) {
    // SAFETY: changes a mapping that nothing else uses.
    let result = unsafe { libc::mprotect(map(libc::PROT_READ), 4_096, protection) };
    assert_eq!(result, 0);
}

#[test]
fn what_a_worker_may_not_call_kills_it() {
    const EXEC: libc::c_int = libc::PROT_READ | libc::PROT_EXEC;
    let mut ring = Uring::disabled(1_024).unwrap();
    let (socket, path) = (UdpSocket::bind("127.0.0.1:0").unwrap(), c"/bin/true".as_ptr() as libc::c_long);
    let (fd, parent) = (libc::c_long::from(socket.as_raw_fd()), libc::c_long::from(std::process::id()));
    let (_reader, mut pipe) = io::pipe().unwrap();
    // Each in a copy of this process.
    let forbidden: [(&str, &mut dyn FnMut()); _] = [
        ("open a file", &mut || drop(fs::File::open("/dev/null"))),
        ("stat a file", &mut || drop(fs::metadata("/"))),
        ("open a socket", &mut || drop(UdpSocket::bind("127.0.0.1:0"))),
        ("open a pipe", &mut || drop(io::pipe())),
        ("connect a socket", &mut || drop(socket.connect("127.0.0.1:9"))),
        ("send past its ring", &mut || drop(socket.send_to(b"x", "127.0.0.1:9"))),
        ("set another option", &mut || drop(socket.set_broadcast(true))),
        ("read another option", &mut || drop(socket.broadcast())),
        ("write elsewhere", &mut || drop(pipe.write(b"x"))),
        ("configure a device", &mut || call(libc::SYS_ioctl, [fd, libc::SIOCGIFCONF as _, 0])),
        ("execute a program", &mut || call(libc::SYS_execve, [path, 0, 0])),
        ("start a program", &mut || drop(Command::new("/bin/true").status())),
        ("fork", &mut || call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0])),
        ("start a thread", &mut || drop(std::thread::spawn(|| ()))),
        ("map code", &mut || _ = map(EXEC)),
        ("make memory code", &mut || protect(EXEC)),
        ("trace a process", &mut || call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0])),
        ("signal its parent", &mut || call(libc::SYS_kill, [parent, 0, 0])),
        ("abort its parent", &mut || call(libc::SYS_tgkill, [parent, parent, 0])),
        ("handle another signal", &mut || call(libc::SYS_rt_sigaction, [libc::SIGTERM.into(), 0, 0])),
        ("become root", &mut || call(libc::SYS_setuid, [0, 0, 0])),
        ("change its root folder", &mut || call(libc::SYS_chroot, [c".".as_ptr() as _, 0, 0])),
        ("make a namespace", &mut || call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0])),
        ("set up another ring", &mut || drop(Uring::new(1_024))),
        ("register with its ring", &mut || _ = ring.restrict()),
        ("call by an x32 number", &mut || call(0x4000_0000 | libc::SYS_getpid, [0; 3])),
    ];
    for (what, act) in forbidden {
        assert_eq!(confined(act).signal(), Some(libc::SIGSYS), "{what}");
    }
}

#[test]
fn all_that_a_worker_calls_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let mut client = UnixStream::connect(folder.path().join("socket")).unwrap();
    client.write_all(b"order").unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let parent = std::process::id() as libc::pid_t;
    let worker = || {
        let mut ring = Uring::disabled(1_024).unwrap();
        ring.set_buffers(4, 64, true).unwrap();
        ring.restrict().unwrap();
        let report = Sandbox::enter(None).unwrap();
        relay(&mut ring, &sender, &receiver);
        end_capture(&receiver);
        obey(&listener, parent);
        use_memory();
        writeln!(io::stderr(), "a worker {report}").unwrap();
        std::thread::sleep(Duration::from_millis(1));
        std::thread::yield_now();
        assert!(Instant::now().elapsed() < Duration::MAX);
        assert_eq!(rustix::process::getpid(), rustix::process::getpid());
        drop(ring);
        // A panic unwinds.
        assert!(panic::catch_unwind(|| panic!("on purpose")).is_err());
        // SAFETY: ends the process; what is registered for its end is what a worker's standard library has.
        unsafe { libc::exit(7) }
    };
    let status = Child::new(worker).wait();
    assert_eq!(status.code(), Some(7), "{status}");
}

/// Receives, sends and waits, as the receive paths do.
fn relay(ring: &mut Uring, sender: &UdpSocket, receiver: &UdpSocket) {
    ring.receive_multishot(receiver.as_fd(), 0).unwrap();
    let payload = [io::IoSlice::new(b"x")];
    let send = Send::new(sender.as_fd(), &payload, None);
    ring.send_all(&[send], |_, result| assert_eq!(result, Ok(1))).unwrap();
    ring.wait(Wait::First).unwrap();
    let completion = ring.next_completion().unwrap();
    assert_eq!((completion.token, completion.result), (Token::Receive(0), Ok(1)));
    ring.wait(Wait::Coalesced { count: 2, time: Duration::from_millis(1) }).unwrap();
    ring.wait(Wait::Not).unwrap();
}

/// What the mmap path and draining do beside that.
fn end_capture(socket: &UdpSocket) {
    assert!(packet_socket::take_error(socket.as_fd()).unwrap().is_none());
    packet_socket::end_capture(socket.as_fd()).unwrap();
    assert!(!poll::is_readable(socket.as_fd()).unwrap());
    assert!(packet_socket::receive(socket.as_fd(), &mut [0; 10]).is_err());
}

/// Accepts a connection, asks who is there, takes an order, answers with a descriptor.
fn obey(listener: &UnixListener, parent: libc::pid_t) {
    let (connection, _) = listener.accept().unwrap();
    let pid: libc::c_int = sockopt::get(connection.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED).unwrap();
    assert_eq!(pid, parent);
    let mut order = [0; 10];
    let mut part = [io::IoSliceMut::new(&mut order)];
    // SAFETY: all fields are integers or pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part.as_mut_ptr().cast();
    message.msg_iovlen = 1;
    // SAFETY: the message has one part, a buffer that is borrowed until the call returns.
    let len = unsafe { libc::recvmsg(connection.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    assert_eq!(len, 5);
    // SAFETY: the message has one part, a buffer that is borrowed until the call returns.
    let len = unsafe { libc::sendmsg(connection.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    assert_eq!(len, 10);
    drop(connection.as_fd().try_clone_to_owned().unwrap());
}

/// Has the allocator ask the kernel for more and give it back, and maps memory of another process's.
fn use_memory() {
    let mut small = Vec::new();
    for len in [100, 1 << 12, 1 << 18, 1 << 24] {
        small.push(vec![1_u8; len]);
        small[0].reserve(len);
    }
    drop(small);
    let pages = map(libc::PROT_READ | libc::PROT_WRITE);
    assert_ne!(pages, libc::MAP_FAILED);
    // SAFETY: the range was just mapped, and nothing uses it.
    assert_eq!(unsafe { libc::munmap(pages, 4_096) }, 0);
    protect(libc::PROT_READ | libc::PROT_WRITE);
    let map: std::collections::HashMap<_, _> = (0..1_000).map(|number| (number, number)).collect();
    assert_eq!(map[&999], 999);
}

#[test]
fn a_worker_that_crashes_shows_as_such() {
    // SAFETY: nothing is mapped there, so it is a fault and nothing comes of it.
    let fault = || _ = unsafe { ptr::without_provenance::<u8>(8).read_volatile() };
    assert_eq!(confined(fault).signal(), Some(libc::SIGSEGV));
    assert_eq!(confined(|| std::process::abort()).signal(), Some(libc::SIGABRT));
    assert_eq!(confined(|| panic!("on purpose")).code(), Some(PANICKED));
}

/// What a confined process looks like from outside, and what it reports; it does `prepare` before.
fn observe(user: Option<User>, prepare: impl FnOnce(), look: impl FnOnce(libc::pid_t, &str)) {
    let (reader, writer) = io::pipe().unwrap();
    // The writer is dropped here when the other process has it.
    let child = Child::new(move || {
        // SAFETY: the descriptors are the process's own, and one of them is replaced as a whole.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) }, libc::STDERR_FILENO);
        prepare();
        let report = Sandbox::enter(user).unwrap();
        writeln!(io::stderr(), "{report}").unwrap();
        std::thread::sleep(Duration::from_mins(1));
    });
    let mut report = String::new();
    io::BufReader::new(reader).read_line(&mut report).unwrap();
    look(child.0, report.trim());
}

/// What `/proc` says of a process by this name.
fn status(pid: libc::pid_t, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_confined(pid: libc::pid_t) {
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let processes = limits.lines().find_map(|line| line.strip_prefix("Max processes")).unwrap();
    assert_eq!(processes.split_whitespace().collect::<Vec<_>>(), ["0", "0", "processes"]);
    let time = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
    assert_eq!(time.split_whitespace().count(), 3, "its time can be read");
}

#[test]
fn without_capabilities_it_tells_what_it_keeps() {
    let unprivileged = || clear_capabilities().unwrap();
    observe(None, unprivileged, |pid, report| {
        assert!(report.starts_with("keeps its root folder (needs CAP_SYS_CHROOT)"), "{report}");
        assert!(report.ends_with("group (needs CAP_SETGID), user (needs CAP_SETUID)"), "{report}");
        assert_confined(pid);
    });
}

#[test]
#[ignore = "needs root"]
fn with_capabilities_it_keeps_nothing() {
    let other = User { uid: 4_321, gid: 1_234 };
    for user in [None, Some(other)] {
        let groups = || thread::set_thread_groups(&[Gid::ROOT]).unwrap();
        observe(user, groups, |pid, report| {
            assert_eq!(report, "keeps nothing that it does not need");
            assert_confined(pid);
            assert_eq!(status(pid, "CapBnd"), "0000000000000000");
            assert_eq!(status(pid, "Groups"), "");
            let User { uid, gid } = user.unwrap_or(User::NOBODY);
            assert_eq!(status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
            assert_eq!(status(pid, "Gid"), format!("{gid} {gid} {gid} {gid}"));
            // The folder of a process that has ended.
            let root = format!("/proc/{pid}/root");
            let is_empty = fs::read_dir(&root).map_or(true, |mut entries| entries.next().is_none());
            assert!(is_empty, "{:?} has something in it", fs::read_link(&root));
            assert!(fs::File::open(format!("{root}/0")).is_err());
            assert!(fs::File::create(format!("{root}/x")).is_err());
        });
    }
}

#[test]
fn a_process_with_threads_is_not_confined_in_part() {
    let status = Child::new(|| {
        std::thread::spawn(|| std::thread::sleep(Duration::from_mins(1)));
        assert!(matches!(Sandbox::enter(None), Err(SandboxError::Threads(2))));
    });
    assert_eq!(status.wait().code(), Some(0));
}
