//! The addresses of a node, as the kernel has them.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Lab, LabError, succeeded};
use crate::netns;
use crate::topology::Runs;

/// An address of a node's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub length: u8,
}

impl Lab {
    /// The global addresses of a node's interfaces, as the kernel has them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn addresses(&self, node: &str) -> Result<Vec<Address>, LabError> {
        #[derive(Deserialize)]
        struct Interface {
            ifname: String,
            addr_info: Vec<Info>,
        }
        // Empty for what the filter left out.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Info {
            local: Option<IpAddr>,
            prefixlen: u8,
        }
        self.node(node)?;
        let netns = netns::of_node(self.name(), node);
        let argv = ["ip", "-n", &netns, "-j", "address", "show", "scope", "global"];
        let output = self.child("ip").args(&argv[1..]).output().await;
        let text = succeeded(node, &argv, output.map_err(|source| LabError::start(&argv, source))?)?;
        let interfaces: Vec<Interface> = serde_json::from_str(&text)
            .map_err(|error| LabError::Answer { of: "ip -j address".into(), why: error.to_string() })?;
        let all = interfaces.into_iter().flat_map(|interface| {
            let named = move |info: Info| {
                Some(Address { interface: interface.ifname.clone(), ip: info.local?, length: info.prefixlen })
            };
            interface.addr_info.into_iter().filter_map(named)
        });
        Ok(all.collect())
    }

    /// A node's addresses on the switches that the Kubernetes API is plugged into as well, or, where
    /// there is no such switch, on all its cables.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn rack_addresses(&self, node: &str) -> Result<Vec<IpAddr>, LabError> {
        let switches = |of: &str| -> Vec<String> {
            let others = self.topology.cables(of).map(|(_, other)| other.node.clone());
            others.filter(|other| self.topology.nodes[other].runs == Runs::Bridge).collect()
        };
        let api = self.topology.running(Runs::KubeApiserver).next();
        let rack = api.map(|api| switches(&api.name)).unwrap_or_default();
        let on_rack = |interface: &str| {
            let mut cables = self.topology.cables(node).filter(|(own, _)| own.interface == interface);
            cables.any(|(_, other)| rack.is_empty() || rack.contains(&other.node))
        };
        let all = self.addresses(node).await?;
        Ok(all.into_iter().filter(|address| on_rack(&address.interface)).map(|address| address.ip).collect())
    }
}
