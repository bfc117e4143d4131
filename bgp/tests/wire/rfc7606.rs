//! RFC 7606, section 7, attribute by attribute, and the rules of sections 3 to 5.

use hex_literal::hex;
use manx_bgp::types::{Asn, Family};
use manx_bgp::wire::{FaultAction, Message, Notification, Origin, Session, Update};

use crate::{ebgp, ibgp, prefixes, read};

const ORIGIN: &[u8] = &hex!("40 01 01 00");
const AS_PATH: &[u8] = &hex!("40 02 06 02 01 0000fde9");
const NEXT_HOP: &[u8] = &hex!("40 03 04 0a000001");
/// 10.1.0.0/16.
const NLRI: &[u8] = &hex!("10 0a01");
/// fd00:1::/32 by fd00::1.
const MP_REACH: &[u8] = &hex!("80 0e 1a 0002 01 10 fd000000000000000000000000000001 00 20 fd000001");
/// fd00:2::/32.
const MP_UNREACH: &[u8] = &hex!("80 0f 08 0002 01 20 fd000002");

fn message(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let mut message = vec![0xff; 16];
    message.extend((23 + (withdrawn.len() + attributes.len() + nlri.len()) as u16).to_be_bytes());
    message.push(2);
    message.extend((withdrawn.len() as u16).to_be_bytes());
    message.extend(withdrawn);
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(attributes);
    message.extend(nlri);
    message
}

fn parse_in(session: &Session, attributes: &[&[u8]], nlri: &[u8]) -> Result<Update, Notification> {
    match read(&message(&[], attributes, nlri), session)? {
        Message::Update(update) => Ok(update),
        other => panic!("{other:?} is no UPDATE"),
    }
}

/// The mandatory attributes with `attribute` instead of that of the same code, or behind them.
fn with(attribute: &[u8], session: &Session) -> Result<Update, Notification> {
    let mandatory = [ORIGIN, AS_PATH, NEXT_HOP].into_iter().filter(|other| other[1] != attribute[1]);
    let all: Vec<&[u8]> = mandatory.chain([attribute]).collect();
    parse_in(session, &all, NLRI)
}

#[track_caller]
fn withdraws(attribute: &[u8], session: &Session) {
    let update = with(attribute, session).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]));
    assert_eq!((update.announced.len(), update.attributes), (0, None));
    let faults: Vec<_> = update.faults.iter().map(|fault| (fault.attr, fault.action)).collect();
    assert_eq!(faults, [(attribute[1], FaultAction::Withdraw)], "{:?}", update.faults);
}

#[track_caller]
fn discards(attribute: &[u8], session: &Session) -> Update {
    let update = with(attribute, session).unwrap();
    assert_eq!(update.announced[0].prefixes, prefixes(&["10.1.0.0/16"]));
    let faults: Vec<_> = update.faults.iter().map(|fault| (fault.attr, fault.action)).collect();
    assert_eq!(faults, [(attribute[1], FaultAction::Discard)], "{:?}", update.faults);
    update
}

#[test]
fn a_good_update_has_no_fault() {
    let update = parse_in(&ebgp(), &[ORIGIN, AS_PATH, NEXT_HOP], NLRI).unwrap();
    assert_eq!(update.faults, []);
    assert_eq!(update.announced[0].prefixes, prefixes(&["10.1.0.0/16"]));
    assert_eq!(update.attributes.unwrap().as_path.to_string(), "65001");
}

#[test]
fn origin_of_a_wrong_length_or_value_is_withdrawn() {
    withdraws(&hex!("40 01 00"), &ebgp());
    withdraws(&hex!("40 01 02 0000"), &ebgp());
    withdraws(&hex!("40 01 01 03"), &ebgp());
}

#[test]
fn as_path_with_a_bad_segment_is_withdrawn() {
    withdraws(&hex!("40 02 06 05 01 0000fde9"), &ebgp());
    withdraws(&hex!("40 02 06 02 02 0000fde9"), &ebgp());
    withdraws(&hex!("40 02 07 02 01 0000fde9 02"), &ebgp());
    withdraws(&hex!("40 02 08 02 01 0000fde9 02 00"), &ebgp());
}

#[test]
fn rfc7607_as_path_with_as_zero_is_withdrawn() {
    withdraws(&hex!("40 02 06 02 01 00000000"), &ebgp());
}

#[test]
fn as_path_with_confederation_segments_is_withdrawn_from_an_external_neighbour_only() {
    let confed = hex!("40 02 06 03 01 0000fde9");
    withdraws(&confed, &ebgp());
    assert_eq!(with(&confed, &ibgp()).unwrap().faults, []);
}

#[test]
fn an_empty_as_path_is_good() {
    assert_eq!(with(&hex!("40 02 00"), &ibgp()).unwrap().faults, []);
}

#[test]
fn next_hop_of_a_wrong_length_or_that_is_no_host_is_withdrawn() {
    withdraws(&hex!("40 03 03 0a0000"), &ebgp());
    withdraws(&hex!("40 03 05 0a00000100"), &ebgp());
    for martian in [hex!("00000000"), hex!("7f000001"), hex!("e0000001"), hex!("ffffffff")] {
        withdraws(&[&hex!("40 03 04")[..], &martian].concat(), &ebgp());
    }
}

#[test]
fn a_martian_next_hop_beside_mp_reach_alone_is_ignored() {
    let martian = hex!("40 03 04 00000000");
    let update = parse_in(&ebgp(), &[MP_REACH, ORIGIN, AS_PATH, &martian], &[]).unwrap();
    assert_eq!(update.announced[0].prefixes, prefixes(&["fd00:1::/32"]));
    assert_eq!(update.faults, []);
}

#[test]
fn multi_exit_disc_of_a_wrong_length_is_withdrawn() {
    withdraws(&hex!("80 04 03 000001"), &ebgp());
    withdraws(&hex!("80 04 00"), &ebgp());
}

#[test]
fn local_pref_of_a_wrong_length_is_withdrawn_from_an_internal_neighbour() {
    withdraws(&hex!("40 05 02 0064"), &ibgp());
    assert_eq!(with(&hex!("40 05 04 00000064"), &ibgp()).unwrap().attributes.unwrap().local_pref, Some(100));
}

#[test]
fn local_pref_from_an_external_neighbour_is_discarded_good_or_bad() {
    assert_eq!(discards(&hex!("40 05 04 00000064"), &ebgp()).attributes.unwrap().local_pref, None);
    discards(&hex!("40 05 02 0064"), &ebgp());
}

#[test]
fn atomic_aggregate_with_a_value_is_discarded() {
    assert!(!discards(&hex!("40 06 01 00"), &ebgp()).attributes.unwrap().atomic_aggregate);
    assert!(with(&hex!("40 06 00"), &ebgp()).unwrap().attributes.unwrap().atomic_aggregate);
}

#[test]
fn aggregator_of_a_wrong_length_or_as_zero_is_discarded() {
    discards(&hex!("c0 07 06 fde9 0a000001"), &ebgp());
    discards(&hex!("c0 07 08 00000000 0a000001"), &ebgp());
    let narrow = Session { asn4: false, ..ebgp() };
    let update = parse_in(
        &narrow,
        &[ORIGIN, &hex!("40 02 04 02 01 fde9"), NEXT_HOP, &hex!("c0 07 08 0000fde9 0a000001")],
        NLRI,
    );
    assert_eq!(update.unwrap().faults[0].action, FaultAction::Discard);
}

#[test]
fn communities_of_a_wrong_length_are_withdrawn() {
    withdraws(&hex!("c0 08 03 000001"), &ebgp());
    withdraws(&hex!("c0 08 00"), &ebgp());
}

#[test]
fn originator_id_of_a_wrong_length_is_withdrawn_and_from_outside_discarded() {
    withdraws(&hex!("80 09 03 0a0000"), &ibgp());
    assert_eq!(discards(&hex!("80 09 04 0a000001"), &ebgp()).attributes.unwrap().originator_id, None);
}

#[test]
fn cluster_list_of_a_wrong_length_is_withdrawn_and_from_outside_discarded() {
    withdraws(&hex!("80 0a 05 0a00000100"), &ibgp());
    withdraws(&hex!("80 0a 00"), &ibgp());
    assert!(discards(&hex!("80 0a 04 0a000001"), &ebgp()).attributes.unwrap().cluster_list.is_empty());
}

#[test]
fn extended_communities_of_a_wrong_length_are_withdrawn() {
    withdraws(&hex!("c0 10 09 0002fc000000000700"), &ebgp());
    withdraws(&hex!("c0 10 00"), &ebgp());
}

#[test]
fn large_communities_of_a_wrong_length_are_withdrawn() {
    withdraws(&hex!("c0 20 08 0000000100000002"), &ebgp());
    withdraws(&hex!("c0 20 00"), &ebgp());
}

#[test]
fn as4_attributes_are_discarded_from_a_four_octet_neighbour_and_where_malformed() {
    discards(&hex!("c0 11 06 02 01 0000fde9"), &ebgp());
    discards(&hex!("c0 12 08 0000fde9 0a000001"), &ebgp());
    let narrow = Session { asn4: false, ..ebgp() };
    let path = hex!("40 02 04 02 01 fde9");
    for malformed in [&hex!("c0 11 05 02 01 0000fd")[..], &hex!("c0 11 00"), &hex!("c0 12 06 fde9 0a000001")]
    {
        let update = parse_in(&narrow, &[ORIGIN, &path, NEXT_HOP, malformed], NLRI).unwrap();
        let faults: Vec<_> = update.faults.iter().map(|fault| (fault.attr, fault.action)).collect();
        assert_eq!(faults, [(malformed[1], FaultAction::Discard)]);
        assert_eq!(update.attributes.unwrap().as_path.to_string(), "65001");
    }
}

#[test]
fn as4_path_and_as4_aggregator_are_ignored_beside_a_younger_aggregator() {
    let narrow = Session { asn4: false, ..ebgp() };
    let path: &[u8] = &hex!("40 02 06 02 02 fde9 5ba0");
    let as4_path: &[u8] = &hex!("c0 11 0a 02 02 0000fde9 000186a0");
    let as4_aggregator: &[u8] = &hex!("c0 12 08 000186a0 0a000001");
    let heard = |aggregator: &[u8]| {
        let attributes = [ORIGIN, path, NEXT_HOP, aggregator, as4_path, as4_aggregator];
        let attributes = parse_in(&narrow, &attributes, NLRI).unwrap().attributes.unwrap();
        (attributes.as_path.to_string(), attributes.aggregator.unwrap().0)
    };
    assert_eq!(heard(&hex!("c0 07 06 5ba0 0a000001")), ("65001 100000".into(), Asn(100_000)));
    assert_eq!(heard(&hex!("c0 07 06 fde9 0a000001")), ("65001 23456".into(), Asn(65001)));
}

#[test]
fn wrong_flags_are_withdrawn() {
    withdraws(&hex!("80 01 01 00"), &ebgp());
    withdraws(&hex!("c0 04 04 00000001"), &ebgp());
    withdraws(&hex!("80 08 04 00000001"), &ebgp());
}

#[test]
fn partial_and_unused_flag_bits_are_no_fault() {
    assert_eq!(with(&hex!("e0 08 04 00000001"), &ebgp()).unwrap().faults, []);
    assert_eq!(with(&hex!("cf 08 04 00000001"), &ebgp()).unwrap().faults, []);
}

#[test]
fn a_missing_mandatory_attribute_is_withdrawn() {
    for (missing, attributes) in [(1, [AS_PATH, NEXT_HOP]), (2, [ORIGIN, NEXT_HOP]), (3, [ORIGIN, AS_PATH])] {
        let update = parse_in(&ebgp(), &attributes, NLRI).unwrap();
        assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]));
        let faults: Vec<_> = update.faults.iter().map(|fault| (fault.attr, fault.action)).collect();
        assert_eq!(faults, [(missing, FaultAction::Withdraw)]);
    }
}

#[test]
fn a_repeated_attribute_is_discarded_and_the_first_counts() {
    let update = parse_in(&ebgp(), &[ORIGIN, AS_PATH, NEXT_HOP, &hex!("40 01 01 02")], NLRI).unwrap();
    assert_eq!(update.attributes.unwrap().origin, Origin::Igp);
    assert_eq!(update.faults[0].action, FaultAction::Discard);
}

#[test]
fn a_repeated_mp_reach_or_mp_unreach_ends_the_session() {
    for twice in [MP_REACH, MP_UNREACH] {
        let update = parse_in(&ebgp(), &[twice, ORIGIN, AS_PATH, twice], &[]);
        assert_eq!(update, Err(Notification::malformed_attribute_list()));
    }
}

#[test]
fn an_attribute_that_runs_over_the_list_withdraws_what_the_message_announces() {
    for over in [&hex!("40 05 ff 00000064")[..], &hex!("40 05"), &hex!("50 05 00")] {
        let update = parse_in(&ibgp(), &[ORIGIN, AS_PATH, NEXT_HOP, over], NLRI).unwrap();
        assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]));
        assert_eq!(update.announced, []);
    }
}

#[test]
fn treat_as_withdraw_takes_the_prefixes_of_both_families() {
    let update =
        parse_in(&ebgp(), &[MP_REACH, &hex!("40 01 01 07"), AS_PATH, NEXT_HOP, MP_UNREACH], NLRI).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["fd00:2::/32", "10.1.0.0/16", "fd00:1::/32"]));
    assert_eq!((update.announced.len(), update.attributes), (0, None));
}

#[test]
fn an_error_that_withdraws_ends_the_session_where_nothing_is_announced() {
    let bad_origin = hex!("40 01 01 07");
    let update = parse_in(&ebgp(), &[&bad_origin, AS_PATH, MP_UNREACH], &[]);
    assert_eq!(update, Err(Notification::malformed_attribute_list()));
    // One that only discards does not.
    let update = parse_in(&ebgp(), &[MP_UNREACH, &hex!("40 06 01 00")], &[]).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["fd00:2::/32"]));
}

#[test]
fn mp_reach_that_cannot_be_read_ends_the_session_with_the_attribute_as_data() {
    let next_hop_of_12 = hex!("80 0e 16 0002 01 0c fd0000000000000000000000 00 20 fd000001");
    let prefix_too_long = hex!("80 0e 1a 0002 01 10 fd000000000000000000000000000001 00 81 fd000001");
    let cut = hex!("80 0e 04 0002 01 10");
    for malformed in [&next_hop_of_12[..], &prefix_too_long, &cut] {
        let update = parse_in(&ebgp(), &[malformed, ORIGIN, AS_PATH], &[]);
        assert_eq!(update, Err(Notification::optional_attribute(malformed)));
    }
}

#[test]
fn mp_unreach_that_cannot_be_read_ends_the_session_with_the_attribute_as_data() {
    for malformed in [&hex!("80 0f 02 0002")[..], &hex!("80 0f 05 0002 01 20 fd")] {
        let update = parse_in(&ebgp(), &[malformed], &[]);
        assert_eq!(update, Err(Notification::optional_attribute(malformed)));
    }
}

#[test]
fn mp_reach_with_a_next_hop_that_is_no_host_is_withdrawn() {
    let mut martian = MP_REACH.to_vec();
    martian[7] = 0xff;
    let update = parse_in(&ebgp(), &[&martian, ORIGIN, AS_PATH], &[]).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["fd00:1::/32"]));
    assert_eq!(update.faults[0].action, FaultAction::Withdraw);
}

#[test]
fn a_family_that_was_not_negotiated_is_discarded_whatever_is_in_it() {
    let ipv4_only = Session { families: vec![Family::Ipv4], ..ebgp() };
    let update = parse_in(&ipv4_only, &[MP_REACH, ORIGIN, AS_PATH, NEXT_HOP], NLRI).unwrap();
    assert_eq!(update.announced.len(), 1);
    assert_eq!((update.faults[0].attr, update.faults[0].action), (14, FaultAction::Discard));
    let vpn = hex!("80 0e 06 0001 80 00 00 ff");
    assert_eq!(parse_in(&ebgp(), &[&vpn, ORIGIN, AS_PATH, NEXT_HOP], NLRI).unwrap().announced.len(), 1);
}

#[test]
fn prefixes_that_cannot_be_read_end_the_session() {
    let good = [ORIGIN, AS_PATH, NEXT_HOP];
    assert_eq!(parse_in(&ebgp(), &good, &hex!("21 0a00000000")), Err(Notification::invalid_network_field()));
    assert_eq!(parse_in(&ebgp(), &good, &hex!("18 0a00")), Err(Notification::invalid_network_field()));
    let withdrawn = message(&hex!("21 0a00000000"), &[], &[]);
    assert_eq!(read(&withdrawn, &ebgp()), Err(Notification::invalid_network_field()));
}

#[test]
fn lengths_that_contradict_each_other_end_the_session() {
    let mut longer = message(&[], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI);
    longer[22] = 0xff;
    assert_eq!(read(&longer, &ebgp()), Err(Notification::malformed_attribute_list()));
    let mut withdrawn = message(&hex!("10 0a01"), &[], &[]);
    withdrawn[20] = 9;
    assert_eq!(read(&withdrawn, &ebgp()), Err(Notification::malformed_attribute_list()));
}

#[test]
fn an_unknown_well_known_attribute_ends_the_session_with_the_attribute_as_data() {
    let unknown = hex!("40 63 01 07");
    assert_eq!(with(&unknown, &ebgp()), Err(Notification::unrecognized_well_known_attribute(&unknown)));
}

#[test]
fn an_unknown_optional_attribute_is_kept_where_it_is_transitive() {
    let kept = with(&hex!("c0 63 01 07"), &ebgp()).unwrap();
    assert_eq!(kept.faults, []);
    let unknown = &kept.attributes.unwrap().unknown;
    assert_eq!((unknown[0].code, unknown[0].flags, &unknown[0].value[..]), (99, 0xc0, &[7][..]));
    let dropped = with(&hex!("80 63 01 07"), &ebgp()).unwrap();
    assert_eq!(dropped.faults, []);
    assert!(dropped.attributes.unwrap().unknown.is_empty());
}

#[test]
fn both_forms_of_end_of_rib_are_read() {
    let end = |attributes: &[&[u8]]| parse_in(&ebgp(), attributes, &[]).unwrap();
    assert_eq!(end(&[]), Update::end_of_rib(Family::Ipv4));
    assert_eq!(end(&[&hex!("80 0f 03 0002 01")]), Update::end_of_rib(Family::Ipv6));
    assert_eq!(end(&[&hex!("80 0f 03 0001 01")]), Update::end_of_rib(Family::Ipv4));
    // Not alone, it is only an empty list.
    assert_eq!(end(&[&hex!("80 0f 03 0002 01"), ORIGIN]).end_of_rib, None);
}
