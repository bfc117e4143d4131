//! What a neighbour's state machine says is done: calls, links, and what a session's messages mean to the RIB.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::Neighbour;
use super::pace::Pace;
use crate::api::{Held, SessionState};
use crate::fsm::{Action, Cause, Event, Negotiated, Role};
use crate::iana::refresh as subtype;
use crate::rib::{PeerFacts, Rib};
use crate::speaker::config::title;
use crate::speaker::drain::Stage;
use crate::speaker::limit::{Verdict, Watermarks};
use crate::speaker::link::{self, Link};
use crate::speaker::listen::Caller;
use crate::speaker::task::Io;
use crate::types::Family;
use crate::wire::{RouteRefresh, Update};

impl Neighbour {
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
        let opened = result.and_then(|stream| self.link(stream, Role::Active, io).map_err(link::words));
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
        mut incoming: Option<Caller>,
        io: &mut Io,
        rib: &mut Rib,
        now: Instant,
    ) {
        let before = (self.fsm.state(), self.fsm.reason().cloned());
        if let Some(caller) = &incoming {
            self.look_at(caller);
        }
        let (mut first, mut events) = (Some(event), VecDeque::new());
        while let Some(event) = first.take().or_else(|| events.pop_front()) {
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

    fn act(
        &mut self,
        action: Action,
        incoming: &mut Option<Caller>,
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
            Action::Refuse(notification) => io.refuse(incoming.take()?.stream, notification),
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

    /// A caller as near as can be is required to stay there, on the connection it already has as well.
    fn look_at(&mut self, caller: &Caller) {
        if !self.guard.learn(caller.syn_ttl) {
            return;
        }
        tracing::info!(peer = %self.title, "it sends with a TTL of 255: nothing else is taken of it from now on (GTSM)");
        for link in self.links.iter().flatten() {
            if let Err(error) = link.require_ttl(&self.guard) {
                tracing::warn!(peer = %self.title, error = %link::words(error), "GTSM is not in force on its connection");
            }
        }
    }

    fn admit(&self, caller: Caller, io: &mut Io) -> std::io::Result<Link> {
        self.guard.accepted(&SockRef::from(&caller.stream), caller.syn_ttl)?;
        self.link(caller.stream, Role::Passive, io)
    }

    fn link(&self, stream: TcpStream, role: Role, io: &mut Io) -> std::io::Result<Link> {
        let socket = self.guard.is_learning().then(|| SockRef::from(&stream).try_clone()).transpose()?;
        let mut link = io.link(stream, &self.config, role)?;
        link.socket = socket;
        Ok(link)
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
            bilateral: self.config.bilateral,
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
    pub(super) fn judge_held(&mut self, rib: &Rib) -> Option<Event> {
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
