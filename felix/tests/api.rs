//! The way to the API, when it ends without a word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use manx_felix::api::client;
use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

/// The connection is given up after 25 s.
const SOON: Duration = Duration::from_secs(40);

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
}

/// Answers one request with a watch that tells of one Namespace, and then of nothing.
fn answer(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let head = BufReader::new(stream.try_clone().unwrap()).lines();
    head.map(Result::unwrap).take_while(|line| !line.is_empty()).for_each(drop);
    let event =
        r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}}"#;
    let (head, length) = ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", event.len() + 1);
    write!(stream, "{head}{length:x}\r\n{event}\n\r\n").unwrap();
    stream
}

async fn watch(server: &str, address_goes: impl FnOnce()) {
    let client = client(kube::Config::new(server.parse().unwrap())).unwrap();
    let namespaces = Api::<Namespace>::all(client);
    let mut events = namespaces.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let first = events.try_next().await.unwrap();
    assert!(matches!(first, Some(WatchEvent::Added(_))), "{first:?}");
    address_goes();
    let began = Instant::now();
    let ended = timeout(SOON, events.next()).await.expect("a watch whose connection is dead goes on");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    assert!(began.elapsed() > Duration::from_secs(5), "it ended for another reason: {ended:?}");
}

#[test]
#[ignore = "needs root: make test"]
fn a_watch_ends_soon_after_the_address_of_its_connection_has_gone() {
    let node = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("address add 192.0.2.7/32 dev lo");
        let listener = TcpListener::bind("192.0.2.7:6443").unwrap();
        let server = thread::spawn(move || answer(&listener));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(watch("http://192.0.2.7:6443", || ip("address del 192.0.2.7/32 dev lo")));
        drop(server.join());
    });
    node.join().unwrap();
}
