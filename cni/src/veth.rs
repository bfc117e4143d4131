//! The pod's interface: a veth, its far end born in the pod's namespace.
//!
//! ```text
//!   pod    eth0      10.0.0.5/32, fd00::5/128         default via 169.254.1.1, fe80::1
//!            │       neighbours 169.254.1.1, fe80::1 = ee:ee:ee:ee:ee:ee   (permanent)
//!   node   manx…     fe80::1/64, ee:ee:ee:ee:ee:ee
//!                    neighbours 10.0.0.5, fd00::5 = the pod's MAC          (permanent)
//! ```
//!
//! Both ends know the other's MAC from the start: no ARP, no neighbour discovery, no proxy_arp, and
//! nothing to wait for before the first packet. It takes three sends: the pair, a batch in the pod, a batch
//! on the node.
//!
//! Nearly all the kernel does here it does under one lock of the whole machine, so what counts with many pods at once is
//! how often that is asked for. Writing `disable_ipv6` is worse: the kernel does not wait for the lock there but has
//! the caller try again at once, and while a dozen do, nobody gets on. It is written only where it must be.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator, Parseable,
};
use nix::libc::IFLA_LINK;

use crate::message::{End, Message};
use crate::netlink::{Errno, Netlink, NetlinkError, Refusal, Request};
use crate::netns::{Netns, NetnsError};
use crate::protocol::{Attach, GATEWAY_V4, GATEWAY_V6};

/// MAC of every host end. One locally administered address for all, so that a pod's neighbour entries hold
/// whatever happens on the node, and set by us, so that udev's MACAddressPolicy leaves it alone. Each veth is a
/// link of its own: nobody ever sees two.
pub const HOST_MAC: [u8; 6] = [0xee; 6];

/// A veth made by [`create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Veth {
    /// Interface index of the host's end.
    pub host_ifindex: u32,
    /// MAC of the pod's end.
    pub pod_mac: [u8; 6],
}

/// Why a veth was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// A name is taken, in the pod or on the node.
    #[error("interface {0} exists already{1}")]
    Exists(String, &'static str),
    /// The kernel refused one step.
    #[error("cannot {step}: {source}")]
    Refused {
        /// What was to be done.
        step: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// A setting could not be written.
    #[error("cannot write {value} to {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// The file's error.
        source: io::Error,
    },
    /// The pod's namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[from] io::Error),
}

/// Makes the veth `attach` describes, with its far end in `netns` as `ifname` and with `pod_mac`, up and addressed on
/// both sides.
///
/// # Errors
/// [`VethError`]; nothing is left behind.
pub fn create(attach: &Attach, netns: &Netns, ifname: &str, pod_mac: [u8; 6]) -> Result<Veth, VethError> {
    let mut host = Netlink::open()?;
    if attach.replaces {
        delete_by(&mut host, &attach.host_ifname)?;
    }
    let made = create_pair(&mut host, attach, netns, ifname, pod_mac)?;
    let finished = finish(&mut host, made, attach, netns, ifname, pod_mac).inspect_err(|_| {
        // The failure that made us give up is the one to tell; DEL finds the interface by its name.
        let _ = delete_by(&mut host, &attach.host_ifname);
    });
    finished.map(|()| Veth { host_ifindex: made.index, pod_mac })
}

/// Removes the veth whose host end is called `host_ifname`, both ends. None there is success.
///
/// # Errors
/// [`VethError::Refused`] or [`VethError::Open`].
pub fn delete(host_ifname: &str) -> Result<(), VethError> {
    delete_by(&mut Netlink::open()?, host_ifname)
}

fn delete_by(host: &mut Netlink, host_ifname: &str) -> Result<(), VethError> {
    match host.request::<Link>((Message::del_link(host_ifname), 0)) {
        Err(NetlinkError::Refused(Refusal { errno: Errno::ENODEV, .. })) | Ok(_) => Ok(()),
        Err(source) => Err(VethError::Refused { step: format!("remove {host_ifname}"), source }),
    }
}

/// Makes the pair, both ends down, and returns the host's, which NLM_F_ECHO has the kernel tell.
fn create_pair(
    host: &mut Netlink,
    attach: &Attach,
    netns: &Netns,
    ifname: &str,
    pod_mac: [u8; 6],
) -> Result<Link, VethError> {
    let near = End { ifname: &attach.host_ifname, mtu: attach.mtu, mac: HOST_MAC };
    let far = End { ifname, mtu: attach.mtu, mac: pod_mac };
    let veth = Message::new_veth(near, far, netns.file().as_fd());
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
    let replies: Vec<Link> = match host.request((veth, flags)) {
        Ok(replies) => replies,
        Err(NetlinkError::Refused(Refusal { errno: Errno::EEXIST, .. })) => {
            return Err(if find(host, &attach.host_ifname)?.is_some() {
                VethError::Exists(attach.host_ifname.clone(), " on the node: this attachment was made before")
            } else {
                VethError::Exists(ifname.to_owned(), " in the pod's network namespace")
            });
        }
        Err(source) => {
            return Err(VethError::Refused { step: format!("make {}", attach.host_ifname), source });
        }
    };
    let told = replies.first().copied();
    let link = told.map_or_else(|| find(host, &attach.host_ifname), |link| Ok(Some(link)))?;
    link.ok_or_else(|| refused(&format!("find {}", attach.host_ifname), Errno::ENODEV))
}

/// All that comes after the pair exists.
fn finish(
    host: &mut Netlink,
    made: Link,
    attach: &Attach,
    netns: &Netns,
    ifname: &str,
    pod_mac: [u8; 6],
) -> Result<(), VethError> {
    let has_v6 = attach.addresses.iter().any(IpAddr::is_ipv6);
    // The socket and /proc/sys/net both belong to the namespace of the thread that opens them.
    let mut pod = netns.run(|| {
        if has_v6 {
            // A runtime may have IPv6 off by default in new namespaces.
            enable_ipv6("lo")?;
            enable_ipv6(ifname)?;
            write_sysctl("ipv6", ifname, "accept_ra", "0")?;
        }
        Netlink::open().map_err(VethError::from)
    })??;
    let peer = made.peer.ok_or_else(|| refused(&format!("find {ifname}"), Errno::ENODEV))?;
    run(&mut pod, pod_steps(peer, attach, ifname))?;
    let knows_v6 = fs::exists("/proc/sys/net/ipv6").unwrap_or_default();
    // What a pod may send from is for the packet filter to say, which knows those that may send from anything; here it
    // only has to have a way back.
    write_sysctl("ipv4", &attach.host_ifname, "rp_filter", "2")?;
    if has_v6 {
        enable_ipv6(&attach.host_ifname)?;
    }
    if knows_v6 {
        // A pod must not be able to give the node a route.
        write_sysctl("ipv6", &attach.host_ifname, "accept_ra", "0")?;
    }
    run(host, host_steps(made, pod_mac, attach, has_v6, knows_v6))
}

/// Turns IPv6 on where it is off.
fn enable_ipv6(ifname: &str) -> Result<(), VethError> {
    let key = "disable_ipv6";
    match fs::read(sysctl("ipv6", ifname, key)) {
        Ok(value) if value.trim_ascii() == b"0" => Ok(()),
        _ => write_sysctl("ipv6", ifname, key, "0"),
    }
}

fn sysctl(family: &str, ifname: &str, key: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{ifname}/{key}")
}

fn write_sysctl(family: &str, ifname: &str, key: &str, value: &'static str) -> Result<(), VethError> {
    let path = sysctl(family, ifname, key);
    fs::write(&path, value).map_err(|source| VethError::Sysctl { path, value, source })
}

/// A message of a batch and what it is for, in words that follow "cannot".
struct Step {
    what: String,
    request: Request<Message>,
}

/// Sends all steps at once; the first refused is the error.
fn run(socket: &mut Netlink, steps: Vec<Step>) -> Result<(), VethError> {
    let (words, requests): (Vec<_>, Vec<_>) = steps.into_iter().map(|step| (step.what, step.request)).unzip();
    match socket.batch(requests) {
        Ok(refused) => refused.into_iter().next().map_or(Ok(()), |(place, refusal)| {
            Err(VethError::Refused { step: words[place].clone(), source: refusal.into() })
        }),
        Err(source) => Err(VethError::Refused { step: "set up the interface".to_owned(), source }),
    }
}

fn pod_steps(index: u32, attach: &Attach, ifname: &str) -> Vec<Step> {
    const LOOPBACK: u32 = 1; // LOOPBACK_IFINDEX
    let up = |index| (Message::up(index), 0);
    let mut steps = vec![
        Step { what: "bring up lo in the pod".to_owned(), request: up(LOOPBACK) },
        Step { what: format!("bring up {ifname} in the pod"), request: up(index) },
    ];
    for &address in &attach.addresses {
        steps.push(address_step(index, IpNetwork::from(address), ifname));
        steps.push(neighbour_step(index, gateway_of(address), HOST_MAC, ifname));
        // An IPv6 gateway is link-local and so on-link as it is; the IPv4 one is made so.
        if address.is_ipv4() {
            steps.push(route_step(index, IpNetwork::from(IpAddr::V4(GATEWAY_V4)), None, ifname));
        }
    }
    for &route in &attach.routes {
        steps.push(route_step(index, route, Some(gateway_of(route.ip())), ifname));
    }
    steps
}

fn host_steps(made: Link, pod_mac: [u8; 6], attach: &Attach, has_v6: bool, knows_v6: bool) -> Vec<Step> {
    let (index, ifname) = (made.index, &attach.host_ifname);
    // Before it is up: no address but ours, and for a pod without IPv6 none at all.
    let no_address = knows_v6.then(|| Step {
        what: format!("keep {ifname} from making itself an address"),
        request: (Message::no_address(index), 0),
    });
    let up = Step { what: format!("bring up {ifname}"), request: (Message::up(index), 0) };
    let gateway = has_v6
        .then(|| IpNetwork::new(GATEWAY_V6.into(), 64).ok())
        .flatten()
        .map(|gateway| address_step(index, gateway, ifname));
    let neighbours = attach.addresses.iter().map(|&address| neighbour_step(index, address, pod_mac, ifname));
    // The pod's end was up first, without a carrier. What is sent there is dropped until the kernel comes to see that it
    // has one now; asked for the link, it sees to it at once.
    let carrier = made.netns.zip(made.peer).map(|(netns, peer)| Step {
        what: "see that the pod's end has a carrier".to_owned(),
        request: (Message::get_link_in(netns, peer), 0),
    });
    no_address.into_iter().chain([up]).chain(gateway).chain(neighbours).chain(carrier).collect()
}

fn address_step(index: u32, address: IpNetwork, ifname: &str) -> Step {
    Step {
        what: format!("give {ifname} the address {address}"),
        request: (Message::new_address(index, address), NLM_F_CREATE | NLM_F_EXCL),
    }
}

fn neighbour_step(index: u32, address: IpAddr, mac: [u8; 6], ifname: &str) -> Step {
    Step {
        what: format!("set the neighbour {address} of {ifname}"),
        request: (Message::new_neighbour(index, address, mac), NLM_F_CREATE | NLM_F_REPLACE),
    }
}

fn route_step(index: u32, destination: IpNetwork, gateway: Option<IpAddr>, ifname: &str) -> Step {
    Step {
        what: format!("route {destination} to {ifname} in the pod"),
        request: (Message::new_route(index, destination, gateway), NLM_F_CREATE | NLM_F_EXCL),
    }
}

/// The gateway of a pod's address or route.
pub fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// Of linux/if_link.h.
const IFLA_LINK_NETNSID: u16 = 37;

/// What the kernel says of a veth, as far as it matters here.
#[derive(Clone, Copy)]
struct Link {
    index: u32,
    /// Index of the other end, in its own namespace.
    peer: Option<u32>,
    /// The number of that namespace in the one asked.
    netns: Option<u32>,
}

impl Parseable<[u8]> for Link {
    fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        // struct ifinfomsg; the index is its second word.
        let (header, attributes) = body.split_first_chunk::<16>().ok_or("a link shorter than its header")?;
        let index = header[4..].first_chunk().copied().map_or(0, u32::from_ne_bytes);
        let (mut peer, mut netns) = (None, None);
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            let number = || attribute.value().try_into().ok().map(u32::from_ne_bytes);
            match attribute.kind() {
                IFLA_LINK => peer = number(),
                IFLA_LINK_NETNSID => netns = number(),
                _ => {}
            }
        }
        Ok(Self { index, peer, netns })
    }
}

/// The interface called `ifname` where `socket` was opened; `None` when there is none.
fn find(socket: &mut Netlink, ifname: &str) -> Result<Option<Link>, VethError> {
    match socket.request((Message::get_link(ifname), 0)) {
        Ok(replies) => Ok(replies.first().copied()),
        Err(NetlinkError::Refused(Refusal { errno: Errno::ENODEV, .. })) => Ok(None),
        Err(source) => Err(VethError::Refused { step: format!("look for {ifname}"), source }),
    }
}

fn refused(step: &str, errno: Errno) -> VethError {
    let source = Refusal { errno, message: String::new() }.into();
    VethError::Refused { step: step.to_owned(), source }
}
