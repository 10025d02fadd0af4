//! The folder that the results of a run go to.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Results, RunVerdict, SCHEMA};

/// The name of the file with the results.
pub const RESULTS_FILE: &str = "results.json";
/// The name of the page that is made of them.
pub const PAGE_FILE: &str = "report.html";
/// How many runs of one scenario may go on at once without being told where to write.
const MAX_RUNS: usize = 100;

/// A folder for results that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refuses.
    #[error("{operation} {}: {source}; choose another folder with --out DIR", path.display())]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A live run writes there.
    #[error("another run is writing to {}: choose another folder with --out DIR", .0.display())]
    Busy(PathBuf),
    /// Somebody else's results are there.
    #[error("{} is none of the lab's: choose another folder with --out DIR", .0.display())]
    Foreign(PathBuf),
}

/// Where the results of a run go. No other run writes there while it lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked; the lock goes with the process, however that ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder and sees that it can be written to, before anything is run for it. Trials and page of an earlier
    /// run in it are removed, and a head of the results says until they are written that there are none: a run that is
    /// killed leaves a folder that the next one knows for the lab's.
    pub fn prepare(path: &Path) -> Result<Self, FolderError> {
        let failed = |operation| unusable(operation, path);
        fs::create_dir_all(path).map_err(failed("make the results folder"))?;
        let lock = File::open(path).map_err(failed("open the results folder"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock the results folder")(error)),
        }
        tempfile::tempfile_in(path).map_err(failed("write to the results folder"))?;
        let path = std::path::absolute(path).map_err(failed("find the results folder"))?;
        let folder = Self { path, _lock: lock };
        let file = folder.path.join(RESULTS_FILE);
        if file.exists() && !folder.has_results() {
            return Err(FolderError::Foreign(file));
        }
        if folder.has_results() {
            folder.clear()?;
        }
        folder.write(&Head { schema: SCHEMA.to_owned(), verdict: Some(RunVerdict::Error) })?;
        Ok(folder)
    }

    /// Removes what was made of earlier results.
    fn clear(&self) -> Result<(), FolderError> {
        let there = |removed: io::Result<()>| match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let failed = |operation| unusable(operation, &self.path);
        there(fs::remove_dir_all(self.trials())).map_err(failed("remove the earlier trials in"))?;
        there(fs::remove_file(self.path.join(PAGE_FILE))).map_err(failed("remove the earlier page in"))
    }

    /// Prepares `path`, or `path`-2 and so on when other runs are writing there.
    pub fn prepare_default(path: &Path) -> Result<Self, FolderError> {
        let name = path.as_os_str().to_string_lossy();
        let others = (2..=MAX_RUNS).map(|number| PathBuf::from(format!("{name}-{number}")));
        for candidate in std::iter::once(path.to_owned()).chain(others) {
            match Self::prepare(&candidate) {
                Err(FolderError::Busy(_)) => {}
                result => return result,
            }
        }
        Err(FolderError::Busy(path.to_owned()))
    }

    /// Makes the folder of one trial.
    pub fn trial(&self, name: &str) -> Result<PathBuf, FolderError> {
        let path = self.trials().join(name);
        fs::create_dir_all(&path).map_err(unusable("make the folder", &path))?;
        Ok(path)
    }

    /// Writes the results, all or nothing, and returns where.
    pub fn write_results(&self, results: &Results) -> Result<PathBuf, FolderError> {
        self.write(results)
    }

    fn write(&self, content: &impl Serialize) -> Result<PathBuf, FolderError> {
        let path = self.path.join(RESULTS_FILE);
        let failed = || unusable("write", &path);
        let mut file = tempfile::NamedTempFile::new_in(&self.path).map_err(failed())?;
        serde_json::to_writer_pretty(&mut file, content).map_err(|error| failed()(error.into()))?;
        // Temporary files are for their owner only; results are for everybody who may enter the folder.
        file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(failed())?;
        file.persist(&path).map_err(|error| failed()(error.error))?;
        Ok(path)
    }

    fn trials(&self) -> PathBuf {
        self.path.join("trials")
    }

    /// Whether an earlier run of the lab wrote its results here: only then is what is here the lab's to remove.
    fn has_results(&self) -> bool {
        let text = fs::read(self.path.join(RESULTS_FILE)).unwrap_or_default();
        serde_json::from_slice::<Head>(&text).is_ok_and(|head| head.schema == SCHEMA)
    }
}

/// As much of a file with results as tells whose it is.
#[derive(Deserialize, Serialize)]
struct Head {
    schema: String,
    #[serde(skip_deserializing)]
    verdict: Option<RunVerdict>,
}

/// Names operation and object of a failure; for `map_err`.
fn unusable(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Unusable { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::super::tests::results;
    use super::*;

    #[test]
    fn results_are_written_whole_and_old_trials_go() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let folder = Folder::prepare(&out).unwrap();
        let old = folder.trial("001-x").unwrap();
        let page = out.join(PAGE_FILE);
        fs::write(&page, "old").unwrap();
        let path = folder.write_results(&results()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(read["schema"].as_str(), Some(SCHEMA));
        drop(folder);
        Folder::prepare(&out).unwrap();
        assert!(!old.exists() && !page.exists());
    }

    #[test]
    fn trials_of_a_run_that_was_killed_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(dir.path()).unwrap();
        let old = folder.trial("001-x").unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join(RESULTS_FILE)).unwrap()).unwrap();
        assert_eq!(read, serde_json::json!({ "schema": SCHEMA, "verdict": "error" }));
        drop(folder);
        Folder::prepare(dir.path()).unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn somebody_elses_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trials")).unwrap();
        let file = dir.path().join(RESULTS_FILE);
        let content = "{\"schema\": \"something else\"}";
        fs::write(&file, content).unwrap();
        let error = Folder::prepare(dir.path()).unwrap_err();
        assert!(error.to_string().contains("results.json is none of the lab's: choose another"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        fs::remove_file(file).unwrap();
        Folder::prepare(dir.path()).unwrap();
        assert!(dir.path().join("trials").exists(), "without results it may be somebody's too");
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_a_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Folder::prepare(&file.path().join("out")).unwrap_err();
        assert!(error.to_string().ends_with("choose another folder with --out DIR"), "{error}");
    }

    #[test]
    fn runs_at_the_same_time_write_to_different_folders() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x");
        let first = Folder::prepare_default(&out).unwrap();
        assert!(matches!(Folder::prepare(&out), Err(FolderError::Busy(_))));
        let second = Folder::prepare_default(&out).unwrap();
        assert_eq!((first.path.as_path(), second.path), (out.as_path(), dir.path().join("x-2")));
        drop(first);
        assert_eq!(Folder::prepare_default(&out).unwrap().path, out);
    }
}
