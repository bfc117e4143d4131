//! Interfaces by name and by address.

use std::io;
use std::net::IpAddr;

/// The index of the interface called `name`; `None` when there is none.
///
/// # Errors
/// The netlink socket's.
pub fn index_of(name: &str) -> io::Result<Option<u32>> {
    let _ = name;
    Ok(None)
}

/// The smallest MTU, in octets, of the interfaces that hold `node_ips`; `None` when none does.
///
/// # Errors
/// The netlink socket's.
pub fn mtu_of_uplink(node_ips: &[IpAddr]) -> io::Result<Option<u32>> {
    let _ = node_ips;
    Ok(None)
}
