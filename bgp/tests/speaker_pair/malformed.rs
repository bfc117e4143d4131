//! RFC 7606 on a session that lives, attribute by attribute: what an UPDATE announced is withdrawn or stays without
//! the attribute, the session stays or ends with the right NOTIFICATION, and both are counted.

use hex_literal::hex;
use manx_bgp::wire::FaultAction::{self, Discard, Withdraw};

use super::*;

const ORIGIN: &[u8] = &hex!("40 01 01 00");
const NEXT_HOP: &[u8] = &hex!("40 03 04 c0000202");
/// 203.0.113.0/24.
const NLRI: &[u8] = &hex!("18 cb0071");

/// A speaker with one neighbour, of the same AS or another, which is made by hand.
struct Tried {
    handle: Handle,
    raw: Raw,
    as_path: &'static [u8],
}

impl Tried {
    async fn new(lab: Lab, asn: u32) -> Self {
        let (handle, _) = speaker::start(Options::default());
        let import = Some(Policy::accept());
        let peer = PeerConfig { asn: Asn(asn), passive: true, hold_time: 0, import, ..lab.peer(1, 2) };
        handle.apply(Config { peers: vec![peer], ..lab.config(1) }).await.unwrap();
        let mut raw = Raw::call(lab, 2, 1).await;
        raw.open_as(2, Asn(asn), Vec::new()).await;
        let as_path: &[u8] = if asn == 64512 { &hex!("40 02 00") } else { &hex!("40 02 06 02 01 0000fde9") };
        eventually("established", &handle, |status| status.sessions[0].state == SessionState::Established)
            .await;
        Self { handle, raw, as_path }
    }

    /// An UPDATE with the mandatory attributes, of which `attribute` takes the place of its like.
    async fn say(&mut self, attribute: &[u8]) {
        let mandatory = [ORIGIN, self.as_path, NEXT_HOP];
        let others = mandatory.into_iter().filter(|other| attribute.get(1) != Some(&other[1]));
        let attributes = others.chain([attribute]).collect::<Vec<_>>().concat();
        let mut message = vec![0xff; 16];
        message.extend((23 + (attributes.len() + NLRI.len()) as u16).to_be_bytes());
        message.extend([2, 0, 0]);
        message.extend((attributes.len() as u16).to_be_bytes());
        message.extend(attributes);
        message.extend(NLRI);
        self.raw.stream.write_all(&message).await.unwrap();
    }

    /// Faults of an attribute that were answered so.
    async fn faults(&self, attribute: &'static str, action: FaultAction) -> u64 {
        let totals = self.handle.report().await.unwrap().totals.into_values().next().unwrap();
        totals.faults.get(&(attribute, action)).copied().unwrap_or_default()
    }

    /// A good UPDATE, and then one with this: what is held, what is counted, and a session that never notices.
    async fn forgives(&mut self, attribute: &'static str, malformed: &[u8], action: FaultAction) {
        self.say(&[]).await;
        eventually("a good one is held", &self.handle, |status| status.destinations == 1).await;
        let before = self.faults(attribute, action).await;
        let heard = self.handle.status().await.unwrap().sessions[0].messages_in;
        self.say(malformed).await;
        let what = format!("{attribute} {malformed:02x?}");
        let status = eventually(&what, &self.handle, |status| status.sessions[0].messages_in > heard).await;
        let held = if action == Discard { 1 } else { 0 };
        assert_eq!((status.destinations, status.sessions[0].received), (held, held), "{what}");
        assert_eq!(self.faults(attribute, action).await, before + 1, "{what}");
        assert_eq!(
            (status.sessions[0].state, status.sessions[0].flaps),
            (SessionState::Established, 0),
            "{what}"
        );
    }
}

#[tokio::test]
async fn rfc7606_an_external_neighbours_malformed_attributes_cost_routes_and_no_session() {
    let mut tried = Tried::new(Lab(64), 65001).await;
    for (attribute, malformed, action) in [
        ("ORIGIN", &hex!("40 01 02 0000")[..], Withdraw),
        ("ORIGIN", &hex!("40 01 01 03"), Withdraw),
        ("ORIGIN", &hex!("c0 01 01 00"), Withdraw),
        ("AS_PATH", &hex!("40 02 06 05 01 0000fde9"), Withdraw),
        ("AS_PATH", &hex!("40 02 06 02 02 0000fde9"), Withdraw),
        ("AS_PATH", &hex!("40 02 06 02 01 00000000"), Withdraw),
        ("AS_PATH", &hex!("40 02 06 03 01 0000fde9"), Withdraw),
        ("NEXT_HOP", &hex!("40 03 03 c00002"), Withdraw),
        ("NEXT_HOP", &hex!("40 03 04 7f000001"), Withdraw),
        ("MULTI_EXIT_DISC", &hex!("80 04 03 000001"), Withdraw),
        ("LOCAL_PREF", &hex!("40 05 02 0064"), Discard),
        ("ATOMIC_AGGREGATE", &hex!("40 06 01 00"), Discard),
        ("AGGREGATOR", &hex!("c0 07 06 fde9 0a000001"), Discard),
        ("COMMUNITIES", &hex!("c0 08 03 000001"), Withdraw),
        ("ORIGINATOR_ID", &hex!("80 09 04 0a000001"), Discard),
        ("CLUSTER_LIST", &hex!("80 0a 04 0a000001"), Discard),
        ("EXTENDED COMMUNITIES", &hex!("c0 10 09 0002fc000000000700"), Withdraw),
        ("AS4_PATH", &hex!("c0 11 06 02 01 0000fde9"), Discard),
        ("AS4_AGGREGATOR", &hex!("c0 12 08 0000fde9 0a000001"), Discard),
        ("LARGE_COMMUNITY", &hex!("c0 20 08 0000000100000002"), Withdraw),
    ] {
        tried.forgives(attribute, malformed, action).await;
    }
}

#[tokio::test]
async fn rfc7606_an_internal_neighbours_malformed_attributes_cost_routes_and_no_session() {
    let mut tried = Tried::new(Lab(65), 64512).await;
    for (attribute, malformed, action) in [
        ("LOCAL_PREF", &hex!("40 05 02 0064")[..], Withdraw),
        ("ORIGINATOR_ID", &hex!("80 09 03 0a0000"), Withdraw),
        ("CLUSTER_LIST", &hex!("80 0a 05 0a00000100"), Withdraw),
    ] {
        tried.forgives(attribute, malformed, action).await;
    }
}

#[tokio::test]
async fn rfc7606_what_leaves_open_which_routes_are_meant_ends_the_session() {
    for (test, malformed, answer) in [
        (
            66,
            &hex!("80 0e 04 0002 01 10")[..],
            Notification::optional_attribute(&hex!("80 0e 04 0002 01 10")),
        ),
        (67, &hex!("80 0f 02 0002"), Notification::optional_attribute(&hex!("80 0f 02 0002"))),
        (68, &hex!("40 63 01 07"), Notification::unrecognized_well_known_attribute(&hex!("40 63 01 07"))),
    ] {
        let mut tried = Tried::new(Lab(test), 65001).await;
        tried.say(&[]).await;
        eventually("a good one is held", &tried.handle, |status| status.destinations == 1).await;
        tried.say(malformed).await;
        let last = loop {
            match tried.raw.hear(Some(&internal())).await {
                Some(Message::Notification(last)) => break last,
                Some(_) => {}
                None => panic!("no last word"),
            }
        };
        assert_eq!(last, answer);
        let status = eventually("over", &tried.handle, |status| status.sessions[0].flaps == 1).await;
        assert_eq!(status.destinations, 0);
        assert_eq!(status.sessions[0].reason, Some(format!("we sent {answer}")));
    }
}
