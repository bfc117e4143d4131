//! What guards a neighbour's connections: keys (RFC 2385, RFC 5925) and distance (RFC 5082).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::{Domain, SockRef, Socket, Type};

use super::keys::Keys;
use super::scope::gone;
use super::sockopt;
use crate::api::PeerConfig;
use crate::types::{Asn, Interface, Prefix};

/// What leaves with it and arrives with it has passed no router.
const FULL_TTL: u8 = 255;

/// Of one neighbour.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    peer: IpAddr,
    /// The only way in and out.
    interface: Option<Interface>,
    keys: Option<Keys>,
    /// Of what we send; none: the kernel's choice.
    ttl: Option<u8>,
    /// Of what we take.
    least_ttl: Option<u8>,
    /// It may show that it sends with a full TTL, which is then the least: RFC 5082, section 3, asks not to require it of
    /// who may not know of it.
    learns: bool,
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
            keys: Keys::of(peer),
            ttl: peer.multihop.or(full),
            least_ttl,
            learns: external && least_ttl.is_none() && peer.multihop.is_none(),
        }
    }

    /// What keeps us from speaking with it at all, in words: the kernel does not have what is to authenticate it.
    pub fn obstacle(&self) -> Option<String> {
        let keys = self.keys.as_ref().filter(|keys| matches!(keys, Keys::TcpAo(_)))?;
        let tried = Socket::new(Domain::for_address((self.peer, 0).into()), Type::STREAM, None)
            .and_then(|socket| keys.call(&socket, Prefix::host(self.peer)));
        tried.err().map(|error| error.to_string())
    }

    /// Looks at the TTL of a call's first segment: whether it has to be full from now on.
    pub fn learn(&mut self, ttl: Option<u8>) -> bool {
        let learnt = self.is_learning() && ttl == Some(FULL_TTL);
        if learnt {
            self.least_ttl = Some(FULL_TTL);
        }
        learnt
    }

    /// What has to arrive with a TTL of it at least.
    pub fn least_ttl(&self) -> Option<u8> {
        self.least_ttl
    }

    /// Whether [`Guard::learn`] may find that a full TTL is to be required.
    pub fn is_learning(&self) -> bool {
        self.learns && self.least_ttl.is_none()
    }

    /// What it has shown counts no more.
    pub fn forget(&mut self) {
        if self.learns {
            self.least_ttl = None;
        }
    }

    /// Before we call.
    pub fn calling(&self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(keys) = &self.keys {
            keys.call(&*socket, Prefix::host(self.peer))?;
        }
        self.connected(&socket)
    }

    /// On a connection we accepted, whose first segment had this TTL; its listener had the keys.
    pub fn accepted(&self, socket: &SockRef<'_>, ttl: Option<u8>) -> io::Result<()> {
        if let (Some(ttl), Some(least)) = (ttl, self.least_ttl)
            && ttl < least
        {
            let why = match self.learns {
                true => {
                    "one before came with 255, and GTSM takes nothing else since: reset the session if it has changed, or set multihop"
                }
                false => {
                    "ttlSecurity takes nothing from so far: let the neighbour send with 255, or leave it out"
                }
            };
            return Err(io::Error::other(format!("its call came with a TTL of {ttl}; {why}")));
        }
        if let Some(keys) = &self.keys {
            keys.check(&**socket)?;
        }
        self.connected(socket)
    }

    fn connected(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(interface) = self.interface {
            socket
                .bind_device(Some(interface.as_str().as_bytes()))
                .map_err(|error| unbound(interface, error))?;
        }
        if let Some(ttl) = self.ttl {
            send_with(socket, self.peer, ttl)?;
        }
        self.require_ttl(&**socket)
    }

    /// On a connection that lives.
    pub fn require_ttl(&self, socket: &impl AsFd) -> io::Result<()> {
        self.least_ttl.map_or(Ok(()), |ttl| sockopt::least_ttl(socket, self.peer, ttl))
    }
}

/// The first segments of an accepted connection leave before it can be told whose it is, and those of its caller are here
/// by then.
pub(super) fn listening(socket: &Socket, address: IpAddr) -> io::Result<()> {
    sockopt::save_syns(socket)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc5082_an_external_neighbour_is_sent_the_full_ttl_and_an_internal_one_the_kernels() {
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

    #[test]
    fn rfc5082_a_full_ttl_is_required_of_a_direct_external_neighbour_that_has_shown_it() {
        let guard = |asn: u32, change: fn(&mut PeerConfig)| {
            let mut peer = PeerConfig::new("10.0.0.2".parse().unwrap(), Asn(asn));
            change(&mut peer);
            Guard::new(&peer, Asn(64512))
        };
        let mut direct = guard(65001, |_| {});
        assert!(![None, Some(1), Some(64), Some(254)].into_iter().any(|ttl| direct.learn(ttl)));
        assert!(direct.is_learning() && direct.learn(Some(255)));
        assert_eq!(
            (direct.least_ttl, direct.is_learning(), direct.learn(Some(255))),
            (Some(255), false, false)
        );
        direct.forget();
        assert_eq!((direct.least_ttl, direct.is_learning()), (None, true));
        for mut other in [guard(64512, |_| {}), guard(65001, |peer| peer.multihop = Some(255))] {
            assert!(!other.learn(Some(255)) && other.least_ttl.is_none());
        }
        let mut told = guard(65001, |peer| peer.ttl_security = Some(2));
        assert!(!told.learn(Some(255)));
        told.forget();
        assert_eq!(told.least_ttl, Some(254), "what is configured is not forgotten");
    }
}
