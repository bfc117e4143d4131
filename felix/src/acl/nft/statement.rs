//! A rule's parts as a person writes them: their text, and the instructions they become.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_bgp::types::Family;

use super::expr::{CmpOp, Expr, MetaKey, PayloadBase, Register, Verdict};
use super::show::unit_name;
use super::types::{Type, protocol_name};
use super::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What is asked of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `meta nfproto`: the family.
    NfProto,
    /// `meta l4proto`: the protocol behind the IP header and its extensions.
    L4Proto,
    /// `meta mark`.
    Mark,
    /// Nothing of the packet: this number, whatever its mark is. Beside a packet's fields it makes one set out of many.
    /// Not 0, for `nft` prints that as something else.
    Number(u32),
    /// The interface it came in by.
    IifName,
    /// The interface it leaves by.
    OifName,
    /// `ct state`.
    CtState,
    /// `ip saddr`, `ip6 saddr`.
    Saddr(Family),
    /// `ip daddr`, `ip6 daddr`.
    Daddr(Family),
    /// `th dport`: the port of a protocol that has them where TCP has them. The protocol is asked apart.
    ThDport,
    /// `tcp dport`, `udp dport`, `sctp dport`.
    Dport(u8),
    /// `icmp type`, `icmpv6 type`.
    IcmpType(Family),
    /// `fib saddr type`.
    FibSaddrType,
    /// `fib daddr type`.
    FibDaddrType,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// An ICMP or ICMPv6 error: administratively prohibited.
    AdminProhibited,
    /// A TCP reset; other packets go on.
    TcpReset,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// On only if the field has this value, or has not. An interface name shorter than 16 octets is a prefix.
    Cmp {
        /// What is compared.
        field: Field,
        /// `Eq` or `Neq`.
        op: CmpOp,
        /// As many octets as its type has.
        value: Vec<u8>,
    },
    /// On only if the address lies in the network, or does not.
    Network {
        /// `Saddr` or `Daddr`.
        field: Field,
        /// `Eq` or `Neq`.
        op: CmpOp,
        /// Of the field's family, without host bits.
        network: IpNetwork,
    },
    /// On only if the field lies between, both included.
    Range {
        /// What is compared; of network byte order.
        field: Field,
        /// The lower bound.
        from: Vec<u8>,
        /// The upper bound.
        to: Vec<u8>,
    },
    /// On only if the connection's state is one of these (`NF_CT_STATE_BIT`).
    CtState(u32),
    /// On only if `mark & mask == value`.
    MarkIs {
        /// The bits asked.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// Sets bits of the mark.
    MarkOr(u32),
    /// On only if the set holds the fields' values, or does not.
    Lookup {
        /// As the set's key.
        fields: Vec<Field>,
        /// Its name.
        set: String,
        /// Whether it must not.
        inverted: bool,
    },
    /// Does what the map says of the fields' values; on if it says nothing.
    Vmap {
        /// As the map's key.
        fields: Vec<Field>,
        /// Its name.
        map: String,
    },
    /// On only at this rate.
    Limit {
        /// Packets a unit.
        rate: u64,
        /// Seconds.
        unit: u64,
        /// Packets at once, at least 1.
        burst: u32,
    },
    /// Counts in the rule.
    Counter,
    /// Counts in the table's counter of this name.
    CounterRef(String),
    /// Tells the readers of an NFLOG group.
    Log {
        /// At most 127 octets.
        prefix: String,
        /// The group.
        group: u16,
        /// Octets of the packet; 0 for all.
        snaplen: u32,
    },
    /// Keeps it out of connection tracking.
    Notrack,
    /// Source NAT to the leaving interface's address, ports chosen at random.
    Masquerade,
    /// Source NAT to an address.
    Snat(IpAddr),
    /// Drops and says so.
    Reject(Reject),
    /// The end.
    Verdict(Verdict),
}

impl Field {
    /// The type of its values.
    pub fn kind(self) -> Type {
        match self {
            Self::NfProto => Type::NfProto,
            Self::L4Proto => Type::InetProto,
            Self::Mark | Self::Number(_) => Type::Mark,
            Self::IifName | Self::OifName => Type::IfName,
            Self::CtState => Type::CtState,
            Self::Saddr(Family::Ipv4) | Self::Daddr(Family::Ipv4) => Type::Ipv4Addr,
            Self::Saddr(Family::Ipv6) | Self::Daddr(Family::Ipv6) => Type::Ipv6Addr,
            Self::ThDport | Self::Dport(_) => Type::InetService,
            Self::IcmpType(Family::Ipv4) => Type::IcmpType,
            Self::IcmpType(Family::Ipv6) => Type::Icmpv6Type,
            Self::FibSaddrType | Self::FibDaddrType => Type::FibAddrType,
        }
    }

    /// The family and the protocol it speaks of.
    fn depends(self) -> (Option<Family>, Option<u8>) {
        match self {
            Self::Saddr(family) | Self::Daddr(family) => (Some(family), None),
            Self::Dport(protocol) => (None, Some(protocol)),
            Self::IcmpType(Family::Ipv4) => (Some(Family::Ipv4), Some(ICMP)),
            Self::IcmpType(Family::Ipv6) => (Some(Family::Ipv6), Some(ICMPV6)),
            _ => (None, None),
        }
    }

    fn load(self, register: Register) -> Expr {
        let meta = |key| Expr::Meta { key, register };
        let payload = |base, offset, length| Expr::Payload { base, offset, length, register };
        let fib = |flags| Expr::Fib { result: 3, flags, register };
        match self {
            Self::NfProto => meta(MetaKey::NfProto),
            Self::L4Proto => meta(MetaKey::L4Proto),
            Self::Mark | Self::Number(_) => meta(MetaKey::Mark),
            Self::IifName => meta(MetaKey::IifName),
            Self::OifName => meta(MetaKey::OifName),
            Self::CtState => Expr::Ct { key: 0, register },
            Self::Saddr(_) | Self::Daddr(_) => {
                payload(PayloadBase::Network, self.offset(), self.kind().length() as u32)
            }
            Self::ThDport | Self::Dport(_) => payload(PayloadBase::Transport, 2, 2),
            Self::IcmpType(_) => payload(PayloadBase::Transport, 0, 1),
            Self::FibSaddrType => fib(1),
            Self::FibDaddrType => fib(2),
        }
    }

    /// Of an address, in its header.
    fn offset(self) -> u32 {
        match self {
            Self::Saddr(Family::Ipv4) => 12,
            Self::Daddr(Family::Ipv4) => 16,
            Self::Saddr(Family::Ipv6) => 8,
            _ => 24,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NfProto => "meta nfproto",
            Self::L4Proto => "meta l4proto",
            Self::Mark => "meta mark",
            Self::Number(number) => return write!(f, "meta mark & {number:#010x} | {number:#010x}"),
            Self::IifName => "iifname",
            Self::OifName => "oifname",
            Self::CtState => "ct state",
            Self::Saddr(Family::Ipv4) => "ip saddr",
            Self::Daddr(Family::Ipv4) => "ip daddr",
            Self::Saddr(Family::Ipv6) => "ip6 saddr",
            Self::Daddr(Family::Ipv6) => "ip6 daddr",
            Self::ThDport => "th dport",
            Self::Dport(protocol) => {
                return write!(f, "{} dport", protocol_name(*protocol).unwrap_or("th"));
            }
            Self::IcmpType(Family::Ipv4) => "icmp type",
            Self::IcmpType(Family::Ipv6) => "icmpv6 type",
            Self::FibSaddrType => "fib saddr type",
            Self::FibDaddrType => "fib daddr type",
        })
    }
}

/// Instructions of one rule, and what it has asked already.
#[derive(Default)]
struct Lowering {
    exprs: Vec<Expr>,
    family: Option<Family>,
    protocol: Option<u8>,
}

impl Lowering {
    /// Asks for the family and the protocol a field speaks of, once a rule.
    fn depend(&mut self, field: Field) {
        let (family, protocol) = field.depends();
        if let Some(family) = family
            && self.family != Some(family)
        {
            self.cmp(Field::NfProto, CmpOp::Eq, vec![nfproto(family)]);
        }
        if let Some(protocol) = protocol
            && self.protocol != Some(protocol)
        {
            self.cmp(Field::L4Proto, CmpOp::Eq, vec![protocol]);
        }
    }

    fn cmp(&mut self, field: Field, op: CmpOp, value: Vec<u8>) {
        self.depend(field);
        match (field, op, value.first()) {
            (Field::NfProto, CmpOp::Eq, Some(&NFPROTO_IPV4)) => self.family = Some(Family::Ipv4),
            (Field::NfProto, CmpOp::Eq, Some(&NFPROTO_IPV6)) => self.family = Some(Family::Ipv6),
            (Field::L4Proto, CmpOp::Eq, protocol) => self.protocol = protocol.copied(),
            _ => {}
        }
        self.exprs.push(field.load(0));
        self.exprs.push(Expr::Cmp { register: 0, op, value });
    }

    /// Whole octets of a prefix are loaded alone; else the rest is masked.
    fn network(&mut self, field: Field, op: CmpOp, network: IpNetwork) {
        self.depend(field);
        let value = octets(network.network());
        let prefix = usize::from(network.prefix());
        let Expr::Payload { base, offset, .. } = field.load(0) else { return };
        let aligned = prefix % 8 == 0 && prefix > 0;
        let length = if aligned { prefix / 8 } else { value.len() };
        self.exprs.push(Expr::Payload { base, offset, length: length as u32, register: 0 });
        if !aligned {
            let mask = octets(network.mask());
            self.exprs.push(Expr::Bitwise { register: 0, xor: vec![0; mask.len()], mask });
        }
        self.exprs.push(Expr::Cmp { register: 0, op, value: value[..length].to_vec() });
    }

    fn lookup(&mut self, fields: &[Field], set: &str, is_map: bool, inverted: bool) {
        for field in fields {
            self.depend(*field);
        }
        let mut register = 0;
        for field in fields {
            self.exprs.push(field.load(register));
            if let Field::Number(number) = field {
                self.exprs.push(bitwise(register, 0, *number));
            }
            register += (field.kind().padded() / 4) as Register;
        }
        self.exprs.push(Expr::Lookup { set: set.to_owned(), register: 0, is_map, inverted });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Cmp { field, op, value } => self.cmp(*field, *op, value.clone()),
            Statement::Network { field, op, network } => self.network(*field, *op, *network),
            Statement::Range { field, from, to } => {
                self.depend(*field);
                self.exprs.push(field.load(0));
                self.exprs.push(Expr::Cmp { register: 0, op: CmpOp::Gte, value: from.clone() });
                self.exprs.push(Expr::Cmp { register: 0, op: CmpOp::Lte, value: to.clone() });
            }
            Statement::CtState(bits) => {
                let value = 0u32.to_ne_bytes().to_vec();
                self.exprs.push(Field::CtState.load(0));
                self.exprs.push(bitwise(0, *bits, 0));
                self.exprs.push(Expr::Cmp { register: 0, op: CmpOp::Neq, value });
            }
            Statement::MarkIs { mask, value } => {
                self.exprs.push(Field::Mark.load(0));
                self.exprs.push(bitwise(0, *mask, 0));
                let value = value.to_ne_bytes().to_vec();
                self.exprs.push(Expr::Cmp { register: 0, op: CmpOp::Eq, value });
            }
            Statement::MarkOr(bits) => {
                self.exprs.push(Field::Mark.load(0));
                self.exprs.push(bitwise(0, !bits, *bits));
                self.exprs.push(Expr::SetMark { register: 0 });
            }
            Statement::Lookup { fields, set, inverted } => self.lookup(fields, set, false, *inverted),
            Statement::Vmap { fields, map } => self.lookup(fields, map, true, false),
            Statement::Limit { rate, unit, burst } => {
                self.exprs.push(Expr::Limit { rate: *rate, unit: *unit, burst: *burst });
            }
            Statement::Counter => self.exprs.push(Expr::Counter),
            Statement::CounterRef(name) => self.exprs.push(Expr::CounterRef(name.clone())),
            Statement::Log { prefix, group, snaplen } => {
                self.exprs.push(Expr::Log { group: *group, prefix: prefix.clone(), snaplen: *snaplen });
            }
            Statement::Notrack => self.exprs.push(Expr::Notrack),
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            Statement::Masquerade => self.exprs.push(Expr::Masquerade { flags: 16 }),
            Statement::Snat(address) => {
                let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
                self.exprs.push(Expr::Immediate { register: 0, value: octets(*address) });
                self.exprs.push(Expr::Snat { family: nfproto(family), register: 0 });
            }
            Statement::Reject(Reject::AdminProhibited) => {
                self.exprs.push(Expr::Reject { kind: 2, code: Some(3) });
            }
            Statement::Reject(Reject::TcpReset) => {
                if self.protocol != Some(6) {
                    self.cmp(Field::L4Proto, CmpOp::Eq, vec![6]);
                }
                self.exprs.push(Expr::Reject { kind: 1, code: None });
            }
            Statement::Verdict(verdict) => self.exprs.push(Expr::Verdict(verdict.clone())),
        }
    }
}

fn bitwise(register: Register, mask: u32, xor: u32) -> Expr {
    Expr::Bitwise { register, mask: mask.to_ne_bytes().to_vec(), xor: xor.to_ne_bytes().to_vec() }
}

/// The instructions of a rule.
pub(super) fn lower(statements: &[Statement]) -> Vec<Expr> {
    let mut lowering = Lowering::default();
    for statement in statements {
        lowering.statement(statement);
    }
    lowering.exprs
}

fn nfproto(family: Family) -> u8 {
    match family {
        Family::Ipv4 => NFPROTO_IPV4,
        Family::Ipv6 => NFPROTO_IPV6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |op: &CmpOp| if *op == CmpOp::Neq { "!= " } else { "" };
        match self {
            Self::Cmp { field, op, value } => write!(f, "{field} {}{}", not(op), field.kind().show(value)),
            Self::Network { field, op, network } if is_host(network) => {
                write!(f, "{field} {}{}", not(op), network.ip())
            }
            Self::Network { field, op, network } => write!(f, "{field} {}{network}", not(op)),
            Self::Range { field, from, to } => match field.kind() {
                // nft names a single type but not the bounds of a range.
                Type::IcmpType | Type::Icmpv6Type => {
                    write!(f, "{field} {}-{}", from.first().unwrap_or(&0), to.first().unwrap_or(&0))
                }
                kind => write!(f, "{field} {}-{}", kind.show(from), kind.show(to)),
            },
            Self::CtState(bits) => write!(f, "ct state {}", Type::CtState.show(&bits.to_ne_bytes())),
            Self::MarkIs { mask, value } => write!(f, "meta mark & {mask:#010x} == {value:#010x}"),
            Self::MarkOr(bits) => write!(f, "meta mark set meta mark | {bits:#010x}"),
            Self::Lookup { fields, set, inverted } => {
                write!(f, "{} {}@{set}", concatenated(fields), if *inverted { "!= " } else { "" })
            }
            Self::Vmap { fields, map } => write!(f, "{} vmap @{map}", concatenated(fields)),
            Self::Limit { rate, unit, burst } => {
                write!(f, "limit rate {rate}/{}", unit_name(*unit))?;
                // nft leaves the kernel's default out.
                if *burst == 5 { Ok(()) } else { write!(f, " burst {burst} packets") }
            }
            Self::Counter => f.write_str("counter"),
            Self::CounterRef(name) => write!(f, "counter name \"{name}\""),
            Self::Log { prefix, group, snaplen } => {
                write!(f, "log prefix \"{prefix}\" group {group}")?;
                if *snaplen > 0 { write!(f, " snaplen {snaplen}") } else { Ok(()) }
            }
            Self::Notrack => f.write_str("notrack"),
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::Snat(address) => {
                write!(f, "snat {} to {address}", if address.is_ipv4() { "ip" } else { "ip6" })
            }
            Self::Reject(Reject::AdminProhibited) => f.write_str("reject with icmpx admin-prohibited"),
            Self::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

fn is_host(network: &IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

fn concatenated(fields: &[Field]) -> String {
    fields.iter().map(Field::to_string).collect::<Vec<_>>().join(" . ")
}
