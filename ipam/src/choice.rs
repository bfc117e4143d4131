//! Which pools a pod has its addresses of: what it and its namespace ask for, and what the pools are meant for.
//!
//! For each family alone, the first of these that says something of it:
//!
//! 1. the pod's annotation `manx.io/ip-pools`: names of pools, of either family, in order of preference;
//! 2. the same annotation of its namespace;
//! 3. the pools that select it: of its namespace before those of every namespace, of its node before those of every
//!    node, then by name. Where a pool selects the namespace, the pools of every namespace are not among them.
//!
//! What is named must be usable: its node and namespace selectors hold for who names it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Family;
use crate::pool::Pool;

/// Names of pools, as `["web-v4","web-v6"]` or `web-v4, web-v6`.
pub const IP_POOLS: &str = "manx.io/ip-pools";

/// Fixed addresses of a pod, at most one a family, as `["10.244.3.7"]` or `10.244.3.7, fd00::7`.
pub const IPS: &str = "manx.io/ips";

/// Calico's, understood where ours is not there; a pool's range is as good as its name.
const CALICO_POOLS: [(&str, Family); 2] =
    [("cni.projectcalico.org/ipv4pools", Family::Ipv4), ("cni.projectcalico.org/ipv6pools", Family::Ipv6)];

/// Calico's [`IPS`].
const CALICO_IPS: &str = "cni.projectcalico.org/ipAddrs";

/// What a pod's or a namespace's annotations ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Names or ranges of pools, in order; with a family, it is about no other.
    pools: Vec<(String, Option<Family>)>,
    /// Fixed addresses; of a namespace without meaning.
    pub ips: Vec<IpAddr>,
}

/// An annotation that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// It begins as a JSON list and is none.
    #[error("annotation {0}: \"{1}\" is not a list of texts: write [\"a\",\"b\"] or a, b")]
    List(&'static str, String),
    /// Not an address.
    #[error("annotation {0}: \"{1}\" is not an IP address")]
    Address(&'static str, String),
    /// Two of one family.
    #[error("annotation {0} names two {1} addresses: a pod has one of each family")]
    Two(&'static str, Family),
}

/// Why a pod's choice of pools cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No such pool here.
    #[error(
        "IPPool \"{0}\", which an annotation of this pod or its namespace names, hands out no addresses to it here: it is not \
         there, disabled, not for pods, or its nodeSelector or namespaceSelector does not select"
    )]
    NotUsable(String),
}

impl Wishes {
    /// What these annotations ask for; others than ours and Calico's are passed over.
    ///
    /// # Errors
    /// When one cannot be meant.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, WishError> {
        let listed = |name: &'static str| annotations.get(name).map(|text| list(name, text)).transpose();
        let pools = match listed(IP_POOLS)? {
            Some(names) => names.into_iter().map(|name| (name, None)).collect(),
            None => {
                let mut pools = Vec::new();
                for (annotation, family) in CALICO_POOLS {
                    let names = listed(annotation)?.unwrap_or_default();
                    pools.extend(names.into_iter().map(|name| (name, Some(family))));
                }
                pools
            }
        };
        let (annotation, texts) = match listed(IPS)? {
            Some(texts) => (IPS, texts),
            None => (CALICO_IPS, listed(CALICO_IPS)?.unwrap_or_default()),
        };
        let mut ips: Vec<IpAddr> = Vec::new();
        for text in texts {
            let address: IpAddr = text.parse().map_err(|_| WishError::Address(annotation, text))?;
            if ips.iter().any(|other| Family::of(*other) == Family::of(address)) {
                return Err(WishError::Two(annotation, Family::of(address)));
            }
            ips.push(address);
        }
        Ok(Self { pools, ips })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.ips.is_empty()
    }

    /// Names or ranges of the pools asked for, but those that are for another family by their annotation.
    pub fn pool_names(&self, family: Family) -> Vec<&str> {
        let of = self.pools.iter().filter(|(_, of)| of.is_none_or(|of| of == family));
        of.map(|(name, _)| name.as_str()).collect()
    }

    /// The pools asked for of one family, in order.
    fn pools<'a>(&self, family: Family, usable: &[&'a Pool]) -> Result<Vec<&'a Pool>, ChoiceError> {
        let mut found = Vec::new();
        for (wish, of) in &self.pools {
            match usable.iter().find(|pool| pool.is_called(wish)) {
                Some(pool) if pool.family() == family => found.push(*pool),
                Some(_) => {}
                None if of.is_none_or(|of| of == family) => {
                    return Err(ChoiceError::NotUsable(wish.clone()));
                }
                None => {}
            }
        }
        Ok(found)
    }
}

/// The pools a pod has its addresses of, in the order they are tried: of each family one is enough. `usable` are those
/// that select its node and its namespace.
///
/// # Errors
/// When an annotation names a pool that is not among them, or hands nothing out.
pub fn choose(usable: &[&Pool], pod: &Wishes, namespace: &Wishes) -> Result<Vec<Pool>, ChoiceError> {
    let usable: Vec<&Pool> = usable.iter().copied().filter(|pool| pool.hands_out()).collect();
    let mut chosen = Vec::new();
    for family in Family::ALL {
        let mut pools = pod.pools(family, &usable)?;
        if pools.is_empty() {
            pools = namespace.pools(family, &usable)?;
        }
        if pools.is_empty() {
            pools = selecting(family, &usable);
        }
        let mut seen = BTreeSet::new();
        chosen.extend(pools.into_iter().filter(|pool| seen.insert(pool.name.clone())).cloned());
    }
    Ok(chosen)
}

/// What a pod of a family gets that asks for nothing.
fn selecting<'a>(family: Family, usable: &[&'a Pool]) -> Vec<&'a Pool> {
    let mut pools: Vec<&Pool> = usable.iter().copied().filter(|pool| pool.family() == family).collect();
    let own = pools.iter().any(|pool| pool.namespace_selector.is_some());
    pools.retain(|pool| pool.namespace_selector.is_some() == own);
    pools.sort_by(|a, b| b.specificity().cmp(&a.specificity()).then_with(|| a.name.cmp(&b.name)));
    pools
}

/// The texts of an annotation's value, as `["a","b"]` or `a, b`.
///
/// # Errors
/// When it begins as a JSON list and is none.
pub fn list(annotation: &'static str, text: &str) -> Result<Vec<String>, WishError> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|_| WishError::List(annotation, text.to_owned()));
    }
    Ok(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;

    fn pool(name: &str, cidr: &str) -> Pool {
        Pool::new(name, cidr.parse().unwrap(), if cidr.contains(':') { 122 } else { 26 })
    }

    fn wishes(annotations: &[(&str, &str)]) -> Result<Wishes, WishError> {
        let annotations = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Wishes::read(&annotations.collect())
    }

    fn chosen(
        pools: &[Pool],
        pod: &[(&str, &str)],
        namespace: &[(&str, &str)],
    ) -> Result<String, ChoiceError> {
        let pools: Vec<&Pool> = pools.iter().collect();
        let chosen = choose(&pools, &wishes(pod).unwrap(), &wishes(namespace).unwrap())?;
        Ok(chosen.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    fn pools() -> Vec<Pool> {
        let selector = Some(LabelSelector::default());
        vec![
            pool("b", "10.1.0.0/16"),
            pool("a", "10.0.0.0/16"),
            Pool { node_selector: selector, ..pool("rack", "10.2.0.0/16") },
            pool("six", "fd00::/64"),
            Pool { disabled: true, ..pool("off", "10.3.0.0/16") },
            Pool { for_pods: false, ..pool("services", "10.4.0.0/16") },
        ]
    }

    #[test]
    fn the_most_specific_pool_comes_first_and_then_the_first_by_name() {
        assert_eq!(chosen(&pools(), &[], &[]).unwrap(), "rack a b six");
        let mut pools = pools();
        pools
            .push(Pool { namespace_selector: Some(LabelSelector::default()), ..pool("team", "10.5.0.0/16") });
        assert_eq!(chosen(&pools, &[], &[]).unwrap(), "team six", "a namespace's own pool is its only one");
    }

    #[test]
    fn a_pods_annotation_comes_before_its_namespaces_family_by_family() {
        assert_eq!(chosen(&pools(), &[(IP_POOLS, "b, a")], &[(IP_POOLS, "[\"a\"]")]).unwrap(), "b a six");
        assert_eq!(chosen(&pools(), &[(IP_POOLS, "six")], &[(IP_POOLS, "[\"b\"]")]).unwrap(), "b six");
        assert_eq!(chosen(&pools(), &[(IP_POOLS, "a,a")], &[]).unwrap(), "a six");
    }

    #[test]
    fn calicos_annotations_name_pools_by_name_or_range_and_ours_come_first() {
        let calico = ("cni.projectcalico.org/ipv4pools", "[\"10.1.0.0/16\"]");
        assert_eq!(chosen(&pools(), &[calico], &[]).unwrap(), "b six");
        assert_eq!(chosen(&pools(), &[calico, (IP_POOLS, "a")], &[]).unwrap(), "a six");
        let six = wishes(&[("cni.projectcalico.org/ipAddrs", "[\"10.0.0.7\",\"fd00::7\"]")]).unwrap();
        assert_eq!(six.ips.len(), 2);
    }

    #[test]
    fn a_pool_that_is_named_and_cannot_be_used_is_said_not_replaced() {
        for name in ["nowhere", "off", "services"] {
            let error = chosen(&pools(), &[(IP_POOLS, name)], &[]).unwrap_err();
            assert_eq!(error, ChoiceError::NotUsable(name.to_owned()));
            assert!(error.to_string().contains("disabled"), "{error}");
        }
    }

    #[test]
    fn an_annotation_that_cannot_be_meant_is_refused_in_words() {
        for (annotation, text, words) in [
            (
                IP_POOLS,
                "[\"a\"",
                "annotation manx.io/ip-pools: \"[\"a\"\" is not a list of texts: write [\"a\",\"b\"] or a, b",
            ),
            (IPS, "web", "annotation manx.io/ips: \"web\" is not an IP address"),
            (
                IPS,
                "10.0.0.1, 10.0.0.2",
                "annotation manx.io/ips names two IPv4 addresses: a pod has one of each family",
            ),
        ] {
            assert_eq!(wishes(&[(annotation, text)]).unwrap_err().to_string(), words);
        }
        assert!(wishes(&[("example.com/ips", "nonsense")]).unwrap().is_empty());
    }
}
