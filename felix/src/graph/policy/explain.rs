//! Why a packet between two ends passes or not, on both ends: by the chains and rules that are in force here, and for
//! pods of other nodes by those their nodes compile from the same objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use serde::{Deserialize, Serialize};

use super::compile::compile;
use super::pods::Known;
use super::sets::{Description, within};
use super::{Attached, Policies};
use crate::acl::evaluate::{Flow, Reason, Sets, Transport, Verdict, judge};
use crate::acl::ruleset::{
    Chain, Direction, Ifname, Policy as Compiled, PolicyId, Port, Protocol, SetId, Tier,
};
use crate::model::policy::{Peer, PolicyName};

/// IP protocol numbers of a ping, by family.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Who sends.
    pub from: End,
    /// Who receives.
    pub to: End,
    /// To which port; none: a ping.
    pub port: Option<(Protocol, u16)>,
}

/// An end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// A pod by `namespace/name`: each of its addresses.
    Pod(String),
    /// An address, of a pod or not.
    Address(IpAddr),
}

/// The answer for one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The packet.
    pub flow: Flow,
    /// Whether it arrives, as far as policies decide.
    pub passes: bool,
    /// Who sends it.
    pub from: Party,
    /// Who receives it.
    pub to: Party,
}

/// Who an address is, and what is said of the packet on its side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Party {
    /// `namespace/name`; none: no pod that policies know.
    pub pod: Option<String>,
    /// The pod's node, or the node whose address it is.
    pub node: Option<String>,
    /// Of its egress or ingress chain; none: no policy can be about it.
    pub verdict: Option<Verdict>,
}

impl Policies {
    /// Answers for each family both ends have.
    ///
    /// # Errors
    /// In words, when an end is not known or they have no family in common.
    pub fn explain(&self, question: &Question) -> Result<Vec<Explanation>, String> {
        let (sources, destinations) = (self.addresses_of(&question.from)?, self.addresses_of(&question.to)?);
        let mut explained = Vec::new();
        for source in sources {
            for destination in destinations.iter().filter(|address| address.is_ipv4() == source.is_ipv4()) {
                let ping = if source.is_ipv4() { ICMP } else { ICMPV6 };
                let transport = match question.port {
                    Some((protocol, port)) => Transport::Port(protocol, port),
                    None => Transport::Other(ping),
                };
                explained.push(self.explain_flow(Flow { source, destination: *destination, transport }));
            }
        }
        if explained.is_empty() {
            return Err("the two ends have no address family in common".to_owned());
        }
        Ok(explained)
    }

    fn addresses_of(&self, end: &End) -> Result<Vec<IpAddr>, String> {
        match end {
            End::Address(address) => Ok(vec![*address]),
            End::Pod(name) => {
                let known = self.pods.get(name).ok_or_else(|| {
                    format!(
                        "no pod {name} that policies can be about: it does not exist, has ended, or uses its node's \
                         network (then name the node's address)"
                    )
                })?;
                let addresses = self.pods.addresses_of(known).to_vec();
                if addresses.is_empty() {
                    Err(format!("pod {name} has no address yet"))
                } else {
                    Ok(addresses)
                }
            }
        }
    }

    fn explain_flow(&self, flow: Flow) -> Explanation {
        let who = |address| (self.endpoint_of(address), self.pods.owner(address).map(|pod| &pod.name));
        let same = who(flow.source) != (None, None) && who(flow.source) == who(flow.destination);
        let from = self.party(flow, Direction::Egress, same);
        let to = self.party(flow, Direction::Ingress, same);
        let passes =
            [&from, &to].iter().all(|party| party.verdict.as_ref().is_none_or(|verdict| verdict.passes));
        Explanation { flow, passes, from, to }
    }

    fn party(&self, flow: Flow, direction: Direction, same: bool) -> Party {
        let (mine, other) = match direction {
            Direction::Egress => (flow.source, flow.destination),
            Direction::Ingress => (flow.destination, flow.source),
        };
        let node_of = |address: IpAddr| {
            self.nodes
                .iter()
                .find(|(_, node)| node.addresses.contains(&address))
                .map(|(name, _)| Arc::clone(name))
        };
        let endpoint = self.endpoint_of(mine).and_then(|ifname| self.endpoints.get_key_value(ifname));
        let (pod, node, chain) = match (endpoint, self.pods.owner(mine)) {
            (Some((ifname, attached)), _) => {
                let shown = self.shown.get(ifname).map(|endpoint| match direction {
                    Direction::Egress => Arc::clone(&endpoint.egress),
                    Direction::Ingress => Arc::clone(&endpoint.ingress),
                });
                (attached.pod.clone(), Some(Arc::clone(&self.me)), shown)
            }
            (None, Some(known)) => {
                let chain = self.chain_elsewhere(known, direction);
                (Some(Arc::clone(&known.name)), Some(Arc::clone(&known.node)), Some(chain))
            }
            (None, None) => (None, node_of(mine), None),
        };
        let certain = |by| Verdict { passes: true, by, audited: Vec::new() };
        let own_node = node.is_some() && self.pods.owner(other).is_none() && node_of(other) == node;
        let verdict = chain.map(|chain| match direction {
            _ if same => certain(Reason::Itself),
            Direction::Ingress if own_node => certain(Reason::OwnNode),
            Direction::Ingress | Direction::Egress => self.walk(&chain, &flow, direction, own_node),
        });
        Party { pod: pod.map(|pod| pod.to_string()), node: node.map(|node| node.to_string()), verdict }
    }

    fn endpoint_of(&self, address: IpAddr) -> Option<&Ifname> {
        self.endpoints
            .iter()
            .find(|(_, attached)| attached.addresses.contains(&address))
            .map(|(ifname, _)| ifname)
    }

    /// What the node of a pod judges it by.
    fn chain_elsewhere(&self, known: &Known, direction: Direction) -> Arc<Chain> {
        let attached = Attached {
            pod: Some(Arc::clone(&known.name)),
            uid: Arc::clone(&known.uid),
            addresses: self.pods.addresses_of(known).into_iter().collect(),
            restored: false,
        };
        let endpoint = self.judge(&attached);
        match direction {
            Direction::Egress => endpoint.egress,
            Direction::Ingress => endpoint.ingress,
        }
    }

    fn walk(&self, chain: &Chain, flow: &Flow, direction: Direction, own_node: bool) -> Verdict {
        let mut meanings = Meanings { policies: self, sets: BTreeMap::new() };
        let mut compiled: BTreeMap<&PolicyId, Compiled> = BTreeMap::new();
        for id in chain.policies() {
            let name = match id.tier {
                Tier::Network => PolicyName::Network(Arc::clone(&id.name)),
                Tier::Admin | Tier::Baseline => PolicyName::Cluster(Arc::clone(&id.name)),
            };
            let Some(policy) = self.policies.get(&name) else { continue };
            let named = compile(policy, direction, self.mode(policy), |what| meanings.name(what));
            compiled.insert(id, named);
        }
        judge(chain, flow, direction, own_node, |id| compiled.get(id), &meanings)
    }
}

/// What sets hold, asked of the pods themselves.
struct Meanings<'a> {
    policies: &'a Policies,
    sets: BTreeMap<SetId, Arc<Description>>,
}

impl Meanings<'_> {
    fn name(&mut self, what: Description) -> Vec<SetId> {
        let what = Arc::new(what);
        let (kind, digest) = (what.kind(), what.digest());
        let ids: Vec<SetId> = Family::ALL.map(|family| SetId { kind, family, digest }).into_iter().collect();
        self.sets.extend(ids.iter().map(|id| (*id, Arc::clone(&what))));
        ids
    }

    fn selects(&self, what: &Description, known: &Known) -> bool {
        let kind = &known.kind;
        let namespace = self.policies.namespaces.get(&kind.namespace).map(|namespace| &namespace.labels);
        what.selector().is_none_or(|selector| selector.matches(&kind.namespace, namespace, &kind.labels))
    }

    fn pod(&self, address: IpAddr) -> Option<&Known> {
        self.policies.pods.owner(address)
    }
}

impl Sets for Meanings<'_> {
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool {
        match self.sets.get(set).map(|what| &**what) {
            Some(what @ Description::Peer(Peer::Pods(_))) => {
                self.pod(address).is_some_and(|known| self.selects(what, known))
            }
            Some(what @ Description::Peer(Peer::Nodes(_))) => self.policies.nodes_in(what).contains(&address),
            Some(Description::Peer(Peer::Networks(ranges))) => within(ranges, address),
            Some(Description::Ports { .. }) | None => false,
        }
    }

    fn has_port(&self, set: &SetId, port: Port) -> bool {
        let Some(what) = self.sets.get(set) else { return false };
        let is_it = |known: &Known| {
            let mut ports = known.kind.ports.iter();
            ports.any(|named| what.means(named) && (named.protocol, named.port) == (port.protocol, port.port))
        };
        // The packet goes to it, so it is an endpoint of its node.
        let here = true;
        what.admits(port.address, here)
            && self.pod(port.address).is_some_and(|known| is_it(known) && self.selects(what, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::ruleset::Ruleset;
    use crate::graph::policy::tests::world::{World, addresses, ifname, world};

    /// Here it says what the rules in force say, whoever asks.
    #[test]
    fn an_explanation_is_what_the_ruleset_does() {
        let mut compared = 0;
        for seed in 1..60 {
            let world = world(seed);
            let mut policies = Policies::new("n1");
            World::default().towards(&world).into_iter().for_each(|input| policies.apply(input));
            let mut ruleset = Ruleset::default();
            ruleset.apply(policies.flush());
            for source in addresses() {
                for destination in
                    addresses().into_iter().filter(|address| address.is_ipv4() == source.is_ipv4())
                {
                    let from = world
                        .attached
                        .iter()
                        .find(|(_, held)| held.contains(&source))
                        .map(|(name, _)| ifname(name));
                    for port in [(Protocol::Tcp, 80), (Protocol::Udp, 81)] {
                        let question = Question {
                            from: End::Address(source),
                            to: End::Address(destination),
                            port: Some(port),
                        };
                        let explained = policies.explain(&question).unwrap().remove(0);
                        for (direction, verdict) in ruleset.judge(from.as_ref(), &explained.flow) {
                            let party = match direction {
                                Direction::Egress => &explained.from,
                                Direction::Ingress => &explained.to,
                            };
                            assert_eq!(party.verdict.as_ref(), Some(&verdict), "world {seed}, {explained:?}");
                            compared += 1;
                        }
                    }
                }
            }
        }
        assert!(compared > 10_000, "{compared}");
    }

    #[test]
    fn who_is_not_known_is_said_in_words() {
        let policies = Policies::new("n1");
        let question =
            Question { from: End::Pod("x/a".into()), to: End::Address([10, 0, 0, 1].into()), port: None };
        assert!(
            policies.explain(&question).unwrap_err().starts_with("no pod x/a that policies can be about")
        );
        let question = Question {
            from: End::Address("fd00::1".parse().unwrap()),
            to: End::Address([10, 0, 0, 1].into()),
            port: None,
        };
        assert_eq!(policies.explain(&question).unwrap_err(), "the two ends have no address family in common");
    }
}
