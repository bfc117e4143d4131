//! What guards a neighbour's connections: signatures (RFC 2385) and distance (RFC 5082).

use std::io;
use std::net::IpAddr;

use socket2::SockRef;

use super::scope::gone;
use super::sockopt;
use crate::api::{PeerConfig, Secret};
use crate::types::{Asn, Interface, Prefix};

/// What leaves with it and arrives with it has passed no router.
const FULL_TTL: u8 = 255;

/// Of one neighbour.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    peer: IpAddr,
    /// The only way in and out.
    interface: Option<Interface>,
    password: Option<Secret>,
    /// Of what we send; none: the kernel's choice.
    ttl: Option<u8>,
    /// Of what we take.
    least_ttl: Option<u8>,
}

impl Guard {
    /// As configured, in our AS.
    pub fn new(peer: &PeerConfig, asn: Asn) -> Self {
        let external = peer.asn != asn;
        let least_ttl = peer.ttl_security.map(|hops| FULL_TTL - hops.saturating_sub(1));
        // Sent to every neighbour that may be one cable away, so that it can require it of us.
        let full = (external || least_ttl.is_some()).then_some(FULL_TTL);
        // The kernel keeps a link-local session to its interface by itself.
        let interface = peer.interface.filter(|_| peer.scoped().zone.is_none());
        Self {
            peer: peer.address,
            interface,
            password: peer.password.clone(),
            ttl: peer.multihop.or(full),
            least_ttl,
        }
    }

    /// Before we call.
    pub fn calling(&self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(password) = &self.password {
            sockopt::sign(&*socket, Prefix::host(self.peer), Some(password)).map_err(explain)?;
        }
        self.connected(socket)
    }

    /// On a connection we accepted; its listener had the key.
    pub fn connected(&self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(interface) = self.interface {
            socket
                .bind_device(Some(interface.as_str().as_bytes()))
                .map_err(|error| unbound(interface, error))?;
        }
        if let Some(ttl) = self.ttl {
            send_with(&socket, self.peer, ttl)?;
        }
        self.least_ttl.map_or(Ok(()), |ttl| sockopt::least_ttl(&*socket, self.peer, ttl))
    }
}

/// The first segments of an accepted connection leave before it can be told whose it is.
pub(super) fn listening(socket: &socket2::Socket, address: IpAddr) -> io::Result<()> {
    send_with(&SockRef::from(socket), address, FULL_TTL)
}

fn send_with(socket: &SockRef<'_>, peer: IpAddr, ttl: u8) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into()),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into()),
    }
}

fn unbound(interface: Interface, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::other(format!(
            "binding a connection to {interface} needs CAP_NET_RAW on kernels before 5.7: give it, or leave interface out"
        )),
        _ if error.raw_os_error() == Some(nix::libc::ENODEV) => gone(interface),
        _ => error,
    }
}

/// What may help.
pub(super) fn explain(error: io::Error) -> io::Error {
    use nix::libc::{ENOMEM, ENOPROTOOPT};
    let why = match error.raw_os_error() {
        Some(ENOPROTOOPT) => {
            "this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG), which a password needs"
        }
        Some(ENOMEM) => "the kernel has no room for more passwords on one socket: raise net.core.optmem_max",
        _ => return error,
    };
    io::Error::other(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_neighbour_is_sent_the_full_ttl_and_an_internal_one_the_kernels() {
        let ttl = |asn: u32, change: fn(&mut PeerConfig)| {
            let mut peer = PeerConfig::new("10.0.0.2".parse().unwrap(), Asn(asn));
            change(&mut peer);
            let guard = Guard::new(&peer, Asn(64512));
            (guard.ttl, guard.least_ttl)
        };
        assert_eq!(ttl(65001, |_| {}), (Some(255), None));
        assert_eq!(ttl(64512, |_| {}), (None, None));
        assert_eq!(ttl(65001, |peer| peer.multihop = Some(3)), (Some(3), None));
        assert_eq!(ttl(65001, |peer| peer.ttl_security = Some(1)), (Some(255), Some(255)));
        assert_eq!(ttl(64512, |peer| peer.ttl_security = Some(2)), (Some(255), Some(254)));
    }
}
