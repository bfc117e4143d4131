//! Socket options of Linux that no crate here has: the keys of TCP MD5 signatures (RFC 2385) and of TCP-AO (RFC 5925),
//! the least TTL and that of a caller's first segment (RFC 5082). The only unsafe code of the crate.

#![allow(unsafe_code, reason = "setsockopt(2) and getsockopt(2) take a pointer")]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::api::{Secret, TcpAoAlgorithm, TcpAoKey};
use crate::types::Prefix;

/// The longest key, in octets: TCP_MD5SIG_MAXKEYLEN and TCP_AO_MAXKEYLEN of linux/tcp.h.
pub(super) const MAX_KEY: usize = 80;

/// IP_MINTTL of linux/in.h.
const IP_MINTTL: libc::c_int = 21;

/// IPV6_MINHOPCOUNT of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// TCP_MD5SIG_EXT of linux/tcp.h.
const TCP_MD5SIG_EXT: libc::c_int = 32;

/// TCP_MD5SIG_FLAG_PREFIX of linux/tcp.h: the prefix length counts.
const FLAG_PREFIX: u8 = 1;

/// TCP_AO_ADD_KEY of linux/tcp.h, from Linux 6.7 on, as the two that follow.
const TCP_AO_ADD_KEY: libc::c_int = 38;
const TCP_AO_DEL_KEY: libc::c_int = 39;
const TCP_AO_INFO: libc::c_int = 40;

/// The length of a code, in octets: the 96 bits of RFC 5926's algorithms.
const MAC_LENGTH: u8 = 12;

/// The bit fields set_current and set_rnext of struct tcp_ao_add: we sign with the key, and ask the peer to.
const SET_CURRENT_AND_RNEXT: u32 = if cfg!(target_endian = "little") { 0b11 } else { 0b11 << 30 };

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

/// struct tcp_ao_add of linux/tcp.h: 288 octets, none of them padding.
#[repr(C, align(8))]
struct AoAdd {
    address: [u8; 128],
    algorithm: [u8; 64],
    interface: i32,
    flags: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    recv_id: u8,
    mac_length: u8,
    key_flags: u8,
    key_length: u8,
    key: [u8; MAX_KEY],
}

/// struct tcp_ao_del of linux/tcp.h: 144 octets, none of them padding.
#[repr(C, align(8))]
struct AoDel {
    address: [u8; 128],
    interface: i32,
    flags: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    recv_id: u8,
    current_key: u8,
    rnext: u8,
    key_flags: u8,
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
// SAFETY: 128 + 64 + 4 + 4 + 2 + 6 + 80 octets, a multiple of 8, each field at a multiple of its alignment; a test
// counts them.
unsafe impl Plain for AoAdd {}
// SAFETY: 128 + 4 + 4 + 2 + 6 octets, a multiple of 8, each field at a multiple of its alignment; a test counts them.
unsafe impl Plain for AoDel {}

/// Requires signatures with this key on all segments from and to a peer, or all peers of a range; without one, no
/// more. Of several keys that of the longest range counts. Belongs on a socket before it calls, and on the listening
/// one: what it accepts inherits the key.
pub(super) fn sign(socket: &impl AsFd, peers: Prefix, key: Option<&Secret>) -> io::Result<()> {
    let key = key.map(Secret::reveal).unwrap_or_default().as_bytes();
    let mut option = Md5Signature {
        address: sockaddr(peers.addr()),
        flags: FLAG_PREFIX,
        prefix_length: peers.length(),
        key_length: key.len() as u16,
        interface: 0,
        key: [0; MAX_KEY],
    };
    option.key.get_mut(..key.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &option)
}

/// Whether a key is the one to begin with; on a listening socket none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Yes,
    No,
}

/// Requires a code made with this key, or another of theirs, on all segments from and to a peer, or all peers of a
/// range. Belongs where [`sign`] does.
pub(super) fn authenticate(
    socket: &impl AsFd,
    peers: Prefix,
    key: &TcpAoKey,
    first: First,
) -> io::Result<()> {
    let secret = key.secret.reveal().as_bytes();
    let name: &[u8] = match key.algorithm {
        TcpAoAlgorithm::HmacSha1 => b"hmac(sha1)",
        TcpAoAlgorithm::Aes128Cmac => b"cmac(aes128)",
    };
    let mut option = AoAdd {
        address: sockaddr(peers.addr()),
        algorithm: [0; 64],
        interface: 0,
        flags: if first == First::Yes { SET_CURRENT_AND_RNEXT } else { 0 },
        reserved: 0,
        prefix_length: peers.length(),
        send_id: key.send_id,
        recv_id: key.recv_id,
        mac_length: MAC_LENGTH,
        key_flags: 0,
        key_length: secret.len() as u8,
        key: [0; MAX_KEY],
    };
    option.algorithm[..name.len()].copy_from_slice(name);
    option.key.get_mut(..secret.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(secret);
    set(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &option)
}

/// Takes a key off a listening socket again.
pub(super) fn forget(socket: &impl AsFd, peers: Prefix, key: &TcpAoKey) -> io::Result<()> {
    let option = AoDel {
        address: sockaddr(peers.addr()),
        interface: 0,
        flags: 0,
        reserved: 0,
        prefix_length: peers.length(),
        send_id: key.send_id,
        recv_id: key.recv_id,
        current_key: 0,
        rnext: 0,
        key_flags: 0,
    };
    set(socket, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &option)
}

/// Whether a connection is one of TCP-AO: ENOENT, where it is not.
pub(super) fn is_authenticated(socket: &impl AsFd) -> io::Result<()> {
    // struct tcp_ao_info_opt, of which nothing is asked but that there is one.
    get(socket, libc::IPPROTO_TCP, TCP_AO_INFO, &mut [0; 48]).map(drop)
}

/// struct sockaddr_storage without a port.
fn sockaddr(address: IpAddr) -> [u8; 128] {
    let mut storage = [0; 128];
    let family = match address {
        IpAddr::V4(address) => {
            storage[4..8].copy_from_slice(&address.octets());
            libc::AF_INET
        }
        IpAddr::V6(address) => {
            storage[8..24].copy_from_slice(&address.octets());
            libc::AF_INET6
        }
    };
    storage[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
    storage
}

/// Has a listening socket keep the header of each caller's SYN, for [`syn_ttl`].
pub(super) fn save_syns(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &1)
}

/// The TTL or hop limit an accepted connection's SYN came with; none where the kernel has not kept it, as under a flood
/// of them.
pub(super) fn syn_ttl(socket: &impl AsFd) -> Option<u8> {
    // The IP and the TCP header with the most options each may have.
    let mut header = [0; 120];
    let length = get(socket, libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, &mut header).ok()?;
    let header = header.get(..length)?;
    match header.first()? >> 4 {
        4 => header.get(8).copied(),
        6 => header.get(7).copied(),
        _ => None,
    }
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

/// How many octets it gave.
fn get(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, buffer: &mut [u8]) -> io::Result<usize> {
    let descriptor = socket.as_fd();
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's life; the kernel reads and writes at most `length` octets of the
    // buffer, which is as long and has no other reader, and keeps no pointer to it.
    let status = unsafe {
        libc::getsockopt(
            descriptor.as_raw_fd(),
            level,
            name,
            buffer.as_mut_ptr().cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if status == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_as_the_kernel_lays_it_out() {
        assert_eq!(size_of::<Md5Signature>(), 216);
        assert_eq!(std::mem::offset_of!(Md5Signature, key), 136);
        assert_eq!((size_of::<AoAdd>(), size_of::<AoDel>()), (288, 144));
        assert_eq!(std::mem::offset_of!(AoAdd, prefix_length), 202);
        assert_eq!(std::mem::offset_of!(AoAdd, key), 208);
        assert_eq!(std::mem::offset_of!(AoDel, prefix_length), 138);
        assert_eq!(std::mem::offset_of!(AoDel, key_flags), 143);
    }

    /// Where the kernel has TCP-AO it takes the keys and gives them back; elsewhere it says so.
    #[test]
    fn rfc5925_keys_are_taken_or_refused_by_a_kernel_that_has_none() {
        let key = |id, algorithm| TcpAoKey {
            send_id: id,
            recv_id: id,
            algorithm,
            secret: Secret::from("k".repeat(MAX_KEY)),
        };
        let keys = [key(1, TcpAoAlgorithm::HmacSha1), key(255, TcpAoAlgorithm::Aes128Cmac)];
        for (bind, peers) in [("127.0.0.1:0", "127.0.0.0/8"), ("[::1]:0", "fd00::2/128")] {
            let listener = std::net::TcpListener::bind(bind).unwrap();
            let peers = peers.parse().unwrap();
            for key in &keys {
                match authenticate(&listener, peers, key, First::No) {
                    Ok(()) => forget(&listener, peers, key).unwrap(),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
                }
                assert!(forget(&listener, peers, key).is_err(), "there is none any more");
            }
            assert!(is_authenticated(&listener).is_err());
        }
    }

    #[test]
    fn rfc5082_the_ttl_of_a_callers_first_segment_is_known() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(bind).unwrap();
            save_syns(&listener).unwrap();
            let there = listener.local_addr().unwrap();
            let caller =
                socket2::Socket::new(socket2::Domain::for_address(there), socket2::Type::STREAM, None)
                    .unwrap();
            match there.ip() {
                IpAddr::V4(_) => caller.set_ttl_v4(77).unwrap(),
                IpAddr::V6(_) => caller.set_unicast_hops_v6(77).unwrap(),
            }
            caller.connect(&there.into()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(syn_ttl(&accepted), Some(77));
            assert_eq!(syn_ttl(&accepted), None, "it is kept until it is asked for");
        }
    }

    #[test]
    fn rfc2385_the_kernel_takes_keys_of_both_families_and_forgets_them_again() {
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
