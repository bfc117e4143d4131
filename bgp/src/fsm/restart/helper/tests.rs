use super::*;
use crate::fsm::pair::local;
use crate::wire::{Capability, LongLived, Notification, Open};

const SECOND: Duration = Duration::from_secs(1);

/// What a neighbour's OPEN with these capabilities comes to.
fn with(capabilities: Vec<Capability>) -> Negotiated {
    let mut open: Open = local(65001, 2, 64512).open();
    open.capabilities.retain(|capability| {
        !matches!(capability, Capability::GracefulRestart { .. } | Capability::LongLivedGracefulRestart(_))
    });
    open.capabilities.extend(capabilities);
    local(64512, 1, 65001).negotiate(&open).unwrap()
}

fn graceful(restarting: bool, families: &[(Family, bool)]) -> Capability {
    Capability::GracefulRestart { restarting, notification: true, time: 120, families: families.to_vec() }
}

fn session(restarting: bool, families: &[(Family, bool)]) -> Negotiated {
    with(vec![graceful(restarting, families)])
}

/// Graceful restart for both families, and `time` seconds more for IPv4.
fn long_lived(forwarding: bool, time: u32) -> Negotiated {
    let long = LongLived { family: Family::Ipv4, forwarding, time };
    with(vec![graceful(false, &both()), Capability::LongLivedGracefulRestart(vec![long])])
}

fn both() -> Vec<(Family, bool)> {
    Family::ALL.map(|family| (family, true)).to_vec()
}

fn lost() -> Cause {
    Cause::Lost("connection reset by the neighbour".to_owned())
}

fn kept(stale: bool) -> Vec<Kept> {
    Family::ALL.map(|family| Kept { family, stale }).to_vec()
}

fn gone() -> Vec<Due> {
    Family::ALL.map(Due::Gone).to_vec()
}

/// One whose session has been up and is lost at `now`.
fn away(negotiated: &Negotiated, now: Instant) -> Helper {
    let mut helper = Helper::default();
    assert!(helper.up(negotiated, now).is_empty());
    let _ = helper.down(&lost(), now);
    helper
}

#[test]
fn rfc4724_routes_wait_for_a_neighbour_as_long_as_it_asked() {
    let (mut helper, now) = (Helper::default(), Instant::now());
    assert!(helper.up(&session(false, &both()), now).is_empty());
    assert_eq!(helper.next_timeout(), None);
    assert_eq!(helper.down(&lost(), now), kept(false));
    assert!(helper.is_waiting());
    assert_eq!(helper.next_timeout(), Some(now + 120 * SECOND));
    assert!(helper.expired(now + 119 * SECOND).is_empty());
    assert_eq!(helper.expired(now + 120 * SECOND), gone());
    assert_eq!((helper.next_timeout(), helper.is_waiting()), (None, false));
}

#[test]
fn a_neighbour_that_is_back_has_until_its_end_of_rib() {
    let now = Instant::now();
    let mut helper = away(&session(false, &both()), now);
    assert!(helper.up(&session(true, &both()), now + SECOND).is_empty());
    assert!(helper.expired(now + 300 * SECOND).is_empty(), "its restart time counts no more");
    assert!(helper.end_of_rib(Family::Ipv4));
    assert!(!helper.end_of_rib(Family::Ipv4), "once");
    assert_eq!(helper.expired(now + SECOND + REFRESH), [Due::Gone(Family::Ipv6)], "the last wait is bounded");
}

#[test]
fn rfc4724_a_family_whose_forwarding_was_lost_goes_at_once() {
    for (back, gone) in [
        (vec![(Family::Ipv4, true), (Family::Ipv6, false)], vec![Family::Ipv6]),
        (vec![(Family::Ipv4, true)], vec![Family::Ipv6]),
        (vec![], Family::ALL.to_vec()),
    ] {
        let now = Instant::now();
        let mut helper = away(&session(false, &both()), now);
        assert_eq!(helper.up(&session(true, &back), now), gone);
    }
}

#[test]
fn a_neighbour_that_restarts_again_before_its_end_of_rib_is_waited_for_again() {
    let now = Instant::now();
    let mut helper = away(&session(false, &both()), now);
    let _ = helper.up(&session(true, &both()), now + SECOND);
    assert_eq!(helper.down(&lost(), now + 2 * SECOND), kept(false));
    assert_eq!(helper.next_timeout(), Some(now + 122 * SECOND));
}

#[test]
fn a_wait_can_be_ended_before_its_time() {
    let mut helper = away(&session(false, &both()), Instant::now());
    assert_eq!(helper.abort(), Family::ALL);
    assert_eq!((helper.next_timeout(), helper.abort()), (None, vec![]));
}

#[test]
fn rfc8538_a_notification_is_graceful_only_with_the_n_bit_and_a_hard_reset_never_is() {
    let cease = Notification::administrative_reset("");
    let hard = Cause::Received(Notification::hard_reset(&cease));
    let soft = Cause::Received(cease);
    for (cause, with, without) in [
        (lost(), true, true),
        (soft, true, false),
        (Cause::HoldTimer(9), true, false),
        (Cause::BfdDown("control detection time expired after 150 ms".to_owned()), false, false),
        (hard, false, false),
        (Cause::Stopped(Notification::peer_deconfigured()), false, false),
    ] {
        assert_eq!((cause.is_graceful(true), cause.is_graceful(false)), (with, without), "{cause}");
    }
}

#[test]
fn rfc9494_after_the_restart_time_routes_are_the_last_resort_for_the_long_lived_stale_time() {
    let now = Instant::now();
    let mut helper = away(&long_lived(true, 3600), now);
    assert_eq!(
        helper.expired(now + 120 * SECOND),
        [Due::LongLived(Family::Ipv4), Due::Gone(Family::Ipv6)],
        "each family as it was asked"
    );
    assert!(helper.is_waiting());
    assert_eq!(helper.next_timeout(), Some(now + 3720 * SECOND));
    assert_eq!(helper.expired(now + 3720 * SECOND), [Due::Gone(Family::Ipv4)]);
    assert_eq!(helper.next_timeout(), None);
}

#[test]
fn a_family_that_is_not_in_the_graceful_restart_capability_is_the_last_resort_at_once() {
    let now = Instant::now();
    let long = LongLived { family: Family::Ipv6, forwarding: true, time: 60 };
    let only = with(vec![graceful(false, &[]), Capability::LongLivedGracefulRestart(vec![long])]);
    let mut helper = Helper::default();
    let _ = helper.up(&only, now);
    assert_eq!(helper.down(&lost(), now), [Kept { family: Family::Ipv6, stale: false }]);
    assert_eq!(helper.expired(now), [Due::LongLived(Family::Ipv6)]);
    assert_eq!(helper.next_timeout(), Some(now + 60 * SECOND));
}

#[test]
fn a_neighbour_that_was_away_for_long_keeps_its_routes_by_the_long_lived_forwarding_bit() {
    for (forwarding, gone) in [(true, vec![]), (false, vec![Family::Ipv4])] {
        let now = Instant::now();
        let mut helper = away(&long_lived(true, 3600), now);
        let _ = helper.expired(now + 120 * SECOND);
        assert_eq!(helper.up(&long_lived(forwarding, 3600), now + 200 * SECOND), gone);
        assert_eq!(helper.end_of_rib(Family::Ipv4), forwarding);
    }
    let now = Instant::now();
    let mut helper = away(&long_lived(true, 3600), now);
    let _ = helper.expired(now + 120 * SECOND);
    assert_eq!(helper.up(&session(true, &both()), now), [Family::Ipv4], "without the capability");
}

#[test]
fn restarting_again_before_the_end_of_rib_does_not_give_more_time() {
    let now = Instant::now();
    let mut helper = away(&long_lived(true, 3600), now);
    let _ = helper.expired(now + 120 * SECOND);
    let _ = helper.up(&long_lived(true, 3600), now + 200 * SECOND);
    let again = helper.down(&lost(), now + 210 * SECOND);
    assert!(again.contains(&Kept { family: Family::Ipv4, stale: true }), "{again:?}");
    assert!(helper.expired(now + 210 * SECOND).contains(&Due::LongLived(Family::Ipv4)));
    let _ = helper.expired(now + 400 * SECOND);
    assert_eq!(helper.next_timeout(), Some(now + 3720 * SECOND));
    // Once it has said everything, it is as if nothing had been.
    let _ = helper.up(&long_lived(true, 3600), now + 500 * SECOND);
    assert!(helper.end_of_rib(Family::Ipv4));
    let fresh = helper.down(&lost(), now + 600 * SECOND);
    assert!(fresh.contains(&Kept { family: Family::Ipv4, stale: false }));
    assert_eq!(helper.next_timeout(), Some(now + 720 * SECOND));
}

#[test]
fn the_long_lived_stale_time_has_a_limit_of_our_own() {
    let (mut helper, now) = (Helper::default(), Instant::now());
    helper.set_limit(60 * SECOND);
    let _ = helper.up(&long_lived(true, 3600), now);
    let _ = helper.down(&lost(), now);
    let _ = helper.expired(now + 120 * SECOND);
    assert_eq!(helper.next_timeout(), Some(now + 180 * SECOND));
    helper.set_limit(Duration::ZERO);
    let _ = helper.up(&long_lived(true, 3600), now);
    assert!(helper.end_of_rib(Family::Ipv4));
    let _ = helper.down(&lost(), now);
    assert_eq!(helper.expired(now + 120 * SECOND), gone(), "none at all");
}

#[test]
fn a_refresh_begins_after_the_end_of_rib_and_its_wait_is_bounded() {
    let (mut helper, now) = (Helper::default(), Instant::now());
    let _ = helper.up(&session(false, &both()), now);
    assert!(!helper.refresh_begins(Family::Ipv4, now), "it has not said what it has");
    assert!(!helper.refresh_ends(Family::Ipv4), "an EoRR without a BoRR");
    assert!(!helper.end_of_rib(Family::Ipv4));
    assert!(helper.refresh_begins(Family::Ipv4, now));
    assert!(!helper.end_of_rib(Family::Ipv4), "an End-of-RIB is no EoRR");
    assert!(helper.refresh_ends(Family::Ipv4) && !helper.refresh_ends(Family::Ipv4));
    let now = now + PACE;
    assert!(helper.refresh_begins(Family::Ipv4, now));
    assert_eq!(helper.expired(now + REFRESH), [Due::Gone(Family::Ipv4)]);
    // One that does not offer graceful restart may have no End-of-RIB.
    let _ = helper.up(&with(vec![]), now);
    assert!(helper.refresh_begins(Family::Ipv6, now));
}

#[test]
fn a_refresh_that_begins_again_and_again_costs_us_one_a_second() {
    let (mut helper, now) = (Helper::default(), Instant::now());
    let _ = helper.up(&with(vec![]), now);
    assert!(helper.refresh_begins(Family::Ipv4, now));
    assert!(!helper.refresh_begins(Family::Ipv4, now + 10 * PACE), "before its end");
    assert!(helper.refresh_begins(Family::Ipv6, now), "each family for itself");
    assert!(helper.refresh_ends(Family::Ipv4));
    assert!(helper.refresh_begins(Family::Ipv4, now + 10 * PACE) && helper.refresh_ends(Family::Ipv4));
    assert!(!helper.refresh_begins(Family::Ipv4, now + 10 * PACE) && !helper.refresh_ends(Family::Ipv4));
}

#[test]
fn a_session_lost_in_a_refresh_keeps_what_was_not_said_again() {
    let (mut helper, now) = (Helper::default(), Instant::now());
    let _ = helper.up(&session(false, &both()), now);
    let _ = helper.end_of_rib(Family::Ipv4);
    assert!(helper.refresh_begins(Family::Ipv4, now));
    assert_eq!(
        helper.down(&lost(), now),
        [Kept { family: Family::Ipv4, stale: true }, Kept { family: Family::Ipv6, stale: false }]
    );
    assert_eq!(helper.next_timeout(), Some(now + 120 * SECOND));
}
