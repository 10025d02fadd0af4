use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use tokio::runtime::{Builder, Runtime};

use super::super::ControlServer;
use super::{Owner, folder_fault};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn folders_that_somebody_else_can_change_are_refused() {
    let own = Owner { user: 990, group: 980 };
    for (user, group, mode, part) in [
        (990, 980, 0o750, None),
        (0, 0, 0o755, None),
        (990, 980, 0o770, None),
        (990, 0, 0o775, None),
        (1_000, 980, 0o750, Some("belongs to user 1000: take one of root or of user 990")),
        (0, 0, 0o1777, Some("by everybody")),
        (990, 1_000, 0o770, Some("by group 1000")),
    ] {
        let fault = folder_fault(Owner { user, group }, mode, own);
        let expected = fault
            .as_deref()
            .zip(part)
            .map_or(fault.is_none() && part.is_none(), |(fault, part)| fault.contains(part));
        assert!(expected, "{fault:?} is not about {part:?}");
    }
}

fn bind(path: &Path) -> Result<ControlServer, String> {
    ControlServer::bind(path).map_err(|error| error.to_string())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_socket_is_made_with_its_folder_and_removed_at_the_end() {
    let runtime = runtime();
    let _context = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/control.sock");
    let server = bind(&path).unwrap();
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o750, 0o660));
    let error = bind(&path).unwrap_err();
    assert!(error.contains(&format!("process {} listens there already", std::process::id())), "{error}");
    assert!(path.exists(), "who comes too late takes nothing away");
    drop(server);
    assert!(!path.exists());
    drop(bind(&path).unwrap());
    assert!(
        bind(&folder.path().join("no/such/control.sock"))
            .unwrap_err()
            .contains("make the folder above it first")
    );
    assert!(bind(&folder.path().join("x".repeat(200))).unwrap_err().contains("SUN_LEN"));
}

#[test]
fn what_is_there_is_replaced_only_if_it_is_a_dead_socket() {
    let runtime = runtime();
    let _context = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let foreign = UnixListener::bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(error.contains(&format!("process {} listens there already", std::process::id())), "{error}");
    drop(foreign);
    let server = bind(&path).unwrap();
    // Somebody else has put a file in its place: it is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    drop(server);
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    assert!(bind(&path).unwrap_err().contains("is no socket"));
    fs::remove_file(&path).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(error.contains("can be written to by everybody"), "{error}");
}

#[test]
fn of_many_supervisors_one_gets_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/control.sock");
    for _ in 0..20 {
        let (begin, end) = (Barrier::new(8), Barrier::new(8));
        let contend = || {
            let runtime = runtime();
            let _context = runtime.enter();
            begin.wait();
            let server = bind(&path);
            end.wait();
            match server {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.contains("listens there already"), "{error}");
                    false
                }
            }
        };
        let won = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(contend)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }
}
