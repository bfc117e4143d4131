//! Services as a router sees them: which addresses it has a way to, and by which nodes; that packets reach pods by them,
//! with kube-proxy in any of its modes; and what becomes of packets to addresses no Service has.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod addresses;
mod proxies;
mod unassigned;
mod ways;

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually};
use serde_json::{Value, json};

/// Long enough for agents to claim blocks and sessions to come up on a machine that builds something else.
const SOON: Duration = Duration::from_secs(90);

/// Where a Service is announced, and where not.
const BOTH: &[&str] = &["10.10.0.1", "10.10.0.2"];
const FIRST: &[&str] = &["10.10.0.1"];
const SECOND: &[&str] = &["10.10.0.2"];
const NOWHERE: &[&str] = &[];

async fn up(name: &str) -> (TemporaryLab, Client) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/services.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    (lab, client)
}

/// The gateways the router's kernel has to a destination, in order.
async fn ways(lab: &Lab, destination: &str) -> Vec<String> {
    let family = if destination.contains(':') { "-6" } else { "-4" };
    let shown = lab.run("tor", &["ip", "-j", family, "route", "show", destination]).await.unwrap();
    let routes: Vec<Value> = serde_json::from_str(&shown).unwrap_or_default();
    let hops = routes.iter().flat_map(|route| {
        let several = route["nexthops"].as_array().cloned().unwrap_or_default();
        if several.is_empty() { vec![route.clone()] } else { several }
    });
    let mut hops: Vec<String> = hops.filter_map(|hop| Some(hop["gateway"].as_str()?.to_owned())).collect();
    hops.sort();
    hops
}

async fn led_by(lab: &Lab, destination: &str, nodes: &[&str]) {
    let asked = || async {
        let ways = ways(lab, destination).await;
        if ways == nodes { Ok(()) } else { Err(format!("{destination} via {ways:?}, not {nodes:?}")) }
    };
    eventually(SOON, asked).await.unwrap();
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

fn slices(client: &Client) -> Api<EndpointSlice> {
    Api::namespaced(client.clone(), "default")
}

async fn create(client: &Client, name: &str, annotations: Value, spec: Value) {
    let mut object = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
    object["spec"]["ports"] = json!([{"port": 80, "targetPort": 7000}]);
    let object: Service = serde_json::from_value(object).unwrap();
    services(client).create(&PostParams::default(), &object).await.unwrap();
}

/// Endpoints: on which node, of which address, with which conditions.
async fn endpoints(client: &Client, service: &str, family: &str, all: &[(&str, &str, Value)]) {
    let all: Vec<Value> = all
        .iter()
        .map(|(node, address, conditions)| {
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": all, "ports": [{"name": "", "port": 7000}],
    });
    let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
    let parameters = PatchParams::apply("test").force();
    slices(client).patch(&name, &parameters, &Patch::Apply(slice)).await.unwrap();
}

fn ready() -> Value {
    json!({"ready": true})
}

/// The addresses a Service is given.
async fn given(client: &Client, name: &str, count: usize) -> Vec<String> {
    let asked = || async {
        let status = services(client).get(name).await.map_err(|error| error.to_string())?.status;
        let ingress = status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
        let addresses: Vec<String> = ingress.into_iter().filter_map(|one| one.ip).collect();
        if addresses.len() == count { Ok(addresses) } else { Err(format!("{name} has {addresses:?}")) }
    };
    eventually(SOON, asked).await.unwrap()
}

async fn pod(lab: &Lab, node: &str, name: &str) -> PodInfo {
    eventually(SOON, || async { lab.pod_add(node, "default", name).await }).await.unwrap()
}
