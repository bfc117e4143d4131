//! Types of values: how many octets, what `nft` calls them, and how it prints them.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A type of set keys and of what is compared. The kernel keeps their numbers for `nft` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "nft's names")]
pub enum Type {
    NfProto,
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    IcmpType,
    Icmpv6Type,
    Mark,
    CtState,
    FibAddrType,
    IfName,
}

impl Type {
    const ALL: [Self; 11] = [
        Self::NfProto,
        Self::Ipv4Addr,
        Self::Ipv6Addr,
        Self::InetProto,
        Self::InetService,
        Self::IcmpType,
        Self::Icmpv6Type,
        Self::Mark,
        Self::CtState,
        Self::FibAddrType,
        Self::IfName,
    ];

    /// Octets of a value.
    pub fn length(self) -> usize {
        match self {
            Self::NfProto | Self::InetProto | Self::IcmpType | Self::Icmpv6Type => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark | Self::CtState | Self::FibAddrType => 4,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// Octets in a concatenation, where values begin at 32-bit registers.
    pub fn padded(self) -> usize {
        self.length().next_multiple_of(4)
    }

    /// `enum datatypes` of nft's datatype.h.
    fn number(self) -> u32 {
        match self {
            Self::NfProto => 2,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::IcmpType => 14,
            Self::Mark => 19,
            Self::CtState => 26,
            Self::Icmpv6Type => 29,
            Self::FibAddrType => 38,
            Self::IfName => 41,
        }
    }

    /// The number of a concatenation: six bits each.
    pub(super) fn number_of(types: &[Self]) -> u32 {
        types.iter().fold(0, |number, part| number << 6 | part.number())
    }

    /// The types of such a number; `None` when one is not known here.
    pub(super) fn of_number(number: u32) -> Option<Vec<Self>> {
        let parts = (0..5).rev().map(|place| number >> (6 * place) & 63).skip_while(|part| *part == 0);
        parts.map(|part| Self::ALL.into_iter().find(|found| found.number() == part)).collect()
    }

    /// Whether values lie in the machine's byte order (nft's `BYTEORDER_HOST_ENDIAN`).
    pub(super) fn is_host_order(self) -> bool {
        matches!(self, Self::NfProto | Self::Mark | Self::CtState | Self::FibAddrType | Self::IfName)
    }

    /// nft's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NfProto => "nf_proto",
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmpv6Type => "icmpv6_type",
            Self::Mark => "mark",
            Self::CtState => "ct_state",
            Self::FibAddrType => "fib_addrtype",
            Self::IfName => "ifname",
        }
    }

    /// A value as `nft list` prints it. An interface name shorter than 16 octets stands for a prefix.
    pub fn show(self, value: &[u8]) -> String {
        self.try_show(value).unwrap_or_else(|| {
            value.iter().fold("0x".to_owned(), |mut text, octet| {
                // Writing to a string does not fail.
                let _ = write!(text, "{octet:02x}");
                text
            })
        })
    }

    fn try_show(self, value: &[u8]) -> Option<String> {
        let word = |value: &[u8]| value.first_chunk().map(|word| u32::from_ne_bytes(*word));
        let octet = *value.first()?;
        Some(match self {
            Self::NfProto => match octet {
                2 => "ipv4".to_owned(),
                10 => "ipv6".to_owned(),
                other => other.to_string(),
            },
            Self::Ipv4Addr => Ipv4Addr::from(*value.first_chunk::<4>()?).to_string(),
            Self::Ipv6Addr => Ipv6Addr::from(*value.first_chunk::<16>()?).to_string(),
            Self::InetProto => protocol_name(octet).map_or_else(|| octet.to_string(), str::to_owned),
            Self::InetService => u16::from_be_bytes(*value.first_chunk()?).to_string(),
            Self::IcmpType => icmp_name(octet).map_or_else(|| octet.to_string(), str::to_owned),
            Self::Icmpv6Type => icmpv6_name(octet).map_or_else(|| octet.to_string(), str::to_owned),
            Self::Mark => format!("{:#010x}", word(value)?),
            Self::CtState => ct_states(word(value)?),
            Self::FibAddrType => match word(value)? {
                1 => "unicast".to_owned(),
                2 => "local".to_owned(),
                3 => "broadcast".to_owned(),
                5 => "multicast".to_owned(),
                other => other.to_string(),
            },
            Self::IfName => {
                let name = String::from_utf8_lossy(value);
                let wildcard = if value.len() < 16 { "*" } else { "" };
                format!("\"{}{wildcard}\"", name.trim_end_matches('\0'))
            }
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As in /etc/protocols, those a policy speaks of.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "ipv6-icmp",
        132 => "sctp",
        _ => return None,
    })
}

fn icmp_name(number: u8) -> Option<&'static str> {
    Some(match number {
        0 => "echo-reply",
        3 => "destination-unreachable",
        8 => "echo-request",
        11 => "time-exceeded",
        12 => "parameter-problem",
        _ => return None,
    })
}

fn icmpv6_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "destination-unreachable",
        2 => "packet-too-big",
        3 => "time-exceeded",
        4 => "parameter-problem",
        128 => "echo-request",
        129 => "echo-reply",
        130 => "mld-listener-query",
        131 => "mld-listener-report",
        132 => "mld-listener-done",
        133 => "nd-router-solicit",
        134 => "nd-router-advert",
        135 => "nd-neighbor-solicit",
        136 => "nd-neighbor-advert",
        137 => "nd-redirect",
        143 => "mld2-listener-report",
        _ => return None,
    })
}

/// `NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h, in the order nft prints them.
fn ct_states(bits: u32) -> String {
    let names = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    let held: Vec<_> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    held.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_keep_their_numbers() {
        for types in [
            vec![Type::Ipv4Addr],
            vec![Type::IfName, Type::Ipv6Addr],
            vec![Type::Ipv4Addr, Type::InetProto, Type::InetService],
        ] {
            assert_eq!(Type::of_number(Type::number_of(&types)), Some(types));
        }
        assert_eq!(Type::number_of(&[Type::Ipv4Addr, Type::InetProto]), 7 << 6 | 12);
        // ether_addr
        assert_eq!(Type::of_number(9), None);
    }
}
