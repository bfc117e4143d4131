//! Messages, from bytes and to bytes.
//!
//! [`frame::frame`] cuts one complete message off a stream and checks its header; [`parse()`] below it
//! never sees an incomplete input. The public results are the RFC's verdicts: a whole message that
//! cannot be accepted is a [`Notification`] to send; an attribute that cannot is an [`AttrFault`], and
//! the [`Update`] that carries it has already been changed as RFC 7606 says (announcements moved to
//! `withdrawn`), so that nobody after the parser can forget it.
//!
//! ```text
//!   stream ──frame──▶ Frame ──parse──▶ Message ──write──▶ octets
//!                                        ├ open ─ capability
//!                                        ├ update ─ nlri, attr/{one attribute a file}
//!                                        ├ notification
//!                                        └ route_refresh
//! ```

mod attr;
mod capability;
pub mod frame;
mod nlri;
pub mod notification;
mod open;
mod parse;
mod route_refresh;
pub mod update;

pub use attr::{
    AsPath, AttrFault, Attributes, Community, ExtCommunity, FaultAction, LargeCommunity, LinkBandwidth,
    NextHop, Origin, ParseCommunityError, Segment, UnknownAttr,
};
pub use capability::{Capability, LongLived, SendReceive};
pub use frame::{Frame, frame};
pub use nlri::Nlri;
pub use notification::Notification;
pub use open::Open;
pub use route_refresh::RouteRefresh;
pub use update::{Announcement, Update};

use crate::iana::MessageType;
use crate::types::Family;

/// What both sides agreed in their OPENs: the context every later message is read and written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub asn4: bool,
    /// Families both sides speak.
    pub families: Vec<Family>,
    /// The neighbour is in another AS.
    pub ebgp: bool,
    /// Messages up to 65,535 octets (RFC 8654); 4,096 otherwise.
    pub extended: bool,
    /// Prefixes have path identifiers.
    pub add_path: AddPath,
}

/// Families whose prefixes have path identifiers (RFC 7911), so that several paths to one can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// In what the neighbour sends.
    pub receive: Vec<Family>,
    /// In what it is sent.
    pub send: Vec<Family>,
}

impl Session {
    /// The longest message, in octets.
    pub fn max_message(&self) -> usize {
        if self.extended { frame::MAX_EXTENDED } else { frame::MAX_MESSAGE }
    }

    /// Whether what the neighbour sends of `family` has path identifiers.
    pub fn receives_path_ids(&self, family: Family) -> bool {
        self.add_path.receive.contains(&family)
    }

    /// Whether what it is sent of `family` has.
    pub fn sends_path_ids(&self, family: Family) -> bool {
        self.add_path.send.contains(&family)
    }

    /// The same as the neighbour reads and writes.
    #[must_use]
    pub fn theirs(&self) -> Self {
        let AddPath { receive, send } = self.add_path.clone();
        Self { add_path: AddPath { receive: send, send: receive }, ..self.clone() }
    }
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// RFC 4271, section 4.2.
    Open(Open),
    /// RFC 4271, section 4.3.
    Update(Update),
    /// RFC 4271, section 4.5.
    Notification(Notification),
    /// RFC 4271, section 4.4.
    Keepalive,
    /// RFC 2918, RFC 7313.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// Its type on the wire.
    pub fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// A message that has no form on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It does not fit: pack it first.
    #[error("the message would have {length} octets, more than the session allows")]
    TooLong {
        /// What it would take, in octets.
        length: usize,
    },
    /// MP_REACH_NLRI carries one next hop, and only one of it may be in a message (RFC 7606, section 3).
    #[error("an UPDATE carries one announcement of each family, but has more")]
    Announcements,
    /// RFC 4271, section 4.3: announcements need attributes.
    #[error("an UPDATE announces prefixes without attributes")]
    NoAttributes,
    /// UPDATE has no form before both OPENs are in.
    #[error("an UPDATE can be written only in a negotiated session")]
    NoSession,
}

/// Reads the message in `frame`. `session` is what was negotiated, once it was.
///
/// # Errors
/// The NOTIFICATION to answer with. An UPDATE without a session is 5/1 (RFC 6608). A NOTIFICATION never
/// fails: RFC 4271, section 6.4 forbids an answer.
pub fn parse(frame: &Frame, session: Option<&Session>) -> Result<Message, Notification> {
    match frame.kind {
        MessageType::Open => open::parse(&frame.body).map(Message::Open),
        MessageType::Update => match session {
            Some(session) => update::parse(&frame.body, session).map(Message::Update),
            None => Err(Notification::unexpected_in_open_sent(frame.kind)),
        },
        MessageType::Notification => Ok(Message::Notification(notification::parse(&frame.body))),
        MessageType::Keepalive => Ok(Message::Keepalive),
        MessageType::RouteRefresh => route_refresh::parse(&frame.body).map(Message::RouteRefresh),
    }
}

/// Appends `message`, header and all, to `out`. `session` may be absent for all but UPDATE.
///
/// # Errors
/// See [`WriteError`]; `out` is then as it was.
pub fn write(message: &Message, session: Option<&Session>, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let start = out.len();
    out.extend(frame::MARKER);
    out.extend([0, 0, message.kind() as u8]);
    let max = match message {
        Message::Open(_) | Message::Keepalive => frame::MAX_MESSAGE,
        _ => session.map_or(frame::MAX_MESSAGE, Session::max_message),
    };
    let written = match message {
        Message::Open(open) => open::write(open, out),
        Message::Update(update) => match session {
            Some(session) => update::write(update, session, out),
            None => Err(WriteError::NoSession),
        },
        Message::Notification(notification) => {
            notification::write(notification, max - frame::HEADER, out);
            Ok(())
        }
        Message::Keepalive => Ok(()),
        Message::RouteRefresh(refresh) => {
            route_refresh::write(*refresh, out);
            Ok(())
        }
    };
    let length = out.len() - start;
    let written = written.and_then(|()| match u16::try_from(length) {
        Ok(length) if usize::from(length) <= max => Ok(length),
        _ => Err(WriteError::TooLong { length }),
    });
    match written {
        Ok(length) => out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes()),
        Err(_) => out.truncate(start),
    }
    written.map(drop)
}
