//! As many prefixes a message as fit.

use crate::iana::MessageType;
use crate::types::Family;
use crate::wire::attr::{self, Attributes, NextHop};
use crate::wire::frame::{HEADER, MARKER};
use crate::wire::{Nlri, Session, nlri};

/// Writes UPDATEs of one kind: announcements that share attributes and next hop, or withdrawals.
///
/// ```text
///   head: header, lengths, [attributes] │ prefixes │ tail: [attributes behind MP_REACH_NLRI], [length 0]
/// ```
#[derive(Clone, Debug)]
pub struct Packer {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Where in the head a length stands that counts up to the end of the prefixes.
    prefixes_length: Option<usize>,
    /// Where in the head the attributes' length stands, if prefixes are among them.
    attributes_length: Option<usize>,
    /// Octets for prefixes in a message.
    room: usize,
    /// Whether they have path identifiers.
    path_ids: bool,
}

impl Packer {
    /// For prefixes of `family` reached by `next_hop`. `None` where the attributes are so large that a
    /// prefix may not fit beside them: such a route cannot be told to this neighbour.
    pub fn announcements(
        attributes: &Attributes,
        next_hop: NextHop,
        family: Family,
        session: &Session,
    ) -> Option<Self> {
        let mut packer = Self::new(family, session);
        packer.head.extend([0, 0]);
        if let (Family::Ipv4, NextHop::V4(addr)) = (family, next_hop) {
            let start = packer.head.len();
            packer.head.extend([0, 0]);
            attr::write(attributes, Some(addr), session, &mut packer.head);
            let length = u16::try_from(packer.head.len() - start - 2).ok()?;
            packer.head[start..start + 2].copy_from_slice(&length.to_be_bytes());
        } else {
            packer.attributes_length = Some(packer.head.len());
            packer.head.extend([0, 0]);
            packer.prefixes_length = Some(attr::open_reach(family, next_hop, &mut packer.head));
            attr::write(attributes, None, session, &mut packer.tail);
        }
        packer.within(session, family)
    }

    /// For withdrawals of `family`.
    pub fn withdrawals(family: Family, session: &Session) -> Self {
        let mut packer = Self::new(family, session);
        match family {
            Family::Ipv4 => {
                packer.prefixes_length = Some(packer.head.len());
                packer.head.extend([0, 0]);
                packer.tail.extend([0, 0]);
            }
            Family::Ipv6 => {
                packer.head.extend([0, 0]);
                packer.attributes_length = Some(packer.head.len());
                packer.head.extend([0, 0]);
                packer.prefixes_length = Some(attr::open_unreach(family, &mut packer.head));
            }
        }
        packer.room = session.max_message().saturating_sub(packer.head.len() + packer.tail.len());
        packer
    }

    fn new(family: Family, session: &Session) -> Self {
        let mut head = Vec::with_capacity(128);
        head.extend(MARKER);
        head.extend([0, 0, MessageType::Update as u8]);
        debug_assert_eq!(head.len(), HEADER);
        let path_ids = session.sends_path_ids(family);
        Self { head, tail: Vec::new(), prefixes_length: None, attributes_length: None, room: 0, path_ids }
    }

    fn within(mut self, session: &Session, family: Family) -> Option<Self> {
        self.room = session.max_message().checked_sub(self.head.len() + self.tail.len())?;
        let path_id = if self.path_ids { size_of::<u32>() } else { 0 };
        let longest = path_id + 1 + usize::from(family.width() / 8);
        (self.room >= longest).then_some(self)
    }

    /// Appends the messages that say all `prefixes`, of the family the packer was made for, and says how
    /// many they are.
    pub fn write(&self, prefixes: impl IntoIterator<Item = Nlri>, out: &mut Vec<u8>) -> u32 {
        let mut prefixes = prefixes.into_iter().peekable();
        let mut messages = 0;
        while prefixes.peek().is_some() {
            let start = out.len();
            out.extend_from_slice(&self.head);
            let full = out.len() + self.room;
            // The longest prefix fits into an empty message: each has at least one.
            let fits = |nlri: &Nlri, out: &Vec<u8>| out.len() + nlri::size(*nlri, self.path_ids) <= full;
            while let Some(nlri) = prefixes.next_if(|nlri| fits(nlri, out)) {
                nlri::write(nlri, self.path_ids, out);
            }
            let end = out.len();
            out.extend_from_slice(&self.tail);
            let all = out.len();
            set_length(out, start + MARKER.len(), all - start);
            if let Some(at) = self.prefixes_length {
                set_length(out, start + at, end - (start + at + 2));
            }
            if let Some(at) = self.attributes_length {
                set_length(out, start + at, all - (start + at + 2));
            }
            messages += 1;
        }
        messages
    }
}

/// No message is longer than two octets can say.
fn set_length(out: &mut [u8], at: usize, length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}
