//! Other programs' routes that take packets from ours. They are never touched, and told.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};

use super::Settings;
use super::message::RTPROT_MANX;

/// Most that are kept: a router's full table beside ours is not looked through.
const MOST: usize = 10_000;

/// Another program's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// Where to.
    pub destination: IpNetwork,
    /// Of equal destinations the least counts.
    pub metric: u32,
    /// Whose.
    pub protocol: u8,
}

impl Foreign {
    /// What a message says, if it is of another program and in our table.
    pub fn of(message: &RouteMessage, settings: Settings) -> Option<Self> {
        let header = &message.header;
        let protocol = u8::from(header.protocol);
        let routes = matches!(
            header.kind,
            RouteType::Unicast
                | RouteType::BlackHole
                | RouteType::Unreachable
                | RouteType::Prohibit
                | RouteType::Throw
        );
        let mut table = u32::from(header.table);
        let (mut destination, mut metric) = (None, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(value) => table = *value,
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    destination = Some(IpAddr::V4(*address))
                }
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                    destination = Some(IpAddr::V6(*address))
                }
                _ => {}
            }
        }
        let of_one_link = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local() || address.is_multicast());
        let wanted = routes
            && protocol != RTPROT_MANX
            && table == settings.table
            && !header.flags.contains(RouteFlags::Cloned)
            && matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
        // A default route takes nothing from a more specific one.
        let destination = destination.filter(|address| wanted && !of_one_link(address))?;
        let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
        Some(Self { destination, metric, protocol })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            2 => "kernel",
            3 => "boot",
            4 => "static",
            9 => "ra",
            12 => "bird",
            16 => "dhcp",
            186 => "bgp",
            187 => "isis",
            188 => "ospf",
            number => return write!(f, "the route to {} of protocol {number}", self.destination),
        };
        write!(f, "the route to {} of protocol {protocol}", self.destination)
    }
}

/// All of them, as far as they are kept.
#[derive(Debug, Default)]
pub struct Foreigners(BTreeSet<Foreign>);

impl Foreigners {
    /// They are these now.
    pub fn observe(&mut self, all: impl IntoIterator<Item = Foreign>) {
        self.0 = all.into_iter().take(MOST).collect();
    }

    /// One came or went; whether that is news.
    pub fn change(&mut self, foreign: Foreign, is_there: bool) -> bool {
        match is_there {
            true => self.0.len() < MOST && self.0.insert(foreign),
            false => self.0.remove(&foreign),
        }
    }

    /// Those that take packets from ours, in words. `ours` says whether we want a route to a destination.
    pub fn overlaps(&self, ours: impl Fn(IpNetwork) -> bool, metric: u32) -> Vec<String> {
        let taken = |foreign: &&Foreign| {
            let same = ours(foreign.destination);
            let wider = (1..foreign.destination.prefix()).rev().find_map(|length| {
                let wider = IpNetwork::new(foreign.destination.ip(), length).ok()?;
                let wider = IpNetwork::new(wider.network(), length).ok()?;
                ours(wider).then_some(wider)
            });
            (same && foreign.metric <= metric).then_some(foreign.destination).or(wider.filter(|_| !same))
        };
        let found = self.0.iter().filter_map(|foreign| Some((foreign, taken(&foreign)?)));
        found
            .map(|(foreign, ours)| {
                format!(
                    "{foreign}, which is not Manx's, takes packets from Manx's route to {ours}: whoever made it must \
                     remove it, or the network they were meant for is not reached"
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_another_program_is_told_if_it_takes_packets_from_ours() {
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let ours = BTreeSet::from([net("10.244.1.0/26"), net("10.244.2.0/26"), net("fd00::/122")]);
        let foreign =
            |destination: &str, metric| Foreign { destination: net(destination), metric, protocol: 4 };
        let mut all = Foreigners::default();
        all.observe([
            foreign("10.244.1.16/28", 0),
            foreign("10.244.2.0/26", 20),
            foreign("10.244.0.0/16", 0),
            foreign("fd00::/122", 0),
            foreign("192.0.2.0/24", 0),
        ]);
        let told = |all: &Foreigners| all.overlaps(|destination| ours.contains(&destination), 13);
        let words = told(&all);
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(
            words[0].contains("10.244.1.16/28 of protocol static") && words[0].contains("to 10.244.1.0/26")
        );
        assert!(words[1].contains("fd00::/122"), "{words:?}");
        assert!(all.change(foreign("fd00::/122", 0), false));
        assert!(!all.change(foreign("fd00::/122", 0), false));
        assert_eq!(told(&all).len(), 1);
    }
}
