//! Addresses freed by hand, and those that nothing stands for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use manx_cni::protocol::AttachmentKey;
use manx_ipam::OwnerKey;

use super::core::Core;
use crate::watch::Kind;

impl Core {
    /// Frees an address whose pod is gone, as a DEL would, and says who held it.
    ///
    /// # Errors
    /// In words: it is held by a pod that is there, or by what may be one; or it is not this node's, or free.
    pub(super) fn free_address(&mut self, address: IpAddr) -> Result<String, String> {
        let Some(owner) = self.allocator.holder(address).cloned() else {
            return Err(self.not_held(address));
        };
        let key =
            AttachmentKey { container_id: owner.key.container_id.clone(), ifname: owner.key.ifname.clone() };
        if self.found.contains_key(&owner.key.ifname) {
            let ifname = owner.key.ifname;
            return Err(format!(
                "{address} is not freed: interface {ifname} holds it, and whose pod that is is not known. Remove the pod, or \
                 the interface (ip link del {ifname}): it is freed when that is gone"
            ));
        }
        let Some(held) = self.attachments.get(&key) else {
            self.allocator.release(&owner.key);
            return Ok(owner.to_string());
        };
        if held.leaving {
            return Err(format!(
                "{address} is on its way: it is free when {} is gone",
                held.file.host_ifname
            ));
        }
        if owner.pod.is_empty() {
            return Err(format!(
                "{address} is not freed: {owner} holds it, which is no pod of Kubernetes. Remove the container"
            ));
        }
        if !self.cluster.has_read(&[Kind::Pod]) {
            return Err(format!(
                "{address} is not freed: the pods of this node have not been read yet: manxctl status"
            ));
        }
        let pod = self.cluster.pods.get(&format!("{}/{}", owner.namespace, owner.pod));
        if pod.is_some_and(|pod| owner.uid.is_empty() || pod.uid == owner.uid) {
            let (namespace, pod) = (&owner.namespace, &owner.pod);
            return Err(format!(
                "{address} is not freed: pod {namespace}/{pod} holds it and is there. Delete the pod: kubectl -n {namespace} \
                 delete pod {pod}"
            ));
        }
        self.end(&key);
        Ok(owner.to_string())
    }

    fn not_held(&self, address: IpAddr) -> String {
        if self.allocator.block_of(address).is_some() {
            return format!("{address} is free: nobody holds it");
        }
        let around = self.cluster.blocks.values().filter(|block| block.claim.cidr.contains(address));
        match around.max_by_key(|block| block.claim.cidr.cidr().length()) {
            Some(block) => format!(
                "{address} is of block {}, which node {} owns: only its agent frees it. Run this there",
                block.claim.cidr, block.claim.node
            ),
            None => format!("{address} is in no block: nobody holds it"),
        }
    }

    /// Once a round: what is held, and neither an attachment nor an interface stands for, is freed when seen twice.
    pub(super) fn collect_unheld(&mut self) {
        let unheld = |key: &&OwnerKey| {
            let attachment =
                AttachmentKey { container_id: key.container_id.clone(), ifname: key.ifname.clone() };
            !self.attachments.contains_key(&attachment) && !self.found.contains_key(&key.ifname)
        };
        let unheld: BTreeSet<OwnerKey> =
            self.allocator.owners().map(|(owner, _)| &owner.key).filter(unheld).cloned().collect();
        for key in unheld.intersection(&self.unheld) {
            let freed = self.allocator.release(key);
            tracing::warn!(
                "{freed:?} were held by {}/{}, of which there is nothing: freed",
                key.container_id,
                key.ifname
            );
        }
        self.unheld = unheld;
    }
}
