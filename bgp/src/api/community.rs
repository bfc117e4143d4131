//! Communities as people write them, of whatever kind: two numbers, three, or a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wire::{Community, LargeCommunity};

/// A community of any kind, told apart by its form: `64512:100`, `no-export` (RFC 1997), `64512:1:2` (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CommunityValue {
    /// RFC 1997.
    Standard(Community),
    /// RFC 8092.
    Large(LargeCommunity),
}

/// A set of communities: as a [`CommunityValue`], with `*` for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CommunityPattern {
    /// Of RFC 1997.
    Standard([Option<u16>; 2]),
    /// Of RFC 8092.
    Large([Option<u32>; 3]),
}

/// A text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommunityError {
    /// No value.
    #[error(
        "\"{0}\" is not a community: expected asn:value (both 0 to 65535), three numbers up to 4294967295 as in 64512:1:2, \
         or a well-known name such as no-export"
    )]
    Value(String),
    /// No pattern.
    #[error(
        "\"{0}\" is no pattern of communities: expected a community, with * for any number, as in 64512:* or 64512:1:*"
    )]
    Pattern(String),
}

impl CommunityPattern {
    /// Whether a standard community is one of these.
    pub fn has(self, Community(community): Community) -> bool {
        let halves = [(community >> 16) as u16, community as u16];
        matches!(self, Self::Standard(parts) if fits(parts, halves))
    }

    /// Whether a large community is one of these.
    pub fn has_large(self, LargeCommunity(admin, one, two): LargeCommunity) -> bool {
        matches!(self, Self::Large(parts) if fits(parts, [admin, one, two]))
    }
}

fn fits<T: PartialEq, const N: usize>(parts: [Option<T>; N], values: [T; N]) -> bool {
    parts.into_iter().zip(values).all(|(part, value)| part.is_none_or(|part| part == value))
}

/// `N` numbers, `*` for any.
fn parts<T: FromStr, const N: usize>(text: &str) -> Option<[Option<T>; N]> {
    let part = |part: &str| if part == "*" { Some(None) } else { part.parse().ok().map(Some) };
    let parts: Option<Vec<_>> = text.split(':').map(part).collect();
    parts?.try_into().ok()
}

impl FromStr for CommunityValue {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Some([Some(admin), Some(one), Some(two)]) = parts(text) {
            return Ok(Self::Large(LargeCommunity(admin, one, two)));
        }
        text.parse().map(Self::Standard).map_err(|_| CommunityError::Value(text.to_owned()))
    }
}

impl FromStr for CommunityPattern {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Ok(Community(value)) = text.parse() {
            return Ok(Self::Standard([Some((value >> 16) as u16), Some(value as u16)]));
        }
        let standard = parts(text).map(Self::Standard);
        let known = standard.or_else(|| parts(text).map(Self::Large));
        known.ok_or_else(|| CommunityError::Pattern(text.to_owned()))
    }
}

impl fmt::Display for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(community) => community.fmt(f),
            Self::Large(community) => community.fmt(f),
        }
    }
}

impl fmt::Display for CommunityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part<T: fmt::Display>(part: &Option<T>) -> String {
            part.as_ref().map_or_else(|| "*".to_owned(), T::to_string)
        }
        match self {
            Self::Standard([Some(asn), Some(value)]) => {
                Community(u32::from(*asn) << 16 | u32::from(*value)).fmt(f)
            }
            Self::Standard([asn, value]) => write!(f, "{}:{}", part(asn), part(value)),
            Self::Large([admin, one, two]) => write!(f, "{}:{}:{}", part(admin), part(one), part(two)),
        }
    }
}

impl TryFrom<String> for CommunityValue {
    type Error = CommunityError;

    fn try_from(text: String) -> Result<Self, CommunityError> {
        text.parse()
    }
}

impl TryFrom<String> for CommunityPattern {
    type Error = CommunityError;

    fn try_from(text: String) -> Result<Self, CommunityError> {
        text.parse()
    }
}

impl From<CommunityValue> for String {
    fn from(value: CommunityValue) -> Self {
        value.to_string()
    }
}

impl From<CommunityPattern> for String {
    fn from(pattern: CommunityPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_and_patterns_are_shown_as_they_are_typed() {
        for text in ["64512:100", "no-export", "4200000000:1:2"] {
            assert_eq!(text.parse::<CommunityValue>().unwrap().to_string(), text);
        }
        for text in ["64512:*", "*:*", "64512:100", "blackhole", "1:*:3", "*:*:*"] {
            assert_eq!(text.parse::<CommunityPattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_star_stands_for_any_number_of_its_place_and_kind() {
        let pattern = |text: &str| text.parse::<CommunityPattern>().unwrap();
        assert!(pattern("1:*").has(Community(1 << 16 | 7)) && !pattern("1:*").has(Community(2 << 16 | 7)));
        assert!(pattern("*:*:3").has_large(LargeCommunity(1, 2, 3)));
        assert!(!pattern("*:*:3").has_large(LargeCommunity(1, 2, 4)));
        assert!(!pattern("*:*:*").has(Community(7)) && !pattern("*:*").has_large(LargeCommunity(1, 2, 3)));
        assert!(pattern("no-export").has(Community::NO_EXPORT));
    }

    #[test]
    fn a_bad_text_is_refused_in_words() {
        for text in ["", "1", "65536:1", "1:2:3:4", "1:4294967296:1", "a:b"] {
            assert!(
                text.parse::<CommunityValue>().unwrap_err().to_string().contains("expected asn:value"),
                "{text}"
            );
            assert!(
                text.parse::<CommunityPattern>().unwrap_err().to_string().contains("expected a community"),
                "{text}"
            );
        }
        assert!("1:*".parse::<CommunityValue>().is_err());
    }
}
