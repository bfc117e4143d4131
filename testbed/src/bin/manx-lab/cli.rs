//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use manx_testbed::echo;
use nix::sys::signal::Signal;

/// Labs of network namespaces: real routers, Kubernetes nodes and pods on this one machine.
///
/// A lab is described by a containerlab topology file; it runs the programs installed here instead of
/// container images. All it makes is found by its name and is gone after "manx-lab down".
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Which lab; may be left out while there is only one.
#[derive(Debug, Args)]
pub struct Which {
    /// Name of the lab; may be left out while there is only one
    #[arg(long, short, env = "MANX_LAB", value_name = "NAME")]
    pub lab: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a lab up and wait until all its programs are ready
    Up {
        /// A containerlab topology file (*.clab.yml)
        file: PathBuf,
        /// Name of the lab, instead of the file's: one file can be up more than once
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove a lab, however it was left: its processes, namespaces, links and files
    Down {
        /// Name of the lab; may be left out while there is only one
        name: Option<String>,
        /// Remove every lab
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show Manx working: a rack with two real routers, three nodes and six pods, every claim tried
    ///
    /// Brings a lab up, tries everything, prints a picture and a table of the checks, and takes the lab
    /// down again. The exit code is not zero if a check failed.
    Demo {
        /// Name of the lab, instead of "demo"
        #[arg(long)]
        name: Option<String>,
        /// Leave the lab running, and say what to type next
        #[arg(long)]
        keep: bool,
    },
    /// List the labs
    List,
    /// Show a lab's nodes: what they run, whether it is alive, their addresses
    Inspect {
        #[command(flatten)]
        which: Which,
    },
    /// Run a command in a node, or in a pod
    ///
    /// The command sees the node's network, host name, /run and bound files, so that vtysh, birdc and
    /// manxctl work with their default paths. All else is this machine's own.
    #[command(after_help = "Examples:\n  manx-lab exec tor1 -- vtysh -c 'show bgp summary'\n  \
                            manx-lab exec node1 -- manxctl status\n  \
                            manx-lab exec node1/default/web -- ip address")]
    Exec {
        #[command(flatten)]
        which: Which,
        /// NODE, or NODE/NAMESPACE/POD
        place: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
    /// Start, stop and list pods
    #[command(subcommand)]
    Pod(Pod),
    /// Send a signal to a program of a node
    Kill {
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
        /// The program, as "manx-lab inspect" names it
        daemon: String,
        /// The signal
        #[arg(long, short, default_value = "SIGTERM")]
        signal: Signal,
    },
    /// Start a program of a node that is not running, or all of a stopped node
    Start {
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
        /// The program; without it: links up, and all programs
        daemon: Option<String>,
    },
    /// Stop a node: its programs, then its links
    Stop {
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
    },
    /// Draw a lab with its sessions and blocks, as SVG or as text
    Graph {
        #[command(flatten)]
        which: Which,
        /// Draw this topology file instead of a lab that is up
        #[arg(conflicts_with = "lab")]
        file: Option<PathBuf>,
        /// Draw with characters, for a terminal
        #[arg(long)]
        text: bool,
        /// Where to write it; "-" for standard output. Unless set: <lab>.svg, or standard output for text
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Print what a node's programs said
    Logs {
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
        /// One program; all of them unless set
        daemon: Option<String>,
    },
    /// Serve TCP callers of both families with their own address (run inside a node or pod)
    #[command(hide = true)]
    Echo {
        /// The port
        #[arg(long, default_value_t = echo::PORT)]
        port: u16,
    },
    /// Call an echo and print the address it saw
    #[command(hide = true)]
    Probe {
        /// ADDRESS:PORT or [ADDRESS]:PORT
        service: SocketAddr,
        /// How long to wait, in milliseconds
        #[arg(long, default_value_t = 2000)]
        timeout: u64,
    },
    /// Serve the Kubernetes API of a large cluster that is not there
    #[command(hide = true)]
    Crowd {
        /// ADDRESS:PORT or [ADDRESS]:PORT
        #[arg(long)]
        listen: SocketAddr,
        /// Nodes, at least 1
        #[arg(long, default_value_t = 5000)]
        nodes: usize,
        /// Pods
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
        /// Services
        #[arg(long, default_value_t = 10_000)]
        services: usize,
    },
    /// Run an API server (the program of a kube-apiserver node)
    #[command(hide = true)]
    Apiserver {
        /// ADDRESS:PORT or [ADDRESS]:PORT
        #[arg(long)]
        listen: SocketAddr,
        /// Standard input is a listening socket whose callers are let through as well
        #[arg(long)]
        host: bool,
    },
    /// Enter a node and become a command (what the library starts processes with)
    #[command(hide = true)]
    Enter {
        #[command(flatten)]
        which: Which,
        /// In a session of its own
        #[arg(long)]
        daemon: bool,
        /// NODE, or NODE/NAMESPACE/POD
        place: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
    /// Enter a node and set it up
    #[command(hide = true)]
    Setup {
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Pod {
    /// Start a pod: its object, a network namespace, CNI ADD
    Add {
        #[command(flatten)]
        which: Which,
        /// The node it runs on
        node: String,
        /// Its name
        name: String,
        /// Its namespace
        #[arg(long, short, default_value = "default")]
        namespace: String,
    },
    /// End a pod: CNI DEL, its network namespace, its object
    Del {
        #[command(flatten)]
        which: Which,
        /// Its name
        name: String,
        /// Its namespace
        #[arg(long, short, default_value = "default")]
        namespace: String,
    },
    /// List the pods
    List {
        #[command(flatten)]
        which: Which,
    },
}
