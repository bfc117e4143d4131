//! Whom this node speaks BGP with, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use manx_bgp::api::{Config, Network, PeerConfig, Policy, Range, RangeId, Secret, TcpAoKey};
use manx_bgp::types::{Asn, Family, Prefix, RouterId, ScopedAddr};

use super::desired::{Problem, Speaking};
use super::policies::{self, Export};
use super::reflectors::Topology;
use super::services::Services;
use crate::model::{BgpConfig, Filter, Mesh, Neighbour, Node, Peer, SecretKey, Source, TcpAo};
use crate::watch::{Keys, bgp};

/// Octets of a password the kernel takes (TCP_MD5SIG_MAXKEYLEN of linux/tcp.h).
const MAX_PASSWORD: usize = 80;

/// What sessions are computed from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// This node's name.
    pub me: &'a str,
    /// Every node of the cluster.
    pub nodes: &'a BTreeMap<String, Arc<Node>>,
    /// None: what is configured cannot be used, and nothing better was ever known.
    pub bgp: Option<&'a BgpConfig>,
    /// Every neighbour outside the mesh, for any node.
    pub peers: &'a BTreeMap<String, Peer>,
    /// What neighbours may tell and are told.
    pub filters: &'a BTreeMap<String, Filter>,
    /// Secrets that have been read.
    pub secrets: &'a BTreeMap<String, Known>,
    /// With whom of its AS this node peers, where the mesh is `Auto`.
    pub topology: &'a Topology,
    /// Blocks this node owns.
    pub blocks: &'a BTreeSet<Prefix>,
    /// Ranges whose blocks are not announced.
    pub unexported: &'a BTreeSet<Prefix>,
    /// Parts of them that belong to other nodes, which announce them.
    pub parts: &'a BTreeSet<Prefix>,
    /// Services, and which of their addresses this node can serve.
    pub services: &'a Services,
}

/// A Secret as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// As it last was, if it ever was there.
    pub keys: Option<Keys>,
    /// Why it cannot be read now.
    pub fault: Option<String>,
}

/// The speaker's orders as these inputs want them.
pub fn speaking(inputs: Inputs<'_>) -> Speaking {
    let (Some(node), Some(bgp)) = (inputs.nodes.get(inputs.me), inputs.bgp) else {
        return Speaking::default();
    };
    let own: Vec<IpAddr> = Family::ALL.into_iter().filter_map(|family| node.address(family)).collect();
    let object = || format!("Node/{}", inputs.me);
    if own.is_empty() {
        let message = "has no InternalIP: this node speaks with nobody until it has one".to_owned();
        return Speaking { orders: None, problems: vec![Problem { object: object(), message }] };
    }
    let problems = node.faults.iter().map(|fault| Problem { object: object(), message: fault.clone() });
    let mut table = Table {
        node,
        asn: node.asn.unwrap_or(bgp.asn),
        own,
        bgp,
        inputs,
        peers: BTreeMap::new(),
        ranges: BTreeMap::new(),
        cluster: None,
        problems: problems.collect(),
    };
    table.selected_nodes();
    table.mesh();
    table.neighbours();
    table.finish()
}

/// Names of the Secrets this node's sessions need.
pub fn secrets<'a>(inputs: Inputs<'a>) -> BTreeSet<&'a str> {
    let (Some(node), Some(bgp)) = (inputs.nodes.get(inputs.me), inputs.bgp) else { return BTreeSet::new() };
    let concerned = inputs.peers.values().filter(|peer| {
        let by_peer = match &peer.neighbour {
            Neighbour::Nodes { selector, .. } => selector.matches(&node.labels),
            Neighbour::One | Neighbour::Range { .. } => false,
        };
        by_peer || peer.nodes.matches(&node.labels)
    });
    let keys =
        concerned.flat_map(|peer| peer.password.iter().chain(peer.tcp_ao.iter().map(|key| &key.secret)));
    let mesh = bgp.password.iter().filter(|_| bgp.mesh != Mesh::None);
    keys.chain(mesh).map(|key| key.name.as_str()).collect()
}

/// What guards a session.
#[derive(Clone)]
struct Keyring {
    password: Option<Secret>,
    tcp_ao: Vec<TcpAoKey>,
}

impl Keyring {
    fn put(self, peer: &mut PeerConfig) {
        (peer.password, peer.tcp_ao) = (self.password, self.tcp_ao);
    }
}

fn keys(peer: &PeerConfig) -> (&Option<Secret>, &Vec<TcpAoKey>) {
    (&peer.password, &peer.tcp_ao)
}

fn is_unguarded(peer: &PeerConfig) -> bool {
    peer.password.is_none() && peer.tcp_ao.is_empty()
}

struct Table<'a> {
    node: &'a Node,
    asn: Asn,
    own: Vec<IpAddr>,
    bgp: &'a BgpConfig,
    inputs: Inputs<'a>,
    peers: BTreeMap<ScopedAddr, PeerConfig>,
    ranges: BTreeMap<RangeId, Range>,
    /// What this node calls its cluster as a reflector, and the BGPPeer that says so.
    cluster: Option<(RouterId, &'a str)>,
    problems: Vec<Problem>,
}

impl<'a> Table<'a> {
    /// Nodes that BGPPeers name as neighbours, in order of the BGPPeer's name: both ends have the session.
    fn selected_nodes(&mut self) {
        let inputs = self.inputs;
        for (name, wanted) in inputs.peers {
            let Neighbour::Nodes { selector, cluster } = &wanted.neighbour else { continue };
            let selects = |node: &Node| (wanted.nodes.matches(&node.labels), selector.matches(&node.labels));
            let (calling, called) = selects(self.node);
            if !calling && !called {
                continue;
            }
            let object = format!("BGPPeer/{name}");
            let reflects = called && cluster.is_some();
            if let Some(cluster) = cluster.filter(|_| reflects) {
                self.call_cluster(cluster, name);
            }
            let Ok(keys) = self.keys(&object, wanted) else { continue };
            for (other, node) in inputs.nodes.iter().filter(|(other, _)| *other != inputs.me) {
                let (is_calling, is_called) = selects(node);
                if !(calling && is_called || called && is_calling) {
                    continue;
                }
                let Some(address) = self.shared(other, node) else { continue };
                let mut peer = self.session(wanted, other, Some(address), &object);
                peer.address = address;
                peer.port = self.bgp.listen_port;
                peer.asn = node.asn.unwrap_or(self.bgp.asn);
                peer.local_asn = peer.local_asn.filter(|local| *local != peer.asn);
                keys.clone().put(&mut peer);
                let reflected = reflects && peer.asn == self.asn;
                peer.route_reflector_client = reflected && !is_called;
                self.export_to(&mut peer, wanted, if reflected { Export::Reflected } else { Export::Own });
                self.join(peer);
            }
        }
    }

    /// Of several ways to join two nodes the first says how; of two nodes with one address the second is left out.
    fn join(&mut self, peer: PeerConfig) {
        match self.peers.get(&peer.scoped()) {
            None => _ = self.peers.insert(peer.scoped(), peer),
            Some(first) if first.name == peer.name => {}
            Some(first) => {
                let message =
                    format!("{} is the address of {} already: no session with it", peer.address, first.name);
                self.problem(format!("Node/{}", peer.name), message);
            }
        }
    }

    fn call_cluster(&mut self, cluster: RouterId, name: &'a str) {
        match self.cluster {
            Some((first, of)) if first != cluster => {
                let message = format!(
                    "makes this node a reflector of the cluster {cluster}, and the BGPPeer {of} of {first}: that is its cluster"
                );
                self.problem(format!("BGPPeer/{name}"), message);
            }
            Some(_) => {}
            None => self.cluster = Some((cluster, name)),
        }
    }

    /// One session a pair of nodes, unless a BGPPeer has joined them.
    fn mesh(&mut self) {
        let inputs = self.inputs;
        let (auto, reflecting) = match self.bgp.mesh {
            Mesh::None => return,
            Mesh::Full => (false, false),
            Mesh::Auto { .. } => (true, inputs.topology.reflecting),
        };
        let object = format!("BGPConfiguration/{}", crate::watch::bgp::DEFAULT_CONFIGURATION);
        let password = match &self.bgp.password {
            Some(key) => match self.secret(&object, key) {
                Some(password) => Some(password),
                None => return,
            },
            None => None,
        };
        let import = policies::import(&[], None, inputs.blocks, inputs.parts);
        let export = policies::export(&[], None, if reflecting { Export::Reflected } else { Export::Own });
        let export = policies::without_services(export, &inputs.services.ranges());
        for (name, other) in inputs.nodes.iter().filter(|(name, _)| *name != inputs.me) {
            let asn = other.asn.unwrap_or(self.bgp.asn);
            if auto && (asn != self.asn || !inputs.topology.has(name)) {
                continue;
            }
            let Some(address) = self.shared(name, other) else { continue };
            self.join(PeerConfig {
                address,
                asn,
                port: self.bgp.listen_port,
                bfd: self.bgp.bfd,
                password: password.clone(),
                keepalive: self.bgp.keepalive,
                send_hold_time: self.bgp.send_hold_time,
                // Between nodes that may have to reflect, so that to begin with it bounces no session: what is
                // reflected is the export policy's to say.
                route_reflector_client: auto,
                import: Some(import.clone()),
                export: Some(export.clone()),
                ..self.basis(name, Some(address))
            });
        }
    }

    /// The address another node is called at: IPv4 where both have it, else IPv6.
    fn shared(&mut self, name: &str, other: &Node) -> Option<IpAddr> {
        let shared = Family::ALL.into_iter().find_map(|family| {
            self.node.address(family)?;
            other.address(family)
        });
        let why = match shared {
            None => "has no InternalIP of a family this node has: no session with it".to_owned(),
            Some(address) if self.own.contains(&address) => {
                format!("{address} is this node's own address: no session with it")
            }
            Some(_) => return shared,
        };
        self.problem(format!("Node/{name}"), why);
        None
    }

    /// BGPPeers that select this node, by name; nodes are there first.
    fn neighbours(&mut self) {
        let inputs = self.inputs;
        for (name, wanted) in inputs.peers.iter().filter(|(_, peer)| peer.nodes.matches(&self.node.labels)) {
            let object = format!("BGPPeer/{name}");
            match &wanted.neighbour {
                Neighbour::Nodes { .. } => {}
                Neighbour::One => {
                    let address = Some(wanted.settings.address).filter(|address| !address.is_unspecified());
                    let Ok(keys) = self.keys(&object, wanted) else { continue };
                    let mut peer = self.session(wanted, name, address, &object);
                    keys.put(&mut peer);
                    self.add(object, peer);
                }
                Neighbour::Range { prefix, asns, limit } => {
                    let Ok(keys) = self.keys(&object, wanted) else { continue };
                    let mut settings = self.session(wanted, name, Some(prefix.addr()), &object);
                    keys.put(&mut settings);
                    self.add_range(
                        object,
                        Range { prefix: *prefix, asns: asns.clone(), limit: *limit, settings },
                    );
                }
            }
        }
    }

    /// What every session has of this node: `towards` is where the other end is, none where that is found out on a link.
    fn basis(&self, name: &str, towards: Option<IpAddr>) -> PeerConfig {
        let family = towards.map(Family::of);
        PeerConfig {
            name: name.to_owned(),
            families: self.own.iter().copied().map(Family::of).collect(),
            local_address: family.and_then(|family| self.node.address(family)),
            next_hops: self
                .own
                .iter()
                .copied()
                .filter(|own| family.is_some_and(|f| Family::of(*own) != f))
                .collect(),
            hold_time: self.bgp.hold_time,
            connect_retry: self.bgp.connect_retry,
            graceful_restart: self.bgp.graceful_restart,
            ..PeerConfig::default()
        }
    }

    /// A session as a BGPPeer wants it.
    fn session(&mut self, wanted: &Peer, name: &str, towards: Option<IpAddr>, object: &str) -> PeerConfig {
        // A link-local neighbour is told link-local next hops.
        let towards = towards.filter(|address| !manx_bgp::types::is_link_local(*address));
        let basis = self.basis(name, towards);
        let hold_time = wanted.hold_time.unwrap_or(basis.hold_time);
        let own = &wanted.settings;
        let send_hold_time =
            own.send_hold_time.or(self.bgp.send_hold_time.filter(|seconds| *seconds > hold_time));
        let bad_keepalive = bgp::keepalive(own.keepalive, hold_time).err();
        let bad_send_hold = bgp::send_hold_time(send_hold_time, hold_time).err();
        let mut peer = PeerConfig {
            name: basis.name,
            families: basis.families,
            local_address: basis.local_address.filter(|_| wanted.source == Source::Node),
            next_hops: basis.next_hops,
            hold_time,
            keepalive: own.keepalive.filter(|_| bad_keepalive.is_none()),
            send_hold_time: send_hold_time.filter(|_| bad_send_hold.is_none()),
            connect_retry: wanted.connect_retry.unwrap_or(basis.connect_retry),
            graceful_restart: wanted.graceful_restart.unwrap_or(basis.graceful_restart),
            ..(**own).clone()
        };
        for bad in [bad_keepalive, bad_send_hold].into_iter().flatten() {
            self.problem(object.to_owned(), format!("{bad}: it is not used"));
        }
        if peer.route_reflector_client && matches!(wanted.neighbour, Neighbour::One) && peer.asn != self.asn {
            let message = format!(
                "routeReflectorClient is for neighbours of this node's own {}: nothing is reflected to {}",
                self.asn, peer.asn
            );
            self.problem(object.to_owned(), message);
            peer.route_reflector_client = false;
        }
        if peer.bilateral && matches!(wanted.neighbour, Neighbour::One) && peer.asn == self.asn {
            let message =
                format!("bilateral is for neighbours of other ASes, and this node's own is {}", self.asn);
            self.problem(object.to_owned(), message);
            peer.bilateral = false;
        }
        if matches!(wanted.neighbour, Neighbour::One) && peer.local_asn == Some(peer.asn) {
            peer.local_asn = None;
        }
        let export = if peer.route_reflector_client { Export::Reflected } else { Export::Own };
        let (filters, missing) = self.filters(wanted);
        let inputs = self.inputs;
        peer.import = Some(policies::import(&filters, peer.interface, inputs.blocks, inputs.parts));
        self.export_to(&mut peer, wanted, export);
        if let Some(missing) = missing {
            let message =
                format!("there is no BGPFilter {missing}: nothing is taken nor told until there is");
            self.problem(object.to_owned(), message);
            (peer.import, peer.export) = (Some(Policy::reject()), Some(Policy::reject()));
        }
        peer
    }

    fn export_to(&self, peer: &mut PeerConfig, wanted: &Peer, export: Export) {
        let (filters, missing) = self.filters(wanted);
        if missing.is_none() {
            peer.export = Some(policies::export(&filters, peer.interface, export));
        }
    }

    /// A BGPPeer's filters in order, and the first that is not there.
    fn filters(&self, wanted: &'a Peer) -> (Vec<&'a Filter>, Option<&'a str>)
    where
        Self: 'a,
    {
        let missing = wanted.filters.iter().find(|name| !self.inputs.filters.contains_key(*name));
        let filters = wanted.filters.iter().filter_map(|name| self.inputs.filters.get(name));
        (filters.collect(), missing.map(String::as_str))
    }

    /// What guards a session. `Err`: something should, and it is not known; that is told.
    fn keys(&mut self, object: &str, wanted: &Peer) -> Result<Keyring, ()> {
        let password = match &wanted.password {
            Some(key) => Some(self.secret(object, key).ok_or(())?),
            None => None,
        };
        let mut tcp_ao = Vec::new();
        for TcpAo { send_id, recv_id, algorithm, secret } in &wanted.tcp_ao {
            let secret = self.secret(object, secret).ok_or(())?;
            tcp_ao.push(TcpAoKey { send_id: *send_id, recv_id: *recv_id, algorithm: *algorithm, secret });
        }
        Ok(Keyring { password, tcp_ao })
    }

    /// What a key of a Secret says; none, and why, where it says nothing of use.
    fn secret(&mut self, object: &str, SecretKey { name, key }: &SecretKey) -> Option<Secret> {
        let known = self.inputs.secrets.get(name).cloned().unwrap_or_default();
        let found = known.keys.as_ref().and_then(|keys| keys.get(key));
        let fits = found.filter(|secret| (1..=MAX_PASSWORD).contains(&secret.reveal().len()));
        let fault = match (&known.fault, found, fits) {
            (Some(fault), _, Some(_)) => Some(format!("{fault}; what it said last is in force")),
            (Some(fault), _, None) => Some(format!("{fault}; no session until then")),
            (None, None, _) => {
                Some(format!("the Secret {name} has no key \"{key}\" with a text: no session until it has"))
            }
            (None, Some(_), None) => Some(format!(
                "key \"{key}\" of the Secret {name} has not 1 to {MAX_PASSWORD} octets: no session until it has"
            )),
            (None, Some(_), Some(_)) => None,
        };
        if let Some(fault) = fault {
            self.problem(object.to_owned(), fault);
        }
        fits.cloned()
    }

    /// What Services need of this node, unless it is out of service: another node is not, and this one is to be kept
    /// out or not ready. If none is ready it says more of who judges than of the nodes.
    fn serve(&mut self) -> Vec<Network> {
        let networks = self.inputs.services.networks();
        let others = || self.inputs.nodes.values().any(|node| node.ready);
        let why = if self.node.is_excluded() {
            "is labelled node.kubernetes.io/exclude-from-external-load-balancers"
        } else if !self.node.ready && others() {
            "is not Ready, and others are"
        } else {
            return networks;
        };
        if !networks.is_empty() {
            let object = format!("Node/{}", self.inputs.me);
            self.problem(object, format!("{why}: it announces no service addresses"));
        }
        Vec::new()
    }

    fn add(&mut self, object: String, peer: PeerConfig) {
        let scoped = peer.scoped();
        if self.own.contains(&peer.address) {
            let message = format!("{scoped} is this node's own address: no session with it");
            self.problem(object, message);
        } else if let Some(first) = self.peers.get(&scoped) {
            let message = format!("{scoped} is already the neighbour {}: this one is not used", first.name);
            self.problem(object, message);
        } else if let Some(other) = self.peers.values().find(|other| {
            other.address == peer.address && !peer.address.is_unspecified() && keys(other) != keys(&peer)
        }) {
            let message = format!(
                "{scoped} and {} have one address and different keys, and the kernel knows those of an address: not used",
                other.scoped()
            );
            self.problem(object, message);
        } else {
            self.peers.insert(scoped, peer);
        }
    }

    fn add_range(&mut self, object: String, range: Range) {
        if let Some(first) = self.ranges.get(&range.id()) {
            let message = format!(
                "{} is already the range of {}: this one is not used",
                range.id(),
                first.settings.name
            );
            return self.problem(object, message);
        }
        let local = range.settings.local_asn;
        if range.settings.route_reflector_client
            && range.asns.iter().any(|asns| asns.single() != Some(self.asn))
        {
            let message = format!(
                "routeReflectorClient is for a range of this node's own {} alone: not used",
                self.asn
            );
            return self.problem(object, message);
        }
        if let Some(local) = local.filter(|local| range.asns.iter().any(|asns| asns.contains(*local))) {
            let message = format!("localAsNumber {local} is one its neighbours may claim: not used");
            return self.problem(object, message);
        }
        self.ranges.insert(range.id(), range);
    }

    fn problem(&mut self, object: String, message: String) {
        self.problems.push(Problem { object, message });
    }

    /// The kernel knows a password by address, and asks everybody in a range with one for it: a range with a password
    /// around somebody without is not used.
    fn one_password_an_address(&mut self) {
        let mut dropped = Vec::new();
        for (id, range) in &self.ranges {
            let guarded = !is_unguarded(&range.settings);
            let open =
                |who: Prefix, other: &PeerConfig| range.prefix.covers(who) && guarded && is_unguarded(other);
            let inside = self.peers.values().filter(|peer| !peer.address.is_unspecified());
            let inside = inside.into_iter().find(|peer| open(Prefix::host(peer.address), peer));
            let overlapping = self.ranges.iter().filter(|(other, _)| *other != id).find(|(_, inner)| {
                let differ = keys(&inner.settings) != keys(&range.settings);
                open(inner.prefix, &inner.settings) || range.prefix == inner.prefix && differ
            });
            let other = inside.map(|peer| peer.name.clone());
            let other = other.or_else(|| overlapping.map(|(_, inner)| inner.settings.name.clone()));
            dropped.extend(other.map(|other| (*id, range.settings.name.clone(), other)));
        }
        for (id, name, other) in dropped {
            self.ranges.remove(&id);
            let message = format!(
                "holds an address of {other}, which has other keys: the kernel knows those of an address, so it is not used"
            );
            self.problem(format!("BGPPeer/{name}"), message);
        }
    }

    fn exported(&self, block: &Prefix) -> bool {
        !self.inputs.unexported.iter().any(|range| range.covers(*block))
    }

    fn finish(mut self) -> Speaking {
        self.one_password_an_address();
        let services = self.serve();
        self.problems.extend(self.inputs.services.problems());
        self.problems.sort_unstable();
        self.problems.dedup();
        let peers =
            self.peers.values().filter(|peer| !peer.address.is_unspecified()).map(|peer| peer.address);
        let ranges = self.ranges.values().map(|range| range.prefix.addr());
        // Who is yet to be found on a link has a link-local address.
        let found = self.peers.values().any(|peer| peer.address.is_unspecified()).then_some(Family::Ipv6);
        let families = self.own.iter().copied().chain(peers).chain(ranges).map(Family::of).chain(found);
        let families: BTreeSet<Family> = families.collect();
        let listen = families.into_iter().map(|family| {
            let any = match family {
                Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            SocketAddr::new(any, self.bgp.listen_port)
        });
        let said_of = |prefix: Prefix| {
            let said = self.bgp.communities.iter().filter(move |(range, _)| range.covers(prefix));
            said.flat_map(|(_, communities)| communities.iter().cloned())
        };
        let blocks = self.inputs.blocks.iter().filter(|block| self.exported(block));
        let blocks: BTreeMap<Prefix, Network> = blocks.map(|block| (*block, Network::new(*block))).collect();
        let services = services.into_iter().filter(|network| !blocks.contains_key(&network.prefix));
        let networks: Vec<Network> = blocks
            .values()
            .cloned()
            .chain(services)
            .map(|network| {
                let communities: BTreeSet<String> =
                    said_of(network.prefix).chain(network.communities).collect();
                Network { communities: communities.into_iter().collect(), ..network }
            })
            .collect();
        // What is announced as it is has no need to be announced for its parts.
        let whole = |prefix: Prefix| networks.iter().any(|network| network.prefix == prefix);
        let aggregates =
            self.bgp.aggregates.iter().filter(|aggregate| !whole(aggregate.prefix)).cloned().collect();
        let config = Config {
            cluster_id: self.cluster.map(|(cluster, _)| cluster),
            listen: listen.collect(),
            peers: self.peers.into_values().collect(),
            ranges: self.ranges.into_values().collect(),
            networks,
            aggregates,
            ..Config::new(self.asn, router_id(self.inputs.me, self.node))
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
