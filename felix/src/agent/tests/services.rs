//! Services: which addresses they are given, and what is announced of them while they change.

use std::net::IpAddr;

use manx_bgp::types::Prefix;
use manx_ipam::choice::{IP_POOLS, Wishes};
use manx_ipam::cidr::Family;
use manx_ipam::crd::{AllowedUse, IPPool, IPPoolSpec};

use super::super::balancing::ServiceEvent;
use super::super::mirror::Write;
use super::machine::{Machine, object, pool};
use crate::model::labels::Labels;
use crate::model::service::{Balancer, Endpoints, Marks, Service, Slice, TrafficPolicy};
use crate::model::{Bad, Object};
use crate::watch::{Change, Update};

fn for_services(name: &str, cidr: &str) -> Object<IPPool> {
    let spec = IPPoolSpec { allowed_uses: vec![AllowedUse::Services], ..IPPoolSpec::new(cidr) };
    object(name, Ok(IPPool::new(name, spec)))
}

pub fn balancer() -> Service {
    let balancer = Balancer {
        class: None,
        families: [Family::Ipv4].into(),
        partial: false,
        wishes: Ok(Wishes::default()),
        shared: None,
        ports: [("TCP".into(), 80)].into(),
        pods: Labels::default(),
        created: 0,
    };
    Service {
        uid: "uid".into(),
        version: "1".to_owned(),
        labels: Labels::default(),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ingress: Vec::new(),
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        marks: Ok(Marks::default()),
        balancer: Some(Box::new(balancer)),
    }
}

/// A machine in a cluster with a pool for Services and these.
fn machine(services: &[(&str, Service)]) -> Machine {
    let mut machine = Machine::new();
    machine.services = services.iter().map(|(name, service)| ((*name).to_owned(), service.clone())).collect();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30), for_services("web", "198.51.100.0/30")]);
    machine.pass(3);
    machine
}

fn address(machine: &Machine, name: &str) -> String {
    machine.services[name].ingress.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn events(machine: &Machine) -> Vec<&ServiceEvent> {
    let events = machine.writes.iter().filter_map(|write| match write {
        Write::ServiceEvent(event) => Some(event),
        _ => None,
    });
    events.collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_service_has_an_address_within_seconds_and_gives_it_back_when_it_goes() {
    let mut machine = machine(&[("shop/a", balancer()), ("shop/b", balancer())]);
    assert_eq!(
        (address(&machine, "shop/a"), address(&machine, "shop/b")),
        ("198.51.100.0".into(), "198.51.100.1".into())
    );
    machine.services.remove("shop/a");
    machine.update(Update::Service(Change::Delete("shop/a".to_owned())));
    machine.services.insert("shop/c".to_owned(), balancer());
    machine.changed("shop/c");
    machine.pass(2);
    assert_eq!(address(&machine, "shop/c"), "198.51.100.0");
    let mut plain = machine.services["shop/b"].clone();
    plain.balancer = None;
    machine.services.insert("shop/b".to_owned(), plain);
    machine.changed("shop/b");
    machine.pass(2);
    assert_eq!(address(&machine, "shop/b"), "", "it is no load balancer any more");
}

#[test]
fn what_others_give_and_what_names_another_class_is_left_alone() {
    let of_class = |class: Option<&str>| {
        let mut service = balancer();
        service.balancer.as_mut().unwrap().class = class.map(Into::into);
        service
    };
    let theirs = Service { ingress: vec![ip("198.51.100.0")], ..of_class(Some("example.com/lb")) };
    let machine = machine(&[
        ("shop/a", theirs),
        ("shop/b", of_class(Some("manx.io/bgp"))),
        ("shop/c", of_class(Some("example.com/lb"))),
    ]);
    assert_eq!(address(&machine, "shop/a"), "198.51.100.0");
    assert_eq!(address(&machine, "shop/b"), "198.51.100.1");
    assert_eq!(address(&machine, "shop/c"), "");
}

#[test]
fn a_service_that_cannot_have_an_address_is_told_why_once() {
    let mut wishing = balancer();
    let wishes = Wishes::read(&[(IP_POOLS.to_owned(), "nowhere".to_owned())].into()).unwrap();
    wishing.balancer.as_mut().unwrap().wishes = Ok(wishes);
    let mut machine = machine(&[("shop/a", wishing)]);
    machine.pass(120);
    let told = events(&machine);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&*told[0].service, told[0].reason), ("shop/a", "AddressNotAssigned"));
    assert!(told[0].note.contains("no IPPool \"nowhere\""), "{}", told[0].note);
    machine.services.insert("shop/a".to_owned(), balancer());
    machine.changed("shop/a");
    machine.pass(2);
    assert_eq!(address(&machine, "shop/a"), "198.51.100.0");
}

#[test]
fn an_agent_that_starts_again_gives_nobody_another_address() {
    let mut machine = machine(&[("shop/a", balancer()), ("shop/b", balancer()), ("shop/c", balancer())]);
    let before = machine.services.clone();
    machine.kill();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30), for_services("web", "198.51.100.0/30")]);
    machine.pass(60);
    assert_eq!(machine.services, before);
    let status = machine.writes.iter().rev().find_map(|write| match write {
        Write::Pool { name, status, .. } if name == "web" => Some((status.used, status.free)),
        _ => None,
    });
    assert_eq!(status, Some((3, 1)));
}

#[test]
fn an_elected_agent_whose_watch_is_behind_gives_nothing_twice() {
    let mut machine = machine(&[("shop/a", balancer())]);
    machine.kill();
    machine.watching_services = false;
    // What the watch has told is older than what the agent before this one wrote.
    machine.services.get_mut("shop/a").unwrap().ingress = Vec::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30), for_services("web", "198.51.100.0/30")]);
    machine.services.get_mut("shop/a").unwrap().ingress = vec![ip("198.51.100.0")];
    let unshown = Service { ingress: vec![ip("198.51.100.1")], ..balancer() };
    machine.services.insert("shop/unshown".to_owned(), unshown);
    machine.services.insert("shop/b".to_owned(), balancer());
    machine.update(Update::Service(Change::Apply(object("shop/b", Ok(balancer())))));
    machine.pass(3);
    assert_eq!(address(&machine, "shop/b"), "198.51.100.2");
    assert_eq!(address(&machine, "shop/a"), "198.51.100.0");
}

/// Service addresses announced last.
fn announced(machine: &Machine) -> Vec<String> {
    let web: Prefix = "198.51.100.0/24".parse().unwrap();
    let networks = machine.orders.last().unwrap().networks.iter().map(|network| network.prefix);
    networks.filter(|prefix| web.covers(*prefix)).map(|prefix| prefix.to_string()).collect()
}

fn slice(ready: bool) -> Update {
    let ends = Endpoints { ready, ending: false };
    let slice = Slice { service: "shop/a".into(), family: Family::Ipv4, here: ends, anywhere: ends };
    Update::Slice(Change::Apply(object("shop/a-1", Ok(slice))))
}

#[test]
fn an_address_is_announced_while_there_are_endpoints_and_not_withdrawn_by_a_restart() {
    let mut machine = machine(&[("shop/a", balancer())]);
    assert_eq!(announced(&machine), [""; 0]);
    machine.update(slice(true));
    assert_eq!(announced(&machine), ["198.51.100.0/32"]);
    machine.update(slice(false));
    assert_eq!(announced(&machine), [""; 0], "in the same turn");
    machine.update(slice(true));
    let orders = machine.orders.len();
    machine.kill();
    machine.services.clear();
    assert_eq!(machine.orders.len(), orders, "nothing is ordered before Services have been read");
}

#[test]
fn marks_that_cannot_be_read_leave_those_before_in_force_and_are_told() {
    let marked = Marks { communities: vec!["64512:1".parse().unwrap()], local_pref: None };
    let mut machine = machine(&[("shop/a", Service { marks: Ok(marked), ..balancer() })]);
    machine.update(slice(true));
    machine.services.get_mut("shop/a").unwrap().marks = Err(Bad::new("InvalidAnnotation", "no community"));
    machine.changed("shop/a");
    machine.act();
    machine.pass(30);
    let network =
        machine.orders.last().unwrap().networks.iter().find(|network| network.prefix.length() == 32);
    assert_eq!(network.unwrap().communities, ["64512:1"]);
    let told = events(&machine);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].note.contains("no community"), "{told:?}");
}

#[test]
fn addresses_of_pools_for_services_are_held_up_where_nobody_takes_them() {
    let machine = machine(&[]);
    let ranges: Vec<String> = machine.guard.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["198.51.100.0/30"]);
}
