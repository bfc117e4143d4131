//! The plugin first in a chain with others of the distribution, run as libcni runs one: each is given the result of the
//! one before, DEL goes backwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod rig;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use manx_cni::netns::Netns;
use manx_cni::protocol::{AttachmentKey, host_ifname};
use rig::{Agent, Manner, Pod, on_a_node, run};
use serde_json::{Value, json};

/// Where the distribution keeps them.
const OTHERS: &str = "/usr/lib/cni";

/// The chain: a port of the node led to the pod's, a rate limit, a setting of the pod's namespace.
fn chain(socket: &Path) -> Vec<Value> {
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    vec![
        json!({"type": "manx", "agentSocket": socket, "runtimeConfig": {"portMappings": mappings}}),
        json!({"type": "portmap", "runtimeConfig": {"portMappings": mappings}}),
        json!({"type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 10_000_000}),
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1350}),
    ]
}

/// Runs one plugin of the chain; panics when it fails.
fn call(command: &str, netns: &Path, plugin: &Value, previous: Option<&Value>) -> Value {
    let mut config = plugin.clone();
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "manx".into();
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    let kind = plugin["type"].as_str().unwrap();
    let program =
        if kind == "manx" { env!("CARGO_BIN_EXE_manx").to_owned() } else { format!("{OTHERS}/{kind}") };
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", OTHERS)
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;K8S_POD_UID=u-1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command} of {kind}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
#[ignore = "needs root: make test"]
fn portmap_bandwidth_and_tuning_follow_it_in_a_chain() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        let agent = Agent::start(Manner::Serves, &socket, &["10.244.1.5", "fd00:10:244::5"]);
        let host = host_ifname(&AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() });
        let chain = chain(&socket);

        let mut result = None;
        for plugin in &chain {
            result = Some(call("ADD", &pod.path, plugin, result.as_ref()));
        }
        assert_eq!(result.as_ref().unwrap()["ips"][0]["address"], "10.244.1.5/32");
        assert_eq!(pod.run("sysctl", &["-n", "net.core.somaxconn"]).trim(), "500");
        assert!(pod.run("ip", &["link", "show", "eth0"]).contains("mtu 1350"));
        assert!(run("tc", &["qdisc", "show", "dev", &host]).contains("tbf"));
        let listener =
            Netns::open(&pod.path).unwrap().run(|| TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
        let server = thread::spawn(move || listener.accept().unwrap());
        TcpStream::connect_timeout(&"192.0.2.1:8080".parse().unwrap(), Duration::from_secs(5)).unwrap();
        server.join().unwrap();

        // portmap 1.1.1 looks for the rules of IPv4 among those of IPv6, whoever made the interface.
        for plugin in chain.iter().filter(|plugin| plugin["type"] != "portmap") {
            call("CHECK", &pod.path, plugin, result.as_ref());
        }
        for plugin in chain.iter().rev() {
            call("DEL", &pod.path, plugin, result.as_ref());
        }
        assert!(agent.held().is_empty());
        assert!(!run("ip", &["-o", "link"]).contains("manx"));
        assert!(!run("iptables-save", &["-t", "nat"]).contains("8080"));
        assert!(TcpStream::connect("192.0.2.1:8080").is_err());
    });
}
