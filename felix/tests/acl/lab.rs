//! A node, its pods and a host outside, each in a network namespace, and packets between them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::probe::{Ears, Probe};
use crate::world::{pod_address, run};
use manx_bgp::types::Family;
use manx_felix::dataplane::sysctl;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

type Job = Box<dyn FnOnce(&mut Ears) + Send>;

/// A namespace, and the thread that lives in it.
pub struct Host {
    pub addresses: [IpAddr; 2],
    jobs: mpsc::Sender<Job>,
    thread: i32,
}

impl Host {
    fn new(addresses: [IpAddr; 2]) -> Self {
        let (jobs, received) = mpsc::channel::<Job>();
        let (told, thread) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            told.send(gettid().as_raw()).unwrap();
            let mut ears = Ears::open();
            for job in received {
                job(&mut ears);
            }
        });
        Self { addresses, jobs, thread: thread.recv().unwrap() }
    }

    /// Does something in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Ears) -> T + Send + 'static) -> T {
        let (done, outcome) = mpsc::channel();
        self.jobs.send(Box::new(move |ears| done.send(job(ears)).unwrap())).unwrap();
        outcome.recv().unwrap()
    }

    fn ip(&self, words: String) {
        self.run(move |_| run("ip", &words.split_whitespace().collect::<Vec<_>>()));
    }

    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses[family as usize]
    }

    /// Sends packets.
    pub fn send(&self, packets: Vec<Probe>) {
        self.run(move |_| packets.iter().for_each(Probe::send));
    }

    /// The numbers of the packets that came since the last time.
    pub fn heard(&self) -> Vec<u32> {
        self.run(Ears::drain)
    }
}

/// A node in the calling thread's namespace, pods behind `manx0`, `manx1`…, and a host outside behind `uplink`.
pub struct Lab {
    pub pods: Vec<Host>,
    pub node: Host,
    pub outside: Host,
}

impl Lab {
    /// Builds it. The node's packets are sent and heard by a thread of its own in the calling thread's namespace.
    pub fn new(pods: usize) -> Self {
        let ip = |words: &str| run("ip", &words.split_whitespace().collect::<Vec<_>>());
        ip("link set lo up");
        let both = |four: [u8; 4], six: [u16; 8]| [IpAddr::from(four), IpAddr::from(six)];
        let outside = Host::new(both([192, 0, 2, 2], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]));
        ip(&format!("link add uplink type veth peer name eth0 netns {}", outside.thread));
        ip("link set uplink up");
        ip("address add 192.0.2.1/24 dev uplink");
        ip("address add 2001:db8::1/64 dev uplink nodad");
        for words in [
            "link set eth0 up",
            "address add 192.0.2.2/24 dev eth0",
            "address add 2001:db8::2/64 dev eth0 nodad",
            "route add default via 192.0.2.1",
            "-6 route add default via 2001:db8::1",
        ] {
            outside.ip(words.to_owned());
        }
        let report = sysctl::prepare_node(std::path::Path::new("/proc/sys"));
        assert!(report.failed.is_empty(), "{report:?}");
        let pods: Vec<_> = (0..pods)
            .map(|number| {
                let pod = Host::new(Family::ALL.map(|family| pod_address(number, family)));
                ip(&format!("link add manx{number} type veth peer name eth0 netns {}", pod.thread));
                // Before it is up, so that the link-local address is there at once.
                fs::write(format!("/proc/sys/net/ipv6/conf/manx{number}/accept_dad"), "0").unwrap();
                ip(&format!("link set manx{number} up"));
                ip(&format!("address add 169.254.1.1/32 dev manx{number}"));
                ip(&format!("address add fe80::1/64 dev manx{number} nodad"));
                let [four, six] = pod.addresses;
                ip(&format!("route add {four}/32 dev manx{number}"));
                ip(&format!("-6 route add {six}/128 dev manx{number}"));
                for words in [
                    "link set eth0 up".to_owned(),
                    format!("address add {four}/32 dev eth0"),
                    format!("address add {six}/128 dev eth0 nodad"),
                    "route add 169.254.1.1 dev eth0".to_owned(),
                    "route add default via 169.254.1.1".to_owned(),
                    "-6 route add default via fe80::1 dev eth0".to_owned(),
                ] {
                    pod.ip(words);
                }
                pod
            })
            .collect();
        let lab = Self { pods, node: Self::node(), outside };
        lab.warm();
        lab
    }

    /// Until everybody has heard everybody: addresses take a moment to be there, and neighbours to be found.
    fn warm(&self) {
        let hosts = self.hosts();
        let mut missing = BTreeSet::new();
        let pair = |from: usize, to: usize, family: Family| {
            (1 << 24 | from << 16 | to << 8 | family as usize) as u32
        };
        let end = Instant::now() + Duration::from_secs(20);
        let each = || {
            let pairs = (0..hosts.len()).flat_map(|from| (0..hosts.len()).map(move |to| (from, to)));
            pairs
                .filter(|(from, to)| from != to)
                .flat_map(|(from, to)| Family::ALL.map(|family| (from, to, family)))
        };
        missing.extend(each().map(|(from, to, family)| pair(from, to, family)));
        while !missing.is_empty() {
            assert!(Instant::now() < end, "the lab does not come up: {missing:x?}");
            for (from, to, family) in
                each().filter(|(from, to, family)| missing.contains(&pair(*from, *to, *family)))
            {
                let (source, destination) = (hosts[from].address(family), hosts[to].address(family));
                let number = pair(from, to, family);
                hosts[from].send(vec![Probe {
                    number,
                    source,
                    destination,
                    protocol: 17,
                    source_port: 9,
                    port: 9,
                }]);
            }
            thread::sleep(Duration::from_millis(20));
            for host in &hosts {
                host.heard().iter().for_each(|number| _ = missing.remove(number));
            }
        }
    }

    /// The calling thread's namespace, heard by a thread that shares it.
    fn node() -> Host {
        let (jobs, received) = mpsc::channel::<Job>();
        thread::spawn(move || {
            let mut ears = Ears::open();
            for job in received {
                job(&mut ears);
            }
        });
        let six: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
        let addresses = [IpAddr::from([192, 0, 2, 1]), IpAddr::from(six)];
        Host { addresses, jobs, thread: 0 }
    }

    /// Everybody: the pods, the node, and outside.
    pub fn hosts(&self) -> Vec<&Host> {
        self.pods.iter().chain([&self.node, &self.outside]).collect()
    }

    /// Waits until all of these have come, at most five seconds; all that have.
    pub fn gather(&self, expected: &BTreeSet<u32>) -> BTreeSet<u32> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut heard = BTreeSet::new();
        loop {
            for host in self.hosts() {
                heard.extend(host.heard());
            }
            if expected.is_subset(&heard) || Instant::now() > end {
                return heard;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
