//! Which pools a pod that starts has its addresses of, from what is known of it and its namespace.
//!
//! Both are watched, and the kubelet heard of the pod no earlier than this agent. Where the watch is behind all the
//! same, the API is asked, if the answer could make a difference: where no pod and no namespace here asks for
//! anything, and there is one pool of a family, an ADD asks nobody. With the API away a pod nobody has seen is one that
//! asks for nothing, in a namespace that is like any other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manx_ipam::choice::{Wishes, choose};
use manx_ipam::{BlockCidr, Family, Pool};

use super::blocks::Want;
use super::core::{Core, Effect};
use super::pods::Waiting;
use crate::attach::{Asked, Attempt, Refusal};
use crate::model::{Namespace, Pod};

/// What the API was asked of a pod that starts.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing: all that matters is known.
    No,
    /// It has not answered yet.
    Asked,
    /// What it said.
    Done(Box<Learned>),
}

/// What the API said of a pod and its namespace; none: there is no such thing, or it did not answer in time.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The pod.
    pub pod: Option<Pod>,
    /// Its namespace.
    pub namespace: Option<Namespace>,
}

/// Pools in the order they are tried, and fixed addresses.
#[derive(Debug)]
pub struct Choice {
    pub pools: Vec<Pool>,
    pub ips: Vec<IpAddr>,
}

impl Core {
    /// Asks the API of a pod the watch has not shown, if it could matter.
    pub(super) fn look_up(&mut self, attempt: Attempt, asked: &Asked) -> Lookup {
        let (namespace, name) = (&asked.pod.namespace, &asked.pod.name);
        let known = self.pod_of(asked, None).is_some() && self.cluster.namespaces.contains_key(namespace);
        let away = matches!(self.cluster.api, Some(Err(_)));
        if namespace.is_empty() || name.is_empty() || known || away || !self.choice_matters() {
            return Lookup::No;
        }
        self.effects.push(Effect::LookUp { attempt, namespace: namespace.clone(), name: name.clone() });
        Lookup::Asked
    }

    /// The API has answered, or not in time.
    pub fn looked_up(&mut self, attempt: Attempt, learned: Learned, now: std::time::Instant) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.attempt == attempt) {
            waiting.lookup = Lookup::Done(Box::new(learned));
        }
        self.retry_waiting(now);
    }

    /// Whether pods here may have addresses of different pools, or fixed ones, as far as is known.
    fn choice_matters(&self) -> bool {
        let asks = |wishes: &Result<Wishes, _>| !wishes.as_ref().is_ok_and(Wishes::is_empty);
        let several = Family::ALL.iter().any(|family| {
            self.pools().iter().filter(|pool| pool.family() == *family && pool.hands_out()).count() > 1
        });
        several
            || self.pools().iter().any(|pool| pool.namespace_selector.is_some())
            || !self.cluster.reservations.is_empty()
            || self.cluster.pods.values().any(|pod| asks(&pod.wishes))
            || self.cluster.namespaces.values().any(|namespace| asks(&namespace.wishes))
    }

    /// The pod of an ADD: not an earlier one of its name.
    fn pod_of<'a>(&'a self, asked: &Asked, learned: Option<&'a Learned>) -> Option<&'a Pod> {
        let watched = self.cluster.pods.get(&format!("{}/{}", asked.pod.namespace, asked.pod.name));
        let same = |pod: &&Pod| asked.pod.uid.is_empty() || pod.uid == asked.pod.uid;
        let learned = || learned.and_then(|learned| learned.pod.as_ref()).filter(same);
        watched.filter(same).or_else(learned)
    }

    /// The pools of an ADD's pod, and the addresses asked for: by the runtime, else by the pod's annotation.
    pub(super) fn choose(&self, waiting: &Waiting) -> Result<Choice, Refusal> {
        let asked = &waiting.asked;
        let learned = match &waiting.lookup {
            Lookup::No => None,
            Lookup::Done(learned) => Some(&**learned),
            Lookup::Asked if self.pod_of(asked, None).is_some() => None,
            Lookup::Asked => {
                let why = "the pod's annotations are being read from the Kubernetes API";
                return Err(Refusal::try_again(why, "the runtime tries again"));
            }
        };
        let bad = |error: String| Refusal {
            code: Refusal::NO_SUCH_POOL,
            message: error,
            details: "annotations of the pod and its namespace choose its addresses".to_owned(),
        };
        let nothing = Wishes::default();
        let (pod, namespace) =
            (self.pod_of(asked, learned), self.cluster.namespaces.get(&asked.pod.namespace));
        let namespace = namespace.or_else(|| learned.and_then(|learned| learned.namespace.as_ref()));
        let pod =
            pod.map_or(Ok(&nothing), |pod| pod.wishes.as_ref()).map_err(|error| bad(error.to_string()))?;
        let (labels, wishes) = match namespace {
            Some(namespace) => (Some(&namespace.labels), namespace.wishes.as_ref()),
            None => (None, Ok(&nothing)),
        };
        let wishes = wishes.map_err(|error| bad(error.to_string()))?;
        let usable: Vec<&Pool> = self.pools().iter().filter(|pool| self.is_for(pool, labels)).collect();
        let mut pools = choose(&usable, pod, wishes).map_err(|error| bad(error.to_string()))?;
        let ips = if asked.ips.is_empty() { pod.ips.clone() } else { asked.ips.clone() };
        // A fixed address may be of any pool this pod may have addresses of.
        for pool in usable {
            let wanted = ips.iter().any(|address| pool.cidr.contains(*address));
            if wanted && pool.hands_out() && !pools.contains(pool) {
                pools.push(pool.clone());
            }
        }
        Ok(Choice { pools, ips })
    }

    /// Whether a pool is for pods of a namespace with these labels; of one nobody knows, if it is for all.
    fn is_for(&self, pool: &Pool, labels: Option<&BTreeMap<String, String>>) -> bool {
        match (&pool.namespace_selector, labels) {
            (None, _) => true,
            (Some(_), Some(labels)) => self.cluster.serves(pool, labels),
            (Some(_), None) => false,
        }
    }

    /// The block to claim for an address that a pod asks for, or why it cannot have it.
    pub(super) fn block_for(&self, address: IpAddr, pools: &[Pool]) -> Result<(Want, Vec<Pool>), String> {
        let pool = pools.iter().find(|pool| pool.cidr.contains(address));
        let found = pool.and_then(|pool| Some((pool, pool.block_of(address)?)));
        let Some((pool, block)) = found else {
            return Err(format!(
                "{address} cannot be given: no IPPool that this pod may have addresses of holds it"
            ));
        };
        let across = |other: &BlockCidr| other.cidr().overlaps(block.cidr());
        let mut owned = self.cluster.blocks.values().filter(|other| across(&other.claim.cidr));
        if let Some(other) = owned.find(|other| other.claim.node != self.me) {
            let (cidr, node) = (other.claim.cidr, &other.claim.node);
            return Err(format!("{address} cannot be given: block {cidr} belongs to node {node}"));
        }
        let want = Want { family: pool.family(), pools: vec![pool.name.clone()], block: Some(block) };
        Ok((want, vec![pool.clone()]))
    }
}
