//! Who holds an address.

use std::fmt;
use std::net::{AddrParseError, IpAddr};

use serde::{Deserialize, Serialize};

use crate::crd::Allocation;

/// What tells one holder from another: an interface in a container, as the CNI specification keys attachments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerKey {
    /// The runtime's id of the pod sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
}

/// A holder of addresses, and the pod it belongs to; the pod's fields are empty where the runtime did not say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its identity.
    #[serde(flatten)]
    pub key: OwnerKey,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
}

impl fmt::Display for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of container {}", self.ifname, self.container_id)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pod.is_empty() {
            return self.key.fmt(f);
        }
        write!(f, "pod {}/{} ({})", self.namespace, self.pod, self.key)
    }
}

impl Allocation {
    /// How a block's status says that `owner` holds `address`.
    pub fn new(address: IpAddr, owner: &Owner) -> Self {
        Self {
            address: address.to_string(),
            container_id: owner.key.container_id.clone(),
            ifname: owner.key.ifname.clone(),
            namespace: owner.namespace.clone(),
            pod: owner.pod.clone(),
            uid: owner.uid.clone(),
        }
    }

    /// The inverse of [`Allocation::new`].
    ///
    /// # Errors
    /// When `address` is none.
    pub fn parse(&self) -> Result<(IpAddr, Owner), AddrParseError> {
        let owner = Owner {
            key: OwnerKey { container_id: self.container_id.clone(), ifname: self.ifname.clone() },
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            uid: self.uid.clone(),
        };
        self.address.parse().map(|address| (address, owner))
    }
}
