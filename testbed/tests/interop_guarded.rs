//! manx-bgpd and OpenBGPD, GoBGP and BIRD 1.6, a session a family, each with a password (RFC 2385) and GTSM (RFC 5082) on
//! both sides: routes, large communities, reasons, refreshes, restarts. Asserted on the router's own view.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod interop;

use std::time::Duration;

use interop::{Router, Seen, up};
use manx_bgp::api::{Config, Direction, Reply, Request, Session, SessionState};
use manx_testbed::{Lab, TemporaryLab, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Long enough for a retry after an error, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(60);

/// manx-bgpd originates it with large communities.
const LARGE: &str = "10.244.0.64/26";
/// What the router originates.
const THEIRS: &str = "203.0.113.0/24";
/// The session over IPv4, as each names the other.
const ROUTER: &str = "10.0.0.2";
const MANX: &str = "10.0.0.1";

/// What of a router differs beside its table.
trait Guarded: Router {
    /// Its program that speaks over IPv4.
    const PROGRAM: &'static str;

    /// What has to be said once it runs.
    async fn begin(_: &Lab) {}

    /// `asn:value:value`, of a route as it has it.
    async fn large_communities(lab: &Lab, prefix: &str) -> Vec<String>;

    /// Where it shows or logs what the last NOTIFICATION said.
    async fn last_notification(lab: &Lab) -> String;

    /// Ends the session over IPv4 with these words, or allows it again.
    async fn shut(lab: &Lab, reason: Option<&str>);

    /// Asks for all routes of the session over IPv4 again, if it can.
    async fn refresh(_: &Lab) {
        panic!("it does not ask")
    }

    /// Does not wait any longer before it speaks again.
    async fn try_again(_: &Lab) {}

    /// Whether the session over IPv4 is established, as it sees it.
    async fn is_up(lab: &Lab) -> bool;
}

struct OpenBgpd;

impl OpenBgpd {
    async fn rib(lab: &Lab, prefix: &str) -> Option<Value> {
        let shown = lab.run("router", &["bgpctl", "-j", "show", "rib", "detail", prefix]).await.unwrap();
        let mut shown: Value = serde_json::from_str(&shown).unwrap();
        Some(shown["rib"].get_mut(0)?.take())
    }
}

impl Router for OpenBgpd {
    const TOPOLOGY: &'static str = "interop-openbgpd.clab.yml";

    async fn route(lab: &Lab, prefix: &str) -> Option<Seen> {
        let route = Self::rib(lab, prefix).await?;
        Some(Seen {
            next_hop: route["exit_nexthop"].as_str()?.parse().ok()?,
            as_path: route["aspath"].as_str()?.to_owned(),
            communities: texts(&route["communities"]),
        })
    }

    async fn announce(lab: &Lab, yes: bool) {
        let what = if yes { "add" } else { "delete" };
        lab.run("router", &["bgpctl", "network", what, THEIRS]).await.unwrap();
    }
}

impl Guarded for OpenBgpd {
    const PROGRAM: &'static str = "bgpd";

    async fn large_communities(lab: &Lab, prefix: &str) -> Vec<String> {
        Self::rib(lab, prefix).await.map(|route| texts(&route["large_communities"])).unwrap_or_default()
    }

    async fn last_notification(lab: &Lab) -> String {
        lab.run("router", &["bgpctl", "show", "neighbor", MANX]).await.unwrap()
    }

    async fn shut(lab: &Lab, reason: Option<&str>) {
        let argv = ["bgpctl", "neighbor", MANX, if reason.is_some() { "down" } else { "up" }];
        let argv: Vec<&str> = argv.into_iter().chain(reason).collect();
        lab.run("router", &argv).await.unwrap();
    }

    async fn refresh(lab: &Lab) {
        lab.run("router", &["bgpctl", "neighbor", MANX, "refresh"]).await.unwrap();
    }

    async fn try_again(lab: &Lab) {
        // It doubles its wait up to an hour, refusing calls meanwhile.
        lab.run("router", &["bgpctl", "neighbor", MANX, "clear"]).await.unwrap();
    }

    async fn is_up(lab: &Lab) -> bool {
        let shown = lab.run("router", &["bgpctl", "-j", "show", "neighbor", MANX]).await.unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown["neighbors"][0]["state"] == "Established"
    }
}

struct GoBgp;

impl GoBgp {
    async fn path(lab: &Lab, prefix: &str) -> Option<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let shown = lab.run("router", &["gobgp", "global", "rib", "-a", family, "-j"]).await.unwrap();
        let mut shown: Value = serde_json::from_str(&shown).unwrap();
        Some(shown.get_mut(prefix)?.get_mut(0)?.take())
    }

    fn attribute(path: &Value, code: u64) -> Option<&Value> {
        path["attrs"].as_array()?.iter().find(|attribute| attribute["type"] == code)
    }

    async fn add(lab: &Lab, words: &[&str]) {
        let argv: Vec<&str> = ["gobgp", "global", "rib"].iter().chain(words).copied().collect();
        lab.run("router", &argv).await.unwrap();
    }
}

impl Router for GoBgp {
    const TOPOLOGY: &'static str = "interop-gobgp.clab.yml";

    async fn route(lab: &Lab, prefix: &str) -> Option<Seen> {
        let path = Self::path(lab, prefix).await?;
        // MP_REACH_NLRI or NEXT_HOP.
        let next_hop = Self::attribute(&path, 14).or(Self::attribute(&path, 3))?;
        let asns = Self::attribute(&path, 2)?["as_paths"][0]["asns"].as_array()?;
        let communities = Self::attribute(&path, 8).and_then(|found| found["communities"].as_array());
        let community = |number: &Value| {
            let number = number.as_u64().unwrap_or_default();
            format!("{}:{}", number >> 16, number & 0xffff)
        };
        Some(Seen {
            next_hop: next_hop["nexthop"].as_str()?.parse().ok()?,
            as_path: asns.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
            communities: communities.into_iter().flatten().map(community).collect(),
        })
    }

    async fn announce(lab: &Lab, yes: bool) {
        match yes {
            true => Self::add(lab, &["add", THEIRS, "large-community", "65001:3:4"]).await,
            false => Self::add(lab, &["del", THEIRS]).await,
        }
    }
}

impl Guarded for GoBgp {
    const PROGRAM: &'static str = "gobgpd";

    async fn begin(lab: &Lab) {
        Self::announce(lab, true).await;
        Self::add(lab, &["-a", "ipv6", "add", "2001:db8:c::/64"]).await;
    }

    async fn large_communities(lab: &Lab, prefix: &str) -> Vec<String> {
        let path = Self::path(lab, prefix).await.unwrap_or_default();
        let found = Self::attribute(&path, 32).and_then(|found| found["value"].as_array());
        let large =
            |value: &Value| format!("{}:{}:{}", value["ASN"], value["LocalData1"], value["LocalData2"]);
        found.into_iter().flatten().map(large).collect()
    }

    async fn last_notification(lab: &Lab) -> String {
        std::fs::read_to_string(lab.log("router", "gobgpd").unwrap()).unwrap()
    }

    async fn shut(lab: &Lab, reason: Option<&str>) {
        // Its `disable`, which is to take the place of `shutdown`, says no reason.
        let argv = match reason {
            Some(reason) => vec!["gobgp", "neighbor", MANX, "shutdown", "--reason", reason],
            None => vec!["gobgp", "neighbor", MANX, "enable"],
        };
        lab.run("router", &argv).await.unwrap();
    }

    async fn is_up(lab: &Lab) -> bool {
        lab.run("router", &["gobgp", "neighbor", MANX]).await.unwrap().contains("BGP state = ESTABLISHED")
    }
}

struct Bird1;

impl Bird1 {
    /// Of the daemon of the prefix's family.
    async fn shown(lab: &Lab, prefix: &str) -> String {
        let birdc = manx_testbed::daemon::BIRDC1[usize::from(prefix.contains(':'))];
        let shown = lab.exec("router", &[birdc, "show", "route", prefix, "all"]).await.unwrap();
        String::from_utf8(shown.stdout).unwrap()
    }

    fn value<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
        let mut lines = shown.lines().filter_map(|line| line.trim().split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    }

    async fn birdc(lab: &Lab, words: &[&str]) -> String {
        let argv: Vec<&str> = [manx_testbed::daemon::BIRDC1[0]].iter().chain(words).copied().collect();
        lab.run("router", &argv).await.unwrap()
    }
}

impl Router for Bird1 {
    const TOPOLOGY: &'static str = "interop-bird1.clab.yml";

    async fn route(lab: &Lab, prefix: &str) -> Option<Seen> {
        let shown = Self::shown(lab, prefix).await;
        let communities = Self::value(&shown, "BGP.community").unwrap_or_default().split_whitespace();
        Some(Seen {
            next_hop: Self::value(&shown, "BGP.next_hop")?.split_whitespace().next()?.parse().ok()?,
            as_path: Self::value(&shown, "BGP.as_path")?.to_owned(),
            communities: communities.map(|pair| pair.trim_matches(['(', ')']).replace(',', ":")).collect(),
        })
    }

    async fn announce(lab: &Lab, yes: bool) {
        Self::birdc(lab, &[if yes { "enable" } else { "disable" }, "nets"]).await;
    }
}

impl Guarded for Bird1 {
    const PROGRAM: &'static str = "bird";

    async fn try_again(lab: &Lab) {
        // After an error it refuses calls for a minute.
        Self::birdc(lab, &["restart", "manx"]).await;
    }

    async fn large_communities(lab: &Lab, prefix: &str) -> Vec<String> {
        let shown = Self::shown(lab, prefix).await;
        let all = Self::value(&shown, "BGP.large_community").unwrap_or_default().replace(", ", ":");
        all.split_whitespace().map(|one| one.trim_matches(['(', ')']).to_owned()).collect()
    }

    async fn last_notification(lab: &Lab) -> String {
        std::fs::read_to_string(lab.log("router", "bird").unwrap()).unwrap()
    }

    async fn shut(lab: &Lab, reason: Option<&str>) {
        match reason {
            Some(reason) => Self::birdc(lab, &["disable", "manx", &format!("\"{reason}\"")]).await,
            None => Self::birdc(lab, &["enable", "manx"]).await,
        };
    }

    async fn refresh(lab: &Lab) {
        Self::birdc(lab, &["reload", "in", "manx"]).await;
    }

    async fn is_up(lab: &Lab) -> bool {
        Self::birdc(lab, &["show", "protocols", "manx"]).await.contains("Established")
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

/// Both sessions are up, and all is known.
async fn started<R: Guarded>(test: &str) -> TemporaryLab {
    let router = R::TOPOLOGY.trim_start_matches("interop-").trim_end_matches(".clab.yml");
    let lab = up::<R>(&format!("guarded-{router}-{test}")).await;
    R::begin(&lab).await;
    interop::both_know_all::<R>(&lab).await;
    lab
}

async fn ask(lab: &Lab, request: Request) -> Reply {
    lab.ask_bgpd("manx", &request).await.unwrap()
}

/// The session over IPv4.
async fn session(lab: &Lab) -> Session {
    match ask(lab, Request::Status).await {
        Reply::Status(mut status) => status.sessions.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn shows(lab: &Lab, wanted: impl Fn(&Session) -> bool) -> Session {
    let shown = || async {
        let shown = session(lab).await;
        if wanted(&shown) { Ok(shown) } else { Err(format!("{shown:?}")) }
    };
    eventually(SOON, shown).await.unwrap()
}

async fn holds(what: &str, wanted: impl AsyncFn() -> bool) {
    let tried = || async { if wanted().await { Ok(()) } else { Err(what.to_owned()) } };
    eventually(SOON, tried).await.unwrap();
}

fn is_up(session: &Session) -> bool {
    session.state == SessionState::Established
}

async fn configure(lab: &Lab, change: impl Fn(&mut Config)) {
    let file = lab.topology().nodes["manx"].binds[0].source.clone();
    let mut config: Config = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    change(&mut config);
    let reply = ask(lab, Request::Apply { config }).await;
    assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
}

async fn routes_and_large_communities_travel_both_ways<R: Guarded>() {
    let lab = started::<R>("routes").await;
    holds("the router has ours", async || {
        R::large_communities(&lab, LARGE).await == ["64512:1:2", "64512:4294967295:0"]
    })
    .await;
    let request = Request::Routes { prefix: Some(THEIRS.parse().unwrap()) };
    let Reply::Table { destinations } = ask(&lab, request).await else { panic!("no table") };
    assert_eq!(destinations[0].paths[0].communities, ["65001:3:4"]);
    interop::withdrawals_travel_both_ways::<R>(&lab).await;
}

/// Ours is set otherwise, and back.
async fn parted_by<R: Guarded>(lab: &Lab, change: impl Fn(&mut Config), told: impl Fn(&Session) -> bool) {
    configure(lab, change).await;
    holds("it is down for the router", async || !R::is_up(lab).await).await;
    shows(lab, told).await;
    configure(lab, |_| {}).await;
    R::try_again(lab).await;
    shows(lab, is_up).await;
}

async fn rfc2385_without_the_password_there_is_no_session<R: Guarded>() {
    let lab = started::<R>("password").await;
    let another = |config: &mut Config| config.peers[0].password = Some("another".to_owned().into());
    let told = |session: &Session| {
        session.reason.as_ref().is_some_and(|why| why.starts_with("no answer with this password"))
    };
    parted_by::<R>(&lab, another, told).await;
}

async fn rfc5082_what_is_sent_with_less_than_255_is_not_heard<R: Guarded>() {
    let lab = started::<R>("gtsm").await;
    let far = |config: &mut Config| {
        config.peers[0].ttl_security = None;
        config.peers[0].multihop = Some(64);
    };
    parted_by::<R>(&lab, far, |session| !is_up(session)).await;
}

async fn reasons_are_read_on_the_other_side<R: Guarded>() {
    let lab = started::<R>("reason").await;
    // OpenBGPD 7.7 loses a NOTIFICATION where the end of the connection is there with it: said until it is read.
    let read = || async {
        let reason = "new filters".to_owned();
        shows(&lab, is_up).await;
        ask(&lab, Request::Reset { peer: ROUTER.parse().unwrap(), reason }).await;
        shows(&lab, is_up).await;
        let said = R::last_notification(&lab).await;
        if said.contains("new filters") { Ok(()) } else { Err(said) }
    };
    eventually(SOON, read).await.unwrap();
    R::shut(&lab, Some("moving racks")).await;
    let told = |session: &Session| {
        session.reason.as_deref() == Some(r#"they sent cease: administrative shutdown (6/2): "moving racks""#)
    };
    shows(&lab, told).await;
    R::shut(&lab, None).await;
    shows(&lab, is_up).await;
}

/// UPDATEs of the session over IPv4, `in` or `out`, since it began.
async fn updates(lab: &Lab, direction: &str) -> u64 {
    let page = lab.run("manx", &["busybox", "wget", "-qO-", "http://127.0.0.1:9099/metrics"]).await.unwrap();
    let series =
        format!("manx_bgpd_messages_total{{direction=\"{direction}\",peer=\"{ROUTER}\",type=\"update\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

async fn rfc2918_the_router_says_all_again_when_it_is_asked<R: Guarded>() {
    let lab = started::<R>("ask").await;
    let (before, heard) = (session(&lab).await, updates(&lab, "in").await);
    let (peer, direction) = (ROUTER.parse().unwrap(), Direction::In);
    assert_eq!(ask(&lab, Request::Refresh { peer, direction }).await, Reply::Done);
    holds("it has said its route again", async || updates(&lab, "in").await > heard).await;
    let after = session(&lab).await;
    assert_eq!((after.flaps, after.received, after.stale), (before.flaps, before.received, 0));
}

async fn rfc2918_we_say_all_again_when_we_are_asked<R: Guarded>() {
    let lab = started::<R>("asked").await;
    let (before, told) = (session(&lab).await, updates(&lab, "out").await);
    R::refresh(&lab).await;
    // Two networks, each with communities of its own.
    holds("we have said ours again", async || updates(&lab, "out").await >= told + 2).await;
    interop::both_know_all::<R>(&lab).await;
    assert_eq!(session(&lab).await.flaps, before.flaps);
}

async fn a_killed_speaker_is_not_missed_by_the_router<R: Guarded>() {
    let lab = started::<R>("restart-ours").await;
    lab.kill("manx", "manx-bgpd", Signal::SIGKILL).unwrap();
    holds("the session is down for the router", async || !R::is_up(&lab).await).await;
    assert!(R::route(&lab, LARGE).await.is_some(), "the router keeps the routes");
    lab.start_daemon("manx", "manx-bgpd").await.unwrap();
    holds("it is up again", async || R::is_up(&lab).await).await;
    interop::both_know_all::<R>(&lab).await;
}

async fn a_killed_router_is_not_missed_by_manx<R: Guarded>() {
    let lab = started::<R>("restart-theirs").await;
    lab.kill("router", R::PROGRAM, Signal::SIGKILL).unwrap();
    let kept = shows(&lab, |session| !is_up(session)).await;
    assert_eq!((kept.stale, kept.received), (1, 1), "{kept:?}");
    lab.start_daemon("router", R::PROGRAM).await.unwrap();
    R::begin(&lab).await;
    shows(&lab, |session| is_up(session) && session.stale == 0 && session.received == 1).await;
}

macro_rules! tests {
    ($module:ident: $router:ty, $($test:ident),*) => {
        mod $module {
            $(
                #[tokio::test]
                #[ignore = "needs root: make test"]
                async fn $test() {
                    super::$test::<$router>().await;
                }
            )*
        }
    };
}

// OpenBGPD 7.7 offers to be waited for without a family, and so is not; it waits for others. It asks for routes, and
// answers no such request ("AID IPv4 unicast not negotiated", when it is).
tests!(
    openbgpd: crate::OpenBgpd,
    routes_and_large_communities_travel_both_ways,
    rfc2385_without_the_password_there_is_no_session,
    rfc5082_what_is_sent_with_less_than_255_is_not_heard,
    reasons_are_read_on_the_other_side,
    rfc2918_we_say_all_again_when_we_are_asked,
    a_killed_speaker_is_not_missed_by_the_router
);
// GoBGP 3.10 keeps what it heard, and has no need to ask.
tests!(
    gobgp: crate::GoBgp,
    routes_and_large_communities_travel_both_ways,
    rfc2385_without_the_password_there_is_no_session,
    rfc5082_what_is_sent_with_less_than_255_is_not_heard,
    reasons_are_read_on_the_other_side,
    rfc2918_the_router_says_all_again_when_it_is_asked,
    a_killed_speaker_is_not_missed_by_the_router,
    a_killed_router_is_not_missed_by_manx
);
tests!(
    bird1: crate::Bird1,
    routes_and_large_communities_travel_both_ways,
    rfc2385_without_the_password_there_is_no_session,
    rfc5082_what_is_sent_with_less_than_255_is_not_heard,
    reasons_are_read_on_the_other_side,
    rfc2918_the_router_says_all_again_when_it_is_asked,
    rfc2918_we_say_all_again_when_we_are_asked,
    a_killed_speaker_is_not_missed_by_the_router,
    a_killed_router_is_not_missed_by_manx
);
