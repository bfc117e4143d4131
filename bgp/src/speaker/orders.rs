//! Putting a wanted state in force: what is listened on, who is a neighbour, what of it needs a new session.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::bfd::{Bfd, Wanted};
use super::keys::Keys;
use super::listen::{ListenError, Listener};
use super::neighbour::{Neighbour, Table, Us};
use super::task::Speaker;
use super::{ApplyError, ConfigError, config};
use crate::api::{Config, PeerConfig};
use crate::fsm::restart::Start;
use crate::rib::{PeerId, Rib};
use crate::types::{Prefix, ScopedAddr};
use crate::wire::Notification;

/// What is in force.
pub(super) struct Orders {
    pub config: Config,
    pub rib: Rib,
    /// When the table counts as complete at the latest.
    pub complete_by: Instant,
    pub synced: bool,
    /// Whether neighbours may be told that they have heard everything.
    pub table: Table,
}

impl Speaker {
    /// Puts a wanted state in force, as far as it differs; or says why not, and all is as before.
    pub(super) async fn apply(&mut self, config: Config) -> Result<Vec<String>, ApplyError> {
        config::check(&config)?;
        self.start_bfd(&config).map_err(|error| ApplyError::Bfd(error.to_string()))?;
        self.listen(&config).await?;
        let changes = config::describe(self.orders.as_ref().map(|orders| &orders.config), &config);
        for change in &changes {
            tracing::info!("{change}");
        }
        let now = Instant::now();
        if self.orders.is_none() {
            self.cold = !config.restarting;
        }
        // Whoever has had no session since a cold start may have routes of an earlier life.
        let start = match &self.orders {
            _ if self.cold => Start::Cold,
            Some(_) => Start::Over,
            None => Start::Restarted,
        };
        let us = Us { asn: config.asn, router_id: config.router_id, start };
        let mut orders = self.identify(&config, now);
        orders.rib.set_cluster_id(config.cluster());
        orders.rib.set_underlay(config.underlay.as_deref());
        orders.rib.set_decision(config.decision);
        // Cannot fail: the same was tried on an empty RIB by `check`.
        let networks = orders.rib.set_networks(&config.networks);
        let networks =
            networks.and_then(|()| orders.rib.set_aggregates(&config.aggregates)).map_err(ConfigError::from);
        self.remove_peers(&config, &mut orders.rib, now);
        for peer in &config.peers {
            self.apply_peer(peer, us, &mut orders.rib, now);
        }
        self.apply_ranges(&config, &mut orders.rib, now);
        orders.config = config;
        self.orders = Some(orders);
        self.watch_ways();
        networks?;
        Ok(changes)
    }

    fn start_bfd(&mut self, config: &Config) -> io::Result<()> {
        let settings = config.ranges.iter().map(|range| &range.settings);
        let wanted = config.peers.iter().chain(settings).any(|peer| peer.bfd.is_some());
        if self.bfd.is_none() && wanted {
            let (bfd, ways) = Bfd::start()?;
            (self.bfd, self.ways) = (Some(bfd), ways);
        }
        Ok(())
    }

    /// Tells the BFD thread whom to watch.
    pub(super) fn watch_ways(&self) {
        if let Some(bfd) = &self.bfd {
            let known = self.neighbours.iter().filter(|(_, neighbour)| neighbour.is_known());
            bfd.set(known.filter_map(|(peer, n)| Some((*peer, Wanted::of(&n.config)?))).collect());
        }
    }

    /// The orders in force, emptied where our AS or identifier is another: every session and every route
    /// hangs on them.
    fn identify(&mut self, config: &Config, now: Instant) -> Orders {
        let complete_by = now + self.options.start_wait;
        let rib = Rib::new(config.asn, config.router_id);
        match self.orders.take() {
            Some(orders)
                if (orders.config.asn, orders.config.router_id) == (config.asn, config.router_id) =>
            {
                orders
            }
            Some(mut orders) => {
                for neighbour in self.neighbours.values_mut() {
                    let cease = Notification::other_configuration_change();
                    neighbour.end(cease, &mut self.io, &mut orders.rib, now);
                }
                self.neighbours.clear();
                let gone = orders.rib.take_changes();
                self.watchers.iter_mut().for_each(|watcher| watcher.merge(&gone));
                Orders { rib, ..orders }
            }
            None => {
                let table = if config.restarting { Table::Restarting } else { Table::Complete };
                Orders { config: config.clone(), rib, complete_by, synced: false, table }
            }
        }
    }

    fn remove_peers(&mut self, config: &Config, rib: &mut Rib, now: Instant) {
        self.neighbours.retain(|address, neighbour| {
            let stays = config.peers.iter().any(|peer| peer.scoped() == *address);
            // A dynamic one that is configured now begins anew.
            if !stays && neighbour.range.is_none() || stays && neighbour.range.is_some() {
                neighbour.end(Notification::peer_deconfigured(), &mut self.io, rib, now);
                return false;
            }
            true
        });
        let configured = |address: &ScopedAddr| config.peers.iter().any(|peer| peer.scoped() == *address);
        self.drains.retain(|address| configured(address) || self.neighbours.contains_key(address));
    }

    fn apply_peer(&mut self, peer: &PeerConfig, us: Us, rib: &mut Rib, now: Instant) {
        let (mut stats, mut bfd) = Default::default();
        let mut us = us;
        if let Some(neighbour) = self.neighbours.get_mut(&peer.scoped()) {
            if !config::needs_restart(&neighbour.config, peer) {
                return neighbour.set_policy(peer.clone(), &mut self.io, rib, now);
            }
            neighbour.end(Notification::other_configuration_change(), &mut self.io, rib, now);
            us.start = neighbour.fsm.start();
            stats = std::mem::take(&mut neighbour.stats);
            bfd = neighbour.bfd.take().filter(|_| peer.bfd.is_some());
        }
        let mut neighbour = Neighbour::new(peer.clone(), vec![peer.asn.into()], self.new_peer(), us, now);
        (neighbour.stats, neighbour.bfd) = (stats, bfd);
        neighbour.begin(self.drains.stage(peer.scoped()), &mut self.io, rib, now);
        self.neighbours.insert(peer.scoped(), neighbour);
    }

    pub(super) fn new_peer(&mut self) -> PeerId {
        let id = PeerId::new(self.next_peer);
        self.next_peer = self.next_peer.wrapping_add(1);
        id
    }

    /// Listens on exactly the wanted addresses with the wanted keys, or as before if one cannot be had.
    async fn listen(&mut self, config: &Config) -> Result<(), ListenError> {
        self.listen_on(config).await?;
        let keyed = self.require(config);
        if let (Err(_), Some(before)) = (&keyed, self.orders.as_ref().map(|orders| orders.config.clone())) {
            self.listen_on(&before).await?;
            self.require(&before)?;
        }
        keyed
    }

    fn require(&mut self, config: &Config) -> Result<(), ListenError> {
        let peers = config.peers.iter().filter(|peer| !peer.address.is_unspecified());
        let peers = peers.map(|peer| (Prefix::host(peer.address), peer));
        let ranges = config.ranges.iter().map(|range| (range.prefix, &range.settings));
        let keys = peers.chain(ranges).filter_map(|(who, peer)| Some((who, Keys::of(peer)?))).collect();
        self.listeners.values_mut().try_for_each(|listener| listener.require(&keys))
    }

    async fn listen_on(&mut self, config: &Config) -> Result<(), ListenError> {
        let gone: Vec<_> =
            self.listeners.keys().filter(|address| !config.listen.contains(address)).copied().collect();
        for address in &gone {
            if let Some(listener) = self.listeners.remove(address) {
                listener.close().await;
            }
        }
        let mut opened = Vec::new();
        for address in &config.listen {
            if self.listeners.contains_key(address) {
                continue;
            }
            match Listener::open(*address, self.io.inputs.clone()) {
                Ok(listener) => {
                    opened.push(*address);
                    self.listeners.insert(*address, listener);
                }
                Err(error) => {
                    self.listen_again(&gone, &opened).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn listen_again(&mut self, gone: &[SocketAddr], opened: &[SocketAddr]) {
        for address in opened {
            if let Some(listener) = self.listeners.remove(address) {
                listener.close().await;
            }
        }
        for address in gone {
            match Listener::open(*address, self.io.inputs.clone()) {
                Ok(listener) => drop(self.listeners.insert(*address, listener)),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}
