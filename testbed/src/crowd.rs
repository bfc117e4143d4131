//! A cluster of any size that is not there: an API server that makes up Nodes, Pods, Services, EndpointSlices and
//! IPAMBlocks, as large as real ones. For seeing what an agent needs to know one.
//!
//! Lists are paged as a real server's, watches are open and silent, writes are taken and forgotten.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How many there are of what.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Nodes `node-0`, `node-1` … each with a block of addresses.
    pub nodes: usize,
    /// Pods, dealt to the nodes in turn; at most 64 a node have addresses of their own.
    pub pods: usize,
    /// Services, each with one slice of endpoints, to which pods are dealt in turn.
    pub services: usize,
}

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Objects a page, whatever is asked for: what clients ask for.
const PAGE: usize = 500;

/// Endpoints a slice, at most: as many as real ones have.
const ENDPOINTS: usize = 100;

/// Serves until the listener fails. It listens when all has been made up.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(crowd: Crowd, listen: SocketAddr) -> io::Result<()> {
    let lists = Arc::new(crowd.lists());
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let lists = Arc::clone(&lists);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let answer = lists.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A caller that goes away has had enough.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// Every page of every list, by the last word of its path.
struct Lists(BTreeMap<&'static str, Vec<Bytes>>);

impl Lists {
    fn answer(&self, request: &Request<Incoming>) -> Response<Answer> {
        let query = request.uri().query().unwrap_or_default();
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
        };
        if request.method() != Method::GET {
            return answered(text(
                &json!({"apiVersion": "v1", "kind": "Status", "metadata": {"name": "taken"}}),
            ));
        }
        if matches!(parameter("watch"), Some("true" | "1")) {
            let silence = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
            return Response::new(UnsyncBoxBody::new(silence));
        }
        let page: usize = parameter("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        answered(match request.uri().path().rsplit('/').next().unwrap_or_default() {
            "version" => text(&version()),
            kind => match self.0.get(kind).and_then(|pages| pages.get(page)) {
                Some(page) => page.clone(),
                // Of whatever else there is, there is none.
                None => text(
                    &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}),
                ),
            },
        })
    }
}

fn text(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

impl Crowd {
    fn lists(self) -> Lists {
        let kinds = [
            ("nodes", "Node", self.nodes),
            ("pods", "Pod", self.pods),
            ("namespaces", "Namespace", self.namespaces()),
            ("services", "Service", self.services),
            ("endpointslices", "EndpointSlice", self.services),
            ("ipamblocks", "IPAMBlock", self.nodes),
            ("ippools", "IPPool", 1),
        ];
        Lists(kinds.map(|(path, kind, count)| (path, self.pages(kind, count))).into())
    }

    fn pages(self, kind: &str, count: usize) -> Vec<Bytes> {
        let page = |from: usize| {
            let upto = count.min(from + PAGE);
            let items: Vec<Value> = (from..upto).map(|which| self.object(kind, which)).collect();
            let mut metadata = json!({"resourceVersion": "1"});
            if upto < count {
                metadata["continue"] = json!((upto / PAGE).to_string());
                metadata["remainingItemCount"] = json!(count - upto);
            }
            text(
                &json!({"apiVersion": "v1", "kind": format!("{kind}List"), "metadata": metadata, "items": items}),
            )
        };
        (0..count).step_by(PAGE).map(page).collect()
    }

    fn namespaces(self) -> usize {
        (self.services / 20).max(1)
    }

    fn object(self, kind: &str, which: usize) -> Value {
        let mut object = match kind {
            "Node" => node(which),
            "Pod" => self.pod(which),
            "Namespace" => json!({"metadata": {"name": format!("team-{which}"),
                "labels": {"kubernetes.io/metadata.name": format!("team-{which}"), "tier": format!("t{}", which % 5)}}}),
            "Service" => self.service(which),
            "EndpointSlice" => self.slice(which),
            "IPAMBlock" => self.block(which),
            _ => json!({"metadata": {"name": "pods"}, "spec": {"cidr": "10.0.0.0/8"}}),
        };
        if matches!(kind, "IPAMBlock" | "IPPool") {
            object["apiVersion"] = json!("manx.io/v1alpha1");
            object["kind"] = json!(kind);
        }
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("{which:08x}-{:04x}-4000-8000-{which:012x}", kind.len()));
        metadata["resourceVersion"] = json!((1000 + which).to_string());
        metadata["creationTimestamp"] = json!("2026-11-01T00:00:00Z");
        object
    }

    /// The address of a pod: its node's block, and its place there.
    fn address(self, pod: usize) -> String {
        let (node, place) = (pod % self.nodes, pod / self.nodes % 64);
        let number = node * 64 + place;
        format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
    }

    fn namespace(self, service: usize) -> String {
        format!("team-{}", service % self.namespaces())
    }

    fn pod(self, which: usize) -> Value {
        let (service, address) = (which % self.services.max(1), self.address(which));
        let (app, image) =
            (format!("app-{service}"), format!("registry.example.com/team/app-{service}:1.2.3"));
        let mount = json!({"name": "kube-api-access", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-01T00:00:05Z"});
        json!({
            "metadata": {
                "name": format!("{app}-7d4f8b9c6d-{which:05x}"), "namespace": self.namespace(service),
                "generateName": format!("{app}-7d4f8b9c6d-"),
                "labels": {"app": app, "pod-template-hash": "7d4f8b9c6d", "version": format!("v{}", service % 3)},
                "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-01T00:00:00Z"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d4f8b9c6d"),
                    "uid": "00000000-0000-4000-8000-000000000000", "controller": true, "blockOwnerDeletion": true}],
                "managedFields": managed(),
            },
            "spec": {
                "nodeName": format!("node-{}", which % self.nodes), "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
                "serviceAccount": "default", "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0,
                "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
                "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "env": (0..8).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}")})).collect::<Vec<_>>(),
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
                    "volumeMounts": [mount], "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                }],
                "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ]}}],
                "tolerations": [
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                ],
            },
            "status": {
                "phase": "Running", "hostIP": node_address(which % self.nodes), "podIP": address, "podIPs": [{"ip": address}],
                "qosClass": "Burstable", "startTime": "2026-11-01T00:00:00Z",
                "conditions": (["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition)),
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": image, "started": true,
                    "imageID": format!("registry.example.com/team/app@sha256:{which:064x}"),
                    "containerID": format!("containerd://{which:064x}"), "state": {"running": {"startedAt": "2026-11-01T00:00:03Z"}},
                    "lastState": {}}],
            },
        })
    }

    fn service(self, which: usize) -> Value {
        let address = format!("10.{}.{}.{}", 96 + (which >> 16 & 15), which >> 8 & 255, which & 255);
        json!({
            "metadata": {"name": format!("app-{which}"), "namespace": self.namespace(which),
                "labels": {"app": format!("app-{which}")}, "managedFields": managed()},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "selector": {"app": format!("app-{which}")},
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}]},
            "status": {"loadBalancer": {}},
        })
    }

    fn slice(self, which: usize) -> Value {
        let pods = (which..self.pods).step_by(self.services.max(1)).take(ENDPOINTS);
        let endpoints: Vec<Value> = pods
            .map(|pod| {
                json!({"addresses": [self.address(pod)], "nodeName": format!("node-{}", pod % self.nodes),
                    "conditions": {"ready": true, "serving": true, "terminating": false}, "zone": "a",
                    "targetRef": {"kind": "Pod", "namespace": self.namespace(which), "name": format!("app-{which}-7d4f8b9c6d-{pod:05x}"),
                        "uid": format!("{pod:08x}-0003-4000-8000-{pod:012x}")}})
            })
            .collect();
        json!({
            "metadata": {"name": format!("app-{which}-x7k2p"), "namespace": self.namespace(which),
                "generateName": format!("app-{which}-"), "managedFields": managed(),
                "labels": {"kubernetes.io/service-name": format!("app-{which}"),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        })
    }

    fn block(self, which: usize) -> Value {
        let number = which * 64;
        let (a, b, c) = (number >> 16 & 255, number >> 8 & 255, number & 255);
        let pods = (which..self.pods).step_by(self.nodes).take(64);
        let held: Vec<Value> = pods
            .map(|pod| {
                json!({"address": self.address(pod), "containerId": format!("{pod:064x}"), "ifname": "eth0",
                    "namespace": self.namespace(pod % self.services.max(1)), "pod": format!("app-7d4f8b9c6d-{pod:05x}"),
                    "uid": format!("{pod:08x}-0003-4000-8000-{pod:012x}")})
            })
            .collect();
        json!({
            "metadata": {"name": format!("10-{a}-{b}-{c}-26"), "managedFields": managed()},
            "spec": {"cidr": format!("10.{a}.{b}.{c}/26"), "pool": "pods", "node": format!("node-{which}")},
            "status": {"used": held.len(), "free": 64 - held.len(), "allocations": held},
        })
    }
}

fn node_address(which: usize) -> String {
    format!("172.{}.{}.{}", 16 + (which >> 16 & 15), which >> 8 & 255, which & 255)
}

fn node(which: usize) -> Value {
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "lastHeartbeatTime": "2026-11-01T00:00:00Z",
            "lastTransitionTime": "2026-11-01T00:00:00Z", "reason": "Kubelet", "message": "kubelet has told"})
    };
    json!({
        "metadata": {"name": format!("node-{which}"), "managedFields": managed(), "labels": {
            "kubernetes.io/hostname": format!("node-{which}"), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", which % 3)}},
        "spec": {"podCIDR": ""},
        "status": {
            "addresses": [{"type": "InternalIP", "address": node_address(which)}, {"type": "Hostname", "address": format!("node-{which}")}],
            "capacity": {"cpu": "64", "memory": "256Gi", "pods": "110"}, "allocatable": {"cpu": "63", "memory": "250Gi", "pods": "110"},
            "conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False"), condition("Ready", "True")],
            "images": (0..30).map(|n| json!({"names": [format!("registry.example.com/team/app-{n}@sha256:{n:064x}")], "sizeBytes": 100_000_000})).collect::<Vec<_>>(),
            "nodeInfo": {"kubeletVersion": "v1.33.0", "containerRuntimeVersion": "containerd://2.0.0", "osImage": "Debian", "architecture": "amd64",
                "bootID": "b", "machineID": "m", "systemUUID": "s", "kernelVersion": "6.1", "kubeProxyVersion": "", "operatingSystem": "linux"},
        },
    })
}

/// What the API server keeps of who has written what.
fn managed() -> Value {
    let field =
        |name: &str| json!({ format!("f:{name}"): {".": {}, "f:first": {}, "f:second": {}, "f:third": {}} });
    json!([
        {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": field("labels"), "f:spec": field("containers")}},
        {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-11-01T00:00:05Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:status": field("conditions")}, "subresource": "status"},
    ])
}

fn version() -> Value {
    json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-11-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64"})
}

fn answered(body: Bytes) -> Response<Answer> {
    let mut response = Response::new(UnsyncBoxBody::new(Full::new(body)));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
