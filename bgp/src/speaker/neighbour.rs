//! One neighbour as the speaker's task keeps it: its state machine, its links and its counters.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::NoPeer;
use super::bfd::{Failure, Way};
use super::config::title;
use super::drain::Stage;
use super::guard::Guard;
use super::limit::{Verdict, Watermarks};
use super::link::{self, Link};
use super::stats::Stats;
use super::task::Io;
use crate::api::{AsnRange, Direction, DrainPhase, Held, PeerConfig, RangeId, SessionState};
use crate::bfd::State;
use crate::fsm::restart::{Due, Forwarding, Helper, MAX_LONG_LIVED, Offer, Progress, Start};
use crate::fsm::{Action, Cause, Event, Local, Negotiated, Peer, Role};
use crate::iana::{MessageType, refresh as subtype};
use crate::rib::{PeerFacts, PeerId, Rib};
use crate::types::{Asn, Family, RouterId};
use crate::wire::{Message, Notification, RouteRefresh, SendReceive, Update};

/// How much of what our neighbours know we know ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// We have restarted, and not all have told us what they have.
    Restarting,
    /// As much as can be had.
    Complete,
}

/// How long those that hear the same wait for one that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether it reads as fast as there is something to say.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Keeping,
    /// It has had no room since then.
    Waiting(Instant),
    /// Nobody waits for it any more.
    Parted,
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
            authenticated: config.password.is_some(),
            restart: Offer {
                time: config.graceful_restart.restart_time,
                long_lived: config.graceful_restart.long_lived_stale_time,
                forwarding,
                start,
            },
        };
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
            guard: Guard::new(&config, asn),
            title: title(&config),
            watermarks: Watermarks::default(),
            config,
        }
    }

    /// Begins, if it is known whom with and no drain forbids it.
    fn start(&mut self, io: &mut Io, rib: &mut Rib, now: Instant) {
        if self.is_known() && !self.is_shut() {
            self.handle(Event::Start, None, io, rib, now);
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

    /// The call that was made as number `call` was answered.
    pub fn called(
        &mut self,
        call: u64,
        result: Result<TcpStream, String>,
        io: &mut Io,
        rib: &mut Rib,
        now: Instant,
    ) {
        if self.call.as_ref().is_none_or(|(current, _)| *current != call) {
            return;
        }
        self.call = None;
        let opened =
            result.and_then(|stream| io.link(stream, &self.config, Role::Active).map_err(link::words));
        let event = match opened {
            Ok(link) => {
                self.links[Role::Active as usize] = Some(link);
                Event::Connected
            }
            Err(why) => Event::ConnectFailed(why),
        };
        self.handle(event, None, io, rib, now);
    }

    /// Feeds the state machine and does what it says.
    pub fn handle(
        &mut self,
        event: Event,
        mut incoming: Option<TcpStream>,
        io: &mut Io,
        rib: &mut Rib,
        now: Instant,
    ) {
        let before = (self.fsm.state(), self.fsm.reason().cloned());
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Received(_, message) = &event {
                self.stats.received(message.kind());
            }
            for action in self.fsm.handle(event, now) {
                events.extend(self.act(action, &mut incoming, io, rib, now));
            }
            if let Some(kind) = self.fsm.take_ended() {
                self.stats.ended(kind);
            }
        }
        self.log(before);
    }

    /// Whether it hears more of us than what we originate.
    fn hears_learned(&self) -> bool {
        match &self.config.export {
            Some(policy) => policy.takes_learned(),
            None => self.fsm.established().is_some_and(|negotiated| !negotiated.session.ebgp),
        }
    }

    /// Hands updates to the link as far as it has room. One that has none for long is parted from those that
    /// hear the same: they wait no more. Until our table is complete after a restart, one that hears learned
    /// routes is not told that it has heard them all.
    pub fn pump(&mut self, rib: &mut Rib, table: Table, now: Instant) {
        let hold = table == Table::Restarting && self.hears_learned();
        let Some(link) = self.up.and_then(|role| self.links[role as usize].as_ref()) else { return };
        if !hold && self.held.is_empty() {
            // Not before its End-of-RIB (RFC 7313, section 4); asked for ten times at once, it is said once.
            std::mem::take(&mut self.asked).into_iter().for_each(|family| rib.refresh(self.id, family));
        }
        while rib.has_pending(self.id) {
            let Some(room) = link.room() else {
                match self.pace {
                    Pace::Keeping => self.pace = Pace::Waiting(now),
                    Pace::Waiting(since) if now >= since + PATIENCE => {
                        rib.part(self.id);
                        self.pace = Pace::Parted;
                    }
                    Pace::Waiting(_) | Pace::Parted => {}
                }
                return;
            };
            let Some(run) = rib.take_run(self.id) else { break };
            self.pace = Pace::Keeping;
            if hold && run.end_of_rib.is_some() {
                self.held.push(run.octets);
                continue;
            }
            self.stats.sent(run.kind, u64::from(run.messages));
            room.send(run.octets);
        }
        self.pace = Pace::Keeping;
        while !hold
            && !self.held.is_empty()
            && let Some(room) = link.room()
        {
            self.stats.sent(MessageType::Update, 1);
            room.send(self.held.remove(0));
        }
    }

    /// When it has had no room for too long.
    pub fn impatient_at(&self) -> Option<Instant> {
        match self.pace {
            Pace::Waiting(since) => Some(since + PATIENCE),
            Pace::Keeping | Pace::Parted => None,
        }
    }

    fn act(
        &mut self,
        action: Action,
        incoming: &mut Option<TcpStream>,
        io: &mut Io,
        rib: &mut Rib,
        now: Instant,
    ) -> Option<Event> {
        match action {
            Action::Connect => {
                let (to, port) = (self.config.scoped(), self.config.port);
                let call = link::call(to, port, self.config.local_address, self.guard.clone());
                self.call = Some(io.call(to, call));
            }
            Action::Admit => match self.admit(incoming.take()?, io) {
                Ok(link) => self.links[Role::Passive as usize] = Some(link),
                Err(error) => return Some(Event::Lost(Role::Passive, link::words(error))),
            },
            Action::Refuse(notification) => io.refuse(incoming.take()?, notification),
            Action::Send(role, message) => {
                let link = self.links[role as usize].as_ref()?;
                self.stats.sent(message.kind(), 1);
                if link.send(message).is_err() {
                    return Some(Event::Lost(role, "the neighbour has stopped reading".to_owned()));
                }
            }
            Action::Close(role) => {
                if let Some(link) = self.links[role as usize].take() {
                    io.forget(link.id);
                } else if role == Role::Active
                    && let Some((_, task)) = self.call.take()
                {
                    task.abort();
                }
            }
            Action::Negotiated(role, negotiated) => {
                let link = self.links[role as usize].as_ref()?;
                link.negotiated(negotiated.session, negotiated.send_hold_time);
                if self.range.is_some() {
                    self.config.asn = negotiated.asn;
                    self.title = title(&self.config);
                }
            }
            Action::Up(role) => self.up(role, rib, now),
            Action::Down(cause) => self.down(&cause, rib, now),
            Action::Update(update) => return self.update(update, rib),
            Action::Refresh(refresh) => self.refresh(refresh, rib, now),
        }
        None
    }

    fn admit(&self, stream: TcpStream, io: &mut Io) -> std::io::Result<Link> {
        self.guard.connected(SockRef::from(&stream))?;
        io.link(stream, &self.config, Role::Passive)
    }

    fn up(&mut self, role: Role, rib: &mut Rib, now: Instant) {
        let (Some(link), Some(negotiated)) = (&self.links[role as usize], self.fsm.established()) else {
            return;
        };
        self.up = Some(role);
        self.pace = Pace::Keeping;
        self.stats.up();
        self.progress.up(negotiated);
        let mut next_hops = self.config.next_hops.clone();
        next_hops.push(link.local);
        self.log_up(negotiated, &next_hops);
        let facts = PeerFacts {
            address: self.config.address,
            zone: self.config.scoped().zone,
            name: self.config.name.clone(),
            asn: negotiated.asn,
            router_id: negotiated.router_id,
            session: negotiated.session.clone(),
            next_hops,
            extended_next_hop: negotiated.extended_next_hop,
            add_paths: self.config.add_paths.send,
            enhanced_refresh: negotiated.enhanced_refresh,
            long_lived: negotiated.restart.as_ref().is_some_and(|restart| restart.long_lived.is_some()),
            graceful_shutdown: self.config.graceful_shutdown,
            drain: Stage::of_rib(self.drain.as_ref()),
            client: self.config.route_reflector_client,
            next_hop: self.config.next_hop,
            multihop: [self.config.multihop, self.config.ttl_security]
                .into_iter()
                .flatten()
                .any(|hops| hops > 1),
            local_asn: self.local_asn,
            allow_own_as: self.config.allow_own_as,
            default_route: self.config.accept_default_route,
            import: self.config.import.as_ref().map(Into::into),
            export: self.config.export.as_ref().map(Into::into),
        };
        for family in self.helper.up(negotiated, now) {
            rib.sweep(self.id, family);
        }
        rib.peer_up(self.id, facts);
    }

    fn down(&mut self, cause: &Cause, rib: &mut Rib, now: Instant) {
        self.up = None;
        self.pace = Pace::Keeping;
        self.held.clear();
        self.progress.down();
        self.watermarks = Watermarks::default();
        self.asked.clear();
        self.stats.flaps += 1;
        let kept = self.helper.down(cause, now);
        if kept.is_empty() {
            rib.peer_down(self.id);
        } else {
            kept.iter().filter(|kept| kept.stale).for_each(|kept| rib.freshen(self.id, kept.family));
            let families: Vec<_> = kept.iter().map(|kept| kept.family).collect();
            rib.peer_stale(self.id, &families);
        }
        let stale = rib.counts(self.id).stale;
        tracing::warn!(peer = %self.title, reason = %cause, stale, "session down");
    }

    fn update(&mut self, update: Update, rib: &mut Rib) -> Option<Event> {
        self.stats.forgive(&self.title, &update);
        let end = update.end_of_rib;
        rib.update(self.id, update);
        if let Some(family) = end {
            self.progress.end_of_rib(family);
            if self.helper.end_of_rib(family) {
                rib.sweep(self.id, family);
            }
        }
        self.judge_held(rib)
    }

    /// What is held of it, and what it may give.
    pub fn held(&self, rib: &Rib) -> Vec<Held> {
        let families = self.fsm.established().map(|negotiated| negotiated.session.families.as_slice());
        let of = |family: &Family| Held {
            family: *family,
            held: rib.held(self.id, *family),
            limit: self.config.max_prefixes.limit(*family),
        };
        families.unwrap_or_default().iter().map(of).collect()
    }

    /// Whether it gives more prefixes than it may; that it comes near is said.
    fn judge_held(&mut self, rib: &Rib) -> Option<Event> {
        let limits = self.config.max_prefixes;
        for family in Family::ALL {
            let held = rib.held(self.id, family);
            let limit = limits.limit(family);
            match self.watermarks.judge(&limits, family, held) {
                Verdict::Fine => {}
                Verdict::Near => tracing::warn!(
                    peer = %self.title, %family, held, limit,
                    "it gives almost as many prefixes as it may (maxPrefixes)"
                ),
                Verdict::Past => tracing::warn!(
                    peer = %self.title, %family, held, limit,
                    "it gives more prefixes than it should (maxPrefixes, which only warns)"
                ),
                Verdict::Over(over) => return Some(Event::PrefixLimit(over)),
            }
        }
        None
    }

    /// RFC 2918, RFC 7313. What makes no sense is ignored, as both say.
    fn refresh(&mut self, refresh: RouteRefresh, rib: &mut Rib, now: Instant) {
        let Some(negotiated) = self.fsm.established() else { return };
        let spoken = |family: &Family| negotiated.session.families.contains(family);
        let done = match (refresh.subtype, refresh.family().filter(spoken)) {
            (subtype::REQUEST, Some(family)) => {
                self.asked.insert(family);
                true
            }
            (subtype::BORR, Some(family)) if negotiated.enhanced_refresh => {
                let begins = self.helper.refresh_begins(family, now);
                if begins {
                    rib.refreshes(self.id, family);
                }
                begins
            }
            (subtype::EORR, Some(family)) if negotiated.enhanced_refresh => {
                let ends = self.helper.refresh_ends(family);
                if ends {
                    rib.sweep(self.id, family);
                }
                ends
            }
            _ => false,
        };
        if !done {
            tracing::debug!(peer = %self.title, ?refresh, "a ROUTE-REFRESH that has no place here was ignored");
        }
    }

    fn log_up(&self, negotiated: &Negotiated, next_hops: &[IpAddr]) {
        let families = &negotiated.session.families;
        tracing::info!(
            peer = %self.title,
            router_id = %negotiated.router_id,
            hold_time = negotiated.hold_time,
            families = families.iter().map(Family::to_string).collect::<Vec<_>>().join(", "),
            "session established"
        );
        for family in families {
            let known = |address: &IpAddr| Family::of(*address) == *family || negotiated.extended_next_hop;
            if !next_hops.iter().any(known) {
                tracing::warn!(
                    peer = %self.title,
                    "{family} is spoken, but no next hop of ours is known for it: add one to nextHops; \
                     until then no {family} prefix of ours is announced"
                );
            }
        }
    }

    /// Leaving Established is told by `down`; here, everything on the way to it.
    fn log(&self, before: (SessionState, Option<Cause>)) {
        let (state, reason) = (self.fsm.state(), self.fsm.reason());
        if reason != before.1.as_ref()
            && let Some(reason) = reason
            && before.0 != SessionState::Established
            && state != SessionState::Established
        {
            tracing::info!(peer = %self.title, %state, %reason, "session not up");
        } else if state != before.0 {
            tracing::debug!(peer = %self.title, from = %before.0, to = %state, "session state");
        }
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
