//! `manxctl bgp`: asks this node's speaker.

use std::path::Path;

use manx_bgp::api::{Destination, PathInfo, Session, SessionState, Status};
use manx_bgp::types::Prefix;
use manx_felix::speaker;

use crate::table::{age, list, or_dash, table};

/// What the speaker is doing.
pub async fn peers(socket: &Path) -> anyhow::Result<Status> {
    Ok(speaker::status(socket).await?)
}

/// The speaker's table, or one destination of it.
pub async fn routes(socket: &Path, prefix: Option<Prefix>) -> anyhow::Result<Vec<Destination>> {
    Ok(speaker::routes(socket, prefix).await?)
}

/// The sessions under a line about the speaker.
pub fn render_peers(status: &Status) -> String {
    let asn = status.asn.map_or_else(|| "no orders yet".to_owned(), |asn| asn.to_string());
    let router_id = or_dash(status.router_id.map(|id| id.to_string()));
    let originated = list(&status.originated);
    let sessions = sessions(&status.sessions);
    format!("{}, {asn}, router id {router_id}, announces {originated}\n\n{sessions}", status.daemon)
}

/// One line a session.
pub fn sessions(sessions: &[Session]) -> String {
    table(
        ["NEIGHBOUR", "NAME", "AS", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "ADVERTISED", "REASON"],
        sessions.iter().map(|session| {
            // The reason a session that is up once went down is history.
            let reason = session.reason.clone().filter(|_| session.state != SessionState::Established);
            [
                session.address.to_string(),
                or_dash(session.name.clone()),
                session.asn.0.to_string(),
                session.state.to_string(),
                age(session.since_seconds),
                session.received.to_string(),
                session.accepted.to_string(),
                session.advertised.to_string(),
                or_dash(reason),
            ]
        }),
    )
}

/// One line a path; the destination on the first of its.
pub fn render_routes(destinations: &[Destination]) -> String {
    let path = |destination: String, path: &PathInfo| {
        let from = match (path.peer, path.peer_name.as_str()) {
            (None, _) => "this node".to_owned(),
            (Some(address), "") => address.to_string(),
            (Some(_), name) => name.to_owned(),
        };
        [
            destination,
            or_dash(path.next_hop.map(|next_hop| next_hop.to_string())),
            from,
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
    use manx_bgp::types::{Asn, Family, RouterId};

    use super::*;

    pub fn session(address: &str, name: &str, state: SessionState, reason: Option<&str>) -> Session {
        Session {
            address: address.parse().unwrap(),
            name: name.to_owned(),
            asn: Asn(65001),
            state,
            since_seconds: 150,
            reason: reason.map(str::to_owned),
            router_id: Some(RouterId([10, 0, 0, 1].into())),
            hold_time: Some(90),
            families: Family::ALL.to_vec(),
            received: 3,
            accepted: 2,
            advertised: 1,
            messages_in: 10,
            messages_out: 11,
            flaps: 0,
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
            originated: vec!["10.244.3.64/26".parse().unwrap()],
            destinations: 4,
            synced: true,
        };
        insta::assert_snapshot!(render_peers(&status));
    }

    #[test]
    fn routes_show_every_path_and_why_it_lost() {
        let path = |peer: Option<&str>, name: &str, verdict: &str| PathInfo {
            peer: peer.map(|peer| peer.parse().unwrap()),
            peer_name: name.to_owned(),
            next_hop: peer.map(|peer| peer.parse().unwrap()),
            as_path: if peer.is_some() { "65001 64513".to_owned() } else { String::new() },
            local_pref: 100,
            med: None,
            communities: if name.is_empty() {
                Vec::new()
            } else {
                vec!["64512:1".to_owned(), "64512:2".to_owned()]
            },
            verdict: verdict.to_owned(),
        };
        let destinations = [
            Destination {
                prefix: "10.1.0.0/16".parse().unwrap(),
                paths: vec![
                    path(Some("10.0.0.1"), "tor1", "best"),
                    path(Some("10.0.0.2"), "", "longer AS path"),
                ],
            },
            Destination { prefix: "10.244.3.64/26".parse().unwrap(), paths: vec![path(None, "", "best")] },
        ];
        insta::assert_snapshot!(render_routes(&destinations));
    }

    #[test]
    fn an_empty_table_is_said() {
        assert_eq!(render_routes(&[]), "none\n");
    }
}
