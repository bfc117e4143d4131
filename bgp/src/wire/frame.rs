//! Cuts whole messages off a stream and checks their headers: RFC 4271, sections 4.1 and 6.1.

use bytes::{Buf, Bytes, BytesMut};

use super::Notification;
use crate::iana::MessageType;

/// Octets of marker, length and type before every body.
pub const HEADER: usize = 19;

/// The longest message without RFC 8654, in octets; OPEN and KEEPALIVE never exceed it.
pub const MAX_MESSAGE: usize = 4096;

/// The longest message with RFC 8654, in octets.
pub const MAX_EXTENDED: usize = 65535;

/// The header's first sixteen octets.
pub(super) const MARKER: [u8; 16] = [0xff; 16];

/// One complete message whose header is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says it is.
    pub kind: MessageType,
    /// Everything behind the header.
    pub body: Bytes,
}

/// Takes the next message off `buffer`, or nothing while it is incomplete. `max` is the longest message
/// the session allows, in octets: [`MAX_MESSAGE`], or [`MAX_EXTENDED`] once negotiated.
///
/// # Errors
/// 1/1, 1/2 or 1/3, as soon as the header shows it; the stream is of no use after that.
pub fn frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, Notification> {
    let Some(header) = buffer.first_chunk::<HEADER>() else {
        // A stranger that speaks another protocol is told at once, not when 19 octets have come.
        let told = buffer.len().min(MARKER.len());
        return if buffer[..told] == MARKER[..told] {
            Ok(None)
        } else {
            Err(Notification::connection_not_synchronized())
        };
    };
    if header[..MARKER.len()] != MARKER {
        return Err(Notification::connection_not_synchronized());
    }
    let length = u16::from_be_bytes([header[16], header[17]]);
    let kind = MessageType::try_from(header[18]);
    let (least, most) = match kind {
        Ok(MessageType::Open) => (29, MAX_MESSAGE),
        Ok(MessageType::Keepalive) => (HEADER, HEADER),
        Ok(MessageType::Update) => (23, max),
        // What a wrong length is answered with depends on what is in it (RFC 7313, section 5).
        Ok(MessageType::RouteRefresh) => (HEADER, max),
        Ok(MessageType::Notification) => (21, max),
        Err(_) => (HEADER, max),
    };
    if !(least..=most).contains(&usize::from(length)) {
        return Err(Notification::bad_message_length(length));
    }
    let kind = kind.map_err(Notification::bad_message_type)?;
    if buffer.len() < usize::from(length) {
        return Ok(None);
    }
    let mut body = buffer.split_to(length.into()).freeze();
    body.advance(HEADER);
    Ok(Some(Frame { kind, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u16, kind: u8) -> BytesMut {
        let mut buffer = BytesMut::from(&MARKER[..]);
        buffer.extend(length.to_be_bytes());
        buffer.extend([kind]);
        buffer
    }

    fn refused(length: u16, kind: u8) -> Notification {
        frame(&mut header(length, kind), MAX_MESSAGE).unwrap_err()
    }

    #[test]
    fn messages_are_cut_off_one_by_one_and_the_rest_stays() {
        let mut buffer = header(19, 4);
        buffer.extend(header(24, 3));
        buffer.extend([6, 2, 0]);
        let kinds = |frame: Option<Frame>| frame.map(|frame| (frame.kind, frame.body.len()));
        assert_eq!(kinds(frame(&mut buffer, MAX_MESSAGE).unwrap()), Some((MessageType::Keepalive, 0)));
        assert_eq!(kinds(frame(&mut buffer, MAX_MESSAGE).unwrap()), None);
        buffer.extend([0, 0]);
        assert_eq!(kinds(frame(&mut buffer, MAX_MESSAGE).unwrap()), Some((MessageType::Notification, 5)));
        assert!(buffer.is_empty());
    }

    #[test]
    fn rfc4271_a_wrong_marker_is_1_1_with_the_first_octet_that_shows_it() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1"[..]);
        assert_eq!(frame(&mut buffer, MAX_MESSAGE), Err(Notification::connection_not_synchronized()));
        let mut buffer = header(19, 4);
        buffer[15] = 0xfe;
        assert_eq!(frame(&mut buffer, MAX_MESSAGE), Err(Notification::connection_not_synchronized()));
        assert_eq!(frame(&mut BytesMut::from(&[0xff; 16][..]), MAX_MESSAGE), Ok(None));
    }

    #[test]
    fn rfc4271_a_length_the_type_does_not_allow_is_1_2_with_that_length() {
        for (length, kind) in [(18, 4), (20, 4), (28, 1), (22, 2), (4097, 2), (20, 3), (18, 9)] {
            assert_eq!(refused(length, kind), Notification::bad_message_length(length), "{length} of {kind}");
        }
    }

    #[test]
    fn rfc8654_extended_messages_are_taken_where_negotiated_but_never_for_open() {
        assert_eq!(frame(&mut header(4097, 2), MAX_EXTENDED), Ok(None));
        assert_eq!(frame(&mut header(4097, 1), MAX_EXTENDED), Err(Notification::bad_message_length(4097)));
    }

    #[test]
    fn rfc4271_an_unknown_type_is_1_3_with_that_type() {
        assert_eq!(refused(19, 0), Notification::bad_message_type(0));
        assert_eq!(refused(23, 6), Notification::bad_message_type(6));
    }
}
