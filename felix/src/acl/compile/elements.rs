//! Sets of the ruleset, and their members as elements.

use std::net::IpAddr;

use manx_bgp::types::Family;

use crate::acl::nft::{Element, Key, Set as NftSet, Type};
use crate::acl::ruleset::{Members, SetId, SetKind};

/// What a set is to nf_tables, without its members.
pub fn set(id: SetId, of: &str) -> NftSet {
    let address = match id.family {
        Family::Ipv4 => Type::Ipv4Addr,
        Family::Ipv6 => Type::Ipv6Addr,
    };
    let set = match id.kind {
        SetKind::Addresses => NftSet::of([address]),
        SetKind::Networks => NftSet::of_ranges([address]),
        SetKind::Ports => NftSet::of([address, Type::InetProto, Type::InetService]),
    };
    NftSet { comment: Some(of.to_owned()), ..set }
}

/// Members as elements, which begin with the set's number where it has one.
pub fn elements(number: Option<u32>, members: &Members) -> Box<dyn Iterator<Item = Element> + '_> {
    let single = move |parts: &[&[u8]]| Element::new(numbered(number, parts));
    match members {
        Members::Addresses(members) => {
            Box::new(members.iter().map(move |address| single(&[&octets(*address)])))
        }
        Members::Networks(members) => Box::new(
            members
                .iter()
                .map(move |range| single(&[&octets(range.first)]).until(key(&[&octets(range.last)]))),
        ),
        Members::Ports(members) => Box::new(members.iter().map(move |port| {
            single(&[&octets(port.address), &[port.protocol as u8], &port.port.to_be_bytes()])
        })),
    }
}

/// A key that is no range.
pub fn single(parts: &[&[u8]]) -> Element {
    Element::new(key(parts))
}

/// Values behind each other, each padded to 32 bits when there are several.
pub fn key(parts: &[&[u8]]) -> Key {
    numbered(None, parts)
}

fn numbered(number: Option<u32>, parts: &[&[u8]]) -> Key {
    let mut key = Key::new();
    key.extend(number.map(u32::to_ne_bytes).into_iter().flatten());
    for part in parts {
        key.extend_from_slice(part);
        if number.is_some() || parts.len() > 1 {
            key.resize(key.len().next_multiple_of(4), 0);
        }
    }
    key
}

/// In the order of the network.
pub fn octets(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => Key::from_slice(&address.octets()),
        IpAddr::V6(address) => Key::from_slice(&address.octets()),
    }
}
