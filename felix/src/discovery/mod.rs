//! Neighbours known by their link alone (unnumbered): who is at the other end of an interface is found by router
//! advertisements (RFC 4861), heard and sent.
//!
//! ```text
//!   interfaces ─▶ Discovery ─▶ a thread each: raw ICMPv6 socket ◀─ RA, RS ─▶ the link
//!                    ▲                            │
//!                    └── Found: fe80::… on eth1 ◀─┘
//! ```
//!
//! Ours say that this is a router and nobody's default one (a lifetime of 0): they are for the neighbour's daemon, as FRR's
//! `neighbor eth1 interface remote-as external` waits for them. What the kernel makes of the neighbour's is no matter here.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use manx_bgp::types::Interface;
use tokio::sync::mpsc;

mod message;
mod socket;

use message::Message;
use socket::Socket;

/// Between two advertisements, and between the first few (RFC 4861, MIN_DELAY_BETWEEN_RAS).
const EVERY: Duration = Duration::from_secs(10);
const FIRST: (u32, Duration) = (3, Duration::from_secs(3));

/// One that has not been heard for so long is no neighbour any more if another is.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// How often a silent link's thread looks what else there is to do.
const PATIENCE: Duration = Duration::from_millis(500);

/// News on their way to the agent.
const QUEUE: usize = 64;

/// Who is at the other end of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The interface.
    pub interface: Interface,
    /// A link-local address.
    pub address: Ipv6Addr,
}

/// The threads; they end with it.
#[derive(Debug)]
pub struct Discovery {
    /// What they found.
    pub found: mpsc::Receiver<Found>,
    news: mpsc::Sender<Found>,
    running: BTreeMap<Interface, Arc<()>>,
}

impl Default for Discovery {
    fn default() -> Self {
        let (news, found) = mpsc::channel(QUEUE);
        Self { found, news, running: BTreeMap::new() }
    }
}

impl Discovery {
    /// From now on looks on these interfaces, in the calling thread's network namespace, and on no others.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn look_on(&mut self, interfaces: &BTreeSet<Interface>) -> io::Result<()> {
        self.running.retain(|interface, _| interfaces.contains(interface));
        for interface in interfaces {
            if !self.running.contains_key(interface) {
                let alive = Arc::new(());
                let link = Link::new(*interface, self.news.clone(), Arc::downgrade(&alive));
                thread::Builder::new().name(format!("ra {interface}")).spawn(move || link.run())?;
                self.running.insert(*interface, alive);
            }
        }
        Ok(())
    }
}

/// One interface's thread.
struct Link {
    interface: Interface,
    neighbour: Neighbour,
    news: mpsc::Sender<Found>,
    alive: Weak<()>,
}

impl Link {
    fn new(interface: Interface, news: mpsc::Sender<Found>, alive: Weak<()>) -> Self {
        Self { interface, neighbour: Neighbour::default(), news, alive }
    }

    fn run(mut self) {
        let mut said = None;
        while self.alive.strong_count() > 0 {
            let ended = match Socket::open(self.interface, PATIENCE) {
                Ok(socket) => {
                    said = None;
                    self.speak(&socket)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                let words = error.to_string();
                if said.as_ref() != Some(&words) {
                    let interface = self.interface;
                    tracing::warn!(%interface, "cannot look for the neighbour by router advertisements: {words}; tried again");
                    said = Some(words);
                }
                thread::sleep(PATIENCE);
            }
        }
    }

    /// Until the socket fails, or nobody wants to know any more.
    fn speak(&mut self, socket: &Socket) -> io::Result<()> {
        let (mut sent, mut next) = (0, Instant::now());
        socket.send(&message::solicitation(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2))?;
        while self.alive.strong_count() > 0 {
            let now = Instant::now();
            if now >= next {
                socket.send(&message::advertisement(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))?;
                sent += 1;
                next = now + if sent < FIRST.0 { FIRST.1 } else { EVERY };
            }
            match socket.receive()? {
                Some((Message::Advertisement, from)) => {
                    if let Some(address) = self.neighbour.heard(from, Instant::now()) {
                        let found = Found { interface: self.interface, address };
                        if self.news.blocking_send(found).is_err() {
                            return Ok(());
                        }
                    }
                }
                // At most one in three seconds, however many ask.
                Some((Message::Solicitation, _)) => next = next.min(now + FIRST.1),
                None => {}
            }
        }
        Ok(())
    }
}

/// Who is on a link; the first that is heard, until it is silent and another is not.
#[derive(Debug, Default)]
struct Neighbour(Option<(Ipv6Addr, Instant)>);

impl Neighbour {
    /// An advertisement came; the address, if that is news.
    fn heard(&mut self, from: Ipv6Addr, now: Instant) -> Option<Ipv6Addr> {
        let (news, is_it) = match self.0 {
            Some((known, _)) if known == from => (false, true),
            Some((_, at)) => (true, now.saturating_duration_since(at) >= FORGOTTEN),
            None => (true, true),
        };
        if is_it {
            self.0 = Some((from, now));
        }
        (news && is_it).then_some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_neighbour_heard_stays_until_it_is_silent_and_another_is_not() {
        let (one, other) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut neighbour = Neighbour::default();
        assert_eq!(neighbour.heard(one, at(0)), Some(one));
        assert_eq!(neighbour.heard(other, at(5)), None);
        assert_eq!(neighbour.heard(one, at(10)), None);
        assert_eq!(neighbour.heard(other, at(39)), None);
        assert_eq!(neighbour.heard(other, at(40)), Some(other));
        assert_eq!(neighbour.heard(one, at(41)), None);
    }
}
