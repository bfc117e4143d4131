//! A lab's node as a container runtime sees it: a machine with process ids, `/var/lib` and `/run/netns` of its own, so
//! that all the runtime starts and keeps ends with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use manx_testbed::{Lab, eventually};
use tokio::process::Child;

/// For whatever a runtime is asked to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `cgroups(7)` mounts, in either version.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The machine; its processes end with this.
pub struct Machine<'a> {
    lab: &'a Lab,
    node: &'a str,
    first: Option<Child>,
}

impl<'a> Machine<'a> {
    /// Boots it with `program` as its only process.
    pub async fn boot(lab: &'a Lab, node: &'a str, program: &[&str]) -> Self {
        let script = "mount -t tmpfs none /var/lib && mount -t tmpfs none /run/netns && : >/run/booted \
                      && exec \"$@\" >>/run/machine.log 2>&1";
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let argv = [&unshare[..], &["sh", "-ec", script, "sh"], program].concat();
        let machine = Self { lab, node, first: Some(lab.spawn(node, &argv).unwrap()) };
        let booted = machine.run_folder().join("booted");
        let ready = || async {
            fs::metadata(&booted).map(drop).map_err(|error| format!("{}: {error}", booted.display()))
        };
        eventually(PATIENCE, ready).await.unwrap();
        machine
    }

    /// The node's `/run`.
    pub fn run_folder(&self) -> PathBuf {
        self.lab.node_folder(self.node).join("run")
    }

    /// What a command in the machine printed, or the error with what it said.
    pub async fn exec(&self, command: &[&str]) -> Result<String, String> {
        let pid = self.first.as_ref().and_then(Child::id).expect("it lives as long as this");
        let mounts = format!("--mount=/proc/{pid}/ns/mnt");
        let pids = format!("--pid=/proc/{pid}/ns/pid_for_children");
        let argv = [&["nsenter", mounts.as_str(), pids.as_str(), "--"], command].concat();
        self.lab.run(self.node, &argv).await.map_err(|error| error.to_string())
    }

    /// As [`Machine::exec`]; panics on an error, with the end of what the machine's program said.
    pub async fn run(&self, command: &[&str]) -> String {
        self.exec(command).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// The end of what the machine's program said.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.run_folder().join("machine.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The cgroup its containers are to be in.
    pub fn cgroup(&self) -> String {
        format!("/manx-lab-{}", self.lab.name())
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(mut first) = self.first.take() {
            // Those that are killed with it are gone a moment later; a cgroup is kept by the last of them.
            let _ = first.start_kill();
        }
        let name = self.cgroup();
        let name = Path::new(&name).strip_prefix("/").expect("an absolute path");
        let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
            remove(&hierarchy.join(name));
        }
    }
}

/// Removes a cgroup and those below it, when nobody is in them any more.
fn remove(cgroup: &Path) {
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
    // What is not there need not be removed, and one that is still used is found by whoever looks for it.
    for _ in 0..100 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}
