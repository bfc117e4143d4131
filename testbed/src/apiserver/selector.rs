//! Label and field selectors, as they come in a query.

use serde_json::Value;

use super::{error::ApiError, resource::Resource};

/// A label selector: every requirement must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<LabelRequirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    ///
    /// # Errors
    /// 400 with the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let parts = split_outside_parentheses(text);
        let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
        parts.map(LabelRequirement::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object's labels meet it.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| requirement.holds(labels[&requirement.key].as_str()))
    }
}

impl LabelRequirement {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let refuse = || ApiError::bad_request(format!("unable to parse requirement: {text:?}"));
        let number = |value: &str| value.trim().parse().map_err(|_| refuse());
        let one = |value: &str| vec![value.trim().to_owned()];
        let (key, operator) = if let Some(key) = text.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Operator::NotIn(one(value)))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Operator::In(one(value)))
        } else if let Some((key, value)) = text.split_once('>') {
            (key, Operator::GreaterThan(number(value)?))
        } else if let Some((key, value)) = text.split_once('<') {
            (key, Operator::LessThan(number(value)?))
        } else if let Some((head, set)) = text.split_once('(') {
            let set = set.trim_end().strip_suffix(')').ok_or_else(refuse)?;
            let set = set.split(',').map(|value| value.trim().to_owned()).collect();
            match head.trim().rsplit_once(char::is_whitespace) {
                Some((key, "in")) => (key, Operator::In(set)),
                Some((key, "notin")) => (key, Operator::NotIn(set)),
                _ => return Err(refuse()),
            }
        } else {
            (text, Operator::Exists)
        };
        let key = key.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(legal) {
            return Err(refuse());
        }
        Ok(Self { key: key.to_owned(), operator })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(set) => value.is_some_and(|v| set.iter().any(|s| s == v)),
            Operator::NotIn(set) => value.is_none_or(|v| set.iter().all(|s| s != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0u32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// A field selector: every comparison must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Comparison>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparison {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses `metadata.name=a,status.phase!=Running`.
    ///
    /// # Errors
    /// 400 for what cannot be read, and for a field this resource cannot be selected by.
    pub fn parse(text: &str, resource: &Resource) -> Result<Self, ApiError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let comparisons = parts.map(|part| {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, value, true)
            } else {
                let message = format!("invalid selector: {text:?}; can't understand {part:?}");
                return Err(ApiError::bad_request(message));
            };
            let always = path == "metadata.name" || (path == "metadata.namespace" && resource.namespaced);
            if !always && !resource.selectable_fields.iter().any(|field| field == path) {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
            Ok(Comparison { path: path.to_owned(), value: value.to_owned(), equal })
        });
        comparisons.collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object's fields meet it; a field that is not there counts as empty.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|comparison| {
            let found = comparison.path.split('.').fold(object, |value, name| &value[name]);
            let same = match found {
                Value::String(text) => *text == comparison.value,
                Value::Null => comparison.value.is_empty(),
                Value::Bool(flag) => comparison.value == if *flag { "true" } else { "false" },
                Value::Number(number) => number.to_string() == comparison.value,
                Value::Array(_) | Value::Object(_) => false,
            };
            same == comparison.equal
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str) -> bool {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "2", "example.com/x": ""}}});
        LabelSelector::parse(selector).expect(selector).matches(&object)
    }

    #[test]
    fn every_operator_of_label_selectors() {
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "app in (db, web)",
            "app notin (db,cache)",
            "app",
            "!gone",
            "tier>1",
            "tier<3",
            "gone!=x",
            "gone notin (a)",
            "example.com/x=",
            "app in (web),tier,!gone",
        ] {
            assert!(selects(yes), "{yes}");
        }
        for no in ["app=db", "app!=web", "app in (db)", "app notin (web)", "gone", "!app", "tier>2", "app>1"]
        {
            assert!(!selects(no), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for bad in ["app in web", "app in (web", "a b c", "=x", "x>y"] {
            let error = LabelSelector::parse(bad).expect_err(bad);
            assert_eq!(error.code, 400);
            assert!(error.message.contains("unable to parse requirement"), "{error}");
        }
    }
}
