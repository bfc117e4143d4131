//! The end of pods' veths: taken down at once, removed many at a time.
//!
//! ```text
//!   retire ─▶ veth-down (one thread): down, and into the group RETIRED ─▶ said
//!                  └─▶ veth-removal (one thread): the whole group at one stroke ─▶ said
//! ```
//!
//! Whoever removes an interface waits until no CPU can still be using it, some 20 ms; a hundred removed together wait no
//! longer than one. The group marks those that only wait for this, also for an agent that comes after one that was killed.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal, Request};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tokio::sync::oneshot;

/// The group of interfaces (`ip link show group`) that wait for their removal. Nobody else has this number: it is
/// "manx".
pub const RETIRED: u32 = u32::from_be_bytes(*b"manx");

/// How long the first interface of a removal waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// A handle to the threads; they end with it.
#[derive(Clone, Debug)]
pub struct Retirement(Sender<Order>);

/// Interfaces to take down and then remove, and who waits for either.
#[derive(Debug)]
struct Order {
    indexes: Vec<u32>,
    down: oneshot::Sender<Result<(), LinkError>>,
    gone: oneshot::Sender<()>,
}

/// An interface the kernel does not take down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot take interface {index} down: {reason}")]
pub struct LinkError {
    /// Which.
    pub index: u32,
    /// Why, in words.
    pub reason: String,
}

/// Interfaces that are down and on their way out.
#[derive(Debug)]
pub struct Removal(oneshot::Receiver<()>);

impl Removal {
    /// Resolves once they are gone; `false` when the kernel keeps one.
    pub async fn gone(self) -> bool {
        self.0.await.is_ok()
    }
}

impl Retirement {
    /// Removes what an earlier agent left in the group, and starts the threads, in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// When a socket cannot be opened or a thread not started.
    pub fn start() -> io::Result<Self> {
        let (mut down, mut removal) = (Netlink::open()?, Netlink::open()?);
        if let Err(error) = remove_group(&mut removal) {
            tracing::warn!("cannot remove the interfaces of pods that are gone: {error}");
        }
        let (orders, received) = channel();
        let (removals, to_remove) = channel();
        thread::Builder::new().name("veth-down".to_owned()).spawn(move || {
            while let Ok(order) = received.recv() {
                take_down(&mut down, order, &removals);
            }
        })?;
        thread::Builder::new()
            .name("veth-removal".to_owned())
            .spawn(move || while remove_some(&mut removal, &to_remove) {})?;
        Ok(Self(orders))
    }

    /// Takes interfaces down, and has them removed after that; those that are gone already are no error. Resolves when
    /// they are down.
    pub fn retire(
        &self,
        indexes: Vec<u32>,
    ) -> impl Future<Output = Result<Removal, LinkError>> + Send + 'static + use<> {
        let (down, is_down) = oneshot::channel();
        let (gone, is_gone) = oneshot::channel();
        // With the threads gone `down` is dropped, and `is_down` says so.
        let _ = self.0.send(Order { indexes, down, gone });
        async move {
            let ended = LinkError { index: 0, reason: "the thread that does it has ended".to_owned() };
            is_down.await.unwrap_or(Err(ended)).map(|()| Removal(is_gone))
        }
    }
}

fn take_down(netlink: &mut Netlink, order: Order, removals: &Sender<oneshot::Sender<()>>) {
    let Order { indexes, down, gone } = order;
    let outcome = match netlink.batch(indexes.iter().copied().map(down_request)) {
        Ok(refused) => match refused.into_iter().find(|(_, refusal)| refusal.errno != Errno::ENODEV) {
            Some((place, refusal)) => Err(LinkError { index: indexes[place], reason: refusal.to_string() }),
            None => Ok(()),
        },
        Err(error) => {
            Err(LinkError { index: indexes.first().copied().unwrap_or(0), reason: error.to_string() })
        }
    };
    if outcome.is_ok() {
        let _ = removals.send(gone);
    }
    // Nobody waits for a plugin that has gone.
    let _ = down.send(outcome);
}

/// Removes what has gathered; `false` when nothing will come any more.
fn remove_some(netlink: &mut Netlink, waiting: &Receiver<oneshot::Sender<()>>) -> bool {
    let Ok(first) = waiting.recv() else { return false };
    let until = Instant::now() + GATHER;
    let mut gathered = vec![first];
    while let Ok(another) = waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
        gathered.push(another);
    }
    match remove_group(netlink) {
        Ok(()) => gathered.into_iter().for_each(|gone| _ = gone.send(())),
        Err(error) => {
            tracing::warn!("cannot remove the interfaces of pods that are gone: {error}; tried again")
        }
    }
    true
}

fn remove_group(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    let mut group = LinkMessage::default();
    group.attributes.push(LinkAttribute::Group(RETIRED));
    match netlink.request::<LinkMessage>((RouteNetlinkMessage::DelLink(group), 0)) {
        // They went by themselves, with their pods' namespaces.
        Ok(_) | Err(NetlinkError::Refused(Refusal { errno: Errno::ENODEV, .. })) => Ok(()),
        Err(error) => Err(error),
    }
}

fn down_request(index: u32) -> Request<RouteNetlinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::Group(RETIRED));
    (RouteNetlinkMessage::NewLink(link), 0)
}
