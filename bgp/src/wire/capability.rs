//! Capabilities: RFC 5492, section 4. One that cannot be read, or that we do not know, is kept as it is.

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::map;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u24, be_u32};

use super::parse::{Parsed, WireError, all, every};
use crate::iana::{capability as code, safi};
use crate::types::{Asn, Family};

/// RFC 5492.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// 1, RFC 4760.
    Multiprotocol(Family),
    /// 1 with an AFI/SAFI we do not speak.
    MultiprotocolOther {
        /// Address Family Identifier.
        afi: u16,
        /// Subsequent Address Family Identifier.
        safi: u8,
    },
    /// 2, RFC 2918.
    RouteRefresh,
    /// 5, RFC 8950: families that may have next hops of another, each with that other. Pairs we do not speak
    /// are left out.
    ExtendedNextHop(Vec<(Family, Family)>),
    /// 6, RFC 8654.
    ExtendedMessage,
    /// 64, RFC 4724.
    GracefulRestart {
        /// Restart State: this speaker has just restarted.
        restarting: bool,
        /// Notification flag, RFC 8538.
        notification: bool,
        /// Seconds, 0–4095.
        time: u16,
        /// Families, each with whether forwarding state was kept. Those we do not speak are left out.
        families: Vec<(Family, bool)>,
    },
    /// 65, RFC 6793.
    FourOctetAs(Asn),
    /// 69, RFC 7911: families, each with what the sender is able to do. Those we do not speak are left out.
    AddPath(Vec<(Family, SendReceive)>),
    /// 70, RFC 7313.
    EnhancedRouteRefresh,
    /// 71, RFC 9494. Families we do not speak are left out.
    LongLivedGracefulRestart(Vec<LongLived>),
    /// Any other, and those above with a value of the wrong length.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value; at most 255 octets.
        value: Vec<u8>,
    },
}

/// Which way several paths to a destination may go: RFC 7911, section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SendReceive {
    /// The speaker takes them.
    Receive = 1,
    /// It gives them.
    Send = 2,
    /// Either.
    Both = 3,
}

impl SendReceive {
    const ALL: [Self; 3] = [Self::Receive, Self::Send, Self::Both];

    /// None: neither.
    pub fn of(send: bool, receive: bool) -> Option<Self> {
        match (send, receive) {
            (false, false) => None,
            (false, true) => Some(Self::Receive),
            (true, false) => Some(Self::Send),
            (true, true) => Some(Self::Both),
        }
    }

    /// Whether the speaker gives them.
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    /// Whether it takes them.
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

/// What is promised of a family in RFC 9494's capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    /// Which.
    pub family: Family,
    /// Whether forwarding state was kept.
    pub forwarding: bool,
    /// Long-lived Stale Time, in seconds: 0–16,777,215.
    pub time: u32,
}

const RESTART_STATE: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
const FORWARDING_STATE: u8 = 0x80;

/// The field has three octets.
const MAX_LONG_LIVED: u32 = 0xff_ffff;

/// One capability.
pub(super) fn parse(input: &[u8]) -> Parsed<'_, Capability> {
    let (input, code) = be_u8(input)?;
    let (rest, value) = length_data(be_u8).parse(input)?;
    let known = known(code, value).unwrap_or_else(|_| Capability::Unknown { code, value: value.to_vec() });
    Ok((rest, known))
}

fn known(code: u8, value: &[u8]) -> Result<Capability, WireError<'_>> {
    let empty = |capability: Capability| all(value, map(take(0_usize), |_| capability.clone()));
    match code {
        code::MULTIPROTOCOL => all(value, multiprotocol),
        code::ROUTE_REFRESH => empty(Capability::RouteRefresh),
        code::EXTENDED_NEXT_HOP => extended_next_hop(value),
        code::EXTENDED_MESSAGE => empty(Capability::ExtendedMessage),
        code::GRACEFUL_RESTART => graceful_restart(value),
        code::FOUR_OCTET_AS => all(value, map(be_u32, |asn| Capability::FourOctetAs(Asn(asn)))),
        code::ADD_PATH => add_path(value),
        code::ENHANCED_ROUTE_REFRESH => empty(Capability::EnhancedRouteRefresh),
        code::LONG_LIVED_GRACEFUL_RESTART => long_lived(value),
        _ => Ok(Capability::Unknown { code, value: value.to_vec() }),
    }
}

fn multiprotocol(input: &[u8]) -> Parsed<'_, Capability> {
    map((be_u16, be_u8, be_u8), |(afi, _reserved, safi)| match Family::from_wire(afi, safi) {
        Some(family) => Capability::Multiprotocol(family),
        None => Capability::MultiprotocolOther { afi, safi },
    })
    .parse(input)
}

/// RFC 8950, section 4: the SAFI takes two octets here.
fn extended_next_hop(value: &[u8]) -> Result<Capability, WireError<'_>> {
    let pairs = every(value, (be_u16, be_u16, be_u16))?.into_iter().filter_map(|(afi, safi, next_hop)| {
        let family = Family::from_wire(afi, u8::try_from(safi).ok()?)?;
        Some((family, Family::from_wire(next_hop, safi::UNICAST)?))
    });
    Ok(Capability::ExtendedNextHop(pairs.collect()))
}

fn graceful_restart(value: &[u8]) -> Result<Capability, WireError<'_>> {
    let (rest, head) = be_u16(value).map_err(|_: nom::Err<WireError<'_>>| WireError::Short(value))?;
    let families = every(rest, (be_u16, be_u8, be_u8))?
        .into_iter()
        .filter_map(|(afi, safi, flags)| Some((Family::from_wire(afi, safi)?, flags & FORWARDING_STATE != 0)))
        .collect();
    Ok(Capability::GracefulRestart {
        restarting: head & RESTART_STATE != 0,
        notification: head & NOTIFICATION != 0,
        time: head & RESTART_TIME,
        families,
    })
}

/// RFC 7911, section 4: with any other value the capability is ignored as one not understood.
fn add_path(value: &[u8]) -> Result<Capability, WireError<'_>> {
    let mut families = Vec::new();
    for (afi, safi, direction) in every(value, (be_u16, be_u8, be_u8))? {
        let known = SendReceive::ALL.into_iter().find(|known| *known as u8 == direction);
        let known = known.ok_or_else(|| WireError::Value(format!("Send/Receive is {direction}")))?;
        families.extend(Family::from_wire(afi, safi).map(|family| (family, known)));
    }
    Ok(Capability::AddPath(families))
}

/// RFC 9494, section 3.1.
fn long_lived(value: &[u8]) -> Result<Capability, WireError<'_>> {
    let listed = every(value, (be_u16, be_u8, be_u8, be_u24))?;
    let known = listed.into_iter().filter_map(|(afi, safi, flags, time)| {
        let family = Family::from_wire(afi, safi)?;
        Some(LongLived { family, forwarding: flags & FORWARDING_STATE != 0, time })
    });
    Ok(Capability::LongLivedGracefulRestart(known.collect()))
}

/// One capability.
pub(super) fn write(capability: &Capability, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0, 0]);
    let code = match capability {
        Capability::Multiprotocol(family) => {
            write_multiprotocol(family.afi(), safi::UNICAST, out);
            code::MULTIPROTOCOL
        }
        Capability::MultiprotocolOther { afi, safi } => {
            write_multiprotocol(*afi, *safi, out);
            code::MULTIPROTOCOL
        }
        Capability::RouteRefresh => code::ROUTE_REFRESH,
        Capability::ExtendedNextHop(pairs) => {
            for (family, next_hop) in pairs {
                out.extend(family.afi().to_be_bytes());
                out.extend([0, safi::UNICAST]);
                out.extend(next_hop.afi().to_be_bytes());
            }
            code::EXTENDED_NEXT_HOP
        }
        Capability::ExtendedMessage => code::EXTENDED_MESSAGE,
        Capability::GracefulRestart { restarting, notification, time, families } => {
            let flag = |set: bool, bit: u16| if set { bit } else { 0 };
            let head =
                flag(*restarting, RESTART_STATE) | flag(*notification, NOTIFICATION) | (time & RESTART_TIME);
            out.extend(head.to_be_bytes());
            for (family, kept) in families {
                out.extend(family.afi().to_be_bytes());
                out.extend([safi::UNICAST, if *kept { FORWARDING_STATE } else { 0 }]);
            }
            code::GRACEFUL_RESTART
        }
        Capability::FourOctetAs(asn) => {
            out.extend(asn.0.to_be_bytes());
            code::FOUR_OCTET_AS
        }
        Capability::AddPath(families) => {
            for (family, direction) in families {
                out.extend(family.afi().to_be_bytes());
                out.extend([safi::UNICAST, *direction as u8]);
            }
            code::ADD_PATH
        }
        Capability::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
        Capability::LongLivedGracefulRestart(families) => {
            for LongLived { family, forwarding, time } in families {
                out.extend(family.afi().to_be_bytes());
                out.extend([safi::UNICAST, if *forwarding { FORWARDING_STATE } else { 0 }]);
                out.extend(&time.min(&MAX_LONG_LIVED).to_be_bytes()[1..]);
            }
            code::LONG_LIVED_GRACEFUL_RESTART
        }
        Capability::Unknown { code, value } => {
            out.extend(&value[..value.len().min(255)]);
            *code
        }
    };
    out[start] = code;
    out[start + 1] = (out.len() - start - 2) as u8;
}

fn write_multiprotocol(afi: u16, safi: u8, out: &mut Vec<u8>) {
    out.extend(afi.to_be_bytes());
    out.extend([0, safi]);
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn read(bytes: &[u8]) -> Capability {
        all(bytes, parse).unwrap()
    }

    #[test]
    fn next_hops_of_another_family_are_read_and_pairs_we_do_not_speak_left_out() {
        let bytes = hex!("05 12 0001 0001 0002  0001 0080 0002  0001 0001 0019");
        let known = Capability::ExtendedNextHop(vec![(Family::Ipv4, Family::Ipv6)]);
        assert_eq!(read(&bytes), known);
        let mut out = Vec::new();
        write(&known, &mut out);
        assert_eq!(out, hex!("05 06 0001 0001 0002"));
    }

    #[test]
    fn rfc7911_several_paths_are_read_family_by_family_and_refused_whole_with_a_value_that_is_not_defined() {
        let known =
            Capability::AddPath(vec![(Family::Ipv4, SendReceive::Both), (Family::Ipv6, SendReceive::Send)]);
        assert_eq!(read(&hex!("45 0c 0001 01 03  0001 80 01  0002 01 02")), known);
        let mut out = Vec::new();
        write(&known, &mut out);
        assert_eq!(out, hex!("45 08 0001 01 03  0002 01 02"));
        for bytes in
            [&hex!("45 04 0001 01 04")[..], &hex!("45 08 0001 01 01 0002 01 00"), &hex!("45 03 0001 01")]
        {
            assert!(matches!(read(bytes), Capability::Unknown { code: 69, .. }), "{bytes:?}");
        }
    }

    #[test]
    fn a_family_we_do_not_speak_is_kept() {
        assert_eq!(read(&hex!("01 04 0019 00 46")), Capability::MultiprotocolOther { afi: 25, safi: 70 });
    }

    #[test]
    fn graceful_restart_is_read_bit_by_bit() {
        let expected = Capability::GracefulRestart {
            restarting: true,
            notification: true,
            time: 120,
            families: vec![(Family::Ipv4, true), (Family::Ipv6, false)],
        };
        assert_eq!(read(&hex!("40 0a c078 0001 01 80 0002 01 00")), expected);
    }

    #[test]
    fn long_lived_graceful_restart_is_read_and_written_family_by_family() {
        let bytes = hex!("47 0e 0001 01 80 015180 0002 01 00 ffffff");
        let expected = Capability::LongLivedGracefulRestart(vec![
            LongLived { family: Family::Ipv4, forwarding: true, time: 86_400 },
            LongLived { family: Family::Ipv6, forwarding: false, time: MAX_LONG_LIVED },
        ]);
        assert_eq!(read(&bytes), expected);
        let mut out = Vec::new();
        write(&expected, &mut out);
        assert_eq!(out, bytes);
        assert_eq!(read(&hex!("47 00")), Capability::LongLivedGracefulRestart(vec![]));
        assert_eq!(read(&hex!("47 07 0019 46 80 000001")), Capability::LongLivedGracefulRestart(vec![]));
    }

    #[test]
    fn rfc5492_a_known_capability_of_the_wrong_length_is_kept_as_unknown_and_written_as_it_came() {
        for bytes in [&hex!("41 03 000001")[..], &hex!("02 01 00"), &hex!("40 03 000001"), &hex!("47 01 00")]
        {
            let capability = read(bytes);
            assert!(matches!(capability, Capability::Unknown { .. }), "{capability:?}");
            let mut out = Vec::new();
            write(&capability, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_capability_longer_than_its_parameter_is_an_error() {
        assert!(all(&hex!("41 04 0000"), parse).is_err());
    }
}
