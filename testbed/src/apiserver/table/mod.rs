//! `as=Table`: what `kubectl get` prints is decided here, by the server.

mod age;
mod builtin;
pub mod jsonpath;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use builtin::builtin_columns;
use jsonpath::JsonPath;

/// The columns of a kind after its name.
#[derive(Clone, Debug, Default)]
pub struct Columns(pub Vec<Column>);

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// OpenAPI format, often empty.
    pub format: String,
    /// Explains the column.
    pub description: String,
    /// Shown always at 0, only with `-o wide` above.
    pub priority: i64,
    /// Where the cell comes from.
    pub source: Source,
}

/// Where a cell comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The first value at a path in the object.
    Path(JsonPath),
    /// Computed from the object.
    Computed(fn(&Value, Timestamp) -> Value),
}

/// How much of each object goes with its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// Whether a table says its columns; only the first of a watch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// With column definitions.
    With,
    /// Without: they are those of the table before.
    Without,
}

/// The Table of these objects. `metadata` is the list's.
pub fn render<'a>(
    columns: &Columns,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
    heading: Heading,
) -> Value {
    let now = Timestamp::now();
    let row = |object: &Value| {
        let name = object["metadata"]["name"].clone();
        let cells = columns.0.iter().map(|column| column.cell(object, now));
        let cells: Vec<_> = std::iter::once(name).chain(cells).collect();
        match include {
            Include::None => json!({"cells": cells}),
            Include::Metadata => json!({"cells": cells, "object": partial(object)}),
            Include::Object => json!({"cells": cells, "object": object}),
        }
    };
    let rows: Vec<_> = objects.map(row).collect();
    let definitions = match heading {
        Heading::With => columns.definitions(),
        Heading::Without => Vec::new(),
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// The object's metadata alone (`as=PartialObjectMetadata`).
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}

impl Columns {
    fn definitions(&self) -> Vec<Value> {
        let about = "Name must be unique within a namespace.";
        let name = json!({
            "name": "Name", "type": "string", "format": "name", "description": about, "priority": 0,
        });
        let rest = self.0.iter().map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        });
        std::iter::once(name).chain(rest).collect()
    }
}

impl Column {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let path = match &self.source {
            Source::Computed(compute) => return compute(object, now),
            Source::Path(path) => path,
        };
        // A path gives one value or none; of more, the real server too takes the first.
        let Some(value) = path.find(object).into_iter().next() else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("date", Value::String(text)) => age::since(text, now).into(),
            ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("string", Value::String(text)) => text.clone().into(),
            ("string", other) => other.to_string().into(),
            _ => Value::Null,
        }
    }
}
