//! `manxctl`: what an operator asks of a node and of the cluster.

mod agent;
mod bgp;
mod cluster;
mod enforced;
mod explain;
mod ipam;
mod migrate;
mod node;
mod operate;
mod policy;
mod route;
mod status;
mod table;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use manx_bgp::api::{AfterDrain, DEFAULT_WAIT, Direction};
use manx_bgp::types::Prefix;
use manx_felix::uninstall::{Pods, Uninstall};
use manx_felix::watch::convert::words;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Shows what Manx does: on this node, and in the cluster.
///
/// What concerns this node is asked of its agent and its speaker, by their unix sockets: run manxctl there, as root.
/// What concerns the cluster is read from the Kubernetes API, from anywhere with a kubeconfig.
#[derive(Parser)]
#[command(
    name = "manxctl",
    version,
    after_help = "\
Examples:
  manxctl status                       sessions, blocks, routes and pods here; nodes and pools of the cluster
  manxctl status -o json | jq .node    the same for programs
  manxctl route 10.244.3.7             which way packets take from this node, and who disagrees about it
  manxctl route 10.244.3.7 --from worker7
                                       the same from another, as far as the cluster's objects tell it
  manxctl node status worker7          what a node says of itself: sessions, blocks, routes, what is not as it should be
  manxctl policy explain --from shop/web --to shop/db --port 5432
                                       whether a packet passes, and which rule of which policy decides
  manxctl policy top                   what each policy has let through and denied
  manxctl flows --denied --follow      denied packets as they are, and what denies them
  manxctl bgp peers                    every BGP session of this node, and why it is not up
  manxctl bgp peer tor1                all about one of them
  manxctl bgp routes --received tor1   what it said, and what became of each route; --advertised: what it was told
  manxctl bgp why 10.244.3.0/26        every path to one destination, and what decided against each
  manxctl bgp refresh tor1             have it say all its routes again; out: say ours again
  manxctl bgp reset tor1 --reason \"new filters\"
  manxctl bgp drain --wait 30          before maintenance: peers move their traffic away, then our routes go
  manxctl bgp undrain                  after it
  manxctl node drain worker7           the same for any node, from anywhere: cordoned until `node undrain`
  manxctl migrate calico --dry-run     Calico's pools and peers as Manx's objects, and what has no counterpart
  manxctl uninstall                    this node without Manx, once its agent and speaker are gone
  manxctl ipam show 10.244.3.7         who has an address; or what a pod, a node or a pool has
  manxctl ipam check                   whether blocks, pods, this node's agent and its kernel agree"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sessions, blocks, routes and pods of this node; nodes and pools of the cluster.
    ///
    /// Of the two, one is enough: what cannot be read is said. Fails when neither can.
    Status {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The agent's socket.
        #[arg(long, default_value = manx_cni::protocol::DEFAULT_SOCKET)]
        agent_socket: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Which way packets to an address take from this node, and why: its block, the speaker's paths, the kernel's route,
    /// and the first place where they disagree. Fails when they do.
    Route {
        /// An address, or a prefix: its first address.
        target: String,
        /// The node packets start from; this one unless given. Of another, what its agent has written to the API is told:
        /// the paths of its speaker and its kernel's route are known there alone.
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        agent: AgentArgs,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// What this node's BGP speaker knows.
    #[command(subcommand)]
    Bgp(BgpCommand),
    /// How a node is; its leave for maintenance, and its return.
    #[command(subcommand)]
    Node(NodeCommand),
    /// What policies let through: why, what they have counted, and what is in the kernel.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Packets that policies deny, or would deny (audit), as this node sees them.
    ///
    /// Those denied lately, then with --follow all that are, until interrupted. Of many only some are told; all are
    /// counted: see `manxctl policy top`.
    Flows {
        /// Denied ones: there are no others.
        #[arg(long, required = true)]
        denied: bool,
        /// Go on with those to come.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        agent: AgentArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Addresses: who has which, and whether all agree.
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// What another pod network was told, as objects of Manx.
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Removes from this node what Manx has put there: its routes and interfaces, the CNI plugin and its configuration,
    /// and what the agent remembers.
    ///
    /// The agent and the speaker must have ended. Kernel settings stay as they are.
    Uninstall {
        /// The agent's state directory.
        #[arg(long, value_name = "DIR", default_value = "/run/manx")]
        state_dir: PathBuf,
        /// The container runtime's folder of CNI plugins.
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        cni_bin_dir: PathBuf,
        /// The container runtime's folder of network configurations.
        #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
        #[command(flatten)]
        speaker: SpeakerArgs,
        /// Also while pods of this node have their network by it: they lose it.
        #[arg(long)]
        force: bool,
        /// Then wait for SIGTERM: a DaemonSet whose pods are ready says that all nodes are clean.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Subcommand)]
enum NodeCommand {
    /// What a node says of itself: its sessions and why they are not up, blocks, routes and pods, and what is not as it
    /// should be.
    ///
    /// Of this node its agent is asked, of others what theirs have written to the API (NodeStatus) is read.
    Status {
        /// Its name; this node unless given.
        node: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        agent: AgentArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Cordon a node, have its neighbours use other ways (RFC 8326), and then withdraw its routes.
    ///
    /// The same as `kubectl cordon` and the annotation `manx.io/drain` with the seconds. Its pods stay: move them with
    /// `kubectl drain`. It lasts until undrain, or `kubectl uncordon`.
    Drain {
        /// Its name.
        node: String,
        /// Seconds between the announcement and the withdrawal.
        #[arg(long, default_value_t = DEFAULT_WAIT)]
        wait: u32,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Uncordon it, and tell its routes as before.
    Undrain {
        /// Its name.
        node: String,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

#[derive(Subcommand)]
enum MigrateCommand {
    /// Calico's IPPools, BGPConfigurations, BGPPeers and BGPFilters, of a cluster or of files.
    ///
    /// Prints YAML to be read and then applied; comments say what has no counterpart. Changes nothing.
    Calico {
        /// Only print. There is no other way: what has no counterpart is for people to decide.
        #[arg(long, required = true)]
        dry_run: bool,
        /// Read this file of YAML, as `kubectl get -o yaml` or `calicoctl get -o yaml` print it, instead of the cluster;
        /// can be given several times.
        #[arg(long, value_name = "FILE")]
        from: Vec<PathBuf>,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

#[derive(Subcommand)]
enum IpamCommand {
    /// Pools with their size and use; or what an address, a pod, a node or a pool has.
    Show {
        /// An address, a pod (`namespace/name`), a node or a pool.
        target: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Compares blocks, pools, nodes and pods with each other, and where an agent answers here, with it and its kernel.
    ///
    /// Each discrepancy is a line; there being any is a failure. What is on its way (a pod that starts, a status a second
    /// old) may be one for a moment.
    Check {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The agent's socket.
        #[arg(long, default_value = manx_cni::protocol::DEFAULT_SOCKET)]
        agent_socket: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Frees what agents free by themselves after a while, now: an address of this node, or the blocks of a node that
    /// is gone.
    ///
    /// Refused while the pod, or the Node or a pod of it, is there.
    #[command(group(clap::ArgGroup::new("what").required(true)))]
    Release {
        /// An address of this node whose pod is gone.
        #[arg(group = "what")]
        address: Option<IpAddr>,
        /// A node that is gone.
        #[arg(long, group = "what")]
        node: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The agent's socket.
        #[arg(long, default_value = manx_cni::protocol::DEFAULT_SOCKET)]
        agent_socket: PathBuf,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Whether a packet that opens a connection passes, and what decides: policy, rule and line, on both ends.
    ///
    /// Asked of this node's agent, for any two pods of the cluster: it evaluates what is in force here, and for pods
    /// of other nodes what their nodes compile from the same objects.
    Explain {
        /// Who sends: a pod (namespace/name) or an address.
        #[arg(long)]
        from: String,
        /// Who receives: a pod (namespace/name), an address, or a Service (svc/namespace/name): the pods behind its port.
        #[arg(long)]
        to: String,
        /// To which port, as 80 or 53/udp; a ping unless given.
        #[arg(long)]
        port: Option<explain::Port>,
        /// Where a Service is read.
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The agent's socket.
        #[arg(long, default_value = manx_cni::protocol::DEFAULT_SOCKET)]
        agent_socket: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// On how many nodes each policy is in force, at which generation, and where not.
    ///
    /// As the agents have written it to the API: of a NetworkPolicy in the PolicyStatus of its name, of a
    /// ClusterNetworkPolicy in its condition Enforced.
    Status {
        /// A NetworkPolicy (`namespace/name`) or a ClusterNetworkPolicy; all of them unless given.
        policy: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// The packet filter's table as it is wanted, as `nft list` would print it, with what has been counted.
    Dump {
        /// What sets hold, too.
        #[arg(long)]
        elements: bool,
        #[command(flatten)]
        agent: AgentArgs,
    },
    /// What each policy has let through and denied, those with most packets first.
    ///
    /// Counted are packets that open connections: others belong to one that was let through, and are not judged.
    Top {
        #[command(flatten)]
        agent: AgentArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Subcommand)]
enum BgpCommand {
    /// Every session, how it is, and why it is not up.
    Peers {
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One session: everything the speaker tells of it.
    Peer {
        /// Its address or its name.
        peer: String,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Every destination with all its paths, best first, and why the others lost.
    Routes {
        /// Only this destination, as 10.244.3.0/26.
        prefix: Option<Prefix>,
        /// What this peer (address or name) has said, refused or not.
        #[arg(long, value_name = "PEER", conflicts_with = "advertised")]
        received: Option<String>,
        /// What this peer (address or name) has been told, as it was told.
        #[arg(long, value_name = "PEER")]
        advertised: Option<String>,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Every path to one destination, and the step of the decision it lost at or the rule that refused it.
    Why {
        /// The destination, as 10.244.3.0/26.
        prefix: Prefix,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Have all routes of a session said again; no session ends (RFC 2918, RFC 7313).
    #[command(after_help = "\
Examples:
  manxctl bgp refresh             ask every peer for all its routes
  manxctl bgp refresh tor1        ask one
  manxctl bgp refresh tor1 out    tell one all of ours again
  manxctl bgp refresh out         tell every peer")]
    Refresh {
        /// Its address or its name; all that are up unless given.
        peer: Option<String>,
        /// Whose routes: the peer's (in, unless given) or ours (out).
        #[arg(value_name = "in|out")]
        direction: Option<Whose>,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// End a session and begin it anew (Cease/Administrative Reset).
    Reset {
        /// Its address or its name.
        peer: String,
        /// For the peer's operator, who reads it in the log there (RFC 9003); up to 255 octets.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Have peers use other ways before ours end: graceful shutdown (RFC 8326).
    ///
    /// All routes are told again with the community GRACEFUL_SHUTDOWN, and inside our AS with LOCAL_PREF 0, so that they
    /// are used only where there is nothing else. When the wait is over they are withdrawn, or the sessions end. It lasts
    /// until undrain, whatever the configuration says meanwhile, or until the speaker ends.
    #[command(after_help = "\
Examples:
  manxctl bgp drain                                    this node, for maintenance: routes go in 60 s
  manxctl bgp drain tor1 --wait 10 --then shutdown --reason \"new optics\"
                                                       one peer, whose routes we avoid meanwhile
  manxctl bgp peers                                    how far it has come")]
    Drain {
        /// Its address or its name; all of them unless given.
        peer: Option<String>,
        /// Seconds between the announcement and what follows.
        #[arg(long, default_value_t = DEFAULT_WAIT)]
        wait: u32,
        /// What follows.
        #[arg(long, value_enum, default_value_t = Then::Withdraw)]
        then: Then,
        /// For the peers' operators where sessions end (RFC 9003); up to 255 octets.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take a drain back: our routes are told as before, and sessions it ended begin anew.
    Undrain {
        /// The peer drained by itself; everything that is drained unless given.
        peer: Option<String>,
        #[command(flatten)]
        speaker: SpeakerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Whose {
    In,
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Then {
    /// All routes are withdrawn; sessions stay.
    Withdraw,
    /// Sessions end with Cease/Administrative Shutdown.
    Shutdown,
}

/// `refresh out` means all peers; a peer of such a name is reached by its address.
fn refreshed(peer: Option<String>, whose: Option<Whose>) -> (Option<String>, Direction) {
    let direction = |whose| match whose {
        Whose::In => Direction::In,
        Whose::Out => Direction::Out,
    };
    match (peer.as_deref().map(|word| Whose::from_str(word, false)), whose) {
        (Some(Ok(whose)), None) => (None, direction(whose)),
        _ => (peer, whose.map_or(Direction::In, direction)),
    }
}

#[derive(Args)]
struct ClusterArgs {
    /// The kubeconfig to reach the cluster with. Unless given: $KUBECONFIG, then /etc/manx/kubeconfig, then
    /// ~/.kube/config, then the pod's own service account.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Args)]
struct AgentArgs {
    /// The agent's socket.
    #[arg(long, default_value = manx_cni::protocol::DEFAULT_SOCKET)]
    agent_socket: PathBuf,
}

#[derive(Args)]
struct SpeakerArgs {
    /// The speaker's socket.
    #[arg(long, env = "MANX_SPEAKER_SOCKET", default_value = manx_bgp::api::DEFAULT_SOCKET)]
    speaker_socket: PathBuf,
}

#[derive(Args)]
struct OutputArgs {
    /// How to print: a table for people, or JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// The program. In the image `manx-felix` is it too, called by this name.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Status { cluster, agent_socket, output } => {
            let report = status::gather(&agent_socket, cluster.kubeconfig.as_deref()).await;
            let printed = print(output.output, &report, || status::render(&report));
            printed.and_then(|()| report.verdict())
        }
        Command::Route { target, from, cluster, agent, speaker, output } => {
            let kubeconfig = cluster.kubeconfig.as_deref();
            let traced = match from.as_deref().filter(|from| !node::is_this(from, &agent.agent_socket)) {
                Some(from) => route::trace_from(from, &target, kubeconfig).await,
                None => route::trace(&target, kubeconfig, &agent.agent_socket, &speaker.speaker_socket).await,
            };
            match traced {
                Ok(traced) => print(output.output, &traced, || route::render(&traced)).and_then(|()| {
                    anyhow::ensure!(traced.disagreement.is_none(), "not all agree on the way to {target}");
                    Ok(())
                }),
                Err(error) => Err(error),
            }
        }
        Command::Ipam(command) => addresses(command).await,
        Command::Node(command) => of_node(command).await,
        Command::Bgp(command) => ask_speaker(command).await,
        Command::Policy(PolicyCommand::Explain { from, to, port, cluster, agent_socket, output }) => {
            let kubeconfig = cluster.kubeconfig.as_deref();
            let explained = explain::explain(&agent_socket, (&from, &to), port, kubeconfig).await;
            explained.and_then(|explained| print(output.output, &explained, || explain::render(&explained)))
        }
        Command::Policy(PolicyCommand::Status { policy, cluster, output }) => {
            enforcement(policy.as_deref(), &cluster, output.output).await
        }
        Command::Policy(PolicyCommand::Dump { elements, agent }) => {
            policy::dump(&agent.agent_socket, elements)
        }
        Command::Policy(PolicyCommand::Top { agent, output }) => policy::top(&agent.agent_socket)
            .and_then(|counted| print(output.output, &counted, || policy::render_top(&counted))),
        Command::Flows { denied: _, follow, agent, output } => {
            policy::flows(&agent.agent_socket, follow, output.output == Output::Json)
        }
        Command::Migrate(MigrateCommand::Calico { dry_run: _, from, cluster }) => {
            let printed = migrate::calico(&from, cluster.kubeconfig.as_deref()).await;
            printed.and_then(|text| write(&text))
        }
        Command::Uninstall { state_dir, cni_bin_dir, cni_conf_dir, speaker, force, wait } => {
            let uninstall = Uninstall {
                state_dir,
                cni_bin_dir: Some(cni_bin_dir),
                cni_conf_dir: Some(cni_conf_dir),
                speaker_socket: speaker.speaker_socket,
            };
            let pods = if force { Pods::LoseTheirNetwork } else { Pods::AreKept };
            remove(&uninstall, pods, wait).await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manxctl: {}", words(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn enforcement(policy: Option<&str>, cluster: &ClusterArgs, output: Output) -> anyhow::Result<()> {
    let (client, url) = cluster::client(cluster.kubeconfig.as_deref()).await?;
    let all = enforced::read(&client, policy).await.with_context(|| format!("reading {url}"))?;
    print(output, &all, || enforced::render(&all))
}

async fn of_node(command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Status { node, cluster, agent, output } => {
            let kubeconfig = cluster.kubeconfig.as_deref();
            let status = node::status(node.as_deref(), &agent.agent_socket, kubeconfig).await?;
            print(output.output, &status, || node::render(&status))
        }
        NodeCommand::Drain { node, wait, cluster } => {
            let (client, _) = cluster::client(cluster.kubeconfig.as_deref()).await?;
            write(&node::drain(client, &node, wait).await?)
        }
        NodeCommand::Undrain { node, cluster } => {
            let (client, _) = cluster::client(cluster.kubeconfig.as_deref()).await?;
            write(&node::undrain(client, &node).await?)
        }
    }
}

async fn addresses(command: IpamCommand) -> anyhow::Result<()> {
    match command {
        IpamCommand::Show { target, cluster, output } => {
            let (client, url) = cluster::client(cluster.kubeconfig.as_deref()).await?;
            let objects = cluster::objects(&client).await.with_context(|| format!("reading {url}"))?;
            let shown = ipam::show(&objects, target.as_deref())?;
            print(output.output, &shown, || ipam::render(&shown))
        }
        IpamCommand::Check { cluster, agent_socket, output } => {
            let (client, url) = cluster::client(cluster.kubeconfig.as_deref()).await?;
            let mut objects = cluster::objects(&client).await.with_context(|| format!("reading {url}"))?;
            objects.pods = cluster::all(&client).await.with_context(|| format!("reading pods of {url}"))?;
            let here = match agent::report(&agent_socket) {
                Ok(report) => Some(ipam::Here::new(report)?),
                Err(error) => {
                    eprintln!(
                        "manxctl: no agent answers here, so only the cluster is checked: {}",
                        words(&*error)
                    );
                    None
                }
            };
            let found = ipam::discrepancies(&objects, here.as_ref());
            print(output.output, &found, || ipam::render_check(&found, &objects, here.as_ref()))?;
            anyhow::ensure!(found.is_empty(), "{} discrepancies", found.len());
            Ok(())
        }
        IpamCommand::Release { address: Some(address), agent_socket, .. } => {
            let holder = agent::free(&agent_socket, address)?;
            println!("freed {address}, which {holder} held");
            Ok(())
        }
        IpamCommand::Release { node, cluster, .. } => {
            let node = node.context("name an address or --node")?;
            let (client, url) = cluster::client(cluster.kubeconfig.as_deref()).await?;
            let objects = cluster::objects(&client).await.with_context(|| format!("reading {url}"))?;
            let freed = ipam::release_node(client, &objects, &node).await?;
            println!("freed {}", table::list(freed));
            Ok(())
        }
    }
}

async fn ask_speaker(command: BgpCommand) -> anyhow::Result<()> {
    match command {
        BgpCommand::Peers { speaker, output } => {
            let status = bgp::peers(&speaker.speaker_socket).await?;
            print(output.output, &status, || bgp::render_peers(&status))
        }
        BgpCommand::Peer { peer, speaker, output } => {
            let session = bgp::peer(&speaker.speaker_socket, &peer).await?;
            print(output.output, &session, || bgp::render_peer(&session))
        }
        BgpCommand::Routes { prefix, received, advertised, speaker, output } => {
            let view = match (received, advertised) {
                (Some(peer), _) => bgp::View::Received(peer),
                (None, Some(peer)) => bgp::View::Advertised(peer),
                (None, None) => bgp::View::Table,
            };
            let routes = bgp::routes(&speaker.speaker_socket, prefix, view).await?;
            print(output.output, &routes, || bgp::render_routes(&routes))
        }
        BgpCommand::Why { prefix, speaker, output } => {
            let destination = bgp::why(&speaker.speaker_socket, prefix).await?;
            print(output.output, &destination, || bgp::render_why(&destination))
        }
        BgpCommand::Refresh { peer, direction, speaker, output } => {
            let (peer, direction) = refreshed(peer, direction);
            let outcomes = operate::refresh(&speaker.speaker_socket, peer.as_deref(), direction).await?;
            print(output.output, &outcomes, || operate::render(&outcomes))
        }
        BgpCommand::Reset { peer, reason, speaker, output } => {
            let outcomes = operate::reset(&speaker.speaker_socket, &peer, reason).await?;
            print(output.output, &outcomes, || operate::render(&outcomes))
        }
        BgpCommand::Drain { peer, wait, then, reason, speaker, output } => {
            let then = match then {
                Then::Withdraw => AfterDrain::Withdraw,
                Then::Shutdown => AfterDrain::Shutdown,
            };
            let socket = &speaker.speaker_socket;
            let drained = operate::drain(socket, peer.as_deref(), wait, then, reason).await?;
            print(output.output, &drained, || operate::render_drained(&drained))
        }
        BgpCommand::Undrain { peer, speaker, output } => {
            let drained = operate::undrain(&speaker.speaker_socket, peer.as_deref()).await?;
            print(output.output, &drained, || operate::render_drained(&drained))
        }
    }
}

/// Says what was removed as a line each; fails when something could not be.
async fn remove(uninstall: &Uninstall, pods: Pods, wait: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    uninstall.allowed(pods).await?;
    let outcome = uninstall.run();
    let removed = outcome.removed.iter().map(|what| format!("removed {what}\n"));
    write(&removed.collect::<String>())?;
    anyhow::ensure!(outcome.failed.is_empty(), "not removed: {}", outcome.failed.join("; "));
    write("this node is clean\n")?;
    if wait {
        terminate.recv().await;
    }
    Ok(())
}

fn print(output: Output, document: &impl Serialize, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(document)? + "\n",
    };
    write(&text)
}

fn write(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader (head, less) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_direction_alone_means_all_peers() {
        let read = |words: &[&str]| {
            let argv = ["manxctl", "bgp", "refresh"].into_iter().chain(words.iter().copied());
            match Cli::try_parse_from(argv).map(|cli| cli.command) {
                Ok(Command::Bgp(BgpCommand::Refresh { peer, direction, .. })) => refreshed(peer, direction),
                _ => panic!("{words:?}"),
            }
        };
        let tor1 = || Some("tor1".to_owned());
        assert_eq!(read(&[]), (None, Direction::In));
        assert_eq!(read(&["out"]), (None, Direction::Out));
        assert_eq!(read(&["tor1"]), (tor1(), Direction::In));
        assert_eq!(read(&["tor1", "out"]), (tor1(), Direction::Out));
        assert_eq!(read(&["in", "out"]), (Some("in".to_owned()), Direction::Out));
    }
}
