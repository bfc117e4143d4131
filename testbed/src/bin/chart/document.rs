//! One document of the base, and the places in it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Where in the base a value lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The kind of the object.
    pub kind: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Where in it.
    pub at: At,
}

/// Where in an object.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// A JSON pointer (RFC 6901).
    Pointer(&'static str),
    /// What follows `ARGUMENT=` among the arguments of its pods' first container.
    Argument(&'static str),
    /// The same, where it is a whole number.
    Number(&'static str),
    /// The path on the host of its pods' volume of this name.
    HostPath(&'static str),
}

/// A YAML document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(Value);

const POD: &str = "/spec/template/spec";

/// The documents of a file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Document>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The documents of a text; what is nothing but comments is none.
///
/// # Errors
/// When it is no YAML.
pub fn parse(text: &str) -> anyhow::Result<Vec<Document>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).map(Document).collect())
}

impl Document {
    /// All of it.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// What is said at a place, if it is of this object and anything is.
    pub fn get(&self, place: &Place) -> Option<Value> {
        let found = self.0.pointer(&self.pointer(place)?)?;
        match place.at {
            At::Argument(name) | At::Number(name) => {
                let value = found.as_str()?.strip_prefix(name)?.strip_prefix('=')?;
                let number = matches!(place.at, At::Number(_)).then(|| value.parse::<u64>());
                number.map_or(Some(value.into()), |number| number.ok().map(Value::from))
            }
            At::Pointer(_) | At::HostPath(_) => Some(found.clone()),
        }
    }

    /// Puts a mark in the place of the value at `path`; the mark, and the expression of Helm's that is to be there.
    ///
    /// # Errors
    /// Nothing is said at the place, though it is of this object.
    pub fn take_out(
        &mut self,
        place: &Place,
        path: &str,
        index: usize,
    ) -> anyhow::Result<Option<(String, String)>> {
        if self.0["kind"] != place.kind || self.0["metadata"]["name"] != place.name {
            return Ok(None);
        }
        let nothing = || format!("{} {} says nothing at {:?}", place.kind, place.name, place.at);
        let pointer = self.pointer(place).with_context(nothing)?;
        let said = self.0.pointer_mut(&pointer).with_context(nothing)?;
        // Plain in YAML, and in no manifest.
        let mark = format!("Value{index}Of");
        *said = mark.clone().into();
        let expression = match place.at {
            At::Argument(name) => format!("{{{{ printf \"{name}=%v\" .Values.{path} | toJson }}}}"),
            // Helm reads numbers as floats, and would print large ones with an exponent.
            At::Number(name) => format!("{{{{ printf \"{name}=%d\" (int64 .Values.{path}) | toJson }}}}"),
            At::Pointer(_) | At::HostPath(_) => format!("{{{{ .Values.{path} | toJson }}}}"),
        };
        Ok(Some((mark, expression)))
    }

    /// As text, ending with a newline.
    ///
    /// # Errors
    /// The writer's.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(&self.0)?.trim_end().to_owned() + "\n")
    }

    fn pointer(&self, place: &Place) -> Option<String> {
        if self.0["kind"] != place.kind || self.0["metadata"]["name"] != place.name {
            return None;
        }
        let index_of = |list: &str, is: &dyn Fn(&Value) -> bool| {
            let items = self.0.pointer(list)?.as_array()?;
            items.iter().position(is).map(|index| format!("{list}/{index}"))
        };
        match place.at {
            At::Pointer(pointer) => Some(pointer.to_owned()),
            At::Argument(name) | At::Number(name) => {
                index_of(&format!("{POD}/containers/0/args"), &|argument| {
                    argument
                        .as_str()
                        .and_then(|text| text.split_once('='))
                        .is_some_and(|(first, _)| first == name)
                })
            }
            At::HostPath(name) => index_of(&format!("{POD}/volumes"), &|volume| volume["name"] == name)
                .map(|volume| format!("{volume}/hostPath/path")),
        }
    }
}
