//! The kernel's instructions, and how they are written.

use super::attr::Frame;
use super::uapi::*;

/// A register as the kernel counts: 32-bit registers 0 to 15. The verdict has one of its own, which is never named.
pub type Register = u8;

/// One instruction of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// What is known of the packet besides its octets.
    Meta {
        /// What.
        key: MetaKey,
        /// Where to.
        register: Register,
    },
    /// Sets the packet's mark.
    SetMark {
        /// Where from.
        register: Register,
    },
    /// What is known of the connection.
    Ct {
        /// `enum nft_ct_keys`.
        key: u32,
        /// Where to.
        register: Register,
    },
    /// Octets of the packet.
    Payload {
        /// Counted from here.
        base: PayloadBase,
        /// Octets from there.
        offset: u32,
        /// Octets, 1 to 16.
        length: u32,
        /// Where to.
        register: Register,
    },
    /// Ends the rule unless it holds.
    Cmp {
        /// What is compared.
        register: Register,
        /// How.
        op: CmpOp,
        /// With what: as many octets as are compared.
        value: Vec<u8>,
    },
    /// `register = register & mask ^ xor`.
    Bitwise {
        /// Read and written.
        register: Register,
        /// As long as the value.
        mask: Vec<u8>,
        /// As long as the value.
        xor: Vec<u8>,
    },
    /// Ends the rule unless `from <= register <= to`, or if so.
    Range {
        /// What is compared.
        register: Register,
        /// Whether to end it if so.
        inverted: bool,
        /// The lower bound, inclusive.
        from: Vec<u8>,
        /// The upper bound, inclusive.
        to: Vec<u8>,
    },
    /// Ends the rule unless the set holds the registers' value; of a verdict map, does what the element says.
    Lookup {
        /// The set's name.
        set: String,
        /// The first register.
        register: Register,
        /// Whether this is a verdict map.
        is_map: bool,
        /// Whether to end it if so.
        inverted: bool,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Loads a value.
    Immediate {
        /// Where to.
        register: Register,
        /// What.
        value: Vec<u8>,
    },
    /// Counts. What it has counted is no part of the value.
    Counter,
    /// Counts by the table's counter of this name.
    CounterRef(String),
    /// Ends the rule when packets come faster.
    Limit {
        /// Packets a unit.
        rate: u64,
        /// Seconds.
        unit: u64,
        /// Packets at once, at least 1.
        burst: u32,
    },
    /// Hands the packet to the readers of an NFLOG group.
    Log {
        /// The group.
        group: u16,
        /// Said with it; at most 127 octets.
        prefix: String,
        /// Octets of the packet to hand on; 0 for all.
        snaplen: u32,
    },
    /// Drops, and says so to the sender.
    Reject {
        /// `enum nft_reject_types`.
        kind: u32,
        /// The ICMP code, or `enum nft_reject_inet_code`; none with a TCP reset.
        code: Option<u8>,
    },
    /// Keeps the packet out of connection tracking.
    Notrack,
    /// Source NAT to the address of the interface it leaves by.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Source NAT.
    Snat {
        /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
        family: u8,
        /// Holds the address.
        register: Register,
    },
    /// Asks the routing table.
    Fib {
        /// `enum nft_fib_result`.
        result: u32,
        /// `enum nft_fib_flags`.
        flags: u32,
        /// Where to.
        register: Register,
    },
    /// An instruction this program does not write: never equal to what it wants.
    Other(String),
}

/// `enum nft_meta_keys`, as far as used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum MetaKey {
    Mark = 3,
    Iif = 4,
    Oif = 5,
    IifName = 6,
    OifName = 7,
    NfProto = 15,
    L4Proto = 16,
}

impl MetaKey {
    /// All.
    pub const ALL: [Self; 7] =
        [Self::Mark, Self::Iif, Self::Oif, Self::IifName, Self::OifName, Self::NfProto, Self::L4Proto];
}

/// `enum nft_payload_bases`, as far as used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PayloadBase {
    /// The IP header.
    Network = 1,
    /// What comes behind it and its extension headers.
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum CmpOp {
    Eq = 0,
    Neq = 1,
    Lt = 2,
    Lte = 3,
    Gt = 4,
    Gte = 5,
}

impl CmpOp {
    /// All, by number.
    pub const ALL: [Self; 6] = [Self::Eq, Self::Neq, Self::Lt, Self::Lte, Self::Gt, Self::Gte];
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// On with the next base chain.
    Accept,
    /// Gone.
    Drop,
    /// Back to where the chain was jumped from.
    Return,
    /// On with the next rule.
    Continue,
    /// Into a chain, and back after it.
    Jump(String),
    /// Into a chain.
    Goto(String),
}

impl Verdict {
    /// The chain it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return | Self::Continue => None,
        }
    }

    /// Writes it as the value `kind`.
    pub(super) fn write(&self, frame: &mut Frame, kind: u16) {
        frame.nest(kind, |frame| {
            frame.nest(NFTA_DATA_VERDICT, |frame| {
                let code = match self {
                    Self::Accept => NF_ACCEPT,
                    Self::Drop => NF_DROP,
                    Self::Return => NFT_RETURN,
                    Self::Continue => NFT_CONTINUE,
                    Self::Jump(_) => NFT_JUMP,
                    Self::Goto(_) => NFT_GOTO,
                };
                frame.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = self.chain() {
                    frame.string(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    }
}

/// A 32-bit register's number: whole 128-bit registers are 1 to 4, the others 9 to 23.
pub(super) fn number(register: Register) -> u32 {
    match register % 4 {
        0 => 1 + u32::from(register / 4),
        _ => 8 + u32::from(register),
    }
}

/// Writes a value as the kernel's `nft_data`.
pub(super) fn data(frame: &mut Frame, kind: u16, value: &[u8]) {
    frame.nest(kind, |frame| frame.put(NFTA_DATA_VALUE, value));
}

impl Expr {
    /// The kernel's name of it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Range { .. } => "range",
            Self::Lookup { .. } => "lookup",
            Self::Verdict(_) | Self::Immediate { .. } => "immediate",
            Self::Counter => "counter",
            Self::CounterRef(_) => "objref",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Reject { .. } => "reject",
            Self::Notrack => "notrack",
            Self::Masquerade { .. } => "masq",
            Self::Snat { .. } => "nat",
            Self::Fib { .. } => "fib",
            Self::Other(name) => name,
        }
    }

    /// Writes it as an element of a rule's list.
    pub(super) fn write(&self, frame: &mut Frame) {
        frame.nest(NFTA_LIST_ELEM, |frame| {
            frame.string(NFTA_EXPR_NAME, self.name());
            frame.nest(NFTA_EXPR_DATA, |frame| self.write_data(frame));
        });
    }

    fn write_data(&self, frame: &mut Frame) {
        match self {
            Self::Meta { key, register } => {
                frame.be32(NFTA_META_KEY, *key as u32);
                frame.be32(NFTA_META_DREG, number(*register));
            }
            Self::SetMark { register } => {
                frame.be32(NFTA_META_KEY, MetaKey::Mark as u32);
                frame.be32(NFTA_META_SREG, number(*register));
            }
            Self::Ct { key, register } => {
                frame.be32(NFTA_CT_KEY, *key);
                frame.be32(NFTA_CT_DREG, number(*register));
            }
            Self::Payload { base, offset, length, register } => {
                frame.be32(NFTA_PAYLOAD_DREG, number(*register));
                frame.be32(NFTA_PAYLOAD_BASE, *base as u32);
                frame.be32(NFTA_PAYLOAD_OFFSET, *offset);
                frame.be32(NFTA_PAYLOAD_LEN, *length);
            }
            Self::Cmp { register, op, value } => {
                frame.be32(NFTA_CMP_SREG, number(*register));
                frame.be32(NFTA_CMP_OP, *op as u32);
                data(frame, NFTA_CMP_DATA, value);
            }
            Self::Bitwise { register, mask, xor } => {
                frame.be32(NFTA_BITWISE_SREG, number(*register));
                frame.be32(NFTA_BITWISE_DREG, number(*register));
                frame.be32(NFTA_BITWISE_LEN, mask.len() as u32);
                data(frame, NFTA_BITWISE_MASK, mask);
                data(frame, NFTA_BITWISE_XOR, xor);
            }
            Self::Range { register, inverted, from, to } => {
                frame.be32(NFTA_RANGE_SREG, number(*register));
                frame.be32(NFTA_RANGE_OP, u32::from(*inverted));
                data(frame, NFTA_RANGE_FROM_DATA, from);
                data(frame, NFTA_RANGE_TO_DATA, to);
            }
            Self::Lookup { set, register, is_map, inverted } => {
                frame.string(NFTA_LOOKUP_SET, set);
                frame.be32(NFTA_LOOKUP_SREG, number(*register));
                if *is_map {
                    frame.be32(NFTA_LOOKUP_DREG, 0);
                }
                if *inverted {
                    frame.be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
                }
            }
            Self::Verdict(verdict) => {
                frame.be32(NFTA_IMMEDIATE_DREG, 0);
                verdict.write(frame, NFTA_IMMEDIATE_DATA);
            }
            Self::Immediate { register, value } => {
                frame.be32(NFTA_IMMEDIATE_DREG, number(*register));
                data(frame, NFTA_IMMEDIATE_DATA, value);
            }
            Self::Counter | Self::Notrack | Self::Other(_) => {}
            Self::CounterRef(name) => {
                frame.be32(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER);
                frame.string(NFTA_OBJREF_IMM_NAME, name);
            }
            Self::Limit { rate, unit, burst } => {
                frame.be64(NFTA_LIMIT_RATE, *rate);
                frame.be64(NFTA_LIMIT_UNIT, *unit);
                frame.be32(NFTA_LIMIT_BURST, *burst);
                frame.be32(NFTA_LIMIT_TYPE, 0);
                frame.be32(NFTA_LIMIT_FLAGS, 0);
            }
            Self::Log { group, prefix, snaplen } => {
                frame.put(NFTA_LOG_GROUP, &group.to_be_bytes());
                frame.string(NFTA_LOG_PREFIX, prefix);
                if *snaplen > 0 {
                    frame.be32(NFTA_LOG_SNAPLEN, *snaplen);
                }
            }
            Self::Reject { kind, code } => {
                frame.be32(NFTA_REJECT_TYPE, *kind);
                if let Some(code) = code {
                    frame.put(NFTA_REJECT_ICMP_CODE, &[*code]);
                }
            }
            Self::Masquerade { flags } => {
                if *flags > 0 {
                    frame.be32(NFTA_MASQ_FLAGS, *flags);
                }
            }
            Self::Snat { family, register } => {
                frame.be32(NFTA_NAT_TYPE, 0);
                frame.be32(NFTA_NAT_FAMILY, u32::from(*family));
                frame.be32(NFTA_NAT_REG_ADDR_MIN, number(*register));
            }
            Self::Fib { result, flags, register } => {
                frame.be32(NFTA_FIB_DREG, number(*register));
                frame.be32(NFTA_FIB_RESULT, *result);
                frame.be32(NFTA_FIB_FLAGS, *flags);
            }
        }
    }
}
