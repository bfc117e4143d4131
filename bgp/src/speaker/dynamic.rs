//! Neighbours by range: who may have a session, what it is, and when one is gone.

use std::collections::BTreeMap;
use std::time::Instant;

use super::config::needs_restart;
use super::listen::Caller;
use super::neighbour::{Neighbour, Table, Us};
use super::task::Speaker;
use crate::api::{Config, PeerConfig, Range, RangeId, RangeStatus};
use crate::fsm::Event;
use crate::fsm::restart::Start;
use crate::rib::Rib;
use crate::types::{Asn, Prefix, ScopedAddr, is_link_local};
use crate::wire::Notification;

/// The longest range a caller is in.
pub(super) fn find(ranges: &[Range], from: ScopedAddr) -> Option<&Range> {
    let host = Prefix::host(from.addr);
    let here = |range: &&Range| !is_link_local(from.addr) || range.settings.interface == from.zone;
    ranges
        .iter()
        .filter(|range| range.prefix.covers(host))
        .filter(here)
        .max_by_key(|range| range.prefix.length())
}

/// What is said of a neighbour that called from there. Its AS is known once it has said it, if not before.
fn peer(range: &Range, from: ScopedAddr) -> PeerConfig {
    let only = match range.asns[..] {
        [asns] => asns.single(),
        _ => None,
    };
    PeerConfig { address: from.addr, asn: only.unwrap_or(Asn(0)), passive: true, ..range.settings.clone() }
}

/// How many each range has, in order.
pub(super) fn status(
    ranges: &[Range],
    neighbours: &BTreeMap<ScopedAddr, Neighbour>,
    crowded: &BTreeMap<RangeId, u64>,
) -> Vec<RangeStatus> {
    let mut all: Vec<_> = ranges
        .iter()
        .map(|range| RangeStatus {
            prefix: range.prefix,
            interface: range.settings.interface,
            name: range.settings.name.clone(),
            sessions: count(neighbours, range.id()),
            limit: range.limit,
            refused: crowded.get(&range.id()).copied().unwrap_or(0),
        })
        .collect();
    all.sort_by_key(|range| (range.prefix, range.interface));
    all
}

fn count(neighbours: &BTreeMap<ScopedAddr, Neighbour>, id: RangeId) -> u32 {
    neighbours.values().filter(|neighbour| neighbour.range == Some(id)).count() as u32
}

impl Speaker {
    /// Makes a neighbour of a caller that is none yet, if a range has room for it; gives back the call of one that is
    /// to be refused as a stranger.
    pub(super) fn welcome(&mut self, caller: Caller, now: Instant) -> Option<Caller> {
        let (id, from) = (self.new_peer(), caller.from);
        let Some(orders) = &mut self.orders else { return Some(caller) };
        let Some(range) = find(&orders.config.ranges, from) else { return Some(caller) };
        let key = range.id();
        if count(&self.neighbours, key) >= range.limit {
            let refused = self.crowded.entry(key).or_default();
            *refused += 1;
            if refused.is_power_of_two() {
                tracing::warn!(%from, range = %key, limit = range.limit, count = *refused, "refused a connection: the range is full");
            }
            self.io.refuse(caller.stream, Notification::out_of_resources());
            return None;
        }
        let start = match orders.table {
            _ if self.cold => Start::Cold,
            Table::Restarting => Start::Restarted,
            Table::Complete => Start::Over,
        };
        let us = Us { asn: orders.config.asn, router_id: orders.config.router_id, start };
        let mut neighbour = Neighbour::new(peer(range, from), range.asns.clone(), id, us, now);
        neighbour.range = Some(key);
        let watched = neighbour.config.bfd.is_some();
        neighbour.begin(self.drains.stage(from), &mut self.io, &mut orders.rib, now);
        self.neighbours.insert(from, neighbour);
        self.handle(from, Event::Incoming, Some(caller), now);
        if watched {
            self.watch_ways();
        }
        None
    }

    /// Forgets dynamic neighbours of which nothing is left: no connection, and no routes that wait for them.
    pub(super) fn drop_parted(&mut self) {
        let Some(orders) = &mut self.orders else { return };
        let mut watched = false;
        self.neighbours.retain(|_, neighbour| {
            let parted = neighbour.range.is_some() && neighbour.has_parted();
            if parted {
                orders.rib.peer_down(neighbour.id);
                watched |= neighbour.config.bfd.is_some();
            }
            !parted
        });
        if watched {
            self.watch_ways();
        }
    }

    /// Dynamic neighbours stay where their range does and asks for no new session.
    pub(super) fn apply_ranges(&mut self, config: &Config, rib: &mut Rib, now: Instant) {
        let io = &mut self.io;
        self.neighbours.retain(|from, neighbour| {
            let Some(id) = neighbour.range else { return true };
            let range = find(&config.ranges, *from).filter(|range| range.id() == id);
            if let Some(range) = range.filter(|range| range.asns == neighbour.asns) {
                let wanted = PeerConfig { asn: neighbour.config.asn, ..peer(range, *from) };
                if !needs_restart(&neighbour.config, &wanted) {
                    neighbour.set_policy(wanted, io, rib, now);
                    return true;
                }
            }
            let cease = match range {
                Some(_) => Notification::other_configuration_change(),
                None => Notification::peer_deconfigured(),
            };
            neighbour.end(cease, io, rib, now);
            false
        });
        self.crowded.retain(|id, _| config.ranges.iter().any(|range| range.id() == *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: &str, interface: Option<&str>) -> Range {
        let mut range = Range::new(prefix.parse().unwrap(), vec![Asn(65001).into()]);
        range.settings.interface = interface.map(|name| name.parse().unwrap());
        range
    }

    #[test]
    fn the_longest_range_counts_and_a_link_local_caller_needs_its_own_interface() {
        let ranges = [
            range("10.0.0.0/8", None),
            range("10.1.0.0/16", None),
            range("fe80::/10", Some("eth1")),
            range("fe80::/10", Some("eth2")),
        ];
        let found = |from: &str| find(&ranges, from.parse().unwrap()).map(|range| range.id().to_string());
        assert_eq!(found("10.1.2.3").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(found("10.2.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(found("11.0.0.1"), None);
        assert_eq!(found("fe80::1%eth2").as_deref(), Some("fe80::/10 on eth2"));
        assert_eq!(found("fe80::1%eth3"), None);
    }

    #[test]
    fn a_caller_is_what_its_range_says_of_all() {
        let mut range = range("10.0.0.0/8", None);
        range.settings.hold_time = 9;
        let from = "10.0.0.7".parse().unwrap();
        let made = peer(&range, from);
        assert_eq!((made.scoped(), made.asn, made.passive, made.hold_time), (from, Asn(65001), true, 9));
        range.asns.push("65100-65200".parse().unwrap());
        assert_eq!(peer(&range, from).asn, Asn(0), "it has not told yet");
    }
}
