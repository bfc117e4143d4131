//! The blocks this node owns: claimed ahead of need, announced once acknowledged, put back when their object
//! vanishes under running pods.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::time::{Duration, Instant};

use manx_ipam::claim::{Claim, ClaimError};
use manx_ipam::{BlockCidr, Family, Pool};

use super::cluster::prefix;
use super::core::{Core, Effect};
use super::known::{Known, KnownBlock};
use crate::graph::Input;
use crate::watch::Kind;

/// Pauses between tries at the API: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What must have been read before a block is claimed.
const CLAIMING: [Kind; 3] = [Kind::Node, Kind::IPPool, Kind::IPAMBlock];

/// Claims, running and failed.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Pools whose node selector selects this node.
    pub usable: Vec<Pool>,
    /// Pools that were usable before the last restart.
    remembered: Vec<Pool>,
    /// One claim a family.
    claims: BTreeMap<Family, Try>,
    /// Blocks whose object is to be put back.
    reclaims: BTreeMap<BlockCidr, Try>,
    /// Claimed, acknowledged, and not yet seen in the watch: a list read before the claim does not name them.
    unseen: BTreeSet<BlockCidr>,
}

/// Something tried at the API until it is done.
#[derive(Debug, Default)]
struct Try {
    running: bool,
    /// Not before this.
    next: Option<Instant>,
    pause: Duration,
    /// Why it was not done, in words.
    failure: Option<String>,
}

impl Try {
    fn due(&self, now: Instant) -> bool {
        !self.running && self.next.is_none_or(|next| next <= now)
    }

    /// Returns whether this failure was not told before.
    fn fail(&mut self, failure: String, now: Instant) -> bool {
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
        self.unseen.contains(&cidr)
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
        self.blocks.claims.get(&family).is_some_and(|claim| claim.running && claim.failure.is_none())
    }

    /// Takes the blocks known before the restart back, not yet acknowledged anew.
    pub(super) fn restore_blocks(&mut self) {
        match self.known.load() {
            Ok(known) => {
                for block in &known.blocks {
                    self.allocator.add_block(block.cidr, &block.pool);
                }
                self.blocks.remembered = known.pools();
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
        let blocks = blocks.map(|block| KnownBlock { cidr: block.cidr(), pool: block.pool().to_owned() });
        let known = Known::new(pools.collect(), blocks.collect());
        if let Err(error) = self.known.save(&known) {
            tracing::warn!("cannot write down which blocks are known: {error}");
        }
    }

    /// The API shows a block as ours.
    pub(super) fn own_block(&mut self, cidr: BlockCidr, pool: &str) {
        self.blocks.unseen.remove(&cidr);
        self.blocks.reclaims.remove(&cidr);
        self.add_block(cidr, pool);
    }

    fn add_block(&mut self, cidr: BlockCidr, pool: &str) {
        if self.allocator.add_block(cidr, pool) {
            tracing::info!(pool, "owns block {cidr}");
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
        let listed: BTreeSet<BlockCidr> = self.cluster.own_blocks().map(|block| block.cidr).collect();
        let unlisted: Vec<BlockCidr> = self
            .allocator
            .blocks()
            .map(manx_ipam::block::Block::cidr)
            .filter(|cidr| !listed.contains(cidr) && !self.blocks.unseen.contains(cidr))
            .collect();
        unlisted.into_iter().for_each(|cidr| self.lose_block(cidr, now));
    }

    /// The API does not show a block as ours any more. Pods that hold its addresses keep them: its object is put
    /// back, and it stays announced meanwhile, unless somebody else has it by then.
    pub(super) fn lose_block(&mut self, cidr: BlockCidr, now: Instant) {
        self.blocks.unseen.remove(&cidr);
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
        self.allocator.remove_block(cidr);
        if let Some(prefix) = prefix(cidr) {
            self.graph.apply(Input::BlockGone(prefix));
        }
    }

    /// Asks for what is needed ahead: one claim a family at a time.
    pub(super) fn want_blocks(&mut self, now: Instant) {
        if !self.cluster.has_read(&CLAIMING) {
            return;
        }
        for wanted in self.allocator.wants_blocks(&self.blocks.usable) {
            let claim = self.blocks.claims.entry(wanted.family).or_default();
            if claim.due(now) {
                claim.running = true;
                let owned = self.cluster.blocks.values().map(|block| block.cidr);
                let taken = owned.chain(self.blocks.unseen.iter().copied()).map(BlockCidr::cidr).collect();
                self.effects.push(Effect::Claim { family: wanted.family, pools: wanted.pools, taken });
            }
        }
    }

    /// A claim has ended.
    pub fn claimed(&mut self, family: Family, outcome: Result<Claim, ClaimError>, now: Instant) {
        match outcome {
            Ok(claim) => {
                self.blocks.claims.remove(&family);
                if !self.cluster.blocks.contains_key(&claim.cidr.object_name()) {
                    self.blocks.unseen.insert(claim.cidr);
                }
                self.add_block(claim.cidr, &claim.pool);
                self.remember();
            }
            Err(error) => {
                self.metrics.api_errors.with_label_values(&["claim"]).inc();
                let claim = self.blocks.claims.entry(family).or_default();
                if claim.fail(error.to_string(), now) {
                    tracing::warn!("no {family} block: {error}");
                }
            }
        }
        self.retry_waiting(now);
    }

    pub(super) fn retry_reclaims(&mut self, now: Instant) {
        for (cidr, reclaim) in &mut self.blocks.reclaims {
            if let Some(block) = self.allocator.block(*cidr)
                && reclaim.due(now)
            {
                reclaim.running = true;
                self.effects.push(Effect::Reclaim { cidr: *cidr, pool: block.pool().to_owned() });
            }
        }
    }

    /// An attempt to put a block's object back has ended.
    pub fn reclaimed(&mut self, cidr: BlockCidr, outcome: Result<Claim, ClaimError>, now: Instant) {
        match outcome {
            Ok(_) => {
                tracing::info!("the IPAMBlock of {cidr} is put back");
                if self.blocks.reclaims.remove(&cidr).is_some() {
                    self.blocks.unseen.insert(cidr);
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
