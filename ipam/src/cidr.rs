//! Ranges of addresses: the pool's and the block's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Bits in an address: 32 or 128.
    pub fn width(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A range of addresses without host bits, of either family; never IPv4-mapped (`::ffff:0:0/96`), so that each
/// range has one spelling. Ordered by family, address, length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpNetwork", into = "IpNetwork")]
pub struct Cidr(IpNetwork);

/// Why a text is not a [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `address/length` at all.
    #[error("\"{0}\" is not a CIDR: expected address/length, as 10.244.0.0/16 or fd00:10:244::/48")]
    Syntax(String),
    /// Bits behind the length are set.
    #[error("{0} has host bits set: did you mean {1}?")]
    HostBits(IpNetwork, Cidr),
    /// An IPv4 range in IPv6 clothes.
    #[error("{0} is IPv4-mapped: write it as IPv4")]
    Mapped(IpNetwork),
}

impl Cidr {
    /// The range of `length` bits around an address; `None` when `length` exceeds the family's width or the
    /// address is IPv4-mapped.
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let network = IpNetwork::new(address, length).ok()?;
        Self::try_from(IpNetwork::new(network.network(), length).ok()?).ok()
    }

    /// Which family it belongs to.
    pub fn family(self) -> Family {
        Family::of(self.0.ip())
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.0.ip()
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// The length in bits: 0–32 or 0–128.
    pub fn length(self) -> u8 {
        self.0.prefix()
    }

    /// Addresses in it; `::/0` saturates at 2^128 − 1.
    pub fn size(self) -> u128 {
        1_u128.checked_shl(u32::from(self.family().width() - self.length())).unwrap_or(u128::MAX)
    }

    /// The address at an offset from the first; `None` behind the last.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        let address = match self.0.ip() {
            IpAddr::V4(first) => {
                IpAddr::from(first.to_bits().checked_add(u32::try_from(offset).ok()?)?.to_be_bytes())
            }
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().checked_add(offset)?).into(),
        };
        self.contains(address).then_some(address)
    }

    /// How far behind the first address this one is; `None` when it is not inside.
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        match (self.0.ip(), address) {
            _ if !self.contains(address) => None,
            (IpAddr::V4(first), IpAddr::V4(address)) => Some(u128::from(address.to_bits() - first.to_bits())),
            (IpAddr::V6(first), IpAddr::V6(address)) => Some(address.to_bits() - first.to_bits()),
            _ => None,
        }
    }

    /// Whether the address is inside.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether `other` is this range or a part of it.
    pub fn covers(self, other: Self) -> bool {
        self.length() <= other.length() && self.contains(other.address())
    }

    /// Whether they share an address: then one covers the other.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Its lower and its upper half; nothing for a single address.
    pub fn halves(self) -> impl Iterator<Item = Self> + use<> {
        let middle = self.nth(self.size() / 2).filter(|_| self.length() < self.family().width());
        let starts = middle.map(|middle| [self.address(), middle]);
        starts.into_iter().flatten().filter_map(move |start| Self::around(start, self.length() + 1))
    }

    /// The name of the Kubernetes object that stands for this range: the text with `-` for `.`, `:` and `/`, and
    /// a `0` before a leading `::`. So `10.244.3.64/26` is `10-244-3-64-26`, `fd00:10:244::40/122` is
    /// `fd00-10-244--40-122`, `::/64` is `0---64`.
    ///
    /// A DNS subdomain name (RFC 1123): digits, `a`–`f` and inner dashes. Unique: five parts without an empty one
    /// are IPv4; a full IPv6 range has nine, a shortened one an empty part. [`Cidr::from_object_name`] is its inverse.
    pub fn object_name(self) -> String {
        let name = self.0.to_string().replace(['.', ':', '/'], "-");
        if name.starts_with('-') { format!("0{name}") } else { name }
    }

    /// The range an object is named after; `None` when the name is not one [`Cidr::object_name`] writes.
    pub fn from_object_name(name: &str) -> Option<Self> {
        let (address, length) = name.rsplit_once('-')?;
        let parts: Vec<&str> = address.split('-').collect();
        let separator = if parts.len() == 4 && !parts.contains(&"") { "." } else { ":" };
        let cidr: Self = format!("{}/{length}", parts.join(separator)).parse().ok()?;
        (cidr.object_name() == name).then_some(cidr)
    }
}

impl TryFrom<IpNetwork> for Cidr {
    type Error = CidrError;

    fn try_from(network: IpNetwork) -> Result<Self, CidrError> {
        if let IpAddr::V6(address) = network.ip()
            && address.to_ipv4_mapped().is_some()
        {
            return Err(CidrError::Mapped(network));
        }
        match IpNetwork::new(network.network(), network.prefix()) {
            Ok(cut) if cut == network => Ok(Self(network)),
            Ok(cut) => Err(CidrError::HostBits(network, Self(cut))),
            Err(_) => Err(CidrError::Syntax(network.to_string())),
        }
    }
}

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let network: Option<IpNetwork> = text.contains('/').then(|| text.parse().ok()).flatten();
        network.ok_or_else(|| CidrError::Syntax(text.to_owned()))?.try_into()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range that can be a block: 20–32 bits long in IPv4, 116–128 in IPv6, so at most 4,096 addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Cidr", into = "Cidr")]
pub struct BlockCidr(Cidr);

/// A range that is too large for a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be a block: blocks are {from}–{to} bits long in {family}",
    from = BlockCidr::lengths(.0.family()).start(), to = .0.family().width(), family = .0.family())]
pub struct NotABlock(pub Cidr);

impl BlockCidr {
    /// Lengths a block may have.
    pub fn lengths(family: Family) -> std::ops::RangeInclusive<u8> {
        family.width() - 12..=family.width()
    }

    /// As any range.
    pub fn cidr(self) -> Cidr {
        self.0
    }

    /// Which family it belongs to.
    pub fn family(self) -> Family {
        self.0.family()
    }

    /// Addresses in it: 1–4,096.
    pub fn size(self) -> u16 {
        1 << (self.family().width() - self.0.length())
    }

    /// The address at an offset from the first; `None` behind the last.
    pub fn nth(self, offset: u16) -> Option<IpAddr> {
        self.0.nth(offset.into())
    }

    /// How far behind the first address this one is; `None` when it is not inside.
    pub fn offset(self, address: IpAddr) -> Option<u16> {
        self.0.offset(address).and_then(|offset| offset.try_into().ok())
    }

    /// Whether the address is inside.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// See [`Cidr::object_name`].
    pub fn object_name(self) -> String {
        self.0.object_name()
    }
}

impl TryFrom<Cidr> for BlockCidr {
    type Error = NotABlock;

    fn try_from(cidr: Cidr) -> Result<Self, NotABlock> {
        if Self::lengths(cidr.family()).contains(&cidr.length()) {
            Ok(Self(cidr))
        } else {
            Err(NotABlock(cidr))
        }
    }
}

impl From<BlockCidr> for Cidr {
    fn from(block: BlockCidr) -> Self {
        block.0
    }
}

impl From<BlockCidr> for IpNetwork {
    fn from(block: BlockCidr) -> Self {
        block.0.0
    }
}

impl fmt::Display for BlockCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BlockCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_with_host_bits_is_refused_and_told_what_would_be_right() {
        let error = "10.244.0.5/16".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "10.244.0.5/16 has host bits set: did you mean 10.244.0.0/16?");
    }

    #[test]
    fn an_address_without_a_length_and_a_length_beyond_the_family_are_not_ranges() {
        for text in ["10.244.0.0", "10.244.0.0/33", "fd00::/129", "fd00::", "", "/", "10.244/16"] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert_eq!(error, CidrError::Syntax(text.to_owned()));
        }
    }

    #[test]
    fn an_ipv4_mapped_range_is_refused() {
        let error = "::ffff:10.0.0.0/122".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "::ffff:10.0.0.0/122 is IPv4-mapped: write it as IPv4");
    }

    #[test]
    fn a_block_is_at_most_4096_addresses() {
        let block = |text: &str| BlockCidr::try_from(text.parse::<Cidr>().unwrap());
        assert_eq!(block("10.0.0.0/20").unwrap().size(), 4096);
        assert_eq!(block("fd00::/116").unwrap().size(), 4096);
        assert_eq!(block("10.0.0.7/32").unwrap().size(), 1);
        let error = block("fd00::/115").unwrap_err();
        assert_eq!(error.to_string(), "fd00::/115 cannot be a block: blocks are 116–128 bits long in IPv6");
    }

    #[test]
    fn objects_are_named_after_their_range() {
        for (cidr, name) in [
            ("10.244.3.64/26", "10-244-3-64-26"),
            ("fd00:10:244::40/122", "fd00-10-244--40-122"),
            ("fd00::/122", "fd00---122"),
            ("::/64", "0---64"),
            ("::40/122", "0--40-122"),
            ("1:2:3:4:5:6:7:40/122", "1-2-3-4-5-6-7-40-122"),
        ] {
            let cidr: Cidr = cidr.parse().unwrap();
            assert_eq!(cidr.object_name(), name);
            assert_eq!(Cidr::from_object_name(name), Some(cidr));
        }
    }

    #[test]
    fn a_name_that_no_range_has_is_not_a_range() {
        for name in [
            "",
            "web",
            "10-244-3-65-26",
            "10-244-3-64",
            "010-0-0-0-26",
            "fd00-0-0-0-0-0-0-0-122",
            "FD00---122",
        ] {
            assert_eq!(Cidr::from_object_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_largest_ranges_saturate() {
        assert_eq!("::/0".parse::<Cidr>().unwrap().size(), u128::MAX);
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
    }

    fn any_cidr() -> impl Strategy<Value = Cidr> {
        let v4 = (any::<[u8; 4]>(), 0_u8..=32).prop_map(|(bytes, length)| (IpAddr::from(bytes), length));
        // Zero groups in every position: that is where spellings differ.
        let v6 = (proptest::array::uniform8(prop_oneof![Just(0_u16), any::<u16>()]), 0_u8..=128)
            .prop_map(|(groups, length)| (IpAddr::from(groups), length));
        prop_oneof![v4, v6].prop_filter_map("IPv4-mapped", |(address, length)| Cidr::around(address, length))
    }

    proptest! {
        #[test]
        fn every_range_has_its_own_valid_object_name(cidr in any_cidr()) {
            let name = cidr.object_name();
            prop_assert_eq!(Cidr::from_object_name(&name), Some(cidr));
            prop_assert!(name.len() <= 253);
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
        }

        #[test]
        fn offsets_and_addresses_are_inverse(cidr in any_cidr(), offset: u128) {
            match cidr.nth(offset) {
                Some(address) => {
                    prop_assert_eq!(cidr.offset(address), Some(offset));
                    prop_assert!(offset < cidr.size() || cidr.length() == 0);
                }
                None => prop_assert!(offset >= cidr.size()),
            }
        }
    }
}
