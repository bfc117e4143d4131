//! The network namespaces of labs: how they are named, who lives in them, and how they end.
//!
//! ```text
//!   mx-<lab>.<node>                       a node
//!   mx-<lab>.<node>.<namespace>.<pod>     a pod of it
//! ```
//!
//! Neither lab nor node names hold a dot, so a lab's namespaces are told apart by their names alone:
//! what a lost state file or a killed `manx-lab up` leaves is found again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where iproute2 keeps named network namespaces.
pub const DIR: &str = "/run/netns";

const PREFIX: &str = "mx-";

/// Set to the lab's name in the environment of every process a lab starts.
pub(crate) const MARK: &str = "MANX_LAB_PROCESS";

/// Name of a node's namespace.
pub fn of_node(lab: &str, node: &str) -> String {
    format!("{PREFIX}{lab}.{node}")
}

/// Name of a pod's namespace.
pub fn of_pod(lab: &str, node: &str, namespace: &str, pod: &str) -> String {
    format!("{PREFIX}{lab}.{node}.{namespace}.{pod}")
}

/// The file of a namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// The namespaces there are of a lab, sorted.
pub fn of_lab(lab: &str) -> BTreeSet<String> {
    let prefix = format!("{PREFIX}{lab}.");
    all().into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// The labs that have a namespace.
pub fn labs() -> BTreeSet<String> {
    let names = all();
    let labs = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.split_once('.'));
    labs.map(|(lab, _)| lab.to_owned()).collect()
}

fn all() -> Vec<String> {
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The processes that live in any of these namespaces.
fn inhabitants(names: &BTreeSet<String>) -> Vec<Pid> {
    let inodes = names.iter().filter_map(|name| fs::metadata(path(name)).ok()).map(|metadata| metadata.ino());
    let inodes: BTreeSet<u64> = inodes.collect();
    all_processes()
        .filter(|pid| namespace_of(pid.as_raw()).is_some_and(|inode| inodes.contains(&inode)))
        .collect()
}

/// The processes that a lab started, wherever they live: those that build it are still outside.
fn started_by(lab: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={lab}");
    let marked = |pid: &Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    all_processes().filter(marked).collect()
}

fn all_processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// Whether a process lives in a namespace; a zombie no longer does.
pub fn lives_in(pid: Pid, name: &str) -> bool {
    let home = fs::metadata(path(name)).map(|metadata| metadata.ino()).ok();
    home.is_some() && namespace_of(pid.as_raw()) == home
}

fn namespace_of(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|metadata| metadata.ino())
}

/// Kills everything a lab started or that lives in its namespaces, and removes these. Their links go
/// with them.
///
/// # Errors
/// A process that does not die within 5 s, or a namespace that cannot be removed.
pub fn destroy_lab(lab: &str) -> io::Result<()> {
    kill_all(|| [started_by(lab), inhabitants(&of_lab(lab))].concat())?;
    of_lab(lab).iter().try_for_each(|name| remove(name))
}

/// Kills everything that lives in a namespace, and removes it.
///
/// # Errors
/// As [`destroy_lab`].
pub fn destroy(name: &str) -> io::Result<()> {
    let only = [name.to_owned()].into();
    kill_all(|| inhabitants(&only))?;
    remove(name)
}

/// Looks again until nothing is found: what is about to die may have had a child meanwhile.
fn kill_all(find: impl Fn() -> Vec<Pid>) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut living = find();
        living.retain(|pid| *pid != Pid::this());
        if living.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<_> = living.iter().map(ToString::to_string).collect();
            return Err(io::Error::other(format!("processes {} survive SIGKILL", pids.join(", "))));
        }
        for pid in living {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove(name: &str) -> io::Result<()> {
    let file = path(name);
    match umount2(&file, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, left by an `ip netns add` killed before it mounted.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
