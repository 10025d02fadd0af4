//! The name of a run, and the mark that tells a live run from a dead one.
//!
//! A run holds an exclusive `flock` on `/run/multicast_relay-lab/<run>.lock`. The kernel releases it with the
//! process, however that ends, so whoever gets the lock knows that the run is dead and, while holding it, that
//! nobody else takes the name. The file is unlinked under the lock; a lock obtained on a file that is no longer
//! the one of that path counts for nothing.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use super::{NAMESPACE_DIRECTORY, NetError};

/// Where the marks of live runs are.
const LOCK_DIRECTORY: &str = "/run/multicast_relay-lab";

/// Of that folder and the files in it: who can open a file can hold its lock.
const FOLDER_MODE: u32 = 0o700;
const MARK_MODE: u32 = 0o600;

/// How many hex digits a name gets.
const DIGITS: usize = 8;
/// How many are accepted in the name of a leftover.
const ACCEPTED_DIGITS: std::ops::RangeInclusive<usize> = 4..=12;
/// How many names to try; with 32 random bits even the second is rare.
const ATTEMPTS: u32 = 64;

/// The name of a run: lowercase hex digits, unique among the live runs of this machine for as long as it, or a
/// clone, is held. Namespaces of the run are called `lab-<run>-…`.
#[derive(Debug, Clone)]
pub struct RunName {
    digits: String,
    _mark: Arc<RunLock>,
}

impl RunName {
    /// Takes a name that no live run has and no leftover bears.
    ///
    /// # Errors
    /// [`NetError::NeedsRoot`] without the right to write below `/run`.
    pub fn claim() -> Result<Self, NetError> {
        for _ in 0..ATTEMPTS {
            let digits = random_digits();
            if has_namespaces(&digits)? {
                continue;
            }
            if let Claim::Taken(lock) = RunLock::claim(&digits)? {
                return Ok(Self { digits, _mark: Arc::new(lock) });
            }
        }
        Err(NetError::NoFreeName { tried: ATTEMPTS })
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.digits
    }

    /// 16 bits of the name, to mark the datagrams of this run.
    pub fn id(&self) -> u16 {
        // Checked at the only place that makes one: hex digits, at least four.
        let tail = self.digits.get(self.digits.len().saturating_sub(4)..).unwrap_or_default();
        u16::from_str_radix(tail, 16).unwrap_or_default()
    }

    /// The name of the run's namespace for `part` ("gen", "relay", "sink0").
    pub fn namespace(&self, part: &str) -> String {
        format!("lab-{}-{part}", self.digits)
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.digits)
    }
}

/// The run that the namespace `name` belongs to: `lab-<run>-<part>`. `None`: not one of the lab's.
pub(crate) fn parse_namespace(name: &str) -> Option<&str> {
    let (run, part) = name.strip_prefix("lab-")?.split_once('-')?;
    (is_run(run) && !part.is_empty()).then_some(run)
}

/// Whether `text` can name a run.
fn is_run(text: &str) -> bool {
    ACCEPTED_DIGITS.contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What came of reaching for the name of a run.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Nobody had it; now the caller does.
    Taken(RunLock),
    /// A live run has it, or somebody who is cleaning up after a dead one.
    Held,
}

/// The exclusive hold on the name of a run. Dropping it removes the mark.
#[derive(Debug)]
pub(crate) struct RunLock {
    path: PathBuf,
    /// Open for its lock; closed, and so released, after the file is unlinked.
    _file: File,
}

impl RunLock {
    /// Takes a name for a new run: a mark that exists already, be it of a dead run, is [`Claim::Held`].
    fn claim(run: &str) -> Result<Claim, NetError> {
        Self::take(run, OpenOptions::new().write(true).create_new(true).mode(MARK_MODE))
    }

    /// Takes the name of a run that may be dead; the mark is made when it is missing.
    pub(crate) fn adopt(run: &str) -> Result<Claim, NetError> {
        Self::take(run, OpenOptions::new().write(true).create(true).truncate(false).mode(MARK_MODE))
    }

    /// The runs that have a mark, dead or alive.
    pub(crate) fn marked() -> Result<Vec<String>, NetError> {
        let names = file_names(Path::new(LOCK_DIRECTORY))?;
        let runs = names.iter().filter_map(|name| name.strip_suffix(".lock")).filter(|run| is_run(run));
        Ok(runs.map(str::to_owned).collect())
    }

    fn take(run: &str, how: &OpenOptions) -> Result<Claim, NetError> {
        let path = Path::new(LOCK_DIRECTORY).join(format!("{run}.lock"));
        let failed = |operation| {
            let path = path.clone();
            move |source| NetError::or_needs_root(source, |source| NetError::File { operation, path, source })
        };
        for _ in 0..ATTEMPTS {
            match DirBuilder::new().mode(FOLDER_MODE).create(LOCK_DIRECTORY) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create the folder of")(error));
                }
                _ => {}
            }
            let file = match how.open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Claim::Held),
                // The last run that ended took the folder with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("create")(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claim::Held),
                Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
            }
            let inode = file.metadata().map_err(failed("examine"))?.ino();
            if fs::metadata(&path).is_ok_and(|now| now.ino() == inode) {
                return Ok(Claim::Taken(Self { path, _file: file }));
            }
        }
        Ok(Claim::Held)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Unlinked while still locked. A mark that stays behind is one that `lab clean` removes; the folder goes
        // with the last mark, and refuses to while there is another.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(LOCK_DIRECTORY);
    }
}

/// The names of the files in a folder; none when there is no folder.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>, NetError> {
    let file = |source| NetError::File { operation: "list", path: folder.to_path_buf(), source };
    let failed = |source| NetError::or_needs_root(source, file);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string()));
    let names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    Ok(names.into_iter().filter_map(Result::ok).collect())
}

fn has_namespaces(run: &str) -> Result<bool, NetError> {
    let names = file_names(Path::new(NAMESPACE_DIRECTORY))?;
    Ok(names.iter().any(|name| parse_namespace(name) == Some(run)))
}

/// Hex digits from the keys that the standard library draws for each process and map.
fn random_digits() -> String {
    let number = RandomState::new().hash_one(process::id());
    format!("{:0DIGITS$x}", number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_are_hex_digits() {
        let digits = random_digits();
        assert_eq!(digits.len(), DIGITS);
        assert!(is_run(&digits), "{digits}");
    }

    #[test]
    fn only_the_names_of_the_lab_belong_to_a_run() {
        assert_eq!(parse_namespace("lab-0a1b2c3d-gen"), Some("0a1b2c3d"));
        assert_eq!(parse_namespace("lab-beef-sink12"), Some("beef"));
        assert_eq!(parse_namespace("lab-beef-a-b"), Some("beef"));
        for foreign in [
            "lab",
            "lab-",
            "lab-beef",
            "lab-beef-",
            "lab-bee-gen",
            "lab-BEEF-gen",
            "lab-0123456789abc-gen",
            "lab-router-gen",
            "lab--gen",
            "xlab-beef-gen",
            "label-beef-gen",
            "office",
        ] {
            assert_eq!(parse_namespace(foreign), None, "{foreign}");
        }
    }
}
