//! What plugins ask without changing anything: CHECK, GC and STATUS, answered from memory.

use std::collections::BTreeSet;
use std::net::IpAddr;

use manx_cni::protocol::{Attached, AttachmentKey};
use manx_cni::spec::code;
use manx_ipam::Pool;
use manx_ipam::allocator::AssignError;

use super::core::Core;
use crate::attach::Refusal;
use crate::attach::files::Phase;

impl Core {
    /// The complete attachment of a key.
    pub(super) fn attached(&self, key: &AttachmentKey) -> Option<Attached> {
        let held = self.attachments.get(key).filter(|held| !held.leaving)?;
        match held.file.phase {
            Phase::Attached { host_ifindex, .. } => {
                Some(Attached { addresses: held.file.addresses.clone(), host_ifindex })
            }
            Phase::Allocated => None,
        }
    }

    /// The attachments of a network that the runtime does not know. An ADD on its way is not among them: the runtime
    /// may have made its list before it began, and the end of its connection undoes it. Nor is what is being removed.
    pub(super) fn stale(&mut self, network: &str, valid: &[AttachmentKey]) -> Vec<AttachmentKey> {
        self.honour_notes();
        let valid: BTreeSet<&AttachmentKey> = valid.iter().collect();
        self.keys(|held| {
            let on_its_way = held.file.phase == Phase::Allocated && !held.leaving;
            held.file.network == network
                && !valid.contains(&held.file.key)
                && !on_its_way
                && held.retiring.is_none()
        })
    }

    /// Whether an ADD would be served now.
    pub(super) fn can_attach(&self) -> Result<(), Refusal> {
        if let Some(reason) = self.datapath_down() {
            return Err(Refusal::not_available(code::LIMITED, reason));
        }
        let not_available = |reason| Refusal::not_available(code::NOT_AVAILABLE, reason);
        self.may_assign().map_err(not_available)?;
        let pools = self.general_pools();
        match self.allocator.can_assign(&pools) {
            Ok(()) => Ok(()),
            // Pods of some namespaces can have addresses.
            Err(AssignError::NoPool) if self.pools().iter().any(Pool::hands_out) => Ok(()),
            // The next block is being claimed: an ADD waits for it.
            Err(AssignError::Exhausted { family, .. }) if self.claims_in_hope(family) => Ok(()),
            Err(error) => {
                let failures = self.claim_failures();
                let more = if failures.is_empty() { failures } else { format!("; {failures}") };
                Err(not_available(format!("{error}{more}")))
            }
        }
    }

    /// Why pods here may not be reached. What a neighbour announced and the kernel refused is not among the reasons:
    /// nobody outside must be able to take this node out of service.
    fn datapath_down(&self) -> Option<String> {
        if self.kernel_gone {
            return Some("the route syncer has ended; the agent must be restarted".to_owned());
        }
        let ours = |ip: IpAddr| {
            self.allocator.holder(ip).is_some()
                || self.allocator.blocks().any(|block| block.cidr().contains(ip))
        };
        let failure = self.kernel.failures.iter().find(|failure| ours(failure.destination.ip()))?;
        Some(format!("the kernel refuses a route of this node's pods: {failure}"))
    }
}
