//! Nodes and the routers of their rack: what routers say that they should not, what changes bounce, leaving, the API away.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{ListParams, PostParams};
use manx_bgp::api::SessionState;
use manx_felix::crd::{BGPConfiguration, BGPFilter, BGPFilterSpec, BGPPeer, NodeStatus};
use manx_testbed::{Lab, TemporaryLab, eventually};
use serde_json::{Value, json};

use super::{
    SOON, blocks, change, condition, configure, has_sessions, knows, pings, pod, routes, sessions, up, vtysh,
};

/// What tor1 says.
const TOR1S: &str = "203.0.113.0/24";

async fn ready(name: &str) -> TemporaryLab {
    let lab = up("tor", name).await;
    for (node, other) in [("node1", "node2"), ("node2", "node1")] {
        eventually(SOON, || async { has_sessions(&lab, node, &[other, "tor1", "tor2"]).await })
            .await
            .unwrap();
        eventually(SOON, || async { knows(&lab, node, &[other]).await }).await.unwrap();
    }
    eventually(SOON, || told(&lab, TOR1S)).await.unwrap();
    lab
}

/// Whether node1 has a route.
async fn told(lab: &Lab, prefix: &str) -> Result<(), String> {
    let routes = routes(lab, "node1").await;
    if routes.contains_key(prefix) { Ok(()) } else { Err(format!("no {prefix} in {} routes", routes.len())) }
}

async fn not_told(lab: &Lab, prefix: &str) -> Result<(), String> {
    told(lab, prefix).await.map_or(Ok(()), |()| Err(format!("{prefix} is there")))
}

/// What tor1 holds of a prefix by a node.
async fn tor_has(lab: &Lab, prefix: &str) -> Option<Value> {
    let shown = vtysh(lab, "tor1", &format!("show bgp ipv4 unicast {prefix} json")).await;
    shown["paths"].as_array()?.iter().find(|path| path["valid"] == true).cloned()
}

/// Routes for tor2 to say, so many.
fn say_many(lab: &Lab, count: u32) {
    let mut text = "protocol static many { ipv4;\n".to_owned();
    for index in 0..count {
        let [_, a, b, c] = (0x6400_0000 + (index << 8)).to_be_bytes();
        let first = 100 + (index >> 16);
        writeln!(text, "route {first}.{a}.{b}.{c}/24 blackhole;").unwrap();
    }
    text.push_str("}\n");
    fs::write(lab.node_folder("tor2").join("run/many.conf"), text).unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn what_a_router_should_not_say_is_not_believed() {
    let lab = ready("peering-hostile").await;
    let own = blocks(&lab, "node1").await[0].clone();
    let inside = own.replace("/26", "/32");
    for prefix in ["169.254.7.0/24", "127.5.0.0/16", "198.51.100.0/24", &inside] {
        let network = format!("network {prefix}");
        configure(&lab, "tor1", 65001, &["address-family ipv4 unicast", &network]).await;
    }
    configure(&lab, "tor1", 65001, &["address-family ipv4 unicast", "neighbor NODES default-originate"])
        .await;
    // Said after all of them.
    configure(&lab, "tor1", 65001, &["address-family ipv4 unicast", "network 192.0.2.0/24"]).await;
    eventually(SOON, || told(&lab, "192.0.2.0/24")).await.unwrap();
    eventually(SOON, || told(&lab, "198.51.100.0/24")).await.unwrap();
    let has = routes(&lab, "node1").await;
    for refused in ["169.254.7.0/24", "127.5.0.0/16", inside.trim_end_matches("/32"), &inside, "default"] {
        assert!(!has.contains_key(refused), "{refused}: {has:?}");
    }
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"acceptDefaultRoute": true}})).await;
    eventually(SOON, || told(&lab, "default")).await.unwrap();
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"acceptDefaultRoute": null}})).await;
    eventually(SOON, || not_told(&lab, "default")).await.unwrap();

    say_many(&lab, 100_000);
    lab.run("tor2", &["birdc", "configure"]).await.unwrap();
    let all = || async {
        let count = lab.run("node1", &["sh", "-c", "ip route show proto 77 | wc -l"]).await.unwrap();
        let count: usize = count.trim().parse().unwrap();
        if count >= 100_000 { Ok(()) } else { Err(format!("{count} routes")) }
    };
    eventually(SOON, all).await.unwrap();
    let (one, two) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "two").await);
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();

    change::<BGPPeer>(&lab, "tor2", json!({"spec": {"maxPrefixes": {"ipv4": 1000}}})).await;
    let refused = || async {
        let sessions = sessions(&lab, "node1").await?;
        let many = sessions["tor2"].received;
        let (holds, words) = condition(&lab, "tor2", "Degraded").await?;
        let few = routes(&lab, "node1").await.len();
        if holds && many == 0 && few < 100 {
            Ok(words)
        } else {
            Err(format!("{many} received, {few} routes: {words}"))
        }
    };
    let words = eventually(SOON, refused).await.unwrap();
    assert!(words.contains("10.10.0.252") && words.contains("prefix"), "{words}");
    pings(&lab, &one, &two).await.unwrap();
}

/// How often each session of node1 has gone down.
async fn flaps(lab: &Lab) -> [u64; 3] {
    let sessions = sessions(lab, "node1").await.unwrap();
    ["node2", "tor1", "tor2"].map(|name| sessions[name].flaps)
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_change_bounces_the_sessions_that_must_and_no_others() {
    let lab = ready("peering-changes").await;
    let client = lab.client().await.unwrap();
    let own = blocks(&lab, "node1").await[0].clone();
    assert_eq!(flaps(&lab).await, [0; 3]);

    let spec: BGPFilterSpec = serde_json::from_value(json!({
        "import": [{"match": {"prefixes": [{"cidr": TOR1S}]}, "action": "Reject"}],
        "export": [{"match": {"prefixes": [{"cidr": "10.244.0.0/16", "minLength": 26}]},
            "set": {"addCommunities": ["64512:77", "64512:1:2"], "med": 50, "prepend": 2}}],
    }))
    .unwrap();
    let filters: Api<BGPFilter> = Api::all(client.clone());
    filters.create(&PostParams::default(), &BGPFilter::new("quiet", spec)).await.unwrap();
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"filters": ["quiet"]}})).await;
    eventually(SOON, || not_told(&lab, TOR1S)).await.unwrap();
    let marked = || async {
        let path = tor_has(&lab, &own).await.ok_or("tor1 has no route")?;
        let said = (
            path["community"]["string"].as_str(),
            path["metric"].as_u64(),
            path["aspath"]["string"].as_str(),
        );
        let large = path["largeCommunity"]["string"].as_str() == Some("64512:1:2");
        let wanted = (Some("64512:77"), Some(50), Some("64512 64512 64512"));
        if said == wanted && large { Ok(()) } else { Err(format!("{path}")) }
    };
    eventually(SOON, marked).await.unwrap();

    let advertised = json!({"spec": {"prefixAdvertisements":
        [{"cidr": "10.244.0.0/16", "communities": ["64512:9"]}], "aggregates": [{"cidr": "10.244.0.0/16"}]}});
    change::<BGPConfiguration>(&lab, "default", advertised).await;
    let both = || async {
        let path = tor_has(&lab, &own).await.ok_or("tor1 has no route")?;
        let aggregate = tor_has(&lab, "10.244.0.0/16").await;
        let said = path["community"]["string"].as_str().unwrap_or_default().to_owned();
        if said.contains("64512:9") && aggregate.is_some() {
            Ok(())
        } else {
            Err(format!("{said}, {aggregate:?}"))
        }
    };
    eventually(SOON, both).await.unwrap();
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"filters": null}})).await;
    eventually(SOON, || told(&lab, TOR1S)).await.unwrap();
    assert_eq!(flaps(&lab).await, [0; 3], "policies and what is announced bounce nothing");

    change::<BGPPeer>(&lab, "tor2", json!({"spec": {"holdTimeSeconds": 30}})).await;
    let agreed = || async {
        let sessions = sessions(&lab, "node1").await?;
        if sessions["tor2"].hold_time == Some(30) { Ok(()) } else { Err(format!("{:?}", sessions["tor2"])) }
    };
    eventually(SOON, agreed).await.unwrap();
    assert_eq!(flaps(&lab).await, [0, 0, 1]);

    // A bad change is answered, and changes nothing; one that names what is not there says so.
    change::<BGPPeer>(&lab, "tor2", json!({"spec": {"address": "127.0.0.1"}})).await;
    let answered = || async {
        let (holds, words) = condition(&lab, "tor2", "Accepted").await?;
        if holds { Err("accepted".to_owned()) } else { Ok(words) }
    };
    assert!(eventually(SOON, answered).await.unwrap().contains("loopback"));
    has_sessions(&lab, "node1", &["node2", "tor1", "tor2"]).await.unwrap();
    change::<BGPPeer>(&lab, "tor2", json!({"spec": {"address": "10.10.0.252"}})).await;

    // With a password that is missing the session is not opened; with the same on both sides it is.
    let password = json!({"spec": {"password": {"name": "tors"}}});
    change::<BGPPeer>(&lab, "tor1", password).await;
    let missing = || async {
        let (holds, words) = condition(&lab, "tor1", "Degraded").await?;
        if holds && words.contains("kube-system/tors") { Ok(()) } else { Err(words) }
    };
    eventually(SOON, missing).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    let secret = serde_json::from_value(json!({
        "metadata": {"name": "tors"}, "stringData": {"password": "hush"}, "data": {"password": "aHVzaA=="},
    }));
    secrets.create(&PostParams::default(), &secret.unwrap()).await.unwrap();
    configure(&lab, "tor1", 65001, &["neighbor 10.10.0.1 password hush", "neighbor 10.10.0.2 password hush"])
        .await;
    eventually(SOON, || async { has_sessions(&lab, "node1", &["node2", "tor1", "tor2"]).await })
        .await
        .unwrap();
    // Two nodes that write at once may leave none at all.
    let well = || async {
        match condition(&lab, "tor1", "Degraded").await {
            Ok((true, words)) => Err(words),
            Err(words) if !words.ends_with("has no Degraded") => Err(words),
            Ok((false, _)) | Err(_) => Ok(()),
        }
    };
    eventually(SOON, well).await.unwrap();
    let [node2, _, tor2] = flaps(&lab).await;
    assert_eq!((node2, tor2), (0, 1));
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_route_marked_no_peer_is_handed_on_but_not_to_a_mere_peer() {
    const SHY: &str = "198.18.5.0/24";
    let lab = ready("peering-no-peer").await;
    let text = format!(
        "protocol static shy {{ ipv4 {{ import filter {{ bgp_community.add((65535, 65284)); accept; }}; }}; route {SHY} blackhole; }}\n"
    );
    fs::write(lab.node_folder("tor2").join("run/many.conf"), text).unwrap();
    lab.run("tor2", &["birdc", "configure"]).await.unwrap();
    eventually(SOON, || told(&lab, SHY)).await.unwrap();
    let all: BGPFilterSpec =
        serde_json::from_value(json!({"export": [{"match": {"source": "Any"}}]})).unwrap();
    let filters: Api<BGPFilter> = Api::all(lab.client().await.unwrap());
    filters.create(&PostParams::default(), &BGPFilter::new("all", all)).await.unwrap();
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"filters": ["all"]}})).await;
    let has = || async { tor_has(&lab, SHY).await.ok_or("tor1 is not told of it") };
    let path = eventually(SOON, has).await.unwrap();
    assert!(path["community"]["string"].as_str().unwrap().contains("no-peer"), "{path}");
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"bilateral": true}})).await;
    let has_not = || async { tor_has(&lab, SHY).await.map_or(Ok(()), |path| Err(format!("{path}"))) };
    eventually(SOON, has_not).await.unwrap();
    // All else it is told.
    let own = blocks(&lab, "node1").await[0].clone();
    eventually(SOON, || async { tor_has(&lab, &own).await.ok_or("tor1 has no route") }).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_router_that_calls_from_a_range_is_a_neighbour_if_its_as_may() {
    let lab = ready("peering-range").await;
    let range = |asns: &str| json!({"cidr": "10.10.0.252/30", "asNumbers": [asns]});
    let called = json!({"spec": {"address": null, "asNumber": null, "range": range("65002")}});
    change::<BGPPeer>(&lab, "tor2", called).await;
    say_many(&lab, 3);
    lab.run("tor2", &["birdc", "configure"]).await.unwrap();
    let calls = |is_up: bool| {
        let lab = &lab;
        let ask = move || async move {
            let sessions = sessions(lab, "node1").await?;
            let up = sessions.values().any(|session| {
                let of_range = session.range.is_some() && session.address.to_string() == "10.10.0.252";
                of_range && session.state == SessionState::Established
            });
            if up == is_up { Ok(()) } else { Err(format!("{sessions:?}")) }
        };
        eventually(SOON, ask)
    };
    calls(true).await.unwrap();
    eventually(SOON, || told(&lab, "100.0.0.0/24")).await.unwrap();
    change::<BGPPeer>(&lab, "tor2", json!({"spec": {"range": range("65100-65199")}})).await;
    calls(false).await.unwrap();
    eventually(SOON, || not_told(&lab, "100.0.0.0/24")).await.unwrap();
    assert_eq!(sessions(&lab, "node1").await.unwrap()["tor1"].flaps, 0);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn an_as_the_peer_does_not_have_is_said_on_the_object_on_the_node_and_by_one_event() {
    let lab = ready("peering-as").await;
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"asNumber": 65009}})).await;
    let said = || async {
        let (holds, words) = condition(&lab, "tor1", "Degraded").await?;
        let wanted = holds && words.contains("65009");
        if wanted { Ok(words) } else { Err(words) }
    };
    let words = eventually(SOON, said).await.unwrap();
    assert!(words.contains("AS65001"), "{words}");
    let client = lab.client().await.unwrap();
    let reported = || async {
        let api: Api<NodeStatus> = Api::all(lab.client().await.unwrap());
        let status = api.get("node2").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let down = status.sessions.into_iter().find(|session| session.name == "tor1");
        let reason = down.and_then(|session| session.reason).unwrap_or_default();
        if reason.contains("65001") { Ok(()) } else { Err(reason) }
    };
    eventually(SOON, reported).await.unwrap();
    // A session that is down makes no node unready.
    lab.run("node2", &["busybox", "wget", "-qO-", "http://127.0.0.1:9098/readyz"]).await.unwrap();
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(client);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let of_tor1 = events.iter().filter(|event| {
        let regarding = event.regarding.clone().unwrap_or_default();
        regarding.kind.as_deref() == Some("BGPPeer") && regarding.name.as_deref() == Some("tor1")
    });
    assert_eq!(of_tor1.count(), 1, "{events:?}");
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"asNumber": 65001}})).await;
    eventually(SOON, || told(&lab, TOR1S)).await.unwrap();
    let over = || async {
        let (holds, words) = condition(&lab, "tor1", "Degraded").await?;
        if holds { Err(words) } else { Ok(()) }
    };
    eventually(SOON, over).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_that_is_drained_leaves_in_two_steps_and_comes_back() {
    let lab = ready("peering-drain").await;
    let own = blocks(&lab, "node2").await[0].clone();
    let is = |wanted: &'static str| {
        let (lab, own) = (&lab, &own);
        let ask = move || async move {
            let path = tor_has(lab, own).await;
            let shutdown = path.as_ref().map(|path| {
                path["community"]["string"].as_str().unwrap_or_default().contains("graceful-shutdown")
            });
            let is = match shutdown {
                None => "withdrawn",
                Some(true) => "leaving",
                Some(false) => "there",
            };
            if is == wanted { Ok(()) } else { Err(format!("{is}: {path:?}")) }
        };
        eventually(SOON, ask)
    };
    is("there").await.unwrap();
    lab.run("node1", &["manxctl", "node", "drain", "node2", "--wait", "6"]).await.unwrap();
    is("leaving").await.unwrap();
    is("withdrawn").await.unwrap();
    let node: Node = Api::all(lab.client().await.unwrap()).get("node2").await.unwrap();
    assert_eq!(node.spec.and_then(|spec| spec.unschedulable), Some(true));
    has_sessions(&lab, "node2", &["node1", "tor1", "tor2"]).await.unwrap();
    lab.run("node1", &["manxctl", "node", "undrain", "node2"]).await.unwrap();
    is("there").await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn without_the_api_for_a_minute_pods_come_and_go_and_peers_flap_and_all_goes_on() {
    let lab = ready("peering-api").await;
    let (one, two) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "two").await);
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
    lab.run("kube", &["ip", "link", "set", "eth1", "down"]).await.unwrap();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(60) {
        round += 1;
        lab.run("tor1", &["vtysh", "-c", "clear bgp ipv4 unicast *"]).await.unwrap();
        // Which policies select a pod is not known until the API shows it: until then its own node alone reaches it.
        let name = format!("guest{round}");
        let guest = pod(&lab, "node2", &name).await.addresses[0].to_string();
        eventually(SOON, || async { lab.run("node2", &["ping", "-n", "-c1", "-W1", &guest]).await })
            .await
            .unwrap();
        eventually(SOON, || told(&lab, TOR1S)).await.unwrap();
        eventually(SOON, || lab.pod_del("default", &name)).await.unwrap();
        pings(&lab, &one, &two).await.unwrap();
    }
    assert!(round > 1, "one round took a minute");
    let late = pod(&lab, "node2", "late").await;
    lab.run("kube", &["ip", "link", "set", "eth1", "up"]).await.unwrap();
    change::<BGPPeer>(&lab, "tor1", json!({"spec": {"maxPrefixes": {"ipv4": 5}}})).await;
    let heard = || async {
        let sessions = sessions(&lab, "node1").await?;
        let limit = sessions["tor1"].prefixes.first().map(|held| held.limit);
        if limit == Some(5) { Ok(()) } else { Err(format!("{limit:?}")) }
    };
    eventually(SOON, heard).await.unwrap();
    for (node, other) in [("node1", "node2"), ("node2", "node1")] {
        eventually(SOON, || async { has_sessions(&lab, node, &[other, "tor1", "tor2"]).await })
            .await
            .unwrap();
        assert_eq!(sessions(&lab, node).await.unwrap()[other].flaps, 0, "the API is no part of a session");
    }
    pings(&lab, &one, &two).await.unwrap();
    eventually(SOON, || pings(&lab, &one, &late)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_whose_address_changes_is_followed() {
    let lab = ready("peering-address").await;
    let (one, two) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "two").await);
    let own = blocks(&lab, "node2").await[0].clone();
    let by = |gateway: &'static str| {
        let (lab, own) = (&lab, &own);
        let ask = move || async move {
            let routes = routes(lab, "node1").await;
            if routes.get(own).is_some_and(|hops| hops == &[gateway]) {
                Ok(())
            } else {
                Err(format!("{routes:?}"))
            }
        };
        eventually(SOON, ask)
    };
    by("10.10.0.2").await.unwrap();
    lab.run("node2", &["ip", "address", "add", "10.10.0.22/24", "dev", "eth1"]).await.unwrap();
    let api: Api<Node> = Api::all(lab.client().await.unwrap());
    let addresses =
        json!([{"type": "InternalIP", "address": "10.10.0.22"}, {"type": "Hostname", "address": "node2"}]);
    let moved = json!({"status": {"addresses": addresses}});
    let parameters = kube::api::PatchParams::default();
    api.patch_status("node2", &parameters, &kube::api::Patch::Merge(moved)).await.unwrap();
    by("10.10.0.22").await.unwrap();
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
    // tor1 takes whoever calls from the rack.
    let heard = || async {
        let path = tor_has(&lab, &own).await.ok_or("tor1 has no route")?;
        let hop = path["nexthops"][0]["ip"].as_str().unwrap_or_default().to_owned();
        if hop == "10.10.0.22" { Ok(()) } else { Err(hop) }
    };
    eventually(SOON, heard).await.unwrap();

    // By what the BGPConfiguration says, the agents find their addresses themselves.
    lab.run("node2", &["ip", "address", "add", "10.10.0.32/24", "dev", "eth1"]).await.unwrap();
    let found = json!({"spec": {"nodeAddress": {"cidrs": ["10.10.0.1/32", "10.10.0.32/32"]}}});
    change::<BGPConfiguration>(&lab, "default", found).await;
    by("10.10.0.32").await.unwrap();
    let towards = json!({"spec": {"nodeAddress": {"cidrs": null, "canReach": ["10.10.0.251"]}}});
    change::<BGPConfiguration>(&lab, "default", towards).await;
    by("10.10.0.2").await.unwrap();
    // On one of several interfaces; a node without it keeps the address it has.
    lab.run("node2", &["ip", "link", "add", "bond0", "type", "bridge"]).await.unwrap();
    lab.run("node2", &["ip", "link", "set", "bond0", "up"]).await.unwrap();
    lab.run("node2", &["ip", "address", "add", "10.10.0.42/32", "dev", "bond0"]).await.unwrap();
    let on_it = json!({"spec": {"nodeAddress": {"canReach": null, "interface": "bond0"}}});
    change::<BGPConfiguration>(&lab, "default", on_it).await;
    by("10.10.0.42").await.unwrap();
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
    change::<BGPConfiguration>(&lab, "default", json!({"spec": {"nodeAddress": null}})).await;
    by("10.10.0.22").await.unwrap();
    // Of two addresses of one network the second goes with the first otherwise.
    lab.run("node2", &["sysctl", "-qw", "net.ipv4.conf.eth1.promote_secondaries=1"]).await.unwrap();
    lab.run("node2", &["ip", "address", "del", "10.10.0.2/24", "dev", "eth1"]).await.unwrap();
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
}
