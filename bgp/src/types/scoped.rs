//! Addresses that are of one link only, and the links they are on (RFC 4007).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Family;

/// The longest name of an interface, in octets: IFNAMSIZ of linux/if.h, less the octet that ends it.
const MAX_NAME: usize = 15;

/// The name of a network interface, as the kernel takes one: 1–15 octets, no white space, no `/`, no `:`, no `%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interface([u8; MAX_NAME]);

/// No interface can have this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no interface's name: it has 1 to 15 octets, without white space, '/', ':' and '%'")]
pub struct InterfaceError(String);

impl Interface {
    /// Its name.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|octet| *octet == 0).unwrap_or(MAX_NAME);
        // Made of a string, and cut at none of its characters.
        std::str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

impl FromStr for Interface {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        let mut name = [0; MAX_NAME];
        match name.get_mut(..text.len()) {
            Some(place) if !text.is_empty() && !text.contains(bad) && !matches!(text, "." | "..") => {
                place.copy_from_slice(text.as_bytes());
                Ok(Self(name))
            }
            _ => Err(InterfaceError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Interface {
    type Error = InterfaceError;

    fn try_from(text: String) -> Result<Self, InterfaceError> {
        text.parse()
    }
}

impl From<Interface> for String {
    fn from(interface: Interface) -> Self {
        interface.as_str().to_owned()
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address, and where it is of one link only the interface that link is on: `10.0.0.2`, `fe80::1%eth1`. The neighbour
/// on an interface whose address is not known yet is `eth1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScopedAddr {
    /// `::` where it is not known.
    pub addr: IpAddr,
    /// RFC 4007's zone; of link-local addresses, and of those not known.
    pub zone: Option<Interface>,
}

/// Neither an address nor an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no neighbour's address: expected one as in 10.0.0.2, fe80::1%eth1 or eth1")]
pub struct ScopedAddrError(String);

impl ScopedAddr {
    /// An address as a neighbour on `interface` has it: only one that is of one link keeps the interface.
    pub fn new(addr: IpAddr, interface: Option<Interface>) -> Self {
        let zone = interface.filter(|_| addr.is_unspecified() || is_link_local(addr));
        Self { addr, zone }
    }

    /// Which family it belongs to.
    pub fn family(self) -> Family {
        Family::of(self.addr)
    }
}

/// Whether it is of one link only and says nothing without the interface (RFC 4291, section 2.5.6).
pub fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

impl From<IpAddr> for ScopedAddr {
    fn from(addr: IpAddr) -> Self {
        Self { addr, zone: None }
    }
}

impl PartialEq<IpAddr> for ScopedAddr {
    fn eq(&self, addr: &IpAddr) -> bool {
        *self == Self::from(*addr)
    }
}

impl FromStr for ScopedAddr {
    type Err = ScopedAddrError;

    fn from_str(text: &str) -> Result<Self, ScopedAddrError> {
        let bad = || ScopedAddrError(text.to_owned());
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(addr.into());
        }
        let (addr, zone) = match text.split_once('%') {
            Some((addr, zone)) => (IpAddr::V6(addr.parse().map_err(|_| bad())?), zone),
            None => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), text),
        };
        let zone = Some(zone.parse().map_err(|_| bad())?);
        Some(Self::new(addr, zone)).filter(|scoped| scoped.zone == zone).ok_or_else(bad)
    }
}

impl TryFrom<String> for ScopedAddr {
    type Error = ScopedAddrError;

    fn try_from(text: String) -> Result<Self, ScopedAddrError> {
        text.parse()
    }
}

impl From<ScopedAddr> for String {
    fn from(scoped: ScopedAddr) -> Self {
        scoped.to_string()
    }
}

impl fmt::Display for ScopedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            Some(zone) if self.addr.is_unspecified() => f.pad(zone.as_str()),
            Some(zone) => f.pad(&format!("{}%{zone}", self.addr)),
            None => fmt::Display::fmt(&self.addr, f),
        }
    }
}

impl fmt::Debug for ScopedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["10.0.0.2", "fd00::2", "fe80::1%eth1", "eth1", "wlp0s20f3", "fe80::1"] {
            assert_eq!(text.parse::<ScopedAddr>().unwrap().to_string(), text);
        }
        for bad in ["", "10.0.0.2%eth1", "fd00::2%eth1", "fe80::1%", "fe80::1%a/b", "a-name-of-16-oct", "a b"]
        {
            assert!(bad.parse::<ScopedAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_address_of_one_link_has_its_interface() {
        let eth1 = Some("eth1".parse().unwrap());
        let scoped = |addr: &str| ScopedAddr::new(addr.parse().unwrap(), eth1).to_string();
        assert_eq!(
            ["fe80::1", "::", "fd00::1", "10.0.0.1"].map(scoped),
            ["fe80::1%eth1", "eth1", "fd00::1", "10.0.0.1"]
        );
    }

    #[test]
    fn the_same_address_on_two_links_is_two_neighbours() {
        let [one, two]: [ScopedAddr; 2] = ["fe80::1%eth1", "fe80::1%eth2"].map(|text| text.parse().unwrap());
        assert!(one < two && one != one.addr);
    }
}
