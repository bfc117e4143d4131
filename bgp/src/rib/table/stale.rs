//! What a peer that restarts has said: kept as stale, told anew, or swept (RFC 4724, RFC 9494).

use super::Table;
use crate::rib::destination::Steps;
use crate::rib::net::Net;
use crate::rib::path::{Interner, Path, PeerId, Standing};
use crate::rib::peers::Peers;

impl<K: Net> Table<K> {
    /// Of what the peer says now.
    pub(in crate::rib) fn standing(&self, peer: PeerId) -> Standing {
        let generation = self.followers.peers.get(&peer).map(|table| table.generation).unwrap_or_default();
        Standing { generation, long_lived: false }
    }

    /// All the peer has said becomes stale. What was stale before is to be swept or made fresh first.
    pub(in crate::rib) fn mark_stale(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer)
            && table.stale == 0
        {
            table.generation = table.generation.next();
            table.stale = table.received;
        }
    }

    /// What is stale counts as said just now.
    pub(in crate::rib) fn freshen(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        if self.has_stale(peer) {
            let standing = self.standing(peer);
            self.judge(peer, peers, interner, |_| standing);
            self.settle(peer);
        }
    }

    /// What is stale is the last resort from now on.
    pub(in crate::rib) fn live_long(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        if self.has_stale(peer) {
            if let Some(table) = self.followers.peers.get_mut(&peer) {
                table.long_lived = true;
            }
            self.judge_again(peer, peers, interner);
        }
    }

    fn has_stale(&self, peer: PeerId) -> bool {
        self.followers.peers.get(&peer).is_some_and(|table| table.stale > 0)
    }

    /// Nothing is stale any more.
    fn settle(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer) {
            table.long_lived = false;
        }
    }

    /// What is stale goes.
    pub(in crate::rib) fn sweep(&mut self, peer: PeerId, peers: &Peers) {
        if !self.has_stale(peer) {
            return;
        }
        let generation = self.standing(peer).generation;
        let stale = |path: &Path| path.source == Some(peer) && path.generation != generation;
        let mut steps = Steps::default();
        for (slot, destination) in self.destinations.iter_mut() {
            let before = destination.paths().all().iter().filter(|path| stale(path));
            if self.followers.uncount(peer, before) {
                let step = steps.step(destination.paths(), |paths| paths.without(stale, peers));
                self.followers.follow(slot, destination, peers, step);
            }
        }
        self.settle(peer);
    }

    pub(in crate::rib) fn is_stale(&self, path: &Path) -> bool {
        path.source.is_some_and(|source| self.standing(source).generation != path.generation)
    }
}
