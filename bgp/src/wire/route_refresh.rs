//! ROUTE-REFRESH: RFC 2918, RFC 7313.

use nom::combinator::map;
use nom::number::complete::{be_u8, be_u16};

use super::Notification;
use super::frame::{HEADER, MARKER};
use super::parse::all;
use crate::iana::{MessageType, refresh, safi};
use crate::types::Family;

/// RFC 2918; the subtype is RFC 7313's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address Family Identifier as sent: a family we do not speak is ignored by the session.
    pub afi: u16,
    /// One of [`crate::iana::refresh`]; others are ignored by the session.
    pub subtype: u8,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

impl RouteRefresh {
    /// Asks for all of `family` again.
    pub fn request(family: Family) -> Self {
        Self::of(family, refresh::REQUEST)
    }

    /// BoRR: all of `family` follows, and then [`RouteRefresh::end`].
    pub fn beginning(family: Family) -> Self {
        Self::of(family, refresh::BORR)
    }

    /// EoRR: all of `family` has been said since [`RouteRefresh::beginning`].
    pub fn end(family: Family) -> Self {
        Self::of(family, refresh::EORR)
    }

    fn of(family: Family, subtype: u8) -> Self {
        Self { afi: family.afi(), subtype, safi: safi::UNICAST }
    }

    /// The family meant, if it is one we speak.
    pub fn family(self) -> Option<Family> {
        Family::from_wire(self.afi, self.safi)
    }
}

pub(super) fn parse(body: &[u8]) -> Result<RouteRefresh, Notification> {
    let whole = map((be_u16, be_u8, be_u8), |(afi, subtype, safi)| RouteRefresh { afi, subtype, safi });
    all(body, whole).map_err(|_| {
        let length = (HEADER + body.len()) as u16;
        // RFC 7313, section 5, asks for the complete message where it defines the subtype.
        if matches!(body.get(2), Some(&(refresh::BORR | refresh::EORR))) {
            let message =
                [&MARKER[..], &length.to_be_bytes(), &[MessageType::RouteRefresh as u8], body].concat();
            Notification::invalid_refresh_length(&message)
        } else {
            Notification::bad_message_length(length)
        }
    })
}

pub(super) fn write(refresh: RouteRefresh, out: &mut Vec<u8>) {
    out.extend(refresh.afi.to_be_bytes());
    out.extend([refresh.subtype, refresh.safi]);
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn rfc2918_a_request_is_read_and_written() {
        let refresh = RouteRefresh::request(Family::Ipv6);
        let mut out = Vec::new();
        write(refresh, &mut out);
        assert_eq!(out, hex!("0002 00 01"));
        assert_eq!(parse(&out), Ok(refresh));
        assert_eq!(refresh.family(), Some(Family::Ipv6));
    }

    #[test]
    fn rfc7313_a_long_borr_is_7_1_with_the_whole_message_and_a_long_request_1_2() {
        let notification = parse(&hex!("0001 01 01 00")).unwrap_err();
        assert_eq!((notification.code, notification.subcode), (7, 1));
        assert_eq!(notification.data, hex!("ffffffffffffffffffffffffffffffff 0018 05 0001 01 01 00"));
        assert_eq!(parse(&hex!("0001 00 01 00")), Err(Notification::bad_message_length(24)));
        assert_eq!(parse(&hex!("0001 02")).unwrap_err().code, 7, "one that is too short as well");
        assert_eq!(parse(&hex!("0001")), Err(Notification::bad_message_length(21)));
    }
}
