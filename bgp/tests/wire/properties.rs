//! What is written is read again as it was; nothing a neighbour sends makes us panic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::BytesMut;
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::update::Packer;
use manx_bgp::wire::{
    self, AddPath, Announcement, AsPath, Attributes, Capability, Community, ExtCommunity, LargeCommunity,
    Message, NextHop, Nlri, Notification, Open, Origin, RouteRefresh, Segment, Session, UnknownAttr, Update,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;

use crate::{read, write};

prop_compose! {
    fn session()(asn4: bool, ebgp: bool, extended: bool, path_ids in subsequence(Family::ALL.to_vec(), 0..=2)) -> Session {
        // What is written is read again.
        let add_path = AddPath { receive: path_ids.clone(), send: path_ids };
        Session { asn4, families: Family::ALL.to_vec(), ebgp, extended, add_path }
    }
}

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..=65535_u32, 1..=u32::MAX].prop_map(Asn)
}

fn prefix(family: Family) -> BoxedStrategy<Prefix> {
    let cut = |(addr, length)| Prefix::truncated(addr, length).expect("a length within the family");
    match family {
        Family::Ipv4 => (any::<Ipv4Addr>().prop_map(IpAddr::V4), 0..=32_u8).prop_map(cut).boxed(),
        Family::Ipv6 => (any::<Ipv6Addr>().prop_map(IpAddr::V6), 0..=128_u8).prop_map(cut).boxed(),
    }
}

fn nlri(family: Family, session: &Session) -> BoxedStrategy<Nlri> {
    let path_id = if session.sends_path_ids(family) { any::<u32>().boxed() } else { Just(0).boxed() };
    (prefix(family), path_id).prop_map(|(prefix, path_id)| Nlri { prefix, path_id }).boxed()
}

fn next_hop(family: Family) -> BoxedStrategy<NextHop> {
    match family {
        Family::Ipv4 => {
            any::<[u8; 3]>().prop_map(|[b, c, d]| NextHop::V4(Ipv4Addr::new(10, b, c, d))).boxed()
        }
        Family::Ipv6 => {
            let global = any::<u64>().prop_map(|host| Ipv6Addr::from(0xfd00 << 112 | u128::from(host)));
            let link_local = any::<u64>().prop_map(|host| Ipv6Addr::from(0xfe80 << 112 | u128::from(host)));
            (global, option::of(link_local))
                .prop_map(|(global, link_local)| NextHop::V6 { global, link_local })
                .boxed()
        }
    }
}

/// Confederation segments only where they survive: inside, with four octets (AS4_PATH leaves them out).
fn segment(session: &Session) -> BoxedStrategy<Segment> {
    let asns = || vec(asn(), 1..20);
    let plain = prop_oneof![asns().prop_map(Segment::Sequence), asns().prop_map(Segment::Set)];
    if session.ebgp || !session.asn4 {
        return plain.boxed();
    }
    prop_oneof![plain, asns().prop_map(Segment::ConfedSequence), asns().prop_map(Segment::ConfedSet)].boxed()
}

/// Codes the parser has no row for.
fn unknown() -> impl Strategy<Value = Vec<UnknownAttr>> {
    let code = prop_oneof![11..=13_u8, 19..=31_u8, 33..=255_u8];
    proptest::collection::btree_map(code, (any::<bool>(), vec(any::<u8>(), 0..300)), 0..3).prop_map(
        |attrs: BTreeMap<_, _>| {
            let flags = |partial| if partial { 0xe0 } else { 0xc0 };
            attrs
                .into_iter()
                .map(|(code, (partial, value))| UnknownAttr { code, flags: flags(partial), value })
                .collect()
        },
    )
}

fn attributes(session: &Session) -> impl Strategy<Value = Attributes> + use<> {
    let ibgp = !session.ebgp;
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    (
        (origin, vec(segment(session), 0..4), any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>()),
        option::of((asn(), any::<Ipv4Addr>())),
        btree_set(any::<u32>(), 0..20),
        (any::<Option<Ipv4Addr>>(), vec(any::<Ipv4Addr>(), 0..4)),
        (btree_set(any::<(u32, u32, u32)>(), 0..8), btree_set(any::<[u8; 8]>(), 0..8)),
        unknown(),
    )
        .prop_map(
            move |(first, aggregator, communities, (originator, clusters), (large, extended), unknown)| {
                let (origin, as_path, med, local_pref, atomic_aggregate) = first;
                Attributes {
                    origin,
                    as_path: AsPath::from(as_path),
                    med,
                    local_pref: local_pref.filter(|_| ibgp),
                    atomic_aggregate,
                    aggregator,
                    communities: communities.into_iter().map(Community).collect(),
                    originator_id: originator.filter(|_| ibgp).map(RouterId),
                    cluster_list: if ibgp { clusters } else { Vec::new() },
                    ext_communities: extended.into_iter().map(ExtCommunity).collect(),
                    large_communities: large.into_iter().map(|(a, b, c)| LargeCommunity(a, b, c)).collect(),
                    unknown,
                }
            },
        )
}

fn update(session: &Session) -> impl Strategy<Value = Update> + use<> {
    let announcement = |family| {
        option::of((next_hop(family), vec(nlri(family, session), 1..20)))
            .prop_map(|some| some.map(|(next_hop, prefixes)| Announcement { next_hop, prefixes }))
    };
    let withdrawn = |family| vec(nlri(family, session), 0..20);
    (
        (withdrawn(Family::Ipv4), withdrawn(Family::Ipv6)),
        (announcement(Family::Ipv4), announcement(Family::Ipv6)),
        attributes(session),
    )
        .prop_map(|((mut withdrawn, ipv6), (first, second), attributes)| {
            withdrawn.extend(ipv6);
            let announced: Vec<_> = first.into_iter().chain(second).collect();
            if withdrawn.is_empty() && announced.is_empty() {
                return Update::end_of_rib(Family::Ipv6);
            }
            let attributes = (!announced.is_empty()).then(|| Arc::new(attributes));
            Update { withdrawn, announced, attributes, ..Update::default() }
        })
}

fn capability() -> impl Strategy<Value = Capability> {
    let family = || prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        (3..=u16::MAX, any::<u8>()).prop_map(|(afi, safi)| Capability::MultiprotocolOther { afi, safi }),
        Just(Capability::RouteRefresh),
        vec((family(), family()), 0..3).prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        (any::<bool>(), any::<bool>(), 0..=4095_u16, vec((family(), any::<bool>()), 0..3)).prop_map(
            |(restarting, notification, time, families)| Capability::GracefulRestart {
                restarting,
                notification,
                time,
                families
            }
        ),
        Just(Capability::EnhancedRouteRefresh),
        (71..=255_u8, vec(any::<u8>(), 0..=255))
            .prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    let capabilities = vec(capability(), 0..8);
    (asn(), hold_time, 1..=u32::MAX, capabilities).prop_map(
        |(asn, hold_time, router_id, mut capabilities)| {
            capabilities.push(Capability::FourOctetAs(asn));
            Open { asn, hold_time, router_id: RouterId(Ipv4Addr::from(router_id)), capabilities }
        },
    )
}

fn message(session: &Session) -> impl Strategy<Value = Message> + use<> {
    prop_oneof![
        1 => open().prop_map(Message::Open),
        4 => update(session).prop_map(Message::Update),
        1 => (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..300))
            .prop_map(|(code, subcode, data)| Message::Notification(Notification { code, subcode, data })),
        1 => Just(Message::Keepalive),
        1 => any::<(u16, u8, u8)>()
            .prop_map(|(afi, subtype, safi)| Message::RouteRefresh(RouteRefresh { afi, subtype, safi })),
    ]
}

/// Whatever was accepted keeps what its type promises.
fn check(message: &Message) {
    match message {
        Message::Open(open) => {
            assert_ne!(open.asn, Asn(0));
            assert!(!matches!(open.hold_time, 1 | 2));
            assert!(!open.router_id.0.is_unspecified());
        }
        Message::Update(update) => {
            assert_eq!(update.attributes.is_some(), !update.announced.is_empty());
            for announcement in &update.announced {
                let family = announcement.prefixes.first().expect("announcements are never empty").family();
                assert!(announcement.prefixes.iter().all(|prefix| prefix.family() == family));
            }
        }
        Message::Notification(notification) => assert!(!notification.to_string().is_empty()),
        Message::Keepalive | Message::RouteRefresh(_) => {}
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        (session, message) in session().prop_flat_map(|session| (Just(session.clone()), message(&session)))
    ) {
        let written = write(&message, &session);
        prop_assert_eq!(read(&written, &session), Ok(message));
    }

    #[test]
    fn arbitrary_octets_never_panic(octets in vec(any::<u8>(), 0..200), kind in 1..=5_u8, session in session()) {
        let mut raw = BytesMut::from(&octets[..]);
        let _ = wire::frame(&mut raw, session.max_message());
        let mut message = vec![0xff; 16];
        message.extend((19 + octets.len() as u16).to_be_bytes());
        message.push(kind);
        message.extend(octets);
        if let Ok(message) = read(&message, &session) {
            check(&message);
            let _ = wire::write(&message, Some(&session), &mut Vec::new());
        }
    }

    #[test]
    fn mutated_messages_never_panic_and_keep_their_promises(
        (session, message) in session().prop_flat_map(|session| (Just(session.clone()), message(&session))),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut written = write(&message, &session);
        let header = 19;
        for (place, octet) in mutations {
            let body = &mut written[header..];
            if !body.is_empty() {
                body[place.index(body.len())] = octet;
            }
        }
        if let Some(cut) = cut {
            written.truncate(header + cut.index(written.len() - header + 1));
            let length = (written.len() as u16).to_be_bytes();
            written[16..18].copy_from_slice(&length);
        }
        let mut buffer = BytesMut::from(&written[..]);
        if let Ok(Some(frame)) = wire::frame(&mut buffer, session.max_message())
            && let Ok(message) = wire::parse(&frame, Some(&session))
        {
            check(&message);
            let _ = wire::write(&message, Some(&session), &mut Vec::new());
        }
    }

    #[test]
    fn packed_updates_fit_and_lose_nothing(
        (session, attributes, family, next_hop, prefixes) in session().prop_flat_map(|session| {
            let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
            (Just(session.clone()), attributes(&session), family).prop_flat_map(|(session, attributes, family)| {
                let prefixes = vec(nlri(family, &session), 0..2000);
                (Just(session), Just(attributes), Just(family), next_hop(family), prefixes)
            })
        }),
        withdraw: bool,
    ) {
        let packer = if withdraw {
            Packer::withdrawals(family, &session)
        } else {
            Packer::announcements(&attributes, next_hop, family, &session).expect("there is room")
        };
        let mut octets = Vec::new();
        let messages = packer.write(prefixes.iter().copied(), &mut octets);
        let mut stream = BytesMut::from(octets.as_slice());
        let mut heard = Vec::new();
        let mut sizes = Vec::new();
        while let Some(frame) = wire::frame(&mut stream, session.max_message()).expect("whole messages") {
            sizes.push(frame.body.len() + 19);
            let Message::Update(update) = wire::parse(&frame, Some(&session)).expect("good messages") else {
                panic!("not an UPDATE");
            };
            prop_assert_eq!(&update.faults, &[]);
            if let Some(announced) = update.attributes {
                prop_assert_eq!(&*announced, &attributes);
            }
            heard.extend(update.withdrawn);
            for announcement in update.announced {
                prop_assert_eq!(announcement.next_hop, next_hop);
                heard.extend(announcement.prefixes);
            }
        }
        prop_assert_eq!(sizes.len(), messages as usize);
        prop_assert_eq!(heard, prefixes);
        // All but the last are full, up to one prefix with its path identifier.
        sizes.pop();
        prop_assert!(sizes.iter().all(|size| size + 22 > session.max_message()), "{:?}", sizes);
    }
}

#[test]
fn a_route_whose_attributes_leave_no_room_cannot_be_told() {
    let families = vec![Family::Ipv4];
    let add_path = AddPath::default();
    let session = Session { asn4: true, families, ebgp: true, extended: false, add_path };
    let attributes = |octets: usize| {
        let unknown = vec![UnknownAttr { code: 99, flags: 0xc0, value: vec![0; octets] }];
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            ext_communities: Vec::new(),
            large_communities: Vec::new(),
            unknown,
        }
    };
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 1));
    // Header and lengths 23, ORIGIN 4, AS_PATH 3, NEXT_HOP 7, the attribute's own header 4, a /32 5.
    let most = 4096 - 23 - 4 - 3 - 7 - 4 - 5;
    let packer = |octets| Packer::announcements(&attributes(octets), next_hop, Family::Ipv4, &session);
    assert!(packer(most).is_some());
    assert!(packer(most + 1).is_none());
    assert!(packer(70_000).is_none());
    let mut octets = Vec::new();
    assert_eq!(packer(most).unwrap().write(crate::prefixes(&["192.0.2.1/32"]), &mut octets), 1);
    assert_eq!(octets.len(), 4096);
}
