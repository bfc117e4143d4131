//! What every leaf parser shares: the error, and the few shapes nom lacks.
//!
//! nom is used below here only. Nothing sees an incomplete input: a leaf is given exactly the octets
//! its length field promised, and [`all`] makes sure it used them.

use nom::Parser;
use nom::bytes::complete::take;
use nom::error::{ErrorKind, ParseError};

/// What a leaf gives back.
pub(super) type Parsed<'a, T> = nom::IResult<&'a [u8], T, WireError<'a>>;

/// Octets that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError<'a> {
    /// The input ends too early; what is left.
    #[error("it ends too early: {} octets are left", .0.len())]
    Short(&'a [u8]),
    /// The input goes on where it should end; what is left.
    #[error("{} octets too many", .0.len())]
    Trailing(&'a [u8]),
    /// A value that may not be there.
    #[error("{0}")]
    Value(String),
}

impl<'a> ParseError<&'a [u8]> for WireError<'a> {
    /// The leaves use only parsers that fail for want of octets.
    fn from_error_kind(input: &'a [u8], _: ErrorKind) -> Self {
        Self::Short(input)
    }

    fn append(_: &'a [u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// Fails in words at a value that was read but may not be there.
pub(super) fn refuse<T>(why: impl Into<String>) -> Parsed<'static, T> {
    Err(nom::Err::Failure(WireError::Value(why.into())))
}

/// Runs `parser` over all of `input`.
pub(super) fn all<'a, T>(
    input: &'a [u8],
    mut parser: impl Parser<&'a [u8], Output = T, Error = WireError<'a>>,
) -> Result<T, WireError<'a>> {
    match parser.parse(input) {
        Ok(([], value)) => Ok(value),
        Ok((rest, _)) => Err(WireError::Trailing(rest)),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error),
        Err(nom::Err::Incomplete(_)) => Err(WireError::Short(input)),
    }
}

/// Runs `parser` again and again until `input` is used up.
pub(super) fn every<'a, T>(
    input: &'a [u8],
    parser: impl Parser<&'a [u8], Output = T, Error = WireError<'a>>,
) -> Result<Vec<T>, WireError<'a>> {
    // They are held in numbers: exact where a value takes as much on the wire as here.
    let mut values = Vec::with_capacity(input.len() / size_of::<T>());
    each(input, parser, |value| values.push(value))?;
    values.shrink_to_fit();
    Ok(values)
}

/// Likewise, and gives each value to `take`.
pub(super) fn each<'a, T>(
    mut input: &'a [u8],
    mut parser: impl Parser<&'a [u8], Output = T, Error = WireError<'a>>,
    mut take: impl FnMut(T),
) -> Result<(), WireError<'a>> {
    while !input.is_empty() {
        match parser.parse(input) {
            Ok((rest, value)) => {
                input = rest;
                take(value);
            }
            Err(nom::Err::Error(error) | nom::Err::Failure(error)) => return Err(error),
            Err(nom::Err::Incomplete(_)) => return Err(WireError::Short(input)),
        }
    }
    Ok(())
}

/// `N` octets by value.
pub(super) fn octets<const N: usize>(input: &[u8]) -> Parsed<'_, [u8; N]> {
    let (rest, octets) = take(N)(input)?;
    Ok((rest, octets.try_into().unwrap_or([0; N])))
}

#[cfg(test)]
mod tests {
    use nom::number::complete::be_u16;

    use super::*;

    #[test]
    fn what_is_left_or_lacking_is_told() {
        assert_eq!(all(&[1, 2], be_u16), Ok(0x0102));
        assert_eq!(all(&[1, 2, 3], be_u16), Err(WireError::Trailing(&[3])));
        assert_eq!(all(&[1], be_u16), Err(WireError::Short(&[1])));
        assert_eq!(every(&[1, 2, 3], be_u16), Err(WireError::Short(&[3])));
    }
}
