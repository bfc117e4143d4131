//! As many prefixes a message as fit.

use std::sync::Arc;

use super::{Announcement, Update};
use crate::types::{Family, Prefix};
use crate::wire::attr::{self, Attributes, NextHop};
use crate::wire::frame::HEADER;
use crate::wire::{Session, nlri};

/// Header and the two length fields of every UPDATE, in octets.
const EMPTY: usize = HEADER + 4;

/// Header, AFI and SAFI of MP_REACH_NLRI and MP_UNREACH_NLRI with an extended length, in octets.
const MULTIPROTOCOL: usize = 4 + 3;

/// Fills UPDATEs of one kind: announcements that share attributes and next hop, or withdrawals.
///
/// ```text
///   while there is a prefix:  if !packer.has_room(prefix) { send(packer.take()) }
///                             packer.push(prefix)
///   at the end:               if let Some(update) = packer.take() { send(update) }
/// ```
#[derive(Clone, Debug)]
pub struct Packer {
    /// None: withdrawals.
    route: Option<(Arc<Attributes>, NextHop)>,
    /// Octets for prefixes in an otherwise complete message.
    room: usize,
    left: usize,
    prefixes: Vec<Prefix>,
}

impl Packer {
    /// For prefixes of `family` reached by `next_hop`. `None` where the attributes are so large that a
    /// prefix may not fit beside them: such a route cannot be told to this neighbour.
    pub fn announcements(
        attributes: &Arc<Attributes>,
        next_hop: NextHop,
        family: Family,
        session: &Session,
    ) -> Option<Self> {
        let mut written = Vec::with_capacity(256);
        let reach = match (family, next_hop) {
            (Family::Ipv4, NextHop::V4(addr)) => {
                attr::write(attributes, Some(addr), session, &mut written);
                0
            }
            _ => {
                attr::write(attributes, None, session, &mut written);
                let addrs = match next_hop {
                    NextHop::V4(_) => 4,
                    NextHop::V6 { link_local: None, .. } => 16,
                    NextHop::V6 { link_local: Some(_), .. } => 32,
                };
                // Behind the family: the next hop's length, the next hop, a reserved octet.
                MULTIPROTOCOL + 1 + addrs + 1
            }
        };
        let room = session.max_message().checked_sub(EMPTY + reach + written.len())?;
        let longest = match family {
            Family::Ipv4 => 1 + 4,
            Family::Ipv6 => 1 + 16,
        };
        (room >= longest).then(|| Self::new(Some((attributes.clone(), next_hop)), room))
    }

    /// For withdrawals of `family`.
    pub fn withdrawals(family: Family, session: &Session) -> Self {
        let unreach = match family {
            Family::Ipv4 => 0,
            Family::Ipv6 => MULTIPROTOCOL,
        };
        Self::new(None, session.max_message() - EMPTY - unreach)
    }

    fn new(route: Option<(Arc<Attributes>, NextHop)>, room: usize) -> Self {
        Self { route, room, left: room, prefixes: Vec::new() }
    }

    /// Whether `prefix` fits into the message being filled.
    pub fn has_room(&self, prefix: Prefix) -> bool {
        nlri::size(prefix) <= self.left
    }

    /// Adds a prefix there is room for, of the family the packer was made for.
    pub fn push(&mut self, prefix: Prefix) {
        self.left = self.left.saturating_sub(nlri::size(prefix));
        self.prefixes.push(prefix);
    }

    /// The message filled so far, if there is anything in it; the next one is begun.
    pub fn take(&mut self) -> Option<Update> {
        if self.prefixes.is_empty() {
            return None;
        }
        self.left = self.room;
        let prefixes = std::mem::take(&mut self.prefixes);
        Some(match &self.route {
            None => Update { withdrawn: prefixes, ..Update::default() },
            Some((attributes, next_hop)) => Update {
                announced: vec![Announcement { next_hop: *next_hop, prefixes }],
                attributes: Some(attributes.clone()),
                ..Update::default()
            },
        })
    }
}
