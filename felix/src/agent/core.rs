//! What the agent decides: events in, effects out. It waits for nobody; what takes time is an [`Effect`] whose
//! outcome comes back as an event. The attachment files and the host's interfaces are asked in place: both answer
//! at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Instant;

use manx_bgp::api::{self, Config, Reach};
use manx_bgp::types::{Interface, Prefix, is_link_local};
use manx_cni::protocol::AttachmentKey;
use manx_ipam::claim::{Claim, Taken};
use manx_ipam::{Allocator, BlockCidr, OwnerKey, Pool};
use tokio::sync::oneshot;

use super::balancing::{self, Balancing, Grant};
use super::blocks::{Blocks, Want};
use super::cluster::{Cluster, Told};
use super::degraded::Degraded;
use super::draining::Draining;
use super::election::{Bid, Duty};
use super::enforced::Enforcement;
use super::exhaustion::Exhaustion;
use super::found::{Found, PodLink};
use super::known::KnownFile;
use super::meshing::Meshing;
use super::mirror::{Mirror, Write};
use super::own_address::OwnAddress;
use super::pods::{Held, Policing, Waiting};
use super::vanished::{Collection, Condemned, Vanished};
use crate::acl;
use crate::attach::files::Files;
use crate::attach::{Attempt, Refusal};
use crate::dataplane::own_address::IPVS_IFNAME;
use crate::dataplane::{self, FibDelta, next_hops};
use crate::discovery;
use crate::graph::policy::PolicyInput;
use crate::graph::{Graph, Guard, Input};
use crate::health::Metrics;
use crate::model::Wanted;
use crate::nat::Nat;
use crate::speaker;
use crate::watch::{Kind, Update};

/// Octets of an Ethernet payload: a pod's MTU where the node's cannot be read.
const DEFAULT_MTU: u32 = 1500;

/// What must have been read before the speaker is given orders: with less, sessions that are up would be ended, and
/// services withdrawn.
const SPEAKING: [Kind; 8] = [
    Kind::Node,
    Kind::BGPConfiguration,
    Kind::BGPPeer,
    Kind::BGPFilter,
    Kind::IPPool,
    Kind::IPAMBlock,
    Kind::Service,
    Kind::EndpointSlice,
];

/// What must have been read before policies are put in force: with less, something would be open that shall not be.
const POLICING: [Kind; 5] =
    [Kind::Node, Kind::Pod, Kind::Namespace, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];

/// The answer to a plugin.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is to be done outside.
#[derive(Debug)]
pub enum Effect {
    /// Change the kernel's learned routes. Nobody waits for them.
    Learn(FibDelta),
    /// Change the kernel's other routes; then answer the plugins, then tell the speaker: a block is announced once it is
    /// there.
    Program {
        /// May be empty: the answers then wait for what was sent before.
        delta: FibDelta,
        /// Interfaces of attachments that have ended: to be taken down when nothing leads to them any more, before the
        /// answers, and then removed. Answered by [`Core::gone`].
        retire: Vec<Retired>,
        /// Which packets pass from now on. May be empty: then as with the routes.
        acl: Box<acl::Delta>,
        /// Plugins whose pod cannot be reached any longer, once the kernel has answered for the routes.
        answers: Vec<Answer<()>>,
        /// Plugins whose pod can be reached, once the kernel has answered for both.
        attached: Vec<Answer<()>>,
        /// The speaker's new orders.
        orders: Option<Config>,
    },
    /// Which packets pass from now on, where routes stay as they are and nobody waits: as for a pod whose interface is
    /// being made.
    Filter(Box<acl::Delta>),
    /// From now on remove routes of ours that nobody wants.
    Sweep,
    /// Hold up packets to addresses no Service has.
    Guard(Guard),
    /// The same of what is in our table of the packet filter.
    SweepAcl,
    /// Have pods' packets leave the cluster like this.
    Translate(Nat),
    /// Find out who is at the other end of these interfaces, and of no others. Answered by [`Core::find`].
    Discover(BTreeSet<Interface>),
    /// Make a block of one of these pools ours. Answered by [`Core::claimed`].
    Claim {
        /// What for; one claim for each at a time.
        want: Want,
        /// In order of preference.
        pools: Vec<Pool>,
        /// What is known to be owned.
        taken: Taken,
    },
    /// Put the object of a block back that pods hold addresses of. Answered by [`Core::reclaimed`].
    Reclaim(Claim),
    /// Remove the object of a block that is used no longer. Answered by [`Core::returned`].
    Return {
        /// The block.
        cidr: BlockCidr,
        /// Of the object.
        uid: String,
    },
    /// See to a Lease. Answered by [`Core::bid_answered`].
    Bid(Duty, Bid),
    /// Read all Services, as they are now. Answered by [`Core::listed_services`].
    ListServices,
    /// Write addresses into Services' statuses. Answered by [`Core::given`].
    Give {
        /// Which.
        grants: Vec<Grant>,
        /// Not after this.
        until: Instant,
    },
    /// Free blocks of a node that is gone, if it is. Answered by [`Core::collected`].
    Collect {
        /// The node.
        node: String,
        /// Its blocks, at most as many as may be freed now.
        blocks: Vec<Condemned>,
        /// Look and free nothing.
        dry_run: bool,
    },
    /// Create the object of a part of an own block that is for another node. Answered by [`Core::granted`].
    Grant(Claim),
    /// Ask the API of a pod and its namespace. Answered by [`Core::looked_up`].
    LookUp {
        /// Which ADD waits.
        attempt: Attempt,
        /// Of the pod.
        namespace: String,
        /// Of the pod.
        name: String,
    },
    /// Ask the API which policies are in force on which nodes. Answered by [`Core::surveyed`].
    Survey {
        /// Also what statuses there are.
        statuses: bool,
    },
    /// Read these Secrets from now on, and no others.
    Secrets(BTreeSet<String>),
    /// Have the speaker drained, or not. Answered by [`Core::drained`].
    Drain(Option<u32>),
    /// Write to the API. Answered by [`Core::written`].
    Write(Vec<Write>),
    /// Ask the speaker how it is and then answer with a report.
    Report(oneshot::Sender<serde_json::Value>),
}

/// The host's end of an attachment that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Whose.
    pub key: AttachmentKey,
    /// Its interface index.
    pub index: u32,
}

/// The host's interfaces.
pub trait Host: Send {
    /// The index of an interface by name; none: there is no such interface.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn index_of(&self, name: &str) -> io::Result<Option<u32>>;

    /// Where the kernel's routes of ours to pods lead.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn pod_links(&self) -> io::Result<Vec<PodLink>>;

    /// Addresses of this machine a node is to be known by, at most one a family.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn addresses(&self, wanted: &Wanted) -> io::Result<Vec<IpAddr>>;

    /// MTU of the interfaces that hold the node's addresses.
    fn mtu_of(&self, addresses: &[IpAddr]) -> Option<u32>;
}

/// The speaker as last heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Whether it is there.
    pub up: bool,
    /// Its name and version.
    pub daemon: String,
    /// Why it is away.
    pub away: Option<String>,
    /// Why it did not take its last orders.
    pub refused: Option<String>,
    /// Whether it has answered any orders of this agent. Orders and routes come over two connections, so this says
    /// nothing of which of its lives it was in.
    pub ordered: bool,
    /// Whether it has told its whole table since it came up.
    pub synced: bool,
    /// What it said of itself.
    pub status: Option<api::Status>,
}

/// All the agent knows.
pub struct Core {
    pub(super) me: String,
    pub(super) started: Instant,
    pub(super) cluster: Cluster,
    pub(super) graph: Graph,
    pub(super) allocator: Allocator,
    pub(super) blocks: Blocks,
    pub(super) attachments: BTreeMap<AttachmentKey, Held>,
    /// By name of the host's end: interfaces whose file is lost.
    pub(super) found: BTreeMap<String, Found>,
    /// Who held addresses at the last collection, with nothing that stands for it.
    pub(super) unheld: BTreeSet<OwnerKey>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) exhaustion: Exhaustion,
    pub(super) vanished: Vanished,
    pub(super) balancing: Balancing,
    pub(super) next_collection: Option<Instant>,
    pub(super) heard: Heard,
    pub(super) mirror: Mirror,
    pub(super) enforcement: Enforcement,
    /// Whether pools or nodes may have changed what is translated, and what that was last.
    nat: (bool, Option<Nat>),
    /// Interfaces neighbours are known by, and who was found on each.
    discovered: (BTreeSet<Interface>, BTreeMap<Interface, Ipv6Addr>),
    /// Settings of the kernel that cannot be made; none: they have not been looked at.
    pub(super) settings: Option<Vec<String>>,
    /// The dataplane as last seen.
    pub(super) kernel: dataplane::Status,
    /// The ways this machine has without our routes; none before they were told.
    underlay: Option<Vec<Reach>>,
    /// Whether the dataplane has ended: nothing is programmed any more.
    pub(super) kernel_gone: bool,
    pub(super) host: Box<dyn Host>,
    pub(super) files: Files,
    /// Plugins leave their notes beside it.
    pub(super) socket: PathBuf,
    pub(super) known: KnownFile,
    pub(super) mtu: u32,
    /// What it is to be, whatever the uplinks have.
    fixed_mtu: Option<u32>,
    pub(super) metrics: Metrics,
    pub(super) effects: Vec<Effect>,
    /// Plugins to answer when what is dirty now is in the kernel.
    pub(super) answers: Vec<Answer<()>>,
    /// Interfaces to remove once nothing leads to them.
    pub(super) retire: Vec<Retired>,
    /// Plugins to answer when what their pods may send and receive is known, and in the kernel.
    pub(super) policing: Vec<Policing>,
    /// Whether the packet filter has been given all there is.
    pub(super) policed: bool,
    /// Secrets that are read.
    secrets: BTreeSet<String>,
    pub(super) meshing: Meshing,
    /// Whether what the topology goes by may have changed.
    pub(super) mesh_due: bool,
    /// The addresses this node is to be known by, as they are annotated; none: by those of its status.
    pub(super) own_address: OwnAddress,
    pub(super) draining: Draining,
    pub(super) degraded: Degraded,
    /// Orders the speaker may not have yet.
    unsent: Option<Config>,
    /// What the kernel has not been told to hold up.
    unguarded: Option<Guard>,
    /// Whether a speaker that starts now is not this boot's first: what an earlier one taught the kernel is still
    /// there.
    respoken: bool,
    pub(super) swept: bool,
    /// Whether the kernel has answered for what complete watches wanted.
    programmed: bool,
}

/// What a core starts with.
pub struct Start {
    /// This node's name.
    pub me: String,
    /// The state directory's attachments.
    pub files: Files,
    /// Where plugins look for the agent.
    pub socket: PathBuf,
    /// The state directory's pools and blocks.
    pub known: KnownFile,
    /// The host's interfaces.
    pub host: Box<dyn Host>,
    /// MTU of pods' interfaces, in octets; the smallest of this node's uplinks' unless set.
    pub mtu: Option<u32>,
    /// What is counted.
    pub metrics: Metrics,
    /// How the blocks of nodes that are gone are freed.
    pub collection: Collection,
    /// Whether the kernel holds routes of ours.
    pub finds_routes: bool,
}

impl Core {
    /// Reads back what an earlier agent left: attachments whose interface stands are in force at once.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn start(start: Start, now: Instant) -> io::Result<Self> {
        let Start { me, files, socket, known, host, mtu, metrics, collection, finds_routes } = start;
        let vanished = Vanished::new(&me, collection);
        let balancing = Balancing::new(&me);
        let mut core = Self {
            started: now,
            cluster: Cluster::new(&me),
            graph: Graph::new(&me),
            me,
            allocator: Allocator::default(),
            blocks: Blocks::default(),
            attachments: BTreeMap::new(),
            found: BTreeMap::new(),
            unheld: BTreeSet::new(),
            waiting: Vec::new(),
            exhaustion: Exhaustion::default(),
            vanished,
            balancing,
            next_collection: None,
            heard: Heard::default(),
            mirror: Mirror::default(),
            enforcement: Enforcement::default(),
            nat: (true, None),
            discovered: (BTreeSet::new(), BTreeMap::new()),
            settings: None,
            kernel: dataplane::Status::default(),
            underlay: None,
            kernel_gone: false,
            host,
            files,
            socket,
            known,
            mtu: mtu.unwrap_or(DEFAULT_MTU),
            fixed_mtu: mtu,
            metrics,
            effects: Vec::new(),
            answers: Vec::new(),
            retire: Vec::new(),
            policing: Vec::new(),
            policed: false,
            secrets: BTreeSet::new(),
            meshing: Meshing::default(),
            mesh_due: false,
            own_address: OwnAddress::default(),
            draining: Draining::default(),
            degraded: Degraded::default(),
            unsent: None,
            unguarded: Some(Guard::default()),
            respoken: false,
            swept: false,
            programmed: false,
        };
        if !finds_routes {
            core.graph.apply(Input::NothingKept);
        }
        core.restore_blocks();
        core.restore_pods()?;
        core.find_pods();
        // Attachments die with the boot, as the kernel's routes do.
        core.respoken = !core.attachments.is_empty();
        Ok(core)
    }

    /// Takes what a watcher says.
    pub fn update(&mut self, update: Update, now: Instant) {
        let (mut read, mut addresses, mut me) = (None, false, false);
        if matches!(update, Update::Api(Ok(()))) {
            self.mirror.doubt_node();
        }
        if balancing::matters(&update) {
            self.balancing.doubt();
        }
        for told in self.cluster.update(update) {
            addresses |= !matches!(told, Told::Input(_) | Told::Policy(_) | Told::Me);
            if matches!(told, Told::Policy(PolicyInput::Policy(..) | PolicyInput::Node(..))) {
                self.enforcement.hurry(now, self.cluster.nodes.len());
            }
            self.nat.0 |= matches!(told, Told::Pools | Told::Read(_) | Told::Input(Input::Node(..)));
            match told {
                Told::Input(input) => {
                    self.mesh_due |= matches!(input, Input::Node(..) | Input::Bgp(_));
                    self.graph.apply(input);
                }
                Told::Policy(input) => self.graph.policy.apply(input),
                Told::Pools => self.use_pools(),
                Told::Parts => self.match_parts(),
                Told::Reserved => self.allocator.reserve(self.cluster.reserved()),
                Told::Me => {
                    me = true;
                    self.read_mtu();
                    self.mirror.doubt_node();
                }
                Told::Owned(name) => self.own_block(&name, now),
                Told::Lost(cidr) => self.lose_block(cidr, now),
                Told::Read(kind) => read = Some(kind),
            }
        }
        if (me || read == Some(Kind::Node))
            && let Some(why) = self.unregistered()
        {
            tracing::warn!("{why}");
        }
        if read == Some(Kind::IPAMBlock) {
            self.lose_unlisted_blocks(now);
        }
        if addresses || me {
            self.confirm_blocks();
        }
        if addresses {
            self.remember();
        }
        self.carve(now);
        self.retry_waiting(now);
    }

    /// Takes what the speaker says.
    pub fn hear(&mut self, event: speaker::Event) {
        match event {
            speaker::Event::Up { daemon } => {
                tracing::info!("{daemon} is there");
                self.graph.apply(Input::Relearn);
                self.doubt_drain();
                let (status, ordered) = (self.heard.status.take(), self.heard.ordered);
                self.heard = Heard { up: true, daemon, status, ordered, ..Heard::default() };
            }
            speaker::Event::Down { reason } => {
                tracing::warn!("the speaker is away: {reason}; learned routes stay");
                let (daemon, ordered) = (std::mem::take(&mut self.heard.daemon), self.heard.ordered);
                self.heard = Heard { daemon, ordered, away: Some(reason), ..Heard::default() };
            }
            speaker::Event::Routes(groups) => {
                for group in groups {
                    let next_hops = next_hops::shared(&group);
                    for prefix in group.prefixes {
                        self.graph.apply(Input::Learned(prefix, next_hops.clone()));
                    }
                }
            }
            speaker::Event::Synced => {
                self.heard.synced = true;
                self.graph.apply(Input::LearnedAll);
            }
            speaker::Event::Applied { changes } => {
                if !changes.is_empty() {
                    tracing::info!("the speaker follows its orders: {} changes", changes.len());
                }
                for change in changes {
                    tracing::debug!("speaker: {change}");
                }
                self.heard.ordered = true;
                self.heard.refused = None;
                // Said now, it is there when the speaker comes back.
                if !std::mem::replace(&mut self.respoken, true) {
                    self.unsent = self.unsent.take().or_else(|| self.graph.spoken().orders.clone());
                }
            }
            speaker::Event::Refused { reason } => {
                tracing::error!("the speaker did not take its orders: {reason}; it keeps those before");
                self.heard.ordered = true;
                self.heard.refused = Some(reason);
            }
        }
    }

    /// Takes the speaker's answer to "how are you"; none: it did not answer.
    pub fn hear_status(&mut self, status: Option<api::Status>) {
        self.heard.status = status;
        self.mesh_due = true;
    }

    /// The kernel has answered for a delta sent while [`Core::in_sync`] held.
    pub fn programmed(&mut self) {
        self.programmed = true;
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.me
    }

    /// Whether [`Core::effects`] has more of what is learned: it is done in parts, between which others have their turn.
    /// What the speaker says next is to wait.
    pub fn is_behind(&self) -> bool {
        self.graph.is_behind()
    }

    /// Whether every watch has been read.
    pub fn in_sync(&self) -> bool {
        self.cluster.has_read(&Kind::ALL)
    }

    /// Whether all that policies depend on has been read.
    pub(super) fn policed_all(&self) -> bool {
        self.cluster.has_read(&POLICING)
    }

    /// Whether this node does what the cluster wants of it, as far as the agent can see to it. Neighbours have no
    /// part in this: one that is away must not take nodes out of service.
    pub fn ready(&self) -> bool {
        self.in_sync() && self.programmed
    }

    /// Takes what the dataplane says of itself.
    pub fn see_kernel(&mut self, kernel: dataplane::Status) {
        self.mirror.see_overlaps(&kernel.overlaps);
        self.kernel = kernel;
    }

    /// Takes what the dataplane says of the ways this machine has without our routes.
    pub fn see_underlay(&mut self, ways: Vec<Reach>) {
        if self.underlay.as_ref() != Some(&ways) {
            self.underlay = Some(ways);
            self.unsent = self.unsent.take().or_else(|| self.graph.spoken().orders.clone());
        }
    }

    /// Takes who was found at the other end of an interface.
    pub fn find(&mut self, found: discovery::Found) {
        let discovery::Found { interface, address } = found;
        if self.discovered.1.insert(interface, address) != Some(address) {
            tracing::info!("{address} is the router on {interface}");
            self.unsent = self.unsent.take().or_else(|| self.graph.spoken().orders.clone());
        }
    }

    /// Puts addresses to neighbours that are known by their interface, as far as they have been found, and has them looked
    /// for.
    fn discover(&mut self, orders: &mut Config) {
        let mut interfaces = BTreeSet::new();
        for peer in &mut orders.peers {
            let Some(interface) = peer.interface else { continue };
            // One that is told its neighbour's address may be waited for by that neighbour.
            if peer.address.is_unspecified() || is_link_local(peer.address) {
                interfaces.insert(interface);
            }
            if let (true, Some(found)) = (peer.address.is_unspecified(), self.discovered.1.get(&interface)) {
                peer.address = IpAddr::V6(*found);
            }
        }
        if self.discovered.0 != interfaces {
            self.discovered.1.retain(|interface, _| interfaces.contains(interface));
            self.discovered.0.clone_from(&interfaces);
            self.effects.push(Effect::Discover(interfaces));
        }
    }

    /// The dataplane has ended.
    pub fn lose_kernel(&mut self) {
        self.kernel_gone = true;
    }

    /// Once a second.
    pub fn tick(&mut self, now: Instant) {
        self.honour_notes();
        self.free_left();
        self.collect(now);
        self.retry_reclaims(now);
        self.retry_waiting(now);
        self.give_back(now);
        self.carve(now);
        self.see_exhaustion(now);
        self.collect_vanished(now);
        self.survey(now);
        self.mesh_due = true;
        self.find_address();
        self.see_trouble(now);
        self.balance(now);
        self.translate();
        self.write(now);
    }

    /// What is to be done now, in order.
    #[must_use = "effects not performed are lost"]
    pub fn effects(&mut self, now: Instant) -> Vec<Effect> {
        self.want_blocks(now);
        self.mesh(now);
        self.drain(now);
        let secrets_read = self.read_secrets();
        let delta = self.graph.flush();
        if let Some(speaking) = delta.speaker {
            for problem in &speaking.problems {
                tracing::warn!("{} {}", problem.object, problem.message);
            }
            self.unsent = speaking.orders;
        }
        self.unguarded = delta.guard.or_else(|| self.unguarded.take());
        let speaking = self.cluster.has_read(&SPEAKING);
        if let Some(guard) = self.unguarded.take_if(|_| speaking) {
            self.effects.push(Effect::Guard(guard));
        }
        let all_read = speaking && secrets_read && self.meshed();
        let orders = if all_read { self.unsent.take() } else { None };
        let orders = orders.map(|mut orders| {
            self.discover(&mut orders);
            Config {
                restarting: self.respoken,
                underlay: self.underlay.as_deref().map(|ways| with_pods(ways, &orders)),
                ..orders
            }
        });
        if delta.learned != FibDelta::default() {
            self.effects.push(Effect::Learn(delta.learned));
        }
        let answers = std::mem::take(&mut self.answers);
        let retire = std::mem::take(&mut self.retire);
        let complete = self.policed_all();
        let acl = if complete { self.graph.policy.flush() } else { self.graph.policy.flush_unread() };
        let attached = self.policed_pods(now);
        let changed = delta.fib != FibDelta::default() || !retire.is_empty() || orders.is_some();
        let answered = !answers.is_empty() || !attached.is_empty();
        let acl = Box::new(acl);
        if changed || answered || (self.in_sync() && !self.programmed) {
            self.effects.push(Effect::Program { delta: delta.fib, acl, retire, answers, attached, orders });
        } else if !acl.is_empty() {
            self.effects.push(Effect::Filter(acl));
        }
        if complete && !std::mem::replace(&mut self.policed, true) {
            tracing::info!("policies are in force");
            self.effects.push(Effect::SweepAcl);
        }
        let spoken = self.heard.ordered || self.graph.spoken().orders.is_none();
        let learned = self.heard.synced && !self.is_behind();
        if !self.swept && self.in_sync() && learned && spoken {
            self.swept = true;
            tracing::info!("all is in sync: routes of ours that nobody wants go");
            self.effects.push(Effect::Sweep);
        }
        std::mem::take(&mut self.effects)
    }

    /// Has the Secrets read that sessions need; whether all have been.
    fn read_secrets(&mut self) -> bool {
        if !self.cluster.has_read(&SPEAKING) {
            return false;
        }
        let (named, all_read) = self.graph.secrets();
        let changed =
            named.len() != self.secrets.len() || !named.iter().all(|name| self.secrets.contains(*name));
        if changed {
            self.secrets = named.into_iter().map(str::to_owned).collect();
            for input in self.cluster.keep_secrets(&self.secrets) {
                self.graph.apply(input);
            }
            self.effects.push(Effect::Secrets(self.secrets.clone()));
        }
        all_read
    }

    /// A change of what is translated is for connections that begin later: once a second is soon enough.
    fn translate(&mut self) {
        if self.cluster.has_read(&[Kind::Node, Kind::IPPool]) && std::mem::take(&mut self.nat.0) {
            let nat = self.cluster.nat();
            if self.nat.1.as_ref() != Some(&nat) {
                self.nat.1 = Some(nat.clone());
                self.effects.push(Effect::Translate(nat));
            }
        }
    }

    /// Takes what could not be made of the kernel's settings, and looks whether someone else's leave policies undone.
    pub fn see_settings(&mut self, mut failed: Vec<String>) {
        if matches!(self.host.index_of(IPVS_IFNAME), Ok(Some(_))) {
            failed.push(format!(
                "kube-proxy is in its mode IPVS here ({IPVS_IFNAME}): what comes to this node's pods by a Service, and what they \
                 send to one, goes in and out of the node and not through it, so that NetworkPolicies do not judge it; \
                 its modes nftables and iptables have them judged"
            ));
        }
        self.settings = Some(failed);
    }

    fn use_pools(&mut self) {
        self.blocks.usable = self.cluster.usable_pools();
        self.allocator.cool(&self.blocks.usable);
        self.graph.apply(Input::Unexported(self.cluster.unexported()));
    }

    pub(super) fn read_mtu(&mut self) {
        let node = self.graph.node(&self.me);
        let addresses: Vec<IpAddr> = node.map_or_else(Vec::new, |node| {
            node.ipv4.map(IpAddr::V4).into_iter().chain(node.ipv6.map(IpAddr::V6)).collect()
        });
        let detected = || self.host.mtu_of(&addresses);
        self.mtu = self.fixed_mtu.or_else(detected).unwrap_or(DEFAULT_MTU);
    }
}

/// With the pods of this node that are neighbours: they are connected by routes of ours.
fn with_pods(ways: &[Reach], orders: &Config) -> Vec<Reach> {
    let here = |address: IpAddr| {
        let host = Prefix::host(address);
        orders.networks.iter().any(|network| network.prefix.covers(host)).then_some(Reach::connected(host))
    };
    let pods = orders.peers.iter().filter_map(|peer| here(peer.address));
    ways.iter().cloned().chain(pods).collect()
}
