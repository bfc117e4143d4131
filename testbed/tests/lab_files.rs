//! Bad topology files and bad calls: what `manx-lab` says.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::process::Command;

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
