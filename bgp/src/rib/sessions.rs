//! Peers come and go, restart, and are judged by other policies.

use super::{Drain, PeerFacts, PeerId, Policy, Rib, Tables};
use crate::types::Family;

impl Rib {
    /// A session is established: everything it may hear becomes pending, End-of-RIB after it. What is
    /// held of the peer as stale stays so, as far as it is the same speaker and speaks the family. One that
    /// is up already is taken down first.
    pub fn peer_up(&mut self, peer: PeerId, facts: PeerFacts) {
        let same = self.peers.facts.get(&peer).is_some_and(|before| {
            (before.asn, before.router_id, before.scoped()) == (facts.asn, facts.router_id, facts.scoped())
        });
        if !same || self.tables.ipv4.hears(peer) || self.tables.ipv6.hears(peer) {
            self.peer_down(peer);
        }
        let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
        if !same {
            // Who has not yet heard that its paths are gone would take their like for them.
            ipv4.forget(peer);
            ipv6.forget(peer);
        }
        let spoken = facts.session.families.clone();
        if !spoken.contains(&Family::Ipv4) {
            ipv4.peer_down(peer, peers);
        }
        if !spoken.contains(&Family::Ipv6) {
            ipv6.peer_down(peer, peers);
        }
        facts.names_next_hops().for_each(|next_hop| peers.next_hops.track(next_hop));
        peers.facts.insert(peer, facts.clone());
        for family in spoken {
            match family {
                Family::Ipv4 => {
                    ipv4.peer_up(peer, &facts, peers);
                    ipv4.judge_again(peer, peers, interner);
                }
                Family::Ipv6 => {
                    ipv6.peer_up(peer, &facts, peers);
                    ipv6.judge_again(peer, peers, interner);
                }
            }
        }
    }

    /// A session is gone, but the peer will be back: what it said of `families` is used as before, and is
    /// stale; what was stale already goes, and what it said of other families (RFC 4724, section 4.2).
    /// Until [`Rib::peer_up`] nothing is told to it.
    pub fn peer_stale(&mut self, peer: PeerId, families: &[Family]) {
        let Self { peers, tables: Tables { ipv4, ipv6 }, .. } = self;
        if families.contains(&Family::Ipv4) {
            ipv4.silence(peer);
            ipv4.sweep(peer, peers);
            ipv4.mark_stale(peer);
        } else {
            ipv4.peer_down(peer, peers);
        }
        if families.contains(&Family::Ipv6) {
            ipv6.silence(peer);
            ipv6.sweep(peer, peers);
            ipv6.mark_stale(peer);
        } else {
            ipv6.peer_down(peer, peers);
        }
    }

    /// What is stale of a family counts as said just now: to be kept by the next [`Rib::peer_stale`].
    pub fn freshen(&mut self, peer: PeerId, family: Family) {
        let Self { peers, tables, interner, .. } = self;
        match family {
            Family::Ipv4 => tables.ipv4.freshen(peer, peers, interner),
            Family::Ipv6 => tables.ipv6.freshen(peer, peers, interner),
        }
    }

    /// The peer has been gone for longer than its restart time: what is stale of a family gets LLGR_STALE and is
    /// the last resort; what has NO_LLGR is not used any more (RFC 9494, section 4.2).
    pub fn live_long(&mut self, peer: PeerId, family: Family) {
        let Self { peers, tables, interner, .. } = self;
        match family {
            Family::Ipv4 => tables.ipv4.live_long(peer, peers, interner),
            Family::Ipv6 => tables.ipv6.live_long(peer, peers, interner),
        }
    }

    /// An established peer begins to say all of a family again (RFC 7313): what it does not say until
    /// [`Rib::sweep`] goes with it.
    pub fn refreshes(&mut self, peer: PeerId, family: Family) {
        self.freshen(peer, family);
        match family {
            Family::Ipv4 => self.tables.ipv4.mark_stale(peer),
            Family::Ipv6 => self.tables.ipv6.mark_stale(peer),
        }
    }

    /// What is still stale of a family goes: the peer has said all it has, or is waited for no longer.
    pub fn sweep(&mut self, peer: PeerId, family: Family) {
        match family {
            Family::Ipv4 => self.tables.ipv4.sweep(peer, &self.peers),
            Family::Ipv6 => self.tables.ipv6.sweep(peer, &self.peers),
        }
    }

    /// A session is gone, and all it said with it. Unknown peers are ignored.
    pub fn peer_down(&mut self, peer: PeerId) {
        self.tables.ipv4.peer_down(peer, &self.peers);
        self.tables.ipv6.peer_down(peer, &self.peers);
        self.peers.facts.remove(&peer);
    }

    /// Replaces an established peer's policies and applies them to all it said and heard, without asking it.
    pub fn set_policy(&mut self, peer: PeerId, import: Option<Policy>, export: Option<Policy>) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        let other_import = std::mem::replace(&mut facts.import, import) != facts.import;
        let other_export = std::mem::replace(&mut facts.export, export) != facts.export;
        let named: Vec<_> = facts.names_next_hops().collect();
        named.into_iter().for_each(|next_hop| self.peers.next_hops.track(next_hop));
        if other_import {
            self.judge_again(peer);
        }
        if other_export {
            self.tables.ipv4.tell_anew(peer, &self.peers);
            self.tables.ipv6.tell_anew(peer, &self.peers);
        }
    }

    /// An established peer is to do without us, and we without it, as far as this says; at any moment.
    pub fn set_drain(&mut self, peer: PeerId, drain: Drain) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        let before = std::mem::replace(&mut facts.drain, drain);
        if before.avoided != drain.avoided {
            self.judge_again(peer);
        }
        if before.told != drain.told {
            self.tables.ipv4.tell_anew(peer, &self.peers);
            self.tables.ipv6.tell_anew(peer, &self.peers);
        }
    }

    /// Whether GRACEFUL_SHUTDOWN in what an external peer says is honoured; applies to all it said.
    pub fn set_graceful_shutdown(&mut self, peer: PeerId, honoured: bool) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        if std::mem::replace(&mut facts.graceful_shutdown, honoured) != honoured {
            self.judge_again(peer);
        }
    }

    fn judge_again(&mut self, peer: PeerId) {
        self.tables.ipv4.judge_again(peer, &self.peers, &mut self.interner);
        self.tables.ipv6.judge_again(peer, &self.peers, &mut self.interner);
    }

    /// Lets a peer that is slower than others go its own way, lest those who hear the same wait for it. They
    /// come together again when all have heard everything.
    pub fn part(&mut self, peer: PeerId) {
        self.tables.ipv4.part(peer);
        self.tables.ipv6.part(peer);
    }
}
