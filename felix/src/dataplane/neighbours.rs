//! How full the kernel's neighbour tables are (ARP, NDP): one that is full forgets neighbours, and packets to them are
//! lost. They are of the whole machine, whatever network namespace asks.

use std::fs;

use manx_bgp::types::Family;

/// From this part of its limit on a table is told of, in percent.
const NEARLY: u64 = 90;

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Of which addresses.
    pub family: Family,
    /// Neighbours in it.
    pub entries: u64,
    /// How many it takes (`gc_thresh3`); none where this network namespace does not see it.
    pub limit: Option<u64>,
}

impl Table {
    /// What is to be said of it.
    pub fn complaint(&self) -> Option<String> {
        let limit = self.limit.filter(|limit| self.entries * 100 >= limit * NEARLY)?;
        let name = match self.family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        Some(format!(
            "the neighbour table holds {} of at most {limit} {name} neighbours, and forgets some when it is full: raise \
             net.{name}.neigh.default.gc_thresh3",
            self.entries
        ))
    }
}

/// Both tables; one that cannot be read is left out.
pub fn read() -> Vec<Table> {
    let of = |family, statistics: &str, name: &str| {
        let entries = entries(&fs::read_to_string(format!("/proc/net/stat/{statistics}")).ok()?)?;
        let limit = fs::read_to_string(format!("/proc/sys/net/{name}/neigh/default/gc_thresh3"));
        let limit = limit.ok().and_then(|text| text.trim().parse().ok());
        Some(Table { family, entries, limit })
    };
    [of(Family::Ipv4, "arp_cache", "ipv4"), of(Family::Ipv6, "ndisc_cache", "ipv6")]
        .into_iter()
        .flatten()
        .collect()
}

/// The first column of the second line, hexadecimal: every CPU's line has the same.
fn entries(text: &str) -> Option<u64> {
    u64::from_str_radix(text.lines().nth(1)?.split_whitespace().next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_nearly_full_is_told_of() {
        let text = "entries  allocs   destroys hash_grows\n000003a0  00000004 00000003 00000000\n000003a0  00000004\n";
        let table = |limit| Table { family: Family::Ipv4, entries: entries(text).unwrap(), limit };
        assert_eq!(table(None).entries, 928);
        assert_eq!(table(Some(1032)).complaint(), None);
        let said = table(Some(1024)).complaint().unwrap();
        assert!(said.contains("928 of at most 1024 ipv4") && said.contains("gc_thresh3"), "{said}");
    }
}
