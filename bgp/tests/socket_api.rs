//! The daemon's socket, from the outside: frames of JSON on a unix socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use manx_bgp::api::{Config, Network, News, Reply, Request, VERSION};
use manx_bgp::speaker::socket::{Socket, SocketError};
use manx_bgp::speaker::{self, Handle, Options};
use manx_bgp::types::{Asn, Prefix, RouterId};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// A served socket, gone with the test.
struct Served {
    path: PathBuf,
    speaker: Handle,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn new(test: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("manx-bgpd-{}-{test}", std::process::id())).join("bgpd.sock");
        let (speaker, _) = speaker::start(Options::default());
        let socket = Socket::bind(&path).await.unwrap();
        let server = tokio::spawn(socket.serve(speaker.clone()));
        Self { path, speaker, server }
    }

    async fn client(&self) -> Client {
        Client(Framed::new(UnixStream::connect(&self.path).await.unwrap(), LengthDelimitedCodec::new()))
    }

    async fn greeted(&self) -> Client {
        let mut client = self.client().await;
        match client.ask(&hello(VERSION)).await {
            Reply::Hello { version: VERSION, daemon } => assert_eq!(daemon, speaker::NAME),
            other => panic!("{other:?}"),
        }
        client
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
    }
}

struct Client(Framed<UnixStream, LengthDelimitedCodec>);

impl Client {
    async fn ask(&mut self, request: &Request) -> Reply {
        self.say(serde_json::to_vec(request).unwrap()).await;
        self.hear().await.expect("a reply")
    }

    async fn say(&mut self, json: Vec<u8>) {
        self.0.send(bytes::Bytes::from(json)).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Reply> {
        self.hear_one().await
    }

    async fn hear_one<T: DeserializeOwned>(&mut self) -> Option<T> {
        let frame = tokio::time::timeout(Duration::from_secs(10), self.0.next()).await.expect("in time")?;
        Some(serde_json::from_slice(&frame.unwrap()).unwrap())
    }

    async fn is_told(&mut self, words: &str) {
        match self.hear().await {
            Some(Reply::Error { message }) => assert!(message.contains(words), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

fn hello(version: u32) -> Request {
    Request::Hello { version, client: "test 1.0".to_owned() }
}

fn config(networks: usize) -> Config {
    let network =
        |n: usize| Network::new(Prefix::host(std::net::Ipv4Addr::from(0x0b00_0000 + n as u32).into()));
    Config {
        networks: (0..networks).map(network).collect(),
        ..Config::new(Asn(64512), RouterId([10, 0, 0, 1].into()))
    }
}

#[tokio::test]
async fn orders_are_applied_and_told_back() {
    let served = Served::new("orders").await;
    let mut client = served.greeted().await;
    let Reply::Applied { changes } = client.ask(&Request::Apply { config: config(1) }).await else {
        panic!()
    };
    assert_eq!(changes, ["AS64512 with identifier 10.0.0.1", "network 11.0.0.0/32 announced"]);
    let Reply::Applied { changes } = client.ask(&Request::Apply { config: config(1) }).await else {
        panic!()
    };
    assert!(changes.is_empty());

    let Reply::Status(status) = client.ask(&Request::Status).await else { panic!() };
    assert_eq!((status.asn, status.originated.len(), status.synced), (Some(Asn(64512)), 1, true));
    let Reply::Table { destinations } = client.ask(&Request::Routes { prefix: None }).await else { panic!() };
    assert_eq!(destinations[0].paths[0].verdict, "best");

    // The client goes, its orders stay.
    drop(client);
    let mut next = served.greeted().await;
    let Reply::Status(status) = next.ask(&Request::Status).await else { panic!() };
    assert_eq!(status.originated.len(), 1);
}

#[tokio::test]
async fn a_watcher_hears_that_the_table_is_complete() {
    let served = Served::new("watch").await;
    let mut client = served.greeted().await;
    client.say(serde_json::to_vec(&Request::Watch).unwrap()).await;
    served.speaker.apply(config(1)).await.unwrap();
    assert_eq!(client.hear_one().await, Some(News::Synced), "what is originated here is not told");
    client.say(serde_json::to_vec(&Request::Status).unwrap()).await;
    let Some(News::Error { message }) = client.hear_one().await else { panic!("not told") };
    assert!(message.contains("open another"), "{message}");
    assert_eq!(client.hear().await, None);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_words() {
    let served = Served::new("wrong").await;

    let mut client = served.client().await;
    client.say(serde_json::to_vec(&hello(VERSION + 1)).unwrap()).await;
    client.is_told("upgrade manx-bgpd").await;
    assert_eq!(client.hear().await, None);

    let mut client = served.client().await;
    client.say(serde_json::to_vec(&Request::Status).unwrap()).await;
    client.is_told("first request is Hello").await;
    assert_eq!(client.hear().await, None);

    let mut client = served.greeted().await;
    client.say(br#"{"type":"dance"}"#.to_vec()).await;
    client.is_told("unknown variant `dance`").await;
    assert_eq!(client.hear().await, None);

    let mut client = served.greeted().await;
    let bad = Config { asn: Asn(0), ..config(0) };
    client.say(serde_json::to_vec(&Request::Apply { config: bad }).unwrap()).await;
    client.is_told("asn is 0").await;
    assert!(matches!(client.ask(&Request::Status).await, Reply::Status(_)), "the connection goes on");
}

#[tokio::test]
async fn a_peers_routes_are_shown_and_one_that_is_not_configured_is_named() {
    let served = Served::new("peer-routes").await;
    let mut client = served.greeted().await;
    let known: std::net::IpAddr = "127.0.0.9".parse().unwrap();
    let request = |peer| serde_json::to_vec(&Request::Received { peer, prefix: None }).unwrap();
    client.say(request(known.into())).await;
    let none = "no peer 127.0.0.9 is configured; there is none".to_owned();
    assert_eq!(client.hear().await, Some(Reply::Error { message: none }));
    let mut orders = config(1);
    let peer = serde_json::json!({"address": known, "asn": 65001, "passive": true});
    orders.peers.push(serde_json::from_value(peer).unwrap());
    served.speaker.apply(orders).await.unwrap();
    client.say(request(known.into())).await;
    assert_eq!(client.hear().await, Some(Reply::Table { destinations: Vec::new() }));
    let other = Request::Advertised { peer: "127.0.0.10".parse().unwrap(), prefix: None };
    client.say(serde_json::to_vec(&other).unwrap()).await;
    let one = "no peer 127.0.0.10 is configured; there is 127.0.0.9".to_owned();
    assert_eq!(client.hear().await, Some(Reply::Error { message: one }));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_parted_from() {
    let served = Served::new("stuck").await;
    served.speaker.apply(config(20_000)).await.unwrap();
    let mut client = served.greeted().await;
    client.say(serde_json::to_vec(&Request::Routes { prefix: None }).unwrap()).await;
    let mut stream = client.0.into_inner();
    let mut octets = vec![0; 1];
    stream.read_exact(&mut octets).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    stream.read_to_end(&mut octets).await.unwrap();
    let wanted =
        serde_json::to_vec(&Reply::Table { destinations: served.speaker.routes(None).await.unwrap() });
    assert!(octets.len() < wanted.unwrap().len(), "{} octets", octets.len());
}

#[tokio::test]
async fn the_file_has_mode_0660_replaces_a_stale_one_and_goes_with_the_server() {
    let served = Served::new("file").await;
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(Socket::bind(&served.path).await, Err(SocketError::Taken(_))), "one daemon a socket");

    let stale = served.path.with_file_name("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let socket = Socket::bind(&stale).await.unwrap();
    assert!(UnixStream::connect(&stale).await.is_ok());
    drop(socket);
    assert!(!stale.exists());
}
