//! Calico's BGPFilters as Manx's: rule by rule, and only whole. A filter of which one rule was left out would let
//! through what it is there to keep out.

use serde_json::{Map, Value, json};

/// Direction and family, as Calico calls them, with the range of all of the family.
const LISTS: [(&str, &str, &str); 4] = [
    ("importV4", "import", "0.0.0.0/0"),
    ("importV6", "import", "::/0"),
    ("exportV4", "export", "0.0.0.0/0"),
    ("exportV6", "export", "::/0"),
];

/// The spec, and what of it is done otherwise.
///
/// # Errors
/// What of it has no counterpart, in words.
pub fn convert(mut spec: Map<String, Value>, own_as: u64) -> Result<(Value, Vec<String>), Vec<String>> {
    let mut converted = json!({});
    let (mut notes, mut missing) = (Vec::new(), Vec::new());
    for (theirs, ours, all) in LISTS {
        let Some(Value::Array(rules)) = spec.remove(theirs) else { continue };
        for (index, rule) in rules.into_iter().enumerate() {
            let mut reading = Reading {
                at: format!("spec.{theirs}[{index}]"),
                rule: rule.as_object().cloned().unwrap_or_default(),
                notes: &mut notes,
                missing: &mut missing,
            };
            let rule = reading.rule(ours, all, own_as);
            match converted[ours].as_array_mut() {
                Some(rules) => rules.push(rule),
                None => converted[ours] = json!([rule]),
            }
        }
    }
    missing.extend(spec.iter().map(|(key, value)| format!("spec.{key} has no counterpart: it was {value}")));
    if missing.is_empty() { Ok((converted, notes)) } else { Err(missing) }
}

struct Reading<'a> {
    at: String,
    rule: Map<String, Value>,
    notes: &'a mut Vec<String>,
    missing: &'a mut Vec<String>,
}

impl Reading<'_> {
    fn miss(&mut self, what: impl AsRef<str>) {
        self.missing.push(format!("{}{}", self.at, what.as_ref()));
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.rule.remove(key)?.as_str().map(str::to_owned).filter(|text| !text.is_empty())
    }

    fn rule(&mut self, direction: &str, all: &str, own_as: u64) -> Value {
        let mut matches = json!({ "prefixes": [self.prefix(all)] });
        let learned = self.text("source").as_deref() == Some("RemotePeers");
        if direction == "export" {
            // Manx's export rules mean what begins on the node unless they say otherwise; Calico's mean all.
            matches["source"] = json!(if learned { "Learned" } else { "Any" });
        }
        if let Some(communities) = self.rule.remove("communities") {
            matches["communities"] = communities["values"].clone();
        }
        let mut rule = json!({ "match": matches, "action": self.text("action").unwrap_or_default() });
        if let Some(Value::Array(operations)) = self.rule.remove("operations") {
            let set = self.operations(&operations, own_as);
            if !set.is_empty() {
                rule["set"] = Value::Object(set);
            }
        }
        for (key, value) in std::mem::take(&mut self.rule) {
            let empty = value.is_null() || value == "" || value == json!([]);
            if !empty {
                self.miss(format!(".{key} has no counterpart: it was {value}"));
            }
        }
        rule
    }

    /// Which prefixes a rule means; those of its family where it says none.
    fn prefix(&mut self, all: &str) -> Value {
        let lengths = self.rule.remove("prefixLength").unwrap_or_default();
        let operator = self.text("matchOperator");
        let Some(cidr) = self.text("cidr") else { return json!({ "cidr": all, "minLength": 0 }) };
        match operator.as_deref() {
            Some("Equal") => json!({ "cidr": cidr }),
            Some("In") => {
                let own = cidr.split('/').nth(1).and_then(|length| length.parse::<u64>().ok());
                let mut prefix = json!({ "cidr": cidr, "minLength": lengths["min"].as_u64().or(own) });
                if let Some(max) = lengths["max"].as_u64() {
                    prefix["maxLength"] = json!(max);
                }
                prefix
            }
            other => {
                let other = other.unwrap_or("nothing").to_owned();
                self.miss(format!(
                    ".matchOperator was {other}: Manx's rules say what they mean, not what they do not; a rule for {cidr} \
                     before one for the rest does the same"
                ));
                Value::Null
            }
        }
    }

    fn operations(&mut self, operations: &[Value], own_as: u64) -> Map<String, Value> {
        let (mut communities, mut prepended) = (Vec::new(), 0);
        for operation in operations {
            if let Some(community) = operation["addCommunity"]["value"].as_str() {
                communities.push(json!(community));
            } else if let Some(path) = operation["prependASPath"]["prefix"].as_array() {
                if path.iter().any(|asn| super::calico::number(asn) != Some(own_as)) {
                    let path = operation["prependASPath"]["prefix"].clone();
                    self.miss(format!(
                        ".operations: Manx puts its own AS in front, {own_as}, and no other: it was {path}"
                    ));
                }
                prepended += path.len();
            } else if !operation["setPriority"].is_null() {
                self.notes.push(format!(
                    "{}.operations: Manx's routes have one metric (--route-metric); setPriority is left out",
                    self.at
                ));
            } else {
                self.miss(format!(".operations: {operation} has no counterpart"));
            }
        }
        let mut set = Map::new();
        if !communities.is_empty() {
            set.insert("addCommunities".to_owned(), Value::Array(communities));
        }
        if prepended > 0 {
            set.insert("prepend".to_owned(), json!(prepended));
        }
        set
    }
}
