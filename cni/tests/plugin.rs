//! The plugin as a runtime calls it, with real namespaces and an agent that speaks the protocol.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;

use manx_cni::protocol::{AttachmentKey, host_ifname};
use manx_cni::released;
use rig::{Agent, Held, Manner, Plugin, Pod, on_a_node, run};
use serde_json::json;

const DUAL_STACK: &[&str] = &["10.244.1.5", "fd00:10:244::5"];

fn key() -> AttachmentKey {
    AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() }
}

fn host_links() -> String {
    run("ip", &["-o", "link", "show"])
}

fn plugin<'a>(command: &'a str, netns: &'a Path, socket: &'a Path) -> Plugin<'a> {
    Plugin { command, container: "c1", netns, socket, version: "1.1.0", more: json!({}) }
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_is_attached_reaches_its_node_in_both_families_and_is_detached() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        // As a runtime may leave it.
        pod.run("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        Agent::start(Manner::Serves, &socket, DUAL_STACK);
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

        for netns in [pod.path.as_path(), pod.path.as_path(), Path::new("/run/netns/gone"), Path::new("")] {
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
        Agent::start(Manner::Serves, &socket, &["10.244.1.5"]);
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
    for (manner, details) in
        [(Manner::RefusesReady, "as the test wants"), (Manner::EndsAfterAttach, "lost the agent")]
    {
        on_a_node(|| {
            let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
            let socket = run_dir.path().join("agent.sock");
            Agent::start(manner, &socket, DUAL_STACK);
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
        let agent = Agent::start(Manner::Serves, &socket, DUAL_STACK);
        pod.run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
        let error = plugin("ADD", &pod.path, &socket).fails();
        assert_eq!(error["code"], 100);
        assert_eq!(error["details"], "interface eth0 exists already in the pod's network namespace");
        assert!(!host_links().contains("manx"));

        pod.run("ip", &["link", "delete", "eth0"]);
        plugin("ADD", &pod.path, &socket).succeeds();
        // Served after the one that failed, so that has been heard.
        assert_eq!(agent.failures(), ["interface eth0 exists already in the pod's network namespace"]);
        let error = plugin("ADD", &pod.path, &socket).fails();
        assert_eq!((&error["code"], &error["msg"]), (&json!(110), &json!("is already attached")));
        // An agent that has forgotten it says nothing against it.
        fs::remove_file(&socket).unwrap();
        Agent::start(Manner::Serves, &socket, DUAL_STACK);
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
        let output = plugin("DEL", &pod.path, &socket).output();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.starts_with("manx: DEL of eth0 of c1: the agent is not running"), "{log}");
        assert!(!host_links().contains("manx"));
        assert_eq!(released::read(&socket).unwrap(), [key()]);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn pods_that_start_and_end_at_the_same_time_do_not_disturb_each_other() {
    const PODS: usize = 8;
    on_a_node(|| {
        let run_dir = tempfile::tempdir().unwrap();
        let socket = run_dir.path().join("agent.sock");
        let agent = Agent::start(Manner::Serves, &socket, &[]);
        let pods: Vec<_> =
            (0..PODS).map(|i| (format!("c{i}"), format!("10.244.1.{i}"), Pod::new())).collect();
        let start = |command: &'static str| {
            let spawn = |(container, ip, pod): &(String, String, Pod)| {
                // Keys of no concern to a plugin, as containerd leaves one in.
                let more = json!({
                    "runtimeConfig": {"ips": [ip]}, "capabilities": {"ips": true}, "x-of-somebody": [1],
                });
                let plugin =
                    Plugin { command, container, netns: &pod.path, socket: &socket, version: "1.1.0", more };
                let mut child = plugin.spawn();
                plugin.configure(&mut child);
                child
            };
            let children: Vec<_> = pods.iter().map(spawn).collect();
            for child in children {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        };
        start("ADD");
        assert_eq!(host_links().matches(": manx").count(), PODS);
        for (_, ip, pod) in &pods {
            assert!(pod.run("ip", &["-o", "address", "show", "dev", "eth0"]).contains(ip));
            run("ping", &["-c1", "-W2", ip]);
        }
        start("DEL");
        assert_eq!((host_links().matches(": manx").count(), agent.held().len()), (0, 0));
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
fn a_namespace_that_is_not_there_or_is_a_file_is_code_4_naming_the_variable() {
    let run_dir = tempfile::tempdir().unwrap();
    let file = run_dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (netns, words) in [
        (run_dir.path().join("gone"), "it cannot be opened"),
        (file, "that is a file, not a network namespace"),
    ] {
        let error = plugin("ADD", &netns, &run_dir.path().join("agent.sock")).fails();
        assert_eq!(error["code"], 4);
        let details = error["details"].as_str().unwrap();
        assert!(details.starts_with("CNI_NETNS is ") && details.contains(words), "{error}");
    }
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

#[test]
#[ignore = "needs root: make test"]
fn a_check_says_nothing_of_a_pod_as_it_was_made_and_names_what_is_not() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        Agent::start(Manner::Serves, &socket, DUAL_STACK);
        let host = host_ifname(&key());
        let differs = |version: &str, result: &serde_json::Value| {
            let more = json!({"prevResult": result});
            let output = Plugin { more, version, ..plugin("CHECK", &pod.path, &socket) }.output();
            if output.status.success() {
                assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
                return String::new();
            }
            let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(error["code"], 102, "{error}");
            error["details"].as_str().unwrap().to_owned()
        };
        for version in ["0.4.0", "1.0.0"] {
            let result = Plugin { version, ..plugin("ADD", &pod.path, &socket) }.succeeds();
            assert_eq!(differs(version, &result), "");
            plugin("DEL", &pod.path, &socket).succeeds();
        }
        let result = plugin("ADD", &pod.path, &socket).succeeds();
        assert_eq!(differs("1.1.0", &result), "");

        // Each broken and mended by hand.
        let cases: [(&[&str], &[&str], bool, &str); 5] = [
            (
                &["neigh", "del", "169.254.1.1", "dev", "eth0"],
                &["neigh", "add", "169.254.1.1", "lladdr", "ee:ee:ee:ee:ee:ee", "dev", "eth0"],
                true,
                "eth0 has no permanent neighbour 169.254.1.1",
            ),
            (
                &["route", "del", "default"],
                &["route", "add", "default", "via", "169.254.1.1", "dev", "eth0"],
                true,
                "the container has no route to 0.0.0.0/0 by 169.254.1.1",
            ),
            (
                &["address", "del", "fd00:10:244::5/128", "dev", "eth0"],
                &["address", "add", "fd00:10:244::5/128", "dev", "eth0", "nodad"],
                true,
                "eth0 has no usable address fd00:10:244::5/128",
            ),
            (
                &["route", "del", "10.244.1.5"],
                &["route", "add", "10.244.1.5", "dev", &host],
                false,
                &format!("the node's route to 10.244.1.5 does not lead to {host}"),
            ),
            (
                &["link", "set", &host, "mtu", "1390"],
                &["link", "set", &host, "mtu", "1400"],
                false,
                &format!("{host} has an MTU of 1390, not 1400"),
            ),
        ];
        for (break_it, mend_it, inside, words) in cases {
            let ip = |args| if inside { pod.run("ip", args) } else { run("ip", args) };
            ip(break_it);
            assert_eq!(differs("1.1.0", &result), words);
            ip(mend_it);
            assert_eq!(differs("1.1.0", &result), "", "{mend_it:?}");
        }

        plugin("DEL", &pod.path, &socket).succeeds();
        let more = json!({"prevResult": result});
        let error = Plugin { more, ..plugin("CHECK", &pod.path, &socket) }.fails();
        assert_eq!((&error["code"], &error["msg"]), (&json!(3), &json!("unknown container")));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_gc_ends_what_the_runtime_does_not_name_and_only_of_its_network() {
    on_a_node(|| {
        let run_dir = tempfile::tempdir().unwrap();
        let socket = run_dir.path().join("agent.sock");
        let agent = Agent::start(Manner::Serves, &socket, &["10.244.1.5"]);
        let pods: Vec<_> = (0..4).map(|_| Pod::new()).collect();
        for (pod, (container, network, ip)) in pods.iter().zip([
            ("a", "manx", "10.244.1.1"),
            ("b", "manx", "10.244.1.2"),
            ("c", "manx", "10.244.1.3"),
            ("d", "other", "10.244.1.4"),
        ]) {
            let more = json!({"name": network, "runtimeConfig": {"ips": [ip]}});
            Plugin { container, more, ..plugin("ADD", &pod.path, &socket) }.succeeds();
        }
        let gc = |valid: serde_json::Value| {
            let more = json!({"cni.dev/valid-attachments": valid});
            Plugin { more, ..plugin("GC", Path::new(""), &socket) }.succeeds();
            agent.held().into_keys().map(|key| key.container_id).collect::<Vec<_>>()
        };
        let named = |container: &str| json!({"containerID": container, "ifname": "eth0"});
        assert_eq!(gc(json!([named("a"), named("b"), named("c")])), ["a", "b", "c", "d"]);
        assert_eq!(gc(json!([named("b"), named("gone")])), ["b", "d"]);
        assert_eq!(host_links().matches("manx").count(), 2);
        assert_eq!(gc(json!([])), ["d"]);
        assert_eq!(gc(json!(null)), ["d"]);
        assert_eq!(host_links().matches("manx").count(), 1);

        let error = plugin("GC", Path::new(""), &socket).fails();
        assert_eq!(error["code"], 7);
        assert!(error["details"].as_str().unwrap().starts_with("cni.dev/valid-attachments is not set"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_gc_goes_on_past_errors_and_tells_them_all() {
    on_a_node(|| {
        let run_dir = tempfile::tempdir().unwrap();
        let socket = run_dir.path().join("agent.sock");
        Agent::start(Manner::RefusesDel, &socket, &["10.244.1.5"]);
        let pods = [Pod::new(), Pod::new()];
        for (pod, (container, ip)) in pods.iter().zip([("a", "10.244.1.1"), ("b", "10.244.1.2")]) {
            let more = json!({"runtimeConfig": {"ips": [ip]}});
            Plugin { container, more, ..plugin("ADD", &pod.path, &socket) }.succeeds();
        }
        let more = json!({"cni.dev/valid-attachments": []});
        let error = Plugin { more, ..plugin("GC", Path::new(""), &socket) }.fails();
        assert_eq!(
            (&error["code"], &error["msg"]),
            (&json!(11), &json!("2 of 2 stale attachments could not be removed"),)
        );
        assert_eq!(
            error["details"],
            "eth0 of a: not now: as the test wants; eth0 of b: not now: as the test wants"
        );
        assert!(!host_links().contains("manx"));
    });
}

#[test]
fn a_status_is_nothing_or_code_50_with_the_reason() {
    let run_dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| run_dir.path().join(name);
    let error = plugin("STATUS", Path::new(""), &socket("none.sock")).fails();
    assert_eq!(error["code"], 50);
    assert!(error["details"].as_str().unwrap().starts_with("the agent is not running"), "{error}");
    Agent::start(Manner::Exhausted, &socket("full.sock"), &[]);
    let error = plugin("STATUS", Path::new(""), &socket("full.sock")).fails();
    assert_eq!((&error["code"], &error["msg"]), (&json!(50), &json!("pool exhausted")));
    Agent::start(Manner::Serves, &socket("agent.sock"), &[]);
    plugin("STATUS", Path::new(""), &socket("agent.sock")).succeeds();
}

#[test]
fn a_status_waits_for_an_agent_that_is_being_restarted() {
    let run_dir = tempfile::tempdir().unwrap();
    let socket = run_dir.path().join("agent.sock");
    let status = plugin("STATUS", Path::new(""), &socket);
    let mut child = status.spawn();
    status.configure(&mut child);
    // Asleep between two attempts.
    let state = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&state).unwrap().contains("(manx) S") {
        assert_eq!(child.try_wait().unwrap(), None);
    }
    Agent::start(Manner::Serves, &socket, &[]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_verb_younger_than_the_configuration_is_code_1() {
    let run_dir = tempfile::tempdir().unwrap();
    for (command, version, since) in
        [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")]
    {
        let error = Plugin { version, ..plugin(command, Path::new("/n"), run_dir.path()) }.fails();
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(1), &json!(version)));
        assert_eq!(error["details"], format!("cniVersion is {version}; {command} came with {since}"));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn mtu_dns_addresses_and_mac_are_as_the_configuration_and_the_runtime_ask() {
    on_a_node(|| {
        let (run_dir, pod) = (tempfile::tempdir().unwrap(), Pod::new());
        let socket = run_dir.path().join("agent.sock");
        let agent = Agent::start(Manner::Serves, &socket, DUAL_STACK);
        let dns =
            json!({"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"]});
        let more = json!({
            "mtu": 1300, "dns": dns,
            "runtimeConfig": {
                "ips": ["10.244.1.77/24"], "mac": "02:00:00:00:00:77", "portMappings": [{"hostPort": 80}],
            },
        });
        let result = Plugin { more, ..plugin("ADD", &pod.path, &socket) }.succeeds();
        assert_eq!(result["dns"], dns);
        assert_eq!(result["ips"][0]["address"], "10.244.1.77/32");
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:77");
        let shown = pod.run("ip", &["-o", "link", "show", "eth0"]);
        assert!(shown.contains("mtu 1300") && shown.contains("02:00:00:00:00:77"), "{shown}");
        pod.run("ping", &["-c1", "-W2", "192.0.2.1"]);
        let held = Held {
            network: "manx".into(),
            addresses: vec!["10.244.1.77".parse().unwrap()],
            host_ifindex: agent.held()[&key()].host_ifindex,
        };
        assert_eq!(agent.held()[&key()], held);
        plugin("DEL", &pod.path, &socket).succeeds();
    });
}

#[test]
fn after_another_plugin_it_is_refused_in_words() {
    let run_dir = tempfile::tempdir().unwrap();
    let more = json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": []}});
    let error = Plugin { more, ..plugin("ADD", Path::new("/n"), run_dir.path()) }.fails();
    assert_eq!(error["code"], 7);
    assert!(error["details"].as_str().unwrap().contains("must be the first plugin of its list"), "{error}");
}
