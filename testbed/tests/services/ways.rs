//! Which addresses a router has a way to, and by which nodes, as Services and endpoints come and go, and nodes leave.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use manx_testbed::{Lab, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use super::{
    BOTH, FIRST, NOWHERE, SECOND, SOON, create, endpoints, given, led_by, ready, services, up, ways,
};

/// Where endpoints are, and their addresses.
const ONE: (&str, &str) = ("node1", "10.244.0.1");
const OTHER: (&str, &str) = ("node2", "10.244.0.65");

fn ending() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

/// Endpoints of the Service `local`.
async fn locals(client: &Client, all: &[((&str, &str), Value)]) {
    let all: Vec<_> =
        all.iter().map(|((node, address), conditions)| (*node, *address, conditions.clone())).collect();
    endpoints(client, "local", "IPv4", &all).await;
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
    locals(&client, &[(ONE, ready()), (OTHER, ready())]).await;
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
    locals(&client, &[(ONE, ending()), (OTHER, ready())]).await;
    led_by(&lab, v4, SECOND).await;
    locals(&client, &[(ONE, ending())]).await;
    led_by(&lab, v4, FIRST).await;

    // The last endpoint goes, again and again: how long until the router's kernel has no way, by the kernel's word.
    let mut monitor = lab.spawn("tor", &["env", "TZ=UTC", "ip", "-ts", "-4", "monitor", "route"]).unwrap();
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    let (mut asked, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        locals(&client, &[(ONE, ready())]).await;
        led_by(&lab, v4, FIRST).await;
        let before = Timestamp::now();
        locals(&client, &[]).await;
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
    locals(&client, &[(ONE, ready()), (OTHER, ready())]).await;
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

/// What the router holds of a prefix by a node: nothing, or whether it is marked as one that is about to go.
async fn is_leaving(lab: &Lab, prefix: &str, node: &str) -> Option<bool> {
    let shown =
        lab.run("tor", &["vtysh", "-c", &format!("show bgp ipv4 unicast {prefix} json")]).await.unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
    let of_node = |path: &&Value| path["peer"]["peerId"] == node;
    let path = shown["paths"].as_array()?.iter().find(of_node)?.clone();
    Some(path["community"]["string"].as_str().unwrap_or_default().contains("graceful-shutdown"))
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_that_is_drained_takes_its_service_addresses_with_it_in_two_steps() {
    let (lab, client) = up("services-drain").await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    create(&client, "local", json!({}), spec).await;
    let given = given(&client, "local", 1).await.remove(0);
    locals(&client, &[(ONE, ready()), (OTHER, ready())]).await;
    let (alone, whole) = (format!("{given}/32"), "198.51.100.0/24");
    led_by(&lab, &given, BOTH).await;
    led_by(&lab, whole, BOTH).await;

    let is = |wanted: Option<bool>| {
        let (lab, alone) = (&lab, alone.as_str());
        let ask = move || async move {
            let both = [is_leaving(lab, alone, "10.10.0.2").await, is_leaving(lab, whole, "10.10.0.2").await];
            if both == [wanted; 2] { Ok(()) } else { Err(format!("{both:?}, not {wanted:?}")) }
        };
        eventually(SOON, ask)
    };
    is(Some(false)).await.unwrap();
    lab.run("node1", &["manxctl", "node", "drain", "node2", "--wait", "10"]).await.unwrap();
    is(Some(true)).await.unwrap();
    // The router takes other ways while there still is this one.
    led_by(&lab, &given, FIRST).await;
    led_by(&lab, whole, FIRST).await;
    is(None).await.unwrap();
    assert_eq!([ways(&lab, &given).await, ways(&lab, whole).await], [FIRST, FIRST]);

    // What begins while it is drained is not announced by it.
    let another = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    create(&client, "another", json!({}), another).await;
    let late = super::given(&client, "another", 1).await.remove(0);
    endpoints(&client, "another", "IPv4", &[("node2", OTHER.1, ready()), ("node1", ONE.1, ready())]).await;
    led_by(&lab, &late, FIRST).await;

    lab.run("node1", &["manxctl", "node", "undrain", "node2"]).await.unwrap();
    is(Some(false)).await.unwrap();
    for address in [given.as_str(), whole, &late] {
        led_by(&lab, address, BOTH).await;
    }
}
