//! OPEN: RFC 4271, sections 4.2 and 6.2; optional parameters of RFC 5492, in either length (RFC 9072).

use std::net::Ipv4Addr;

use nom::Parser;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32};

use super::capability::{self, Capability};
use super::parse::{Parsed, WireError, all, every};
use super::{Notification, WriteError};
use crate::iana::{BGP_VERSION, parameter};
use crate::types::{AS_TRANS, Asn, RouterId};

/// RFC 4271, section 4.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS of the four-octet capability where there is one, else that of the fixed field. Never zero.
    pub asn: Asn,
    /// Seconds: 0 or at least 3 (anything else was refused by the parser).
    pub hold_time: u16,
    /// Never zero.
    pub router_id: RouterId,
    /// In the order sent; unknown ones kept.
    pub capabilities: Vec<Capability>,
}

/// The fixed part: version, AS, hold time, identifier, length of the optional parameters.
type Fixed = (u8, u16, u16, u32, u8);

pub(super) fn parse(body: &[u8]) -> Result<Open, Notification> {
    let (rest, (version, asn, hold_time, router_id, length)) =
        fixed(body).map_err(|_| Notification::malformed_open())?;
    if version != BGP_VERSION {
        return Err(Notification::unsupported_version());
    }
    let parameters = parameters(length, rest).map_err(|_| Notification::malformed_open())?;
    let mut capabilities = Vec::new();
    for (kind, value) in parameters {
        if kind != parameter::CAPABILITIES {
            return Err(Notification::unsupported_optional_parameter());
        }
        capabilities.extend(every(value, capability::parse).map_err(|_| Notification::malformed_open())?);
    }
    let asn4 = capabilities.iter().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    let asn = asn4.unwrap_or(Asn(asn.into()));
    if asn == Asn(0) {
        return Err(Notification::bad_peer_as());
    }
    if router_id == 0 {
        return Err(Notification::bad_bgp_identifier());
    }
    if matches!(hold_time, 1 | 2) {
        return Err(Notification::unacceptable_hold_time());
    }
    Ok(Open { asn, hold_time, router_id: RouterId(Ipv4Addr::from_bits(router_id)), capabilities })
}

fn fixed(input: &[u8]) -> Parsed<'_, Fixed> {
    (be_u8, be_u16, be_u16, be_u32, be_u8).parse(input)
}

/// Type and value of each optional parameter. RFC 9072, section 2: a first parameter of type 255 says
/// that its two-octet length, and those of all parameters, replace the one-octet ones.
fn parameters(length: u8, input: &[u8]) -> Result<Vec<(u8, &[u8])>, WireError<'_>> {
    if length != 0 && input.first() == Some(&parameter::EXTENDED_LENGTH) {
        let inside = all(&input[1..], length_data(be_u16))?;
        return every(inside, (be_u8, length_data(be_u16)));
    }
    if usize::from(length) != input.len() {
        return Err(WireError::Trailing(input));
    }
    every(input, (be_u8, length_data(be_u8)))
}

/// All capabilities go into one parameter, or into one each where they do not fit one octet's length;
/// RFC 9072's form is used only where that does not fit either.
pub(super) fn write(open: &Open, out: &mut Vec<u8>) -> Result<(), WriteError> {
    out.push(BGP_VERSION);
    let asn = u16::try_from(open.asn.0).unwrap_or(AS_TRANS.0 as u16);
    out.extend(asn.to_be_bytes());
    out.extend(open.hold_time.to_be_bytes());
    out.extend(open.router_id.0.octets());
    let mut value = Vec::new();
    for capability in &open.capabilities {
        capability::write(capability, &mut value);
    }
    match u8::try_from(value.len() + 2) {
        Ok(2) => out.push(0),
        Ok(length) => out.extend([length, parameter::CAPABILITIES, length - 2]),
        Err(_) => {
            let inner =
                u16::try_from(value.len()).map_err(|_| WriteError::TooLong { length: value.len() })?;
            out.extend([parameter::EXTENDED_LENGTH; 2]);
            out.extend(inner.saturating_add(3).to_be_bytes());
            out.push(parameter::CAPABILITIES);
            out.extend(inner.to_be_bytes());
        }
    }
    out.extend(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::types::Family;

    fn open(fixed: &[u8], parameters: &[u8]) -> Result<Open, Notification> {
        parse(&[fixed, parameters].concat())
    }

    #[test]
    fn rfc6793_the_four_octet_as_replaces_as_trans() {
        let open = open(&hex!("04 5ba0 005a 0a000001 08"), &hex!("02 06 41 04 0001 0000")).unwrap();
        assert_eq!(open.asn, Asn(65536));
        assert_eq!(open.capabilities, [Capability::FourOctetAs(Asn(65536))]);
    }

    #[test]
    fn rfc5492_capabilities_may_come_in_one_parameter_or_in_many() {
        let one = open(&hex!("04 fde9 005a 0a000001 0a"), &hex!("02 08 01 04 0001 00 01 02 00")).unwrap();
        let many =
            open(&hex!("04 fde9 005a 0a000001 0c"), &hex!("02 06 01 04 0001 00 01 02 02 02 00")).unwrap();
        assert_eq!(one.capabilities, [Capability::Multiprotocol(Family::Ipv4), Capability::RouteRefresh]);
        assert_eq!(one, many);
    }

    #[test]
    fn rfc_9072_extended_lengths_are_read_whatever_the_length_octet_says() {
        for length in [0xff, 0x04] {
            let mut fixed = hex!("04 fde9 005a 0a000001 00");
            fixed[9] = length;
            let open = open(&fixed, &hex!("ff 0005 02 0002 02 00")).unwrap();
            assert_eq!(open.capabilities, [Capability::RouteRefresh]);
        }
    }

    #[test]
    fn too_many_capabilities_for_one_octet_are_written_in_rfc_9072s_form() {
        let long = Capability::Unknown { code: 73, value: vec![7; 250] };
        let open = Open {
            asn: Asn(65001),
            hold_time: 90,
            router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
            capabilities: vec![long.clone(), Capability::RouteRefresh, long],
        };
        let mut out = Vec::new();
        write(&open, &mut out).unwrap();
        assert_eq!(out[9..11], [255, 255]);
        assert_eq!(parse(&out), Ok(open));
    }

    #[test]
    fn rfc4271_each_bad_field_has_its_subcode() {
        let subcode = |fixed: [u8; 10], parameters: &[u8]| {
            let notification = open(&fixed, parameters).unwrap_err();
            assert_eq!(notification.code, 2);
            notification.subcode
        };
        assert_eq!(subcode(hex!("03 fde9 005a 0a000001 00"), &[]), 1, "version");
        assert_eq!(subcode(hex!("04 0000 005a 0a000001 00"), &[]), 2, "AS 0 (RFC 7607)");
        let asn4_zero = hex!("02 06 41 04 0000 0000");
        assert_eq!(subcode(hex!("04 5ba0 005a 0a000001 08"), &asn4_zero), 2, "four-octet AS 0");
        assert_eq!(subcode(hex!("04 fde9 005a 00000000 00"), &[]), 3, "identifier 0");
        assert_eq!(subcode(hex!("04 fde9 005a 0a000001 03"), &hex!("01 01 00")), 4, "parameter 1");
        assert_eq!(subcode(hex!("04 fde9 0001 0a000001 00"), &[]), 6, "hold time 1");
        assert_eq!(subcode(hex!("04 fde9 0002 0a000001 00"), &[]), 6, "hold time 2");
        assert_eq!(subcode(hex!("04 fde9 005a 0a000001 01"), &[]), 0, "parameters shorter than said");
        assert_eq!(subcode(hex!("04 fde9 005a 0a000001 03"), &hex!("02 01 41")), 0, "capability cut");
    }

    #[test]
    fn hold_time_zero_is_good() {
        assert_eq!(open(&hex!("04 fde9 0000 0a000001 00"), &[]).unwrap().hold_time, 0);
    }
}
