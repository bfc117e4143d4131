//! The columns of the builtin kinds, as the real server prints them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Columns, JsonPath, Source, age};

type Compute = fn(&Value, Timestamp) -> Value;

/// The columns of a builtin kind; kinds of no own taste have their age.
pub fn builtin_columns(kind: &str) -> Columns {
    let mut columns = match kind {
        "Pod" => vec![
            computed("Ready", pod_ready),
            computed("Status", pod_status),
            computed("Restarts", pod_restarts),
            created(),
            wide(path("IP", ".status.podIP")),
            wide(path("Node", ".spec.nodeName")),
        ],
        "Node" => vec![
            computed("Status", node_status),
            computed("Roles", node_roles),
            created(),
            path("Version", ".status.nodeInfo.kubeletVersion"),
            wide(path("Internal-IP", r#".status.addresses[?(@.type=="InternalIP")].address"#)),
            wide(path("External-IP", r#".status.addresses[?(@.type=="ExternalIP")].address"#)),
            wide(path("OS-Image", ".status.nodeInfo.osImage")),
            wide(path("Kernel-Version", ".status.nodeInfo.kernelVersion")),
            wide(path("Container-Runtime", ".status.nodeInfo.containerRuntimeVersion")),
        ],
        "Namespace" => vec![path("Status", ".status.phase"), created()],
        "Service" => vec![
            path("Type", ".spec.type"),
            path("Cluster-IP", ".spec.clusterIP"),
            computed("External-IP", service_external),
            computed("Port(s)", service_ports),
            created(),
            wide(computed("Selector", |o, _| labels(&o["spec"]["selector"]))),
        ],
        "Secret" => vec![path("Type", ".type"), computed("Data", count_data), created()],
        "ConfigMap" => vec![computed("Data", count_data), created()],
        "ServiceAccount" => vec![computed("Secrets", |o, _| json!(length(&o["secrets"]))), created()],
        "Event" => vec![
            computed("Last Seen", event_seen),
            path("Type", ".type"),
            path("Reason", ".reason"),
            computed("Object", event_object),
            computed("Message", |o, _| first(o, &["message", "note"])),
        ],
        "CustomResourceDefinition" => vec![path("Created At", ".metadata.creationTimestamp")],
        "DaemonSet" => vec![
            integer("Desired", ".status.desiredNumberScheduled"),
            integer("Current", ".status.currentNumberScheduled"),
            integer("Ready", ".status.numberReady"),
            integer("Up-to-date", ".status.updatedNumberScheduled"),
            integer("Available", ".status.numberAvailable"),
            computed("Node Selector", |o, _| labels(&o["spec"]["template"]["spec"]["nodeSelector"])),
            created(),
        ],
        "Deployment" => vec![
            computed("Ready", |o, _| {
                let replicas = o["spec"]["replicas"].as_i64().unwrap_or(1);
                format!("{}/{replicas}", o["status"]["readyReplicas"].as_i64().unwrap_or(0)).into()
            }),
            integer("Up-to-date", ".status.updatedReplicas"),
            integer("Available", ".status.availableReplicas"),
            created(),
        ],
        "NetworkPolicy" => {
            vec![computed("Pod-Selector", |o, _| labels(&o["spec"]["podSelector"]["matchLabels"])), created()]
        }
        "Endpoints" => vec![computed("Endpoints", endpoints), created()],
        "EndpointSlice" => vec![
            path("AddressType", ".addressType"),
            computed("Ports", |o, _| listed(&o["ports"], |port| text(&port["port"]))),
            computed("Endpoints", |o, _| listed(&o["endpoints"], |e| text(&e["addresses"][0]))),
            created(),
        ],
        "Lease" => vec![path("Holder", ".spec.holderIdentity"), created()],
        "RoleBinding" | "ClusterRoleBinding" => vec![
            computed("Role", |o, _| {
                format!("{}/{}", text(&o["roleRef"]["kind"]), text(&o["roleRef"]["name"])).into()
            }),
            created(),
        ],
        "Role" | "ClusterRole" => vec![path("Created At", ".metadata.creationTimestamp")],
        _ => vec![created()],
    };
    for column in &mut columns {
        column.description = format!("{} of the {kind}", column.name);
    }
    Columns(columns)
}

fn column(name: &str, kind: &str, source: Source) -> Column {
    let (name, kind) = (name.to_owned(), kind.to_owned());
    Column { name, kind, format: String::new(), description: String::new(), priority: 0, source }
}

/// The text at a path; an empty cell where there is none.
fn path(name: &str, path: &str) -> Column {
    column(name, "string", at(path))
}

fn integer(name: &str, path: &str) -> Column {
    column(name, "integer", at(path))
}

fn at(path: &str) -> Source {
    match JsonPath::parse(path) {
        Ok(path) => Source::Path(path),
        Err(_) => Source::Computed(|_, _| Value::Null),
    }
}

fn computed(name: &str, compute: Compute) -> Column {
    column(name, "string", Source::Computed(compute))
}

fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

fn created() -> Column {
    computed("Age", |o, now| match o["metadata"]["creationTimestamp"].as_str() {
        Some(then) => age::since(then, now).into(),
        None => "<unknown>".into(),
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn first(object: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| &object[name]).find(|value| !value.is_null()).cloned().unwrap_or_default()
}

fn length(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn listed(list: &Value, name: fn(&Value) -> String) -> Value {
    match items(list).map(name).collect::<Vec<_>>().join(",").as_str() {
        "" => "<unset>".into(),
        joined => joined.into(),
    }
}

fn labels(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    match labels.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",").as_str() {
        "" => "<none>".into(),
        joined => joined.into(),
    }
}

fn pod_ready(pod: &Value, _: Timestamp) -> Value {
    let ready = items(&pod["status"]["containerStatuses"]).filter(|status| status["ready"] == true).count();
    format!("{ready}/{}", length(&pod["spec"]["containers"])).into()
}

fn pod_status(pod: &Value, _: Timestamp) -> Value {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".into();
    }
    let waiting = items(&pod["status"]["containerStatuses"])
        .map(|status| &status["state"]["waiting"]["reason"])
        .find(|reason| reason.is_string());
    waiting.cloned().unwrap_or_else(|| first(&pod["status"], &["reason", "phase"]))
}

fn pod_restarts(pod: &Value, _: Timestamp) -> Value {
    let counts = items(&pod["status"]["containerStatuses"]).filter_map(|s| s["restartCount"].as_i64());
    counts.sum::<i64>().to_string().into()
}

fn node_status(node: &Value, _: Timestamp) -> Value {
    let ready = items(&node["status"]["conditions"]).find(|condition| condition["type"] == "Ready");
    let ready = match ready.map(|condition| &condition["status"]) {
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{ready}{cordoned}").into()
}

fn node_roles(node: &Value, _: Timestamp) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
    match roles.collect::<Vec<_>>().join(",").as_str() {
        "" => "<none>".into(),
        roles => roles.into(),
    }
}

fn service_external(service: &Value, _: Timestamp) -> Value {
    let assigned = items(&service["status"]["loadBalancer"]["ingress"]).map(|ingress| &ingress["ip"]);
    let given = items(&service["spec"]["externalIPs"]);
    match assigned.chain(given).map(text).collect::<Vec<_>>().join(",").as_str() {
        "" if service["spec"]["type"] == "LoadBalancer" => "<pending>".into(),
        "" => "<none>".into(),
        addresses => addresses.into(),
    }
}

fn service_ports(service: &Value, _: Timestamp) -> Value {
    let port = |port: &Value| {
        let node = port["nodePort"].as_i64().map(|n| format!(":{n}")).unwrap_or_default();
        format!("{}{node}/{}", text(&port["port"]), text(&port["protocol"]))
    };
    match items(&service["spec"]["ports"]).map(port).collect::<Vec<_>>().join(",").as_str() {
        "" => "<none>".into(),
        ports => ports.into(),
    }
}

fn count_data(object: &Value, _: Timestamp) -> Value {
    let count = |name: &str| object[name].as_object().map_or(0, serde_json::Map::len);
    (count("data") + count("binaryData")).to_string().into()
}

fn endpoints(object: &Value, _: Timestamp) -> Value {
    let of_subset = |subset: &Value| {
        let address = |address: &Value| {
            let ports =
                items(&subset["ports"]).map(|p| format!("{}:{}", text(&address["ip"]), text(&p["port"])));
            ports.collect::<Vec<_>>()
        };
        items(&subset["addresses"]).flat_map(address).collect::<Vec<_>>()
    };
    match items(&object["subsets"]).flat_map(of_subset).collect::<Vec<_>>().join(",").as_str() {
        "" => "<none>".into(),
        all => all.into(),
    }
}

fn event_seen(event: &Value, now: Timestamp) -> Value {
    let seen = first(event, &["lastTimestamp", "deprecatedLastTimestamp", "eventTime", "firstTimestamp"]);
    seen.as_str().map_or("<unknown>".into(), |then| age::since(then, now).into())
}

fn event_object(event: &Value, _: Timestamp) -> Value {
    let object = first(event, &["involvedObject", "regarding"]);
    format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["name"])).into()
}
