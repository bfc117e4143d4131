//! Where the BGPConfiguration says how a node finds its addresses, its agent finds them and says so on its Node, where
//! the agents of the others read them.

use super::core::Core;
use super::mirror::Write;
use crate::model::{FOUND_ADDRESS, Wanted};

/// What was found last.
#[derive(Debug, Default)]
pub struct OwnAddress {
    /// As it is to be annotated; none: nothing is to be found.
    annotation: Option<String>,
    /// Why nothing is found, in words.
    fault: Option<String>,
}

impl Core {
    /// Once a second: addresses come and go.
    pub(super) fn find_address(&mut self) {
        let wanted = match self.graph.bgp() {
            Some(bgp) if bgp.wanted != Wanted::Internal => &bgp.wanted,
            Some(_) => {
                self.own_address = OwnAddress::default();
                return;
            }
            // What is configured is not known: what was found stays.
            None => return,
        };
        let found = self.host.addresses(wanted).unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel does not tell its addresses");
            Vec::new()
        });
        if found.is_empty() {
            // An interface that is down for a moment has no address: the last one stays.
            let place = match wanted {
                Wanted::Internal => return,
                Wanted::Interface(interface) => format!("on {interface}"),
                Wanted::Inside(ranges) => format!("in {ranges:?}"),
                Wanted::CanReach(targets) => format!("with which {targets:?} is reached"),
            };
            let before = self.graph.node(&self.me).and_then(|node| node.found.as_deref());
            let instead =
                before.map_or("its InternalIP is used".to_owned(), |found| format!("{found} stays in use"));
            let fault = format!("has no address {place}, where the BGPConfiguration wants it: {instead}");
            self.own_address.fault = Some(fault);
            return;
        }
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        self.own_address = OwnAddress { annotation: Some(text.join(",")), fault: None };
    }

    /// The annotation, if it does not say what is found.
    pub(super) fn address_write(&self) -> Option<Write> {
        let annotated = self.graph.node(&self.me)?.found.as_deref();
        let OwnAddress { annotation, fault } = &self.own_address;
        let keeps = fault.is_some() && annotation.is_none() || self.graph.bgp().is_none();
        (!keeps && annotated != annotation.as_deref()).then(|| Write::Address {
            node: self.me.clone(),
            annotation: FOUND_ADDRESS,
            value: annotation.clone(),
        })
    }

    /// Why there is no address where there should be one.
    pub(super) fn address_fault(&self) -> Option<String> {
        self.own_address.fault.clone()
    }
}
