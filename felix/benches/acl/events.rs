//! From an object of the API, as its JSON, to the kernel: with 10,000 policies, 100,000 pods, 250 of them here.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::ruleset::Ifname;
use manx_felix::graph::policy::{Attached, NodeAddresses, Policies, PolicyInput};
use manx_felix::model::labels::Interner;
use manx_felix::model::policy::PolicyName;
use manx_felix::watch::policy as convert;
use serde_json::{Value, json};

use crate::world::wait;
use crate::{ENDPOINTS, POLICIES};

const PODS: usize = 100_000;

/// Namespaces of a hundred pods and ten policies each.
const NAMESPACES: usize = PODS / 100;

/// Changes measured of each kind, and the pause between two.
const ROUNDS: usize = 300;
const PAUSE: Duration = Duration::from_millis(20);

fn address(pod: usize) -> IpAddr {
    IpAddr::from((0x0a80_0000 + pod as u32).to_be_bytes())
}

fn namespace(pod: usize) -> usize {
    pod % NAMESPACES
}

/// Pods here, so far from each other that each is in another namespace.
const APART: usize = 401;

fn here(number: usize) -> usize {
    APART * (number % ENDPOINTS)
}

fn is_here(pod: usize) -> bool {
    pod < PODS && pod.is_multiple_of(APART) && pod / APART < ENDPOINTS
}

fn pod(number: usize, app: usize) -> Value {
    json!({
        "metadata": {
            "namespace": format!("ns{}", namespace(number)), "name": format!("pod{number}"),
            "uid": format!("11111111-2222-3333-4444-{number:012}"),
            "labels": { "app": format!("app{app}"), "pod-template-hash": "5d8f7c6b9", "version": "v1" },
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "nodeName": if is_here(number) { "n0".to_owned() } else { format!("n{}", 1 + number % 400) },
            "containers": [{ "name": "c", "image": "registry.example/app:1", "ports": [
                { "name": "http", "containerPort": 8080, "protocol": "TCP" }] }],
        },
        "status": { "phase": "Running", "podIP": address(number), "podIPs": [{ "ip": address(number) }] },
    })
}

/// All pods of the namespace; from one app of it, and from one app of all namespaces of a team, and the first of each
/// namespace from all pods there are.
fn policy(namespace: usize, number: usize, port: u16) -> Value {
    let app = json!({ "matchLabels": { "app": format!("app{number}") } });
    let team = json!({ "matchLabels": { "team": format!("team{}", namespace % 100) } });
    let mut peers =
        vec![json!({ "podSelector": app }), json!({ "podSelector": app, "namespaceSelector": team })];
    if number == 0 {
        peers.push(json!({ "namespaceSelector": {} }));
    }
    json!({
        "metadata": { "namespace": format!("ns{namespace}"), "name": format!("policy{number}") },
        "spec": { "podSelector": {}, "ingress": [{ "from": peers, "ports": [
            { "port": port }, { "port": "http" }, { "port": 9000, "endPort": 9100 }] }] },
    })
}

struct Agent {
    policies: Policies,
    interner: Interner,
    driver: Driver,
}

impl Agent {
    fn take_pod(&mut self, json: &str) {
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_str(json).unwrap();
        let name =
            format!("{}/{}", pod.metadata.namespace.as_ref().unwrap(), pod.metadata.name.as_ref().unwrap());
        let pod = convert::pod(&pod, &mut self.interner);
        self.policies.apply(PolicyInput::Pod(name.into(), pod));
    }

    fn take_policy(&mut self, json: &str) {
        let object = convert::network_policy(serde_json::from_str(json).unwrap());
        let name = PolicyName::Network(object.name.into());
        self.policies.apply(PolicyInput::Policy(name, Some(Arc::new(object.spec.unwrap()))));
    }

    fn remove_pod(&mut self, number: usize) {
        let name = format!("ns{}/pod{number}", namespace(number));
        self.policies.apply(PolicyInput::Pod(name.into(), None));
    }

    fn put_in_force(&mut self) {
        let delta = self.policies.flush();
        wait(self.driver.update(delta)).unwrap();
    }

    /// The middle, the 99th of a hundred and the slowest of so many changes.
    fn measure(
        &mut self,
        what: &str,
        mut change: impl FnMut(&mut Self, usize) -> Box<dyn FnOnce(&mut Self)>,
    ) {
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|round| {
                std::thread::sleep(PAUSE);
                let change = change(self, round);
                let start = Instant::now();
                change(self);
                self.put_in_force();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let [middle, late, last] = [ROUNDS / 2, ROUNDS * 99 / 100, ROUNDS - 1].map(|place| times[place]);
        println!("{what:<64} p50 {middle:>8.3}  p99 {late:>8.3}  max {last:>8.3} ms  n={ROUNDS}");
    }
}

/// Seconds of CPU this process has used, in the kernel for it too.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime (proc_pid_stat(5)), in hundredths of a second.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// Megabytes this process has, and has had at most.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    format!("{:.0} MB, at most {:.0} MB", field("VmRSS"), field("VmHWM"))
}

pub fn events() {
    println!("before: {}", memory());
    let driver = Driver::start(Connections::End).unwrap();
    let mut agent = Agent { policies: Policies::new("n0"), interner: Interner::default(), driver };
    let start = Instant::now();
    for number in 0..NAMESPACES {
        let namespace = json!({ "metadata": { "name": format!("ns{number}"), "labels": {
            "team": format!("team{}", number % 100), "kubernetes.io/metadata.name": format!("ns{number}") } } });
        let namespace = serde_json::from_value(namespace).unwrap();
        let namespace = convert::namespace(&namespace, &mut agent.interner);
        agent.policies.apply(PolicyInput::Namespace(format!("ns{number}").into(), Some(namespace)));
        (0..POLICIES / NAMESPACES).for_each(|it| agent.take_policy(&policy(number, it, 80).to_string()));
    }
    let addresses: BTreeSet<IpAddr> = [IpAddr::from([192, 0, 2, 1])].into();
    let node = NodeAddresses { labels: Default::default(), addresses };
    agent.policies.apply(PolicyInput::Node("n0".into(), Some(node)));
    for number in 0..PODS {
        agent.take_pod(&pod(number, number / NAMESPACES % 10).to_string());
        if is_here(number) {
            let attached = Attached {
                pod: Some(format!("ns{}/pod{number}", namespace(number)).into()),
                uid: "".into(),
                addresses: [address(number)].into(),
                restored: false,
            };
            agent
                .policies
                .apply(PolicyInput::Endpoint(Ifname(format!("manx{number}").into()), Some(attached)));
        }
    }
    println!("read: {:.2?}, {}", start.elapsed(), memory());
    let (start, used) = (Instant::now(), cpu());
    agent.put_in_force();
    println!("in sync → kernel right: {:.2?}, {:.2} s of CPU, {}", start.elapsed(), cpu() - used, memory());
    agent.driver.sweep();
    while !(agent.driver.status().swept && agent.driver.status().in_force) {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("swept: {:?}, {}", agent.driver.status(), memory());

    agent.measure("a pod elsewhere comes", |_, round| {
        let text = pod(PODS + here(round), round % 10).to_string();
        Box::new(move |agent| agent.take_pod(&text))
    });
    agent.measure("a pod elsewhere goes", |_, round| {
        Box::new(move |agent| agent.remove_pod(PODS + here(round)))
    });
    agent.measure("a pod elsewhere has another label", |_, round| {
        let text = pod((here(round) + NAMESPACES) % PODS, (round + 3) % 10).to_string();
        Box::new(move |agent| agent.take_pod(&text))
    });
    agent.measure("a pod here has another label", |_, round| {
        let text = pod(here(round), (round + 5) % 10).to_string();
        Box::new(move |agent| agent.take_pod(&text))
    });
    agent.measure("a policy of a pod here has other rules", |_, round| {
        let number = namespace(here(round));
        let text = policy(number, 1 + round % 9, 1000 + round as u16).to_string();
        Box::new(move |agent| agent.take_policy(&text))
    });
    agent.measure("a policy has another peer", |_, round| {
        let number = namespace(here(round));
        let mut other = policy(number, 2, 80);
        other["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app"] =
            format!("app{}", round % 10).into();
        let text = other.to_string();
        Box::new(move |agent| agent.take_policy(&text))
    });
    println!("after: {}", memory());
}
