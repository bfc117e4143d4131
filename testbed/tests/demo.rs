//! The demo as a test: the whole way, once, with every check.

use std::process::Command;

#[test]
#[ignore = "needs root: make test"]
fn every_check_of_the_demo_passes_and_nothing_is_left() {
    let name = format!("demo-test-{}", std::process::id());
    let shown =
        Command::new(env!("CARGO_BIN_EXE_manx-lab")).args(["demo", "--name", &name]).output().unwrap();
    let said = String::from_utf8_lossy(&shown.stdout);
    let complained = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{said}\n{complained}");
    assert!(said.contains("21 of 21 checks passed"), "{said}");

    let labs = Command::new(env!("CARGO_BIN_EXE_manx-lab")).arg("list").output().unwrap();
    assert!(!String::from_utf8_lossy(&labs.stdout).contains(&name));
    assert!(manx_testbed::netns::of_lab(&name).is_empty());
}
