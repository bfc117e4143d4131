//! The programs a node runs: their command lines, the folders they keep for themselves, and how one
//! knows that they are ready.

use crate::topology::{Node, PROGRAMS_LABEL, Runs};

/// BIRD 1.6, whose package cannot be installed beside that of BIRD 2: a daemon a family.
const BIRD1: [&str; 2] = ["/opt/bird1/usr/sbin/bird", "/opt/bird1/usr/sbin/bird6"];
/// What asks each.
pub const BIRDC1: [&str; 2] = ["/opt/bird1/usr/sbin/birdc", "/opt/bird1/usr/sbin/birdc6"];
const BIRDC1_STATUS: [&[&str]; 2] = [&[BIRDC1[0], "show", "status"], &[BIRDC1[1], "show", "status"]];

/// One long-running program of a node. All of them stay in the foreground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its name in `manx-lab kill` and of its log.
    pub name: &'static str,
    /// What is executed, inside the node.
    pub argv: Vec<String>,
    /// How one knows that it is ready.
    pub ready: Ready,
    /// The user its `/run` folder belongs to, where it drops root's rights before it makes its socket.
    pub user: Option<&'static str>,
}

/// How one knows that a program is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// This unix socket below the node's `/run` takes connections.
    Socket(&'static str),
    /// This command succeeds in the node.
    Command(&'static [&'static str]),
    /// It is manx-bgpd, and answers.
    Bgpd,
}

fn daemon(name: &'static str, argv: &[&str], ready: Ready) -> Daemon {
    Daemon { name, argv: argv.iter().map(|&arg| arg.to_owned()).collect(), ready, user: None }
}

fn frr(name: &'static str, path: &str, socket: &'static str) -> Daemon {
    // No telnet port: vtysh comes by the socket.
    let argv = [path, "--vty_port", "0", "--log", "stdout"];
    Daemon { user: Some("frr"), ..daemon(name, &argv, Ready::Socket(socket)) }
}

/// A node's programs in the order they are started. (That of the Kubernetes API is in `kube`.)
pub fn of(node: &Node) -> Vec<Daemon> {
    match node.runs {
        Runs::Bridge | Runs::Host | Runs::KubeApiserver => vec![],
        Runs::Frr => vec![
            // Readiness is the socket the others look for once, and then not again for 10 s.
            frr("zebra", "/usr/lib/frr/zebra", "frr/zserv.api"),
            frr("bfdd", "/usr/lib/frr/bfdd", "frr/bfdd.vty"),
            frr("staticd", "/usr/lib/frr/staticd", "frr/staticd.vty"),
            frr("bgpd", "/usr/lib/frr/bgpd", "frr/bgpd.vty"),
        ],
        Runs::Bird1 => [("bird", 0), ("bird6", 1)]
            .map(|(name, n)| daemon(name, &[BIRD1[n], "-f"], Ready::Command(BIRDC1_STATUS[n])))
            .to_vec(),
        // Its socket is there before its configuration is read.
        Runs::Bird => {
            vec![daemon("bird", &["/usr/sbin/bird", "-f"], Ready::Command(&["birdc", "show", "status"]))]
        }
        Runs::Gobgp => vec![daemon(
            "gobgpd",
            &["/usr/bin/gobgpd", "-f", "/etc/gobgp/gobgp.conf"],
            Ready::Command(&["gobgp", "global"]),
        )],
        Runs::Openbgpd => {
            vec![daemon(
                "bgpd",
                &["/usr/sbin/bgpd", "-d", "-f", "/etc/openbgpd/bgpd.conf"],
                Ready::Socket("openbgpd/bgpd.sock.0"),
            )]
        }
        // It takes no commands here: what it does is in its configuration.
        Runs::Exabgp => vec![daemon(
            "exabgp",
            &[
                "/usr/bin/env",
                "exabgp.daemon.user=root",
                "exabgp.api.cli=false",
                "exabgp.log.destination=stdout",
                "exabgp",
                "/etc/exabgp/exabgp.conf",
            ],
            Ready::Command(&["true"]),
        )],
        Runs::ManxBgpd => {
            vec![daemon("manx-bgpd", &["manx-bgpd", "--config", "/etc/manx/bgpd.toml"], Ready::Bgpd)]
        }
        // What DaemonSets say: `kubelet`.
        Runs::Manx if node.labels.get(PROGRAMS_LABEL).is_some_and(|from| from == "daemonsets") => vec![],
        Runs::Manx => vec![
            daemon("manx-bgpd", &["manx-bgpd"], Ready::Bgpd),
            daemon(
                "manx-felix",
                &[
                    "manx-felix",
                    "--kubeconfig",
                    "/etc/manx/kubeconfig",
                    "--cni-bin-dir",
                    "/opt/cni/bin",
                    "--cni-conf-dir",
                    "/etc/cni/net.d",
                ],
                Ready::Socket("manx/agent.sock"),
            ),
        ],
    }
}

/// A command to run once all of them are ready: FRR is given its configuration as a whole.
pub fn configure(runs: Runs) -> Option<&'static [&'static str]> {
    (runs == Runs::Frr).then_some(&["vtysh", "-b"])
}

/// Folders a node has for itself instead of the host's.
pub fn own_folders(runs: Runs) -> &'static [&'static str] {
    match runs {
        Runs::Bridge | Runs::Host => &[],
        Runs::Frr => &["/etc/frr", "/var/tmp"],
        Runs::Bird | Runs::Bird1 => &["/etc/bird"],
        Runs::Exabgp => &["/etc/exabgp"],
        Runs::Gobgp => &["/etc/gobgp"],
        Runs::Openbgpd => &["/etc/openbgpd"],
        // The agent installs the CNI plugin and its configuration.
        Runs::Manx => &["/etc/manx", "/etc/cni", "/opt/cni"],
        Runs::ManxBgpd | Runs::KubeApiserver => &["/etc/manx"],
    }
}

/// Folders below a node's `/run` that its programs expect to be there.
pub fn run_folders(runs: Runs) -> &'static [&'static str] {
    match runs {
        Runs::Bridge | Runs::Host | Runs::KubeApiserver | Runs::Gobgp | Runs::Exabgp => &[],
        Runs::Frr => &["frr"],
        Runs::Bird | Runs::Bird1 => &["bird"],
        Runs::Openbgpd => &["openbgpd"],
        Runs::Manx | Runs::ManxBgpd => &["manx"],
    }
}

/// Debian's package of a node's programs, for who does not have them.
pub fn package(runs: Runs) -> Option<&'static str> {
    match runs {
        Runs::Frr => Some("frr"),
        Runs::Bird => Some("bird2"),
        // Which cannot be installed beside it: `install-deps` unpacks it.
        Runs::Bird1 => Some("bird"),
        Runs::Exabgp => Some("exabgp"),
        Runs::Gobgp => Some("gobgpd"),
        Runs::Openbgpd => Some("openbgpd"),
        Runs::Bridge | Runs::Host | Runs::Manx | Runs::ManxBgpd | Runs::KubeApiserver => None,
    }
}
