//! What the plugin asks of rtnetlink, written as the kernel reads it (rtnetlink(7)).
//!
//! The crate for this knows every attribute of every message, and carries a writer for each: a twentieth of a plugin
//! that needs a dozen of them.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::NetlinkSerializable;
use nix::libc::{
    AF_INET, AF_INET6, AF_UNSPEC, IFA_ADDRESS, IFA_F_NODAD, IFA_LOCAL, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC,
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, IFLA_NET_NS_FD, NDA_DST,
    NDA_LLADDR, NUD_PERMANENT, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY,
    RTA_OIF, RTM_DELLINK, RTM_F_FIB_MATCH, RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_NEWADDR,
    RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTN_UNICAST, RTPROT_STATIC,
};

/// Of linux/veth.h and linux/if_link.h.
const VETH_INFO_PEER: u16 = 1;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// A message: its type, and behind the header of that type its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    body: Vec<u8>,
}

/// One end of a veth that is to be.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub ifname: &'a str,
    /// In octets.
    pub mtu: u32,
    /// Its own.
    pub mac: [u8; 6],
}

impl Message {
    /// Make a veth, both ends down, the far one in another network namespace.
    pub fn new_veth(near: End<'_>, far: End<'_>, netns: BorrowedFd<'_>) -> Self {
        let mut peer = Self::link(RTM_NEWLINK, 0, 0).end(far);
        peer.put(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        let mut message = Self::link(RTM_NEWLINK, 0, 0).end(near);
        message.nest(IFLA_LINKINFO, |info| {
            info.put(IFLA_INFO_KIND, b"veth");
            info.nest(IFLA_INFO_DATA, |data| data.put(VETH_INFO_PEER, &peer.body));
        });
        message
    }

    /// Remove an interface.
    pub fn del_link(ifname: &str) -> Self {
        Self::link(RTM_DELLINK, 0, 0).named(ifname)
    }

    /// Tell an interface.
    pub fn get_link(ifname: &str) -> Self {
        Self::link(RTM_GETLINK, 0, 0).named(ifname)
    }

    /// Tell an interface of another network namespace, by that one's number in this.
    pub fn get_link_in(netns: u32, index: u32) -> Self {
        let mut message = Self::link(RTM_GETLINK, index, 0);
        message.put(IFLA_TARGET_NETNSID, &netns.to_ne_bytes());
        message
    }

    /// Bring an interface up.
    pub fn up(index: u32) -> Self {
        Self::link(RTM_NEWLINK, index, IFF_UP.cast_unsigned())
    }

    /// Keep an interface from making itself an IPv6 address (IN6_ADDR_GEN_MODE_NONE).
    pub fn no_address(index: u32) -> Self {
        let mut message = Self::link(RTM_NEWLINK, index, 0);
        message.nest(IFLA_AF_SPEC, |families| {
            families.nest(AF_INET6 as u16, |inet6| {
                inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
        message
    }

    /// Give an interface an address, at once: nobody else is on its link, and duplicate address detection would be a
    /// second's wait for nothing.
    pub fn new_address(index: u32, address: IpNetwork) -> Self {
        // struct ifaddrmsg
        let header = [family(address.ip()), address.prefix(), IFA_F_NODAD as u8, RT_SCOPE_UNIVERSE];
        let mut message = Self::new(RTM_NEWADDR, &header, index);
        message.address(IFA_LOCAL, address.ip());
        message.address(IFA_ADDRESS, address.ip());
        message
    }

    /// Set a permanent neighbour of an interface.
    pub fn new_neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Self {
        // struct ndmsg
        let mut message = Self::new(RTM_NEWNEIGH, &[family(address), 0, 0, 0], index);
        message.body.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        message.body.extend_from_slice(&[0, RTN_UNICAST]);
        message.address(NDA_DST, address);
        message.put(NDA_LLADDR, &mac);
        message
    }

    /// Route a destination by an interface, through a gateway or on its link.
    pub fn new_route(index: u32, destination: IpNetwork, gateway: Option<IpAddr>) -> Self {
        let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
        let kind = [RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST];
        let mut message = Self::route(RTM_NEWROUTE, (destination.ip(), destination.prefix()), kind, 0);
        message.address(RTA_DST, destination.network());
        message.put(RTA_OIF, &index.to_ne_bytes());
        gateway.into_iter().for_each(|gateway| message.address(RTA_GATEWAY, gateway));
        message
    }

    /// Tell the route that an address is reached by, as it stands in the table.
    pub fn get_route(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut message = Self::route(RTM_GETROUTE, (address, length), [0; 4], RTM_F_FIB_MATCH);
        message.address(RTA_DST, address);
        message
    }

    /// Tell all addresses.
    pub fn get_addresses() -> Self {
        Self::new(RTM_GETADDR, &[AF_UNSPEC as u8, 0, 0, 0], 0)
    }

    /// Tell all neighbours.
    pub fn get_neighbours() -> Self {
        let mut message = Self::new(RTM_GETNEIGH, &[AF_UNSPEC as u8, 0, 0, 0], 0);
        message.body.extend_from_slice(&[0; 4]);
        message
    }

    /// Tell all routes.
    pub fn get_routes() -> Self {
        Self { kind: RTM_GETROUTE, body: vec![0; 12] }
    }

    /// The header of addresses, and the beginning of that of neighbours: four octets and an interface.
    fn new(kind: u16, octets: &[u8; 4], index: u32) -> Self {
        let mut body = octets.to_vec();
        body.extend_from_slice(&index.to_ne_bytes());
        Self { kind, body }
    }

    /// `struct ifinfomsg`; `set` are flags to set.
    fn link(kind: u16, index: u32, set: u32) -> Self {
        let mut message = Self::new(kind, &[AF_UNSPEC as u8, 0, 0, 0], index);
        message.body.extend_from_slice(&set.to_ne_bytes());
        message.body.extend_from_slice(&set.to_ne_bytes());
        message
    }

    /// `struct rtmsg`; `of` are its table, protocol, scope and type.
    fn route(kind: u16, destination: (IpAddr, u8), of: [u8; 4], flags: u32) -> Self {
        let mut body = vec![family(destination.0), destination.1, 0, 0];
        body.extend_from_slice(&of);
        body.extend_from_slice(&flags.to_ne_bytes());
        Self { kind, body }
    }

    fn named(mut self, ifname: &str) -> Self {
        // With the zero behind it.
        let name: Vec<u8> = ifname.bytes().chain([0]).collect();
        self.put(IFLA_IFNAME, &name);
        self
    }

    /// With one queue each way. A veth uses no more unless it is told to, but where it is not said it gets one a CPU
    /// first and loses them again, and for that the kernel waits twice, with the lock of all interfaces held, until no
    /// CPU can be using them.
    fn end(self, end: End<'_>) -> Self {
        let mut message = self.named(end.ifname);
        message.put(IFLA_MTU, &end.mtu.to_ne_bytes());
        message.put(IFLA_ADDRESS, &end.mac);
        message.put(IFLA_NUM_TX_QUEUES, &1u32.to_ne_bytes());
        message.put(IFLA_NUM_RX_QUEUES, &1u32.to_ne_bytes());
        message
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// `struct rtattr`, padded to four octets.
    fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.body.extend_from_slice(value));
    }

    /// An attribute of what `inside` writes. Nothing here comes near the 64 KiB one can hold.
    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 2]);
        self.body.extend_from_slice(&kind.to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.body.len() - start).unwrap_or(u16::MAX);
        self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    family as u8
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
    use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
    use netlink_packet_route::link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    };
    use netlink_packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
    };
    use netlink_packet_route::route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
    };
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

    use super::*;

    /// Read by the crate that knows all of rtnetlink.
    fn read(message: &Message) -> RouteNetlinkMessage {
        let mut header = NetlinkHeader::default();
        header.message_type = message.kind;
        RouteNetlinkMessage::deserialize(&header, &message.body).unwrap()
    }

    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes = attributes;
        link
    }

    #[test]
    fn a_veth_says_both_its_ends_and_where_the_far_one_is() {
        let netns = File::open("/proc/self/ns/net").unwrap();
        let near = End { ifname: "manxabc", mtu: 1500, mac: [0xee; 6] };
        let far = End { ifname: "eth0", mtu: 9000, mac: [2, 0, 0, 0, 0, 1] };
        let peer = link(vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(9000),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
        ]);
        let veth = link(vec![
            LinkAttribute::IfName("manxabc".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![0xee; 6]),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ]);
        let message = Message::new_veth(near, far, netns.as_fd());
        assert_eq!(read(&message), RouteNetlinkMessage::NewLink(veth));
    }

    #[test]
    fn links_are_named_or_numbered() {
        let named = link(vec![LinkAttribute::IfName("eth0".into())]);
        assert_eq!(read(&Message::del_link("eth0")), RouteNetlinkMessage::DelLink(named.clone()));
        assert_eq!(read(&Message::get_link("eth0")), RouteNetlinkMessage::GetLink(named));
        let mut elsewhere = link(vec![LinkAttribute::IfNetnsId(3)]);
        elsewhere.header.index = 7;
        assert_eq!(read(&Message::get_link_in(3, 7)), RouteNetlinkMessage::GetLink(elsewhere));
        let mut up = link(vec![]);
        (up.header.index, up.header.flags, up.header.change_mask) = (7, LinkFlags::Up, LinkFlags::Up);
        assert_eq!(read(&Message::up(7)), RouteNetlinkMessage::NewLink(up));
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let mut none = link(vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])]);
        none.header.index = 7;
        assert_eq!(read(&Message::no_address(7)), RouteNetlinkMessage::NewLink(none));
    }

    #[test]
    fn an_address_is_usable_at_once() {
        for (text, family) in [("10.0.0.5/32", AddressFamily::Inet), ("fe80::1/64", AddressFamily::Inet6)] {
            let address: IpNetwork = text.parse().unwrap();
            let mut message = AddressMessage::default();
            (message.header.family, message.header.prefix_len) = (family, address.prefix());
            (message.header.index, message.header.flags) = (7, AddressHeaderFlags::Nodad);
            message.attributes =
                vec![AddressAttribute::Local(address.ip()), AddressAttribute::Address(address.ip())];
            assert_eq!(read(&Message::new_address(7, address)), RouteNetlinkMessage::NewAddress(message));
        }
    }

    #[test]
    fn a_neighbour_is_permanent() {
        let mut message = NeighbourMessage::default();
        (message.header.family, message.header.ifindex) = (AddressFamily::Inet, 7);
        (message.header.state, message.header.kind) = (NeighbourState::Permanent, RouteType::Unicast);
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 5].into())),
            NeighbourAttribute::LinkLayerAddress(vec![0xee; 6]),
        ];
        let ours = Message::new_neighbour(7, [10, 0, 0, 5].into(), [0xee; 6]);
        assert_eq!(read(&ours), RouteNetlinkMessage::NewNeighbour(message));
    }

    #[test]
    fn a_route_has_a_gateway_or_the_scope_of_its_link() {
        let gateway = IpAddr::from([169, 254, 1, 1]);
        let cases = [(Some(gateway), RouteScope::Universe), (None, RouteScope::Link)];
        for (gateway, scope) in cases {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.destination_prefix_length = 24;
            (message.header.table, message.header.protocol) = (RT_TABLE_MAIN, RouteProtocol::Static);
            (message.header.kind, message.header.scope) = (RouteType::Unicast, scope);
            message.attributes = vec![
                RouteAttribute::Destination(RouteAddress::Inet([10, 1, 2, 0].into())),
                RouteAttribute::Oif(7),
            ];
            message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
            let ours = Message::new_route(7, "10.1.2.0/24".parse().unwrap(), gateway);
            assert_eq!(read(&ours), RouteNetlinkMessage::NewRoute(message));
        }
    }

    #[test]
    fn what_is_asked_for_is_a_table_or_the_route_to_one_address() {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet6;
        route.header.destination_prefix_length = 128;
        route.header.flags = RouteFlags::FibMatch;
        let address: IpAddr = "fd00::5".parse().unwrap();
        route.attributes.push(RouteAttribute::Destination(address.into()));
        assert_eq!(read(&Message::get_route(address)), RouteNetlinkMessage::GetRoute(route));
        let all = [Message::get_addresses(), Message::get_neighbours(), Message::get_routes()];
        let read_all = [
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::GetRoute(RouteMessage::default()),
        ];
        assert_eq!(all.map(|message| read(&message)), read_all);
    }
}
