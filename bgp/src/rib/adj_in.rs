//! What a peer's announcement is before the decision: usable or refused, as it came or as the import policy
//! changes it. Refused paths are held, and so is what came, so that a new policy needs no word from the peer.

use std::borrow::Cow;
use std::sync::Arc;

use super::path::{Interner, Path, PeerId, Received, Refusal, Standing};
use super::peers::Peers;
use super::policy::{Applied, Policy};
use super::{PeerFacts, martian, policy};
use crate::types::{Asn, Family, Prefix};
use crate::wire::{Community, NextHop, Nlri};

/// Judges what one peer said.
pub(super) struct Judge<'a> {
    peer: PeerId,
    facts: &'a PeerFacts,
    peers: &'a Peers,
    interner: &'a mut Interner,
    /// The import policy says the same of every route.
    uniform: bool,
    last: Option<Last>,
}

/// The announcement judged last: most often the next prefix is of the same, and the same becomes of it.
struct Last {
    received: Received,
    /// What is true of it whatever its prefixes are.
    loops: Option<Refusal>,
    made: Option<(Judged, Standing, Arc<Path>)>,
    /// What a uniform policy says of it.
    verdict: Option<Judged>,
}

type Judged = Result<Applied, Refusal>;

impl<'a> Judge<'a> {
    /// None for a peer that is not up.
    pub(super) fn new(peer: PeerId, peers: &'a Peers, interner: &'a mut Interner) -> Option<Self> {
        let facts = peers.facts.get(&peer)?;
        let uniform = facts.import.as_ref().is_none_or(Policy::is_uniform);
        Some(Self { peer, facts, peers, interner, uniform, last: None })
    }

    pub(super) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(super) fn peers(&self) -> &'a Peers {
        self.peers
    }

    /// Those spoken with the peer.
    pub(super) fn families(&self) -> &'a [Family] {
        &self.facts.session.families
    }

    /// The path to `prefix` that `received` is.
    pub(super) fn path(&mut self, received: &Received, nlri: Nlri, standing: Standing) -> Arc<Path> {
        let Nlri { prefix, path_id } = nlri;
        let (facts, peers) = (self.facts, self.peers);
        let last = match &mut self.last {
            Some(last) if last.received.is(received) => last,
            last => last.insert(Last {
                received: received.clone(),
                loops: loops(received, facts, peers),
                verdict: self.uniform.then(|| policy::import(facts, received, prefix)),
                made: None,
            }),
        };
        let judged = match (last.loops.or_else(|| martian::refusal(prefix, facts)), &last.verdict) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(verdict)) => verdict.clone(),
            (None, None) => policy::import(facts, received, prefix),
        };
        if let Some((before, stood, path)) = &last.made
            && (before, *stood, path.path_id) == (&judged, standing, path_id)
        {
            return path.clone();
        }
        let made = made(self.peer, facts, peers, received, &judged, prefix, standing);
        let made = made.with_next_hop(peers.unreached(&made)).unwrap_or(made);
        let path = self.interner.intern(Path { path_id, ..made });
        last.made = Some((judged, standing, path.clone()));
        path
    }
}

/// What becomes of an announcement, its path identifier apart.
fn made(
    peer: PeerId,
    facts: &PeerFacts,
    peers: &Peers,
    received: &Received,
    judged: &Judged,
    prefix: Prefix,
    standing: Standing,
) -> Path {
    let Received { attributes, next_hop } = received.clone();
    let on_link = on_link(next_hop, facts);
    let path = Path {
        attributes,
        next_hop: on_link.unwrap_or(next_hop),
        source: Some(peer),
        path_id: 0,
        refusal: None,
        generation: standing.generation,
        received: on_link.map(|_| Arc::new(received.clone())),
    };
    let applied = match judged {
        Ok(applied) => applied,
        Err(refusal) => return Path { refusal: Some(*refusal), ..path },
    };
    let mut attributes = Cow::Borrowed(&*received.attributes);
    let mut next_hop = path.next_hop;
    if let Some(policy) = facts.import.as_ref().filter(|_| !applied.is_empty()) {
        let wanted = policy.apply(applied, prefix.family(), peers.asn, attributes.to_mut());
        next_hop = wanted.map_or(next_hop, Into::into);
    }
    if standing.long_lived && attributes.has(Community::NO_LLGR) {
        return Path { refusal: Some(Refusal::NoLlgr), ..path };
    }
    // RFC 9494, section 4.3: whatever a policy says, it is not taken away.
    let last_resort = standing.long_lived || received.attributes.has(Community::LLGR_STALE);
    if last_resort && !attributes.has(Community::LLGR_STALE) {
        attributes.to_mut().add(Community::LLGR_STALE);
    }
    let leaves =
        facts.session.ebgp && facts.graceful_shutdown && attributes.has(Community::GRACEFUL_SHUTDOWN);
    if (leaves || facts.drain.avoided) && attributes.local_pref != Some(0) {
        attributes.to_mut().local_pref = Some(0);
    }
    match attributes {
        Cow::Borrowed(_) => path,
        Cow::Owned(attributes) => {
            let received = Some(Arc::new(received.clone()));
            Path { attributes: Arc::new(attributes), next_hop, received, ..path }
        }
    }
}

/// A peer that is known by its link alone is reached by its link-local address, whatever global one it tells beside.
fn on_link(next_hop: NextHop, facts: &PeerFacts) -> Option<NextHop> {
    match next_hop {
        NextHop::V6 { link_local: Some(global), .. } if facts.zone.is_some() => {
            Some(NextHop::V6 { global, link_local: None })
        }
        _ => None,
    }
}

fn loops(received: &Received, facts: &PeerFacts, peers: &Peers) -> Option<Refusal> {
    let attributes = &received.attributes;
    let own = |asn: Asn| asn == peers.asn || asn == facts.local_asn;
    if attributes.as_path.count(own) > usize::from(facts.allow_own_as) {
        Some(Refusal::AsLoop)
    } else if attributes.originator_id == Some(peers.router_id) {
        Some(Refusal::OriginatorLoop)
    } else if attributes.cluster_list.contains(&peers.cluster_id.0) {
        Some(Refusal::ClusterLoop)
    } else if facts.next_hops.contains(&received.next_hop.addr()) {
        Some(Refusal::OwnNextHop)
    } else {
        None
    }
}
