//! A node, pods and an agent for the plugin's tests.
//!
//! Each is a thread in a network namespace of its own, which ends with the thread: there is nothing to clean up,
//! whatever way a test ends.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use manx_cni::netns::Netns;
use manx_cni::protocol::{Attach, PodRef, Reply, Request, host_ifname, read_frame, write_frame};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// Runs `test` in a new network namespace, the node's.
pub fn on_a_node(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let node = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
            run("ip", &["address", "add", "2001:db8::1/128", "dev", "lo"]);
            test();
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A pod's network namespace.
pub struct Pod {
    pub path: PathBuf,
    _alive: mpsc::Sender<()>,
}

impl Pod {
    pub fn new() -> Self {
        let (alive, ended) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = ended.recv();
        });
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), told.recv().unwrap());
        Self { path: path.into(), _alive: alive }
    }

    /// What `program` prints in the pod; panics when it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        Netns::open(&self.path).unwrap().run(|| run(program, args)).unwrap()
    }
}

/// What `program` prints; panics when it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// One run of the plugin.
pub struct Plugin<'a> {
    pub command: &'a str,
    pub netns: &'a Path,
    pub socket: &'a Path,
    pub version: &'a str,
}

impl Plugin<'_> {
    pub fn output(&self) -> Output {
        let config = serde_json::json!({
            "cniVersion": self.version, "name": "manx", "type": "manx", "agentSocket": self.socket,
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_manx"))
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;K8S_POD_UID=u-1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The result; panics on an error.
    pub fn succeeds(&self) -> Value {
        let output = self.output();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The error; panics on success.
    pub fn fails(&self) -> Value {
        let output = self.output();
        assert!(!output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// How the agent answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Agent {
    /// As it should.
    Serves,
    /// It routes nothing: an error in answer to Ready.
    RefusesReady,
    /// It dies once the plugin has its addresses.
    EndsAfterAttach,
}

impl Agent {
    /// Serves connections one after the other, for as long as the process lives, in the caller's namespace.
    pub fn start(self, socket: &Path, addresses: &[&str]) {
        let listener = UnixListener::bind(socket).unwrap();
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        thread::spawn(move || {
            for stream in listener.incoming() {
                self.converse(stream.unwrap(), &addresses);
            }
        });
    }

    fn converse(self, mut stream: std::os::unix::net::UnixStream, addresses: &[std::net::IpAddr]) {
        let mut attached = None;
        while let Some(request) = read_frame::<Request>(&mut stream).unwrap() {
            let reply = match request {
                Request::Add { key, pod, .. } => {
                    let expected = PodRef { namespace: "ns1".into(), name: "p1".into(), uid: "u-1".into() };
                    assert_eq!(pod, expected);
                    let routes = addresses.iter().map(|address| match address {
                        std::net::IpAddr::V4(_) => "0.0.0.0/0".parse().unwrap(),
                        std::net::IpAddr::V6(_) => "::/0".parse().unwrap(),
                    });
                    let attach = Attach {
                        host_ifname: host_ifname(&key),
                        addresses: addresses.to_vec(),
                        mtu: 1400,
                        routes: routes.collect(),
                    };
                    attached = Some(attach.clone());
                    write_frame(&mut stream, &Reply::Attach(attach)).unwrap();
                    if self == Self::EndsAfterAttach {
                        return;
                    }
                    continue;
                }
                Request::Ready { .. } if self == Self::RefusesReady => {
                    Reply::Error { code: 11, message: "no route".into(), details: "as the test wants".into() }
                }
                Request::Ready { .. } => {
                    let attach = attached.as_ref().unwrap();
                    for address in &attach.addresses {
                        run("ip", &["route", "add", &address.to_string(), "dev", &attach.host_ifname]);
                    }
                    Reply::Programmed
                }
                Request::Del { .. } => Reply::Deleted,
                Request::Status { .. } => panic!("the plugin asks for no status"),
            };
            write_frame(&mut stream, &reply).unwrap();
        }
    }
}
