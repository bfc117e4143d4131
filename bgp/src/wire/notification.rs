//! NOTIFICATION: RFC 4271, sections 4.5 and 6; its subcodes as named constructors, each with the data
//! its RFC asks for, and the words for people.

use std::fmt;

use super::Capability;
use super::capability;
use crate::iana::{BGP_VERSION, MessageType, error, safi};
use crate::types::Family;

/// RFC 4271, section 4.5; built by its named constructors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What the RFC asks for with that subcode.
    pub data: Vec<u8>,
}

/// A shutdown communication has at most this many octets of UTF-8 (RFC 9003, section 2).
const MAX_COMMUNICATION: usize = 255;

const MAXIMUM_PREFIXES: u8 = 1;
const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
const PEER_DECONFIGURED: u8 = 3;
const ADMINISTRATIVE_RESET: u8 = 4;
const HARD_RESET: u8 = 9;
const BFD_DOWN: u8 = 10;

/// Message header errors: RFC 4271, section 6.1.
impl Notification {
    /// 1/1: the marker is not all ones.
    pub fn connection_not_synchronized() -> Self {
        Self::bare(error::MESSAGE_HEADER, 1)
    }

    /// 1/2: the length is outside what the type allows; the data is that length.
    pub fn bad_message_length(length: u16) -> Self {
        Self::with(error::MESSAGE_HEADER, 2, length.to_be_bytes())
    }

    /// 1/3: no such type; the data is that type.
    pub fn bad_message_type(kind: u8) -> Self {
        Self::with(error::MESSAGE_HEADER, 3, [kind])
    }
}

/// OPEN errors: RFC 4271, section 6.2.
impl Notification {
    /// 2/0: the OPEN cannot be read at all (RFC 5492, section 4: malformed optional parameters too).
    pub fn malformed_open() -> Self {
        Self::bare(error::OPEN, 0)
    }

    /// 2/1: the data is the version we speak.
    pub fn unsupported_version() -> Self {
        Self::with(error::OPEN, 1, u16::from(BGP_VERSION).to_be_bytes())
    }

    /// 2/2: the AS is not the one configured, or is zero (RFC 7607).
    pub fn bad_peer_as() -> Self {
        Self::bare(error::OPEN, 2)
    }

    /// 2/3: the identifier is zero, or ours from an internal neighbour (RFC 6286).
    pub fn bad_bgp_identifier() -> Self {
        Self::bare(error::OPEN, 3)
    }

    /// 2/4: an optional parameter that is not Capabilities.
    pub fn unsupported_optional_parameter() -> Self {
        Self::bare(error::OPEN, 4)
    }

    /// 2/6: one or two seconds.
    pub fn unacceptable_hold_time() -> Self {
        Self::bare(error::OPEN, 6)
    }

    /// 2/7: the neighbour lacks these, which we cannot do without (RFC 5492, section 5).
    pub fn unsupported_capability(wanted: &[Capability]) -> Self {
        let mut data = Vec::new();
        for capability in wanted {
            capability::write(capability, &mut data);
        }
        Self::with(error::OPEN, 7, data)
    }
}

/// UPDATE errors that still end a session after RFC 7606. Where the data is an attribute, it is the
/// whole of it: flags, type, length and value.
impl Notification {
    /// 3/1: the lengths contradict each other, or MP_REACH_NLRI or MP_UNREACH_NLRI is there twice.
    pub fn malformed_attribute_list() -> Self {
        Self::bare(error::UPDATE, 1)
    }

    /// 3/2: a well-known attribute we do not know.
    pub fn unrecognized_well_known_attribute(attribute: &[u8]) -> Self {
        Self::with(error::UPDATE, 2, attribute)
    }

    /// 3/9: an MP_REACH_NLRI or MP_UNREACH_NLRI that cannot be read (RFC 4760, section 7).
    pub fn optional_attribute(attribute: &[u8]) -> Self {
        Self::with(error::UPDATE, 9, attribute)
    }

    /// 3/10: withdrawn routes or NLRI that cannot be read.
    pub fn invalid_network_field() -> Self {
        Self::bare(error::UPDATE, 10)
    }
}

/// Timers and the FSM: RFC 4271, sections 6.5 and 6.6; RFC 6608; RFC 9687.
impl Notification {
    /// 4/0.
    pub fn hold_timer_expired() -> Self {
        Self::bare(error::HOLD_TIMER, 0)
    }

    /// 8/0: the neighbour has not taken a byte for the send hold time.
    pub fn send_hold_timer_expired() -> Self {
        Self::bare(error::SEND_HOLD_TIMER, 0)
    }

    /// 5/1: the data is the type received.
    pub fn unexpected_in_open_sent(kind: MessageType) -> Self {
        Self::with(error::FSM, 1, [kind as u8])
    }

    /// 5/2: the data is the type received.
    pub fn unexpected_in_open_confirm(kind: MessageType) -> Self {
        Self::with(error::FSM, 2, [kind as u8])
    }

    /// 5/3: the data is the type received.
    pub fn unexpected_in_established(kind: MessageType) -> Self {
        Self::with(error::FSM, 3, [kind as u8])
    }
}

/// Cease: RFC 4486, RFC 8538, RFC 9003, RFC 9384.
impl Notification {
    /// 6/1: more than `limit` prefixes of `family`.
    pub fn maximum_prefixes(family: Family, limit: u32) -> Self {
        let mut data = family.afi().to_be_bytes().to_vec();
        data.push(safi::UNICAST);
        data.extend(limit.to_be_bytes());
        Self::with(error::CEASE, MAXIMUM_PREFIXES, data)
    }

    /// 6/2, with a text for the neighbour's operator (cut at 255 octets; empty: none).
    pub fn administrative_shutdown(text: &str) -> Self {
        Self::with(error::CEASE, ADMINISTRATIVE_SHUTDOWN, communication(text))
    }

    /// 6/3: the neighbour is no longer configured.
    pub fn peer_deconfigured() -> Self {
        Self::bare(error::CEASE, PEER_DECONFIGURED)
    }

    /// 6/4, with a text for the neighbour's operator (cut at 255 octets; empty: none).
    pub fn administrative_reset(text: &str) -> Self {
        Self::with(error::CEASE, ADMINISTRATIVE_RESET, communication(text))
    }

    /// 6/5: not now, or not you.
    pub fn connection_rejected() -> Self {
        Self::bare(error::CEASE, 5)
    }

    /// 6/6: the neighbour's configuration changed in a way that needs a new session.
    pub fn other_configuration_change() -> Self {
        Self::bare(error::CEASE, 6)
    }

    /// 6/7: the other of two connections is kept (RFC 4271, section 6.8).
    pub fn connection_collision() -> Self {
        Self::bare(error::CEASE, 7)
    }

    /// 6/8.
    pub fn out_of_resources() -> Self {
        Self::bare(error::CEASE, 8)
    }

    /// 6/9: end the session as `inner` says, graceful restart or not (RFC 8538, section 3).
    pub fn hard_reset(inner: &Self) -> Self {
        let mut data = vec![inner.code, inner.subcode];
        data.extend(&inner.data);
        Self::with(error::CEASE, HARD_RESET, data)
    }

    /// 6/10: BFD says the neighbour is gone (RFC 9384).
    pub fn bfd_down() -> Self {
        Self::bare(error::CEASE, BFD_DOWN)
    }
}

/// ROUTE-REFRESH errors: RFC 7313, section 5.
impl Notification {
    /// 7/1: the data is the complete message.
    pub fn invalid_refresh_length(message: &[u8]) -> Self {
        Self::with(error::ROUTE_REFRESH, 1, message)
    }
}

impl Notification {
    /// Whether it ends the session whatever graceful restart promises (RFC 8538).
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (error::CEASE, HARD_RESET)
    }

    /// Whether it means an end and no restart, so that a neighbour that would keep our routes over a
    /// NOTIFICATION has to be sent it as a Hard Reset (RFC 8538, section 3; RFC 9384).
    pub fn is_final(&self) -> bool {
        self.code == error::CEASE
            && matches!(
                self.subcode,
                MAXIMUM_PREFIXES
                    | ADMINISTRATIVE_SHUTDOWN
                    | PEER_DECONFIGURED
                    | ADMINISTRATIVE_RESET
                    | BFD_DOWN
            )
    }

    fn bare(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    fn with(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// What the neighbour's operator wrote with an administrative shutdown or reset (RFC 9003), if it can
    /// be read.
    pub fn communication(&self) -> Option<&str> {
        if self.code != error::CEASE
            || !matches!(self.subcode, ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET)
        {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let text = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
        (!text.is_empty()).then_some(text)
    }

    fn words(&self) -> Option<(&'static str, &'static str)> {
        let code = match self.code {
            error::MESSAGE_HEADER => "message header error",
            error::OPEN => "OPEN message error",
            error::UPDATE => "UPDATE message error",
            error::HOLD_TIMER => "hold timer expired",
            error::FSM => "finite state machine error",
            error::CEASE => "cease",
            error::ROUTE_REFRESH => "ROUTE-REFRESH message error",
            error::SEND_HOLD_TIMER => "send hold timer expired",
            _ => return None,
        };
        let subcode = match (self.code, self.subcode) {
            (_, 0) => "",
            (error::MESSAGE_HEADER, 1) => "connection not synchronized",
            (error::MESSAGE_HEADER, 2) => "bad message length",
            (error::MESSAGE_HEADER, 3) => "bad message type",
            (error::OPEN, 1) => "unsupported version number",
            (error::OPEN, 2) => "bad peer AS",
            (error::OPEN, 3) => "bad BGP identifier",
            (error::OPEN, 4) => "unsupported optional parameter",
            (error::OPEN, 6) => "unacceptable hold time",
            (error::OPEN, 7) => "unsupported capability",
            (error::OPEN, 11) => "role mismatch",
            (error::UPDATE, 1) => "malformed attribute list",
            (error::UPDATE, 2) => "unrecognized well-known attribute",
            (error::UPDATE, 3) => "missing well-known attribute",
            (error::UPDATE, 4) => "attribute flags error",
            (error::UPDATE, 5) => "attribute length error",
            (error::UPDATE, 6) => "invalid ORIGIN attribute",
            (error::UPDATE, 8) => "invalid NEXT_HOP attribute",
            (error::UPDATE, 9) => "optional attribute error",
            (error::UPDATE, 10) => "invalid network field",
            (error::UPDATE, 11) => "malformed AS_PATH",
            (error::FSM, 1) => "unexpected message in OpenSent",
            (error::FSM, 2) => "unexpected message in OpenConfirm",
            (error::FSM, 3) => "unexpected message in Established",
            (error::CEASE, MAXIMUM_PREFIXES) => "maximum number of prefixes reached",
            (error::CEASE, ADMINISTRATIVE_SHUTDOWN) => "administrative shutdown",
            (error::CEASE, PEER_DECONFIGURED) => "peer de-configured",
            (error::CEASE, ADMINISTRATIVE_RESET) => "administrative reset",
            (error::CEASE, 5) => "connection rejected",
            (error::CEASE, 6) => "other configuration change",
            (error::CEASE, 7) => "connection collision resolution",
            (error::CEASE, 8) => "out of resources",
            (error::CEASE, HARD_RESET) => "hard reset",
            (error::CEASE, BFD_DOWN) => "BFD down",
            (error::ROUTE_REFRESH, 1) => "invalid message length",
            _ => return Some((code, "unknown subcode")),
        };
        Some((code, subcode))
    }
}

/// `cease: administrative shutdown (6/2): "new kernel"`.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            None => f.write_str("unknown error")?,
            Some((code, "")) => f.write_str(code)?,
            Some((code, subcode)) => write!(f, "{code}: {subcode}")?,
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if let Some(text) = self.communication() {
            // The text comes from a stranger and ends in a log: control characters are escaped.
            return write!(f, ": {text:?}");
        }
        match (self.code, self.subcode, self.data.as_slice()) {
            (error::CEASE, HARD_RESET, [code, subcode, data @ ..])
                if (*code, *subcode) != (error::CEASE, HARD_RESET) =>
            {
                write!(f, ": {}", Self::with(*code, *subcode, data))
            }
            (error::MESSAGE_HEADER, 2, [high, low]) => write!(f, ": {}", u16::from_be_bytes([*high, *low])),
            (error::MESSAGE_HEADER, 3, [kind]) => write!(f, ": {kind}"),
            _ => Ok(()),
        }
    }
}

/// A NOTIFICATION is taken as it comes: an error in it cannot be answered (RFC 4271, section 6.4).
pub(super) fn parse(body: &[u8]) -> Notification {
    match body {
        [code, subcode, data @ ..] => Notification::with(*code, *subcode, data),
        // The frame has at least two octets of body (RFC 4271, section 6.1).
        short => Notification::with(short.first().copied().unwrap_or(0), 0, []),
    }
}

/// Data that does not fit into `room` octets is cut: it only illustrates.
pub(super) fn write(notification: &Notification, room: usize, out: &mut Vec<u8>) {
    out.extend([notification.code, notification.subcode]);
    out.extend(&notification.data[..notification.data.len().min(room - 2)]);
}

/// RFC 9003, section 2: a length octet and that much UTF-8, cut between characters.
fn communication(text: &str) -> Vec<u8> {
    let fits = |cut: &usize| text.is_char_boundary(*cut);
    let cut = (0..=text.len().min(MAX_COMMUNICATION)).rev().find(fits).unwrap_or(0);
    if cut == 0 {
        return Vec::new();
    }
    let mut data = vec![cut as u8];
    data.extend(&text.as_bytes()[..cut]);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9003_a_shutdown_text_is_shown_and_its_control_characters_are_escaped() {
        let notification = Notification::administrative_shutdown("new kernel\n");
        assert_eq!(notification.to_string(), r#"cease: administrative shutdown (6/2): "new kernel\n""#);
        assert_eq!(Notification::administrative_shutdown("").data, b"");
    }

    #[test]
    fn rfc9003_a_long_shutdown_text_is_cut_between_characters() {
        let notification = Notification::administrative_reset(&"é".repeat(200));
        assert_eq!(notification.data.len(), 1 + 254);
        assert_eq!(notification.communication().unwrap().chars().count(), 127);
    }

    #[test]
    fn every_code_and_subcode_has_words_and_none_panics() {
        for code in 0..=255 {
            for subcode in 0..=255 {
                for data in [&[][..], &[9], &[255, 1], &[6, 9, 6, 9], &[2, 0xff, 0xff]] {
                    assert!(!Notification::with(code, subcode, data).to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn a_hard_reset_tells_what_is_inside() {
        let notification = Notification::hard_reset(&Notification::administrative_shutdown("bye"));
        assert_eq!(
            notification.to_string(),
            r#"cease: hard reset (6/9): cease: administrative shutdown (6/2): "bye""#
        );
    }

    #[test]
    fn the_data_is_what_the_rfcs_ask_for() {
        assert_eq!(Notification::bad_message_length(18).data, [0, 18]);
        assert_eq!(Notification::unsupported_version().data, [0, 4]);
        assert_eq!(Notification::maximum_prefixes(Family::Ipv6, 1000).data, [0, 2, 1, 0, 0, 3, 0xe8]);
        assert_eq!(Notification::unexpected_in_open_sent(MessageType::Update).data, [2]);
        let wanted = [Capability::Multiprotocol(Family::Ipv4), Capability::RouteRefresh];
        assert_eq!(Notification::unsupported_capability(&wanted).data, [1, 4, 0, 1, 0, 1, 2, 0]);
    }
}
