//! `manxctl migrate`: what another pod network was told, in Manx's objects. Only prints.

mod calico;
mod filter;
mod selector;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::cluster;

/// One object of the other network: what becomes of it.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// Kind and name of what was read.
    of: String,
    /// What of it Manx does otherwise or not at all, in words.
    notes: Vec<String>,
    /// The objects to apply instead.
    objects: Vec<Value>,
}

/// An object as it was read; of which group and version is known by where it was looked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// What Calico was told, from files or from the cluster, as YAML to be read and applied by people.
///
/// # Errors
/// A file or the cluster that cannot be read.
pub async fn calico(files: &[PathBuf], kubeconfig: Option<&Path>) -> anyhow::Result<String> {
    let sources = if files.is_empty() { from_cluster(kubeconfig).await? } else { from_files(files)? };
    Ok(render(&calico::steps(&sources)))
}

async fn from_cluster(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<Source>> {
    let client = Client::try_from(cluster::configuration(kubeconfig).await?)?;
    let mut sources = Vec::new();
    for (kind, plural) in calico::KINDS {
        let resource = ApiResource {
            group: "crd.projectcalico.org".to_owned(),
            version: "v1".to_owned(),
            api_version: "crd.projectcalico.org/v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        match Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await {
            Ok(list) => sources.extend(list.items.into_iter().map(|object| Source {
                kind: kind.to_owned(),
                metadata: Metadata { name: object.name_any() },
                spec: object.data["spec"].as_object().cloned().unwrap_or_default(),
            })),
            // A cluster that has never had Calico, or an older one without filters.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(|| format!("reading {plural}")),
        }
    }
    Ok(sources)
}

fn from_files(files: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| file.display().to_string())?;
        for document in documents {
            // `kubectl get -o yaml` prints a List.
            let items = match document.get("items").and_then(Value::as_array) {
                Some(items) => items.clone(),
                None => vec![document],
            };
            for item in items.into_iter().filter(calico::is_one) {
                sources.push(serde_json::from_value(item).with_context(|| file.display().to_string())?);
            }
        }
    }
    Ok(sources)
}

/// An object of Manx.
fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "manx.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn render(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "# Nothing of Calico's was found.\n".to_owned();
    }
    let mut text = String::new();
    for step in steps {
        let _ = writeln!(text, "# {}", step.of);
        for note in &step.notes {
            let _ = writeln!(text, "#   - {note}");
        }
        if step.objects.is_empty() {
            let _ = writeln!(text, "#   - no object comes of it");
        }
        for object in &step.objects {
            let yaml = serde_saphyr::to_string(object).unwrap_or_else(|error| format!("# {error}\n"));
            text.push_str(yaml.trim_end());
            text.push_str("\n---\n");
        }
    }
    text
}

#[cfg(test)]
mod tests;
