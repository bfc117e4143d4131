//! The BGP daemon of a Manx node; or, with a file instead of an agent, of anything.

mod config;
mod control;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use manx_bgp::api::DEFAULT_SOCKET;
use manx_bgp::speaker::metrics::DEFAULT_ADDRESS;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Speaks BGP with the neighbours it is told of, and tells which paths are best.
///
/// On a cluster's node the agent (manx-felix) hands over the peers and prefixes on the socket; nothing
/// else is needed. Alone, a TOML file says the same: see EXAMPLE below. What was ordered last stays in
/// force while the agent is away. Routes are not put into the kernel: that is the agent's work.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where to listen for the agent and manxctl; made with mode 0660.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Start with the orders in this file; SIGHUP reads it again, and only what differs is touched.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where to serve /metrics for Prometheus and /healthz over HTTP; empty: nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_ADDRESS)]
    metrics_addr: String,

    /// What to log to stderr: error, warn, info, debug, trace, or per module as in manx_bgp::speaker=debug.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Read a file and say what is wrong with it, or what it would do; touches nothing.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Threads at most, that of BFD apart.
const THREADS: usize = 4;

const AFTER_HELP: &str = "\
EXAMPLE (bgpd.toml; keys are those of the socket's Config):
  asn = 64512
  routerId = \"10.0.0.1\"
  listen = [\"0.0.0.0:179\", \"[::]:179\"]

  [[peers]]
  address = \"10.0.0.254\"
  asn = 65001                          # ours: iBGP; another: eBGP, which needs policies:
  name = \"tor1\"
  nextHops = [\"fd00::1\"]               # our address for routes of the family the session does not run on
  import = { default = \"accept\" }      # \"reject\" unless set; rules go before it:

  [[peers.export.rules]]               # in order; the first that matches decides
  name = \"ours\"
  match = { source = \"originated\" }    # also prefixes, communities, asPath, nextHop, peer
  then = { addCommunities = [\"64512:7\"] }

  [[networks]]
  prefix = \"10.1.0.0/26\"
  communities = [\"64512:100\"]

SIGNALS:
  SIGHUP             read --config again
  SIGTERM, SIGINT    tell the neighbours (Cease/Administrative Shutdown), remove the socket, end";

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manx-bgpd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Check { file }) = cli.command {
        println!("{}", config::summary(&file)?);
        return Ok(());
    }
    let filter: Targets = cli.log.parse().with_context(|| format!("--log \"{}\" is no filter", cli.log))?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let metrics = match cli.metrics_addr.as_str() {
        "" => None,
        address => Some(address.parse().with_context(|| {
            format!("--metrics-addr \"{address}\" is no address and port, as in {DEFAULT_ADDRESS}")
        })?),
    };
    // One task decides; more threads than these would only wait for it.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.context("cannot start")?;
    runtime.block_on(control::serve(&cli.socket, cli.config.as_deref(), metrics))
}
