//! Lists of prefixes: RFC 4271, section 4.3 and RFC 4760, section 5; with path identifiers RFC 7911, section 3.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::types::{Family, Prefix};

/// A prefix as UPDATEs name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The destination.
    pub prefix: Prefix,
    /// Which of the sender's paths to it (RFC 7911); 0 where the session has no path identifiers for the family.
    pub path_id: u32,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self { prefix, path_id: 0 }
    }
}

impl fmt::Debug for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path_id {
            0 => self.prefix.fmt(f),
            path_id => write!(f, "{} path {path_id}", self.prefix),
        }
    }
}

impl Nlri {
    /// Of its prefix.
    pub fn family(self) -> Family {
        self.prefix.family()
    }
}

/// Appends all prefixes in `field`, each behind its path identifier where there are any, to `prefixes`;
/// `None` when a length is too great or a prefix is cut short. Host bits are cut. A loop over the octets:
/// nothing in the speaker runs more often.
pub(super) fn parse(
    mut field: &[u8],
    family: Family,
    path_ids: bool,
    prefixes: &mut Vec<Nlri>,
) -> Option<()> {
    // With what one takes in a large table: /24 and /48.
    let (width, usual) = match family {
        Family::Ipv4 => (4, 4),
        Family::Ipv6 => (16, 7),
    };
    prefixes.reserve(field.len().div_ceil(usual));
    while !field.is_empty() {
        let mut path_id = 0;
        if path_ids {
            let (id, rest) = field.split_first_chunk()?;
            path_id = u32::from_be_bytes(*id);
            field = rest;
        }
        let (&length, rest) = field.split_first()?;
        let used = usize::from(length).div_ceil(8);
        if used > width || rest.len() < used {
            return None;
        }
        let (octets, rest) = rest.split_at(used);
        let prefix = match family {
            Family::Ipv4 => {
                let mut addr = [0; 4];
                addr[..used].copy_from_slice(octets);
                Prefix::truncated(Ipv4Addr::from(addr).into(), length)
            }
            Family::Ipv6 => {
                let mut addr = [0; 16];
                addr[..used].copy_from_slice(octets);
                Prefix::truncated(Ipv6Addr::from(addr).into(), length)
            }
        };
        prefixes.push(Nlri { prefix: prefix?, path_id });
        field = rest;
    }
    Some(())
}

/// One prefix, behind its path identifier where there are any.
pub(super) fn write(nlri: Nlri, path_ids: bool, out: &mut Vec<u8>) {
    let Nlri { prefix, path_id } = nlri;
    if path_ids {
        out.extend(path_id.to_be_bytes());
    }
    let used = octets(prefix);
    out.push(prefix.length());
    match prefix.addr() {
        std::net::IpAddr::V4(addr) => out.extend(&addr.octets()[..used]),
        std::net::IpAddr::V6(addr) => out.extend(&addr.octets()[..used]),
    }
}

/// What it takes on the wire, in octets.
pub(super) fn size(nlri: Nlri, path_ids: bool) -> usize {
    usize::from(path_ids) * size_of::<u32>() + 1 + octets(nlri.prefix)
}

/// What the prefix itself takes.
fn octets(prefix: Prefix) -> usize {
    usize::from(prefix.length()).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn read(field: &[u8], family: Family) -> Option<Vec<String>> {
        let mut prefixes = Vec::new();
        parse(field, family, false, &mut prefixes)?;
        Some(prefixes.iter().map(|nlri| nlri.prefix.to_string()).collect())
    }

    #[test]
    fn prefixes_take_as_many_octets_as_their_length_needs() {
        let field = hex!("00 08 0a 19 0a000080 20 0a000001");
        assert_eq!(
            read(&field, Family::Ipv4).unwrap(),
            ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.128/25", "10.0.0.1/32"]
        );
        assert_eq!(read(&hex!("30 20010db80001"), Family::Ipv6).unwrap(), ["2001:db8:1::/48"]);
    }

    #[test]
    fn host_bits_are_cut() {
        assert_eq!(read(&hex!("09 0aff"), Family::Ipv4).unwrap(), ["10.128.0.0/9"]);
    }

    #[test]
    fn a_length_beyond_the_family_or_a_cut_prefix_is_refused() {
        assert_eq!(read(&hex!("21 0a00000001"), Family::Ipv4), None);
        assert_eq!(read(&hex!("81 0000000000000000000000000000000000"), Family::Ipv6), None);
        assert_eq!(read(&hex!("18 0a00"), Family::Ipv4), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["0.0.0.0/0", "10.0.0.0/26", "192.0.2.1/32", "::/0", "fd00:1::/127"] {
            let nlri = Nlri::from(text.parse::<Prefix>().unwrap());
            let mut field = Vec::new();
            write(nlri, false, &mut field);
            assert_eq!(field.len(), size(nlri, false));
            assert_eq!(read(&field, nlri.family()).unwrap(), [text]);
            let numbered = Nlri { path_id: 0xfedc_ba98, ..nlri };
            write(numbered, true, &mut field);
            let behind = field.split_off(size(nlri, false));
            assert_eq!(behind.len(), size(numbered, true));
            let mut prefixes = Vec::new();
            assert_eq!(parse(&behind, nlri.family(), true, &mut prefixes), Some(()));
            assert_eq!(prefixes, [numbered]);
        }
    }

    #[test]
    fn rfc7911_a_path_identifier_that_is_cut_short_or_has_no_prefix_is_refused() {
        for field in [&hex!("000001")[..], &hex!("00000001"), &hex!("00000001 18 0a00")] {
            assert_eq!(parse(field, Family::Ipv4, true, &mut Vec::new()), None, "{field:?}");
        }
    }
}
