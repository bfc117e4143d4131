//! What the routers' own tables say of the blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context;
use serde_json::Value;

use super::Report;
use super::world::{PATIENCE, World};
use crate::eventually;

/// Next hops by destination.
type Table = BTreeMap<String, BTreeSet<IpAddr>>;

/// Every block in the tables of both routers, with its node as next hop.
pub async fn check(world: &World, report: &mut Report) {
    let blocks = match world.blocks().await {
        Ok(blocks) => blocks,
        Err(error) => return report.check("blocks are listed", "", vec![Err(error.to_string())]),
    };
    for (router, tool) in [("tor1", "vtysh"), ("tor2", "birdc")] {
        let mut outcomes = vec![];
        for (block, node) in &blocks {
            let there = || async {
                let table = table(world, router).await.map_err(|error| format!("{error:#}"))?;
                shows(&table, world, block, node)
            };
            outcomes.push(eventually(PATIENCE, there).await.map_err(|late| late.to_string()));
        }
        report.check(&format!("{router} has each block by its node"), format!("read with {tool}"), outcomes);
    }
}

fn shows(table: &Table, world: &World, block: &str, node: &str) -> Result<(), String> {
    let own =
        world.nodes.get(node).ok_or_else(|| format!("{block} belongs to {node}, no node of this lab"))?;
    let hops = table.get(block).ok_or_else(|| format!("{block} of {node} is not there"))?;
    match !hops.is_empty() && hops.iter().all(|hop| own.contains(hop)) {
        true => Ok(()),
        false => Err(format!("{block} of {node} is by {hops:?}")),
    }
}

async fn table(world: &World, router: &str) -> anyhow::Result<Table> {
    match router {
        "tor1" => {
            let mut table = Table::new();
            for family in ["ipv4", "ipv6"] {
                let show = format!("show bgp {family} unicast json");
                let said = world.lab.run(router, &["vtysh", "-c", &show]).await?;
                table.extend(frr(&said)?);
            }
            Ok(table)
        }
        _ => Ok(bird(&world.lab.run(router, &["birdc", "show", "route"]).await?)),
    }
}

/// Reads FRR's `show bgp … unicast json`.
fn frr(said: &str) -> anyhow::Result<Table> {
    let said: Value = serde_json::from_str(said).context("vtysh's answer is not JSON")?;
    let mut table = Table::new();
    for (prefix, paths) in said["routes"].as_object().into_iter().flatten() {
        let paths = paths.as_array().into_iter().flatten();
        let best = paths.filter(|path| path["bestpath"] == true || path["multipath"] == true);
        let hops = best.flat_map(|path| path["nexthops"].as_array().into_iter().flatten());
        // Beside the global next hop FRR may list the link-local one.
        let global = hops.filter(|hop| hop["scope"] != "link-local");
        let addresses = global.filter_map(|hop| hop["ip"].as_str()?.parse::<IpAddr>().ok());
        table.entry(prefix.clone()).or_default().extend(addresses);
    }
    Ok(table)
}

/// Reads BIRD's `show route`: a destination at the start of a line, its next hops on the lines below,
/// candidates that are not the best (no `*`) left out.
fn bird(said: &str) -> Table {
    let mut table = Table::new();
    let (mut prefix, mut best) = (String::new(), false);
    for line in said.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["via", hop, ..] if best => {
                table.entry(prefix.clone()).or_default().extend(hop.parse::<IpAddr>());
            }
            [first, ..] if line.contains(" unicast ") || line.contains("\tunicast ") => {
                if first.contains('/') {
                    prefix = first.to_owned();
                }
                best = words.contains(&"*");
            }
            _ => {}
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn birds_table_is_read_with_the_best_paths_next_hops_only() {
        let said = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.244.0.0/26        unicast [node1 09:00:00.000] * (100) [AS64512i]\n\tvia 10.10.0.1 on eth1\n\
            \x20                    unicast [node2 09:00:00.000] (100) [AS64512i]\n\tvia 10.10.0.2 on eth1\n\
            203.0.113.0/24       unicast [static 09:00:00.000] * (200)\n\tdev eth2\n";
        let table = bird(said);
        assert_eq!(table["10.244.0.0/26"], ["10.10.0.1".parse().unwrap()].into());
        assert!(!table.contains_key("203.0.113.0/24"));
    }

    #[test]
    fn frrs_table_is_read_with_the_best_paths_global_next_hops_only() {
        let said = r#"{"routes":{"fd00::/122":[
            {"bestpath":true,"nexthops":[{"ip":"fd00:10::1","scope":"global"},{"ip":"fe80::1","scope":"link-local"}]},
            {"valid":true,"nexthops":[{"ip":"fd00:10::2","scope":"global"}]}]}}"#;
        assert_eq!(frr(said).unwrap()["fd00::/122"], ["fd00:10::1".parse().unwrap()].into());
    }
}
