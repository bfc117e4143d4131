//! The life of a lab: brought up, shared with others, killed at any moment, and gone without a trace.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use manx_testbed::graph::Picture;
use manx_testbed::lab::{ROOT, destroy};
use manx_testbed::{Lab, LabError, Options, Topology, eventually, netns};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

fn routers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/routers.clab.yml")
}

async fn up(file: &Path, name: &str) -> Result<Lab, LabError> {
    Lab::up(&Topology::read(file)?, Options { name: Some(name.to_owned()), ..Options::default() }).await
}

/// Removes a lab at the end, also when the test panics.
struct Cleared(&'static str);

impl Drop for Cleared {
    fn drop(&mut self) {
        let _ = destroy(self.0);
    }
}

/// What is left of a lab: namespaces, files, processes that hold one of its files, mounts.
fn remains(name: &str) -> Vec<String> {
    let mut found: Vec<String> = netns::of_lab(name).into_iter().collect();
    let folder = format!("{ROOT}/{name}/");
    found.extend(Path::new(&folder).exists().then(|| folder.clone()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&format!("mx-{name}."))).map(str::to_owned));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        if targets.any(|target| target.to_string_lossy().starts_with(&folder)) {
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            found.push(format!("process {}: {command}", process.path().display()));
        }
    }
    found
}

fn host_links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_four_routers_find_each_other_and_nothing_of_them_stays() {
    let name = "life-routers";
    let _cleared = Cleared(name);
    let links = host_links();
    let lab = up(&routers(), name).await.unwrap();
    assert_eq!(host_links(), links, "nothing is made in the host's own namespace");
    let all_up = || async {
        let sessions = Picture::of_lab(&lab).await.unwrap().sessions;
        let up = sessions.values().filter(|session| session.is_up()).count();
        if up == 6 { Ok(()) } else { Err(format!("{up} of 6 sessions are up: {sessions:?}")) }
    };
    eventually(SOON, all_up).await.unwrap();
    for router in ["frr", "bird", "gobgp", "openbgpd"] {
        for daemon in lab.daemons(router).unwrap() {
            assert!(lab.pid(router, daemon).unwrap().is_some(), "{daemon} on {router}");
        }
    }
    lab.down().unwrap();
    assert_eq!(remains(name), [""; 0]);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_is_a_machine_of_its_own() {
    let name = "life-node";
    let _cleared = Cleared(name);
    let lab = up(&routers(), name).await.unwrap();
    assert_eq!(lab.run("bird", &["hostname"]).await.unwrap(), "bird\n");
    assert_eq!(lab.run("bird", &["ls", "/sys/class/net"]).await.unwrap(), "eth1\nlo\n");
    assert_eq!(lab.run("bird", &["ls", "/etc/bird"]).await.unwrap(), "bird.conf\n");
    let error = lab.run("bird", &["sh", "-c", "echo no >&2; exit 3"]).await.unwrap_err();
    assert_eq!(error.to_string(), "bird: \"sh -c echo no >&2; exit 3\" failed (exit status: 3): no");
    let error = lab.run("quagga", &["true"]).await.unwrap_err();
    assert_eq!(error.to_string(), "no node \"quagga\": there are bird, frr, gobgp, openbgpd, switch");

    lab.kill("bird", "bird", Signal::SIGKILL).unwrap();
    let gone =
        || async { lab.pid("bird", "bird").unwrap().map_or(Ok(()), |pid| Err(format!("{pid} lives"))) };
    eventually(SOON, gone).await.unwrap();
    let error = lab.kill("bird", "bird", Signal::SIGTERM).unwrap_err();
    assert_eq!(error.to_string(), "bird is not running on bird");
    lab.start_daemon("bird", "bird").await.unwrap();

    lab.stop_node("frr").await.unwrap();
    assert!(lab.run("bird", &["ping", "-c1", "-W1", "192.0.2.1"]).await.is_err());
    lab.start_node("frr").await.unwrap();
    lab.run("bird", &["ping", "-c1", "-W2", "192.0.2.1"]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn two_labs_from_one_file_live_side_by_side() {
    let names = ["life-two", "life-two-b"];
    let _cleared = names.map(Cleared);
    let file = routers();
    let (a, b) = tokio::join!(up(&file, names[0]), up(&file, names[1]));
    let (a, b) = (a.unwrap(), b.unwrap());
    let taken = up(&routers(), names[0]).await.unwrap_err();
    assert!(
        taken.to_string().contains("exists already: remove it with \"manx-lab down life-two\""),
        "{taken}"
    );
    a.run("frr", &["ip", "address", "add", "192.0.2.77/32", "dev", "lo"]).await.unwrap();
    assert!(!b.run("frr", &["ip", "address"]).await.unwrap().contains("192.0.2.77"));
    // The name of the first begins that of the second.
    a.down().unwrap();
    assert_eq!(remains(names[0]), [""; 0]);
    b.run("bird", &["birdc", "show", "status"]).await.unwrap();
    b.down().unwrap();
    assert_eq!(remains(names[1]), [""; 0]);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_program_that_does_not_start_is_told_with_its_log_and_leaves_nothing() {
    let name = "life-broken";
    let _cleared = Cleared(name);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bird.conf"), "protocol bgp { local as; }\n").unwrap();
    let file = folder.path().join("broken.clab.yml");
    let text = "name: broken\ntopology:\n  nodes:\n    b:\n      kind: linux\n      labels: {manx.io/runs: bird}\n      \
                binds: ['bird.conf:/etc/bird/bird.conf']\n";
    fs::write(&file, text).unwrap();
    let error = up(&file, name).await.unwrap_err().to_string();
    assert!(error.starts_with("bird on b ended (exit status: 1); its log"), "{error}");
    assert!(error.contains("bird.conf:1:24 syntax error"), "{error}");
    assert_eq!(remains(name), [""; 0]);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_command_of_the_file_that_fails_is_told_in_its_own_words() {
    let name = "life-exec";
    let _cleared = Cleared(name);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exec.clab.yml");
    for (command, words) in [
        (
            "ip link set eth9 up",
            "a: \"ip link set eth9 up\" failed (exit status: 1): Cannot find device \"eth9\"",
        ),
        ("quagga --yes", "a: quagga --yes: No such file or directory (os error 2)"),
    ] {
        fs::write(
            &file,
            format!("name: e\ntopology:\n  nodes:\n    a: {{kind: linux, exec: ['{command}']}}\n"),
        )
        .unwrap();
        assert_eq!(up(&file, name).await.unwrap_err().to_string(), words);
        assert_eq!(remains(name), [""; 0]);
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_lab_whose_files_are_lost_is_found_by_its_name() {
    let name = "life-lost";
    let _cleared = Cleared(name);
    let lab = up(&routers(), name).await.unwrap();
    fs::remove_dir_all(lab.folder()).unwrap();
    assert!(Lab::names().contains(&name.to_owned()));
    let error = Lab::find(name).unwrap_err().to_string();
    assert!(error.contains("remove it with \"manx-lab down life-lost\""), "{error}");
    destroy(name).unwrap();
    assert_eq!(remains(name), [""; 0]);
}

/// How far `manx-lab up` has come when it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Claimed,
    FirstNamespace,
    AllNamespaces,
    FirstProgram,
    FirstReady,
}

impl Moment {
    const ALL: [Self; 5] =
        [Self::Claimed, Self::FirstNamespace, Self::AllNamespaces, Self::FirstProgram, Self::FirstReady];

    fn reached(self, name: &str) -> bool {
        let folder = Path::new(ROOT).join(name);
        match self {
            Self::Claimed => folder.exists(),
            Self::FirstNamespace => !netns::of_lab(name).is_empty(),
            Self::AllNamespaces => netns::of_lab(name).len() == 5,
            Self::FirstProgram => folder.join("bird/bird.pid").exists(),
            Self::FirstReady => folder.join("bird/run/bird/bird.ctl").exists(),
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn killed_at_any_moment_up_leaves_nothing_that_down_does_not_find() {
    let name = "life-killed";
    let _cleared = Cleared(name);
    let start = || -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_manx-lab"));
        command.arg("up").arg(routers()).args(["--name", name]).stdout(Stdio::piped()).spawn().unwrap()
    };
    for moment in Moment::ALL {
        let mut building = start();
        let deadline = Instant::now() + SOON;
        while !moment.reached(name) {
            assert!(Instant::now() < deadline, "{moment:?} is never reached");
            std::thread::yield_now();
        }
        building.kill().unwrap();
        building.wait().unwrap();
        destroy(name).unwrap_or_else(|error| panic!("killed at {moment:?}: {error}"));
        assert_eq!(remains(name), [""; 0], "killed at {moment:?}");
    }
    let mut building = start();
    let said: Vec<String> =
        BufReader::new(building.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(building.wait().unwrap().success(), "{said:?}");
    assert!(said.last().unwrap().ends_with("lab \"life-killed\" is up"), "{said:?}");
}
