//! Finding the relay's program, and building it first when the lab itself was just built by cargo.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The name of the relay's program.
const NAME: &str = "multicast_relay";

/// A relay that cannot be found or built.
#[derive(Debug, thiserror::Error)]
pub enum RelayBinaryError {
    /// The path given is no file.
    #[error("--relay {}: there is no such file", .0.display())]
    NoSuchFile(PathBuf),
    /// Neither beside the lab nor in `PATH`.
    #[error("there is no {NAME} beside {} nor in PATH: build it with `cargo build --release`, or give --relay PATH", .0.display())]
    NotFound(PathBuf),
    /// Where the lab itself is.
    #[error("find the lab's own program")]
    OwnPath(#[source] io::Error),
    /// Cargo cannot be started.
    #[error("start {} to build the relay", cargo.display())]
    Cargo {
        /// Which cargo.
        cargo: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo could not build it.
    #[error("building the relay failed: {0}")]
    Build(ExitStatus),
}

/// The relay to measure: `given`, else the one beside the lab's own program (built first when cargo runs the lab),
/// else the one in `PATH`.
pub fn find(given: Option<&Path>) -> Result<PathBuf, RelayBinaryError> {
    if let Some(given) = given {
        let missing = || RelayBinaryError::NoSuchFile(given.to_owned());
        return given.is_file().then(|| given.to_owned()).ok_or_else(missing);
    }
    let lab = env::current_exe().map_err(RelayBinaryError::OwnPath)?;
    if let Some(build) = Build::wanted(&lab) {
        build.run()?;
    }
    let sibling = lab.with_file_name(NAME);
    if sibling.is_file() {
        return Ok(sibling);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(NAME)).find(|candidate| candidate.is_file());
    found.ok_or(RelayBinaryError::NotFound(lab))
}

/// How to build the relay into the folder in which the lab is.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    cargo: PathBuf,
    arguments: Vec<String>,
}

impl Build {
    /// `cargo run` tells what it runs where it is itself and which package is run; `cargo run --bin lab` builds
    /// nothing but the lab, so that the relay beside it would be missing or old.
    fn wanted(lab: &Path) -> Option<Self> {
        let is_lab = env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == "lab");
        let cargo = env::var_os("CARGO").filter(|_| is_lab)?;
        Self::beside(lab, Path::new(&cargo), Path::new(&env::var_os("CARGO_MANIFEST_DIR")?))
    }

    /// The build that puts the relay beside `lab`, which is `<target folder>/[<target>/]<profile>/lab`.
    fn beside(lab: &Path, cargo: &Path, lab_package: &Path) -> Option<Self> {
        let profile_dir = lab.parent()?;
        let profile = match profile_dir.file_name()?.to_str()? {
            "debug" => "dev",
            other => other,
        };
        let above = profile_dir.parent()?;
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let mut arguments: Vec<_> =
            ["build", "--package", NAME, "--bin", NAME, "--profile", profile].map(str::to_owned).to_vec();
        arguments.extend(["--manifest-path".to_owned(), text(&lab_package.join("Cargo.toml"))?]);
        // Cargo marks its target folder; below it there is a folder for each target that is not the host's default.
        let is_target_dir = |dir: &Path| dir.join("CACHEDIR.TAG").is_file();
        let target_dir = if is_target_dir(above) {
            above
        } else {
            arguments.extend(["--target".to_owned(), above.file_name()?.to_str()?.to_owned()]);
            above.parent().filter(|dir| is_target_dir(dir))?
        };
        arguments.extend(["--target-dir".to_owned(), text(target_dir)?]);
        Some(Self { cargo: cargo.to_owned(), arguments })
    }

    fn run(&self) -> Result<(), RelayBinaryError> {
        // Standard output is for results.
        let mut command = Command::new(&self.cargo);
        command.args(&self.arguments).args(["--quiet"]).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command
            .status()
            .map_err(|source| RelayBinaryError::Cargo { cargo: self.cargo.clone(), source })?;
        if status.success() { Ok(()) } else { Err(RelayBinaryError::Build(status)) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn arguments(lab: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("target").join(lab);
        fs::create_dir_all(lab.parent().unwrap()).unwrap();
        fs::write(dir.path().join("target/CACHEDIR.TAG"), "").unwrap();
        let build = Build::beside(&lab, Path::new("cargo"), Path::new("/src/lab"))?;
        Some(build.arguments.join(" ").replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn the_relay_is_built_as_the_lab_was() {
        let common = "build --package multicast_relay --bin multicast_relay --profile";
        let manifest = "--manifest-path /src/lab/Cargo.toml";
        assert_eq!(
            arguments("release/lab").unwrap(),
            format!("{common} release {manifest} --target-dir /target")
        );
        assert_eq!(arguments("debug/lab").unwrap(), format!("{common} dev {manifest} --target-dir /target"));
        assert_eq!(
            arguments("x86_64-unknown-linux-musl/release/lab").unwrap(),
            format!("{common} release {manifest} --target x86_64-unknown-linux-musl --target-dir /target")
        );
        assert_eq!(arguments("a/b/c/lab"), None);
    }

    #[test]
    fn a_path_that_is_given_must_exist() {
        let error = find(Some(Path::new("/no/such/relay"))).unwrap_err();
        assert_eq!(error.to_string(), "--relay /no/such/relay: there is no such file");
        assert_eq!(find(Some(Path::new("/bin/sh"))).unwrap(), Path::new("/bin/sh"));
    }
}
