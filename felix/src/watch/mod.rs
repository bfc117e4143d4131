//! The cluster as it is, told as it changes.
//!
//! One watcher a kind; each converts what it sees at once ([`convert`]) and puts it into one bounded channel.
//! A watcher knows nothing of what is done with an object, and nothing here remembers one.
//!
//! ```text
//!   Node ──────┐ IPPool, IPAMBlock, ─────────┐ BGPConfiguration ─┐ NetworkPolicy ────────┐ Service ───────┐
//!   Pod ───────┤                             │                   │                       │                │
//!   Namespace ─┼ IPReservation, IPAMRequest ─┼ BGPPeer ──────────┼ ClusterNetworkPolicy ─┼ EndpointSlice ─┤
//!   Secret ────┘ (those that are named)      └ BGPFilter ────────┴───────────────────────┴────────────────┴─▶ Update ─▶ the agent
//!                └──── errors ──▶ reach: is the API there at all? said once, not in a loop
//! ```

pub mod bgp;
pub mod convert;
mod lean;
pub mod policy;
mod reach;
mod secrets;
pub mod service;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client, ResourceExt};
use manx_ipam::crd::{IPAMBlock, IPAMRequest, IPPool, IPReservation};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::cluster_network_policy::ClusterNetworkPolicy;
use crate::crd::{BGPConfiguration, BGPFilter, BGPPeer};
use crate::model::labels::Interner;
use crate::model::policy::Policy;
use crate::model::service::{Service, Slice};
use crate::model::{BgpConfig, Block, Filter, Namespace, Node, Object, Peer, Pod, Request, Reservation};
pub use secrets::Keys;

/// Objects of a list that are told at once: of a hundred thousand pods no second copy is ever held.
const PART: usize = 500;

/// Updates on their way to the agent, each of as many as [`PART`] objects; a full channel slows the watchers, which the
/// API server bears.
const QUEUE: usize = 16;

/// Agents that start at once, as after a power cut, begin to list within this time, each at its own moment of it. One
/// that takes over from another begins at once: pods wait for it.
const SPREAD: Duration = Duration::from_secs(2);

/// The kinds watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`, all of them.
    Node,
    /// `v1`, all of them.
    Pod,
    /// `v1`.
    Namespace,
    /// `manx.io`.
    IPPool,
    /// `manx.io`.
    IPAMBlock,
    /// `manx.io`.
    IPReservation,
    /// `manx.io`.
    IPAMRequest,
    /// `manx.io`.
    BGPConfiguration,
    /// `manx.io`.
    BGPPeer,
    /// `manx.io`.
    BGPFilter,
    /// `networking.k8s.io`.
    NetworkPolicy,
    /// `policy.networking.k8s.io`; not every cluster has it.
    ClusterNetworkPolicy,
    /// `v1`.
    Service,
    /// `discovery.k8s.io`.
    EndpointSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Node,
        Self::Pod,
        Self::Namespace,
        Self::IPPool,
        Self::IPAMBlock,
        Self::IPReservation,
        Self::IPAMRequest,
        Self::BGPConfiguration,
        Self::BGPPeer,
        Self::BGPFilter,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Whether a cluster may not know the kind: then there are no objects of it, until it does.
    fn is_optional(self) -> bool {
        self == Self::ClusterNetworkPolicy
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A change of one kind.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// All there are: what is not in it is gone. From the first of these on, the kind is in sync.
    Replace(Vec<Object<T>>),
    /// Some of those there are: a long list is told in parts, and then ...
    Part(Vec<Object<T>>),
    /// ... has been told to its end: what it did not name is gone. From the first of these on, the kind is in sync.
    Told(HashSet<Box<str>>),
    /// New or changed.
    Apply(Object<T>),
    /// Gone, by name.
    Delete(String),
}

/// What the watchers say.
#[derive(Clone, Debug)]
pub enum Update {
    /// A node.
    Node(Change<Node>),
    /// A pod.
    Pod(Change<Pod>),
    /// A namespace.
    Namespace(Change<Namespace>),
    /// A pool, as it is: which of two that overlap is good can only be said of all together.
    Pool(Box<Change<IPPool>>),
    /// A block.
    Block(Change<Block>),
    /// Addresses kept back.
    Reservation(Change<Reservation>),
    /// A node asks for a part of a block.
    Request(Change<Request>),
    /// A BGPConfiguration of any name.
    Bgp(Change<BgpConfig>),
    /// A neighbour.
    Peer(Change<Peer>),
    /// What neighbours may tell and are told.
    Filter(Change<Filter>),
    /// A Secret that was asked for, by name: its keys, or why they cannot be had.
    Secret(String, Result<Keys, String>),
    /// A NetworkPolicy.
    NetworkPolicy(Change<Policy>),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Change<Policy>),
    /// A Service.
    Service(Change<Service>),
    /// Endpoints of one.
    Slice(Change<Slice>),
    /// The API answers, but not for this kind; none: it does again.
    Refused(Kind, Option<String>),
    /// Whether the API answers at all, and what happens instead. Said when it changes.
    Api(Result<(), String>),
}

impl Update {
    /// Of what, for counting.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Node(_) => "Node",
            Self::Pod(_) => "Pod",
            Self::Namespace(_) => "Namespace",
            Self::Pool(_) => "IPPool",
            Self::Block(_) => "IPAMBlock",
            Self::Reservation(_) => "IPReservation",
            Self::Request(_) => "IPAMRequest",
            Self::Bgp(_) => "BGPConfiguration",
            Self::Peer(_) => "BGPPeer",
            Self::Filter(_) => "BGPFilter",
            Self::Secret(..) => "Secret",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Self::Service(_) => "Service",
            Self::Slice(_) => "EndpointSlice",
            Self::Refused(..) => "refused",
            Self::Api(_) => "api",
        }
    }
}

/// What a watcher has said.
#[derive(Clone, Debug)]
pub struct Said {
    /// When it began to say it.
    pub at: Instant,
    /// What.
    pub update: Update,
}

/// Said now.
impl From<Update> for Said {
    fn from(update: Update) -> Self {
        Self { at: Instant::now(), update }
    }
}

/// The running watchers.
#[derive(Debug)]
pub struct Watches {
    /// What they say. Ends only with the process.
    pub updates: mpsc::Receiver<Said>,
    /// To be notified by who fails to reach the API: it is then asked whether it answers.
    pub doubt: Arc<Notify>,
    /// Names of the Secrets that are to be read; no others are.
    pub secrets: watch::Sender<BTreeSet<String>>,
}

/// Watches what the agent of the node `me` needs to know; Secrets in its `own` namespace. `is_first`: no agent was here
/// since the machine started.
pub fn start(client: &Client, me: &str, own: &str, is_first: bool) -> Watches {
    let (tx, updates) = mpsc::channel(QUEUE);
    let doubt = Arc::new(Notify::new());
    let pipe = Pipe { tx: tx.clone(), doubt: doubt.clone() };
    let pause = if is_first { moment(me) } else { Duration::ZERO };
    let follow = Follow { client: client.clone(), pipe, pause };
    let (here, node) = (me.to_owned(), me.to_owned());
    let [mut nodes, mut pods, mut namespaces] = [(); 3].map(|()| Interner::default());
    let read = move |node: lean::Node| convert::node(node.into(), &mut nodes);
    follow.core(Kind::Node, read, Update::Node);
    let pod = move |pod: lean::Pod| convert::pod(pod.into(), &here, &mut pods);
    follow.core(Kind::Pod, pod, Update::Pod);
    let namespace = move |read: lean::Namespace| convert::namespace(read.into(), &mut namespaces);
    follow.core(Kind::Namespace, namespace, Update::Namespace);
    follow.core(Kind::NetworkPolicy, policy::network_policy, Update::NetworkPolicy);
    follow.custom::<ClusterNetworkPolicy, _>(
        Kind::ClusterNetworkPolicy,
        policy::cluster_network_policy,
        Update::ClusterNetworkPolicy,
    );
    follow.custom::<IPPool, _>(Kind::IPPool, convert::pool, |change| Update::Pool(Box::new(change)));
    follow.custom::<IPAMBlock, _>(Kind::IPAMBlock, move |block| convert::block(block, &node), Update::Block);
    follow.custom::<IPReservation, _>(Kind::IPReservation, convert::reservation, Update::Reservation);
    follow.custom::<IPAMRequest, _>(Kind::IPAMRequest, convert::request, Update::Request);
    follow.custom::<BGPConfiguration, _>(Kind::BGPConfiguration, bgp::bgp_configuration, Update::Bgp);
    follow.custom::<BGPPeer, _>(Kind::BGPPeer, bgp::bgp_peer, Update::Peer);
    follow.custom::<BGPFilter, _>(Kind::BGPFilter, bgp::bgp_filter, Update::Filter);
    let (secrets, named) = watch::channel(BTreeSet::new());
    tokio::spawn(secrets::follow(client.clone(), own.to_owned(), named, tx.clone()));
    let (mut services, mut slices, here) = (Interner::default(), Interner::default(), me.to_owned());
    let service = move |read: lean::Service| service::service(read.into(), &mut services);
    follow.core(Kind::Service, service, Update::Service);
    let slice = move |read: lean::EndpointSlice| service::slice(read.into(), &here, &mut slices);
    follow.core(Kind::EndpointSlice, slice, Update::Slice);
    tokio::spawn(reach::ask(client.clone(), tx, doubt.clone()));
    Watches { updates, doubt, secrets }
}

struct Follow {
    client: Client,
    pipe: Pipe,
    /// Before the first list.
    pause: Duration,
}

/// The part of [`SPREAD`] that the agent of a node waits: the same at every start, as even as hashes are.
fn moment(node: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    SPREAD.mul_f64((hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64)
}

/// From one watcher to the agent.
#[derive(Clone)]
struct Pipe {
    tx: mpsc::Sender<Said>,
    doubt: Arc<Notify>,
}

impl Follow {
    fn core<K, T>(
        &self,
        kind: Kind,
        mut convert: impl FnMut(K) -> Object<T> + Send + 'static,
        wrap: fn(Change<T>) -> Update,
    ) where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + fmt::Debug
            + Send
            + serde::de::DeserializeOwned
            + 'static,
        T: Send + 'static,
    {
        let stream = watcher(Api::<K>::all(self.client.clone()), watcher::Config::default());
        let stream = stream.map_ok(move |event| map(event, &mut convert));
        self.begin(kind, stream, wrap);
    }

    /// Objects are read without their type and parsed one by one: one that does not fit its schema (older than a
    /// CRD's validation, say) must not hide the others.
    fn custom<K, T>(
        &self,
        kind: Kind,
        convert: impl Fn(DynamicObject) -> Object<T> + Send + 'static,
        wrap: fn(Change<T>) -> Update,
    ) where
        K: kube::Resource<DynamicType = ()>,
        T: Send + 'static,
    {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &ApiResource::erase::<K>(&()));
        let stream = watcher(api, watcher::Config::default()).map_ok(move |event| map(event, &convert));
        self.begin(kind, stream, wrap);
    }

    fn begin<T: Send + 'static>(
        &self,
        kind: Kind,
        stream: impl Stream<Item = watcher::Result<Event<Object<T>>>> + Send + 'static,
        wrap: fn(Change<T>) -> Update,
    ) {
        let (pipe, pause) = (self.pipe.clone(), self.pause);
        tokio::spawn(async move {
            sleep(pause).await;
            pipe.run(kind, stream, wrap).await;
        });
    }
}

impl Pipe {
    async fn run<T>(
        self,
        kind: Kind,
        stream: impl Stream<Item = watcher::Result<Event<Object<T>>>>,
        wrap: fn(Change<T>) -> Update,
    ) {
        let mut stream = std::pin::pin!(stream);
        let mut listed = Vec::new();
        let mut named: HashSet<Box<str>> = HashSet::new();
        let mut refused: Option<String> = None;
        let mut absent = false;
        let mut backoff = DefaultBackoff::default();
        while let Some(item) = stream.next().await {
            let update = match item {
                // Said before the API is asked: it is no sign that the API answers.
                Ok(Event::Init) => {
                    listed.clear();
                    named.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(object);
                    (listed.len() == PART).then(|| part(&mut listed, &mut named))
                }
                Ok(Event::InitDone) if named.is_empty() => Some(Change::Replace(std::mem::take(&mut listed))),
                Ok(Event::InitDone) => {
                    let last = part(&mut listed, &mut named);
                    if self.send(wrap(last)).await.is_err() {
                        return;
                    }
                    Some(Change::Told(std::mem::take(&mut named)))
                }
                Ok(Event::Apply(object)) => Some(Change::Apply(object)),
                Ok(Event::Delete(object)) => Some(Change::Delete(object.name)),
                Err(error) if kind.is_optional() && convert::is_unknown(&error) => {
                    refused = None;
                    if !absent && self.send(wrap(Change::Replace(Vec::new()))).await.is_err() {
                        return;
                    }
                    absent = true;
                    if let Some(pause) = backoff.next() {
                        sleep(pause).await;
                    }
                    continue;
                }
                Err(error) => {
                    let now = convert::refusal(&error);
                    match &now {
                        None => self.doubt.notify_one(),
                        Some(_)
                            if now != refused
                                && self.send(Update::Refused(kind, now.clone())).await.is_err() =>
                        {
                            return;
                        }
                        Some(_) => {}
                    }
                    refused = now.or(refused);
                    if convert::is_gone(&error) {
                        backoff.reset();
                    }
                    if let Some(pause) = backoff.next() {
                        sleep(pause).await;
                    }
                    continue;
                }
            };
            backoff.reset();
            absent = false;
            if refused.take().is_some() && self.send(Update::Refused(kind, None)).await.is_err() {
                return;
            }
            if let Some(change) = update
                && self.send(wrap(change)).await.is_err()
            {
                return;
            }
        }
    }

    async fn send(&self, update: Update) -> Result<(), mpsc::error::SendError<Said>> {
        self.tx.send(update.into()).await
    }
}

/// What has been listed by now, to be told, and its names noted.
fn part<T>(listed: &mut Vec<Object<T>>, named: &mut HashSet<Box<str>>) -> Change<T> {
    named.extend(listed.iter().map(|object| Box::from(object.name.as_str())));
    Change::Part(std::mem::take(listed))
}

fn map<K, T>(event: Event<K>, mut convert: impl FnMut(K) -> Object<T>) -> Event<Object<T>> {
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(convert(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(convert(object)),
        Event::Delete(object) => Event::Delete(convert(object)),
    }
}

/// `namespace/name`, or the name of what has no namespace.
pub(crate) fn full_name(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::time::Instant;

    use manx_ipam::choice::Wishes;

    use super::*;
    use crate::model::Pod;

    fn pod(name: &str) -> Object<Pod> {
        let spec = Ok(Pod { uid: String::new(), wishes: Ok(Wishes::default()), here: true, policed: None });
        Object { name: name.to_owned(), uid: String::new(), generation: 0, conditions: Vec::new(), spec }
    }

    fn forbidden() -> watcher::Error {
        let status = kube::core::Status::failure("pods is forbidden", "Forbidden").with_code(403);
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    /// What the agent hears of these events.
    async fn told(events: Vec<watcher::Result<Event<Object<Pod>>>>) -> (Vec<String>, Arc<Notify>) {
        let (tx, mut updates) = mpsc::channel(64);
        let doubt = Arc::new(Notify::new());
        Pipe { tx, doubt: doubt.clone() }.run(Kind::Pod, stream::iter(events), Update::Pod).await;
        let mut told = Vec::new();
        while let Some(Said { update, .. }) = updates.recv().await {
            told.push(match update {
                Update::Pod(Change::Replace(pods)) => {
                    let names: Vec<String> = pods.into_iter().map(|pod| pod.name).collect();
                    format!("all: {}", names.join(" "))
                }
                Update::Pod(Change::Part(pods)) => format!("part of {}", pods.len()),
                Update::Pod(Change::Told(names)) => format!("told of {}", names.len()),
                Update::Pod(Change::Apply(pod)) => format!("apply {}", pod.name),
                Update::Pod(Change::Delete(name)) => format!("delete {name}"),
                other => format!("{other:?}"),
            });
        }
        (told, doubt)
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_told_whole_and_one_that_broke_off_not_at_all() {
        let (told, _) = told(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(pod("lost"))),
            Ok(Event::Init),
            Ok(Event::InitApply(pod("a"))),
            Ok(Event::InitApply(pod("b"))),
            Ok(Event::InitDone),
            Ok(Event::Apply(pod("c"))),
            Ok(Event::Delete(pod("a"))),
        ])
        .await;
        assert_eq!(told, ["all: a b", "apply c", "delete a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_list_is_told_in_parts_and_its_end_names_all_of_it() {
        let list = |count: usize| {
            let pods = (0..count).map(|number| Ok(Event::InitApply(pod(&number.to_string()))));
            [Ok(Event::Init)].into_iter().chain(pods)
        };
        let broken = list(PART + 1);
        let (said, _) = told(broken.chain(list(PART + 2)).chain([Ok(Event::InitDone)]).collect()).await;
        assert_eq!(said, ["part of 500", "part of 500", "part of 2", "told of 502"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_once_and_its_end_too() {
        let tries = || [Ok(Event::Init), Err(forbidden())];
        let end = [Ok(Event::Init), Ok(Event::InitDone)];
        let (told, _) = told(tries().into_iter().chain(tries()).chain(end).collect()).await;
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("ClusterRole"), "{told:?}");
        assert_eq!(told[1..], ["Refused(Pod, None)", "all: "]);
    }

    /// How long it is waited behind each of these events.
    async fn pauses(events: Vec<watcher::Result<Event<Object<Pod>>>>) -> Vec<Duration> {
        let mut taken = Vec::new();
        let (tx, _updates) = mpsc::channel(64);
        let events = stream::iter(events.into_iter().chain([Ok(Event::Init)]));
        let events = events.inspect(|_| taken.push(Instant::now()));
        Pipe { tx, doubt: Arc::default() }.run(Kind::Pod, events, Update::Pod).await;
        taken.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_refuses_is_asked_less_and_less_often() {
        let tries = (0..10).flat_map(|_| [Ok(Event::Init), Err(forbidden())]);
        let pauses = pauses(tries.collect()).await;
        assert!(pauses.last() > Some(&Duration::from_secs(20)), "{pauses:?}");
    }

    #[test]
    fn agents_of_a_large_cluster_do_not_all_list_at_one_moment() {
        let moments: Vec<Duration> = (0..5000).map(|node| moment(&format!("node-{node}"))).collect();
        assert!(moments.iter().all(|moment| *moment < SPREAD));
        let tenth = |moment: &Duration| (moment.as_secs_f64() / SPREAD.as_secs_f64() * 10.0) as usize;
        let mut in_each = [0; 10];
        moments.iter().for_each(|moment| in_each[tenth(moment)] += 1);
        assert!(in_each.iter().all(|count| (400..600).contains(count)), "{in_each:?}");
        assert_eq!(moment("node-1"), moment("node-1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_too_old_is_no_refusal_and_begins_anew_soon() {
        let gone = || {
            let status = kube::core::Status::failure("too old resource version", "Expired").with_code(410);
            Err(watcher::Error::WatchError(Box::new(status)))
        };
        let (told, _) = told(vec![gone(), Ok(Event::Init), Ok(Event::InitDone)]).await;
        assert_eq!(told, ["all: "]);
        let refused_before = (0..10).map(|_| Err(forbidden()));
        let pauses = pauses(refused_before.chain([gone()]).collect()).await;
        assert!(pauses.last() < Some(&Duration::from_secs(2)), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_raises_doubt_and_says_nothing_by_itself() {
        let lost = watcher::Error::WatchFailed(kube::Error::LinesCodecMaxLineLengthExceeded);
        let (told, doubt) = told(vec![Err(lost)]).await;
        assert_eq!(told, Vec::<String>::new());
        doubt.notified().await;
    }
}
