//! Whatever happens, in whatever order: invariants of addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_cni::protocol::host_ifname;
use proptest::prelude::*;

use super::super::core::Host;
use super::machine::{Machine, key};
use crate::dataplane::Route;

/// What happens to a machine.
#[derive(Clone, Debug)]
enum Step {
    /// A pod starts, or dies on the way: after the addresses, after the veth, after "ready", or not at all.
    Add(u8, u8),
    Del(u8),
    /// A DEL that finds no agent, then the agent.
    DelWhileAway(u8),
    Kill,
    Sync,
    Outage(bool),
    /// Whether the kernel removes interfaces.
    Removes(bool),
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..4_u8).prop_map(|(pod, dies)| Step::Add(pod, dies)),
        4 => (0..6_u8).prop_map(Step::Del),
        1 => (0..6_u8).prop_map(Step::DelWhileAway),
        2 => Just(Step::Kill),
        2 => Just(Step::Sync),
        1 => any::<bool>().prop_map(Step::Outage),
        1 => any::<bool>().prop_map(Step::Removes),
        2 => (1..4_u8).prop_map(Step::Pass),
    ]
}

/// Addresses by pod.
#[derive(Default)]
struct Held {
    /// Of pods that run.
    running: BTreeMap<u8, Vec<IpAddr>>,
    /// Of pods that have an interface.
    configured: BTreeMap<u8, Vec<IpAddr>>,
}

fn take(machine: &mut Machine, step: &Step, held: &mut Held) {
    match *step {
        Step::Add(pod, dies) if !held.running.contains_key(&pod) => {
            let container = format!("pod{pod}");
            let (attempt, mut answer) = machine.allocate(&container);
            let Ok(Ok(attach)) = answer.try_recv() else {
                drop(answer);
                return machine.abort(attempt, &container);
            };
            let index = (dies > 0).then(|| machine.make_veth(&container));
            if index.is_some() {
                held.configured.insert(pod, attach.addresses.clone());
            }
            if let Some(index) = index.filter(|_| dies > 1) {
                machine.ready(attempt, &container, index).unwrap();
            }
            if dies == 3 {
                held.running.insert(pod, attach.addresses);
            } else {
                machine.abort(attempt, &container);
            }
        }
        Step::Add(..) => {}
        Step::Del(pod) => {
            held.running.remove(&pod);
            machine.del(&format!("pod{pod}"));
        }
        Step::DelWhileAway(pod) => {
            held.running.remove(&pod);
            held.configured.remove(&pod);
            let container = format!("pod{pod}");
            machine.remove_veth(&container);
            let socket = machine.directory.path().join("agent.sock");
            manx_cni::released::leave(&socket, &key(&container)).unwrap();
            machine.kill();
        }
        Step::Kill => machine.kill(),
        Step::Sync => machine.sync(),
        Step::Outage(outage) => machine.store.set_outage(outage),
        Step::Removes(removes) => machine.removes = removes,
        Step::Pass(seconds) => machine.pass(seconds.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn whatever_dies_when_no_address_has_two_pods_and_none_is_lost(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut machine = Machine::in_sync();
        let mut held = Held::default();
        for step in &steps {
            take(&mut machine, step, &mut held);
            held.configured.retain(|pod, _| {
                machine.links.index_of(&host_ifname(&key(&format!("pod{pod}")))).unwrap().is_some()
            });
            let mut seen = BTreeSet::new();
            for address in held.configured.values().flatten() {
                prop_assert!(seen.insert(*address), "{} has two pods after {:?}", address, step);
            }
            for (pod, addresses) in &held.running {
                for address in addresses {
                    let index = machine.links.index_of(&host_ifname(&key(&format!("pod{pod}")))).unwrap();
                    let route = machine.route_to(*address).cloned();
                    prop_assert_eq!(route, index.map(|ifindex| Route::Pod { ifindex }), "after {:?}", step);
                }
            }
        }
        machine.store.set_outage(false);
        machine.removes = true;
        for pod in 0..6 {
            machine.del(&format!("pod{pod}"));
        }
        machine.kill();
        machine.sync();
        machine.pass(2);
        prop_assert_eq!(machine.used(), 0);
        prop_assert!(machine.core.attachments.is_empty());
        let pods = machine.fib.values().filter(|route| matches!(route, Route::Pod { .. })).count();
        prop_assert_eq!(pods, 0);
        let owners: BTreeSet<String> = machine.store.blocks().iter().map(|block| block.spec.node.clone()).collect();
        prop_assert!(owners.iter().all(|node| node == "node1"));
    }
}
