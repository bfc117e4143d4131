//! The verbs of CNI 1.1.0 by the real plugin and the real agent of a lab's node.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_cni::protocol::{AttachmentKey, host_ifname};
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually, netns};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/demo.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary()
}

/// Runs the plugin in node1; what it prints on success, or its error.
async fn cni(lab: &Lab, verb: &str, pod: Option<&PodInfo>, more: Value) -> Result<String, Value> {
    let mut config = json!({"cniVersion": "1.1.0", "name": "manx", "type": "manx"});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut argv = vec!["env".to_owned(), format!("CNI_COMMAND={verb}"), "CNI_PATH=/opt/cni/bin".to_owned()];
    if let Some(pod) = pod {
        argv.push(format!("CNI_CONTAINERID={}", pod.container_id));
        argv.push(format!("CNI_NETNS={}", netns::path(&pod.netns).display()));
        argv.push("CNI_IFNAME=eth0".to_owned());
    }
    let script = format!("printf '%s' '{config}' | {}", lab.programs().join("manx").display());
    argv.extend(["sh".to_owned(), "-c".to_owned(), script]);
    let output = lab.exec("node1", &argv).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    if output.status.success() { Ok(said) } else { Err(serde_json::from_str(&said).unwrap()) }
}

/// What the pod's ADD gave.
async fn result(lab: &Lab, pod: &PodInfo, host: &str) -> Value {
    let shown = lab.pod_run(pod, &["ip", "-j", "link", "show", "eth0"]).await.unwrap();
    let mac = serde_json::from_str::<Value>(&shown).unwrap()[0]["address"].clone();
    let ip = |address: &std::net::IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        json!({"address": format!("{address}/{length}"), "interface": 1})
    };
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": host}, {"name": "eth0", "mac": mac, "sandbox": netns::path(&pod.netns)}],
        "ips": pod.addresses.iter().map(ip).collect::<Vec<_>>(),
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
    })
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn status_check_and_gc_are_answered_by_a_nodes_agent() {
    let lab = up("cni-verbs").await;
    let ready = || async { cni(&lab, "STATUS", None, json!({})).await.map_err(|error| error.to_string()) };
    assert_eq!(eventually(SOON, ready).await.unwrap(), "");

    let pod = lab.pod_add("node1", "default", "web").await.unwrap();
    let key = AttachmentKey { container_id: pod.container_id.clone(), ifname: "eth0".to_owned() };
    let host = host_ifname(&key);
    let more = json!({"prevResult": result(&lab, &pod, &host).await});
    assert_eq!(cni(&lab, "CHECK", Some(&pod), more.clone()).await, Ok(String::new()));
    lab.pod_run(&pod, &["ip", "route", "del", "default"]).await.unwrap();
    let error = cni(&lab, "CHECK", Some(&pod), more).await.unwrap_err();
    assert_eq!(
        (&error["code"], error["details"].as_str().unwrap()),
        (&json!(102), "the container has no route to 0.0.0.0/0 by 169.254.1.1")
    );

    let kept = json!({"cni.dev/valid-attachments": [{"containerID": pod.container_id, "ifname": "eth0"}]});
    cni(&lab, "GC", None, kept).await.unwrap();
    let links = || async { lab.run("node1", &["ip", "-o", "link"]).await.unwrap() };
    assert!(links().await.contains(&host));
    cni(&lab, "GC", None, json!({"cni.dev/valid-attachments": []})).await.unwrap();
    let removed = || async {
        let report = lab.run("node1", &["manxctl", "status"]).await.unwrap();
        let links = links().await;
        let gone = !links.contains(&host) && report.contains("PODS\nnone\n");
        if gone { Ok(()) } else { Err(format!("{links}{report}")) }
    };
    eventually(SOON, removed).await.unwrap();
    lab.pod_del("default", "web").await.unwrap();

    lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
    let gone = || async {
        match cni(&lab, "STATUS", None, json!({})).await {
            Err(error) if error["code"] == 50 => Ok(error["details"].as_str().unwrap().to_owned()),
            other => Err(format!("{other:?}")),
        }
    };
    let details = eventually(SOON, gone).await.unwrap();
    assert!(details.starts_with("the agent is not running"), "{details}");
}
