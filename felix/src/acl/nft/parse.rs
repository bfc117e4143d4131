//! The kernel's instructions, read back.

use super::attr::Attributes;
use super::expr::{CmpOp, Expr, MetaKey, PayloadBase, Register, Verdict};
use super::uapi::*;

impl Verdict {
    /// Reads the value of an element or an immediate.
    pub(super) fn parse(data: Attributes<'_>) -> Option<Self> {
        let verdict = data.nested(NFTA_DATA_VERDICT);
        let chain = || verdict.string(NFTA_VERDICT_CHAIN).map(str::to_owned);
        match verdict.be32(NFTA_VERDICT_CODE)?.cast_signed() {
            NF_ACCEPT => Some(Self::Accept),
            NF_DROP => Some(Self::Drop),
            NFT_RETURN => Some(Self::Return),
            NFT_CONTINUE => Some(Self::Continue),
            NFT_JUMP => chain().map(Self::Jump),
            NFT_GOTO => chain().map(Self::Goto),
            _ => None,
        }
    }
}

impl Expr {
    /// Reads a rule's list. What is not ours to write becomes [`Expr::Other`].
    pub(super) fn parse_all(list: Attributes<'_>) -> Vec<Self> {
        list.iter()
            .filter(|(kind, _)| *kind == NFTA_LIST_ELEM)
            .map(|(_, element)| {
                let element = Attributes::new(element);
                let name = element.string(NFTA_EXPR_NAME).unwrap_or_default();
                Self::parse(name, element.nested(NFTA_EXPR_DATA))
                    .unwrap_or_else(|| Self::Other(name.to_owned()))
            })
            .collect()
    }

    fn parse(name: &str, data: Attributes<'_>) -> Option<Self> {
        Some(match name {
            "meta" => {
                let number = data.be32(NFTA_META_KEY)?;
                let key = MetaKey::ALL.into_iter().find(|key| *key as u32 == number)?;
                match data.be32(NFTA_META_SREG) {
                    Some(from) if key == MetaKey::Mark => Self::SetMark { register: register(from)? },
                    Some(_) => return None,
                    None => Self::Meta { key, register: register(data.be32(NFTA_META_DREG)?)? },
                }
            }
            "ct" if data.get(NFTA_CT_DIRECTION).is_none() => {
                Self::Ct { key: data.be32(NFTA_CT_KEY)?, register: register(data.be32(NFTA_CT_DREG)?)? }
            }
            "payload" => Self::Payload {
                base: match data.be32(NFTA_PAYLOAD_BASE)? {
                    1 => PayloadBase::Network,
                    2 => PayloadBase::Transport,
                    _ => return None,
                },
                offset: data.be32(NFTA_PAYLOAD_OFFSET)?,
                length: data.be32(NFTA_PAYLOAD_LEN)?,
                register: register(data.be32(NFTA_PAYLOAD_DREG)?)?,
            },
            "cmp" => Self::Cmp {
                register: register(data.be32(NFTA_CMP_SREG)?)?,
                op: *CmpOp::ALL.get(data.be32(NFTA_CMP_OP)? as usize)?,
                value: value(data, NFTA_CMP_DATA)?,
            },
            "bitwise" => {
                let register = register(data.be32(NFTA_BITWISE_SREG)?)?;
                let same = data.be32(NFTA_BITWISE_DREG) == data.be32(NFTA_BITWISE_SREG);
                let (mask, xor) = (value(data, NFTA_BITWISE_MASK)?, value(data, NFTA_BITWISE_XOR)?);
                return same.then_some(Self::Bitwise { register, mask, xor });
            }
            "range" => Self::Range {
                register: register(data.be32(NFTA_RANGE_SREG)?)?,
                inverted: data.be32(NFTA_RANGE_OP)? == 1,
                from: value(data, NFTA_RANGE_FROM_DATA)?,
                to: value(data, NFTA_RANGE_TO_DATA)?,
            },
            "lookup" => Self::Lookup {
                set: data.string(NFTA_LOOKUP_SET)?.to_owned(),
                register: register(data.be32(NFTA_LOOKUP_SREG)?)?,
                is_map: match data.be32(NFTA_LOOKUP_DREG) {
                    None => false,
                    Some(0) => true,
                    Some(_) => return None,
                },
                inverted: data.be32(NFTA_LOOKUP_FLAGS).unwrap_or(0) & NFT_LOOKUP_F_INV != 0,
            },
            "immediate" => match data.be32(NFTA_IMMEDIATE_DREG)? {
                0 => Self::Verdict(Verdict::parse(data.nested(NFTA_IMMEDIATE_DATA))?),
                to => Self::Immediate { register: register(to)?, value: value(data, NFTA_IMMEDIATE_DATA)? },
            },
            "counter" => Self::Counter,
            "objref" if data.be32(NFTA_OBJREF_IMM_TYPE) == Some(NFT_OBJECT_COUNTER) => {
                Self::CounterRef(data.string(NFTA_OBJREF_IMM_NAME)?.to_owned())
            }
            "limit" if data.be32(NFTA_LIMIT_TYPE) == Some(0) && data.be32(NFTA_LIMIT_FLAGS) == Some(0) => {
                Self::Limit {
                    rate: data.be64(NFTA_LIMIT_RATE)?,
                    unit: data.be64(NFTA_LIMIT_UNIT)?,
                    burst: data.be32(NFTA_LIMIT_BURST)?,
                }
            }
            "log" => Self::Log {
                group: data.be16(NFTA_LOG_GROUP)?,
                prefix: data.string(NFTA_LOG_PREFIX)?.to_owned(),
                snaplen: data.be32(NFTA_LOG_SNAPLEN).unwrap_or(0),
            },
            "reject" => {
                Self::Reject { kind: data.be32(NFTA_REJECT_TYPE)?, code: data.byte(NFTA_REJECT_ICMP_CODE) }
            }
            "notrack" => Self::Notrack,
            "masq" => Self::Masquerade { flags: data.be32(NFTA_MASQ_FLAGS).unwrap_or(0) },
            "nat" if data.be32(NFTA_NAT_TYPE) == Some(0) => Self::Snat {
                family: u8::try_from(data.be32(NFTA_NAT_FAMILY)?).ok()?,
                register: register(data.be32(NFTA_NAT_REG_ADDR_MIN)?)?,
            },
            "fib" => Self::Fib {
                result: data.be32(NFTA_FIB_RESULT)?,
                flags: data.be32(NFTA_FIB_FLAGS)?,
                register: register(data.be32(NFTA_FIB_DREG)?)?,
            },
            _ => return None,
        })
    }
}

/// The 32-bit register of a number.
fn register(number: u32) -> Option<Register> {
    match number {
        1..=4 => Some(((number - 1) * 4) as Register),
        8..=23 => Some((number - 8) as Register),
        _ => None,
    }
}

/// A value of the kernel's `nft_data`.
pub(super) fn value(data: Attributes<'_>, kind: u16) -> Option<Vec<u8>> {
    data.nested(kind).get(NFTA_DATA_VALUE).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::super::attr::Frame;
    use super::super::expr::number;
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9/-]{0,30}"
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 1..=16)
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            Just(Verdict::Accept),
            Just(Verdict::Drop),
            Just(Verdict::Return),
            Just(Verdict::Continue),
            name().prop_map(Verdict::Jump),
            name().prop_map(Verdict::Goto),
        ]
    }

    fn expr() -> impl Strategy<Value = Expr> {
        let register = || 0..16u8;
        let pair = || {
            octets()
                .prop_flat_map(|value| (Just(value.clone()), prop::collection::vec(any::<u8>(), value.len())))
        };
        prop_oneof![
            (0..MetaKey::ALL.len(), register())
                .prop_map(|(key, register)| Expr::Meta { key: MetaKey::ALL[key], register }),
            register().prop_map(|register| Expr::SetMark { register }),
            (0..24u32, register()).prop_map(|(key, register)| Expr::Ct { key, register }),
            (any::<bool>(), 0..256u32, 1..17u32, register()).prop_map(
                |(network, offset, length, register)| {
                    let base = if network { PayloadBase::Network } else { PayloadBase::Transport };
                    Expr::Payload { base, offset, length, register }
                }
            ),
            (register(), 0..6usize, octets()).prop_map(|(register, op, value)| Expr::Cmp {
                register,
                op: CmpOp::ALL[op],
                value
            }),
            (register(), pair()).prop_map(|(register, (mask, xor))| Expr::Bitwise { register, mask, xor }),
            (register(), any::<bool>(), pair()).prop_map(|(register, inverted, (from, to))| Expr::Range {
                register,
                inverted,
                from,
                to
            }),
            (name(), register(), any::<bool>(), any::<bool>()).prop_map(
                |(set, register, is_map, inverted)| { Expr::Lookup { set, register, is_map, inverted } }
            ),
            verdict().prop_map(Expr::Verdict),
            (register(), octets()).prop_map(|(register, value)| Expr::Immediate { register, value }),
            Just(Expr::Counter),
            name().prop_map(Expr::CounterRef),
            (1..1000u64, 1..3600u64, 1..100u32).prop_map(|(rate, unit, burst)| Expr::Limit {
                rate,
                unit,
                burst
            }),
            (any::<u16>(), name(), 0..256u32).prop_map(|(group, prefix, snaplen)| Expr::Log {
                group,
                prefix,
                snaplen
            }),
            (0..3u32, prop::option::of(0..16u8)).prop_map(|(kind, code)| Expr::Reject { kind, code }),
            Just(Expr::Notrack),
            (0..32u32).prop_map(|flags| Expr::Masquerade { flags }),
            (any::<bool>(), register()).prop_map(|(v4, register)| Expr::Snat {
                family: if v4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 },
                register
            }),
            (1..4u32, 0..64u32, register()).prop_map(|(result, flags, register)| Expr::Fib {
                result,
                flags,
                register
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_rule_is_read_back_as_written(rule in prop::collection::vec(expr(), 0..12)) {
            let mut frame = Frame::default();
            frame.nest(NFTA_RULE_EXPRESSIONS, |frame| rule.iter().for_each(|expr| expr.write(frame)));
            let read = Expr::parse_all(Attributes::new(frame.octets()).nested(NFTA_RULE_EXPRESSIONS));
            prop_assert_eq!(read, rule);
        }

        #[test]
        fn no_octets_harm_the_reader(octets in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
            Expr::parse_all(Attributes::new(&octets));
            let mut frame = Frame::default();
            Expr::Verdict(Verdict::Jump("x".to_owned())).write(&mut frame);
            let mut written = frame.octets().to_vec();
            written.truncate(cut);
            for (place, octet) in octets.iter().enumerate() {
                if let Some(old) = written.get_mut(place) {
                    *old ^= octet & 1;
                }
            }
            Expr::parse_all(Attributes::new(&written));
        }
    }

    #[test]
    fn registers_keep_their_numbers() {
        for first in 0..16 {
            assert_eq!(register(number(first)), Some(first));
        }
        assert_eq!((number(0), number(1), number(4), number(5)), (1, 9, 2, 13));
        assert_eq!([0, 5, 7, 24].map(register), [None; 4]);
    }
}
