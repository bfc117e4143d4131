//! `kubectl` against the server by TCP, judged by what it prints.

use std::{path::PathBuf, process::Stdio};

use manx_testbed::apiserver::{ApiServer, Running};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use super::subject::{DEADLINE, LOOPBACK};

struct Kubectl {
    running: Running,
    /// What it caches must not outlive the server it was told by.
    cache: tempfile::TempDir,
}

impl Kubectl {
    async fn new() -> Self {
        let running = ApiServer::start(LOOPBACK).await.expect("a server starts");
        Self { running, cache: tempfile::tempdir().expect("a folder") }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.running.kubeconfig_path)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(arguments.split_whitespace())
            .kill_on_drop(true);
        command
    }

    /// What it prints, and whether it was content.
    async fn ask(&self, arguments: &str, input: &str) -> (bool, String) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("read by kubectl");
        drop(stdin);
        let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = ended.unwrap_or_else(|_| panic!("kubectl {arguments} hangs")).expect("it ran");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("text"))
    }

    async fn run(&self, arguments: &str) -> String {
        self.run_with(arguments, "").await
    }

    async fn run_with(&self, arguments: &str, input: &str) -> String {
        let (content, text) = self.ask(arguments, input).await;
        assert!(content, "kubectl {arguments}: {text}");
        text
    }

    async fn refused(&self, arguments: &str, input: &str) -> String {
        let (content, text) = self.ask(arguments, input).await;
        assert!(!content, "kubectl {arguments}: {text}");
        text
    }

    async fn with_widgets() -> Self {
        let kubectl = Self::new().await;
        let made = kubectl.run(&format!("apply -f {}", widgets().display())).await;
        assert!(
            made.contains("customresourcedefinition.apiextensions.k8s.io/widgets.example.com created"),
            "{made}"
        );
        kubectl.run("wait --for=condition=Established crd/widgets.example.com --timeout=20s").await;
        kubectl
    }
}

fn widgets() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/widgets.yaml")
}

/// The words of a table's line, without the age that ends it.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

const WIDGET: &str =
    "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: one}\nspec: {color: red, loud: true}\n";

#[tokio::test]
async fn printer_columns_of_a_custom_resource() {
    let kubectl = Kubectl::with_widgets().await;
    assert!(kubectl.run_with("create -f -", WIDGET).await.contains("widget.example.com/one created"));
    let patch =
        r#"{"status":{"conditions":[{"type":"Synced","status":"False"},{"type":"Ready","status":"True"}]}}"#;
    let api = kube::Api::<kube::api::DynamicObject>::namespaced_with(
        kubectl.running.client.clone(),
        "default",
        &super::subject::widget_resource("v1"),
    );
    let patch: serde_json::Value = serde_json::from_str(patch).expect("JSON");
    api.patch_status("one", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
        .await
        .expect("patched");

    let table = kubectl.run("get widgets").await;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(words(lines[0]), ["NAME", "COLOR", "SIZE", "READY", "AGE"]);
    assert_eq!(words(lines[1])[..4], ["one", "red", "10", "True"]);
    assert!(words(lines[1])[4].ends_with('s'), "{table}");
    let wide = kubectl.run("get wi one -o wide").await;
    assert_eq!(
        words(wide.lines().next().expect("a heading")),
        ["NAME", "COLOR", "SIZE", "READY", "LOUD", "AGE"]
    );
    assert!(kubectl.run("get all").await.contains("widget.example.com/one"), "by category");
    assert_eq!(kubectl.run("get widget one -o jsonpath={.spec.size}").await, "10");
    assert!(kubectl.run("get widgets -A").await.starts_with("NAMESPACE"));
    assert!(kubectl.run("get widgets -l app=none").await.contains("No resources found"));
    assert!(
        kubectl.run("get widgets --field-selector metadata.name=one --no-headers").await.starts_with("one")
    );
    assert!(kubectl.run("get crds").await.contains("widgets.example.com"));
}

#[tokio::test]
async fn create_label_annotate_patch_apply_and_delete() {
    let kubectl = Kubectl::with_widgets().await;
    assert!(kubectl.run_with("apply -f -", WIDGET).await.contains("created"));
    assert!(kubectl.run_with("apply -f -", WIDGET).await.contains("unchanged"));
    let blue = WIDGET.replace("red", "blue");
    assert!(kubectl.run_with("apply -f -", &blue).await.contains("configured"));
    assert_eq!(kubectl.run("get widget one -o jsonpath={.spec.color}").await, "blue");
    kubectl.run("label widget one a=b").await;
    kubectl.run("annotate widget one note=hello").await;
    assert!(kubectl.run("get widgets -l a=b --show-labels").await.contains("a=b"));
    assert_eq!(kubectl.run("get widget one -o jsonpath={.metadata.annotations.note}").await, "hello");
    kubectl.run(r#"patch widget one --type=merge -p {"spec":{"size":42}}"#).await;
    kubectl
        .run(r#"patch widget one --type=json -p [{"op":"replace","path":"/spec/loud","value":false}]"#)
        .await;
    assert_eq!(kubectl.run("get widget one -o jsonpath={.spec.size}{.spec.loud}").await, "42false");
    let conflict = kubectl.refused("apply --server-side -f -", WIDGET).await;
    assert!(conflict.contains("conflict"), "{conflict}");
    kubectl.run_with("apply --server-side --force-conflicts -f -", WIDGET).await;
    assert_eq!(kubectl.run("get widget one -o jsonpath={.spec.color}").await, "red");
    assert!(kubectl.run("delete widget one").await.contains("deleted"));
    assert!(kubectl.refused("get widget one", "").await.contains(r#"widgets.example.com "one" not found"#));
    let invalid = kubectl.refused("apply --validate=false -f -", &WIDGET.replace("red", "RED")).await;
    assert!(invalid.contains("should match '^[a-z]+$'"), "{invalid}");
    let unknown = kubectl.refused("apply -f -", &WIDGET.replace("loud", "louud")).await;
    assert!(unknown.contains("unknown field") && unknown.contains("louud"), "{unknown}");
}

#[tokio::test]
async fn builtin_kinds_print_their_columns() {
    let kubectl = Kubectl::new().await;
    kubectl.run("create namespace shop").await;
    let table = kubectl.run("get namespace shop").await;
    assert_eq!(words(table.lines().nth(1).expect("a row"))[..2], ["shop", "Active"]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\n\
               spec: {nodeName: node1, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}\n";
    assert!(kubectl.run_with("apply -f -", pod).await.contains("pod/web created"));
    assert!(kubectl.run_with("apply -f -", pod).await.contains("pod/web unchanged"));
    let changed = pod.replace("image: i", "image: j");
    assert!(kubectl.run_with("apply -f -", &changed).await.contains("pod/web configured"));
    let table = kubectl.run("get pods -n shop -o wide").await;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(words(lines[0])[..5], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(words(lines[1])[..4], ["web", "0/1", "Pending", "0"]);
    assert!(lines[1].contains("node1"), "{table}");
    kubectl.run(r#"patch pod web -n shop -p {"metadata":{"labels":{"tier":"front"}}}"#).await;
    assert!(kubectl.run("get pods -n shop -l tier=front,app=web").await.contains("web"));

    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n";
    kubectl.run_with("create -f -", node).await;
    assert_eq!(
        words(kubectl.run("get nodes").await.lines().nth(1).expect("a row"))[..3],
        ["node1", "Unknown", "<none>"]
    );
    kubectl.run("create service clusterip web --tcp=80:8080 -n shop").await;
    let services = kubectl.run("get services -n shop").await;
    assert!(services.contains("ClusterIP") && services.contains("80/TCP"), "{services}");
    kubectl.run("create secret generic key --from-literal=a=b -n shop").await;
    let secret = kubectl.run("get secret key -n shop").await;
    assert_eq!(words(secret.lines().nth(1).expect("a row"))[..3], ["key", "Opaque", "1"]);
    kubectl.run("create configmap cm --from-literal=a=b -n shop").await;
    assert!(kubectl.run("get cm -n shop").await.contains("cm"));
    assert!(kubectl.run("describe pod web -n shop").await.contains("node1"));
    assert!(kubectl.run("delete pod web -n shop --grace-period=0 --force").await.contains("deleted"));
}

#[tokio::test]
async fn discovery_and_explanations() {
    let kubectl = Kubectl::with_widgets().await;
    let resources = kubectl.run("api-resources").await;
    let widgets = resources.lines().find(|line| line.starts_with("widgets")).expect("widgets are listed");
    assert_eq!(words(widgets), ["widgets", "wi", "example.com/v1", "true", "Widget"]);
    assert!(
        resources.lines().any(|line| words(line) == ["nodes", "no", "v1", "false", "Node"]),
        "{resources}"
    );
    assert!(kubectl.run("api-versions").await.contains("example.com/v1alpha1"));
    let spec = kubectl.run("explain widget.spec").await;
    assert!(
        spec.contains("What the widget shall be.") && spec.contains("Its color, in lower case."),
        "{spec}"
    );
    let container = kubectl.run("explain pod.spec.containers").await;
    assert!(container.contains("imagePullPolicy"), "{container}");
    assert!(kubectl.run("version").await.contains("Server Version"));
    assert!(kubectl.refused("get gadgets", "").await.contains("the server doesn't have a resource type"));
}

#[tokio::test]
async fn watching_and_waiting_for_a_deletion() {
    let kubectl = Kubectl::with_widgets().await;
    kubectl.run_with("create -f -", WIDGET).await;
    let mut watching = kubectl.command("get widgets -w");
    let mut watching = watching.stdout(Stdio::piped()).spawn().expect("kubectl is installed");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time");
        line.expect("text").expect("it goes on")
    };
    assert!(next().await.starts_with("NAME"));
    assert_eq!(words(&next().await)[..3], ["one", "red", "10"]);
    kubectl.run(r#"patch widget one --type=merge -p {"spec":{"size":7}}"#).await;
    assert_eq!(words(&next().await)[..3], ["one", "red", "7"]);
    kubectl.run_with("create -f -", &WIDGET.replace("name: one", "name: two")).await;
    assert_eq!(words(&next().await)[..3], ["two", "red", "10"]);
    watching.kill().await.expect("it ran");

    // What is held by a finalizer keeps `kubectl delete` waiting, until it is let go.
    kubectl.run(r#"patch widget two --type=merge -p {"metadata":{"finalizers":["example.com/held"]}}"#).await;
    let release = async {
        super::subject::eventually("the mark", async || {
            let marked = kubectl.run("get widget two -o jsonpath={.metadata.deletionTimestamp}").await;
            (!marked.is_empty()).then_some(())
        })
        .await;
        let ready = r#"{"metadata":{"finalizers":null}}"#;
        kubectl.run(&format!("patch widget two --type=merge -p {ready}")).await;
    };
    let (deleted, ()) = tokio::join!(kubectl.run("delete widget two"), release);
    assert!(deleted.contains("deleted"), "{deleted}");
    assert!(kubectl.refused("get widget two", "").await.contains("not found"));
}
