//! Attachments: from a plugin's request to a route in the kernel, and back.
//!
//! ```text
//!   Allocate ─▶ addresses taken, file written ─▶ attaching ─ Ready ─▶ attached      the route is in the kernel
//!      │ none free yet: waits (bounded)             │ Abort             │ Release, Abort, note of a plugin
//!      ▼                                            ▼                   ▼
//!   try again                                    leaving: no route, the interface is removed; then freed
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use manx_cni::protocol::{Attach, AttachmentKey, PodRef, host_ifname};
use manx_cni::released;
use manx_cni::spec::code;
use manx_ipam::allocator::AssignError;
use manx_ipam::{Owner, OwnerKey, Pool};

use super::blocks::Want;
use super::choice::Lookup;
use super::core::{Answer, Core, Effect, Retired};
use crate::acl::ruleset::Ifname;
use crate::attach::files::{Attachment, Phase};
use crate::attach::{Asked, Attempt, Command, Refusal};
use crate::graph::Input;
use crate::graph::policy::{Attached, PolicyInput};

/// How long an ADD waits for what it needs before the runtime is asked to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an ADD waits for what the cluster says of its pod. The kubelet had it from the API, so it is about to come.
const POLICY_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks for interfaces that went without a DEL.
const COLLECTION: Duration = Duration::from_secs(60);

/// What to do about an ADD that failed.
const LATER: &str = "the runtime tries again; manxctl status shows this node's pools and blocks";

/// An attachment in memory.
#[derive(Debug)]
pub struct Held {
    /// What is, or was, in its file.
    pub file: Attachment,
    /// The ADD that made it; none after a restart.
    attempt: Option<Attempt>,
    /// No route any more; freed when its interface is gone.
    pub leaving: bool,
    /// Index of the interface that is being removed.
    pub retiring: Option<u32>,
    /// Its interface was not there at the last collection.
    missed: bool,
}

/// An ADD that waits for an address.
#[derive(Debug)]
pub struct Waiting {
    pub attempt: Attempt,
    pub asked: Asked,
    answer: Answer<Attach>,
    until: Instant,
    pub lookup: Lookup,
    /// The block it waits for.
    short: Option<(Want, Vec<Pool>)>,
}

impl Held {
    /// One whose file was lost.
    pub(super) fn found(file: Attachment) -> Self {
        Self { file, attempt: None, leaving: false, retiring: None, missed: false }
    }
}

/// An ADD that waits until it is known what its pod may send and receive.
#[derive(Debug)]
pub struct Policing {
    ifname: Ifname,
    answer: Answer<()>,
    until: Instant,
}

impl Core {
    /// Takes what a plugin asks.
    pub fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Allocate { attempt, asked, reply } => {
                let until = now + PATIENCE;
                let lookup = self.look_up(attempt, &asked);
                self.waiting.push(Waiting { attempt, asked, answer: reply, until, lookup, short: None });
                self.retry_waiting(now);
            }
            Command::Ready { attempt, key, pod_mac, host_ifindex, reply } => {
                match self.attach(attempt, &key, Phase::Attached { pod_mac, host_ifindex }) {
                    Ok(()) => {
                        let until = now + POLICY_PATIENCE;
                        self.policing.push(Policing { ifname: ifname(&key), answer: reply, until });
                    }
                    Err(refusal) => _ = reply.send(Err(refusal)),
                }
            }
            Command::Release { key, reply } => {
                self.waiting.retain(|waiting| waiting.asked.key != key);
                self.end(&key);
                self.metrics.attachments.with_label_values(&["del", "released"]).inc();
                self.answers.push(reply);
                self.retry_waiting(now);
            }
            Command::Abort { attempt, key } => {
                self.waiting.retain(|waiting| waiting.attempt != attempt);
                if self.attachments.get(&key).is_some_and(|held| held.attempt == Some(attempt)) {
                    self.metrics.attachments.with_label_values(&["add", "undone"]).inc();
                    self.leave(&key);
                    self.retry_waiting(now);
                }
            }
            Command::Free { address, reply } => {
                let _ = reply.send(self.free_address(address));
                self.retry_waiting(now);
            }
            Command::Inspect { key, reply } => _ = reply.send(self.attached(&key)),
            Command::Stale { network, valid, reply } => _ = reply.send(self.stale(&network, &valid)),
            Command::CanAttach { reply } => _ = reply.send(self.can_attach()),
            Command::Explain { question, reply } => {
                let all = self.policed_all();
                let unread =
                    || "what policies depend on has not all been read yet: manxctl status".to_owned();
                let answer = all.then_some(()).ok_or_else(unread);
                _ = reply.send(answer.and_then(|()| self.graph.policy.explain(&question)));
            }
            Command::Status { reply } => self.effects.push(Effect::Report(reply)),
        }
    }

    /// Tries again what could not be done before; gives up on what has waited long enough.
    pub(super) fn retry_waiting(&mut self, now: Instant) {
        self.allocator.advance(now);
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.answer.is_closed() {
                continue;
            }
            match self.allocate(&mut waiting) {
                Ok(attach) => {
                    // An answer nobody waits for is undone by the Abort that follows.
                    let _ = waiting.answer.send(Ok(attach));
                }
                Err(refusal) if refusal.code == code::TRY_AGAIN && now < waiting.until => {
                    self.waiting.push(waiting);
                }
                Err(refusal) => {
                    self.metrics.attachments.with_label_values(&["add", "refused"]).inc();
                    tracing::warn!(
                        "pod {}/{} not attached: {refusal}",
                        waiting.asked.pod.namespace,
                        waiting.asked.pod.name
                    );
                    let _ = waiting.answer.send(Err(refusal));
                }
            }
        }
    }

    /// Blocks that pods here wait for.
    pub(super) fn shortages(&self) -> Vec<(Want, Vec<Pool>)> {
        self.waiting.iter().filter_map(|waiting| waiting.short.clone()).collect()
    }

    fn allocate(&mut self, waiting: &mut Waiting) -> Result<Attach, Refusal> {
        waiting.short = None;
        let Asked { key, pod, netns, network, .. } = &waiting.asked.clone();
        // What an ADD that did not get to its end left, its addresses too, is taken over by this one.
        let complete = |held: &&Held| !held.leaving && matches!(held.file.phase, Phase::Attached { .. });
        if self.attachments.get(key).filter(complete).is_some() {
            return Err(Refusal::already_attached(key));
        }
        self.may_assign().map_err(|why| Refusal::try_again(why, LATER))?;
        let choice = self.choose(waiting)?;
        let owner = owner(key, pod);
        let addresses = match self.allocator.assign(&owner, &choice.pools, &choice.ips) {
            Ok(addresses) => addresses,
            Err(error) => {
                let failures = self.claim_failures();
                let details = if failures.is_empty() { LATER.to_owned() } else { failures };
                let refusal = Refusal { code: code::TRY_AGAIN, message: error.to_string(), details };
                return Err(match error {
                    // What is there is about to be handed out again.
                    AssignError::Exhausted { pools, .. } if pools.iter().any(|it| it.suspended > 0) => {
                        refusal
                    }
                    AssignError::Exhausted { pools, .. } => {
                        let pools: Vec<Pool> = pools.into_iter().map(|used| used.pool).collect();
                        waiting.short = Want::of(&pools).map(|want| (want, pools));
                        refusal
                    }
                    AssignError::Elsewhere(address) => match self.block_for(address, &choice.pools) {
                        Ok(short) => {
                            waiting.short = Some(short);
                            refusal
                        }
                        Err(why) => {
                            Refusal { code: Refusal::NO_SUCH_ADDRESS, message: why, details: LATER.into() }
                        }
                    },
                    AssignError::NoPool | AssignError::Held { .. } => refusal,
                });
            }
        };
        let file = Attachment {
            key: key.clone(),
            pod: pod.clone(),
            netns: netns.clone(),
            network: network.clone(),
            addresses: addresses.clone(),
            host_ifname: host_ifname(key),
            phase: Phase::Allocated,
        };
        if let Err(error) = self.files.save(&file) {
            self.attachments.remove(key);
            self.allocator.release(&owner.key);
            return Err(not_written(&error));
        }
        let attach = Attach {
            host_ifname: file.host_ifname.clone(),
            routes: addresses.iter().copied().filter_map(default_route).collect(),
            addresses,
            mtu: self.mtu,
            // The agent would have let a complete one stand, so what is there under this name is half done.
            replaces: self.attachments.contains_key(key),
        };
        // A note an earlier DEL of this key left is about what stood before: it must not end this attachment.
        if let Err(error) = released::clear(&self.socket, key) {
            self.allocator.release(&owner.key);
            return Err(not_written(&error));
        }
        let held =
            Held { file, attempt: Some(waiting.attempt), leaving: false, retiring: None, missed: false };
        self.attachments.insert(key.clone(), held);
        self.police_ahead(key);
        Ok(attach)
    }

    /// What a pod may send and receive is written while its interface is made. Not if it is not known yet: what is closed
    /// first is opened by a change that deletes, and that takes the kernel longer.
    fn police_ahead(&mut self, key: &AttachmentKey) {
        let Some(held) = self.attachments.get(key) else { return };
        let attached = endpoint(held);
        if self.policed_all() && self.graph.policy.knows(&attached) {
            self.graph.policy.apply(PolicyInput::Endpoint(ifname(key), Some(attached)));
        }
    }

    /// The veth stands: the pod's addresses lead there from now on.
    fn attach(&mut self, attempt: Attempt, key: &AttachmentKey, phase: Phase) -> Result<(), Refusal> {
        let held = self.attachments.get_mut(key);
        let Some(held) = held.filter(|held| held.attempt == Some(attempt) && !held.leaving) else {
            let message = "this ADD was undone, or another of the same interface came after it";
            return Err(Refusal::try_again(message, "the runtime tries again"));
        };
        let file = Attachment { phase, ..held.file.clone() };
        self.files.save(&file).map_err(|error| not_written(&error))?;
        held.file = file;
        self.program(key);
        self.metrics.attachments.with_label_values(&["add", "attached"]).inc();
        Ok(())
    }

    /// Plugins that need not wait any longer. Where it is still not known what a pod may send and receive, nothing
    /// passes to it and from it but what its own node sends; it starts, and is opened when it is known.
    pub(super) fn policed_pods(&mut self, now: Instant) -> Vec<Answer<()>> {
        let away = matches!(self.cluster.api, Some(Err(_)));
        let mut ready = Vec::new();
        for waiting in std::mem::take(&mut self.policing) {
            let known = self.policed_all() && self.graph.policy.is_known(&waiting.ifname);
            if !known && !away && now < waiting.until {
                self.policing.push(waiting);
                continue;
            }
            if !known {
                tracing::warn!(
                    "{}: what the cluster says of its pod is not known: closed until it is",
                    waiting.ifname
                );
            }
            ready.push(waiting.answer);
        }
        ready
    }

    /// Tells the graph where an attachment's addresses lead, and whose they are.
    fn program(&mut self, key: &AttachmentKey) {
        if let Some(held) = self.attachments.get(key) {
            let attached = matches!(held.file.phase, Phase::Attached { .. }) && !held.leaving;
            let attached = attached.then(|| endpoint(held));
            self.graph.policy.apply(PolicyInput::Endpoint(ifname(key), attached));
            let ifindex = match held.file.phase {
                Phase::Attached { host_ifindex, .. } if !held.leaving => Some(host_ifindex),
                Phase::Attached { .. } | Phase::Allocated => None,
            };
            for address in &held.file.addresses {
                self.graph.apply(Input::Pod(*address, ifindex));
            }
        }
    }

    /// Ends an attachment whose interface stands, as far as one knows. It is not looked for: that takes a lock of the
    /// kernel's which every pod that starts wants too.
    pub(super) fn end(&mut self, key: &AttachmentKey) {
        match self.attachments.get_mut(key) {
            None => {
                self.retire_unknown(key);
                self.leave_found(&host_ifname(key));
            }
            Some(Held {
                file: Attachment { phase: Phase::Attached { host_ifindex, .. }, .. },
                leaving,
                retiring,
                ..
            }) if !*leaving => {
                *leaving = true;
                *retiring = Some(*host_ifindex);
                self.retire.push(Retired { key: key.clone(), index: *host_ifindex });
                self.program(key);
            }
            Some(_) => self.leave(key),
        }
    }

    fn leave(&mut self, key: &AttachmentKey) {
        if let Some(held) = self.attachments.get_mut(key) {
            held.leaving = true;
            self.program(key);
            self.retire(key);
        }
        self.leave_found(&host_ifname(key));
    }

    /// Has the interface of an attachment that leaves removed, and its addresses freed after that.
    fn retire(&mut self, key: &AttachmentKey) {
        let leaves = |held: &&mut Held| held.leaving && held.retiring.is_none();
        let Some(held) = self.attachments.get_mut(key).filter(leaves) else { return };
        match self.host.index_of(&held.file.host_ifname) {
            Ok(None) => self.free(key),
            Ok(Some(index)) => {
                held.retiring = Some(index);
                self.retire.push(Retired { key: key.clone(), index });
            }
            Err(error) => tracing::warn!("cannot see whether {} is there: {error}", held.file.host_ifname),
        }
    }

    /// Removes what may be left of an attachment nothing else is known of.
    fn retire_unknown(&mut self, key: &AttachmentKey) {
        let name = host_ifname(key);
        match self.host.index_of(&name) {
            Ok(None) => {}
            Ok(Some(index)) => self.retire.push(Retired { key: key.clone(), index }),
            Err(error) => tracing::warn!("cannot see whether {name} is there: {error}"),
        }
    }

    /// Takes the kernel's word for interfaces that were to be removed: they are gone, or stay for now.
    pub fn gone(&mut self, retired: Vec<Retired>, gone: bool, now: Instant) {
        for Retired { key, index } in retired {
            // An ADD may have taken the attachment over, and made another interface.
            let ours = |held: &&mut Held| held.leaving && held.retiring == Some(index);
            let Some(held) = self.attachments.get_mut(&key).filter(ours) else { continue };
            held.retiring = None;
            if gone {
                self.free(&key);
            }
        }
        self.free_found_left();
        self.retry_waiting(now);
    }

    /// Frees the addresses of an attachment that has left: nothing on this host can use them any more.
    fn free(&mut self, key: &AttachmentKey) {
        if let Err(error) = self.files.remove(key) {
            // Without this an agent that restarts would give the addresses to a pod that is gone.
            tracing::warn!("cannot remove the file of {}: {error}; tried again", host_ifname(key));
            return;
        }
        self.allocator.release(&owner_key(key));
        self.attachments.remove(key);
    }

    /// Tries again what could not be removed or freed when it left.
    pub(super) fn free_left(&mut self) {
        for key in self.keys(|held| held.leaving) {
            self.retire(&key);
        }
        self.free_found_left();
    }

    /// Frees what plugins deleted while no agent answered.
    pub(super) fn honour_notes(&mut self) {
        let keys = match released::read(&self.socket) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!("cannot read what was deleted while no agent answered: {error}");
                return;
            }
        };
        for key in keys {
            self.leave(&key);
            if let Err(error) = released::clear(&self.socket, &key) {
                tracing::warn!(
                    "cannot remove the note of {}: {error}; it is honoured again",
                    host_ifname(&key)
                );
            }
        }
    }

    /// Once a round: what lost its interface without a DEL (its namespace was removed under it) is freed when it is
    /// missed twice; an interface made anew has another index.
    pub(super) fn collect(&mut self, now: Instant) {
        if now < *self.next_collection.get_or_insert(now + COLLECTION) {
            return;
        }
        self.next_collection = Some(now + COLLECTION);
        self.read_mtu();
        self.collect_found();
        self.collect_unheld();
        for key in self.keys(|held| !held.leaving && matches!(held.file.phase, Phase::Attached { .. })) {
            let Some(held) = self.attachments.get_mut(&key) else { continue };
            match self.host.index_of(&held.file.host_ifname) {
                Ok(Some(index)) => {
                    held.missed = false;
                    if let Phase::Attached { host_ifindex, .. } = &mut held.file.phase
                        && *host_ifindex != index
                    {
                        *host_ifindex = index;
                        self.program(&key);
                    }
                }
                Ok(None) if held.missed => {
                    tracing::warn!(
                        "{} is gone without a DEL: its addresses are freed",
                        held.file.host_ifname
                    );
                    self.leave(&key);
                }
                Ok(None) => held.missed = true,
                Err(error) => {
                    tracing::warn!("cannot see whether {} is there: {error}", held.file.host_ifname)
                }
            }
        }
    }

    pub(super) fn keys(&self, which: impl Fn(&Held) -> bool) -> Vec<AttachmentKey> {
        self.attachments.iter().filter(|(_, held)| which(held)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes back what an earlier agent wrote down. An ADD that was on its way has lost its agent: undone.
    pub(super) fn restore_pods(&mut self) -> io::Result<()> {
        let loaded = self.files.load()?;
        for words in &loaded.set_aside {
            tracing::warn!("{words}");
        }
        for mut file in loaded.attachments {
            let owner = owner(&file.key, &file.pod);
            for conflict in self.allocator.restore(&owner, file.addresses.iter().copied()) {
                tracing::error!("{conflict}");
                file.addresses.retain(|address| *address != conflict.address);
            }
            let key = file.key.clone();
            let found = self.host.index_of(&file.host_ifname);
            let leaving = match (&mut file.phase, found) {
                (Phase::Attached { host_ifindex, .. }, Ok(Some(index))) => {
                    *host_ifindex = index;
                    false
                }
                (Phase::Attached { .. }, Err(error)) => {
                    tracing::warn!(
                        "cannot see whether {} is there: {error}; taken for there",
                        file.host_ifname
                    );
                    false
                }
                (Phase::Attached { .. }, Ok(None)) | (Phase::Allocated, _) => true,
            };
            self.attachments
                .insert(key.clone(), Held { file, attempt: None, leaving, retiring: None, missed: false });
            self.program(&key);
            self.retire(&key);
        }
        self.honour_notes();
        Ok(())
    }
}

/// What the packet filter is to know of an attachment.
fn endpoint(held: &Held) -> Attached {
    let pod = &held.file.pod;
    Attached {
        pod: (!pod.namespace.is_empty() && !pod.name.is_empty())
            .then(|| format!("{}/{}", pod.namespace, pod.name).into()),
        uid: pod.uid.as_str().into(),
        addresses: held.file.addresses.iter().copied().collect(),
        restored: held.attempt.is_none(),
    }
}

fn ifname(key: &AttachmentKey) -> Ifname {
    Ifname(host_ifname(key).into())
}

fn owner_key(key: &AttachmentKey) -> OwnerKey {
    OwnerKey { container_id: key.container_id.clone(), ifname: key.ifname.clone() }
}

fn owner(key: &AttachmentKey, pod: &PodRef) -> Owner {
    let PodRef { namespace, name, uid } = pod.clone();
    Owner { key: owner_key(key), namespace, pod: name, uid }
}

fn default_route(gateway_of: IpAddr) -> Option<IpNetwork> {
    let any = match gateway_of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(any, 0).ok()
}

fn not_written(error: &io::Error) -> Refusal {
    Refusal::try_again(
        format!("the attachment cannot be written down: {error}"),
        "look at the agent's state directory: is its file system full or read-only?",
    )
}
