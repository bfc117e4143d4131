//! What `kubectl apply` refuses: every rule of every custom resource, with an object it admits and one it refuses.

use std::collections::BTreeSet;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use manx_bgp::api::AsnRange;
use manx_bgp::api::community::{CommunityPattern, CommunityValue};
use manx_bgp::wire::Community;
use manx_testbed::apiserver::{ApiServer, Running};
use manx_testbed::eventually;
use serde_json::{Value, json};

/// A kind, a spec that is admitted, changes of it that are refused, and the words.
struct Case {
    kind: &'static str,
    good: Value,
    bad: Vec<(Value, &'static str)>,
}

fn case(kind: &'static str, good: Value, bad: Vec<(Value, &'static str)>) -> Case {
    Case { kind, good, bad }
}

const NO_HOST_BITS: &str = "without host bits";
const A_RANGE: &str = "cidr must be a range";

#[rustfmt::skip]
fn pools() -> Vec<Case> {
    vec![
        case("IPPool", json!({"cidr": "10.244.0.0/16", "blockSize": 26}), vec![
            (json!({"cidr": "10.244.0.1/16"}), "cidr must be a range without host bits"),
            (json!({"cidr": "pods"}), "cidr must be a range without host bits"),
            (json!({"cidr": "10.244.0.0"}), "cidr must be a range without host bits"),
            (json!({"cidr": "2001:0db8:0000:0000:0000:0000:0000:0000:0000:0000/32"}), "43"),
            (json!({"blockSize": 16}), "blockSize"),
            (json!({"blockSize": 33}), "blockSize is 20 to 32 in an IPv4 pool, 116 to 128 in an IPv6 pool"),
            (json!({"cidr": "fd00::/64"}), "blockSize is 20 to 32 in an IPv4 pool, 116 to 128 in an IPv6 pool"),
            (json!({"cidr": "10.244.0.0/28"}), "a block does not fit into the pool"),
            (json!({"allowedUses": ["Pods", "Services"]}), "make two pools"),
            (json!({"allowedUses": ["Tunnels"]}), "Unsupported value"),
            (json!({"natExclusions": ["10.0.0.1/8"]}), "natExclusions are ranges without host bits"),
            (json!({"cooldownSeconds": 3601}), "3600"),
        ]),
        case("IPPool", json!({"cidr": "fd00:10:244::/48"}), vec![(json!({"blockSize": 112}), "116 to 128 in an IPv6 pool")]),
        case("IPPool", json!({"cidr": "198.51.100.0/30", "allowedUses": ["Services"]}), vec![
            (json!({"allowedUses": ["Pods"]}), "a block does not fit into the pool"),
        ]),
        case("IPReservation", json!({"addresses": ["10.244.0.1", "10.244.0.0/28", "fd00::1"]}), vec![
            (json!({"addresses": ["gateway"]}), "addresses must be addresses or ranges"),
            (json!({"addresses": []}), "1"),
        ]),
    ]
}

#[rustfmt::skip]
fn configurations() -> Vec<Case> {
    let advertised = |communities: &[&str]| json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": communities}]});
    vec![
        case("BGPConfiguration", json!({"asNumber": 64512, "holdTimeSeconds": 9, "keepaliveSeconds": 3}), vec![
            (json!({"asNumber": 0}), "1"),
            (json!({"holdTimeSeconds": 2, "keepaliveSeconds": null}), "a hold time is 0 (never) or 3 to 65535 seconds"),
            (json!({"keepaliveSeconds": 4}), "keepaliveSeconds is 1 to a third of holdTimeSeconds"),
            (json!({"keepaliveSeconds": 0}), "keepaliveSeconds is 1 to a third of holdTimeSeconds"),
            (json!({"sendHoldTimeSeconds": 9}), "sendHoldTimeSeconds is more than holdTimeSeconds, which is 90 unless set"),
            (json!({"holdTimeSeconds": null, "keepaliveSeconds": null, "sendHoldTimeSeconds": 90}), "which is 90 unless set"),
            (json!({"nodeAddress": {}}), "nodeAddress has one of interface, cidrs and canReach"),
            (json!({"nodeAddress": {"interface": "a", "cidrs": ["10.0.0.0/8"]}}), "nodeAddress has one of"),
            (json!({"nodeAddress": {"cidrs": ["10.0.0.1"]}}), "cidrs are ranges"),
            (json!({"nodeAddress": {"canReach": ["10.0.0.0/8"]}}), "canReach are addresses"),
            (json!({"nodeAddress": {"interface": "an-interface-name"}}), "15"),
            (json!({"prefixAdvertisements": [{"cidr": "10.0.0.0", "communities": []}]}), A_RANGE),
            (advertised(&["64512:65536"]), "match"),
            (advertised(&["64512:1:1"]), "match"),
            (json!({"aggregates": [{"cidr": "x"}]}), A_RANGE),
            (json!({"aggregates": [{"cidr": "10.0.0.0/8", "communities": ["exported"]}]}), "match"),
            (json!({"serviceAddresses": {"ranges": [{"cidr": "10.96.0.1/12"}]}}), NO_HOST_BITS),
            (json!({"mesh": "Partial"}), "Unsupported value"),
        ]),
        case("BGPConfiguration", json!({"holdTimeSeconds": 0, "keepaliveSeconds": 0}), vec![
            (json!({"keepaliveSeconds": 1}), "0 goes with 0"),
        ]),
        case("BGPConfiguration", json!({"nodeAddress": {"canReach": ["10.0.0.1", "fd00::1"]}, "keepaliveSeconds": 30}), vec![
            (json!({"keepaliveSeconds": 31}), "keepaliveSeconds is 1 to a third"),
        ]),
        case("BGPConfiguration", advertised(&["64512:100", "no-export"]), vec![]),
    ]
}

#[rustfmt::skip]
fn peers() -> Vec<Case> {
    let one = "a BGPPeer has one of address (or interface), range and peerSelector";
    let number = "asNumber goes with address or interface";
    vec![
        case("BGPPeer", json!({"address": "10.10.0.251", "asNumber": 65001}), vec![
            (json!({"address": "tor1"}), "address must be an IP address"),
            (json!({"address": "10.10.0.251/24"}), "address must be an IP address"),
            (json!({"address": null}), one),
            (json!({"asNumber": null}), number),
            (json!({"asNumber": 0}), "1"),
            (json!({"asNumber": 4_294_967_296_i64}), "4294967295"),
            (json!({"peerSelector": {}}), one),
            (json!({"range": {"cidr": "10.0.0.0/24", "asNumbers": ["1"]}}), one),
            (json!({"clusterId": "192.0.2.1"}), "clusterId goes with peerSelector"),
            (json!({"multihop": 2, "ttlSecurity": 1}), "of multihop and ttlSecurity one can be set"),
            (json!({"ttlSecurity": 255}), "254"),
            (json!({"password": {"name": "a"}, "tcpAo": [{"sendId": 1, "recvId": 1, "secret": {"name": "a"}}]}),
                "of password and tcpAo one can be set"),
            (json!({"address": "fe80::1"}), "a link-local address needs interface"),
            (json!({"address": "fe80::1", "interface": "eth1", "multihop": 2}), "a link-local neighbour is one hop away"),
            (json!({"localAsNumber": 65001}), "localAsNumber is the neighbour's own AS"),
            (json!({"holdTimeSeconds": 1}), "a hold time is 0 (never) or 3 to 65535 seconds"),
            (json!({"holdTimeSeconds": 9, "keepaliveSeconds": 4}), "keepaliveSeconds is 1 to a third"),
            (json!({"holdTimeSeconds": 9, "sendHoldTimeSeconds": 9}), "sendHoldTimeSeconds is more than holdTimeSeconds"),
            (json!({"maxPrefixes": {"action": "Warn", "restartAfterSeconds": 60}}), "restartAfterSeconds goes with the action Cease"),
            (json!({"bfd": {"minRxMilliseconds": 1}}), "10"),
        ]),
        case("BGPPeer", json!({"address": "fd00::251", "asNumber": 65001, "multihop": 3, "localAsNumber": 65002,
            "holdTimeSeconds": 9, "keepaliveSeconds": 3, "maxPrefixes": {"restartAfterSeconds": 60}, "password": {"name": "a"}}), vec![]),
        case("BGPPeer", json!({"address": "fe80::1", "interface": "eth1", "asNumber": 65001, "multihop": 1}), vec![]),
        case("BGPPeer", json!({"interface": "eth1", "asNumber": 65001}), vec![
            (json!({"multihop": 2}), "a link-local neighbour is one hop away"),
        ]),
        case("BGPPeer", json!({"range": {"cidr": "10.0.0.0/24", "asNumbers": ["65001", "65100-65199"]}, "interface": "eth1"}), vec![
            (json!({"asNumber": 65001}), number),
            (json!({"range": {"cidr": "10.0.0.0"}}), A_RANGE),
            (json!({"range": {"asNumbers": []}}), "1"),
            (json!({"range": {"asNumbers": ["all"]}}), "match"),
            (json!({"port": 1790}), "port is not for a range"),
        ]),
        case("BGPPeer", json!({"peerSelector": {}, "clusterId": "192.0.2.1"}), vec![
            (json!({"asNumber": 64512}), number),
            (json!({"bilateral": true}), "bilateral is for neighbours of other ASes, not for nodes"),
            (json!({"clusterId": "rack1"}), "clusterId is written as an IPv4 address"),
            (json!({"clusterId": "fd00::1"}), "clusterId is written as an IPv4 address"),
        ]),
    ]
}

#[rustfmt::skip]
fn filters() -> Vec<Case> {
    let import = |rule: Value| json!({"import": [rule]});
    let matching = |matching: Value| json!({"import": [{"match": matching}]});
    let prefix = |prefix: Value| json!({"export": [{"match": {"prefixes": [prefix]}}]});
    let setting = |set: Value| json!({"export": [{"set": set}]});
    vec![
        case("BGPFilter", json!({}), vec![
            (import(json!({"action": "Reject", "set": {"med": 1}})), "a rejected route has nothing set"),
            (import(json!({"action": "Drop"})), "Unsupported value"),
            (prefix(json!({"cidr": "10.0.0.0"})), A_RANGE),
            (prefix(json!({"cidr": "10.0.0.0/8", "minLength": 24, "maxLength": 16})), "minLength is at most maxLength"),
            (prefix(json!({"cidr": "10.0.0.0/8", "minLength": 4})), "minLength and maxLength are not shorter than cidr"),
            (prefix(json!({"cidr": "10.0.0.0/8", "maxLength": 33})), "minLength and maxLength of an IPv4 prefix are at most 32"),
            (prefix(json!({"cidr": "fd00::/16", "maxLength": 15})), "not shorter than cidr"),
            (matching(json!({"nextHop": ["10.0.0.1"]})), "nextHop are ranges"),
            (matching(json!({"communities": ["64512:*:1:1"]})), "match"),
            (setting(json!({"nextHop": "10.0.0.0/8"})), "nextHop is an address"),
            (setting(json!({"addCommunities": ["64512:*"]})), "match"),
            (setting(json!({"prepend": 33})), "32"),
        ]),
        case("BGPFilter", import(json!({"action": "Reject", "match": {"communities": ["64512:*", "*:*:1"], "nextHop": ["10.0.0.0/8"]}})), vec![]),
        case("BGPFilter", prefix(json!({"cidr": "10.0.0.0/8", "minLength": 8, "maxLength": 32})), vec![]),
        case("BGPFilter", prefix(json!({"cidr": "fd00::/16", "minLength": 64})), vec![]),
        case("BGPFilter", setting(json!({"communities": ["no-export"], "removeCommunities": ["*:*"], "nextHop": "fd00::1"})), vec![]),
    ]
}

/// Kind, what is there, what it cannot become, and the words.
#[rustfmt::skip]
fn changes() -> Vec<(&'static str, Value, Value, &'static str)> {
    let pool = || json!({"cidr": "10.244.0.0/16", "blockSize": 26});
    let parent = json!({"parent": {"cidr": "10.244.0.0/26", "uid": "a"}});
    vec![
        ("IPPool", pool(), json!({"cidr": "10.0.0.0/8"}), "cidr cannot be changed: pods have addresses of it"),
        ("IPPool", pool(), json!({"blockSize": 27}), "blockSize cannot be changed"),
        ("IPPool", pool(), json!({"blockSize": null}), "blockSize cannot be changed"),
        ("IPAMBlock", json!({"cidr": "10.244.0.0/26", "pool": "p", "node": "a"}), json!({"node": "b"}), "a block cannot be changed: delete it"),
        ("IPAMBlock", json!({"cidr": "10.244.0.0/28", "pool": "p", "node": "a"}), parent, "a block cannot be changed: delete it"),
        ("IPAMRequest", json!({"node": "a", "block": "10.244.0.0/26"}), json!({"node": "b"}), "a request cannot be changed: delete it"),
    ]
}

fn api(running: &Running, kind: &str) -> Api<DynamicObject> {
    let crds = manx_felix::crd::all();
    let names = &crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap().spec.names;
    let gvk = GroupVersionKind::gvk("manx.io", "v1alpha1", kind);
    Api::all_with(running.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, &names.plural))
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    let object =
        json!({ "apiVersion": "manx.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

/// A server that knows the custom resources; a real one where one is at hand.
async fn server() -> Running {
    let running = ApiServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(running.client.clone());
    for crd in manx_felix::crd::all() {
        let name = crd.metadata.name.clone().unwrap();
        let made = crds.create(&PostParams::default(), &crd).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let served = || async {
            let crd = crds.get(&name).await.map_err(|error| error.to_string())?;
            let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
            let yes = conditions.iter().any(|one| one.type_ == "Established" && one.status == "True");
            if yes { Ok(()) } else { Err("not established".to_owned()) }
        };
        eventually(std::time::Duration::from_secs(30), served).await.unwrap();
    }
    running
}

fn merged(good: &Value, change: &Value) -> Value {
    let mut spec = good.clone();
    json_patch::merge(&mut spec, change);
    spec
}

/// The messages of all rules, but those that other tests of this page see.
fn messages() -> BTreeSet<String> {
    fn collect(schema: &Value, found: &mut BTreeSet<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.insert(rule["message"].as_str().expect("a rule says what is wrong").to_owned());
        }
        let inner = schema["properties"].as_object().into_iter().flat_map(|all| all.values());
        inner.chain([&schema["items"], &schema["additionalProperties"]]).for_each(|one| {
            if one.is_object() {
                collect(one, found);
            }
        });
    }
    let mut found = BTreeSet::new();
    for crd in manx_felix::crd::all() {
        for version in &crd.spec.versions {
            collect(&serde_json::to_value(&version.schema).unwrap()["openAPIV3Schema"], &mut found);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_admits_what_is_right_and_refuses_what_is_wrong() {
    let running = server().await;
    let try_out = PostParams { dry_run: true, ..PostParams::default() };
    let mut unseen = messages();
    for Case { kind, good, bad } in [pools(), configurations(), peers(), filters()].into_iter().flatten() {
        let api = api(&running, kind);
        let name = if kind == "BGPConfiguration" { "default" } else { "tried" };
        let admitted = api.create(&try_out, &object(kind, name, &good)).await;
        admitted.unwrap_or_else(|error| panic!("{kind} {good}: {error}"));
        for (change, words) in bad {
            let spec = merged(&good, &change);
            let said = match api.create(&try_out, &object(kind, name, &spec)).await {
                Err(kube::Error::Api(status)) if status.code == 422 => status.message,
                other => panic!("{kind} {spec}: {other:?}"),
            };
            assert!(said.contains(words), "{kind} {spec}: {said}");
            unseen.retain(|message| !said.contains(message));
        }
    }
    for (kind, good, change, words) in changes() {
        let api = api(&running, kind);
        api.create(&PostParams::default(), &object(kind, "there", &good)).await.unwrap();
        let patch = json!({ "spec": change });
        let said = match api.patch("there", &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 422 => status.message,
            other => panic!("{kind} {patch}: {other:?}"),
        };
        assert!(said.contains(words), "{kind} {patch}: {said}");
        unseen.retain(|message| !said.contains(message));
        // What leaves the spec alone is admitted.
        let label = json!({ "metadata": { "labels": { "a": "b" } } });
        api.patch("there", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
        api.delete("there", &kube::api::DeleteParams::default()).await.unwrap();
    }
    assert_eq!(unseen, BTreeSet::new(), "rules that no object of this test breaks");
}

/// Numbers around every bound.
fn numbers() -> Vec<String> {
    let bounds = [0_u64, 9, 9_999, 65_535, 65_536, 999_999_999, 1 << 32];
    let near = bounds.iter().flat_map(|bound| bound.saturating_sub(2)..bound + 3);
    near.map(|number| number.to_string()).chain(["", "*", "x", "-1"].map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_community_is_taken_if_the_agent_can_read_it() {
    let running = Running::small(ApiServer::new(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(running.client.clone());
    for crd in manx_felix::crd::all() {
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }
    let try_out = PostParams { dry_run: true, ..PostParams::default() };
    let admitted = async |kind: &str, spec: Value| {
        api(&running, kind).create(&try_out, &object(kind, "tried", &spec)).await.is_ok()
    };
    let mut texts: Vec<String> =
        ["no-export", "no-import", "NO-EXPORT", "1", "1:2:3:4", "1:2 ", ""].map(str::to_owned).into();
    for one in numbers() {
        texts.extend([format!("{one}:1"), format!("1:{one}"), format!("1:1:{one}")]);
    }
    for text in texts {
        let standard = json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": [text]}]});
        assert_eq!(admitted("BGPConfiguration", standard).await, text.parse::<Community>().is_ok(), "{text}");
        let value = json!({"import": [{"set": {"addCommunities": [text]}}]});
        assert_eq!(admitted("BGPFilter", value).await, text.parse::<CommunityValue>().is_ok(), "{text}");
        let pattern = json!({"import": [{"match": {"communities": [text]}}]});
        assert_eq!(admitted("BGPFilter", pattern).await, text.parse::<CommunityPattern>().is_ok(), "{text}");
    }
    for text in numbers().iter().map(|number| format!("1-{number}")).chain(numbers()) {
        let range = json!({"range": {"cidr": "10.0.0.0/8", "asNumbers": [text]}});
        // Zero and ranges that end before they begin are told by the agent.
        if text.parse::<AsnRange>().is_ok() {
            assert!(admitted("BGPPeer", range).await, "{text}");
        }
    }
}

/// The API server refuses a definition with a rule that could cost too much: what a rule looks at has bounds.
#[test]
fn what_a_rule_looks_at_is_bounded() {
    fn unbounded(path: &str, schema: &Value, judged: bool, found: &mut Vec<String>) {
        let judged = judged || schema["x-kubernetes-validations"].is_array();
        let bound = match schema["type"].as_str() {
            Some("string") if schema["enum"].is_array() => None,
            Some("string") => Some("maxLength"),
            Some("array") => Some("maxItems"),
            Some("object") if schema["additionalProperties"].is_object() => Some("maxProperties"),
            _ => None,
        };
        if let Some(bound) = bound.filter(|bound| judged && schema[*bound].is_null()) {
            found.push(format!("{path} has no {bound}"));
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            // Rules ask of a selector only whether it is there.
            if !name.ends_with("elector") {
                unbounded(&format!("{path}.{name}"), inner, judged, found);
            }
        }
        if schema["items"].is_object() {
            unbounded(&format!("{path}[]"), &schema["items"], judged, found);
        }
    }
    let mut found = Vec::new();
    for crd in manx_felix::crd::all() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        unbounded(&crd.spec.names.kind, &schema["openAPIV3Schema"], false, &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}
