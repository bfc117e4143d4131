use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::status::NodeReport;

/// A node's directories, and an agent's with a plugin.
struct Node {
    root: TempDir,
    install: Install,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("agent")).unwrap();
        fs::write(at("agent/manx"), "plugin 1").unwrap();
        let install = Install {
            plugin: at("agent/manx"),
            bin_dir: Some(at("bin")),
            conf_dir: Some(at("net.d")),
            socket: DEFAULT_SOCKET.into(),
        };
        Self { root, install }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.root.path().join(name)).ok()
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join(directory)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A portmap that speaks these versions.
    fn portmap(&self, answer: &str) {
        fs::create_dir_all(self.root.path().join("bin")).unwrap();
        let script = format!("#!/bin/sh\ncat >/dev/null\nprintf '%s' '{answer}'\n");
        replace(&self.root.path().join("bin/portmap"), script.as_bytes(), 0o755).unwrap();
    }
}

#[test]
fn the_program_comes_first_and_the_configuration_when_ready_and_others_files_stay() {
    let node = Node::new();
    fs::create_dir(node.root.path().join("net.d")).unwrap();
    fs::write(node.root.path().join("net.d/05-other.conflist"), "theirs").unwrap();
    node.install.step(false).unwrap();
    assert_eq!(node.read("bin/manx").unwrap(), "plugin 1");
    let mode = fs::metadata(node.root.path().join("bin/manx")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(node.files("net.d"), ["05-other.conflist"]);

    node.install.step(true).unwrap();
    assert_eq!(
        (node.files("bin"), node.files("net.d")),
        (vec!["manx".to_owned()], vec!["05-other.conflist".to_owned(), "10-manx.conflist".to_owned()],)
    );
    assert_eq!(node.read("net.d/05-other.conflist").unwrap(), "theirs");
    let conflist: Value = serde_json::from_str(&node.read("net.d/10-manx.conflist").unwrap()).unwrap();
    assert_eq!(
        conflist,
        json!({
            "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": "manx",
            "plugins": [{"type": "manx", "capabilities": {"ips": true, "mac": true}}],
        })
    );
}

#[test]
fn a_new_program_replaces_the_old_at_one_stroke_and_the_same_is_not_touched() {
    use std::os::unix::fs::MetadataExt;
    let node = Node::new();
    let inode = || fs::metadata(node.root.path().join("bin/manx")).unwrap().ino();
    node.install.step(true).unwrap();
    let old = inode();
    // A runtime has it open, or runs it.
    let mut running = fs::File::open(node.root.path().join("bin/manx")).unwrap();
    node.install.step(true).unwrap();
    assert_eq!(inode(), old);
    fs::write(&node.install.plugin, "plugin 2").unwrap();
    node.install.step(true).unwrap();
    assert_ne!(inode(), old);
    assert_eq!(node.read("bin/manx").unwrap(), "plugin 2");
    assert_eq!(io::read_to_string(&mut running).unwrap(), "plugin 1");
}

#[test]
fn portmap_follows_where_the_node_has_it_in_the_versions_both_speak() {
    let node = Node::new();
    node.portmap(r#"{"cniVersion":"1.0.0","supportedVersions":["0.2.0","0.4.0","1.0.0"]}"#);
    let conflist = node.install.conflist();
    assert_eq!(conflist["cniVersions"], json!(["0.4.0", "1.0.0"]));
    assert_eq!(conflist["cniVersion"], "1.0.0");
    assert_eq!(conflist["plugins"][1], json!({"type": "portmap", "capabilities": {"portMappings": true}}));
    for answer in ["", "{}", r#"{"supportedVersions":["9.9.9"]}"#] {
        node.portmap(answer);
        let conflist = node.install.conflist();
        assert_eq!(conflist["plugins"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(conflist["cniVersions"][3], "1.1.0");
    }
    // Linked dynamically, and the image has no loader: the node starts it.
    replace(&node.root.path().join("bin/portmap"), b"#!/no/such/loader\n", 0o755).unwrap();
    let conflist = node.install.conflist();
    assert_eq!(conflist["cniVersions"], json!(["0.3.1", "0.4.0"]));
    assert_eq!(conflist["plugins"][1]["type"], "portmap");
}

#[test]
fn what_is_not_asked_for_is_not_installed_and_another_socket_is_said() {
    let mut node = Node::new();
    node.install.conf_dir = None;
    node.install.step(true).unwrap();
    assert_eq!((node.files("bin").len(), node.files("net.d").len()), (1, 0));
    node.install.socket = "/run/lab/agent.sock".into();
    assert_eq!(node.install.conflist()["plugins"][0]["agentSocket"], "/run/lab/agent.sock");
}

#[test]
fn a_failure_says_which_file_and_why() {
    let node = Node::new();
    fs::remove_file(&node.install.plugin).unwrap();
    let error = node.install.step(true).unwrap_err().to_string();
    assert!(
        error.contains("/bin/manx: reading ") && error.ends_with("No such file or directory (os error 2)"),
        "{error}"
    );
    assert_eq!(node.files("net.d"), Vec::<String>::new(), "no configuration without its program");
}

#[tokio::test]
async fn it_waits_for_the_agent_to_be_ready_and_tries_again_what_failed() {
    let node = Node::new();
    let beat = |ready| Pulse { at: Instant::now(), report: NodeReport { ready, ..NodeReport::default() } };
    let (pulse, receiver) = watch::channel(beat(false));
    fs::rename(&node.install.plugin, node.root.path().join("agent/later")).unwrap();
    let running = tokio::spawn(node.install.clone().run(receiver));
    let until = async |name: &str, ready: bool| {
        let end = Instant::now() + Duration::from_secs(10);
        while node.read(name).is_none() {
            assert!(Instant::now() < end, "no {name}");
            pulse.send_replace(beat(ready));
            tokio::task::yield_now().await;
        }
    };
    fs::rename(node.root.path().join("agent/later"), &node.install.plugin).unwrap();
    until("bin/manx", false).await;
    assert_eq!(node.files("net.d"), Vec::<String>::new());
    until("net.d/10-manx.conflist", true).await;
    running.abort();
}
