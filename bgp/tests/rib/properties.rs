//! Whatever happens in whatever order, and whenever things are taken: the outcome is that of the last
//! word of each side.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use manx_bgp::api::{Network, PathCount, PathInfo, Reach};
use manx_bgp::rib::{Drain, Leaving, PeerFacts, PeerId, Policy, Rib};
use manx_bgp::types::{Family, Prefix, RouterId, ScopedAddr};
use manx_bgp::wire::{AddPath, Attributes, Community, Nlri, Origin, Session, Update};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{
    Heard, OUR_AS, accept, announce, attributes, except, facts, network, nlri, originated, policy, prefix,
    reject, rib,
};

/// The first internal peer is a client of ours (RFC 4456).
const CLIENT: usize = 2;

/// AS of each peer; the last only listens.
const PEERS: [u32; 5] = [65001, 65002, 64512, 64512, 65003];

const POOL: [&str; 8] = [
    "0.0.0.0/0",
    "10.1.0.0/26",
    "10.1.0.64/26",
    "192.0.2.0/24",
    "192.0.2.0/25",
    "::/0",
    "fd01::/64",
    "2001:db8::/32",
];

/// What one side does.
#[derive(Clone, Debug)]
enum Op {
    /// As the same speaker as before, or as another one.
    Up(Speaker),
    Down,
    /// The session is lost, and the peer will be back.
    Lost,
    /// It has been away for longer than its restart time.
    LiveLong(Family),
    /// It has said all it has, or is waited for no longer.
    Sweep(Family),
    /// It begins to say everything again.
    Refreshes(Family),
    Drain(Drain),
    /// Under this path identifier, where the session has any.
    Announce {
        prefixes: Vec<usize>,
        path_id: u32,
        attributes: Box<Attributes>,
        own_next_hop: bool,
    },
    Withdraw(Vec<usize>, u32),
    Policy(Option<Policy>, Option<Policy>),
    Refresh(Family),
    Networks(Vec<usize>, bool),
    Underlay(Option<Vec<Reach>>),
}

/// What a session has of RFC 7911.
#[derive(Clone, Copy, Debug, Default)]
struct Paths {
    receive: bool,
    send: Option<PathCount>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaker {
    Same,
    Other,
}

/// One thing after another, of all sides; between them, what is taken.
#[derive(Clone, Debug)]
struct Take {
    peer: Index,
    limit: usize,
    changes: bool,
}

/// Refuses what carries 0:7, marks /24s, and prefers what peer1 said.
fn rules() -> Option<Policy> {
    policy(
        &serde_json::from_str(
            r#"{"default": "accept", "rules": [
              {"match": {"communities": ["0:7"]}, "then": {"verdict": "reject"}},
              {"match": {"prefixes": [{"prefix": "0.0.0.0/0", "ge": 24, "le": 24}]},
               "then": {"verdict": "next", "addCommunities": ["0:9", "1:2:3"]}},
              {"match": {"peer": ["10.0.0.1"]}, "then": {"localPref": 101, "prepend": 1}}]}"#,
        )
        .unwrap(),
    )
}

fn some_attributes(ibgp: bool) -> impl Strategy<Value = Attributes> {
    let paths: Vec<&[u32]> = vec![&[65001], &[65002], &[65001, 65010], &[65001, 64512], &[65002, 65010]];
    let community = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Community::LLGR_STALE)),
        1 => Just(Some(Community::NO_LLGR)),
        1 => Just(Some(Community::GRACEFUL_SHUTDOWN)),
        1 => Just(Some(Community::NO_EXPORT)),
        1 => Just(Some(Community::NO_ADVERTISE)),
        1 => Just(Some(Community(7))),
    ];
    (
        prop::sample::select(paths),
        prop::option::of(0..2_u32),
        prop::option::of(100..102_u32),
        prop_oneof![Just(Origin::Igp), Just(Origin::Incomplete)],
        community,
    )
        .prop_map(move |(path, med, local_pref, origin, community)| Attributes {
            med,
            origin,
            local_pref: local_pref.filter(|_| ibgp),
            communities: community.into_iter().collect(),
            ..attributes(path)
        })
}

fn op(ibgp: bool) -> impl Strategy<Value = Op> {
    let some = || vec(0..POOL.len(), 1..4);
    let import = prop_oneof![
        1 => Just(None),
        1 => Just(accept()),
        1 => Just(except(&["192.0.2.0/24"])),
        1 => Just(reject()),
        2 => Just(rules()),
    ];
    let export = prop_oneof![
        1 => Just(None),
        1 => Just(originated()),
        1 => Just(accept()),
        1 => Just(reject()),
        2 => Just(rules()),
    ];
    prop_oneof![
        2 => prop_oneof![2 => Just(Speaker::Same), 1 => Just(Speaker::Other)].prop_map(Op::Up),
        1 => Just(Op::Down),
        1 => Just(Op::Lost),
        2 => family().prop_map(Op::LiveLong),
        1 => family().prop_map(Op::Sweep),
        1 => family().prop_map(Op::Refreshes),
        1 => drain().prop_map(Op::Drain),
        8 => (some(), 0..3_u32, some_attributes(ibgp), prop::bool::weighted(0.1)).prop_map(
            |(prefixes, path_id, attributes, own_next_hop)| {
                Op::Announce { prefixes, path_id, attributes: Box::new(attributes), own_next_hop }
            }
        ),
        4 => (some(), 0..3_u32).prop_map(|(prefixes, path_id)| Op::Withdraw(prefixes, path_id)),
        1 => (import, export).prop_map(|(import, export)| Op::Policy(import, export)),
        1 => family().prop_map(Op::Refresh),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn drain() -> impl Strategy<Value = Drain> {
    let told = prop_oneof![Just(Leaving::Stays), Just(Leaving::Announced), Just(Leaving::Withdrawn)];
    (told, any::<bool>()).prop_map(|(told, avoided)| Drain { told, avoided })
}

/// What each peer does, begun by coming up, and at last what is originated.
fn sides() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let side = |asn: u32| {
        vec(op(asn == OUR_AS.0), 0..12).prop_map(|mut ops| {
            ops.insert(0, Op::Up(Speaker::Same));
            ops
        })
    };
    let listener = prop_oneof![Just(Op::Refresh(Family::Ipv4)), Just(Op::Up(Speaker::Same))];
    let networks = prop_oneof![
        (vec(0..POOL.len(), 0..4), any::<bool>()).prop_map(|(some, tagged)| Op::Networks(some, tagged)),
        underlay().prop_map(Op::Underlay),
    ];
    (
        side(PEERS[0]),
        side(PEERS[1]),
        side(PEERS[2]),
        side(PEERS[3]),
        vec(listener, 0..3).prop_map(|mut ops| {
            ops.insert(0, Op::Up(Speaker::Same));
            ops
        }),
        vec(networks, 0..5),
    )
        .prop_map(|(a, b, c, d, e, f)| vec![a, b, c, d, e, f])
}

/// Next hops are 10.0.0.n and fd00::n; some are on networks that only routes of the pool lead to.
fn underlay() -> impl Strategy<Value = Option<Vec<Reach>>> {
    let reach = |(prefix, gateway, metric): (&str, Option<&str>, u32)| {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Reach { prefix: prefix.parse().unwrap(), gateway, metric }
    };
    let ways = prop::sample::subsequence(
        vec![
            ("10.0.0.0/24", None, 0),
            ("10.0.0.1/32", Some("172.16.0.1"), 5),
            ("10.0.0.2/32", None, 3),
            ("10.0.0.0/8", Some("172.16.0.2"), 9),
            ("fd00::/64", None, 0),
            ("fd00::1/128", Some("fe80::9"), 7),
            ("0.0.0.0/0", Some("172.16.0.3"), 1),
        ],
        0..5,
    );
    prop::option::of(ways.prop_map(move |ways| ways.into_iter().map(reach).collect()))
}

/// Half of the sessions have one path a destination.
fn paths() -> impl Strategy<Value = Vec<Paths>> {
    let send = prop_oneof![
        2 => Just(None),
        1 => Just(Some(PathCount::All)),
        1 => (1..4_u8).prop_map(|count| Some(PathCount::Best(count))),
    ];
    vec((any::<bool>(), send).prop_map(|(receive, send)| Paths { receive, send }), PEERS.len())
}

fn takes() -> impl Strategy<Value = Vec<Option<Take>>> {
    let take = (any::<Index>(), 1..4_usize, any::<bool>()).prop_map(|(peer, limit, changes)| Take {
        peer,
        limit,
        changes,
    });
    vec(prop::option::of(take), 80)
}

/// A RIB and all who listen to it.
struct World {
    rib: Rib,
    heard: Vec<Option<Heard>>,
    watched: BTreeMap<Prefix, Vec<ScopedAddr>>,
    policies: Vec<(Option<Policy>, Option<Policy>)>,
    paths: Vec<Paths>,
    drains: Vec<Drain>,
}

/// What BGP's rules say a peer holds of a destination: next hop, AS path, LOCAL_PREF of each path, sorted.
type Held = BTreeMap<Prefix, Vec<(String, String, Option<u32>)>>;

impl World {
    fn new(paths: &[Paths]) -> Self {
        let policies = vec![(accept(), accept()); PEERS.len()];
        Self {
            rib: rib(),
            heard: vec![None; PEERS.len()],
            watched: BTreeMap::new(),
            policies,
            paths: paths.to_vec(),
            drains: vec![Drain::default(); PEERS.len()],
        }
    }

    /// The side behind the peers is our own.
    fn apply(&mut self, side: usize, op: Op) {
        let peer = PeerId::new(side as u32);
        let n = side as u8 + 1;
        match op {
            Op::Up(speaker) => {
                let facts = facts(n, PEERS[side]);
                let router_id = match speaker {
                    Speaker::Same => facts.router_id,
                    Speaker::Other => RouterId(Ipv4Addr::new(10, 0, 1, n)),
                };
                let Paths { receive, send } = self.paths[side];
                let families = |on: bool| if on { Family::ALL.to_vec() } else { Vec::new() };
                let add_path = AddPath { receive: families(receive), send: families(send.is_some()) };
                let session = Session { add_path, ..facts.session };
                let (client, long_lived) = (side == CLIENT, knows_stale(side));
                let facts = PeerFacts { client, long_lived, router_id, session, add_paths: send, ..facts };
                self.rib.peer_up(peer, facts);
                self.heard[side] = Some(Heard::default());
                self.policies[side] = (accept(), accept());
                self.drains[side] = Drain::default();
            }
            Op::Down => {
                self.rib.peer_down(peer);
                self.heard[side] = None;
            }
            Op::Lost => {
                self.rib.peer_stale(peer, &Family::ALL);
                self.heard[side] = None;
            }
            Op::Sweep(family) => self.rib.sweep(peer, family),
            Op::LiveLong(family) => {
                if self.heard[side].is_none() {
                    self.rib.live_long(peer, family);
                }
            }
            // What follows happens in a session only.
            _ if side < PEERS.len() && self.heard[side].is_none() => {}
            Op::Refreshes(family) => self.rib.refreshes(peer, family),
            Op::Drain(drain) => {
                self.drains[side] = drain;
                self.rib.set_drain(peer, drain);
            }
            Op::Announce { prefixes, path_id, attributes, own_next_hop } => {
                let path_id = if self.paths[side].receive { path_id } else { 0 };
                for family in Family::ALL {
                    let host = if own_next_hop { 100 } else { n };
                    let next_hop = match family {
                        Family::Ipv4 => format!("10.0.0.{host}"),
                        Family::Ipv6 => format!("fd00::{host}"),
                    };
                    let of = |i: &&usize| prefix(POOL[**i]).family() == family;
                    let texts: Vec<_> = prefixes.iter().filter(of).map(|i| POOL[*i]).collect();
                    let mut update = announce(&next_hop, (*attributes).clone(), &texts);
                    update.announced[0].prefixes = nlri(&texts, path_id);
                    self.rib.update(peer, update);
                }
            }
            Op::Withdraw(prefixes, path_id) => {
                let path_id = if self.paths[side].receive { path_id } else { 0 };
                let texts: Vec<_> = prefixes.iter().map(|i| POOL[*i]).collect();
                self.rib.update(peer, Update { withdrawn: nlri(&texts, path_id), ..Update::default() });
            }
            Op::Policy(import, export) => {
                self.policies[side] = (import.clone(), export.clone());
                self.rib.set_policy(peer, import, export);
            }
            Op::Refresh(family) => self.rib.refresh(peer, family),
            Op::Underlay(ways) => self.rib.set_underlay(ways.as_deref()),
            Op::Networks(prefixes, tagged) => {
                let communities = if tagged { vec!["no-export".to_owned()] } else { Vec::new() };
                let networks: Vec<_> = prefixes
                    .iter()
                    .map(|i| Network { communities: communities.clone(), ..network(POOL[*i]) })
                    .collect();
                self.rib.set_networks(&networks).unwrap();
            }
        }
    }

    fn take(&mut self, take: &Take) {
        let side = take.peer.index(PEERS.len());
        let updates = self.rib.take_updates(PeerId::new(side as u32), take.limit);
        if let Some(heard) = &mut self.heard[side] {
            updates.into_iter().for_each(|update| heard.hear(update));
        } else {
            assert_eq!(updates, []);
        }
        if take.changes {
            self.watch();
        }
    }

    fn watch(&mut self) {
        for change in self.rib.take_changes() {
            if change.next_hops.is_empty() {
                self.watched.remove(&change.prefix);
            } else {
                self.watched.insert(change.prefix, change.next_hops);
            }
        }
    }

    fn settle(&mut self) {
        self.watch();
        for (side, heard) in self.heard.iter_mut().enumerate() {
            if let Some(heard) = heard {
                heard.drain(&mut self.rib, PeerId::new(side as u32));
            }
        }
    }

    /// What BGP's rules say the peer should hold, worked out from what people see of the table.
    fn expected(&self, side: usize) -> Held {
        let ebgp = PEERS[side] != OUR_AS.0;
        let address: IpAddr = format!("10.0.0.{}", side + 1).parse().unwrap();
        let mut expected = Held::new();
        for destination in self.rib.destinations(None) {
            let goes_out = |path: &&PathInfo| {
                let has = |community: &str| path.communities.iter().any(|other| other == community);
                let from_ibgp = path.peer_name == "peer3" || path.peer_name == "peer4";
                let learned = path.peer.is_some();
                let export = &self.policies[side].1;
                let policy = match export {
                    None => !ebgp,
                    Some(_) if *export == originated() => !learned,
                    // Refuses what carries 0:7, gives 0:9 to /24s, and prefers what peer1 said.
                    Some(_) if *export == rules() => !has("0:7"),
                    Some(_) => *export == accept(),
                };
                let stale = learned && has("llgr-stale");
                let barred = (stale && ebgp && !knows_stale(side))
                    || self.drains[side].told == Leaving::Withdrawn
                    || (from_ibgp && !ebgp && path.peer_name != "peer3" && side != CLIENT)
                    || (learned && has("no-advertise"))
                    || (learned && ebgp && has("no-export"));
                policy && !barred
            };
            let usable = destination.paths.iter().filter(|path| !path.verdict.starts_with("refused"));
            let chosen: Vec<_> = match self.paths[side].send {
                None => usable.take(1).filter(goes_out).collect(),
                Some(count) => usable.filter(goes_out).take(count.limit()).collect(),
            };
            let told = |path: &PathInfo| {
                let own = match destination.prefix.family() {
                    Family::Ipv4 => "10.0.0.100".to_owned(),
                    Family::Ipv6 => "fd00::100".to_owned(),
                };
                let preferred = self.policies[side].1 == rules() && path.peer_name == "peer1";
                let as_path = format!("{}{}", if preferred { "64512 " } else { "" }, path.as_path);
                if ebgp {
                    (own, format!("64512 {as_path}").trim().to_owned(), None)
                } else {
                    let next_hop = path.next_hop.map_or(own, |addr| addr.to_string());
                    let stale = path.communities.iter().any(|community| community == "llgr-stale");
                    let last = path.peer.is_some() && stale && !knows_stale(side)
                        || self.drains[side].told == Leaving::Announced;
                    let local_pref = if preferred { 101 } else { path.local_pref };
                    (next_hop, as_path, Some(if last { 0 } else { local_pref }))
                }
            };
            let mut told: Vec<_> =
                chosen.into_iter().filter(|path| path.peer != Some(address.into())).map(told).collect();
            told.sort_unstable();
            if !told.is_empty() {
                expected.insert(destination.prefix, told);
            }
        }
        expected
    }
}

/// Whether it takes routes that are the last resort (RFC 9494).
fn knows_stale(side: usize) -> bool {
    side.is_multiple_of(2)
}

/// What a peer holds, without what it is called.
fn held(heard: &Heard) -> Held {
    let mut held = Held::new();
    for (nlri, (next_hop, attributes)) in &heard.routes {
        let told = (next_hop.addr().to_string(), attributes.as_path.to_string(), attributes.local_pref);
        held.entry(nlri.prefix).or_default().push(told);
    }
    held.values_mut().for_each(|paths| paths.sort_unstable());
    held
}

/// All sides' ops in an order the picks choose; each side's own order is kept.
fn interleave(sides: &[Vec<Op>], picks: &[Index]) -> Vec<(usize, Op)> {
    let mut left: Vec<_> =
        sides.iter().map(|ops| ops.iter().cloned().collect::<std::collections::VecDeque<_>>()).collect();
    let mut picks = picks.iter().cycle();
    let mut order = Vec::new();
    loop {
        let open: Vec<_> = (0..left.len()).filter(|side| !left[*side].is_empty()).collect();
        let (Some(pick), false) = (picks.next(), open.is_empty()) else { return order };
        let side = *pick.get(&open);
        order.extend(left[side].pop_front().map(|op| (side, op)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_and_takings_ends_in_the_same_tables_and_the_same_told(
        sides in sides(),
        picks in vec(any::<Index>(), 80),
        takes in takes(),
        paths in paths(),
    ) {
        let mut one = World::new(&paths);
        for ((side, op), take) in interleave(&sides, &picks).into_iter().zip(takes.iter().cycle()) {
            one.apply(side, op);
            if let Some(take) = take {
                one.take(take);
            }
        }
        one.settle();

        // Another order: side by side, nothing taken before the end.
        let mut other = World::new(&paths);
        for (side, ops) in sides.iter().enumerate() {
            ops.iter().for_each(|op| other.apply(side, op.clone()));
        }
        other.settle();

        prop_assert_eq!(one.rib.destinations(None), other.rib.destinations(None));
        prop_assert_eq!(one.rib.len(), other.rib.len());
        let snapshot: BTreeMap<_, _> =
            one.rib.snapshot().into_iter().map(|route| (route.prefix, route.next_hops)).collect();
        prop_assert_eq!(&one.watched, &snapshot);
        prop_assert_eq!(&one.watched, &other.watched);
        for side in 0..PEERS.len() {
            let peer = PeerId::new(side as u32);
            prop_assert_eq!(one.rib.counts(peer), other.rib.counts(peer));
            let Some(heard) = &one.heard[side] else { continue };
            prop_assert_eq!(held(heard), held(other.heard[side].as_ref().unwrap()));
            prop_assert_eq!(held(heard), one.expected(side));
            let shown: BTreeMap<_, _> = (one.rib.advertised(peer, None).into_iter())
                .flat_map(|shown| {
                    shown.paths.into_iter().map(move |path| {
                        let nlri = Nlri { prefix: shown.prefix, path_id: path.path_id.unwrap_or(0) };
                        (nlri, (path.next_hop.unwrap(), path.as_path))
                    })
                })
                .collect();
            let heard_paths: BTreeMap<_, _> = (heard.routes.iter())
                .map(|(nlri, (hop, attributes))| (*nlri, (hop.addr().into(), attributes.as_path.to_string())))
                .collect();
            prop_assert_eq!(shown, heard_paths);
            prop_assert_eq!(one.rib.counts(peer).advertised, heard.routes.len());
            prop_assert_eq!(&heard.ends.len(), &2);
        }
    }
}
