//! Namespaces and pods that come, change and go while policies stay as they are.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use manx_bgp::types::Family;
use manx_felix::acl::ruleset::Protocol;
use serde_json::{Value, json};

use crate::cases::{Object, Packet};
use crate::cluster::{Cluster, Mouth, pod};

fn object(json: Value) -> Object {
    serde_json::from_value(json).unwrap()
}

impl Cluster {
    async fn namespace(&self, name: &str, labels: Value) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({ "metadata": { "name": name, "labels": labels } });
        api.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    }

    async fn starts(&mut self, node: &str, namespace: &str, made: Pod) {
        let name = format!("{namespace}/{}", made.metadata.name.as_ref().unwrap());
        assert_eq!(made.spec.as_ref().unwrap().node_name.as_deref(), Some(node));
        let info = self.lab.pod_create(node, namespace, made).await.unwrap();
        let mouth = Mouth::open(&info);
        self.pods.insert(name, (info, mouth));
    }

    async fn ends(&mut self, namespace: &str, name: &str) {
        self.pods.remove(&format!("{namespace}/{name}"));
        self.lab.pod_del(namespace, name).await.unwrap();
    }

    /// Of both families and all protocols, from each of these to a pod: those of `may` come, and no other.
    fn reached_by(&self, what: &str, to: &str, from: &[&str], may: &[&str]) {
        let packet = |from: &str, family, protocol| Packet {
            from: from.to_owned(),
            to: to.to_owned(),
            family,
            protocol,
            port: 80,
        };
        let packets: Vec<Packet> = from
            .iter()
            .flat_map(|from| Family::ALL.map(|family| (from, family)))
            .flat_map(|(from, family)| {
                [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| packet(from, family, protocol))
            })
            .collect();
        self.settle(what, &packets, |packet| may.contains(&&*packet.from));
    }
}

fn labelled(node: &str, name: &str, labels: Value) -> Pod {
    let mut made = pod(node, name);
    made.metadata.labels = serde_json::from_value(labels).unwrap();
    made
}

/// cyclonus' actions of several steps: namespaces and pods are made and deleted, and their labels changed, so that
/// policies begin and cease to apply to them, as who is selected and as who is let through.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn policies_follow_namespaces_and_pods_that_come_change_and_go() {
    let mut cluster = Cluster::up("policy-life").await;
    let allow = json!({
        "podSelector": { "matchLabels": { "pod": "a" } },
        "ingress": [{ "from": [{
            "namespaceSelector": { "matchLabels": { "team": "blue" } },
            "podSelector": { "matchLabels": { "role": "client" } },
        }] }],
    });
    cluster.put(&object(json!({ "np": "x/blue", "spec": allow }))).await;
    cluster.reached_by("nobody is of the team", "x/a", &["x/b", "y/a"], &[]);

    // A namespace comes, then its pods.
    cluster.namespace("w", json!({ "team": "blue" })).await;
    cluster.starts("node2", "w", labelled("node2", "one", json!({ "role": "client" }))).await;
    cluster.starts("node1", "w", labelled("node1", "two", json!({}))).await;
    cluster.reached_by("a pod came", "x/a", &["y/a", "w/one", "w/two"], &["w/one"]);
    cluster.put(&object(json!({ "pod": "w/two", "labels": { "role": "client" } }))).await;
    cluster.put(&object(json!({ "pod": "w/one", "labels": {} }))).await;
    cluster.reached_by("roles changed hands", "x/a", &["w/one", "w/two"], &["w/two"]);
    cluster.put(&object(json!({ "namespace": "w", "labels": { "team": "red" } }))).await;
    cluster.reached_by("the namespace changed sides", "x/a", &["w/one", "w/two"], &[]);
    cluster.put(&object(json!({ "namespace": "w", "labels": { "team": "blue" } }))).await;
    cluster.reached_by("and back", "x/a", &["w/one", "w/two"], &["w/two"]);

    // A policy of the new namespace selects pods that come after it.
    let closed = json!({ "podSelector": { "matchLabels": { "is": "closed" } }, "policyTypes": ["Ingress"] });
    cluster.put(&object(json!({ "np": "w/closed", "spec": closed }))).await;
    cluster.starts("node2", "w", labelled("node2", "three", json!({ "is": "closed" }))).await;
    cluster.reached_by("a pod is closed from its start", "w/three", &["x/a", "w/two"], &[]);
    cluster.put(&object(json!({ "pod": "w/three", "labels": {} }))).await;
    cluster.reached_by("and opened by its label", "w/three", &["x/a", "w/two"], &["x/a", "w/two"]);
    cluster.put(&object(json!({ "pod": "w/three", "labels": { "is": "closed" } }))).await;
    cluster.reached_by("and closed again", "w/three", &["x/a", "w/two"], &[]);

    // A pod goes, and one of its name comes that is no client.
    cluster.ends("w", "two").await;
    cluster.starts("node1", "w", labelled("node1", "two", json!({}))).await;
    cluster.reached_by("another of its name", "x/a", &["w/one", "w/two"], &[]);
    cluster.ends("w", "two").await;
    cluster.starts("node2", "w", labelled("node2", "two", json!({ "role": "client" }))).await;
    cluster.reached_by("and one that is a client, elsewhere", "x/a", &["w/one", "w/two"], &["w/two"]);

    // The namespace goes with all that is in it, and one of its name comes that is of no team and has no policies.
    for name in ["one", "two", "three"] {
        cluster.ends("w", name).await;
    }
    cluster.remove(&object(json!({ "np": "w/closed" }))).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("w", &DeleteParams::default()).await.unwrap();
    let gone = || async {
        match namespaces.get_opt("w").await.unwrap() {
            None => Ok(()),
            Some(mut left) => {
                // Nothing is left in it: what a controller says then, of whom none runs beside a real API server here.
                left.spec = None;
                let request = http::Request::put("/api/v1/namespaces/w/finalize")
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(serde_json::to_vec(&left).unwrap());
                let answer: Result<Namespace, _> = cluster.client.request(request.unwrap()).await;
                Err(format!("{answer:?}"))
            }
        }
    };
    manx_testbed::eventually(crate::cluster::SOON, gone).await.unwrap();
    cluster.namespace("w", json!({})).await;
    let made = labelled("node2", "two", json!({ "role": "client", "is": "closed" }));
    cluster.starts("node2", "w", made).await;
    cluster.reached_by("another namespace of its name", "x/a", &["w/two", "y/a"], &[]);
    cluster.reached_by("its policies are gone", "w/two", &["x/a", "y/a"], &["x/a", "y/a"]);
    cluster.put(&object(json!({ "namespace": "w", "labels": { "team": "blue" } }))).await;
    cluster.reached_by("it joins the team", "x/a", &["w/two", "y/a"], &["w/two"]);
}

/// A pod that has ended is nobody's peer, though its interface still stands, and who has its address next is not it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn a_pod_that_has_ended_leaves_all_sets_and_whoever_has_its_address_next_inherits_nothing() {
    let mut cluster = Cluster::up("policy-ended").await;
    let allow = json!({
        "podSelector": { "matchLabels": { "pod": "a" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "role": "client" } } }] }],
    });
    cluster.put(&object(json!({ "np": "x/clients", "spec": allow }))).await;
    let client = || json!({ "role": "client" });
    for (phase, node) in [("Succeeded", "node2"), ("Failed", "node1")] {
        cluster.starts(node, "x", labelled(node, "job", client())).await;
        cluster.reached_by("the client runs", "x/a", &["x/job", "x/b"], &["x/job"]);
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "x");
        let ended = Patch::Merge(json!({ "status": { "phase": phase } }));
        pods.patch_status("job", &PatchParams::default(), &ended).await.unwrap();
        cluster.reached_by(phase, "x/a", &["x/job", "x/b"], &[]);

        // Its address, for one that is no client, and for one of another namespace that calls itself so.
        let addresses: Vec<IpAddr> = cluster.pods["x/job"].0.addresses.clone();
        cluster.ends("x", "job").await;
        for (namespace, labels) in [("x", json!({})), ("y", client())] {
            let mut next = labelled(node, "next", labels);
            let fixed = addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
            next.metadata.annotations = Some([("manx.io/ips".to_owned(), fixed)].into());
            cluster.starts(node, namespace, next).await;
            let name = format!("{namespace}/next");
            assert_eq!(cluster.pods[&name].0.addresses, addresses);
            cluster.reached_by("its address is another's", "x/a", &[&name, "x/b"], &[]);
            cluster.ends(namespace, "next").await;
        }
        cluster.starts(node, "x", labelled(node, "next", client())).await;
        cluster.reached_by("another client", "x/a", &["x/next", "x/b"], &["x/next"]);
        cluster.ends("x", "next").await;
    }
}
