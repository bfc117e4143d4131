//! Sessions against each other and against single packets; the names are what RFC 5880 asks for.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::pair::{Pair, settings};
use super::{Diagnostic, Packet, Reason, Session, State};

const LOSE_ALL: usize = usize::MAX;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn states(pair: &Pair) -> [State; 2] {
    [pair.sessions[0].state(), pair.sessions[1].state()]
}

/// What a neighbour that hears us would say.
fn packet(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 7,
        your_discriminator: 1,
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

/// A session in `state` as packets bring it there, with nothing left to send.
fn session(state: State) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(settings(50, 3), 1, 1, now);
    let way: &[State] = match state {
        State::AdminDown | State::Down => &[],
        State::Init => &[State::Down],
        State::Up => &[State::Down, State::Up],
    };
    for step in way {
        let _ = session.receive(&packet(*step), now);
    }
    if state == State::AdminDown {
        let _ = session.disable(now);
    }
    while session.transmit(now).is_some() {}
    // What the intervals changed to is agreed on.
    let same = if state == State::Init { State::Down } else { State::Up };
    let _ = session.receive(&Packet { is_final: true, ..packet(same) }, now);
    while session.transmit(now).is_some() {}
    assert_eq!(session.state(), state);
    (session, now)
}

#[test]
fn both_come_up_and_agree_on_the_fast_intervals() {
    let mut pair = Pair::new(settings(50, 3), settings(100, 5));
    pair.run(ms(3000));
    assert_eq!(states(&pair), [State::Up, State::Up]);
    for (side, detection) in [(0, ms(500)), (1, ms(300))] {
        assert_eq!(pair.sessions[side].tx_interval(), Some(ms(100)));
        assert_eq!(pair.sessions[side].detection_time(), detection);
        let last = pair.sent[side].last().unwrap().1;
        assert!(!last.poll && !last.is_final, "the Poll Sequence is over: {last:?}");
    }
    // Down and Init on the way, each told at once: the handshake waits for no timer but the first.
    assert!(pair.changes.iter().flatten().all(|(at, change)| *at < ms(10) && change.reason == Reason::Heard));
}

#[test]
fn until_up_a_packet_a_second_is_sent_and_never_more() {
    let now = Instant::now();
    let mut session = Session::new(settings(50, 3), 1, 1, now);
    let mut sent = Vec::new();
    for tick in 0..60_000 {
        let now = now + ms(tick);
        sent.extend(session.transmit(now).map(|packet| (tick, packet)));
    }
    assert!(sent.iter().all(|(_, packet)| packet.desired_min_tx == 1_000_000));
    assert!(sent.windows(2).all(|pair| (750..=1001).contains(&(pair[1].0 - pair[0].0))), "{sent:?}");
}

#[test]
fn intervals_are_shortened_by_up_to_a_quarter_and_with_a_multiplier_of_1_by_10_to_25_percent() {
    for (multiplier, range) in [(3, 75_000..=100_001), (1, 75_000..=90_001)] {
        let mut pair = Pair::up(settings(100, multiplier), settings(100, 3));
        pair.run(ms(60_000));
        let gaps: Vec<u128> =
            pair.sent[0].windows(2).map(|pair| (pair[1].0 - pair[0].0).as_micros()).collect();
        assert!(gaps.len() > 500 && gaps.iter().all(|gap| range.contains(gap)), "{multiplier}: {gaps:?}");
        assert!(
            gaps.iter().any(|gap| gap - range.start() < 1000)
                && gaps.iter().any(|gap| range.end() - gap < 1000)
        );
    }
}

#[test]
fn rfc5880_silence_is_noticed_after_the_detection_time_and_both_recover() {
    let mut pair = Pair::up(settings(50, 3), settings(50, 3));
    let cut = pair.elapsed();
    pair.lose = [LOSE_ALL, LOSE_ALL];
    pair.run(ms(1000));
    for side in [0, 1] {
        let [(at, change)] = pair.changes[side][..] else { panic!("{:?}", pair.changes) };
        assert_eq!((change.from, change.to), (State::Up, State::Down));
        assert_eq!(change.reason, Reason::TimeExpired(ms(150)));
        assert_eq!(change.reason.to_string(), "control detection time expired after 150 ms");
        assert!(change.is_failure());
        assert!((ms(100)..=ms(151)).contains(&(at - cut)), "{:?}", at - cut);
        assert_eq!(pair.sent[side].last().unwrap().1.diagnostic, Diagnostic::TIME_EXPIRED);
        assert_eq!(pair.sent[side].last().unwrap().1.your_discriminator, 0, "RFC 5880, section 6.8.1");
        assert!(pair.sessions[side].remote().is_none());
    }
    pair.lose = [0, 0];
    pair.run(ms(2000));
    assert_eq!(states(&pair), [State::Up, State::Up]);
}

#[test]
fn a_loss_of_two_packets_is_forgiven_and_of_a_second_is_not() {
    let mut pair = Pair::up(settings(50, 3), settings(50, 3));
    for _ in 0..100 {
        pair.lose = [2, 2];
        pair.run(ms(500));
    }
    assert!(pair.changes.iter().all(Vec::is_empty), "{:?}", pair.changes);
    pair.lose = [20, 0];
    pair.run(ms(100));
    pair.run(ms(400));
    assert!(pair.changes[1].iter().any(|(_, change)| change.is_failure()));
}

#[test]
fn one_way_failure_takes_both_down() {
    let mut pair = Pair::up(settings(50, 3), settings(50, 3));
    pair.lose = [LOSE_ALL, 0];
    pair.run(ms(1000));
    assert_eq!(pair.changes[1][0].1.reason, Reason::TimeExpired(ms(150)));
    let told = pair.changes[0][0].1;
    assert_eq!(told.reason, Reason::NeighbourDown(Diagnostic::TIME_EXPIRED));
    assert!(told.is_failure());
    assert_eq!(told.reason.to_string(), "neighbor signaled session down (control detection time expired)");
    // Ours still hears the other, which does not hear ours: neither may call that up.
    assert!(!states(&pair).contains(&State::Up));
}

#[test]
fn rfc5880_a_longer_interval_waits_for_the_end_of_the_poll_sequence() {
    let mut pair = Pair::up(settings(50, 3), settings(50, 3));
    pair.lose = [0, LOSE_ALL];
    pair.sessions[0].set(settings(400, 3), pair.now);
    pair.run(ms(100));
    assert!(pair.sent[0].iter().any(|(_, packet)| packet.poll && packet.desired_min_tx == 400_000));
    assert_eq!(pair.sessions[0].tx_interval(), Some(ms(50)), "the neighbour has not answered");
    pair.lose = [0, 0];
    pair.run(ms(5000));
    assert_eq!(pair.sessions[0].tx_interval(), Some(ms(400)));
    assert_eq!(pair.sessions[1].detection_time(), ms(1200));
    assert!(pair.changes.iter().all(Vec::is_empty), "no one noticed: {:?}", pair.changes);
}

#[test]
fn a_shorter_detection_time_waits_for_the_end_of_the_poll_sequence() {
    let mut pair = Pair::up(settings(400, 3), settings(50, 3));
    assert_eq!(pair.sessions[0].detection_time(), ms(1200));
    pair.lose = [LOSE_ALL, 0];
    pair.sessions[0].set(settings(50, 3), pair.now);
    pair.run(ms(200));
    assert_eq!(pair.sessions[0].detection_time(), ms(1200), "the neighbour has not heard");
    pair.lose = [0, 0];
    pair.run(ms(2000));
    assert_eq!(pair.sessions[0].detection_time(), ms(150));
    assert_eq!(pair.sessions[1].detection_time(), ms(150));
    assert!(pair.changes.iter().all(Vec::is_empty), "no one noticed: {:?}", pair.changes);
}

#[test]
fn intervals_that_change_twice_take_two_poll_sequences() {
    let (mut session, now) = session(State::Up);
    let mut set = |ms| {
        session.set(settings(ms, 3), now);
        session.transmit(now).unwrap()
    };
    assert!(set(200).poll);
    assert!(set(300).poll);
    let answer = Packet { is_final: true, ..packet(State::Up) };
    let _ = session.receive(&answer, now);
    assert_eq!(session.tx_interval(), Some(ms(50)), "that F may have answered the first");
    let again = session.transmit(now + ms(50)).unwrap();
    assert!(again.poll);
    let _ = session.receive(&answer, now + ms(50));
    assert_eq!(session.tx_interval(), Some(ms(300)));
    // And an F nobody asked for changes nothing.
    let _ = session.receive(&answer, now + ms(50));
    assert!(!session.transmit(now + ms(350)).unwrap().poll);
}

#[test]
fn a_poll_is_answered_at_once_without_p() {
    let (mut session, now) = session(State::Up);
    let _ = session.receive(&Packet { poll: true, ..packet(State::Up) }, now);
    assert_eq!(session.next_timeout(), Some(now));
    let answer = session.transmit(now).unwrap();
    assert!(answer.is_final && !answer.poll);
    assert_eq!(session.transmit(now), None, "the periodic packet has its own time");
}

#[test]
fn rfc5880_the_state_machine_is_that_of_section_6_8_6() {
    use State::{AdminDown, Down, Init, Up};
    for (at, heard, then) in [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
        (AdminDown, AdminDown, AdminDown),
        (AdminDown, Down, AdminDown),
        (AdminDown, Init, AdminDown),
        (AdminDown, Up, AdminDown),
    ] {
        let (mut session, now) = session(at);
        let change = session.receive(&packet(heard), now);
        assert_eq!(session.state(), then, "{at} hears {heard}");
        assert_eq!(change.map(|change| (change.from, change.to)), (at != then).then_some((at, then)));
        let told = session.transmit(now);
        assert_eq!(told.map(|packet| packet.state), change.map(|_| then), "a change is told at once");
    }
}

#[test]
fn what_the_neighbour_says_is_remembered_and_said_back() {
    let (mut session, now) = session(State::Up);
    let said = Packet { my_discriminator: 99, control_plane_independent: true, ..packet(State::Up) };
    let _ = session.receive(&said, now);
    assert!(session.remote().unwrap().control_plane_independent);
    let next = session.transmit(now + ms(50)).unwrap();
    assert_eq!(next.your_discriminator, 99);
    assert!(!next.control_plane_independent && !next.demand && next.required_min_echo_rx == 0);
}

#[test]
fn rfc5882_a_neighbour_that_disables_bfd_has_not_failed() {
    let mut pair = Pair::up(settings(50, 3), settings(50, 3));
    let change = pair.sessions[1].disable(pair.now);
    pair.note(1, change);
    pair.run(ms(5000));
    assert_eq!(states(&pair), [State::Down, State::AdminDown]);
    let [(_, change)] = pair.changes[0][..] else { panic!("{:?}", pair.changes) };
    assert_eq!(change.reason, Reason::NeighbourDisabled);
    assert!(!change.is_failure());
    assert_eq!(pair.sessions[0].remote().unwrap().state, State::AdminDown);
    let told = pair.sent[1].last().unwrap().1;
    assert_eq!((told.state, told.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none() {
    let (mut session, now) = session(State::Up);
    let _ = session.receive(&Packet { required_min_rx: 0, ..packet(State::Up) }, now);
    assert_eq!(session.tx_interval(), None);
    assert_eq!(session.transmit(now + ms(140)), None);
    let _ = session.receive(&packet(State::Up), now + ms(140));
    assert!(session.transmit(now + ms(140)).is_some());
}

#[test]
fn a_neighbour_in_demand_mode_hears_only_polls() {
    let (mut session, now) = session(State::Up);
    let demand = Packet { demand: true, ..packet(State::Up) };
    let _ = session.receive(&demand, now);
    assert_eq!(session.transmit(now + ms(100)), None);
    session.set(settings(60, 3), now + ms(100));
    assert!(session.transmit(now + ms(100)).is_some_and(|packet| packet.poll));
    let _ = session.receive(&Packet { is_final: true, ..demand }, now + ms(100));
    assert_eq!(session.transmit(now + ms(200)), None);
}

#[test]
fn a_slow_neighbour_sets_the_pace() {
    let (mut session, now) = session(State::Up);
    let slow = Packet { required_min_rx: 700_000, desired_min_tx: 2_000_000, ..packet(State::Up) };
    let _ = session.receive(&slow, now);
    assert_eq!(session.tx_interval(), Some(ms(700)));
    assert_eq!(session.detection_time(), ms(6000));
    // Faster again: the next packet does not wait for the long interval (section 6.8.3).
    let _ = session.receive(&packet(State::Up), now + ms(200));
    assert!(session.transmit(now + ms(200)).is_some());
}

proptest! {
    #[test]
    fn whatever_the_wire_does_nobody_panics_and_both_come_up_again(
        steps in prop::collection::vec((0_usize..30, 0_usize..30, 0_u64..60, 1_u64..400, 0_u8..4), 1..30),
    ) {
        let mut pair = Pair::new(settings(50, 3), settings(70, 2));
        for (left, right, delay, run, setting) in steps {
            pair.lose = [left, right];
            pair.delay = ms(delay);
            pair.sessions[0].set(settings(50 * u64::from(setting + 1), 3), pair.now);
            pair.run(ms(run));
        }
        (pair.lose, pair.delay) = ([0, 0], ms(1));
        pair.run(ms(10_000));
        prop_assert_eq!(states(&pair), [State::Up, State::Up]);
        for side in [0, 1] {
            prop_assert_eq!(pair.sessions[side].tx_interval(), pair.sessions[1 - side].tx_interval());
            let last = pair.sent[side].last().unwrap().1;
            prop_assert!(!last.poll);
        }
    }
}
