//! The tables as people are shown them.

use super::group::Said;
use super::path::Path;
use super::{PeerFacts, PeerId, Rib, decision};
use crate::api::{Destination, PathInfo};
use crate::types::{Family, Prefix, ScopedAddr};
use crate::wire::{Attributes, NextHop};

impl Rib {
    /// Candidates and verdicts of one destination, or of all in order of prefix.
    #[must_use]
    pub fn destinations(&self, prefix: Option<Prefix>) -> Vec<Destination> {
        self.candidates(prefix, |_| true)
    }

    /// Prefixes of one family held from a peer, whatever became of them.
    #[must_use]
    pub fn held(&self, peer: PeerId, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.tables.ipv4.held(peer),
            Family::Ipv6 => self.tables.ipv6.held(peer),
        }
    }

    /// The Adj-RIB-In: what a peer said, refused or not, each with what became of it; in order of prefix.
    #[must_use]
    pub fn received(&self, peer: PeerId, prefix: Option<Prefix>) -> Vec<Destination> {
        self.candidates(prefix, |path| path.source == Some(peer))
    }

    /// The Adj-RIB-Out: what a peer was told, as it was told; in order of prefix. What it is being told again
    /// is not in it.
    #[must_use]
    pub fn advertised(&self, peer: PeerId, prefix: Option<Prefix>) -> Vec<Destination> {
        let Some(facts) = self.peers.facts.get(&peer) else { return Vec::new() };
        let ipv4 = self.tables.ipv4.told(peer, prefix, &self.peers, &self.interner);
        let ipv6 = self.tables.ipv6.told(peer, prefix, &self.peers, &self.interner);
        let mut destinations: Vec<Destination> = Vec::new();
        for (prefix, Said { attributes, next_hop, path_id }) in ipv4.into_iter().chain(ipv6) {
            let told = describe(&attributes, next_hop, Some(facts), "advertised".to_owned(), None);
            let path = PathInfo { path_id, ..told };
            match destinations.last_mut().filter(|last| last.prefix == prefix) {
                Some(last) => last.paths.push(path),
                None => destinations.push(Destination { prefix, paths: vec![path] }),
            }
        }
        destinations
    }

    /// Destinations with the paths that are asked for, where there is one; ranked among all.
    fn candidates(&self, prefix: Option<Prefix>, wanted: impl Fn(&Path) -> bool) -> Vec<Destination> {
        let found =
            self.tables.ipv4.destinations(prefix).into_iter().chain(self.tables.ipv6.destinations(prefix));
        found
            .filter(|(_, paths)| paths.all().iter().any(|path| wanted(path)))
            .map(|(prefix, paths)| {
                let verdicts = paths.verdicts(&self.peers).into_iter();
                let paths = verdicts
                    .filter(|(path, ..)| wanted(path))
                    .map(|(path, verdict, step)| {
                        let source = self.peers.source(path);
                        let told = describe(&path.attributes, path.next_hop, source, verdict, step);
                        let family = prefix.family();
                        let numbered = source.is_some_and(|source| source.session.receives_path_ids(family));
                        let path_id = numbered.then_some(path.path_id);
                        PathInfo { stale: self.tables.is_stale(path, family), path_id, ..told }
                    })
                    .collect();
                Destination { prefix, paths }
            })
            .collect()
    }
}

fn describe(
    attributes: &Attributes,
    next_hop: NextHop,
    source: Option<&PeerFacts>,
    verdict: String,
    step: Option<u8>,
) -> PathInfo {
    PathInfo {
        peer: source.map(PeerFacts::scoped),
        peer_name: source.map(|facts| facts.name.clone()).unwrap_or_default(),
        next_hop: source.map(|facts| ScopedAddr::new(next_hop.addr(), facts.zone)),
        as_path: attributes.as_path.to_string(),
        local_pref: attributes.local_pref.unwrap_or(decision::DEFAULT_LOCAL_PREF),
        origin: attributes.origin.to_string(),
        med: attributes.med,
        communities: communities(attributes),
        path_id: None,
        originator_id: attributes.originator_id,
        cluster_list: attributes.cluster_list.clone(),
        stale: false,
        verdict,
        step,
    }
}

/// Of all kinds, as people write them.
fn communities(attributes: &Attributes) -> Vec<String> {
    let standard = attributes.communities.iter().map(ToString::to_string);
    let extended = attributes.ext_communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    standard.chain(extended).chain(large).collect()
}
