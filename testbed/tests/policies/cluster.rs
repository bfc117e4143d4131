//! Nine pods on two nodes of a lab, and packets between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::{Client, ResourceExt};
use manx_felix::acl::ruleset::Protocol;
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually, netns};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::cases::{self, Case, Object, Packet, port_name};
use crate::probe::{Ears, Probe};

pub const SOON: Duration = Duration::from_secs(30);

/// What is still on its way when all that was expected has come.
const LATE: Duration = Duration::from_millis(30);

/// What was expected is not awaited longer in one round.
const ROUND: Duration = Duration::from_millis(500);

pub const NODES: [&str; 2] = ["node1", "node2"];

pub async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    for node in NODES {
        let installed = || lab.run(node, &["test", "-e", "/etc/cni/net.d/10-manx.conflist"]);
        eventually(SOON, installed).await.unwrap();
    }
    lab
}

/// A thread in a pod's network namespace, with raw sockets there.
pub struct Mouth(mpsc::Sender<(Vec<Probe>, mpsc::Sender<Vec<u32>>)>);

impl Mouth {
    pub fn open(pod: &PodInfo) -> Self {
        Self::of(&pod.netns)
    }

    /// Of a network namespace by name.
    pub fn of(netns: &str) -> Self {
        let (orders, received) = mpsc::channel::<(Vec<Probe>, mpsc::Sender<Vec<u32>>)>();
        let namespace = File::open(netns::path(netns)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let mut ears = Ears::open();
            for (probes, answer) in received {
                probes.iter().for_each(Probe::send);
                answer.send(ears.drain()).unwrap();
            }
        });
        Self(orders)
    }

    /// Sends packets, and then tells the numbers of those that have come.
    fn send(&self, probes: Vec<Probe>) -> mpsc::Receiver<Vec<u32>> {
        let (answer, heard) = mpsc::channel();
        self.0.send((probes, answer)).unwrap();
        heard
    }
}

/// Nine pods on two nodes, and more where a test adds them.
pub struct Cluster {
    pub lab: TemporaryLab,
    pub client: Client,
    pub pods: BTreeMap<String, (PodInfo, Mouth)>,
    number: AtomicU32,
}

impl Cluster {
    pub async fn up(name: &str) -> Self {
        let lab = up(name).await;
        let client = lab.client().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for name in cases::NAMESPACES {
            let namespace = json!({ "metadata": { "name": name, "labels": { "ns": name } } });
            let namespace = serde_json::from_value(namespace).unwrap();
            namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        }
        let mut pods = BTreeMap::new();
        for (place, name) in cases::pods().into_iter().enumerate() {
            let (namespace, short) = name.split_once('/').unwrap();
            let node = NODES[place % NODES.len()];
            let pod = lab.pod_create(node, namespace, pod(node, short)).await.unwrap();
            let mouth = Mouth::open(&pod);
            pods.insert(name, (pod, mouth));
        }
        Self { lab, client, pods, number: AtomicU32::new(0) }
    }

    pub fn address(&self, packet: &Packet, pod: &str) -> IpAddr {
        let (pod, _) = &self.pods[pod];
        let is_it = |address: &&IpAddr| address.is_ipv4() == (packet.family as usize == 0);
        *pod.addresses.iter().find(is_it).unwrap()
    }

    /// Sends each of these, and tells whether it came.
    pub fn ask(&self, packets: &[Packet], expected: impl Fn(&Packet) -> bool) -> BTreeSet<Packet> {
        let mut by_number = BTreeMap::new();
        let mut by_pod: BTreeMap<&str, Vec<Probe>> = BTreeMap::new();
        for packet in packets {
            let number = 1 + self.number.fetch_add(1, Ordering::Relaxed);
            by_number.insert(number, packet);
            by_pod.entry(&packet.from).or_default().push(Probe {
                number,
                source: self.address(packet, &packet.from),
                destination: self.address(packet, &packet.to),
                protocol: packet.protocol as u8,
                source_port: 1024 + (number % 60_000) as u16,
                port: packet.port,
            });
        }
        let mut missing: BTreeSet<&Packet> = packets.iter().filter(|packet| expected(packet)).collect();
        let mut heard = BTreeSet::new();
        let mut end = Instant::now() + ROUND;
        loop {
            let answers: Vec<_> = self
                .pods
                .iter()
                .map(|(name, (_, mouth))| mouth.send(by_pod.remove(name.as_str()).unwrap_or_default()))
                .collect();
            for packet in answers.into_iter().flat_map(|answer| answer.recv().unwrap()) {
                if let Some(packet) = by_number.get(&packet) {
                    missing.remove(packet);
                    heard.insert((*packet).clone());
                }
            }
            if missing.is_empty() && end > Instant::now() + LATE {
                end = Instant::now() + LATE;
            }
            if Instant::now() >= end {
                return heard;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a packet from one of these that is sent to `destination` comes to the pod behind it.
    pub fn reaches(&self, from: &Mouth, source: IpAddr, destination: SocketAddr, to: &str) -> bool {
        let number = 1 + self.number.fetch_add(1, Ordering::Relaxed);
        let (source_port, port) = (1024 + (number % 60_000) as u16, destination.port());
        let destination = destination.ip();
        let protocol = Protocol::Udp as u8;
        let probe = Probe { number, source, destination, protocol, source_port, port };
        from.send(vec![probe]).recv().unwrap();
        let end = Instant::now() + ROUND / 2;
        while Instant::now() < end {
            if self.pods[to].1.send(Vec::new()).recv().unwrap().contains(&number) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Waits until what comes is what a step expects, twice in a row: once may be by what was in force before.
    pub fn settle(&self, what: &str, packets: &[Packet], expected: impl Fn(&Packet) -> bool) {
        let end = Instant::now() + 2 * SOON;
        let mut right = 0;
        while right < 2 {
            let came = self.ask(packets, &expected);
            let wrong: Vec<_> =
                packets.iter().filter(|packet| came.contains(packet) != expected(packet)).collect();
            right = if wrong.is_empty() { right + 1 } else { 0 };
            assert!(
                right > 0 || Instant::now() < end,
                "{what}: {} of {} are wrong: {:?}…",
                wrong.len(),
                packets.len(),
                &wrong[..wrong.len().min(5)]
            );
        }
    }

    fn policies(&self, object: &Object) -> Option<(Api<DynamicObject>, String)> {
        let kind = |group: &str, version: &str, kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
        };
        let network = kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies");
        let of_cluster =
            kind("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies");
        match (&object.np, &object.cnp) {
            (Some(name), _) => {
                let (namespace, name) = name.split_once('/').unwrap();
                Some((Api::namespaced_with(self.client.clone(), namespace, &network), name.to_owned()))
            }
            (_, Some(name)) => Some((Api::all_with(self.client.clone(), &of_cluster), name.clone())),
            _ => None,
        }
    }

    pub async fn put(&self, object: &Object) {
        let metadata = json!({ "labels": object.labels, "annotations": object.annotations });
        if let Some((api, name)) = self.policies(object) {
            let mut text = object.spec.to_string();
            for (name, (pod, _)) in &self.pods {
                for address in &pod.addresses {
                    let family = if address.is_ipv4() { "v4" } else { "v6" };
                    text = text.replace(&format!("{{{family} {name}}}"), &address.to_string());
                }
            }
            let of_cluster = object.cnp.is_some();
            let (version, kind) = if of_cluster {
                ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy")
            } else {
                ("networking.k8s.io/v1", "NetworkPolicy")
            };
            let spec: Value = serde_json::from_str(&text).unwrap();
            let mut metadata = metadata.clone();
            metadata["name"] = name.as_str().into();
            // All of it anew, with what the server fills in where nothing is said.
            let there = api.get_opt(&name).await.unwrap();
            if let Some(there) = &there {
                metadata["resourceVersion"] = there.resource_version().into();
            }
            let policy = json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec });
            let policy = serde_json::from_value(policy).unwrap();
            let parameters = PostParams::default();
            match there {
                Some(_) => drop(api.replace(&name, &parameters, &policy).await.unwrap()),
                None => drop(api.create(&parameters, &policy).await.unwrap()),
            }
        }
        if let Some(name) = &object.namespace {
            relabel(Api::<Namespace>::all(self.client.clone()), name, object).await;
        }
        if let Some(name) = &object.pod {
            let (namespace, short) = name.split_once('/').unwrap();
            relabel(Api::<Pod>::namespaced(self.client.clone(), namespace), short, object).await;
        }
    }

    pub async fn remove(&self, object: &Object) {
        let (api, name) = self.policies(object).unwrap();
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }

    /// All is as it was before a case.
    pub async fn clear(&self, case: &Case) {
        let put = case.steps.iter().flat_map(|step| &step.put);
        let objects: BTreeMap<String, &Object> = put
            .map(|object| {
                (format!("{:?}", (&object.np, &object.cnp, &object.namespace, &object.pod)), object)
            })
            .collect();
        for object in objects.values() {
            if let Some((api, name)) = self.policies(object) {
                if api.get_opt(&name).await.unwrap().is_some() {
                    api.delete(&name, &DeleteParams::default()).await.unwrap();
                }
                continue;
            }
            let mut fresh = (*object).clone();
            fresh.annotations.clear();
            fresh.labels = match (&object.namespace, &object.pod) {
                (Some(name), _) => [("ns".to_owned(), name.clone())].into(),
                (_, Some(name)) => [("pod".to_owned(), name.split_once('/').unwrap().1.to_owned())].into(),
                _ => BTreeMap::new(),
            };
            self.put(&fresh).await;
        }
    }
}

async fn relabel<K>(api: Api<K>, name: &str, to: &Object)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut object = api.get(name).await.unwrap();
    object.labels_mut().clone_from(&to.labels);
    object.annotations_mut().clone_from(&to.annotations);
    api.replace(name, &PostParams::default(), &object).await.unwrap();
}

/// A pod that serves what the tables ask.
pub fn pod(node: &str, name: &str) -> Pod {
    let ports = cases::PROTOCOLS.iter().flat_map(|protocol| {
        cases::PORTS.map(|port| {
            let name = port_name(*protocol, port);
            json!({ "name": name, "containerPort": port, "protocol": protocol.to_string() })
        })
    });
    let pod = json!({
        "metadata": { "name": name, "labels": { "pod": name } },
        "spec": { "nodeName": node,
                  "containers": [{ "name": "c", "image": "none", "ports": ports.collect::<Vec<_>>() }] },
    });
    serde_json::from_value(pod).unwrap()
}
