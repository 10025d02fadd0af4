//! One network namespace, mounted below `/var/run/netns` for as long as its guard lives.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_rs::{NetNs, get_from_current_thread};

use super::NetError;

/// Where named namespaces are mounted, by the convention of iproute2 (ip-netns(8)).
pub const NAMESPACE_DIRECTORY: &str = "/var/run/netns";

/// How long to wait for whoever holds the lock on that folder; it is held for milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// How often to try for it.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
/// Longest name taken, in bytes: a file name with room to spare.
const MAX_NAME_BYTES: usize = 200;

/// Which namespace a file of `/proc/<pid>/ns` or a mount refers to: the device and inode of nsfs. Unique among
/// the namespaces alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The namespace that `path` refers to. `None`: an ordinary file, left where a mount was meant to be.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        let id = Self::from_metadata(&fs::metadata(path)?);
        let own = Self::of_calling_thread()?;
        Ok((id.device == own.device).then_some(id))
    }

    /// The namespace the calling thread is in.
    pub(crate) fn of_calling_thread() -> io::Result<Self> {
        fs::metadata("/proc/thread-self/ns/net").map(|metadata| Self::from_metadata(&metadata))
    }

    /// The namespace the process `pid` is in, by its first thread.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| Self::from_metadata(&metadata))
    }

    /// The namespace that `path`, a file of `/proc/<pid>/ns`, refers to.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A network namespace that this process made. Dropping it, also in a panic, removes it.
///
/// It lives on without a name while a socket or a process is still inside; neither is left by a caller that ends
/// what it started before it drops the guard.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    mount: NetNs,
    mounted: AtomicBool,
}

impl Namespace {
    /// Creates the namespace `name` and mounts it at `/var/run/netns/<name>`. The folder is made when missing, as
    /// `ip netns add` does. The calling thread stays where it is.
    ///
    /// A name that starts as those of a run do (`lab-<run>-`) is taken for a leftover by [`crate::clean::clean`]
    /// unless the [`super::RunName`] is held.
    ///
    /// # Errors
    /// [`NetError::NeedsRoot`] without the privilege, [`NetError::Exists`] when the name is taken.
    pub fn create(name: &str) -> Result<Self, NetError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
            return Err(NetError::BadName(name.to_owned()));
        }
        let _held = lock_directory()?;
        // Mounting over a mount would hide the other one, and the library would not notice.
        if Path::new(NAMESPACE_DIRECTORY).join(name).symlink_metadata().is_ok() {
            return Err(NetError::Exists(name.to_owned()));
        }
        let mount = NetNs::new(name).map_err(|error| {
            NetError::or_needs_root(io_error(error), |source| NetError::Namespace {
                operation: "create",
                namespace: name.to_owned(),
                source,
            })
        })?;
        Ok(Self { name: name.to_owned(), mount, mounted: AtomicBool::new(true) })
    }

    /// The name, as below `/var/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` with the calling thread inside this namespace and returns the thread to where it was, also when
    /// `work` panics. Sockets opened and processes spawned inside stay there. May be nested.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or cannot be left afterwards: then the result of `work` is lost and
    /// the thread should not go on.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetError> {
        let home = get_from_current_thread().map_err(|error| self.failed("enter", error))?;
        self.mount.enter().map_err(|error| self.failed("enter", error))?;
        let mut way_back = WayBack { home: Some(home) };
        let result = work();
        way_back.go().map_err(|error| self.failed("leave", error))?;
        Ok(result)
    }

    /// Sets `/proc/sys/<key>` of this namespace (`net/ipv6/conf/all/disable_ipv6`) and checks that it took.
    ///
    /// # Errors
    /// When there is no such key in this namespace, or the kernel refuses or changes the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), NetError> {
        let failed = |source| NetError::Sysctl {
            namespace: self.name.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            source,
        };
        let path = sysctl_path(key).map_err(failed)?;
        let found = self.run(|| write_and_read_back(&path, value))?.map_err(failed)?;
        if found == value {
            return Ok(());
        }
        let (namespace, key, wanted) = (self.name.clone(), key.to_owned(), value.to_owned());
        Err(NetError::SysctlRefused { namespace, key, wanted, found })
    }

    /// Reads `/proc/sys/<key>` of this namespace. `None`: it has no such key.
    pub(crate) fn sysctl(&self, key: &str) -> Result<Option<String>, NetError> {
        let path = sysctl_path(key).ok();
        let text = path.map(|path| self.run(|| fs::read_to_string(path))).transpose()?;
        Ok(text.and_then(Result::ok).map(|text| text.trim().to_owned()))
    }

    /// Which namespace this is.
    pub(crate) fn id(&self) -> Result<NamespaceId, NetError> {
        let metadata = self.file().metadata();
        metadata.map(|metadata| NamespaceId::from_metadata(&metadata)).map_err(|source| NetError::Namespace {
            operation: "identify",
            namespace: self.name.clone(),
            source,
        })
    }

    /// The descriptor by which netlink requests name this namespace.
    pub(crate) fn file(&self) -> &File {
        self.mount.file()
    }

    /// Takes the name away, as dropping does, and reports. The namespace itself goes with the last that is inside
    /// or refers to it, this guard included. Does nothing the second time.
    pub(crate) fn unmount(&self) -> Result<(), NetError> {
        if self.mounted.swap(false, Ordering::Relaxed) { remove_named(&self.name) } else { Ok(()) }
    }

    fn failed(&self, operation: &'static str, error: netns_rs::Error) -> NetError {
        let namespace = self.name.clone();
        NetError::or_needs_root(io_error(error), |source| NetError::Namespace {
            operation,
            namespace,
            source,
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell; `Topology::remove` is for those who want to know, `lab clean` for the rest.
        let _ = self.unmount();
    }
}

/// Unmounts the namespace at `/var/run/netns/<name>` and removes the file, also one that nothing is mounted on. One
/// that is gone already is fine.
pub(crate) fn remove_named(name: &str) -> Result<(), NetError> {
    let failed = |source| NetError::Namespace { operation: "remove", namespace: name.to_owned(), source };
    let path = Path::new(NAMESPACE_DIRECTORY).join(name);
    let mounted = match NamespaceId::of(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed)?.is_some(),
    };
    if mounted {
        let removed = NetNs::get(name).and_then(NetNs::remove);
        removed.map_err(|error| NetError::or_needs_root(io_error(error), failed))?;
    }
    remove_mount_point(&path).map_err(|source| NetError::or_needs_root(source, failed))
}

/// Takes the lock under which namespaces are created, the folder's own, which iproute2 takes too: setting up the
/// folder as a shared mount twice at once would stack one mount on the other and hide what is in the first.
fn lock_directory() -> Result<File, NetError> {
    let path = PathBuf::from(NAMESPACE_DIRECTORY);
    let failed = |operation| {
        let path = path.clone();
        move |source| NetError::or_needs_root(source, |source| NetError::File { operation, path, source })
    };
    fs::create_dir_all(&path).map_err(failed("create"))?;
    let directory = File::open(&path).map_err(failed("open"))?;
    let start = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => return Err(NetError::Locked { path, waited: start.elapsed() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
    }
}

/// The thread's way back to its own namespace, taken at the latest when a panic unwinds through it.
struct WayBack {
    home: Option<NetNs>,
}

impl WayBack {
    fn go(&mut self) -> netns_rs::Result<()> {
        self.home.take().map_or(Ok(()), |home| home.enter())
    }
}

impl Drop for WayBack {
    fn drop(&mut self) {
        // Only reached with `home` still set while a panic unwinds, which then is what gets reported.
        let _ = self.go();
    }
}

fn remove_mount_point(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A key of the form `net/…` as a path; nothing else of `/proc/sys` belongs to a network namespace.
fn sysctl_path(key: &str) -> io::Result<PathBuf> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if key.starts_with("net/") && key.split('/').all(plain) {
        return Ok(Path::new("/proc/sys").join(key));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a key of the form net/…"))
}

fn write_and_read_back(path: &Path, value: &str) -> io::Result<String> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())?;
    let mut found = String::new();
    File::open(path)?.read_to_string(&mut found)?;
    Ok(found.trim().to_owned())
}

/// The kernel's answer inside the library's error.
fn io_error(error: netns_rs::Error) -> io::Error {
    use netns_rs::Error;
    match error {
        Error::CreateNsDirError(source) | Error::CreateNsError(source) | Error::OpenNsError(_, source) => {
            source
        }
        Error::CloseNsError(errno)
        | Error::MountError(_, errno)
        | Error::UnmountError(_, errno)
        | Error::UnshareError(errno)
        | Error::SetnsError(errno) => errno.into(),
        error @ Error::JoinThreadError(_) => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "lab x", "lab\0", &"x".repeat(201)] {
            assert!(matches!(Namespace::create(name), Err(NetError::BadName(_))), "{name:?}");
        }
    }

    #[test]
    fn only_keys_of_the_network_are_settings_of_a_namespace() {
        assert!(sysctl_path("net/ipv4/ip_forward").is_ok());
        for key in ["kernel/hostname", "net", "net/../kernel/hostname", "net//x", "/net/x", "net/./x"] {
            assert!(sysctl_path(key).is_err(), "{key}");
        }
    }

    #[test]
    fn the_calling_thread_is_in_the_namespace_of_its_process() {
        let own = NamespaceId::of_calling_thread().expect("/proc is mounted");
        assert_eq!(own, NamespaceId::of_process(std::process::id()).expect("own process"));
        assert_eq!(NamespaceId::of(Path::new("/proc/self/ns/net")).expect("own process"), Some(own));
        assert_eq!(NamespaceId::of(Path::new("/proc/self/exe")).expect("a plain file"), None);
    }
}
