//! `/metrics` over plain HTTP, for Prometheus, and `/healthz`, for whoever restarts what hangs.
//!
//! The speaker's task is asked for a [`Report`] and what it says is written out: nothing is shared with it, and a
//! neighbour that is no longer configured leaves no series behind. Series are bounded by the configured neighbours.
//! The README has the table of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Handle;
use super::link::words;
use super::stats::{Messages, Totals};
use crate::api::{RangeId, SessionState, Status};
use crate::bfd::State;
use crate::rib::Sizes;
use crate::types::{Family, ScopedAddr};
use crate::wire::FaultAction;

/// Where it is served unless told otherwise: on this machine only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9099";

/// Callers answered at one time; more wait.
const CALLERS: usize = 8;

/// What a caller may take for everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// All there is to tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// Sessions and their counts.
    pub status: Status,
    /// Of each session of `status`.
    pub totals: BTreeMap<ScopedAddr, Totals>,
    /// Of the tables.
    pub sizes: Sizes,
    /// Callers refused because no such peer is configured.
    pub strangers: u64,
}

/// Serves until the listener is dropped with the task.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(address: SocketAddr, speaker: Handle) -> io::Result<impl Future<Output = ()>> {
    let listener = TcpListener::bind(address).await?;
    Ok(async move {
        let room = Arc::new(Semaphore::new(CALLERS));
        while let Ok(permit) = room.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let speaker = speaker.clone();
                    tokio::spawn(async move {
                        answer(TokioIo::new(stream), speaker).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: later there may be some.
                    tracing::warn!(error = %words(error), "cannot accept a caller of /metrics");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    })
}

async fn answer(stream: TokioIo<tokio::net::TcpStream>, speaker: Handle) {
    let service = service_fn(|request: Request<Incoming>| {
        let speaker = speaker.clone();
        async move { Ok::<_, Infallible>(respond(&request, &speaker).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE / 2)
        .keep_alive(false)
        .serve_connection(stream, service);
    match timeout(PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for /metrics ended early"),
        Err(_) => tracing::debug!("a caller of /metrics was too slow"),
    }
}

async fn respond<B>(request: &Request<B>, speaker: &Handle) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz") {
        return text(StatusCode::NOT_FOUND, "/healthz or /metrics\n".to_owned());
    }
    match speaker.report().await {
        // That the speaker's task has answered is all there is to say: no neighbour makes it ill.
        Ok(_) if path == "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        Ok(report) => match render(&report) {
            Ok(body) => text(StatusCode::OK, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        Err(gone) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{gone}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The text format.
///
/// # Errors
/// Two metrics of one name: a mistake of this file.
pub fn render(report: &Report) -> Result<String, prometheus::Error> {
    let page = Page::default();
    page.speaker(report)?;
    page.sessions(report)?;
    page.totals(report)?;
    TextEncoder::new().encode_to_string(&page.0.gather())
}

/// What is written out once.
#[derive(Default)]
struct Page(Registry);

impl Page {
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.with(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.with(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn with<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    /// What is not of one neighbour.
    fn speaker(&self, report: &Report) -> Result<(), prometheus::Error> {
        let Report { status, sizes, .. } = report;
        let info = self.gauges("manx_bgpd_info", "The daemon's version; always 1.", &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let gauge = |name, help, value: usize| {
            self.gauges(name, help, &[]).map(|gauge| gauge.with_label_values::<&str>(&[]).set(number(value)))
        };
        gauge("manx_bgpd_synced", "Whether the table is complete.", usize::from(status.synced))?;
        gauge("manx_bgpd_originated", "Prefixes originated.", status.originated.len())?;
        gauge(
            "manx_bgpd_attribute_sets",
            "Different sets of attributes and next hop held.",
            sizes.attribute_sets,
        )?;
        let destinations =
            self.gauges("manx_bgpd_destinations", "Destinations in the Loc-RIB.", &["family"])?;
        for (family, size) in [(Family::Ipv4, sizes.ipv4), (Family::Ipv6, sizes.ipv6)] {
            destinations.with_label_values(&[label(family)]).set(number(size));
        }
        let labels = &["range", "name"];
        let sessions = "Dynamic neighbours the range has now.";
        let sessions = self.gauges("manx_bgpd_range_sessions", sessions, labels)?;
        let limit = self.gauges("manx_bgpd_range_limit", "How many it may have.", labels)?;
        let crowded = "Callers refused because the range was full.";
        let crowded = self.counters("manx_bgpd_range_refused_callers_total", crowded, labels)?;
        for range in &status.ranges {
            let id = RangeId { prefix: range.prefix, interface: range.interface }.to_string();
            let labels = [id.as_str(), range.name.as_str()];
            sessions.with_label_values(&labels).set(range.sessions.into());
            limit.with_label_values(&labels).set(range.limit.into());
            crowded.with_label_values(&labels).inc_by(range.refused);
        }
        let refused = "Callers refused because no such peer is configured.";
        self.counters("manx_bgpd_refused_callers_total", refused, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(report.strangers);
        Ok(())
    }

    /// How the sessions are.
    fn sessions(&self, report: &Report) -> Result<(), prometheus::Error> {
        let labels = &["peer", "name", "asn"];
        let info = self.gauges("manx_bgpd_peer_info", "What is configured of the peer; always 1.", labels)?;
        let state =
            self.gauges("manx_bgpd_session_state", "1 for the state it is in.", &["peer", "state"])?;
        let since = self.gauges("manx_bgpd_session_state_seconds", "Seconds in that state.", &["peer"])?;
        let routes = "Prefixes received from the peer, of those accepted, stale and long-lived stale, and advertised to it.";
        let routes = self.gauges("manx_bgpd_routes", routes, &["peer", "table"])?;
        let held = "Prefixes held of the peer, refused and stale ones as well, by family.";
        let held = self.gauges("manx_bgpd_prefixes_held", held, &["peer", "family"])?;
        let limit = "How many prefixes the peer may give.";
        let limit = self.gauges("manx_bgpd_prefix_limit", limit, &["peer", "family"])?;
        let flaps = "Times the session has left Established.";
        let flaps = self.counters("manx_bgpd_session_flaps_total", flaps, &["peer"])?;
        let drained = "Whether the peer is being drained, or has been.";
        let drained = self.gauges("manx_bgpd_session_drained", drained, &["peer"])?;
        let bfd_up = "Whether BFD hears the peer and is heard.";
        let bfd_up = self.gauges("manx_bgpd_bfd_up", bfd_up, &["peer"])?;
        let bfd_flaps = "Times BFD has lost the peer.";
        let bfd_flaps = self.counters("manx_bgpd_bfd_flaps_total", bfd_flaps, &["peer"])?;
        for session in &report.status.sessions {
            let peer = &session.address.to_string();
            info.with_label_values(&[peer, &session.name, &session.asn.0.to_string()]).set(1);
            for one in SessionState::ALL {
                state.with_label_values(&[peer, &one.to_string()]).set(i64::from(one == session.state));
            }
            since.with_label_values(&[peer]).set(i64::try_from(session.since_seconds).unwrap_or(i64::MAX));
            for (table, count) in [
                ("received", session.received),
                ("accepted", session.accepted),
                ("stale", session.stale),
                ("long_lived", session.long_lived),
                ("advertised", session.advertised),
            ] {
                routes.with_label_values(&[peer.as_str(), table]).set(number(count));
            }
            for of in &session.prefixes {
                held.with_label_values(&[peer.as_str(), label(of.family)]).set(number(of.held));
                limit.with_label_values(&[peer.as_str(), label(of.family)]).set(of.limit.into());
            }
            flaps.with_label_values(&[peer]).inc_by(session.flaps);
            drained.with_label_values(&[peer]).set(i64::from(session.drain.is_some()));
            if let Some(bfd) = &session.bfd {
                bfd_up.with_label_values(&[peer]).set(i64::from(bfd.state == State::Up));
                bfd_flaps.with_label_values(&[peer]).inc_by(bfd.flaps);
            }
        }
        Ok(())
    }

    /// What happened.
    fn totals(&self, report: &Report) -> Result<(), prometheus::Error> {
        let messages = "Messages of each type, in and out.";
        let messages = self.counters("manx_bgpd_messages_total", messages, &["peer", "direction", "type"])?;
        let ends = "Sessions that ended, and tries that came to nothing, by kind of reason.";
        let ends = self.counters("manx_bgpd_session_ends_total", ends, &["peer", "reason"])?;
        let faults = "Malformed attributes that RFC 7606 forgives, and what was done.";
        let faults =
            self.counters("manx_bgpd_attribute_faults_total", faults, &["peer", "attribute", "action"])?;
        for (peer, totals) in &report.totals {
            let peer = peer.to_string();
            let count = |direction: &str, of: Messages| {
                for (kind, count) in of.each() {
                    messages.with_label_values(&[peer.as_str(), direction, kind]).inc_by(count);
                }
            };
            count("in", totals.received);
            count("out", totals.sent);
            for (reason, count) in &totals.ends {
                ends.with_label_values(&[peer.as_str(), reason]).inc_by(*count);
            }
            for ((attribute, action), count) in &totals.faults {
                let action = match action {
                    FaultAction::Discard => "discard",
                    FaultAction::Withdraw => "withdraw",
                };
                faults.with_label_values(&[peer.as_str(), attribute, action]).inc_by(*count);
            }
        }
        Ok(())
    }
}

fn label(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
