//! `crds`: writes the CustomResourceDefinitions, which are generated from the Rust types, as YAML.

mod older;
mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use manx_felix::crd;

const HEADER: &str = "# Generated from the Rust types by `crds --dir deploy/crds`: do not edit.\n";

/// Prints the CustomResourceDefinitions of Manx as YAML: `crds | kubectl apply -f -`.
#[derive(Parser)]
struct Args {
    /// Write one file each, `<group>_<plural>.yaml`, into this directory instead, a kustomization of them, and a page
    /// that explains every field; and beside it, in `<directory>-1.30`, a kustomization for Kubernetes 1.30.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let Some(directory) = &args.dir else {
        for crd in crd::all() {
            write!(io::stdout(), "---\n{}", yaml(&crd)?)?;
        }
        return Ok(());
    };
    for (name, text) in files()? {
        let path = directory.join(name);
        write_file(&path, &text)?;
    }
    let (older, base) = older_beside(directory)?;
    fs::create_dir_all(&older).with_context(|| format!("making {}", older.display()))?;
    write_file(&older.join("kustomization.yaml"), &older_text(&base)?)
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The directory for Kubernetes 1.30, and how it calls the other.
fn older_beside(directory: &Path) -> anyhow::Result<(PathBuf, String)> {
    let name = directory.file_name().context("--dir has no name")?.to_string_lossy();
    Ok((directory.with_file_name(format!("{name}-1.30")), format!("../{name}")))
}

fn older_text(base: &str) -> anyhow::Result<String> {
    let body = serde_saphyr::to_string(&older::kustomization(&crd::all(), base)?)?;
    Ok(format!("{HEADER}# For Kubernetes 1.30; later releases take deploy/crds.\n{body}"))
}

/// What a directory of them holds.
fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let crds = crd::all();
    let mut files = crds
        .iter()
        .map(|crd| Ok((file_name(crd), yaml(crd)?)))
        .collect::<anyhow::Result<BTreeMap<String, String>>>()?;
    let names: String = files.keys().map(|name| format!("  - {name}\n")).collect();
    let text = format!(
        "{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    );
    files.insert("kustomization.yaml".to_owned(), text);
    files.insert("README.md".to_owned(), reference::page(&crds));
    Ok(files)
}

fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

fn yaml(crd: &CustomResourceDefinition) -> anyhow::Result<String> {
    let body = serde_saphyr::to_string(crd)?;
    Ok(format!("{HEADER}{body}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_deploy_are_those_of_the_types() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        let checked_in: BTreeMap<String, String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        assert!(
            checked_in == files().unwrap(),
            "deploy/crds is stale: run `cargo run -p manx-felix --bin crds -- --dir deploy/crds`"
        );
    }

    #[test]
    fn those_for_an_older_kubernetes_are_too() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        let (older, base) = older_beside(&directory).unwrap();
        let checked_in = fs::read_to_string(older.join("kustomization.yaml")).unwrap();
        assert!(checked_in == older_text(&base).unwrap(), "deploy/crds-1.30 is stale: run `make crds`");
    }

    #[test]
    fn what_is_written_reads_as_what_was_meant() {
        for crd in crd::all() {
            let read: CustomResourceDefinition = serde_saphyr::from_str(&yaml(&crd).unwrap()).unwrap();
            assert_eq!(read, crd);
        }
    }

    #[test]
    fn every_field_is_explained() {
        fn unexplained(path: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
            let Some(fields) = schema["properties"].as_object() else { return };
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                if !field["description"].is_string() && name != "spec" {
                    found.push(path.clone());
                }
                unexplained(&path, field, found);
                unexplained(&path, &field["items"], found);
            }
        }
        let mut found = Vec::new();
        for crd in crd::all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            unexplained(&crd.spec.names.kind, &schema["openAPIV3Schema"], &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
