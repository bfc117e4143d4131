//! Who the speaker is told to speak with, what of it waits, and what is said where it cannot be done.

use std::collections::BTreeSet;

use manx_bgp::api::{PeerConfig, Session, SessionState, Status};
use manx_bgp::types::Asn;

use super::super::degraded::Concerned;
use super::super::mirror::{Verdict, Write};
use super::machine::{Machine, node, object};
use crate::graph::Selector;
use crate::model::{BgpConfig, Filter, Mesh, Neighbour, Node, Object, Peer, SecretKey, Source, Wanted};
use crate::speaker::Event;
use crate::watch::{Change, Keys, Update};

fn tor(password: Option<&str>) -> Peer {
    Peer {
        nodes: Selector::default(),
        neighbour: Neighbour::One,
        settings: Box::new(PeerConfig::new("192.0.2.254".parse().unwrap(), Asn(65001))),
        hold_time: None,
        connect_retry: None,
        graceful_restart: None,
        source: Source::Node,
        password: password.map(|name| SecretKey { name: name.to_owned(), key: "password".to_owned() }),
        tcp_ao: Vec::new(),
        filters: Vec::new(),
    }
}

fn say(machine: &mut Machine, peer: Peer) {
    machine.update(Update::Peer(Change::Apply(object("tor", Ok(peer)))));
}

fn keys(password: &str) -> Keys {
    [("password".to_owned(), password.to_owned().into())].into()
}

fn changed(name: &str, change: impl FnOnce(&mut Node)) -> Update {
    let mut node = node(name).spec.unwrap();
    change(&mut node);
    Update::Node(Change::Apply(object(name, Ok(node))))
}

/// What the speaker says of its sessions: each with a name, an address and a state.
fn status(sessions: &[(&str, &str, SessionState)]) -> Status {
    let session = |(name, address, state): &(&str, &str, SessionState)| Session {
        address: address.parse().unwrap(),
        name: (*name).to_owned(),
        range: None,
        asn: Asn(65001),
        state: *state,
        since_seconds: 0,
        reason: Some("peer says AS65010, we expect AS65001".to_owned()),
        router_id: None,
        hold_time: None,
        least_ttl: None,
        families: Vec::new(),
        received: 0,
        prefixes: Vec::new(),
        accepted: 0,
        stale: 0,
        long_lived: 0,
        advertised: 0,
        messages_in: 0,
        messages_out: 0,
        flaps: 0,
        bfd: None,
        drain: None,
    };
    Status {
        daemon: String::new(),
        asn: None,
        router_id: None,
        sessions: sessions.iter().map(session).collect(),
        ranges: Vec::new(),
        originated: Vec::new(),
        destinations: 0,
        synced: true,
        drain: None,
    }
}

#[test]
fn orders_wait_for_the_passwords_they_need_and_only_those_are_read() {
    let mut machine = Machine::in_sync();
    let before = machine.orders.len();
    say(&mut machine, tor(Some("tors")));
    assert_eq!(machine.secrets, BTreeSet::from(["tors".to_owned()]));
    assert_eq!(machine.orders.len(), before, "without it the session of an earlier time would end");
    machine.update(Update::Secret("tors".to_owned(), Ok(keys("hush"))));
    let password = |machine: &Machine| {
        let orders = machine.orders.last().unwrap();
        orders.peers.iter().find(|peer| peer.name == "tor").and_then(|peer| peer.password.clone())
    };
    assert_eq!(password(&machine), Some("hush".to_owned().into()));
    machine.update(Update::Secret("tors".to_owned(), Ok(keys("other"))));
    assert_eq!(password(&machine), Some("other".to_owned().into()), "it is followed");
    machine.update(Update::Secret("tors".to_owned(), Err("there is no Secret".to_owned())));
    assert_eq!(password(&machine), Some("other".to_owned().into()), "the last stays in force");
    say(&mut machine, tor(None));
    assert!(machine.secrets.is_empty());
}

/// The last `Degraded` of the BGPPeer, as the watch will show it.
fn show_condition(machine: &mut Machine, peer: &Peer) -> Option<Verdict> {
    let written = machine.writes.iter().rev().find_map(|write| match write {
        Write::Degraded { object, verdict, .. } if *object == Concerned::Peer("tor".to_owned()) => {
            Some(verdict)
        }
        _ => None,
    });
    let verdict = written.cloned()?;
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
    let condition = k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        type_: verdict.type_.to_owned(),
        status: verdict.status().to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.clone(),
        observed_generation: Some(verdict.generation),
        last_transition_time: time,
    };
    let shown = Object { conditions: vec![condition], ..object("tor", Ok(peer.clone())) };
    machine.update(Update::Peer(Change::Apply(shown)));
    Some(verdict)
}

fn events(machine: &Machine) -> usize {
    machine.writes.iter().filter(|write| matches!(write, Write::Trouble { .. })).count()
}

#[test]
fn what_a_peer_refuses_is_said_on_the_object_and_by_one_event_until_it_is_over() {
    let mut machine = Machine::in_sync();
    let peer = tor(None);
    say(&mut machine, peer.clone());
    let down = status(&[("tor", "192.0.2.254", SessionState::Idle)]);
    machine.core.hear_status(Some(down));
    machine.pass(5);
    assert_eq!(show_condition(&mut machine, &peer), None, "it may come up yet");
    machine.pass(20);
    let verdict = show_condition(&mut machine, &peer).unwrap();
    assert!(verdict.holds && verdict.message.contains("we expect AS65001"), "{verdict:?}");
    assert!(verdict.message.starts_with("node1: "), "{verdict:?}");
    machine.pass(3600);
    assert_eq!(events(&machine), 1, "once, not in a loop");
    machine.core.hear_status(Some(status(&[("tor", "192.0.2.254", SessionState::Established)])));
    machine.pass(3);
    assert!(!show_condition(&mut machine, &peer).unwrap().holds);
    machine.writes.clear();
    machine.pass(60);
    assert!(
        !machine.writes.iter().any(|write| matches!(write, Write::Degraded { .. } | Write::Trouble { .. }))
    );
}

#[test]
fn while_one_node_says_it_no_other_does() {
    let mut machine = Machine::in_sync();
    let peer = Peer { filters: vec!["missing".to_owned()], ..tor(None) };
    say(&mut machine, peer.clone());
    machine.pass(2);
    show_condition(&mut machine, &peer).unwrap();
    let other = machine.core.cluster.peers["tor"].conditions[0].message.replace("node1", "node2");
    let mut shown = Object {
        conditions: machine.core.cluster.peers["tor"].conditions.clone(),
        ..object("tor", Ok(peer.clone()))
    };
    shown.conditions[0].message = other;
    machine.update(Update::Peer(Change::Apply(shown)));
    machine.writes.clear();
    machine.pass(120);
    assert!(!machine.writes.iter().any(|write| matches!(write, Write::Degraded { .. })));
    machine.update(Update::Node(Change::Delete("node2".to_owned())));
    machine.pass(2);
    let verdict = show_condition(&mut machine, &peer).unwrap();
    assert!(!verdict.holds || verdict.message.starts_with("node1: "), "{verdict:?}");
    machine.update(Update::Filter(Change::Apply(object("missing", Ok(Filter::default())))));
    machine.pass(120);
    assert!(!show_condition(&mut machine, &peer).unwrap().holds);
}

#[test]
fn a_cordoned_node_that_is_annotated_is_drained_until_it_is_uncordoned() {
    let mut machine = Machine::in_sync();
    machine.update(changed("node1", |node| node.drain = Some(20)));
    machine.pass(10);
    assert_eq!(machine.drains, [Some(20)]);
    machine.hear(Event::Up { daemon: "manx-bgpd again".to_owned() });
    machine.pass(10);
    assert_eq!(machine.drains, [Some(20); 2], "a speaker that starts knows nothing of it");
    machine.update(changed("node1", |node| node.drain = None));
    machine.pass(10);
    assert_eq!(machine.drains, [Some(20), Some(20), None]);
}

#[test]
fn a_drain_of_an_operator_is_left_alone_and_one_of_an_earlier_agent_taken_back() {
    let mut machine = Machine::in_sync();
    let drained = |reason: &str| {
        let drain = manx_bgp::api::DrainStatus {
            phase: manx_bgp::api::DrainPhase::Withdrawn,
            then: manx_bgp::api::AfterDrain::Withdraw,
            seconds_left: None,
            reason: reason.to_owned(),
        };
        Some(Status { drain: Some(drain), ..status(&[]) })
    };
    machine.core.hear_status(drained("new optics"));
    machine.pass(10);
    assert!(machine.drains.is_empty());
    machine.core.hear_status(drained(super::super::draining::REASON));
    machine.pass(1);
    assert_eq!(machine.drains, [None]);
}

#[test]
fn addresses_found_are_annotated_as_they_are_and_kept_while_there_are_none() {
    let mut machine = Machine::in_sync();
    let wanted = Wanted::Inside(vec!["10.1.0.0/16".parse().unwrap()]);
    let configuration = BgpConfig { wanted, ..BgpConfig::default() };
    *machine.links.2.lock().unwrap() = vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
    machine.update(Update::Bgp(Change::Apply(object("default", Ok(configuration)))));
    let annotated = |machine: &mut Machine| {
        machine.writes.clear();
        machine.pass(2);
        machine.writes.iter().find_map(|write| match write {
            Write::Address { value, .. } => Some(value.clone()),
            _ => None,
        })
    };
    assert_eq!(annotated(&mut machine), Some(Some("10.1.0.5,fd00::5".to_owned())));
    machine.update(changed("node1", |node| node.found = Some("10.1.0.5,fd00::5".to_owned())));
    assert_eq!(annotated(&mut machine), None);
    machine.links.2.lock().unwrap().clear();
    assert_eq!(annotated(&mut machine), None, "an interface may be down for a moment");
    let problems = machine.core.report(machine.now).problems;
    assert!(problems.iter().any(|problem| problem.message.contains("stays in use")), "{problems:?}");
    machine.update(Update::Bgp(Change::Apply(object("default", Ok(BgpConfig::default())))));
    assert_eq!(annotated(&mut machine), Some(None));
}

#[test]
fn an_agent_that_starts_goes_on_with_the_sessions_it_finds_until_the_reflectors_have_taken_over() {
    let mut machine = Machine::new();
    let dependable = |name: &str, reflecting| {
        changed(name, |node| (node.dependable, node.reflecting) = (name == "node3", reflecting))
    };
    for name in ["node1", "node2", "node3", "node4"] {
        machine.update(dependable(name, false));
    }
    let nodes = machine.core.cluster.nodes.iter().map(|(name, node)| object(name, Ok(Node::clone(node))));
    let nodes = nodes.collect();
    machine.update(Update::Node(Change::Replace(nodes)));
    machine.update(Update::Pool(Box::new(Change::Replace(Vec::new()))));
    machine.list_blocks();
    let configuration = BgpConfig { mesh: Mesh::Auto { limit: 2, reflectors: 1 }, ..BgpConfig::default() };
    machine.update(Update::Bgp(Change::Replace(vec![object("default", Ok(configuration))])));
    machine.update(Update::Peer(Change::Replace(Vec::new())));
    machine.update(Update::Filter(Change::Replace(Vec::new())));
    machine.update(Update::Service(Change::Replace(Vec::new())));
    machine.update(Update::Slice(Change::Replace(Vec::new())));
    machine.hear(Event::Up { daemon: "manx-bgpd test".to_owned() });
    machine.pass(5);
    assert!(machine.orders.is_empty(), "which sessions there are is not known");
    let up = |names: &[&str]| {
        let sessions: Vec<(String, String)> =
            names.iter().map(|name| ((*name).to_owned(), format!("192.0.2.{}", &name[4..]))).collect();
        let sessions: Vec<_> = sessions
            .iter()
            .map(|(name, address)| (name.as_str(), address.as_str(), SessionState::Established))
            .collect();
        Some(status(&sessions))
    };
    let peers = |machine: &Machine| -> Vec<String> {
        machine.orders.last().unwrap().peers.iter().map(|peer| peer.name.clone()).collect()
    };
    machine.core.hear_status(up(&["node2"]));
    machine.pass(100);
    assert_eq!(peers(&machine), ["node2", "node3"], "the reflector does not reflect yet");
    machine.core.hear_status(up(&["node2", "node3"]));
    machine.update(dependable("node3", true));
    machine.pass(20);
    assert_eq!(peers(&machine), ["node2", "node3"]);
    machine.pass(20);
    assert_eq!(peers(&machine), ["node3"]);
}
