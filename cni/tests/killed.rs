//! The plugin killed at every system call of an ADD, and what is left then.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod rig;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rig::{Agent, Manner, Plugin, Pod, on_a_node, run};
use serde_json::json;

/// Far more than an ADD makes.
const MANY: usize = 5000;

/// Kills the plugin when it enters or leaves its `stop`th system call after it was given its configuration. Returns
/// whether it lived that long.
fn killed_at(plugin: &Plugin<'_>, stop: usize) -> bool {
    let mut child = plugin.spawn();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    waits_for_its_configuration(pid);
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, None).unwrap();
    plugin.configure(&mut child);
    for _ in 0..stop {
        ptrace::syscall(pid, None).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, 0) => return false,
            WaitStatus::Exited(_, status) => panic!("ended with {status}"),
            _ => {}
        }
    }
    kill(pid, Signal::SIGKILL).unwrap();
    while !matches!(waitpid(pid, None).unwrap(), WaitStatus::Signaled(..)) {}
    true
}

/// It sleeps for the first time when it reads its standard input.
fn waits_for_its_configuration(pid: Pid) {
    let end = Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ") {
        assert!(Instant::now() < end, "{pid} does not read its configuration");
        std::thread::yield_now();
    }
}

fn each_stop(clean: impl Fn(&Plugin<'_>) + Sync) {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        let agent = Agent::start(Manner::Serves, &socket, &["10.244.1.5", "fd00:10:244::5"]);
        let add = Plugin {
            command: "ADD",
            container: "c1",
            netns: &pod.path,
            socket: &socket,
            version: "1.1.0",
            more: json!({}),
        };
        let mut stops = 0;
        while killed_at(&add, stops) {
            clean(&add);
            assert_eq!(agent.held().len(), 0, "after stop {stops}");
            assert!(!run("ip", &["-o", "link"]).contains("manx"), "after stop {stops}");
            assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"), "after stop {stops}");
            stops += 1;
            assert!(stops < MANY);
        }
        assert!(stops > 100, "an ADD makes more than {stops} stops");
        clean(&add);
    });
}

fn del(add: &Plugin<'_>) {
    Plugin { command: "DEL", ..add.clone() }.succeeds();
}

#[test]
#[ignore = "needs root: make test"]
fn an_add_killed_anywhere_is_cleaned_by_the_next_del() {
    each_stop(del);
}

#[test]
#[ignore = "needs root: make test"]
fn an_add_killed_anywhere_is_cleaned_by_the_next_gc() {
    each_stop(|add| {
        let more = json!({"cni.dev/valid-attachments": []});
        Plugin { command: "GC", netns: Path::new(""), more, ..add.clone() }.succeeds();
    });
}

#[test]
#[ignore = "needs root: make test"]
fn an_add_killed_anywhere_does_not_keep_the_next_from_attaching() {
    each_stop(|add| {
        let output = add.output();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // Complete, and only its result was lost: that takes a DEL first.
        assert!(output.status.success() || said["code"] == 110, "{said}");
        del(add);
    });
}
