//! Many prefixes with lengths, asked for one: a search in a sorted list.

use crate::api::PrefixRange;
use crate::types::Prefix;

/// Sorted by prefix. What covers a prefix is the last entry not behind it, or one of those around that.
#[derive(Debug, Default)]
pub(super) struct Prefixes(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    range: PrefixRange,
    /// The closest entry before it that covers it.
    around: Option<u32>,
}

impl Prefixes {
    pub(super) fn new(ranges: &[PrefixRange]) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| (range.prefix(), range.lengths()));
        let mut entries: Vec<Entry> = Vec::with_capacity(ranges.len());
        let mut open: Vec<u32> = Vec::new();
        for (index, range) in (0..).zip(ranges) {
            while open.pop_if(|last| !entries[*last as usize].range.prefix().covers(range.prefix())).is_some()
            {
            }
            entries.push(Entry { range, around: open.last().copied() });
            open.push(index);
        }
        Self(entries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contain(&self, prefix: Prefix) -> bool {
        let mut at = self.0.partition_point(|entry| entry.range.prefix() <= prefix).checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.0.get(at)) {
            let (min, max) = entry.range.lengths();
            if (min..=max).contains(&prefix.length()) && entry.range.prefix().covers(prefix) {
                return true;
            }
            at = entry.around.map(|around| around as usize);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A few bits, so that prefixes nest and meet.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (0..=255_u8, 0..=8_u8, any::<bool>()).prop_map(|(bits, length, six)| {
            let addr = if six {
                std::net::Ipv6Addr::from(u128::from(bits) << 120).into()
            } else {
                std::net::Ipv4Addr::from(u32::from(bits) << 24).into()
            };
            Prefix::truncated(addr, length).unwrap()
        })
    }

    fn range() -> impl Strategy<Value = PrefixRange> {
        (prefix(), 0..=8_u8, 0..=8_u8).prop_map(|(prefix, one, two)| {
            let text = format!(
                r#"{{"prefix": "{prefix}", "ge": {}, "le": {}}}"#,
                one.min(two).max(prefix.length()),
                one.max(two).max(prefix.length())
            );
            serde_json::from_str(&text).unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_search_finds_what_looking_at_each_finds(
            ranges in proptest::collection::vec(range(), 0..12),
            wanted in prefix(),
        ) {
            let expected = ranges.iter().any(|range| {
                let (min, max) = range.lengths();
                range.prefix().covers(wanted) && (min..=max).contains(&wanted.length())
            });
            prop_assert_eq!(Prefixes::new(&ranges).contain(wanted), expected);
        }
    }
}
