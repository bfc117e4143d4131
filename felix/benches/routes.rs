//! How fast the dataplane fills the kernel's table, beside the floor: the same routes as messages made beforehand and
//! sent in batches of 256, by a next-hop object, without an acknowledgement each. And how long a pod waits meanwhile: for
//! the task that computes which routes there are to be, and for the kernel.
//!
//! Needs root. Runs in network namespaces of its own; `MANX_ROUTES` is how many routes, 100,000 unless set.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::executor::block_on as wait;
use ipnetwork::IpNetwork;
use manx_bgp::types::Prefix;
use manx_cni::netlink::Netlink;
use manx_felix::dataplane::message;
use manx_felix::dataplane::next_hops::NextHops;
use manx_felix::dataplane::objects::Object;
use manx_felix::dataplane::state::Target;
use manx_felix::dataplane::{Dataplane, Fib, FibDelta, Route, Settings, links};
use manx_felix::graph::{Graph, Input};
use nix::sched::{CloneFlags, unshare};

/// Measured so many times each, in turns: the best of each is told.
const ROUNDS: usize = 5;

/// As the agent hears them of the speaker.
const CHUNK: usize = 1024;

fn main() -> Result<()> {
    let count = std::env::var("MANX_ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let (mut floor, mut whole, mut chunks) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut pod = Duration::ZERO;
    for _ in 0..ROUNDS {
        floor = floor.min(on_a_node(|| direct(count))?);
        whole = whole.min(on_a_node(|| by_dataplane(count, usize::MAX).map(|(took, _)| took))?);
        let (took, waited) = on_a_node(|| by_dataplane(count, CHUNK))?;
        chunks = chunks.min(took);
        pod = pod.max(waited);
    }
    println!("{count} routes, best of {ROUNDS}");
    println!("floor                    {floor:?}");
    println!("dataplane, one change    {whole:?}, {:.2} x", whole.div_duration_f64(floor));
    println!("dataplane, in chunks     {chunks:?}, {:.2} x", chunks.div_duration_f64(floor));
    println!("a pod's route meanwhile  {pod:?} at most");
    let (learned, forgotten) = longest_turns(count);
    println!("longest turn of the task {learned:?} while it learns, {forgotten:?} while it forgets");
    Ok(())
}

/// In a network namespace with one link, which ends with its thread.
fn on_a_node<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let node = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            for words in [
                "link set lo up",
                "link add uplink type veth peer name wire",
                "link set wire up",
                "link set uplink up",
                "address add 192.0.2.1/24 dev uplink",
                "link add manx0 type veth peer name pod",
                "link set manx0 up",
            ] {
                ensure!(Command::new("ip").args(words.split(' ')).status()?.success(), "ip {words}");
            }
            measure()
        });
        node.join().map_err(|_| anyhow::anyhow!("the measurement panicked"))?
    })
}

fn destinations(count: u32) -> impl Iterator<Item = IpNetwork> {
    (0..count).map(|n| IpNetwork::from(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n * 4))))
}

/// The longest time the task that computes is busy with what the speaker says of `count` destinations, frame by frame, and
/// when a speaker that has come back says none of them again.
fn longest_turns(count: u32) -> (Duration, Duration) {
    let mut graph = Graph::new("node1");
    let next_hops: NextHops = [IpAddr::from([192, 0, 2, 2])].into_iter().collect();
    let all: Vec<Prefix> = destinations(count).filter_map(|it| Prefix::try_from(it).ok()).collect();
    let mut learned = Duration::ZERO;
    for frame in all.chunks(CHUNK) {
        let begun = Instant::now();
        frame.iter().for_each(|prefix| graph.apply(Input::Learned(*prefix, next_hops.clone())));
        drop(graph.flush());
        learned = learned.max(begun.elapsed());
    }
    graph.apply(Input::Relearn);
    graph.apply(Input::LearnedAll);
    let mut forgotten = Duration::ZERO;
    while graph.is_behind() {
        let begun = Instant::now();
        drop(graph.flush());
        forgotten = forgotten.max(begun.elapsed());
    }
    (learned, forgotten)
}

fn direct(count: u32) -> Result<Duration> {
    let mut netlink = Netlink::open()?;
    let uplink = links::index_of("uplink")?.unwrap_or(0);
    let leg = Object::Leg { gateway: IpAddr::from([192, 0, 2, 2]), ifindex: uplink };
    ensure!(
        netlink.batch([message::set_object(1, &leg, false)])?.is_empty(),
        "the next-hop object is refused"
    );
    let of = |destination| message::set_route(destination, Target::Group(1), false, Settings::default());
    let messages: Vec<_> = destinations(count).map(of).collect();
    let start = Instant::now();
    for batch in messages.chunks(256) {
        ensure!(netlink.batch(batch.iter().cloned())?.is_empty(), "a route is refused");
    }
    Ok(start.elapsed())
}

/// What it took, and how long a pod's route waited meanwhile.
fn by_dataplane(count: u32, chunk: usize) -> Result<(Duration, Duration)> {
    let dataplane = Dataplane::start(Settings::default())?;
    let pod = links::index_of("manx0")?.unwrap_or(0);
    let route = Route::via([IpAddr::from([192, 0, 2, 2])]);
    let all: Vec<IpNetwork> = destinations(count).collect();
    let deltas: Vec<FibDelta> = all
        .chunks(chunk.min(all.len()))
        .map(|part| {
            let set: Fib = part.iter().map(|destination| (*destination, route.clone())).collect();
            FibDelta { set, remove: Vec::new() }
        })
        .collect();
    let start = Instant::now();
    let outcomes: Vec<_> = deltas.into_iter().map(|delta| dataplane.update(delta)).collect();
    let begun = Instant::now();
    let set = [(IpNetwork::from(IpAddr::from([172, 16, 0, 1])), Route::Pod { ifindex: pod })].into();
    wait(dataplane.update(FibDelta { set, remove: Vec::new() }))?;
    let waited = begun.elapsed();
    for outcome in outcomes {
        wait(outcome)?;
    }
    Ok((start.elapsed(), waited))
}
