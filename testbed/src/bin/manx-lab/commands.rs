//! What the commands do: the library's work, and its results in words.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use comfy_table::{Table, presets};
use manx_testbed::crowd::{self, Crowd};
use manx_testbed::demo::{self, Show};
use manx_testbed::enter::{self, Life};
use manx_testbed::graph::{self, Picture};
use manx_testbed::lab::{self, destroy};
use manx_testbed::terminal::say;
use manx_testbed::{Lab, Options, Topology, echo, kube};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command, Pod, Which};

pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        // These change the process itself and come before any thread is made.
        Command::Exec { which, place, argv } => return become_command(&which, &place, &argv, Life::Attached),
        Command::Enter { which, daemon, place, argv } => {
            let life = if daemon { Life::Daemon } else { Life::Attached };
            return become_command(&which, &place, &argv, life);
        }
        Command::Setup { which, node } => {
            let lab = which.lab()?;
            lab.view(&node)?.enter()?;
            lab::setup(&lab, &node)?;
        }
        Command::Down { name, all } => down(name, all)?,
        Command::List => list(),
        Command::Kill { which, node, daemon, signal } => which.lab()?.kill(&node, &daemon, signal)?,
        Command::Logs { which, node, daemon } => logs(&which.lab()?, &node, daemon)?,
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(run_async(other));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_async(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { file, name } => up(&file, name).await?,
        Command::Demo { name, keep } => return show(&Show { name, keep }).await,
        Command::Inspect { which } => inspect(&which.lab()?).await?,
        Command::Pod(pod) => run_pod(pod).await?,
        Command::Graph { which, file, text, output } => graph(&which, file, text, output).await?,
        Command::Start { which, node, daemon: Some(daemon) } => {
            which.lab()?.start_daemon(&node, &daemon).await?
        }
        Command::Start { which, node, daemon: None } => which.lab()?.start_node(&node).await?,
        Command::Stop { which, node } => which.lab()?.stop_node(&node).await?,
        Command::Apiserver { listen, host } => kube::serve(listen, host).await?,
        Command::Crowd { listen, nodes, pods, services } => {
            crowd::serve(Crowd { nodes: nodes.max(1), pods, services }, listen).await?;
        }
        Command::Echo { port } => {
            echo::serve(port).await.map_err(|error| anyhow!("port {port}: {error}"))?;
        }
        Command::Probe { service, timeout } => {
            let seen = echo::probe(service, Duration::from_millis(timeout)).await;
            say(seen.map_err(|error| anyhow!("{service}: {error}"))?);
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

impl Which {
    fn lab(&self) -> anyhow::Result<Lab> {
        Ok(match &self.lab {
            Some(name) => Lab::find(name)?,
            None => Lab::only()?,
        })
    }
}

fn become_command(which: &Which, place: &str, argv: &[OsString], life: Life) -> anyhow::Result<ExitCode> {
    let lab = which.lab()?;
    let parts: Vec<&str> = place.splitn(3, '/').collect();
    let view = match parts[..] {
        [node] => lab.view(node)?,
        [node, namespace, pod] => lab.pod_view(node, namespace, pod)?,
        _ => anyhow::bail!("\"{place}\": expected NODE, or NODE/NAMESPACE/POD"),
    };
    let env = lab.env(parts[0])?;
    view.enter()?;
    Err(enter::exec(argv, env, life).into())
}

async fn up(file: &Path, name: Option<String>) -> anyhow::Result<()> {
    let topology = Topology::read(file)?;
    let begin = Instant::now();
    let tell = move |what: &str| say(format_args!("{:6.2} s  {what}", begin.elapsed().as_secs_f32()));
    let lab = tokio::select! {
        lab = Lab::up(&topology, Options { name, progress: Arc::new(tell) }) => lab?,
        ended = interrupted()? => anyhow::bail!("{ended}: what was built is removed"),
    };
    tell(&format!("lab \"{}\" is up", lab.name()));
    Ok(())
}

async fn show(show: &Show) -> anyhow::Result<ExitCode> {
    let passed = tokio::select! {
        passed = demo::run(show) => passed?,
        ended = interrupted()? => anyhow::bail!("{ended}"),
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Resolves when somebody wants an end (Ctrl-C, a CI job's time limit, a terminal that is closed) and says who.
fn interrupted() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
            _ = hangup.recv() => "the terminal is closed",
        }
    })
}

fn down(name: Option<String>, all: bool) -> anyhow::Result<()> {
    let names = match (name, all, &Lab::names()[..]) {
        (Some(name), ..) => vec![name],
        (None, true, names) => names.to_vec(),
        (None, false, [name]) => vec![name.clone()],
        (None, false, _) => {
            Lab::only()?;
            vec![]
        }
    };
    let mut left = Ok(());
    for name in names {
        match destroy(&name) {
            Ok(()) => say(format_args!("lab \"{name}\" is gone")),
            // One that cannot be removed (it is being built) does not keep the others.
            Err(error) => left = left.and(Err(error)),
        }
    }
    Ok(left?)
}

fn list() {
    let mut table = table(&["LAB", "NODES", "PODS", "TOPOLOGY"]);
    for name in Lab::names() {
        match Lab::find(&name) {
            Ok(lab) => table.add_row([
                name,
                lab.topology().nodes.len().to_string(),
                lab.pods().len().to_string(),
                lab.topology().file.display().to_string(),
            ]),
            Err(error) => table.add_row([name, "?".into(), "?".into(), error.to_string()]),
        };
    }
    say(table);
}

async fn inspect(lab: &Lab) -> anyhow::Result<()> {
    let mut table = table(&["NODE", "RUNS", "PROGRAMS", "ADDRESSES"]);
    for node in lab.topology().nodes.values() {
        let programs = lab.daemons(&node.name)?.into_iter().map(|name| {
            Ok(match lab.pid(&node.name, name)? {
                Some(pid) => format!("{name} ({pid})"),
                None => format!("{name} (not running)"),
            })
        });
        let programs: Vec<_> = programs.collect::<anyhow::Result<_>>()?;
        let addresses = lab.addresses(&node.name).await?;
        let addresses = addresses.iter().map(|a| format!("{} {}/{}", a.interface, a.ip, a.length));
        let addresses: Vec<_> = addresses.collect();
        table.add_row([node.name.clone(), node.runs.to_string(), programs.join("\n"), addresses.join("\n")]);
    }
    say(table);
    if lab.kubeconfig().exists() {
        say(format_args!("kubectl --kubeconfig {} get nodes", lab.kubeconfig().display()));
    }
    Ok(())
}

async fn run_pod(command: Pod) -> anyhow::Result<()> {
    match command {
        Pod::Add { which, node, name, namespace } => {
            let pod = which.lab()?.pod_add(&node, &namespace, &name).await?;
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            say(format_args!("{namespace}/{name} on {node}: {}", addresses.join(", ")));
        }
        Pod::Del { which, name, namespace } => which.lab()?.pod_del(&namespace, &name).await?,
        Pod::List { which } => {
            let mut table = table(&["NODE", "NAMESPACE", "POD", "ADDRESSES"]);
            for pod in which.lab()?.pods() {
                let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
                table.add_row([pod.node, pod.namespace, pod.name, addresses.join(", ")]);
            }
            say(table);
        }
    }
    Ok(())
}

async fn graph(
    which: &Which,
    file: Option<PathBuf>,
    text: bool,
    output: Option<PathBuf>,
) -> anyhow::Result<()> {
    let picture = match file {
        Some(file) => Picture::of_topology(&Topology::read(&file)?),
        None => Picture::of_lab(&which.lab()?).await?,
    };
    let drawn = if text { graph::text(&picture) } else { graph::svg(&picture) };
    let output = match output {
        None if text => None,
        None => Some(PathBuf::from(format!("{}.svg", picture.name))),
        Some(output) if output.as_os_str() == "-" => None,
        Some(output) => Some(output),
    };
    match output {
        None => say(drawn.trim_end()),
        Some(file) => {
            fs::write(&file, drawn).map_err(|error| anyhow!("{}: {error}", file.display()))?;
            say(file.display());
        }
    }
    Ok(())
}

fn logs(lab: &Lab, node: &str, daemon: Option<String>) -> anyhow::Result<()> {
    let names = match daemon {
        Some(name) => vec![name],
        None => lab.daemons(node)?.into_iter().map(str::to_owned).collect(),
    };
    for name in &names {
        let path = lab.log(node, name)?;
        if names.len() > 1 {
            say(format_args!("==> {node}: {name} <=="));
        }
        let text = fs::read(&path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        say(String::from_utf8_lossy(&text).trim_end());
    }
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
