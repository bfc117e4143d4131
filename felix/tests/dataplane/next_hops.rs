//! Next hops: weights, families, and those that are lost.

use super::*;

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
