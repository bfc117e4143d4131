//! Lists of prefixes: RFC 4271, section 4.3 and RFC 4760, section 5.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::types::{Family, Prefix};

/// Appends all prefixes in `field` to `prefixes`; `None` when a length is too great or a prefix is cut
/// short. Host bits are cut. A loop over the octets: nothing in the speaker runs more often.
pub(super) fn parse(mut field: &[u8], family: Family, prefixes: &mut Vec<Prefix>) -> Option<()> {
    let width = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 16,
    };
    // A guess that fits what fills large messages: /24 and /48.
    prefixes.reserve(field.len() / width + 1);
    while let Some((&length, rest)) = field.split_first() {
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
        prefixes.push(prefix?);
        field = rest;
    }
    Some(())
}

/// One prefix.
pub(super) fn write(prefix: Prefix, out: &mut Vec<u8>) {
    let used = size(prefix) - 1;
    out.push(prefix.length());
    match prefix.addr() {
        std::net::IpAddr::V4(addr) => out.extend(&addr.octets()[..used]),
        std::net::IpAddr::V6(addr) => out.extend(&addr.octets()[..used]),
    }
}

/// What `prefix` takes on the wire, in octets.
pub(super) fn size(prefix: Prefix) -> usize {
    1 + usize::from(prefix.length()).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn read(field: &[u8], family: Family) -> Option<Vec<String>> {
        let mut prefixes = Vec::new();
        parse(field, family, &mut prefixes)?;
        Some(prefixes.iter().map(ToString::to_string).collect())
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
            let prefix: Prefix = text.parse().unwrap();
            let mut field = Vec::new();
            write(prefix, &mut field);
            assert_eq!(field.len(), size(prefix));
            assert_eq!(read(&field, prefix.family()).unwrap(), [text]);
        }
    }
}
