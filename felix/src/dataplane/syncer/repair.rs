//! What others do to ours: heard of, found by reading all of it, and put right.

use std::collections::VecDeque;
use std::time::Instant;

use ipnetwork::IpNetwork;
use manx_cni::netlink::NetlinkError;

use super::super::monitor::Event;
use super::super::snapshot;
use super::super::state::{Snapshot, Target};
use super::{COMPARE_APART, COMPARE_EVERY, Job, REST, RETRY_FIRST, SLICE, Syncer, TOLD};

impl Syncer {
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::RouteGone(seen) => {
                if seen.settings != self.settings {
                    return;
                }
                if self.state.actual(seen.destination) == Some(seen.target) {
                    self.state.lost(seen.destination);
                    self.lost.insert(seen.destination);
                } else if !matches!(seen.target, Target::Pod(_)) {
                    // Something we have written anew since.
                    self.doubt();
                }
            }
            Event::RouteSet(seen) if seen.settings == self.settings => {
                self.state.found(seen.destination, seen.target);
                self.lost.insert(seen.destination);
            }
            Event::RouteSet(_) | Event::Doubt => self.doubt(),
            Event::Objects => self.doubts_objects = true,
            Event::VethDown(index) => {
                // Not put back at once: it cannot be until the link is up, and mostly the pod is being deleted.
                let lost = self.state.there_by(index);
                if !lost.is_empty() {
                    self.down.insert(index);
                }
                for destination in lost {
                    self.state.lost(destination);
                }
            }
            Event::VethUp(index) => {
                if self.down.remove(&index) {
                    self.repair(self.state.wanted_by(index).into());
                }
            }
            Event::Foreign(foreign, is_there) => {
                if self.comparing.is_some() {
                    self.meanwhile.push((foreign, is_there));
                }
                if self.foreigners.change(foreign, is_there) {
                    self.rest_at.get_or_insert(Instant::now() + REST);
                }
            }
            Event::Reachable => self.retry_soon(),
        }
    }

    /// Has everything compared soon.
    pub(super) fn doubt(&mut self) {
        self.compare_at = self.compare_at.min(self.may_compare_at);
    }

    /// What failed may succeed now.
    pub(super) fn retry_soon(&mut self) {
        self.state.forgive();
        self.unsettled = true;
        self.retry_after = RETRY_FIRST;
        if !self.failures.is_empty() {
            self.retry_at = Some(Instant::now());
        }
    }

    pub(super) fn repair(&mut self, destinations: VecDeque<IpNetwork>) {
        self.enqueue(Job { destinations, is_repair: true, ..Job::default() });
    }

    /// Routes that went one by one are put back together.
    pub(super) fn repair_lost(&mut self) {
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            self.repair(lost.into_iter().collect());
        }
    }

    /// Says what other programs' routes take from ours, once each.
    pub(super) fn tell_overlaps(&mut self) {
        let ours = |destination| self.state.wanted(destination).is_some();
        let found = self.foreigners.overlaps(ours, self.settings.metric);
        for overlap in found.iter().filter(|overlap| !self.told.contains(*overlap)).take(TOLD) {
            tracing::warn!("{overlap}");
        }
        self.counts.sought_overlaps = self.state.is_swept();
        self.counts.overlapping = found.len();
        self.counts.overlaps = found.iter().take(TOLD).cloned().collect();
        self.told = found.into_iter().collect();
    }

    /// Has what is there read, and then put right what is not as wanted.
    pub(super) fn compare(&mut self) {
        let now = Instant::now();
        self.state.begin_comparison();
        self.comparing = Some(now);
        self.compare_at = now + COMPARE_EVERY;
        self.reader.ask();
    }

    /// Takes what was read.
    pub(super) fn take_read(&mut self, read: Result<Snapshot, NetlinkError>) {
        let with_objects = read.and_then(|routes| Ok((routes, snapshot::read_objects(&mut self.netlink)?)));
        match with_objects {
            Ok((snapshot, objects)) => {
                self.foreigners.observe(snapshot.foreign);
                for (foreign, is_there) in self.meanwhile.drain(..) {
                    self.foreigners.change(foreign, is_there);
                }
                self.state.compare_objects(objects);
                self.read = Some(snapshot.routes.into_iter());
            }
            Err(error) => {
                self.counts.netlink_errors += 1;
                tracing::warn!(%error, "cannot read the kernel's routes; trying again");
                self.state.leave_comparison();
                self.end_comparison();
            }
        }
    }

    /// Looks at some of what was read; whether there was any. When all has been, and nothing waits to be written that
    /// would look like drift, what differs is repaired.
    pub(super) fn compare_slice(&mut self) -> bool {
        let Some(read) = &mut self.read else { return false };
        let before = read.len();
        for seen in read.take(SLICE) {
            self.state.compare(seen);
        }
        if before > 0 || !self.bulk.is_empty() {
            return before > 0;
        }
        self.read = None;
        let drifted = self.state.end_comparison().into_iter();
        let drifted: VecDeque<_> = drifted.filter(|key| !self.failures.contains_key(key)).collect();
        if !drifted.is_empty() {
            self.repair(drifted);
        }
        self.unsettled = true;
        self.rest_at.get_or_insert(Instant::now() + REST);
        self.end_comparison();
        true
    }

    /// Others may follow, when it has been quiet for three times as long as this took.
    fn end_comparison(&mut self) {
        let now = Instant::now();
        self.meanwhile.clear();
        let took = self.comparing.take().map_or(COMPARE_APART, |start| now.saturating_duration_since(start));
        self.may_compare_at = now + COMPARE_APART.max(took * 3);
        self.compare_at = self.compare_at.max(self.may_compare_at);
    }

    /// What is written before any route: groups that change under many.
    pub(super) fn objects(&mut self) {
        if std::mem::take(&mut self.doubts_objects) {
            match snapshot::read_objects(&mut self.netlink) {
                Ok(objects) => {
                    let lost = self.state.observe_objects(objects);
                    if !lost.is_empty() {
                        self.repair(lost.into());
                    }
                    self.unsettled = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the kernel's next-hop objects; trying again");
                    self.doubt();
                }
            }
        }
        let mut writes = Vec::new();
        if std::mem::take(&mut self.unsettled) {
            self.state.settle(&mut writes);
        }
        self.state.moves(&mut writes);
        self.write(writes, &mut Job { is_repair: true, ..Job::default() });
    }
}
