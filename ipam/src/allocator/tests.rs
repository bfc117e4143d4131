use proptest::prelude::*;

use super::*;
use crate::cidr::Cidr;

fn owner(number: usize) -> Owner {
    Owner {
        key: OwnerKey { container_id: format!("container-{number}"), ifname: "eth0".to_owned() },
        namespace: "default".to_owned(),
        pod: format!("pod-{number}"),
        uid: format!("uid-{number}"),
    }
}

fn pool(name: &str, cidr: &str, block_length: u8) -> Pool {
    Pool::new(name, cidr.parse().unwrap(), block_length)
}

fn disabled(pool: Pool) -> Pool {
    Pool { disabled: true, ..pool }
}

fn block(text: &str) -> BlockCidr {
    text.parse::<Cidr>().unwrap().try_into().unwrap()
}

fn ips<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
    texts.map(|text| text.parse().unwrap())
}

fn dual() -> [Pool; 2] {
    [pool("four", "10.0.0.0/24", 30), pool("six", "fd00::/64", 126)]
}

#[test]
fn a_pod_has_an_address_of_each_family_and_keeps_it_when_asked_again() {
    let mut node = Allocator::default();
    assert!(node.add_block(block("10.0.0.0/30"), "four") && node.add_block(block("fd00::/126"), "six"));
    assert_eq!(node.assign(&owner(1), &dual(), &[]).unwrap(), ips(["10.0.0.0", "fd00::"]));
    assert_eq!(node.assign(&owner(2), &dual(), &[]).unwrap(), ips(["10.0.0.1", "fd00::1"]));
    assert_eq!(node.assign(&owner(1), &[], &[]).unwrap(), ips(["10.0.0.0", "fd00::"]));
    assert_eq!(node.release(&owner(1).key), ips(["10.0.0.0", "fd00::"]));
    assert_eq!(node.release(&owner(1).key), ips([]));
}

#[test]
fn a_pod_that_cannot_have_both_families_has_none() {
    let mut node = Allocator::default();
    node.add_block(block("10.0.0.0/30"), "four");
    let before = node.clone();
    let error = node.assign(&owner(1), &dual(), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free IPv6 address on this node: IPPool \"six\" (fd00::/64, 18446744073709551616 addresses in blocks of 4): \
         this node owns no block of it yet"
    );
    assert_eq!(node, before);
}

#[test]
fn exhaustion_names_the_pools_their_size_and_use() {
    let mut node = Allocator::default();
    let pools = [pool("a", "10.0.0.0/24", 31), pool("b", "10.1.0.0/24", 30)];
    for cidr in ["10.0.0.0/31", "10.0.0.2/31"] {
        node.add_block(block(cidr), "a");
    }
    for number in 0..4 {
        node.assign(&owner(number), &pools, &[]).unwrap();
    }
    assert_eq!(
        node.assign(&owner(4), &pools, &[]).unwrap_err().to_string(),
        "no free IPv4 address on this node: IPPool \"a\" (10.0.0.0/24, 256 addresses in blocks of 2): 4 of 4 addresses \
         of this node's 2 blocks are held; IPPool \"b\" (10.1.0.0/24, 256 addresses in blocks of 4): this node owns no \
         block of it yet"
    );
}

#[test]
fn a_disabled_pool_gives_nothing_new_and_takes_nothing_away() {
    let mut node = Allocator::default();
    let pools = [pool("four", "10.0.0.0/24", 30)];
    node.add_block(block("10.0.0.0/30"), "four");
    node.assign(&owner(1), &pools, &[]).unwrap();
    let pools = pools.map(disabled);
    assert_eq!(node.assign(&owner(2), &pools, &[]), Err(AssignError::NoPool));
    assert_eq!(node.assign(&owner(1), &pools, &[]).unwrap(), ips(["10.0.0.0"]));
    assert_eq!(node.wants_blocks(&pools), []);
}

#[test]
fn a_node_claims_its_second_block_when_less_than_half_of_the_first_is_free() {
    let pools = [pool("four", "10.0.0.0/24", 30)];
    let wanted = vec![ClaimWanted { family: Family::Ipv4, pools: pools.to_vec() }];
    let mut node = Allocator::default();
    assert_eq!(node.wants_blocks(&pools), wanted);
    node.add_block(block("10.0.0.0/30"), "four");
    for number in 0..2 {
        assert_eq!(node.wants_blocks(&pools), []);
        node.assign(&owner(number), &pools, &[]).unwrap();
    }
    assert_eq!(node.wants_blocks(&pools), []);
    node.assign(&owner(2), &pools, &[]).unwrap();
    assert_eq!(node.wants_blocks(&pools), wanted);
    node.add_block(block("10.0.0.4/30"), "four");
    assert_eq!(node.wants_blocks(&pools), []);
}

#[test]
fn a_block_of_one_address_is_claimed_when_none_is_free() {
    let pools = [pool("four", "10.0.0.0/24", 32)];
    let mut node = Allocator::default();
    node.add_block(block("10.0.0.0/32"), "four");
    assert_eq!(node.wants_blocks(&pools), []);
    node.assign(&owner(1), &pools, &[]).unwrap();
    assert_eq!(node.wants_blocks(&pools).len(), 1);
}

#[test]
fn what_is_free_in_any_pool_of_a_family_counts() {
    let pools = [pool("a", "10.0.0.0/24", 30), pool("b", "10.1.0.0/24", 30), pool("six", "fd00::/64", 126)];
    let mut node = Allocator::default();
    node.add_block(block("10.1.0.0/30"), "b");
    node.add_block(block("fd00::/126"), "six");
    assert_eq!(node.wants_blocks(&pools), []);
    assert_eq!(node.assign(&owner(1), &pools, &[]).unwrap(), ips(["10.1.0.0", "fd00::"]));
}

#[test]
fn holders_and_blocks_may_be_told_in_any_order() {
    let held = ips(["10.0.0.2", "fd00::1"]);
    let mut blocks_first = Allocator::default();
    blocks_first.add_block(block("10.0.0.0/30"), "four");
    blocks_first.add_block(block("fd00::/126"), "six");
    assert_eq!(blocks_first.restore(&owner(1), held), []);

    let mut holders_first = Allocator::default();
    assert_eq!(holders_first.restore(&owner(1), held), []);
    assert_eq!(holders_first.strays().count(), 2);
    holders_first.add_block(block("10.0.0.0/30"), "four");
    holders_first.add_block(block("fd00::/126"), "six");
    assert_eq!(holders_first, blocks_first);
    assert_eq!(holders_first.strays().count(), 0);
}

#[test]
fn an_address_restored_to_two_stays_with_the_first() {
    for with_block in [false, true] {
        let mut node = Allocator::default();
        if with_block {
            node.add_block(block("10.0.0.0/30"), "four");
        }
        let held = ips(["10.0.0.2"]);
        assert_eq!(node.restore(&owner(1), held), []);
        assert_eq!(node.restore(&owner(1), held), [], "the same again");
        let conflicts = node.restore(&owner(2), held);
        assert_eq!(
            conflicts[0].to_string(),
            "10.0.0.2 cannot be restored to pod default/pod-2 (interface eth0 of container container-2): pod \
             default/pod-1 (interface eth0 of container container-1) holds it"
        );
        assert_eq!(node.owners().count(), 1);
    }
}

#[test]
fn a_block_that_goes_leaves_its_addresses_with_their_pods() {
    let mut node = Allocator::default();
    let pools = [pool("four", "10.0.0.0/24", 30)];
    node.add_block(block("10.0.0.0/30"), "four");
    let addresses = node.assign(&owner(1), &pools, &[]).unwrap();
    let gone = node.remove_block(block("10.0.0.0/30")).unwrap();
    assert_eq!(gone.used(), 1);
    assert_eq!(node.holder(addresses[0]), Some(&owner(1)));
    node.add_block(block("10.0.0.0/30"), "four");
    assert_ne!(node.assign(&owner(2), &pools, &[]).unwrap(), addresses);
    assert_eq!(node.release(&owner(1).key), addresses);
    assert_eq!(node.block(block("10.0.0.0/30")).unwrap().used(), 1);
}

#[test]
fn a_block_across_an_owned_one_is_not_taken() {
    let mut node = Allocator::default();
    assert!(node.add_block(block("10.0.0.0/26"), "four"));
    assert!(!node.add_block(block("10.0.0.0/26"), "four"));
    assert!(!node.add_block(block("10.0.0.32/27"), "four"));
    assert_eq!(node.blocks().count(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Assign(usize),
    Release(usize),
    /// Claims what is wanted.
    Claim,
    /// A block's object is deleted under the node.
    Lose(prop::sample::Index),
    /// Forgets all and is told again: attachments first, or blocks first.
    Restart {
        blocks_first: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_usize..30).prop_map(Step::Assign),
        5 => (0_usize..30).prop_map(Step::Release),
        4 => Just(Step::Claim),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        1 => any::<bool>().prop_map(|blocks_first| Step::Restart { blocks_first }),
    ];
    prop::collection::vec(step, 0..150)
}

fn restarted(node: &Allocator, blocks_first: bool) -> Allocator {
    let mut again = Allocator::default();
    let add_blocks = |again: &mut Allocator| {
        for block in node.blocks() {
            assert!(again.add_block(block.cidr(), block.pool()));
        }
    };
    if blocks_first {
        add_blocks(&mut again);
    }
    for (owner, addresses) in node.owners() {
        assert_eq!(again.restore(owner, addresses.iter().copied()), []);
    }
    if !blocks_first {
        add_blocks(&mut again);
    }
    again
}

proptest! {
    /// Against a map of owners: no address twice, both families or none, the same after a restart.
    #[test]
    fn an_allocator_is_a_map_of_owners_to_addresses(steps in steps()) {
        let pools = [pool("four", "10.0.0.0/27", 30), pool("six", "fd00::/123", 126)];
        let mut node = Allocator::default();
        let mut model: BTreeMap<OwnerKey, Vec<IpAddr>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Assign(number) => {
                    let owner = owner(number);
                    match node.assign(&owner, &pools, &[]) {
                        Ok(addresses) => {
                            let families: Vec<Family> = addresses.iter().copied().map(Family::of).collect();
                            prop_assert_eq!(families, Family::ALL);
                            let known = model.entry(owner.key).or_insert_with(|| addresses.clone());
                            prop_assert_eq!(known, &addresses);
                        }
                        Err(_) => prop_assert!(!model.contains_key(&owner.key)),
                    }
                }
                Step::Release(number) => {
                    let key = owner(number).key;
                    prop_assert_eq!(node.release(&key), model.remove(&key).unwrap_or_default());
                }
                Step::Claim => for wanted in node.wants_blocks(&pools) {
                    let owned: Vec<BlockCidr> = node.blocks().map(Block::cidr).collect();
                    let pool = &wanted.pools[0];
                    if let Some(next) = pool.candidates("node").find(|next| !owned.contains(next)) {
                        prop_assert!(node.add_block(next, &pool.name));
                    }
                },
                Step::Lose(index) => {
                    let owned: Vec<BlockCidr> = node.blocks().map(Block::cidr).collect();
                    if !owned.is_empty() {
                        prop_assert!(node.remove_block(*index.get(&owned)).is_some());
                    }
                }
                Step::Restart { blocks_first } => node = restarted(&node, blocks_first),
            }
            let held: BTreeMap<OwnerKey, Vec<IpAddr>> = node
                .owners()
                .map(|(owner, addresses)| (owner.key.clone(), addresses.iter().copied().collect()))
                .collect();
            prop_assert_eq!(&held, &model);
            let all: Vec<IpAddr> = held.values().flatten().copied().collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address twice");
            let in_blocks: usize = node.blocks().map(Block::used).sum();
            prop_assert_eq!(in_blocks + node.strays().count(), all.len());
        }
    }
}

#[test]
fn an_address_asked_for_is_given_and_the_other_family_as_usual() {
    let mut node = Allocator::default();
    assert!(node.add_block(block("10.0.0.0/30"), "four") && node.add_block(block("fd00::/126"), "six"));
    let given = node.assign(&owner(1), &dual(), &ips(["10.0.0.2"])).unwrap();
    assert_eq!(given, ips(["10.0.0.2", "fd00::"]));
    assert_eq!(node.assign(&owner(1), &dual(), &ips(["10.0.0.2"])).unwrap(), given, "asked again");
    let before = node.clone();
    assert_eq!(
        node.assign(&owner(2), &dual(), &ips(["10.0.0.2", "fd00::2"])).unwrap_err().to_string(),
        "10.0.0.2 cannot be given: pod default/pod-1 (interface eth0 of container container-1) holds it"
    );
    assert_eq!(
        node.assign(&owner(2), &dual(), &ips(["10.0.0.4"])).unwrap_err().to_string(),
        "10.0.0.4 cannot be given: it is in no block that this node owns of a pool it may use; ask for one of this \
         node's blocks, or for none"
    );
    assert_eq!(node, before);
    let other = node.assign(&owner(1), &dual(), &ips(["10.0.0.3"])).unwrap();
    assert_eq!(other[0], ips(["10.0.0.3"])[0], "what it held and no longer asks for is free");
    assert_eq!(node.holder(ips(["10.0.0.2"])[0]), None);
}

#[test]
fn whether_a_pod_could_have_addresses_is_known_without_one() {
    let mut node = Allocator::default();
    assert_eq!(node.can_assign(&[]), Err(AssignError::NoPool));
    assert!(matches!(node.can_assign(&dual()), Err(AssignError::Exhausted { family: Family::Ipv4, .. })));
    assert!(node.add_block(block("10.0.0.0/30"), "four") && node.add_block(block("fd00::/126"), "six"));
    assert_eq!(node.can_assign(&dual()), Ok(()));
    for number in 0..4 {
        node.assign(&owner(number), &dual(), &[]).unwrap();
    }
    assert_eq!(node.can_assign(&dual()).unwrap_err(), node.assign(&owner(4), &dual(), &[]).unwrap_err());
    node.release(&owner(2).key);
    assert_eq!(node.can_assign(&dual()), Ok(()));
}

#[test]
fn a_pool_for_some_namespaces_is_claimed_ahead_only_once_it_is_used() {
    let selector = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::default());
    let team = Pool { namespace_selector: selector, ..pool("team", "10.1.0.0/24", 30) };
    let pools = [pool("all", "10.0.0.0/24", 30), team.clone()];
    let mut node = Allocator::default();
    node.add_block(block("10.0.0.0/30"), "all");
    assert_eq!(node.wants_blocks(&pools), []);
    node.add_block(block("10.1.0.0/30"), "team");
    for number in 0..3 {
        assert_eq!(node.wants_blocks(&pools), []);
        node.assign(&owner(number), std::slice::from_ref(&team), &[]).unwrap();
    }
    assert_eq!(node.wants_blocks(&pools), [ClaimWanted { family: Family::Ipv4, pools: vec![team] }]);
}

#[test]
fn an_empty_block_is_not_needed_beside_a_whole_free_one_and_never_the_last_goes() {
    let pools = [pool("four", "10.0.0.0/24", 30)];
    let mut node = Allocator::default();
    for cidr in ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30"] {
        node.add_block(block(cidr), "four");
    }
    assert_eq!(node.surplus(&pools), [block("10.0.0.0/30"), block("10.0.0.4/30")]);
    let held = node.assign(&owner(1), &pools, &[]).unwrap();
    assert!(block("10.0.0.0/30").contains(held[0]));
    assert_eq!(node.surplus(&pools), [block("10.0.0.4/30")], "three of four would not be enough");
    assert_eq!(node.surplus(&pools.map(disabled)).len(), 2, "all that are empty");
    assert!(node.carve(block("10.0.0.4/30"), block("10.0.0.4/31")));
    assert_eq!(node.surplus(&[]), [block("10.0.0.8/30")], "a part of the other belongs to another node");
}

#[test]
fn a_freed_address_rests_for_its_pools_cooldown() {
    let pools = [Pool { cooldown: Duration::from_secs(30), ..pool("four", "10.0.0.0/24", 31) }];
    let mut node = Allocator::default();
    node.cool(&pools);
    node.add_block(block("10.0.0.0/31"), "four");
    let now = Instant::now();
    node.advance(now);
    for number in 0..2 {
        node.assign(&owner(number), &pools, &[]).unwrap();
    }
    let freed = node.release(&owner(1).key);
    let refused = node.assign(&owner(2), &pools, &[]).unwrap_err().to_string();
    assert!(
        refused.ends_with("1 of 2 addresses of this node's block are held, 1 rest for up to 30 s"),
        "{refused}"
    );
    assert!(!node.advance(now + Duration::from_secs(29)));
    assert!(node.advance(now + Duration::from_secs(30)));
    assert_eq!(node.assign(&owner(2), &pools, &[]).unwrap(), freed);
}

#[test]
fn a_pod_gets_a_reserved_address_only_by_name() {
    let pools = [pool("four", "10.0.0.0/24", 31)];
    let mut node = Allocator::default();
    node.reserve(vec!["10.0.0.0/32".parse().unwrap()]);
    node.add_block(block("10.0.0.0/31"), "four");
    assert_eq!(node.assign(&owner(1), &pools, &[]).unwrap(), ips(["10.0.0.1"]));
    assert!(node.assign(&owner(2), &pools, &[]).is_err());
    assert_eq!(node.assign(&owner(2), &pools, &ips(["10.0.0.0"])).unwrap(), ips(["10.0.0.0"]));
}
