//! What becomes of interfaces and addresses, and of what hangs on them.

use super::*;

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
