//! Validation: the structural schema as JSON schema, and its errors in Kubernetes' words.

use std::net::IpAddr;

use jsonschema::{
    Draft, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::{Map, Value, json};

use super::{Cause, flag};

/// Makes the checker of a structural schema.
pub(super) fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::options()
        .with_draft(Draft::Draft4)
        .should_validate_formats(true)
        .with_format("cidr", is_cidr)
        .build(&json_schema(schema))
        .map_err(|error| format!("{error}, at {}", field_path(error.instance_path().as_str())))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= bits)
}

/// Formats the API server checks; what else a schema names is documentation.
const FORMATS: &[&str] = &["cidr", "date", "date-time", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"];

/// Keywords that mean the same in both languages.
const SHARED: &[&str] = &[
    "required",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Translates a structural schema to JSON schema draft 4, which shares its boolean `exclusiveMinimum`.
fn json_schema(schema: &Value) -> Value {
    let mut out = Map::new();
    for name in SHARED {
        if let Some(value) = schema.get(*name) {
            out.insert((*name).to_owned(), value.clone());
        }
    }
    if let Some(format) = schema["format"].as_str().filter(|format| FORMATS.contains(format)) {
        out.insert("format".to_owned(), format.into());
    }
    translate_type(schema, &mut out);
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties.iter().map(|(name, inner)| (name.clone(), json_schema(inner)));
        out.insert("properties".to_owned(), properties.collect());
    }
    for name in ["items", "additionalProperties", "not"] {
        match schema.get(name) {
            Some(inner @ Value::Object(_)) => out.insert(name.to_owned(), json_schema(inner)),
            _ => None,
        };
    }
    // An int-or-string's `anyOf` says once more what its type says.
    let either = flag(schema, "x-kubernetes-int-or-string");
    for name in ["allOf", "anyOf", "oneOf"].into_iter().filter(|name| !(either && *name == "anyOf")) {
        if let Some(inner) = schema[name].as_array() {
            out.insert(name.to_owned(), inner.iter().map(json_schema).collect());
        }
    }
    Value::Object(out)
}

fn translate_type(schema: &Value, out: &mut Map<String, Value>) {
    if flag(schema, "x-kubernetes-int-or-string") {
        out.insert("type".to_owned(), json!(["integer", "string"]));
        return;
    }
    let Some(kind) = schema["type"].as_str() else { return };
    if flag(schema, "nullable") {
        out.insert("type".to_owned(), json!([kind, "null"]));
        if let Some(options) = out.get_mut("enum").and_then(Value::as_array_mut) {
            options.push(Value::Null);
        }
    } else {
        out.insert("type".to_owned(), kind.into());
    }
    let range = match schema["format"].as_str() {
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Some("uint32") => (0, i64::from(u32::MAX)),
        _ => return,
    };
    out.entry("minimum").or_insert(range.0.into());
    out.entry("maximum").or_insert(range.1.into());
}

/// Every error of `object`, as causes of a `Status`.
pub(super) fn causes(validator: &Validator, object: &Value) -> Vec<Cause> {
    validator.iter_errors(object).map(|error| cause(&error)).collect()
}

fn cause(error: &ValidationError<'_>) -> Cause {
    use ValidationErrorKind as K;
    let path = field_path(error.instance_path().as_str());
    let value = error.instance().as_ref();
    let body = |why: String| Cause::invalid(path.clone(), value, format!("{path} in body {why}"));
    let kind = |reason, message| Cause { field: path.clone(), reason, message };
    match error.kind() {
        K::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            Cause::required(super::join(&path, name), "")
        }
        K::Type { kind: wanted } => {
            let found = type_name(value);
            let wanted = match wanted {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(many) => {
                    many.iter().map(|t| t.to_string()).filter(|t| t != "null").collect::<Vec<_>>().join(",")
                }
            };
            let message =
                format!("Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}");
            kind("FieldValueTypeInvalid", message)
        }
        K::Enum { options } => {
            let supported: Vec<_> = options.as_array().into_iter().flatten().map(Value::to_string).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
            kind("FieldValueNotSupported", message)
        }
        K::Minimum { limit } => body(format!("should be greater than or equal to {}", plain(limit))),
        K::Maximum { limit } => body(format!("should be less than or equal to {}", plain(limit))),
        K::ExclusiveMinimum { limit } => body(format!("should be greater than {}", plain(limit))),
        K::ExclusiveMaximum { limit } => body(format!("should be less than {}", plain(limit))),
        K::MultipleOf { multiple_of } => body(format!("should be a multiple of {multiple_of}")),
        K::Pattern { pattern } => body(format!("should match '{pattern}'")),
        K::MinLength { limit } => body(format!("should be at least {limit} chars long")),
        K::MaxLength { limit } => {
            kind("FieldValueTooLong", format!("Too long: may not be more than {limit} bytes"))
        }
        K::MinItems { limit } => body(format!("should have at least {limit} items")),
        K::MaxItems { limit } => {
            let count = value.as_array().map_or(0, Vec::len);
            kind("FieldValueTooMany", format!("Too many: {count}: must have at most {limit} items"))
        }
        K::MinProperties { limit } => body(format!("should have at least {limit} properties")),
        K::MaxProperties { limit } => body(format!("should have at most {limit} properties")),
        K::UniqueItems => kind("FieldValueDuplicate", format!("Duplicate value: {value}")),
        K::Format { format } => body(format!("must be of type {format}: {value}")),
        K::AnyOf { .. } => body("must validate at least one schema (anyOf)".to_owned()),
        K::OneOfNotValid { .. } | K::OneOfMultipleValid { .. } => {
            body("must validate one and only one schema (oneOf)".to_owned())
        }
        K::Not { .. } => body("must not validate the schema (not)".to_owned()),
        other => body(format!("breaks the schema's {}", other.keyword())),
    }
}

/// A number as Go prints it: without the fraction it does not have.
fn plain(number: &Value) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `/spec/ports/0/port` as `spec.ports[0].port`.
fn field_path(pointer: &str) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        if segment.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{segment}]"));
        } else {
            path = super::join(&path, &segment);
        }
    }
    path
}
