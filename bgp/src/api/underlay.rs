//! How next hops are reached: what whoever knows the kernel's routes tells the speaker of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::types::{Family, Prefix};

/// One way of the machine's own, none that it has of the speaker: a connected network, or a route by a gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reach {
    /// Where it leads. The longest that covers a next hop is its way; several of one prefix and metric share the
    /// load.
    pub prefix: Prefix,
    /// The neighbour packets are handed to, itself on a connected network; none: the prefix is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// What it costs: the interior cost of RFC 4271, section 9.1.2.2 e. Of one prefix, only the cheapest count.
    #[serde(default)]
    pub metric: u32,
}

impl Reach {
    /// A network this machine is connected to.
    pub fn connected(prefix: Prefix) -> Self {
        Self { prefix, gateway: None, metric: 0 }
    }

    /// Whether its gateway can be one.
    #[cfg_attr(not(feature = "speaker"), expect(dead_code, reason = "asked by the speaker alone"))]
    pub(crate) fn is_sound(&self) -> bool {
        self.gateway.is_none_or(|gateway| {
            let known = !gateway.is_unspecified() && !gateway.is_multicast();
            // RFC 8950: IPv4 by way of IPv6, never the other way round.
            known && (Family::of(gateway) == self.prefix.family() || gateway.is_ipv6())
        })
    }
}
