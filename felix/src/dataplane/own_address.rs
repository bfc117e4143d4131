//! Which of this machine's addresses a node is to be known by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use manx_bgp::types::{Family, Prefix};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use crate::model::Wanted;

/// The discard port (RFC 863): nothing is sent there.
const DISCARD: u16 = 9;

/// Where kube-proxy in its mode IPVS keeps addresses of Services.
pub const IPVS_IFNAME: &str = "kube-ipvs0";

/// Where others keep addresses of Services: kube-proxy, and NodeLocal DNSCache.
const OF_SERVICES: [&str; 2] = [IPVS_IFNAME, "nodelocaldns"];

/// The first of each family that is wanted, IPv4 first; none of a family that has none. Of [`Wanted::Internal`] there is
/// nothing to find here.
///
/// # Errors
/// When the kernel does not tell its addresses.
pub fn find(wanted: &Wanted) -> io::Result<Vec<IpAddr>> {
    match wanted {
        Wanted::Internal => Ok(Vec::new()),
        Wanted::Interface(interface) => Ok(first_of_each(held()?, |name, _| name == interface.as_str())),
        Wanted::Inside(ranges) => {
            let inside = |address| ranges.iter().any(|range| range.covers(Prefix::host(address)));
            Ok(first_of_each(held()?, |_, address| inside(address)))
        }
        Wanted::CanReach(targets) => {
            let found: Vec<_> = targets.iter().filter_map(|target| called_with(*target)).collect();
            Ok(first_of_each(found.into_iter().map(|address| (String::new(), address)), |_, _| true))
        }
    }
}

/// The address the kernel would call another with: it looks for the way, and sends nothing.
fn called_with(target: IpAddr) -> Option<IpAddr> {
    let any = match target {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, DISCARD)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Addresses of this machine with their interfaces, as the kernel lists them; of interfaces that are down, and of those that
/// hold addresses of Services, none.
fn held() -> io::Result<impl Iterator<Item = (String, IpAddr)>> {
    let address = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let held = getifaddrs()?.filter(|held| counts(&held.interface_name, held.flags));
    Ok(held.filter_map(move |held| Some((held.interface_name, address(held.address?)?))))
}

fn counts(interface: &str, flags: InterfaceFlags) -> bool {
    flags.contains(InterfaceFlags::IFF_UP) && !OF_SERVICES.contains(&interface)
}

fn first_of_each(
    held: impl IntoIterator<Item = (String, IpAddr)>,
    wanted: impl Fn(&str, IpAddr) -> bool,
) -> Vec<IpAddr> {
    let mut held: Vec<IpAddr> = held
        .into_iter()
        .filter(|(name, address)| is_node(*address) && wanted(name, *address))
        .map(|(_, address)| address)
        .collect();
    // In whatever order the kernel lists them, the same is found again.
    held.sort_unstable();
    let of = |family| held.iter().copied().find(|address| Family::of(*address) == family);
    Family::ALL.into_iter().filter_map(of).collect()
}

/// Whether other nodes can reach a node there.
fn is_node(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(wanted: impl Fn(&str, IpAddr) -> bool) -> Vec<String> {
        let held = [
            ("lo", "127.0.0.1"),
            ("eth0", "10.1.0.7"),
            ("eth0", "10.1.0.5"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::5"),
            ("eth1", "10.2.0.5"),
            ("manx1", "169.254.1.1"),
        ];
        let held = held.map(|(name, address)| (name.to_owned(), address.parse().unwrap()));
        first_of_each(held, wanted).into_iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn one_of_each_family_is_found_and_none_that_nobody_can_reach() {
        assert_eq!(found(|name, _| name == "eth0"), ["10.1.0.5", "fd00::5"]);
        assert_eq!(found(|_, address| address.to_string().starts_with("10.2")), ["10.2.0.5"]);
        assert_eq!(found(|name, _| name == "lo" || name == "manx1"), [""; 0]);
    }

    #[test]
    fn what_services_have_and_what_is_down_is_no_address_of_a_node() {
        let up = InterfaceFlags::IFF_UP;
        assert!(counts("eth0", up | InterfaceFlags::IFF_RUNNING) && counts("lo", up));
        // kube-proxy leaves its interface down; its addresses are local all the same.
        assert!(!counts("eth0", InterfaceFlags::IFF_BROADCAST) && !counts("kube-ipvs0", up));
    }
}
