//! Addresses of one link and the kernel's numbers of its interfaces.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::types::{Interface, ScopedAddr, is_link_local};

/// Where to send to.
///
/// # Errors
/// There is no such interface.
pub(super) fn socket_addr(to: ScopedAddr, port: u16) -> io::Result<SocketAddr> {
    match (to.addr, to.zone) {
        (IpAddr::V6(addr), Some(zone)) => {
            let index = if_nametoindex(zone.as_str()).map_err(|_| gone(zone))?;
            Ok(SocketAddrV6::new(addr, port, 0, index).into())
        }
        (addr, _) => Ok(SocketAddr::new(addr, port)),
    }
}

/// Whom something came from. An interface that is gone already has no name.
pub(super) fn scoped(from: SocketAddr) -> ScopedAddr {
    let zone = match from {
        SocketAddr::V6(v6) if is_link_local((*v6.ip()).into()) => name(v6.scope_id()),
        _ => None,
    };
    ScopedAddr { addr: from.ip().to_canonical(), zone }
}

fn name(index: u32) -> Option<Interface> {
    if_indextoname(index).ok()?.to_str().ok()?.parse().ok()
}

/// What may help.
pub(super) fn gone(interface: Interface) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_numbered_and_named_again() {
        let there: ScopedAddr = "fe80::1%lo".parse().unwrap();
        let socket = socket_addr(there, 179).unwrap();
        assert!(matches!(socket, SocketAddr::V6(v6) if v6.scope_id() != 0));
        assert_eq!(scoped(socket), there);
        let words = socket_addr("fe80::1%no-such".parse().unwrap(), 179).unwrap_err().to_string();
        assert_eq!(words, "there is no interface no-such");
        let global = "[fd00::1]:179".parse().unwrap();
        assert_eq!(socket_addr(scoped(global), 179).unwrap(), global);
    }
}
