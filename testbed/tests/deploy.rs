//! What is in `deploy/`: every overlay, as kubectl builds and applies it.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

#[path = "deploy/admission.rs"]
mod admission;
#[path = "deploy/monitoring.rs"]
mod monitoring;
#[path = "deploy/rules.rs"]
mod rules;

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use manx_felix::crd::{BGPConfiguration, BGPPeer};
use manx_ipam::crd::{IPAMBlock, IPPool};
use manx_testbed::apiserver::{ApiServer, Https, Running};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const OVERLAYS: [&str; 5] = ["mesh", "tor", "reflectors", "dual-stack", "unnumbered"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    said
}

/// The documents of a kustomization.
fn build(folder: &Path) -> Vec<Value> {
    let text = kubectl(&["kustomize", &folder.to_string_lossy()]);
    serde_saphyr::from_multiple(&text).unwrap()
}

/// Every field of the written value that the type did not read, or read as something else.
fn unread(path: &str, written: &Value, read: &Value, found: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                unread(&format!("{path}.{name}"), value, read.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                unread(&format!("{path}[{index}]"), written, read, found);
            }
        }
        // An empty list or map may be read as none.
        (Value::Object(map), Value::Null) if map.is_empty() => {}
        (Value::Array(list), Value::Null) if list.is_empty() => {}
        // The bounds of a schema are floating-point numbers.
        (Value::Number(written), Value::Number(read)) if written.as_f64() == read.as_f64() => {}
        (written, read) if written == read => {}
        (written, read) => found.push(format!("{path}: {written} was read as {read}")),
    }
}

fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match serde_json::from_value::<T>(document.clone()) {
        Ok(read) => unread("", document, &serde_json::to_value(&read).unwrap(), &mut found),
        Err(error) => found.push(error.to_string()),
    }
    found
}

#[test]
fn every_document_is_what_its_kind_says_without_a_field_too_many() {
    let folders = OVERLAYS.map(|overlay| deploy().join("overlays").join(overlay));
    let others = ["crds", "uninstall", "containerlab/cluster"].map(|folder| deploy().join(folder));
    for folder in folders.into_iter().chain(others) {
        let documents = build(&folder);
        assert!(!documents.is_empty());
        for document in &documents {
            let found = match document["kind"].as_str().unwrap() {
                "Namespace" => typed::<Namespace>(document),
                "ServiceAccount" => typed::<ServiceAccount>(document),
                "DaemonSet" => typed::<DaemonSet>(document),
                "ClusterRole" => typed::<ClusterRole>(document),
                "ClusterRoleBinding" => typed::<ClusterRoleBinding>(document),
                "Role" => typed::<Role>(document),
                "RoleBinding" => typed::<RoleBinding>(document),
                "ValidatingAdmissionPolicy" => typed::<ValidatingAdmissionPolicy>(document),
                "ValidatingAdmissionPolicyBinding" => typed::<ValidatingAdmissionPolicyBinding>(document),
                "CustomResourceDefinition" => typed::<CustomResourceDefinition>(document),
                "IPPool" => typed::<IPPool>(document),
                "BGPConfiguration" => typed::<BGPConfiguration>(document),
                "BGPPeer" => typed::<BGPPeer>(document),
                other => vec![format!("nobody has checked a {other}")],
            };
            assert_eq!(
                found,
                Vec::<String>::new(),
                "{} of {}",
                document["metadata"]["name"],
                folder.display()
            );
        }
    }
}

/// An API server of 1.30 takes no functions of addresses and ranges in new rules.
#[test]
fn the_custom_resources_for_an_older_kubernetes_are_the_same_but_for_rules_it_does_not_know() {
    fn collect(schema: &Value, found: &mut Vec<String>) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        found.extend(rules.map(|rule| rule["rule"].as_str().unwrap().to_owned()));
        let inner = schema["properties"].as_object().into_iter().flat_map(|all| all.values());
        inner.chain([&schema["items"]]).filter(|one| one.is_object()).for_each(|one| collect(one, found));
    }
    let of = |folder: &str| {
        let mut found = Vec::new();
        let documents = build(&deploy().join(folder));
        documents
            .iter()
            .for_each(|crd| collect(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found));
        (documents.len(), found)
    };
    let ((all, newer), (as_many, older)) = (of("crds"), of("crds-1.30"));
    assert_eq!(all, as_many);
    let known =
        |rule: &&String| !["isIP(", "isCIDR(", "cidr(", "ip("].iter().any(|function| rule.contains(function));
    assert_eq!(older, newer.iter().filter(known).cloned().collect::<Vec<_>>());
    assert!(older.len() > 10 && older.len() < newer.len());
}

#[test]
fn no_container_has_a_right_it_does_not_need() {
    for document in build(&deploy().join("overlays/mesh")).iter().filter(|one| one["kind"] == "DaemonSet") {
        let pod = &document["spec"]["template"]["spec"];
        let name = document["metadata"]["name"].as_str().unwrap();
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{name}");
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!((containers.len(), &pod["initContainers"]), (1, &Value::Null), "{name}");
        let context = &containers[0]["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["privileged"], false, "{name}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
        let added: &[_] = if name == "manx-bgpd" { &["NET_BIND_SERVICE"] } else { &["NET_ADMIN", "NET_RAW"] };
        assert_eq!(context["capabilities"]["add"], json!(added), "{name}");
        assert_eq!(pod["automountServiceAccountToken"] == false, name == "manx-bgpd", "{name}");
    }
}

/// A server with everything of an overlay, by kubectl.
async fn applied(overlay: &str) -> Running {
    let running = Running::small(ApiServer::new(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (config, folder) = (running.kubeconfig_path.clone(), overlay.to_owned());
    tokio::task::spawn_blocking(move || {
        let cache = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let own =
                ["--kubeconfig", &config.to_string_lossy(), "--cache-dir", &cache.path().to_string_lossy()];
            kubectl(&[&own[..], arguments].concat())
        };
        let path = |name: &str| deploy().join(name).to_string_lossy().into_owned();
        run(&["apply", "--server-side", "-k", &path("crds")]);
        run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
        let overlay = path(&format!("overlays/{folder}"));
        let first = run(&["apply", "--server-side", "--validate=strict", "-k", &overlay]);
        let again = run(&["apply", "--server-side", "--validate=strict", "-k", &overlay]);
        assert_eq!(first.lines().count(), again.lines().count());
    })
    .await
    .unwrap();
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn every_overlay_is_applied_by_kubectl() {
    for overlay in OVERLAYS {
        let running = applied(overlay).await;
        let sets: Api<DaemonSet> = Api::namespaced(running.client.clone(), "manx-system");
        assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 2, "{overlay}");
        let pools: Api<IPPool> = Api::all(running.client.clone());
        assert!(!pools.list(&ListParams::default()).await.unwrap().items.is_empty(), "{overlay}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_every_field() {
    let running = applied("mesh").await;
    let config = running.kubeconfig_path.clone();
    let explained = tokio::task::spawn_blocking(move || {
        let cache = tempfile::tempdir().unwrap();
        let own = ["--kubeconfig", &config.to_string_lossy(), "--cache-dir", &cache.path().to_string_lossy()];
        let mut texts = Vec::new();
        for crd in manx_felix::crd::all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            for part in ["spec", "status"] {
                if schema["openAPIV3Schema"]["properties"][part]["properties"].is_object() {
                    let what = format!("{}.{part}", crd.spec.names.plural);
                    texts.push((what.clone(), kubectl(&[&own[..], &["explain", &what]].concat())));
                }
            }
        }
        texts
    });
    let explained = explained.await.unwrap();
    assert!(explained.len() > 5);
    for (what, text) in explained {
        assert!(text.contains("FIELDS:") && !text.contains("<no description>"), "{what}: {text}");
    }
}

/// A client with the token of a service account, bound to a pod of a node.
async fn by_token(running: &Running, https: &Https, account: &str, node: &str) -> kube::Client {
    let pods: Api<Pod> = Api::namespaced(running.client.clone(), "manx-system");
    let pod = json!({
        "metadata": { "name": format!("{account}-{node}") },
        "spec": { "nodeName": node, "containers": [{ "name": "a", "image": "a" }] },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let request = json!({ "spec": { "audiences": [], "boundObjectRef": { "kind": "Pod", "name": format!("{account}-{node}") } } });
    let request: TokenRequest = serde_json::from_value(request).unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(running.client.clone(), "manx-system");
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let authority = folder.path().join("ca.crt");
    std::fs::write(&authority, https.authority().certificate()).unwrap();
    let text = json!({
        "clusters": [{ "name": "c", "cluster": {
            "server": format!("https://{}", https.address().unwrap()), "certificate-authority": authority } }],
        "users": [{ "name": "u", "user": { "token": answer.status.unwrap().token } }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }], "current-context": "x",
    });
    std::fs::write(&file, text.to_string()).unwrap();
    let config = kube::config::Kubeconfig::read_from(&file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_the_role_of_its_account_says_and_no_more() {
    let running = applied("mesh").await;
    let https = Https::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let agent = by_token(&running, &https, "manx-felix", "node1").await;
    let speaker = by_token(&running, &https, "manx-bgpd", "node1").await;
    tokio::spawn(https.serve(running.small_server().unwrap().clone()));
    let list = ListParams::default();

    assert_eq!(code(Api::<Node>::all(agent.clone()).list(&list).await), 200);
    assert_eq!(code(Api::<Pod>::all(agent.clone()).list(&list).await), 200);
    assert_eq!(code(Api::<Secret>::namespaced(agent.clone(), "manx-system").list(&list).await), 200);
    assert_eq!(code(Api::<Secret>::namespaced(agent.clone(), "default").list(&list).await), 403);
    assert_eq!(code(Api::<Secret>::all(agent.clone()).list(&list).await), 403);
    assert_eq!(code(Api::<Node>::all(agent.clone()).delete("node1", &DeleteParams::default()).await), 403);
    let block = json!({ "metadata": { "name": "b" }, "spec": { "cidr": "10.244.0.0/26", "pool": "pods-v4", "node": "node1" } });
    let block: IPAMBlock = serde_json::from_value(block).unwrap();
    let blocks = Api::<IPAMBlock>::all(agent.clone());
    assert_eq!(code(blocks.create(&PostParams::default(), &block).await), 200);
    assert_eq!(code(blocks.replace("b", &PostParams::default(), &block).await), 403);
    assert_eq!(
        code(Api::<IPPool>::all(agent.clone()).delete("pods-v4", &DeleteParams::default()).await),
        403
    );
    let message = Api::<Secret>::all(agent).list(&list).await.unwrap_err().to_string();
    assert!(message.contains("system:serviceaccount:manx-system:manx-felix"), "{message}");

    assert_eq!(code(Api::<Node>::all(speaker.clone()).list(&list).await), 403);
    assert_eq!(code(Api::<IPAMBlock>::all(speaker).list(&list).await), 403);
}
