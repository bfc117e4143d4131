//! Batches of writes, and what becomes of each by the kernel's answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use manx_cni::netlink::{Errno, Refusal};

use super::super::RouteError;
use super::super::state::{Plan, Target, Write};
use super::{BATCH, Job, RETRY_FIRST, Syncer, TOLD};

impl Syncer {
    pub(super) fn batch(&mut self, job: &mut Job) {
        let mut writes = Vec::with_capacity(BATCH);
        let mut failed = Vec::new();
        while writes.len() < BATCH
            && let Some(destination) = job.destinations.pop_front()
        {
            match self.state.plan(destination, &mut writes) {
                Plan::Written => {}
                Plan::Right => {
                    self.failures.remove(&destination);
                    self.mending.remove(&destination);
                }
                Plan::Impossible(reason) => failed.push((destination, reason)),
            }
        }
        self.fail(job, failed);
        self.write(writes, job);
    }

    /// Writes, and takes the kernel's answers.
    pub(super) fn write(&mut self, writes: Vec<Write>, job: &mut Job) {
        if writes.is_empty() {
            return;
        }
        let had_failures = !self.failures.is_empty();
        let repaired = self.counts.repaired;
        let start = Instant::now();
        let messages = writes.iter().map(|write| self.state.message(write));
        let mut refused: BTreeMap<usize, Refusal> = match self.netlink.batch(messages) {
            Ok(refused) => refused.into_iter().collect(),
            Err(error) => {
                // Some were done and some were not: only the kernel knows.
                self.doubt();
                self.counts.netlink_errors += 1;
                let reason: Arc<str> = error.to_string().into();
                let lost = writes.into_iter().filter_map(|write| match write {
                    Write::Route { destination, .. } => Some((destination, Arc::clone(&reason))),
                    _ => None,
                });
                return self.fail(job, lost.collect());
            }
        };
        self.counts.batches.0 += 1;
        self.counts.batches.1 += start.elapsed().as_secs_f64();
        let mut failed = Vec::new();
        for (place, write) in writes.into_iter().enumerate() {
            match refused.remove(&place) {
                Some(refusal) if !is_gone_already(&write, &refusal) => {
                    self.refuse(write, &refusal, &mut failed);
                }
                _ => self.succeed(&write, job.is_repair),
            }
        }
        self.fail(job, failed);
        if had_failures && self.failures.is_empty() {
            self.retry_after = RETRY_FIRST;
            tracing::info!("the kernel has taken all routes it had refused");
        }
        if self.counts.repaired > repaired {
            let routes = self.counts.repaired - repaired;
            tracing::warn!(routes, "put right what someone else had done to our routes");
        }
    }

    pub(super) fn succeed(&mut self, write: &Write, is_repair: bool) {
        self.state.done(write);
        match write {
            Write::Route { destination, after, .. } => {
                self.failures.remove(destination);
                match after {
                    Some(_) => self.counts.written += 1,
                    None => self.counts.removed += 1,
                }
                let is_mended = self.mending.remove(destination);
                self.counts.repaired += u64::from(is_repair || is_mended);
            }
            Write::Object(_) => self.counts.objects_written += 1,
            Write::Stray(_) => self.counts.removed += 1,
        }
    }

    pub(super) fn refuse(
        &mut self,
        write: Write,
        refusal: &Refusal,
        failed: &mut Vec<(IpNetwork, Arc<str>)>,
    ) {
        match &write {
            Write::Route { destination, after, .. } => {
                failed.push((*destination, self.explain(*after, refusal).into()));
            }
            Write::Object(object) => {
                tracing::debug!(?object, %refusal, "the kernel refuses a next-hop object");
                if refusal.errno == Errno::EEXIST || refusal.errno == Errno::ENOENT {
                    // It is there, or is not, and we did not know.
                    self.doubts_objects = true;
                }
                // Its groups may do without for now: a link says that it is up a moment before it is.
                self.unsettled = true;
                self.retry_at.get_or_insert(Instant::now() + self.retry_after);
            }
            Write::Stray(seen) => {
                tracing::warn!(destination = %seen.destination, %refusal, "a route of ours with another table or metric stays");
            }
        }
        self.state.refused(write);
    }

    pub(super) fn fail(&mut self, job: &mut Job, failed: Vec<(IpNetwork, Arc<str>)>) {
        let mut news = 0;
        for (destination, reason) in failed {
            if job.is_repair {
                self.mending.insert(destination);
            }
            job.refused.push(RouteError { destination, reason: Arc::clone(&reason) });
            if self.failures.get(&destination) != Some(&reason) {
                news += 1;
                if news <= TOLD {
                    tracing::warn!(%destination, %reason, "a route cannot be written; it will be tried again");
                }
                self.failures.insert(destination, reason);
            }
        }
        if news > TOLD {
            tracing::warn!(more = news - TOLD, "more routes cannot be written");
        }
        if news > 0 {
            self.retry_after = RETRY_FIRST;
        }
        if !self.failures.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry_after);
        }
    }

    /// Why the kernel refused a route, in words.
    pub(super) fn explain(&mut self, target: Option<Target>, refusal: &Refusal) -> String {
        match (refusal.errno, target) {
            (Errno::ENODEV, Some(Target::Pod(ifindex))) => {
                format!("there is no interface {ifindex}: {refusal}")
            }
            (Errno::ENETDOWN, Some(Target::Pod(ifindex))) => {
                format!("interface {ifindex} is down: {refusal}")
            }
            (Errno::EINVAL, Some(Target::Group(_))) => {
                self.doubts_objects = true;
                format!("its next hops cannot be used, or are of another family: {refusal}")
            }
            (Errno::EEXIST, _) => {
                self.doubt();
                let metric = self.settings.metric;
                format!("a route with metric {metric} that is not ours is in its place: {refusal}")
            }
            _ => refusal.to_string(),
        }
    }
}

/// Someone else was first.
fn is_gone_already(write: &Write, refusal: &Refusal) -> bool {
    match write {
        Write::Route { after: None, .. } | Write::Stray(_) => refusal.errno == Errno::ESRCH,
        Write::Object(object) => object.after.is_none() && refusal.errno == Errno::ENOENT,
        Write::Route { .. } => false,
    }
}
