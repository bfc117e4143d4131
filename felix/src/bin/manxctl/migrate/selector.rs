//! Calico's selectors as Kubernetes' label selectors, where these can say the same: conditions that must all hold.

use serde_json::{Value, json};

/// The label selector that selects what `text` does: `None` selects all.
///
/// # Errors
/// Why there is none, in words.
pub fn convert(text: &str) -> Result<Option<Value>, String> {
    if text.contains("||") {
        return Err(format!(
            "\"{text}\" is an \"or\", which label selectors do not have: write an object for each side"
        ));
    }
    let mut expressions = Vec::new();
    for term in text.split("&&").map(str::trim) {
        match term {
            "" | "all()" | "global()" => {}
            _ => expressions.push(expression(term).ok_or_else(|| format!("\"{term}\" has no counterpart"))?),
        }
    }
    Ok((!expressions.is_empty()).then(|| json!({ "matchExpressions": expressions })))
}

fn expression(term: &str) -> Option<Value> {
    let (negated, plain) = match term.strip_prefix('!') {
        Some(rest) if !rest.starts_with('=') => (true, rest.trim()),
        _ => (false, term),
    };
    if let Some(key) = plain.strip_prefix("has(").and_then(|rest| rest.strip_suffix(')')) {
        let operator = if negated { "DoesNotExist" } else { "Exists" };
        return Some(json!({ "key": label(key)?, "operator": operator }));
    }
    if negated {
        return None;
    }
    // `k != v` holds where there is no k, as NotIn does.
    for (sign, operator) in [("==", "In"), ("!=", "NotIn")] {
        if let Some((key, value)) = plain.split_once(sign) {
            return Some(json!({ "key": label(key)?, "operator": operator, "values": [quoted(value)?] }));
        }
    }
    let (head, set) = plain.split_once('{')?;
    let values = set.trim().strip_suffix('}')?;
    let values = values.split(',').map(quoted).collect::<Option<Vec<_>>>()?;
    let head = head.trim_end();
    let (key, operator) = match head.strip_suffix(" not in") {
        Some(key) => (key, "NotIn"),
        None => (head.strip_suffix(" in")?, "In"),
    };
    Some(json!({ "key": label(key)?, "operator": operator, "values": values }))
}

fn label(text: &str) -> Option<&str> {
    let text = text.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!text.is_empty() && text.chars().all(good)).then_some(text)
}

fn quoted(text: &str) -> Option<&str> {
    let text = text.trim();
    let inside = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let value: &str = inside('\'').or_else(|| inside('"'))?;
    (!value.contains(['\'', '"'])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_label_selectors_can_say_is_said() {
        for all in ["all()", "", "global()"] {
            assert_eq!(convert(all), Ok(None));
        }
        for (text, key, operator, values) in [
            ("has(rack)", "rack", "Exists", None),
            ("!has(rack)", "rack", "DoesNotExist", None),
            ("rack == 'r1'", "rack", "In", Some(vec!["r1"])),
            ("rack=='r1'", "rack", "In", Some(vec!["r1"])),
            ("rack != \"r1\"", "rack", "NotIn", Some(vec!["r1"])),
            ("example.com/rack in {'r1', 'r2'}", "example.com/rack", "In", Some(vec!["r1", "r2"])),
            ("rack not in { 'r1' }", "rack", "NotIn", Some(vec!["r1"])),
        ] {
            let mut wanted = json!({ "key": key, "operator": operator });
            if let Some(values) = values {
                wanted["values"] = json!(values);
            }
            assert_eq!(convert(text), Ok(Some(json!({ "matchExpressions": [wanted] }))), "{text}");
        }
        let both = convert("has(a) && b == 'c'").unwrap().unwrap();
        assert_eq!(both["matchExpressions"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_they_cannot_say_is_not_guessed() {
        for text in
            ["a == 'b' || has(c)", "!(a == 'b')", "a contains 'b'", "a starts with 'b'", "a == b", "a in {b}"]
        {
            assert!(convert(text).is_err(), "{text}");
        }
    }
}
