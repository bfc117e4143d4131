//! What a peer's announcement is before the decision: usable or refused, as it came or as the import policy
//! changes it. Refused paths are held, and so is what came, so that a new policy needs no word from the peer.

use std::sync::Arc;

use super::path::{Generation, Interner, Path, PeerId, Received, Refusal};
use super::peers::Peers;
use super::policy::Applied;
use super::{PeerFacts, martian, policy};
use crate::types::{Asn, Family, Prefix};
use crate::wire::Nlri;

/// Judges what one peer said.
pub(super) struct Judge<'a> {
    peer: PeerId,
    facts: &'a PeerFacts,
    peers: &'a Peers,
    interner: &'a mut Interner,
    last: Option<Last>,
}

/// The announcement judged last: most often the next prefix is of the same, and the same becomes of it.
struct Last {
    received: Received,
    /// What is true of it whatever its prefixes are.
    loops: Option<Refusal>,
    made: Option<(Judged, Arc<Path>)>,
}

type Judged = Result<Applied, Refusal>;

impl<'a> Judge<'a> {
    /// None for a peer that is not up.
    pub(super) fn new(peer: PeerId, peers: &'a Peers, interner: &'a mut Interner) -> Option<Self> {
        let facts = peers.facts.get(&peer)?;
        Some(Self { peer, facts, peers, interner, last: None })
    }

    /// Those spoken with the peer.
    pub(super) fn families(&self) -> &'a [Family] {
        &self.facts.session.families
    }

    /// The path to `prefix` that `received` is.
    pub(super) fn path(&mut self, received: &Received, nlri: Nlri, generation: Generation) -> Arc<Path> {
        let Nlri { prefix, path_id } = nlri;
        let (facts, peers) = (self.facts, self.peers);
        let mut last = self.last.take().filter(|last| last.received.is(received)).unwrap_or_else(|| {
            let loops = loops(received, facts, peers);
            Last { received: received.clone(), loops, made: None }
        });
        let judged = match last.loops {
            Some(refusal) => Err(refusal),
            None => {
                martian::refusal(prefix, facts).map_or_else(|| policy::import(facts, received, prefix), Err)
            }
        };
        let same = |(before, path): &(Judged, Arc<Path>)| {
            *before == judged && path.generation == generation && path.path_id == path_id
        };
        let made = last.made.take().filter(same).unwrap_or_else(|| {
            let made = made(self.peer, facts, peers, received, &judged, prefix);
            let path = self.interner.intern(Path { generation, path_id, ..made });
            (judged, path)
        });
        let path = made.1.clone();
        last.made = Some(made);
        self.last = Some(last);
        path
    }
}

/// What becomes of an announcement, its generation and path identifier apart.
fn made(
    peer: PeerId,
    facts: &PeerFacts,
    peers: &Peers,
    received: &Received,
    judged: &Judged,
    prefix: Prefix,
) -> Path {
    let Received { attributes, next_hop } = received.clone();
    let path = Path {
        attributes,
        next_hop,
        source: Some(peer),
        path_id: 0,
        refusal: None,
        generation: Generation::default(),
        received: None,
    };
    match judged {
        Err(refusal) => Path { refusal: Some(*refusal), ..path },
        Ok(applied) if applied.is_empty() => path,
        Ok(applied) => {
            let mut attributes = (*path.attributes).clone();
            let next_hop = (facts.import.as_ref())
                .and_then(|policy| policy.apply(applied, prefix.family(), peers.asn, &mut attributes))
                .map_or(path.next_hop, Into::into);
            let received = Some(Arc::new(received.clone()));
            Path { attributes: Arc::new(attributes), next_hop, received, ..path }
        }
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
