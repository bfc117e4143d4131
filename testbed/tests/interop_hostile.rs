//! manx-bgpd among neighbours that mean no good: whatever they do, FRR beside them never misses a KEEPALIVE or BFD's
//! packets. Asserted on FRR's own counts. (What it costs in memory: `tests/hostile.rs` of manx-bgp.)

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use manx_bgp::api::{Reply, Request, Session as Shown, SessionState};
use manx_bgp::bfd::State;
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::{
    self, AddPath, Announcement, AsPath, Attributes, Capability, Community, Message, NextHop, Open, Origin,
    Segment, Session, Update,
};
use manx_testbed::{Lab, Options, Topology, eventually, netns};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, sockopt};
use serde_json::Value;

/// Long enough for a retry after an error, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(60);

const MANX: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Hosts of 10.0.0.0/24 that speak from the node `bad`.
const BAD: u8 = 3;
const STALLED: u8 = 4;
const STRANGER: u8 = 9;

/// How often FRR has lost the BFD session and the BGP session.
async fn losses(lab: &Lab) -> (u64, u64) {
    let json = async |command| -> Value {
        serde_json::from_str(&lab.run("router", &["vtysh", "-c", command]).await.unwrap()).unwrap()
    };
    let peers = json("show bfd peers counters json").await;
    let peer = peers.as_array().unwrap().iter().find(|peer| peer["peer"] == "10.0.0.1").unwrap();
    let bgp = json("show bgp neighbors 10.0.0.1 json").await;
    (peer["session-down"].as_u64().unwrap(), bgp["10.0.0.1"]["connectionsDropped"].as_u64().unwrap())
}

async fn sessions(lab: &Lab) -> Vec<Shown> {
    match lab.ask_bgpd("manx", &Request::Status).await {
        Ok(Reply::Status(status)) => status.sessions,
        other => panic!("{other:?}"),
    }
}

async fn shows(lab: &Lab, n: usize, wanted: impl Fn(&Shown) -> bool) -> Shown {
    let shown = || async {
        let shown = sessions(lab).await.remove(n);
        if wanted(&shown) { Ok(shown) } else { Err(format!("{shown:?}")) }
    };
    eventually(SOON, shown).await.unwrap()
}

/// Does it in the network of the node `bad`.
async fn from_bad<T: Send + 'static>(lab: &Lab, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(netns::path(&netns::of_node(lab.name(), "bad"))).unwrap();
    // A thread of its own, which ends with the namespace it has gone to.
    let work = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    tokio::task::spawn_blocking(move || work.join().unwrap()).await.unwrap()
}

fn session() -> Session {
    let (families, add_path) = (vec![Family::Ipv4], AddPath::default());
    Session { asn4: true, families, ebgp: true, extended: false, add_path }
}

fn octets(message: &Message) -> Vec<u8> {
    let mut octets = Vec::new();
    wire::write(message, Some(&session()), &mut octets).unwrap();
    octets
}

fn call(host: u8) -> std::io::Result<std::net::TcpStream> {
    let family = socket::AddressFamily::Inet;
    let made = socket::socket(family, socket::SockType::Stream, socket::SockFlag::SOCK_CLOEXEC, None)?;
    if host == STALLED {
        socket::setsockopt(&made, sockopt::RcvBuf, &4096)?;
    }
    let address = |ip: Ipv4Addr, port| socket::SockaddrIn::from(std::net::SocketAddrV4::new(ip, port));
    socket::bind(made.as_raw_fd(), &address(Ipv4Addr::new(10, 0, 0, host), 0))?;
    socket::connect(made.as_raw_fd(), &address(MANX, 179))?;
    Ok(made.into())
}

/// An OPEN without a hold time: one that says nothing more is borne.
fn open(host: u8) -> Vec<u8> {
    let asn = Asn(65000 + u32::from(host));
    let capabilities = vec![Capability::Multiprotocol(Family::Ipv4), Capability::FourOctetAs(asn)];
    let router_id = RouterId(Ipv4Addr::new(10, 0, 0, host));
    octets(&Message::Open(Open { asn, hold_time: 0, router_id, capabilities }))
}

/// Established, as far as it can be known from here: refused ones are asked again.
fn established(host: u8) -> std::net::TcpStream {
    for _ in 0..1000 {
        let Ok(mut stream) = call(host) else { continue };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let keepalive = octets(&Message::Keepalive);
        let said = [open(host), keepalive.clone()].concat();
        // Their OPEN, and the KEEPALIVE that takes ours.
        let mut header = [0; 19];
        let mut heard = Vec::new();
        if stream.write_all(&said).is_ok() {
            while stream.read_exact(&mut header).is_ok() {
                let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
                if stream.read_exact(&mut body).is_err() {
                    break;
                }
                heard.push(header[18]);
                if heard == [1, 4] {
                    return stream;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never established");
}

/// 256 prefixes of 11.BLOCK.0.0/16 in one message, with attributes that differ by `round`.
fn update(block: u8, round: u32) -> Vec<u8> {
    let attributes = Attributes {
        origin: Origin::Igp,
        as_path: AsPath([Segment::Sequence(vec![Asn(65003)])].into_iter().collect()),
        med: Some(round),
        local_pref: None,
        atomic_aggregate: false,
        aggregator: None,
        communities: vec![Community(round), Community(u32::from(block) << 16)],
        originator_id: None,
        cluster_list: Vec::new(),
        ext_communities: Vec::new(),
        large_communities: Vec::new(),
        unknown: Vec::new(),
    };
    let prefix = |n| Prefix::truncated(Ipv4Addr::new(11, block, n, 0).into(), 24).unwrap().into();
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, BAD));
    octets(&Message::Update(Update {
        announced: vec![Announcement { next_hop, prefixes: (0..=255).map(prefix).collect() }],
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    }))
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn no_keepalive_and_no_bfd_packet_of_a_good_neighbours_is_late_whatever_others_do() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-hostile.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some("hostile".to_owned()), ..Options::default() };
    let lab = Lab::up(&topology, options).await.unwrap().temporary();
    // FRR's bgpd gives its BFD session up once and makes another when the BGP session comes up.
    let settled = |shown: &Shown| {
        shown.state == SessionState::Established
            && shown.since_seconds >= 3
            && shown.bfd.as_ref().is_some_and(|bfd| bfd.state == State::Up && bfd.since_seconds >= 3)
    };
    let settled = shows(&lab, 0, settled).await;
    let before = losses(&lab).await;

    // It never reads: what it is to hear piles up.
    let stalled = from_bad(&lab, || established(STALLED)).await;
    // A flood of updates, all told to FRR and to the one that does not read.
    let flood = from_bad(&lab, || {
        let mut stream = established(BAD);
        for round in 0..20 {
            for block in 0..64 {
                stream.write_all(&update(block, round)).unwrap();
            }
        }
        stream
    })
    .await;
    shows(&lab, 1, |shown| shown.messages_in >= 20 * 64).await;
    shows(&lab, 0, |shown| shown.advertised > 64 * 256).await;
    assert_eq!(losses(&lab).await, before, "a flood");
    drop(flood);
    shows(&lab, 1, |shown| shown.state != SessionState::Established && shown.received == 0).await;
    assert_eq!(losses(&lab).await, before, "16,384 routes that go at once");

    let flaps = sessions(&lab).await.remove(1).flaps;
    from_bad(&lab, || {
        for round in 0..1000_u32 {
            let mut stream = established(BAD);
            stream.write_all(&update(round as u8, round)).unwrap();
        }
    })
    .await;
    let flapped = shows(&lab, 1, |shown| shown.state != SessionState::Established).await;
    assert!(flapped.flaps >= flaps + 900, "{flapped:?}");
    assert_eq!(losses(&lab).await, before, "1,000 flaps");

    for _ in 0..5 {
        // As many as the usual limit of open files lets one process hold.
        let held = from_bad(&lab, || {
            let call = |n: u32| call(if n.is_multiple_of(2) { STRANGER } else { BAD });
            (0..200).map(call).collect::<Result<Vec<_>, _>>().unwrap()
        })
        .await;
        assert_eq!(held.len(), 200);
    }
    assert_eq!(losses(&lab).await, before, "1,000 connections");

    let garbage = |n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
    from_bad(&lab, move || {
        for round in 0..200_u32 {
            if let Ok(mut stream) = call(BAD) {
                let mut said = if round.is_multiple_of(2) { open(BAD) } else { Vec::new() };
                said.extend((round..round + 1000).map(garbage));
                let _ = stream.write_all(&said);
            }
        }
    })
    .await;
    let good = shows(&lab, 0, |shown| shown.state == SessionState::Established).await;
    assert_eq!(losses(&lab).await, before, "garbage");
    let flaps = |shown: &Shown| (shown.flaps, shown.bfd.as_ref().map(|bfd| bfd.flaps));
    assert_eq!(flaps(&good), flaps(&settled), "{good:?}");

    // Its connection stands, and without a hold time it need say nothing: RFC 9687 alone ends its session.
    let over = shows(&lab, 2, |shown| shown.state != SessionState::Established).await;
    assert_eq!(
        over.reason.as_deref(),
        Some("send hold timer expired: the neighbour has read nothing for 20 s")
    );
    assert_eq!((over.flaps, over.advertised), (1, 0));
    assert_eq!(losses(&lab).await, before, "one that reads nothing is given up");
    drop(stalled);
}
