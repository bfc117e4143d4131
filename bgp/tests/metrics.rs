//! `/metrics` over HTTP: what the README promises, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use manx_bgp::api::Config;
use manx_bgp::speaker::{self, Options, metrics};
use manx_bgp::wire::{self, Message, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const DEADLINE: Duration = Duration::from_secs(20);

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(127, 90, (std::process::id() % 251) as u8, host).into()
}

fn config(peers: &str) -> Config {
    let ours = address(1);
    let text = format!(
        "asn = 64512\nrouterId = \"10.0.0.1\"\nlisten = [\"{ours}:1790\"]\n{peers}\n[[networks]]\nprefix = \"10.1.0.0/26\"\n[[ranges]]\nprefix = \"192.0.2.0/24\"\nasns = [65001]\n"
    );
    toml::from_str(&text).unwrap()
}

async fn get(page: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(page).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The names after `# TYPE`, with their types.
fn told(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// The rows of the README's table: the name, its type and its labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let readme = include_str!("../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `manx_bgpd_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let labels = cells[3].split(", ").map(plain).filter(|label| !label.is_empty()).collect();
        (plain(cells[1]), (cells[2].to_owned(), labels))
    })
    .collect()
}

/// Calls as the neighbour does that is configured, and says what is read.
async fn neighbour() -> (TcpStream, BytesMut) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address(2), 0)).unwrap();
    let mut stream = socket.connect(SocketAddr::new(address(1), 1790)).await.unwrap();
    let open = Message::Open(wire::Open {
        asn: manx_bgp::types::Asn(65001),
        hold_time: 90,
        router_id: manx_bgp::types::RouterId([10, 0, 0, 2].into()),
        capabilities: Vec::new(),
    });
    say(&mut stream, &open).await;
    let mut buffer = BytesMut::new();
    assert!(matches!(hear(&mut stream, &mut buffer).await, Message::Open(_)));
    say(&mut stream, &Message::Keepalive).await;
    assert_eq!(hear(&mut stream, &mut buffer).await, Message::Keepalive);
    (stream, buffer)
}

async fn say(stream: &mut TcpStream, message: &Message) {
    let mut octets = Vec::new();
    wire::write(message, None, &mut octets).unwrap();
    stream.write_all(&octets).await.unwrap();
}

async fn hear(stream: &mut TcpStream, buffer: &mut BytesMut) -> Message {
    let session = Session {
        asn4: false,
        families: vec![manx_bgp::types::Family::Ipv4],
        ebgp: true,
        extended: false,
        add_path: Default::default(),
    };
    let heard = async {
        loop {
            if let Some(frame) = wire::frame(buffer, wire::frame::MAX_MESSAGE).unwrap() {
                return wire::parse(&frame, Some(&session)).unwrap();
            }
            assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "the speaker hung up");
        }
    };
    tokio::time::timeout(DEADLINE, heard).await.unwrap()
}

/// 203.0.113.0/24 with an ORIGIN of 3, which there is not: RFC 7606, section 7.1.
fn malformed() -> Vec<u8> {
    let attributes =
        [&[0x40, 1, 1, 3][..], &[0x40, 2, 4, 2, 1, 0xfd, 0xe9], &[0x40, 3, 4, 127, 90, 0, 2]].concat();
    let nlri = [24, 203, 0, 113];
    let mut message = vec![0xff; 16];
    message.extend((23 + attributes.len() as u16 + 4).to_be_bytes());
    message.extend([2, 0, 0]);
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(attributes);
    message.extend(nlri);
    message
}

#[tokio::test]
async fn every_documented_metric_is_told_and_every_metric_told_is_documented() {
    let (speaker, _) = speaker::start(Options::default());
    let peer = |address| {
        format!(
            "[[peers]]\naddress = \"{address}\"\nport = 1790\nasn = 65001\nname = \"tor\"\nimport = {{ default = \"accept\" }}\nexport = {{ default = \"accept\" }}\nbfd = {{}}\n"
        )
    };
    let both = [peer(address(2)), peer(address(3))].concat();
    speaker.apply(config(&both)).await.unwrap();
    // A port that was free a moment ago.
    let page = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    tokio::spawn(metrics::serve(page, speaker.clone()).await.unwrap());

    let (mut stream, mut buffer) = neighbour().await;
    stream.write_all(&malformed()).await.unwrap();
    assert!(matches!(hear(&mut stream, &mut buffer).await, Message::Update(_)), "10.1.0.0/26");
    let stranger = TcpSocket::new_v4().unwrap();
    stranger.bind(SocketAddr::new(address(9), 0)).unwrap();
    let mut stranger = stranger.connect(SocketAddr::new(address(1), 1790)).await.unwrap();
    assert!(matches!(hear(&mut stranger, &mut BytesMut::new()).await, Message::Notification(_)));

    let name = address(2);
    let wanted = [
        "manx_bgpd_refused_callers_total 1".to_owned(),
        format!(
            "manx_bgpd_attribute_faults_total{{action=\"withdraw\",attribute=\"ORIGIN\",peer=\"{name}\"}} 1"
        ),
        format!("manx_bgpd_session_state{{peer=\"{name}\",state=\"Established\"}} 1"),
        format!("manx_bgpd_session_state{{peer=\"{name}\",state=\"Idle\"}} 0"),
        format!("manx_bgpd_routes{{peer=\"{name}\",table=\"advertised\"}} 1"),
        format!("manx_bgpd_messages_total{{direction=\"in\",peer=\"{name}\",type=\"update\"}} 1"),
        format!("manx_bgpd_messages_total{{direction=\"in\",peer=\"{name}\",type=\"open\"}} 1"),
        format!("manx_bgpd_peer_info{{asn=\"65001\",name=\"tor\",peer=\"{name}\"}} 1"),
        format!("manx_bgpd_session_ends_total{{peer=\"{}\",reason=\"connect\"}}", address(3)),
        format!("manx_bgpd_bfd_up{{peer=\"{name}\"}} 0"),
        "manx_bgpd_originated 1".to_owned(),
        "manx_bgpd_destinations{family=\"ipv4\"} 1".to_owned(),
    ];
    let deadline = Instant::now() + DEADLINE;
    let body = loop {
        let body = get(page, "/metrics").await;
        let Some(missing) = wanted.iter().find(|line| !body.contains(line.as_str())) else { break body };
        assert!(Instant::now() < deadline, "not told: {missing}, in\n{body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };

    let documented = documented();
    let types: BTreeMap<_, _> =
        documented.iter().map(|(name, (kind, _))| (name.clone(), kind.clone())).collect();
    assert_eq!(told(&body), types, "left: told; right: documented");
    for (metric, (_, labels)) in &documented {
        let series = body
            .lines()
            .find(|line| line.strip_prefix(metric.as_str()).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let series = series.unwrap();
        let inside = series.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let used: BTreeSet<_> =
            inside.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())).collect();
        assert_eq!(used, *labels, "labels of {metric}");
    }

    // A neighbour that is configured no more leaves no series.
    speaker.apply(config("")).await.unwrap();
    let body = get(page, "/metrics").await;
    assert!(!body.contains("peer="), "{body}");
    assert!(get(page, "/").await.starts_with("HTTP/1.1 404"));
}
