//! The core on a [`machine`], with plugins that do as they are told, or die.

mod addresses;
mod answers;
mod balancing;
mod machine;
mod model;
mod peering;
mod policy;
mod services;
mod upkeep;
mod walk;

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::executor::block_on;
use manx_bgp::api::RouteGroup;
use manx_bgp::types::Prefix;
use manx_cni::protocol::host_ifname;
use manx_cni::spec::code;
use manx_ipam::claim::Claim;
use manx_ipam::crd::IPAMBlock;
use manx_ipam::store::Store;
use manx_ipam::store::memory::MemoryStore;

use super::core::{Effect, Retired};
use super::mirror::Write;
use crate::attach::Refusal;
use crate::dataplane::Route;
use crate::graph::SLICE;
use crate::model::{Bad, BgpConfig, Peer};
use crate::speaker::Event;
use crate::watch::{Change, Update};
use machine::{Machine, block, key, node, object, pool};

fn delete(machine: &Machine, block: &IPAMBlock) {
    let (name, uid) = (block.metadata.name.as_deref().unwrap(), block.metadata.uid.as_deref().unwrap());
    block_on(machine.store.delete_block(name, uid, None)).unwrap();
}

#[test]
fn a_pod_gets_an_address_of_each_family_and_can_be_reached_when_it_is_told_so() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    let attach = answer.try_recv().unwrap().unwrap();
    assert_eq!(attach.addresses.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
    assert_eq!(attach.mtu, 9000);
    let routes: Vec<String> = attach.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["0.0.0.0/0", "::/0"]);
    assert_eq!(machine.route_to(attach.addresses[0]), None);
    let ifindex = machine.make_veth("web");
    machine.ready(attempt, "web", ifindex).unwrap();
    for address in &attach.addresses {
        assert_eq!(machine.route_to(*address), Some(&Route::Pod { ifindex }));
    }
    machine.del("web");
    assert_eq!((machine.route_to(attach.addresses[0]), machine.used()), (None, 0));
}

#[test]
fn an_add_before_anything_is_known_waits_and_is_then_asked_to_come_back() {
    let mut machine = Machine::new();
    let (_, mut early) = machine.allocate("early");
    machine.pass(9);
    assert!(early.try_recv().is_err(), "it still waits");
    machine.pass(2);
    let refusal = early.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code, code::TRY_AGAIN);
    assert!(refusal.message.contains("still reading"), "{refusal}");

    let (_, mut late) = machine.allocate("late");
    machine.read_all();
    assert!(late.try_recv().unwrap().is_ok());
}

#[test]
fn an_add_without_a_pool_says_so() {
    let mut machine = Machine::in_sync();
    machine.update(Update::Pool(Box::new(Change::Replace(Vec::new()))));
    let (_, mut answer) = machine.allocate("web");
    machine.pass(11);
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert!(refusal.message.contains("no IPPool"), "{refusal}");
}

#[test]
fn a_node_the_cluster_does_not_know_says_so_instead_of_blaming_the_pools() {
    let mut machine = Machine::in_sync();
    machine.add("web");
    machine.update(Update::Node(Change::Replace(vec![node("node2")])));
    let (_, mut reply) = machine.allocate("late");
    machine.pass(11);
    let refusal = reply.try_recv().unwrap().unwrap_err();
    assert!(refusal.message.starts_with("the Kubernetes API has no Node \"node1\""), "{refusal}");
    let report = machine.core.report(machine.now);
    assert!(report.problems.iter().any(|problem| problem.object == "Node/node1"), "{:?}", report.problems);
    machine.update(Update::Node(Change::Apply(node("node1"))));
    assert_eq!(machine.add("late").len(), 2);
}

#[test]
fn the_speaker_is_told_only_of_acknowledged_blocks_and_only_once_all_is_read() {
    let mut machine = Machine::new();
    machine.update(Update::Node(Change::Replace(vec![node("node1"), node("node2")])));
    machine.update(Update::Pool(Box::new(Change::Replace(vec![pool("v4", "10.244.0.0/24", 30)]))));
    machine.update(Update::Namespace(Change::Replace(Vec::new())));
    machine.update(Update::Reservation(Change::Replace(Vec::new())));
    machine.update(Update::Block(Change::Replace(Vec::new())));
    machine.update(Update::Bgp(Change::Replace(Vec::new())));
    machine.update(Update::Service(Change::Replace(Vec::new())));
    machine.update(Update::Slice(Change::Replace(Vec::new())));
    assert_eq!(machine.orders, [], "a neighbour may still come to light");
    machine.update(Update::Peer(Change::Replace(Vec::new())));
    machine.update(Update::Filter(Change::Replace(Vec::new())));
    let announced: Vec<String> =
        machine.orders.last().unwrap().networks.iter().map(|network| network.prefix.to_string()).collect();
    let owned: Vec<String> = machine.store.blocks().iter().map(|block| block.spec.cidr.clone()).collect();
    assert_eq!(announced, owned);
    assert_eq!(owned.len(), 1);
    assert!(machine.fib.values().any(|route| *route == Route::Blackhole));

    machine.read_policies();
    machine.store.set_outage(true);
    let orders = machine.orders.len();
    for container in ["a", "b", "c"] {
        machine.add(container);
    }
    machine.pass(5);
    assert_eq!(machine.orders.len(), orders, "the second block is wanted, and not acknowledged");
}

#[test]
fn nothing_is_swept_before_every_watch_and_the_speaker_have_told_all() {
    let mut machine = Machine::new();
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.hear(Event::Synced);
    machine.read_all();
    assert!(!machine.swept, "the speaker has not heard its orders");
    machine.hear(Event::Applied { changes: Vec::new() });
    assert!(machine.swept);

    let mut machine = Machine::new();
    machine.read_all();
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.hear(Event::Applied { changes: Vec::new() });
    assert!(!machine.swept, "the speaker has not told its table");
    assert!(machine.core.ready(), "a node is ready without its neighbours");
    machine.hear(Event::Synced);
    assert!(machine.swept);
}

#[test]
fn a_full_table_is_handed_over_in_slices_and_nothing_is_swept_before_its_end() {
    const COUNT: u32 = 3 * SLICE as u32;
    let mut machine = Machine::new();
    machine.read_all();
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.hear(Event::Applied { changes: Vec::new() });
    let prefixes = (0..COUNT).map(|n| Prefix::host(IpAddr::from((0x0b00_0000 + n).to_be_bytes()))).collect();
    let next_hops = vec!["192.0.2.2".parse().unwrap()];
    machine.core.hear(Event::Routes(vec![RouteGroup { prefixes, next_hops, weights: Vec::new() }]));
    machine.core.hear(Event::Synced);
    let mut turns = 0;
    while !machine.swept {
        let effects = machine.core.effects(machine.now);
        let behind = machine.core.is_behind();
        for effect in &effects {
            match effect {
                Effect::Learn(delta) => assert!(delta.set.len() <= SLICE, "{} at once", delta.set.len()),
                Effect::Sweep => assert!(!behind, "after {turns} turns"),
                _ => {}
            }
        }
        effects.into_iter().for_each(|effect| machine.perform(effect));
        turns += 1;
        assert!(turns < 20, "it does not come to an end");
    }
    assert!(turns >= 3 && machine.fib.len() >= COUNT as usize, "{turns} turns");
}

#[test]
fn learned_routes_outlive_the_speaker() {
    let mut machine = Machine::in_sync();
    let route = RouteGroup {
        prefixes: vec!["10.244.9.0/26".parse().unwrap()],
        next_hops: vec!["192.0.2.2".parse().unwrap()],
        weights: Vec::new(),
    };
    machine.hear(Event::Routes(vec![route]));
    let learned = "10.244.9.0/26".parse().unwrap();
    assert!(machine.fib.contains_key(&learned));
    machine.hear(Event::Down { reason: "killed".to_owned() });
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.pass(60);
    assert!(machine.fib.contains_key(&learned));
    machine.hear(Event::Synced);
    assert!(!machine.fib.contains_key(&learned));
}

#[test]
fn an_agent_that_starts_while_the_api_is_away_serves_from_the_blocks_it_knew() {
    let mut machine = Machine::in_sync();
    let before = machine.add("before");
    machine.kill();
    assert!(machine.route_to(before[0]).is_some());
    let (_, mut answer) = machine.allocate("after");
    assert!(answer.try_recv().is_err(), "the API may still answer");
    machine.update(Update::Api(Err("connection refused".to_owned())));
    let attach = answer.try_recv().unwrap().unwrap();
    assert_eq!(attach.addresses.len(), 2);
    assert!(attach.addresses.iter().all(|address| !before.contains(address)));
    assert!(!machine.swept);
}

#[test]
fn a_block_deleted_under_its_pods_is_put_back_and_an_empty_one_is_let_go() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    machine.list_blocks();
    let blocks = machine.store.blocks();
    for block in &blocks {
        delete(&machine, block);
    }
    machine.list_blocks();
    let names =
        |store: &MemoryStore| store.blocks().iter().map(|b| b.spec.cidr.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&machine.store), blocks.iter().map(|b| b.spec.cidr.clone()).collect());
    assert!(machine.route_to(address).is_some());
    machine.list_blocks();
    let networks = machine.orders.last().unwrap().networks.len();
    assert_eq!(networks, 2, "both are announced throughout");

    machine.del("web");
    machine.store.set_outage(true);
    machine.update(Update::Block(Change::Replace(Vec::new())));
    assert_eq!(machine.core.allocator.blocks().count(), 0);
    assert_eq!(machine.orders.last().unwrap().networks, []);
}

#[test]
fn a_block_another_node_took_is_announced_no_more() {
    let mut machine = Machine::in_sync();
    machine.add("web");
    machine.list_blocks();
    let stolen = machine.store.blocks().into_iter().find(|block| block.spec.pool == "v4").unwrap();
    delete(&machine, &stolen);
    let claim = Claim { node: "node2".to_owned(), ..Claim::try_from(&stolen).unwrap() };
    let theirs = IPAMBlock::from(&claim);
    block_on(machine.store.create_block(&theirs)).unwrap();
    machine.update(Update::Block(Change::Apply(block(&theirs))));
    let announced = &machine.orders.last().unwrap().networks;
    assert!(announced.iter().all(|network| network.prefix.to_string() != stolen.spec.cidr), "{announced:?}");
}

#[test]
fn a_claim_the_list_did_not_know_yet_is_not_lost() {
    let mut machine = Machine::in_sync();
    let owned = machine.core.allocator.blocks().count();
    // A list that was read before the claims, and told after them.
    machine.update(Update::Block(Change::Replace(Vec::new())));
    assert_eq!(machine.core.allocator.blocks().count(), owned);
    assert_eq!(owned, 2);
}

#[test]
fn the_end_of_a_dead_plugin_does_not_undo_its_successor() {
    let mut machine = Machine::in_sync();
    let (first, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    let (second, mut answer) = machine.allocate("web");
    assert_eq!(answer.try_recv().unwrap().unwrap().addresses, addresses);
    machine.abort(first, "web");
    let ifindex = machine.make_veth("web");
    assert_eq!(machine.ready(first, "web", ifindex).unwrap_err().code, code::TRY_AGAIN);
    machine.ready(second, "web", ifindex).unwrap();
    let (_, mut third) = machine.allocate("web");
    assert_eq!(third.try_recv().unwrap().unwrap_err().code, Refusal::ALREADY_ATTACHED);
}

#[test]
fn an_address_is_free_only_when_its_interface_is_gone() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    let ifindex = machine.make_veth("web");
    machine.ready(attempt, "web", ifindex).unwrap();
    machine.removes = false;
    machine.del("web");
    assert_eq!(machine.route_to(addresses[0]), None);
    machine.pass(5);
    assert!(machine.core.allocator.holder(addresses[0]).is_some());
    machine.removes = true;
    machine.pass(1);
    assert!(machine.core.allocator.holder(addresses[0]).is_none());
}

#[test]
fn what_an_add_left_that_nobody_takes_up_again_is_removed() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    machine.make_veth("web");
    machine.abort(attempt, "web");
    assert_eq!((machine.core.host.index_of(&host_ifname(&key("web"))).unwrap(), machine.used()), (None, 0));

    // Of a key the agent knows nothing of, as after its state directory was lost.
    machine.make_veth("lost");
    machine.del("lost");
    assert_eq!(machine.core.host.index_of(&host_ifname(&key("lost"))).unwrap(), None);
    assert!(machine.route_to(addresses[0]).is_none());
}

#[test]
fn the_end_of_an_interface_does_not_free_what_a_later_add_holds() {
    let mut machine = Machine::in_sync();
    machine.removes = false;
    let address = machine.add("web")[0];
    machine.del("web");
    let retired = vec![Retired { key: key("web"), index: machine.retired.pop_first().unwrap() }];
    machine.remove_veth("web");
    assert_eq!(machine.add("web")[0], address);
    machine.core.gone(retired, true, machine.now);
    assert!(machine.core.allocator.holder(address).is_some());
    assert!(machine.route_to(address).is_some());
}

#[test]
fn a_pod_deleted_just_before_the_agent_was_killed_is_gone_when_it_is_back() {
    let mut machine = Machine::in_sync();
    machine.removes = false;
    machine.add("web");
    machine.del("web");
    machine.kill();
    machine.sync();
    assert!(machine.core.attachments.is_empty());
    assert_eq!(machine.used(), 0);
}

#[test]
fn what_was_deleted_or_lost_while_no_agent_answered_is_freed() {
    let mut machine = Machine::in_sync();
    for container in ["noted", "lost", "kept"] {
        machine.add(container);
    }
    let socket = machine.directory.path().join("agent.sock");
    machine.remove_veth("noted");
    manx_cni::released::leave(&socket, &key("noted")).unwrap();
    machine.remove_veth("lost");
    machine.kill();
    machine.sync();
    let held: Vec<&str> = machine.core.attachments.keys().map(|key| key.container_id.as_str()).collect();
    assert_eq!(held, ["kept"]);
    assert_eq!(manx_cni::released::read(&socket).unwrap(), []);
    assert_eq!(machine.used(), 2, "one address of each family");
    assert_eq!(machine.fib.values().filter(|route| matches!(route, Route::Pod { .. })).count(), 2);
}

#[test]
fn a_note_from_before_does_not_end_the_attachment_that_came_after_it() {
    let mut machine = Machine::in_sync();
    let socket = machine.directory.path().join("agent.sock");
    manx_cni::released::leave(&socket, &key("web")).unwrap();
    let address = machine.add("web")[0];
    machine.pass(2);
    assert!(machine.route_to(address).is_some());
}

#[test]
fn an_interface_that_goes_without_a_del_is_collected() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    machine.remove_veth("web");
    machine.pass(90);
    assert!(machine.core.allocator.holder(address).is_some(), "missed once is not gone");
    machine.pass(60);
    assert!(machine.core.allocator.holder(address).is_none());
}

#[test]
fn bad_objects_are_answered_with_a_condition_by_the_first_node_alone() {
    let mut machine = Machine::in_sync();
    machine.update(Update::Pool(Box::new(Change::Apply(pool("bad", "10.245.0.1/16", 26)))));
    let bad = Bad::new("InvalidAddress", "not an address");
    machine.update(Update::Peer(Change::Apply(object::<Peer>("tor", Err(bad.clone())))));
    machine.update(Update::Bgp(Change::Apply(object::<BgpConfig>("other", Err(bad)))));
    machine.pass(1);
    let pool = machine.writes.iter().find_map(|write| match write {
        Write::Pool { name, verdicts, .. } if name == "bad" => verdicts.first(),
        _ => None,
    });
    let verdict = pool.unwrap();
    assert!(!verdict.holds && verdict.message.contains("did you mean 10.245.0.0/16"), "{verdict:?}");
    let said = |wanted: &str| {
        machine.writes.iter().any(|write| match write {
            Write::Peer { name, verdict, .. } | Write::Configuration { name, verdict, .. } => {
                name == wanted && !verdict.holds
            }
            _ => false,
        })
    };
    assert!(said("tor") && said("other"));

    machine.update(Update::Node(Change::Apply(node("node0"))));
    machine.writes.clear();
    machine.pass(2);
    assert!(machine.writes.iter().all(|write| matches!(write, Write::Block { .. } | Write::Node { .. })));
}

#[test]
fn what_a_node_says_of_itself_is_said_again_when_it_may_be_gone() {
    let mut machine = Machine::in_sync();
    machine.pass(2);
    let mut said_within = |seconds: u64, update: Option<Update>| {
        machine.writes.clear();
        update.into_iter().for_each(|update| machine.update(update));
        machine.pass(seconds);
        machine.writes.iter().filter(|write| matches!(write, Write::Node { .. })).count()
    };
    assert_eq!(said_within(60, None), 0);
    assert_eq!(said_within(60, Some(Update::Api(Err("connection refused".to_owned())))), 0);
    assert_eq!(said_within(60, Some(Update::Api(Ok(())))), 1, "the API may have come back empty");
    assert_eq!(said_within(600, None), 1, "somebody may have deleted it");
}

#[test]
fn who_holds_what_is_mirrored_until_the_api_shows_it() {
    let mut machine = Machine::in_sync();
    machine.list_blocks();
    machine.add("web");
    machine.pass(1);
    let mirrored: Vec<&Write> = machine
        .writes
        .iter()
        .filter(|write| matches!(write, Write::Block { status, .. } if status.used == 1))
        .collect();
    assert_eq!(mirrored.len(), 2, "one of each family");
    for write in mirrored {
        let Write::Block { name, status } = write else { continue };
        assert_eq!(status.allocations[0].pod, "web");
        block_on(machine.store.update_status(name, status)).unwrap();
    }
    machine.list_blocks();
    machine.writes.clear();
    machine.pass(3);
    assert!(!machine.writes.iter().any(|write| matches!(write, Write::Block { .. })));
}
