//! Routes of every kind, restarts, and what others do to them.

use super::*;

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
