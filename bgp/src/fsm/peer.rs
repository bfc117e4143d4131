//! A neighbour: when to call it, when to refuse it, and which of two connections stays.

use std::time::{Duration, Instant};

use super::connection::{Connection, Input, Next, Opened};
use super::negotiate::{Authentication, Local, Negotiated};
use super::restart::Start;
use super::timer::{Jitter, Timer, TimerTable};
use super::{Action, Cause, Event, PrefixLimit, Role};
use crate::api::SessionState;
use crate::types::RouterId;
use crate::wire::{Message, Notification};

/// The first wait after a failure; it doubles up to [`Local::connect_retry`].
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// The state machine of one neighbour.
#[derive(Debug)]
pub struct Peer {
    local: Local,
    phase: Phase,
    since: Instant,
    /// By [`Role`].
    slots: [Option<Connection>; 2],
    timers: TimerTable,
    jitter: Jitter,
    /// Tries in a row that came to nothing.
    failures: u32,
    /// Why it is not up.
    trouble: Option<Cause>,
    /// Why it last left Established.
    down: Option<Cause>,
    /// Why it is not up, as far as one side has told the other.
    said: Option<Cause>,
    /// What the last end was, until it is taken.
    ended: Option<&'static str>,
}

/// What the end of an Established connection depends on.
#[derive(Debug)]
struct Session {
    since: Instant,
    /// The neighbour keeps our routes over a NOTIFICATION (RFC 8538).
    notifications: bool,
}

impl Session {
    fn of(connection: &Connection) -> Option<Self> {
        let negotiated = connection.negotiated().filter(|_| connection.is_established())?;
        let notifications = negotiated.restart.as_ref().is_some_and(|restart| restart.notification);
        Some(Self { since: connection.since, notifications })
    }
}

/// What the peer does apart from the connections it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Idle until [`Event::Start`].
    Stopped,
    /// Idle until IdleHold runs out: refuses everything.
    IdleHold,
    /// A call is going out. ConnectRetry bounds it.
    Connect,
    /// Listens. ConnectRetry times the next call while there is no connection.
    Active,
}

impl Peer {
    /// A stopped peer. `seed` drives the jitter.
    pub fn new(local: Local, seed: u64, now: Instant) -> Self {
        Self {
            local,
            phase: Phase::Stopped,
            since: now,
            slots: [None, None],
            timers: TimerTable::default(),
            jitter: Jitter::new(seed),
            failures: 0,
            trouble: None,
            down: None,
            said: None,
            ended: None,
        }
    }

    /// Takes an event. `now` must never go back.
    #[must_use = "the actions are the machine's whole effect"]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut out = Vec::new();
        match (self.phase, event) {
            (Phase::Stopped, Event::Start) => {
                (self.trouble, self.said) = (None, None);
                self.begin(now, &mut out);
            }
            (Phase::IdleHold | Phase::Connect | Phase::Active, Event::Start) => {}

            (_, Event::Stop(notification)) => self.stop(&Cause::Stopped(notification), now, &mut out),

            (Phase::Stopped | Phase::IdleHold, Event::Incoming) => {
                out.push(Action::Refuse(Notification::connection_rejected()));
            }
            (Phase::Connect | Phase::Active, Event::Incoming) => self.incoming(now, &mut out),

            (Phase::Connect, Event::Connected) => {
                self.enter(Phase::Active, now);
                self.timers.stop(Timer::ConnectRetry);
                self.open(Role::Active, now, &mut out);
            }
            (Phase::Connect, Event::ConnectFailed(why)) => {
                self.enter(Phase::Active, now);
                self.timers.stop(Timer::ConnectRetry);
                if self.is_alone() {
                    self.retry(Cause::Connect(why), now);
                }
            }
            // The caller drops the outcome of a call it was told to give up.
            (
                Phase::Stopped | Phase::IdleHold | Phase::Active,
                Event::Connected | Event::ConnectFailed(_),
            ) => {}

            (_, Event::Tick) => self.tick(now, &mut out),

            (_, Event::Lost(role, why)) => self.step(role, Input::Lost(why), now, &mut out),
            (_, Event::BfdDown(why)) => {
                for role in [Role::Active, Role::Passive] {
                    self.step(role, Input::BfdDown(why.clone()), now, &mut out);
                }
            }
            (_, Event::SendHold(role, seconds)) => self.step(role, Input::SendHold(seconds), now, &mut out),
            (_, Event::PrefixLimit(over)) => self.exceeded(over, now, &mut out),
            (_, Event::Received(role, message)) => self.step(role, Input::Message(message), now, &mut out),
            (_, Event::Malformed(role, answer)) => self.step(role, Input::Malformed(answer), now, &mut out),
        }
        out
    }

    /// When [`Event::Tick`] is due; none: only another event can change anything.
    pub fn next_timeout(&self) -> Option<Instant> {
        let connections = self.slots.iter().flatten().filter_map(Connection::next_timeout);
        connections.chain(self.timers.next()).min()
    }

    /// RFC 4271's name for where it is: that of the connection that got furthest.
    pub fn state(&self) -> SessionState {
        self.slots.iter().flatten().map(Connection::state).max().unwrap_or(match self.phase {
            Phase::Stopped | Phase::IdleHold => SessionState::Idle,
            Phase::Connect => SessionState::Connect,
            Phase::Active => SessionState::Active,
        })
    }

    /// Since when it is in [`Peer::state`].
    pub fn since(&self) -> Instant {
        let furthest = self.slots.iter().flatten().max_by_key(|connection| connection.state());
        furthest.map_or(self.since, |connection| connection.since)
    }

    /// Why it is not up, else why it last went down.
    pub fn reason(&self) -> Option<&Cause> {
        self.trouble.as_ref().or(self.down.as_ref())
    }

    /// The same in words; behind it, where that is only that a call or a connection failed, what either side last said.
    pub fn reasons(&self) -> Option<String> {
        match (&self.trouble, self.said.as_ref().or(self.down.as_ref())) {
            (Some(trouble), Some(said)) if trouble != said => Some(format!("{trouble}; before that: {said}")),
            _ => self.reason().map(Cause::to_string),
        }
    }

    /// What ended a session, or a try to have one, since it was last asked: the [`Cause::kind`], for who
    /// counts them. Of several the last.
    pub fn take_ended(&mut self) -> Option<&'static str> {
        self.ended.take()
    }

    /// What the Established session's OPENs agreed on.
    pub fn established(&self) -> Option<&Negotiated> {
        self.slots.iter().flatten().find(|connection| connection.is_established())?.negotiated()
    }

    /// The neighbour's BGP Identifier as far as a living connection told it.
    pub fn router_id(&self) -> Option<RouterId> {
        Some(self.slots.iter().flatten().find_map(Connection::negotiated)?.router_id)
    }

    /// The speaker's restart is over, although this neighbour has not been there: nobody is to take it for one
    /// that restarts any more. After a cold start the first session still says that nothing was forwarded.
    pub fn started(&mut self) {
        if self.local.restart.start == Start::Restarted {
            self.local.restart.start = Start::Over;
        }
    }

    /// What comes before its next session.
    pub fn start(&self) -> Start {
        self.local.restart.start
    }

    /// Whether it has no connection, and calls and refuses nobody: of one that never calls, nothing is left.
    pub fn is_at_rest(&self) -> bool {
        self.is_alone() && self.phase == Phase::Active
    }

    fn is_alone(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// Idle → Connect, or Active where the neighbour is to call.
    fn begin(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.local.passive {
            self.enter(Phase::Active, now);
        } else {
            self.call(now, out);
        }
    }

    fn call(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.enter(Phase::Connect, now);
        self.timers.set(Timer::ConnectRetry, now + self.jitter.apply(self.local.connect_retry));
        out.push(Action::Connect);
    }

    fn give_up_call(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.phase == Phase::Connect {
            self.enter(Phase::Active, now);
            self.timers.stop(Timer::ConnectRetry);
            out.push(Action::Close(Role::Active));
        }
    }

    fn open(&mut self, role: Role, now: Instant, out: &mut Vec<Action>) {
        self.timers.stop(Timer::IdleHold);
        if self.phase == Phase::Active {
            self.timers.stop(Timer::ConnectRetry);
        }
        self.slots[role as usize] = Some(Connection::open(role, &self.local, now, out));
    }

    fn incoming(&mut self, now: Instant, out: &mut Vec<Action>) {
        match &self.slots[Role::Passive as usize] {
            Some(established) if established.is_established() => {
                established.probe(out);
                out.push(Action::Refuse(Notification::connection_rejected()));
                return;
            }
            // It calls again, so it has given up the connection it called on before.
            Some(_) => self.drop_slot(Role::Passive, &Cause::Collision, now, out),
            None => {}
        }
        out.push(Action::Admit);
        self.open(Role::Passive, now, out);
    }

    fn stop(&mut self, cause: &Cause, now: Instant, out: &mut Vec<Action>) {
        self.give_up_call(now, out);
        for role in [Role::Active, Role::Passive] {
            self.drop_slot(role, cause, now, out);
        }
        self.timers = TimerTable::default();
        self.failures = 0;
        self.trouble = Some(cause.clone());
        self.enter(Phase::Stopped, now);
    }

    /// Ends an established session whose neighbour gives too much, and waits as long as is configured.
    fn exceeded(&mut self, over: PrefixLimit, now: Instant, out: &mut Vec<Action>) {
        if self.established().is_none() {
            return;
        }
        let cause = Cause::PrefixLimit(over);
        self.give_up_call(now, out);
        for role in [Role::Active, Role::Passive] {
            self.drop_slot(role, &cause, now, out);
        }
        self.timers = TimerTable::default();
        match over.restart_after {
            Some(seconds) => {
                self.enter(Phase::IdleHold, now);
                self.timers.set(Timer::IdleHold, now + Duration::from_secs(seconds.into()));
            }
            None => self.enter(Phase::Stopped, now),
        }
        self.trouble = Some(cause);
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some(timer) = self.timers.take_expired(now) {
            match (timer, self.phase) {
                (Timer::IdleHold, Phase::IdleHold) => self.begin(now, out),
                (Timer::ConnectRetry, Phase::Active) => self.call(now, out),
                (Timer::ConnectRetry, Phase::Connect) => {
                    self.give_up_call(now, out);
                    if self.is_alone() {
                        let why = match self.local.authentication {
                            Authentication::Password => {
                                "no answer with this password: the neighbour may have another one, or none"
                            }
                            Authentication::TcpAo => {
                                "no answer with these keys (tcpAo): the neighbour may have others, or none"
                            }
                            Authentication::None => "no answer to our call",
                        };
                        self.note(Cause::Connect(why.to_owned()));
                        self.call(now, out);
                    }
                }
                // Stopped with the phase they belong to; the others stand in the connections' tables.
                (Timer::IdleHold | Timer::ConnectRetry | Timer::Hold | Timer::Keepalive, _) => {}
            }
        }
        for role in [Role::Active, Role::Passive] {
            self.step(role, Input::Tick, now, out);
        }
    }

    fn step(&mut self, role: Role, input: Input, now: Instant, out: &mut Vec<Action>) {
        let Some(connection) = self.slots[role as usize].take() else { return };
        let was_established = Session::of(&connection);
        match connection.handle(input, &self.local, &mut self.jitter, now, out) {
            Next::Lives(connection) => self.slots[role as usize] = Some(connection),
            Next::Opened(opened) => self.resolve(role, opened, now, out),
            Next::Up(connection) => {
                self.slots[role as usize] = Some(connection);
                (self.trouble, self.said) = (None, None);
                self.local.restart.start = Start::Over;
                out.push(Action::Up(role));
            }
            Next::Over(cause) => {
                self.end(role, &cause, was_established, now, out);
                self.after(cause, now, out);
            }
        }
    }

    /// RFC 4271, section 6.8, at the arrival of an OPEN: of two connections that opened by the speaker
    /// with the larger BGP Identifier stays; with equal ones, by that with the larger AS (RFC 6286).
    ///
    /// The RFC lets a rival whose OPEN has not come be, so that one side can be Established on a
    /// connection which the other then closes. That cannot happen between speakers that, once they know
    /// the neighbour's identifier, say no KEEPALIVE on the connection that is going to lose to their own
    /// call, and give up a call still going out once they have said it.
    fn resolve(&mut self, role: Role, opened: Opened, now: Instant, out: &mut Vec<Action>) {
        let other = match role {
            Role::Active => Role::Passive,
            Role::Passive => Role::Active,
        };
        let ours = (self.local.router_id, self.local.asn);
        let theirs = (opened.negotiated.router_id, opened.negotiated.asn);
        let winner = if ours > theirs { Role::Active } else { Role::Passive };
        let loses = match &self.slots[other as usize] {
            None => false,
            Some(rival) if rival.is_established() => {
                rival.probe(out);
                true
            }
            Some(rival) if rival.negotiated().is_none() => (other, winner) == (Role::Active, Role::Active),
            Some(_) => winner != role,
        };
        if loses {
            return self.end(role, &Cause::Collision, None, now, out);
        }
        if self.slots[other as usize].as_ref().is_some_and(|rival| rival.negotiated().is_some()) {
            self.drop_slot(other, &Cause::Collision, now, out);
        }
        self.give_up_call(now, out);
        self.slots[role as usize] = Some(opened.confirm(&mut self.jitter, now, out));
    }

    fn drop_slot(&mut self, role: Role, cause: &Cause, now: Instant, out: &mut Vec<Action>) {
        if let Some(connection) = self.slots[role as usize].take() {
            let was_established = Session::of(&connection);
            self.end(role, cause, was_established, now, out);
        }
    }

    /// The end of a connection already taken out of its slot.
    fn end(
        &mut self,
        role: Role,
        cause: &Cause,
        session: Option<Session>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(mut notification) = cause.notification() {
            if notification.is_final() && session.as_ref().is_some_and(|session| session.notifications) {
                notification = Notification::hard_reset(&notification);
            }
            out.push(Action::Send(role, Message::Notification(notification)));
        }
        out.push(Action::Close(role));
        if let Some(Session { since, .. }) = session {
            // A session that never lasts keeps its back-off.
            if now.duration_since(since) >= self.local.connect_retry {
                self.failures = 0;
            }
            self.ended = Some(cause.kind());
            self.down = Some(cause.clone());
            out.push(Action::Down(cause.clone()));
        }
    }

    /// Where a peer goes whose connection has ended by itself.
    fn after(&mut self, cause: Cause, now: Instant, out: &mut Vec<Action>) {
        if !self.is_alone() {
            return;
        }
        if cause.is_fault() {
            self.give_up_call(now, out);
        }
        if self.phase == Phase::Connect {
            self.note(cause);
        } else {
            self.retry(cause, now);
        }
    }

    /// Waits before the next try: refusing everything after a fault, listening otherwise.
    fn retry(&mut self, cause: Cause, now: Instant) {
        let backed_off = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(self.local.connect_retry);
        let wait = self.jitter.apply(backed_off);
        self.failures = self.failures.saturating_add(1);
        if cause.is_fault() {
            self.enter(Phase::IdleHold, now);
            self.timers.set(Timer::IdleHold, now + wait);
        } else {
            self.enter(Phase::Active, now);
            if !self.local.passive {
                self.timers.set(Timer::ConnectRetry, now + wait);
            }
        }
        self.note(cause);
    }

    fn note(&mut self, cause: Cause) {
        self.ended = Some(cause.kind());
        if self.trouble.as_ref().is_some_and(|before| cause.is_echo_of(before)) {
            return;
        }
        if !matches!(cause, Cause::Connect(_) | Cause::Lost(_) | Cause::Collision) {
            self.said = Some(cause.clone());
        }
        self.trouble = Some(cause);
    }
}
