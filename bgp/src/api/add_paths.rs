//! Several paths to one destination (RFC 7911), and how many of them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is offered of RFC 7911, for all families of the session. Each direction needs both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddPaths {
    /// How many paths to a destination the neighbour is told; the best alone, without path identifiers,
    /// unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<PathCount>,
    /// Take several from it.
    #[serde(default)]
    pub receive: bool,
}

/// How many paths: written as `"all"` or a number from 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCount {
    /// Every usable one.
    All,
    /// So many of the best, at least 1.
    Best(u8),
}

impl PathCount {
    /// As a bound.
    pub fn limit(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Best(count) => count.into(),
        }
    }
}

impl Serialize for PathCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Best(count) => serializer.serialize_u8(*count),
        }
    }
}

impl<'de> Deserialize<'de> for PathCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = PathCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"all\" or a number of paths from 1 to 255")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PathCount, E> {
        match text {
            "all" => Ok(PathCount::All),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<PathCount, E> {
        match u8::try_from(count) {
            Ok(count @ 1..) => Ok(PathCount::Best(count)),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(count), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<PathCount, E> {
        match u64::try_from(count) {
            Ok(count) => self.visit_u64(count),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_all_is_read_and_anything_else_refused_in_words() {
        let read = |text: &str| toml::from_str::<AddPaths>(text).map(|read| read.send);
        assert_eq!(read("receive = true"), Ok(None));
        assert_eq!(read("send = \"all\""), Ok(Some(PathCount::All)));
        assert_eq!(read("send = 3"), Ok(Some(PathCount::Best(3))));
        for bad in ["send = 0", "send = 256", "send = -1", "send = \"best\"", "send = true"] {
            let told = read(bad).unwrap_err().to_string();
            assert!(told.contains("\"all\" or a number of paths from 1 to 255"), "{told}");
        }
        for count in [PathCount::All, PathCount::Best(2)] {
            let json = serde_json::to_string(&count).unwrap();
            assert_eq!(serde_json::from_str::<PathCount>(&json).unwrap(), count);
        }
    }
}
