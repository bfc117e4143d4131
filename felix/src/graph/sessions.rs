//! Whom this node speaks BGP with, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use manx_bgp::api::{
    Config, GracefulRestart, Match, Network, Outcome, PeerConfig, Policy, PrefixRange, Rule, Then,
};
use manx_bgp::types::{Family, Prefix, RouterId};

use super::desired::{Problem, Speaking};
use crate::model::{BgpConfig, Node, Peer};

/// Upper bound of the speaker's ConnectRetry timer, in seconds: a neighbour that came back is found within this.
const CONNECT_RETRY: u16 = 5;

/// Learned routes stay in the kernel while the speaker is away (see `speaker`), so neighbours may keep sending: for
/// as long as a container may take to be started again, its image pulled.
const GRACEFUL_RESTART: GracefulRestart = GracefulRestart {
    restart_time: 120,
    preserve_forwarding: true,
    long_lived_stale_time: 0,
    long_lived_limit: None,
};

/// What sessions are computed from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// This node's name.
    pub me: &'a str,
    /// Every node of the cluster.
    pub nodes: &'a BTreeMap<String, Node>,
    /// None: what is configured cannot be used, and nothing better was ever known.
    pub bgp: Option<&'a BgpConfig>,
    /// Every neighbour outside the mesh, for any node.
    pub peers: &'a BTreeMap<String, Peer>,
    /// Blocks this node owns.
    pub blocks: &'a BTreeSet<Prefix>,
    /// Ranges whose blocks are not announced.
    pub unexported: &'a BTreeSet<Prefix>,
    /// Parts of them that belong to other nodes, which announce them.
    pub parts: &'a BTreeSet<Prefix>,
}

/// The speaker's orders as these inputs want them.
pub fn speaking(inputs: Inputs<'_>) -> Speaking {
    let (Some(node), Some(bgp)) = (inputs.nodes.get(inputs.me), inputs.bgp) else {
        return Speaking::default();
    };
    let own: Vec<IpAddr> = Family::ALL.into_iter().filter_map(|family| node.address(family)).collect();
    if own.is_empty() {
        let message = "has no InternalIP: this node speaks with nobody until it has one".to_owned();
        let object = format!("Node/{}", inputs.me);
        return Speaking { orders: None, problems: vec![Problem { object, message }] };
    }
    let mut table = Table { node, own, bgp, inputs, peers: BTreeMap::new(), problems: Vec::new() };
    if bgp.mesh {
        table.mesh();
    }
    table.neighbours();
    table.finish()
}

struct Table<'a> {
    node: &'a Node,
    own: Vec<IpAddr>,
    bgp: &'a BgpConfig,
    inputs: Inputs<'a>,
    peers: BTreeMap<IpAddr, PeerConfig>,
    problems: Vec<Problem>,
}

impl Table<'_> {
    /// One session a pair of nodes: over IPv4 where both have it, else over IPv6.
    fn mesh(&mut self) {
        let inputs = self.inputs;
        for (name, other) in inputs.nodes.iter().filter(|(name, _)| *name != inputs.me) {
            let shared = Family::ALL.into_iter().find_map(|family| {
                self.node.address(family)?;
                other.address(family)
            });
            match shared {
                Some(address) => {
                    self.add(format!("Node/{name}"), self.peer(name, address, self.bgp.listen_port));
                }
                None => self.problem(
                    format!("Node/{name}"),
                    "has no InternalIP of a family this node has: no session with it".to_owned(),
                ),
            }
        }
    }

    /// BGPPeers that select this node, by name; the mesh is there first.
    fn neighbours(&mut self) {
        let inputs = self.inputs;
        for (name, wanted) in inputs.peers.iter().filter(|(_, peer)| peer.nodes.matches(&self.node.labels)) {
            let mut peer = self.peer(name, wanted.address, wanted.port);
            peer.asn = wanted.asn;
            peer.hold_time = wanted.hold_time.unwrap_or(self.bgp.hold_time);
            self.add(format!("BGPPeer/{name}"), peer);
        }
    }

    /// A session with a node of the cluster; a neighbour outside it differs in little.
    fn peer(&self, name: &str, address: IpAddr, port: u16) -> PeerConfig {
        let family = Family::of(address);
        PeerConfig {
            port,
            name: name.to_owned(),
            families: self.own.iter().copied().map(Family::of).collect(),
            local_address: self.node.address(family),
            next_hops: self.own.iter().copied().filter(|own| Family::of(*own) != family).collect(),
            hold_time: self.bgp.hold_time,
            connect_retry: CONNECT_RETRY,
            import: Some(self.import()),
            export: Some(Policy::originated()),
            accept_default_route: true,
            graceful_restart: GRACEFUL_RESTART,
            ..PeerConfig::new(address, self.bgp.asn)
        }
    }

    /// Everything but our own blocks; parts of them that belong to others are theirs to announce.
    fn import(&self) -> Policy {
        let mut policy = Policy::accept_except("our own blocks", self.inputs.blocks.iter().copied());
        if !self.inputs.parts.is_empty() {
            let prefixes = self.inputs.parts.iter().copied().map(PrefixRange::inside).collect();
            let parts = Rule {
                name: "parts of our own blocks".to_owned(),
                matches: Match { prefixes, ..Match::default() },
                then: Then { verdict: Outcome::Accept, ..Then::default() },
            };
            policy.rules.insert(0, parts);
        }
        policy
    }

    fn add(&mut self, object: String, peer: PeerConfig) {
        if self.own.contains(&peer.address) {
            let message = format!("{} is this node's own address: no session with it", peer.address);
            self.problem(object, message);
        } else if let Some(first) = self.peers.get(&peer.address) {
            let message =
                format!("{} is already the neighbour {}: this one is not used", peer.address, first.name);
            self.problem(object, message);
        } else {
            self.peers.insert(peer.address, peer);
        }
    }

    fn problem(&mut self, object: String, message: String) {
        self.problems.push(Problem { object, message });
    }

    fn exported(&self, block: &Prefix) -> bool {
        !self.inputs.unexported.iter().any(|range| range.covers(*block))
    }

    fn finish(mut self) -> Speaking {
        self.problems.sort_unstable();
        let families: BTreeSet<Family> =
            self.own.iter().chain(self.peers.keys()).copied().map(Family::of).collect();
        let listen = families.into_iter().map(|family| {
            let any = match family {
                Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            SocketAddr::new(any, self.bgp.listen_port)
        });
        let network = |prefix: &Prefix| Network { prefix: *prefix, communities: Vec::new() };
        let networks = self.inputs.blocks.iter().filter(|block| self.exported(block)).map(network).collect();
        let config = Config {
            listen: listen.collect(),
            peers: self.peers.into_values().collect(),
            networks,
            ..Config::new(self.bgp.asn, router_id(self.inputs.me, self.node))
        };
        Speaking { orders: Some(config), problems: self.problems }
    }
}

/// The IPv4 InternalIP; a node without one takes a hash of its name (FNV-1a), the same after every restart.
fn router_id(name: &str, node: &Node) -> RouterId {
    let hash = || {
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Ipv4Addr::from(hash.max(1))
    };
    RouterId(node.ipv4.unwrap_or_else(hash))
}
