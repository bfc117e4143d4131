//! The whole way, once: a rack with two real routers, three nodes and six pods, each claim of the project
//! tried with real packets and read off the routers' own tables.

mod failures;
mod reach;
mod report;
mod routers;
mod world;

use std::path::Path;
use std::sync::Arc;

use crate::graph::{self, Picture};
use crate::lab::{Lab, Options};
use crate::terminal::say;
use crate::topology::Topology;

pub use report::Report;
use world::World;

/// The topology shown.
pub const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/labs/demo.clab.yml");

/// How the demo is shown.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// Name of the lab; the topology's own unless set.
    pub name: Option<String>,
    /// Leave the lab running at the end.
    pub keep: bool,
}

/// Brings the rack up, tries everything, says what was seen and, unless told to keep it, takes it
/// down again. True when every check passed.
///
/// # Errors
/// When something could not even be tried: the lab did not come up, a program is missing.
pub async fn run(show: &Show) -> anyhow::Result<bool> {
    let topology = Topology::read(Path::new(TOPOLOGY))?;
    let mut report = Report::new();
    report.step("a rack: one switch, two top-of-rack routers, three nodes, a client behind the routers");
    let options =
        Options { name: show.name.clone(), progress: Arc::new(|said| say(format_args!("    {said}"))) };
    let lab = Lab::up(&topology, options).await?;
    // Gone however this ends: interrupted, or by a panic.
    let _temporary = (!show.keep).then(|| lab.clone().temporary());
    let tried = try_everything(lab.clone(), &mut report).await;
    if show.keep {
        report.step("tor1 is started again");
        lab.start_node("tor1").await?;
    } else {
        report.step("taking the lab down");
        lab.down()?;
    }
    let passed = report.conclude();
    if show.keep {
        say(what_to_type(&lab));
    }
    tried?;
    Ok(passed)
}

async fn try_everything(lab: Lab, report: &mut Report) -> anyhow::Result<()> {
    report.step("sessions: every node with every other and with both routers, IPv4 and IPv6 in one");
    let mut world = World::new(lab).await?;
    report.check("every BGP session is up", world.sessions_in_words(), world.sessions_up().await);

    report.step("six pods, two a node, by the real CNI plugin");
    report.check(
        "every pod has an address of each family",
        "kubelet is played by the lab",
        world.start_pods().await?,
    );
    say(format_args!("\n{}", graph::text(&Picture::of_lab(&world.lab).await?)));

    report.step("every pod and every node to every pod, both families");
    reach::pods_and_nodes(&world, report).await;

    report.step("the client behind the routers, and back, without NAT");
    reach::client(&world, report).await;

    report.step("what the routers themselves say");
    routers::check(&world, report).await;

    report.step("the agent of node2 is killed with SIGKILL while a ping runs to a pod there");
    failures::agent_killed(&world, report).await?;

    report.step("tor1 is stopped");
    failures::router_stopped(&world, report).await?;

    report.step("a pod is deleted");
    failures::pod_deleted(&mut world, report).await?;

    say(format_args!("\n{}", world.lab.run("node1", &["manxctl", "status"]).await?));
    Ok(())
}

fn what_to_type(lab: &Lab) -> String {
    let (name, programs, kubeconfig) = (lab.name(), lab.programs().display(), lab.kubeconfig());
    format!(
        "\nThe lab \"{name}\" is running. What to type next:
    export PATH=$PATH:{programs} MANX_LAB={name} KUBECONFIG={kubeconfig}
    manx-lab exec node1 -- manxctl status                sessions, blocks, routes, pods; the cluster
    manx-lab exec node1 -- ip route                      the kernel's routes of a node
    manx-lab exec tor1 -- vtysh -c 'show bgp summary'    what the first router says
    manx-lab exec tor2 -- birdc show route               what the second router knows
    manx-lab pod add node2 web                           one more pod
    kubectl get ippools,ipamblocks,nodestatuses          the cluster's objects
    manx-lab graph -o lab.svg                            a picture
    manx-lab down {name}",
        kubeconfig = kubeconfig.display()
    )
}
