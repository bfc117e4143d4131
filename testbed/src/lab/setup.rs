//! The inside of a node, done by a process that has entered it: interfaces up, the bridge of a
//! switch, and the commands of the topology file.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::{Lab, LabError, succeeded};
use crate::link;
use crate::topology::Runs;

/// Settings of the interfaces that cables are plugged into; those that Manx makes keep the kernel's.
const SYSCTLS: [(&str, &str); 2] = [
    // An address is of use at once instead of after a second of duplicate address detection.
    ("accept_dad", "0"),
    // A cable that is cut and mended takes no address with it, as with IPv4.
    ("keep_addr_on_down", "1"),
];

/// Sets up the node this process has entered.
///
/// # Errors
/// The first step that failed.
pub fn setup(lab: &Lab, node: &str) -> Result<(), LabError> {
    let node = lab.node(node)?;
    let interfaces: Vec<&str> = lab.topology().interfaces(&node.name).collect();
    for interface in &interfaces {
        for (name, value) in SYSCTLS {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
            fs::write(&path, value).map_err(LabError::file(&path))?;
        }
    }
    let mut text: String =
        ["lo"].iter().chain(&interfaces).map(|name| format!("link set {name} up\n")).collect();
    if node.runs == Runs::Bridge {
        text.push_str(&link::bridge(&node.name, &interfaces));
    }
    batch(&node.name, &text)?;
    let env = lab.env(&node.name)?;
    for argv in &node.exec {
        let start = |source| LabError::start(argv, source);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).envs(env.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        succeeded(&node.name, argv, command.output().map_err(start)?)?;
    }
    Ok(())
}

/// Gives text to `ip -batch`, in this process's namespace.
fn batch(place: &str, text: &str) -> Result<(), LabError> {
    let argv = ["ip", "-batch", "-"];
    let start = |source| LabError::start(&argv, source);
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(start)?;
    }
    succeeded(place, &argv, child.wait_with_output().map_err(start)?).map(drop)
}
