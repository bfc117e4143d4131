//! Agents among custom resources of another release: fields they do not know, fields the API server does not know, and
//! kinds that are not there at all.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use manx_felix::crd::BGPPeer;
use manx_ipam::crd::IPPool;
use manx_testbed::{Lab, Options, Topology, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// Makes a kind know a field of its spec or status, or forget it.
async fn change(client: &Client, plural: &str, part: &str, field: &str, schema: Option<Value>) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = format!("{plural}.manx.io");
    let mut crd = serde_json::to_value(api.get(&name).await.unwrap()).unwrap();
    let place = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}/properties");
    let fields = crd.pointer_mut(&place).unwrap().as_object_mut().unwrap();
    match schema {
        Some(schema) => drop(fields.insert(field.to_owned(), schema)),
        None => drop(fields.remove(field).unwrap()),
    }
    let crd = serde_json::from_value(crd).unwrap();
    api.replace(&name, &PostParams::default(), &crd).await.unwrap();
}

fn raw<K: kube::Resource<DynamicType = ()>>(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<K>(&()))
}

async fn report(lab: &Lab) -> Result<Value, String> {
    let said = lab.run("node1", &["manxctl", "status", "-o", "json"]).await;
    let said: Value =
        serde_json::from_str(&said.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    Ok(said["node"].clone())
}

/// What the agent says of a kind that the API does not have; none: nothing.
async fn missing(lab: &Lab, kind: &str) -> Result<Option<String>, String> {
    let report = report(lab).await?;
    let problems = report["problems"].as_array().into_iter().flatten();
    let mut of_kind = problems.filter(|problem| problem["object"] == kind);
    Ok(of_kind.next().map(|problem| problem["message"].as_str().unwrap().to_owned()))
}

async fn accepted(client: &Client, name: &str) -> Result<(), String> {
    let peer = raw::<BGPPeer>(client).get(name).await.map_err(|error| error.to_string())?;
    let conditions = peer.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let good = conditions.iter().any(|one| one["type"] == "Accepted" && one["status"] == "True");
    if good { Ok(()) } else { Err(format!("{:?}", peer.data)) }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn an_agent_goes_on_among_custom_resources_of_another_release() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some("skew".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    let one = eventually(SOON, || async { lab.pod_add("node1", "default", "one").await }).await.unwrap();
    let two = eventually(SOON, || async { lab.pod_add("node2", "default", "two").await }).await.unwrap();
    let to = two.addresses[0].to_string();
    let reaches = || async { lab.pod_run(&one, &["ping", "-c1", "-W1", &to]).await };
    eventually(SOON, reaches).await.unwrap();

    // A newer release's resources: what an older agent does not know it leaves alone, in spec and status.
    let text = json!({ "type": "string" });
    change(&client, "bgppeers", "spec", "future", Some(text.clone())).await;
    change(&client, "ippools", "status", "future", Some(text)).await;
    let peer = json!({ "apiVersion": "manx.io/v1alpha1", "kind": "BGPPeer", "metadata": { "name": "newer" },
        "spec": { "address": "10.10.0.99", "asNumber": 65001, "future": "said" } });
    raw::<BGPPeer>(&client)
        .create(&PostParams::default(), &serde_json::from_value(peer).unwrap())
        .await
        .unwrap();
    eventually(SOON, || accepted(&client, "newer")).await.unwrap();
    assert_eq!(raw::<BGPPeer>(&client).get("newer").await.unwrap().data["spec"]["future"], "said");
    let pools = Api::<IPPool>::all(client.clone()).list(&Default::default()).await.unwrap();
    let pool = pools.items[0].metadata.name.clone().unwrap();
    let future = json!({ "status": { "future": "said" } });
    let pool_status = raw::<IPPool>(&client);
    pool_status.patch_status(&pool, &PatchParams::default(), &Patch::Merge(&future)).await.unwrap();
    let used = pool_status.get(&pool).await.unwrap().data["status"]["used"].clone();
    eventually(SOON, || async { lab.pod_add("node1", "default", "three").await }).await.unwrap();
    let written = || async {
        let status = pool_status.get(&pool).await.map_err(|error| error.to_string())?.data["status"].clone();
        if status["used"] == used { Err(format!("{status}")) } else { Ok(status) }
    };
    assert_eq!(eventually(SOON, written).await.unwrap()["future"], "said");

    // An older release's: what the API server prunes is as if it were not said.
    change(&client, "bgppeers", "spec", "bfd", None).await;
    let peer = json!({ "apiVersion": "manx.io/v1alpha1", "kind": "BGPPeer", "metadata": { "name": "older" },
        "spec": { "address": "10.10.0.98", "asNumber": 65001, "bfd": {} } });
    raw::<BGPPeer>(&client)
        .create(&PostParams::default(), &serde_json::from_value(peer).unwrap())
        .await
        .unwrap();
    eventually(SOON, || accepted(&client, "older")).await.unwrap();
    assert!(raw::<BGPPeer>(&client).get("older").await.unwrap().data["spec"]["bfd"].is_null());

    // A kind that goes is missed in words; what runs keeps running.
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    crds.delete("bgpfilters.manx.io", &DeleteParams::default()).await.unwrap();
    let told = || async {
        match missing(&lab, "BGPFilter").await? {
            Some(words) if words.contains("are Manx's CRDs installed?") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(SOON, told).await.unwrap();
    reaches().await.unwrap();

    // So does an agent that begins without it: it is not ready, says why, and its node's pods are reached all the same.
    lab.kill("node1", "manx-felix", Signal::SIGTERM).unwrap();
    let gone =
        || async { lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(pid.to_string())) };
    eventually(SOON, gone).await.unwrap();
    lab.start_daemon("node1", "manx-felix").await.unwrap();
    eventually(SOON, told).await.unwrap();
    let now = report(&lab).await.unwrap();
    assert_eq!(now["ready"], false, "{now}");
    assert_eq!(now["api"]["inSync"]["BGPFilter"], false, "{now}");
    let said = lab.exec(
        "node1",
        &[
            "bash",
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/9098 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
        ],
    );
    let said = String::from_utf8(said.await.unwrap().stdout).unwrap();
    assert!(said.contains(" 503 ") && said.contains("BGPFilter"), "{said}");
    reaches().await.unwrap();

    // It comes, and all is well.
    let definition =
        manx_felix::crd::all().into_iter().find(|crd| crd.spec.names.kind == "BGPFilter").unwrap();
    crds.create(&PostParams::default(), &definition).await.unwrap();
    let well = || async {
        let (words, ready) = (missing(&lab, "BGPFilter").await?, report(&lab).await?["ready"] == true);
        if words.is_none() && ready { Ok(()) } else { Err(format!("{words:?}, ready: {ready}")) }
    };
    eventually(SOON, well).await.unwrap();
    reaches().await.unwrap();
}
