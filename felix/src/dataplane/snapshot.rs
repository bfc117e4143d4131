//! Reading from the kernel all that is ours.

use std::collections::BTreeMap;

use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;

use super::Settings;
use super::message::{self, NextHopMessage, RTPROT_MANX};
use super::objects::Object;
use super::overlaps::Foreign;
use super::state::Snapshot;

/// All of our routes and next-hop objects; with `settings` other programs' routes in that table too.
///
/// # Errors
/// The netlink socket's.
pub fn read(netlink: &mut Netlink, settings: Option<Settings>) -> Result<Snapshot, NetlinkError> {
    Ok(Snapshot { objects: read_objects(netlink)?, ..read_routes(netlink, settings)? })
}

/// The same without the objects.
///
/// # Errors
/// The netlink socket's.
pub fn read_routes(netlink: &mut Netlink, settings: Option<Settings>) -> Result<Snapshot, NetlinkError> {
    let mut snapshot = Snapshot::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut foreign = Vec::new();
        let ours = |route: RouteMessage| {
            let ours = message::parse_route(&route);
            if ours.is_none() {
                foreign.extend(settings.and_then(|settings| Foreign::of(&route, settings)));
            }
            ours
        };
        match netlink.dump(&message::dump_routes(family, settings.is_none()), ours) {
            Ok(routes) => {
                snapshot.routes.extend(routes);
                snapshot.foreign.extend(foreign);
            }
            // The main table comes into being with its first route.
            Err(NetlinkError::Refused(Refusal { errno: Errno::ENOENT, .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(snapshot)
}

/// Our next-hop objects, those in a form we do not write as groups of none.
///
/// # Errors
/// The netlink socket's.
pub fn read_objects(netlink: &mut Netlink) -> Result<BTreeMap<u32, Object>, NetlinkError> {
    let ours = |read: NextHopMessage| {
        let object = read.object.unwrap_or(Object::Group(Vec::new()));
        (read.protocol == RTPROT_MANX).then_some((read.id, object))
    };
    Ok(netlink.dump(&message::dump_objects(), ours)?.into_iter().collect())
}
