//! `chart`: makes the Helm chart of `deploy/chart` from `deploy/base`, so that the manifests are written once.
//!
//! A value of the chart is a place in the base: what the base says there is its default, and the template has the
//! value in its stead, as JSON, which is YAML on one line. Which places, and what is said of them, is in [`values`].
//! The chart's `crds` is a link to `deploy/crds`.

mod document;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use serde_json::Value;

use document::{Document, read};
use values::VALUES;

const HEADER: &str = "# Generated from deploy/base by `chart deploy`: do not edit.\n";

/// The files of the base that become templates. Helm makes the namespace itself.
const BASE: [&str; 4] = ["rbac.yaml", "admission.yaml", "speaker.yaml", "agent.yaml"];

/// How the cluster peers: objects by name, with what the values say as their specs.
const CLUSTER: &str = r#"{{- range $name, $spec := .Values.pools }}
---
apiVersion: manx.io/v1alpha1
kind: IPPool
metadata:
  name: {{ $name | toJson }}
spec: {{ $spec | toJson }}
{{- end }}
---
apiVersion: manx.io/v1alpha1
kind: BGPConfiguration
metadata:
  name: default
spec: {{ .Values.bgp | toJson }}
{{- range $name, $spec := .Values.peers }}
---
apiVersion: manx.io/v1alpha1
kind: BGPPeer
metadata:
  name: {{ $name | toJson }}
spec: {{ $spec | toJson }}
{{- end }}
"#;

/// Where the API is reached without kube-proxy.
const API_SERVER: &str = r#"{{- if .Values.apiServer.host }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: manx-api-server
  namespace: manx-system
data:
  KUBERNETES_SERVICE_HOST: {{ .Values.apiServer.host | toJson }}
  KUBERNETES_SERVICE_PORT: {{ .Values.apiServer.port | toString | toJson }}
{{- end }}
"#;

/// Writes the Helm chart into DEPLOY/chart, from DEPLOY/base and DEPLOY/overlays/mesh.
#[derive(Parser)]
struct Args {
    /// The folder `deploy`.
    deploy: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let deploy = Args::parse().deploy;
    for (name, text) in files(&deploy)? {
        let path = deploy.join("chart").join(name);
        fs::create_dir_all(path.parent().unwrap_or(&deploy))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The chart's generated files, by their paths in it.
fn files(deploy: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let base = Base::read(deploy)?;
    let mut files: BTreeMap<String, String> = BASE
        .iter()
        .map(|file| Ok((format!("templates/{file}"), base.template(file)?)))
        .collect::<anyhow::Result<_>>()?;
    files.insert("templates/cluster.yaml".to_owned(), format!("{HEADER}{CLUSTER}"));
    files.insert("templates/api-server.yaml".to_owned(), format!("{HEADER}{API_SERVER}"));
    files.insert("values.yaml".to_owned(), values::yaml(&base.defaults()?)?);
    files.insert("values.schema.json".to_owned(), serde_json::to_string_pretty(&values::schema())? + "\n");
    Ok(files)
}

/// The documents of the base by file, and those of the full mesh.
struct Base {
    files: BTreeMap<&'static str, Vec<Document>>,
    mesh: Vec<Document>,
}

impl Base {
    fn read(deploy: &Path) -> anyhow::Result<Self> {
        let files = BASE.iter().map(|file| Ok((*file, read(&deploy.join("base").join(file))?)));
        let files = files.collect::<anyhow::Result<_>>()?;
        Ok(Self { files, mesh: read(&deploy.join("overlays/mesh/cluster.yaml"))? })
    }

    /// The documents of a file with their values taken out.
    fn template(&self, file: &str) -> anyhow::Result<String> {
        let mut text = HEADER.to_owned();
        for document in &self.files[file] {
            let mut document = document.clone();
            let mut expressions = Vec::new();
            for (index, value) in VALUES.iter().enumerate() {
                for place in value.places {
                    if let Some(expression) = document.take_out(place, value.path, index)? {
                        expressions.push(expression);
                    }
                }
            }
            let mut yaml = document.yaml()?;
            for (mark, expression) in expressions {
                yaml = yaml.replace(&mark, &expression);
            }
            text += &format!("---\n{yaml}");
        }
        Ok(text)
    }

    /// What the base says at each value's place.
    fn defaults(&self) -> anyhow::Result<Vec<Value>> {
        let all: Vec<&Document> = self.files.values().flatten().collect();
        VALUES
            .iter()
            .map(|value| match value.places {
                [] => values::of_the_mesh(value.path, &self.mesh),
                places => {
                    let found =
                        places.iter().map(|place| all.iter().find_map(|document| document.get(place)));
                    let mut found = found
                        .collect::<Option<Vec<_>>>()
                        .with_context(|| format!("deploy/base says nothing where {} is to be", value.path))?;
                    found.dedup();
                    anyhow::ensure!(found.len() == 1, "deploy/base has several values of {}", value.path);
                    Ok(found.remove(0))
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
