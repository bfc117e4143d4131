//! Watchers of the best paths: none can make the speaker wait, or hold more than the table itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::api::{Reply, RouteChange};
use crate::types::{Prefix, ScopedAddr};

/// Changes in one [`Reply::Routes`].
const CHUNK: usize = 4096;

/// Replies handed over and not yet taken; what comes after them is merged by destination.
const AHEAD: usize = 2;

/// What a watcher receives.
#[derive(Debug)]
pub struct Watch {
    replies: mpsc::Receiver<Reply>,
    wake: Arc<Notify>,
}

impl Watch {
    /// The next [`Reply::Routes`] or [`Reply::Synced`]; none when the speaker is gone.
    pub async fn next(&mut self) -> Option<Reply> {
        let reply = self.replies.recv().await;
        // There is room for another.
        self.wake.notify_one();
        reply
    }
}

/// The speaker's end of a [`Watch`].
pub(super) struct Watcher {
    replies: mpsc::Sender<Reply>,
    pending: BTreeMap<Prefix, Vec<ScopedAddr>>,
    told_synced: bool,
}

impl Watcher {
    pub fn new(snapshot: &[RouteChange], wake: Arc<Notify>) -> (Self, Watch) {
        let (sender, replies) = mpsc::channel(AHEAD);
        let mut watcher = Self { replies: sender, pending: BTreeMap::new(), told_synced: false };
        watcher.merge(snapshot);
        (watcher, Watch { replies, wake })
    }

    /// Later news of a destination replaces what was not yet told of it.
    pub fn merge(&mut self, changes: &[RouteChange]) {
        self.pending.extend(changes.iter().map(|change| (change.prefix, change.next_hops.clone())));
    }

    /// Hands over what there is room for; false once nobody watches any more. `synced` is told when
    /// everything known has been.
    pub fn push(&mut self, synced: bool) -> bool {
        while !self.pending.is_empty() || synced && !self.told_synced {
            let permit = match self.replies.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            };
            if self.pending.is_empty() {
                self.told_synced = true;
                permit.send(Reply::Synced);
                continue;
            }
            let rest = self.pending.keys().nth(CHUNK).copied();
            let rest = rest.map(|first| self.pending.split_off(&first)).unwrap_or_default();
            let chunk = std::mem::replace(&mut self.pending, rest);
            let changes =
                chunk.into_iter().map(|(prefix, next_hops)| RouteChange { prefix, next_hops }).collect();
            permit.send(Reply::Routes { changes });
        }
        !self.replies.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn change(n: u32, next_hops: &[[u8; 4]]) -> RouteChange {
        let prefix = Prefix::host(IpAddr::from(n.to_be_bytes()));
        RouteChange {
            prefix,
            next_hops: next_hops.iter().map(|address| IpAddr::from(*address).into()).collect(),
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_the_latest_of_each_destination_and_then_that_it_is_all() {
        let snapshot: Vec<_> = (0..3 * CHUNK as u32).map(|n| change(n, &[[1, 1, 1, 1]])).collect();
        let (mut watcher, mut watch) = Watcher::new(&snapshot, Arc::default());
        assert!(watcher.push(true));
        for round in 0..10 {
            watcher.merge(&[change(3 * CHUNK as u32 - 1, &[[2, 2, 2, round]])]);
            assert!(watcher.push(true));
        }
        let mut told = Vec::new();
        loop {
            match watch.next().await.unwrap() {
                Reply::Routes { changes } => {
                    assert!(changes.len() <= CHUNK);
                    told.extend(changes);
                }
                Reply::Synced => break,
                other => panic!("{other:?}"),
            }
            assert!(watcher.push(true));
        }
        assert_eq!(told.len(), 3 * CHUNK);
        assert_eq!(told.last(), Some(&change(3 * CHUNK as u32 - 1, &[[2, 2, 2, 9]])));
    }

    #[test]
    fn one_that_is_gone_is_dropped() {
        let (mut watcher, watch) = Watcher::new(&[], Arc::default());
        assert!(watcher.push(false));
        drop(watch);
        assert!(!watcher.push(false));
    }
}
