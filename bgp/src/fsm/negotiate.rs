//! What we say in our OPEN, and what both OPENs together mean.

use std::time::Duration;

use super::restart;
use crate::api::AsnRange;
use crate::types::{Asn, Family, RouterId};
use crate::wire::{AddPath, Capability, Notification, Open, SendReceive, Session};

/// How long a neighbour may take nothing at least, where nothing else is set (RFC 9687, section 6).
pub(crate) const SEND_HOLD_TIME: Duration = Duration::from_secs(480);

/// What we bring to a session with one neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// The ASes the neighbour may claim.
    pub peer_asns: Vec<AsnRange>,
    /// Families offered.
    pub families: Vec<Family>,
    /// Hold time offered, in seconds: 0 or at least 3.
    pub hold_time: u16,
    /// Seconds between two KEEPALIVEs, if not a third of the hold time.
    pub keepalive: Option<u16>,
    /// Seconds the neighbour may take nothing, if not what RFC 9687 recommends.
    pub send_hold_time: Option<u16>,
    /// Upper bound of the waits between two tries, before jitter.
    pub connect_retry: Duration,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Offer several paths to a destination (RFC 7911), for every family.
    pub add_path: Option<SendReceive>,
    /// Never call, only be called.
    pub passive: bool,
    /// What signs segments, so that a neighbour with another hears nothing and says nothing.
    pub authentication: Authentication,
    /// What is offered of graceful restart.
    pub restart: restart::Offer,
}

/// How segments are authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// They are not.
    #[default]
    None,
    /// TCP MD5 signatures (RFC 2385).
    Password,
    /// TCP-AO (RFC 5925).
    TcpAo,
}

/// What both OPENs together mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// How later messages are read and written.
    pub session: Session,
    /// The smaller of both offers, in seconds; 0: no KEEPALIVEs and no hold timer.
    pub hold_time: u16,
    /// Between two KEEPALIVEs, before jitter: at most a third of the hold time (RFC 4271, section 4.4); none: none are sent.
    pub keepalive: Option<Duration>,
    /// How long the neighbour may take not one octet of what it is sent (RFC 9687).
    pub send_hold_time: Duration,
    /// The neighbour's AS.
    pub asn: Asn,
    /// The neighbour's BGP Identifier.
    pub router_id: RouterId,
    /// Both take IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The neighbour answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Both say where a refresh begins and ends (RFC 7313).
    pub enhanced_refresh: bool,
    /// What the neighbour offers of graceful restart.
    pub restart: Option<restart::Theirs>,
}

/// An OPEN that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// What is sent.
    pub notification: Notification,
    /// In words.
    pub why: String,
}

impl Local {
    /// Our OPEN. The Multiprotocol capability is always there, also where only IPv4 is offered: BIRD
    /// takes an OPEN that has capabilities but not this one as one without IPv4.
    pub fn open(&self) -> Open {
        let mut capabilities: Vec<_> = self.families.iter().copied().map(Capability::Multiprotocol).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        if self.extended_next_hop && self.families.contains(&Family::Ipv4) {
            capabilities.push(Capability::ExtendedNextHop(vec![(Family::Ipv4, Family::Ipv6)]));
        }
        if let Some(direction) = self.add_path {
            let families = self.families.iter().map(|family| (*family, direction));
            capabilities.push(Capability::AddPath(families.collect()));
        }
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities.extend(self.restart.capabilities(&self.families));
        capabilities.push(Capability::FourOctetAs(self.asn));
        Open { asn: self.asn, hold_time: self.hold_time, router_id: self.router_id, capabilities }
    }

    /// Judges the neighbour's OPEN (RFC 4271, section 6.2; RFC 6286, section 2.2).
    ///
    /// # Errors
    /// The wrong AS (2/2), our own identifier from our own AS (2/3), or no family in common (2/7).
    pub fn negotiate(&self, theirs: &Open) -> Result<Negotiated, Refusal> {
        if !self.peer_asns.iter().any(|range| range.contains(theirs.asn)) {
            let expected: Vec<_> = self.peer_asns.iter().map(AsnRange::to_string).collect();
            let why = format!("peer says {}, we expect {}", theirs.asn, expected.join(" or "));
            return Err(Refusal { notification: Notification::bad_peer_as(), why });
        }
        let ebgp = theirs.asn != self.asn;
        if !ebgp && theirs.router_id == self.router_id {
            let why =
                format!("peer has our own BGP Identifier {}; each speaker needs its own", self.router_id);
            return Err(Refusal { notification: Notification::bad_bgp_identifier(), why });
        }
        let offered = offered_families(theirs);
        let families: Vec<_> =
            self.families.iter().copied().filter(|family| offered.contains(family)).collect();
        if families.is_empty() {
            let wanted: Vec<_> = self.families.iter().copied().map(Capability::Multiprotocol).collect();
            let why = format!("peer speaks {}, we offer {}", list(&offered), list(&self.families));
            return Err(Refusal { notification: Notification::unsupported_capability(&wanted), why });
        }
        let hold_time = self.hold_time.min(theirs.hold_time);
        let add_path = self.several_paths(&families, theirs);
        let has = |wanted: &dyn Fn(&Capability) -> bool| theirs.capabilities.iter().any(wanted);
        Ok(Negotiated {
            session: Session {
                asn4: has(&|capability| matches!(capability, Capability::FourOctetAs(_))),
                families,
                ebgp,
                // Needs both sides (RFC 8654, section 4), and we always offer it.
                extended: has(&|capability| *capability == Capability::ExtendedMessage),
                add_path,
            },
            hold_time,
            keepalive: self.keepalive(hold_time),
            send_hold_time: self.send_hold_time(hold_time),
            asn: theirs.asn,
            router_id: theirs.router_id,
            extended_next_hop: self.extended_next_hop
                && has(&|capability| match capability {
                    Capability::ExtendedNextHop(pairs) => pairs.contains(&(Family::Ipv4, Family::Ipv6)),
                    _ => false,
                }),
            route_refresh: has(&|capability| *capability == Capability::RouteRefresh),
            enhanced_refresh: has(&|capability| *capability == Capability::EnhancedRouteRefresh),
            restart: restart::Theirs::of(&theirs.capabilities),
        })
    }

    /// RFC 7911, section 4: of `families`, those one side gives several paths of and the other takes.
    fn several_paths(&self, families: &[Family], theirs: &Open) -> AddPath {
        let Some(ours) = self.add_path else { return AddPath::default() };
        let offered: Vec<_> = (theirs.capabilities.iter())
            .filter_map(|capability| match capability {
                Capability::AddPath(offered) => Some(offered),
                _ => None,
            })
            .flatten()
            .collect();
        let among = |wanted: &dyn Fn(SendReceive) -> bool| {
            let theirs =
                |family: &Family| offered.iter().any(|(other, does)| other == family && wanted(*does));
            families.iter().copied().filter(theirs).collect::<Vec<_>>()
        };
        AddPath {
            receive: among(&|theirs| ours.receives() && theirs.sends()),
            send: among(&|theirs| ours.sends() && theirs.receives()),
        }
    }
}

impl Local {
    fn keepalive(&self, hold_time: u16) -> Option<Duration> {
        let third = Duration::from_secs(hold_time.into()) / 3;
        let wanted = self.keepalive.map_or(third, |seconds| Duration::from_secs(seconds.into()));
        Some(wanted.min(third)).filter(|interval| !interval.is_zero())
    }

    /// RFC 9687, section 6, recommends the larger of eight minutes and twice the hold time.
    fn send_hold_time(&self, hold_time: u16) -> Duration {
        let recommended = SEND_HOLD_TIME.max(Duration::from_secs(hold_time.into()) * 2);
        self.send_hold_time.map_or(recommended, |seconds| Duration::from_secs(seconds.into()))
    }
}

/// A speaker without the Multiprotocol capability speaks IPv4 (RFC 4760, section 8).
fn offered_families(open: &Open) -> Vec<Family> {
    let mut multiprotocol = false;
    let mut families = Vec::new();
    for capability in &open.capabilities {
        match capability {
            Capability::Multiprotocol(family) => {
                multiprotocol = true;
                families.push(*family);
            }
            Capability::MultiprotocolOther { .. } => multiprotocol = true,
            _ => {}
        }
    }
    if multiprotocol { families } else { vec![Family::Ipv4] }
}

fn list(families: &[Family]) -> String {
    if families.is_empty() {
        return "other families".to_owned();
    }
    families.iter().map(Family::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(asn: u32, id: u8) -> Local {
        Local {
            asn: Asn(asn),
            router_id: RouterId([10, 0, 0, id].into()),
            peer_asns: vec![Asn(65001).into()],
            families: Family::ALL.to_vec(),
            hold_time: 90,
            keepalive: None,
            send_hold_time: None,
            connect_retry: Duration::from_secs(5),
            extended_next_hop: true,
            add_path: None,
            passive: false,
            authentication: Authentication::None,
            restart: restart::Offer {
                time: 120,
                long_lived: 0,
                forwarding: restart::Forwarding::Lost,
                start: restart::Start::Over,
            },
        }
    }

    #[test]
    fn rfc4760_a_session_is_what_both_sides_offer() {
        let ours = local(65000, 1);
        let theirs = Local { families: vec![Family::Ipv6], hold_time: 9, ..local(65001, 2) };
        let negotiated = ours.negotiate(&theirs.open()).unwrap();
        assert_eq!(negotiated.session.families, [Family::Ipv6]);
        assert_eq!(negotiated.hold_time, 9);
        assert_eq!(negotiated.router_id, theirs.router_id);
        assert!(negotiated.session.extended, "both offer long messages");
        assert!(negotiated.session.asn4 && negotiated.session.ebgp && negotiated.route_refresh);
    }

    #[test]
    fn rfc8950_ipv6_next_hops_for_ipv4_need_both_sides() {
        let ours = local(65000, 1);
        assert!(ours.negotiate(&local(65001, 2).open()).unwrap().extended_next_hop);
        let without = |asn, id| Local { extended_next_hop: false, ..local(asn, id) };
        assert!(!ours.negotiate(&without(65001, 2).open()).unwrap().extended_next_hop);
        assert!(!without(65000, 1).negotiate(&local(65001, 2).open()).unwrap().extended_next_hop);
    }

    #[test]
    fn rfc7911_several_paths_go_where_one_side_gives_and_the_other_takes() {
        let with = |direction, asn, id| Local { add_path: Some(direction), ..local(asn, id) };
        let agreed = |ours, theirs| {
            let negotiated = with(ours, 65000, 1).negotiate(&with(theirs, 65001, 2).open()).unwrap();
            let AddPath { receive, send } = negotiated.session.add_path;
            (!receive.is_empty(), !send.is_empty())
        };
        assert_eq!(agreed(SendReceive::Both, SendReceive::Both), (true, true));
        assert_eq!(agreed(SendReceive::Both, SendReceive::Send), (true, false));
        assert_eq!(agreed(SendReceive::Send, SendReceive::Both), (false, true));
        assert_eq!(agreed(SendReceive::Send, SendReceive::Send), (false, false));
        let without = with(SendReceive::Both, 65000, 1).negotiate(&local(65001, 2).open()).unwrap();
        assert_eq!(without.session.add_path, AddPath::default());
        let narrow = Local { families: vec![Family::Ipv6], ..with(SendReceive::Both, 65001, 2) };
        let negotiated = with(SendReceive::Both, 65000, 1).negotiate(&narrow.open()).unwrap();
        assert_eq!(negotiated.session.add_path.send, [Family::Ipv6]);
    }

    #[test]
    fn rfc4760_a_neighbour_without_capabilities_speaks_ipv4_with_two_octet_as_numbers() {
        let open = Open { capabilities: vec![], ..local(65001, 2).open() };
        let negotiated = local(65001, 1).negotiate(&open).unwrap();
        assert_eq!(negotiated.session.families, [Family::Ipv4]);
        assert!(!negotiated.session.extended);
        assert!(!negotiated.session.asn4 && !negotiated.session.ebgp && !negotiated.route_refresh);
    }

    #[test]
    fn the_wrong_as_is_told_in_words() {
        let refusal = local(65000, 1).negotiate(&local(65010, 2).open()).unwrap_err();
        assert_eq!(refusal.to_string(), "peer says AS65010, we expect AS65001");
        assert_eq!(refusal.notification, Notification::bad_peer_as());
    }

    #[test]
    fn rfc6286_our_own_identifier_is_refused_inside_our_as_only() {
        let refusal = local(65001, 1).negotiate(&local(65001, 1).open()).unwrap_err();
        assert_eq!(refusal.notification, Notification::bad_bgp_identifier());
        assert!(local(65000, 1).negotiate(&local(65001, 1).open()).is_ok());
    }

    #[test]
    fn rfc5492_no_family_in_common_names_what_we_want() {
        let ours = Local { families: vec![Family::Ipv6], ..local(65000, 1) };
        let theirs = Local { families: vec![Family::Ipv4], ..local(65001, 2) };
        let refusal = ours.negotiate(&theirs.open()).unwrap_err();
        let wanted = [Capability::Multiprotocol(Family::Ipv6)];
        assert_eq!(refusal.notification, Notification::unsupported_capability(&wanted));
        assert_eq!(refusal.to_string(), "peer speaks IPv4 unicast, we offer IPv6 unicast");
    }
}
