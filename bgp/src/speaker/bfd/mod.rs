//! BFD's own thread: whatever the speaker's task and its runtime are busy with, packets go out and come in
//! on time.
//!
//! ```text
//!   speaker task ── the wanted sessions, all of them ──▶┌────────┐◀─▶ UDP 3784, 4784
//!                ◀──── Way: what a session is now ─────│ thread │    one socket a session to send on
//!                                                       └────────┘
//! ```
//!
//! Neither waits for the other: a report that finds no room is kept, overwritten by what is newer, and
//! told later; what has failed in between is counted and so not lost.

mod socket;
mod thread;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as channel;

pub(super) use self::socket::Hops;
use self::thread::Thread;
use crate::api::{BfdStatus, PeerConfig};
use crate::bfd::{Diagnostic, Settings, State};
use crate::types::ScopedAddr;

/// Ways on their way; the thread keeps the others.
const REPORTS: usize = 64;

/// Orders on their way. The thread takes them at once, so that nobody ever waits for it.
const ORDERS: usize = 4;

/// A session that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub settings: Settings,
    /// Address to send from; the kernel's choice unless set.
    pub local: Option<IpAddr>,
    pub hops: Hops,
}

impl Wanted {
    /// Whether `other` differs in nothing but intervals, which a living session can change.
    fn same_way(&self, other: &Self) -> bool {
        (self.local, self.hops) == (other.local, other.hops)
    }

    /// What a neighbour's configuration asks for.
    pub fn of(peer: &PeerConfig) -> Option<Self> {
        let bfd = peer.bfd.as_ref()?;
        Some(Self {
            settings: Settings {
                min_tx: Duration::from_millis(bfd.min_tx_ms.into()),
                min_rx: Duration::from_millis(bfd.min_rx_ms.into()),
                multiplier: bfd.multiplier,
            },
            local: peer.local_address,
            hops: if peer.multihop.is_some_and(|hops| hops > 1) { Hops::Several } else { Hops::One },
        })
    }
}

/// What a session is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub peer: ScopedAddr,
    /// Tells a session from a later one with the same neighbour.
    pub session: u32,
    pub state: State,
    pub since: Instant,
    /// What the neighbour says of itself; nothing, if it has not been heard for a detection time.
    pub remote: Option<(State, Diagnostic)>,
    /// Between our packets, before jitter; none: the neighbour wants nothing.
    pub tx_interval: Option<Duration>,
    /// Zero before anything was heard.
    pub detection_time: Duration,
    /// Why it is in this state, or cannot leave it.
    pub reason: Option<String>,
    /// The times the way was lost.
    pub failures: u64,
    /// The last of them.
    pub failure: Option<Failure>,
}

/// A way was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words.
    pub why: String,
    /// It is the neighbour's forwarding that failed: its BFD outlives its control plane (the C bit).
    pub independent: bool,
}

impl Way {
    /// For people and programs.
    pub fn status(&self, now: Instant) -> BfdStatus {
        BfdStatus {
            state: self.state,
            since_seconds: now.saturating_duration_since(self.since).as_secs(),
            reason: self.reason.clone(),
            remote_state: self.remote.map(|(state, _)| state),
            remote_diagnostic: self.remote.map(|(_, diagnostic)| diagnostic.to_string()),
            tx_interval_ms: self.tx_interval.map(milliseconds),
            detection_time_ms: milliseconds(self.detection_time),
            flaps: self.failures,
        }
    }

    /// The failure this tells of, if it is news after `last`.
    pub fn news<'a>(&'a self, last: Option<&Self>) -> Option<&'a Failure> {
        let known = last.filter(|last| last.session == self.session).map_or(0, |last| last.failures);
        self.failure.as_ref().filter(|_| self.failures > known)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The thread, as the speaker's task holds it. Dropped, it tells every neighbour AdminDown and ends, so
/// that none takes our end for a failure of the way (RFC 5882, section 3.2).
#[derive(Debug)]
pub(super) struct Bfd {
    orders: Option<SyncSender<BTreeMap<ScopedAddr, Wanted>>>,
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Bfd {
    /// Starts it without sessions.
    pub fn start() -> io::Result<(Self, channel::Receiver<Way>)> {
        let (orders, ordered) = mpsc::sync_channel(ORDERS);
        let (reports, reported) = channel::channel(REPORTS);
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let thread = Thread::new(ordered, woken, reports);
        let thread = std::thread::Builder::new().name("bfd".to_owned()).spawn(|| thread.run())?;
        Ok((Self { orders: Some(orders), wake: Some(wake), thread: Some(thread) }, reported))
    }

    /// Replaces the wanted sessions; those that stay the same notice nothing.
    pub fn set(&self, wanted: BTreeMap<ScopedAddr, Wanted>) {
        if let (Some(orders), Some(mut wake)) = (&self.orders, self.wake.as_ref()) {
            if orders.send(wanted).is_err() {
                tracing::error!("the BFD thread has ended: no neighbour's loss is noticed by BFD any more");
            }
            // A full pipe wakes as well.
            let _ = wake.write(&[0]);
        }
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.orders = None;
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // It sends a packet a session and is gone.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    /// Long enough for a machine that does something else, and for another test to leave the port.
    const SOON: Duration = Duration::from_secs(60);

    /// A session with ourselves, in the kernel's own mirror: what we send to 127.0.0.1 comes back from
    /// there. It comes up and survives new intervals, and the thread ends when it is dropped.
    #[tokio::test]
    async fn the_thread_sends_receives_changes_intervals_and_ends() {
        let (bfd, mut ways) = Bfd::start().unwrap();
        let us = IpAddr::from([127, 0, 0, 1]);
        let wanted = |ms| {
            let interval = Duration::from_millis(ms);
            let settings = Settings { min_tx: interval, min_rx: interval, multiplier: 20 };
            BTreeMap::from([(us.into(), Wanted { settings, local: Some(us), hops: Hops::One })])
        };
        let mut until = async |wanted: &dyn Fn(&Way) -> bool| {
            let found = async {
                loop {
                    let way = ways.recv().await.unwrap();
                    if wanted(&way) {
                        return way;
                    }
                }
            };
            tokio::time::timeout(SOON, found).await.unwrap()
        };
        bfd.set(wanted(50));
        let up = until(&|way| way.state == State::Up).await;
        bfd.set(wanted(20));
        let faster = until(&|way| way.tx_interval == Some(Duration::from_millis(20))).await;
        assert_eq!((faster.session, faster.state, faster.failures), (up.session, State::Up, 0));

        // What a stranger says reaches nobody.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&[0xff; 24], SocketAddr::new(us, crate::iana::BFD_PORT)).unwrap();

        drop(bfd);
        while let Some(way) = ways.recv().await {
            assert_eq!(way.failures, 0, "{way:?}");
        }
    }
}
