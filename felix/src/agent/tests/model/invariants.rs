//! What holds at any time, and once all is quiet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use manx_cni::protocol::host_ifname;
use manx_ipam::BlockCidr;
use manx_ipam::claim::Claim;

use super::super::machine::key;
use super::World;
use crate::dataplane::Route;

impl World {
    /// What must hold of one node at any time.
    pub(super) fn check(&self, who: usize) {
        let machine = &self.machines[who];
        let Some(core) = &machine.core else { return };
        for (container, addresses) in &machine.running {
            for address in addresses {
                let holder = core.allocator.holder(*address);
                let kept = holder.is_some_and(|holder| {
                    holder.key.container_id == *container || holder.key.ifname == host_ifname(&key(container))
                });
                assert!(kept, "{address} of {container}, which runs, is held by {holder:?} ({self:?})");
                let route = machine.fib.get(&(*address).into());
                assert!(
                    matches!(route, Some(Route::Pod { .. })),
                    "{address} of {container}: {route:?} ({self:?})"
                );
            }
        }
    }

    fn blocks(&self) -> Vec<Claim> {
        self.api.lock().unwrap().blocks.values().map(|block| Claim::try_from(block).unwrap()).collect()
    }

    /// No address is lost: each is free at its block's owner, or in no block at all.
    pub(super) fn check_all(&self) {
        let blocks = self.blocks();
        for claim in &blocks {
            let others = blocks.iter().filter(|other| other.cidr != claim.cidr);
            let parts: Vec<BlockCidr> = others
                .filter(|other| claim.cidr.cidr().covers(other.cidr.cidr()))
                .map(|it| it.cidr)
                .collect();
            let owner = self.machines.iter().find(|machine| machine.name == claim.node).unwrap();
            let core = owner.core.as_ref().unwrap();
            let block = core.allocator.block(claim.cidr);
            let block = block.unwrap_or_else(|| panic!("{claim:?} is not known to its owner ({self:?})"));
            assert_eq!(block.used() + block.free() + block.resting(), block.size(), "{claim:?}");
            let away: BTreeSet<IpAddr> = (0..claim.cidr.size())
                .filter_map(|n| claim.cidr.nth(n))
                .filter(|ip| parts.iter().any(|it| it.contains(*ip)))
                .collect();
            let size = usize::from(claim.cidr.size());
            assert_eq!(block.size(), size - away.len(), "{claim:?} with {parts:?} ({self:?})");
        }
        for (address, (who, container)) in &self.held {
            let around = blocks.iter().filter(|claim| claim.cidr.contains(*address));
            let inner = around.max_by_key(|claim| claim.cidr.cidr().length());
            let owner = inner.map(|claim| claim.node.as_str());
            assert_eq!(owner, Some(self.machines[*who].name.as_str()), "{address} of {container} ({self:?})");
        }
    }
}
