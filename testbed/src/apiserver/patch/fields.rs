//! Sets of fields, in the notation of `managedFields` (`FieldsV1`).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::schema::shape::{self, Shape};

/// The way to a field: `f:name` into an object, `k:{...}` to a list item by its keys, `v:...` to a set's member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<String>);

/// A set of fields. A path is in it for every leaf, and for every list item besides its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeSet<Path>);

impl Fields {
    /// The fields an object sets, without those that only say which object it is.
    pub fn of(object: &Value, schema: &Value) -> Self {
        let mut fields = Self::default();
        fields.gather(object, Some(schema), Path(Vec::new()));
        fields.0.retain(|path| !path.is_identity());
        fields
    }

    fn gather(&mut self, value: &Value, schema: Option<&Value>, at: Path) {
        match (shape::of(schema, value), value) {
            (Shape::Fields, Value::Object(fields)) if !fields.is_empty() => {
                for (name, value) in fields {
                    self.gather(value, shape::field(schema, name), at.child(format!("f:{name}")));
                }
            }
            (Shape::ListMap(keys), Value::Array(items)) if !items.is_empty() => {
                let schema = shape::items(schema);
                for item in items {
                    let identity = Value::Object(shape::identity(&keys, schema, item));
                    let at = at.child(format!("k:{identity}"));
                    self.0.insert(at.clone());
                    self.gather(item, schema, at);
                }
            }
            (Shape::ListSet, Value::Array(items)) if !items.is_empty() => {
                self.0.extend(items.iter().map(|item| at.child(format!("v:{item}"))));
            }
            _ => {
                self.0.insert(at);
            }
        }
    }

    /// Reads `fieldsV1`.
    pub fn from_json(json: &Value) -> Self {
        fn walk(json: &Value, at: Path, into: &mut BTreeSet<Path>) {
            let Some(children) = json.as_object().filter(|children| !children.is_empty()) else {
                into.insert(at);
                return;
            };
            for (name, child) in children {
                let at = if name == "." { at.clone() } else { at.child(name.clone()) };
                walk(child, at, into);
            }
        }
        let mut fields = BTreeSet::new();
        walk(json, Path(Vec::new()), &mut fields);
        fields.remove(&Path(Vec::new()));
        Self(fields)
    }

    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut node = &mut root;
            for step in &path.0 {
                let child = node.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(child) = child else { return Value::Null };
                node = child;
            }
            if self.has_below(path) {
                node.insert(".".to_owned(), Value::Object(Map::new()));
            }
        }
        Value::Object(root)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths in order: a list item before its fields.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.0.iter()
    }

    /// Whether this very path is in it.
    pub fn contains(&self, path: &Path) -> bool {
        self.0.contains(path)
    }

    /// Whether a path below this one is in it.
    pub fn has_below(&self, path: &Path) -> bool {
        let mut after = self.0.range(path.clone()..).skip_while(|other| *other == path);
        after.next().is_some_and(|other| other.0.starts_with(&path.0))
    }

    /// Takes paths in.
    pub fn extend(&mut self, paths: impl IntoIterator<Item = Path>) {
        self.0.extend(paths);
    }

    /// Takes paths out.
    pub fn subtract<'p>(&mut self, paths: impl IntoIterator<Item = &'p Path>) {
        for path in paths {
            self.0.remove(path);
        }
    }
}

impl Path {
    fn child(&self, step: String) -> Self {
        let mut path = self.clone();
        path.0.push(step);
        path
    }

    /// Fields that name the object, or are the server's own.
    fn is_identity(&self) -> bool {
        const METADATA: &[&str] = &[
            "f:name",
            "f:namespace",
            "f:uid",
            "f:resourceVersion",
            "f:generation",
            "f:generateName",
            "f:creationTimestamp",
            "f:deletionTimestamp",
            "f:deletionGracePeriodSeconds",
            "f:managedFields",
            "f:selfLink",
        ];
        match self.0.as_slice() {
            [first] => ["f:apiVersion", "f:kind", "f:metadata"].contains(&first.as_str()),
            [first, second, ..] => first == "f:metadata" && METADATA.contains(&second.as_str()),
            [] => true,
        }
    }

    /// The value at this path.
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, step| match step.split_at_checked(2)? {
            ("f:", name) => value.get(name),
            _ => value.as_array()?.get(place(value, step)?),
        })
    }

    /// Removes the value at this path, and then what is left empty by it, but not an item's own object.
    pub fn remove(&self, value: &mut Value) {
        remove(&self.0, value);
    }
}

fn remove(path: &[String], value: &mut Value) {
    let Some((step, rest)) = path.split_first() else { return };
    if let Some(name) = step.strip_prefix("f:") {
        let Some(fields) = value.as_object_mut() else { return };
        let Some(child) = fields.get_mut(name) else { return };
        remove(rest, child);
        let empty =
            child.as_object().is_some_and(Map::is_empty) || child.as_array().is_some_and(Vec::is_empty);
        if rest.is_empty() || empty {
            fields.remove(name);
        }
    } else if let Some(at) = place(value, step)
        && let Some(items) = value.as_array_mut()
    {
        match rest {
            [] => drop(items.remove(at)),
            _ => remove(rest, &mut items[at]),
        }
    }
}

/// Where in a list the item is that a `k:` or `v:` step means.
fn place(list: &Value, step: &str) -> Option<usize> {
    let (mark, wanted) = step.split_at_checked(2)?;
    let wanted: Value = serde_json::from_str(wanted).ok()?;
    let same = |item: &Value| match (mark, &wanted) {
        // A key the item leaves out stands for the schema's default, which the step carries.
        ("k:", Value::Object(keys)) => {
            keys.iter().all(|(key, value)| item.get(key).is_none_or(|v| v == value))
        }
        _ => *item == wanted,
    };
    list.as_array()?.iter().position(same)
}

impl std::fmt::Display for Path {
    /// As conflicts name it: `.spec.ports[port=80,protocol="TCP"].name`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.0 {
            match step.split_at_checked(2) {
                Some(("f:", name)) => write!(f, ".{name}")?,
                Some(("k:", keys)) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    write!(f, "[{}]", keys.join(","))?;
                }
                Some((_, value)) => write!(f, "[={value}]")?,
                None => f.write_str(step)?,
            }
        }
        Ok(())
    }
}
