//! The route syncer against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

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

#[test]
#[ignore = "needs root: make test"]
fn every_kind_of_route_is_written_changed_into_every_other_and_removed() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let up = links::index_of("uplink").unwrap().unwrap();
        let v6 = ["2001:db8::2", "2001:db8::3", "2001:db8::4"];
        for (destination, hops) in [
            ("10.0.0.0/26", ["192.0.2.2", "192.0.2.3", "192.0.2.4"]),
            ("fd00::/122", v6),
            ("10.0.1.0/26", v6),
        ] {
            let destination = net(destination);
            let kinds = [
                Route::Pod { ifindex: up },
                Route::Blackhole,
                via(&hops[..1]),
                via(&hops[..2]),
                via(&hops[1..]),
            ];
            for route in kinds.iter().flat_map(|from| kinds.iter().flat_map(move |to| [from, to])) {
                wait(dataplane.update(set([(destination, route.clone())]))).unwrap();
                // A second syncer reads what a restart would.
                let seen = Dataplane::start(Settings::default()).unwrap();
                assert_eq!(seen.status().installed, 1);
                wait(seen.update(set([(destination, route.clone())]))).unwrap();
                assert_eq!(seen.status().written, 0, "{destination} {route:?} is read back differently");
            }
            wait(dataplane.update(remove([destination]))).unwrap();
            assert_eq!(ours(), [""; 0]);
        }
        assert_eq!(dataplane.status().failing, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_namespace_without_any_route_is_started_in() {
    on_a_node(|| {
        // Not even a main table.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert_eq!(Dataplane::start(Settings::default()).unwrap().status().installed, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_restart_over_ten_thousand_routes_writes_nothing() {
    on_a_node(|| {
        let fib = table(10_000);
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set(fib.clone()))).unwrap();
        drop(dataplane);
        assert_eq!(ours().len(), 10_000);

        let dataplane = Dataplane::start(Settings::default()).unwrap();
        assert_eq!(dataplane.status().installed, 10_000);
        wait(dataplane.update(set(fib))).unwrap();
        dataplane.sweep();
        wait(dataplane.update(set([(net("10.1.0.0/26"), Route::Blackhole)]))).unwrap();
        eventually("the one new route is counted", || dataplane.status().written > 0);
        let status = dataplane.status();
        assert_eq!((status.written, status.removed, status.swept), (1, 0, true));
        assert_eq!(ours().len(), 10_001);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_a_former_run_left_stays_until_the_sweep_and_foreign_routes_for_ever() {
    on_a_node(|| {
        let former = Dataplane::start(Settings::default()).unwrap();
        let routes = ["10.0.0.0/26", "10.0.1.0/26", "10.0.2.0/26", "fd00::/122"];
        wait(former.update(set(routes.map(|route| (net(route), Route::Blackhole))))).unwrap();
        drop(former);
        ip("route add blackhole 10.9.0.0/24 proto static metric 13");
        ip("route add blackhole 10.0.1.0/26 proto bird metric 32");
        ip("-6 route add blackhole fd00:9::/64 proto static metric 13");

        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set([(net("10.0.0.0/26"), Route::Blackhole)]))).unwrap();
        assert_eq!(ours().len(), 4);
        wait(dataplane.update(remove([net("10.0.1.0/26")]))).unwrap();
        assert_eq!(ours().len(), 3);
        dataplane.sweep();
        eventually("only what is wanted is left", || ours() == ["blackhole 10.0.0.0/26 metric 13"]);
        // A destination someone else holds at our metric is not taken from him.
        let error = wait(dataplane.update(set([(net("10.9.0.0/24"), via(&["192.0.2.2"]))]))).unwrap_err();
        assert!(error.to_string().contains("that is not ours"), "{error}");
        for foreign in ["10.9.0.0/24", "10.0.1.0/26", "fd00:9::/64"] {
            let family = if foreign.contains(':') { "-6" } else { "-4" };
            assert!(ip(&format!("{family} route show {foreign}")).starts_with("blackhole"), "{foreign}");
        }
        // Once it is gone, ours is put there.
        ip("route delete blackhole 10.9.0.0/24 metric 13");
        eventually("the refused route is tried again", || ours().len() == 2);
        eventually("and no longer told as failing", || dataplane.status().failing == 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_someone_else_does_to_our_routes_is_put_right() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let routes = [
            (net("10.0.0.0/26"), Route::Blackhole),
            (net("10.0.1.0/26"), via(&["192.0.2.2", "192.0.2.3"])),
            (net("fd00::/122"), Route::Blackhole),
            (net("fd00:1::/122"), via(&["2001:db8::2", "2001:db8::3"])),
        ];
        wait(dataplane.update(set(routes))).unwrap();
        let before = ours();
        assert_eq!(before.len(), 4);
        for harm in [
            "route delete blackhole 10.0.0.0/26 metric 13",
            "route delete 10.0.1.0/26 metric 13",
            "route replace 10.0.1.0/26 via 192.0.2.9 proto 77 metric 13",
            "-6 route delete blackhole fd00::/122 metric 13",
            "-6 route delete fd00:1::/122 metric 13",
            // Every group goes with its next hops, and every route with its group, the IPv4 ones without a word.
            "nexthop flush proto 77",
            "link set uplink down",
            "link set wire down",
        ] {
            let start = Instant::now();
            ip(harm);
            if harm.starts_with("link") {
                eventually("they are gone", || ours().len() == 2);
                ip(&harm.replace("down", "up"));
                // It also forgets the IPv6 address.
                ip("address replace 2001:db8::1/64 dev uplink nodad");
            }
            eventually(harm, || without_ids(ours()) == without_ids(before.clone()));
            println!("{:?} after {harm}", start.elapsed());
        }
        eventually("all that was done is counted", || dataplane.status().repaired >= 7);
        eventually("nothing fails any more", || dataplane.status().failing == 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_pods_route_follows_its_veth() {
    on_a_node(|| {
        ip("link add manxtest type veth peer name pod");
        ip("link set manxtest up");
        let ifindex = links::index_of("manxtest").unwrap().unwrap();
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let pods = ["10.0.0.5/32", "fd00::5/128"].map(net);
        wait(dataplane.update(set(pods.map(|pod| (pod, Route::Pod { ifindex }))))).unwrap();
        assert_eq!(ours().len(), 2);
        ip("link set manxtest down");
        eventually("the kernel drops both", || dataplane.status().installed == 0);
        ip("link set manxtest up");
        eventually("both are back", || ours().len() == 2);
        ip("link delete manxtest");
        eventually("both are gone", || dataplane.status().installed == 0);
        wait(dataplane.update(remove(pods))).unwrap();
        eventually("nothing is wanted", || dataplane.status().wanted == 0);
        assert_eq!(dataplane.status().failing, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn the_ways_without_us_are_told_as_they_change() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let underlay = dataplane.underlay();
        let told = || -> Vec<String> {
            let one = |way: &Reach| match way.gateway {
                None => way.prefix.to_string(),
                Some(gateway) => format!("{} by {gateway} at {}", way.prefix, way.metric),
            };
            underlay.borrow().iter().map(one).collect()
        };
        let connected = ["192.0.2.0/24", "2001:db8::/64"];
        assert_eq!(told(), connected);

        // Our own rest on them; dropped packets reach nobody.
        wait(dataplane.update(set([(net("10.1.0.0/26"), via(&["192.0.2.9"]))]))).unwrap();
        ip("route add blackhole 10.8.0.0/16");
        ip("route add 10.9.0.0/16 metric 7 nexthop via 192.0.2.8 nexthop via 192.0.2.7");
        ip("route add 10.10.0.0/16 via inet6 2001:db8::7 metric 3");
        ip("-6 route add default via 2001:db8::9 metric 20");
        let more = [
            "10.9.0.0/16 by 192.0.2.7 at 7",
            "10.9.0.0/16 by 192.0.2.8 at 7",
            "10.10.0.0/16 by 2001:db8::7 at 3",
            "192.0.2.0/24",
            "::/0 by 2001:db8::9 at 20",
            "2001:db8::/64",
        ];
        eventually("other programs' routes", || told() == more);
        ip("route del 10.10.0.0/16");
        eventually("a route that went", || told().len() == 5);

        // Nothing is reached without a carrier, and nothing by a link that is down.
        ip("link set wire down");
        eventually("no carrier", || told().is_empty());
        ip("link set wire up");
        eventually("a carrier again", || told().len() == 5);
        ip("link set uplink down");
        eventually("no link", || told().is_empty());
        ip("link set uplink up");
        eventually("what the kernel keeps of the IPv4 network", || told().contains(&connected[0].to_owned()));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_next_hop_out_of_reach_is_named_and_the_rest_is_programmed() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let routes = [
            (net("10.0.0.0/26"), via(&["198.51.100.7"])),
            (net("10.0.1.0/26"), via(&["192.0.2.2", "198.51.100.7"])),
            (net("10.0.2.5/32"), Route::Pod { ifindex: 4_000_000 }),
            (net("fd00::/122"), via(&["2001:db8:7::1"])),
        ];
        let outcome = wait(dataplane.update(set(routes)));
        let Err(ApplyErrors::Refused(refused)) = outcome else { panic!("not refused: {outcome:?}") };
        let mut words: Vec<_> = refused.iter().map(ToString::to_string).collect();
        words.sort();
        assert_eq!(words.len(), 3, "{words:?}");
        assert!(
            words[0].starts_with("10.0.0.0/26: next hop 198.51.100.7 is on no connected network"),
            "{words:?}"
        );
        assert!(words[1].starts_with("10.0.2.5/32: there is no interface 4000000"), "{words:?}");
        assert!(words[2].starts_with("fd00::/122: next hop 2001:db8:7::1 is on no connected"), "{words:?}");
        let reached = "10.0.1.0/26 via 192.0.2.2 dev uplink metric 13 onlink";
        assert_eq!(without_ids(ours()), [reached]);
        eventually("all three are told as failing", || dataplane.status().failing == 3);
        let start = Instant::now();
        ip("address add 198.51.100.1/24 dev uplink");
        eventually("it is written once its network is there", || ours().len() == 2);
        println!("written {:?} after its network came", start.elapsed());
        let both = || {
            let lines = ours();
            lines.iter().filter(|line| line.contains("198.51.100.7")).count() == 2
        };
        eventually("and the other has its second next hop", both);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn next_hops_have_weights_and_interfaces_and_ipv4_goes_by_ipv6() {
    on_a_node(|| {
        ip("link add second type veth peer name other");
        ip("link set other up");
        ip("link set second up");
        let dataplane = Dataplane::start(Settings { table: 1000, metric: 7 }).unwrap();
        let heavy = |address: &str, weight| NextHop { address: address.parse().unwrap(), weight };
        let hops = [heavy("fe80::9%uplink", 1), heavy("fe80::9%second", 3), heavy("192.0.2.2", 255)];
        wait(dataplane.update(set([
            (net("10.0.1.0/26"), Route::via(hops)),
            (net("fd00::/122"), Route::via(hops.into_iter().take(2))),
            (net("10.0.2.0/26"), Route::Unreachable),
        ])))
        .unwrap();
        let shown = ip("-4 route show table 1000");
        assert!(shown.contains("unreachable 10.0.2.0/26 proto 77 metric 7"), "{shown}");
        for hop in [
            "nexthop via inet6 fe80::9 dev uplink weight 1 onlink",
            "nexthop via inet6 fe80::9 dev second weight 3 onlink",
            "nexthop via 192.0.2.2 dev uplink weight 255 onlink",
        ] {
            assert!(shown.contains(hop), "no {hop} in {shown}");
        }
        let shown = ip("-6 route show table 1000");
        assert!(shown.contains("via fe80::9 dev second weight 3 onlink"), "{shown}");
        drop(dataplane);

        // An agent that is told otherwise takes them along.
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set([(net("10.0.1.0/26"), Route::via(hops))]))).unwrap();
        assert_eq!(ip("-4 route show table 1000").lines().count(), 2 + 3, "nothing goes before the sweep");
        dataplane.sweep();
        let elsewhere = || {
            ip("-4 route show table 1000").lines().count()
                + ip("-6 route show table 1000 proto 77").lines().count()
        };
        eventually("only the new one is there", || elsewhere() == 0 && ours().len() == 1);
        let objects = || ip("nexthop show proto 77").lines().count();
        eventually("a group and its three legs", || objects() == 4);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_next_hop_lost_under_a_hundred_thousand_routes_is_one_write() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set(table(100_000)))).unwrap();
        let before = dataplane.status();
        let one: Fib = table(100_000).into_keys().map(|key| (key, via(&["192.0.2.3"]))).collect();
        let start = Instant::now();
        wait(dataplane.update(set(one))).unwrap();
        println!("100,000 routes lost a next hop: {:?}", start.elapsed());
        let after = dataplane.status();
        assert_eq!(after.written, before.written, "no route was written");
        assert_eq!(after.objects_written, before.objects_written + 1);
        let lines = ours();
        assert_eq!(lines.len(), 100_000);
        assert!(lines.iter().all(|line| line.contains("via 192.0.2.3") && !line.contains("192.0.2.2")));

        // A carrier that goes takes all of them along, and one that comes back brings them back.
        let start = Instant::now();
        ip("link set wire down");
        eventually("all are gone", || dataplane.status().installed == 0);
        println!("the carrier's loss was seen after {:?}", start.elapsed());
        let start = Instant::now();
        ip("link set wire up");
        eventually("all are back", || dataplane.status().installed == 100_000);
        println!("all were back after {:?}", start.elapsed());
        assert_eq!(ours().len(), 100_000);
    });
}

/// A second by the clock of a machine that builds something else: all of this takes a tenth of one otherwise.
const A_SECOND: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root: make test"]
fn whatever_becomes_of_interfaces_and_addresses_routes_are_back_within_a_second() {
    on_a_node(|| {
        ip("link add second type veth peer name other");
        ip("link set other up");
        ip("link set second up");
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let routes = [
            (net("10.0.1.0/26"), via(&["192.0.2.2"])),
            (net("10.0.2.0/26"), via(&["2001:db8::2"])),
            (net("fd00:1::/122"), via(&["2001:db8::2", "2001:db8::3"])),
            (net("10.0.3.0/26"), Route::Blackhole),
        ];
        wait(dataplane.update(set(routes))).unwrap();
        let all = |device: &str| {
            let lines = ours();
            let by = lines.iter().filter(|line| line.contains(&format!("dev {device} "))).count();
            // A group of two is three lines, of which the first names no interface.
            lines.len() >= 4 && by >= 3
        };
        assert!(all("uplink"), "{:?}", ours());
        let back = |what: &str, device: &str, start: Instant| {
            eventually(what, || all(device));
            println!("{what}: {:?}", start.elapsed());
            assert!(start.elapsed() < 4 * A_SECOND, "{what}: {:?}", start.elapsed());
        };
        let addresses = |verb: &str, device: &str| {
            ip(&format!("address {verb} 192.0.2.1/24 dev {device}"));
            let nodad = if verb == "add" { "nodad" } else { "" };
            ip(&format!("address {verb} 2001:db8::1/64 dev {device} {nodad}"));
        };

        // What systemd-networkd does to what it does not know: routes, next hops, then the addresses anew.
        let start = Instant::now();
        ip("nexthop flush proto 77");
        ip("route delete blackhole 10.0.3.0/26 metric 13");
        addresses("delete", "uplink");
        addresses("add", "uplink");
        back("flushed", "uplink", start);

        ip("link set uplink down");
        eventually("they are gone with the link", || ours().len() == 1);
        let start = Instant::now();
        ip("link set uplink up");
        ip("address replace 2001:db8::1/64 dev uplink nodad");
        back("down and up", "uplink", start);

        ip("link set uplink down");
        ip("link set uplink name renamed");
        let start = Instant::now();
        ip("link set renamed up");
        ip("address replace 2001:db8::1/64 dev renamed nodad");
        back("renamed", "renamed", start);

        addresses("delete", "renamed");
        let start = Instant::now();
        addresses("add", "second");
        back("its addresses moved to another interface", "second", start);

        ip("link delete second");
        eventually("they are gone with the interface", || ours().len() == 1);
        let start = Instant::now();
        ip("link add second type veth peer name other");
        ip("link set other up");
        ip("link set second up");
        addresses("add", "second");
        back("the interface was made anew", "second", start);
        assert_eq!(dataplane.status().failing, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn other_programs_routes_that_take_packets_from_ours_are_told_and_not_touched() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set([(net("10.0.1.0/26"), via(&["192.0.2.2"]))]))).unwrap();
        ip("route add 10.0.1.16/28 via 192.0.2.9 proto static");
        ip("route add 10.0.0.0/16 via 192.0.2.9 proto static");
        eventually("the more specific one is told", || dataplane.status().overlapping == 1);
        let words = dataplane.status().overlaps.join("\n");
        assert!(
            words.contains("10.0.1.16/28 of protocol static") && words.contains("to 10.0.1.0/26"),
            "{words}"
        );
        assert!(ip("route show 10.0.1.16/28").contains("via 192.0.2.9"));
        ip("route delete 10.0.1.16/28");
        eventually("it is told no more", || dataplane.status().overlapping == 0);
        drop(dataplane);
        ip("route add 10.0.1.0/26 via 192.0.2.9 proto static metric 5");
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        wait(dataplane.update(set([(net("10.0.1.0/26"), via(&["192.0.2.2"]))]))).unwrap();
        dataplane.sweep();
        eventually("one that was there before is told", || dataplane.status().overlapping == 1);
        let route = lookup("10.0.1.7".parse().unwrap()).unwrap().unwrap();
        assert_eq!((route.ours, route.gateways), (false, vec!["192.0.2.9".to_owned()]));
        ip("route delete 10.0.1.0/26 metric 5");
        let route = lookup("10.0.1.7".parse().unwrap()).unwrap().unwrap();
        assert!(route.ours && route.gateways == ["192.0.2.2"], "{route}");
        assert_eq!(lookup("198.51.100.1".parse().unwrap()).unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_link_lost_under_one_of_two_next_hops_leaves_the_other_and_writes_no_route() {
    on_a_node(|| {
        ip("link add second type veth peer name other");
        ip("link set other up");
        ip("link set second up");
        ip("address add 198.51.100.1/24 dev second");
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let route = via(&["192.0.2.2", "198.51.100.2"]);
        wait(dataplane.update(set(table(1000).into_keys().map(|key| (key, route.clone()))))).unwrap();
        for (harm, cure) in
            [("link set other down", "link set other up"), ("link set second down", "link set second up")]
        {
            let before = dataplane.status().written;
            let by = |hop: &str| ours().iter().filter(|line| line.contains(hop)).count();
            let start = Instant::now();
            ip(harm);
            eventually(harm, || by("198.51.100.2") == 0 && by("192.0.2.2") == 1000);
            println!("{harm}: {:?}", start.elapsed());
            let start = Instant::now();
            ip(cure);
            eventually(cure, || by("198.51.100.2") == 1000);
            println!("{cure}: {:?}", start.elapsed());
            assert_eq!(dataplane.status().written, before, "the groups alone were written");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_does_not_wait_for_a_hundred_thousand_routes() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let (bulk, block) = (set(table(100_000)), net("172.16.0.0/26"));
        let start = Instant::now();
        let bulk = dataplane.update(bulk);
        wait(dataplane.update(set([(block, Route::Blackhole)]))).unwrap();
        let (urgent, written) = (start.elapsed(), dataplane.status().installed);
        wait(bulk).unwrap();
        println!("100,000 two-way ECMP routes: {:?}; a pod's route meanwhile: {urgent:?}", start.elapsed());
        assert!(written < 50_000, "the pod came after {written} routes");
        let start = Instant::now();
        assert_eq!(Dataplane::start(Settings::default()).unwrap().status().installed, 100_001);
        println!("read back: {:?}", start.elapsed());
        let destinations = table(100_000).into_keys();
        let start = Instant::now();
        wait(dataplane.update(remove(destinations))).unwrap();
        println!("removed: {:?}", start.elapsed());
        assert_eq!(ours(), ["blackhole 172.16.0.0/26 metric 13"]);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_node_is_prepared_and_its_uplinks_mtu_found() {
    on_a_node(|| {
        ip("link set uplink mtu 1400");
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(links::mtu_of_uplink(&addresses).unwrap(), Some(1400));
        assert_eq!(links::mtu_of_uplink(&["192.0.2.77".parse().unwrap()]).unwrap(), None);
        assert_eq!(links::index_of("none").unwrap(), None);

        let report = sysctl::prepare_node(Path::new("/proc/sys"));
        assert!(report.failed.is_empty(), "{report:?}");
        let changed: Vec<_> = report.changed.iter().map(|change| change.name.as_str()).collect();
        assert!(changed.contains(&"net/ipv6/conf/all/forwarding"), "{changed:?}");
        assert!(sysctl::prepare_node(Path::new("/proc/sys")).changed.is_empty());
    });
}

/// Indexes of `count` veths called manx0 and on, up.
fn veths(count: u32) -> Vec<u32> {
    let make = |i: u32| {
        ip(&format!("link add manx{i} type veth peer name pod{i}"));
        ip(&format!("link set manx{i} up"));
        links::index_of(&format!("manx{i}")).unwrap().unwrap()
    };
    (0..count).map(make).collect()
}

#[test]
#[ignore = "needs root: make test"]
fn veths_that_end_are_down_when_it_is_said_and_gone_soon_after_and_no_other_is_touched() {
    on_a_node(|| {
        let dataplane = Dataplane::start(Settings::default()).unwrap();
        let mut indexes = veths(20);
        let kept = indexes.pop().unwrap();
        let removals: Vec<_> = indexes
            .iter()
            .map(|index| {
                let removal = wait(dataplane.retire(vec![*index])).unwrap();
                let shown = ip("-o link");
                let line = shown.lines().find(|line| line.starts_with(&format!("{index}: ")));
                assert!(line.is_none_or(|line| !line.contains(",UP")), "{shown}");
                removal
            })
            .collect();
        for removal in removals {
            assert!(wait(removal.gone()));
        }
        let shown = ip("-o link");
        assert_eq!(shown.matches(": manx").count(), 1, "{shown}");
        assert_eq!(links::index_of("manx19").unwrap(), Some(kept));
        // Gone already, as when a pod's namespace went first.
        assert!(wait(wait(dataplane.retire(indexes)).unwrap().gone()));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_an_agent_that_was_killed_was_about_to_remove_is_removed_by_the_next() {
    on_a_node(|| {
        veths(2);
        ip(&format!("link set manx1 down group {}", manx_felix::dataplane::retire::RETIRED));
        Dataplane::start(Settings::default()).unwrap();
        assert_eq!(ip("-o link").matches(": manx").count(), 1);
        assert!(links::index_of("manx0").unwrap().is_some());
    });
}
