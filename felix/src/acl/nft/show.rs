//! The kernel's instructions as libnftnl prints them (`nft --debug=netlink`).

use std::fmt;

use super::expr::{CmpOp, Expr, MetaKey, PayloadBase, Register, Verdict, number};

/// A value as 32-bit words of the machine's order.
struct Words<'a>(&'a [u8]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, octets) in self.0.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..octets.len()].copy_from_slice(octets);
            let space = if place > 0 { " " } else { "" };
            write!(f, "{space}{:#010x}", u32::from_ne_bytes(word))?;
        }
        Ok(())
    }
}

struct Reg(Register);

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reg {}", number(self.0))
    }
}

impl fmt::Display for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mark => "mark",
            Self::Iif => "iif",
            Self::Oif => "oif",
            Self::IifName => "iifname",
            Self::OifName => "oifname",
            Self::NfProto => "nfproto",
            Self::L4Proto => "l4proto",
        })
    }
}

impl fmt::Display for CmpOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eq => "eq",
            Self::Neq => "neq",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
        })
    }
}

/// As `nft list` prints it in a rule or an element.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Continue => f.write_str("continue"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[ ")?;
        match self {
            Self::Meta { key, register } => write!(f, "meta load {key} => {}", Reg(*register)),
            Self::SetMark { register } => write!(f, "meta set mark with {}", Reg(*register)),
            Self::Ct { key, register } => match key {
                0 => write!(f, "ct load state => {}", Reg(*register)),
                other => write!(f, "ct load {other} => {}", Reg(*register)),
            },
            Self::Payload { base, offset, length, register } => {
                let base = match base {
                    PayloadBase::Network => "network",
                    PayloadBase::Transport => "transport",
                };
                write!(f, "payload load {length}b @ {base} header + {offset} => {}", Reg(*register))
            }
            Self::Cmp { register, op, value } => {
                write!(f, "cmp {op} {} {}", Reg(*register), Words(value))
            }
            Self::Bitwise { register, mask, xor } => {
                let register = Reg(*register);
                write!(f, "bitwise {register} = ( {register} & {} ) ^ {}", Words(mask), Words(xor))
            }
            Self::Range { register, inverted, from, to } => {
                let op = if *inverted { "neq" } else { "eq" };
                write!(f, "range {op} {} {} {}", Reg(*register), Words(from), Words(to))
            }
            Self::Lookup { set, register, is_map, inverted } => {
                write!(f, "lookup {} set {set}", Reg(*register))?;
                f.write_str(if *is_map { " dreg 0" } else { "" })?;
                f.write_str(if *inverted { " 0x1" } else { "" })
            }
            Self::Verdict(verdict) => {
                f.write_str("immediate reg 0 ")?;
                match verdict {
                    Verdict::Jump(chain) => write!(f, "jump -> {chain}"),
                    Verdict::Goto(chain) => write!(f, "goto -> {chain}"),
                    other => write!(f, "{other}"),
                }
            }
            Self::Immediate { register, value } => write!(f, "immediate {} {}", Reg(*register), Words(value)),
            Self::Counter => f.write_str("counter pkts 0 bytes 0"),
            Self::CounterRef(name) => write!(f, "objref type 1 name {name}"),
            Self::Limit { rate, unit, burst } => {
                write!(f, "limit rate {rate}/{} burst {burst} type packets flags 0x0", unit_name(*unit))
            }
            Self::Log { group, prefix, snaplen } => {
                write!(f, "log prefix {prefix} group {group} snaplen {snaplen} qthreshold 0")
            }
            Self::Reject { kind, code } => write!(f, "reject type {kind} code {}", code.unwrap_or(0)),
            Self::Notrack => f.write_str("notrack"),
            Self::Masquerade { flags: 0 } => f.write_str("masq"),
            Self::Masquerade { flags } => write!(f, "masq flags {flags:#x}"),
            Self::Snat { family, register } => {
                let family = if *family == super::uapi::NFPROTO_IPV4 { "ip" } else { "ip6" };
                write!(f, "nat snat {family} addr_min {}", Reg(*register))
            }
            Self::Fib { result, flags, register } => {
                let names = [(1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")];
                let asked: Vec<_> =
                    names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
                let result = match result {
                    1 => "oif",
                    2 => "oifname",
                    _ => "type",
                };
                let present = if flags & 32 != 0 { " present" } else { "" };
                write!(f, "fib {} {result}{present} => {}", asked.join(" . "), Reg(*register))
            }
            Self::Other(name) => f.write_str(name),
        }?;
        f.write_str(" ]")
    }
}

/// A limit's unit of so many seconds.
pub(super) fn unit_name(seconds: u64) -> &'static str {
    match seconds {
        60 => "minute",
        3600 => "hour",
        86_400 => "day",
        604_800 => "week",
        _ => "second",
    }
}
