//! A table as `nft list` prints it and `nft -f` takes it.

use std::collections::BTreeMap;
use std::fmt;

use super::object::{BaseChain, Chain, Element, Key, Rule, Set, Table};
use super::socket::Counter;
use super::types::Type;

/// What of a table is printed.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The table.
    pub table: &'a Table,
    /// What its counters have counted; none: as `nft --stateless`.
    pub counters: Option<&'a BTreeMap<String, Counter>>,
    /// Whether sets are printed with what they hold.
    pub elements: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table.name)?;
        let mut first = true;
        let mut gap = |f: &mut fmt::Formatter<'_>| {
            if std::mem::replace(&mut first, false) { Ok(()) } else { writeln!(f) }
        };
        for name in &self.table.counters {
            gap(f)?;
            writeln!(f, "\tcounter {name} {{")?;
            if let Some(Counter { packets, bytes }) = self.counters.and_then(|counters| counters.get(name)) {
                writeln!(f, "\t\tpackets {packets} bytes {bytes}")?;
            }
            writeln!(f, "\t}}")?;
        }
        for (name, (set, elements)) in &self.table.sets {
            gap(f)?;
            writeln!(f, "\t{} {name} {{", if set.is_map { "map" } else { "set" })?;
            let key: Vec<_> = set.key.iter().map(|part| part.name()).collect();
            writeln!(f, "\t\ttype {}{}", key.join(" . "), if set.is_map { " : verdict" } else { "" })?;
            if set.interval {
                writeln!(f, "\t\tflags interval")?;
            }
            if let Some(comment) = &set.comment {
                writeln!(f, "\t\tcomment \"{}\"", comment.replace('"', "'"))?;
            }
            if self.elements && !elements.is_empty() {
                let shown: Vec<_> = elements.iter().map(|element| show_element(set, element)).collect();
                writeln!(f, "\t\telements = {{ {} }}", shown.join(",\n\t\t\t     "))?;
            }
            writeln!(f, "\t}}")?;
        }
        for (name, chain) in &self.table.chains {
            gap(f)?;
            show_chain(f, name, chain)?;
        }
        writeln!(f, "}}")
    }
}

fn show_chain(f: &mut fmt::Formatter<'_>, name: &str, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {name} {{")?;
    if let Some(BaseChain { kind, hook, priority }) = chain.base {
        let (kind, hook, priority) = (kind.name(), hook.name(), priority_name(priority));
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{rule}")?;
    }
    writeln!(f, "\t}}")
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, statement) in self.statements.iter().enumerate() {
            let space = if place > 0 { " " } else { "" };
            write!(f, "{space}{statement}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " comment \"{}\"", comment.replace('"', "'")),
            None => Ok(()),
        }
    }
}

fn priority_name(priority: i32) -> String {
    let names =
        [(-300, "raw"), (-150, "mangle"), (-100, "dstnat"), (0, "filter"), (50, "security"), (100, "srcnat")];
    let near = names.iter().find(|(value, _)| (priority - value).abs() <= 10);
    match near {
        Some((value, name)) if priority == *value => (*name).to_owned(),
        Some((value, name)) if priority > *value => format!("{name} + {}", priority - value),
        Some((value, name)) => format!("{name} - {}", value - priority),
        None => priority.to_string(),
    }
}

fn show_element(set: &Set, element: &Element) -> String {
    let firsts = split(&set.key, &element.key);
    let lasts = element.end().map(|end| split(&set.key, end));
    let parts = set.key.iter().enumerate().map(|(place, kind)| {
        let first = firsts[place];
        match lasts.as_ref().map(|lasts| lasts[place]) {
            Some(last) if last != first => prefix(*kind, first, last).map_or_else(
                || format!("{}-{}", kind.show(first), kind.show(last)),
                |length| format!("{}/{length}", kind.show(first)),
            ),
            _ => kind.show(first),
        }
    });
    let key = parts.collect::<Vec<_>>().join(" . ");
    let comment = element.comment().into_iter().map(|comment| format!(" comment \"{comment}\""));
    let verdict = element.verdict().into_iter().map(|verdict| format!(" : {verdict}"));
    std::iter::once(key).chain(comment).chain(verdict).collect()
}

/// The values of a key, without what pads them.
fn split<'a>(kinds: &[Type], key: &'a Key) -> Vec<&'a [u8]> {
    let mut rest = &key[..];
    let mut values = Vec::new();
    for kind in kinds {
        values.push(rest.get(..kind.length()).unwrap_or_default());
        rest = rest.get(kind.padded()..).unwrap_or_default();
    }
    values
}

/// The length of the prefix that is just this range of addresses.
fn prefix(kind: Type, first: &[u8], last: &[u8]) -> Option<u32> {
    if !matches!(kind, Type::Ipv4Addr | Type::Ipv6Addr) {
        return None;
    }
    let wide = |octets: &[u8]| octets.iter().fold(0u128, |number, octet| number << 8 | u128::from(*octet));
    let bits = 8 * kind.length() as u32;
    let host = wide(first) ^ wide(last);
    let is_prefix = host & host.wrapping_add(1) == 0 && wide(first) & host == 0;
    is_prefix.then(|| bits - (128 - host.leading_zeros()))
}
