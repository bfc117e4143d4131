//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.
//!
//! Healthy: the agent's task turns. Ready: all watches have been read and the kernel has answered for what they
//! said. Neither ever depends on a BGP neighbour: one that is away must not restart agents or empty nodes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use manx_bgp::api::SessionState;
use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::acl::driver::Status;
use crate::dataplane::{self, neighbours};
use crate::status::NodeReport;
use crate::watch::Kind;

/// The agent's task turns once a second; silent for this long, it hangs.
const PULSE: Duration = Duration::from_secs(30);

/// What a caller may take to send its request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Upper bounds of the buckets of times, in seconds: most answers to plugins take well under a millisecond.
const SECONDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

/// The agent's last sign of life.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// When.
    pub at: Instant,
    /// How things were.
    pub report: NodeReport,
}

/// What is counted; cheap to clone, all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// By kind.
    pub watch_events: IntCounterVec,
    /// By operation: `claim`, `write`, `watch`.
    pub api_errors: IntCounterVec,
    /// By verb and result.
    pub attachments: IntCounterVec,
    /// By kind: seconds.
    pub watch_lag: HistogramVec,
    /// Seconds.
    pub graph_seconds: HistogramVec,
    services: IntGaugeVec,
    /// By verb: seconds of a plugin's run that were the agent's.
    pub plugin_seconds: HistogramVec,
    policy_objects: IntGaugeVec,
    policy_in_force: IntGauge,
    policy_transactions: IntCounterVec,
    policy_repairs: IntCounterVec,
    policy_packets: IntCounterVec,
    connections_ended: IntCounterVec,
    /// By name.
    pub sysctl_repairs: IntCounterVec,
    route_writes: IntCounterVec,
    route_write_batches: IntCounterVec,
    route_write_seconds: CounterVec,
    netlink_errors: IntCounterVec,
    next_hop_objects: IntGauge,
    foreign_overlaps: IntGauge,
    neighbours: IntGaugeVec,
    routes: IntGaugeVec,
    pods: IntGauge,
    blocks: IntGauge,
    addresses: IntGaugeVec,
    sessions: IntGaugeVec,
    in_sync: IntGaugeVec,
    api_reachable: IntGauge,
    ready: IntGauge,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// Two of one name: a mistake of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let histograms = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let route_write_seconds = CounterVec::new(
            Opts::new("manx_route_write_seconds_total", "What the kernel took for them, in seconds."),
            &[],
        )?;
        registry.register(Box::new(route_write_seconds.clone()))?;
        Ok(Self {
            watch_events: counters("manx_watch_events_total", "Changes the API has told.", &["kind"])?,
            api_errors: counters(
                "manx_api_errors_total",
                "Requests to the API that failed.",
                &["operation"],
            )?,
            attachments: counters(
                "manx_attachments_total",
                "What plugins asked, and how it ended.",
                &["verb", "result"],
            )?,
            watch_lag: histograms(
                "manx_watch_lag_seconds",
                "How long a change lay here, told by the API, before the agent took it.",
                &["kind"],
            )?,
            graph_seconds: histograms(
                "manx_graph_seconds",
                "What it took to compute what follows from changes, once a turn of the agent.",
                &[],
            )?,
            plugin_seconds: histograms(
                "manx_plugin_request_seconds",
                "What the agent took to answer all a plugin asked in one run.",
                &["verb"],
            )?,
            services: gauges(
                "manx_services",
                "Services: all there are, and addresses of theirs that this node announces.",
                &["state"],
            )?,
            policy_objects: gauges(
                "manx_policy_objects",
                "What the packet filter is to hold: endpoints, policies (one a direction), sets, members of sets.",
                &["kind"],
            )?,
            policy_in_force: gauge(
                "manx_policy_in_force",
                "Whether the packet filter holds all it is to hold.",
            )?,
            policy_transactions: counters(
                "manx_policy_transactions_total",
                "Changes of the packet filter: made, refused.",
                &["result"],
            )?,
            policy_repairs: counters(
                "manx_policy_repairs_total",
                "How often something was put right that someone else had done to the packet filter.",
                &[],
            )?,
            policy_packets: counters(
                "manx_policy_packets_total",
                "Packets that open connections: accepted, denied, audited, spoofed, of an unknown pod.",
                &["verdict"],
            )?,
            connections_ended: counters(
                "manx_connections_ended_total",
                "Connections ended because a later policy forbids them.",
                &[],
            )?,
            sysctl_repairs: counters(
                "manx_sysctl_repairs_total",
                "How often a setting of the kernel was put back that someone else had changed.",
                &["name"],
            )?,
            route_writes: counters(
                "manx_route_writes_total",
                "Writes to the kernel's routes and next-hop objects; repairs are among the others.",
                &["kind"],
            )?,
            route_write_batches: counters(
                "manx_route_write_batches_total",
                "Batches of such writes.",
                &[],
            )?,
            route_write_seconds,
            netlink_errors: counters(
                "manx_netlink_errors_total",
                "Exchanges about routes that the netlink socket failed.",
                &[],
            )?,
            next_hop_objects: gauge("manx_next_hop_objects", "Next-hop objects of ours in the kernel.")?,
            foreign_overlaps: gauge(
                "manx_foreign_route_overlaps",
                "Other programs' routes that take packets from ours.",
            )?,
            neighbours: gauges(
                "manx_neighbours",
                "The kernel's neighbour tables: entries, and the limit where it can be read.",
                &["family", "what"],
            )?,
            routes: gauges("manx_routes", "Routes of ours: wanted, installed, failing.", &["state"])?,
            pods: gauge("manx_pods", "Pods attached.")?,
            blocks: gauge("manx_blocks", "Blocks this node owns.")?,
            addresses: gauges("manx_addresses", "Addresses of own blocks: used, free.", &["state"])?,
            sessions: gauges("manx_bgp_sessions", "BGP sessions by state.", &["state"])?,
            in_sync: gauges("manx_in_sync", "Whether all of a kind has been read.", &["kind"])?,
            api_reachable: gauge("manx_api_reachable", "Whether the Kubernetes API answers.")?,
            ready: gauge("manx_ready", "Whether the watches are in sync and the kernel is programmed.")?,
            registry,
        }
        .zeroed())
    }

    /// A rate cannot be told from a counter that begins with its first event.
    fn zeroed(self) -> Self {
        for operation in ["claim", "watch", "write"] {
            self.api_errors.with_label_values(&[operation]);
        }
        self.graph_seconds.with_label_values::<&str>(&[]);
        for kind in Kind::ALL {
            self.watch_lag.with_label_values(&[&kind.to_string()]);
            self.watch_events.with_label_values(&[&kind.to_string()]);
        }
        for (verb, result) in
            [("add", "attached"), ("add", "refused"), ("add", "undone"), ("del", "released")]
        {
            self.attachments.with_label_values(&[verb, result]);
        }
        self.see_routes(&dataplane::Status::default());
        self.see_acl(&Status::default());
        self
    }

    /// Takes what the dataplane says of itself.
    pub fn see_routes(&self, status: &dataplane::Status) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.next_hop_objects.set(number(status.objects));
        self.foreign_overlaps.set(number(status.overlapping));
        let upto = |counters: &IntCounterVec, labels: &[&str], total: u64| {
            let counter = counters.with_label_values(labels);
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        upto(&self.route_writes, &["set"], status.written);
        upto(&self.route_writes, &["removed"], status.removed);
        upto(&self.route_writes, &["next-hop-object"], status.objects_written);
        upto(&self.route_writes, &["repair"], status.repaired);
        upto(&self.route_write_batches, &[], status.batches.0);
        upto(&self.netlink_errors, &[], status.netlink_errors);
        let seconds = self.route_write_seconds.with_label_values(&[] as &[&str]);
        seconds.inc_by((status.batches.1 - seconds.get()).max(0.0));
    }

    /// Takes how full a neighbour table is.
    pub fn see_neighbours(&self, table: &neighbours::Table) {
        let family = table.family.to_string();
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.neighbours.with_label_values(&[family.as_str(), "entries"]).set(number(table.entries));
        if let Some(limit) = table.limit {
            self.neighbours.with_label_values(&[family.as_str(), "limit"]).set(number(limit));
        }
    }

    /// Takes what the packet filter says of itself.
    pub fn see_acl(&self, status: &Status) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (kind, count) in [
            ("endpoints", status.endpoints),
            ("policies", status.policies),
            ("sets", status.sets),
            ("members", status.members),
        ] {
            self.policy_objects.with_label_values(&[kind]).set(number(count));
        }
        self.policy_in_force.set(i64::from(status.in_force));
        let upto = |counters: &IntCounterVec, labels: &[&str], total: u64| {
            let counter = counters.with_label_values(labels);
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        upto(&self.policy_transactions, &["made"], status.commits);
        upto(&self.policy_transactions, &["refused"], status.refused);
        upto(&self.policy_repairs, &[], status.repaired);
        upto(&self.connections_ended, &[], status.ended);
        for (verdict, packets) in [
            ("accepted", status.packets.accepted),
            ("denied", status.packets.denied),
            ("audited", status.packets.audited),
            ("spoofed", status.packets.spoofed),
            ("unknown", status.packets.unknown),
        ] {
            upto(&self.policy_packets, &[verdict], packets);
        }
    }

    /// The text format, with the report's numbers.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake of this file.
    pub fn render(&self, report: &NodeReport) -> Result<String, prometheus::Error> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in [
            ("wanted", report.routes.wanted),
            ("installed", report.routes.installed),
            ("failing", report.routes.failing),
        ] {
            self.routes.with_label_values(&[state]).set(number(count));
        }
        for (state, count) in [("known", report.services.known), ("announced", report.services.announced)] {
            self.services.with_label_values(&[state]).set(number(count));
        }
        self.pods.set(number(report.pods.len()));
        self.blocks.set(number(report.blocks.len()));
        let used: usize = report.blocks.iter().map(|block| block.used).sum();
        let size: usize = report.blocks.iter().map(|block| block.size).sum();
        self.addresses.with_label_values(&["used"]).set(number(used));
        self.addresses.with_label_values(&["free"]).set(number(size - used.min(size)));
        for state in [
            SessionState::Idle,
            SessionState::Connect,
            SessionState::Active,
            SessionState::OpenSent,
            SessionState::OpenConfirm,
            SessionState::Established,
        ] {
            let count = report.speaker.sessions.iter().filter(|session| session.state == state).count();
            self.sessions.with_label_values(&[&state.to_string()]).set(number(count));
        }
        for (kind, in_sync) in &report.api.in_sync {
            self.in_sync.with_label_values(&[kind]).set(i64::from(*in_sync));
        }
        self.api_reachable.set(i64::from(report.api.reachable));
        self.ready.set(i64::from(report.ready));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Serves until the listener fails.
///
/// # Errors
/// The listener's.
pub async fn serve(
    address: SocketAddr,
    pulse: watch::Receiver<Pulse>,
    metrics: Metrics,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: later there may be some.
                tracing::warn!("the health listener cannot accept: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (pulse, metrics) = (pulse.clone(), metrics.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = respond(&request, &pulse.borrow(), &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a health request ended early");
            }
        });
    }
}

fn respond<B>(request: &Request<B>, pulse: &Pulse, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" => {
            let silent = pulse.at.elapsed();
            if silent < PULSE {
                text(StatusCode::OK, "ok\n".to_owned())
            } else {
                let words = format!("the agent's task has not turned for {} s\n", silent.as_secs());
                text(StatusCode::SERVICE_UNAVAILABLE, words)
            }
        }
        "/readyz" if pulse.report.ready => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, not_ready(&pulse.report)),
        "/metrics" => match metrics.render(&pulse.report) {
            Ok(body) => text(StatusCode::OK, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz or /metrics\n".to_owned()),
    }
}

fn not_ready(report: &NodeReport) -> String {
    let unread = report.api.in_sync.iter().filter(|(_, in_sync)| !**in_sync);
    let unread: Vec<&str> = unread.map(|(kind, _)| kind.as_str()).collect();
    if unread.is_empty() {
        return "the kernel has not answered yet for what the watches said\n".to_owned();
    }
    let reason = report.api.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("not read from the Kubernetes API yet: {}{reason}\n", unread.join(", "))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(path: &str, pulse: &Pulse) -> (StatusCode, String) {
        let request = Request::get(path).body(()).unwrap();
        let response = respond(&request, pulse, &Metrics::new().unwrap());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn pulse(ready: bool) -> Pulse {
        let mut report = NodeReport { ready, ..NodeReport::default() };
        report.api.in_sync.insert("IPPool".to_owned(), ready);
        Pulse { at: Instant::now(), report }
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_says_what_is_missing_and_is_healthy_all_the_same() {
        let (status, body) = get("/readyz", &pulse(false)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("IPPool"), "{body}");
        assert_eq!(get("/healthz", &pulse(false)).await.0, StatusCode::OK);
        assert_eq!(get("/readyz", &pulse(true)).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn an_agent_that_hangs_is_not_healthy() {
        let Some(at) = Instant::now().checked_sub(PULSE * 2) else { return };
        let (status, body) = get("/healthz", &Pulse { at, ..pulse(true) }).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    }

    #[tokio::test]
    async fn metrics_say_what_the_report_says() {
        let mut pulse = pulse(true);
        pulse.report.routes.installed = 7;
        pulse.report.services.announced = 3;
        let (_, body) = get("/metrics", &pulse).await;
        for line in [
            "manx_routes{state=\"installed\"} 7",
            "manx_ready 1",
            "manx_services{state=\"announced\"} 3",
            "manx_bgp_sessions{state=\"Established\"} 0",
        ] {
            assert!(body.lines().any(|said| said == line), "no {line} in\n{body}");
        }
    }
}
