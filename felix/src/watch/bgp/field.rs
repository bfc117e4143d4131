//! Values of single fields.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use manx_bgp::types::{Asn, Interface, Prefix};

use crate::model::Bad;

pub fn interface(field: &str, name: &str) -> Result<Interface, Bad> {
    name.parse().map_err(|error| Bad::new("InvalidInterface", format_args!("{field}: {error}")))
}

pub fn asn(field: &str, number: u32) -> Result<Asn, Bad> {
    if number == 0 {
        return Err(Bad::new(
            "InvalidASN",
            format_args!("{field}: 0 is reserved (RFC 7607), expected 1–4294967295"),
        ));
    }
    Ok(Asn(number))
}

pub fn port(field: &str, port: u16) -> Result<u16, Bad> {
    if port == 0 {
        return Err(Bad::new("InvalidPort", format_args!("{field}: 0 is not a port, expected 1–65535")));
    }
    Ok(port)
}

pub fn within<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<T, Bad> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (from, to) = range.into_inner();
    Err(Bad::new("OutOfRange", format_args!("{field}: {value} is not {from} to {to}")))
}

pub fn prefix(field: &str, text: &str) -> Result<Prefix, Bad> {
    let bad = |why: &dyn Display| Bad::new("InvalidCIDR", format_args!("{field}: \"{text}\" {why}"));
    let network: IpNetwork = text.parse().map_err(|_| bad(&"is no range, expected as in 10.0.0.0/8"))?;
    Prefix::try_from(network).map_err(|error| bad(&format_args!("is no range: {error}")))
}

pub fn parsed<S: AsRef<str>, T: FromStr<Err: Display>>(
    reason: &'static str,
    field: &str,
    texts: &[S],
) -> Result<Vec<T>, Bad> {
    let read = |text: &S| {
        let text = text.as_ref();
        text.parse().map_err(|error| Bad::new(reason, format_args!("{field}: \"{text}\": {error}")))
    };
    texts.iter().map(read).collect()
}
