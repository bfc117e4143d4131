//! CustomResourceDefinitions: checked, established at once, and turned into resources.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::{Value, json};

use super::{
    error::Cause,
    resource::{Origin, Resource},
    schema::Schema,
    table::{Column, Columns, Source, jsonpath::JsonPath},
};

/// The resources a definition serves, one a version.
///
/// # Errors
/// Everything wrong with the definition.
pub fn resources(object: &Value) -> Result<Vec<Resource>, Vec<Cause>> {
    let crd: CustomResourceDefinition = serde_json::from_value(object.clone())
        .map_err(|error| vec![Cause::invalid("spec", &Value::Null, error.to_string())])?;
    let causes = check(&crd);
    if !causes.is_empty() {
        return Err(causes);
    }
    let versions = crd.spec.versions.iter().enumerate().filter(|(_, version)| version.served);
    let made: Vec<_> =
        versions.map(|(at, version)| resource(&crd, version, &object["spec"]["versions"][at], at)).collect();
    let mut causes = Vec::new();
    let mut resources = Vec::new();
    for result in made {
        match result {
            Ok(resource) => resources.push(resource),
            Err(cause) => causes.push(cause),
        }
    }
    if causes.is_empty() { Ok(resources) } else { Err(causes) }
}

fn check(crd: &CustomResourceDefinition) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &crd.spec;
    let name = crd.metadata.name.clone().unwrap_or_default();
    let wanted = format!("{}.{}", spec.names.plural, spec.group);
    if name != wanted {
        let why = format!("must be spec.names.plural+\".\"+spec.group: {wanted}");
        causes.push(Cause::invalid("metadata.name", &json!(name), why));
    }
    if !spec.group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &json!(spec.group), why));
    }
    if !["Namespaced", "Cluster"].contains(&spec.scope.as_str()) {
        let why = r#"supported values: "Cluster", "Namespaced""#;
        causes.push(Cause::invalid("spec.scope", &json!(spec.scope), why));
    }
    let storage = spec.versions.iter().filter(|version| version.storage).count();
    if storage != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &json!(storage), why));
    }
    causes
}

fn resource(
    crd: &CustomResourceDefinition,
    version: &CustomResourceDefinitionVersion,
    raw: &Value,
    at: usize,
) -> Result<Resource, Cause> {
    let place = format!("spec.versions[{at}]");
    let schema = &raw["schema"]["openAPIV3Schema"];
    if !schema.is_object() {
        return Err(Cause::required(format!("{place}.schema.openAPIV3Schema"), "schemas are required"));
    }
    let mut schema = schema.clone();
    if schema["type"].is_null() {
        schema["type"] = json!("object");
    }
    let schema = Schema::new(schema);
    schema
        .check()
        .map_err(|why| Cause::invalid(format!("{place}.schema.openAPIV3Schema"), &Value::Null, why))?;
    let names = &crd.spec.names;
    let selectable = version.selectable_fields.iter().flatten();
    Ok(Resource {
        group: crd.spec.group.clone(),
        version: version.name.clone(),
        kind: names.kind.clone(),
        list_kind: names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind)),
        plural: names.plural.clone(),
        singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
        short_names: names.short_names.clone().unwrap_or_default(),
        categories: names.categories.clone().unwrap_or_default(),
        namespaced: crd.spec.scope == "Namespaced",
        has_status: version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
        origin: Origin::Custom { storage: version.storage },
        schema: Arc::new(schema),
        columns: columns(version, &place)?,
        selectable_fields: selectable.map(|f| f.json_path.trim_start_matches('.').to_owned()).collect(),
    })
}

fn columns(version: &CustomResourceDefinitionVersion, place: &str) -> Result<Columns, Cause> {
    let Some(given) = version.additional_printer_columns.as_ref().filter(|columns| !columns.is_empty())
    else {
        return Ok(super::table::builtin_columns(""));
    };
    let column = |(at, given): (usize, &CustomResourceColumnDefinition)| {
        let path = JsonPath::parse(&given.json_path).map_err(|why| {
            let place = format!("{place}.additionalPrinterColumns[{at}].jsonPath");
            Cause::invalid(place, &json!(given.json_path), why)
        })?;
        Ok(Column {
            name: given.name.clone(),
            kind: given.type_.clone(),
            format: given.format.clone().unwrap_or_default(),
            description: given.description.clone().unwrap_or_default(),
            priority: given.priority.unwrap_or(0).into(),
            source: Source::Path(path),
        })
    };
    given.iter().enumerate().map(column).collect::<Result<_, _>>().map(Columns)
}

/// Fills in the names a definition leaves out, and says in its status that it is accepted and served.
pub fn establish(object: &mut Value, now: Timestamp) {
    let kind = object["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = &mut object["spec"]["names"];
    for (name, default) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
        if names[name].as_str().is_none_or(str::is_empty) {
            names[name] = json!(default);
        }
    }
    if object["spec"]["conversion"].is_null() {
        object["spec"]["conversion"] = json!({"strategy": "None"});
    }
    let kept =
        |name: &str| object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == name).cloned();
    let condition = |name: &str, reason: &str, message: &str| {
        kept(name).unwrap_or_else(|| {
            json!({
                "type": name, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": now.to_string(),
            })
        })
    };
    let conditions = [
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ];
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<_> = versions.filter(|v| v["storage"] == true).map(|v| v["name"].clone()).collect();
    object["status"] = json!({
        "conditions": conditions, "acceptedNames": object["spec"]["names"], "storedVersions": stored,
    });
}
