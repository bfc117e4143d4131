//! The wire module as its users see it: captured vectors, properties, and RFC 7606 attribute by attribute.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod properties;
mod rfc7606;
mod vectors;

use bytes::BytesMut;
use manx_bgp::types::{Family, Prefix};
use manx_bgp::wire::{self, AddPath, Frame, Message, Nlri, Notification, Session};

/// Four-octet AS numbers and both families, with a neighbour in another AS.
fn ebgp() -> Session {
    Session {
        asn4: true,
        families: Family::ALL.to_vec(),
        ebgp: true,
        extended: false,
        add_path: AddPath::default(),
    }
}

fn prefixes(texts: &[&str]) -> Vec<Nlri> {
    texts.iter().map(|text| text.parse::<Prefix>().unwrap().into()).collect()
}

fn ibgp() -> Session {
    Session { ebgp: false, ..ebgp() }
}

/// Frames and parses one whole message.
fn read(message: &[u8], session: &Session) -> Result<Message, Notification> {
    let mut buffer = BytesMut::from(message);
    let frame: Frame = wire::frame(&mut buffer, session.max_message())?.expect("the message is whole");
    assert!(buffer.is_empty(), "{} octets are left", buffer.len());
    wire::parse(&frame, Some(session))
}

fn write(message: &Message, session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write(message, Some(session), &mut out).unwrap();
    out
}
