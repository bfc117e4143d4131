//! Services as a router sees them: which addresses it has a way to, by which nodes, as Services and endpoints come and
//! go; that packets reach pods by them; and what becomes of packets to addresses no Service has.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

/// Long enough for agents to claim blocks and sessions to come up on a machine that builds something else.
const SOON: Duration = Duration::from_secs(90);

/// Where a Service is announced, and where not.
const BOTH: &[&str] = &["10.10.0.1", "10.10.0.2"];
const FIRST: &[&str] = &["10.10.0.1"];
const SECOND: &[&str] = &["10.10.0.2"];
const NOWHERE: &[&str] = &[];

async fn up(name: &str) -> (TemporaryLab, Client) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/services.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    (lab, client)
}

/// The gateways the router's kernel has to a destination, in order.
async fn ways(lab: &Lab, destination: &str) -> Vec<String> {
    let family = if destination.contains(':') { "-6" } else { "-4" };
    let shown = lab.run("tor", &["ip", "-j", family, "route", "show", destination]).await.unwrap();
    let routes: Vec<Value> = serde_json::from_str(&shown).unwrap_or_default();
    let hops = routes.iter().flat_map(|route| {
        let several = route["nexthops"].as_array().cloned().unwrap_or_default();
        if several.is_empty() { vec![route.clone()] } else { several }
    });
    let mut hops: Vec<String> = hops.filter_map(|hop| Some(hop["gateway"].as_str()?.to_owned())).collect();
    hops.sort();
    hops
}

async fn led_by(lab: &Lab, destination: &str, nodes: &[&str]) {
    let asked = || async {
        let ways = ways(lab, destination).await;
        if ways == nodes { Ok(()) } else { Err(format!("{destination} via {ways:?}, not {nodes:?}")) }
    };
    eventually(SOON, asked).await.unwrap();
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

fn slices(client: &Client) -> Api<EndpointSlice> {
    Api::namespaced(client.clone(), "default")
}

async fn create(client: &Client, name: &str, annotations: Value, spec: Value) {
    let mut object = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
    object["spec"]["ports"] = json!([{"port": 80, "targetPort": 7000}]);
    let object: Service = serde_json::from_value(object).unwrap();
    services(client).create(&PostParams::default(), &object).await.unwrap();
}

/// Endpoints: on which node, of which address, with which conditions.
async fn endpoints(client: &Client, service: &str, family: &str, all: &[(&str, &str, Value)]) {
    let all: Vec<Value> = all
        .iter()
        .map(|(node, address, conditions)| {
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": all, "ports": [{"port": 7000}],
    });
    let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
    let parameters = PatchParams::apply("test").force();
    slices(client).patch(&name, &parameters, &Patch::Apply(slice)).await.unwrap();
}

fn ready() -> Value {
    json!({"ready": true})
}

fn ending() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

/// The addresses a Service is given.
async fn given(client: &Client, name: &str, count: usize) -> Vec<String> {
    let asked = || async {
        let status = services(client).get(name).await.map_err(|error| error.to_string())?.status;
        let ingress = status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
        let addresses: Vec<String> = ingress.into_iter().filter_map(|one| one.ip).collect();
        if addresses.len() == count { Ok(addresses) } else { Err(format!("{name} has {addresses:?}")) }
    };
    eventually(SOON, asked).await.unwrap()
}

async fn pod(lab: &Lab, node: &str, name: &str) -> PodInfo {
    eventually(SOON, || async { lab.pod_add(node, "default", name).await }).await.unwrap()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_router_has_a_way_to_a_service_where_it_can_be_served_and_only_there() {
    let (lab, client) = up("services-ways").await;
    led_by(&lab, "10.96.0.0/12", BOTH).await;

    // Any node serves a Cluster policy, while there is an endpoint anywhere.
    let external = json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
        "externalIPs": ["192.0.2.20", "192.0.3.20"]});
    create(&client, "any", json!({"manx.io/communities": "64512:7, 64512:1:2"}), external).await;
    endpoints(&client, "any", "IPv4", &[("node1", "10.244.0.1", ready())]).await;
    led_by(&lab, "192.0.2.20", BOTH).await;
    led_by(&lab, "192.0.3.20", NOWHERE).await;
    led_by(&lab, "10.96.0.20", NOWHERE).await;
    let told = lab.run("tor", &["vtysh", "-c", "show bgp ipv4 unicast 192.0.2.20/32"]).await.unwrap();
    assert!(told.contains("64512:7") && told.contains("64512:1:2"), "{told}");
    endpoints(&client, "any", "IPv4", &[("node1", "10.244.0.1", json!({"ready": false}))]).await;
    led_by(&lab, "192.0.2.20", NOWHERE).await;

    // A Local one is served where there are endpoints, each family by its own.
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        "clusterIP": "10.96.0.30", "clusterIPs": ["10.96.0.30"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"});
    create(&client, "local", json!({}), local).await;
    let addresses = given(&client, "local", 2).await;
    assert_eq!(addresses, ["198.51.100.0", "fd00:100::"]);
    let (v4, v6) = ("198.51.100.0", "fd00:100::");
    endpoints(
        &client,
        "local",
        "IPv4",
        &[("node1", "10.244.0.1", ready()), ("node2", "10.244.0.65", ready())],
    )
    .await;
    led_by(&lab, v4, BOTH).await;
    led_by(&lab, "10.96.0.30", BOTH).await;
    led_by(&lab, v6, NOWHERE).await;
    endpoints(&client, "local", "IPv6", &[("node2", "fd00:10:244::1", ready())]).await;
    let second = || async {
        let ways = ways(&lab, v6).await;
        if ways.len() == 1 { Ok(()) } else { Err(format!("{v6} via {ways:?}")) }
    };
    eventually(SOON, second).await.unwrap();

    // Ending endpoints are withdrawn while others are ready, and count where there are no others.
    endpoints(
        &client,
        "local",
        "IPv4",
        &[("node1", "10.244.0.1", ending()), ("node2", "10.244.0.65", ready())],
    )
    .await;
    led_by(&lab, v4, SECOND).await;
    endpoints(&client, "local", "IPv4", &[("node1", "10.244.0.1", ending())]).await;
    led_by(&lab, v4, FIRST).await;

    // The last endpoint goes, again and again: how long until the router's kernel has no way, by the kernel's word.
    let mut monitor = lab.spawn("tor", &["env", "TZ=UTC", "ip", "-ts", "-4", "monitor", "route"]).unwrap();
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    let (mut asked, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        endpoints(&client, "local", "IPv4", &[("node1", "10.244.0.1", ready())]).await;
        led_by(&lab, v4, FIRST).await;
        let before = Timestamp::now();
        endpoints(&client, "local", "IPv4", &[]).await;
        let after = Timestamp::now();
        let gone = timeout(SOON, async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                let (stamp, rest) = line.split_once("] ").unwrap();
                let at: Timestamp = format!("{}Z", stamp.trim_start_matches('[')).parse().unwrap();
                if at > before && rest.starts_with("Deleted ") && rest.contains(v4) {
                    return at;
                }
            }
        });
        let gone = gone.await.unwrap();
        asked.push(gone.duration_since(before).as_millis());
        taken.push(gone.duration_since(after).as_millis());
    }
    asked.sort_unstable();
    taken.sort_unstable();
    println!("withdrawn, in ms from the request to the API: {asked:?}, from its answer: {taken:?}");
    assert!(asked[asked.len() / 2] < 2000, "{asked:?}");

    // A node that is kept out of the ways from outside has none.
    endpoints(
        &client,
        "local",
        "IPv4",
        &[("node1", "10.244.0.1", ready()), ("node2", "10.244.0.65", ready())],
    )
    .await;
    led_by(&lab, v4, BOTH).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let label = |value: Value| {
        Patch::Merge(
            json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}}}),
        )
    };
    nodes.patch("node1", &PatchParams::default(), &label(json!(""))).await.unwrap();
    led_by(&lab, v4, SECOND).await;
    led_by(&lab, "10.96.0.0/12", SECOND).await;
    nodes.patch("node1", &PatchParams::default(), &label(Value::Null)).await.unwrap();
    led_by(&lab, v4, BOTH).await;

    // A restart of an agent withdraws nothing.
    let mut watch = lab.spawn("tor", &["ip", "-4", "monitor", "route"]).unwrap();
    lab.kill("node1", "manx-felix", nix::sys::signal::Signal::SIGKILL).unwrap();
    let dead =
        || async { lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(pid.to_string())) };
    eventually(SOON, dead).await.unwrap();
    lab.start_daemon("node1", "manx-felix").await.unwrap();
    let is_ready =
        || async { lab.run("node1", &["busybox", "wget", "-qO-", "http://127.0.0.1:9098/readyz"]).await };
    eventually(SOON, is_ready).await.unwrap();
    services(&client).delete("local", &DeleteParams::default()).await.unwrap();
    led_by(&lab, v4, NOWHERE).await;
    watch.start_kill().unwrap();
    let seen = watch.wait_with_output().await.unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let lost: Vec<&str> = seen.lines().filter(|line| line.starts_with("Deleted 10.96.0.0/12")).collect();
    assert_eq!(lost, [""; 0], "{seen}");
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn services_have_addresses_of_pools_and_are_told_why_they_have_none() {
    let (lab, client) = up("services-addresses").await;
    let balancer = || json!({"type": "LoadBalancer"});
    create(&client, "one", json!({}), balancer()).await;
    create(&client, "wish", json!({"manx.io/ips": "198.51.100.77"}), balancer()).await;
    let class = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    create(&client, "theirs", json!({}), class).await;
    assert_eq!(given(&client, "one", 1).await, ["198.51.100.0"]);
    assert_eq!(given(&client, "wish", 1).await, ["198.51.100.77"]);
    let status = services(&client).get("one").await.unwrap().status.unwrap();
    let ingress = status.load_balancer.unwrap().ingress.unwrap();
    assert_eq!(ingress[0].ip_mode.as_deref(), Some("VIP"));

    create(&client, "rival", json!({"manx.io/ips": "198.51.100.77"}), balancer()).await;
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let told = || async {
        let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut notes = events.items.iter().filter_map(|event| event.note.as_deref());
        let said = notes.any(|note| note.contains("198.51.100.77 is the address of Service default/wish"));
        if said { Ok(()) } else { Err(format!("{:?}", events.items)) }
    };
    eventually(SOON, told).await.unwrap();
    assert_eq!(given(&client, "theirs", 0).await, [""; 0]);

    // The agent that gives goes away for good; the other goes on, and gives what is free again.
    lab.kill("node1", "manx-felix", nix::sys::signal::Signal::SIGKILL).unwrap();
    services(&client).delete("wish", &DeleteParams::default()).await.unwrap();
    assert_eq!(given(&client, "rival", 1).await, ["198.51.100.77"]);
    create(&client, "two", json!({}), balancer()).await;
    assert_eq!(given(&client, "two", 1).await, ["198.51.100.1"]);
    assert_eq!(given(&client, "one", 1).await, ["198.51.100.0"]);
}

/// Sends one to an address and gives what the client hears of it.
async fn ping(lab: &Lab, address: &str) -> String {
    let output = lab.exec("client", &["ping", "-n", "-c1", "-W1", address]).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn packets_reach_pods_by_a_service_address_and_nobodys_packets_end_at_the_node() {
    let (lab, client) = up("services-packets").await;
    let web = pod(&lab, "node1", "web").await;
    let target = web.addresses.iter().find(|address| address.is_ipv4()).unwrap().to_string();
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    create(&client, "web", json!({}), local).await;
    let address = given(&client, "web", 1).await.remove(0);
    endpoints(&client, "web", "IPv4", &[("node1", &target, ready())]).await;
    led_by(&lab, &address, FIRST).await;
    let _echo = lab.pod_spawn(&web, &["manx-lab", "echo"]).unwrap();

    // What kube-proxy writes in its two modes, by hand: the one after the other.
    let to = format!("{target}:7000");
    let nftables = [
        "add table ip kube-proxy".to_owned(),
        "add chain ip kube-proxy services { type nat hook prerouting priority dstnat; }".to_owned(),
        format!("add rule ip kube-proxy services ip daddr {address} tcp dport 80 dnat to {to}"),
    ];
    let iptables = [
        "iptables",
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-d",
        &address,
        "-p",
        "tcp",
        "--dport",
        "80",
        "-j",
        "DNAT",
        "--to-destination",
        &to,
    ];
    let call = format!("{address}:80");
    for mode in ["nftables", "iptables"] {
        match mode {
            "nftables" => {
                for line in &nftables {
                    lab.run("node1", &["nft", line]).await.unwrap();
                }
            }
            _ => {
                lab.run("node1", &["nft", "delete table ip kube-proxy"]).await.unwrap();
                lab.run("node1", &iptables).await.unwrap();
            }
        }
        let called = || async { lab.run("client", &["manx-lab", "probe", &call]).await };
        let heard = eventually(SOON, called).await.unwrap();
        assert_eq!(heard.trim(), "203.0.113.10", "{mode}: the pod sees who calls");
    }

    // Nobody has this address; the router leads its range to the nodes, and the nodes all else to the router.
    let nobodys = "198.51.100.200";
    let guarded = || async { lab.run("node1", &["nft", "list", "table", "inet", "manx-services"]).await };
    let table = eventually(SOON, guarded).await.unwrap();
    assert!(table.contains("ip daddr 198.51.100.0/24 counter") && table.contains("drop"), "{table}");
    let heard = ping(&lab, nobodys).await;
    assert!(heard.contains("100% packet loss") && !heard.contains("exceeded"), "{heard}");
    let unassigned = |what: &'static str| {
        let configurations: Api<manx_felix::crd::BGPConfiguration> = Api::all(client.clone());
        let patch = Patch::Merge(json!({"spec": {"serviceAddresses": {"unassigned": what}}}));
        async move { configurations.patch("default", &PatchParams::default(), &patch).await.unwrap() }
    };
    for (what, words) in
        [("Reject", "Packet filtered"), ("Forward", "Time to live exceeded"), ("Drop", "100% packet loss")]
    {
        unassigned(what).await;
        let heard = || async {
            let heard = ping(&lab, nobodys).await;
            let loops = what != "Forward" && heard.contains("exceeded");
            if heard.contains(words) && !loops { Ok(()) } else { Err(format!("{what}: {heard}")) }
        };
        eventually(SOON, heard).await.unwrap();
    }
    // Someone removes the table: it is made anew.
    for node in ["node1", "node2"] {
        lab.run(node, &["nft", "delete table inet manx-services"]).await.unwrap();
        let back = || async { lab.run(node, &["nft", "list", "table", "inet", "manx-services"]).await };
        eventually(SOON, back).await.unwrap();
    }
}
