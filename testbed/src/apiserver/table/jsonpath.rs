//! The part of JSONPath that printer columns use: fields, indices, `[*]`, and filters by equality.

use serde_json::Value;

/// A parsed path, as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Negative counts from the end.
    Index(i64),
    All,
    /// Items whose value at the path is (or is not) this.
    Filter {
        path: JsonPath,
        equal: bool,
        value: Value,
    },
}

impl JsonPath {
    /// Parses a path.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest).map_err(|why| format!("JSONPath {text:?}: {why}"))?;
            steps.extend(step);
            rest = after;
        }
        Ok(Self(steps))
    }

    /// Every value at the path, in order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.0
            .iter()
            .fold(vec![value], |found, step| found.into_iter().flat_map(|value| step.select(value)).collect())
    }
}

impl Step {
    fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).filter(|v| !v.is_null()).into_iter().collect(),
            Self::Index(index) => {
                let from_end = if *index < 0 { items().len() as i64 } else { 0 };
                usize::try_from(index + from_end).ok().and_then(|i| items().get(i)).into_iter().collect()
            }
            Self::All => match value {
                Value::Object(fields) => fields.values().collect(),
                _ => items().iter().collect(),
            },
            Self::Filter { path, equal, value } => {
                let holds = |item: &&Value| path.find(item).first().is_some_and(|v| *v == value) == *equal;
                items().iter().filter(holds).collect()
            }
        }
    }
}

/// One step and what follows it; a leading dot before a bracket is no step.
fn step(text: &str) -> Result<(Option<Step>, &str), String> {
    if let Some(inside) = text.strip_prefix('[') {
        let end = closing(inside).ok_or("a bracket is not closed")?;
        return Ok((Some(bracket(inside[..end].trim())?), &inside[end + 1..]));
    }
    let text = text.strip_prefix('.').unwrap_or(text);
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(c),
        }
    }
    let step = match name.as_str() {
        "" => None,
        "*" => Some(Step::All),
        _ => Some(Step::Field(name)),
    };
    if step.is_none() && end == 0 && text.starts_with('.') {
        return Err("recursive descent is not supported".to_owned());
    }
    Ok((step, &text[end..]))
}

/// The place of the bracket that closes, past nested brackets and quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Result<Step, String> {
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) else {
        return inside.parse().map(Step::Index).map_err(|_| format!("cannot read [{inside}]"));
    };
    let split =
        |operator| condition.split_once(operator).map(|(left, right)| (left, right, operator == "=="));
    let (left, right, equal) =
        split("==").or_else(|| split("!=")).ok_or("a filter compares with == or !=")?;
    let path = left.trim().strip_prefix('@').ok_or("a filter's left side starts with @")?;
    let right = right.trim();
    let value = match unquoted(right) {
        Some(text) => Value::String(text.to_owned()),
        None => serde_json::from_str(right).map_err(|_| format!("cannot read the value {right}"))?,
    };
    Ok(Step::Filter { path: JsonPath::parse(path)?, equal, value })
}

fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_paths_of_printer_columns() {
        let object = json!({
            "metadata": {"labels": {"kubernetes.io/role": "master"}},
            "spec": {"n": 3, "list": ["a", "b"]},
            "status": {"conditions": [
                {"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True", "n": 1}]},
        });
        for (path, want) in [
            (".spec.n", json!([3])),
            ("spec.n", json!([3])),
            ("{.spec.n}", json!([3])),
            ("$.spec['n']", json!([3])),
            (".spec.list[0]", json!(["a"])),
            (".spec.list[-1]", json!(["b"])),
            (".spec.list[*]", json!(["a", "b"])),
            (".spec.list", json!([["a", "b"]])),
            (r".metadata.labels.kubernetes\.io/role", json!(["master"])),
            (r#".metadata.labels["kubernetes.io/role"]"#, json!(["master"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type == 'Ready')].status", json!(["True"])),
            (".status.conditions[?(@.n==1)].type", json!(["Ready"])),
            (".status.conditions[?(@.type!='Ready')].type", json!(["Synced"])),
            (".spec.gone.deep", json!([])),
            (".spec.list[7]", json!([])),
        ] {
            let parsed = JsonPath::parse(path).expect(path);
            assert_eq!(json!(parsed.find(&object)), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for bad in [".a[", "..a", ".a[?(@.x>1)]", ".a[?(x==1)]", ".a[b]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
