//! The finite state machine of RFC 4271, section 8: events and the time in, actions out.
//!
//! Pure: no clock, socket or task. The caller does each [`Action`] in order, tells what came of it as the
//! next [`Event`], and hands in [`Event::Tick`] once [`Peer::next_timeout`] has come.
//!
//! ```text
//!                       ┌──────────────────────── Peer ───────────────────────┐
//!   Start, Stop, Tick ─▶│  Idle ─▶ Connect ⇄ Active      ConnectRetry, IdleHold│─▶ Connect, Admit, Refuse
//!   Incoming, Connected │    slot Active   slot Passive       collision (6.8)  │
//!   Received, Lost ────▶│  [Connection]    [Connection]                        │─▶ Send, Close, Up, Down,
//!                       │   OpenSent ─▶ OpenConfirm ─▶ Established   Hold, KA  │   Update, Refresh
//!                       └─────────────────────────────────────────────────────┘
//! ```
//!
//! Two machines: [`peer`] decides when to call and which of two connections stays; a connection takes one
//! TCP connection from our OPEN to its end.
//!
//! Events of RFC 4271, section 8.1, and where they are:
//!
//! | RFC event | here |
//! |---|---|
//! | 1 ManualStart, 3 AutomaticStart; 4, 5, 7 with PassiveTcpEstablishment | [`Event::Start`]; [`Local::passive`] |
//! | 2 ManualStop, 8 AutomaticStop | [`Event::Stop`], which carries the reason |
//! | 6 AutomaticStart_with_DampPeerOscillations, 13 IdleHoldTimer_Expires | inside, on [`Event::Tick`] |
//! | 9 ConnectRetryTimer_Expires, 10 HoldTimer_Expires, 11 KeepaliveTimer_Expires | [`Event::Tick`] |
//! | 12 DelayOpenTimer_Expires, 20 BGPOpen with DelayOpenTimer running | not implemented: we never delay an OPEN |
//! | 14 TcpConnection_Valid, 17 TcpConnectionConfirmed | [`Event::Incoming`] |
//! | 15 Tcp_CR_Invalid | not an event: the listener refuses a stranger (Cease/Connection Rejected) before any peer hears of it |
//! | 16 Tcp_CR_Acked | [`Event::Connected`] |
//! | 18 TcpConnectionFails | [`Event::ConnectFailed`] before, [`Event::Lost`] after it was open |
//! | 19 BGPOpen, 24 NotifMsgVerErr, 25 NotifMsg, 26 KeepAliveMsg, 27 UpdateMsg | [`Event::Received`] |
//! | 21 BGPHeaderErr, 22 BGPOpenMsgErr, 28 UpdateMsgErr | [`Event::Malformed`], which carries the parser's verdict |
//! | 29 SendHoldTimer_Expires (RFC 9687) | [`Event::SendHold`]: who writes knows whether octets are taken |
//! | 23 OpenCollisionDump | not an event: decided inside when an OPEN arrives |

mod connection;
pub mod negotiate;
pub mod peer;
pub mod restart;
pub mod timer;

#[cfg(test)]
mod pair;
#[cfg(test)]
mod tests;

pub use negotiate::{Local, Negotiated, Refusal};
pub use peer::Peer;

use crate::api::SessionState;
use crate::iana::{self, MessageType};
use crate::types::Family;
use crate::wire::{Message, Notification, RouteRefresh, Update};

/// Who opened a connection; a peer has one slot for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// We called.
    Active,
    /// They called.
    Passive,
}

/// What happens to a peer.
#[derive(Clone, Debug)]
pub enum Event {
    /// Events 1, 3–5: begin, and keep at it until [`Event::Stop`].
    Start,
    /// Events 2 and 8: end every connection with this Cease and stay Idle.
    Stop(Notification),
    /// [`Peer::next_timeout`] has come. Early or late is harmless.
    Tick,
    /// Events 14 and 17: the neighbour calls. Answered by [`Action::Admit`] or [`Action::Refuse`].
    Incoming,
    /// Event 16: the call asked for by [`Action::Connect`] was answered, and has not been closed since.
    Connected,
    /// Event 18 in Connect: that call failed, in words: `connection refused`.
    ConnectFailed(String),
    /// Event 18: the connection ended, in words: `connection closed by the neighbour`.
    Lost(Role, String),
    /// Events 19, 24–27.
    Received(Role, Message),
    /// Event 29: the neighbour has taken not one octet of what it is sent for so many seconds.
    SendHold(Role, u64),
    /// The neighbour gives more prefixes than it may (RFC 4271, section 6.7).
    PrefixLimit(PrefixLimit),
    /// BFD says that the way to the neighbour is lost (RFC 5882, section 4.2), in words. RFC 4271 has no
    /// number for it; it does what event 18 does to every connection there is.
    BfdDown(String),
    /// Events 21, 22, 28: what arrived cannot be accepted; this is the answer.
    Malformed(Role, Notification),
}

/// What the caller is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Call the neighbour; answer with [`Event::Connected`] or [`Event::ConnectFailed`].
    Connect,
    /// Make the connection of [`Event::Incoming`] that of [`Role::Passive`].
    Admit,
    /// Send this on the connection of [`Event::Incoming`] and close it.
    Refuse(Notification),
    /// Send this.
    Send(Role, Message),
    /// Send what was to be sent and close the connection, or give up the call. Of what it still says
    /// nothing may be handed in any more.
    Close(Role),
    /// Their OPEN was good: read and write what follows in this context.
    Negotiated(Role, Negotiated),
    /// Established: routes may flow.
    Up(Role),
    /// No longer Established: forget what the neighbour said.
    Down(Cause),
    /// Routes from the neighbour.
    Update(Update),
    /// The neighbour wants ours again.
    Refresh(RouteRefresh),
}

/// What a neighbour exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// Of which.
    pub family: Family,
    /// So many it may give.
    pub limit: u32,
    /// Seconds until it is spoken with again; none: not before it is started anew.
    pub restart_after: Option<u32>,
}

impl std::fmt::Display for PrefixLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, limit, .. } = self;
        write!(f, "it gives more than {limit} prefixes of {family} (maxPrefixes), ")?;
        match self.restart_after {
            Some(seconds) => write!(f, "tried again {seconds} s after that"),
            None => f.write_str("down until it is reset"),
        }
    }
}

/// Why a connection ended or never was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nobody answered our call.
    #[error("{0}")]
    Connect(String),
    /// The transport ended it.
    #[error("{0}")]
    Lost(String),
    /// The neighbour ended it.
    #[error("they sent {0}")]
    Received(Notification),
    /// Something arrived that cannot be accepted.
    #[error("we sent {0}")]
    Malformed(Notification),
    /// Their OPEN cannot be accepted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A good message at the wrong time.
    #[error("they sent {kind} in {1}", kind = name(*.0))]
    Unexpected(MessageType, SessionState),
    /// RFC 5882, section 4.2; the neighbour is told by RFC 9384.
    #[error("BFD says the neighbour is down: {0}")]
    BfdDown(String),
    /// Nothing was heard for this many seconds.
    #[error("hold timer expired after {0} s")]
    HoldTimer(u16),
    /// Nothing was taken for this many seconds.
    #[error("send hold timer expired: the neighbour has read nothing for {0} s")]
    SendHoldTimer(u64),
    /// The neighbour gives too much.
    #[error("{0}")]
    PrefixLimit(PrefixLimit),
    /// The other connection is kept.
    #[error("the neighbour's other connection is kept")]
    Collision,
    /// We ended it.
    #[error("stopped: {0}")]
    Stopped(Notification),
}

impl Cause {
    /// What the neighbour is told; none where it told us or cannot hear.
    pub fn notification(&self) -> Option<Notification> {
        match self {
            Self::Connect(_) | Self::Lost(_) | Self::Received(_) => None,
            Self::Malformed(notification) | Self::Stopped(notification) => Some(notification.clone()),
            Self::Refused(refusal) => Some(refusal.notification.clone()),
            Self::Unexpected(kind, SessionState::OpenSent) => {
                Some(Notification::unexpected_in_open_sent(*kind))
            }
            Self::Unexpected(kind, SessionState::OpenConfirm) => {
                Some(Notification::unexpected_in_open_confirm(*kind))
            }
            Self::Unexpected(kind, _) => Some(Notification::unexpected_in_established(*kind)),
            Self::BfdDown(_) => Some(Notification::bfd_down()),
            Self::HoldTimer(_) => Some(Notification::hold_timer_expired()),
            Self::SendHoldTimer(_) => Some(Notification::send_hold_timer_expired()),
            Self::PrefixLimit(over) => Some(Notification::maximum_prefixes(over.family, over.limit)),
            Self::Collision => Some(Notification::connection_collision()),
        }
    }

    /// One of few words for it: what is counted, where [`Cause::to_string`] is what is said.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Lost(_) => "lost",
            Self::Received(_) => "received",
            Self::Malformed(_) => "malformed",
            Self::Refused(_) => "refused",
            Self::Unexpected(..) => "unexpected",
            Self::BfdDown(_) => "bfd_down",
            Self::HoldTimer(_) => "hold_timer",
            Self::SendHoldTimer(_) => "send_hold_timer",
            Self::PrefixLimit(_) => "max_prefixes",
            Self::Collision => "collision",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Whether the neighbour's routes may outlive the session (RFC 4724, section 4.2): where it ended
    /// without a NOTIFICATION or, with `notifications`, by any but a Hard Reset (RFC 8538, section 3). What
    /// we ended ourselves is over.
    pub fn is_graceful(&self, notifications: bool) -> bool {
        match self {
            Self::Connect(_) | Self::Lost(_) => true,
            Self::Received(notification) => notifications && !notification.is_hard_reset(),
            Self::HoldTimer(_) | Self::SendHoldTimer(_) | Self::Malformed(_) | Self::Unexpected(..) => {
                notifications
            }
            // RFC 5882, section 4.3.2.2: BFD's word before the neighbour's restart shows is a change of topology.
            Self::BfdDown(_)
            | Self::Refused(_)
            | Self::PrefixLimit(_)
            | Self::Collision
            | Self::Stopped(_) => false,
        }
    }

    /// Whether one side misbehaved, so that a time of refusing everything is due (DampPeerOscillations).
    /// A lost connection and a Cease are part of normal work: listening goes on at once.
    fn is_fault(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Lost(_) | Self::BfdDown(_) | Self::Collision | Self::Stopped(_) => false,
            Self::Received(notification) => notification.code != iana::error::CEASE,
            Self::Malformed(_)
            | Self::Refused(_)
            | Self::Unexpected(..)
            | Self::HoldTimer(_)
            | Self::SendHoldTimer(_)
            | Self::PrefixLimit(_) => true,
        }
    }

    /// Whether `self` says no more than that the neighbour is still cross about `before`: one that waits
    /// after an error refuses our calls or hangs up on them.
    fn is_echo_of(&self, before: &Self) -> bool {
        let rejected =
            |cause: &Self| matches!(cause, Self::Received(n) if *n == Notification::connection_rejected());
        (matches!(self, Self::Lost(_)) || rejected(self))
            && !matches!(before, Self::Connect(_) | Self::Lost(_))
            && !rejected(before)
    }
}

/// As RFC 4271 writes it.
fn name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Open => "OPEN",
        MessageType::Update => "UPDATE",
        MessageType::Notification => "NOTIFICATION",
        MessageType::Keepalive => "KEEPALIVE",
        MessageType::RouteRefresh => "ROUTE-REFRESH",
    }
}
