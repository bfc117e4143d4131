//! The kinds every cluster has. Their schemas come from the types of `k8s-openapi`, so that
//! `kubectl explain`, pruning and type checks work on them as on custom resources.

use std::{
    any::TypeId,
    sync::{Arc, LazyLock},
};

use k8s_openapi::{
    ListableResource, Metadata, NamespaceResourceScope, Resource as ApiResource,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1 as core,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        networking::v1::NetworkPolicy,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
        scheduling::v1::PriorityClass,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    schemars::{JsonSchema, generate::SchemaSettings},
};
use serde_json::{Value, json};

use super::{
    resource::{Origin, Registry, Resource},
    schema::Schema,
    table::builtin_columns,
};

/// A registry of the builtin kinds alone.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for resource in RESOURCES.iter() {
        registry.insert(resource.clone());
    }
    registry
}

/// The schemas of `apiVersion`, `kind` and `metadata`.
pub(super) fn type_meta() -> impl Iterator<Item = (&'static str, &'static Value)> {
    TYPE_META.iter().map(|(name, schema)| (*name, schema))
}

static TYPE_META: LazyLock<[(&str, Value); 3]> = LazyLock::new(|| {
    let version = "The versioned schema of this representation of an object, as group/version.";
    let kind = "The kind of object this is, in CamelCase.";
    [
        ("apiVersion", json!({"type": "string", "description": version})),
        ("kind", json!({"type": "string", "description": kind})),
        ("metadata", schema_of::<ObjectMeta>()),
    ]
});

static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let selectable_event = ["involvedObject.kind", "involvedObject.name", "involvedObject.namespace"];
    let selectable_event = [&selectable_event[..], &["involvedObject.uid", "reason", "type"]].concat();
    let selectable_pod =
        ["spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"];
    vec![
        builtin::<core::Namespace>(&["ns"], Status::Split, &["status.phase"]),
        builtin::<core::Node>(&["no"], Status::Split, &["spec.unschedulable"]),
        builtin::<core::Pod>(&["po"], Status::Split, &selectable_pod),
        builtin::<core::Service>(&["svc"], Status::Split, &["spec.clusterIP", "spec.type"]),
        builtin::<core::Endpoints>(&["ep"], Status::None, &[]),
        builtin::<core::Secret>(&[], Status::None, &["type"]),
        builtin::<core::ConfigMap>(&["cm"], Status::None, &[]),
        builtin::<core::ServiceAccount>(&["sa"], Status::None, &[]),
        builtin::<core::Event>(&["ev"], Status::None, &selectable_event),
        builtin::<Event>(&["ev"], Status::None, &["regarding.kind", "regarding.name", "reason", "type"]),
        builtin::<DaemonSet>(&["ds"], Status::Split, &[]),
        builtin::<Deployment>(&["deploy"], Status::Split, &[]),
        builtin::<EndpointSlice>(&[], Status::None, &[]),
        builtin::<NetworkPolicy>(&["netpol"], Status::None, &[]),
        builtin::<Lease>(&[], Status::None, &[]),
        builtin::<Role>(&[], Status::None, &[]),
        builtin::<RoleBinding>(&[], Status::None, &[]),
        builtin::<ClusterRole>(&[], Status::None, &[]),
        builtin::<ClusterRoleBinding>(&[], Status::None, &[]),
        builtin::<PriorityClass>(&["pc"], Status::None, &[]),
        builtin::<ValidatingAdmissionPolicy>(&[], Status::Split, &[]),
        builtin::<ValidatingAdmissionPolicyBinding>(&[], Status::None, &[]),
        crd_resource(),
    ]
});

#[derive(Clone, Copy, PartialEq)]
enum Status {
    /// Written on its own path.
    Split,
    /// The kind has none.
    None,
}

fn builtin<T>(short_names: &[&str], status: Status, selectable: &[&str]) -> Resource
where
    T: ApiResource<Scope: 'static> + Metadata + ListableResource + JsonSchema,
{
    let mut schema = schema_of::<T>();
    schema_defaults(T::KIND, &mut schema);
    describe::<T>(short_names, status, selectable, schema)
}

/// The schema of a CRD contains itself; what it says is checked by decoding it (`crd`).
fn crd_resource() -> Resource {
    let description =
        "CustomResourceDefinition represents a resource that should be exposed on the API server.";
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({
        "type": "object", "description": description, "properties": {"spec": open, "status": open},
    });
    describe::<CustomResourceDefinition>(&["crd", "crds"], Status::Split, &[], schema)
}

fn describe<T>(short_names: &[&str], status: Status, selectable: &[&str], schema: Value) -> Resource
where
    T: ApiResource<Scope: 'static> + ListableResource,
{
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let everyday = ["pods", "services", "daemonsets", "deployments"].contains(&T::URL_PATH_SEGMENT);
    Resource {
        group: T::GROUP.to_owned(),
        version: T::VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        list_kind: T::LIST_KIND.to_owned(),
        plural: T::URL_PATH_SEGMENT.to_owned(),
        singular: T::KIND.to_lowercase(),
        short_names: owned(short_names),
        categories: if everyday { owned(&["all"]) } else { Vec::new() },
        namespaced: TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>(),
        has_status: status == Status::Split,
        origin: Origin::Builtin,
        schema: Arc::new(Schema::new(schema)),
        columns: builtin_columns(T::KIND),
        selectable_fields: owned(selectable),
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural(&mut schema);
    schema
}

/// Which lists are merged item by item: the list's name, a property of its items that tells it from others of
/// that name, the key a strategic merge goes by, and the further keys of server-side apply. From the
/// `patchMergeKey` and `listMapKey` tags of Kubernetes' Go types.
const MERGED_LISTS: &[(&str, &str, &str, &[&str])] = &[
    ("conditions", "type", "type", &[]),
    ("containers", "image", "name", &[]),
    ("initContainers", "image", "name", &[]),
    ("ephemeralContainers", "image", "name", &[]),
    ("env", "name", "name", &[]),
    ("volumes", "name", "name", &[]),
    ("volumeMounts", "mountPath", "mountPath", &[]),
    ("volumeDevices", "devicePath", "devicePath", &[]),
    ("ports", "containerPort", "containerPort", &["protocol"]),
    ("ports", "targetPort", "port", &["protocol"]),
    ("imagePullSecrets", "name", "name", &[]),
    ("secrets", "name", "name", &[]),
    ("hostAliases", "ip", "ip", &[]),
    ("topologySpreadConstraints", "whenUnsatisfiable", "topologyKey", &["whenUnsatisfiable"]),
    ("podIPs", "ip", "ip", &[]),
    ("hostIPs", "ip", "ip", &[]),
    ("addresses", "type", "type", &[]),
    ("taints", "effect", "key", &["effect"]),
    ("ownerReferences", "uid", "uid", &[]),
];

/// Lists of scalars merged as sets.
const MERGED_SETS: &[&str] = &["finalizers", "podCIDRs"];

/// Makes a schema of the Go types structural, and adds what their tags say.
fn structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // Go fills a missing field with its zero: what is required is checked by each kind's own rules.
    fields.remove("required");
    fields.remove("title");
    let open = !fields.contains_key("properties") && !fields.contains_key("additionalProperties");
    if fields.get("type").is_some_and(|t| t == "object") && open {
        fields.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    }
    for inner in ["items", "additionalProperties"] {
        fields.get_mut(inner).into_iter().for_each(structural);
    }
    let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let has_port = properties.contains_key("port") || properties.contains_key("containerPort");
    if let Some(protocol) = properties.get_mut("protocol").filter(|_| has_port) {
        protocol["default"] = json!("TCP");
    }
    for (name, property) in properties {
        structural(property);
        let item = &property["items"]["properties"];
        let merged = MERGED_LISTS.iter().find(|(list, mark, _, _)| list == name && !item[mark].is_null());
        if let Some((_, _, key, more)) = merged {
            property["x-kubernetes-patch-strategy"] = json!("merge");
            property["x-kubernetes-patch-merge-key"] = json!(key);
            property["x-kubernetes-list-type"] = json!("map");
            property["x-kubernetes-list-map-keys"] = json!([&[*key][..], more].concat());
        } else if MERGED_SETS.contains(&name.as_str()) && property["type"] == "array" {
            property["x-kubernetes-patch-strategy"] = json!("merge");
            property["x-kubernetes-list-type"] = json!("set");
        }
    }
}

/// The defaults clients read back most.
fn schema_defaults(kind: &str, schema: &mut Value) {
    let spec = "/properties/spec/properties";
    let template = "/properties/spec/properties/template/properties/spec/properties";
    let pod = [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
    ];
    let service = [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
    ];
    let (at, defaults) = match kind {
        "Pod" => (spec, &pod[..]),
        "DaemonSet" | "Deployment" => (template, &pod[..]),
        "Service" => (spec, &service[..]),
        _ => return,
    };
    let Some(properties) = schema.pointer_mut(at) else { return };
    for (name, default) in defaults {
        properties[name]["default"] = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_carry_their_merge_keys() {
        let registry = registry();
        let pods = registry.get("", "v1", "pods").expect("pods");
        let root = pods.schema.root();
        let ports = "/properties/spec/properties/containers/items/properties/ports";
        let ports = root.pointer(ports).expect("container ports");
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
        let finalizers = &root["properties"]["metadata"]["properties"]["finalizers"];
        assert_eq!(finalizers["x-kubernetes-list-type"], "set");
        let services = registry.get("", "v1", "services").expect("services");
        let ports = &services.schema.root()["properties"]["spec"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    }

    #[test]
    fn every_builtin_schema_compiles() {
        for resource in registry().iter() {
            resource.schema.check().unwrap_or_else(|why| panic!("{}: {why}", resource.kind));
        }
    }
}
