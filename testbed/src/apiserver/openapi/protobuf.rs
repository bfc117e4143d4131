//! An OpenAPI v2 document in protocol buffers, the only form old clients ask for. Field numbers are those of
//! gnostic's `OpenAPIv2.proto`; of the schema's fields only those that [`super::v2`] writes.

use serde_json::Value;

/// Encodes a `Document`.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut info = Vec::new();
    string(&mut info, 1, &document["info"]["title"]);
    string(&mut info, 2, &document["info"]["version"]);
    let mut out = Vec::new();
    string(&mut out, 1, &document["swagger"]);
    bytes(&mut out, 2, &info);
    // Paths, empty.
    bytes(&mut out, 8, &[]);
    bytes(&mut out, 9, &named_schemas(&document["definitions"]));
    out
}

/// `Definitions` and `Properties` are the same on the wire: a list of `NamedSchema`.
fn named_schemas(schemas: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, inner) in schemas.as_object().into_iter().flatten() {
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &schema(inner));
        bytes(&mut out, 1, &named);
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, 2, &value["format"]);
    string(&mut out, 4, &value["description"]);
    for required in value["required"].as_array().into_iter().flatten() {
        string(&mut out, 19, required);
    }
    if let Some(inner) = value.get("additionalProperties") {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(inner));
        bytes(&mut out, 21, &item);
    }
    if !value["type"].is_null() {
        let mut item = Vec::new();
        string(&mut item, 1, &value["type"]);
        bytes(&mut out, 22, &item);
    }
    if let Some(inner) = value.get("items") {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(inner));
        bytes(&mut out, 23, &item);
    }
    if let Some(properties) = value.get("properties") {
        bytes(&mut out, 25, &named_schemas(properties));
    }
    for (name, extension) in
        value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"))
    {
        // `Any` holds YAML, of which JSON is a part.
        let mut any = Vec::new();
        bytes(&mut any, 2, extension.to_string().as_bytes());
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &any);
        bytes(&mut out, 31, &named);
    }
    out
}

fn string(out: &mut Vec<u8>, field: u64, value: &Value) {
    if let Some(text) = value.as_str() {
        bytes(out, field, text.as_bytes());
    }
}

/// A length-delimited field (wire type 2).
fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_on_the_wire() {
        let mut long = Vec::new();
        bytes(&mut long, 31, &[7; 300]);
        // Tag 31 << 3 | 2 = 250 and length 300, both of two bytes.
        assert_eq!(long[..4], [0xfa, 0x01, 0xac, 0x02]);
        let encoded = schema(&json!({"description": "d", "type": "string", "x-a": "b"}));
        let expected: &[&[u8]] = &[
            &[0x22, 1, b'd'],
            &[0xb2, 0x01, 8, 0x0a, 6],
            b"string",
            &[0xfa, 0x01, 12, 0x0a, 3],
            b"x-a",
            &[0x12, 5, 0x12, 3],
            b"\"b\"",
        ];
        assert_eq!(encoded, expected.concat());
    }
}
