//! The bodies that newer `kubectl create KIND` commands send in protocol buffers, as JSON. Only the kinds those
//! commands are used for here; a field that is not in the tables is refused, never dropped.

use serde_json::{Value, json};

use super::{base64::base64, error::ApiError};
use Holds::{ByteMap, Flag, Ignored, IntOrString, Many, Number, One, Text, Texts};

/// The media type of such bodies.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every such body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// A field: its number, its name in JSON, what it holds. From the `generated.proto` files of `k8s.io/api`.
type Message = &'static [(u64, &'static str, Holds)];

#[derive(Clone, Copy)]
enum Holds {
    Text,
    Texts,
    Number,
    Flag,
    One(Message),
    Many(Message),
    /// Text by text.
    Map,
    /// Bytes by text; base64 in JSON.
    ByteMap,
    /// Set by the server alone.
    Ignored,
    IntOrString,
}

const UNKNOWN: Message = &[(1, "type", One(TYPE)), (2, "raw", Ignored), (3, "", Ignored), (4, "", Ignored)];
const TYPE: Message = &[(1, "apiVersion", Text), (2, "kind", Text)];
const METADATA: Message = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Ignored),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Ignored),
    (8, "creationTimestamp", Ignored),
    (11, "labels", Holds::Map),
    (12, "annotations", Holds::Map),
    (14, "finalizers", Texts),
];
const NAMESPACE_SPEC: Message = &[(1, "finalizers", Texts)];
const NAMESPACE: Message =
    &[(1, "metadata", One(METADATA)), (2, "spec", One(NAMESPACE_SPEC)), (3, "status", Ignored)];
const CONFIG_MAP: Message = &[
    (1, "metadata", One(METADATA)),
    (2, "data", Holds::Map),
    (3, "binaryData", ByteMap),
    (4, "immutable", Flag),
];
const SECRET: Message = &[
    (1, "metadata", One(METADATA)),
    (2, "data", ByteMap),
    (3, "type", Text),
    (4, "stringData", Holds::Map),
    (5, "immutable", Flag),
];
const SERVICE_ACCOUNT: Message = &[(1, "metadata", One(METADATA)), (4, "automountServiceAccountToken", Flag)];
const SERVICE: Message =
    &[(1, "metadata", One(METADATA)), (2, "spec", One(SERVICE_SPEC)), (3, "status", Ignored)];
const SERVICE_SPEC: Message = &[
    (1, "ports", Many(SERVICE_PORT)),
    (2, "selector", Holds::Map),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", Texts),
    (7, "sessionAffinity", Text),
    (8, "loadBalancerIP", Text),
    (9, "loadBalancerSourceRanges", Texts),
    (10, "externalName", Text),
    (11, "externalTrafficPolicy", Text),
    (12, "healthCheckNodePort", Number),
    (13, "publishNotReadyAddresses", Flag),
    (17, "ipFamilyPolicy", Text),
    (18, "clusterIPs", Texts),
    (19, "ipFamilies", Texts),
    (22, "internalTrafficPolicy", Text),
];
const SERVICE_PORT: Message = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", IntOrString),
    (5, "nodePort", Number),
    (6, "appProtocol", Text),
];

/// Reads a body.
///
/// # Errors
/// 415 for a kind or a field that is not in the tables, 400 for what is no such body.
pub(super) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let unknown = body.strip_prefix(MAGIC).ok_or_else(malformed)?;
    let head = message(UNKNOWN, unknown)?;
    let (api_version, kind) = (&head["type"]["apiVersion"], &head["type"]["kind"]);
    let fields = match (api_version.as_str(), kind.as_str()) {
        (Some("v1"), Some("Namespace")) => NAMESPACE,
        (Some("v1"), Some("ConfigMap")) => CONFIG_MAP,
        (Some("v1"), Some("Secret")) => SECRET,
        (Some("v1"), Some("ServiceAccount")) => SERVICE_ACCOUNT,
        (Some("v1"), Some("Service")) => SERVICE,
        _ => {
            return Err(unsupported(&format!("{kind} of {api_version}")));
        }
    };
    let raw = records(unknown)?.into_iter().find_map(|(number, record)| match record {
        Record::Bytes(bytes) if number == 2 => Some(bytes),
        _ => None,
    });
    let mut object = message(fields, raw.unwrap_or_default())?;
    object["apiVersion"] = api_version.clone();
    object["kind"] = kind.clone();
    Ok(object)
}

fn malformed() -> ApiError {
    ApiError::bad_request("the body is not a Kubernetes object in protocol buffers")
}

fn unsupported(what: &str) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "this server does not read {what} in protocol buffers: send it as JSON, with kubectl apply -f"
    ))
}

enum Record<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message; Kubernetes uses no fixed-width ones.
fn records(mut bytes: &[u8]) -> Result<Vec<(u64, Record<'_>)>, ApiError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let record = match tag & 7 {
            0 => Record::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| malformed())?;
                let (content, rest) = bytes.split_at_checked(length).ok_or_else(malformed)?;
                bytes = rest;
                Record::Bytes(content)
            }
            _ => return Err(malformed()),
        };
        records.push((tag >> 3, record));
    }
    Ok(records)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ApiError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed())
}

/// Go writes its zeros too: they are left out, as JSON's `omitempty` does.
fn message(fields: Message, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut out = json!({});
    for (number, record) in records(bytes)? {
        let field = fields.iter().find(|(known, _, _)| *known == number);
        let (_, name, holds) = field.ok_or_else(|| unsupported(&format!("the field {number}")))?;
        match (holds, record) {
            (Ignored, _) => {}
            (Number, Record::Number(0)) | (Flag, Record::Number(0)) => {}
            (Number, Record::Number(number)) => out[name] = json!(number),
            (Flag, Record::Number(_)) => out[name] = json!(true),
            (Text, Record::Bytes(b"")) => {}
            (Text, Record::Bytes(bytes)) => out[name] = text(bytes)?,
            (Texts, Record::Bytes(bytes)) => push(&mut out[name], text(bytes)?),
            (One(fields), Record::Bytes(bytes)) => out[name] = message(fields, bytes)?,
            (Many(fields), Record::Bytes(bytes)) => push(&mut out[name], message(fields, bytes)?),
            (Holds::Map, Record::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                out[name][key] = text(value)?;
            }
            (ByteMap, Record::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                out[name][key] = json!(base64(value));
            }
            (IntOrString, Record::Bytes(bytes)) => {
                let either =
                    message(&[(1, "isText", Flag), (2, "number", Number), (3, "text", Text)], bytes)?;
                let chosen = if either["isText"] == true { &either["text"] } else { &either["number"] };
                out[name] = chosen.clone();
            }
            _ => return Err(malformed()),
        }
    }
    if let Some(fields) = out.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(out)
}

fn text(bytes: &[u8]) -> Result<Value, ApiError> {
    std::str::from_utf8(bytes).map(Value::from).map_err(|_| malformed())
}

fn push(list: &mut Value, value: Value) {
    match list {
        Value::Array(items) => items.push(value),
        other => *other = Value::Array(vec![value]),
    }
}

/// A map's entry: the key is field 1, the value field 2.
fn entry(bytes: &[u8]) -> Result<(String, &[u8]), ApiError> {
    let (mut key, mut value): (_, &[u8]) = (String::new(), &[]);
    for record in records(bytes)? {
        match record {
            (1, Record::Bytes(bytes)) => key = String::from_utf8_lossy(bytes).into_owned(),
            (2, Record::Bytes(bytes)) => value = bytes,
            _ => return Err(malformed()),
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kubectl create service nodeport web --tcp=80:8080`, what version 1.32.4 and 1.37.1 send.
    #[test]
    fn a_service_of_kubectls() {
        let body = hex_literal::hex!(
            "6b3873000a0d0a02763112075365727669636512680a1f0a0377656212001a0022002a003200380042005a0a0a036170
             70120377656212410a1b0a0738302d38303830120354435018502207080010903f1a002800120a0a0361707012037765
             621a0022084e6f6465506f72743a00420052005a00600068001a020a001a002200"
        );
        let ports = json!([{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}]);
        let wanted = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports},
        });
        assert_eq!(decode(&body), Ok(wanted));
    }

    #[test]
    fn what_is_not_in_the_tables_is_refused() {
        let pod = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00";
        assert_eq!(decode(pod).expect_err("no table").code, 415);
        let field = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02\x48\x01";
        assert!(decode(field).expect_err("field 9").message.contains("the field 9"));
        for end in 1..pod.len() {
            assert!(decode(&pod[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(decode(b"{}").expect_err("JSON").code, 400);
    }
}
