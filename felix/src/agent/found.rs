//! Pods whose attachment's file is lost: their interfaces stand and the kernel leads their addresses there. The addresses
//! are held and the routes wanted as long as the interfaces stand; the block's mirror says whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_cni::protocol::{AttachmentKey, PodRef, host_ifname};
use manx_ipam::crd::Allocation;
use manx_ipam::{Owner, OwnerKey};

use super::core::Core;
use super::pods::Held;
use crate::attach::files::{Attachment, Phase};
use crate::graph::Input;

/// A route of ours to a pod, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod's.
    pub address: IpAddr,
    /// Name of the host's end.
    pub ifname: String,
    /// Index of the host's end.
    pub ifindex: u32,
}

/// An interface of ours nobody wrote down.
#[derive(Debug)]
pub struct Found {
    addresses: BTreeSet<IpAddr>,
    ifindex: u32,
    /// There was a DEL: no route any more.
    leaving: bool,
    missed: bool,
}

/// Who holds the addresses of an interface whose pod is not known: no runtime has an empty container id.
fn nobody(ifname: &str) -> Owner {
    let key = OwnerKey { container_id: String::new(), ifname: ifname.to_owned() };
    Owner { key, namespace: String::new(), pod: String::new(), uid: String::new() }
}

impl Core {
    /// At a start, behind the files: what the kernel has beside them is held, too.
    pub(super) fn find_pods(&mut self) {
        let links = match self.host.pod_links() {
            Ok(links) => links,
            Err(error) => return tracing::warn!("cannot read the kernel's routes to pods: {error}"),
        };
        let written: BTreeSet<&String> =
            self.attachments.values().map(|held| &held.file.host_ifname).collect();
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for PodLink { address, ifname, ifindex } in
            links.into_iter().filter(|it| !written.contains(&it.ifname))
        {
            let link = Found { addresses: BTreeSet::new(), ifindex, leaving: false, missed: false };
            found.entry(ifname).or_insert(link).addresses.insert(address);
        }
        for (ifname, link) in found {
            tracing::warn!(
                "{ifname} is a pod's and its file is lost: its addresses are held while it stands"
            );
            for conflict in self.allocator.restore(&nobody(&ifname), link.addresses.iter().copied()) {
                tracing::error!("{conflict}");
            }
            for address in &link.addresses {
                self.graph.apply(Input::Pod(*address, Some(link.ifindex)));
            }
            self.found.insert(ifname, link);
        }
    }

    /// The mirror of an own block: it may say whose a found interface is.
    pub(super) fn recognise(&mut self, allocations: &[Allocation]) {
        if self.found.is_empty() {
            return;
        }
        for (address, owner) in allocations.iter().filter_map(|allocation| allocation.parse().ok()) {
            let key = AttachmentKey {
                container_id: owner.key.container_id.clone(),
                ifname: owner.key.ifname.clone(),
            };
            let ifname = host_ifname(&key);
            let Some(link) = self.found.get(&ifname).filter(|link| link.addresses.contains(&address)) else {
                continue;
            };
            let file = Attachment {
                key: key.clone(),
                pod: PodRef {
                    namespace: owner.namespace.clone(),
                    name: owner.pod.clone(),
                    uid: owner.uid.clone(),
                },
                netns: String::new(),
                network: String::new(),
                addresses: link.addresses.iter().copied().collect(),
                host_ifname: ifname.clone(),
                phase: Phase::Attached { pod_mac: [0; 6], host_ifindex: link.ifindex },
            };
            if let Err(error) = self.files.save(&file) {
                tracing::warn!("cannot write down whose {ifname} is: {error}");
                continue;
            }
            tracing::info!("{ifname} is {owner}'s");
            self.allocator.release(&nobody(&ifname).key);
            self.allocator.restore(&owner, file.addresses.iter().copied());
            self.found.remove(&ifname);
            self.attachments.insert(key, Held::found(file));
        }
    }

    /// A DEL of a found interface: it is reached no more, and what it held is freed once it is gone.
    pub(super) fn leave_found(&mut self, ifname: &str) {
        let Some(link) = self.found.get_mut(ifname) else { return };
        link.leaving = true;
        for address in &link.addresses {
            self.graph.apply(Input::Pod(*address, None));
        }
        self.free_found(ifname);
    }

    /// Frees what found interfaces held that leave and are gone.
    pub(super) fn free_found_left(&mut self) {
        let leaving = self.found.iter().filter(|(_, link)| link.leaving);
        for ifname in leaving.map(|(ifname, _)| ifname.clone()).collect::<Vec<_>>() {
            self.free_found(&ifname);
        }
    }

    /// Once a round: what went without a DEL is freed when it is missed twice.
    pub(super) fn collect_found(&mut self) {
        for ifname in self.found.keys().cloned().collect::<Vec<_>>() {
            self.free_found(&ifname);
        }
    }

    fn free_found(&mut self, ifname: &str) {
        let Some(link) = self.found.get_mut(ifname) else { return };
        match self.host.index_of(ifname) {
            Ok(None) if link.leaving || link.missed => {
                for address in &link.addresses {
                    self.graph.apply(Input::Pod(*address, None));
                }
                self.allocator.release(&nobody(ifname).key);
                self.found.remove(ifname);
            }
            Ok(None) => link.missed = true,
            Ok(Some(_)) => link.missed = false,
            Err(error) => tracing::warn!("cannot see whether {ifname} is there: {error}"),
        }
    }
}
