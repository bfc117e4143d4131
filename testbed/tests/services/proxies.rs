//! kube-proxy beside Manx: callers from outside, pods and nodes reach a pod by a Service, and policies judge who they really
//! are.
//!
//! Its rules are written here as it writes them itself. Where `MANX_KUBE_PROXY` names its program, that runs on the nodes
//! instead, in its modes iptables and nftables.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use manx_felix::crd::BGPConfiguration;
use manx_testbed::{Lab, PodInfo, eventually};
use serde_json::{Value, json};
use tokio::process::Child;

use super::{BOTH, FIRST, SOON, create, endpoints, given, led_by, pod, ready, services, up};

const NODES: [&str; 2] = ["node1", "node2"];
const CLIENT: &str = "203.0.113.10";
const CLUSTER_IP: &str = "10.96.0.30";

#[derive(Clone, Copy)]
enum Mode {
    Iptables,
    Nftables,
}

/// What kube-proxy knows of the one Service: its address of a load balancer and its only endpoint, which is on node1.
struct Service {
    external: String,
    is_local: bool,
    pod: String,
}

impl Service {
    /// For `iptables-restore`, as of Kubernetes 1.36.
    fn iptables(&self, node: &str) -> String {
        let Self { external, is_local, pod } = self;
        let mut text = "\
*filter
:KUBE-FORWARD - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"
        .to_owned();
        let served = !is_local || node == "node1";
        if !served {
            writeln!(text, "-A KUBE-EXTERNAL-SERVICES -d {external}/32 -p tcp -m tcp --dport 80 -j DROP")
                .unwrap();
        }
        text.push_str(
            "\
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-WEB - [0:0]
:KUBE-SVC-WEB - [0:0]
:KUBE-SVL-WEB - [0:0]
:KUBE-SEP-WEB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
",
        );
        writeln!(
            text,
            "\
-A KUBE-SERVICES -d {CLUSTER_IP}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -d {external}/32 -p tcp -m tcp --dport 80 -j KUBE-EXT-WEB
-A KUBE-SVC-WEB ! -s 10.244.0.0/16 -d {CLUSTER_IP}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -m statistic --mode random --probability 1.0 -j KUBE-SEP-WEB
-A KUBE-SEP-WEB -s {pod}/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-WEB -p tcp -m tcp -j DNAT --to-destination {pod}:7000"
        )
        .unwrap();
        text.push_str(match is_local {
            false => "-A KUBE-EXT-WEB -j KUBE-MARK-MASQ\n-A KUBE-EXT-WEB -j KUBE-SVC-WEB\n",
            true => {
                "\
-A KUBE-EXT-WEB -s 10.244.0.0/16 -j KUBE-SVC-WEB
-A KUBE-EXT-WEB -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -m addrtype --src-type LOCAL -j KUBE-SVC-WEB
"
            }
        });
        if *is_local && served {
            text.push_str("-A KUBE-EXT-WEB -j KUBE-SVL-WEB\n-A KUBE-SVL-WEB -j KUBE-SEP-WEB\n");
        }
        text.push_str("COMMIT\n");
        text
    }

    /// For `nft -f`, as of Kubernetes 1.36.
    fn nftables(&self, node: &str) -> String {
        let Self { external, is_local, pod } = self;
        let own = "ip saddr 10.244.0.0/16 goto service-web\n    fib saddr type local jump mark-for-masquerade\n    \
            fib saddr type local goto service-web";
        let external_chain = match (is_local, node) {
            (false, _) => "jump mark-for-masquerade\n    goto service-web".to_owned(),
            (true, "node1") => format!("{own}\n    numgen random mod 1 vmap {{ 0 : goto endpoint-{pod} }}"),
            (true, _) => own.to_owned(),
        };
        let unserved = match *is_local && node != "node1" {
            true => format!("elements = {{ {external} . tcp . 80 : drop }}"),
            false => String::new(),
        };
        format!(
            "\
table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {{
  set cluster-ips {{
    type ipv4_addr
    elements = {{ {CLUSTER_IP} }}
  }}
  map no-endpoint-services {{
    type ipv4_addr . inet_proto . inet_service : verdict
    {unserved}
  }}
  chain mark-for-masquerade {{
    meta mark set meta mark | 0x4000
  }}
  chain endpoint-{pod} {{
    ip saddr {pod} jump mark-for-masquerade
    meta l4proto tcp dnat to {pod}:7000
  }}
  chain service-web {{
    ip daddr {CLUSTER_IP} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
    numgen random mod 1 vmap {{ 0 : goto endpoint-{pod} }}
  }}
  chain external-web {{
    {external_chain}
  }}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = {{ {CLUSTER_IP} . tcp . 80 : goto service-web, {external} . tcp . 80 : goto external-web }}
  }}
  chain masquerading {{
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
  }}
  chain service-endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject
    ip daddr 10.96.0.0/12 drop
  }}
  chain filter-input {{
    type filter hook input priority -110
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority -10
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat
    jump masquerading
  }}
}}
"
        )
    }
}

/// kube-proxy of both nodes, or its rules.
struct Proxies<'a> {
    lab: &'a Lab,
    mode: Mode,
    running: Vec<Child>,
}

impl<'a> Proxies<'a> {
    fn start(lab: &'a Lab, mode: Mode) -> Self {
        let program = env::var("MANX_KUBE_PROXY").ok();
        let run = |program: &String, node: &str| {
            let mode = match mode {
                Mode::Iptables => "iptables",
                Mode::Nftables => "nftables",
            };
            // The small API server speaks JSON, and a network namespace has no connection tracking of its own to size.
            let json = "application/json";
            let configuration = json!({
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": "/etc/manx/kubeconfig", "contentType": json, "acceptContentTypes": json},
                "mode": mode, "hostnameOverride": node, "clusterCIDR": "10.244.0.0/16",
                "featureGates": {"NFTablesProxyMode": true},
                "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            });
            let file = lab.node_folder(node).join("run/kube-proxy.json");
            fs::write(file, configuration.to_string()).unwrap();
            lab.spawn(node, &[program.as_str(), "--config", "/run/kube-proxy.json"]).unwrap()
        };
        let running = program.iter().flat_map(|program| NODES.map(|node| run(program, node)));
        Self { lab, mode, running: running.collect() }
    }

    /// Has the rules say what is so now; the program finds out by itself.
    async fn serve(&self, service: &Service) {
        for node in NODES.into_iter().filter(|_| self.running.is_empty()) {
            let (text, program): (_, &[&str]) = match self.mode {
                Mode::Iptables => (service.iptables(node), &["iptables-restore"]),
                Mode::Nftables => (service.nftables(node), &["nft", "-f"]),
            };
            fs::write(self.lab.node_folder(node).join("run/kube-proxy"), text).unwrap();
            let argv = [program, &["/run/kube-proxy"]].concat();
            self.lab.run(node, &argv).await.unwrap();
        }
    }
}

/// Waits until a Service's address is answered to who calls from here, and gives as whom the pod sees it.
async fn seen(lab: &Lab, from: &str, address: &str) -> String {
    let called = || async { lab.run(from, &["manx-lab", "probe", address]).await };
    eventually(SOON, called).await.unwrap().trim().to_owned()
}

/// As whom the pod sees another that calls.
async fn seen_pod(lab: &Lab, from: &PodInfo, address: &str) -> Result<String, String> {
    let called = lab.pod_run(from, &["manx-lab", "probe", address]).await;
    called.map(|said| said.trim().to_owned()).map_err(|error| error.to_string())
}

fn ipv4(pod: &PodInfo) -> String {
    pod.addresses.iter().find(|address| address.is_ipv4()).unwrap().to_string()
}

async fn everybody_reaches_the_pod_and_policies_judge_who_calls(name: &str, mode: Mode) {
    let (lab, client) = up(name).await;
    let (web, guest) = (pod(&lab, "node1", "web").await, pod(&lab, "node2", "guest").await);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": CLUSTER_IP,
        "clusterIPs": [CLUSTER_IP]});
    create(&client, "web", json!({}), spec).await;
    let external = given(&client, "web", 1).await.remove(0);
    let mut service = Service { external, is_local: true, pod: ipv4(&web) };
    endpoints(&client, "web", "IPv4", &[("node1", &service.pod, ready())]).await;
    let _echo = lab.pod_spawn(&web, &["manx-lab", "echo"]).unwrap();
    let proxies = Proxies::start(&lab, mode);
    proxies.serve(&service).await;

    // From outside by the one node with an endpoint, from a pod of another node and from that node itself.
    led_by(&lab, &service.external, FIRST).await;
    let (external, internal) = (format!("{}:80", service.external), format!("{CLUSTER_IP}:80"));
    assert_eq!(seen(&lab, "client", &external).await, CLIENT);
    let by_a_pod = eventually(SOON, || seen_pod(&lab, &guest, &internal)).await.unwrap();
    assert_eq!(by_a_pod, ipv4(&guest));
    assert_eq!(seen(&lab, "node2", &internal).await, "10.10.0.2");

    // A policy sees the pod's own port, and who calls.
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let policy = json!({"metadata": {"name": "web"}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": format!("{CLIENT}/32")}}], "ports": [{"port": 7000}]}]}});
    let policy: NetworkPolicy = serde_json::from_value(policy).unwrap();
    policies.create(&PostParams::default(), &policy).await.unwrap();
    let refused = || async {
        match seen_pod(&lab, &guest, &internal).await {
            Ok(seen) => Err(format!("{seen} is answered")),
            Err(_) => Ok(()),
        }
    };
    eventually(SOON, refused).await.unwrap();
    assert_eq!(seen(&lab, "client", &external).await, CLIENT);
    policies.delete("web", &DeleteParams::default()).await.unwrap();
    eventually(SOON, || seen_pod(&lab, &guest, &internal)).await.unwrap();

    // With the policy Cluster every node takes its packets, and the one without an endpoint calls in its own name.
    let cluster = Patch::Merge(json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    services(&client).patch("web", &PatchParams::default(), &cluster).await.unwrap();
    service.is_local = false;
    proxies.serve(&service).await;
    led_by(&lab, &service.external, &[]).await;
    led_by(&lab, "198.51.100.0/24", BOTH).await;
    lab.run("tor", &["sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1"]).await.unwrap();
    let mut callers = BTreeSet::new();
    for _ in 0..200 {
        // Which way a connection takes is a hash of its ports.
        let caller = seen(&lab, "client", &external).await;
        // One that still goes the way it went before says nothing.
        if caller == CLIENT {
            callers.clear();
        } else {
            callers.insert(caller);
        }
        if callers.contains("10.10.0.2") && callers.len() > 1 {
            break;
        }
    }
    assert!(callers.contains("10.10.0.2") && callers.len() == 2, "{callers:?}");
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn services_are_reached_by_kube_proxys_iptables() {
    everybody_reaches_the_pod_and_policies_judge_who_calls("services-iptables", Mode::Iptables).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn services_are_reached_by_kube_proxys_nftables() {
    everybody_reaches_the_pod_and_policies_judge_who_calls("services-nftables", Mode::Nftables).await;
}

/// The kernel's own state of kube-proxy's mode IPVS, without the director: addresses of Services are local ones, on an
/// interface that is down, and ARP answers for addresses of the link alone (`strictARP`). A bridge without ports stands in for
/// the dummy interface that not every kernel has.
async fn take_as_kube_proxys_ipvs(lab: &Lab, node: &str, addresses: &[&str]) {
    let mut lines = vec![
        "ip link add kube-ipvs0 type bridge".to_owned(),
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2".to_owned(),
    ];
    lines.extend(addresses.iter().map(|address| format!("ip address add {address}/32 dev kube-ipvs0")));
    for line in lines {
        let argv: Vec<&str> = line.split(' ').collect();
        lab.run(node, &argv).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn addresses_kube_proxys_ipvs_takes_for_local_are_no_nodes_and_stay_its_own() {
    let (lab, client) = up("services-ipvs").await;
    // Below the nodes' own, and in the range these are found in.
    let below = "10.9.0.9";
    let (one, two) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "two").await);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": CLUSTER_IP,
        "clusterIPs": [CLUSTER_IP], "externalIPs": [below]});
    create(&client, "web", json!({}), spec).await;
    let external = given(&client, "web", 1).await.remove(0);
    endpoints(&client, "web", "IPv4", &[("node1", &ipv4(&one), ready())]).await;
    for node in NODES {
        take_as_kube_proxys_ipvs(&lab, node, &[CLUSTER_IP, &external, below]).await;
    }
    let cidrs = Patch::Merge(json!({"spec": {"nodeAddress": {"cidrs": ["10.0.0.0/8", "fd00:10::/64"]}}}));
    let configurations: Api<BGPConfiguration> = Api::all(client.clone());
    configurations.patch("default", &PatchParams::default(), &cidrs).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    for (node, address) in [("node1", "10.10.0.1,fd00:10::1"), ("node2", "10.10.0.2,fd00:10::2")] {
        let found = || async {
            let node = nodes.get(node).await.map_err(|error| error.to_string())?;
            let annotations = node.metadata.annotations.unwrap_or_default();
            let found = annotations.get("manx.io/found-address").cloned().unwrap_or_default();
            if found == address { Ok(()) } else { Err(found) }
        };
        eventually(SOON, found).await.unwrap();
    }
    led_by(&lab, &external, FIRST).await;
    led_by(&lab, "198.51.100.0/24", BOTH).await;

    // Where the director would take packets, they come: to the node's own sockets, and not only to be dropped as nobody's.
    let _director = lab.spawn("node1", &["manx-lab", "echo", "--port", "80"]).unwrap();
    assert_eq!(seen(&lab, "client", &format!("{external}:80")).await, CLIENT);

    // Pods find their gateways and each other, those that start now too, though ARP answers less.
    let late = pod(&lab, "node1", "late").await;
    for (from, to) in [(&one, &two), (&two, &late), (&late, &one)] {
        lab.pod_run(from, &["ip", "neigh", "flush", "all"]).await.unwrap();
        let to = ipv4(to);
        eventually(SOON, || async { lab.pod_run(from, &["ping", "-n", "-c1", "-W1", &to]).await })
            .await
            .unwrap();
    }
    lab.run("node1", &["ping", "-n", "-c1", "-W2", &ipv4(&late)]).await.unwrap();
    // Nobody answers for a Service's address on the link.
    lab.run("tor", &["ip", "route", "add", &format!("{below}/32"), "dev", "eth1"]).await.unwrap();
    let asked = lab.exec("tor", &["ping", "-n", "-c1", "-W1", below]).await.unwrap();
    assert!(!asked.status.success());
    let neighbour = lab.run("tor", &["ip", "neigh", "show", below]).await.unwrap();
    assert!(!neighbour.contains("lladdr"), "{neighbour}");

    // The agent has looked at the kernel's settings since, and left kube-proxy's as they are.
    lab.run("node1", &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).await.unwrap();
    let sysctl = |name: &'static str| {
        let lab = &lab;
        async move { lab.run("node1", &["sysctl", "-n", name]).await.unwrap().trim().to_owned() }
    };
    let looked =
        || async { if sysctl("net.ipv4.ip_forward").await == "1" { Ok(()) } else { Err("not yet") } };
    eventually(SOON, looked).await.unwrap();
    assert_eq!(sysctl("net.ipv4.conf.all.arp_ignore").await, "1");
    assert_eq!(sysctl("net.ipv4.conf.all.arp_announce").await, "2");
    let metrics = ["busybox", "wget", "-qO-", "http://127.0.0.1:9098/metrics"];
    let metrics = lab.run("node1", &metrics).await.unwrap();
    assert!(metrics.lines().any(|line| line == "manx_foreign_route_overlaps 0"), "{metrics}");
    let said: Value =
        serde_json::from_str(&lab.run("node1", &["manxctl", "status", "-o", "json"]).await.unwrap()).unwrap();
    let problems = said["node"]["problems"].as_array().unwrap();
    let of_ipvs = problems.iter().filter(|problem| problem["message"].as_str().unwrap().contains("IPVS"));
    assert_eq!(of_ipvs.count(), 1, "{problems:?}");
}
