//! Parts of blocks: a node that has no free address, of a pool without a free block, asks the owner of a block for a
//! part of it. Only that owner's hand makes the part's object, and only after it has stopped handing the part out.
//!
//! ```text
//!   asks: IPAMRequest ─ watch ▶ owner: carved, written down ─ Grant ▶ IPAMBlock of the part ─ watch ▶ owned by who asked
//!           └◀── refused in words ──┘                                  └ given back as any block ─▶ joined again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use manx_ipam::claim::{Claim, Parent};
use manx_ipam::store::StoreError;
use manx_ipam::{BlockCidr, Pool};

use super::blocks::{Try, Want};
use super::cluster::prefix;
use super::core::{Core, Effect};
use super::mirror::Write;
use crate::graph::Input;
use crate::watch::Kind;

/// How long the owner of a block may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A block whose owner had nothing to give, or did not answer, is not asked for again before this.
const DECLINED: Duration = Duration::from_secs(60);

/// A part that was created is looked for again after this, if the watch does not show it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Parts given, and parts asked for.
#[derive(Debug, Default)]
pub struct Carving {
    /// Parts of own blocks that are for others, until the watch shows them.
    grants: BTreeMap<BlockCidr, Grant>,
    /// What was answered, by UID of the request.
    answered: BTreeMap<String, Answered>,
    /// Blocks of others, by what they are asked for.
    asking: BTreeMap<Want, Asking>,
    /// Not to be asked before this.
    declined: BTreeMap<BlockCidr, Instant>,
}

#[derive(Debug)]
struct Grant {
    block: BlockCidr,
    node: String,
    creation: Try,
}

#[derive(Debug)]
enum Answered {
    Granted,
    Refused(String),
}

#[derive(Debug)]
struct Asking {
    block: BlockCidr,
    since: Instant,
}

impl Carving {
    /// A part that was given, or was about to be, before a restart.
    pub(super) fn remember(&mut self, part: BlockCidr, block: BlockCidr, node: String) {
        self.grants.insert(part, Grant { block, node, creation: Try::default() });
    }
}

/// The object by which `node` asks for a part of a block.
pub(super) fn request_name(node: &str, block: BlockCidr) -> String {
    format!("{node}.{}", block.object_name())
}

impl Core {
    /// The node a part of an own block is for.
    pub(super) fn holder_of(&self, part: BlockCidr) -> String {
        let seen = self.cluster.blocks.get(&part.object_name()).map(|block| &block.claim.node);
        let given = || self.blocks.carving.grants.get(&part).map(|grant| &grant.node);
        seen.or_else(given).cloned().unwrap_or_default()
    }

    /// Parts of own blocks that belong to others are not handed out; what belongs to nobody else any more, is again. A part
    /// is whatever lies in a block: while one of ours was gone and is put back, others may have claimed in its range.
    pub(super) fn match_parts(&mut self) {
        let owned: Vec<BlockCidr> = self.allocator.blocks().map(manx_ipam::block::Block::cidr).collect();
        let inside = |part: BlockCidr| owned.iter().any(|block| block.cidr().covers(part.cidr()));
        let others = self.cluster.blocks.values().map(|block| &block.claim).filter(|it| it.node != self.me);
        let mut parts: BTreeSet<BlockCidr> = others.map(|it| it.cidr).filter(|part| inside(*part)).collect();
        let shown = |part: &BlockCidr| self.cluster.blocks.get(&part.object_name());
        let given = |part: &BlockCidr| shown(part).is_some_and(|block| block.claim.node != self.me);
        self.blocks.carving.grants.retain(|part, _| !given(part));
        parts.extend(self.blocks.carving.grants.keys());
        let mut carved = BTreeSet::new();
        for block in owned {
            // While the blocks have not been read, what was known before the restart stands.
            if self.cluster.has_read(&[Kind::IPAMBlock]) {
                let before: Vec<BlockCidr> =
                    self.allocator.block(block).into_iter().flat_map(|it| it.carved()).collect();
                for part in before.into_iter().filter(|part| !parts.contains(part)) {
                    tracing::info!("{part} of {block} is this node's again");
                    self.allocator.join(block, part);
                }
            }
            // A part of a part may be all that is left of it.
            for part in parts.iter().filter(|part| **part != block && block.cidr().covers(part.cidr())) {
                if !self.allocator.carve(block, *part) {
                    tracing::error!(
                        "{part} of {block} belongs to another node, and addresses of it are held here"
                    );
                }
            }
            carved.extend(
                self.allocator.block(block).into_iter().flat_map(|it| it.carved()).filter_map(prefix),
            );
        }
        self.graph.apply(Input::Parts(carved));
    }

    /// Once a second, and when somebody asks: answers requests, creates what was granted, asks for what is needed.
    pub(super) fn carve(&mut self, now: Instant) {
        if !self.in_sync() {
            return;
        }
        self.answer_requests();
        let mut due = Vec::new();
        for (part, grant) in &mut self.blocks.carving.grants {
            if let Some(block) = self.cluster.blocks.get(&grant.block.object_name())
                && block.claim.node == self.me
                && grant.creation.due(now)
            {
                grant.creation.running = true;
                let parent = Parent { cidr: grant.block, uid: block.uid.clone() };
                let (pool, node) = (block.claim.pool.clone(), grant.node.clone());
                due.push(Claim { cidr: *part, pool, node, parent: Some(parent) });
            }
        }
        self.effects.extend(due.into_iter().map(Effect::Grant));
        self.ask(now);
    }

    fn answer_requests(&mut self) {
        let uids: BTreeSet<&String> = self.cluster.requests.values().map(|request| &request.uid).collect();
        self.blocks.carving.answered.retain(|uid, _| uids.contains(uid));
        let open = self.cluster.requests.values().filter(|request| {
            request.node != self.me
                && request.refused.is_none()
                && self.allocator.block(request.block).is_some()
                && !self.blocks.carving.answered.contains_key(&request.uid)
        });
        let open: Vec<_> = open.cloned().collect();
        for request in open {
            let answer = match self.part_for(&request.node, request.block) {
                Ok(part) => {
                    tracing::info!("gives {part} of block {} to node {}", request.block, request.node);
                    let grant = Grant { block: request.block, node: request.node, creation: Try::default() };
                    self.blocks.carving.grants.insert(part, grant);
                    self.match_parts();
                    // Before its object can be there: an agent that starts again must not hand it out.
                    self.remember();
                    Answered::Granted
                }
                Err(reason) => Answered::Refused(reason),
            };
            self.blocks.carving.answered.insert(request.uid, answer);
        }
    }

    /// A part of an own block for another node: half of what is free, so that one that asks often takes less and less.
    fn part_for(&self, node: &str, block: BlockCidr) -> Result<BlockCidr, String> {
        if !self.cluster.nodes.contains_key(node) {
            return Err(format!("there is no Node \"{node}\""));
        }
        let owned = self.allocator.block(block).ok_or("it belongs to another node")?;
        if self.shortages().iter().any(|(want, _)| want.pools.iter().any(|pool| pool == owned.pool())) {
            return Err("its own pods wait for addresses".to_owned());
        }
        let pool = self.cluster.pool(owned.pool()).map_or(1, Pool::block_size);
        let size = (owned.free() / 2).clamp(1, usize::from(pool));
        owned.part(size).ok_or_else(|| "no address of it is free".to_owned())
    }

    /// An attempt to create a part's object has ended. While it is not known whether it is there, it is tried again.
    pub fn granted(&mut self, part: BlockCidr, outcome: Result<(), StoreError>, now: Instant) {
        let Some(grant) = self.blocks.carving.grants.get_mut(&part) else { return };
        match outcome {
            Ok(()) | Err(StoreError::Exists(_)) => {
                grant.creation.running = false;
                // Until the watch shows it.
                grant.creation.next = Some(now + LOOK_AGAIN);
            }
            Err(error @ StoreError::Unavailable(_)) => {
                self.metrics.api_errors.with_label_values(&["grant"]).inc();
                if grant.creation.fail(error.to_string(), now) {
                    tracing::warn!("{part} is not given away yet: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("{part} is not given away: {error}");
                self.blocks.carving.grants.remove(&part);
                self.match_parts();
            }
        }
    }

    /// Decides whom to ask for what pods here wait for.
    fn ask(&mut self, now: Instant) {
        let short: BTreeSet<Want> = self.shortages().into_iter().map(|(want, _)| want).collect();
        let short: BTreeSet<Want> =
            short.into_iter().filter(|want| want.block.is_none() && self.blocks.full(want)).collect();
        let carving = &mut self.blocks.carving;
        carving.declined.retain(|_, until| *until > now);
        for (want, asking) in std::mem::take(&mut carving.asking) {
            let request = self.cluster.requests.get(&request_name(&self.me, asking.block));
            let refused = request.and_then(|request| request.refused.as_ref());
            if refused.is_some() || now.saturating_duration_since(asking.since) >= ANSWER {
                carving.declined.insert(asking.block, now + DECLINED);
            } else if short.contains(&want) {
                carving.asking.insert(want, asking);
            }
        }
        // A request that was answered is not answered again: the next can be made once it is gone.
        let asked: BTreeSet<BlockCidr> = carving.asking.values().map(|asking| asking.block).collect();
        let answered = |block: BlockCidr| {
            !asked.contains(&block) && self.cluster.requests.contains_key(&request_name(&self.me, block))
        };
        for want in short {
            let others = self.cluster.blocks.values().filter(|block| {
                block.claim.node != self.me
                    && block.free > 0
                    && want.pools.contains(&block.claim.pool)
                    && !carving.declined.contains_key(&block.claim.cidr)
                    && !answered(block.claim.cidr)
            });
            let most = others.max_by_key(|block| (block.free, std::cmp::Reverse(block.claim.cidr)));
            if let Some(block) = most {
                let asking = || Asking { block: block.claim.cidr, since: now };
                carving.asking.entry(want).or_insert_with(asking);
            }
        }
    }

    /// Requests that are to be there and are not, and the other way; refusals that are not said.
    pub(super) fn request_writes(&self) -> Vec<Write> {
        let carving = &self.blocks.carving;
        let asked: BTreeSet<BlockCidr> = carving.asking.values().map(|asking| asking.block).collect();
        let mine = self.cluster.requests.iter().filter(|(_, request)| request.node == self.me);
        let mine: BTreeMap<BlockCidr, &String> = mine.map(|(name, request)| (request.block, name)).collect();
        let ask = asked.iter().filter(|block| !mine.contains_key(block)).map(|block| Write::Ask {
            name: request_name(&self.me, *block),
            node: self.me.clone(),
            block: *block,
        });
        let done = mine.iter().filter(|(block, _)| !asked.contains(block));
        let done = done.map(|(_, name)| Write::Asked { name: (*name).clone() });
        let refused = self.cluster.requests.iter().filter_map(|(name, request)| {
            match carving.answered.get(&request.uid)? {
                Answered::Refused(reason) if request.refused.is_none() => {
                    Some(Write::Refuse { name: name.clone(), reason: reason.clone() })
                }
                Answered::Refused(_) | Answered::Granted => None,
            }
        });
        ask.chain(done).chain(refused).collect()
    }
}
