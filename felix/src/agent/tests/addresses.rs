//! Which addresses a pod gets, and which blocks a node has: choice, fixed addresses, parts, giving back.

use futures::executor::block_on;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manx_ipam::claim::{Claim, Parent};
use manx_ipam::crd::{IPAMBlock, IPPool};
use manx_ipam::store::Store;
use manx_ipam::{BlockCidr, Cidr};

use super::super::mirror::Write;
use super::machine::{Machine, namespace, object, pod, pool};
use crate::attach::Refusal;
use crate::dataplane::Route;
use crate::model::{Object, Request, Reservation};
use crate::watch::{Change, Update};

fn cidr(text: &str) -> BlockCidr {
    text.parse::<Cidr>().unwrap().try_into().unwrap()
}

fn own(machine: &Machine) -> Vec<String> {
    machine.core.allocator.blocks().map(|block| block.cidr().to_string()).collect()
}

/// A block of another node is in the API, and the watch shows it.
fn give(machine: &mut Machine, claim: &Claim) {
    block_on(machine.store.create_block(&IPAMBlock::from(claim))).unwrap();
    machine.see_block(&claim.cidr.object_name());
}

fn theirs(text: &str) -> Claim {
    Claim { cidr: cidr(text), pool: "v4".to_owned(), node: "node2".to_owned(), parent: None }
}

fn with(object: Object<IPPool>, change: impl FnOnce(&mut IPPool)) -> Object<IPPool> {
    let mut pool = object.spec.unwrap();
    change(&mut pool);
    Object { spec: Ok(pool), ..object }
}

fn see_pod(machine: &mut Machine, name: &str, annotations: &[(&str, &str)]) {
    let pod = object(&format!("default/{name}"), Ok(pod(annotations)));
    machine.update(Update::Pod(Change::Apply(pod)));
}

#[test]
fn a_pods_annotation_names_its_pool_and_the_block_is_claimed_when_it_asks() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("a", "10.1.0.0/24", 30), pool("b", "10.2.0.0/24", 30)]);
    see_pod(&mut machine, "web", &[("manx.io/ip-pools", "b")]);
    assert!(machine.add("web")[0].to_string().starts_with("10.2.0."));
    assert!(machine.add("other")[0].to_string().starts_with("10.1.0."));
    see_pod(&mut machine, "lost", &[("manx.io/ip-pools", "c")]);
    let (_, mut answer) = machine.allocate("lost");
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code, Refusal::NO_SUCH_POOL);
    assert!(refusal.message.starts_with("IPPool \"c\", which an annotation"), "{refusal}");
}

#[test]
fn a_namespaces_own_pool_serves_its_pods_and_no_others() {
    let mut machine = Machine::new();
    let selector = |pool: &mut IPPool| {
        let labels = [("team".to_owned(), "a".to_owned())].into();
        let selector = LabelSelector { match_labels: Some(labels), match_expressions: None };
        pool.spec.namespace_selector = Some(selector);
    };
    machine.read_these(vec![pool("all", "10.1.0.0/24", 30), with(pool("team", "10.2.0.0/24", 30), selector)]);
    assert!(machine.add("web")[0].to_string().starts_with("10.1.0."));
    assert_eq!(own(&machine).len(), 1, "nothing is claimed ahead of a pool for some namespaces");
    machine.update(Update::Namespace(Change::Apply(namespace("default", &[("team", "a")], &[]))));
    assert!(machine.add("own")[0].to_string().starts_with("10.2.0."));
}

#[test]
fn the_api_is_asked_of_a_pod_the_watch_has_not_shown_only_where_that_matters() {
    let mut machine = Machine::in_sync();
    machine.add("web");
    assert_eq!(machine.looked_up, 0, "one pool of a family, and nobody asks for anything");
    let pools = vec![pool("a", "10.1.0.0/24", 30), pool("b", "10.2.0.0/24", 30)];
    machine.update(Update::Pool(Box::new(Change::Replace(pools))));
    machine.unwatched.insert("default/late".to_owned(), pod(&[("manx.io/ip-pools", "b")]));
    assert!(machine.add("late")[0].to_string().starts_with("10.2.0."));
    assert_eq!(machine.looked_up, 1);
    see_pod(&mut machine, "seen", &[]);
    machine.add("seen");
    assert_eq!(machine.looked_up, 1, "the watch has shown it");
    machine.update(Update::Api(Err("connection refused".to_owned())));
    machine.add("away");
    assert_eq!(machine.looked_up, 1, "the API is away");
}

#[test]
fn a_fixed_address_comes_from_a_block_that_is_owned_or_can_be_claimed_whole() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.1.0.0/24", 30)]);
    see_pod(&mut machine, "fixed", &[("manx.io/ips", "10.1.0.201")]);
    assert_eq!(machine.add("fixed")[0].to_string(), "10.1.0.201");
    assert!(own(&machine).contains(&"10.1.0.200/30".to_owned()));

    give(&mut machine, &theirs("10.1.0.240/30"));
    for (address, words) in [
        ("10.1.0.241", "10.1.0.241 cannot be given: block 10.1.0.240/30 belongs to node node2"),
        ("10.9.0.1", "10.9.0.1 cannot be given: no IPPool that this pod may have addresses of holds it"),
    ] {
        see_pod(&mut machine, "other", &[("cni.projectcalico.org/ipAddrs", &format!("[\"{address}\"]"))]);
        let (_, mut answer) = machine.allocate("other");
        let refusal = answer.try_recv().unwrap().unwrap_err();
        assert_eq!((refusal.code, refusal.message.as_str()), (Refusal::NO_SUCH_ADDRESS, words));
    }
}

#[test]
fn what_is_reserved_is_given_to_who_asks_for_it_alone() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.1.0.0/30", 30)]);
    let reserved = Reservation(vec!["10.1.0.0/31".parse().unwrap()]);
    machine.update(Update::Reservation(Change::Apply(object("first", Ok(reserved)))));
    let given = [machine.add("a")[0], machine.add("b")[0]].map(|address| address.to_string());
    assert_eq!(given, ["10.1.0.2", "10.1.0.3"]);
    let (_, mut answer) = machine.allocate("c");
    machine.pass(11);
    assert!(answer.try_recv().unwrap().unwrap_err().message.contains("no free IPv4 address"));
    see_pod(&mut machine, "fixed", &[("manx.io/ips", "10.1.0.0")]);
    assert_eq!(machine.add("fixed")[0].to_string(), "10.1.0.0");
}

#[test]
fn an_address_rests_for_its_pools_cooldown() {
    let mut machine = Machine::new();
    let cooled = with(pool("v4", "10.1.0.0/31", 31), |pool| pool.spec.cooldown_seconds = 5);
    machine.read_these(vec![cooled]);
    machine.add("a");
    let address = machine.add("b")[0];
    machine.del("b");
    let (_, mut answer) = machine.allocate("c");
    machine.pass(4);
    assert!(answer.try_recv().is_err(), "it waits");
    machine.pass(1);
    assert_eq!(answer.try_recv().unwrap().unwrap().addresses, [address]);
}

#[test]
fn a_block_is_used_only_once_the_watch_shows_it_beside_all_others() {
    let mut machine = Machine::new();
    machine.watching = false;
    machine.read_these(vec![pool("v4", "10.1.0.0/24", 30)]);
    let (_, mut answer) = machine.allocate("web");
    let claimed = machine.store.blocks().remove(0);
    assert_eq!(own(&machine), Vec::<String>::new());
    assert!(machine.orders.is_empty() || machine.orders.last().unwrap().networks.is_empty());

    // The pool was made anew with larger blocks, and a node that saw that first was faster.
    let around = Cidr::around(claimed.spec.cidr.parse::<Cidr>().unwrap().address(), 26).unwrap();
    machine.watching = true;
    give(&mut machine, &theirs(&around.to_string()));
    machine.list_blocks();
    machine.pass(1);
    let names: Vec<String> = machine.store.blocks().iter().map(|block| block.spec.node.clone()).collect();
    assert!(!machine.store.blocks().iter().any(|block| block.spec.cidr == claimed.spec.cidr), "given up");
    machine.pass(3);
    let address = answer.try_recv().unwrap().unwrap().addresses[0];
    assert!(!around.contains(address), "{address} {names:?}");
}

#[test]
fn an_empty_block_that_is_not_needed_is_given_back_after_a_while_and_never_the_last() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.1.0.0/24", 30)]);
    for number in 0..6 {
        machine.add(&format!("pod{number}"));
    }
    let blocks = own(&machine);
    assert_eq!(blocks.len(), 2);
    for number in 0..6 {
        machine.del(&format!("pod{number}"));
    }
    machine.pass(299);
    assert_eq!(own(&machine), blocks);
    machine.pass(3);
    let left = own(&machine);
    assert_eq!(left.len(), 1);
    let stored: Vec<String> = machine.store.blocks().iter().map(|block| block.spec.cidr.clone()).collect();
    assert_eq!(stored, left);
    let announced = &machine.orders.last().unwrap().networks;
    assert_eq!(announced.iter().map(|network| network.prefix.to_string()).collect::<Vec<_>>(), left);
    machine.pass(1000);
    assert_eq!(own(&machine), left);

    let disabled = with(pool("v4", "10.1.0.0/24", 30), |pool| pool.spec.disabled = true);
    machine.update(Update::Pool(Box::new(Change::Apply(disabled))));
    machine.pass(310);
    assert!(machine.store.blocks().is_empty(), "a pool that hands nothing out keeps no empty block");
}

fn request(node: &str, block: &str, uid: &str) -> Update {
    let block = cidr(block);
    let request = Request { node: node.to_owned(), block, uid: uid.to_owned(), refused: None };
    let name = super::super::carve::request_name(node, block);
    Update::Request(Change::Apply(object(&name, Ok(request))))
}

#[test]
fn the_owner_of_a_block_gives_another_node_a_part_it_has_stopped_handing_out() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.1.0.0/29", 29)]);
    machine.add("web");
    assert_eq!(own(&machine), ["10.1.0.0/29"]);
    machine.update(request("node2", "10.1.0.0/29", "r1"));
    let part = machine.store.blocks().into_iter().find(|block| block.spec.node == "node2").unwrap();
    let part = Claim::try_from(&part).unwrap();
    assert_eq!(part.cidr.to_string(), "10.1.0.6/31", "half of what is free, rounded down to a power of two");
    let parent = machine.store.blocks()[0].metadata.uid.clone().unwrap();
    assert_eq!(part.parent, Some(Parent { cidr: cidr("10.1.0.0/29"), uid: parent }));

    machine.kill();
    machine.update(Update::Api(Err("connection refused".to_owned())));
    let given: Vec<_> = (0..5).map(|number| machine.add(&format!("pod{number}"))[0]).collect();
    assert!(!given.iter().any(|address| part.cidr.contains(*address)), "{given:?}");
    machine.read_these(vec![pool("v4", "10.1.0.0/29", 29)]);
    let (_, mut answer) = machine.allocate("late");
    assert!(answer.try_recv().is_err());

    machine.update(Update::Block(Change::Delete(part.cidr.object_name())));
    assert!(
        part.cidr.contains(answer.try_recv().unwrap().unwrap().addresses[0]),
        "given back, it is handed out"
    );
}

#[test]
fn a_request_that_cannot_be_granted_is_refused_in_words() {
    let mut machine = Machine::new();
    machine.read_these(vec![pool("v4", "10.1.0.0/31", 31)]);
    let owned = own(&machine).remove(0);
    machine.update(request("node9", &owned, "r1"));
    machine.pass(1);
    let refusals = |machine: &Machine| -> Vec<String> {
        let refused = machine.writes.iter().filter_map(|write| match write {
            Write::Refuse { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        refused.collect()
    };
    assert_eq!(refusals(&machine), ["there is no Node \"node9\""]);
    for name in ["a", "b"] {
        machine.add(name);
    }
    machine.update(request("node2", &owned, "r2"));
    machine.pass(1);
    assert!(refusals(&machine).contains(&"no address of it is free".to_owned()));
}

#[test]
fn a_node_without_an_address_asks_the_owner_with_most_to_give_and_then_the_next() {
    let mut machine = Machine::new();
    for taken in ["10.1.0.0/30", "10.1.0.4/30"] {
        block_on(machine.store.create_block(&IPAMBlock::from(&theirs(taken)))).unwrap();
    }
    machine.read_these(vec![pool("v4", "10.1.0.0/29", 30)]);
    let (_, mut answer) = machine.allocate("web");
    machine.pass(2);
    let asked = |machine: &Machine| -> Vec<String> {
        let asked = machine.writes.iter().filter_map(|write| match write {
            Write::Ask { block, .. } => Some(block.to_string()),
            _ => None,
        });
        asked.collect()
    };
    assert_eq!(asked(&machine).first().map(String::as_str), Some("10.1.0.0/30"));
    let name = super::super::carve::request_name("node1", cidr("10.1.0.0/30"));
    let refused = Some("no".to_owned());
    let said =
        Request { node: "node1".to_owned(), block: cidr("10.1.0.0/30"), uid: "r1".to_owned(), refused };
    machine.update(Update::Request(Change::Apply(object(&name, Ok(said)))));
    machine.pass(2);
    assert!(machine.writes.contains(&Write::Asked { name }));
    assert_eq!(asked(&machine).last().map(String::as_str), Some("10.1.0.4/30"));

    let uid = |machine: &Machine| machine.store.blocks()[1].metadata.uid.clone().unwrap();
    let parent = Some(Parent { cidr: cidr("10.1.0.4/30"), uid: uid(&machine) });
    let part = Claim { node: "node1".to_owned(), parent, ..theirs("10.1.0.6/31") };
    give(&mut machine, &part);
    assert_eq!(answer.try_recv().unwrap().unwrap().addresses[0].to_string(), "10.1.0.6");
    assert_eq!(machine.fib.get(&"10.1.0.6/31".parse().unwrap()), Some(&Route::Blackhole));

    // A request that was granted is taken back before the next is made.
    let name = super::super::carve::request_name("node1", cidr("10.1.0.4/30"));
    let said =
        Request { node: "node1".to_owned(), block: cidr("10.1.0.4/30"), uid: "r2".to_owned(), refused: None };
    machine.update(Update::Request(Change::Apply(object(&name, Ok(said)))));
    machine.allocate("second").1.try_recv().unwrap().unwrap();
    let (_, _waits) = machine.allocate("third");
    machine.writes.clear();
    machine.pass(2);
    assert_eq!(asked(&machine), <[&str; 0]>::default());
    assert!(machine.writes.contains(&Write::Asked { name: name.clone() }));
    machine.update(Update::Request(Change::Delete(name)));
    machine.pass(2);
    assert_eq!(asked(&machine).last().map(String::as_str), Some("10.1.0.4/30"));

    let orphan = Parent { cidr: cidr("10.1.0.0/30"), uid: "another".to_owned() };
    give(&mut machine, &Claim { parent: Some(orphan), ..Claim { cidr: cidr("10.1.0.2/31"), ..part } });
    assert_eq!(own(&machine), ["10.1.0.6/31"], "its parent is another block by now");
}
