//! A node, pods and an agent for the plugin's tests.
//!
//! Each is a thread in a network namespace of its own, which ends with the thread: there is nothing to clean up,
//! whatever way a test ends.

#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use manx_cni::netns::Netns;
use manx_cni::protocol::{
    Attach, Attached, AttachmentKey, PodRef, Reply, Request, host_ifname, read_frame, write_frame,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

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
#[derive(Clone)]
pub struct Plugin<'a> {
    pub command: &'a str,
    pub container: &'a str,
    pub netns: &'a Path,
    pub socket: &'a Path,
    pub version: &'a str,
    /// Keys of the configuration besides those that every run has.
    pub more: Value,
}

impl Plugin<'_> {
    fn config(&self) -> Value {
        let mut config = json!({
            "cniVersion": self.version, "name": "manx", "type": "manx", "agentSocket": self.socket,
        });
        for (key, value) in self.more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    /// The process, which waits for its configuration.
    pub fn spawn(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_manx"))
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;K8S_POD_UID=u-1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Gives a process its configuration, and no more.
    pub fn configure(&self, child: &mut Child) {
        child.stdin.take().unwrap().write_all(self.config().to_string().as_bytes()).unwrap();
    }

    pub fn output(&self) -> Output {
        let mut child = self.spawn();
        self.configure(&mut child);
        child.wait_with_output().unwrap()
    }

    /// The result, null where there is none; panics on an error, and on a result of a verb that has none.
    pub fn succeeds(&self) -> Value {
        let output = self.output();
        assert!(output.status.success(), "{output:?}");
        let speaks = matches!(self.command, "ADD" | "VERSION");
        assert_eq!(speaks, !output.stdout.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The error; panics on success.
    pub fn fails(&self) -> Value {
        let output = self.output();
        assert!(!output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// How the agent answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    /// As it should.
    Serves,
    /// It routes nothing: an error in answer to Ready.
    RefusesReady,
    /// It dies once the plugin has its addresses.
    EndsAfterAttach,
    /// It ends no attachment.
    RefusesDel,
    /// It says that its pool is exhausted.
    Exhausted,
}

/// An attachment as the agent holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub network: String,
    pub addresses: Vec<IpAddr>,
    /// None until the plugin has said that the veth stands.
    pub host_ifindex: Option<u32>,
}

/// An agent that keeps the protocol, one connection after the other, in the namespace it was started in, for as long
/// as the process lives.
#[derive(Clone)]
pub struct Agent {
    manner: Manner,
    addresses: Vec<IpAddr>,
    held: Arc<Mutex<BTreeMap<AttachmentKey, Held>>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    pub fn start(manner: Manner, socket: &Path, addresses: &[&str]) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let agent = Self { manner, addresses, held: Arc::default(), failures: Arc::default() };
        let serving = agent.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serving.converse(stream.unwrap());
            }
        });
        agent
    }

    pub fn held(&self) -> BTreeMap<AttachmentKey, Held> {
        self.held.lock().unwrap().clone()
    }

    /// What plugins said they could not do.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    /// Serves until the plugin ends, whatever way.
    fn converse(&self, mut stream: UnixStream) {
        let mut adding = None;
        while let Ok(Some(request)) = read_frame::<Request>(&mut stream) {
            if let Request::Failed { why } = request {
                self.failures.lock().unwrap().push(why);
                continue;
            }
            let reply = self.answer(request, &mut adding);
            let ended = self.manner == Manner::EndsAfterAttach && matches!(reply, Reply::Attach(_));
            if write_frame(&mut stream, &reply).is_err() || ended {
                break;
            }
            if reply == Reply::Programmed {
                adding = None;
            }
        }
        // An ADD that did not get to its end: undone, once its interface is gone.
        if let Some(key) = adding {
            let mut held = self.held.lock().unwrap();
            if !run("ip", &["-o", "link"]).contains(&host_ifname(&key)) {
                held.remove(&key);
            } else if let Some(held) = held.get_mut(&key) {
                held.host_ifindex = None;
            }
        }
    }

    fn answer(&self, request: Request, adding: &mut Option<AttachmentKey>) -> Reply {
        let error = |code, message: &str| Reply::Error {
            code,
            message: message.to_owned(),
            details: "as the test wants".to_owned(),
        };
        match request {
            Request::Add { key, pod, network, ips, .. } => {
                let expected = PodRef { namespace: "ns1".into(), name: "p1".into(), uid: "u-1".into() };
                assert_eq!(pod, expected);
                self.add(key, network, ips, adding)
            }
            Request::Ready { .. } if self.manner == Manner::RefusesReady => error(11, "no route"),
            Request::Ready { host_ifindex, .. } => self.ready(adding.as_ref().unwrap(), host_ifindex),
            Request::Del { .. } if self.manner == Manner::RefusesDel => error(11, "not now"),
            Request::Del { key, .. } => {
                self.held.lock().unwrap().remove(&key);
                // The agent of a node does this later; who looks next need not wait for it here.
                let _ = Command::new("ip").args(["link", "del", &host_ifname(&key)]).output().unwrap();
                Reply::Deleted
            }
            Request::Check { key, .. } => match self.held.lock().unwrap().get(&key) {
                Some(Held { addresses, host_ifindex: Some(index), .. }) => {
                    Reply::Attached(Attached { addresses: addresses.clone(), host_ifindex: *index })
                }
                _ => error(3, "unknown container"),
            },
            Request::Gc { network, valid, .. } => {
                let held = self.held.lock().unwrap();
                let stale = held.iter().filter(|(key, held)| held.network == network && !valid.contains(key));
                Reply::Stale { attachments: stale.map(|(key, _)| key.clone()).collect() }
            }
            Request::NodeReady { .. } if self.manner == Manner::Exhausted => error(50, "pool exhausted"),
            Request::NodeReady { .. } => Reply::NodeReady,
            Request::Failed { .. }
            | Request::Status { .. }
            | Request::Free { .. }
            | Request::Explain { .. }
            | Request::Policy { .. } => {
                panic!("not a question of the plugin's")
            }
        }
    }

    fn add(
        &self,
        key: AttachmentKey,
        network: String,
        ips: Vec<IpAddr>,
        adding: &mut Option<AttachmentKey>,
    ) -> Reply {
        let mut held = self.held.lock().unwrap();
        if held.get(&key).is_some_and(|held| held.host_ifindex.is_some()) {
            let message = "is already attached".to_owned();
            return Reply::Error { code: 110, message, details: String::new() };
        }
        let addresses = if ips.is_empty() { self.addresses.clone() } else { ips };
        let fresh = Held { network, addresses: addresses.clone(), host_ifindex: None };
        let replaces = held.insert(key.clone(), fresh).is_some();
        let any = |address: &IpAddr| if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let routes = addresses.iter().map(|address| any(address).parse().unwrap()).collect();
        let attach = Attach { host_ifname: host_ifname(&key), addresses, mtu: 1400, routes, replaces };
        *adding = Some(key);
        Reply::Attach(attach)
    }

    fn ready(&self, key: &AttachmentKey, host_ifindex: u32) -> Reply {
        let mut held = self.held.lock().unwrap();
        let held = held.get_mut(key).unwrap();
        for address in &held.addresses {
            let args = ["route", "add", &address.to_string(), "dev", &host_ifname(key)];
            let output = Command::new("ip").args(args).output().unwrap();
            if !output.status.success() {
                let details = String::from_utf8_lossy(&output.stderr).into_owned();
                return Reply::Error { code: 11, message: "no route".to_owned(), details };
            }
        }
        held.host_ifindex = Some(host_ifindex);
        Reply::Programmed
    }
}
