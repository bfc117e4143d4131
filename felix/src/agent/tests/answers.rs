//! CHECK, GC and STATUS, and addresses asked for.

use manx_cni::released;
use manx_cni::spec::code;

use super::machine::{Machine, key, pool};
use crate::dataplane::{RouteError, Status};
use crate::watch::{Change, Update};

fn failing(destination: &str) -> Status {
    let failure = RouteError { destination: destination.parse().unwrap(), reason: "no such device".into() };
    Status { failing: 1, failures: vec![failure], ..Status::default() }
}

#[test]
fn a_node_is_ready_for_pods_when_it_has_read_all_and_has_addresses() {
    let mut machine = Machine::new();
    let refusal = machine.can_attach().unwrap_err();
    assert_eq!(refusal.code, code::NOT_AVAILABLE);
    assert!(refusal.details.contains("still reading"), "{refusal}");
    machine.read_all();
    assert_eq!(machine.can_attach(), Ok(()));
}

#[test]
fn a_node_without_a_pool_is_not_ready_and_says_so() {
    let mut machine = Machine::in_sync();
    machine.update(Update::Pool(Box::new(Change::Replace(Vec::new()))));
    let refusal = machine.can_attach().unwrap_err();
    assert_eq!(refusal.code, code::NOT_AVAILABLE);
    assert!(refusal.details.starts_with("no IPPool hands out addresses on this node"), "{refusal}");
}

#[test]
fn an_exhausted_pool_is_named_with_its_size_and_use_and_ready_as_soon_as_an_address_is_free() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.244.0.0/29", 30)]);
    for number in 0..8 {
        machine.add(&format!("pod{number}"));
    }
    machine.pass(1);
    let refusal = machine.can_attach().unwrap_err();
    assert_eq!(refusal.code, code::NOT_AVAILABLE);
    assert_eq!(
        refusal.details,
        "no free IPv4 address on this node: IPPool \"v4\" (10.244.0.0/29, 8 addresses in blocks of 4): 8 of 8 \
         addresses of this node's 2 blocks are held; every block has an owner: IPPool \"v4\" (10.244.0.0/29) is 2 \
         blocks of 4 addresses"
    );
    machine.del("pod3");
    assert_eq!(machine.can_attach(), Ok(()));
}

#[test]
fn a_node_whose_kernel_refuses_its_own_routes_is_limited_and_one_that_was_told_nonsense_is_not() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    machine.core.see_kernel(failing("198.51.100.0/24"));
    assert_eq!(machine.can_attach(), Ok(()), "a neighbour's route");
    machine.core.see_kernel(failing(&format!("{address}/32")));
    let refusal = machine.can_attach().unwrap_err();
    assert_eq!(refusal.code, code::LIMITED);
    assert!(refusal.details.ends_with(&format!("{address}/32: no such device")), "{refusal}");
    machine.core.see_kernel(Status::default());
    assert_eq!(machine.can_attach(), Ok(()));
    machine.core.lose_kernel();
    assert_eq!(machine.can_attach().unwrap_err().code, code::LIMITED);
}

#[test]
fn a_check_is_told_of_complete_attachments_only() {
    let mut machine = Machine::in_sync();
    assert_eq!(machine.inspect("web"), None);
    let (attempt, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    assert_eq!(machine.inspect("web"), None);
    let index = machine.make_veth("web");
    machine.ready(attempt, "web", index).unwrap();
    let held = machine.inspect("web").unwrap();
    assert_eq!((held.addresses, held.host_ifindex), (addresses, index));
    machine.del("web");
    assert_eq!(machine.inspect("web"), None);
}

#[test]
fn garbage_is_what_this_network_has_and_the_runtime_does_not_name() {
    let mut machine = Machine::in_sync();
    for container in ["a", "b", "c"] {
        machine.add(container);
    }
    assert_eq!(machine.stale("manx", &["a", "unknown"]), [key("b"), key("c")]);
    assert_eq!(machine.stale("other", &[]), []);
    assert_eq!(machine.stale("", &[]), []);
    machine.kill();
    assert_eq!(machine.stale("manx", &[]), [key("a"), key("b"), key("c")], "also after a restart");
}

#[test]
fn an_add_on_its_way_is_no_garbage_and_one_that_died_is() {
    let mut machine = Machine::in_sync();
    let (attempt, _answer) = machine.allocate("slow");
    machine.make_veth("slow");
    assert_eq!(machine.stale("manx", &[]), []);
    machine.removes = false;
    machine.abort(attempt, "slow");
    assert_eq!(machine.stale("manx", &[]), [key("slow")], "its interface still stands");
    machine.removes = true;
    machine.del("slow");
    assert_eq!((machine.stale("manx", &[]), machine.used()), (Vec::new(), 0));
}

#[test]
fn what_a_note_says_is_gone_is_no_garbage() {
    let mut machine = Machine::in_sync();
    machine.add("web");
    machine.remove_veth("web");
    released::leave(&machine.directory.path().join("agent.sock"), &key("web")).unwrap();
    assert_eq!((machine.stale("manx", &[]), machine.used()), (Vec::new(), 0));
}

#[test]
fn an_add_after_one_that_died_is_told_to_replace_what_that_left() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    assert!(!answer.try_recv().unwrap().unwrap().replaces);
    machine.make_veth("web");
    machine.removes = false;
    machine.abort(attempt, "web");
    let (_, mut answer) = machine.allocate("web");
    assert!(answer.try_recv().unwrap().unwrap().replaces);
}

#[test]
fn an_address_asked_for_is_given_if_it_is_this_nodes() {
    let mut machine = Machine::in_sync();
    let first = machine.add("first")[0];
    let free = machine.core.allocator.blocks().next().unwrap().cidr().nth(3).unwrap();
    let (_, mut answer) = machine.allocate_these("web", &[free]);
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    assert_eq!((addresses[0], addresses.len()), (free, 2));

    let (_, mut held) = machine.allocate_these("late", &[first]);
    assert!(held.try_recv().is_err(), "its pod may be on its way out");
    machine.del("first");
    assert_eq!(held.try_recv().unwrap().unwrap().addresses[0], first);

    let (_, mut foreign) = machine.allocate_these("lost", &["203.0.113.1".parse().unwrap()]);
    let refusal = foreign.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code, crate::attach::Refusal::NO_SUCH_ADDRESS);
    assert!(refusal.message.starts_with("203.0.113.1 cannot be given: no IPPool that"), "{refusal}");
}
