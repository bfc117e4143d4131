//! Sets of the ruleset by number.
//!
//! The kernel finds a set by walking the list of all sets of its table: with thousands of them every rule, every
//! element and every reading of the table pays for all. So sets of addresses, and those of ports, are together one set
//! of nf_tables a family, whose keys begin with the number of the ruleset's set: `meta mark & 7 | 7 . ip saddr
//! @addresses4` is the number 7 whatever the mark is, and an address. The set `numbers` says which number is whose, in
//! comments, so that a restart finds them as they are.

use std::collections::{BTreeMap, BTreeSet};

use manx_bgp::types::Family;

use super::elements::single;
use super::{NUMBERS, Objects};
use crate::acl::nft::{Element, Set as NftSet, Type};
use crate::acl::ruleset::{SetId, SetKind};

/// Which set of the ruleset has which number. A number that was given back is not given again before all others.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    given: BTreeMap<SetId, u32>,
    used: BTreeSet<u32>,
    last: u32,
}

impl Numbers {
    /// As the set `numbers` of the kernel says. Numbers of what cannot be read are not given.
    pub fn read(elements: &BTreeSet<Element>) -> Self {
        let mut numbers = Self::default();
        for element in elements {
            let Some(number) = number_of(element) else { continue };
            numbers.used.insert(number);
            let id = element.comment().and_then(|comment| comment.split(' ').next()?.parse().ok());
            if let Some(id) = id {
                numbers.given.insert(id, number);
            }
        }
        numbers.last = numbers.used.last().copied().unwrap_or(0);
        numbers
    }

    /// The number a set has.
    pub fn of(&self, id: SetId) -> Option<u32> {
        self.given.get(&id).copied()
    }

    /// Gives a set a number; the one it has, if it has one. Sets of networks are sets of their own and have none.
    pub fn give(&mut self, id: SetId) -> Option<u32> {
        if shared(id).is_none() || self.given.contains_key(&id) {
            return self.of(id);
        }
        loop {
            self.last = self.last.wrapping_add(1);
            // `nft` does not print what 0 and the highest mean.
            if !matches!(self.last, 0 | u32::MAX) && self.used.insert(self.last) {
                break;
            }
        }
        self.given.insert(id, self.last);
        Some(self.last)
    }

    /// A set is no more.
    pub fn take(&mut self, id: SetId) {
        if let Some(number) = self.given.remove(&id) {
            self.used.remove(&number);
        }
    }
}

/// The number an element's key begins with.
fn number_of(element: &Element) -> Option<u32> {
    element.key.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

/// The set of nf_tables that holds this one and others; none: it has one of its own.
pub fn shared(id: SetId) -> Option<&'static str> {
    match (id.kind, id.family) {
        (SetKind::Addresses, Family::Ipv4) => Some("addresses4"),
        (SetKind::Addresses, Family::Ipv6) => Some("addresses6"),
        (SetKind::Ports, Family::Ipv4) => Some("ports4"),
        (SetKind::Ports, Family::Ipv6) => Some("ports6"),
        (SetKind::Networks, _) => None,
    }
}

/// Those that are shared, with their keys, and the one that says whose numbers they begin with.
pub fn sets() -> impl Iterator<Item = (&'static str, NftSet)> {
    let of = |kind, family| {
        let id = SetId { kind, family, digest: 0 };
        let NftSet { mut key, .. } = super::set(id, "");
        key.insert(0, Type::Mark);
        shared(id).map(|name| (name, NftSet::of(key)))
    };
    let kinds = [SetKind::Addresses, SetKind::Ports];
    let all = kinds.into_iter().flat_map(move |kind| Family::ALL.map(|family| of(kind, family)));
    all.flatten().chain([(NUMBERS, NftSet::of([Type::Mark]))])
}

/// What says whose a number is.
pub fn number(id: SetId, number: u32, of: &str) -> Objects {
    let element = single(&[&number.to_ne_bytes()]).with_comment(&format!("{id} {of}"));
    Objects { elements: [(NUMBERS.to_owned(), [element].into())].into(), ..Objects::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digest: u128) -> SetId {
        SetId { kind: SetKind::Addresses, family: Family::Ipv4, digest }
    }

    fn elements(numbers: &Numbers) -> BTreeSet<Element> {
        let of = |(id, of): (&SetId, &u32)| number(*id, *of, "pods app=\"web\"").elements.remove(NUMBERS);
        numbers.given.iter().filter_map(of).flatten().collect()
    }

    #[test]
    fn a_restart_finds_numbers_as_they_were_given() {
        let mut before = Numbers::default();
        let given: Vec<_> = [7, 3, 9].map(|digest| before.give(id(digest))).to_vec();
        before.take(id(3));
        let mut after = Numbers::read(&elements(&before));
        assert_eq!([7, 9].map(|digest| after.give(id(digest))), [given[0], given[2]]);
        let number = after.give(id(3));
        assert!(number.is_some() && !given[..1].contains(&number) && number != given[2], "{number:?}");
    }

    #[test]
    fn a_number_given_back_is_not_given_soon_nor_one_that_cannot_be_read() {
        let mut numbers = Numbers::default();
        let first = numbers.give(id(1));
        numbers.take(id(1));
        assert_ne!(numbers.give(id(1)), first);
        let strange = BTreeSet::from([single(&[&5u32.to_ne_bytes()]).with_comment("mine")]);
        let mut numbers = Numbers { last: 4, ..Numbers::read(&strange) };
        assert_eq!(numbers.give(id(1)), Some(6));
    }

    #[test]
    fn networks_have_sets_of_their_own() {
        let networks = SetId { kind: SetKind::Networks, ..id(1) };
        assert_eq!(Numbers::default().give(networks), None);
    }
}
