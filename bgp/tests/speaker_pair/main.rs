//! Speakers on loopback addresses, over real TCP, through the public interface. Needs no root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod graceful;
mod guards;
mod malformed;
mod orders;
mod restart;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use manx_bgp::api::{
    Config, Direction, GracefulRestart, Network, News, PeerConfig, Policy, SessionState, Status,
};
use manx_bgp::speaker::{self, Handle, Options, Watch};
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::{self, Capability, Message, Notification, Open};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PORT: u16 = 1790;
const DEADLINE: Duration = Duration::from_secs(20);

/// Loopback addresses of one test: `127.TEST.PROCESS.HOST`, so that tests and runs do not meet.
#[derive(Clone, Copy)]
struct Lab(u8);

impl Lab {
    fn address(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, (std::process::id() % 251) as u8, host).into()
    }

    /// The speaker of `host`, in AS 64512, with no peers yet.
    fn config(self, host: u8) -> Config {
        Config {
            listen: vec![SocketAddr::new(self.address(host), PORT)],
            ..Config::new(Asn(64512), RouterId(Ipv4Addr::new(10, 0, 0, host)))
        }
    }

    /// What the speaker of `host` is told of `other`.
    fn peer(self, host: u8, other: u8) -> PeerConfig {
        PeerConfig {
            port: PORT,
            name: format!("node{other}"),
            local_address: Some(self.address(host)),
            next_hops: vec![v4(host), v6(host)],
            hold_time: 9,
            connect_retry: 1,
            ..PeerConfig::new(self.address(other), Asn(64512))
        }
    }

    /// A full mesh of `N` speakers, each with one network of each family.
    async fn mesh<const N: u8>(self) -> Vec<(Handle, Config)> {
        let mut speakers = Vec::new();
        for host in 1..=N {
            let (handle, _) = speaker::start(Options::default());
            let peers = (1..=N).filter(|other| *other != host).map(|other| self.peer(host, other)).collect();
            let config = Config { peers, networks: networks(host), ..self.config(host) };
            handle.apply(config.clone()).await.unwrap();
            speakers.push((handle, config));
        }
        for (handle, _) in &speakers {
            eventually("all established", handle, |status| {
                status.sessions.iter().all(|session| session.state == SessionState::Established)
            })
            .await;
        }
        speakers
    }
}

fn v4(host: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, host).into()
}

fn v6(host: u8) -> IpAddr {
    format!("2001:db8::{host}").parse().unwrap()
}

fn network(prefix: &str) -> Network {
    Network::new(prefix.parse().unwrap())
}

fn networks(host: u8) -> Vec<Network> {
    vec![network(&format!("10.1.{host}.0/26")), network(&format!("fd00:1:{host}::/64"))]
}

async fn eventually(what: &str, handle: &Handle, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = handle.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; now {status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a watcher was told, and whether that is all.
struct Table {
    watch: Watch,
    routes: BTreeMap<Prefix, Vec<IpAddr>>,
    synced: bool,
}

impl Table {
    async fn of(handle: &Handle) -> Self {
        Self { watch: handle.watch().await.unwrap(), routes: BTreeMap::new(), synced: false }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !wanted(self) {
            let reply = tokio::time::timeout_at(deadline, self.watch.next()).await;
            match reply.unwrap_or_else(|_| panic!("not in time: {what}; told {:?}", self.routes)).unwrap() {
                News::Routes(groups) => {
                    for group in groups {
                        let next_hops: Vec<IpAddr> = group.next_hops.iter().map(|hop| hop.addr).collect();
                        for prefix in group.prefixes {
                            match next_hops.is_empty() {
                                true => drop(self.routes.remove(&prefix)),
                                false => drop(self.routes.insert(prefix, next_hops.clone())),
                            }
                        }
                    }
                }
                News::Synced => {
                    assert!(!std::mem::replace(&mut self.synced, true), "once");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn has(&self, prefix: &str, next_hop: IpAddr) -> bool {
        self.routes.get(&prefix.parse().unwrap()) == Some(&vec![next_hop])
    }
}

#[tokio::test]
async fn rfc4760_two_speakers_exchange_routes_of_both_families_over_one_session() {
    let lab = Lab(1);
    let speakers = lab.mesh::<2>().await;
    let mut table = Table::of(&speakers[0].0).await;
    table
        .until("the other's networks", |t| t.has("10.1.2.0/26", v4(2)) && t.has("fd00:1:2::/64", v6(2)))
        .await;
    table.until("complete: the only peer has sent its End-of-RIB", |t| t.synced).await;

    let (handle, config) = &speakers[1];
    let mut fewer = config.clone();
    fewer.networks = vec![network("fd00:1:2::/64"), network("10.9.0.0/16")];
    let changes = handle.apply(fewer).await.unwrap();
    assert_eq!(changes, ["network 10.1.2.0/26 withdrawn", "network 10.9.0.0/16 announced"]);
    table.until("the change", |t| t.has("10.9.0.0/16", v4(2)) && t.routes.len() == 2).await;

    let status = speakers[0].0.status().await.unwrap();
    let session = &status.sessions[0];
    assert_eq!((session.name.as_str(), session.received, session.accepted), ("node2", 2, 2));
    assert_eq!((session.advertised, session.flaps), (2, 0));
    assert_eq!((session.hold_time, session.router_id), (Some(9), Some(config.router_id)));
    assert_eq!(session.families, Family::ALL);
    assert_eq!(
        status.originated,
        [config.networks[0].prefix, config.networks[1].prefix].map(|prefix| {
            // Ours are those of host 1.
            prefix.to_string().replace(".2.", ".1.").replace(":2:", ":1:").parse().unwrap()
        })
    );
    assert!(status.synced);
}

#[tokio::test]
async fn a_watcher_that_comes_later_is_told_all_that_is_there() {
    let speakers = Lab(2).mesh::<3>().await;
    let mut first = Table::of(&speakers[0].0).await;
    first.until("all", |t| t.routes.len() == 4 && t.synced).await;
    let mut second = Table::of(&speakers[0].0).await;
    second.until("the same", |t| t.synced).await;
    assert_eq!(first.routes, second.routes);
}

#[tokio::test]
async fn shutdown_tells_the_neighbours_why() {
    let speakers = Lab(7).mesh::<2>().await;
    let started = Instant::now();
    speakers[0].0.shutdown("maintenance").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "nobody waits for a neighbour that listens");
    let reason = r#"they sent cease: hard reset (6/9): cease: administrative shutdown (6/2): "maintenance""#;
    let status = eventually("down", &speakers[1].0, |status| status.sessions[0].flaps == 1).await;
    assert_eq!(status.sessions[0].reason.as_deref(), Some(reason));
    assert_eq!(speakers[0].0.status().await.unwrap_err(), speaker::Gone);
}

#[tokio::test]
async fn the_table_is_complete_at_once_without_peers_and_after_the_wait_with_a_silent_one() {
    let lab = Lab(8);
    let (alone, _) = speaker::start(Options { start_wait: Duration::from_secs(3600) });
    assert!(!alone.status().await.unwrap().synced, "not before the first orders");
    alone.apply(Config { listen: Vec::new(), ..lab.config(1) }).await.unwrap();
    Table::of(&alone).await.until("complete", |t| t.synced).await;

    let (waits, _) = speaker::start(Options { start_wait: Duration::from_millis(300) });
    let started = Instant::now();
    waits.apply(Config { peers: vec![lab.peer(2, 3)], ..lab.config(2) }).await.unwrap();
    Table::of(&waits).await.until("complete", |t| t.synced).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    let session = waits.status().await.unwrap().sessions.remove(0);
    assert_eq!(session.reason.as_deref(), Some("connection refused"));
}

/// A neighbour made by hand.
struct Raw {
    stream: TcpStream,
    buffer: bytes::BytesMut,
}

impl Raw {
    async fn call(lab: Lab, from: u8, to: u8) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(lab.address(from), 0)).unwrap();
        let stream = socket.connect(SocketAddr::new(lab.address(to), PORT)).await.unwrap();
        Self { stream, buffer: bytes::BytesMut::new() }
    }

    /// None at the end of the connection.
    async fn hear(&mut self, session: Option<&wire::Session>) -> Option<Message> {
        let read = async {
            loop {
                if let Some(frame) = wire::frame(&mut self.buffer, 4096).unwrap() {
                    return Some(wire::parse(&frame, session).unwrap());
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("something is said in time")
    }

    async fn say(&mut self, message: &Message) {
        let mut octets = Vec::new();
        wire::write(message, Some(&internal()), &mut octets).unwrap();
        self.stream.write_all(&octets).await.unwrap();
    }

    /// To Established, as `host` of AS 64512.
    async fn open(&mut self, host: u8) {
        self.open_with(host, Vec::new()).await;
    }

    /// With more capabilities than it needs; gives back those it hears.
    async fn open_with(&mut self, host: u8, more: Vec<Capability>) -> Vec<Capability> {
        self.open_as(host, Asn(64512), more).await
    }

    async fn open_as(&mut self, host: u8, asn: Asn, more: Vec<Capability>) -> Vec<Capability> {
        let Some(Message::Open(theirs)) = self.hear(None).await else { panic!("no OPEN") };
        let router_id = RouterId(Ipv4Addr::new(10, 0, 0, host));
        let mut capabilities = vec![Capability::Multiprotocol(Family::Ipv4), Capability::FourOctetAs(asn)];
        capabilities.extend(more);
        self.say(&Message::Open(Open { asn, hold_time: 0, router_id, capabilities })).await;
        assert_eq!(self.hear(None).await, Some(Message::Keepalive));
        self.say(&Message::Keepalive).await;
        theirs.capabilities
    }
}

#[tokio::test]
async fn a_stranger_is_told_connection_rejected() {
    let lab = Lab(11);
    let (handle, _) = speaker::start(Options::default());
    handle.apply(lab.config(1)).await.unwrap();
    let mut stranger = Raw::call(lab, 7, 1).await;
    assert_eq!(stranger.hear(None).await, Some(Message::Notification(Notification::connection_rejected())));
    assert_eq!(stranger.hear(None).await, None);
}

#[tokio::test]
async fn bytes_that_are_no_bgp_are_answered_and_the_reason_is_kept() {
    let lab = Lab(12);
    let (handle, _) = speaker::start(Options::default());
    let peer = PeerConfig { passive: true, ..lab.peer(1, 2) };
    handle.apply(Config { peers: vec![peer], ..lab.config(1) }).await.unwrap();
    let mut raw = Raw::call(lab, 2, 1).await;
    assert!(matches!(raw.hear(None).await, Some(Message::Open(_))));
    raw.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let verdict = Notification::connection_not_synchronized();
    assert_eq!(raw.hear(None).await, Some(Message::Notification(verdict.clone())));
    assert_eq!(raw.hear(None).await, None);
    let session = handle.status().await.unwrap().sessions.remove(0);
    assert_eq!(session.reason, Some(format!("we sent {verdict}")));
}

#[tokio::test]
async fn a_neighbour_that_does_not_read_delays_nobody_and_is_told_all_when_it_reads_again() {
    const PREFIXES: usize = 40_000;
    let lab = Lab(13);
    let (handle, _) = speaker::start(Options::default());
    // Each with communities of its own, so that it takes a message of its own: more than sockets hold.
    let networks = (0..PREFIXES as u32).map(|n| Network {
        communities: (0..40).map(|k| format!("{}:{}", n >> 8, (n & 0xff) << 8 | k)).collect(),
        ..Network::new(Prefix::host(Ipv4Addr::from(0x0b00_0000 + n).into()))
    });
    let slow = PeerConfig { passive: true, hold_time: 0, ..lab.peer(1, 2) };
    let peers = vec![slow, PeerConfig { hold_time: 3, ..lab.peer(1, 3) }];
    handle.apply(Config { peers, networks: networks.collect(), ..lab.config(1) }).await.unwrap();

    // A small window from the beginning.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&SocketAddr::new(lab.address(2), 0).into()).unwrap();
    socket.connect(&SocketAddr::new(lab.address(1), PORT).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut raw = Raw { stream: TcpStream::from_std(socket.into()).unwrap(), buffer: bytes::BytesMut::new() };
    raw.open(2).await;
    eventually("established", &handle, |status| status.sessions[0].state == SessionState::Established).await;

    let (reader, _) = speaker::start(Options::default());
    reader.apply(Config { peers: vec![lab.peer(3, 1)], ..lab.config(3) }).await.unwrap();
    Table::of(&reader).await.until("all", |t| t.routes.len() == PREFIXES && t.synced).await;
    let stalled = handle.status().await.unwrap().sessions[0].advertised;
    assert!(stalled < PREFIXES, "the routes for the one that does not read stay in the RIB");

    let session = internal();
    let mut told = 0;
    loop {
        match raw.hear(Some(&session)).await.expect("the session lives") {
            Message::Update(update) if update.end_of_rib.is_some() => break,
            Message::Update(update) => {
                told +=
                    update.announced.iter().map(|announcement| announcement.prefixes.len()).sum::<usize>();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, PREFIXES);
    let sessions = handle.status().await.unwrap().sessions;
    assert!(sessions.iter().all(|session| session.flaps == 0), "{sessions:#?}");
}

/// What [`Raw::open`] comes to.
fn internal() -> wire::Session {
    let (families, add_path) = (vec![Family::Ipv4], wire::AddPath::default());
    wire::Session { asn4: true, families, ebgp: false, extended: false, add_path }
}

/// Two speakers, each told of the other with something more.
async fn pair(lab: Lab, more: [fn(&mut PeerConfig); 2]) -> [Handle; 2] {
    let mut handles = Vec::new();
    for (host, other, more) in [(1, 2, more[0]), (2, 1, more[1])] {
        let (handle, _) = speaker::start(Options::default());
        let mut peer = lab.peer(host, other);
        more(&mut peer);
        handle
            .apply(Config { peers: vec![peer], networks: networks(host), ..lab.config(host) })
            .await
            .unwrap();
        handles.push(handle);
    }
    handles.try_into().unwrap()
}

#[tokio::test]
async fn a_reset_tells_why_and_the_session_comes_back() {
    let lab = Lab(26);
    let [one, other] = pair(lab, [|_| {}, |_| {}]).await;
    eventually("established", &one, |status| status.destinations == 4).await;
    one.reset(lab.address(2), "new filters").await.unwrap();
    let status = eventually("back", &other, |status| {
        status.sessions[0].flaps == 1 && status.sessions[0].state == SessionState::Established
    })
    .await;
    let reason = r#"they sent cease: hard reset (6/9): cease: administrative reset (6/4): "new filters""#;
    assert_eq!(status.sessions[0].reason.as_deref(), Some(reason));
    let stranger = one.reset(lab.address(9), "").await.unwrap_err().to_string();
    assert!(stranger.starts_with("no peer 127.26.") && stranger.contains("there is 127.26."), "{stranger}");
}

#[tokio::test]
async fn rfc2918_a_neighbour_asked_again_says_everything_again() {
    let lab = Lab(27);
    let [one, _other] = pair(lab, [|_| {}, |_| {}]).await;
    let before =
        eventually("established and heard", &one, |status| status.sessions[0].received == 2 && status.synced)
            .await;
    one.refresh(lab.address(2), Direction::In).await.unwrap();
    // An UPDATE of each family.
    let heard = before.sessions[0].messages_in + 2;
    let status = eventually("heard again", &one, |s| s.sessions[0].messages_in >= heard).await;
    assert_eq!((status.sessions[0].received, status.sessions[0].flaps), (2, 0));

    let lonely = Lab(28);
    let (handle, _) = speaker::start(Options::default());
    handle.apply(Config { peers: vec![lonely.peer(1, 2)], ..lonely.config(1) }).await.unwrap();
    let error = handle.refresh(lonely.address(2), Direction::In).await.unwrap_err().to_string();
    assert!(error.contains("the session is not established"), "{error}");
}
