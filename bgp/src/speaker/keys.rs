//! What authenticates a peer's segments: TCP MD5 signatures (RFC 2385) or TCP-AO (RFC 5925).

use std::io;
use std::os::fd::AsFd;

use nix::libc::{EEXIST, EKEYREJECTED, ENOENT, ENOMEM, ENOPROTOOPT};

use super::sockopt::{self, First};
use crate::api::{PeerConfig, Secret, TcpAoKey};
use crate::types::Prefix;

/// Of one peer, or of all in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// TCP MD5 signatures.
    Password(Secret),
    /// TCP-AO; not empty.
    TcpAo(Vec<TcpAoKey>),
}

impl Keys {
    /// As configured; none: segments are not authenticated.
    pub fn of(peer: &PeerConfig) -> Option<Self> {
        match &peer.password {
            Some(password) => Some(Self::Password(password.clone())),
            None => Some(Self::TcpAo(peer.tcp_ao.clone())).filter(|_| !peer.tcp_ao.is_empty()),
        }
    }

    /// On a socket before it calls.
    ///
    /// # Errors
    /// What the kernel lacks, in words.
    pub fn call(&self, socket: &impl AsFd, peer: Prefix) -> io::Result<()> {
        match self {
            Self::Password(password) => sockopt::sign(socket, peer, Some(password)),
            Self::TcpAo(keys) => keys.iter().enumerate().try_for_each(|(n, key)| {
                sockopt::authenticate(socket, peer, key, if n == 0 { First::Yes } else { First::No })
            }),
        }
        .map_err(|error| self.explain(error))
    }

    /// On a listening socket: what it accepts inherits them.
    ///
    /// # Errors
    /// What the kernel lacks, in words. Where that is TCP-AO, there is none: who needs it is not spoken with at all.
    pub fn listen(&self, socket: &impl AsFd, peers: Prefix) -> io::Result<()> {
        match self {
            Self::Password(password) => sockopt::sign(socket, peers, Some(password)),
            Self::TcpAo(keys) => keys
                .iter()
                .try_for_each(|key| sockopt::authenticate(socket, peers, key, First::No))
                .or_else(unless_missing),
        }
        .map_err(|error| self.explain(error))
    }

    /// On a listening socket that has them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget(&self, socket: &impl AsFd, peers: Prefix) -> io::Result<()> {
        match self {
            Self::Password(_) => sockopt::sign(socket, peers, None),
            Self::TcpAo(keys) => {
                keys.iter().try_for_each(|key| sockopt::forget(socket, peers, key)).or_else(unless_missing)
            }
        }
    }

    /// On a connection that was accepted. One that came before its listener had the keys is not authenticated, which
    /// the kernel tells of TCP-AO only.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, socket: &impl AsFd) -> io::Result<()> {
        match self {
            Self::Password(_) => Ok(()),
            Self::TcpAo(_) => sockopt::is_authenticated(socket).map_err(|error| match error.raw_os_error() {
                Some(ENOENT) => io::Error::other("the call came without TCP-AO (tcpAo)"),
                _ => self.explain(error),
            }),
        }
    }

    /// What may help.
    fn explain(&self, error: io::Error) -> io::Error {
        let why = match (self, error.raw_os_error()) {
            (Self::Password(_), Some(ENOPROTOOPT)) => {
                "this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG), which a password needs"
            }
            (Self::TcpAo(_), Some(ENOPROTOOPT)) => {
                "this kernel has no TCP-AO (CONFIG_TCP_AO, Linux 6.7 or later), which tcpAo needs: no session is opened without it"
            }
            (Self::TcpAo(_), Some(ENOENT)) => {
                "this kernel lacks the algorithm of a key of tcpAo (CONFIG_CRYPTO_HMAC and _SHA1, or _CMAC and _AES)"
            }
            (Self::TcpAo(_), Some(EEXIST)) => {
                "a range that holds the same address has another key of the same sendId or recvId: give it others"
            }
            (_, Some(EKEYREJECTED)) => "the kernel has keys of the other kind for this address",
            (_, Some(ENOMEM)) => {
                "the kernel has no room for more keys on one socket: raise net.core.optmem_max"
            }
            _ => return error,
        };
        io::Error::other(why)
    }
}

fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(ENOPROTOOPT) { Ok(()) } else { Err(error) }
}
