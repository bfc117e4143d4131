//! One neighbour as the speaker's task keeps it: its state machine, its links and its counters.

mod act;
mod pace;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::AbortHandle;

use self::pace::Pace;
use super::NoPeer;
use super::bfd::{Failure, Way};
use super::config::title;
use super::drain::Stage;
use super::guard::Guard;
use super::keys::Keys;
use super::limit::Watermarks;
use super::link::{self, Link};
use super::stats::Stats;
use super::task::Io;
use crate::api::{AsnRange, Direction, DrainPhase, PeerConfig, RangeId, SessionState};
use crate::bfd::State;
use crate::fsm::negotiate::Authentication;
use crate::fsm::restart::{Due, Forwarding, Helper, MAX_LONG_LIVED, Offer, Progress, Start};
use crate::fsm::{Cause, Event, Local, Peer, Role};
use crate::iana::MessageType;
use crate::rib::{PeerId, Rib};
use crate::types::{Asn, Family, RouterId};
use crate::wire::{Message, Notification, RouteRefresh, SendReceive};

/// How much of what our neighbours know we know ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// We have restarted, and not all have told us what they have.
    Restarting,
    /// As much as can be had.
    Complete,
}

/// Everything of one neighbour.
pub(super) struct Neighbour {
    /// Of a dynamic one, with the AS it has told.
    pub config: PeerConfig,
    /// The ASes it may claim.
    pub asns: Vec<AsnRange>,
    /// The range it called from: it is dynamic.
    pub range: Option<RangeId>,
    pub id: PeerId,
    pub fsm: Peer,
    pub stats: Stats,
    /// By [`Role`].
    links: [Option<Link>; 2],
    call: Option<(u64, AbortHandle)>,
    /// The link of the Established session.
    up: Option<Role>,
    /// What its BFD session is.
    pub bfd: Option<Way>,
    /// How far it has told what it has.
    progress: Progress,
    pace: Pace,
    /// What becomes of its routes while it restarts.
    helper: Helper,
    /// End-of-RIBs it is to hear once our own table is complete.
    held: Vec<Bytes>,
    /// How far it is to do without us.
    drain: Option<Stage>,
    /// Families it is to hear all of again.
    asked: BTreeSet<Family>,
    /// The AS we are to it.
    local_asn: Asn,
    guard: Guard,
    /// What keeps us from speaking with it at all, in words.
    obstacle: Option<String>,
    title: String,
    /// How near it is to what it may give.
    watermarks: Watermarks,
}

/// Whose neighbour it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Us {
    pub asn: Asn,
    pub router_id: RouterId,
    /// What came before the first session.
    pub start: Start,
}

impl Neighbour {
    /// Stopped.
    pub fn new(config: PeerConfig, asns: Vec<AsnRange>, id: PeerId, us: Us, now: Instant) -> Self {
        let forwarding = match config.graceful_restart.preserve_forwarding {
            true => Forwarding::Preserved,
            false => Forwarding::Lost,
        };
        let Us { asn, router_id, start } = us;
        let asn = config.local_asn.unwrap_or(asn);
        let local = Local {
            asn,
            router_id,
            peer_asns: asns.clone(),
            families: config.families.clone(),
            hold_time: config.hold_time,
            keepalive: config.keepalive,
            send_hold_time: config.send_hold_time,
            connect_retry: Duration::from_secs(config.connect_retry.into()),
            extended_next_hop: config.extended_next_hop,
            add_path: SendReceive::of(config.add_paths.send.is_some(), config.add_paths.receive),
            passive: config.passive,
            authentication: match Keys::of(&config) {
                Some(Keys::Password(_)) => Authentication::Password,
                Some(Keys::TcpAo(_)) => Authentication::TcpAo,
                None => Authentication::None,
            },
            restart: Offer {
                time: config.graceful_restart.restart_time,
                long_lived: config.graceful_restart.long_lived_stale_time,
                forwarding,
                start,
            },
        };
        let guard = Guard::new(&config, asn);
        let mut helper = Helper::default();
        helper.set_limit(limit(&config));
        Self {
            asns,
            range: None,
            id,
            fsm: Peer::new(local, RandomState::new().hash_one(config.scoped()), now),
            stats: Stats::default(),
            links: [None, None],
            call: None,
            up: None,
            bfd: None,
            progress: Progress::default(),
            pace: Pace::Keeping,
            helper,
            held: Vec::new(),
            drain: None,
            asked: BTreeSet::new(),
            local_asn: asn,
            obstacle: guard.obstacle(),
            guard,
            title: title(&config),
            watermarks: Watermarks::default(),
            config,
        }
    }

    /// Begins, if it is known whom with and neither a drain nor the kernel forbids it.
    fn start(&mut self, io: &mut Io, rib: &mut Rib, now: Instant) {
        if !self.is_known() || self.is_shut() {
            return;
        }
        match &self.obstacle {
            Some(reason) => tracing::warn!(peer = %self.title, reason, "no session is possible"),
            None => self.handle(Event::Start, None, io, rib, now),
        }
    }

    /// What of it is not heard.
    pub fn least_ttl(&self) -> Option<u8> {
        self.guard.least_ttl()
    }

    /// What no session comes up for, whatever the state machine does.
    pub fn obstacle(&self) -> Option<String> {
        match self.config.interface {
            Some(interface) if !self.is_known() => Some(format!(
                "no neighbour's address is known on {interface} yet: it is to be told as address"
            )),
            _ => self.obstacle.clone(),
        }
    }

    /// Whether it has an address.
    pub fn is_known(&self) -> bool {
        !self.config.address.is_unspecified()
    }

    /// Whether nothing is left of one that never is called: no connection, and no routes that wait for it.
    pub fn has_parted(&self) -> bool {
        self.fsm.is_at_rest() && self.helper.next_timeout().is_none()
    }

    /// A new name, new policies or new limits; everything else wants a new session.
    pub fn set_policy(&mut self, config: PeerConfig, io: &mut Io, rib: &mut Rib, now: Instant) {
        if (&config.import, &config.export) != (&self.config.import, &self.config.export) {
            rib.set_policy(
                self.id,
                config.import.as_ref().map(Into::into),
                config.export.as_ref().map(Into::into),
            );
        }
        rib.set_graceful_shutdown(self.id, config.graceful_shutdown);
        self.helper.set_limit(limit(&config));
        if config.bfd.is_none() {
            self.bfd = None;
        }
        self.title = title(&config);
        let limits = std::mem::replace(&mut self.config, config).max_prefixes;
        if limits != self.config.max_prefixes {
            if let Some(over) = self.judge_held(rib) {
                self.handle(over, None, io, rib, now);
            } else if matches!(self.fsm.reason(), Some(Cause::PrefixLimit(_)))
                && self.fsm.state() == SessionState::Idle
            {
                self.reset(Notification::other_configuration_change(), io, rib, now);
            }
        }
    }

    /// What BFD says of the way to it. A lost way ends its session at once; a way not found yet keeps
    /// none from coming up (RFC 5882, section 4.1).
    pub fn bfd(&mut self, way: Way, io: &mut Io, rib: &mut Rib, now: Instant) {
        if self.config.bfd.is_none() {
            return;
        }
        let lost = way.news(self.bfd.as_ref()).cloned();
        self.log_bfd(&way, lost.as_ref());
        self.bfd = Some(way);
        let Some(failure) = lost else { return };
        self.handle(Event::BfdDown(failure.why), None, io, rib, now);
        // Without the C bit, a neighbour whose BFD goes while it restarts may just be restarting BFD as well.
        if failure.independent {
            for family in self.helper.abort() {
                rib.sweep(self.id, family);
            }
        }
    }

    fn log_bfd(&self, way: &Way, lost: Option<&Failure>) {
        let before = self.bfd.as_ref();
        let (state, reason) = (way.state, way.reason.as_deref().unwrap_or_default());
        if let Some(Failure { why, .. }) = lost {
            tracing::warn!(peer = %self.title, reason = why, "BFD: the way is lost");
        }
        if before.map(|before| (before.state, &before.reason)) != Some((state, &way.reason)) {
            match state {
                State::Up => tracing::info!(peer = %self.title, "BFD: up"),
                State::AdminDown | State::Down | State::Init => {
                    tracing::debug!(peer = %self.title, %state, reason, "BFD: not up");
                }
            }
        }
    }

    /// How far it has told what it has; nothing is to be waited for of one that nobody expects: who of a range is to come
    /// is not known, nor whether one that is not found will be.
    pub fn progress(&self) -> Option<&Progress> {
        let expected = self.range.is_none() && self.is_known();
        Some(&self.progress).filter(|progress| expected || progress.has_begun())
    }

    /// The start of the speaker is history.
    pub fn started(&mut self) {
        self.fsm.started();
    }

    /// When [`Neighbour::tick`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let timers = [self.fsm.next_timeout(), self.helper.next_timeout(), self.impatient_at()];
        timers.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, io: &mut Io, rib: &mut Rib, now: Instant) {
        if self.fsm.next_timeout().is_some_and(|due| due <= now) {
            self.handle(Event::Tick, None, io, rib, now);
        }
        for due in self.helper.expired(now) {
            match due {
                Due::Gone(family) => {
                    tracing::warn!(peer = %self.title, "{family}: stale routes are waited for no longer");
                    rib.sweep(self.id, family);
                }
                Due::LongLived(family) => {
                    tracing::warn!(peer = %self.title, "{family}: stale routes are kept as the last resort");
                    rib.live_long(self.id, family);
                }
            }
        }
    }

    /// Ends it: the neighbour is told why, and nothing of it stays.
    pub fn end(&mut self, cease: Notification, io: &mut Io, rib: &mut Rib, now: Instant) {
        self.handle(Event::Stop(cease), None, io, rib, now);
        rib.peer_down(self.id);
    }

    /// Begins, as far as its drain lets it.
    pub fn begin(&mut self, drain: Option<Stage>, io: &mut Io, rib: &mut Rib, now: Instant) {
        self.drain = drain;
        self.start(io, rib, now);
    }

    /// It is to do without us from now on, or not any more.
    pub fn drain(&mut self, stage: Option<Stage>, io: &mut Io, rib: &mut Rib, now: Instant) {
        if self.drain == stage {
            return;
        }
        let was_shut = self.is_shut();
        self.drain = stage;
        rib.set_drain(self.id, Stage::of_rib(self.drain.as_ref()));
        let phase = self.drain.as_ref().map_or("over".to_owned(), |stage| stage.phase.to_string());
        tracing::info!(peer = %self.title, "drain: {phase}");
        match &self.drain {
            Some(stage) if self.is_shut() && !was_shut => {
                let cease = Notification::administrative_shutdown(&stage.reason);
                self.end(cease, io, rib, now);
            }
            _ if was_shut => self.start(io, rib, now),
            _ => {}
        }
    }

    /// Whether it has no session because it is drained.
    pub fn is_shut(&self) -> bool {
        self.drain.as_ref().is_some_and(|stage| stage.phase == DrainPhase::Shutdown)
    }

    /// Ends its session, and begins anew as far as its drain lets it.
    pub fn reset(&mut self, cease: Notification, io: &mut Io, rib: &mut Rib, now: Instant) {
        self.end(cease, io, rib, now);
        self.guard.forget();
        self.start(io, rib, now);
    }

    /// Asks it for all its routes again, or tells it all of ours.
    pub fn refresh_all(&mut self, direction: Direction) -> Result<(), NoPeer> {
        let peer = self.config.scoped();
        let link = self.up.and_then(|role| self.links[role as usize].as_ref());
        let (Some(link), Some(negotiated)) = (link, self.fsm.established()) else {
            return Err(NoPeer::Unasked { peer, why: "the session is not established" });
        };
        if direction == Direction::Out {
            self.asked.extend(&negotiated.session.families);
            return Ok(());
        }
        if !negotiated.route_refresh {
            return Err(NoPeer::Unasked { peer, why: "it does not speak ROUTE-REFRESH; reset the session" });
        }
        for family in &negotiated.session.families {
            self.stats.sent(MessageType::RouteRefresh, 1);
            if link.send(Message::RouteRefresh(RouteRefresh::request(*family))).is_err() {
                return Err(NoPeer::Unasked { peer, why: "it has stopped reading" });
            }
        }
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Some((_, task)) = self.call.take() {
            task.abort();
        }
    }
}

/// How long its routes may be the last resort, at most.
fn limit(config: &PeerConfig) -> Duration {
    Duration::from_secs(config.graceful_restart.long_lived_limit.unwrap_or(MAX_LONG_LIVED).into())
}

/// What a link heard, as the state machine takes it.
pub(super) fn event(role: Role, heard: link::Heard) -> Event {
    match heard {
        link::Heard::Message(message) => Event::Received(role, message),
        link::Heard::Malformed(notification) => Event::Malformed(role, notification),
        link::Heard::Stalled(seconds) => Event::SendHold(role, seconds),
        link::Heard::Lost(why) => Event::Lost(role, why),
    }
}
