//! Watchers of the best paths: none can make the speaker wait, or hold more than the table itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::api::{News, RouteGroup};
use crate::rib::RouteChange;
use crate::types::{Prefix, ScopedAddr};

/// Destinations in one [`News::Routes`].
const CHUNK: usize = 1024;

/// News handed over and not yet taken; what comes after them is merged by destination.
const AHEAD: usize = 8;

/// What a watcher receives.
#[derive(Debug)]
pub struct Watch {
    news: mpsc::Receiver<News>,
    wake: Arc<Notify>,
}

impl Watch {
    /// The next [`News::Routes`] or [`News::Synced`]; none when the speaker is gone.
    pub async fn next(&mut self) -> Option<News> {
        let news = self.news.recv().await;
        // There is room for another.
        self.wake.notify_one();
        news
    }
}

/// The speaker's end of a [`Watch`].
pub(super) struct Watcher {
    news: mpsc::Sender<News>,
    pending: BTreeMap<Prefix, Shared>,
    told_synced: bool,
}

/// Next hops and weights.
type Shared = (Vec<ScopedAddr>, Vec<u8>);

impl Watcher {
    pub fn new(snapshot: &[RouteChange], wake: Arc<Notify>) -> (Self, Watch) {
        let (sender, news) = mpsc::channel(AHEAD);
        let mut watcher = Self { news: sender, pending: BTreeMap::new(), told_synced: false };
        watcher.merge(snapshot);
        (watcher, Watch { news, wake })
    }

    /// Later news of a destination replaces what was not yet told of it.
    pub fn merge(&mut self, changes: &[RouteChange]) {
        let shared = |change: &RouteChange| (change.next_hops.clone(), change.weights.clone());
        self.pending.extend(changes.iter().map(|change| (change.prefix, shared(change))));
    }

    /// Hands over what there is room for; false once nobody watches any more. `synced` is told when
    /// everything known has been.
    pub fn push(&mut self, synced: bool) -> bool {
        while !self.pending.is_empty() || synced && !self.told_synced {
            let permit = match self.news.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            };
            if self.pending.is_empty() {
                self.told_synced = true;
                permit.send(News::Synced);
                continue;
            }
            let mut groups: BTreeMap<Shared, Vec<Prefix>> = BTreeMap::new();
            for (prefix, shared) in std::iter::from_fn(|| self.pending.pop_first()).take(CHUNK) {
                groups.entry(shared).or_default().push(prefix);
            }
            let group = |((next_hops, weights), prefixes)| RouteGroup { prefixes, next_hops, weights };
            permit.send(News::Routes(groups.into_iter().map(group).collect()));
        }
        !self.news.is_closed()
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
            weights: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_the_latest_of_each_destination_and_then_that_it_is_all() {
        /// More than are handed over at once.
        const COUNT: u32 = ((AHEAD + 3) * CHUNK) as u32;
        let snapshot: Vec<_> = (0..COUNT).map(|n| change(n, &[[1, 1, 1, 1]])).collect();
        let (mut watcher, mut watch) = Watcher::new(&snapshot, Arc::default());
        assert!(watcher.push(true));
        for round in 0..10 {
            watcher.merge(&[change(COUNT - 1, &[[2, 2, 2, round]])]);
            assert!(watcher.push(true));
        }
        let mut told = Vec::new();
        loop {
            match watch.next().await.unwrap() {
                News::Routes(groups) => {
                    assert!(groups.iter().map(|group| group.prefixes.len()).sum::<usize>() <= CHUNK);
                    told.extend(groups);
                }
                News::Synced => break,
                other => panic!("{other:?}"),
            }
            assert!(watcher.push(true));
        }
        assert_eq!(told.iter().map(|group| group.prefixes.len()).sum::<usize>(), COUNT as usize);
        assert_eq!(
            told.len() as u32,
            COUNT / CHUNK as u32 + 1,
            "what has the same next hops is told together"
        );
        let last = change(COUNT - 1, &[[2, 2, 2, 9]]);
        let expected =
            RouteGroup { prefixes: vec![last.prefix], next_hops: last.next_hops, weights: Vec::new() };
        assert_eq!(told.last(), Some(&expected));
    }

    #[test]
    fn one_that_is_gone_is_dropped() {
        let (mut watcher, watch) = Watcher::new(&[], Arc::default());
        assert!(watcher.push(false));
        drop(watch);
        assert!(!watcher.push(false));
    }
}
