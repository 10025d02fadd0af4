//! That nothing stays behind, and that what a killed run left can be told from what a live one uses.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::clean::clean;
use lab::net::Namespace;
use lab::topology::{Checksum, Family, Link, NetError, RunName, Segmentation, Topology};

use crate::support::{claim, link, namespaces_of, path_of, topology, wait_until};

/// What a child of a test is to be.
const ROLE: &str = "LAB_TOPOLOGY_TEST_ROLE";
/// The line in which the owner of a topology tells its run and the process inside.
const TOLD: &str = "owner-told:";

#[test]
#[ignore = "needs root: builds network namespaces"]
fn dropping_removes_the_namespaces_and_the_devices() {
    let (run, topology) = topology(link(Family::Ipv6), 2);
    assert_eq!(namespaces_of(run.as_str()).len(), 4);
    // Held open, the relay's namespace lives on; its devices must go with their peers.
    let relay = netns_rs::get_from_path(path_of(&run.namespace("relay"))).expect("open the namespace");
    drop(topology);
    assert_eq!(namespaces_of(run.as_str()), Vec::<String>::new());
    let devices = || relay.run(|_| devices_here()).expect("enter");
    wait_until("only the loopback device is left", || devices() == ["lo"]);
}

/// The devices of the calling thread's namespace.
fn devices_here() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("list the devices");
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_panic_removes_everything() {
    let run = claim();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let topology = Topology::build(&run, &link(Family::Ipv4), 2).expect("build");
        topology.relay_namespace().run(|| panic!("in the midst of a trial")).expect("enter");
    }));
    assert!(panicked.is_err());
    assert_eq!(namespaces_of(run.as_str()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_failure_half_way_removes_what_was_made() {
    let run = claim();
    let in_the_way = Namespace::create(&run.namespace("sink1")).expect("create");
    let error = Topology::build(&run, &link(Family::Ipv4), 3).expect_err("a name is taken");
    assert!(matches!(&error, NetError::Exists(name) if name == in_the_way.name()), "{error:?}");
    assert_eq!(namespaces_of(run.as_str()), [in_the_way.name()]);
    drop(in_the_way);

    // Later, with the cables laid: current kernels do not segment for a device that leaves no checksum to it.
    let impossible =
        Link { segmentation: Segmentation::Offload, checksum: Checksum::Wire, ..link(Family::Ipv4) };
    match Topology::build(&run, &impossible, 2) {
        Ok(built) => built.remove().expect("remove"),
        Err(error) => {
            assert!(matches!(error, NetError::OffloadRefused { .. }), "{error:?}");
            assert!(error.to_string().contains("use `segmentation = \"wire\"`"), "{error}");
        }
    }
    assert_eq!(namespaces_of(run.as_str()), Vec::<String>::new());
    Topology::build(&run, &link(Family::Ipv4), 3).expect("the name of the run can be used again");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn removing_ends_the_processes_inside() {
    let (run, topology) = topology(link(Family::Ipv4), 1);
    let mut child = topology.relay_namespace().run(|| play("occupant")).expect("enter");
    let mut bystander = play("occupant");
    topology.remove().expect("remove");
    let ended = child.wait().expect("reap");
    let spared = bystander.try_wait().expect("look").is_none();
    bystander.kill().expect("end the bystander");
    bystander.wait().expect("reap");
    assert!(!ended.success());
    assert!(spared, "a process outside was ended");
    assert_eq!(namespaces_of(run.as_str()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn clean_removes_what_a_killed_run_left_and_spares_the_living() {
    let (live_run, live) = topology(link(Family::Ipv4), 1);
    let foreign = Namespace::create(&format!("keep-{live_run}")).expect("create");
    let mut owner = play("owner");
    let (dead_run, occupant) = told(&mut owner);
    assert_eq!(namespaces_of(&dead_run).len(), 3);

    clean().expect("clean while both are alive");
    assert_eq!(namespaces_of(&dead_run).len(), 3, "a run of another process was taken for dead");
    assert!(lives_in_a_namespace(occupant));

    owner.kill().expect("kill the owner");
    owner.wait().expect("reap the owner");
    assert_eq!(namespaces_of(&dead_run).len(), 3);
    assert!(lives_in_a_namespace(occupant));
    // Somebody else may be cleaning up at the same time and be at it already: then it is theirs to finish.
    wait_until("the leftovers are removed", || {
        let cleaned = clean().expect("clean");
        assert!(cleaned.live_runs.contains(&live_run.to_string()), "{cleaned:?}");
        namespaces_of(&dead_run).is_empty()
    });
    wait_until("the mark is removed", || !mark(&dead_run).exists());
    assert!(!lives_in_a_namespace(occupant));

    assert!(path_of(foreign.name()).exists());
    assert_eq!(namespaces_of(live_run.as_str()).len(), 3);
    live.ingress.counters().expect("the live run goes on");
    live.remove().expect("remove");
    assert!(mark(live_run.as_str()).exists());
    let mark = mark(live_run.as_str());
    drop(live_run);
    assert!(!mark.exists());
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn clean_removes_what_was_killed_while_being_built() {
    for rounds in 0..8 {
        let mut builder = play("builder");
        let runs = told_by_builder(&mut builder, rounds);
        builder.kill().expect("kill the builder");
        builder.wait().expect("reap the builder");
        for run in runs {
            wait_until("the leftovers are removed", || {
                clean().expect("clean");
                namespaces_of(&run).is_empty() && !mark(&run).exists()
            });
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn clean_removes_what_has_no_mark_and_what_is_half_made() {
    let dead_run = claim().to_string();
    let unmarked = Namespace::create(&format!("lab-{dead_run}-gen")).expect("create");
    let half_made = path_of(&format!("lab-{dead_run}-relay"));
    fs::write(&half_made, "").expect("make the file that a mount was to cover");
    wait_until("both are removed", || {
        clean().expect("clean");
        namespaces_of(&dead_run).is_empty()
    });
    drop(unmarked);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_privilege_the_error_says_how() {
    // The mark of a live run lies in a folder that is closed to others, and so may be where the tests were built.
    let live = claim();
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("test");
    fs::copy(env::current_exe().expect("own path"), &program).expect("copy the test");
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open it to others");
    }
    let child = role(&program, "unprivileged").uid(65534).gid(65534).output().expect("run the child");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    drop(live);
}

#[test]
#[ignore = "a part of other tests, which start it as a process of its own"]
fn played_role() {
    match env::var(ROLE).as_deref() {
        Ok("owner") => own_a_topology(),
        Ok("builder") => build_for_ever(),
        // Ends by itself if everybody forgets it.
        Ok("occupant") => thread::sleep(Duration::from_mins(3)),
        Ok("unprivileged") => be_refused(),
        _ => {}
    }
}

fn own_a_topology() {
    let (run, topology) = topology(link(Family::Ipv4), 1);
    let mut occupant = topology.relay_namespace().run(|| play("occupant")).expect("enter");
    println!("\n{TOLD} {run} {}", occupant.id());
    // Until it is killed, or the test is gone.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(topology);
    occupant.wait().expect("reap what the topology ended");
}

/// Tells each run as it starts to build, so that a kill on hearing of one comes in the midst of it.
fn build_for_ever() {
    let mut number = 0;
    while number < 1000 {
        let run = claim();
        println!("\n{TOLD} {run} {number}");
        drop(Topology::build(&run, &link(Family::Ipv6), 4).expect("build"));
        number += 1;
    }
}

fn be_refused() {
    let sentence = "building network namespaces needs root: run with sudo";
    assert_eq!(RunName::claim().expect_err("no privilege").to_string(), sentence);
    assert_eq!(Namespace::create("lab-test").expect_err("no privilege").to_string(), sentence);
    assert_eq!(clean().expect_err("no privilege").to_string(), sentence);
}

/// Starts this program again, in a role of its own.
fn play(name: &str) -> Child {
    role(&env::current_exe().expect("own path"), name).spawn().expect("start a child")
}

fn role(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "leftovers::played_role", "--ignored", "--nocapture"]).env(ROLE, name);
    let (stdin, stdout) =
        if name == "occupant" { (Stdio::null(), Stdio::null()) } else { (Stdio::piped(), Stdio::piped()) };
    command.stdin(stdin).stdout(stdout);
    command
}

/// What the owner tells once its topology stands.
fn told(owner: &mut Child) -> (String, u32) {
    let output = BufReader::new(owner.stdout.as_mut().expect("piped"));
    let line = output.lines().map_while(Result::ok).find(|line| line.starts_with(TOLD));
    let line = line.expect("the owner tells its run");
    let mut words = line.split_whitespace().skip(1);
    let run = words.next().expect("a run").to_owned();
    (run, words.next().and_then(|pid| pid.parse().ok()).expect("a process"))
}

/// The runs a builder tells of, up to the one after `earlier` others.
fn told_by_builder(builder: &mut Child, earlier: usize) -> Vec<String> {
    let output = BufReader::new(builder.stdout.as_mut().expect("piped"));
    let lines = output.lines().map_while(Result::ok).filter(|line| line.starts_with(TOLD));
    let runs = lines.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned));
    runs.take(earlier + 1).collect()
}

/// Whether a process is there and no zombie, which has no namespace any more.
fn lives_in_a_namespace(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/ns/net")).is_ok()
}

fn mark(run: &str) -> std::path::PathBuf {
    Path::new("/run/multicast_relay-lab").join(format!("{run}.lock"))
}
