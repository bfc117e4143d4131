//! A pod and its policies: which comes first, and what passes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crate::acl::ruleset::{Endpoint, Mode, Network, Tier};
use crate::crd::PolicyEnforcement;
use crate::graph::Selector;
use crate::model::Object;
use crate::model::policy::{Namespaces, PodSelector, Policy};
use crate::watch::{Change, Update};

use super::super::mirror::Write;
use super::machine::{Machine, node, object, pod};

/// Whether nothing passes, for what the cluster says of the pod is not known.
fn closed(endpoint: &Endpoint) -> bool {
    let nothing = Some(Network { policies: Vec::new(), otherwise: Mode::Enforce });
    endpoint.ingress.network == nothing && endpoint.egress.network == nothing
}

fn deny_all() -> Policy {
    Policy {
        tier: Tier::Network,
        priority: 0,
        mode: Mode::Enforce,
        subject: PodSelector { namespaces: Namespaces::Named("default".into()), pods: Selector::default() },
        ingress: Some(Vec::new()),
        egress: None,
        complaints: Vec::new(),
        uid: "".into(),
        version: None,
    }
}

#[test]
fn an_add_is_answered_when_its_pods_policies_are_in_force() {
    let mut machine = Machine::in_sync();
    machine.update(Update::NetworkPolicy(Change::Apply(object("default/deny", Ok(deny_all())))));
    assert!(machine.ruleset.policies.is_empty(), "no endpoint is selected");
    let addresses = machine.add("web");
    let endpoint = machine.endpoint("web").unwrap();
    assert_eq!(endpoint.addresses, addresses.into_iter().collect());
    assert_eq!(endpoint.ingress.network.as_ref().unwrap().policies.len(), 1);
    assert_eq!(endpoint.egress.network, None);
    machine.update(Update::NetworkPolicy(Change::Delete("default/deny".to_owned())));
    assert_eq!(machine.endpoint("web").unwrap().ingress, Arc::default());
    machine.del("web");
    assert_eq!(machine.endpoint("web"), None);
}

#[test]
fn an_add_waits_for_the_api_to_show_its_pod_and_is_closed_as_long_as_it_does_not() {
    let mut machine = Machine::in_sync();
    let (attempt, _) = machine.allocate("slow");
    machine.update(Update::Pod(Change::Delete("default/slow".to_owned())));
    let index = machine.make_veth("slow");
    let mut answer = machine.ready_later(attempt, "slow", index);
    assert!(answer.try_recv().is_err(), "it waits");
    assert!(closed(machine.endpoint("slow").unwrap()), "and meanwhile nothing passes");
    machine.update(Update::Pod(Change::Apply(object("default/slow", Ok(pod(&[]))))));
    answer.try_recv().unwrap().unwrap();
    assert!(!closed(machine.endpoint("slow").unwrap()));

    let (attempt, _) = machine.allocate("unshown");
    machine.update(Update::Pod(Change::Delete("default/unshown".to_owned())));
    let index = machine.make_veth("unshown");
    let mut answer = machine.ready_later(attempt, "unshown", index);
    machine.pass(3);
    answer.try_recv().unwrap().unwrap();
    assert!(closed(machine.endpoint("unshown").unwrap()), "it has started, and is closed");
    machine.update(Update::Pod(Change::Apply(object("default/unshown", Ok(pod(&[]))))));
    assert!(!closed(machine.endpoint("unshown").unwrap()));
}

#[test]
fn a_pod_that_is_known_is_policed_while_its_interface_is_made() {
    let mut machine = Machine::in_sync();
    machine.update(Update::NetworkPolicy(Change::Apply(object("default/deny", Ok(deny_all())))));
    let shown = || Update::Pod(Change::Apply(object("default/web", Ok(pod(&[])))));
    machine.update(shown());
    let (attempt, _) = machine.allocate("web");
    assert_eq!(machine.endpoint("web").unwrap().ingress.network.as_ref().unwrap().policies.len(), 1);
    machine.abort(attempt, "web");
    assert_eq!(machine.endpoint("web"), None, "nothing is left of an ADD that was given up");

    let (attempt, _) = machine.allocate("web");
    machine.update(Update::Pod(Change::Delete("default/web".to_owned())));
    assert!(closed(machine.endpoint("web").unwrap()), "it is not known any more");
    let index = machine.make_veth("web");
    let mut answer = machine.ready_later(attempt, "web", index);
    assert!(answer.try_recv().is_err(), "it waits");
    machine.update(shown());
    answer.try_recv().unwrap().unwrap();
    assert!(!closed(machine.endpoint("web").unwrap()));

    machine.allocate("unshown");
    assert_eq!(machine.endpoint("unshown"), None, "it is not closed first only to be opened after");
}

#[test]
fn until_all_is_read_new_pods_are_closed_and_of_others_nothing_is_said() {
    let mut machine = Machine::in_sync();
    machine.add("before");
    let in_force = machine.ruleset.clone();
    machine.kill();
    assert!(!machine.swept_acl);
    machine.update(Update::Api(Err("connection refused".to_owned())));
    machine.add("after");
    assert!(closed(machine.endpoint("after").unwrap()));
    assert_eq!(machine.endpoint("before"), in_force.endpoints.values().next().map(|endpoint| &**endpoint));
    machine.read_all();
    assert!(machine.swept_acl, "now all is known");
    assert!(!closed(machine.endpoint("after").unwrap()));
    assert_eq!(machine.ruleset.endpoints.len(), 2);
}

/// A policy of this generation and version.
fn changed(generation: i64, version: u64) -> Object<Policy> {
    let policy = Policy { uid: "u1".into(), version: Some(version), ..deny_all() };
    Object { generation, ..object("default/deny", Ok(policy)) }
}

/// Another node says up to which version its kernel has NetworkPolicies.
fn node2(version: &str, failing: &str) -> (String, PolicyEnforcement) {
    let enforcement = PolicyEnforcement {
        network_policies: version.to_owned(),
        cluster_network_policies: String::new(),
        failing: failing.to_owned(),
    };
    ("node2".to_owned(), enforcement)
}

/// What the API shows of the policy: on how many nodes, and in words.
fn shown(machine: &Machine) -> (String, String) {
    let shown = &machine.survey.statuses.as_ref().unwrap()["default/deny"];
    assert_eq!(shown.owner, "u1");
    let enforced = shown.status.conditions.iter().find(|condition| condition.type_ == "Enforced").unwrap();
    assert_eq!(enforced.observed_generation, Some(shown.status.observed_generation));
    (shown.status.nodes.clone(), enforced.message.clone())
}

#[test]
fn of_each_policy_it_is_said_on_how_many_nodes_it_is_in_force() {
    let mut machine = Machine::in_sync();
    machine.survey.nodes.extend([node2("10", "")]);
    machine.update(Update::NetworkPolicy(Change::Apply(changed(5, 10))));
    machine.pass(10);
    assert_eq!(shown(&machine), ("2/2".to_owned(), "enforced on 2 of 2 nodes at generation 5".to_owned()));

    machine.update(Update::NetworkPolicy(Change::Apply(changed(6, 12))));
    machine.pass(10);
    let (count, words) = shown(&machine);
    assert_eq!((&*count, &*words), ("1/2", "enforced on 1 of 2 nodes at generation 6; not yet on node2"));
    machine.survey.nodes.extend([node2("10", "the kernel is too old")]);
    machine.pass(130);
    assert!(shown(&machine).1.ends_with("not yet on node2 (the kernel is too old)"), "{:?}", shown(&machine));
    machine.survey.nodes.extend([node2("12", "")]);
    machine.pass(70);
    assert_eq!(shown(&machine).0, "2/2");

    // What this node cannot do it says itself.
    machine.filter.in_force = false;
    machine.filter.failing = Some("no buffer space".to_owned());
    machine.update(Update::NetworkPolicy(Change::Apply(changed(7, 20))));
    machine.survey.nodes.extend([node2("20", "")]);
    machine.pass(10);
    assert!(shown(&machine).1.ends_with("not yet on node1 (no buffer space)"), "{:?}", shown(&machine));

    machine.update(Update::NetworkPolicy(Change::Delete("default/deny".to_owned())));
    machine.pass(10);
    assert!(machine.survey.statuses.as_ref().unwrap().is_empty());
}

#[test]
fn a_policy_of_the_same_name_has_a_status_of_its_own() {
    let mut machine = Machine::in_sync();
    machine.survey.nodes.extend([node2("10", "")]);
    machine.update(Update::NetworkPolicy(Change::Apply(changed(1, 10))));
    machine.pass(10);
    let mut other = changed(1, 11);
    if let Ok(policy) = &mut other.spec {
        policy.uid = "u2".into();
    }
    machine.update(Update::NetworkPolicy(Change::Apply(other)));
    machine.pass(10);
    let statuses = machine.survey.statuses.as_ref().unwrap();
    assert_eq!((&*statuses["default/deny"].owner, &*statuses["default/deny"].status.nodes), ("u2", "1/2"));
}

#[test]
fn a_node_that_has_never_said_anything_is_missed_after_a_while() {
    let mut machine = Machine::in_sync();
    machine.update(Update::NetworkPolicy(Change::Apply(changed(1, 10))));
    machine.pass(10);
    assert_eq!(shown(&machine).0, "1/1");
    machine.pass(200);
    assert_eq!(shown(&machine).0, "1/2");
}

#[test]
fn many_changes_are_few_writes() {
    let mut machine = Machine::in_sync();
    machine.pass(10);
    machine.writes.clear();
    for second in 0..60 {
        for part in 0..5 {
            let change = 5 * second + part;
            machine.update(Update::NetworkPolicy(Change::Apply(changed(change, change.unsigned_abs()))));
            machine.survey.nodes.extend([node2(&change.to_string(), "")]);
        }
        machine.now += Duration::from_millis(1);
        machine.pass(1);
    }
    let count = |is_it: fn(&Write) -> bool| machine.writes.iter().filter(|write| is_it(write)).count();
    let (nodes, policies) =
        (count(|it| matches!(it, Write::Node { .. })), count(|it| matches!(it, Write::Policy { .. })));
    assert!((5..=31).contains(&nodes), "{nodes} writes of the node's for 300 changes");
    // One that changes all the time is judged when it rests.
    assert!(policies <= 31, "{policies} writes of the policy's for 300 changes");
    machine.pass(10);
    assert_eq!(shown(&machine).1, "enforced on 2 of 2 nodes at generation 299");
}

#[test]
fn the_leader_of_five_thousand_nodes_looks_around_and_lives() {
    let mut machine = Machine::in_sync();
    let nodes = (1..5000).map(|number| Object { name: format!("worker{number}"), ..node("node1") });
    machine.update(Update::Node(Change::Replace(nodes.chain([node("node1")]).collect())));
    machine.update(Update::NetworkPolicy(Change::Apply(object("default/deny", Ok(deny_all())))));
    machine.pass(600);
}
