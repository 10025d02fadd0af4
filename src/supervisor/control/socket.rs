//! The socket's place in the file system: a folder that nobody else can change, one supervisor at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

use crate::sys::credentials;

/// Mode of a folder that is made for the socket: its group may reach what is in it.
const FOLDER_MODE: u32 = 0o750;
/// Mode of the socket: whoever may write to it may connect.
const SOCKET_MODE: u32 = 0o660;
/// Write permission of others, and of the group.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another supervisor listens there.
    #[error("control socket {}: {} listens there already: stop it, or give --control-socket another path", path.display(), holder(*pid))]
    Taken {
        /// Where.
        path: PathBuf,
        /// Its process, where that is known.
        pid: Option<u32>,
    },
    /// The folder is not one to trust.
    #[error("control socket {}: folder {} {why}", path.display(), folder.display())]
    Folder {
        /// Where the socket was to be.
        path: PathBuf,
        /// The folder it was to be in.
        folder: PathBuf,
        /// What is wrong with it and how to mend it.
        why: String,
    },
    /// Something else is there.
    #[error("control socket {}: what is there is no socket: move it away, or give --control-socket another path", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("control socket {}: {error}{}", path.display(), remedy(error))]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another supervisor".to_owned(), |pid| format!("process {pid}"))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            ": run as root, or give --control-socket a path in a folder of your own"
        }
        ErrorKind::NotFound => ": make the folder above it first",
        _ => "",
    }
}

/// The user and the group that something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// The socket's file, and the lock that says whose it is.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Whose file it is: the supervisor's, unless the folder hands its group down.
    pub(super) owner: Owner,
    /// Device and inode.
    identity: (u64, u64),
    /// Locked for as long as it is open. The file stays, empty: to remove a lock's file would let two hold it.
    lock: File,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), ControlError> {
        let failed = |error| ControlError::Bind { path: path.to_owned(), error };
        prepare_folder(path)?;
        let lock = lock(path)?;
        free(path)?;
        // Under a name of its own until its mode is right, then in its place at once.
        let temporary = beside(path, ".new");
        remove(&temporary).map_err(failed)?;
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let publish = || {
            fs::set_permissions(&temporary, Permissions::from_mode(SOCKET_MODE))?;
            let metadata = fs::symlink_metadata(&temporary)?;
            fs::rename(&temporary, path)?;
            Ok(metadata)
        };
        let metadata = publish().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed(error)
        })?;
        let identity = (metadata.dev(), metadata.ino());
        let owner = Owner { user: metadata.uid(), group: metadata.gid() };
        Ok((Self { path: path.to_owned(), owner, identity, lock }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.lock.set_len(0);
    }
}

/// `path` with `suffix` at the end of its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn prepare_folder(path: &Path) -> Result<(), ControlError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(ControlError::Bind { path: path.to_owned(), error });
        }
        _ => {}
    }
    let metadata =
        fs::metadata(folder).map_err(|error| ControlError::Bind { path: path.to_owned(), error })?;
    let owner = Owner { user: metadata.uid(), group: metadata.gid() };
    let (user, group) = credentials::effective();
    match folder_fault(owner, metadata.mode(), Owner { user, group }) {
        None => Ok(()),
        Some(why) => Err(ControlError::Folder { path: path.to_owned(), folder: folder.to_owned(), why }),
    }
}

/// Why somebody who is not to control the relay could put a socket of theirs in place of ours.
fn folder_fault(folder: Owner, mode: u32, own: Owner) -> Option<String> {
    if ![0, own.user].contains(&folder.user) {
        return Some(format!("belongs to user {}: take one of root or of user {}", folder.user, own.user));
    }
    if mode & OTHERS_WRITE != 0 {
        return Some("can be written to by everybody: take one that cannot, or `chmod o-w` it".to_owned());
    }
    if mode & GROUP_WRITE != 0 && ![0, own.group].contains(&folder.group) {
        let group = folder.group;
        return Some(format!("can be written to by group {group}: take one that cannot, or `chmod g-w` it"));
    }
    None
}

/// The lock beside `path`, which says the holder's process to whoever comes too late.
fn lock(path: &Path) -> Result<File, ControlError> {
    let failed = |error| ControlError::Bind { path: path.to_owned(), error };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.custom_flags(libc::O_NOFOLLOW).open(beside(path, ".lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            return Err(ControlError::Taken { path: path.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// Makes sure that nobody listens at `path`. Who does without the lock may be an older program, or one that lost its
/// lock's file.
fn free(path: &Path) -> Result<(), ControlError> {
    let failed = |error| ControlError::Bind { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // It listens, and has more clients waiting than it accepts.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(ControlError::Taken { path: path.to_owned(), pid: None })
        }
        Err(error) => Err(failed(error)),
        Ok(()) => Err(ControlError::Taken { path: path.to_owned(), pid: listener_of(socket) }),
    }
}

/// The process that listens at the other end.
fn listener_of(socket: socket2::Socket) -> Option<u32> {
    let stream = tokio::net::UnixStream::from_std(socket.into()).ok()?;
    stream.peer_cred().ok()?.pid().and_then(|pid| u32::try_from(pid).ok())
}

/// Removes what is at `path`, if anything is.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
