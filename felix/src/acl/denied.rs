//! Packets that were denied, as the kernel tells them (nfnetlink_log), and what they were denied by.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use manx_cni::netlink::{Datagram, Errno, refusal_of};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::compile::{self, NFLOG_GROUP};
use super::nft::attr::{Attributes, Frame};
use super::ruleset::{Direction, PolicyId, Protocol, Ruleset, Tier};

/// Of linux/netfilter/nfnetlink_log.h.
const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;

/// Octets of a packet to tell, and how long the kernel may gather packets, in hundredths of a second.
const COPY: u32 = 128;
const GATHER: u32 = 10;

/// Packets told a second over some time, and at once. The rules that tell them have limits of their own.
const RATE: u32 = 100;
const BURST: u32 = 500;

/// How often a silent listener looks whether anybody still listens to it, in seconds.
const PATIENCE: i64 = 1;

/// Largest datagram: what the kernel gathers is at most a page by default.
const DATAGRAM: usize = 256 * 1024;

/// A packet that was denied, or would have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// When it was told.
    pub time: Timestamp,
    /// What became of it.
    pub verdict: Denied,
    /// Which side denied it; none where no policy did.
    pub direction: Option<Direction>,
    /// Whose rule; none where no rule did.
    pub policy: Option<PolicyId>,
    /// Which of its rules: the index in `spec.ingress` or `spec.egress`.
    pub rule: Option<u16>,
    /// The NetworkPolicies that select the pod and none of which lets the packet pass.
    pub isolated_by: Vec<PolicyId>,
    /// Whence.
    pub source: IpAddr,
    /// Whither, after DNAT.
    pub destination: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Of TCP, UDP and SCTP.
    pub source_port: Option<u16>,
    /// Of TCP, UDP and SCTP.
    pub destination_port: Option<u16>,
    /// `namespace/name`, where it is known.
    pub source_pod: Option<String>,
    /// `namespace/name`, where it is known.
    pub destination_pod: Option<String>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Denied {
    /// Dropped by policy.
    Dropped,
    /// It would have been dropped, and was not: the policy is in audit mode.
    Audited,
    /// Dropped: its source is no address of the pod that sent it.
    Spoofed,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "dropped",
            Self::Audited => "audited",
            Self::Spoofed => "spoofed",
        })
    }
}

/// As the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What the rule said with it.
    pub prefix: String,
    /// When.
    pub time: Timestamp,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Option<(u16, u16)>,
}

impl Packet {
    /// Reads one NFULNL_MSG_PACKET; `None` where there is no IP header in it.
    fn parse(message: Attributes<'_>, time: Timestamp) -> Option<Self> {
        let prefix = message.string(NFULA_PREFIX)?.to_owned();
        let (source, destination, protocol, rest) = ip(message.get(NFULA_PAYLOAD)?)?;
        let has_ports =
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|known| known as u8).contains(&protocol);
        let port =
            |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
        let ports = if has_ports { port(0).zip(port(2)) } else { None };
        Some(Self { prefix, time, source, destination, protocol, ports })
    }

    /// Says what it was denied by, in terms of the ruleset that is in force.
    pub fn explain(self, ruleset: &Ruleset) -> Denial {
        let pod = |address| ruleset.endpoint_of(address).map(|(_, endpoint)| endpoint.pod.to_string());
        let mut denial = Denial {
            time: self.time,
            verdict: Denied::Spoofed,
            direction: None,
            policy: None,
            rule: None,
            isolated_by: Vec::new(),
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port: self.ports.map(|ports| ports.0),
            destination_port: self.ports.map(|ports| ports.1),
            source_pod: pod(self.source),
            destination_pod: pod(self.destination),
        };
        let mut words = self.prefix.splitn(3, ' ');
        denial.verdict = match words.next() {
            Some("deny") => Denied::Dropped,
            Some("audit") => Denied::Audited,
            _ => return denial,
        };
        denial.rule = words.next().and_then(|word| word.parse().ok());
        let chain = words.next().unwrap_or_default();
        if denial.rule.is_some() {
            denial.policy = find(chain, ruleset);
            denial.direction = denial.policy.as_ref().map(|policy| policy.direction);
            return denial;
        }
        let directions = [(Direction::Ingress, self.destination), (Direction::Egress, self.source)];
        for (direction, address) in directions {
            let Some((_, endpoint)) = ruleset.endpoint_of(address) else { continue };
            let of = match direction {
                Direction::Ingress => &endpoint.ingress,
                Direction::Egress => &endpoint.egress,
            };
            if compile::chain_name(direction, of) == chain {
                denial.direction = Some(direction);
                denial.isolated_by = of.network.iter().flat_map(|network| network.policies.clone()).collect();
            }
        }
        denial
    }
}

/// The policy of a chain's name, the other way round than [`compile::policy_name`].
fn find(chain: &str, ruleset: &Ruleset) -> Option<PolicyId> {
    let mut parts = chain.splitn(3, '/');
    let direction = match parts.next()? {
        "ingress" => Direction::Ingress,
        "egress" => Direction::Egress,
        _ => return None,
    };
    let tier = match parts.next()? {
        "admin" => Tier::Admin,
        "network" => Tier::Network,
        "baseline" => Tier::Baseline,
        _ => return None,
    };
    let told = PolicyId { tier, name: parts.next()?.into(), direction };
    if ruleset.policies.contains_key(&told) {
        return Some(told);
    }
    // A long name was cut.
    let cut = ruleset.policies.keys().find(|id| compile::policy_name(id) == chain);
    Some(cut.cloned().unwrap_or(told))
}

/// Source, destination, protocol, and what follows the headers; of a later fragment nothing follows.
fn ip(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let address4 = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
    let address6 = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    match packet.first()? >> 4 {
        4 => {
            let offset = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff;
            let header = usize::from(packet[0] & 15) * 4;
            let rest = if offset == 0 { packet.get(header..).unwrap_or_default() } else { &[] };
            Some((address4(12)?, address4(16)?, *packet.get(9)?, rest))
        }
        6 => {
            let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..).unwrap_or_default());
            // Hop-by-hop, routing, destination options; a fragment's header has a length of its own.
            while let (0 | 43 | 60 | 44, [following, length, offset, flags, ..]) = (next, rest) {
                let is_fragment = next == 44;
                let size = if is_fragment { 8 } else { 8 * (usize::from(*length) + 1) };
                let is_later = is_fragment && (*offset, flags & 0xf8) != (0, 0);
                (next, rest) =
                    (*following, if is_later { &[] } else { rest.get(size..).unwrap_or_default() });
            }
            Some((address6(8)?, address6(24)?, next, rest))
        }
        _ => None,
    }
}

/// Hears of denied packets. In one network namespace there can be only one.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
    tokens: f64,
    filled: Instant,
    untold: u64,
}

impl Listener {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket's; EBUSY when another program listens to our group.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        let mut frame = Frame::default();
        let kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
        frame.message(kind, NLM_F_REQUEST | NLM_F_ACK, 1, (0, NFLOG_GROUP), |frame| {
            frame.put(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
            let [a, b, c, d] = COPY.to_be_bytes();
            frame.put(NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
            frame.be32(NFULA_CFG_TIMEOUT, GATHER);
        });
        socket.send(frame.octets(), 0)?;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        socket.recv(&mut buffer, 0)?;
        for message in Datagram(&buffer) {
            let message = NetlinkBuffer::new_checked(message).map_err(io::Error::other)?;
            if message.message_type() == NLMSG_ERROR
                && let Some(refusal) = refusal_of(&message)
            {
                return Err(io::Error::from_raw_os_error(refusal.errno as i32));
            }
        }
        Ok(Self { socket, buffer, tokens: f64::from(BURST), filled: Instant::now(), untold: 0 })
    }

    /// Hands packets to `tell` until it takes no more or `alive` has gone.
    pub fn run(mut self, alive: &Weak<()>, tell: impl Fn(Packet) -> bool) {
        while alive.strong_count() > 0 {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                // More than the socket holds: counted in the table all the same.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => continue,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot hear of denied packets any more; they are still counted");
                    return;
                }
            }
            let now = Instant::now();
            self.refill(now.saturating_duration_since(self.filled));
            self.filled = now;
            for octets in Datagram(&self.buffer) {
                let is_packet = NetlinkBuffer::new_checked(octets)
                    .is_ok_and(|message| message.message_type() == NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET);
                let packet =
                    is_packet.then(|| Packet::parse(Attributes::of_message(octets), Timestamp::now()));
                let Some(packet) = packet.flatten() else { continue };
                if self.tokens < 1.0 {
                    self.untold += 1;
                    continue;
                }
                self.tokens -= 1.0;
                if !tell(packet) {
                    return;
                }
            }
        }
    }

    fn refill(&mut self, passed: Duration) {
        self.tokens = (self.tokens + passed.as_secs_f64() * f64::from(RATE)).min(f64::from(BURST));
        if self.untold > 0 && self.tokens >= 1.0 {
            tracing::info!(packets = self.untold, "more packets were denied than are told one by one");
            self.untold = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::ruleset::{Chain, Endpoint, Ifname, Mode, Network, Policy, Spoofing};
    use super::*;
    use proptest::prelude::*;

    /// An IPv4 header without options, and what follows.
    fn ipv4(protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend_from_slice(rest);
        packet
    }

    fn message(prefix: &str, payload: &[u8]) -> Frame {
        let mut frame = Frame::default();
        frame.message(NFNL_SUBSYS_ULOG << 8, 0, 0, (2, NFLOG_GROUP), |frame| {
            frame.put(NFULA_PAYLOAD, payload);
            frame.string(NFULA_PREFIX, prefix);
        });
        frame
    }

    fn told(prefix: &str, payload: &[u8]) -> Packet {
        let frame = message(prefix, payload);
        Packet::parse(Attributes::of_message(frame.octets()), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn ports_are_found_behind_the_headers() {
        let ports = [0x80, 0x01, 0x00, 0x50];
        assert_eq!(told("x", &ipv4(6, &ports)).ports, Some((0x8001, 80)));
        assert_eq!(told("x", &ipv4(1, &ports)).ports, None);
        assert_eq!(told("x", &ipv4(6, &[])).ports, None);
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
        packet.extend([0xfd; 32]);
        // Hop-by-hop options, a first fragment, UDP.
        packet.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([17, 0, 0, 1, 0, 0, 0, 0]);
        packet[6] = 0;
        let later = {
            let mut packet = packet.clone();
            packet[40 + 8 + 2] = 1;
            packet
        };
        packet.extend(ports);
        assert_eq!(told("x", &packet).ports, Some((0x8001, 80)));
        assert_eq!((told("x", &later).protocol, told("x", &later).ports), (17, None));
    }

    #[test]
    fn a_denial_names_the_rule_or_the_policies_that_isolate() {
        let id = |tier, name: &str| PolicyId { tier, name: name.into(), direction: Direction::Ingress };
        let (rule, isolating) =
            (id(Tier::Admin, "no-web"), id(Tier::Network, &format!("shop/{}", "x".repeat(253))));
        let network = Some(Network { policies: vec![isolating.clone()], otherwise: Mode::Enforce });
        let chain = Arc::new(Chain { admin: vec![rule.clone()], network, ..Chain::default() });
        let endpoint = Endpoint {
            pod: "shop/web".into(),
            addresses: [IpAddr::from([10, 0, 0, 2])].into(),
            spoofing: Spoofing::Denied,
            ingress: Arc::clone(&chain),
            egress: Arc::default(),
        };
        let mut ruleset = Ruleset::default();
        for id in [&rule, &isolating] {
            let policy = Policy { mode: Mode::Enforce, rules: vec![] };
            ruleset.policies.insert(id.clone(), Arc::new(policy));
        }
        ruleset.endpoints.insert(Ifname("manx1".into()), Arc::new(endpoint));
        let packet = ipv4(17, &[0, 1, 0, 53]);
        let explain = |prefix: String| told(&prefix, &packet).explain(&ruleset);

        let denial = explain(format!("deny 3 {}", compile::policy_name(&rule)));
        assert_eq!((denial.verdict, denial.policy, denial.rule), (Denied::Dropped, Some(rule), Some(3)));
        assert_eq!((denial.source_pod, denial.destination_pod), (None, Some("shop/web".to_owned())));

        let denial = explain(format!("audit 0 {}", compile::policy_name(&isolating)));
        assert_eq!((denial.verdict, denial.policy), (Denied::Audited, Some(isolating.clone())));

        let denial = explain(format!("deny - {}", compile::chain_name(Direction::Ingress, &chain)));
        assert_eq!((denial.direction, denial.isolated_by), (Some(Direction::Ingress), vec![isolating]));
        assert_eq!(explain("spoofed".to_owned()).verdict, Denied::Spoofed);
    }

    proptest! {
        #[test]
        fn no_packet_harms_the_reader(payload in prop::collection::vec(any::<u8>(), 0..160), first in any::<bool>()) {
            let mut payload = payload;
            if let Some(octet) = payload.first_mut() {
                *octet = if first { 0x60 } else { 0x45 };
            }
            let frame = message("deny 1 x", &payload);
            let _ = Packet::parse(Attributes::of_message(frame.octets()), Timestamp::UNIX_EPOCH);
        }
    }
}
