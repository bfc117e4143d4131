//! Every field of every kind, as a page to read: what `kubectl explain --recursive` tells, without a cluster.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

const HEADER: &str = "<!-- Generated from the Rust types by `crds --dir deploy/crds`: do not edit. -->\n
# Custom resources\n
Each is of group `manx.io`, version `v1alpha1`, and has no namespace. `kubectl explain KIND.spec` tells the same.\n";

/// The page.
pub fn page(crds: &[CustomResourceDefinition]) -> String {
    let mut page = HEADER.to_owned();
    for crd in crds {
        let names = &crd.spec.names;
        let short: Vec<String> =
            names.short_names.iter().flatten().map(|name| format!(", `{name}`")).collect();
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {}\n\n`kubectl get {}`{}\n", names.kind, names.plural, short.concat());
        for version in &crd.spec.versions {
            let schema =
                version.schema.as_ref().and_then(|validation| validation.open_api_v3_schema.as_ref());
            for part in ["spec", "status"] {
                let Some(part_schema) =
                    schema.and_then(|schema| schema.properties.as_ref()).and_then(|all| all.get(part))
                else {
                    continue;
                };
                if let Some(words) = &part_schema.description
                    && part == "spec"
                {
                    let _ = write!(page, "\n{words}\n");
                }
                let _ = write!(page, "\n| field | type | |\n|---|---|---|\n");
                rows(part, part_schema, &mut page);
                rules(part_schema, &mut page);
            }
        }
    }
    page
}

fn rows(path: &str, schema: &JSONSchemaProps, page: &mut String) {
    let required: Vec<&String> = schema.required.iter().flatten().collect();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        let item = item(field);
        let needed = if required.contains(&name) { "; required" } else { "" };
        let _ = writeln!(page, "| `{path}` | {}{needed} | {} |", kind(field), words(field));
        match item {
            Some((suffix, inner)) => rows(&format!("{path}{suffix}"), inner, page),
            None => rows(&path, field, page),
        }
    }
}

/// What a list or a map holds.
fn item(schema: &JSONSchemaProps) -> Option<(&'static str, &JSONSchemaProps)> {
    match (&schema.items, &schema.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(inner)), _) => Some(("[]", inner)),
        (_, Some(JSONSchemaPropsOrBool::Schema(inner))) => Some(("{}", inner)),
        _ => None,
    }
}

fn kind(schema: &JSONSchemaProps) -> String {
    if let Some(values) = schema.enum_.as_ref().filter(|values| !values.is_empty()) {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", text(&value.0))).collect();
        return values.join(", ");
    }
    let name = schema.type_.clone().unwrap_or_else(|| "any".to_owned());
    match item(schema) {
        Some(("[]", inner)) => format!("list of {}", kind(inner)),
        Some((_, inner)) => format!("map to {}", kind(inner)),
        None => match (schema.minimum, schema.maximum) {
            (Some(low), Some(high)) => format!("{name}, {low}–{high}"),
            (Some(low), None) => format!("{name}, at least {low}"),
            (None, Some(high)) => format!("{name}, at most {high}"),
            (None, None) => name,
        },
    }
}

fn words(schema: &JSONSchemaProps) -> String {
    let mut words = schema.description.clone().unwrap_or_default().replace("\n\n", "<br>").replace('\n', " ");
    if let Some(default) = schema.default.as_ref().filter(|default| !default.0.is_null()) {
        let _ = write!(words, " Default: `{}`.", text(&default.0));
    }
    words.replace('|', "\\|")
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the API server refuses beyond types and ranges.
fn rules(schema: &JSONSchemaProps, page: &mut String) {
    let mut found = Vec::new();
    collect(schema, &mut found);
    if found.is_empty() {
        return;
    }
    page.push_str("\nRefused by the API server, with these words:\n\n");
    for message in found {
        let _ = writeln!(page, "- {message}");
    }
}

fn collect(schema: &JSONSchemaProps, found: &mut Vec<String>) {
    let messages = schema.x_kubernetes_validations.iter().flatten().filter_map(|rule| rule.message.clone());
    found.extend(messages);
    for field in schema.properties.iter().flat_map(|all| all.values()) {
        collect(field, found);
    }
    if let Some((_, inner)) = item(schema) {
        collect(inner, found);
    }
}
