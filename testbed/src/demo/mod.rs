//! The whole way, once: a rack with two real routers, three nodes and six pods, each claim of the project
//! tried with real packets and read off the routers' own tables.

mod failures;
mod reach;
mod report;
mod routers;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::graph::{self, Picture};
use crate::lab::{self, Lab, Options};
use crate::topology::Topology;

pub use report::Report;
use world::World;

/// The topology shown.
pub const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/labs/demo.clab.yml");

/// The name of its lab unless told otherwise.
pub const NAME: &str = "demo";

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
    let options = Options { name: show.name.clone(), progress: Arc::new(|said| println!("    {said}")) };
    let lab = Lab::up(&topology, options).await?;
    let name = lab.name().to_owned();
    let tried = try_everything(lab, &mut report).await;
    if show.keep {
        println!("{}", what_to_type(&name));
    } else {
        report.step("taking the lab down");
        lab::destroy(&name)?;
    }
    tried?;
    Ok(report.conclude())
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
    println!("\n{}", graph::text(&Picture::of_lab(&world.lab).await?));

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

    println!("\n{}", world.lab.run("node1", &["manxctl", "status"]).await?);
    Ok(())
}

fn what_to_type(name: &str) -> String {
    let kubeconfig: PathBuf = Path::new(lab::ROOT).join(name).join("kubeconfig");
    format!(
        "\nThe lab \"{name}\" is running (tor1 is stopped). What to type next, from target/debug:
    manx-lab exec node1 -- ip route                      the kernel's routes of a node
    manx-lab exec node1 -- manxctl status                this node and the cluster
    manx-lab exec tor2 -- birdc show route               what the second router knows
    manx-lab pod add node2 web                           one more pod
    manx-lab graph -o lab.svg                            a picture
    kubectl --kubeconfig {} get ippools,ipamblocks
    manx-lab down {name}",
        kubeconfig.display()
    )
}
