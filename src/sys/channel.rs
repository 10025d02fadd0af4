//! Messages with descriptors between processes of one machine: `SOCK_SEQPACKET` sockets (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;

/// Most bytes of a message: less than the smallest send buffer has room for.
pub const MAX_MESSAGE: usize = 96 << 10;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 8;
/// Most descriptors of a message: `SCM_MAX_FD` (`include/net/scm.h`) is 253.
pub const MAX_DESCRIPTORS: usize = 250;

/// A connection. Neither end ever waits: where nothing can be sent or received yet, that is the error `WouldBlock`.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

impl Channel {
    /// Two ends of a connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags(), None)?;
        Ok((Self(one), Self(other)))
    }

    /// Connects to who listens at `path`, whether or not it accepts already.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = open()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Sends a message of 1 to [`MAX_MESSAGE`] bytes with copies of at most [`MAX_DESCRIPTORS`] descriptors.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room now, `BrokenPipe` or `ConnectionReset` when the other end is gone.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Takes the next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet, `InvalidData` when it is too long, `EMFILE` when this process cannot have its descriptors.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut message = vec![0; MAX_MESSAGE];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let received =
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut message)], &mut control, flags);
        let received = match received {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            received => received?,
        };
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        match received.bytes {
            0 => Ok(None),
            len if len > MAX_MESSAGE => Err(io::ErrorKind::InvalidData.into()),
            len => {
                message.truncate(len);
                Ok(Some((message, descriptors)))
            }
        }
    }

    /// The same for who waits in a tokio runtime.
    pub fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is the channel's own, the same as long as the channel lives, and nobody gets it out of it.
        unsafe { AsyncFd::register(self) }.map_err(io::Error::from)
    }

    /// The process at the other end when the connection was made, and its user.
    pub fn peer(&self) -> io::Result<Peer> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0)?;
        Ok(Peer { pid: peer.pid.as_raw_nonzero().get(), uid: peer.uid.as_raw() })
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

// What tokio asks for.
impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
}

/// A socket that others connect to.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at `path`, in place of a socket that is left there, for this user's processes and root's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = open()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self(socket))
    }

    /// Has who connects from now on take this process for its peer, in place of the one that has bound the socket (`unix_listen`,
    /// `net/unix/af_unix.c`).
    pub fn stand_for(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.0, BACKLOG)?)
    }

    /// The next connection; `WouldBlock` when there is none yet.
    pub fn accept(&self) -> io::Result<Channel> {
        Ok(Channel(rustix::net::accept_with(&self.0, flags())?))
    }
}

impl From<OwnedFd> for Listener {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags(), None)?)
}

fn flags() -> SocketFlags {
    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_bring_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (reader, mut writer) = io::pipe().unwrap();
        one.send(b"first", &[reader.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        let (message, mut descriptors) = other.receive().unwrap().unwrap();
        assert_eq!((message.as_slice(), descriptors.len()), (&b"first"[..], 1));
        writer.write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(descriptors.remove(0)).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(other.receive().unwrap().unwrap().0, b"second");
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn the_largest_message_passes_and_knows_its_peer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        let one = Channel::connect(&path).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        one.send(&vec![7; MAX_MESSAGE], &[reader.as_fd(); MAX_DESCRIPTORS]).unwrap();
        let other = listener.accept().unwrap();
        let (message, descriptors) = other.receive().unwrap().unwrap();
        assert_eq!((message.len(), descriptors.len()), (MAX_MESSAGE, MAX_DESCRIPTORS));
        assert_eq!(other.peer().unwrap().pid, std::process::id() as i32);
        drop(listener);
        assert_eq!(Channel::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        Listener::bind(&path).unwrap();
    }
}
