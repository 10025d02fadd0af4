//! What can go wrong between a client and its supervisor, and how to mend it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::ConfigError;
use crate::control::{ProtocolError, Refusal, RefusalKind};

/// Why a command was not carried out, or its answer not shown.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What was given cannot be.
    #[error("{0}")]
    Usage(String),
    /// A file of rules cannot be.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// The supervisor cannot be reached.
    #[error("ask the supervisor at {}: {why}", path.display())]
    Unreachable {
        /// Its control socket.
        path: PathBuf,
        /// Why not and how to mend it.
        why: String,
    },
    /// It did not answer.
    #[error(
        "ask the supervisor at {}: no answer within {limit:?}: it hangs, or has more to do than it can", path.display()
    )]
    Silent {
        /// Its control socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// It is no supervisor, or one of another version.
    #[error("ask the supervisor at {}: {error}", path.display())]
    Protocol {
        /// The control socket.
        path: PathBuf,
        /// What came back.
        error: ProtocolError,
    },
    /// It refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer cannot be printed.
    #[error("write to standard output: {0}")]
    Output(io::Error),
    /// The terminal cannot be used.
    #[error("use the terminal: {0}")]
    Terminal(io::Error),
}

impl ClientError {
    /// Whether it is the command line that must change.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Usage(_) | Self::File(_) => true,
            Self::Refused(refusal) => refusal.kind == RefusalKind::BadRequest,
            Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Protocol { .. }
            | Self::Output(_)
            | Self::Terminal(_) => false,
        }
    }

    /// What an error of the connection to `path` means.
    pub(super) fn of_connection(path: &Path, error: &io::Error) -> Self {
        let why = match error.kind() {
            ErrorKind::NotFound => {
                "no supervisor is running: start `multicast_relay supervisor`, or give the --control-socket that it has"
                    .to_owned()
            }
            ErrorKind::ConnectionRefused => {
                "no supervisor is running any more: start `multicast_relay supervisor` again".to_owned()
            }
            ErrorKind::PermissionDenied => format!("permission denied: {}", who_may(path)),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "it hung up before it answered: it has ended, see its log".to_owned()
            }
            _ => error.to_string(),
        };
        Self::Unreachable { path: path.to_owned(), why }
    }
}

/// Who may write to the socket at `path`; where its folder hides it, who may enter that.
fn who_may(path: &Path) -> String {
    let metadata = fs::metadata(path).or_else(|_| fs::metadata(path.parent().unwrap_or(path)));
    match metadata.map(|metadata| metadata.gid()) {
        Ok(gid) if gid != 0 => {
            let group = group_name(gid, &fs::read_to_string("/etc/group").unwrap_or_default());
            format!(
                "ask as root, or as a member of group {group} (`usermod --append --groups {group} USER`, then log in again)"
            )
        }
        _ => "ask as root (a supervisor whose group is another than root's lets its members ask too)"
            .to_owned(),
    }
}

/// The name of group `gid` in a text like `/etc/group`, or its number.
fn group_name(gid: u32, groups: &str) -> String {
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| gid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_where_they_have_a_name() {
        let groups = "root:x:0:\n\nbroken\nrelay:x:980:ann,bob\n";
        assert_eq!(
            ["relay", "979"],
            [group_name(980, groups), group_name(979, groups)]
                .map(|name| name)
                .each_ref()
                .map(String::as_str)
        );
    }

    #[test]
    fn errors_of_a_connection_name_the_socket_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        for (kind, part) in [
            (ErrorKind::NotFound, "start `multicast_relay supervisor`"),
            (ErrorKind::ConnectionRefused, "any more"),
            (ErrorKind::PermissionDenied, "ask as root"),
            (ErrorKind::BrokenPipe, "see its log"),
        ] {
            let message = ClientError::of_connection(&path, &kind.into()).to_string();
            assert!(message.starts_with(&format!("ask the supervisor at {}: ", path.display())), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
