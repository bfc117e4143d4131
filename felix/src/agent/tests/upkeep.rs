//! What is freed, found again and said without being asked: lost files, vanished nodes, exhaustion, mirrors.

use futures::executor::block_on;
use manx_cni::protocol::host_ifname;
use manx_ipam::claim::Claim;
use manx_ipam::crd::IPAMBlock;
use manx_ipam::store::Store;
use manx_ipam::{BlockCidr, Cidr};

use super::super::mirror::Write;
use super::machine::{Machine, block, key, node, pool};
use crate::attach::Command;
use crate::dataplane::{Route, Status};
use crate::watch::{Change, Update};

fn exhausted(machine: &Machine) -> Vec<Option<String>> {
    let said = machine.writes.iter().filter_map(|write| match write {
        Write::Exhausted { words, .. } => Some(words.clone()),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_node_without_addresses_says_so_on_its_node_and_tells_an_event_once_until_there_is_one() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/31", 31)]);
    machine.add("a");
    machine.pass(5);
    assert_eq!(exhausted(&machine), [], "a node that has addresses needs no condition");
    machine.add("b");
    machine.pass(2);
    let words = exhausted(&machine).pop().unwrap().unwrap();
    assert!(words.starts_with("no free IPv4 address on this node: IPPool \"v4\" (10.244.0.0/31"), "{words}");
    let mut full = node("node1");
    full.spec.as_mut().unwrap().exhausted = Some(true);
    machine.update(Update::Node(Change::Apply(full)));
    machine.writes.clear();
    machine.pass(30);
    assert_eq!(exhausted(&machine), [], "it is there");

    machine.del("b");
    machine.pass(1);
    assert_eq!(exhausted(&machine), [None]);
    machine.add("c");
    machine.pass(5);
    let events =
        |machine: &Machine| machine.writes.iter().filter(|it| matches!(it, Write::Event { .. })).count();
    assert_eq!(events(&machine), 0, "told a moment ago");
    machine.del("c");
    machine.pass(600);
    machine.add("d");
    machine.pass(1);
    let told: Vec<&str> = machine
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Event { regarding, .. } => Some(regarding.kind),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["Node", "IPPool"]);
}

/// Status, reason and message of a condition of the NodeStatus last written.
fn condition(machine: &Machine, type_: &str) -> (String, String, String) {
    let last = machine.writes.iter().rev().find_map(|write| match write {
        Write::Node { status, .. } => Some(status),
        _ => None,
    });
    let condition = last.unwrap().conditions.iter().find(|it| it.type_ == type_).unwrap().clone();
    (condition.status, condition.reason, condition.message)
}

#[test]
fn what_the_kernel_refuses_is_a_condition_with_its_words_and_its_time_stays_while_it_does() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30)]);
    machine.pass(30);
    assert!(machine.writes.iter().all(|write| match write {
        Write::Node { status, is_first, .. } => *is_first && status.conditions.is_empty(),
        _ => true,
    }));
    machine.core.see_settings(Vec::new());
    machine.core.see_kernel(Status { sought_overlaps: true, ..Status::default() });
    machine.pass(30);
    assert_eq!(condition(&machine, "KernelPrepared").0, "True");
    assert_eq!(condition(&machine, "RouteOverlap").0, "False");
    let since = |machine: &Machine| {
        let last = machine.writes.iter().rev().find_map(|write| match write {
            Write::Node { status, .. } => status.conditions.iter().find(|it| it.type_ == "RouteOverlap"),
            _ => None,
        });
        last.unwrap().last_transition_time.clone()
    };
    let before = since(&machine);
    machine.core.see_settings(vec!["net/ipv4/ip_forward should be 1, but cannot be written".to_owned()]);
    machine.pass(30);
    let (status, reason, words) = condition(&machine, "KernelPrepared");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NotAsNeeded"));
    assert!(words.contains("ip_forward should be 1"), "{words}");
    assert_eq!(since(&machine), before, "of what has not changed");
    let problems = machine.core.report(machine.now).problems;
    assert!(problems.iter().any(|problem| problem.message == words), "{problems:?}");
}

#[test]
fn another_programs_route_that_takes_packets_from_ours_is_an_event_once() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30)]);
    let see = |machine: &mut Machine, overlaps: &[&str]| {
        let overlaps = overlaps.iter().map(|words| (*words).to_owned()).collect();
        machine.core.see_kernel(Status { overlaps, sought_overlaps: true, ..Status::default() });
        machine.pass(30);
        machine.writes.iter().filter(|it| matches!(it, Write::Overlap { .. })).count()
    };
    assert_eq!(see(&mut machine, &["the route to 10.244.0.0/28"]), 1);
    let said = machine.core.report(machine.now).problems;
    assert!(said.iter().any(|problem| problem.message.contains("10.244.0.0/28")), "{said:?}");
    let (status, reason, words) = condition(&machine, "RouteOverlap");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ForeignRoute"));
    assert!(words.contains("10.244.0.0/28"), "{words}");
    assert_eq!(see(&mut machine, &["the route to 10.244.0.0/28"]), 1, "told a moment ago");
    assert_eq!(see(&mut machine, &[]), 1);
    assert_eq!(condition(&machine, "RouteOverlap").0, "False");
    assert_eq!(see(&mut machine, &["the route to 10.244.0.0/28"]), 2, "it went, and came again");
}

#[test]
fn a_namespace_without_addresses_is_said_while_its_pods_come_back_and_not_longer() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 30), pool("tiny", "10.9.0.0/32", 32)]);
    let tiny = super::machine::namespace("default", &[], &[("manx.io/ip-pools", "tiny")]);
    machine.update(Update::Namespace(Change::Apply(tiny)));
    machine.add("a");
    let (_, mut answer) = machine.allocate("b");
    machine.pass(12);
    assert!(answer.try_recv().unwrap().is_err());
    let mut full = node("node1");
    full.spec.as_mut().unwrap().exhausted = Some(true);
    machine.update(Update::Node(Change::Apply(full)));
    machine.pass(30);
    assert_eq!(exhausted(&machine).iter().filter(|words| words.is_none()).count(), 0, "it may come back");
    assert!(exhausted(&machine)[0].as_ref().unwrap().contains("\"tiny\""));
    machine.del("a");
    machine.pass(1);
    assert_eq!(exhausted(&machine).last(), Some(&None));
}

#[test]
fn a_pods_address_is_held_when_its_file_is_lost_and_the_mirror_says_whose_it_is() {
    let mut machine = Machine::in_sync();
    let addresses = machine.add("web");
    machine.list_blocks();
    machine.pass(1);
    for write in machine.writes.clone() {
        if let Write::Block { name, status } = write {
            block_on(machine.store.update_status(&name, &status)).unwrap();
        }
    }
    let unmirrored = machine.add("late");
    std::fs::remove_dir_all(machine.directory.path().join("attachments")).unwrap();
    std::fs::remove_file(machine.directory.path().join("known.json")).unwrap();
    machine.kill();
    for address in addresses.iter().chain(&unmirrored) {
        assert!(matches!(machine.route_to(*address), Some(Route::Pod { .. })));
    }
    machine.sync();
    assert!(machine.swept);
    assert_eq!(machine.inspect("web").unwrap().addresses, addresses, "as the mirror says");
    for container in ["a", "b", "c"] {
        let given = machine.add(container);
        assert!(!given.iter().any(|address| addresses.contains(address) || unmirrored.contains(address)));
    }
    for address in addresses.iter().chain(&unmirrored) {
        assert!(matches!(machine.route_to(*address), Some(Route::Pod { .. })));
    }
    assert_eq!(machine.inspect("late"), None);
    machine.del("late");
    assert_eq!(machine.route_to(unmirrored[0]), None);
    machine.del("web");
    assert_eq!(machine.used(), 6);
}

#[test]
fn a_found_interface_that_goes_without_a_del_is_collected() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    std::fs::remove_dir_all(machine.directory.path().join("attachments")).unwrap();
    machine.kill();
    machine.sync();
    assert_eq!(machine.used(), 2);
    machine.remove_veth("web");
    machine.pass(61);
    assert!(machine.core.allocator.holder(address).is_some(), "missed once");
    machine.pass(60);
    assert_eq!((machine.core.allocator.holder(address), machine.route_to(address)), (None, None));
    assert!(!machine.core.found.contains_key(&host_ifname(&key("web"))));
}

/// A machine that sees blocks of a node that is not there.
fn beside_a_vanished_node() -> Machine {
    let mut machine = Machine::in_sync();
    for text in ["10.244.0.248/30", "10.244.0.252/30"] {
        let cidr: BlockCidr = text.parse::<Cidr>().unwrap().try_into().unwrap();
        let claim = Claim { cidr, pool: "v4".to_owned(), node: "node9".to_owned(), parent: None };
        block_on(machine.store.create_block(&IPAMBlock::from(&claim))).unwrap();
    }
    machine.list_blocks();
    machine
}

fn of_node9(machine: &Machine) -> usize {
    machine.store.blocks().iter().filter(|block| block.spec.node == "node9").count()
}

#[test]
fn blocks_of_a_vanished_node_are_freed_after_the_grace_period_within_the_budget() {
    let mut machine = beside_a_vanished_node();
    machine.core.limit_collection(1);
    machine.pass(599);
    assert_eq!((of_node9(&machine), machine.leases.len()), (2, 0), "nobody asks for the lease before");
    machine.pass(12);
    assert_eq!(of_node9(&machine), 1, "one a minute");
    machine.pass(40);
    assert_eq!(of_node9(&machine), 1);
    machine.pass(30);
    assert_eq!(of_node9(&machine), 0);
}

#[test]
fn blocks_of_a_node_that_comes_back_or_has_pods_stay() {
    let mut machine = beside_a_vanished_node();
    machine.pass(400);
    machine.update(Update::Node(Change::Apply(node("node9"))));
    machine.pass(10);
    machine.update(Update::Node(Change::Delete("node9".to_owned())));
    machine.pass(599);
    assert_eq!(of_node9(&machine), 2, "the grace period begins anew");
    // Every other agent waits longer.
    machine.update(Update::Node(Change::Apply(node("node0"))));
    machine.pass(5);
    assert_eq!(of_node9(&machine), 2);
    machine.pass(10);
    assert_eq!(of_node9(&machine), 0);
}

#[test]
fn a_block_is_written_at_most_once_a_second_whatever_the_pods_do() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/24", 26)]);
    machine.list_blocks();
    machine.pass(1);
    machine.writes.clear();
    for _ in 0..10 {
        for number in 0..20 {
            machine.add(&format!("pod{number}"));
        }
        for number in 0..20 {
            machine.del(&format!("pod{number}"));
        }
        machine.add("last");
        machine.pass(1);
        for write in machine.writes.clone() {
            if let Write::Block { name, status } = write {
                block_on(machine.store.update_status(&name, &status)).unwrap();
            }
        }
        machine.list_blocks();
        machine.del("last");
    }
    let written = machine.writes.iter().filter(|write| matches!(write, Write::Block { .. })).count();
    assert_eq!(written, 10);
    machine.pass(1);
    let shown = block(&machine.store.blocks()[0]).spec.unwrap();
    assert_eq!(shown.used, 1, "the last write but one");
    let last = machine.writes.iter().rev().find_map(|write| match write {
        Write::Block { status, .. } => Some(status.used),
        _ => None,
    });
    assert_eq!(last, Some(0));
}

#[test]
fn an_address_is_freed_by_hand_when_its_pod_is_gone_and_not_before() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    let free = |machine: &mut Machine, address: &str| {
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        machine.command(Command::Free { address: address.parse().unwrap(), reply });
        answer.try_recv().unwrap()
    };
    let why = free(&mut machine, &address.to_string()).unwrap_err();
    assert!(why.ends_with("kubectl -n default delete pod web"), "{why}");
    assert!(free(&mut machine, "10.244.0.9").unwrap_err().ends_with("nobody holds it"));
    assert!(free(&mut machine, "192.0.2.9").unwrap_err().contains("is in no block"));

    machine.update(Update::Pod(Change::Delete("default/web".to_owned())));
    let holder = free(&mut machine, &address.to_string()).unwrap();
    assert!(holder.starts_with("pod default/web"), "{holder}");
    assert_eq!(machine.route_to(address), None);
    assert_eq!(machine.used(), 0);
}

#[test]
fn what_is_held_and_nothing_stands_for_is_freed_when_seen_twice() {
    let mut machine = Machine::in_sync();
    let kept = machine.add("web")[0];
    let key = manx_ipam::OwnerKey { container_id: "lost".to_owned(), ifname: "eth0".to_owned() };
    let owner = manx_ipam::Owner { key, namespace: String::new(), pod: String::new(), uid: String::new() };
    let lost = "10.244.0.33".parse().unwrap();
    machine.core.allocator.restore(&owner, [lost]);
    machine.pass(61);
    assert!(machine.core.allocator.holder(lost).is_some(), "seen once");
    machine.pass(61);
    assert_eq!(machine.core.allocator.holder(lost), None);
    assert!(machine.core.allocator.holder(kept).is_some());
}

#[test]
fn of_blocks_that_were_a_nodes_before_its_node_was_made_anew_nothing_is_handed_out_until_it_has_written_to_them()
 {
    let mut machine = Machine::in_sync();
    machine.add("web");
    machine.list_blocks();
    let mut anew = node("node1");
    anew.spec.as_mut().unwrap().uid = "made-anew".to_owned();
    machine.update(Update::Node(Change::Apply(anew)));
    machine.writes.clear();
    let (_, mut answer) = machine.allocate("late");
    assert!(answer.try_recv().is_err(), "its block may be about to be freed");
    machine.pass(1);
    let writes = std::mem::take(&mut machine.writes);
    let mut written = 0;
    for write in writes {
        if let Write::Block { name, status } = write {
            assert_eq!(status.node_uid, "made-anew");
            block_on(machine.store.update_status(&name, &status)).unwrap();
            written += 1;
        }
    }
    assert!(written > 0);
    machine.list_blocks();
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn a_machine_under_another_name_keeps_its_pods_and_gives_addresses_of_blocks_of_its_own() {
    let mut machine = Machine::in_sync();
    let before = machine.add("web");
    machine.me = "node2";
    machine.kill();
    machine.sync();
    machine.update(Update::Node(Change::Delete("node1".to_owned())));
    for address in &before {
        assert!(machine.route_to(*address).is_some(), "{address}");
    }
    let after = machine.add("late");
    machine.list_blocks();
    let of = |node: &str| -> Vec<String> {
        let owned = machine.store.blocks().into_iter().filter(|block| block.spec.node == node);
        owned.map(|block| block.spec.cidr).collect()
    };
    let (theirs, ours) = (of("node1"), of("node2"));
    assert!(!theirs.is_empty() && ours.iter().all(|block| !theirs.contains(block)));
    let announced = &machine.orders.last().unwrap().networks;
    let announced: Vec<String> = announced.iter().map(|network| network.prefix.to_string()).collect();
    assert_eq!(announced, ours, "what the earlier name owned is not this node's to announce");
    assert!(after.iter().all(|address| !before.contains(address)));
    machine.del("web");
    assert!(before.iter().all(|address| machine.route_to(*address).is_none()));
    machine.del("late");
    machine.add("again");
}

#[test]
fn where_kube_proxys_ipvs_keeps_policies_from_judging_that_is_said() {
    let mut machine = Machine::in_sync();
    let said = |machine: &mut Machine| {
        machine.core.see_settings(Vec::new());
        let problems = machine.core.report(machine.now).problems;
        problems.into_iter().filter(|problem| problem.message.contains("IPVS")).count()
    };
    assert_eq!(said(&mut machine), 0);
    machine.links.0.lock().unwrap().insert("kube-ipvs0".to_owned(), 9);
    assert_eq!(said(&mut machine), 1);
    machine.links.0.lock().unwrap().clear();
    assert_eq!(said(&mut machine), 0);
}
