//! What of a route goes out, and as which octets.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::audience::Audience;
use super::decision::DEFAULT_LOCAL_PREF;
use super::net::Net;
use super::path::{Generation, Path, PeerId, Refusal};
use super::peers::Peers;
use super::policy::{Applied, Policy};
use super::{Leaving, originate, policy};
use crate::api::NextHopMode;
use crate::iana::MessageType;
use crate::iana::attribute_flag::PARTIAL;
use crate::types::{Family, Prefix, RouterId};
use crate::wire::update::Packer;
use crate::wire::{Attributes, Community, NextHop, Nlri};

/// Octets after which a new run is begun.
const RUN: usize = 64 << 10;

/// Whole UPDATEs one after another, or the ROUTE-REFRESH before or after them (RFC 7313); to be sent as they are.
#[derive(Clone, Debug)]
pub struct Run {
    /// What goes on the wire.
    pub octets: Bytes,
    /// How many messages they are.
    pub messages: u32,
    /// Of which type.
    pub kind: MessageType,
    /// It is this family's End-of-RIB and nothing else.
    pub end_of_rib: Option<Family>,
    pub(super) whom: Whom,
}

/// Which members of a group a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    All,
    /// This one is the source.
    AllBut(PeerId),
    Only(PeerId),
}

/// Stands for what was told and is to be said again whatever it was. No path that is told is refused, but
/// this one: it is like no other.
pub(super) fn something() -> Arc<Path> {
    Arc::new(Path {
        attributes: Arc::new(originate::attributes(Vec::new())),
        next_hop: NextHop::V4(Ipv4Addr::BROADCAST),
        source: None,
        path_id: 0,
        refusal: Some(Refusal::Policy),
        generation: Generation::default(),
        received: None,
    })
}

/// Two paths, and what the policy does to each.
#[derive(PartialEq)]
struct Alike {
    pair: [*const Path; 2],
    applied: [Option<Applied>; 2],
}

/// What paths become for an audience: each is judged and written once a batch.
pub(super) struct Exports<'a> {
    family: Family,
    peers: &'a Peers,
    audience: &'a Audience,
    packers: Vec<Packer>,
    places: FxHashMap<(*const Path, Applied), Option<u32>>,
    /// Most destinations have the path of the one before, and the same is done to it.
    last: Option<(*const Path, Applied, Option<u32>)>,
    alike: Option<(Alike, bool)>,
}

impl<'a> Exports<'a> {
    pub(super) fn new(family: Family, peers: &'a Peers, audience: &'a Audience) -> Self {
        Self {
            family,
            peers,
            audience,
            packers: Vec::new(),
            places: FxHashMap::default(),
            last: None,
            alike: None,
        }
    }

    /// Where its packer is; none where it does not go out.
    pub(super) fn place(&mut self, path: &Arc<Path>, prefix: Prefix) -> Option<u32> {
        let pointer = Arc::as_ptr(path);
        let uniform =
            self.peers.suppressing.is_empty() && self.audience.export.as_ref().is_none_or(Policy::is_uniform);
        if let Some((_, _, place)) = self.last.as_ref().filter(|last| uniform && last.0 == pointer) {
            return *place;
        }
        let applied = self.applied(path, prefix)?;
        if let Some((_, _, place)) =
            self.last.as_ref().filter(|last| (last.0, &last.1) == (pointer, &applied))
        {
            return *place;
        }
        let place = match self.places.get(&(pointer, applied.clone())) {
            Some(place) => *place,
            None => {
                let place = self.packer(path, &applied).map(|packer| {
                    self.packers.push(packer);
                    (self.packers.len() - 1) as u32
                });
                self.places.insert((pointer, applied.clone()), place);
                place
            }
        };
        self.last = Some((pointer, applied, place));
        place
    }

    fn applied(&self, path: &Path, prefix: Prefix) -> Option<Applied> {
        applied(path, prefix, self.peers, self.audience)
    }

    fn packer(&self, path: &Path, applied: &Applied) -> Option<Packer> {
        let (attributes, next_hop) = exported(path, applied, self.family, self.peers, self.audience)?;
        Packer::announcements(&attributes, next_hop, self.family, &self.audience.session)
    }

    /// Whether two paths look the same to the audience.
    pub(super) fn alike(&mut self, one: &Arc<Path>, other: &Arc<Path>, prefix: Prefix) -> bool {
        if one.refusal != other.refusal {
            return false;
        }
        let pair = [Arc::as_ptr(one), Arc::as_ptr(other)];
        let applied = [self.applied(one, prefix), self.applied(other, prefix)];
        let asked = Alike { pair, applied };
        if let Some((_, alike)) = self.alike.as_ref().filter(|(last, _)| *last == asked) {
            return *alike;
        }
        let form = |path| form(path, prefix, self.peers, self.audience);
        let alike = form(one) == form(other);
        self.alike = Some((asked, alike));
        alike
    }
}

/// What a batch has to say. Behind each destination is the path's identifier, if the session has any.
pub(super) struct Outbox<K> {
    pub(super) withdrawn: Vec<(Whom, K, u32)>,
    /// With the place of the packer.
    pub(super) announced: Vec<(u32, Whom, K, u32)>,
}

impl<K> Default for Outbox<K> {
    fn default() -> Self {
        Self { withdrawn: Vec::new(), announced: Vec::new() }
    }
}

impl<K: Net> Outbox<K> {
    /// Writes all of it, withdrawals first.
    pub(super) fn close(
        mut self,
        exports: &Exports,
        family: Family,
        audience: &Audience,
        queue: &mut VecDeque<Run>,
    ) {
        let mut writer = Writer { octets: Vec::new(), messages: 0, whom: Whom::All, queue };
        let withdrawals = Packer::withdrawals(family, &audience.session);
        self.withdrawn.sort_by_key(|(whom, ..)| *whom);
        for same in self.withdrawn.chunk_by(|one, other| one.0 == other.0) {
            writer.write(same[0].0, &withdrawals, same.iter().map(|(_, key, path_id)| nlri(*key, *path_id)));
        }
        self.announced.sort_by_key(|(place, ..)| *place);
        for same in self.announced.chunk_by(|one, other| one.0 == other.0) {
            let (place, whom, ..) = same[0];
            let packer = &exports.packers[place as usize];
            writer.write(whom, packer, same.iter().map(|(.., key, path_id)| nlri(*key, *path_id)));
        }
        writer.finish();
    }
}

fn nlri<K: Net>(key: K, path_id: u32) -> Nlri {
    Nlri { prefix: key.prefix(), path_id }
}

/// Makes runs.
struct Writer<'a> {
    octets: Vec<u8>,
    messages: u32,
    whom: Whom,
    queue: &'a mut VecDeque<Run>,
}

impl Writer<'_> {
    fn write(&mut self, whom: Whom, packer: &Packer, prefixes: impl Iterator<Item = Nlri>) {
        if whom != self.whom || self.octets.len() >= RUN {
            self.finish();
            self.whom = whom;
        }
        self.messages += packer.write(prefixes, &mut self.octets);
    }

    fn finish(&mut self) {
        if !self.octets.is_empty() {
            let octets = Bytes::copy_from_slice(&self.octets);
            let kind = MessageType::Update;
            self.queue.push_back(Run {
                octets,
                messages: self.messages,
                kind,
                end_of_rib: None,
                whom: self.whom,
            });
            self.octets.clear();
            self.messages = 0;
        }
    }
}

/// Whether an audience is told of a destination by this path, and what its policy changes then.
pub(super) fn applied(path: &Path, prefix: Prefix, peers: &Peers, audience: &Audience) -> Option<Applied> {
    let shown = peers.shows(audience.session.ebgp, prefix, path);
    shown.then(|| policy::export(audience, prefix, path, peers.source(path))).flatten()
}

/// What an audience is told of a destination by this path, if anything.
pub(super) fn form(
    path: &Path,
    prefix: Prefix,
    peers: &Peers,
    audience: &Audience,
) -> Option<(Attributes, NextHop)> {
    let applied = applied(path, prefix, peers, audience)?;
    exported(path, &applied, prefix.family(), peers, audience)
}

/// What of a best path is told to an audience: RFC 4271, sections 5.1 and 9.1.3. `None` where there is no
/// address of ours to name as next hop.
fn exported(
    path: &Path,
    applied: &Applied,
    family: Family,
    peers: &Peers,
    audience: &Audience,
) -> Option<(Attributes, NextHop)> {
    let mut attributes = (*path.attributes).clone();
    let origin = RouteOrigin::of(path, peers);
    for unknown in &mut attributes.unknown {
        unknown.flags |= PARTIAL;
    }
    // RFC 8950: where there is no IPv4 address, an IPv6 one, to those who take it.
    let other = audience.extended_next_hop && family == Family::Ipv4;
    let of = |wanted: Family| audience.next_hops.iter().copied().find(|addr| Family::of(*addr) == wanted);
    let own = || of(family).or_else(|| of(Family::Ipv6).filter(|_| other));
    if audience.session.ebgp {
        attributes.as_path.prepend(audience.local_asn);
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        attributes.ext_communities.retain(|community| community.is_transitive());
        if origin != RouteOrigin::Here {
            attributes.med = None;
        }
    } else {
        attributes.local_pref = attributes.local_pref.or(Some(DEFAULT_LOCAL_PREF));
        if let RouteOrigin::Internal(source) = origin {
            // RFC 4456, section 8.
            attributes.originator_id = attributes.originator_id.or(Some(source));
            attributes.cluster_list.insert(0, peers.cluster_id.0);
        }
    }
    let keep = match audience.next_hop {
        NextHopMode::Auto => !audience.session.ebgp,
        NextHopMode::Own => false,
        NextHopMode::Keep => true,
        NextHopMode::Direct => {
            audience.network.is_some_and(|network| network.covers(Prefix::host(path.next_hop.addr())))
        }
    };
    let link_local = audience.next_hops.iter().find_map(|addr| match addr {
        IpAddr::V6(addr) if addr.is_unicast_link_local() => Some(*addr),
        _ => None,
    });
    // RFC 2545, section 3: beside a global address also the link-local one, on the link it is of.
    let own = || match own()? {
        IpAddr::V6(global) => {
            Some(NextHop::V6 { global, link_local: link_local.filter(|link_local| *link_local != global) })
        }
        addr => Some(addr.into()),
    };
    let next_hop = if keep && origin != RouteOrigin::Here {
        match path.next_hop {
            // Of use on one link only, which is ours: who is on another needs us.
            NextHop::V6 { global, .. } if global.is_unicast_link_local() => own(),
            learned => Some(learned.addr().into())
                .filter(|next_hop: &NextHop| other || Family::of(next_hop.addr()) == family),
        }
    } else {
        own()
    };
    let policy = audience.export.as_ref();
    let wanted = policy.and_then(|policy| policy.apply(applied, family, audience.local_asn, &mut attributes));
    last_words(path, audience, &mut attributes);
    Some((attributes, wanted.map(Into::into).or(next_hop)?))
}

/// What holds whatever a policy says.
fn last_words(path: &Path, audience: &Audience, attributes: &mut Attributes) {
    if path.attributes.has(Community::LLGR_STALE) {
        // RFC 9494, section 4.3: it is not taken away; 4.6: what stands for it with those who do not know it.
        attributes.add(Community::LLGR_STALE);
        if !audience.long_lived {
            attributes.add(Community::NO_EXPORT);
            attributes.local_pref = Some(0);
        }
    }
    if audience.leaving == Leaving::Announced {
        // RFC 8326, section 4.
        attributes.add(Community::GRACEFUL_SHUTDOWN);
        attributes.local_pref = Some(0);
    }
    if audience.session.ebgp {
        // RFC 4271, section 5.1.5.
        attributes.local_pref = None;
    }
}

/// Where a route begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RouteOrigin {
    Here,
    /// Learned from another AS.
    External,
    /// Learned from the internal peer with this identifier.
    Internal(RouterId),
}

impl RouteOrigin {
    /// Where `path` begins.
    fn of(path: &Path, peers: &Peers) -> Self {
        match peers.source(path) {
            None => Self::Here,
            Some(source) if source.session.ebgp => Self::External,
            Some(source) => Self::Internal(source.router_id),
        }
    }
}
