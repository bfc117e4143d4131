use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::negotiate::Authentication;
use super::pair::{LEFT, Pair, RIGHT, local};
use super::*;
use crate::api::SessionState;
use crate::types::Asn;
use crate::wire::Capability;

const SECOND: Duration = Duration::from_secs(1);

fn ibgp() -> Pair {
    Pair::new(local(64512, 1, 64512), local(64512, 2, 64512))
}

fn up() -> Pair {
    let mut pair = ibgp();
    pair.start_both();
    assert!(pair.run_until(SECOND, Pair::both_up));
    pair.run_for(SECOND);
    pair
}

#[test]
fn rfc4271_one_call_brings_both_sides_up_in_three_round_trips() {
    let mut pair = Pair::new(local(64512, 1, 65001), Local { passive: true, ..local(65001, 2, 64512) });
    pair.start_both();
    assert_eq!(pair.peers[LEFT].state(), SessionState::Connect);
    assert_eq!(pair.peers[RIGHT].state(), SessionState::Active);
    assert!(pair.run_until(Duration::from_millis(60), Pair::both_up));
    assert_eq!(pair.survivors(), [LEFT]);
    assert!(pair.calls[RIGHT].is_empty());
    assert_eq!(pair.reason(LEFT), "");
}

#[test]
fn rfc4271_of_two_calls_at_once_that_of_the_larger_identifier_stays() {
    for (left, right, winner) in [(1, 2, RIGHT), (2, 1, LEFT)] {
        let mut pair = Pair::new(local(64512, left, 64512), local(64512, right, 64512));
        pair.start_both();
        assert!(pair.run_until(SECOND, Pair::both_up));
        pair.run_for(SECOND);
        assert_eq!(pair.survivors(), [winner]);
        assert_eq!(pair.ups, [1, 1]);
        assert!(pair.downs.iter().all(Vec::is_empty), "the loser never was up");
        assert_eq!(pair.calls.each_ref().map(Vec::len), [1, 1], "both called");
    }
}

#[test]
fn rfc6286_with_equal_identifiers_the_call_of_the_larger_as_stays() {
    for (left, right, winner) in [(64512, 65001, RIGHT), (65001, 64512, LEFT)] {
        let mut pair = Pair::new(local(left, 1, right), local(right, 1, left));
        pair.start_both();
        assert!(pair.run_until(SECOND, Pair::both_up));
        pair.run_for(SECOND);
        assert_eq!(pair.survivors(), [winner]);
    }
}

#[test]
fn an_established_session_wins_over_a_later_call_whatever_the_identifiers() {
    for (left, right) in [(1, 2), (2, 1)] {
        let mut pair =
            Pair::new(local(64512, left, 64512), Local { passive: true, ..local(64512, right, 64512) });
        pair.start_both();
        assert!(pair.run_until(SECOND, Pair::both_up));
        // The right side calls as well, as a neighbour may that is not Passive after all.
        let actions = pair.peers[LEFT].handle(Event::Incoming, pair.now);
        assert_eq!(actions[0], Action::Admit);
        let open = Message::Open(local(64512, right, 64512).open());
        let actions = pair.peers[LEFT].handle(Event::Received(Role::Passive, open), pair.now);
        let cease = Message::Notification(Notification::connection_collision());
        assert!(actions.contains(&Action::Send(Role::Passive, cease)));
        assert!(actions.contains(&Action::Close(Role::Passive)));
        assert!(!actions.iter().any(|action| matches!(action, Action::Down(_))));
        assert!(pair.peers[LEFT].established().is_some());
    }
}

#[test]
fn the_wrong_as_is_told_in_words_on_both_sides_and_tried_again_ever_more_slowly() {
    let mut pair = Pair::new(local(64512, 1, 65001), local(65010, 2, 64512));
    pair.start_both();
    pair.run_for(60 * SECOND);
    assert_eq!(pair.ups, [0, 0]);
    assert_eq!(pair.reason(LEFT), "peer says AS65010, we expect AS65001");
    assert_eq!(pair.reason(RIGHT), "they sent OPEN message error: bad peer AS (2/2)");
    assert!(pair.notified[RIGHT].contains(&Notification::bad_peer_as()));
    assert!((10..40).contains(&pair.calls[LEFT].len()), "{} calls", pair.calls[LEFT].len());
}

#[test]
fn rfc4271_a_silent_neighbour_is_given_up_after_the_hold_time_and_found_again_after_the_silence() {
    let mut pair = up();
    pair.connected = false;
    let silence = pair.now;
    assert!(pair.run_until(10 * SECOND, |pair| pair.downs.iter().all(|downs| !downs.is_empty())));
    assert!(pair.now - silence > 5 * SECOND && pair.now - silence <= 9 * SECOND);
    assert_eq!(pair.downs[LEFT], [Cause::HoldTimer(9)]);
    assert_eq!(pair.reason(LEFT), "hold timer expired after 9 s");
    pair.run_for(30 * SECOND);
    assert_eq!(pair.reason(LEFT), "no answer to our call");
    pair.connected = true;
    assert!(pair.run_until(6 * SECOND, Pair::both_up));
    assert_eq!(pair.reason(LEFT), "hold timer expired after 9 s", "why it last went down");
}

#[test]
fn keepalives_hold_an_idle_session_for_a_day() {
    let mut pair = up();
    pair.run_for(86_400 * SECOND);
    assert_eq!(pair.ups, [1, 1]);
    assert!(pair.downs.iter().all(Vec::is_empty));
    // Every 3 s less a quarter at most, on two sides.
    assert!((2 * 86_400 / 3..2 * 86_400 * 2 / 4).contains(&pair.keepalives), "{}", pair.keepalives);
}

#[test]
fn rfc4271_without_a_hold_time_nothing_is_said_and_nothing_expires() {
    let quiet = Local { hold_time: 0, ..local(64512, 1, 64512) };
    let mut pair = Pair::new(quiet, local(64512, 2, 64512));
    pair.start_both();
    assert!(pair.run_until(SECOND, Pair::both_up));
    pair.run_for(SECOND);
    let keepalives = pair.keepalives;
    pair.run_for(86_400 * SECOND);
    assert!(pair.both_up());
    assert_eq!(pair.keepalives, keepalives);
}

#[test]
fn rfc9003_stop_says_administrative_shutdown_with_its_text_and_start_begins_again() {
    let mut pair = up();
    pair.event(LEFT, Event::Stop(Notification::administrative_shutdown("maintenance")));
    assert_eq!(pair.peers[LEFT].state(), SessionState::Idle);
    assert_eq!(pair.peers[LEFT].next_timeout(), None);
    pair.run_for(SECOND);
    let reason = r#"they sent cease: hard reset (6/9): cease: administrative shutdown (6/2): "maintenance""#;
    assert_eq!(pair.reason(RIGHT), reason, "also after calls that were refused");
    assert_eq!(pair.downs[RIGHT].len(), 1);
    assert!(pair.calls[RIGHT].len() > 1, "the neighbour keeps asking");
    assert!(pair.notified[RIGHT].contains(&Notification::connection_rejected()));
    pair.event(LEFT, Event::Start);
    assert!(pair.run_until(SECOND, Pair::both_up));
}

#[test]
fn rfc4486_a_deconfigured_peer_is_told_so() {
    let mut pair = up();
    pair.event(RIGHT, Event::Stop(Notification::peer_deconfigured()));
    pair.run_for(SECOND);
    let hard = Notification::hard_reset(&Notification::peer_deconfigured());
    assert_eq!(pair.notified[LEFT].iter().filter(|n| **n == hard).count(), 1);
}

#[test]
fn rfc9384_bfd_ends_a_session_at_once_with_its_own_cease_and_the_next_is_tried_soon() {
    let mut pair = up();
    pair.event(LEFT, Event::BfdDown("control detection time expired after 150 ms".to_owned()));
    assert_ne!(pair.peers[LEFT].state(), SessionState::Established);
    assert_eq!(
        pair.reason(LEFT),
        "BFD says the neighbour is down: control detection time expired after 150 ms"
    );
    assert_eq!(pair.peers[LEFT].reason().unwrap().notification(), Some(Notification::bfd_down()));
    assert!(pair.run_until(SECOND, |pair| pair.reason(RIGHT).ends_with("cease: BFD down (6/10)")));
    // A way that BFD lost before the session was up is none of its business: it may come back.
    assert!(pair.run_until(SECOND, Pair::both_up));
}

#[test]
fn a_stopped_peer_refuses_calls() {
    let mut pair = ibgp();
    pair.event(LEFT, Event::Start);
    pair.run_for(SECOND);
    assert!(!pair.notified[LEFT].is_empty());
    assert!(pair.notified[LEFT].iter().all(|n| *n == Notification::connection_rejected()));
    assert_eq!(pair.reason(LEFT), "they sent cease: connection rejected (6/5)");
}

#[test]
fn rfc4271_calls_nobody_listens_to_are_repeated_soon_then_every_few_seconds() {
    let mut pair = ibgp();
    pair.listening[RIGHT] = false;
    pair.event(LEFT, Event::Start);
    pair.run_for(30 * SECOND);
    assert_eq!(pair.reason(LEFT), "connection refused");
    let waits: Vec<_> = pair.calls[LEFT].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] <= Duration::from_millis(270), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(5020)), "{waits:?}");
    assert!(*waits.last().unwrap() >= Duration::from_millis(3750), "{waits:?}");
    pair.listening[RIGHT] = true;
    pair.event(RIGHT, Event::Start);
    assert!(pair.run_until(Duration::from_millis(60), Pair::both_up), "the newcomer calls at once");
}

#[test]
fn a_call_nobody_answers_is_given_up_and_made_again() {
    let mut pair = ibgp();
    pair.connected = false;
    pair.event(LEFT, Event::Start);
    pair.run_for(16 * SECOND);
    assert!((3..=5).contains(&pair.calls[LEFT].len()), "{}", pair.calls[LEFT].len());
    assert_eq!(pair.peers[LEFT].state(), SessionState::Connect);
    assert_eq!(pair.reason(LEFT), "no answer to our call");
}

#[test]
fn silence_may_mean_another_password_where_there_is_one() {
    for (authentication, words) in [
        (Authentication::Password, "no answer with this password"),
        (Authentication::TcpAo, "no answer with these keys"),
    ] {
        let ours = Local { authentication, ..local(64512, 1, 64512) };
        let mut pair = Pair::new(ours, local(64512, 2, 64512));
        pair.connected = false;
        pair.event(LEFT, Event::Start);
        pair.run_for(6 * SECOND);
        assert!(pair.reason(LEFT).starts_with(words), "{}", pair.reason(LEFT));
    }
}

#[test]
fn a_cut_session_comes_back_within_a_second() {
    let mut pair = up();
    pair.run_for(10 * SECOND);
    pair.cut();
    assert_eq!(pair.reason(LEFT), "connection reset by peer");
    assert!(pair.run_until(SECOND, Pair::both_up));
    assert_eq!(pair.ups, [2, 2]);
}

#[test]
fn a_neighbour_that_rebooted_unnoticed_is_found_out_when_it_calls() {
    for id in [2, 200] {
        let right = local(64512, id, 64512);
        let mut pair = Pair::new(local(64512, 100, 64512), right.clone());
        pair.start_both();
        assert!(pair.run_until(SECOND, Pair::both_up));
        pair.run_for(10 * SECOND);
        pair.reboot(RIGHT, right);
        pair.downs[RIGHT].push(Cause::Lost(String::new()));
        pair.event(RIGHT, Event::Start);
        assert!(pair.run_until(SECOND, |pair| pair.ups == [2, 2]), "long before the hold time");
    }
}

#[test]
fn a_second_call_before_the_first_was_opened_takes_its_place() {
    let mut peer = Peer::new(Local { passive: true, ..local(64512, 1, 64512) }, 1, Instant::now());
    let now = Instant::now();
    let _ = peer.handle(Event::Start, now);
    let _ = peer.handle(Event::Incoming, now);
    let actions = peer.handle(Event::Incoming, now);
    let close = actions.iter().position(|action| *action == Action::Close(Role::Passive)).unwrap();
    let admit = actions.iter().position(|action| *action == Action::Admit).unwrap();
    assert!(close < admit);
}

/// A peer with a connection the neighbour made, which has said nothing yet.
fn open_sent(now: Instant) -> Peer {
    let mut peer = Peer::new(local(64512, 1, 64512), 1, now);
    let _ = peer.handle(Event::Start, now);
    let _ = peer.handle(Event::ConnectFailed("connection refused".into()), now);
    let _ = peer.handle(Event::Incoming, now);
    assert_eq!(peer.state(), SessionState::OpenSent);
    peer
}

fn sent(actions: &[Action]) -> Vec<Notification> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send(_, Message::Notification(notification)) => Some(notification.clone()),
        _ => None,
    });
    sent.collect()
}

#[test]
fn rfc4271_messages_at_the_wrong_time_are_answered_with_the_state_they_came_in() {
    let now = Instant::now();
    let hear = |peer: &mut Peer, message| peer.handle(Event::Received(Role::Passive, message), now);
    let open = || Message::Open(local(64512, 2, 64512).open());

    let mut peer = open_sent(now);
    let actions = hear(&mut peer, Message::Update(Update::default()));
    assert_eq!(sent(&actions), [Notification::unexpected_in_open_sent(MessageType::Update)]);
    assert_eq!(peer.reason().unwrap().to_string(), "they sent UPDATE in OpenSent");
    assert_eq!(peer.state(), SessionState::Idle);

    let mut peer = open_sent(now);
    let _ = hear(&mut peer, open());
    assert_eq!(peer.state(), SessionState::OpenConfirm);
    let actions = hear(&mut peer, Message::Update(Update::default()));
    assert_eq!(sent(&actions), [Notification::unexpected_in_open_confirm(MessageType::Update)]);

    let mut peer = open_sent(now);
    let _ = hear(&mut peer, open());
    assert_eq!(hear(&mut peer, Message::Keepalive), [Action::Up(Role::Passive)]);
    let actions = hear(&mut peer, open());
    assert_eq!(sent(&actions), [Notification::unexpected_in_established(MessageType::Open)]);
    assert!(matches!(actions.last(), Some(Action::Down(_))));
}

#[test]
fn a_bad_message_is_answered_with_the_parsers_verdict_and_a_time_of_refusal() {
    let now = Instant::now();
    let mut peer = open_sent(now);
    let verdict = Notification::connection_not_synchronized();
    let actions = peer.handle(Event::Malformed(Role::Passive, verdict.clone()), now);
    assert_eq!(sent(&actions), [verdict]);
    assert_eq!(peer.handle(Event::Incoming, now), [Action::Refuse(Notification::connection_rejected())]);
    let over = peer.next_timeout().unwrap();
    assert!(over - now <= Duration::from_millis(500), "the second failure in a row");
    assert_eq!(peer.handle(Event::Tick, over), [Action::Connect]);
}

#[test]
fn rfc4271_a_connection_that_never_opens_is_closed_after_four_minutes() {
    let now = Instant::now();
    let mut peer = open_sent(now);
    assert_eq!(peer.next_timeout(), Some(now + 240 * SECOND));
    let actions = peer.handle(Event::Tick, now + 240 * SECOND);
    assert_eq!(sent(&actions), [Notification::hold_timer_expired()]);
}

#[test]
fn the_context_of_later_messages_is_told_before_the_keepalive_that_invites_them() {
    let now = Instant::now();
    let mut peer = open_sent(now);
    let open = Message::Open(local(64512, 2, 64512).open());
    let actions = peer.handle(Event::Received(Role::Passive, open), now);
    assert!(matches!(
        actions.as_slice(),
        [Action::Negotiated(Role::Passive, _), Action::Send(Role::Passive, Message::Keepalive)]
    ));
}

proptest! {
    /// Whatever the delays, two sides that call each other end with one session, the only one there was.
    #[test]
    fn any_delays_end_in_one_session(delays in prop::collection::vec(0u64..200, 1..12), ids in (1u8..5, 6u8..9)) {
        let mut pair = Pair::new(local(64512, ids.0, 64512), local(64512, ids.1, 64512));
        pair.latencies = delays.into_iter().map(Duration::from_millis).collect();
        pair.start_both();
        pair.run_for(3 * SECOND);
        prop_assert!(pair.both_up());
        prop_assert_eq!(pair.survivors().len(), 1);
        prop_assert!(pair.downs.iter().all(Vec::is_empty), "nobody was up on the loser");
        prop_assert!(pair.calls.iter().all(|calls| calls.len() == 1), "one connection outlived the collision");
    }

    /// Whatever happens in whatever order, also what a correct caller would never say.
    #[test]
    fn any_events_keep_the_invariants(
        passive in any::<bool>(),
        events in prop::collection::vec((event(), 0u64..6000), 1..60),
    ) {
        let mut now = Instant::now();
        let mut peer = Peer::new(Local { passive, ..local(64512, 5, 65001) }, 7, now);
        let mut is_up = false;
        let mut stopped = true;
        for (event, wait) in events {
            now += Duration::from_millis(wait);
            stopped = match &event {
                Event::Start => false,
                Event::Stop(_) => true,
                Event::PrefixLimit(over) => stopped || is_up && over.restart_after.is_none(),
                _ => stopped,
            };
            let ticked = matches!(event, Event::Tick);
            for action in peer.handle(event, now) {
                match action {
                    Action::Up(_) => prop_assert!(!std::mem::replace(&mut is_up, true), "up twice"),
                    Action::Down(_) => prop_assert!(std::mem::replace(&mut is_up, false), "down twice"),
                    Action::Update(_) | Action::Refresh(_) => prop_assert!(is_up, "routes without a session"),
                    Action::Connect | Action::Admit => prop_assert!(!stopped && (!passive || action == Action::Admit)),
                    _ => {}
                }
            }
            prop_assert_eq!(is_up, peer.established().is_some());
            prop_assert_eq!(is_up, peer.state() == SessionState::Established);
            if stopped {
                prop_assert_eq!(peer.state(), SessionState::Idle);
                prop_assert_eq!(peer.next_timeout(), None);
            } else if !passive && !stays_down(&peer) {
                prop_assert!(peer.next_timeout().is_some(), "stuck in {}", peer.state());
            }
            if ticked {
                prop_assert!(peer.next_timeout().is_none_or(|next| next > now), "a tick leaves nothing due");
            }
        }
    }
}

/// One that gave too many prefixes waits for its operator, unless a time is set.
fn stays_down(peer: &Peer) -> bool {
    matches!(peer.reason(), Some(Cause::PrefixLimit(PrefixLimit { restart_after: None, .. })))
}

fn event() -> impl Strategy<Value = Event> {
    let role = || prop_oneof![Just(Role::Active), Just(Role::Passive)];
    let open = (prop_oneof![Just(65001u32), Just(65010)], 1u8..9)
        .prop_map(|(asn, id)| Message::Open(Local { hold_time: 3, ..local(asn, id, 64512) }.open()));
    let message = prop_oneof![
        4 => open,
        4 => Just(Message::Keepalive),
        1 => Just(Message::Update(Update::default())),
        1 => Just(Message::Notification(Notification::administrative_shutdown(""))),
        1 => Just(Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 })),
    ];
    prop_oneof![
        2 => Just(Event::Start),
        1 => Just(Event::Stop(Notification::peer_deconfigured())),
        4 => Just(Event::Tick),
        4 => Just(Event::Incoming),
        4 => Just(Event::Connected),
        1 => Just(Event::ConnectFailed("connection refused".into())),
        1 => role().prop_map(|role| Event::Lost(role, "closed by the neighbour".into())),
        8 => (role(), message).prop_map(|(role, message)| Event::Received(role, message)),
        1 => role().prop_map(|role| Event::SendHold(role, 480)),
        1 => prop::option::of(1u32..9).prop_map(|restart_after| {
            Event::PrefixLimit(PrefixLimit { family: Family::Ipv4, limit: 9, restart_after })
        }),
        1 => role().prop_map(|role| Event::Malformed(role, Notification::connection_not_synchronized())),
    ]
}

#[test]
fn the_offer_names_every_family_and_four_octet_as_numbers() {
    let open = local(4_200_000_000, 1, 65001).open();
    assert_eq!(open.asn, Asn(4_200_000_000));
    assert!(open.capabilities.contains(&Capability::FourOctetAs(open.asn)));
    assert_eq!(open.capabilities.len(), 8);
}

#[test]
fn rfc8538_only_what_means_an_end_is_a_hard_reset_and_only_to_one_that_would_take_it_for_a_restart() {
    let mut pair = up();
    pair.event(LEFT, Event::Stop(Notification::other_configuration_change()));
    pair.run_for(SECOND);
    assert_eq!(pair.notified[RIGHT][0], Notification::other_configuration_change());

    let now = Instant::now();
    let mut peer = open_sent(now);
    let mut open = local(64512, 2, 64512).open();
    open.capabilities.retain(|capability| !matches!(capability, Capability::GracefulRestart { .. }));
    let _ = peer.handle(Event::Received(Role::Passive, Message::Open(open)), now);
    let _ = peer.handle(Event::Received(Role::Passive, Message::Keepalive), now);
    assert_eq!(peer.state(), SessionState::Established);
    let actions = peer.handle(Event::Stop(Notification::administrative_shutdown("")), now);
    assert_eq!(sent(&actions), [Notification::administrative_shutdown("")]);
}

#[test]
fn the_restart_bit_is_in_the_first_session_only() {
    use super::restart::{Offer, Start};
    let restarted = local(64512, 1, 64512);
    let restarted =
        Local { restart: Offer { start: Start::Restarted, ..restarted.restart.clone() }, ..restarted };
    let mut pair = Pair::new(restarted, local(64512, 2, 64512));
    pair.start_both();
    let restarting =
        |pair: &Pair| pair.peers[RIGHT].established().unwrap().restart.as_ref().unwrap().restarting;
    assert!(pair.run_until(SECOND, Pair::both_up));
    assert!(restarting(&pair));
    pair.cut();
    assert!(pair.run_until(SECOND, Pair::both_up));
    assert!(!restarting(&pair));
}

#[test]
fn rfc4271_keepalives_are_as_far_apart_as_is_set_and_never_more_than_a_third_of_the_hold_time() {
    for (hold_time, keepalive, interval) in [
        (9, None, Some(3 * SECOND)),
        (9, Some(1), Some(SECOND)),
        (90, Some(30), Some(3 * SECOND)),
        (0, None, None),
        (0, Some(0), None),
    ] {
        let ours = Local { hold_time, keepalive, ..local(64512, 1, 64512) };
        let negotiated = ours.negotiate(&local(64512, 2, 64512).open()).unwrap();
        assert_eq!(negotiated.keepalive, interval, "{hold_time}, {keepalive:?}");
    }
    let mut pair = Pair::new(Local { keepalive: Some(1), ..local(64512, 1, 64512) }, local(64512, 2, 64512));
    pair.start_both();
    assert!(pair.run_until(SECOND, Pair::both_up));
    pair.keepalives = 0;
    pair.run_for(60 * SECOND);
    // One side says 60 to 80 in a minute, the other 20 to 27.
    assert!((78..=110).contains(&pair.keepalives), "{}", pair.keepalives);
}

#[test]
fn rfc9687_the_send_hold_time_is_what_is_set_or_eight_minutes_or_twice_the_hold_time() {
    for (hold_time, send_hold_time, agreed) in
        [(90, None, 480), (300, None, 600), (0, None, 480), (90, Some(91), 91)]
    {
        let ours = Local { hold_time, send_hold_time, ..local(64512, 1, 64512) };
        let theirs = Local { hold_time: 65535, ..local(64512, 2, 64512) };
        let negotiated = ours.negotiate(&theirs.open()).unwrap();
        assert_eq!(negotiated.send_hold_time, agreed * SECOND, "{hold_time}, {send_hold_time:?}");
    }
}

#[test]
fn rfc9687_one_that_takes_nothing_is_told_so_and_hung_up_on() {
    let mut pair = up();
    let role = Role::Active;
    let role = if pair.survivors() == [LEFT] { role } else { Role::Passive };
    let actions = pair.peers[LEFT].handle(Event::SendHold(role, 480), pair.now);
    let last = Notification::send_hold_timer_expired();
    assert_eq!(
        actions,
        [
            Action::Send(role, Message::Notification(last)),
            Action::Close(role),
            Action::Down(Cause::SendHoldTimer(480)),
        ]
    );
    assert_eq!(pair.reason(LEFT), "send hold timer expired: the neighbour has read nothing for 480 s");
    assert!(Cause::SendHoldTimer(480).is_graceful(true), "RFC 8538 keeps the routes");
    assert!(!Cause::SendHoldTimer(480).is_graceful(false), "RFC 4724 does not");
}

#[test]
fn rfc4271_one_past_its_limit_is_refused_until_the_time_set_or_for_good() {
    for restart_after in [Some(30), None] {
        let mut pair = up();
        let over = PrefixLimit { family: Family::Ipv6, limit: 7, restart_after };
        pair.event(LEFT, Event::PrefixLimit(over));
        assert_eq!(pair.peers[LEFT].state(), SessionState::Idle);
        assert!(!Cause::PrefixLimit(over).is_graceful(true));
        // Both offer RFC 8538: the neighbour is to forget us all the same.
        let told = Notification::hard_reset(&Notification::maximum_prefixes(Family::Ipv6, 7));
        pair.run_for(SECOND);
        assert_eq!(pair.notified[RIGHT][0], told);
        assert!(!pair.run_until(25 * SECOND, Pair::both_up), "the neighbour calls in vain");
        assert_eq!(pair.run_until(30 * SECOND, Pair::both_up), restart_after.is_some());
        pair.event(LEFT, Event::Stop(Notification::administrative_reset("")));
        pair.event(LEFT, Event::Start);
        assert!(pair.run_until(30 * SECOND, Pair::both_up), "a reset begins anew");
    }
}

#[test]
fn a_limit_is_of_an_established_session_only() {
    let now = Instant::now();
    let mut peer = Peer::new(Local { passive: true, ..local(64512, 1, 64512) }, 1, now);
    let _ = peer.handle(Event::Start, now);
    let over = PrefixLimit { family: Family::Ipv4, limit: 7, restart_after: None };
    assert!(peer.handle(Event::PrefixLimit(over), now).is_empty());
    assert_eq!(peer.state(), SessionState::Active);
}

#[test]
fn what_the_neighbour_last_said_is_told_behind_a_call_it_does_not_take() {
    let mut pair = up();
    let cease = Notification::administrative_shutdown("moving racks");
    pair.event(RIGHT, Event::Stop(cease.clone()));
    pair.run_for(SECOND / 10);
    let said = pair.peers[LEFT].reasons().unwrap();
    assert!(said.starts_with("they sent ") && said.ends_with(&cease.to_string()), "{said}");
    pair.listening[RIGHT] = false;
    pair.run_for(20 * SECOND);
    let told = pair.peers[LEFT].reasons().unwrap();
    assert_eq!(told, format!("connection refused; before that: {said}"));
    pair.listening[RIGHT] = true;
    pair.event(RIGHT, Event::Start);
    assert!(pair.run_until(20 * SECOND, Pair::both_up));
    assert_eq!(pair.peers[LEFT].reasons(), Some(said), "of the last end");
}
