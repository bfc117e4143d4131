use std::collections::BTreeSet;

use manx_felix::crd;

use super::*;

fn onprem() -> Vec<Step> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/manxctl/migrate/fixtures/onprem.yaml");
    calico::steps(&from_files(&[file]).unwrap())
}

#[test]
fn a_cluster_with_racks_is_moved_as_far_as_it_goes() {
    insta::assert_snapshot!(render(&onprem()));
}

#[test]
fn what_is_printed_is_what_the_custom_resources_have() {
    for object in onprem().iter().flat_map(|step| &step.objects) {
        let crds = crd::all();
        let of_kind = crds.iter().find(|crd| object["kind"] == crd.spec.names.kind).unwrap();
        let schema = serde_json::to_value(&of_kind.spec.versions[0].schema).unwrap();
        let fields = schema["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object().unwrap();
        let known: BTreeSet<&String> = fields.keys().collect();
        let said: BTreeSet<&String> = object["spec"].as_object().unwrap().keys().collect();
        assert!(said.is_subset(&known), "{object}: {known:?}");
        match object["kind"].as_str().unwrap() {
            "IPPool" => drop(serde_json::from_value::<manx_ipam::crd::IPPool>(object.clone()).unwrap()),
            "BGPPeer" => drop(serde_json::from_value::<crd::BGPPeer>(object.clone()).unwrap()),
            "BGPFilter" => drop(serde_json::from_value::<crd::BGPFilter>(object.clone()).unwrap()),
            "IPReservation" => {
                drop(serde_json::from_value::<manx_ipam::crd::IPReservation>(object.clone()).unwrap())
            }
            _ => drop(serde_json::from_value::<crd::BGPConfiguration>(object.clone()).unwrap()),
        }
    }
}

#[test]
fn what_is_printed_can_be_applied_as_it_is() {
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(&render(&onprem())).unwrap();
    let objects = documents.into_iter().flatten().filter(Value::is_object).count();
    assert_eq!(objects, onprem().iter().map(|step| step.objects.len()).sum::<usize>());
}

#[test]
fn a_cluster_that_goes_by_calicos_defaults_keeps_its_mesh() {
    let pool = json!({ "kind": "IPPool", "metadata": { "name": "a" }, "spec": { "cidr": "10.0.0.0/16" } });
    let steps = calico::steps(&[serde_json::from_value(pool).unwrap()]);
    let last = &steps.last().unwrap().objects[0];
    assert_eq!(last["spec"], json!({ "asNumber": 64512, "mesh": "Full" }));
    assert!(calico::steps(&[]).is_empty());
}

#[test]
fn other_documents_of_a_file_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 192.0.2.1, asNumber: '1.10'}\n",
    )
    .unwrap();
    let sources = from_files(&[file]).unwrap();
    assert_eq!(sources.len(), 1);
    let steps = calico::steps(&sources);
    assert_eq!(steps[0].objects[0]["spec"]["asNumber"], json!((1 << 16) + 10));
}

#[test]
fn a_filter_is_converted_whole_or_not_at_all() {
    let filter = |rule: Value| {
        let source =
            json!({ "kind": "BGPFilter", "metadata": { "name": "f" }, "spec": { "exportV4": [rule] } });
        calico::steps(&[serde_json::from_value(source).unwrap()]).remove(0)
    };
    let rule = json!({
        "action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": { "max": 24 },
        "source": "RemotePeers", "communities": { "values": ["64512:1"] },
        "operations": [{ "addCommunity": { "value": "64512:1:2" } }, { "prependASPath": { "prefix": [64512, "64512"] } },
            { "setPriority": { "value": 1 } }],
    });
    let step = filter(rule);
    let converted = json!({
        "match": { "prefixes": [{ "cidr": "10.0.0.0/8", "minLength": 8, "maxLength": 24 }], "source": "Learned",
            "communities": ["64512:1"] },
        "action": "Accept", "set": { "addCommunities": ["64512:1:2"], "prepend": 2 },
    });
    assert_eq!(step.objects[0]["spec"], json!({ "export": [converted] }));
    assert_eq!(step.notes.len(), 1, "{:?}", step.notes);
    for (key, value) in [
        ("matchOperator", json!("NotIn")),
        ("interface", json!("eth0")),
        ("peerType", json!("eBGP")),
        ("asPathPrefix", json!([64512])),
        ("operations", json!([{ "prependASPath": { "prefix": [65001] } }])),
    ] {
        let mut rule = json!({ "action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In" });
        rule[key] = value;
        let step = filter(rule);
        assert_eq!(step.objects, Vec::<Value>::new(), "{key}");
        assert!(step.notes[0].contains(&format!("spec.exportV4[0].{key}")), "{:?}", step.notes);
    }
}
