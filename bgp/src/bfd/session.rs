//! One session: its state, its timers and its Poll Sequence (RFC 5880, sections 6.2 to 6.8).

use std::fmt;
use std::time::{Duration, Instant};

use super::packet::{Diagnostic, Packet, State};
use crate::fsm::timer::Jitter;

/// While a session is not up, packets are at least this far apart (RFC 5880, section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What is wanted of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The shortest interval to send at. On the wire in whole microseconds, at most 4294 s.
    pub min_tx: Duration,
    /// The shortest interval to receive at.
    pub min_rx: Duration,
    /// After this many packets in a row did not arrive the neighbour takes us for down; never 0.
    pub multiplier: u8,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Left.
    pub from: State,
    /// Entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// The neighbour's C bit: its BFD outlives its control plane, so that a failure means its forwarding
    /// (RFC 5882, section 4.3).
    pub independent: bool,
}

impl Change {
    /// Whether the way to the neighbour is lost. That an operator disabled BFD, here or there, says nothing
    /// about the way (RFC 5882, section 3.2).
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && matches!(self.reason, Reason::TimeExpired(_) | Reason::NeighbourDown(_))
    }
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The neighbour is heard, or says that it hears us.
    Heard,
    /// Nothing was heard for this long.
    TimeExpired(Duration),
    /// The neighbour says it is down, for this reason.
    NeighbourDown(Diagnostic),
    /// The neighbour's operator disabled its session.
    NeighbourDisabled,
    /// We disabled ours.
    Disabled,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heard => f.write_str("the neighbour is heard"),
            Self::TimeExpired(after) => {
                write!(f, "{} after {} ms", Diagnostic::TIME_EXPIRED, after.as_millis())
            }
            Self::NeighbourDown(why) => write!(f, "{} ({why})", Diagnostic::NEIGHBOUR_DOWN),
            Self::NeighbourDisabled => f.write_str("the neighbour's operator disabled BFD"),
            Self::Disabled => f.write_str("we disabled BFD"),
        }
    }
}

/// What the neighbour last said: bfd.Remote… of RFC 5880, section 6.8.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// 0 while unknown.
    pub discriminator: u32,
    /// Its state.
    pub state: State,
    /// Why it last changed its state.
    pub diagnostic: Diagnostic,
    /// The shortest interval it takes; zero: it wants nothing.
    pub min_rx: Duration,
    /// The shortest interval it sends at.
    pub min_tx: Duration,
    /// Its detection multiplier.
    pub multiplier: u8,
    /// Whether it wishes for demand mode.
    pub demand: bool,
    /// Its C bit: its BFD outlives its control plane.
    pub control_plane_independent: bool,
}

impl Remote {
    /// Before anything is heard, and again once nothing has been heard for a detection time.
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        min_rx: Duration::from_micros(1),
        min_tx: Duration::ZERO,
        multiplier: 0,
        demand: false,
        control_plane_independent: false,
    };
}

/// Where a Poll Sequence is (RFC 5880, section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// The next packet carries P.
    Wanted,
    /// A packet with P is out; F ends the sequence.
    Sent,
    /// Intervals changed since P went out: F will only make room for another sequence.
    Outdated,
}

/// A session with one neighbour.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    since: Instant,
    remote: Remote,
    /// bfd.DesiredMinTxInterval, as told to the neighbour.
    desired_min_tx: Duration,
    /// The same as far as the neighbour is sure to know it.
    agreed_tx: Duration,
    /// bfd.RequiredMinRxInterval, likewise.
    agreed_rx: Duration,
    poll: Poll,
    /// A packet with F is owed.
    answer: bool,
    last_sent: Option<Instant>,
    /// None: nothing is to be sent.
    next_send: Option<Instant>,
    last_heard: Option<Instant>,
    jitter: Jitter,
}

impl Session {
    /// A session in Down, whose first packet is due at once. `discriminator` is not 0 and is ours alone on
    /// this machine; `seed` drives the jitter.
    pub fn new(settings: Settings, discriminator: u32, seed: u64, now: Instant) -> Self {
        let desired_min_tx = settings.min_tx.max(SLOW);
        Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            since: now,
            remote: Remote::UNKNOWN,
            desired_min_tx,
            agreed_tx: desired_min_tx,
            agreed_rx: settings.min_rx,
            poll: Poll::Idle,
            answer: false,
            last_sent: None,
            next_send: Some(now),
            last_heard: None,
            jitter: Jitter::new(seed),
        }
    }

    /// Takes a packet that [`Packet::parse`] let through and that is for this session: RFC 5880, section
    /// 6.8.6, from "Set bfd.RemoteDiscr" on. `now` must never go back.
    #[must_use = "the change is the packet's whole effect on the session's client"]
    pub fn receive(&mut self, packet: &Packet, now: Instant) -> Option<Change> {
        let before = self.tx_interval();
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_rx: micros(packet.required_min_rx),
            min_tx: micros(packet.desired_min_tx),
            multiplier: packet.multiplier,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
        };
        if packet.is_final {
            self.finish_poll();
        }
        let change = if self.state == State::AdminDown {
            None
        } else {
            self.answer |= packet.poll;
            self.last_heard = Some(now);
            let (to, reason) = self.answer_to(packet);
            self.enter(to, reason, now)
        };
        if change.is_none() && self.tx_interval() != before {
            self.reschedule(now);
        }
        change
    }

    /// The state machine of RFC 5880, section 6.8.6, with the session not in AdminDown.
    fn answer_to(&self, packet: &Packet) -> (State, Reason) {
        let down = Reason::NeighbourDown(packet.diagnostic);
        match (self.state, packet.state) {
            (_, State::AdminDown) => (State::Down, Reason::NeighbourDisabled),
            (State::Down, State::Down) => (State::Init, Reason::Heard),
            (State::Down, State::Init) => (State::Up, Reason::Heard),
            (State::Down, State::Up) => (State::Down, Reason::Heard),
            (State::Init, State::Init | State::Up) => (State::Up, Reason::Heard),
            (State::Init, State::Down) => (State::Init, Reason::Heard),
            (State::Up, State::Down) => (State::Down, down),
            (State::Up, State::Init | State::Up) => (State::Up, Reason::Heard),
            (State::AdminDown, _) => (State::AdminDown, Reason::Disabled),
        }
    }

    /// What the time has done: RFC 5880, section 6.8.4. Early or late is harmless.
    #[must_use = "the change is the whole effect on the session's client"]
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        if self.detection_due().is_none_or(|due| now < due) {
            return None;
        }
        let reason = Reason::TimeExpired(self.detection_time());
        self.last_heard = None;
        let remote = std::mem::replace(&mut self.remote, Remote::UNKNOWN);
        match self.state {
            State::Init | State::Up => {
                let change = self.enter(State::Down, reason, now)?;
                Some(Change { independent: remote.control_plane_independent, ..change })
            }
            State::Down | State::AdminDown => {
                self.reschedule(now);
                None
            }
        }
    }

    /// The next packet to send at `now`; call until there is none.
    pub fn transmit(&mut self, now: Instant) -> Option<Packet> {
        if self.answer {
            // RFC 5880, section 6.8.7: at once, whatever the timers say, and never with P as well.
            self.answer = false;
            return Some(Packet { is_final: true, ..self.packet() });
        }
        if self.next_send.is_none_or(|due| now < due) {
            return None;
        }
        let poll = match self.poll {
            Poll::Idle => false,
            Poll::Wanted => {
                self.poll = Poll::Sent;
                true
            }
            Poll::Sent | Poll::Outdated => true,
        };
        self.last_sent = Some(now);
        self.reschedule(now);
        Some(Packet { poll, ..self.packet() })
    }

    /// When [`Session::tick`] or [`Session::transmit`] has something to do; none: only a packet or a new
    /// order can change anything.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.answer {
            return self.last_heard;
        }
        self.next_send.into_iter().chain(self.detection_due()).min()
    }

    /// New settings, agreed on with the neighbour by a Poll Sequence: RFC 5880, section 6.8.3.
    pub fn set(&mut self, settings: Settings, now: Instant) {
        if self.settings == settings {
            return;
        }
        let old = std::mem::replace(&mut self.settings, settings);
        if old.min_rx != settings.min_rx {
            self.begin_poll();
            // While it is up, what is heard less often than the neighbour has been told to send is judged
            // by the longer interval until it has answered.
            self.agreed_rx =
                if self.state == State::Up { self.agreed_rx.max(settings.min_rx) } else { settings.min_rx };
        }
        self.desire();
        self.send_soon(now);
    }

    /// AdminDown, for good: RFC 5880, section 6.8.16. The neighbour should be told for
    /// [`Session::farewell`].
    #[must_use = "the change is the whole effect on the session's client"]
    pub fn disable(&mut self, now: Instant) -> Option<Change> {
        let change = self.enter(State::AdminDown, Reason::Disabled, now);
        (self.last_heard, self.answer) = (None, false);
        change
    }

    /// After this long in AdminDown the neighbour has been told or cannot be: the time after which it would
    /// have missed us.
    pub fn farewell(&self) -> Duration {
        self.settings.min_tx.max(self.remote.min_rx).max(SLOW) * u32::from(self.settings.multiplier)
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is in it.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What the neighbour last said; nothing, if that is too long ago.
    pub fn remote(&self) -> Option<&Remote> {
        (self.remote.discriminator != 0).then_some(&self.remote)
    }

    /// Between two packets of ours before jitter: RFC 5880, section 6.8.2. None: the neighbour wants
    /// nothing.
    pub fn tx_interval(&self) -> Option<Duration> {
        let demanded = self.remote.demand && self.state == State::Up && self.remote.state == State::Up;
        if self.remote.min_rx.is_zero() || demanded && self.poll == Poll::Idle {
            return None;
        }
        Some(self.agreed_tx.max(self.remote.min_rx))
    }

    /// After this long without a packet the neighbour is down: RFC 5880, section 6.8.4. Zero before
    /// anything was heard.
    pub fn detection_time(&self) -> Duration {
        self.agreed_rx.max(self.remote.min_tx) * u32::from(self.remote.multiplier)
    }

    fn detection_due(&self) -> Option<Instant> {
        Some(self.last_heard? + self.detection_time())
    }

    fn enter(&mut self, to: State, reason: Reason, now: Instant) -> Option<Change> {
        let from = self.state;
        if from == to {
            return None;
        }
        self.state = to;
        self.since = now;
        self.diagnostic = match reason {
            Reason::Heard => Diagnostic::NONE,
            Reason::TimeExpired(_) => Diagnostic::TIME_EXPIRED,
            Reason::NeighbourDown(_) | Reason::NeighbourDisabled => Diagnostic::NEIGHBOUR_DOWN,
            Reason::Disabled => Diagnostic::ADMINISTRATIVELY_DOWN,
        };
        self.desire();
        if to != State::Up {
            self.agreed_rx = self.settings.min_rx;
        }
        self.send_soon(now);
        Some(Change { from, to, reason, independent: self.remote.control_plane_independent })
    }

    /// Says the interval that goes with the state: RFC 5880, section 6.8.3.
    fn desire(&mut self) {
        let wanted = match self.state {
            State::Up => self.settings.min_tx,
            State::AdminDown | State::Down | State::Init => self.settings.min_tx.max(SLOW),
        };
        if self.desired_min_tx != wanted {
            self.desired_min_tx = wanted;
            self.begin_poll();
        }
        // A longer interval while up has to wait until the neighbour knows of it.
        if self.state != State::Up || wanted < self.agreed_tx {
            self.agreed_tx = wanted;
        }
    }

    fn begin_poll(&mut self) {
        self.poll = match self.poll {
            Poll::Idle | Poll::Wanted => Poll::Wanted,
            Poll::Sent | Poll::Outdated => Poll::Outdated,
        };
    }

    fn finish_poll(&mut self) {
        self.poll = match self.poll {
            Poll::Sent => {
                self.agreed_tx = self.desired_min_tx;
                self.agreed_rx = self.settings.min_rx;
                Poll::Idle
            }
            Poll::Outdated => Poll::Wanted,
            // Nothing was asked.
            other @ (Poll::Idle | Poll::Wanted) => other,
        };
    }

    /// RFC 5880, section 6.8.7: what is new is told without waiting for the interval to pass.
    fn send_soon(&mut self, now: Instant) {
        self.next_send = self.tx_interval().map(|_| now);
    }

    /// The next periodic packet, an interval after the last: RFC 5880, section 6.8.7.
    fn reschedule(&mut self, now: Instant) {
        self.next_send = self.tx_interval().map(|interval| {
            let jittered = self.jitter.apply(interval);
            let wait = match self.settings.multiplier {
                // 75 to 90 %: the neighbour, which waits for one packet only, must not miss it.
                1 => interval.mul_f64(0.75) + jittered.saturating_sub(interval.mul_f64(0.75)).mul_f64(0.6),
                _ => jittered,
            };
            self.last_sent.map_or(now, |last| (last + wait).max(now))
        });
    }

    /// RFC 5880, section 6.8.7. C stays clear: this implementation runs in the control plane's own process
    /// and dies with it, while the kernel goes on forwarding.
    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: as_micros(self.desired_min_tx),
            required_min_rx: as_micros(self.settings.min_rx),
            required_min_echo_rx: 0,
        }
    }
}

fn micros(value: u32) -> Duration {
    Duration::from_micros(value.into())
}

fn as_micros(value: Duration) -> u32 {
    u32::try_from(value.as_micros()).unwrap_or(u32::MAX)
}
