//! Which service addresses this node announces.
//!
//! An address of a Service is announced if it lies in a range that is: of a pool for Services or of the configuration
//! (so that nobody announces an address of the outside by writing it into `spec.externalIPs`), and
//!
//! | its policy | alone | in a range that is announced whole |
//! |---|---|---|
//! | Cluster | by every node, while there is an endpoint anywhere | not by itself |
//! | Local | by nodes with an endpoint | by nodes with an endpoint |
//!
//! An endpoint counts if it is ready. Where none is ready anywhere, those count that are ending and still serve, as
//! with kube-proxy. So a node whose last endpoint ends while others are ready is withdrawn at once, and what is under
//! way to it is still served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::api::Network;
use manx_bgp::types::Prefix;
use manx_ipam::cidr::Family;
use rustc_hash::FxHashMap;

use super::desired::{Guard, Problem};
use crate::model::service::{
    Endpoints, Marks, Service, ServiceAddresses, ServiceRange, Slice, TrafficPolicy,
};

/// Ranges of pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRanges {
    /// Of those for pods.
    pub pods: BTreeSet<Prefix>,
    /// Of those for Services.
    pub services: BTreeSet<Prefix>,
    /// Of these, those that are announced.
    pub announced: BTreeSet<Prefix>,
}

/// Services, their endpoints, and what follows of them for this node.
#[derive(Debug, Default)]
pub struct Services {
    rules: ServiceAddresses,
    pools: PoolRanges,
    /// By `namespace/name`.
    known: FxHashMap<Arc<str>, Known>,
    /// The Service each slice is of.
    slices: FxHashMap<Arc<str>, Arc<str>>,
    /// Addresses that are announced, for which Services.
    announced: BTreeMap<IpAddr, BTreeMap<Arc<str>, Marks>>,
}

/// One Service, and its slices, each as told last: either may come first.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    /// By name, in no order: most have one or two.
    slices: Vec<(Arc<str>, Slice)>,
    told: BTreeSet<IpAddr>,
}

impl Services {
    /// How service addresses are announced. Whether that is another way than before.
    pub fn rule(&mut self, rules: &ServiceAddresses) -> bool {
        let differs = self.rules != *rules;
        if differs {
            self.rules = rules.clone();
            self.retell();
        }
        differs
    }

    /// The ranges of pools. Whether they are others than before.
    pub fn set_pools(&mut self, pools: PoolRanges) -> bool {
        let differs = self.pools != pools;
        if differs {
            self.pools = pools;
            self.retell();
        }
        differs
    }

    /// A Service, or none of this name. Whether something else is announced than before.
    pub fn set_service(&mut self, name: &Arc<str>, service: Option<Arc<Service>>) -> bool {
        let known = self.known.entry(Arc::clone(name)).or_default();
        known.service = service;
        self.tell(name)
    }

    /// Endpoints of a slice, or none of this name. Whether something else is announced than before.
    pub fn set_slice(&mut self, name: &Arc<str>, slice: Option<Slice>) -> bool {
        let service = slice.as_ref().map(|slice| Arc::clone(&slice.service));
        let before = match &service {
            Some(service) => self.slices.insert(Arc::clone(name), Arc::clone(service)),
            None => self.slices.remove(name),
        };
        let mut differs = false;
        if let Some(before) = before.filter(|before| Some(before) != service.as_ref())
            && let Some(known) = self.known.get_mut(&before)
        {
            known.slices.retain(|(other, _)| other != name);
            differs |= self.tell(&before);
        }
        if let Some(slice) = slice {
            let service = Arc::clone(&slice.service);
            let slices = &mut self.known.entry(Arc::clone(&service)).or_default().slices;
            match slices.iter_mut().find(|(other, _)| other == name) {
                Some((_, known)) => *known = slice,
                None => {
                    slices.reserve_exact(1);
                    slices.push((Arc::clone(name), slice));
                }
            }
            differs |= self.tell(&service);
        }
        differs
    }

    /// What this node announces, in order.
    pub fn networks(&self) -> Vec<Network> {
        let whole = self.aggregates().map(|range| (range.prefix, Network::new(range.prefix)));
        let mut networks: BTreeMap<Prefix, Network> = whole.collect();
        for (address, by) in &self.announced {
            let prefix = Prefix::host(*address);
            networks.insert(prefix, network(prefix, by.values()));
        }
        networks.into_values().collect()
    }

    /// Every range service addresses are announced of.
    pub fn ranges(&self) -> BTreeSet<Prefix> {
        let written = self.rules.ranges.iter().map(|range| range.prefix);
        written.chain(self.pools.announced.iter().copied()).collect()
    }

    /// What becomes of packets nobody takes.
    pub fn guard(&self, nodes: &BTreeSet<IpAddr>) -> Guard {
        let whole = self.aggregates().map(|range| range.prefix);
        let ranges = whole.chain(self.pools.services.iter().copied());
        // What is a node's is not unassigned, whoever wrote the range.
        let ranges = ranges.filter(|range| !nodes.iter().any(|node| range.covers(Prefix::host(*node))));
        Guard { unassigned: self.rules.unassigned, ranges: ranges.collect() }
    }

    /// Ranges that cannot be announced whole.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let bad = self.rules.ranges.iter().filter(|range| range.aggregate && self.has_pods(**range));
        bad.map(|range| Problem {
            object: "BGPConfiguration/default".to_owned(),
            message: format!(
                "spec.serviceAddresses.ranges: {} has addresses of an IPPool for pods: it is not announced whole",
                range.prefix
            ),
        })
    }

    /// How many Services, and how many of their addresses are announced here.
    pub fn counts(&self) -> (usize, usize) {
        let services = self.known.values().filter(|known| known.service.is_some()).count();
        (services, self.announced.len())
    }

    fn has_pods(&self, range: ServiceRange) -> bool {
        let overlaps = |pods: &Prefix| pods.covers(range.prefix) || range.prefix.covers(*pods);
        self.pools.pods.iter().any(overlaps)
    }

    fn aggregates(&self) -> impl Iterator<Item = ServiceRange> {
        let whole = self.rules.ranges.iter().copied().filter(|range| range.aggregate);
        whole.filter(|range| !self.has_pods(*range))
    }

    fn retell(&mut self) {
        let names: Vec<Arc<str>> = self.known.keys().cloned().collect();
        for name in names {
            self.tell(&name);
        }
    }

    /// Works out one Service anew. Whether something else is announced than before.
    fn tell(&mut self, name: &Arc<str>) -> bool {
        let Some(known) = self.known.get(name) else { return false };
        let now = self.wanted(known);
        let marks = known.service.as_ref().and_then(|service| service.marks.clone().ok()).unwrap_or_default();
        let gone = known.service.is_none() && known.slices.is_empty();
        let mut differs = false;
        for address in known.told.difference(&now) {
            differs = true;
            if let Some(by) = self.announced.get_mut(address) {
                by.remove(name);
                if by.is_empty() {
                    self.announced.remove(address);
                }
            }
        }
        for address in &now {
            let by = self.announced.entry(*address).or_default();
            if by.get(name) != Some(&marks) {
                differs = true;
                by.insert(Arc::clone(name), marks.clone());
            }
        }
        if gone {
            self.known.remove(name);
        } else if let Some(known) = self.known.get_mut(name) {
            known.told = now;
        }
        differs
    }

    /// Addresses of a Service that are to be announced one by one.
    fn wanted(&self, known: &Known) -> BTreeSet<IpAddr> {
        let Some(service) = &known.service else { return BTreeSet::new() };
        if service.marks.is_err() || !self.rules.selector.matches(&service.labels) {
            return BTreeSet::new();
        }
        let internal = service.cluster_ips.iter().map(|address| (*address, service.internal, false));
        let external = service.external_ips.iter().map(|address| (*address, service.external, false));
        let ingress = service.ingress.iter().map(|address| (*address, service.external, true));
        let all = internal.chain(external).chain(ingress);
        let wanted = all.filter(|(address, policy, assigned)| {
            let host = Prefix::host(*address);
            let whole = self.aggregates().any(|range| range.prefix.covers(host));
            let written = self.rules.ranges.iter().any(|range| range.prefix.covers(host));
            let pooled = *assigned && self.pools.announced.iter().any(|pool| pool.covers(host));
            let needed = !whole || *policy == TrafficPolicy::Local;
            (written || pooled) && needed && known.is_served(Family::of(*address), *policy)
        });
        wanted.map(|(address, ..)| address).collect()
    }
}

impl Known {
    /// Whether this node can serve packets to an address of a family.
    fn is_served(&self, family: Family, policy: TrafficPolicy) -> bool {
        let of = |which: fn(&Slice) -> Endpoints| {
            let slices = self.slices.iter().map(|(_, slice)| slice).filter(|slice| slice.family == family);
            slices.map(which).fold(Endpoints::default(), Endpoints::and)
        };
        let anywhere = of(|slice| slice.anywhere);
        let asked = match policy {
            TrafficPolicy::Cluster => anywhere,
            TrafficPolicy::Local => of(|slice| slice.here),
        };
        if anywhere.ready { asked.ready } else { asked.ending }
    }
}

/// One address of several Services: with all that is said of it, and the highest preference.
fn network<'a>(prefix: Prefix, marks: impl Iterator<Item = &'a Marks> + Clone) -> Network {
    let said = marks.clone().flat_map(|marks| &marks.communities);
    let communities: BTreeSet<String> = said.map(ToString::to_string).collect();
    let local_pref = marks.filter_map(|marks| marks.local_pref).max();
    Network { prefix, communities: communities.into_iter().collect(), local_pref }
}
