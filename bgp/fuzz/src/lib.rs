//! What is fuzzed, a function a parser: it takes any octets and panics where an invariant does not hold.
//!
//! libFuzzer calls them through `fuzz_targets/`; the stable toolchain's tests through `tests/fuzz.rs` of manx-bgp, which
//! includes this file.
//!
//! | holds for all | |
//! |---|---|
//! | nothing panics | arithmetic overflow and slices out of bounds included |
//! | what was accepted is written and read again as it was | but for what RFC 7606 forgave |
//! | what is written is bounded by what was read | three times as much and a little: see [`update`] |
//! | no prefix has host bits | and an announcement is of one family |

use std::time::{Duration, Instant};

use bytes::BytesMut;
use manx_bgp::api::{Config, News, Reply, Request};
use manx_bgp::bfd::{self, Packet};
use manx_bgp::iana::MessageType;
use manx_bgp::types::{Family, Prefix};
use manx_bgp::wire::{self, AddPath, Message, Nlri, Notification, Segment, Session, Update};

/// A parser's name and what tries it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("frame", frame),
    ("open", open),
    ("capabilities", capabilities),
    ("update", update),
    ("attribute", attribute),
    ("nlri", nlri),
    ("notification", notification),
    ("route_refresh", route_refresh),
    ("bfd", bfd),
    ("api", api),
    ("news", news),
    ("config", config),
];

/// Codes with a parser of their own, and one that is passed on.
pub const ATTRIBUTES: [u8; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 99];

/// A stream, by the first octet's choice with extended messages. Cut in two anywhere it gives the same frames.
pub fn frame(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let max = if choice & 1 == 0 { wire::frame::MAX_MESSAGE } else { wire::frame::MAX_EXTENDED };
    let frames = |parts: &[&[u8]]| {
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for part in parts {
            buffer.extend_from_slice(part);
            loop {
                match wire::frame(&mut buffer, max) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(notification) => return (frames, Some(notification)),
                }
            }
        }
        (frames, None)
    };
    let whole = frames(&[stream]);
    let used: usize = whole.0.iter().map(|frame| wire::frame::HEADER + frame.body.len()).sum();
    assert!(used <= stream.len());
    let (front, back) = stream.split_at(usize::from(choice >> 1).min(stream.len()));
    assert_eq!(frames(&[front, back]), whole);
}

/// An OPEN's body.
pub fn open(body: &[u8]) {
    round_trip(MessageType::Open, body, None);
}

/// Capabilities, in an OPEN with RFC 9072's lengths.
pub fn capabilities(data: &[u8]) {
    let data = &data[..data.len().min(4000)];
    let length = (data.len() as u16).to_be_bytes();
    let outer = (data.len() as u16 + 3).to_be_bytes();
    let fixed = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 255, 255];
    open(&[&fixed[..], &outer, &[2], &length, data].concat());
}

/// An UPDATE's body behind an octet that chooses the session.
pub fn update(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    round_trip(MessageType::Update, body, Some(&session(*choice)));
}

/// One attribute among good ones: the session's choice, the code's place in [`ATTRIBUTES`], flags, value.
pub fn attribute(data: &[u8]) {
    let [choice, place, flags, value @ ..] = data else { return };
    let value = &value[..value.len().min(3500)];
    let code = ATTRIBUTES[usize::from(*place) % ATTRIBUTES.len()];
    let session = session(*choice);
    let as_path: &[u8] = if session.asn4 { &[2, 1, 0, 0, 0xfd, 0xe9] } else { &[2, 1, 0xfd, 0xe9] };
    let good: [(u8, u8, &[u8]); 3] = [(0x40, 1, &[0]), (0x40, 2, as_path), (0x40, 3, &[10, 0, 0, 1])];
    let mut attributes = Vec::new();
    for (flags, other, value) in good.into_iter().filter(|(_, other, _)| *other != code) {
        attributes.extend([flags, other, value.len() as u8]);
        attributes.extend(value);
    }
    attributes.extend([flags | 0x10, code]);
    attributes.extend((value.len() as u16).to_be_bytes());
    attributes.extend(value);
    let length = (attributes.len() as u16).to_be_bytes();
    let body = [&[0, 0][..], &length, &attributes, &[24, 203, 0, 113]].concat();
    round_trip(MessageType::Update, &body, Some(&session));
}

/// A list of prefixes behind an octet that chooses the session, with path identifiers or without (RFC 7911), and the
/// field it stands in: announced or withdrawn, RFC 4271's own or RFC 4760's.
pub fn nlri(data: &[u8]) {
    let Some((choice, list)) = data.split_first() else { return };
    let list = &list[..list.len().min(3500)];
    let session = session(*choice);
    let as_path: &[u8] = if session.asn4 { &[2, 1, 0, 0, 0xfd, 0xe9] } else { &[2, 1, 0xfd, 0xe9] };
    let attribute = |flags: u8, code: u8, value: &[u8]| {
        let length = (value.len() as u16).to_be_bytes();
        [&[flags | 0x10, code][..], &length, value].concat()
    };
    let good = [attribute(0x40, 1, &[0]), attribute(0x40, 2, as_path)].concat();
    let next_hop = attribute(0x40, 3, &[10, 0, 0, 1]);
    let global = [&[0, 2, 1, 16, 0xfd][..], &[0; 14], &[1, 0]].concat();
    let (withdrawn, attributes, announced): (&[u8], _, &[u8]) = match choice >> 6 {
        0 => (&[], [good, next_hop].concat(), list),
        1 => (list, Vec::new(), &[]),
        2 => (&[], [good, attribute(0x80, 14, &[&global, list].concat())].concat(), &[]),
        _ => (&[], attribute(0x80, 15, &[&[0, 2, 1], list].concat()), &[]),
    };
    let length = |field: &[u8]| (field.len() as u16).to_be_bytes();
    let body = [&length(withdrawn)[..], withdrawn, &length(&attributes), &attributes, announced].concat();
    round_trip(MessageType::Update, &body, Some(&session));
}

/// A NOTIFICATION's body.
pub fn notification(body: &[u8]) {
    round_trip(MessageType::Notification, body, None);
}

/// A ROUTE-REFRESH's body.
pub fn route_refresh(body: &[u8]) {
    round_trip(MessageType::RouteRefresh, body, None);
}

/// BFD control packets of 24 octets, one after the other, 100 ms apart; what is good is read again as it was, and taken
/// by a session, which sends good packets only and few.
pub fn bfd(data: &[u8]) {
    let interval = Duration::from_millis(50);
    let settings = bfd::Settings { min_tx: interval, min_rx: interval, multiplier: 3 };
    let mut now = Instant::now();
    let mut session = bfd::Session::new(settings, 7, 1, now);
    for payload in data.chunks(bfd::packet::LENGTH).take(64) {
        if let Ok(packet) = Packet::parse(payload) {
            assert!(packet.multiplier > 0 && packet.my_discriminator > 0);
            assert_eq!(Packet::parse(&packet.write()), Ok(packet));
            let _ = session.receive(&packet, now);
        }
        now += Duration::from_millis(100);
        let _ = session.tick(now);
        let mut sent = 0;
        while let Some(packet) = session.transmit(now) {
            assert_eq!(Packet::parse(&packet.write()), Ok(packet));
            sent += 1;
            assert!(sent <= 2, "an answer and one that is due");
        }
        assert!(session.next_timeout().is_none_or(|due| due > now));
    }
}

/// A frame of the socket's, from either side: a request or its answer.
pub fn api(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let written = serde_json::to_vec(&request).expect("a request can be written");
        assert_eq!(serde_json::from_slice::<Request>(&written).expect("and read"), request);
        if let Request::Apply { config } = request {
            judge(&config);
        }
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let written = serde_json::to_vec(&reply).expect("a reply can be written");
        assert_eq!(serde_json::from_slice::<Reply>(&written).expect("and read"), reply);
    }
}

/// A frame of the socket's on a watching connection, as the agent reads it.
pub fn news(data: &[u8]) {
    let Ok(news) = serde_json::from_slice::<News>(data) else { return };
    let written = serde_json::to_vec(&news).expect("news can be written");
    assert_eq!(serde_json::from_slice::<News>(&written).expect("and read"), news);
    let News::Routes(groups) = news else { return };
    for prefix in groups.iter().flat_map(|group| &group.prefixes) {
        assert_eq!(Prefix::truncated(prefix.addr(), prefix.length()), Some(*prefix));
    }
}

/// The daemon's file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match toml::from_str::<Config>(text) {
        Ok(config) => judge(&config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn judge(config: &Config) {
    if let Err(fault) = manx_bgp::speaker::config::check(config) {
        assert!(!fault.to_string().is_empty());
    }
    let written = serde_json::to_vec(config).expect("a config can be written");
    assert_eq!(&serde_json::from_slice::<Config>(&written).expect("and read"), config);
}

fn session(choice: u8) -> Session {
    let families = match choice >> 3 & 3 {
        1 => vec![Family::Ipv4],
        2 => vec![Family::Ipv6],
        _ => Family::ALL.to_vec(),
    };
    // What is written is read again.
    let path_ids = if choice & 32 == 0 { Vec::new() } else { families.clone() };
    let add_path = AddPath { receive: path_ids.clone(), send: path_ids };
    Session { asn4: choice & 1 != 0, families, ebgp: choice & 2 != 0, extended: choice & 4 != 0, add_path }
}

fn round_trip(kind: MessageType, body: &[u8], session: Option<&Session>) {
    let max = session.map_or(wire::frame::MAX_MESSAGE, Session::max_message);
    let room = max - wire::frame::HEADER;
    let body = &body[..body.len().min(room)];
    let Ok(message) = read(kind, body, session) else { return };
    check(&message, body.len());
    let mut written = Vec::new();
    match wire::write(&message, session, &mut written) {
        Ok(()) => {}
        Err(wire::WriteError::TooLong { length }) => {
            // A two-octet path is written with all of it in AS4_PATH beside.
            assert!(length <= 3 * body.len() + 64, "{length} from {}", body.len());
            return;
        }
        Err(other) => panic!("{other}: {message:?}"),
    }
    assert!(written.len() <= 3 * body.len() + 64, "{} from {}", written.len(), body.len());
    let again = read(kind, &written[wire::frame::HEADER..], session);
    let again = again.unwrap_or_else(|error| panic!("{error}, which was read as {message:?}"));
    if let (Message::Update(first), Message::Update(again)) = (&message, &again) {
        if !is_lossy(first, session) {
            assert_eq!(comparable(again), comparable(first));
        }
    } else {
        assert_eq!(again, message);
    }
}

/// Through the header's checks too.
fn read(kind: MessageType, body: &[u8], session: Option<&Session>) -> Result<Message, Notification> {
    let mut stream = BytesMut::from(&[0xff; 16][..]);
    stream.extend_from_slice(&((wire::frame::HEADER + body.len()) as u16).to_be_bytes());
    stream.extend_from_slice(&[kind as u8]);
    stream.extend_from_slice(body);
    let max = session.map_or(wire::frame::MAX_MESSAGE, Session::max_message);
    let frame = wire::frame(&mut stream, max)?.expect("the message is whole");
    wire::parse(&frame, session)
}

/// What the type promises.
fn check(message: &Message, octets: usize) {
    match message {
        Message::Open(open) => {
            assert_ne!(open.asn.0, 0);
            assert!(!matches!(open.hold_time, 1 | 2) && !open.router_id.0.is_unspecified());
            assert!(open.capabilities.len() <= octets);
        }
        Message::Update(update) => {
            assert_eq!(update.attributes.is_some(), !update.announced.is_empty());
            let announced = update.announced.iter().flat_map(|announcement| &announcement.prefixes);
            assert!(update.withdrawn.len() + announced.clone().count() <= octets);
            for Nlri { prefix, .. } in announced.chain(&update.withdrawn) {
                assert_eq!(Prefix::truncated(prefix.addr(), prefix.length()), Some(*prefix));
            }
            for announcement in &update.announced {
                let family = announcement.prefixes.first().expect("never empty").family();
                assert!(announcement.prefixes.iter().all(|prefix| prefix.family() == family));
            }
            assert!(update.faults.iter().all(|fault| !fault.why.is_empty() && !fault.name().is_empty()));
        }
        Message::Notification(notification) => assert!(!notification.to_string().is_empty()),
        Message::Keepalive | Message::RouteRefresh(_) => {}
    }
}

/// What cannot be said again as it was: an UPDATE that says nothing (written, it is the End-of-RIB), and the place
/// of confederation segments in a two-octet path (AS4_PATH has none).
fn is_lossy(update: &Update, session: Option<&Session>) -> bool {
    let silent = update.withdrawn.is_empty() && update.announced.is_empty() && update.end_of_rib.is_none();
    let confed = |segment: &Segment| matches!(segment, Segment::ConfedSequence(_) | Segment::ConfedSet(_));
    let confederate =
        update.attributes.as_ref().is_some_and(|attributes| attributes.as_path.0.iter().any(confed));
    silent || confederate && session.is_some_and(|session| !session.asn4)
}

/// Without what RFC 7606 forgave, and with the withdrawals in the order they are written in.
fn comparable(update: &Update) -> Update {
    let mut update = update.clone();
    update.faults.clear();
    update.withdrawn.sort_by_key(|nlri| nlri.family());
    update
}

/// Good inputs of a target, from the captured messages in `vectors`: where mutations begin.
pub fn seeds(target: &str, vectors: &std::path::Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut seeds = text_seeds(target);
    if target == "bfd" {
        seeds.extend(BFD.map(octets));
    }
    let kinds = [("open", 1), ("update", 2), ("notification", 3), ("route_refresh", 5)];
    let mut files: Vec<_> = std::fs::read_dir(vectors)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::path);
    for file in files {
        let message = octets(&std::fs::read_to_string(file.path())?);
        let (Some(kind), Some(body)) = (message.get(18), message.get(wire::frame::HEADER..)) else {
            continue;
        };
        if target == "frame" {
            seeds.push([&[38][..], &message, &message].concat());
        }
        if kinds.contains(&(target, *kind)) {
            let choices: &[&[u8]] =
                if target == "update" { &[&[0], &[1], &[2], &[3], &[33]] } else { &[&[]] };
            seeds.extend(choices.iter().map(|choice| [choice, body].concat()));
        }
        if target == "capabilities" && *kind == 1 {
            seeds.extend(body.get(12..).map(<[u8]>::to_vec));
        }
        if target == "nlri" && *kind == 2 {
            seeds.extend((0..=255).step_by(33).map(|choice| [&[choice][..], announced_by(body)].concat()));
        }
        if target == "attribute" && *kind == 2 {
            seeds.extend(attributes_of(body));
        }
    }
    Ok(seeds)
}

/// The list of prefixes at the end of a good UPDATE.
fn announced_by(body: &[u8]) -> &[u8] {
    let length =
        |at: usize| body.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let attributes = 2 + length(0);
    body.get(attributes + 2 + length(attributes)..).unwrap_or_default()
}

/// Each attribute of a good UPDATE, as [`attribute`] takes it.
fn attributes_of(body: &[u8]) -> Vec<Vec<u8>> {
    let length =
        |at: usize| body.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let start = 4 + length(0);
    let mut list = body.get(start..start + length(start - 2)).unwrap_or_default();
    let mut found = Vec::new();
    while let [flags, code, rest @ ..] = list {
        let (size, rest) = match rest {
            [high, low, rest @ ..] if flags & 0x10 != 0 => {
                (usize::from(*high) << 8 | usize::from(*low), rest)
            }
            [size, rest @ ..] if flags & 0x10 == 0 => (usize::from(*size), rest),
            _ => break,
        };
        let Some((value, rest)) = rest.split_at_checked(size) else { break };
        let place = ATTRIBUTES.iter().position(|known| known == code).unwrap_or_default() as u8;
        found.extend([0, 1, 2, 3].map(|choice| [&[choice, place, *flags][..], value].concat()));
        list = rest;
    }
    found
}

fn text_seeds(target: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match target {
        "api" => &[
            r#"{"type":"hello","version":1,"client":"manx-felix 0.1.0"}"#,
            r#"{"type":"status"}"#,
            r#"{"type":"routes","prefix":"10.1.0.0/26"}"#,
            r#"{"type":"received","peer":"10.0.0.2","prefix":null}"#,
            r#"{"type":"apply","config":{"asn":64512,"routerId":"10.0.0.1","listen":["0.0.0.0:179","[::]:179"],
                "peers":[{"address":"10.0.0.2","asn":65001,"families":["ipv4","ipv6"],"nextHops":["fd00::1"],
                "import":{"default":"accept","rules":[{"name":"r","match":{"prefixes":[{"prefix":"10.0.0.0/8","ge":16,"le":24}],
                "communities":["64512:*","no-export"],"asPath":{"contains":[65010]}},"then":{"verdict":"reject","localPref":7}}]},
                "export":{"rules":[{"match":{"source":"originated"}}]},"passive":true,"tcpAo":[{"sendId":1,"recvId":2,"algorithm":"aes-128-cmac-96","secret":"k"}],"bfd":{"minRxMs":50}}],
                "ranges":[{"prefix":"10.9.0.0/16","asns":[65001,"65100-65199"]}],
                "networks":[{"prefix":"10.1.0.0/26","communities":["64512:1","no-export"]}]}}"#,
            r#"{"type":"error","message":"no"}"#,
        ],
        "news" => &[
            r#"{"routes":[{"prefixes":["10.1.0.0/26","fd00::/64"],"nextHops":["192.0.2.1","fe80::1%eth0"],"weights":[3,255]},
                {"prefixes":["10.1.0.64/26"],"nextHops":[]}]}"#,
            r#""synced""#,
            r#"{"error":{"message":"no"}}"#,
        ],
        "config" => &[
            "asn = 64512\nrouterId = \"10.0.0.1\"\nlisten = [\"0.0.0.0:179\"]\n[[peers]]\naddress = \"10.0.0.2\"\nasn = 1\nholdTime = 9\n\
             import = { default = \"accept\", rules = [{ match = { prefixes = [{ prefix = \"10.1.0.0/16\", le = 32 }], \
             communities = [\"64512:*\"] }, then = { verdict = \"reject\", addCommunities = [\"1:2:3\"] } }] }\n[[networks]]\nprefix = \"10.1.0.0/26\"\ncommunities = [\"64512:100\"]\n",
        ],
        _ => &[],
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Up, with a poll, Down and AdminDown, of BIRD and FRR.
const BFD: [&str; 3] = [
    "20c00418 472f6c6b 00000007 0000ea60 0000ea60 00000000 20e00418 472f6c6b 00000007 00000001 ffffffff 00000000",
    "2045cb03 1245cba1 63771985 0000ea60 0000ea60 0000c350 20400318 1245cba1 00000000 000f4240 0000ea60 0000c350",
    "20400318 1245cba1 00000000 000f4240 0000ea60 00000000 20800318 1245cba1 00000007 000f4240 0000ea60 00000000 \
     27000318 1245cba1 00000007 000f4240 00000000 00000000",
];

fn octets(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: Vec<u8> = lines.flat_map(str::chars).filter_map(|c| Some(c.to_digit(16)? as u8)).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
