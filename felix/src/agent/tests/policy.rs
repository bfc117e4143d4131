//! A pod and its policies: which comes first, and what passes meanwhile.

use std::sync::Arc;

use crate::acl::ruleset::{Endpoint, Mode, Network, Tier};
use crate::graph::Selector;
use crate::model::policy::{Namespaces, PodSelector, Policy};
use crate::watch::{Change, Update};

use super::machine::{Machine, object, pod};

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
