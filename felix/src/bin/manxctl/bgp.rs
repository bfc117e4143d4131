//! `manxctl bgp`: asks this node's speaker.

use std::path::Path;

use anyhow::bail;
use manx_bgp::api::{
    BfdStatus, Destination, DrainPhase, DrainStatus, Held, PathInfo, RangeStatus, Request, Session,
    SessionState, Status,
};
use manx_bgp::bfd::State;
use manx_bgp::types::{Prefix, ScopedAddr};
use manx_felix::speaker;

use super::table::{age, facts, list, or_dash, table};

/// Whose view of the routes is asked for; peers by address or name.
#[derive(Clone, Debug)]
pub enum View {
    /// What is best, with all that was to choose from.
    Table,
    /// What this peer said.
    Received(String),
    /// What this peer was told.
    Advertised(String),
}

/// What the speaker is doing.
pub async fn peers(socket: &Path) -> anyhow::Result<Status> {
    Ok(speaker::status(socket).await?)
}

/// One session, by the peer's address or name.
pub async fn peer(socket: &Path, wanted: &str) -> anyhow::Result<Session> {
    let sessions = speaker::status(socket).await?.sessions;
    let address: Option<ScopedAddr> = wanted.parse().ok();
    let is = |session: &&Session| Some(session.address) == address || session.name == wanted;
    match sessions.iter().filter(is).collect::<Vec<_>>()[..] {
        [session] => Ok(session.clone()),
        [] => {
            bail!("there is no peer {wanted}; there are: {}", list(sessions.iter().map(title)))
        }
        _ => bail!("several peers are called {wanted}: give one's address"),
    }
}

/// `tor1 (10.0.0.1)`.
pub fn title(session: &Session) -> String {
    match session.name.as_str() {
        "" => session.address.to_string(),
        name => format!("{name} ({})", session.address),
    }
}

/// The speaker's table, or one peer's view; of one destination or of all.
pub async fn routes(socket: &Path, prefix: Option<Prefix>, view: View) -> anyhow::Result<Vec<Destination>> {
    let request = match view {
        View::Table => Request::Routes { prefix },
        View::Received(wanted) => Request::Received { peer: peer(socket, &wanted).await?.address, prefix },
        View::Advertised(wanted) => {
            Request::Advertised { peer: peer(socket, &wanted).await?.address, prefix }
        }
    };
    Ok(speaker::table(socket, request).await?)
}

/// Every candidate for one destination. That there is none is an answer, too.
pub async fn why(socket: &Path, prefix: Prefix) -> anyhow::Result<Destination> {
    let found = speaker::table(socket, Request::Routes { prefix: Some(prefix) }).await?;
    Ok(found.into_iter().next().unwrap_or(Destination { prefix, paths: Vec::new() }))
}

/// The sessions under a line about the speaker.
pub fn render_peers(status: &Status) -> String {
    let asn = status.asn.map_or_else(|| "no orders yet".to_owned(), |asn| asn.to_string());
    let router_id = or_dash(status.router_id.map(|id| id.to_string()));
    let originated = list(&status.originated);
    let sessions = sessions(&status.sessions);
    let ranges = ranges(&status.ranges);
    format!("{}, {asn}, router id {router_id}, announces {originated}\n\n{sessions}{ranges}", status.daemon)
}

/// One line a range, under an empty one; nothing where there is none.
fn ranges(ranges: &[RangeStatus]) -> String {
    if ranges.is_empty() {
        return String::new();
    }
    let rows = ranges.iter().map(|range| {
        [
            range.prefix.to_string(),
            or_dash(range.interface.map(|interface| interface.to_string())),
            or_dash(range.name.clone()),
            format!("{} of {}", range.sessions, range.limit),
            range.refused.to_string(),
        ]
    });
    format!("\n{}", table(["RANGE", "INTERFACE", "NAME", "SESSIONS", "REFUSED"], rows))
}

/// One line a session.
pub fn sessions(sessions: &[Session]) -> String {
    table(
        ["NEIGHBOUR", "NAME", "AS", "STATE", "SINCE", "BFD", "RECEIVED", "ACCEPTED", "ADVERTISED", "REASON"],
        sessions.iter().map(|session| {
            // The reason a session that is up once went down is history.
            let reason = session.reason.clone().filter(|_| session.state != SessionState::Established);
            [
                session.address.to_string(),
                or_dash(name(session)),
                session.asn.0.to_string(),
                state(session),
                age(session.since_seconds),
                or_dash(session.bfd.as_ref().map(|bfd| bfd.state.to_string())),
                session.received.to_string(),
                session.accepted.to_string(),
                session.advertised.to_string(),
                or_dash(reason),
            ]
        }),
    )
}

/// `Established`, or `Established, draining`.
fn state(session: &Session) -> String {
    match &session.drain {
        None => session.state.to_string(),
        Some(drain) if drain.seconds_left.is_some() => format!("{}, draining", session.state),
        Some(_) => format!("{}, drained", session.state),
    }
}

/// `announced, withdrawn in 42s: "new kernel"`.
fn drain(drain: &DrainStatus) -> String {
    let next = DrainPhase::after(drain.then);
    let next = drain.seconds_left.map(|left| format!(", {next} in {left}s")).unwrap_or_default();
    let reason = Some(&drain.reason).filter(|reason| !reason.is_empty());
    format!("{}{next}{}", drain.phase, reason.map(|reason| format!(": {reason:?}")).unwrap_or_default())
}

/// A dynamic neighbour is told by the range it called from.
fn name(session: &Session) -> String {
    match (session.range, session.name.as_str()) {
        (None, name) => name.to_owned(),
        (Some(range), "") => format!("({range})"),
        (Some(range), name) => format!("{name} ({range})"),
    }
}

/// All of one session, a line each.
pub fn render_peer(session: &Session) -> String {
    let up = session.state == SessionState::Established;
    let reason = if up { "Last went down" } else { "Reason" };
    let families: Vec<_> = session.families.iter().map(ToString::to_string).collect();
    facts([
        ("Neighbour", session.address.to_string()),
        ("Name", or_dash(session.name.clone())),
        ("Range", or_dash(session.range.map(|range| format!("{range}, it called from there")))),
        ("AS", session.asn.0.to_string()),
        ("Router id", or_dash(session.router_id.map(|id| id.to_string()))),
        ("State", format!("{} for {}", session.state, age(session.since_seconds))),
        (reason, or_dash(session.reason.clone())),
        ("Flaps", session.flaps.to_string()),
        ("Hold time", or_dash(session.hold_time.map(|seconds| format!("{seconds}s")))),
        ("Least TTL", or_dash(session.least_ttl.map(|ttl| format!("{ttl} (GTSM)")))),
        ("Families", or_dash(families.join(", "))),
        ("Prefixes", {
            let (received, accepted) = (session.received, session.accepted);
            format!("{received} received, {accepted} accepted, {} advertised", session.advertised)
        }),
        ("Held", {
            let held = |of: &Held| format!("{} of at most {} of {}", of.held, of.limit, of.family);
            or_dash(session.prefixes.iter().map(held).collect::<Vec<_>>().join(", "))
        }),
        ("Stale", stale(session)),
        ("Drain", or_dash(session.drain.as_ref().map(drain))),
        ("BFD", or_dash(session.bfd.as_ref().map(bfd))),
        ("Messages", format!("{} in, {} out", session.messages_in, session.messages_out)),
    ])
}

/// `3 prefixes, 2 of them as the last resort`.
fn stale(session: &Session) -> String {
    match (session.stale, session.long_lived) {
        (0, _) => "-".to_owned(),
        (stale, 0) => format!("{stale} prefixes"),
        (stale, long_lived) => format!("{stale} prefixes, {long_lived} of them as the last resort (LLGR)"),
    }
}

/// `Up for 2m, sends every 300 ms, detects a loss within 900 ms`.
fn bfd(bfd: &BfdStatus) -> String {
    let interval = bfd.tx_interval_ms.map_or("nothing".to_owned(), |ms| format!("every {ms} ms"));
    let mut text = format!("{} for {}, sends {interval}", bfd.state, age(bfd.since_seconds));
    match bfd.remote_state {
        Some(State::Up) => text += &format!(", detects a loss within {} ms", bfd.detection_time_ms),
        Some(state) => text += &format!(", the neighbour says {state}"),
        None => text += ", the neighbour is not heard",
    }
    match &bfd.reason {
        Some(reason) if bfd.state != State::Up => text + ": " + reason,
        Some(_) | None => text,
    }
}

/// Every candidate with what decided about it, in the order of the decision.
pub fn render_why(destination: &Destination) -> String {
    let prefix = destination.prefix;
    if destination.paths.is_empty() {
        return format!("{prefix}: nobody announces it, and this node does not originate it\n");
    }
    let used = destination.paths.iter().filter(|path| matches!(path.verdict.as_str(), "best" | "multipath"));
    let rows = destination.paths.iter().map(|path| {
        [
            from(path),
            or_dash(path.next_hop.map(|next_hop| next_hop.to_string())),
            path.local_pref.to_string(),
            or_dash(path.as_path.clone()),
            or_dash(path.origin.clone()),
            or_dash(path.med.map(|med| med.to_string())),
            list(&path.communities),
            match path.step {
                Some(step) => format!("step {step}: {}", path.verdict),
                None => path.verdict.clone(),
            },
        ]
    });
    let reflected: String = destination.paths.iter().filter_map(reflection).collect();
    let rows =
        table(["FROM", "NEXT HOP", "LOCAL PREF", "AS PATH", "ORIGIN", "MED", "COMMUNITIES", "VERDICT"], rows);
    format!("{prefix}: {} paths, {} in use\n\n{rows}{reflected}", destination.paths.len(), used.count())
}

/// Whose a reflected path is, and by which clusters it came (RFC 4456): steps of the decision look at both.
fn reflection(path: &PathInfo) -> Option<String> {
    let originator = path.originator_id?;
    Some(format!("{}: originator {originator}, clusters {}\n", from(path), list(&path.cluster_list)))
}

fn from(path: &PathInfo) -> String {
    let peer = match (path.peer, path.peer_name.as_str()) {
        (None, _) => "this node".to_owned(),
        (Some(address), "") => address.to_string(),
        (Some(_), name) => name.to_owned(),
    };
    match path.path_id {
        Some(path_id) => format!("{peer} path {path_id}"),
        None => peer,
    }
}

/// One line a path; the destination on the first of its.
pub fn render_routes(destinations: &[Destination]) -> String {
    let path = |destination: String, path: &PathInfo| {
        [
            destination,
            or_dash(path.next_hop.map(|next_hop| next_hop.to_string())),
            from(path),
            or_dash(path.as_path.clone()),
            path.local_pref.to_string(),
            or_dash(path.med.map(|med| med.to_string())),
            list(&path.communities),
            path.verdict.clone(),
        ]
    };
    table(
        ["DESTINATION", "NEXT HOP", "FROM", "AS PATH", "LOCAL PREF", "MED", "COMMUNITIES", "VERDICT"],
        destinations.iter().flat_map(|destination| {
            destination.paths.iter().enumerate().map(move |(index, info)| {
                let shown = if index == 0 { destination.prefix.to_string() } else { String::new() };
                path(shown, info)
            })
        }),
    )
}

#[cfg(test)]
pub mod tests {
    use manx_bgp::api::AfterDrain;
    use manx_bgp::types::{Asn, Family, RouterId};

    use super::*;

    pub fn session(address: &str, name: &str, state: SessionState, reason: Option<&str>) -> Session {
        Session {
            address: address.parse().unwrap(),
            name: name.to_owned(),
            range: None,
            asn: Asn(65001),
            state,
            since_seconds: 150,
            reason: reason.map(str::to_owned),
            router_id: Some(RouterId([10, 0, 0, 1].into())),
            hold_time: Some(90),
            least_ttl: Some(255),
            families: Family::ALL.to_vec(),
            received: 3,
            prefixes: vec![Held { family: Family::Ipv4, held: 3, limit: 1_000_000 }],
            accepted: 2,
            stale: 0,
            long_lived: 0,
            advertised: 1,
            messages_in: 10,
            messages_out: 11,
            flaps: 0,
            bfd: None,
            drain: None,
        }
    }

    #[test]
    fn sessions_say_why_they_are_not_up() {
        let status = Status {
            daemon: "manx-bgpd 0.1.0".to_owned(),
            asn: Some(Asn(64512)),
            router_id: Some(RouterId([10, 0, 0, 11].into())),
            sessions: vec![
                session("10.0.0.1", "tor1", SessionState::Established, Some("connection refused")),
                session("fd00::2", "", SessionState::Active, Some("peer says AS65010, we expect AS65001")),
            ],
            ranges: Vec::new(),
            originated: vec!["10.244.3.64/26".parse().unwrap()],
            destinations: 4,
            synced: true,
            drain: None,
        };
        insta::assert_snapshot!(render_peers(&status));
    }

    #[test]
    fn dynamic_neighbours_are_shown_with_their_range() {
        let range: Prefix = "10.0.7.0/24".parse().unwrap();
        let dynamic = |address: &str, name: &str| Session {
            range: Some(range),
            ..session(address, name, SessionState::Established, None)
        };
        let status = Status {
            daemon: "manx-bgpd 0.1.0".to_owned(),
            asn: Some(Asn(64512)),
            router_id: None,
            sessions: vec![
                dynamic("10.0.7.8", ""),
                dynamic("10.0.7.9", "rack7"),
                session("fe80::2%eth1", "tor1", SessionState::Established, None),
                session(
                    "eth2",
                    "tor2",
                    SessionState::Idle,
                    Some("no neighbour's address is known on eth2 yet"),
                ),
            ],
            ranges: vec![RangeStatus {
                prefix: range,
                interface: None,
                name: "rack7".to_owned(),
                sessions: 2,
                limit: 100,
                refused: 0,
            }],
            drain: None,
            originated: Vec::new(),
            destinations: 0,
            synced: true,
        };
        insta::assert_snapshot!(render_peers(&status));
        insta::assert_snapshot!("a_dynamic_neighbour", render_peer(&status.sessions[1]));
    }

    #[test]
    fn routes_show_every_path_and_why_it_lost() {
        let path = |peer: Option<&str>, name: &str, verdict: &str| PathInfo {
            peer: peer.map(|peer| peer.parse().unwrap()),
            peer_name: name.to_owned(),
            next_hop: peer.map(|peer| peer.parse().unwrap()),
            as_path: if peer.is_some() { "65001 64513".to_owned() } else { String::new() },
            local_pref: 100,
            origin: "IGP".to_owned(),
            med: None,
            communities: if name.is_empty() {
                Vec::new()
            } else {
                vec!["64512:1".to_owned(), "64512:2".to_owned()]
            },
            path_id: (name == "tor1").then_some(7),
            originator_id: None,
            cluster_list: Vec::new(),
            stale: false,
            verdict: verdict.to_owned(),
            step: verdict.starts_with("lost").then_some(4),
        };
        let destinations = [
            Destination {
                prefix: "10.1.0.0/16".parse().unwrap(),
                paths: vec![
                    path(Some("10.0.0.1"), "tor1", "best"),
                    path(Some("10.0.0.2"), "", "lost: longer AS path"),
                ],
            },
            Destination { prefix: "10.244.3.64/26".parse().unwrap(), paths: vec![path(None, "", "best")] },
        ];
        insta::assert_snapshot!(render_routes(&destinations));
        insta::assert_snapshot!("why_names_the_step", render_why(&destinations[0]));
    }

    #[test]
    fn why_shows_by_whom_a_path_was_reflected() {
        let path = PathInfo {
            peer: Some("10.0.0.2".parse().unwrap()),
            peer_name: "rr".to_owned(),
            next_hop: Some("10.0.0.4".parse().unwrap()),
            as_path: String::new(),
            local_pref: 100,
            origin: "IGP".to_owned(),
            med: None,
            communities: Vec::new(),
            path_id: None,
            originator_id: Some(RouterId([10, 0, 0, 4].into())),
            cluster_list: vec![[10, 8, 8, 8].into()],
            stale: false,
            verdict: "best".to_owned(),
            step: None,
        };
        let shown = render_why(&Destination { prefix: "10.244.2.0/26".parse().unwrap(), paths: vec![path] });
        assert!(shown.ends_with("\nrr: originator 10.0.0.4, clusters 10.8.8.8\n"), "{shown}");
    }

    #[test]
    fn all_of_a_session_is_shown() {
        let mut session = session("10.0.0.1", "tor1", SessionState::Established, Some("connection refused"));
        session.bfd = Some(BfdStatus {
            state: State::Up,
            since_seconds: 125,
            reason: Some("the neighbour is heard".to_owned()),
            remote_state: Some(State::Up),
            remote_diagnostic: Some("no diagnostic".to_owned()),
            tx_interval_ms: Some(50),
            detection_time_ms: 150,
            flaps: 0,
        });
        insta::assert_snapshot!(render_peer(&session));
    }

    #[test]
    fn a_drain_and_what_is_stale_are_shown() {
        let mut session = session("10.0.0.1", "tor1", SessionState::Established, None);
        session.drain = Some(DrainStatus {
            phase: DrainPhase::Announced,
            then: AfterDrain::Withdraw,
            seconds_left: Some(42),
            reason: "new kernel".to_owned(),
        });
        (session.stale, session.long_lived) = (3, 2);
        let shown = render_peer(&session);
        assert!(shown.contains("announced, withdrawn in 42s: \"new kernel\""), "{shown}");
        assert!(shown.contains("3 prefixes, 2 of them as the last resort (LLGR)"), "{shown}");
        assert!(sessions(&[session]).contains("Established, draining"));
    }

    #[test]
    fn bfd_says_why_it_is_not_up() {
        let mut status = BfdStatus {
            state: State::Down,
            since_seconds: 3,
            reason: Some("control detection time expired after 150 ms".to_owned()),
            remote_state: None,
            remote_diagnostic: None,
            tx_interval_ms: Some(1000),
            detection_time_ms: 0,
            flaps: 1,
        };
        assert_eq!(
            bfd(&status),
            "Down for 3s, sends every 1000 ms, the neighbour is not heard: control detection time expired after 150 ms"
        );
        status.remote_state = Some(State::AdminDown);
        status.reason = None;
        assert_eq!(bfd(&status), "Down for 3s, sends every 1000 ms, the neighbour says AdminDown");
    }

    #[test]
    fn an_empty_table_is_said() {
        assert_eq!(render_routes(&[]), "none\n");
        let destination = Destination { prefix: "10.1.0.0/16".parse().unwrap(), paths: Vec::new() };
        assert!(render_why(&destination).starts_with("10.1.0.0/16: nobody announces it"));
    }
}
