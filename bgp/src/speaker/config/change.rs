//! What differs between two wanted states, and what of it asks for a new session.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Aggregate, Config, GracefulRestart, MaxPrefixes, PeerConfig, Range, RangeId};
use crate::types::ScopedAddr;

/// Whether the change needs a new session. Names, policies, limits, BFD and what is only of our own concern do not.
pub(in crate::speaker) fn needs_restart(old: &PeerConfig, new: &PeerConfig) -> bool {
    let session = |peer: &PeerConfig| PeerConfig {
        name: String::new(),
        import: None,
        export: None,
        bfd: None,
        max_prefixes: MaxPrefixes::default(),
        graceful_shutdown: true,
        graceful_restart: GracefulRestart { long_lived_limit: None, ..peer.graceful_restart },
        ..peer.clone()
    };
    session(old) != session(new)
}

/// What differs, a line each; nothing when nothing does.
pub(in crate::speaker) fn describe(old: Option<&Config>, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    match old {
        Some(old) if (old.asn, old.router_id) == (new.asn, new.router_id) => {}
        Some(old) => changes.push(format!(
            "now {} with identifier {}, was {} with {}: all sessions restart",
            new.asn, new.router_id, old.asn, old.router_id
        )),
        None => changes.push(format!("{} with identifier {}", new.asn, new.router_id)),
    }
    if let Some(old) = old
        && old.cluster_id != new.cluster_id
    {
        changes.push(format!("cluster id {}, was {}", new.cluster(), old.cluster()));
    }
    let aggregates = |config: &Config| {
        let of = |one: &Aggregate| (one.prefix, (one.suppress, one.communities.clone()));
        config.aggregates.iter().map(of).collect()
    };
    differ(
        &old.map(aggregates).unwrap_or_default(),
        &aggregates(new),
        &mut changes,
        |prefix, _| format!("aggregate {prefix} announced while there is something in it"),
        |prefix| format!("aggregate {prefix} no longer announced"),
        |prefix, _, (suppress, communities)| {
            let parts = if *suppress { "hides" } else { "shows" };
            format!("aggregate {prefix} {parts} its parts, and has communities [{}]", communities.join(" "))
        },
    );
    if old.is_some_and(|old| old.decision != new.decision) {
        changes.push("paths are compared by other rules".to_owned());
    }
    if old.and_then(|old| old.underlay.as_ref()) != new.underlay.as_ref() {
        changes.push(match &new.underlay {
            Some(ways) => format!("next hops are reached by {} ways", ways.len()),
            None => "every next hop counts as reached".to_owned(),
        });
    }
    let set = |config: &Config| config.listen.iter().copied().collect::<BTreeSet<_>>();
    differ(
        &old.map(|old| set(old).into_iter().map(|address| (address, ())).collect()).unwrap_or_default(),
        &set(new).into_iter().map(|address| (address, ())).collect(),
        &mut changes,
        |address, ()| format!("listening on {address}"),
        |address| format!("no longer listening on {address}"),
        |_, (), ()| String::new(),
    );
    let peers = |config: &Config| config.peers.iter().map(|peer| (peer.scoped(), peer.clone())).collect();
    differ(
        &old.map(peers).unwrap_or_default(),
        &peers(new),
        &mut changes,
        |_, peer| format!("peer {} added", title(peer)),
        |address| format!("peer {address} removed"),
        describe_peer,
    );
    let ranges = |config: &Config| config.ranges.iter().map(|range| (range.id(), range.clone())).collect();
    differ(
        &old.map(ranges).unwrap_or_default(),
        &ranges(new),
        &mut changes,
        |id, _| format!("range {id} added"),
        |id| format!("range {id} removed, and its neighbours"),
        describe_range,
    );
    let networks = |config: &Config| {
        config.networks.iter().map(|network| (network.prefix, network.communities.clone())).collect()
    };
    differ(
        &old.map(networks).unwrap_or_default(),
        &networks(new),
        &mut changes,
        |prefix, _| format!("network {prefix} announced"),
        |prefix| format!("network {prefix} withdrawn"),
        |prefix, _, communities| format!("network {prefix} now has communities [{}]", communities.join(" ")),
    );
    changes
}

fn describe_range(id: &RangeId, old: &Range, new: &Range) -> String {
    let others = |range: &Range| Range { limit: 0, settings: PeerConfig::default(), ..range.clone() };
    if others(old) == others(new) && !needs_restart(&old.settings, &new.settings) {
        format!("range {id}: limits, policies or BFD settings changed")
    } else {
        format!("range {id}: settings changed, its neighbours begin anew")
    }
}

fn describe_peer(_: &ScopedAddr, old: &PeerConfig, new: &PeerConfig) -> String {
    let mut what = Vec::new();
    if old.name != new.name {
        what.push(format!("renamed from \"{}\"", old.name));
    }
    if old.import != new.import {
        what.push("import policy changed".to_owned());
    }
    if old.export != new.export {
        what.push("export policy changed".to_owned());
    }
    if old.max_prefixes != new.max_prefixes {
        what.push("limits changed".to_owned());
    }
    if old.bfd != new.bfd {
        what.push("BFD settings changed".to_owned());
    }
    if old.graceful_shutdown != new.graceful_shutdown {
        let words = if new.graceful_shutdown { "honoured" } else { "not honoured" };
        what.push(format!("GRACEFUL_SHUTDOWN {words}"));
    }
    if old.graceful_restart.long_lived_limit != new.graceful_restart.long_lived_limit {
        what.push("longLivedLimit changed".to_owned());
    }
    if needs_restart(old, new) {
        what.push("session settings changed, it restarts".to_owned());
    }
    format!("peer {}: {}", title(new), what.join(", "))
}

/// `node2 (10.0.0.2, AS64512)`.
pub(in crate::speaker) fn title(peer: &PeerConfig) -> String {
    if peer.name.is_empty() {
        format!("{} ({})", peer.scoped(), peer.asn)
    } else {
        format!("{} ({}, {})", peer.name, peer.scoped(), peer.asn)
    }
}

fn differ<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    changes: &mut Vec<String>,
    added: impl Fn(&K, &V) -> String,
    removed: impl Fn(&K) -> String,
    changed: impl Fn(&K, &V, &V) -> String,
) {
    changes.extend(old.keys().filter(|key| !new.contains_key(key)).map(removed));
    for (key, value) in new {
        match old.get(key) {
            None => changes.push(added(key, value)),
            Some(before) if before != value => changes.push(changed(key, before, value)),
            Some(_) => {}
        }
    }
}
