//! Label selectors, parsed: what cannot be meant is refused in words before it selects the wrong objects.

use std::collections::BTreeSet;
use std::fmt;
use std::slice;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::model::labels::Labelled;

/// A parsed `LabelSelector`; without requirements it selects everything. Two that say the same with other words in
/// another order are equal. Cloned by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<[Requirement]>);

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// There, with one of these values; at least one.
    In(Box<str>, Values),
    /// Not there, or with none of these values.
    NotIn(Box<str>, Values),
    /// There.
    Exists(Box<str>),
    /// Not there.
    DoesNotExist(Box<str>),
}

/// Values of a label, in order, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Values(Box<[Box<str>]>);

impl Values {
    /// All of them.
    pub fn iter(&self) -> slice::Iter<'_, Box<str>> {
        self.0.iter()
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, value: &str) -> bool {
        self.0.binary_search_by(|mine| (**mine).cmp(value)).is_ok()
    }
}

impl<S: Into<Box<str>>> FromIterator<S> for Values {
    fn from_iter<I: IntoIterator<Item = S>>(values: I) -> Self {
        let values: BTreeSet<Box<str>> = values.into_iter().map(Into::into).collect();
        Self(values.into_iter().collect())
    }
}

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
    pub fn matches(&self, labels: &impl Labelled) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// What must hold, all of it.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn matches(&self, labels: &impl Labelled) -> bool {
        match self {
            Self::In(key, values) => labels.label(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.label(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.label(key).is_some(),
            Self::DoesNotExist(key) => labels.label(key).is_none(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// As `kubectl --selector` takes it.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &Values| values.0.join(",");
        match self {
            Self::In(key, values) => match &*values.0 {
                [value] => write!(f, "{key}={value}"),
                _ => write!(f, "{key} in ({})", list(values)),
            },
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        let requirements: BTreeSet<Requirement> = requirements.into_iter().collect();
        Self(requirements.into_iter().collect())
    }
}

/// No selector selects everything, as an empty one does.
impl TryFrom<Option<LabelSelector>> for Selector {
    type Error = SelectorError;

    fn try_from(selector: Option<LabelSelector>) -> Result<Self, SelectorError> {
        selector.map_or_else(|| Ok(Self::default()), Self::try_from)
    }
}

impl TryFrom<LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(selector: LabelSelector) -> Result<Self, SelectorError> {
        let equal = selector.match_labels.unwrap_or_default().into_iter();
        let equal = equal.map(|(key, value)| Ok(Requirement::In(key.into(), Values::from_iter([value]))));
        let expressions = selector.match_expressions.unwrap_or_default().into_iter().map(requirement);
        equal.chain(expressions).collect()
    }
}

fn requirement(requirement: LabelSelectorRequirement) -> Result<Requirement, SelectorError> {
    let LabelSelectorRequirement { key, operator, values } = requirement;
    let values = values.unwrap_or_default();
    match (operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Requirement::In(key.into(), values.into_iter().collect())),
        ("NotIn", false) => Ok(Requirement::NotIn(key.into(), values.into_iter().collect())),
        ("Exists", true) => Ok(Requirement::Exists(key.into())),
        ("DoesNotExist", true) => Ok(Requirement::DoesNotExist(key.into())),
        ("In" | "NotIn", true) => Err(SelectorError::NoValues { key, operator }),
        ("Exists" | "DoesNotExist", false) => Err(SelectorError::Values { key, operator }),
        _ => Err(SelectorError::Operator { key, operator }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
