//! What the real server fills in and checks for single kinds when they are written.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    base64::base64,
    error::Cause,
    resource::Resource,
    store::{Kind, Store},
};

/// Completes a new or changed object of a builtin kind. `old` is what is there already.
pub fn complete(resource: &Resource, object: &mut Value, old: Option<&Value>, store: &Store) {
    if resource.is_core("namespaces") {
        namespace(object);
    } else if resource.is_core("services") {
        service(object, old, store);
    } else if resource.is_core("secrets") {
        secret(object);
    } else if resource.is_core("pods") && object["status"]["phase"].is_null() {
        object["status"]["phase"] = json!("Pending");
    } else if resource.group == "networking.k8s.io" && resource.plural == "networkpolicies" {
        network_policy(object);
    }
}

/// What is wrong with an object's name, labels, and the fields its kind cannot do without.
pub fn check(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = &object["metadata"]["name"];
    if let Some(why) = name_fault(resource, name.as_str().unwrap_or_default()) {
        causes.push(Cause::invalid("metadata.name", name, why));
    }
    for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
            causes.push(Cause::invalid("metadata.labels", &json!(key), why));
        }
        let text = value.as_str().unwrap_or_default();
        if !text.is_empty() && !is_label_word(text) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, 63 at most";
            causes.push(Cause::invalid("metadata.labels", value, why));
        }
    }
    let needs: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &["spec.containers"],
        ("apps", _) => &["spec.selector", "spec.template"],
        ("networking.k8s.io", "networkpolicies") => &["spec.podSelector"],
        ("discovery.k8s.io", "endpointslices") => &["addressType"],
        (group, "rolebindings" | "clusterrolebindings") if group.starts_with("rbac.") => &["roleRef"],
        _ => &[],
    };
    for path in needs {
        let found = path.split('.').fold(object, |value, name| &value[name]);
        if found.is_null() || found.as_array().is_some_and(Vec::is_empty) {
            causes.push(Cause::required(*path, ""));
        }
    }
    causes
}

fn name_fault(resource: &Resource, name: &str) -> Option<&'static str> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last()).is_some_and(|(a, b)| word(*a) && word(*b));
        ends && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
    };
    if resource.group == "rbac.authorization.k8s.io" {
        let fine = !name.contains(['/', '%']) && name != "." && name != "..";
        return (!fine).then_some("may not be '.' or '..', or contain '/' or '%'");
    }
    if resource.is_core("namespaces") || resource.is_core("services") {
        return (!label(name) || name.len() > 63).then_some(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        );
    }
    (name.len() > 253 || !name.split('.').all(label)).then_some(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    is_label_word(name) && prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253)
}

fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes
        .first()
        .zip(bytes.last())
        .is_some_and(|(a, b)| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric());
    ends && bytes.len() <= 63 && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    if object["status"]["phase"].is_null() {
        object["status"]["phase"] = json!("Active");
    }
    if object["spec"]["finalizers"].is_null() && object["metadata"]["deletionTimestamp"].is_null() {
        object["spec"]["finalizers"] = json!(["kubernetes"]);
    }
}

/// What is not said of ingress or egress follows from the rules that are there.
fn network_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec["policyTypes"].is_null() {
        let types = if spec["egress"].is_null() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec["policyTypes"] = types;
    }
    for rules in ["ingress", "egress"] {
        for rule in spec[rules].as_array_mut().into_iter().flatten() {
            for port in rule["ports"].as_array_mut().into_iter().flatten() {
                if port["protocol"].is_null() {
                    port["protocol"] = json!("TCP");
                }
            }
        }
    }
    for rules in ["ingress", "egress"] {
        drop_nulls(&mut spec[rules]);
    }
    drop_nulls(spec);
}

fn secret(object: &mut Value) {
    if object["type"].is_null() {
        object["type"] = json!("Opaque");
    }
    let Some(texts) = object.as_object_mut().and_then(|fields| fields.remove("stringData")) else { return };
    for (name, text) in texts.as_object().into_iter().flatten() {
        object["data"][name] = json!(base64(text.as_str().unwrap_or_default().as_bytes()));
    }
}

/// Cluster addresses and node ports: the lowest free ones, of the ranges a kubeadm cluster has.
fn service(object: &mut Value, old: Option<&Value>, store: &Store) {
    let others: Vec<_> =
        store.list(&Kind::new("", "services"), None).map(|(_, service)| service.clone()).collect();
    let kind = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let spec = &mut object["spec"];
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
    if kind == "ExternalName" {
        return drop_nulls(spec);
    }
    if let Some(old) = old {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[name].is_null() {
                spec[name] = old["spec"][name].clone();
            }
        }
    }
    if spec["ipFamilies"].is_null() {
        let dual = ["PreferDualStack", "RequireDualStack"].iter().any(|p| spec["ipFamilyPolicy"] == **p);
        spec["ipFamilies"] = if dual { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    if spec["clusterIP"] == "None" {
        spec["clusterIPs"] = json!(["None"]);
    } else if spec["clusterIPs"].is_null() {
        cluster_addresses(spec, &others);
    }
    if ["NodePort", "LoadBalancer"].contains(&kind.as_str()) {
        node_ports(spec, &others);
    }
    drop_nulls(spec);
}

fn cluster_addresses(spec: &mut Value, others: &[std::sync::Arc<Value>]) {
    let lists = others.iter().filter_map(|other| other["spec"]["clusterIPs"].as_array());
    let taken: BTreeSet<_> = lists.flatten().filter_map(Value::as_str).collect();
    let mut addresses: Vec<_> =
        spec["clusterIP"].as_str().filter(|a| !a.is_empty()).map(str::to_owned).into_iter().collect();
    for family in spec["ipFamilies"].as_array().into_iter().flatten().skip(addresses.len()) {
        // .1 is the API server's own.
        let free = (2u32..65_536).map(|n| match family.as_str() {
            Some("IPv6") => format!("fd00:10:96::{n:x}"),
            _ => format!("10.96.{}.{}", n >> 8, n & 255),
        });
        addresses.extend(free.into_iter().find(|address| !taken.contains(address.as_str())));
    }
    spec["clusterIP"] = addresses.first().cloned().into();
    spec["clusterIPs"] = json!(addresses);
}

fn node_ports(spec: &mut Value, others: &[std::sync::Arc<Value>]) {
    let port_lists = others.iter().filter_map(|other| other["spec"]["ports"].as_array());
    let mut taken: BTreeSet<_> = port_lists.flatten().filter_map(|port| port["nodePort"].as_u64()).collect();
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].is_null()
            && let Some(free) = (30_000..32_768).find(|n| !taken.contains(n))
        {
            taken.insert(free);
            port["nodePort"] = json!(free);
        }
    }
}

/// Indexing for writing leaves nulls behind where nothing was.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|_, field| !field.is_null()),
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{super::builtin, *};

    #[test]
    fn services_get_free_addresses_of_their_families() {
        let registry = builtin::registry();
        let services = registry.get("", "v1", "services").expect("services");
        let mut store = Store::new(10);
        let mut made = Vec::new();
        for name in ["a", "b"] {
            let mut object = json!({"metadata": {"name": name}, "spec": {
                "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}});
            complete(services, &mut object, None, &store);
            let key = super::super::store::Key::new("default", name);
            store.create(&services.store_kind(), key, object.clone()).expect("new");
            made.push(object);
        }
        assert_eq!(made[0]["spec"]["clusterIPs"], json!(["10.96.0.2", "fd00:10:96::2"]));
        assert_eq!(made[1]["spec"]["clusterIPs"], json!(["10.96.0.3", "fd00:10:96::3"]));
        assert_eq!(made[1]["spec"]["ports"], json!([{"port": 80, "targetPort": 80, "nodePort": 30001}]));
    }

    #[test]
    fn network_policies_say_their_types() {
        let registry = builtin::registry();
        let policies = registry.get("networking.k8s.io", "v1", "networkpolicies").expect("there");
        let store = Store::new(10);
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}});
        complete(policies, &mut policy, None, &store);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"], json!([{"ports": [{"port": 53, "protocol": "TCP"}]}]));
        assert!(policy["spec"].get("ingress").is_none(), "{policy}");
    }

    #[test]
    fn names_and_labels_are_checked() {
        let registry = builtin::registry();
        let nodes = registry.get("", "v1", "nodes").expect("nodes");
        let fields =
            |object: Value| check(nodes, &object).iter().map(|c| c.field.clone()).collect::<Vec<_>>();
        assert_eq!(
            fields(json!({"metadata": {"name": "node1.example", "labels": {"a.b/c": "", "d": "E_1"}}})),
            [""; 0]
        );
        assert_eq!(fields(json!({"metadata": {"name": "Node"}})), ["metadata.name"]);
        assert_eq!(fields(json!({"metadata": {"name": "n", "labels": {"a b": "x", "c": "-"}}})).len(), 2);
    }
}
