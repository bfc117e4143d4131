//! Bad topology files and bad calls: what `manx-lab` says.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::process::Command;

use serde_json::Value;

fn manx_lab(args: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_manx-lab")).env_remove("MANX_LAB").args(args).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_bad_file_is_refused_with_its_place_and_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.clab.yml");
    let path = file.to_str().unwrap();
    for (text, expected) in [
        (
            "name: x\ntopology:\n  nodes:\n    a:\n      kind: vr-sros\n",
            ":5:13: unknown kind \"vr-sros\": this testbed knows \"linux\" (what it runs is said by the label \
             manx.io/runs) and \"bridge\"",
        ),
        (
            "name: x\ntopology:\n  nodes:\n    a: {kind: linux}\n  links:\n    - endpoints: [\"a:eth1\", \"b:eth1\"]\n",
            ":6:29: a link to \"b\", which is not a node: there are a",
        ),
        ("name: x\ntopology:\n  nodes:\n  - a\n", ":4:5: expected mapping"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (good, said) = manx_lab(&["up", path]);
        assert!(!good);
        assert!(said.starts_with(&format!("manx-lab: {path}{expected}")), "{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let (good, said) = manx_lab(&["up", "/nowhere/x.clab.yml"]);
    assert!(!good);
    assert_eq!(said, "manx-lab: /nowhere/x.clab.yml: No such file or directory (os error 2)\n");
}

#[test]
fn a_lab_that_is_not_there_is_named() {
    let (good, said) = manx_lab(&["exec", "--lab", "no-such-lab", "a", "--", "true"]);
    assert!(!good);
    assert!(said.starts_with("manx-lab: no lab \"no-such-lab\": there are "), "{said}");
}

/// Topologies for containerlab alone, with kinds this testbed does not have.
fn for_containerlab() -> Vec<std::path::PathBuf> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/containerlab");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.to_string_lossy().ends_with(".clab.yml")).collect()
}

#[test]
fn files_that_containerlab_is_to_read_are_there() {
    assert_eq!(for_containerlab().len(), 2);
    for file in for_containerlab() {
        let topology: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let nodes = topology["topology"]["nodes"].as_object().unwrap();
        let binds = nodes.values().flat_map(|node| node["binds"].as_array().into_iter().flatten());
        let binds = binds.map(|bind| bind.as_str().unwrap().split(':').next().unwrap());
        for named in binds.chain(nodes.values().filter_map(|node| node["startup-config"].as_str())) {
            assert!(file.with_file_name(named).exists(), "{}: {named}", file.display());
        }
        for link in topology["topology"]["links"].as_array().unwrap() {
            for end in link["endpoints"].as_array().unwrap() {
                let node = end.as_str().unwrap().split(':').next().unwrap();
                assert!(nodes.contains_key(node), "{}: {end}", file.display());
            }
        }
    }
}

/// `MANX_CLAB_SCHEMA`: `schemas/clab.schema.json` of containerlab's repository.
#[test]
fn every_topology_follows_containerlabs_schema() {
    let Some(schema) = std::env::var_os("MANX_CLAB_SCHEMA").filter(|file| !file.is_empty()) else {
        return println!("not run: MANX_CLAB_SCHEMA names no schema");
    };
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let labs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let files = std::fs::read_dir(labs).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.to_string_lossy().ends_with(".clab.yml"));
    for file in files.chain(for_containerlab()) {
        let topology: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&topology).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn the_labs_of_this_repository_are_good_files() {
    let labs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let files = std::fs::read_dir(labs).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(".clab.yml")).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        manx_testbed::Topology::read(&file).unwrap();
    }
}
