//! Several nodes claim blocks of one small pool through a store that fails: no block has two owners, none is lost,
//! and a node hears "full" only when the pool is.

#![allow(clippy::unwrap_used)] // helpers of tests, too, fail by panic

use std::collections::{BTreeMap, BTreeSet};

use manx_ipam::claim::{Claim, ClaimError, Claimed, Taken, claim};
use manx_ipam::store::memory::{Fault, MemoryStore};
use manx_ipam::store::{Store, StoreError};
use manx_ipam::{Allocator, BlockCidr, Owner, OwnerKey, Pool};
use proptest::prelude::*;

/// Sixteen blocks of four addresses.
fn pool() -> Pool {
    Pool::new("small", "10.0.0.0/26".parse().unwrap(), 30)
}

const BLOCKS: usize = 16;
const NODES: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// These nodes (by bit) claim at the same time, each from what it knows.
    Claim(u8),
    /// A node learns of all blocks, as by its watch.
    Learn(usize),
    /// A node forgets all.
    Crash(usize),
    /// A node gives its first block back.
    Return(usize),
    Fault(Fault),
    Outage(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        Just(Fault::LostRequest),
        Just(Fault::LostReply),
        (0..NODES).prop_map(|node| Fault::Rival(name(node))),
    ];
    let step = prop_oneof![
        8 => any::<u8>().prop_map(Step::Claim),
        3 => (0..NODES).prop_map(Step::Learn),
        2 => (0..NODES).prop_map(Step::Crash),
        1 => (0..NODES).prop_map(Step::Return),
        3 => fault.prop_map(Step::Fault),
        1 => any::<bool>().prop_map(Step::Outage),
    ];
    prop::collection::vec(step, 0..60)
}

fn name(node: usize) -> String {
    format!("node{node}")
}

/// What one node believes.
#[derive(Default)]
struct Node {
    owned: BTreeSet<BlockCidr>,
    /// Owned by anyone, as far as it knows.
    seen: BTreeSet<BlockCidr>,
}

fn claims(store: &MemoryStore) -> Vec<Claim> {
    store.blocks().iter().map(|object| Claim::try_from(object).unwrap()).collect()
}

impl Node {
    fn learn(&mut self, store: &MemoryStore, node: usize) {
        let claims = claims(store);
        self.seen = claims.iter().map(|claim| claim.cidr).collect();
        self.owned = claims.iter().filter(|claim| claim.node == name(node)).map(|claim| claim.cidr).collect();
    }

    async fn claim(&mut self, store: &MemoryStore, node: usize) {
        let taken: Taken = self.seen.iter().chain(&self.owned).map(|block| block.cidr()).collect();
        match claim(store, &[pool()], &name(node), taken).await {
            Ok(Claimed { claim: claimed, .. }) => {
                assert_eq!(claimed.node, name(node));
                assert!(self.owned.insert(claimed.cidr), "{} was claimed twice", claimed.cidr);
            }
            // What a node has seen may have been given back since: then it is told "full" by its own old knowledge.
            Err(ClaimError::Full(_)) => {
                let stored: BTreeSet<BlockCidr> = claims(store).iter().map(|claim| claim.cidr).collect();
                let known = stored.union(&self.seen).count();
                assert_eq!(known, BLOCKS, "told full with {known} of {BLOCKS} blocks taken");
            }
            Err(ClaimError::Store { source: StoreError::Unavailable(_), .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn run(steps: Vec<Step>) {
    let store = MemoryStore::default();
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::default()).collect();
    for step in steps {
        match step {
            Step::Claim(who) => {
                let claiming = nodes.iter_mut().enumerate().filter(|(node, _)| who & (1 << node) != 0);
                futures::future::join_all(claiming.map(|(node, state)| state.claim(&store, node))).await;
            }
            Step::Learn(node) => nodes[node].learn(&store, node),
            Step::Crash(node) => nodes[node] = Node::default(),
            Step::Return(node) => {
                let first = nodes[node].owned.first().map(|block| block.object_name());
                let object = store.blocks().into_iter().find(|object| object.metadata.name == first);
                if let Some(object) = object
                    && store
                        .delete_block(
                            object.metadata.name.as_deref().unwrap(),
                            object.metadata.uid.as_deref().unwrap(),
                            None,
                        )
                        .await
                        .is_ok()
                {
                    nodes[node].owned.pop_first();
                }
            }
            Step::Fault(fault) => store.inject(fault),
            Step::Outage(outage) => store.set_outage(outage),
        }
        let owners: BTreeMap<BlockCidr, String> =
            claims(&store).into_iter().map(|it| (it.cidr, it.node)).collect();
        for (node, state) in nodes.iter().enumerate() {
            for block in &state.owned {
                assert_eq!(owners.get(block), Some(&name(node)), "{block} is not its own");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_block_has_two_owners_whatever_fails(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}

/// All nodes at once until the pool is empty: every block and every address has exactly one owner.
#[tokio::test]
async fn nodes_that_race_for_the_last_address_share_the_pool_without_a_gap() {
    let store = MemoryStore::default();
    let drained = futures::future::join_all((0..NODES).map(async |node| {
        let mut allocator = Allocator::default();
        let mut addresses = Vec::new();
        loop {
            let key =
                OwnerKey { container_id: format!("{node}-{}", addresses.len()), ifname: "eth0".to_owned() };
            let owner = Owner { key, namespace: String::new(), pod: String::new(), uid: String::new() };
            if let Ok(assigned) = allocator.assign(&owner, &[pool()], &[]) {
                addresses.extend(assigned);
                continue;
            }
            let taken: Taken = allocator.blocks().map(|block| block.cidr().cidr()).collect();
            match claim(&store, &[pool()], &name(node), taken).await {
                Ok(Claimed { claim, .. }) => assert!(allocator.add_block(claim.cidr, &claim.pool)),
                Err(ClaimError::Full(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        addresses
    }))
    .await;
    let all: Vec<_> = drained.into_iter().flatten().collect();
    assert_eq!(all.len(), BLOCKS * 4, "exhausted only when the pool is");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address twice");
}
