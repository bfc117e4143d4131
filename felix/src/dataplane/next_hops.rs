//! Where packets of a learned route go, and by which interfaces that is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::api::RouteGroup;
use manx_bgp::types::{Interface, Prefix, ScopedAddr};

/// A router on a connected network, and its share of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Its address; a link-local one with its interface.
    pub address: ScopedAddr,
    /// How much it takes beside the others, 1–255: twice the weight, twice the flows.
    pub weight: u8,
}

impl<A: Into<ScopedAddr>> From<A> for NextHop {
    fn from(address: A) -> Self {
        Self { address: address.into(), weight: 1 }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Next hops that share the packets of a destination (ECMP): sorted, each address once. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHops(Arc<[NextHop]>);

impl<H: Into<NextHop>> FromIterator<H> for NextHops {
    fn from_iter<I: IntoIterator<Item = H>>(hops: I) -> Self {
        let mut hops: Vec<NextHop> = hops.into_iter().map(Into::into).collect();
        // Of two weights for one address the larger.
        hops.sort_unstable_by_key(|hop| (hop.address, u8::MAX - hop.weight));
        hops.dedup_by_key(|hop| hop.address);
        Self(hops.into())
    }
}

/// Those of what the speaker says, with their weights.
pub fn shared(group: &RouteGroup) -> NextHops {
    let weights = group.weights.iter().map(|weight| (*weight).max(1)).chain(std::iter::repeat(1));
    let hops = group.next_hops.iter().zip(weights);
    hops.map(|(address, weight)| NextHop { address: *address, weight }).collect()
}

impl std::ops::Deref for NextHops {
    type Target = [NextHop];

    fn deref(&self) -> &[NextHop] {
        &self.0
    }
}

impl Default for NextHops {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl NextHops {
    /// Whether these are some of `others` with their weights, and not all.
    pub fn are_fewer_of(&self, others: &Self) -> bool {
        !self.is_empty() && self.len() < others.len() && self.iter().all(|hop| others.contains(hop))
    }
}

impl fmt::Display for NextHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, hop) in self.iter().enumerate() {
            write!(f, "{}{hop}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Which interface leads to a neighbour, by what is connected to this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Connected networks whose interface has a carrier, by its index.
    pub connected: Vec<(Prefix, u32)>,
    /// Interfaces that are up and have a carrier.
    pub names: BTreeMap<Interface, u32>,
}

impl Links {
    /// The index of the interface `hop` is a neighbour on; none: it is no neighbour.
    pub fn leading_to(&self, hop: ScopedAddr) -> Option<u32> {
        if let Some(zone) = hop.zone {
            return self.names.get(&zone).copied();
        }
        let host = Prefix::host(hop.addr);
        let covering = self.connected.iter().filter(|(network, _)| network.covers(host));
        covering.max_by_key(|(network, _)| network.length()).map(|(_, index)| *index)
    }

    /// The address of `gateway` as it is known on interface `index`.
    pub fn scoped(&self, gateway: IpAddr, index: u32) -> ScopedAddr {
        let name = self.names.iter().find_map(|(name, of)| (*of == index).then_some(*name));
        ScopedAddr::new(gateway, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(text: &str) -> NextHop {
        text.parse::<ScopedAddr>().unwrap().into()
    }

    #[test]
    fn a_neighbour_is_found_by_the_longest_connected_network_and_a_link_local_one_by_its_interface() {
        let links = Links {
            connected: vec![
                ("192.0.2.0/24".parse().unwrap(), 2),
                ("192.0.2.128/25".parse().unwrap(), 3),
                ("fe80::/64".parse().unwrap(), 2),
            ],
            names: [("eth1".parse().unwrap(), 2), ("eth2".parse().unwrap(), 3)].into(),
        };
        let leading = |text: &str| links.leading_to(text.parse().unwrap());
        assert_eq!(leading("192.0.2.1"), Some(2));
        assert_eq!(leading("192.0.2.129"), Some(3));
        assert_eq!(leading("198.51.100.1"), None);
        assert_eq!(leading("fe80::1%eth2"), Some(3));
        assert_eq!(leading("fe80::1%eth3"), None);
        assert_eq!(links.scoped("fe80::1".parse().unwrap(), 3).to_string(), "fe80::1%eth2");
    }

    #[test]
    fn the_order_in_which_next_hops_come_is_no_matter_and_one_comes_once() {
        let heavy = NextHop { weight: 9, ..hop("192.0.2.2") };
        let hops: NextHops = [hop("192.0.2.3"), hop("192.0.2.2"), heavy].into_iter().collect();
        assert_eq!(*hops, [heavy, hop("192.0.2.3")]);
        assert!(NextHops::from_iter([heavy]).are_fewer_of(&hops));
        assert!(!NextHops::from_iter([hop("192.0.2.2")]).are_fewer_of(&hops), "it has another weight");
        assert!(!hops.are_fewer_of(&hops));
    }
}
