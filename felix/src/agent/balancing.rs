//! Services of type LoadBalancer have addresses of pools: given by one elected agent, and written in their statuses,
//! where all that is known of them is.
//!
//! Agents of the first few nodes compete while there is something to give, the first by name at once, others the later.
//! One that is elected reads all Services anew before it gives anything: its watch may not show yet what the one before
//! it gave. And it writes nothing that could be done after another may have been elected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_ipam::Pool;
use manx_ipam::service::{Ask, Assigned, Share, assign};

use super::core::{Core, Effect};
use super::election::{Bid, Duty, Election, Record};
use super::mirror::Write;
use crate::model::Object;
use crate::model::labels::Labels;
use crate::model::service::{Balancer, Service, TrafficPolicy};
use crate::watch::Update;

/// The class of Services whose addresses are ours to give (`spec.loadBalancerClass`).
pub const CLASS: &str = "manx.io/bgp";

/// Each agent waits this much longer than the one whose name sorts before its own.
const STAGGER: Duration = Duration::from_secs(5);

/// Agents behind this place take no part.
const PLACES: usize = 16;

/// When the watch does not show for so long what the API has told of a Service, the API is asked again: it may be another
/// by now, or gone.
const UNSHOWN: Duration = Duration::from_secs(60);

/// Most addresses written at a time: what is in flight when leadership ends is bounded.
const BATCH: usize = 50;

/// Who gives addresses, and what has been given.
#[derive(Debug)]
pub struct Balancing {
    election: Election,
    /// Something is to be given since then.
    since: Option<Instant>,
    /// Whether all Services have been read since this agent was elected.
    known: bool,
    running: bool,
    /// Something has changed that addresses depend on.
    dirty: bool,
    /// What the API has been told, or may have, and the watch does not show yet.
    given: BTreeMap<Arc<str>, Given>,
    /// What every Service shall have.
    wanted: BTreeMap<Arc<str>, Assigned>,
    /// Events told last, by Service and reason.
    told: BTreeMap<(Arc<str>, &'static str), ServiceEvent>,
}

/// What a Service has that the watch shows otherwise.
#[derive(Debug)]
struct Given {
    /// Of the object: one made anew has none of what the one before it had.
    uid: Arc<str>,
    addresses: Vec<IpAddr>,
    at: Instant,
}

/// An address to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `namespace/name` of the Service.
    pub service: Arc<str>,
    /// `metadata.resourceVersion` it was judged by.
    pub version: String,
    /// All it shall have.
    pub addresses: Vec<IpAddr>,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is written.
    Done,
    /// It is not: the Service is another by now, or gone, or it was too late.
    Not,
    /// It is not known.
    Unknown,
}

impl Given {
    fn new(service: &Service, addresses: Vec<IpAddr>, at: Instant) -> Self {
        Self { uid: Arc::clone(&service.uid), addresses, at }
    }

    fn is_shown_by(&self, shown: &Service) -> bool {
        shown.uid == self.uid && shown.ingress == self.addresses
    }
}

/// Whether addresses may depend on what an update tells.
pub(super) fn matters(update: &Update) -> bool {
    matches!(
        update,
        Update::Service(_) | Update::Pool(_) | Update::Namespace(_) | Update::Reservation(_) | Update::Bgp(_)
    )
}

impl Balancing {
    /// Of the agent of this node.
    pub fn new(me: &str) -> Self {
        Self {
            election: Election::new(me),
            since: None,
            known: false,
            running: false,
            dirty: true,
            given: BTreeMap::new(),
            wanted: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Something has changed that addresses depend on.
    pub(super) fn doubt(&mut self) {
        self.dirty = true;
    }

    /// An Event is written.
    pub(super) fn said(&mut self, event: &ServiceEvent) {
        self.told.insert((Arc::clone(&event.service), event.reason), event.clone());
    }
}

/// Something to be told of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEvent {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// Of the object.
    pub uid: Arc<str>,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub note: String,
}

impl Core {
    /// Once a second.
    pub(super) fn balance(&mut self, now: Instant) {
        let place = self.place();
        if !self.in_sync() || place >= PLACES || !self.cluster.nodes.contains_key(&self.me) {
            return;
        }
        if !self.balancing.election.leads(now) {
            self.balancing.known = false;
            self.balancing.given.clear();
        }
        let is_behind = self.compare_given(now);
        if std::mem::take(&mut self.balancing.dirty) {
            self.balancing.wanted = self.addresses_wanted();
        }
        let differing = self.differing();
        let leads = self.balancing.election.leads(now);
        let silent = leads || place == 0;
        if differing.is_empty() && !is_behind && !(silent && self.untold().next().is_some()) {
            self.balancing.since = None;
            return;
        }
        let since = *self.balancing.since.get_or_insert(now);
        let balancing = &mut self.balancing;
        if now.saturating_duration_since(since) >= STAGGER * u32::try_from(place).unwrap_or(u32::MAX)
            && let Some(bid) = balancing.election.bid(now)
        {
            self.effects.push(Effect::Bid(Duty::Services, bid));
        }
        let Some(until) = balancing.election.leads_until(now).filter(|_| !balancing.running) else { return };
        if !balancing.known {
            balancing.running = true;
            self.effects.push(Effect::ListServices);
        } else if !differing.is_empty() {
            balancing.running = true;
            for grant in &differing {
                let Some(service) = self.cluster.services.get(&grant.service) else { continue };
                let given = Given::new(service, grant.addresses.clone(), now);
                balancing.given.insert(Arc::clone(&grant.service), given);
            }
            self.effects.push(Effect::Give { grants: differing, until });
        }
    }

    /// The API has answered a bid for the duty.
    pub(super) fn balancing_answered(&mut self, bid: &Bid, lease: Result<Option<Record>, ()>, now: Instant) {
        self.balancing.election.answered(bid, lease, now);
        self.balance(now);
    }

    /// The API has told all Services; none: it has not.
    pub fn listed_services(&mut self, services: Option<Vec<Object<Service>>>, now: Instant) {
        self.balancing.running = false;
        let Some(services) = services else { return };
        let balancing = &mut self.balancing;
        balancing.given.clear();
        for object in services {
            let Ok(service) = object.spec else { continue };
            let name: Arc<str> = object.name.into();
            let given = Given::new(&service, service.ingress.clone(), now);
            if !self.cluster.services.get(&name).is_some_and(|shown| given.is_shown_by(shown)) {
                balancing.given.insert(name, given);
            }
        }
        balancing.known = balancing.election.leads(now);
        balancing.dirty = true;
        self.balance(now);
    }

    /// Addresses have been written, or not.
    pub fn given(&mut self, outcomes: Vec<(Arc<str>, Granted)>, now: Instant) {
        let balancing = &mut self.balancing;
        balancing.running = false;
        let is_refused = outcomes.iter().any(|(_, outcome)| *outcome == Granted::Not);
        for (service, outcome) in outcomes {
            match outcome {
                Granted::Done => {}
                Granted::Not => _ = balancing.given.remove(&service),
                // Only the API knows.
                Granted::Unknown => balancing.known = false,
            }
        }
        balancing.dirty = true;
        // What was refused would be refused again before the watch has told why.
        if !is_refused {
            self.balance(now);
        }
    }

    /// Events of Services that nobody has been told yet.
    pub(super) fn service_events(&self, now: Instant) -> Vec<Write> {
        let leads = self.cluster.leads();
        let unmarked = self.cluster.unmarked.iter().filter(|_| leads).filter_map(|(name, bad)| {
            let uid = Arc::clone(&self.cluster.services.get(name)?.uid);
            let note = format!("{bad}; what it last said well stays in force");
            Some(ServiceEvent { service: Arc::clone(name), uid, reason: "InvalidAnnotation", note })
        });
        let unmarked = unmarked.filter(|event| !self.is_told(event));
        let gives = self.balancing.known && self.balancing.election.leads(now);
        let unassigned = self.untold().filter(|_| gives);
        unmarked.chain(unassigned).take(BATCH).map(Write::ServiceEvent).collect()
    }

    fn is_told(&self, event: &ServiceEvent) -> bool {
        self.balancing.told.get(&(Arc::clone(&event.service), event.reason)) == Some(event)
    }

    /// Why Services have no address, where it has not been told.
    fn untold(&self) -> impl Iterator<Item = ServiceEvent> {
        let refused = self.balancing.wanted.iter().filter_map(|(name, assigned)| {
            let why = assigned.why.as_ref().map(ToString::to_string);
            let service = self.cluster.services.get(name)?;
            let unread = || match &service.balancer.as_ref()?.wishes {
                Err(bad) => Some(bad.to_string()),
                Ok(_) => None,
            };
            let (uid, note) = (Arc::clone(&service.uid), unread().or(why)?);
            Some(ServiceEvent { service: Arc::clone(name), uid, reason: "AddressNotAssigned", note })
        });
        refused.filter(|event| !self.is_told(event))
    }

    /// How many nodes that are in service have names that sort before this one's.
    fn place(&self) -> usize {
        let nodes = &self.cluster.nodes;
        let any = nodes.values().any(|node| node.ready);
        nodes.range(..self.me.clone()).filter(|(_, node)| node.ready || !any).count()
    }

    /// Forgets what the watch has caught up with. Whether it has been behind for so long that the API is to be asked again.
    fn compare_given(&mut self, now: Instant) -> bool {
        let services = &self.cluster.services;
        let Balancing { given, known, wanted, told, .. } = &mut self.balancing;
        given.retain(|name, given| !services.get(name).is_some_and(|shown| given.is_shown_by(shown)));
        let is_behind = given.values().any(|given| now.saturating_duration_since(given.at) >= UNSHOWN);
        *known &= !is_behind;
        told.retain(|(name, _), _| services.contains_key(name) || wanted.contains_key(name));
        is_behind
    }

    /// What a Service has: as the API was told last.
    fn held<'a>(&'a self, name: &str, service: &'a Service) -> &'a Vec<IpAddr> {
        self.balancing.given.get(name).map_or(&service.ingress, |given| &given.addresses)
    }

    /// Services that have other addresses than they shall.
    fn differing(&self) -> Vec<Grant> {
        let wanted = self.balancing.wanted.iter().filter_map(|(name, assigned)| {
            let service = self.cluster.services.get(name)?;
            let differs = *self.held(name, service) != assigned.addresses;
            differs.then(|| Grant {
                service: Arc::clone(name),
                version: service.version.clone(),
                addresses: assigned.addresses.clone(),
            })
        });
        wanted.take(BATCH).collect()
    }

    /// What every Service that is ours shall have.
    fn addresses_wanted(&self) -> BTreeMap<Arc<str>, Assigned> {
        let pools: Vec<Pool> = self.cluster.service_pools().cloned().collect();
        let mut ours: BTreeMap<Arc<str>, Assigned> = BTreeMap::new();
        let mut asks = Vec::new();
        let unshown = self.balancing.given.iter();
        let unshown = unshown.filter(|(name, _)| !self.cluster.services.contains_key(*name));
        let mut others: BTreeMap<Arc<str>, Vec<IpAddr>> =
            unshown.map(|(name, given)| (Arc::clone(name), given.addresses.clone())).collect();
        for (name, service) in &self.cluster.services {
            let held = self.held(name, service);
            let of_pools = || held.iter().any(|ip| pools.iter().any(|pool| pool.cidr.contains(*ip)));
            match &service.balancer {
                Some(balancer) if self.is_ours(balancer, &pools) => match &balancer.wishes {
                    Ok(_) => asks.push(self.asking(name, service, balancer)),
                    // What it last had stays its own.
                    Err(_) => {
                        others.insert(Arc::clone(name), held.clone());
                        ours.insert(Arc::clone(name), Assigned { addresses: held.clone(), why: None });
                    }
                },
                Some(_) => _ = others.insert(Arc::clone(name), held.clone()),
                // It was a load balancer's.
                None if of_pools() => _ = ours.insert(Arc::clone(name), Assigned::default()),
                None => {}
            }
        }
        ours.extend(assign(&asks, &others, &pools, &self.cluster.reserved()));
        ours
    }

    fn is_ours(&self, balancer: &Balancer, pools: &[Pool]) -> bool {
        match balancer.class.as_deref() {
            Some(class) => class == CLASS,
            // Without a pool nobody means us.
            None => self.cluster.takes_classless() && !pools.is_empty(),
        }
    }

    fn asking(&self, name: &Arc<str>, service: &Service, balancer: &Balancer) -> Ask {
        let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
        let local = service.external == TrafficPolicy::Local;
        let key = balancer.shared.clone();
        let pods = (local && key.is_some()).then(|| text(&balancer.pods));
        Ask {
            name: Arc::clone(name),
            created: balancer.created,
            families: balancer.families.clone(),
            partial: balancer.partial,
            wishes: balancer.wishes.clone().unwrap_or_default(),
            pools: self.cluster.pools_for_service(namespace, &service.labels),
            share: Share { key, ports: balancer.ports.clone(), pods },
            held: self.held(name, service).clone(),
        }
    }

    /// Addresses of a range that Services have.
    pub(super) fn service_addresses(&self) -> BTreeSet<IpAddr> {
        self.cluster.services.values().flat_map(|service| service.ingress.iter().copied()).collect()
    }
}

fn text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
