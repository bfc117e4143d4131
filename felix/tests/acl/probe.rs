//! Packets of any protocol, each with a number, and raw sockets that hear them.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use manx_bgp::types::Family;
use socket2::{Domain, Protocol, Socket, Type};

/// Raw sockets that hear everything: protocols by family.
const HEARD: [(Family, [i32; 4]); 2] = [(Family::Ipv4, [6, 17, 132, 1]), (Family::Ipv6, [6, 17, 132, 58])];

/// Octets in front of the number that every packet carries.
const HEADER: usize = 20;

/// In front of the number: an ICMP error that quotes the packet has it elsewhere.
const MARK: &[u8] = b"manx";

/// Raw sockets of one namespace.
pub struct Ears(Vec<(Family, i32, Socket)>);

impl Ears {
    /// Of the calling thread's namespace.
    pub fn open() -> Self {
        let mut sockets = Vec::new();
        for (family, protocols) in HEARD {
            for protocol in protocols {
                let socket = raw(family, protocol);
                socket.set_nonblocking(true).unwrap();
                // Nobody listens while packets fly.
                socket.set_recv_buffer_size(4 << 20).unwrap();
                sockets.push((family, protocol, socket));
            }
        }
        Self(sockets)
    }

    /// The numbers of the packets that came.
    pub fn drain(&mut self) -> Vec<u32> {
        self.listen(0..=255, |_| 0)
    }

    /// The numbers of the packets that ICMP errors which came are about, and of no other packets.
    pub fn errors(&mut self) -> Vec<u32> {
        // The error's own header, and that of what it quotes.
        let quoted = |family| 8 + if family == Family::Ipv4 { 20 } else { 40 };
        [1, 58].into_iter().flat_map(|icmp| self.listen(icmp..=icmp, quoted)).collect()
    }

    /// The numbers of packets of these protocols, so many octets behind where they are in a [`Probe`].
    fn listen(&self, protocols: RangeInclusive<i32>, behind: impl Fn(Family) -> usize) -> Vec<u32> {
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        for (family, _, socket) in self.0.iter().filter(|(_, protocol, _)| protocols.contains(protocol)) {
            while let Ok(length) = { socket }.read(&mut buffer) {
                // Of IPv4 the header comes along.
                let start = if *family == Family::Ipv4 { 20 } else { 0 } + behind(*family) + HEADER;
                let rest = buffer[..length].get(start..).and_then(|rest| rest.strip_prefix(MARK));
                if let Some(number) = rest.and_then(<[u8]>::first_chunk) {
                    heard.push(u32::from_be_bytes(*number));
                }
            }
        }
        heard
    }
}

fn raw(family: Family, protocol: i32) -> Socket {
    let domain = match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    };
    Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap()
}

/// One packet: a header as TCP, UDP and SCTP begin, or an echo request, and its number.
#[derive(Clone, Debug)]
pub struct Probe {
    pub number: u32,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub port: u16,
}

impl Probe {
    /// From the calling thread's namespace.
    pub fn send(&self) {
        send(self.source, self.destination, self.protocol, &self.octets());
    }

    /// What follows the IP header.
    fn octets(&self) -> Vec<u8> {
        let mut octets = vec![0; HEADER];
        octets[..2].copy_from_slice(&self.source_port.to_be_bytes());
        octets[2..4].copy_from_slice(&self.port.to_be_bytes());
        match self.protocol {
            // A SYN of a header of 20 octets.
            6 => (octets[12], octets[13]) = (0x50, 2),
            17 => octets[4..6].copy_from_slice(&(HEADER as u16 + 8).to_be_bytes()),
            // Echo requests, told apart by their identifier.
            1 | 58 => {
                octets[..4].copy_from_slice(&[if self.protocol == 1 { 8 } else { 128 }, 0, 0, 0]);
                octets[4..6].copy_from_slice(&self.source_port.to_be_bytes());
            }
            _ => {}
        }
        octets.extend_from_slice(MARK);
        octets.extend_from_slice(&self.number.to_be_bytes());
        if self.protocol == 1 {
            let sum = checksum(&octets);
            octets[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        octets
    }

    /// It with its IP header, as an ICMP error quotes it.
    fn quoted(&self) -> Vec<u8> {
        let rest = self.octets();
        let mut octets = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = (20 + rest.len() as u16).to_be_bytes();
                let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 63, self.protocol, 0, 0];
                [&header[..], &source.octets(), &destination.octets()].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [high, low] = (rest.len() as u16).to_be_bytes();
                let header = [0x60, 0, 0, 0, high, low, self.protocol, 63];
                [&header[..], &source.octets(), &destination.octets()].concat()
            }
            _ => unreachable!("a packet is of one family"),
        };
        octets.extend(rest);
        octets
    }
}

/// An ICMP error, which says to the sender of a packet why it did not get on.
#[derive(Clone, Debug)]
pub struct Error {
    /// Who says so.
    pub source: IpAddr,
    /// Type and code, by the family.
    pub kind: (u8, u8),
    /// What it is about.
    pub about: Probe,
}

impl Error {
    /// From the calling thread's namespace.
    pub fn send(&self) {
        // The MTU, where the type has one: of ICMP in the last two octets, of ICMPv6 in all four.
        let mut octets = vec![self.kind.0, self.kind.1, 0, 0, 0, 0, 0x05, 0x78];
        octets.extend(self.about.quoted());
        if self.source.is_ipv4() {
            let sum = checksum(&octets);
            octets[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        send(self.source, self.about.source, if self.source.is_ipv4() { 1 } else { 58 }, &octets);
    }
}

fn send(source: IpAddr, destination: IpAddr, protocol: u8, octets: &[u8]) {
    let socket = raw(Family::of(destination), protocol.into());
    if socket.bind(&SocketAddr::new(source, 0).into()).is_err() {
        // Not there yet.
        return;
    }
    // A namespace without a way says so; then nothing comes, as with a packet that is dropped.
    let _ = socket.send_to(octets, &SocketAddr::new(destination, 0).into());
}

fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
