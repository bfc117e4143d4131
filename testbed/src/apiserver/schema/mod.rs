//! Structural OpenAPI v3 schemas: pruning, defaulting, validation with its rules, and the shape of lists.

mod default;
mod prune;
mod rules;
pub mod shape;
mod validate;

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{builtin, error::Cause};

/// The schema of one version of a kind.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    validator: OnceLock<Result<jsonschema::Validator, String>>,
    rules: OnceLock<Result<rules::Programs, String>>,
}

impl Schema {
    /// A schema, completed by what every object has: `apiVersion`, `kind` and `metadata`.
    pub fn new(mut root: Value) -> Self {
        if !root["properties"].is_object() {
            root["properties"] = json!({});
        }
        for (name, schema) in builtin::type_meta() {
            root["properties"][name] = schema.clone();
        }
        Self { root, validator: OnceLock::new(), rules: OnceLock::new() }
    }

    /// The OpenAPI v3 document of it.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Removes what the schema does not know and nulls where none is allowed; gives the unknown fields' paths.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune::prune(&self.root, object, "", &mut unknown);
        unknown
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        default::fill(&self.root, object);
    }

    /// Everything wrong with the object that is to be there in place of an old one. Rules are looked at where types are
    /// right, as by the real server.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let broken = |why: &str| vec![Cause::invalid("", &Value::Null, why)];
        let causes = match self.validator() {
            Ok(validator) => validate::causes(validator, object),
            Err(why) => broken(why),
        };
        match self.rules() {
            Ok(rules) if causes.is_empty() => rules::causes(rules, &self.root, object, old),
            Ok(_) => causes,
            Err(why) => broken(why),
        }
    }

    /// Whether the schema itself can be used.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        self.validator().map(|_| ()).and_then(|()| self.rules().map(|_| ())).map_err(str::to_owned)
    }

    fn validator(&self) -> Result<&jsonschema::Validator, &str> {
        self.validator.get_or_init(|| validate::compile(&self.root)).as_ref().map_err(String::as_str)
    }

    fn rules(&self) -> Result<&rules::Programs, &str> {
        self.rules.get_or_init(|| rules::compile(&self.root)).as_ref().map_err(String::as_str)
    }
}

/// `a.b`, or `b` at the root.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name].as_bool().unwrap_or(false)
}

#[cfg(test)]
mod tests;
