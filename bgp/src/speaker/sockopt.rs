//! Two socket options of Linux that no crate here has: the keys of TCP MD5 signatures (RFC 2385) and the
//! least TTL (RFC 5082). The only unsafe code of the crate.

#![allow(unsafe_code, reason = "setsockopt(2) takes a pointer")]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::api::Secret;
use crate::types::Prefix;

/// The longest key, in octets: TCP_MD5SIG_MAXKEYLEN of linux/tcp.h.
pub(super) const MAX_KEY: usize = 80;

/// IP_MINTTL of linux/in.h.
const IP_MINTTL: libc::c_int = 21;

/// IPV6_MINHOPCOUNT of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// TCP_MD5SIG_EXT of linux/tcp.h.
const TCP_MD5SIG_EXT: libc::c_int = 32;

/// TCP_MD5SIG_FLAG_PREFIX of linux/tcp.h: the prefix length counts.
const FLAG_PREFIX: u8 = 1;

/// struct tcp_md5sig of linux/tcp.h: 216 octets, none of them padding.
#[repr(C)]
struct Md5Signature {
    /// struct sockaddr_storage, of which the port does not count.
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; MAX_KEY],
}

/// Types the kernel may read octet by octet.
///
/// # Safety
/// Without padding.
unsafe trait Plain {}

// SAFETY: an integer has no padding.
unsafe impl Plain for libc::c_int {}
// SAFETY: 128 + 1 + 1 + 2 + 4 + 80 octets, each field at a multiple of its alignment; a test counts them.
unsafe impl Plain for Md5Signature {}

/// Requires signatures with this key on all segments from and to a peer, or all peers of a range; without one, no
/// more. Of several keys that of the longest range counts. Belongs on a socket before it calls, and on the listening
/// one: what it accepts inherits the key.
pub(super) fn sign(socket: &impl AsFd, peers: Prefix, key: Option<&Secret>) -> io::Result<()> {
    let key = key.map(Secret::reveal).unwrap_or_default().as_bytes();
    let mut option = Md5Signature {
        address: [0; 128],
        flags: FLAG_PREFIX,
        prefix_length: peers.length(),
        key_length: key.len() as u16,
        interface: 0,
        key: [0; MAX_KEY],
    };
    option.key.get_mut(..key.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(key);
    let (family, at, octets) = match peers.addr() {
        IpAddr::V4(address) => (libc::AF_INET, 4, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 8, address.octets().to_vec()),
    };
    option.address[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
    option.address[at..at + octets.len()].copy_from_slice(&octets);
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &option)
}

/// Drops what arrives with a lower TTL or hop limit.
pub(super) fn least_ttl(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let (level, name) = match peer {
        IpAddr::V4(_) => (libc::IPPROTO_IP, IP_MINTTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    };
    set(socket, level, name, &libc::c_int::from(ttl))
}

fn set<T: Plain>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let descriptor = socket.as_fd();
    // SAFETY: the descriptor is open for the borrow's life; the kernel reads size_of::<T>() octets of a
    // value without padding and keeps no pointer to it.
    let status = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_as_the_kernel_lays_it_out() {
        assert_eq!(size_of::<Md5Signature>(), 216);
        assert_eq!(std::mem::offset_of!(Md5Signature, key), 136);
    }

    #[test]
    fn the_kernel_takes_keys_of_both_families_and_forgets_them_again() {
        let key = Secret::from("k".repeat(MAX_KEY));
        for (bind, peers) in
            [("127.0.0.1:0", ["127.0.0.2/32", "127.0.0.0/8"]), ("[::1]:0", ["fd00::2/128", "fd00::/64"])]
        {
            let listener = std::net::TcpListener::bind(bind).unwrap();
            let peers = peers.map(|prefix| prefix.parse::<Prefix>().unwrap());
            for peers in peers {
                sign(&listener, peers, Some(&key)).unwrap();
            }
            for peers in peers {
                sign(&listener, peers, None).unwrap();
                assert!(sign(&listener, peers, None).is_err(), "there is none any more");
            }
            least_ttl(&listener, peers[0].addr(), 255).unwrap();
        }
    }
}
