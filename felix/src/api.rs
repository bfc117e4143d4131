//! The way to the Kubernetes API, and how long a connection is taken for alive on which nothing is heard.
//!
//! A watch is silent for minutes while nothing changes. One whose server, or whose own address, has gone without a word
//! is silent too: the kernel asks after it, and ends it when nobody answers.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::ConfigExt;
use kube::client::retry::RetryPolicy;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// When a connection that is silent is asked after, how often then (tcp(7), TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT):
/// given up 25 s after the last sign of life.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long what was sent may go unacknowledged (TCP_USER_TIMEOUT). The kernel asks after no connection that waits for
/// an acknowledgement; and where both are set, this ends what keepalive asks after.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// For an answer from a server that lives. Longer than a watch, which the server ends after 290 s.
const READ: Duration = Duration::from_secs(310);

/// A client by `config`, as [`Client::try_from`] makes it but for what is said above.
///
/// # Errors
/// What `config` names cannot be used: a certificate, a token, a proxy.
pub fn client(mut config: kube::Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    // TLS is the business of what is around it.
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut timed = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    timed.set_connect_timeout(config.connect_timeout);
    timed.set_read_timeout(config.read_timeout);
    timed.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(timed));
    Ok(Client::new(service, config.default_namespace))
}
