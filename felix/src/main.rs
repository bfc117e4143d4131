//! `manx-felix`: the node agent.

use std::io::IsTerminal;
#[cfg(not(test))]
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use manx_felix::acl::driver::Driver;
use manx_felix::acl::keeper::Keeper;
use manx_felix::acl::{question, services};
use manx_felix::agent::Agent;
use manx_felix::agent::known::KnownFile;
use manx_felix::alone::alone;
use manx_felix::config::Config;
use manx_felix::dataplane::{Dataplane, sysctl};
use manx_felix::health::{self, Metrics};
use manx_felix::install::Install;
use manx_felix::speaker::Speaker;
use manx_felix::watch::convert::words;
use manx_felix::{attach, credentials, nat, watch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// Commands of plugins on their way to the agent; more wait in their connections.
const COMMANDS: usize = 256;

/// Questions of manxctl to the packet filter; more wait in their connections.
const QUESTIONS: usize = 16;

/// They log every try of a request; the agent says once that the API is away.
const QUIET: &str = "kube_client=off,kube_runtime=off";

// In the image the two are one program under two names, since they link the same libraries.
#[cfg(not(test))]
#[path = "bin/manxctl/main.rs"]
mod manxctl;

fn main() -> ExitCode {
    #[cfg(not(test))]
    if std::env::args_os().next().is_some_and(|name| Path::new(&name).ends_with("manxctl")) {
        return manxctl::main();
    }
    agent()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn agent() -> ExitCode {
    match start(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manx-felix: {}", words(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn start(config: Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.log))
        .with_context(|| format!("--log \"{}\"", config.log))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    run(config).await
}

async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(node = config.node_name, version = env!("CARGO_PKG_VERSION"), "manx-felix starts");
    // First of all: a second agent must find this one before it touches anything.
    alone().await?;
    let listener = attach::listen(&config.socket).await?;
    let report = sysctl::prepare_node(&config.proc_sys);
    for change in &report.changed {
        tracing::info!("{} was {}, is {} now", change.name, change.from, change.to);
    }
    for error in &report.failed {
        tracing::warn!("{error}");
    }
    let client = credentials::client(config.kubeconfig.as_deref()).await?;
    let metrics = Metrics::new()?;
    let plugin_seconds = metrics.plugin_seconds.clone();
    let dataplane = Dataplane::start(config.routes)?;
    let acl = Driver::start(config.connections).context("cannot start the packet filter")?;
    let services = Keeper::start(services::TABLE).context("cannot guard service addresses")?;
    let nat = Keeper::start(nat::TABLE).context("cannot start the translation of addresses")?;
    let speaker = Speaker::start(&config.speaker_socket);
    let state_dir = config.state_dir();
    let is_first = !KnownFile::new(state_dir).is_there();
    let drivers = (dataplane, acl.clone(), services, nat);
    let (agent, pulse) = Agent::new(&config, client.clone(), drivers, speaker, metrics.clone())
        .with_context(|| format!("state directory {}", state_dir.display()))?;
    let watches = watch::start(&client, &config.node_name, &config.namespace, is_first);
    let (commands, received) = mpsc::channel(COMMANDS);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let install = Install::new(&config).context("this program's own place")?;
    // A task of its own and not the one beneath: what a plugin asks is then answered by the thread that heard it.
    let mut agent = tokio::spawn(agent.run(watches, received, stopped()?));

    tokio::select! {
        ended = &mut agent => {
            ended.context("the agent's task")?;
            tracing::info!("manx-felix stops; routes and sessions stay as they are");
            Ok(())
        }
        () = attach::serve(listener, commands, questions, plugin_seconds) => Ok(()),
        () = question::serve(acl.clone(), asked) => Ok(()),
        () = watch_acl(acl, metrics.clone()) => Ok(()),
        () = install.run(pulse.clone()) => Ok(()),
        served = health::serve(config.health_addr, pulse, metrics) => {
            served.with_context(|| format!("--health-addr {}", config.health_addr))
        }
    }
}

/// Shows how the packet filter is, once a second.
async fn watch_acl(acl: Driver, metrics: Metrics) {
    loop {
        metrics.see_acl(&acl.status());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Resolves on SIGTERM or SIGINT.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
