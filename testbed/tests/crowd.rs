//! What an agent needs to know a cluster that is made up for it: the benchmark `bench/manx-felix-crowd`, with a small one.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::process::Command;

/// The number behind `name=`.
fn number(said: &str, name: &str) -> u64 {
    let (_, rest) = said.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {said}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
#[ignore = "needs root: make test"]
fn an_agent_knows_a_cluster_of_three_thousand_pods_in_little_memory() {
    let programs = Path::new(env!("CARGO_BIN_EXE_manx-lab")).parent().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/manx-felix-crowd");
    let output = Command::new(script)
        .arg(programs)
        .args(["--nodes", "150", "--pods", "3000", "--services", "300"])
        .env("MANX_CROWD_SETTLE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("manx_services{state=\"known\"} 300"), "{said}");
    let unread: Vec<&str> =
        said.lines().filter(|line| line.starts_with("manx_in_sync") && line.ends_with(" 0")).collect();
    assert_eq!(unread, [""; 0], "{said}");
    // A build without optimisation, on a machine that does something else: what grows with pods would be far more.
    assert!(number(&said, "peak_mb") < 150, "{said}");
}
