//! AS_PATH (2): RFC 4271, section 5.1.2; RFC 5065; RFC 6793; RFC 7606, section 7.2.

use std::fmt;

use nom::Parser;
use nom::combinator::map;
use nom::multi::count;
use nom::number::complete::{be_u8, be_u16, be_u32};
use smallvec::SmallVec;

use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::TRANSITIVE, segment};
use crate::types::{AS_TRANS, Asn};
use crate::wire::Session;
use crate::wire::parse::{Parsed, WireError, each, refuse};

/// RFC 4271, section 5.1.2. Almost all have one segment, and a table holds them in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub SmallVec<[Segment; 1]>);

/// Part of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// AS_SET (1): unordered, counts as one.
    Set(Vec<Asn>),
    /// AS_SEQUENCE (2): nearest first.
    Sequence(Vec<Asn>),
    /// AS_CONFED_SEQUENCE (3), RFC 5065: counts as none.
    ConfedSequence(Vec<Asn>),
    /// AS_CONFED_SET (4), RFC 5065: counts as none.
    ConfedSet(Vec<Asn>),
}

/// A segment's count is one octet (RFC 4271, section 4.3).
pub(super) const MAX_SEGMENT: usize = 255;

impl From<Vec<Segment>> for AsPath {
    fn from(segments: Vec<Segment>) -> Self {
        Self(segments.into())
    }
}

impl AsPath {
    /// What the decision process compares: RFC 4271, section 9.1.2.2 a; RFC 5065, section 5.3.
    pub fn length(&self) -> usize {
        self.0.iter().map(Segment::length).sum()
    }

    /// How many of its members are among those wanted.
    pub fn count(&self, wanted: impl Fn(Asn) -> bool) -> usize {
        self.0.iter().flat_map(Segment::asns).filter(|asn| wanted(**asn)).count()
    }

    /// The AS the path was learned from, where it can be told: the first of a leading AS_SEQUENCE
    /// (RFC 4271, section 9.1.2.2 c).
    pub fn neighbour(&self) -> Option<Asn> {
        match self.0.iter().find(|segment| !segment.is_confed())? {
            Segment::Sequence(asns) => asns.first().copied(),
            _ => None,
        }
    }

    /// Puts `asn` in front: RFC 4271, section 5.1.2 b.
    pub fn prepend(&mut self, asn: Asn) {
        match self.0.first_mut() {
            Some(Segment::Sequence(asns)) if asns.len() < MAX_SEGMENT => asns.insert(0, asn),
            _ => self.0.insert(0, Segment::Sequence(vec![asn])),
        }
    }
}

impl Segment {
    /// Its members.
    pub fn asns(&self) -> &[Asn] {
        match self {
            Self::Set(asns) | Self::Sequence(asns) | Self::ConfedSequence(asns) | Self::ConfedSet(asns) => {
                asns
            }
        }
    }

    /// Whether it stays inside a confederation (RFC 5065).
    pub fn is_confed(&self) -> bool {
        matches!(self, Self::ConfedSequence(_) | Self::ConfedSet(_))
    }

    fn length(&self) -> usize {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(asns) => asns.len(),
            Self::ConfedSequence(_) | Self::ConfedSet(_) => 0,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Set(_) => segment::AS_SET,
            Self::Sequence(_) => segment::AS_SEQUENCE,
            Self::ConfedSequence(_) => segment::AS_CONFED_SEQUENCE,
            Self::ConfedSet(_) => segment::AS_CONFED_SET,
        }
    }
}

/// As people write it: `65001 64512 {64513 64514} (64600) [64601]`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            let (open, close) = match segment {
                Segment::Set(_) => ("{", "}"),
                Segment::Sequence(_) => ("", ""),
                Segment::ConfedSequence(_) => ("(", ")"),
                Segment::ConfedSet(_) => ("[", "]"),
            };
            f.write_str(if i == 0 { open } else { " " })?;
            f.write_str(if i == 0 { "" } else { open })?;
            for (j, asn) in segment.asns().iter().enumerate() {
                write!(f, "{}{}", if j == 0 { "" } else { " " }, asn.0)?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    let path = segments(value, session.asn4)?;
    // RFC 5065, section 5: an error from a neighbour outside the confederation.
    if session.ebgp && path.0.iter().any(Segment::is_confed) {
        return Err(WireError::Value("an external neighbour sent confederation segments".into()).into());
    }
    draft.as_path = Some(path);
    Ok(())
}

/// All segments of an AS_PATH or AS4_PATH, with AS numbers of four octets or two.
pub(super) fn segments(value: &[u8], asn4: bool) -> Result<AsPath, WireError<'_>> {
    let asn = move |input| if asn4 { be_u32(input) } else { map(be_u16, u32::from).parse(input) };
    let mut path = AsPath::default();
    each(value, |input| one_segment(input, asn), |segment| path.0.push(segment))?;
    Ok(path)
}

fn one_segment<'a>(input: &'a [u8], asn: impl Fn(&'a [u8]) -> Parsed<'a, u32>) -> Parsed<'a, Segment> {
    let (input, (kind, length)) = (be_u8, be_u8).parse(input)?;
    if length == 0 {
        return refuse("a segment is empty");
    }
    let (rest, asns) = count(map(asn, Asn), length.into()).parse(input)?;
    if asns.contains(&Asn(0)) {
        return refuse("it contains AS 0 (RFC 7607)");
    }
    let segment = match kind {
        segment::AS_SET => Segment::Set(asns),
        segment::AS_SEQUENCE => Segment::Sequence(asns),
        segment::AS_CONFED_SEQUENCE => Segment::ConfedSequence(asns),
        segment::AS_CONFED_SET => Segment::ConfedSet(asns),
        other => return refuse(format!("segment type {other} is not 1 to 4")),
    };
    Ok((rest, segment))
}

/// To a neighbour of two-octet AS numbers those that do not fit are AS_TRANS (RFC 6793, section 4.2.2).
pub(super) fn write(path: &AsPath, session: &Session, out: &mut Vec<u8>) {
    put(TRANSITIVE, attribute::AS_PATH, out, |out| write_segments(&path.0, session.asn4, out));
}

/// Segments too long for their count are cut into several.
pub(super) fn write_segments<'a>(
    segments: impl IntoIterator<Item = &'a Segment>,
    asn4: bool,
    out: &mut Vec<u8>,
) {
    for segment in segments {
        for asns in segment.asns().chunks(MAX_SEGMENT) {
            out.extend([segment.kind(), asns.len() as u8]);
            for asn in asns {
                if asn4 {
                    out.extend(asn.0.to_be_bytes());
                } else {
                    out.extend(two_octets(*asn).to_be_bytes());
                }
            }
        }
    }
}

/// How `asn` is called where it has two octets.
pub(super) fn two_octets(asn: Asn) -> u16 {
    u16::try_from(asn.0).unwrap_or(AS_TRANS.0 as u16)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn sequence(asns: &[u32]) -> Segment {
        Segment::Sequence(asns.iter().copied().map(Asn).collect())
    }

    #[test]
    fn both_widths_are_read() {
        let expected = AsPath::from(vec![sequence(&[65001, 64512]), Segment::Set(vec![Asn(64513)])]);
        assert_eq!(segments(&hex!("02 02 fde9 fc00 01 01 fc01"), false).unwrap(), expected);
        assert_eq!(segments(&hex!("02 02 0000fde9 0000fc00 01 01 0000fc01"), true).unwrap(), expected);
        assert_eq!(expected.to_string(), "65001 64512 {64513}");
        assert_eq!(expected.length(), 3);
        assert_eq!(expected.neighbour(), Some(Asn(65001)));
    }

    #[test]
    fn confederation_segments_count_as_nothing_and_name_no_neighbour() {
        let path = AsPath::from(vec![Segment::ConfedSequence(vec![Asn(64600)]), sequence(&[65001])]);
        assert_eq!((path.length(), path.neighbour()), (1, Some(Asn(65001))));
        assert_eq!(path.to_string(), "(64600) 65001");
        assert_eq!(AsPath::from(vec![Segment::Set(vec![Asn(1)])]).neighbour(), None);
    }

    #[test]
    fn a_full_segment_is_not_prepended_to_but_preceded() {
        let mut path = AsPath::from(vec![sequence(&[1; 255])]);
        path.prepend(Asn(2));
        assert_eq!(path.0[0], sequence(&[2]));
        path.prepend(Asn(3));
        assert_eq!(path.0[0], sequence(&[3, 2]));
    }

    #[test]
    fn a_sequence_longer_than_a_segment_is_written_as_two() {
        let mut out = Vec::new();
        write_segments(&[sequence(&[1; 300])], false, &mut out);
        assert_eq!(
            segments(&out, false).unwrap(),
            AsPath::from(vec![sequence(&[1; 255]), sequence(&[1; 45])])
        );
    }
}
