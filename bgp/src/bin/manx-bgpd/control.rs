//! The daemon's life: start, signals, end.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use manx_bgp::speaker::socket::Socket;
use manx_bgp::speaker::{self, Handle, Options, metrics};
use tokio::signal::unix::{SignalKind, signal};

use crate::config;

/// Until a signal ends it. A bad file or a busy socket at the start is an error.
pub async fn serve(
    socket: &Path,
    file: Option<&Path>,
    metrics_address: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;

    let (speaker, mut task) = speaker::start(Options::default());
    let socket = Socket::bind(socket).await?;
    let scraped = match metrics_address {
        Some(address) => {
            let serving = metrics::serve(address, speaker.clone()).await.with_context(|| {
                format!("cannot serve /metrics on {address}: give another --metrics-addr, or '' for none")
            })?;
            Some(tokio::spawn(serving))
        }
        None => None,
    };
    if let Some(file) = file {
        apply(&speaker, file).await?;
    }
    tracing::info!("{} serves", speaker::NAME);
    let mut server = tokio::spawn(socket.serve(speaker.clone()));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match file {
                None => tracing::warn!("SIGHUP, but there is no --config to read again"),
                Some(file) => {
                    if let Err(error) = apply(&speaker, file).await {
                        tracing::error!("what was in force stays: {error:#}");
                    }
                }
            },
            ended = &mut task => return ended.context("the speaker has failed"),
        }
    }
    tracing::info!("shutting down");
    let told = speaker.shutdown("manx-bgpd ends").await;
    // The socket's file goes with the task that serves it.
    server.abort();
    if let Some(scraped) = scraped {
        scraped.abort();
    }
    let _ = (&mut server).await;
    Ok(told?)
}

async fn apply(speaker: &Handle, file: &Path) -> anyhow::Result<()> {
    let changes = speaker.apply(config::read(file)?).await.with_context(|| file.display().to_string())?;
    if changes.is_empty() {
        tracing::info!("{} says what is in force already", file.display());
    }
    Ok(())
}
