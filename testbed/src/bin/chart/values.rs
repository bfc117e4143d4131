//! The values of the chart: their places in the base, what is said of them, their schemas.

use anyhow::Context;
use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::document::{At, Document, Place};

/// A value.
pub struct ChartValue {
    /// Its name, and that of the map it is in, if it is in one.
    pub path: &'static str,
    /// What is said of it.
    pub about: &'static str,
    /// Its JSON schema.
    schema: fn() -> Value,
    /// Where the base says it; nowhere for what describes the cluster.
    pub places: &'static [Place],
}

const fn speaker(at: At) -> Place {
    Place { kind: "DaemonSet", name: "manx-bgpd", at }
}

const fn agent(at: At) -> Place {
    Place { kind: "DaemonSet", name: "manx-felix", at }
}

const IMAGE: At = At::Pointer("/spec/template/spec/containers/0/image");
const RESOURCES: At = At::Pointer("/spec/template/spec/containers/0/resources");
const UPDATE: At = At::Pointer("/spec/updateStrategy");
const TOLERATIONS: At = At::Pointer("/spec/template/spec/tolerations");
const NODES: At = At::Pointer("/spec/template/spec/nodeSelector");
const PRIORITY: At = At::Pointer("/spec/template/spec/priorityClassName");
const LOG: At = At::Argument("--log");

/// All of them, in the order they are written.
pub const VALUES: &[ChartValue] = &[
    ChartValue {
        path: "pools",
        about: "IPPools by name: ranges of pod addresses, one of each family at most times. The fields are those of \
                `kubectl explain ippool.spec`.",
        schema: || json!({ "type": "object", "additionalProperties": spec_with(&["cidr"]) }),
        places: &[],
    },
    ChartValue {
        path: "bgp",
        about: "How nodes speak BGP: the spec of the BGPConfiguration named default; `kubectl explain \
                bgpconfiguration.spec`.",
        schema: || spec_with(&[]),
        places: &[],
    },
    ChartValue {
        path: "peers",
        about: "BGPPeers by name: routers that nodes speak with; `kubectl explain bgppeer.spec`.",
        schema: || json!({ "type": "object", "additionalProperties": spec_with(&["asNumber"]) }),
        places: &[],
    },
    ChartValue {
        path: "apiServer.host",
        about: "Where the Kubernetes API is reached without kube-proxy: an address or a name; empty: by its Service.",
        schema: || json!({ "type": "string" }),
        places: &[],
    },
    ChartValue {
        path: "apiServer.port",
        about: "The port there.",
        schema: || json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
        places: &[],
    },
    ChartValue {
        path: "cni.binDir",
        about: "The container runtime's folder of CNI plugins; k3s has /var/lib/rancher/k3s/data/cni.",
        schema: path,
        places: &[agent(At::HostPath("cni-bin"))],
    },
    ChartValue {
        path: "cni.confDir",
        about: "The container runtime's folder of network configurations; k3s has \
                /var/lib/rancher/k3s/agent/etc/cni/net.d.",
        schema: path,
        places: &[agent(At::HostPath("cni-conf"))],
    },
    ChartValue {
        path: "agent.image",
        about: "The agent's image. It may be newer or older than the speaker's.",
        schema: text,
        places: &[agent(IMAGE)],
    },
    ChartValue {
        path: "agent.log",
        about: "What the agent logs: error, warn, info, debug, trace, or by module.",
        schema: text,
        places: &[agent(LOG)],
    },
    ChartValue {
        path: "agent.healthAddr",
        about: "Where the agent serves /healthz, /readyz and /metrics. The probes ask 127.0.0.1:9098, so the port stays; \
                \"[::]:9098\" lets Prometheus in, \"0.0.0.0:9098\" where nodes have no IPv6.",
        schema: || json!({ "type": "string", "pattern": ":9098$" }),
        places: &[agent(At::Argument("--health-addr"))],
    },
    ChartValue {
        path: "agent.routeTable",
        about: "The routing table that routes of pods and blocks are put in; 254 is the main one. A rule that looks packets up \
                in another is for you to make (ip rule).",
        schema: number,
        places: &[agent(At::Number("--route-table"))],
    },
    ChartValue {
        path: "agent.routeMetric",
        about: "The metric of these routes: one that no other program of a node uses. The route with the least is taken.",
        schema: number,
        places: &[agent(At::Number("--route-metric"))],
    },
    ChartValue {
        path: "agent.resources",
        about: "What the agent asks of its node.",
        schema: schema_of::<ResourceRequirements>,
        places: &[agent(RESOURCES)],
    },
    ChartValue {
        path: "agent.updateStrategy",
        about: "How an upgrade of the agent goes through the nodes. It interrupts nothing but the start of pods.",
        schema: schema_of::<DaemonSetUpdateStrategy>,
        places: &[agent(UPDATE)],
    },
    ChartValue {
        path: "speaker.image",
        about: "The speaker's image. Leave it at a release while only the agent is upgraded: then no session ends.",
        schema: text,
        places: &[speaker(IMAGE)],
    },
    ChartValue {
        path: "speaker.log",
        about: "What the speaker logs.",
        schema: text,
        places: &[speaker(LOG)],
    },
    ChartValue {
        path: "speaker.metricsAddr",
        about: "Where the speaker serves /metrics and /healthz; as agent.healthAddr.",
        schema: || json!({ "type": "string", "pattern": ":9099$" }),
        places: &[speaker(At::Argument("--metrics-addr"))],
    },
    ChartValue {
        path: "speaker.resources",
        about: "What the speaker asks of its node; a full table takes more memory than the default.",
        schema: schema_of::<ResourceRequirements>,
        places: &[speaker(RESOURCES)],
    },
    ChartValue {
        path: "speaker.updateStrategy",
        about: "How an upgrade of the speaker goes through the nodes: each one's sessions end once.",
        schema: schema_of::<DaemonSetUpdateStrategy>,
        places: &[speaker(UPDATE)],
    },
    ChartValue {
        path: "tolerations",
        about: "Taints that both tolerate: all of them, since nodes are not ready without a network.",
        schema: || json!({ "type": "array", "items": schema_of::<Toleration>() }),
        places: &[agent(TOLERATIONS), speaker(TOLERATIONS)],
    },
    ChartValue {
        path: "nodeSelector",
        about: "Nodes that both run on.",
        schema: || json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        places: &[agent(NODES), speaker(NODES)],
    },
    ChartValue {
        path: "priorityClassName",
        about: "The priority class of both.",
        schema: text,
        places: &[agent(PRIORITY), speaker(PRIORITY)],
    },
];

/// What the full mesh says, for a value of no place.
///
/// # Errors
/// When it does not say it.
pub fn of_the_mesh(path: &str, mesh: &[Document]) -> anyhow::Result<Value> {
    let specs = |kind: &str| {
        let of_kind = mesh.iter().map(Document::value).filter(|object| object["kind"] == kind);
        let named = of_kind.map(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            (name.to_owned(), object["spec"].clone())
        });
        named.collect::<Map<String, Value>>()
    };
    Ok(match path {
        "pools" => specs("IPPool").into(),
        "peers" => specs("BGPPeer").into(),
        "bgp" => {
            specs("BGPConfiguration").remove("default").context("the full mesh has no BGPConfiguration")?
        }
        "apiServer.host" => "".into(),
        "apiServer.port" => 6443.into(),
        _ => anyhow::bail!("{path} is nowhere in deploy/base"),
    })
}

/// `values.yaml`, with the defaults in the order of [`VALUES`].
///
/// # Errors
/// The writer's.
pub fn yaml(defaults: &[Value]) -> anyhow::Result<String> {
    let mut text =
        "# Generated from deploy/base by `chart deploy`: do not edit. Every value, with its default.\n"
            .to_owned();
    let mut group = "";
    for (value, default) in VALUES.iter().zip(defaults) {
        let (in_group, name) = value.path.rsplit_once('.').unwrap_or(("", value.path));
        let indent = if in_group.is_empty() { "" } else { "  " };
        if group != in_group || in_group.is_empty() {
            text.push('\n');
        }
        if group != in_group && !in_group.is_empty() {
            text += &format!("{in_group}:\n");
        }
        group = in_group;
        for line in wrapped(value.about) {
            text += &format!("{indent}# {line}\n");
        }
        let mut named = Map::new();
        named.insert(name.to_owned(), default.clone());
        for line in serde_saphyr::to_string(&Value::Object(named))?.lines() {
            text += &format!("{indent}{line}\n");
        }
    }
    Ok(text)
}

/// Lines of at most 110 characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, String::len);
        if line > 0 && line + word.len() >= 110 {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// `values.schema.json`: nothing but what is here may be said.
pub fn schema() -> Value {
    let closed = |properties: Map<String, Value>| json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let mut groups: Map<String, Value> = Map::new();
    for value in VALUES {
        let mut schema = (value.schema)();
        schema["description"] = value.about.into();
        match value.path.rsplit_once('.') {
            None => drop(groups.insert(value.path.to_owned(), schema)),
            Some((group, name)) => {
                let group = groups.entry(group).or_insert_with(|| closed(Map::new()));
                group["properties"][name] = schema;
            }
        }
    }
    // What Helm itself puts there.
    groups.insert("global".to_owned(), json!({ "type": "object" }));
    let mut schema = closed(groups);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema
}

fn text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })
}

fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

/// What of a custom resource's spec Helm is to see; the API server, which has the whole schema, sees the rest.
fn spec_with(required: &[&str]) -> Value {
    json!({ "type": "object", "required": required })
}

/// What JSON Schema does not know is left out of a structural schema.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("x-kubernetes-") && key != "format" && key != "nullable");
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    plain(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    schema
}
