//! One TCP connection from our OPEN on: OpenSent, OpenConfirm, Established (RFC 4271, section 8.2.2).

use std::time::{Duration, Instant};

use super::negotiate::{Local, Negotiated};
use super::timer::{Jitter, Timer, TimerTable};
use super::{Action, Cause, Role};
use crate::api::SessionState;
use crate::iana::MessageType;
use crate::wire::{Message, Notification};

/// The hold time while waiting for an OPEN (RFC 4271, section 8.2.2: "a HoldTimer value of 4 minutes is
/// suggested").
pub(super) const LARGE_HOLD_TIME: u16 = 240;

/// A connection whose OPEN from us is out.
#[derive(Debug)]
pub(super) struct Connection {
    role: Role,
    state: State,
    timers: TimerTable,
    /// When it came into its state.
    pub(super) since: Instant,
}

#[derive(Debug)]
enum State {
    OpenSent,
    OpenConfirm(Negotiated),
    Established(Negotiated),
}

/// What happens to a connection.
#[derive(Debug)]
pub(super) enum Input {
    Message(Message),
    Malformed(Notification),
    Lost(String),
    BfdDown(String),
    SendHold(u64),
    Tick,
}

/// What became of a connection, which is consumed by [`Connection::handle`].
#[derive(Debug)]
pub(super) enum Next {
    /// It lives on.
    Lives(Connection),
    /// Their OPEN is good: keep it with [`Opened::confirm`] if no other connection is to be preferred.
    Opened(Opened),
    /// It has just become Established.
    Up(Connection),
    /// It is over.
    Over(Cause),
}

/// A connection between OpenSent and OpenConfirm: the moment of collision detection.
#[derive(Debug)]
pub(super) struct Opened {
    role: Role,
    pub(super) negotiated: Negotiated,
}

impl Opened {
    /// OpenSent → OpenConfirm: sends the KEEPALIVE that accepts their OPEN.
    pub(super) fn confirm(self, jitter: &mut Jitter, now: Instant, out: &mut Vec<Action>) -> Connection {
        out.push(Action::Negotiated(self.role, self.negotiated.clone()));
        out.push(Action::Send(self.role, Message::Keepalive));
        let mut connection = Connection {
            role: self.role,
            state: State::OpenConfirm(self.negotiated),
            timers: TimerTable::default(),
            since: now,
        };
        connection.restart_hold(now);
        connection.restart_keepalive(jitter, now);
        connection
    }
}

impl Connection {
    /// Sends our OPEN: the start of OpenSent.
    pub(super) fn open(role: Role, local: &Local, now: Instant, out: &mut Vec<Action>) -> Self {
        out.push(Action::Send(role, Message::Open(local.open())));
        let mut connection = Self { role, state: State::OpenSent, timers: TimerTable::default(), since: now };
        connection.restart_hold(now);
        connection
    }

    /// The table of RFC 4271, section 8.2.2, for the three states; every event is listed.
    pub(super) fn handle(
        self,
        input: Input,
        local: &Local,
        jitter: &mut Jitter,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Next {
        match (&self.state, input) {
            // Event 19, BGPOpen.
            (State::OpenSent, Input::Message(Message::Open(open))) => match local.negotiate(&open) {
                Ok(negotiated) => Next::Opened(Opened { role: self.role, negotiated }),
                Err(refusal) => Next::Over(Cause::Refused(refusal)),
            },
            (State::OpenConfirm(_) | State::Established(_), Input::Message(Message::Open(_))) => {
                self.unexpected(MessageType::Open)
            }
            // Event 26, KeepAliveMsg.
            (State::OpenSent, Input::Message(Message::Keepalive)) => self.unexpected(MessageType::Keepalive),
            (State::OpenConfirm(_), Input::Message(Message::Keepalive)) => self.established(now),
            (State::Established(_), Input::Message(Message::Keepalive)) => self.heard(now),
            // Event 27, UpdateMsg.
            (State::OpenSent | State::OpenConfirm(_), Input::Message(Message::Update(_))) => {
                self.unexpected(MessageType::Update)
            }
            (State::Established(_), Input::Message(Message::Update(update))) => {
                out.push(Action::Update(update));
                self.heard(now)
            }
            // RFC 2918 has no event of its own; it is an UPDATE's sibling.
            (State::OpenSent | State::OpenConfirm(_), Input::Message(Message::RouteRefresh(_))) => {
                self.unexpected(MessageType::RouteRefresh)
            }
            (State::Established(_), Input::Message(Message::RouteRefresh(refresh))) => {
                out.push(Action::Refresh(refresh));
                self.heard(now)
            }
            // Events 24 and 25, NotifMsgVerErr and NotifMsg.
            (_, Input::Message(Message::Notification(notification))) => {
                Next::Over(Cause::Received(notification))
            }
            // Events 21, 22 and 28, BGPHeaderErr, BGPOpenMsgErr and UpdateMsgErr.
            (_, Input::Malformed(notification)) => Next::Over(Cause::Malformed(notification)),
            // Event 18, TcpConnectionFails.
            (_, Input::Lost(why)) => Next::Over(Cause::Lost(why)),
            (_, Input::BfdDown(why)) => Next::Over(Cause::BfdDown(why)),
            // Event 29, SendHoldTimer_Expires.
            (_, Input::SendHold(seconds)) => Next::Over(Cause::SendHoldTimer(seconds)),
            // Events 10 and 11, HoldTimer_Expires and KeepaliveTimer_Expires.
            (_, Input::Tick) => self.tick(jitter, now, out),
        }
    }

    fn tick(mut self, jitter: &mut Jitter, now: Instant, out: &mut Vec<Action>) -> Next {
        while let Some(timer) = self.timers.take_expired(now) {
            match timer {
                Timer::Hold => return Next::Over(Cause::HoldTimer(self.hold_time())),
                Timer::Keepalive => {
                    out.push(Action::Send(self.role, Message::Keepalive));
                    self.restart_keepalive(jitter, now);
                }
                // The peer's own timers never stand in a connection's table.
                Timer::ConnectRetry | Timer::IdleHold => {}
            }
        }
        Next::Lives(self)
    }

    fn established(mut self, now: Instant) -> Next {
        if let State::OpenConfirm(negotiated) = self.state {
            self.state = State::Established(negotiated);
            self.since = now;
        }
        self.restart_hold(now);
        Next::Up(self)
    }

    fn heard(mut self, now: Instant) -> Next {
        self.restart_hold(now);
        Next::Lives(self)
    }

    fn unexpected(self, kind: MessageType) -> Next {
        Next::Over(Cause::Unexpected(kind, self.state()))
    }

    /// Asks the neighbour whether it still is there: a rebooted one answers with a reset.
    pub(super) fn probe(&self, out: &mut Vec<Action>) {
        out.push(Action::Send(self.role, Message::Keepalive));
    }

    pub(super) fn state(&self) -> SessionState {
        match self.state {
            State::OpenSent => SessionState::OpenSent,
            State::OpenConfirm(_) => SessionState::OpenConfirm,
            State::Established(_) => SessionState::Established,
        }
    }

    pub(super) fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match &self.state {
            State::OpenSent => None,
            State::OpenConfirm(negotiated) | State::Established(negotiated) => Some(negotiated),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// In force, in seconds.
    fn hold_time(&self) -> u16 {
        self.negotiated().map_or(LARGE_HOLD_TIME, |negotiated| negotiated.hold_time)
    }

    fn restart_hold(&mut self, now: Instant) {
        match self.hold_time() {
            0 => self.timers.stop(Timer::Hold),
            seconds => self.timers.set(Timer::Hold, now + Duration::from_secs(seconds.into())),
        }
    }

    /// With jitter (RFC 4271, section 10).
    fn restart_keepalive(&mut self, jitter: &mut Jitter, now: Instant) {
        match self.negotiated().and_then(|negotiated| negotiated.keepalive) {
            None => self.timers.stop(Timer::Keepalive),
            Some(interval) => self.timers.set(Timer::Keepalive, now + jitter.apply(interval)),
        }
    }
}
