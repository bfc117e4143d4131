//! EXTENDED COMMUNITIES (16): RFC 4360; RFC 7606, section 7.14.

use std::fmt;

use nom::combinator::map;

use super::{Draft, Malformed, put, sorted};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE, ext_community};
use crate::wire::Session;
use crate::wire::parse::{every, octets};

/// RFC 4360: a type of one or two octets, and a value. Shown as `rt:64512:7`, `so:10.0.0.1:7` or `lb:64512:125000` where
/// it is a route target, a route origin or a link's bandwidth in octets a second, as its octets where it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtCommunity(pub [u8; 8]);

impl ExtCommunity {
    /// RFC 4360, section 6: whether it is passed on to another AS.
    pub fn is_transitive(self) -> bool {
        self.0[0] & ext_community::NON_TRANSITIVE == 0
    }

    /// The bandwidth it tells of; none: it is another community, or tells of none that could be shared by. Speakers
    /// send it as one that is passed on, too.
    pub fn link_bandwidth(self) -> Option<LinkBandwidth> {
        let [kind, subtype, _, _, bandwidth @ ..] = self.0;
        let is_one = kind & !ext_community::NON_TRANSITIVE == ext_community::TWO_OCTET_AS
            && subtype == ext_community::LINK_BANDWIDTH;
        let bandwidth = f32::from_be_bytes(bandwidth);
        (is_one && bandwidth.is_finite() && bandwidth > 0.0).then(|| LinkBandwidth(bandwidth.to_bits()))
    }
}

/// What a link takes (draft-ietf-idr-link-bandwidth): a finite number above zero, as its bits, which are in the order of
/// such numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkBandwidth(u32);

impl LinkBandwidth {
    /// Octets a second.
    pub fn octets(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Display for ExtCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subtype, a, b, c, d, e, g] = self.0;
        let name = match subtype {
            ext_community::ROUTE_TARGET => "rt",
            ext_community::ROUTE_ORIGIN => "so",
            _ => "",
        };
        if let Some(bandwidth) = self.link_bandwidth() {
            return write!(f, "lb:{}:{}", u16::from_be_bytes([a, b]), bandwidth.octets());
        }
        let (four, two) = (u32::from_be_bytes([c, d, e, g]), u16::from_be_bytes([e, g]));
        match kind {
            _ if name.is_empty() => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
            ext_community::TWO_OCTET_AS => write!(f, "{name}:{}:{four}", u16::from_be_bytes([a, b])),
            ext_community::IPV4 => write!(f, "{name}:{a}.{b}.{c}.{d}:{two}"),
            ext_community::FOUR_OCTET_AS => write!(f, "{name}:{}:{two}", u32::from_be_bytes([a, b, c, d])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.ext_communities = sorted(every(value, map(octets, ExtCommunity))?)?;
    Ok(())
}

pub(super) fn write(communities: &[ExtCommunity], out: &mut Vec<u8>) {
    if communities.is_empty() {
        return;
    }
    put(OPTIONAL | TRANSITIVE, attribute::EXTENDED_COMMUNITIES, out, |out| {
        out.extend(communities.iter().flat_map(|community| community.0));
    });
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn targets_and_origins_are_shown_as_people_write_them_and_the_rest_as_it_is() {
        for (octets, shown, transitive) in [
            (hex!("00 02 fc00 00000007"), "rt:64512:7", true),
            (hex!("01 03 0a000001 0007"), "so:10.0.0.1:7", true),
            (hex!("02 02 fa56ea01 0007"), "rt:4200000001:7", true),
            (hex!("40 04 fc00 47c35000"), "lb:64512:100000", false),
            (hex!("00 04 fc00 47c35000"), "lb:64512:100000", true),
            (hex!("40 04 fc00 7f800000"), "0x4004fc007f800000", false),
            (hex!("40 04 fc00 00000000"), "0x4004fc0000000000", false),
            (hex!("40 04 fc00 c7c35000"), "0x4004fc00c7c35000", false),
            (hex!("06 02 000000000000"), "0x0602000000000000", true),
        ] {
            let community = ExtCommunity(octets);
            assert_eq!((community.to_string().as_str(), community.is_transitive()), (shown, transitive));
        }
    }
}
