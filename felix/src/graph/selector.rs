//! Label selectors, parsed: what cannot be meant is refused in words before it selects the wrong nodes.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Expression, Selector as Expressions, SelectorExt};

/// A parsed `LabelSelector`; without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Expressions);

/// A selector the Kubernetes API conventions do not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// None of the four.
    #[error(
        "operator \"{operator}\" of key \"{key}\" is not known: expected In, NotIn, Exists or DoesNotExist"
    )]
    Operator {
        /// The requirement's.
        key: String,
        /// As written.
        operator: String,
    },
    /// In and NotIn need values.
    #[error("{operator} of key \"{key}\" needs at least one value")]
    NoValues {
        /// The requirement's.
        key: String,
        /// As written.
        operator: String,
    },
    /// Exists and DoesNotExist take none.
    #[error("{operator} of key \"{key}\" takes no values")]
    Values {
        /// The requirement's.
        key: String,
        /// As written.
        operator: String,
    },
}

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.selects_all() { f.write_str("everything") } else { self.0.fmt(f) }
    }
}

/// No selector selects everything, as an empty one does.
impl TryFrom<Option<LabelSelector>> for Selector {
    type Error = SelectorError;

    fn try_from(selector: Option<LabelSelector>) -> Result<Self, SelectorError> {
        let selector = selector.unwrap_or_default();
        let mut expressions: Expressions = selector.match_labels.unwrap_or_default().into_iter().collect();
        for requirement in selector.match_expressions.unwrap_or_default() {
            expressions.extend(expression(requirement)?);
        }
        Ok(Self(expressions))
    }
}

fn expression(requirement: LabelSelectorRequirement) -> Result<Expression, SelectorError> {
    let LabelSelectorRequirement { key, operator, values } = requirement;
    let values = values.unwrap_or_default();
    match (operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Expression::In(key, values.into_iter().collect())),
        ("NotIn", false) => Ok(Expression::NotIn(key, values.into_iter().collect())),
        ("Exists", true) => Ok(Expression::Exists(key)),
        ("DoesNotExist", true) => Ok(Expression::DoesNotExist(key)),
        ("In" | "NotIn", true) => Err(SelectorError::NoValues { key, operator }),
        ("Exists" | "DoesNotExist", false) => Err(SelectorError::Values { key, operator }),
        _ => Err(SelectorError::Operator { key, operator }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Result<Selector, SelectorError> {
        Selector::try_from(serde_json::from_value::<Option<LabelSelector>>(json).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_and_expressions_must_all_hold() {
        let selector = parse(serde_json::json!({
            "matchLabels": {"rack": "a"},
            "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["1", "2"]},
                {"key": "gpu", "operator": "DoesNotExist"},
                {"key": "os", "operator": "NotIn", "values": ["windows"]},
            ],
        }))
        .unwrap();
        assert!(selector.matches(&labels(&[("rack", "a"), ("zone", "2")])));
        assert!(!selector.matches(&labels(&[("rack", "b"), ("zone", "2")])));
        assert!(!selector.matches(&labels(&[("rack", "a")])));
        assert!(!selector.matches(&labels(&[("rack", "a"), ("zone", "2"), ("gpu", "")])));
        assert!(!selector.matches(&labels(&[("rack", "a"), ("zone", "2"), ("os", "windows")])));
    }

    #[test]
    fn no_selector_and_an_empty_one_select_everything() {
        for json in [serde_json::Value::Null, serde_json::json!({})] {
            let selector = parse(json).unwrap();
            assert!(selector.matches(&BTreeMap::new()));
            assert_eq!(selector.to_string(), "everything");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        let refused = |operator: &str, values: &[&str]| {
            parse(serde_json::json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused("In", &[]), "In of key \"k\" needs at least one value");
        assert_eq!(refused("Exists", &["v"]), "Exists of key \"k\" takes no values");
        assert!(refused("Gt", &["1"]).starts_with("operator \"Gt\" of key \"k\" is not known"));
    }
}
