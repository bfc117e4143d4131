//! The plugin as a runtime calls it, with real namespaces and an agent that speaks the protocol.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;

use manx_cni::protocol::{AttachmentKey, host_ifname};
use manx_cni::released;
use rig::{Agent, Plugin, Pod, on_a_node, run};
use serde_json::json;

const DUAL_STACK: &[&str] = &["10.244.1.5", "fd00:10:244::5"];

fn key() -> AttachmentKey {
    AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() }
}

fn host_links() -> String {
    run("ip", &["-o", "link", "show"])
}

fn plugin<'a>(command: &'a str, netns: &'a Path, socket: &'a Path) -> Plugin<'a> {
    Plugin { command, netns, socket, version: "1.1.0" }
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_is_attached_reaches_its_node_in_both_families_and_is_detached() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        // As a runtime may leave it.
        pod.run("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        Agent::Serves.start(&socket, DUAL_STACK);
        let result = plugin("ADD", &pod.path, &socket).succeeds();

        let host = host_ifname(&key());
        assert_eq!(result["cniVersion"], "1.1.0");
        assert_eq!(result["interfaces"][0]["name"], host.as_str());
        assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
        assert_eq!(result["interfaces"][0].get("sandbox"), None);
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path.to_str().unwrap());
        assert_eq!(result["interfaces"][1]["mtu"], 1400);
        assert_eq!(result["ips"][1]["address"], "fd00:10:244::5/128");
        assert_eq!(result["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}));
        let mac = result["interfaces"][1]["mac"].as_str().unwrap();
        assert!(pod.run("ip", &["link", "show", "eth0"]).contains(mac));
        assert!(pod.run("ip", &["link", "show", "eth0"]).contains("mtu 1400"));
        assert!(run("ip", &["link", "show", &host]).contains("mtu 1400"));

        for node in ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"] {
            pod.run("ping", &["-c1", "-W2", node]);
        }
        for address in DUAL_STACK {
            run("ping", &["-c1", "-W2", address]);
        }
        // Nobody asked for a MAC: every entry with one is permanent.
        for neighbours in [run("ip", &["neigh"]), pod.run("ip", &["neigh"])] {
            let asked = neighbours.lines().find(|line| line.contains("REACHABLE"));
            assert_eq!(asked, None, "{neighbours}");
            assert_eq!(neighbours.matches("PERMANENT").count(), 2, "{neighbours}");
        }

        for netns in [pod.path.as_path(), pod.path.as_path(), Path::new("")] {
            plugin("DEL", netns, &socket).succeeds();
            assert!(!host_links().contains("manx"));
        }
        assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_without_ipv6_gives_its_host_end_none() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        Agent::Serves.start(&socket, &["10.244.1.5"]);
        let result = Plugin { version: "0.3.1", ..plugin("ADD", &pod.path, &socket) }.succeeds();
        assert_eq!(
            result["ips"],
            json!([{
                "version": "4", "address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1,
            }])
        );
        pod.run("ping", &["-c1", "-W2", "192.0.2.1"]);
        assert_eq!(run("ip", &["-6", "address", "show", "dev", &host_ifname(&key())]), "");
    });
}

#[test]
#[ignore = "needs root: make test"]
fn an_add_that_fails_midway_leaves_nothing() {
    for (agent, details) in
        [(Agent::RefusesReady, "as the test wants"), (Agent::EndsAfterAttach, "lost the agent")]
    {
        on_a_node(|| {
            let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
            let socket = run_dir.path().join("agent.sock");
            agent.start(&socket, DUAL_STACK);
            let error = plugin("ADD", &pod.path, &socket).fails();
            assert_eq!(error["code"], 11);
            assert!(error["details"].as_str().unwrap().contains(details), "{error}");
            assert!(!host_links().contains("manx"));
            assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"));
        });
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_interface_that_is_there_already_is_an_error_and_stays() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        Agent::Serves.start(&socket, DUAL_STACK);
        pod.run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
        let error = plugin("ADD", &pod.path, &socket).fails();
        assert_eq!(error["code"], 100);
        assert_eq!(error["details"], "interface eth0 exists already in the pod's network namespace");
        assert!(!host_links().contains("manx"));

        pod.run("ip", &["link", "delete", "eth0"]);
        plugin("ADD", &pod.path, &socket).succeeds();
        let error = plugin("ADD", &pod.path, &socket).fails();
        assert!(error["details"].as_str().unwrap().contains("this attachment was made before"), "{error}");
        assert!(host_links().contains("manx"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn without_its_agent_an_add_is_to_be_tried_again_and_a_del_leaves_a_note() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        let error = plugin("ADD", &pod.path, &socket).fails();
        assert_eq!((&error["code"], &error["msg"]), (&json!(11), &json!("try again later")));
        assert!(error["details"].as_str().unwrap().starts_with("the agent is not running"), "{error}");

        run("ip", &["link", "add", &host_ifname(&key()), "type", "veth", "peer", "name", "eth0"]);
        plugin("DEL", &pod.path, &socket).succeeds();
        assert!(!host_links().contains("manx"));
        assert_eq!(released::read(&socket).unwrap(), [key()]);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn the_nodes_own_namespace_is_no_pods() {
    on_a_node(|| {
        let run_dir = tempfile::tempdir().unwrap();
        let error = plugin("ADD", Path::new("/proc/self/ns/net"), &run_dir.path().join("agent.sock")).fails();
        assert_eq!(error["code"], 4);
        assert!(error["details"].as_str().unwrap().contains("node's own network namespace"), "{error}");
    });
}

#[test]
fn a_namespace_that_is_not_there_is_code_4_naming_the_variable() {
    let run_dir = tempfile::tempdir().unwrap();
    let error = plugin("ADD", &run_dir.path().join("gone"), &run_dir.path().join("agent.sock")).fails();
    assert_eq!(error["code"], 4);
    assert!(error["details"].as_str().unwrap().starts_with("CNI_NETNS is "), "{error}");
}

#[test]
fn called_with_nothing_set_it_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_manx")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&error["code"], &error["cniVersion"]), (&json!(4), &json!("1.1.0")));
    assert!(error["details"].as_str().unwrap().starts_with("CNI_COMMAND is not set"), "{error}");
}

#[test]
fn version_is_answered_whatever_else_is_set() {
    let run_dir = tempfile::tempdir().unwrap();
    let output =
        Plugin { version: "1.0.0", ..plugin("VERSION", Path::new("dummy"), run_dir.path()) }.succeeds();
    assert_eq!(
        output,
        json!({
            "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        })
    );
    assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
}
