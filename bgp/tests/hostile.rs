//! A daemon among neighbours that mean no good, over real TCP: what they do costs a bounded amount of memory, and a
//! good neighbour's session never notices. Needs no root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use manx_bgp::api::{Reply, Request, Session as Shown, SessionState, Status, VERSION};
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::{
    self, AddPath, Announcement, AsPath, Attributes, Capability, Community, Message, NextHop, Open, Origin,
    Segment, Session, Update,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinHandle;

const PORT: u16 = 1790;
const DEADLINE: Duration = Duration::from_secs(60);

/// Hosts of `127.TEST.PROCESS.HOST`.
const DAEMON: u8 = 1;
const GOOD: u8 = 2;
const BAD: u8 = 3;
const STALLED: u8 = 4;
const STRANGER: u8 = 9;

/// More than allocators keep back and tables grow by, less than a leak of what these tests send would be.
const SLACK: u64 = 48 << 20;

struct Daemon {
    test: u8,
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    async fn start(test: u8) -> Self {
        Self::with(test, "").await
    }

    /// With more settings for the bad one and the one that does not read.
    async fn with(test: u8, settings: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("manx-hostile-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let address = |host| address(test, host);
        let mut text = format!(
            "asn = 64512\nrouterId = \"10.0.0.1\"\nlisten = [\"{}:{PORT}\"]\n[[networks]]\nprefix = \"192.0.2.0/24\"\n",
            address(DAEMON)
        );
        for host in [GOOD, BAD, STALLED] {
            text += &format!(
                "[[peers]]\naddress = \"{}\"\nport = {PORT}\nasn = {}\npassive = true\nholdTime = 9\n\
                 import = {{ default = \"accept\" }}\nexport = {{ default = \"accept\" }}\n",
                address(host),
                asn(host).0
            );
            if host != GOOD {
                text += settings;
            }
        }
        let file = folder.join("bgpd.toml");
        std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_manx-bgpd"))
            .args(["--metrics-addr", "", "--log", "error", "--config"])
            .arg(&file)
            .arg("--socket")
            .arg(folder.join("bgpd.sock"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { test, child, folder };
        let deadline = Instant::now() + DEADLINE;
        while daemon.call(STRANGER).await.is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon
    }

    async fn call(&self, from: u8) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if from == STALLED {
            socket.set_recv_buffer_size(4096)?;
        }
        socket.bind(SocketAddr::new(address(self.test, from), 0))?;
        socket.connect(SocketAddr::new(address(self.test, DAEMON), PORT)).await
    }

    /// Resident memory, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it lives");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    async fn status(&self) -> Status {
        match self.ask(Request::Status).await {
            Reply::Status(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        let mut stream = UnixStream::connect(self.folder.join("bgpd.sock")).await.unwrap();
        let hello = Request::Hello { version: VERSION, client: "test".to_owned() };
        let mut reply = None;
        for request in [hello, request] {
            let json = serde_json::to_vec(&request).unwrap();
            stream.write_all(&(json.len() as u32).to_be_bytes()).await.unwrap();
            stream.write_all(&json).await.unwrap();
            let mut json = vec![0; stream.read_u32().await.unwrap() as usize];
            stream.read_exact(&mut json).await.unwrap();
            reply = Some(serde_json::from_slice(&json).unwrap());
        }
        reply.unwrap()
    }

    async fn shown(&self, host: u8) -> Shown {
        let wanted = address(self.test, host);
        let sessions = self.status().await.sessions;
        sessions.into_iter().find(|session| session.address == wanted).unwrap()
    }

    async fn eventually(&self, what: &str, host: u8, wanted: impl Fn(&Shown) -> bool) -> Shown {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let shown = self.shown(host).await;
            if wanted(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; now {shown:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn address(test: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(127, 100 + test, (std::process::id() % 251) as u8, host).into()
}

fn asn(host: u8) -> Asn {
    Asn(65000 + u32::from(host))
}

fn session() -> Session {
    Session {
        asn4: true,
        families: vec![Family::Ipv4],
        ebgp: true,
        extended: false,
        add_path: AddPath::default(),
    }
}

fn octets(message: &Message) -> Vec<u8> {
    let mut octets = Vec::new();
    wire::write(message, Some(&session()), &mut octets).unwrap();
    octets
}

fn open(host: u8) -> Vec<u8> {
    let capabilities = vec![Capability::Multiprotocol(Family::Ipv4), Capability::FourOctetAs(asn(host))];
    let router_id = RouterId(Ipv4Addr::new(10, 0, 0, host));
    octets(&Message::Open(Open { asn: asn(host), hold_time: 9, router_id, capabilities }))
}

/// 256 prefixes of 10.BLOCK.0.0/16 in one message, with attributes that differ by `round`.
fn update(host: u8, block: u8, round: u32) -> Vec<u8> {
    let prefix = |n: u8| Prefix::truncated(Ipv4Addr::new(10, block, n, 0).into(), 24).unwrap();
    let attributes = Attributes {
        origin: Origin::Igp,
        as_path: AsPath::from(vec![Segment::Sequence(vec![asn(host)])]),
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
    let prefixes = (0..=255).map(|n| prefix(n).into()).collect();
    let next_hop = NextHop::V4(Ipv4Addr::new(198, 51, 100, host));
    octets(&Message::Update(Update {
        announced: vec![Announcement { next_hop, prefixes }],
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    }))
}

/// A neighbour made by hand.
struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    /// An established session. A daemon that waits after a fault of ours is asked again.
    async fn established(daemon: &Daemon, host: u8) -> Self {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(raw) = Self::try_established(daemon, host).await {
                return raw;
            }
            assert!(Instant::now() < deadline, "refused for {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn try_established(daemon: &Daemon, host: u8) -> Option<Self> {
        let stream = daemon.call(host).await.ok()?;
        let mut raw = Self { stream, buffer: BytesMut::new() };
        raw.stream.write_all(&open(host)).await.ok()?;
        raw.stream.write_all(&octets(&Message::Keepalive)).await.ok()?;
        loop {
            match raw.hear().await? {
                Message::Open(_) => {}
                Message::Keepalive => return Some(raw),
                _ => return None,
            }
        }
    }

    /// None at the end of the connection.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = wire::frame(&mut self.buffer, wire::frame::MAX_MESSAGE).unwrap() {
                return Some(wire::parse(&frame, Some(&session())).unwrap());
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// A neighbour that behaves, and expects to be treated well.
struct Good {
    task: JoinHandle<()>,
    updates: Arc<AtomicU64>,
    keepalives: Arc<AtomicU64>,
}

impl Good {
    async fn new(daemon: &Daemon) -> Self {
        let Raw { stream, buffer } = Raw::established(daemon, GOOD).await;
        let (mut read, mut write) = stream.into_split();
        let counters = [Arc::<AtomicU64>::default(), Arc::default()];
        let [updates, keepalives] = counters.clone();
        let task = tokio::spawn(async move {
            let talk = async {
                while write.write_all(&octets(&Message::Keepalive)).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let listen = async {
                let mut buffer = buffer;
                loop {
                    while let Some(frame) = wire::frame(&mut buffer, wire::frame::MAX_MESSAGE).unwrap() {
                        match wire::parse(&frame, Some(&session())).unwrap() {
                            Message::Keepalive => drop(counters[1].fetch_add(1, Ordering::Relaxed)),
                            Message::Update(_) => drop(counters[0].fetch_add(1, Ordering::Relaxed)),
                            other => panic!("the good neighbour hears {other:?}"),
                        }
                    }
                    if !matches!(read.read_buf(&mut buffer).await, Ok(1..)) {
                        return;
                    }
                }
            };
            tokio::select! {
                () = talk => {}
                () = listen => {}
            }
        });
        Self { task, updates, keepalives }
    }

    /// Its session is the one it began with, and is still kept alive.
    async fn check(&self, daemon: &Daemon) {
        let before = self.keepalives.load(Ordering::Relaxed);
        let deadline = Instant::now() + DEADLINE;
        while self.keepalives.load(Ordering::Relaxed) == before {
            assert!(Instant::now() < deadline, "the good neighbour hears no KEEPALIVE any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!self.task.is_finished(), "the good neighbour has lost its session");
        let shown = daemon.shown(GOOD).await;
        assert_eq!((shown.state, shown.flaps), (SessionState::Established, 0), "{:?}", shown.reason);
    }
}

fn bounded(daemon: &Daemon, before: u64) {
    let after = daemon.memory();
    assert!(after <= 2 * before + SLACK, "{before} octets of memory became {after}");
}

/// All blocks, again and again, each time with other attributes; keeps its session alive by the way.
async fn flood(raw: &mut Raw, rounds: std::ops::Range<u32>) {
    for round in rounds {
        for block in 0..64 {
            raw.stream.write_all(&update(BAD, block, round)).await.expect("the flood is read");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_updates_costs_its_table_once() {
    let daemon = Daemon::start(1).await;
    let good = Good::new(&daemon).await;
    let mut raw = Raw::established(&daemon, BAD).await;
    flood(&mut raw, 0..2).await;
    daemon.eventually("all is held", BAD, |shown| shown.received == 64 * 256).await;
    daemon.eventually("all is told", GOOD, |shown| shown.advertised == 64 * 256 + 1).await;
    let before = daemon.memory();
    flood(&mut raw, 2..40).await;
    let shown = daemon.eventually("all is read", BAD, |shown| shown.messages_in >= 40 * 64).await;
    assert_eq!((shown.received, shown.flaps), (64 * 256, 0));
    bounded(&daemon, before);
    assert!(good.updates.load(Ordering::Relaxed) >= 64);
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_read_costs_the_table_once_and_holds_up_nobody() {
    let daemon = Daemon::start(2).await;
    let good = Good::new(&daemon).await;
    let _stalled = Raw::established(&daemon, STALLED).await;
    let mut raw = Raw::established(&daemon, BAD).await;
    flood(&mut raw, 0..2).await;
    daemon.eventually("the good one is told", GOOD, |shown| shown.advertised == 64 * 256 + 1).await;
    let before = daemon.memory();
    flood(&mut raw, 2..40).await;
    daemon.eventually("all is read", BAD, |shown| shown.messages_in >= 40 * 64).await;
    let told = good.updates.load(Ordering::Relaxed);
    flood(&mut raw, 40..41).await;
    let deadline = Instant::now() + DEADLINE;
    while good.updates.load(Ordering::Relaxed) == told {
        assert!(Instant::now() < deadline, "the good neighbour hears no news any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bounded(&daemon, before);
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_flaps_leave_nothing_behind() {
    let daemon = Daemon::start(3).await;
    let good = Good::new(&daemon).await;
    let flap = async |rounds: std::ops::Range<u32>| {
        for round in rounds {
            let mut raw = Raw::established(&daemon, BAD).await;
            raw.stream.write_all(&update(BAD, round as u8, round)).await.expect("it is read");
            if round % 2 == 0 {
                // The end is a reset, not a farewell.
                raw.stream.set_zero_linger().unwrap();
            }
        }
    };
    flap(0..50).await;
    let before = daemon.memory();
    flap(50..1000).await;
    let gone = |shown: &Shown| shown.state != SessionState::Established && shown.received == 0;
    let shown = daemon.eventually("the last one has ended", BAD, gone).await;
    // A reset can arrive ahead of the KEEPALIVE that would have made a session of it.
    assert!((900..=1000).contains(&shown.flaps), "{shown:?}");
    assert_eq!(daemon.status().await.destinations, 1);
    bounded(&daemon, before);
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_of_strangers_and_of_a_neighbour_are_borne() {
    let daemon = Daemon::start(4).await;
    let good = Good::new(&daemon).await;
    let before = daemon.memory();
    for _ in 0..5 {
        // As many as the usual limit of open files lets one process hold.
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(daemon.call(STRANGER).await.unwrap());
            held.push(daemon.call(BAD).await.unwrap());
        }
        assert_eq!(daemon.shown(GOOD).await.state, SessionState::Established);
    }
    // It can still have a session, once it behaves.
    let _raw = Raw::established(&daemon, BAD).await;
    bounded(&daemon, before);
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_any_time_ends_its_own_session_alone() {
    let daemon = Daemon::start(5).await;
    let good = Good::new(&daemon).await;
    let before = daemon.memory();
    let garbage: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for round in 0..300_usize {
        for host in [STRANGER, BAD] {
            let mut stream = daemon.call(host).await.unwrap();
            // Before an OPEN, behind one, or a message that is cut off and never goes on.
            let mut said = match round % 3 {
                0 => Vec::new(),
                1 => open(host),
                _ => update(host, 0, 0)[..100].to_vec(),
            };
            said.extend(&garbage[round..][..1000]);
            let _ = stream.write_all(&said).await;
        }
    }
    let mut raw = Raw::established(&daemon, BAD).await;
    // A good session's garbage: the header's marker is wrong.
    raw.stream.write_all(&[0; 64]).await.unwrap();
    let shown = daemon.eventually("it is over", BAD, |shown| shown.flaps == 1).await;
    assert_eq!(
        shown.reason.as_deref(),
        Some("we sent message header error: connection not synchronized (1/1)")
    );
    bounded(&daemon, before);
    good.check(&daemon).await;
}

/// An UPDATE of 256 prefixes that no other of these gives, the `nth` of them.
fn more(nth: u32) -> Vec<u8> {
    let mut message = update(BAD, 0, 0);
    // The prefixes stand at the end: 256 times a length and three octets.
    for (n, prefix) in message.rchunks_exact_mut(4).take(256).enumerate() {
        let number = (nth * 256 + n as u32).to_be_bytes();
        prefix.copy_from_slice(&[24, number[1] + 1, number[2], number[3]]);
    }
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_prefixes_past_its_limit_end_its_session_and_cost_the_limit() {
    const LIMIT: usize = 2000;
    let daemon = Daemon::with(6, "maxPrefixes = { ipv4 = 2000, restartAfter = 1 }\n").await;
    let good = Good::new(&daemon).await;
    let before = daemon.memory();
    let mut said = 0;
    let mut sessions = 0;
    while said < 1_000_000 {
        let mut raw = Raw::established(&daemon, BAD).await;
        sessions += 1;
        // As many as it can before it is hung up on: a fifth of all at most in one session.
        for nth in 0..800 {
            if raw.stream.write_all(&more(nth)).await.is_err() {
                break;
            }
            said += 256;
        }
        let last = loop {
            match raw.hear().await {
                Some(Message::Notification(notification)) => break Some(notification),
                Some(_) => {}
                // What it still sent when all was closed may reset the connection ahead of the last word.
                None => break None,
            }
        };
        if let Some(last) = last {
            assert_eq!(last, wire::Notification::maximum_prefixes(Family::Ipv4, LIMIT as u32));
        }
        let down = |shown: &Shown| shown.state != SessionState::Established && shown.received == 0;
        let shown = daemon.eventually("it is over, and nothing is left", BAD, down).await;
        assert_eq!(
            shown.reason.as_deref(),
            Some(
                "it gives more than 2000 prefixes of IPv4 unicast (maxPrefixes), tried again 1 s after that"
            )
        );
        assert_eq!(shown.flaps, sessions);
    }
    bounded(&daemon, before);
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_past_its_limit_stays_down_until_it_is_reset_or_may_give_more() {
    let daemon = Daemon::with(7, "maxPrefixes = { ipv4 = 300 }\n").await;
    let good = Good::new(&daemon).await;
    let mut raw = Raw::established(&daemon, BAD).await;
    raw.stream.write_all(&more(0)).await.unwrap();
    let shown = daemon.eventually("what it may give is held", BAD, |shown| shown.received == 256).await;
    assert_eq!(shown.prefixes.iter().map(|of| (of.held, of.limit)).collect::<Vec<_>>(), [(256, 300)]);
    raw.stream.write_all(&more(1)).await.unwrap();
    let last = loop {
        if let Message::Notification(last) = raw.hear().await.expect("a last word") {
            break last;
        }
    };
    // AFI, SAFI and the limit: RFC 4486, section 4.
    assert_eq!((last.code, last.subcode, &last.data[..]), (6, 1, &[0, 1, 1, 0, 0, 1, 44][..]));
    let down = |shown: &Shown| shown.state == SessionState::Idle && shown.received == 0;
    let shown = daemon.eventually("it is down", BAD, down).await;
    assert!(shown.reason.unwrap().ends_with("down until it is reset"));
    // It calls, and is told no.
    let mut refused = Raw { stream: daemon.call(BAD).await.unwrap(), buffer: BytesMut::new() };
    let no = Message::Notification(wire::Notification::connection_rejected());
    assert_eq!(refused.hear().await, Some(no));
    let reset = Request::Reset { peer: address(7, BAD).into(), reason: String::new() };
    assert_eq!(daemon.ask(reset).await, Reply::Done);
    let mut raw = Raw::established(&daemon, BAD).await;
    raw.stream.write_all(&more(0)).await.unwrap();
    raw.stream.write_all(&more(1)).await.unwrap();
    daemon.eventually("it is down again", BAD, down).await;
    // Other limits are a new beginning, too, and ask for no new session of one that keeps to them.
    let text = std::fs::read_to_string(daemon.folder.join("bgpd.toml")).unwrap();
    for (limit, held) in [(600, 512), (700, 512)] {
        let text = text.replace("ipv4 = 300", &format!("ipv4 = {limit}"));
        let config = toml::from_str(&text).unwrap();
        assert!(matches!(daemon.ask(Request::Apply { config }).await, Reply::Applied { .. }));
        if limit == 600 {
            raw = Raw::established(&daemon, BAD).await;
            raw.stream.write_all(&more(0)).await.unwrap();
            raw.stream.write_all(&more(1)).await.unwrap();
        }
        let taken = |shown: &Shown| shown.received == held && shown.prefixes[0].limit == limit;
        daemon.eventually("all of it is taken", BAD, taken).await;
    }
    good.check(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_reads_nothing_for_the_send_hold_time_is_given_up_although_it_talks() {
    let daemon = Daemon::with(8, "sendHoldTime = 10\n").await;
    let good = Good::new(&daemon).await;
    let mut stalled = Raw::established(&daemon, STALLED).await;
    let mut raw = Raw::established(&daemon, BAD).await;
    // More than the buffers of both kernels take.
    let mut round = 0;
    let deadline = Instant::now() + DEADLINE;
    let mut talked = Instant::now();
    let over = loop {
        let shown = daemon.shown(STALLED).await;
        if shown.state != SessionState::Established {
            break shown;
        }
        assert!(Instant::now() < deadline, "it is still borne: {shown:?}");
        if round < 150 {
            flood(&mut raw, round..round + 1).await;
            round += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What it says keeps neither hold timer from running out.
        if talked.elapsed() > Duration::from_secs(1) {
            let _ = stalled.stream.write_all(&octets(&Message::Keepalive)).await;
            let _ = raw.stream.write_all(&octets(&Message::Keepalive)).await;
            talked = Instant::now();
        }
    };
    assert_eq!(
        over.reason.as_deref(),
        Some("send hold timer expired: the neighbour has read nothing for 10 s")
    );
    assert_eq!(over.flaps, 1);
    good.check(&daemon).await;
}
