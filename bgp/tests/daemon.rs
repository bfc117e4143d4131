//! manx-bgpd alone, as an operator meets it: its file, `check`, SIGHUP and SIGTERM. Needs no root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use manx_bgp::api::{Config, PeerConfig, Session, SessionState};
use manx_bgp::speaker::{self, Handle, Options};
use manx_bgp::types::{Asn, RouterId};

const DEADLINE: Duration = Duration::from_secs(30);
const PORT: u16 = 1790;

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(127, 91, (std::process::id() % 251) as u8, host).into()
}

/// A file with two neighbours and one network, all of which may be changed in it.
struct Bgpd {
    child: Child,
    folder: PathBuf,
}

fn text() -> String {
    let ours = address(1);
    let peer = |host| {
        format!(
            "[[peers]]\naddress = \"{}\"\nport = {PORT}\nasn = 64512\nholdTime = 90\nname = \"n{host}\"\n",
            address(host)
        )
    };
    format!(
        "asn = 64512\nrouterId = \"10.0.0.1\"\nlisten = [\"{ours}:{PORT}\"]\n{}localAddress = \"{ours}\"\nnextHops = [\"192.0.2.1\"]\n\
         {}localAddress = \"{ours}\"\n[[networks]]\nprefix = \"10.1.0.0/26\"\n",
        peer(2),
        peer(3)
    )
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_manx-bgpd"))
}

impl Bgpd {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("manx-daemon-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("bgpd.toml"), text()).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = program()
            .args(["--metrics-addr", "", "--config"])
            .arg(folder.join("bgpd.toml"))
            .arg("--socket")
            .arg(folder.join("bgpd.sock"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Writes the file anew and has it read.
    fn reload(&self, text: &str) {
        std::fs::write(self.folder.join("bgpd.toml"), text).unwrap();
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn logs(&self, words: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap();
            if log.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "{words} is not in {log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Bgpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn neighbour(host: u8) -> Handle {
    let (handle, _) = speaker::start(Options::default());
    let peer = PeerConfig {
        port: PORT,
        local_address: Some(address(host)),
        connect_retry: 1,
        ..PeerConfig::new(address(1), Asn(64512))
    };
    let router_id = RouterId(Ipv4Addr::new(10, 0, 0, host));
    let listen = vec![SocketAddr::new(address(host), PORT)];
    let config = Config { listen, peers: vec![peer], ..Config::new(Asn(64512), router_id) };
    handle.apply(config).await.unwrap();
    handle
}

async fn eventually(what: &str, neighbour: &Handle, wanted: impl Fn(&Session) -> bool) -> Session {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let session = neighbour.status().await.unwrap().sessions.remove(0);
        if wanted(&session) {
            return session;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; now {session:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_up(session: &Session) -> bool {
    session.state == SessionState::Established
}

#[tokio::test]
async fn sighup_changes_what_changed_and_bounces_the_sessions_that_must_alone() {
    let mut bgpd = Bgpd::start();
    let [two, three] = [neighbour(2).await, neighbour(3).await];
    eventually("established", &two, |session| is_up(session) && session.received == 1).await;
    eventually("established", &three, is_up).await;

    // Another network and another name are no session's affair.
    let more = format!("{}[[networks]]\nprefix = \"10.2.0.0/26\"\n", text().replace("\"n3\"", "\"tor\""));
    bgpd.reload(&more);
    eventually("another network", &two, |session| session.received == 2).await;
    bgpd.logs("renamed from \"n3\"").await;

    // Another hold time is one's.
    let third = more.rfind("holdTime = 90").unwrap();
    let other = format!("{}holdTime = 30{}", &more[..third], &more[third + "holdTime = 90".len()..]);
    bgpd.reload(&other);
    let bounced =
        eventually("its own session", &three, |session| is_up(session) && session.hold_time == Some(30))
            .await;
    assert_eq!(bounced.flaps, 1);
    assert_eq!(bounced.reason.as_deref(), Some("they sent cease: other configuration change (6/6)"));

    // What is wrong, or the same, changes nothing.
    bgpd.reload(&other.replace("10.2.0.0/26", "10.2.0.1/26"));
    bgpd.logs("what was in force stays").await;
    bgpd.logs("did you mean 10.2.0.0/26?").await;
    bgpd.reload(&other);
    bgpd.logs("says what is in force already").await;
    let [two_now, three_now] =
        [&two, &three].map(|neighbour| async { neighbour.status().await.unwrap().sessions.remove(0) });
    let (two_now, three_now) = (two_now.await, three_now.await);
    assert!(is_up(&two_now) && is_up(&three_now));
    assert_eq!((two_now.flaps, two_now.received, three_now.flaps), (0, 2, 1));

    bgpd.signal("-TERM");
    let ended = eventually("told", &two, |session| session.flaps == 1).await;
    assert!(ended.reason.unwrap().contains("administrative shutdown (6/2): \"manx-bgpd ends\""));
    assert!(bgpd.child.wait().unwrap().success());
    assert!(!bgpd.folder.join("bgpd.sock").exists(), "its socket goes with it");
}

fn check(file: &Path) -> Output {
    program().arg("check").arg(file).output().unwrap()
}

#[test]
fn check_says_what_a_file_does_or_what_is_wrong_with_it_and_touches_nothing() {
    let folder = std::env::temp_dir().join(format!("manx-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("bgpd.toml");
    std::fs::write(&file, text()).unwrap();
    let good = check(&file);
    assert!(good.status.success());
    let said = String::from_utf8(good.stdout).unwrap();
    assert!(said.contains("good: AS64512 with identifier 10.0.0.1, peers: 2, networks: 1"), "{said}");

    std::fs::write(&file, text().replacen("holdTime = 90", "holdTime = 2", 1)).unwrap();
    let bad = check(&file);
    assert_eq!(bad.status.code(), Some(1));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("holdTime is 2 s; it is 0 (none) or at least 3"), "{said}");
    std::fs::write(&file, text().replacen("holdTime", "holdTme", 1)).unwrap();
    let said = String::from_utf8(check(&file).stderr).unwrap();
    assert!(said.contains("line ") && said.contains("unknown field `holdTme`"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8(check(&file).stderr).unwrap();
    assert!(said.contains("cannot read"), "{said}");
}
