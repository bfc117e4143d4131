//! The blocks this node owns: claimed ahead of need, used and announced once the API shows them, put back when their
//! object vanishes under running pods, given back when they are not needed.
//!
//! ```text
//!   wanted ─ Claim ▶ created ─ watch ▶ stands? ─▶ owned ─ empty, not needed for a while ▶ withdrawn ─ Return ▶ gone
//!                                        └ no ──────────────────────────────────────────────▲
//! ```

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::time::{Duration, Instant};

use manx_ipam::claim::{Claim, ClaimError, Claimed, Parent};
use manx_ipam::store::StoreError;
use manx_ipam::{BlockCidr, Family, Pool};

use super::carve::Carving;
use super::cluster::prefix;
use super::core::{Core, Effect};
use super::known::{Known, KnownBlock};
use crate::graph::Input;
use crate::watch::Kind;

/// Pauses between tries at the API: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long the watch may take to show a block that was created.
const UNSEEN: Duration = Duration::from_secs(30);

/// A block that is not needed for this long is given back.
const IDLE: Duration = Duration::from_secs(300);

/// What must have been read before a block is claimed or an address handed out.
const CLAIMING: [Kind; 5] = [Kind::Node, Kind::Namespace, Kind::IPPool, Kind::IPAMBlock, Kind::IPReservation];

/// What a claim is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// Of which family.
    pub family: Family,
    /// Names of pools, in order of preference.
    pub pools: Vec<String>,
    /// This very block, for an address a pod asks for.
    pub block: Option<BlockCidr>,
}

impl Want {
    /// Any block of these pools, which are of one family.
    pub fn of(pools: &[Pool]) -> Option<Self> {
        let family = pools.first()?.family();
        Some(Self { family, pools: pools.iter().map(|pool| pool.name.clone()).collect(), block: None })
    }
}

/// Claims, running and failed; blocks on their way in and out.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Pools whose node selector selects this node.
    pub usable: Vec<Pool>,
    /// Pools that were usable before the last restart.
    remembered: Vec<Pool>,
    /// Until the block is seen.
    claims: BTreeMap<Want, Try>,
    /// Blocks whose object is to be put back.
    reclaims: BTreeMap<BlockCidr, Try>,
    /// Created, and not yet seen in the watch: a list read before does not name them.
    unseen: BTreeMap<BlockCidr, Unseen>,
    /// Created by this agent, and the UID its Node had then.
    created: BTreeMap<BlockCidr, String>,
    /// Own blocks that were carved out of others.
    parents: BTreeMap<BlockCidr, Parent>,
    /// Own blocks that are not needed, and since when.
    idle: BTreeMap<BlockCidr, Instant>,
    /// Blocks whose object is to be removed, by its UID.
    returns: BTreeMap<BlockCidr, (String, Try)>,
    /// Parts given to others and asked of others.
    pub carving: Carving,
}

#[derive(Debug)]
struct Unseen {
    /// None: it is put back.
    want: Option<Want>,
    until: Instant,
}

/// Something tried at the API until it is done.
#[derive(Debug, Default)]
pub(super) struct Try {
    pub running: bool,
    /// Not before this.
    pub next: Option<Instant>,
    pause: Duration,
    /// UID of this node's Node when it was last tried.
    node: String,
    /// Why it was not done, in words.
    failure: Option<String>,
    /// Nobody else's block was left.
    full: bool,
}

impl Try {
    pub fn due(&self, now: Instant) -> bool {
        !self.running && self.next.is_none_or(|next| next <= now)
    }

    /// Returns whether this failure was not told before.
    pub fn fail(&mut self, failure: String, now: Instant) -> bool {
        self.running = false;
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.next = Some(now + self.pause);
        let new = self.failure.as_ref() != Some(&failure);
        self.failure = Some(failure);
        new
    }
}

impl Blocks {
    /// Whether the API has taken the claim of a block that the watch does not show yet.
    pub(super) fn acknowledged(&self, cidr: BlockCidr) -> bool {
        self.unseen.contains_key(&cidr)
    }

    /// Whether no pool of these has a block left that nobody owns.
    pub(super) fn full(&self, want: &Want) -> bool {
        self.claims.get(want).is_some_and(|claim| claim.full)
    }
}

impl Core {
    /// What is wrong when the cluster does not know this node.
    pub(super) fn unregistered(&self) -> Option<String> {
        let missing = self.cluster.has_read(&[Kind::Node]) && self.graph.node(&self.me).is_none();
        missing.then(|| {
            let name = &self.me;
            format!("the Kubernetes API has no Node \"{name}\": is it --node-name that is wrong, or the kubelet away?")
        })
    }

    /// Pools to hand out from.
    pub(super) fn pools(&self) -> &[Pool] {
        if self.cluster.has_read(&CLAIMING) { &self.blocks.usable } else { &self.blocks.remembered }
    }

    /// Whether addresses can be handed out, or what is missing. With the API away, what was known before the
    /// restart is good enough; while it may still answer, its word is waited for.
    pub(super) fn may_assign(&self) -> Result<(), String> {
        if let Some(why) = self.unregistered() {
            return Err(why);
        }
        if self.cluster.has_read(&CLAIMING) {
            return Ok(());
        }
        let why = match &self.cluster.api {
            Some(Err(_)) if self.allocator.blocks().next().is_some() => return Ok(()),
            Some(Err(reason)) => format!("the Kubernetes API does not answer: {reason}"),
            Some(Ok(())) | None => {
                let refused = self.cluster.refused.iter().map(|(kind, reason)| format!("; {kind}: {reason}"));
                format!("the agent is still reading from the Kubernetes API{}", refused.collect::<String>())
            }
        };
        Err(format!("this node's pools and blocks are not known yet: {why}"))
    }

    /// Why a family's last claim was not done.
    pub(super) fn claim_failures(&self) -> String {
        let failures: Vec<&str> =
            self.blocks.claims.values().filter_map(|claim| claim.failure.as_deref()).collect();
        failures.join("; ")
    }

    /// Whether a family's next block is being claimed, and the last try did not fail.
    pub(super) fn claims_in_hope(&self, family: Family) -> bool {
        let mut claims = self.blocks.claims.iter();
        claims.any(|(want, claim)| want.family == family && claim.running && claim.failure.is_none())
    }

    /// The pools of a pod nobody says anything of: those for every namespace.
    pub(super) fn general_pools(&self) -> Vec<Pool> {
        let general = self.pools().iter().filter(|pool| pool.namespace_selector.is_none());
        let mut general: Vec<Pool> = general.cloned().collect();
        // As they are chosen from, and claimed of.
        general.sort_by_key(|pool| (std::cmp::Reverse(pool.specificity()), pool.name.clone()));
        general
    }

    /// Has nothing handed out of blocks that somebody may be about to free, who has seen that this node was gone: until
    /// the API shows that its owner has written to them since its Node is there, no version they were condemned in is
    /// known not to stand. Called when the Node or a block is another.
    pub(super) fn confirm_blocks(&mut self) {
        let Some(me) = self.graph.node(&self.me).filter(|_| self.cluster.has_read(&CLAIMING)) else { return };
        self.blocks.created.retain(|_, node| *node == me.uid);
        let written = |cidr: BlockCidr| {
            self.cluster.blocks.get(&cidr.object_name()).is_some_and(|seen| seen.node_uid == me.uid)
        };
        let blocks = self.allocator.blocks().map(manx_ipam::block::Block::cidr);
        let doubted = blocks.filter(|cidr| !self.blocks.created.contains_key(cidr) && !written(*cidr));
        let doubted = doubted.collect();
        self.allocator.suspend(doubted);
    }

    /// This agent has created a block's object.
    fn note_created(&mut self, cidr: BlockCidr, node: String) {
        self.blocks.created.insert(cidr, node);
        self.confirm_blocks();
    }

    /// The UID of this node's Node; empty: there is none.
    fn node_uid(&self) -> String {
        self.graph.node(&self.me).map(|me| me.uid.clone()).unwrap_or_default()
    }

    /// Takes the blocks known before the restart back, not yet acknowledged anew.
    pub(super) fn restore_blocks(&mut self) {
        match self.known.load() {
            Ok(known) => {
                self.blocks.remembered = known.pools();
                let doubted = known.blocks.iter().filter(|block| block.suspended).map(|block| block.cidr);
                self.allocator.suspend(doubted.collect());
                for KnownBlock { cidr, pool, parent, parts, .. } in known.blocks {
                    self.allocator.add_block(cidr, &pool);
                    self.blocks.parents.extend(parent.map(|parent| (cidr, parent)));
                    for (part, node) in parts {
                        self.allocator.carve(cidr, part);
                        self.blocks.carving.remember(part, cidr, node);
                    }
                }
                self.allocator.cool(&self.blocks.remembered);
            }
            Err(error) => tracing::warn!("cannot read which blocks were known: {error}; the API will say"),
        }
    }

    /// Writes down what a restart without the API needs, where it differs.
    pub(super) fn remember(&mut self) {
        if !self.cluster.has_read(&CLAIMING) {
            return;
        }
        let usable = |name: &str| self.blocks.usable.iter().any(|pool| pool.name == name);
        let pools = self.cluster.pools.iter().filter(|(name, _)| usable(name));
        let pools = pools.filter_map(|(_, object)| object.spec.clone().ok()).map(|mut pool| {
            pool.status = None;
            pool.metadata.managed_fields = None;
            pool.metadata.resource_version = None;
            pool
        });
        let blocks = self.allocator.blocks();
        let blocks = blocks.map(|block| {
            let parts = block.carved().map(|part| (part, self.holder_of(part)));
            KnownBlock {
                cidr: block.cidr(),
                pool: block.pool().to_owned(),
                parent: self.blocks.parents.get(&block.cidr()).cloned(),
                parts: parts.collect(),
                suspended: self.allocator.suspended(block.cidr()),
            }
        });
        let known = Known::new(pools.collect(), blocks.collect());
        if let Err(error) = self.known.save(&known) {
            tracing::warn!("cannot write down which blocks are known: {error}");
        }
    }

    /// The API shows a block as ours. One that was not is used only if it stands beside all others.
    pub(super) fn own_block(&mut self, name: &str, now: Instant) {
        let Some(block) = self.cluster.blocks.get(name) else { return };
        let (claim, uid) = (block.claim.clone(), block.uid.clone());
        let cidr = claim.cidr;
        if let Some((returned, _)) = self.blocks.returns.get(&cidr) {
            if *returned == uid {
                return;
            }
            self.blocks.returns.remove(&cidr);
        }
        if self.allocator.block(cidr).is_none() {
            let others = self.cluster.blocks.values().filter(|other| other.claim.cidr != cidr);
            if let Err(crossed) = claim.stands(others.map(|other| (&other.claim, other.uid.as_str()))) {
                if self.allocator.strays().any(|(address, _)| cidr.contains(address)) {
                    tracing::error!("{cidr} is used here, and {crossed}: addresses may have two owners");
                } else {
                    tracing::warn!("{cidr} is given up: {crossed}");
                    self.see(cidr, Some(crossed.to_string()), now);
                    self.blocks.returns.insert(cidr, (uid, Try::default()));
                    return;
                }
            }
        }
        self.see(cidr, None, now);
        self.blocks.reclaims.remove(&cidr);
        match claim.parent {
            Some(parent) => _ = self.blocks.parents.insert(cidr, parent),
            None => _ = self.blocks.parents.remove(&cidr),
        }
        self.add_block(cidr, &claim.pool);
        let allocations = self.cluster.blocks.get(name).map(|block| block.allocations.clone());
        self.recognise(&allocations.unwrap_or_default());
    }

    /// A claim has come to its end: the watch shows its block, or there is none.
    fn see(&mut self, cidr: BlockCidr, failure: Option<String>, now: Instant) {
        if let Some(Unseen { want: Some(want), .. }) = self.blocks.unseen.remove(&cidr) {
            match failure {
                None => _ = self.blocks.claims.remove(&want),
                Some(failure) => _ = self.blocks.claims.entry(want).or_default().fail(failure, now),
            }
        }
    }

    fn add_block(&mut self, cidr: BlockCidr, pool: &str) {
        if self.allocator.add_block(cidr, pool) {
            tracing::info!(pool, "owns block {cidr}");
            self.match_parts();
        }
        // An overlapping block the allocator did not take is not ours to announce either.
        if self.allocator.block(cidr).is_some()
            && let Some(prefix) = prefix(cidr)
        {
            self.graph.apply(Input::BlockOwned(prefix));
        }
    }

    /// A list of all blocks does not name these of ours.
    pub(super) fn lose_unlisted_blocks(&mut self, now: Instant) {
        let listed: BTreeSet<BlockCidr> = self.cluster.own_blocks().map(|block| block.claim.cidr).collect();
        let unlisted: Vec<BlockCidr> = self
            .allocator
            .blocks()
            .map(manx_ipam::block::Block::cidr)
            .filter(|cidr| !listed.contains(cidr) && !self.blocks.unseen.contains_key(cidr))
            .collect();
        unlisted.into_iter().for_each(|cidr| self.lose_block(cidr, now));
    }

    /// The API does not show a block as ours any more. Pods that hold its addresses keep them: its object is put
    /// back, and it stays announced meanwhile, unless somebody else has it by then.
    pub(super) fn lose_block(&mut self, cidr: BlockCidr, now: Instant) {
        self.see(cidr, Some(format!("{cidr} was removed as soon as it was claimed")), now);
        self.blocks.returns.remove(&cidr);
        match self.allocator.block(cidr) {
            None => {}
            Some(block) if block.is_empty() => self.drop_block(cidr),
            Some(block) => {
                if let Entry::Vacant(reclaim) = self.blocks.reclaims.entry(cidr) {
                    let held = block.used();
                    tracing::warn!("the IPAMBlock of {cidr} is gone while {held} addresses are held");
                    reclaim.insert(Try::default());
                }
                self.retry_reclaims(now);
            }
        }
    }

    fn drop_block(&mut self, cidr: BlockCidr) {
        tracing::info!("owns block {cidr} no longer");
        self.blocks.reclaims.remove(&cidr);
        self.blocks.idle.remove(&cidr);
        self.blocks.created.remove(&cidr);
        self.allocator.remove_block(cidr);
        if let Some(prefix) = prefix(cidr) {
            self.graph.apply(Input::BlockGone(prefix));
        }
    }

    /// Asks for what is needed ahead, and for what a pod waits for: one claim for each at a time.
    pub(super) fn want_blocks(&mut self, now: Instant) {
        let late: Vec<BlockCidr> =
            self.blocks.unseen.iter().filter(|(_, it)| it.until <= now).map(|(cidr, _)| *cidr).collect();
        for cidr in late {
            self.see(cidr, Some(format!("the API has not shown {cidr} yet, which it took")), now);
        }
        if !self.cluster.has_read(&CLAIMING) || self.unregistered().is_some() {
            return;
        }
        let node = self.node_uid();
        let ahead = self.allocator.wants_blocks(&self.blocks.usable).into_iter().map(|wanted| wanted.pools);
        let ahead = ahead.filter_map(|pools| Some((Want::of(&pools)?, pools)));
        let wanted: BTreeMap<Want, Vec<Pool>> = ahead.chain(self.shortages()).collect();
        self.blocks.claims.retain(|want, claim| claim.running || wanted.contains_key(want));
        for (want, pools) in wanted {
            let claim = self.blocks.claims.entry(want.clone()).or_default();
            if claim.due(now) {
                claim.running = true;
                claim.node.clone_from(&node);
                let owned = self.cluster.blocks.values().map(|block| block.claim.cidr);
                let taken = owned.chain(self.blocks.unseen.keys().copied()).map(BlockCidr::cidr).collect();
                self.effects.push(Effect::Claim { want, pools, taken });
            }
        }
    }

    /// A claim has ended. What was created is used when the watch shows it.
    pub fn claimed(&mut self, want: Want, outcome: Result<Claimed, ClaimError>, now: Instant) {
        if let (Ok(Claimed { claim, created: true }), Some(tried)) = (&outcome, self.blocks.claims.get(&want))
        {
            self.note_created(claim.cidr, tried.node.clone());
        }
        match outcome.map(|claimed| claimed.claim) {
            // The watch was faster.
            Ok(claim) if self.allocator.block(claim.cidr).is_some() => _ = self.blocks.claims.remove(&want),
            Ok(claim) if !self.blocks.returns.contains_key(&claim.cidr) => {
                self.blocks.claims.entry(want.clone()).or_default().failure = None;
                let until = now + UNSEEN;
                self.blocks.unseen.insert(claim.cidr, Unseen { want: Some(want), until });
            }
            Ok(claim) => {
                let failure = format!("{} is being given back", claim.cidr);
                self.blocks.claims.entry(want).or_default().fail(failure, now);
            }
            Err(error) => {
                self.metrics.api_errors.with_label_values(&["claim"]).inc();
                let family = want.family;
                let claim = self.blocks.claims.entry(want).or_default();
                claim.full = matches!(error, ClaimError::Full(_));
                if claim.fail(error.to_string(), now) {
                    tracing::warn!("no {family} block: {error}");
                }
            }
        }
        self.retry_waiting(now);
    }

    /// Once a second: gives back what has not been needed for long enough.
    pub(super) fn give_back(&mut self, now: Instant) {
        if !self.cluster.has_read(&CLAIMING) {
            return;
        }
        let (surplus, mut dropped) = (self.allocator.surplus(&self.blocks.usable), false);
        self.blocks.idle.retain(|cidr, _| surplus.contains(cidr));
        for cidr in surplus {
            let since = *self.blocks.idle.entry(cidr).or_insert(now);
            let seen = self.cluster.blocks.get(&cidr.object_name()).filter(|seen| seen.claim.node == self.me);
            if now.saturating_duration_since(since) >= IDLE
                && let Some(seen) = seen
            {
                tracing::info!("gives block {cidr} back");
                self.blocks.returns.insert(cidr, (seen.uid.clone(), Try::default()));
                self.drop_block(cidr);
                dropped = true;
            }
        }
        // Only once it is neither handed out of nor remembered is its object removed.
        if dropped {
            self.remember();
        }
        for (cidr, (uid, removal)) in &mut self.blocks.returns {
            if removal.due(now) {
                removal.running = true;
                self.effects.push(Effect::Return { cidr: *cidr, uid: uid.clone() });
            }
        }
    }

    /// An attempt to remove a block's object has ended. It was done, or is another's object by now; while that is not
    /// known it is tried again.
    pub fn returned(&mut self, cidr: BlockCidr, outcome: Result<(), StoreError>, now: Instant) {
        let Some((_, removal)) = self.blocks.returns.get_mut(&cidr) else { return };
        match outcome {
            Err(error @ StoreError::Unavailable(_)) => {
                self.metrics.api_errors.with_label_values(&["return"]).inc();
                if removal.fail(error.to_string(), now) {
                    tracing::warn!("{cidr} is not given back yet: {error}");
                }
            }
            // Until the watch says that it is gone.
            Ok(()) => removal.next = Some(now + UNSEEN),
            Err(error) => {
                tracing::warn!("{cidr} is not given back: {error}");
                self.blocks.returns.remove(&cidr);
            }
        }
        if let Some((_, removal)) = self.blocks.returns.get_mut(&cidr) {
            removal.running = false;
        }
    }

    pub(super) fn retry_reclaims(&mut self, now: Instant) {
        let node = self.node_uid();
        for (cidr, reclaim) in &mut self.blocks.reclaims {
            if let Some(block) = self.allocator.block(*cidr)
                && reclaim.due(now)
            {
                reclaim.running = true;
                reclaim.node.clone_from(&node);
                self.effects.push(Effect::Reclaim(Claim {
                    cidr: *cidr,
                    pool: block.pool().to_owned(),
                    node: self.me.clone(),
                    parent: self.blocks.parents.get(cidr).cloned(),
                }));
            }
        }
    }

    /// An attempt to put a block's object back has ended.
    pub fn reclaimed(&mut self, cidr: BlockCidr, outcome: Result<Claimed, ClaimError>, now: Instant) {
        match outcome {
            Ok(claimed) => {
                tracing::info!("the IPAMBlock of {cidr} is put back");
                if let Some(reclaim) = self.blocks.reclaims.remove(&cidr) {
                    if claimed.created {
                        self.note_created(cidr, reclaim.node);
                    }
                    self.blocks.unseen.insert(cidr, Unseen { want: None, until: now + UNSEEN });
                }
            }
            Err(ClaimError::Full(_)) => {
                tracing::error!(
                    "{cidr} has another owner: pods here that hold its addresses cannot be reached"
                );
                self.drop_block(cidr);
            }
            Err(error @ ClaimError::Store { .. }) => {
                self.metrics.api_errors.with_label_values(&["claim"]).inc();
                if let Some(reclaim) = self.blocks.reclaims.get_mut(&cidr)
                    && reclaim.fail(error.to_string(), now)
                {
                    tracing::warn!("{cidr} is not put back yet: {error}");
                }
            }
        }
    }
}
