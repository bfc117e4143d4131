//! AS4_PATH (17): RFC 6793, sections 4.2.2, 4.2.3 and 6: the AS path as it is, beside an AS_PATH a
//! two-octet speaker can read.

use super::as_path::{MAX_SEGMENT, segments, write_segments};
use super::{AsPath, Draft, Malformed, Segment, put};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE};
use crate::types::Asn;
use crate::wire::Session;
use crate::wire::parse::WireError;

pub(super) fn parse(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    if session.asn4 {
        return Err(Malformed::discard("a neighbour with four-octet AS numbers may not send it"));
    }
    if value.is_empty() {
        return Err(WireError::Value("it is empty".into()).into());
    }
    let mut path = segments(value, true)?;
    path.0.retain(|segment| !segment.is_confed());
    draft.as4_path = Some(path);
    Ok(())
}

/// RFC 6793, section 4.2.3: the AS numbers AS4_PATH lacks are taken from the front of AS_PATH. One longer
/// than the AS_PATH was kept by a speaker that changed the latter, and is ignored.
pub(super) fn merge(path: AsPath, as4_path: AsPath) -> AsPath {
    let Some(mut wanted) = path.length().checked_sub(as4_path.length()) else {
        return path;
    };
    let mut merged = Vec::new();
    for segment in path.0 {
        match segment {
            Segment::Sequence(mut asns) if wanted > 0 => {
                asns.truncate(wanted);
                wanted -= asns.len();
                merged.push(Segment::Sequence(asns));
            }
            Segment::Set(asns) if wanted > 0 => {
                wanted -= 1;
                merged.push(Segment::Set(asns));
            }
            confed if confed.is_confed() => merged.push(confed),
            _ => {}
        }
    }
    let mut behind = as4_path.0.into_iter();
    match (merged.last_mut(), behind.next()) {
        // One sequence, of which AS4_PATH lacked the front.
        (Some(Segment::Sequence(front)), Some(Segment::Sequence(asns)))
            if front.len() + asns.len() <= MAX_SEGMENT =>
        {
            front.extend(asns);
        }
        (_, first) => merged.extend(first),
    }
    merged.extend(behind);
    AsPath::from(merged)
}

/// Only where AS_PATH alone would lose something.
pub(super) fn write(path: &AsPath, session: &Session, out: &mut Vec<u8>) {
    let wide = |asn: &Asn| u16::try_from(asn.0).is_err();
    let inside = || path.0.iter().filter(|segment| !segment.is_confed());
    if session.asn4 || !inside().any(|segment| segment.asns().iter().any(wide)) {
        return;
    }
    put(OPTIONAL | TRANSITIVE, attribute::AS4_PATH, out, |out| write_segments(inside(), true, out));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(asns: &[u32]) -> Segment {
        Segment::Sequence(asns.iter().copied().map(Asn).collect())
    }

    fn set(asns: &[u32]) -> Segment {
        Segment::Set(asns.iter().copied().map(Asn).collect())
    }

    fn merged(path: &[Segment], as4_path: &[Segment]) -> String {
        merge(AsPath::from(path.to_vec()), AsPath::from(as4_path.to_vec())).to_string()
    }

    #[test]
    fn rfc6793_as_numbers_missing_in_as4_path_come_from_the_front_of_as_path() {
        let path = [sequence(&[64500, 23456, 23456])];
        assert_eq!(merged(&path, &[sequence(&[100_000, 200_000])]), "64500 100000 200000");
        assert_eq!(merged(&path, &[sequence(&[99_999, 100_000, 200_000])]), "99999 100000 200000");
    }

    #[test]
    fn sets_count_as_one() {
        let path = [sequence(&[64500]), set(&[23456, 64501]), sequence(&[23456])];
        assert_eq!(
            merged(&path, &[set(&[100_000, 64501]), sequence(&[200_000])]),
            "64500 {100000 64501} 200000"
        );
        assert_eq!(merged(&path, &[sequence(&[200_000])]), "64500 {23456 64501} 200000");
    }

    #[test]
    fn rfc6793_an_as4_path_longer_than_the_as_path_is_ignored() {
        assert_eq!(merged(&[sequence(&[64500])], &[sequence(&[1, 2])]), "64500");
    }
}
