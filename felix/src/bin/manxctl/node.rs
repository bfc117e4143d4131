//! `manxctl node drain | undrain`: a node leaves for maintenance, and comes back.

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use manx_felix::model::DRAIN;
use serde_json::{Value, json};

/// Cordons a node and has its agent drain it: after `wait` seconds its routes are withdrawn.
pub async fn drain(client: Client, node: &str, wait: u32) -> anyhow::Result<String> {
    let drained = json!({
        "metadata": { "annotations": { DRAIN: wait.to_string() } },
        "spec": { "unschedulable": true },
    });
    patch(client, node, drained).await?;
    Ok(format!(
        "{node} is cordoned; its neighbours are told to use other ways, and its routes are withdrawn in {wait}s. \
         `manxctl node undrain {node}` takes it back.\n"
    ))
}

/// Takes that back.
pub async fn undrain(client: Client, node: &str) -> anyhow::Result<String> {
    let undrained =
        json!({ "metadata": { "annotations": { DRAIN: null } }, "spec": { "unschedulable": null } });
    patch(client, node, undrained).await?;
    Ok(format!("{node} is uncordoned; its routes are told as before\n"))
}

async fn patch(client: Client, node: &str, change: Value) -> anyhow::Result<()> {
    let api = Api::<Node>::all(client);
    let patched = api.patch(node, &PatchParams::default(), &Patch::Merge(change)).await;
    patched.map(drop).with_context(|| format!("Node {node}"))
}
