//! The route syncer against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod interfaces;
mod next_hops;
mod routes;
mod settings;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on as wait;
use ipnetwork::IpNetwork;
use manx_bgp::api::Reach;
use manx_bgp::types::ScopedAddr;
use manx_felix::dataplane::lookup::lookup;
use manx_felix::dataplane::next_hops::NextHop;
use manx_felix::dataplane::{ApplyErrors, Dataplane, Fib, FibDelta, Route, Settings, links, sysctl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a new network namespace, which ends with its thread. One link, `uplink`, holds 192.0.2.1/24 and
/// 2001:db8::1/64.
fn on_a_node(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let node = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            ip("link add uplink type veth peer name wire");
            ip("link set wire up");
            ip("link set uplink up");
            ip("address add 192.0.2.1/24 dev uplink");
            ip("address add 2001:db8::1/64 dev uplink nodad");
            test();
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What `ip` prints; panics when it fails.
fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Our routes of both families as `ip` sees them, sorted.
fn ours() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = ip(&format!("-o {family} route show proto 77"));
        lines.extend(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    lines.sort();
    lines
}

/// Routes without the numbers of their groups: a group that is made again has another.
fn without_ids(lines: Vec<String>) -> Vec<String> {
    let without = |line: String| match line.split_once(" nhid ") {
        Some((before, after)) => {
            format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line,
    };
    lines.into_iter().map(without).collect()
}

/// Waits until `condition` holds, at most ten seconds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn via(next_hops: &[&str]) -> Route {
    Route::via(next_hops.iter().map(|hop| hop.parse::<ScopedAddr>().unwrap()))
}

fn set(routes: impl IntoIterator<Item = (IpNetwork, Route)>) -> FibDelta {
    FibDelta { set: routes.into_iter().collect(), remove: Vec::new() }
}

fn remove(destinations: impl IntoIterator<Item = IpNetwork>) -> FibDelta {
    FibDelta { set: Fib::new(), remove: destinations.into_iter().collect() }
}

/// `count` /32s by two next hops.
fn table(count: u32) -> Fib {
    let route = via(&["192.0.2.2", "192.0.2.3"]);
    let host = |i: u32| IpNetwork::from(IpAddr::from((0x0a00_0000 + i).to_be_bytes()));
    (0..count).map(|i| (host(i), route.clone())).collect()
}
